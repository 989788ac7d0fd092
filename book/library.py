"""The library as a source archive, which the website offers: `pip install swrlib.tar.gz`."""

import gzip
import io
import tarfile
from pathlib import Path

import inputs

#: Under what name the website has it, beside its pages' folders.
ARCHIVE = "swrlib.tar.gz"


def write_library(path: Path) -> None:
    """Write the archive: the same bytes whenever the files are the same."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for file in inputs.library_files():
            data = file.read_bytes()
            entry = tarfile.TarInfo(f"swrlib/{file.relative_to(inputs.ROOT).as_posix()}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    path.write_bytes(gzip.compress(packed.getvalue(), mtime=0))
