"""What each chapter and the website are made of, and one digest for each of them.

A file that was built carries the digest in its name, so it is right wherever it exists: neither
times of files nor a memory of earlier builds decide. Contents alone count, and of code what it
does: a comment, a docstring that no chapter shows or a stray file beside it change nothing.
"""

import ast
import hashlib
import json
import platform
import re
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
EXECUTED = "build/chapters"
SITE = "build/_build/html"
PAGE_FILES = {".md", ".bib", ".css", ".html", ".js", ".jpg", ".png", ".py", ".svg"}


def settings() -> dict[str, Any]:
    """Return what config/quick.yaml says."""
    return read_yaml("config/quick.yaml")


def results_folder() -> Path:
    """Return the folder of the committed records."""
    return ROOT / read_yaml("config/paper.yaml")["results"]


def read_yaml(name: str) -> dict[str, Any]:
    """Return the content of a file of the project."""
    return yaml.safe_load((ROOT / name).read_text("utf-8"))


# ---------------------------------------------------------------------------------------------
# Digests


def executed_chapter(name: str) -> str:
    """Return where an executed chapter lies that was made from what is there now."""
    return f"{EXECUTED}/{name}-{chapter_digest(name)}.ipynb"


def site_mark() -> str:
    """Return the file that a site has in it if it was made from what is there now."""
    return f"{SITE}/.made-from-{site_digest()}"


def chapter_digest(name: str) -> str:
    """Return the digest of all that a chapter can depend on: 16 hexadecimal digits."""
    chapter = settings()["chapters"][name]
    path = ROOT / "notebooks" / f"{chapter['notebook']}.ipynb"
    cells = _cells(path)
    parts = [
        cells,
        chapter.get("parameters", {}),
        code_used(source for kind, source, _ in cells if kind == "code"),
        contents(readable_results(chapter)),
        _digest_of_code(ROOT / "book/execute.py"),
        _environment(),
    ]
    return _digest(parts)


def _cells(path: Path) -> list[tuple[str, str, dict[str, Any]]]:
    """Return kind, source and metadata of each cell; outputs that an editor left do not count."""
    text = path.read_text("utf-8")
    try:
        cells = json.loads(text)["cells"]
        return [(c["cell_type"], "".join(c["source"]), c.get("metadata", {})) for c in cells]
    except (ValueError, KeyError, TypeError):  # no notebook: executing it will say so
        return [("code", text, {})]


def site_digest() -> str:
    """Return the digest of all that the website depends on: 16 hexadecimal digits."""
    names = ("inputs.py", "library.py", "play.py", "publish.py", "stage.py")
    scripts = [ROOT / "book" / name for name in names]
    parts = [
        {name: [chapter_digest(name), chapter] for name, chapter in settings()["chapters"].items()},
        [read_yaml(name) for name in ("_config.yml", "_toc.yml")],
        contents(pages()),
        contents(readable_results({})),
        [_digest_of_code(path, documented=True) for path in [*scripts, *_modules_of("swrlib")]],
        contents(path for path in library_files() if path.suffix != ".py"),
        _environment(),
    ]
    return _digest(parts)


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def contents(paths: Iterable[Path]) -> dict[str, str]:
    """Return what is in files, as digests, by their path in the project."""
    found = {}
    for path in sorted(paths):
        data = path.read_bytes()
        if path.suffix == ".toml":
            with suppress(ValueError):  # else whoever reads it will say so
                data = json.dumps(tomllib.loads(data.decode()), default=str).encode()
        found[path.relative_to(ROOT).as_posix()] = hashlib.sha256(data).hexdigest()
    return found


@cache
def _environment() -> dict[str, str | None]:
    """Return the version of Python and those of the packages of constraints.txt."""
    names = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text("utf-8"), re.M)
    return {"python": platform.python_version(), **{name: _version(name) for name in names}}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


# ---------------------------------------------------------------------------------------------
# Files


