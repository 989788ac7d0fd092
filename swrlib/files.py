"""Files that are written whole or not at all, and what is said where they cannot be."""

from __future__ import annotations

import errno
import os
import tempfile
import uuid
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says of a file or folder that cannot be written into one sentence.

    Raises
    ------
    OSError
        With the path, the reason and what to do.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch.save says RuntimeError, because of an OSError
        reason = error if isinstance(error, OSError) else error.__context__
        if not isinstance(reason, OSError):
            raise
        remedy = "make room there" if reason.errno in _FULL else "make it writable"
        raise OSError(
            f"{path} cannot be written ({reason.strerror or reason}): {remedy} or choose another "
            "folder"
        ) from error


def make_folder(path: Path) -> None:
    """Make a folder, or say in one sentence (an OSError) that nothing can be written there."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):  # the only way to know whether it can be
            pass


@contextmanager
def replacing(path: Path, beside: Path | None = None) -> Iterator[BinaryIO]:
    """Open a file that takes the place of another one once all of it is written.

    Parameters
    ----------
    path : Path
        What it is to be; its folder is made where it is missing.
    beside : Path, optional
        Where it is until then, on the same disk; default: a name that nobody else takes.

    Raises
    ------
    OSError
        If it cannot be written: one sentence. Then `path` is as it was, and nothing lies beside it.
    """
    beside = beside or path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("wb") as file:
                yield file
            os.replace(beside, path)
    finally:
        with suppress(OSError):  # its folder may be what is missing
            beside.unlink(missing_ok=True)


def state_of(folder: Path, pattern: str) -> Hashable:
    """Return a value that becomes another one when a file of a folder changes, comes or goes."""
    state: set[Hashable] = {folder.resolve()}
    for path in folder.glob(pattern):
        with suppress(OSError):  # gone meanwhile, or unreadable: whoever reads it says so
            of = path.stat()
            state.add((path.name, of.st_ino, of.st_size, of.st_mtime_ns))
    return frozenset(state)
