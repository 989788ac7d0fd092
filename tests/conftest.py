"""What all tests share: one thread, the repository, and what `make book` made."""

import os

# Before torch is imported: with a busy neighbour two threads can be many times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def site() -> Path:
    """Return the built website."""
    site = ROOT / "build/_build/html"
    if not (site / "index.html").is_file():
        pytest.skip("there is no website yet: `make book` builds it")
    return site


@pytest.fixture(scope="session")
def chapters() -> Path:
    """Return the folder of executed chapters."""
    folder = ROOT / "build/notebooks"
    if not any(folder.glob("*.ipynb")):
        pytest.skip("no chapter was executed yet: `make book` does it")
    return folder


@pytest.fixture(scope="module")
def shell():
    """Return an IPython shell, so that what is displayed can be captured."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    yield InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    InteractiveShell.clear_instance()
