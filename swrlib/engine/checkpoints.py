"""Checkpoints of a job in training, and the locks that keep two jobs from training the same run.

A checkpoint is written beside and renamed, so it is whole or absent; the one before it is kept. It
is read without unpickling objects, so a strange file cannot run code.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from swrlib.files import make_folder, replacing

#: Raised when the content of a checkpoint changes its form.
FORM = 3


def default_folder(results: Path, usual: Path = Path(".checkpoints")) -> Path:
    """Return where checkpoints go: the usual folder, or one in the records' where that fails.

    Parameters
    ----------
    results : Path
        Folder of records: what is asked for can be written there.
    usual : Path
        ``.checkpoints`` in the working directory, or in a notebook's project. Made here.
    """
    try:
        make_folder(usual)
    except OSError:
        return results / ".checkpoints"
    return usual


def save(state: Any, path: Path) -> None:
    """Write a file whole or not at all; an OSError of one sentence names it."""
    # One name beside it: what a killed process left is written over.
    with replacing(path, path.with_suffix(".tmp")) as file:
        torch.save(state, file)


class Checkpoint:
    """The newest state of a job, and the one before it. One process at a time may use them.

    Parameters
    ----------
    path : pathlib.Path
    identity : dict
        What the checkpoint must be of: plain values.
    """

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self.path = path
        self.before = path.with_suffix(".before.pt")
        self._readable: bool | None = None  # whether the newest can be used, once that is known
        # A plain string as version: read back without unpickling.
        self.identity = identity | {"torch": str(torch.__version__), "form": FORM}

    def save(self, state: dict[str, Any]) -> None:
        """Replace the newest state; what was newest is kept as the one before."""
        beside = self.path.with_suffix(".new.pt")
        save(state | {"identity": self.identity}, beside)
        if self._readable is None and self.path.exists():
            with suppress(ValueError):
                self._readable = bool(self._read(self.path, torch.device("cpu")))
        if self._readable:
            os.replace(self.path, self.before)
        os.replace(beside, self.path)
        self._readable = True

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """Return the newest state that can be used, None where nothing was saved.

        Raises
        ------
        ValueError
            If there are states, but none can be used.

        Warns
        -----
        UserWarning
            If the newest is refused and the one before it is used.
        """
        refused = []
        for path in (self.path, self.before):
            if path.exists():
                try:
                    state = self._read(path, device)
                except ValueError as error:
                    refused.append(str(error))
                else:
                    self._readable = path == self.path
                    if refused:
                        warnings.warn(f"{refused[0]}: the one before it is used", stacklevel=2)
                    return state
        if refused:
            raise ValueError(f"{refused[0]}: delete it to start this job over")
        return None

    def _read(self, path: Path, device: torch.device) -> dict[str, Any]:
        try:
            state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        except Exception as error:
            raise ValueError(f"the checkpoint {path} cannot be read (truncated?)") from error
        theirs = state.get("identity", {}) if isinstance(state, dict) else {}
        for name, value in self.identity.items():
            if theirs.get(name) != value:
                what = {"torch": "another torch", "form": "another version of swrlib"}
                told = what.get(name, "another configuration")
                told += f" ({theirs.get(name)})" if name == "torch" else ""
                raise ValueError(f"the checkpoint {path} is from {told}")
        return state

    def remove(self) -> None:
        """Remove both states, and what a killed process left, once the job has ended."""
        for suffix in (".pt", ".before.pt", ".new.pt", ".new.tmp"):
            self.path.with_suffix(suffix).unlink(missing_ok=True)


@contextmanager
def locked(
    names: Iterable[str], folder: Path, give_up: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Hold the locks of these runs; wait, and say so, where another process holds one.

    The operating system frees the locks of a process that is killed. ``give_up`` is called every
    second of waiting and may raise.
    """
    folder = folder / "locks"
    make_folder(folder)
    with ExitStack() as held:
        for name in sorted(names):  # in one order everywhere: no two processes wait for each other
            lock = FileLock(folder / f"{name}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                print(
                    f"swrlib: another process trains the run {name}: waiting for it",
                    file=sys.stderr,
                    flush=True,
                )
                while not lock.is_locked:
                    give_up()
                    with suppress(Timeout):
                        lock.acquire(timeout=1)
            held.callback(lock.release)
        yield
