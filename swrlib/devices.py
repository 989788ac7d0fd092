"""Where training happens: which device, how it computes, what memory it has, a captured step."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor


def find_device(device: str | torch.device | None, tf32: bool = False) -> torch.device:
    """Return the device that was asked for; by default a CUDA device where there is one.

    Raises
    ------
    ValueError
        If there is no such device, or TensorFloat-32 is asked for on a processor.
    """
    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ValueError(f"unknown device {device!r}: give 'cpu' or 'cuda'") from error
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"there is no CUDA device here, so {device!r} cannot be used: give 'cpu'")
    if tf32 and place.type != "cuda":
        raise ValueError("TensorFloat-32 is of CUDA devices: leave tf32 out on a processor")
    return place


@contextmanager
def arithmetic(device: torch.device, tf32: bool) -> Iterator[None]:
    """Train in a stream of its own, as a capture needs it, with or without TensorFloat-32."""
    if device.type != "cuda":
        yield
        return
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = tf32
    torch.cuda.synchronize(device)
    try:
        with torch.cuda.stream(torch.cuda.Stream(device)):
            yield
    except torch.OutOfMemoryError as error:
        raise MemoryError(
            "the GPU's memory is full: train fewer runs at once (stack) or take smaller batches "
            "(batch size)"
        ) from error
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


def free_memory(device: torch.device) -> int:
    """Return how many bytes a training may still take on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(_limits(), default=sys.maxsize)


#: Where a control group says its limit, what it uses and, in its statistics, what of that is a
#: cache that is given back when needed; by the kind of file system.
_CONTROL_GROUPS = {
    "cgroup2": ("memory.max", "memory.current", "inactive_file"),
    "cgroup": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def _control_groups(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield the kind and folder of this process's control groups of memory and those above them."""
    own, mounts = root / "proc/self/cgroup", root / "proc/self/mountinfo"
    if not own.exists() or not mounts.exists():
        return
    groups: dict[str, str] = {}
    for line in own.read_text().splitlines():
        _, controllers, name = line.split(":", 2)
        groups |= dict.fromkeys(controllers.split(","), name)
    for line in mounts.read_text().splitlines():
        mount, _, about = line.partition(" - ")
        shown, place = mount.split()[3:5]
        kind, *_, options = about.split()
        controller = "" if kind == "cgroup2" else "memory"
        of_memory = kind == "cgroup2" or "memory" in options.split(",")
        if kind not in _CONTROL_GROUPS or not of_memory or controller not in groups:
            continue
        # A container may see only its own part of the tree, and there by another path.
        path = PurePosixPath(groups[controller])
        inside = path.relative_to(shown) if path.is_relative_to(shown) else PurePosixPath()
        for group in (inside, *inside.parents):
            yield kind, root / place.lstrip("/") / group


def _limits(root: Path = Path("/")) -> Iterator[int]:
    """Yield what the machine, control groups and a limit of this process leave free."""
    information = root / "proc/meminfo"
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                yield int(line.split()[1]) * 1024
    for kind, group in _control_groups(root):
        limit, usage, cache = _CONTROL_GROUPS[kind]
        files = [group / name for name in (limit, usage, "memory.stat")]
        if all(file.exists() for file in files):
            largest, used, details = (file.read_text().strip() for file in files)
            cached = re.search(rf"^{cache} (\d+)$", details, re.M)
            if largest != "max":
                yield int(largest) - int(used) + (int(cached[1]) if cached else 0)
    if sys.platform == "linux":
        import resource

        largest_size = resource.getrlimit(resource.RLIMIT_AS)[0]
        if largest_size != resource.RLIM_INFINITY:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            yield largest_size - pages * os.sysconf("SC_PAGE_SIZE")


class CapturedStep:
    """A training step captured once as a CUDA graph: its kernels are replayed without the host."""

    def __init__(self, step: Callable[[Tensor], None], batch: Tensor) -> None:
        self.batch = batch.clone()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=torch.cuda.current_stream()):
            step(self.batch)

    def __call__(self, batch: Tensor) -> None:
        """Take the step on this batch, which is as large as the one it was captured with."""
        self.batch.copy_(batch)
        self.graph.replay()
