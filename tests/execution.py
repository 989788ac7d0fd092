"""Chapters as programs: papermill in a process of its own, which cannot wait for ever."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def papermill(
    notebook: Path, output: Path, *, start: int = 120, cell: int = 240, **parameters
) -> subprocess.CompletedProcess:
    """Execute a notebook and return how it went.

    `start` and `cell` are how many seconds a kernel has to start and a cell to end.
    """
    limits = ["--start-timeout", str(start), "--execution-timeout", str(cell)]
    given = [text for name, value in parameters.items() for text in ("-p", name, str(value))]
    command = [sys.executable, "-m", "papermill", notebook, output, "--cwd", ROOT / "notebooks"]
    return subprocess.run(
        [*command, "--no-progress-bar", *limits, *given],
        capture_output=True,
        text=True,
        timeout=580,
        env=os.environ | {"SWR_PROGRESS": "off"},  # as the workflow runs them
    )
