"""The chapters as programs: run again, run on other data, and called with a wrong parameter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from execution import papermill
from image_folder import make_image_folder
from papermill import inspect_notebook

from benchmarks.loops import WITHOUT_AUTOGRAD
from swrlib import cost

pytestmark = pytest.mark.timeout(600)
ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
#: Those that train on data of one's choice.
TRAINING = [
    name
    for name in NOTEBOOKS
    if "dataset" in inspect_notebook(str(ROOT / f"notebooks/{name}.ipynb"))
]


def execute(notebook: str, output: Path, **parameters) -> subprocess.CompletedProcess:
    return papermill(ROOT / f"notebooks/{notebook}.ipynb", output, **parameters)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_chapters_are_stored_clean_and_parameterized(name):
    notebook = nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    tags = [cell.metadata.get("tags", []) for cell in code]
    assert sum("parameters" in entry for entry in tags) == 1
    if name != "quickstart":  # whose code is what a reader comes for
        folded = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
        assert all(folded & set(entry) for entry in tags), "a code cell is not folded"
    assert notebook.cells[0].source.startswith("# ")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_cell_has_at_most_twenty_lines(name):
    """A chapter states, shows and judges; what computes has tests of its own in the library."""
    notebook = nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4)
    lengths = {
        cell.id: sum(
            bool(line.strip()) and not line.lstrip().startswith("#")
            for line in cell.source.splitlines()
        )
        for cell in notebook.cells
        if cell.cell_type == "code"
    }
    assert {cell: length for cell, length in lengths.items() if length > 20} == {}


@pytest.mark.timeout(1260)
def test_executed_chapters_run_again_with_the_same_headlines(chapters):
    """nbval on the *executed* copies: without stored outputs it would pass anything."""
    pytest.importorskip("nbval")
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env"]
    command += ["--nbval-cell-timeout=240", "--nbval-kernel-startup-timeout=120"]
    command += ["--override-ini=addopts=", "-p", "no:cacheprovider", "-q"]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    clean["SWR_PROGRESS"] = "off"
    result = subprocess.run(
        [*command, *sorted(chapters.glob("*.ipynb"))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=clean,
        timeout=1200,
    )
    assert result.returncode == 0, result.stdout[-8000:]


def test_no_executed_chapter_has_an_output_widget(chapters):
    """With one, papermill now and then overlooks a cell's reply and waits for ever."""
    states = {
        path.name: json.dumps(nbformat.read(path, as_version=4).metadata.get("widgets", {}))
        for path in chapters.glob("*.ipynb")
    }
    assert any('"HTMLModel"' in state for state in states.values())
    wrong = [name for name, state in states.items() if '"OutputModel"' in state]
    assert wrong == [], "use swrlib.notebook.explore"


@pytest.mark.parametrize("name", TRAINING)
def test_an_unknown_value_is_refused_with_the_nearest_right_name(name, tmp_path):
    result = execute(name, tmp_path / "out.ipynb", dataset="mnist-5kk")
    assert result.returncode != 0
    assert "mnist-5k" in result.stderr.replace("mnist-5kk", "")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_an_unknown_parameter_is_refused(name, tmp_path):
    right = next(iter(inspect_notebook(str(ROOT / f"notebooks/{name}.ipynb"))))
    wrong = right.replace("s", "", 1)
    result = execute(name, tmp_path / "out.ipynb", **{wrong: 1})
    assert result.returncode != 0
    assert repr(right) in result.stderr


@pytest.mark.parametrize("name", TRAINING)
def test_a_chapter_runs_on_other_data(name, tmp_path, folder_of_images):
    few = {"seeds": 2, "epochs": 2, "results": tmp_path / "records", "dataset": folder_of_images}
    known = inspect_notebook(str(ROOT / f"notebooks/{name}.ipynb"))
    given = {key: value for key, value in few.items() if key in known}
    assert "dataset" in given
    result = execute(name, tmp_path / "out.ipynb", **given)
    assert result.returncode == 0, result.stderr[-4000:]


@pytest.mark.timeout(1200)
def test_cost_runs_on_other_measurements_and_refuses_what_is_none(tmp_path):
    content = json.loads((ROOT / "results/_benchmarks/cost.json").read_text())
    rows = content["steps"]["rows"]
    content["steps"]["rows"] = [row for row in rows if row["model"] not in ("vgg16", "cnn-bn")]
    rows = content["steps"]["rows"]
    for way in WITHOUT_AUTOGRAD:  # in a table that was measured before they were
        if not any(row["name"] == way for row in rows):
            rows += [row | {"name": way} for row in rows if row["name"] == "vanilla"]
    for row in rows:
        row["milliseconds"] *= 1 + row["repeat"] / 10
    (tmp_path / "mine.json").write_text(json.dumps(content))
    (tmp_path / "gpu.json").write_text("{}")
    given = {"measurements": tmp_path / "mine.json"}
    result = execute("engine", tmp_path / "engine.ipynb", **given, gpu=tmp_path / "gpu.json")
    assert result.returncode == 0, result.stderr[-4000:]
    result = execute("cost", tmp_path / "out.ipynb", **given)
    assert result.returncode == 0, result.stderr[-4000:]
    text = shown((tmp_path / "out.ipynb").read_text())
    assert "in Adam." in text and "are not in these measurements" not in text
    (tmp_path / "mine.json").unlink()
    result = execute("cost", tmp_path / "out.ipynb", **given)
    assert result.returncode != 0 and "make bench" in result.stderr


def shown(text: str) -> str:
    """Return what an executed notebook shows, without its code."""
    cells = nbformat.reads(text, as_version=4).cells
    return json.dumps([cell.get("outputs", []) for cell in cells], ensure_ascii=False)


def test_cost_has_a_dash_for_what_was_not_timed(chapters):
    text = shown((chapters / "cost.ipynb").read_text())
    frame, _ = cost.load_cost(ROOT / "results/_benchmarks/cost.json")
    absent = set(WITHOUT_AUTOGRAD) - set(frame["name"])
    assert ("are not in these measurements" in text) == bool(absent)


def test_the_engine_s_chapter_shows_all_that_was_timed_on_a_gpu(chapters):
    text = shown((chapters / "engine.ipynb").read_text())
    on_gpu = cost.load_gpu(ROOT / "results/_benchmarks/gpu.json")
    assert on_gpu.where() in text
    for value in on_gpu.stacks["milliseconds"]:
        assert f"{value:.3g}" in text
    for value in on_gpu.vgg16["images a second"]:
        assert f"{value:,.0f}" in text


@pytest.fixture(scope="session")
def folder_of_images(tmp_path_factory) -> Path:
    return make_image_folder(tmp_path_factory.mktemp("images"), train=60, test=20)
