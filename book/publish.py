"""Build the website beside the present one, and let it take its place once it is whole.

Usage: python book/publish.py MARK

The name of MARK says what the website is to be made of (`inputs.site_mark`). A website that fails
leaves the present one where it is.
"""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import inputs
import nbformat
import stage

#: Parts of MathJax that pages load, or its menu on demand; it comes with fonts and inputs for more.
MATHJAX = ("tex-chtml.js", "output/chtml/", "a11y/", "sre/mathmaps/en")
#: What a picture within a page begins with.
EMBEDDED = "data:image/svg+xml;base64,"
EMBEDDED_PICTURE = re.escape(EMBEDDED) + "([A-Za-z0-9+/=]+)"
#: The same as HTML has it, with its alternative text as the group.
DRAWN = f'<img src="{re.escape(EMBEDDED)}[^"]*" alt="([^"]*)">'


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
        lighten(site)
        (site / ".nojekyll").touch()  # GitHub would leave out folders like _static
        (site / mark.name).touch()
        if inputs.site_mark() != mark.as_posix():
            raise SystemExit("what the website is made of has changed meanwhile; build again")
        swap(site, inputs.ROOT / inputs.SITE)
    for path in Path(inputs.EXECUTED).iterdir():
        if path not in chapters.values():
            path.unlink()


def lighten(site: Path) -> None:
    """Leave out what no page loads, and keep each picture once: on its page."""
    static = site / "_static"
    for path in static.rglob("*"):
        inside = path.relative_to(static).as_posix()
        spare = inside.startswith("mathjax/") and not inside[8:].startswith(MATHJAX)
        spare = spare or inside.startswith("locales/") or path.suffix in (".map", ".ttf")
        if path.is_file() and spare:
            path.unlink()
    for path in site.rglob("*.html"):
        text = path.read_text("utf-8")
        if EMBEDDED in text:
            path.write_text(pictures_apart(text, path, site), "utf-8")
    for path in site.glob("_images/*.svg"):
        path.write_text(small_picture(path.read_text("utf-8")), "utf-8")
    for path in site.glob("_sources/**/*.ipynb"):
        notebook = without_pictures(nbformat.read(path, as_version=4))
        path.write_text(json.dumps(notebook, ensure_ascii=False, separators=(",", ":")), "utf-8")


def pictures_apart(text: str, page: Path, site: Path) -> str:
    """Write the pictures within a page to files of their own, and return the page without them."""

    def written(match: re.Match[str]) -> str:
        data = base64.b64decode(match[1])
        name = f"_images/{hashlib.sha256(data).hexdigest()[:32]}.svg"
        (site / name).parent.mkdir(exist_ok=True)
        (site / name).write_bytes(data)
        return f'src="{os.path.relpath(site / name, page.parent)}"'

    return re.sub(f'src="{EMBEDDED_PICTURE}"', written, text)


def small_picture(picture: str) -> str:
    """Return an SVG with two decimals in its places, hundredths of a point, and without blanks."""
    picture = re.sub(r"<metadata>.*?</metadata>", "", picture, flags=re.S)
    picture = re.sub(r"\s*\n\s*", "\n", picture)
    places = r' (?:d|x|y)="[^"]*"|translate\([^)]*\)'  # a scale needs all its digits
    return re.sub(places, lambda place: re.sub(r"(\.\d\d)\d+(?![\de])", r"\1", place[0]), picture)


def without_pictures(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return a notebook with what each picture says in its place: the page has the picture."""
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        shown = [(output, output.get("data", {})) for output in cell.outputs]
        tabs = 'class="panels"'  # what the site has in place of sliders
        cell.outputs = [out for out, data in shown if tabs not in data.get("text/html", "")]
        for _, data in shown:
            for kind in [kind for kind in data if kind.startswith("image/")]:
                del data[kind]
            if EMBEDDED in data.get("text/html", ""):
                data["text/html"] = re.sub(DRAWN, r"<p>\1</p>", data["text/html"])
    return notebook


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
