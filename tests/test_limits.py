"""Nothing waits for ever, and what is not installed is no failure: the tests' own promises."""

import ast
import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent


def run_pytest(folder: Path, *arguments: str, environment=None) -> subprocess.CompletedProcess:
    """Run the tests in a folder in a process of its own, with the project's settings."""
    settings = ["-c", TESTS.parent / "pyproject.toml", "--rootdir", folder]
    plugins = ["-p", "no:cacheprovider", "-p", "no:cov"]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", *settings, *plugins, *arguments, folder],
        cwd=folder,
        env=clean | {"COLUMNS": "200"} | (environment or {}),
        capture_output=True,
        text=True,
        timeout=200,
    )


# Limits


WAITS = {
    "for an event": "import threading\n\ndef wait():\n    threading.Event().wait()",
    "for a process": "import subprocess\n\ndef wait():\n    subprocess.run(['sleep', '600'])",
    # PyDLL keeps the interpreter's lock: no signal is handled and no other thread runs.
    "without the interpreter": (
        "import ctypes, signal\n\ndef wait():\n"
        "    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])\n"
        "    ctypes.PyDLL(None).sleep(600)"
    ),
}


@pytest.mark.parametrize("processes", [0, 2])
@pytest.mark.parametrize("way", WAITS)
def test_a_test_that_waits_for_ever_is_ended_and_named(way, processes, tmp_path):
    pytest.importorskip("xdist")
    pytest.importorskip("pytest_timeout")
    code = f"{WAITS[way]}\n\ndef test_this_one_waits():\n    wait()\n\ndef test_quick(): pass\n"
    (tmp_path / "test_made_up.py").write_text(code)
    stuck = way == "without the interpreter"
    limits = ["-o", "timeout=1", "-o", f"faulthandler_timeout={2 if stuck else 20}"]
    started = time.monotonic()
    done = run_pytest(tmp_path, "-n", str(processes), *limits)
    assert time.monotonic() - started < 120
    assert done.returncode not in (0, 5)
    said = done.stdout + done.stderr
    assert "test_this_one_waits" in said and "in wait" in said
    if not stuck:
        assert "Timeout" in said and "1 failed, 1 passed" in said


def test_every_test_has_a_limit(pytestconfig):
    pytest.importorskip("pytest_timeout")
    limit = float(pytestconfig.getini("timeout"))
    longest = float(pytestconfig.getini("faulthandler_timeout"))
    assert 0 < limit < longest and pytestconfig.getini("faulthandler_exit_on_timeout")
    marks = [
        node
        for path in TESTS.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.timeout"
    ]
    assert marks and all(0 < ast.literal_eval(mark.args[0]) < longest for mark in marks)


