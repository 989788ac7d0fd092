"""Where training happens: which device, how it computes, what memory it has, a captured step."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

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
        raise MemoryError("the GPU's memory is full: give a smaller stack=") from error
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


def free_memory(device: torch.device) -> int:
    """Return how many bytes a training may still take on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(_limits(), default=sys.maxsize)


def _limits() -> Iterator[int]:
    """Yield what the machine, a control group and a limit of this process leave free."""
    information = Path("/proc/meminfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                yield int(line.split()[1]) * 1024
    own = Path("/proc/self/cgroup")
    lines = own.read_text().splitlines() if own.exists() else []
    paths = [line.removeprefix("0::/") for line in lines if line.startswith("0::/")]
    for group in {Path("/sys/fs/cgroup", path) for path in ["", *paths]}:
        files = [group / name for name in ("memory.max", "memory.current", "memory.stat")]
        if all(file.exists() for file in files):
            largest, used, details = (file.read_text().strip() for file in files)
            cached = re.search(r"^inactive_file (\d+)$", details, re.M)  # given back when needed
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
