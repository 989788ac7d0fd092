"""Where records come from: commit, versions, processor, date and command."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import sys
import warnings
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

#: What a file says of where its records come from; see `provenance`.
PROVENANCE = (
    *("commit", "dirty", "python", "torch", "pandas", "pyarrow", "swrlib"),
    *("device", "processor", "date", "command"),
)


def provenance(*, device: str = "cpu") -> dict[str, Any]:
    """Describe where records come from.

    Parameters
    ----------
    device : str
        What the runs were trained on, ``"cpu"`` or the name of a GPU.

    Returns
    -------
    dict
        Commit of swrlib (None outside its repository) and whether swrlib differed from it
        (``dirty``), versions, device, processor, date in UTC (ISO 8601), and the command line
        without the machine's own folders.
    """
    commit, dirty = _commit()
    return {
        "commit": commit,
        "dirty": dirty,
        "python": platform.python_version(),
        **{name: _version(name) for name in ("torch", "pandas", "pyarrow", "swrlib")},
        "device": device,
        "processor": _processor(),
        "date": datetime.now(UTC).isoformat(timespec="microseconds"),
        "command": shlex.join(["python", *map(_without_folders, sys.orig_argv[1:])]),
    }


#: What git says where swrlib is in no repository, or an installed copy in another project's.
_NO_REPOSITORY = ("not a git repository", "did not match any file")


def _commit() -> tuple[str | None, bool | None]:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        words = os.environ | {"LC_ALL": "C"}  # git's own, whatever language it speaks here
        ran = subprocess.run(
            command, capture_output=True, text=True, check=True, env=words, timeout=60
        )
        return ran.stdout.strip()

    try:
        # An installed copy may lie inside some other project's repository.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        # Only swrlib itself: a job's neighbours write records into the same work tree meanwhile.
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--", "."))
    except OSError:  # no git
        return None, None
    except subprocess.TimeoutExpired:
        warn_of_no_commit("nothing for a minute")
        return None, None
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip()
        if not any(words in said for words in _NO_REPOSITORY):
            warn_of_no_commit(said)
        return None, None


@cache
def warn_of_no_commit(said: str) -> None:
    """Say once why the commit is not known, with the remedy where git names one."""
    reason = said.partition("\n")[0] or "nothing"
    remedy = re.search(r"git config --global --add safe\.directory .+", said)
    then = f": `{remedy[0].strip()}` tells git to trust it" if remedy else ""
    warnings.warn(f"the commit is not recorded, since git says {reason!r}{then}", stacklevel=4)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # a copy that was not installed
        return None


def _processor() -> str:
    processors = Path("/proc/cpuinfo")
    text = processors.read_text() if processors.exists() else ""
    name = re.search(r"model name\s*: (.+)", text)
    return name[1] if name else platform.processor() or platform.machine()


def _without_folders(argument: str) -> str:
    option, equals, value = argument.rpartition("=")
    path = Path(value)
    if path.is_absolute():
        value = str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else path.name
    return option + equals + value
