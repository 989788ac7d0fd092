"""The chapters as programs: run again, run on other data, and called with a wrong parameter.

That a kernel executes them is seen where the website is built, before the tests; here most run in
this process, which has imported what they need.
"""

import importlib
import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import matplotlib
import matplotlib.pyplot
import nbformat
import pytest
import torch
import yaml
from execution import papermill, run_cells
from image_folder import make_image_folder
from papermill import inspect_notebook

from benchmarks.loops import WITHOUT_AUTOGRAD
from swrlib import cost

pytestmark = pytest.mark.timeout(600)
ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = yaml.safe_load((ROOT / "config/quick.yaml").read_text())["chapters"]
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
#: Those that train on data of one's choice.
TRAINING = [
    name
    for name in NOTEBOOKS
    if "dataset" in inspect_notebook(str(ROOT / f"notebooks/{name}.ipynb"))
]
#: The one that the README's command runs.
BY_COMMAND = "warm_start"


def source(name: str) -> Path:
    return ROOT / f"notebooks/{name}.ipynb"


@pytest.fixture
def run(shell, monkeypatch):
    """Return what executes a notebook in this process, in its folder, and leaves no trace."""
    monkeypatch.chdir(ROOT / "notebooks")
    monkeypatch.setenv("SWR_PROGRESS", "off")  # as the workflow runs them
    with torch.random.fork_rng(), matplotlib.rc_context():
        yield partial(run_cells, shell)
    torch.set_default_dtype(torch.float32)
    matplotlib.pyplot.close("all")


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


def headlines(notebook) -> dict[str, list]:
    """Return what an executed notebook says: what it prints, its verdicts, its pictures' words."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = [(one.get("data", {}), one.get("metadata", {})) for one in outputs]
    return {
        "lines": [
            line
            for one in outputs
            if one.output_type == "stream" and one.name == "stdout"
            for line in one.text.splitlines()
            if line
        ],
        "verdicts": [
            (found["claim"], found["label"], found["detail"])
            for _, about in shown
            for found in about.get("text/html", {}).get("verdicts", [])
        ],
        "pictures": [
            words for data, _ in shown for words in re.findall(r'alt="([^"]*)"', str(data))
        ],
    }


@pytest.mark.parametrize("name", CHAPTERS)
def test_an_executed_chapter_runs_again_with_the_same_headlines(name, chapters, run, monkeypatch):
    """Where its records are there already: nothing it says rests on chance or on the first run."""
    monkeypatch.setenv("SWR_RESULTS", "")
    monkeypatch.syspath_prepend(str(ROOT / "book"))
    importlib.import_module("execute").show_results(name, CHAPTERS[name])
    path = chapters / f"{name}.ipynb"
    said = headlines(nbformat.read(path, as_version=4))
    assert any(said.values()) and headlines(run(path)) == said


@pytest.mark.parametrize("name", ["proportionality", "quickstart"])
def test_nbval_finds_the_same_outputs_again(name, chapters):
    """On the *executed* copy, in cells with nbval's tag: the notebook as others test it."""
    pytest.importorskip("nbval")
    path = chapters / f"{name}.ipynb"
    tags = [cell.metadata.get("tags", []) for cell in nbformat.read(path, as_version=4).cells]
    assert any("nbval-check-output" in cell for cell in tags)
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env", str(path)]
    command += ["--nbval-cell-timeout=240", "--nbval-kernel-startup-timeout=120"]
    command += ["--override-ini=addopts=", "-p", "no:cacheprovider", "-q"]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    clean["SWR_PROGRESS"] = "off"
    options = {"cwd": ROOT, "capture_output": True, "text": True}
    result = subprocess.run(command, **options, env=clean, timeout=400)
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
def test_an_unknown_value_is_refused_with_the_nearest_right_name(name, run):
    with pytest.raises(ValueError) as refused:
        run(source(name), dataset="mnist-5kk")
    assert "mnist-5k" in str(refused.value).replace("mnist-5kk", "")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_an_unknown_parameter_is_refused(name, run):
    right = next(iter(inspect_notebook(str(source(name)))))
    wrong = right.replace("s", "", 1)
    with pytest.raises(ValueError) as refused:
        run(source(name), **{wrong: 1})
    assert repr(right) in str(refused.value)


def other_data(name: str, folder: Path, images: Path) -> dict:
    """Return the parameters with which a chapter trains briefly on a folder of images."""
    few = {"seeds": 2, "epochs": 2, "results": str(folder / "records"), "dataset": str(images)}
    known = inspect_notebook(str(source(name)))
    assert "dataset" in known
    return {key: value for key, value in few.items() if key in known}


@pytest.mark.parametrize("name", [name for name in TRAINING if name != BY_COMMAND])
def test_a_chapter_runs_on_other_data(name, run, tmp_path, folder_of_images):
    run(source(name), **other_data(name, tmp_path, folder_of_images))


def test_the_command_runs_a_chapter_on_other_data(tmp_path, folder_of_images):
    given = other_data(BY_COMMAND, tmp_path, folder_of_images)
    result = papermill(source(BY_COMMAND), tmp_path / "out.ipynb", **given)
    assert result.returncode == 0, result.stderr[-4000:]


def test_cost_runs_on_other_measurements_and_refuses_what_is_none(run, tmp_path):
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
    given = {"measurements": str(tmp_path / "mine.json")}
    run(source("engine"), **given, gpu=str(tmp_path / "gpu.json"))
    text = shown(run(source("cost"), **given))
    assert "in Adam." in text and "are not in these measurements" not in text
    (tmp_path / "mine.json").unlink()
    result = papermill(source("cost"), tmp_path / "out.ipynb", **given)
    assert result.returncode != 0 and "make bench" in result.stderr


def shown(notebook) -> str:
    """Return what an executed notebook shows, without its code."""
    outputs = [cell.get("outputs", []) for cell in notebook.cells]
    return json.dumps(outputs, ensure_ascii=False)


def test_cost_has_a_dash_for_what_was_not_timed(chapters):
    text = shown(nbformat.read(chapters / "cost.ipynb", as_version=4))
    frame, _ = cost.load_cost(ROOT / "results/_benchmarks/cost.json")
    absent = set(WITHOUT_AUTOGRAD) - set(frame["name"])
    assert ("are not in these measurements" in text) == bool(absent)


def test_the_engine_s_chapter_shows_all_that_was_timed_on_a_gpu(chapters):
    text = shown(nbformat.read(chapters / "engine.ipynb", as_version=4))
    on_gpu = cost.load_gpu(ROOT / "results/_benchmarks/gpu.json")
    assert on_gpu.where() in text
    for value in on_gpu.stacks["milliseconds"]:
        assert f"{value:.3g}" in text
    for value in on_gpu.vgg16["images a second"]:
        assert f"{value:,.0f}" in text


@pytest.fixture(scope="session")
def folder_of_images(tmp_path_factory) -> Path:
    return make_image_folder(tmp_path_factory.mktemp("images"), train=60, test=20)
