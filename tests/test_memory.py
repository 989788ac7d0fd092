"""What memory is free: limits of control groups, old and new, as a machine shows them in files."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from swrlib.memory import limits

FREE = 10**9
NONE = 9223372036854771712  # what an older group says that has no limit

HYBRID = """\
9:name=systemd:/
4:memory:{group}
2:cpuacct,cpu:/somewhere/else
0::/unified
"""
MOUNTS = """\
22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
33 31 0:30 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 {shown} /sys/fs/cgroup/memory rw,relatime shared:11 master:2 - cgroup cgroup rw,memory
"""
UNIFIED = "30 23 0:26 {shown} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


def write(file: Path, text: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(str(text).rstrip() + "\n")


@pytest.fixture
def machine(tmp_path):
    """Return a function that makes the files of a machine and asks for the smallest limit."""
    write(tmp_path / "proc/meminfo", f"MemTotal: 1 kB\nMemAvailable: {FREE // 1024} kB")

    def least(own: str, mounts: str, files: dict[str, object]) -> int:
        write(tmp_path / "proc/self/cgroup", own)
        write(tmp_path / "proc/self/mountinfo", mounts)
        for name, text in files.items():
            write(tmp_path / "sys/fs/cgroup" / name, text)
        return min(limits(tmp_path))

    return least


def older(folder: str, limit: int, used: int) -> dict[str, object]:
    return {
        f"{folder}/memory.limit_in_bytes": limit,
        f"{folder}/memory.usage_in_bytes": used,
        f"{folder}/memory.stat": "cache 7\ninactive_file 1\ntotal_inactive_file 500",
    }


def newer(folder: str, limit: object, used: int) -> dict[str, object]:
    return {
        f"{folder}/memory.max": limit,
        f"{folder}/memory.current": used,
        f"{folder}/memory.stat": "anon 5\ninactive_file 500",
    }


def test_without_control_groups_the_machine_counts(tmp_path):
    write(tmp_path / "proc/meminfo", f"MemAvailable: {FREE // 1024} kB")
    assert min(limits(tmp_path)) == FREE // 1024 * 1024


def test_the_limit_of_an_older_group_is_seen(machine):
    files = older("memory", NONE, 9000) | older("memory/jobs/mine", 20_000, 6_000)
    own = HYBRID.format(group="/jobs/mine")
    assert machine(own, MOUNTS.format(shown="/"), files) == 20_000 - 6_000 + 500


def test_a_limit_of_a_group_above_is_seen(machine):
    files = older("memory/jobs", 5_000, 1_000) | older("memory/jobs/mine", NONE, 900)
    own = HYBRID.format(group="/jobs/mine")
    assert machine(own, MOUNTS.format(shown="/"), files) == 5_000 - 1_000 + 500


@pytest.mark.parametrize("group", ["/docker/0123", "/"])
def test_a_container_sees_its_own_part_of_the_tree(group, machine):
    """The files lie at the mount itself, whatever the group is called outside."""
    files = older("memory", 20_000, 6_000)
    own, mounts = HYBRID.format(group=group), MOUNTS.format(shown="/docker/0123")
    assert machine(own, mounts, files) == 20_000 - 6_000 + 500


def test_a_group_without_a_limit_leaves_the_machines(machine):
    files = older("memory/jobs/mine", NONE, 6_000)
    own = HYBRID.format(group="/jobs/mine")
    assert machine(own, MOUNTS.format(shown="/"), files) == FREE // 1024 * 1024


@pytest.mark.parametrize("where", ["", "/user.slice", "/user.slice/mine"])
def test_the_limit_of_a_newer_group_and_of_those_above_is_seen(where, machine):
    files: dict[str, object] = newer("user.slice/mine", "max", 6_000)
    files |= newer(where.lstrip("/") or ".", 20_000, 6_000)
    mounts = UNIFIED.format(shown="/")
    assert machine("0::/user.slice/mine", mounts, files) == 20_000 - 6_000 + 500


IN_A_PROCESS = """
import resource
import torch
from swrlib.memory import keeping_freed

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(3 * 2**20) for _ in range(8)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])

with keeping_freed():
    faults(), faults()
    again, kept = faults(), resident()
print(again, kept - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_a_step_finds_the_memory_of_the_one_before_and_the_end_gives_it_back():
    words = {name: word for name, word in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", IN_A_PROCESS]
    ran = subprocess.run(
        command, env=words, capture_output=True, text=True, check=True, timeout=120
    )
    faults, given_back = map(int, ran.stdout.split())
    pages = 8 * 12 * 2**20 // os.sysconf("SC_PAGE_SIZE")
    assert faults < pages / 4  # a block may not fit where one was
    assert given_back > pages / 2