def visible_files(folder: Path, pattern: str = "*") -> list[Path]:
    """Return the files below a folder that are no tool's: no part of their path is hidden."""
    return sorted(
        path
        for path in folder.rglob(pattern)
        if path.is_file()
        and not any(
            part.startswith((".", "__pycache__")) for part in path.relative_to(folder).parts
        )
    )


def readable_results(chapter: dict[str, Any]) -> list[Path]:
    """Return the files of results/ that a chapter may read: those it declares, else all."""
    folder = results_folder()
    patterns = chapter.get("reads", ["*"])
    return sorted({path for pattern in patterns for path in visible_files(folder, pattern)})


def library_files() -> list[Path]:
    """Return the files of the library's source archive: what pip needs, and the modules."""
    about = [ROOT / name for name in ("CITATION.cff", "LICENSE", "README.md", "pyproject.toml")]
    modules = _modules_of("swrlib")
    return sorted([*about, *modules, *_data_beside(modules)])


def pages() -> list[Path]:
    """Return the files of book/ that the website is made of: plain names, and kinds it can use."""
    folder = ROOT / "book"
    return [
        path
        for path in visible_files(folder)
        if path.suffix in PAGE_FILES
        and re.fullmatch(r"[\w.-]+", path.name)
        and not (path.parent == folder and path.suffix == ".py")
    ]


# ---------------------------------------------------------------------------------------------
# Code


def code_used(sources: Iterable[str]) -> dict[str, str]:
    """Return the project's own code that notebook cells import, directly or not, as digests.

    Imports are read from the source. What lies in a TOML file beside a module belongs to it.
    """
    waiting: list[Path] = []
    for text in sources:
        waiting += _imported(re.sub(r"^\s*[%!].*$", "", text, flags=re.M).encode())
    reached: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path not in reached:
            reached.add(path)
            package = path.relative_to(ROOT).parent.parts
            waiting += _imported(path.read_bytes(), package)
    code = {path.relative_to(ROOT).as_posix(): _digest_of_code(path) for path in sorted(reached)}
    return code | contents(_data_beside(reached))


def _modules_of(package: str) -> list[Path]:
    return [p for p in visible_files(ROOT / package, "*.py") if p.stem.isidentifier()]


def _data_beside(modules: Iterable[Path]) -> list[Path]:
    folders = {path.parent for path in modules}
    return sorted(p for f in folders for p in f.glob("*.toml") if p.stem.isidentifier())


def _digest_of_code(path: Path, *, documented: bool = False) -> str:
    """Return the digest of what a file does: its syntax tree, without places and comments."""
    return _digest_of_source(path.read_bytes(), documented)


@cache
def _digest_of_source(source: bytes, documented: bool) -> str:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # whoever imports it will say so
        return hashlib.sha256(source).hexdigest()
    for node in ast.walk(tree) if not documented else ():
        with_body = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, with_body) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _imported(source: bytes, package: tuple[str, ...] = ()) -> list[Path]:
    """Return the project's files that code imports, at its top or inside functions."""
    names = _imported_names(source, package)
    if names is None:  # whoever runs it will say what is wrong; it may mean to import anything
        return _modules_of("swrlib")
    packages = {name.rsplit(".", n)[0] for name in names for n in range(name.count(".") + 1)}
    return sorted(file for name in packages if (file := _file_of(name)) is not None)


@cache
def _imported_names(source: bytes, package: tuple[str, ...]) -> set[str] | None:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return None
    return {name for node in ast.walk(tree) for name in _names(node, package)}


def _names(node: ast.AST, package: tuple[str, ...]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = package[: len(package) - node.level + 1] if node.level else ()
        module = ".".join([*base, *([node.module] if node.module else [])])
        yield from (module, *(f"{module}.{alias.name}" for alias in node.names))


def _file_of(module: str) -> Path | None:
    # A chapter works in notebooks/, and finds what lies there first.
    paths = [folder.joinpath(*module.split(".")) for folder in (ROOT / "notebooks", ROOT)]
    candidates = [file for p in paths for file in (p / "__init__.py", p.with_suffix(".py"))]
    return next((file for file in candidates if module and file.is_file()), None)
