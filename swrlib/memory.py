"""How much memory is free: for images that are read, and for runs that train at once."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import torch


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
