"""What all tests share: one thread, the repository, what was built, and what may be absent."""

import gc
import os

# Before torch is imported: with a busy neighbour two threads can be many times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)

try:
    import hypothesis
except ImportError:
    pass
else:
    # Its limit of 200 ms an example says nothing on a busy machine; a test has a limit of its own.
    hypothesis.settings.register_profile("without a deadline", deadline=None)
    hypothesis.settings.load_profile("without a deadline")

ROOT = Path(__file__).resolve().parent.parent

#: What a machine may lack: everything that tests import beside pytest and what swrlib depends on.
OPTIONAL = {
    "axe_playwright_python",
    "hypothesis",
    "ipywidgets",
    "IPython",
    "jupyter_book",
    "matplotlib",
    "mlxtend",
    "nbformat",
    "nbval",
    "packaging",
    "papermill",
    "PIL",
    "playwright",
    "psutil",
    "scipy",
    "seaborn",
    "snakemake",
    "timm",
    "torchvision",
    "tqdm",
    "traitlets",
    "xdist",
    "yaml",
    "accelerate",
    "lightning",
    "statsmodels",
    "transformers",
}


def absent(error: BaseException | None) -> str | None:
    """Return the optional package whose absence an ImportError is about, if it is truly absent.

    A library that words the error anew is understood too: `raise ImportError(…) from error`.
    """
    while isinstance(error, ImportError):
        name = (error.name or "").partition(".")[0].replace("-", "_")
        if name in OPTIONAL and not any(finder.find_spec(name, None) for finder in sys.meta_path):
            return name
        error = error.__cause__
    return None


@contextmanager
def skipped_where_absent() -> Iterator[None]:
    """Skip, with the package's name, where an optional package is missing: never another error."""
    try:
        yield
    except ImportError as error:
        if (name := absent(error)) is None:
            raise
        pytest.skip(f"needs {name}, which is not installed")


class Module(pytest.Module):
    """A file of tests whose imports may be absent."""

    def collect(self):
        try:
            return super().collect()
        except self.CollectError as error:
            if (name := absent(error.__cause__)) is None:
                raise
            pytest.skip(f"needs {name}, which is not installed", allow_module_level=True)


def pytest_pycollect_makemodule(module_path, parent):
    return Module.from_parent(parent, path=module_path)


#: What takes longest, begun first: at the end processes share out short tests.
LONGEST = ("test_workflow.py", "test_notebooks.py", "test_pages.py")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_collection_finish():
    """Look no more for garbage in what was imported: each search takes tenths of a second there.

    statsmodels searches in every correction of p values.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    with skipped_where_absent():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    with skipped_where_absent():
        return (yield)


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def at_paper_scale():
    """Return the committed records at the paper's scale, which nobody writes to."""
    from swrlib.records import load_records

    return load_records(ROOT / "results", scale="paper", split="all")


@pytest.fixture(scope="session")
def comparisons(at_paper_scale):
    """Return every comparison of the claims on these records: seconds, so once for all tests."""
    from swrlib.verdicts import all_comparisons

    return all_comparisons(at_paper_scale)


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
def browser():
    """Return a running Chromium. While it runs, so does its event loop: thus not for a session."""
    from browser import find_chromium, open_browser

    if find_chromium() is None:
        pytest.skip("no Chromium on this machine")
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def shell():
    """Return an IPython shell, so that what is displayed can be captured."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    main = sys.modules["__main__"]  # which a shell takes the place of
    yield InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    InteractiveShell.clear_instance()
    sys.modules["__main__"] = main
