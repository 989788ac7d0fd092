"""Lay out a folder to deposit: the website, executed notebooks, records, environment, checksums.

Usage: python book/archive.py FOLDER

`sha256sum --check SHA256SUMS` within the folder says whether it is whole.
"""

import hashlib
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import inputs

#: What says what this is, and which packages it ran with.
ABOUT = ("CITATION.cff", "LICENSE", "README.md", "constraints.txt", "environment.yml")
SUMS = "SHA256SUMS"


def main(folder: Path, root: Path = inputs.ROOT) -> None:
    """Lay out the folder anew."""
    parts = {
        "site": root / inputs.SITE,
        "notebooks": root / "build/notebooks",
        "results": root / "results",
    }
    for source in parts.values():
        if not source.is_dir():
            raise SystemExit(f"there is no {source}: build the book first")
    shutil.rmtree(folder, ignore_errors=True)
    for name, source in parts.items():
        shutil.copytree(source, folder / name)
    for name in ABOUT:
        shutil.copy(root / name, folder / name)
    (folder / "installed.txt").write_text(installed())
    source = ["git", "archive", "--format=tar.gz", f"--output={folder.resolve()}/source.tar.gz"]
    made = subprocess.run([*source, "HEAD"], cwd=root, capture_output=True, text=True, timeout=300)
    if made.returncode:
        print("no source.tar.gz: this is no clone of the repository", file=sys.stderr)
    (folder / SUMS).write_text(checksums(folder))
    weight = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {weight / 2**20:.0f} MiB")


def installed() -> str:
    """Return each installed package with its version, and Python's, a line each."""
    found = {f"{package.name}=={package.version}" for package in distributions()}
    return "\n".join([f"# Python {sys.version.split()[0]}", *sorted(found, key=str.lower), ""])


def checksums(folder: Path) -> str:
    """Return the lines that `sha256sum` writes for all files of a folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)
    return "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}\n"
        for path in paths
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
