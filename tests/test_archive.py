"""What is deposited and what is printed: a folder with checksums, and the whole book as a PDF."""

import importlib
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from browser import find_chromium

ROOT = Path(__file__).resolve().parent.parent


def script(name: str):
    """Return one of the book's scripts as a module."""
    if str(ROOT / "book") not in sys.path:
        sys.path.append(str(ROOT / "book"))
    return importlib.import_module(name)


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_an_archive_is_whole_and_says_when_it_is_not(tmp_path):
    archive = script("archive")
    files = {
        "build/_build/html/index.html": "<p>site</p>",
        "build/notebooks/one.ipynb": "{}",
        "results/a b.parquet": "record",
        "build/archive/left.txt": "from before",
    }
    root = write(tmp_path, files | {name: f"the {name}" for name in archive.ABOUT})
    folder = root / "build/archive"
    archive.main(folder, root)
    assert (folder / "site/index.html").read_text() == "<p>site</p>"
    assert (folder / "notebooks/one.ipynb").is_file() and not (folder / "left.txt").exists()
    assert (folder / "results/a b.parquet").read_text() == "record"
    assert f"pytest=={pytest.__version__}" in (folder / "installed.txt").read_text().split()
    summed = {line.split("  ", 1)[1] for line in (folder / "SHA256SUMS").read_text().splitlines()}
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert summed == there - {"SHA256SUMS"} and set(archive.ABOUT) <= summed
    check = ["sha256sum", "--check", "--quiet", "SHA256SUMS"]
    if shutil.which("sha256sum"):
        assert subprocess.run(check, cwd=folder, timeout=60).returncode == 0
        (folder / "results/a b.parquet").write_text("another")
        assert subprocess.run(check, cwd=folder, capture_output=True, timeout=60).returncode


def test_the_library_of_the_website_installs_alone(tmp_path, monkeypatch):
    """`pip install swrlib.tar.gz`, as the front page says, where there is no repository."""
    library = script("library")
    path = tmp_path / library.ARCHIVE
    library.write_library(path)
    first = path.read_bytes()
    assert len(first) < 400 * 1024
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 1e6)
    library.write_library(path)
    assert path.read_bytes() == first
    with tarfile.open(path) as archive:
        names = archive.getnames()
    assert {"swrlib/pyproject.toml", "swrlib/LICENSE", "swrlib/README.md"} <= {*names}
    assert {"swrlib/CITATION.cff", "swrlib/swrlib/papers/swr.toml"} <= {*names}
    assert not [name for name in names if "results" in name or "__pycache__" in name]

    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", "there"]
    subprocess.run([*install, path.name], cwd=tmp_path, check=True, timeout=240)
    code = (
        "import swrlib, torch\n"
        "from swrlib.papers import SWR\n"
        "model = torch.nn.Linear(3, 2)\n"
        "optimizer = torch.optim.Adam(model.parameters())\n"
        "swrlib.SoftWeightRescaling(model, lam=1e-3).attach(optimizer)\n"
        "print(swrlib.__file__, SWR.title)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "there")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(str(tmp_path / "there")) and "Plasticity" in result.stdout


def test_there_is_no_archive_without_a_book(tmp_path):
    with pytest.raises(SystemExit, match="build the book first"):
        script("archive").main(tmp_path / "archive", tmp_path)
    assert not (tmp_path / "archive").exists()


def page(title: str, body: str) -> str:
    head = '<head><script src=\'../m.js\'></script><link rel="x" href="../_static/a.css"></head>'
    article = f'<article class="a"><h1 id="t">{title}</h1>{body}</article>'
    return f"<html>{head}<body><nav>menu</nav>{article}</body></html>"


PAGES = {
    "book/index.html": page("First", '<a href="../notebooks/one.html#t">to one</a>'),
    "notebooks/one.html": page(
        "Second",
        '<img src="../_images/p.svg"><a href="#t">up</a> <a href="../book/index.html">home</a>'
        '<a href="https://a.org/b#t">away</a><a href="two.html#t">not here</a>'
        '<section><details class="drawer">code</details></section>',
    ),
}


def test_one_page_has_all_pages_and_their_links_within(tmp_path):
    text = script("pdf").one_page(write(tmp_path, PAGES), ["book/index", "notebooks/one"])
    assert text.index("First") < text.index("Second") and "menu" not in text
    for link in (
        'href="_static/a.css"',
        'src="_images/p.svg"',
        'href="#notebooks-one--t"',
        'href="https://a.org/b#t"',
        'href="notebooks/two.html#t"',
        'href="#book-index"',
    ):
        assert link in text, link
    for place in ("book-index", "book-index--t", "notebooks-one", "notebooks-one--t"):
        assert text.count(f'id="{place}"') == 1
    assert text.count('href="#notebooks-one--t"') == 2


def test_a_page_is_printed(tmp_path):
    if find_chromium() is None:
        pytest.skip("no Chromium on this machine")
    mathematics = "<script>MathJax = {startup: {promise: Promise.resolve()}}</script>"
    whole = write(tmp_path, {"whole.html": f"<h1>Title</h1>{mathematics}"}) / "whole.html"
    script("pdf").print_page(whole, tmp_path / "out/book.pdf")
    printed = (tmp_path / "out/book.pdf").read_bytes()
    assert printed.startswith(b"%PDF-") and len(printed) > 1000
