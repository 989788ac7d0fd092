"""The chapters as programs: run again, run on other data, and called with a wrong parameter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from image_folder import make_image_folder
from papermill import inspect_notebook

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
#: Those that train on data of one's choice.
TRAINING = [
    name
    for name in NOTEBOOKS
    if "dataset" in inspect_notebook(str(ROOT / f"notebooks/{name}.ipynb"))
]


def papermill(notebook: str, output: Path, **parameters) -> subprocess.CompletedProcess:
    given = [text for name, value in parameters.items() for text in ("-p", name, str(value))]
    command = [sys.executable, "-m", "papermill", ROOT / f"notebooks/{notebook}.ipynb", output]
    return subprocess.run(
        [*command, "--cwd", ROOT / "notebooks", "--no-progress-bar", *given],
        capture_output=True,
        text=True,
        env=os.environ | {"SWR_PROGRESS": "off"},  # as the workflow runs them
    )


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


def test_executed_chapters_run_again_with_the_same_headlines(chapters):
    """nbval on the *executed* copies: without stored outputs it would pass anything."""
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env"]
    command += ["--override-ini=addopts=", "-p", "no:cacheprovider", "-q"]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    clean["SWR_PROGRESS"] = "off"
    result = subprocess.run(
        [*command, *sorted(chapters.glob("*.ipynb"))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=clean,
    )
    assert result.returncode == 0, result.stdout[-8000:]


@pytest.mark.parametrize("name", TRAINING)
def test_an_unknown_value_is_refused_with_the_nearest_right_name(name, tmp_path):
    result = papermill(name, tmp_path / "out.ipynb", dataset="mnist-5kk")
    assert result.returncode != 0
    assert "mnist-5k" in result.stderr.replace("mnist-5kk", "")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_an_unknown_parameter_is_refused(name, tmp_path):
    right = next(iter(inspect_notebook(str(ROOT / f"notebooks/{name}.ipynb"))))
    wrong = right.replace("s", "", 1)
    result = papermill(name, tmp_path / "out.ipynb", **{wrong: 1})
    assert result.returncode != 0
    assert repr(right) in result.stderr


@pytest.mark.parametrize("name", TRAINING)
def test_a_chapter_runs_on_other_data(name, tmp_path, folder_of_images):
    few = {"seeds": 2, "epochs": 2, "results": tmp_path / "records", "dataset": folder_of_images}
    known = inspect_notebook(str(ROOT / f"notebooks/{name}.ipynb"))
    given = {key: value for key, value in few.items() if key in known}
    assert "dataset" in given
    result = papermill(name, tmp_path / "out.ipynb", **given)
    assert result.returncode == 0, result.stderr[-4000:]


def test_cost_runs_on_other_measurements_and_refuses_what_is_none(tmp_path):
    content = json.loads((ROOT / "results/_benchmarks/cost.json").read_text())
    rows = content["steps"]["rows"]
    content["steps"]["rows"] = [row for row in rows if row["model"] not in ("vgg16", "cnn-bn")]
    for row in content["steps"]["rows"]:
        row["milliseconds"] *= 1 + row["repeat"] / 10
    (tmp_path / "mine.json").write_text(json.dumps(content))
    given = {"measurements": tmp_path / "mine.json"}
    result = papermill("cost", tmp_path / "out.ipynb", **given)
    assert result.returncode == 0, result.stderr[-4000:]
    (tmp_path / "mine.json").unlink()
    result = papermill("cost", tmp_path / "out.ipynb", **given)
    assert result.returncode != 0 and "make bench" in result.stderr


@pytest.fixture(scope="session")
def folder_of_images(tmp_path_factory) -> Path:
    return make_image_folder(tmp_path_factory.mktemp("images"), train=60, test=20)
