"""How much memory is free, for images and for runs that train at once; what is kept of it."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import torch


def free_memory(device: torch.device) -> int:
    """Return how many bytes a training may still take on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(limits(), default=sys.maxsize)


#: Options of glibc's mallopt: from which size on a block is mapped by itself, and given back when
#: it is freed; and how much may be free at the top of the heap before that is given back.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
#: The most that glibc raises the first to by itself; of the second it is twice as much.
_LARGEST_BLOCK = 2**25


@contextmanager
def keeping_freed() -> Iterator[None]:
    """Let glibc keep what a step frees for the next one.

    Otherwise it may give back a step's activations and fault them in anew, page by page, which
    takes up to a third of a CNN's step. At the end it does as it does once a large block was freed,
    and what is free is given back. Without glibc, and where the environment says how memory is to
    be kept, nothing happens.
    """
    told = "MALLOC_TRIM_THRESHOLD_" in os.environ
    if told or platform.libc_ver()[0] != "glibc":
        yield
        return
    library = ctypes.CDLL(None)
    set_option, give_back = library.mallopt, library.malloc_trim
    # Some versions refuse more than what they would choose.
    set_option(_MMAP_THRESHOLD, 2**31 - 1) or set_option(_MMAP_THRESHOLD, _LARGEST_BLOCK)
    set_option(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        set_option(_MMAP_THRESHOLD, _LARGEST_BLOCK)
        set_option(_TRIM_THRESHOLD, 2 * _LARGEST_BLOCK)
        give_back(0)


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
        mount, _, file_system = line.partition(" - ")
        shown, place = mount.split()[3:5]
        kind, *_, options = file_system.split()
        controller = "" if kind == "cgroup2" else "memory"
        of_memory = kind == "cgroup2" or "memory" in options.split(",")
        if kind not in _CONTROL_GROUPS or not of_memory or controller not in groups:
            continue
        # A container may see only its own part of the tree, and there by another path.
        path = PurePosixPath(groups[controller])
        inside = path.relative_to(shown) if path.is_relative_to(shown) else PurePosixPath()
        for group in (inside, *inside.parents):
            yield kind, root / place.lstrip("/") / group


def limits(root: Path = Path("/")) -> Iterator[int]:
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