def without_limit(code: str) -> list[str]:
    """Return the calls that wait for another process or thread, however long that takes."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.withitem) and "Popen(" in ast.unparse(node.context_expr):
            found.append(ast.unparse(node))  # whose end waits for the process
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        called = ast.unparse(node.func)
        name, keywords = node.func.attr, {keyword.arg for keyword in node.keywords}
        runs = called in {
            f"subprocess.{word}" for word in ("run", "call", "check_call", "check_output")
        }
        waits = name in ("join", "wait", "communicate") and not node.args
        if (runs or waits) and "timeout" not in keywords:
            found.append(ast.unparse(node))
    return found


def test_every_wait_in_the_tests_has_a_limit():
    bare = "process.join(); event.wait(); subprocess.run(['a']); process.communicate()"
    assert len(without_limit(f"with subprocess.Popen(['a']) as process:\n    {bare}")) == 5
    assert not without_limit("process.join(3); ', '.join(a); subprocess.run(['a'], timeout=3)")
    for path in TESTS.glob("*.py"):
        assert not without_limit(path.read_text()), path.name


KERNELS = {
    "never connects": ["-c", "import time; time.sleep(600)"],
    "never answers": [
        "-c",
        textwrap.dedent(
            """
            import asyncio
            from ipykernel.kernelapp import IPKernelApp
            from ipykernel.kernelbase import Kernel

            class Silent(Kernel):
                implementation, implementation_version, banner = "silent", "1", ""
                language_info = {"name": "python", "mimetype": "", "file_extension": ".py"}

                async def do_execute(self, *arguments, **options):
                    await asyncio.sleep(600)

            IPKernelApp.launch_instance(kernel_class=Silent)
            """
        ),
        "-f",
        "{connection_file}",
    ],
}


@pytest.mark.parametrize("kind", KERNELS)
def test_a_kernel_that_never_answers_is_given_up(kind, tmp_path, monkeypatch):
    pytest.importorskip("papermill")
    nbformat = pytest.importorskip("nbformat")
    from execution import papermill

    spec = tmp_path / "kernels" / "stub"
    spec.mkdir(parents=True)
    argv = [sys.executable, *KERNELS[kind]]
    (spec / "kernel.json").write_text(
        json.dumps({"argv": argv, "display_name": "stub", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    chapter = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("1")],
        metadata={"kernelspec": {"name": "stub", "display_name": "stub", "language": "python"}},
    )
    nbformat.write(chapter, tmp_path / "in.ipynb")
    started = time.monotonic()
    limits = {"start": 3 if kind == "never connects" else 100, "cell": 3}
    done = papermill(tmp_path / "in.ipynb", tmp_path / "out.ipynb", **limits)
    assert time.monotonic() - started < 120
    assert done.returncode != 0
    said = {"never connects": "respond in 3 seconds", "never answers": "Cell execution timed out"}
    assert said[kind] in done.stderr


# What is not installed


BLOCKER = '''
import sys
from importlib.machinery import PathFinder


class Without:
    """The usual finder of modules, blind to some packages."""

    invalidate_caches = PathFinder.invalidate_caches
    find_distributions = PathFinder.find_distributions

    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in {missing} else PathFinder.find_spec(name, path)


sys.meta_path = [Without if finder is PathFinder else finder for finder in sys.meta_path]
'''

USES = """
import pytest
import swrlib


def test_data():
    assert len(swrlib.load_dataset("mnist-5k").train_images) == 4000


@pytest.fixture
def reader():
    import papermill


def test_fixture(reader):
    pass


def test_sought():
    with pytest.raises(ImportError):
        import no_such_package
    import no_such_package
"""


def test_what_is_not_installed_is_skipped_with_its_name_and_nothing_else_is(tmp_path):
    """An absent package is a skip; a package that is there and broken, or unknown, a failure."""
    (tmp_path / "test_made_up.py").write_text(USES)
    (tmp_path / "test_all.py").write_text("import nbformat\n\ndef test(): pass\n")
    (tmp_path / "test_name.py").write_text("from numpy import no_such_name\n")
    blocker = tmp_path / "blocker"
    blocker.mkdir()
    shutil.copy(TESTS / "conftest.py", tmp_path)
    missing = {"mlxtend", "papermill", "nbformat"}
    (blocker / "sitecustomize.py").write_text(BLOCKER.replace("{missing}", repr(missing)))
    path = os.pathsep.join([str(blocker), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    options = ["-rsfE", "--continue-on-collection-errors", "-p", "no:nbval"]
    done = run_pytest(tmp_path, *options, environment={"PYTHONPATH": path})
    assert "1 failed, 3 skipped, 1 error" in done.stdout, done.stdout + done.stderr
    for name in missing:
        assert f"needs {name}, which is not installed" in done.stdout
    assert "test_sought - ModuleNotFoundError: No module named 'no_such_package'" in done.stdout
    assert "ERROR test_name.py" in done.stdout


def test_what_tests_import_is_known_to_be_optional():
    """Else the file that imports it fails where it is missing."""
    from conftest import OPTIONAL

    needed = {"filelock", "numpy", "pandas", "pyarrow", "pytest", "torch"}
    scripts = [*TESTS.glob("*.py"), *(TESTS.parent / "book").rglob("*.py")]
    own = {path.stem for path in scripts} | {"benchmarks", "swrlib"}
    for path in TESTS.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module]
            for name in {name.partition(".")[0] for name in names}:
                known = sys.stdlib_module_names | OPTIONAL | needed | own
                assert name in known, f"{path.name} imports {name}"
