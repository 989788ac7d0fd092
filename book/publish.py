"""Build the website beside the present one, and let it take its place once it is whole.

Usage: python book/publish.py MARK

The name of MARK says what the website is to be made of (`inputs.site_mark`). A website that fails
leaves the present one where it is.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import inputs
import stage


def main(mark: Path) -> None:
    """Stage the chapters, build the website, and swap."""
    build = inputs.ROOT / "build"
    for left in build.glob("site-*"):  # by a build that was killed
        shutil.rmtree(left, ignore_errors=True)
    chapters = {name: Path(inputs.executed_chapter(name)) for name in inputs.settings()["chapters"]}
    lay_out(chapters, build / "notebooks")
    with tempfile.TemporaryDirectory(prefix="site-", dir=build) as beside:
        staged = Path(beside, "stage")
        stage.main(build / "notebooks", staged)
        options = ["--path-output", beside, "--all", "-W", "-n", "--keep-going"]
        if subprocess.run(["jupyter-book", "build", staged, *options]).returncode:
            raise SystemExit("jupyter-book built no website")
        site = Path(beside, "_build/html")
        if not (site / "index.html").is_file():
            raise SystemExit("jupyter-book built no pages")
        (site / ".nojekyll").touch()  # GitHub would leave out folders like _static
        (site / mark.name).touch()
        if inputs.site_mark() != mark.as_posix():
            raise SystemExit("what the website is made of has changed meanwhile; build again")
        swap(site, inputs.ROOT / inputs.SITE)
    for path in Path(inputs.EXECUTED).iterdir():
        if path not in chapters.values():
            path.unlink()


def lay_out(chapters: dict[str, Path], folder: Path) -> None:
    """Copy the executed chapters into a folder of their own, under their plain names."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, path in chapters.items():
        shutil.copy(path, folder / f"{name}.ipynb")


def swap(new: Path, place: Path) -> None:
    """Put a folder in the place of another; whoever reads sees the old or the new one."""
    place.parent.mkdir(parents=True, exist_ok=True)
    old = new.with_name("old")
    if place.exists():
        os.rename(place, old)
    os.rename(new, place)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
