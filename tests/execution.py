"""Chapters as programs: by papermill's command, or cell by cell in this process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def papermill(
    notebook: Path, output: Path, *, start: int = 120, cell: int = 240, **parameters
) -> subprocess.CompletedProcess:
    """Execute a notebook in a process of its own, which cannot wait for ever; return how it went.

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


def run_cells(shell, path: Path, **parameters):
    """Return a notebook with what its cells show when they run in a shell with nothing in it.

    Parameters are injected by papermill. An error of a cell is raised. No kernel is started and
    nothing is imported twice: a chapter costs its own work only.
    """
    from IPython.utils.capture import capture_output
    from nbformat.v4 import new_output
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    notebook = load_notebook_node(str(path))
    if parameters:
        notebook = parameterize_notebook(notebook, parameters)
    shell.reset()
    shell.ast_node_interactivity = "none"  # it would print a value, which a kernel hands over
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        with capture_output() as captured:
            result = shell.run_cell(cell.source)
        result.raise_error()
        cell.outputs = [
            new_output("display_data", shown.data, metadata=shown.metadata)
            for shown in captured.outputs
        ]
        if captured.stdout:
            cell.outputs.append(new_output("stream", name="stdout", text=captured.stdout))
    return notebook
