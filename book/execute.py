"""Execute one chapter, and put it in its place only if it ended well.

Usage: python book/execute.py CHAPTER OUTPUT

CHAPTER is one of config/quick.yaml. The name of OUTPUT says what the chapter is to be made of
(`inputs.executed_chapter`); if that has changed meanwhile, nothing is made. A chapter that failed
is left in build/logs.
"""

import logging
import os
import shutil
import sys
from pathlib import Path

import inputs

# jsonschema would compile the grammar of web addresses, for seconds: no notebook's schema has one.
sys.modules["rfc3987_syntax"] = None
import papermill  # noqa: E402


def main(name: str, output: Path) -> None:
    """Execute a chapter within its limits."""
    settings = inputs.settings()
    chapter, limits = settings["chapters"][name], settings["limits"]
    show_results(name, chapter)
    logging.basicConfig(level="INFO", format="%(message)s")
    failed = Path("build/logs", f"{name}.ipynb")
    failed.unlink(missing_ok=True)
    working = output.with_name(f".{name}-{os.getpid()}.ipynb")
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            f"notebooks/{chapter['notebook']}.ipynb",
            working,
            chapter.get("parameters", {}),
            cwd="notebooks",
            progress_bar=False,
            start_timeout=limits["kernel_seconds"],
            execution_timeout=limits["cell_seconds"],
        )
    except Exception:
        if working.exists():
            os.replace(working, failed)
        raise
    if inputs.executed_chapter(name) != output.as_posix():
        raise SystemExit(f"{name}: what it is made of has changed while it ran; build again")
    os.replace(working, output)


def show_results(name: str, chapter: dict) -> None:
    """Let the chapter see those files of results/ that it declares to read, and no others."""
    folder = inputs.results_folder()
    if "reads" in chapter:
        view = inputs.ROOT / "build/reads" / name
        shutil.rmtree(view, ignore_errors=True)
        for path in inputs.readable_results(chapter):
            copy = view / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
        folder = view
    os.environ["SWR_RESULTS"] = str(folder)
    os.environ["SWR_PROGRESS"] = "off"  # a bar would be an output of the chapter


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
