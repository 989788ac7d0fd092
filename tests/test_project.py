"""The project's own promises: dependencies in step, a light import, a fresh clone's empty plan."""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from datetime import date
from importlib.metadata import PackageNotFoundError, metadata, version
from itertools import product
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import swrlib
from swrlib.__main__ import parser
from swrlib.engine.jobs import resolve


@pytest.fixture(scope="module")
def project(root):
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def constraints(root):
    lines = (root / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins), "only name==version lines"
    return {canonicalize_name(name): number for name, number in (pin.split("==") for pin in pins)}


def test_every_requirement_has_a_tried_version_in_its_range(project, constraints):
    extras = project["optional-dependencies"]
    for line in [*project["dependencies"], *(line for extra in extras.values() for line in extra)]:
        requirement = Requirement(line)
        tried = constraints.get(canonicalize_name(requirement.name))
        assert tried is not None, f"{requirement.name} is missing in constraints.txt"
        assert requirement.specifier.contains(tried), f"{line} excludes the tried {tried}"


def test_every_tried_version_takes_each_python_that_the_project_does(project, constraints):
    """A distribution's Python 3.11 may be an early one: 3.11.2, say."""
    least = project["requires-python"].removeprefix(">=") + ".0"
    for name in constraints:
        try:
            needs = metadata(name)["Requires-Python"] or ""
        except PackageNotFoundError:  # of another platform
            continue
        assert SpecifierSet(needs).contains(least), f"{name} needs Python {needs}"


def test_conda_installs_the_same_from_the_same_files(project, root):
    environment = yaml.safe_load((root / "environment.yml").read_text())
    assert environment["dependencies"][0] == f"python{project['requires-python']},<3.14"
    (pip,) = (part["pip"] for part in environment["dependencies"] if isinstance(part, dict))
    extras = ",".join(project["optional-dependencies"])
    assert pip == ["-c constraints.txt", f"-e .[{extras}]"]
    assert f"'.[{extras}]'" in (root / "Makefile").read_text()


def test_jupyter_book_is_version_1():
    assert version("jupyter-book").split(".")[0] == "1"


def test_a_plain_installation_imports(project, root, tmp_path):
    """`pip install .` brings torch, pandas, pyarrow and filelock: nothing else may be imported."""
    source = tmp_path / "source"
    shutil.copytree(root / "swrlib", source / "swrlib")
    for name in ["pyproject.toml", "README.md", "LICENSE"]:
        shutil.copy(root / name, source)
    installed = tmp_path / "installed"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    command = [*install, "--target", installed, source]
    subprocess.run(command, check=True, capture_output=True, timeout=240)
    extras = [
        Requirement(line).name.replace("-", "_").lower()
        for extra in project["optional-dependencies"].values()
        for line in extra
    ]
    code = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {[*extras, 'PIL', 'sklearn', 'IPython', 'yaml']}:\n"
        "            raise ModuleNotFoundError(f'{name} is an extra')\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "import swrlib\n"
        "[getattr(swrlib, name) for name in swrlib.__all__]\n"
        "print(swrlib.__file__)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(str(installed))


def snakemake(folder, *arguments) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    run = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "1", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "PATH": path},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout + run.stderr


def test_a_clone_with_newer_library_files_plans_no_training(root, tmp_path):
    """Records exist by hash: the file times of a fresh clone must not train them again."""
    for name in ["Snakefile", "book", "config", "swrlib"]:
        copy = shutil.copytree if (root / name).is_dir() else shutil.copy
        copy(root / name, tmp_path / name)
    job = {"dataset": "mnist-5k", "model": "mlp", "stream": "single-task", "seeds": [0]}
    few = job | {"methods": ["vanilla", "swr"], "scale": "quick", "epochs": 1}
    paper = {"results": "results", "selection": [], "records": [few]}
    (tmp_path / "config/paper.yaml").write_text(yaml.safe_dump(paper))
    assert "rule train:" in snakemake(tmp_path, "records")

    shutil.rmtree(tmp_path / "build")
    shutil.rmtree(tmp_path / ".snakemake")
    for path in (tmp_path / "swrlib").rglob("*.py"):
        os.utime(path, (4e9, 4e9))
    assert "rule train:" not in snakemake(tmp_path, "--dry-run", "records")

    for path in (tmp_path / "results").iterdir():
        path.unlink()
    assert "rule train:" in snakemake(tmp_path, "--dry-run", "records")


def test_every_job_of_the_plan_is_asked_for_in_words_that_mean_it(root, tmp_path):
    """Jobs that differ in anything have names of their own, and their commands resolve to them."""
    for name in ["Snakefile", "book", "config", "swrlib"]:
        copy = shutil.copytree if (root / name).is_dir() else shutil.copy
        copy(root / name, tmp_path / name)
    few = {"dataset": "mnist-5k", "model": "mlp", "seeds": [0], "methods": ["vanilla"]}
    tasks = {"paper": "spectral_collapse", "stream": "pixel-permuted:2,64,784", "batch_size": 10}
    narrow = {"options": {"hidden": [9], "initialization": "he", "layer_norm": True}}
    entries = [
        few | tasks | {"learning_rate": 0.2, "measure": ["features-start:2"]},
        few | tasks | {"learning_rate": 0.1},
        few | tasks | narrow,
        few | tasks,
        few | tasks | {"methods": ["swr:1e-3"]},
    ]
    paper = {"results": "results", "selection": [], "records": entries}
    (tmp_path / "config/paper.yaml").write_text(yaml.safe_dump(paper))
    planned = snakemake(tmp_path, "--dry-run", "--printshellcmds", "records")
    commands = re.findall(r"python -m swrlib (train .*?) 2>&1", planned)
    assert len(commands) == len(entries)
    asked = set()
    for command in commands:
        given = vars(parser().parse_args(shlex.split(command)))
        assert given.pop("measure") in ([], ["features-start:2"])
        given["options"] = dict(given.pop("options", ()))
        for name in ("command", "threads", "checkpoints", "minutes"):
            given.pop(name, None)
        asked |= {run.hash for run in resolve(**given)}
    apart = {"separate", "measure"}
    meant = [
        resolve(**{k: v for k, v in entry.items() if k not in apart}, scale="paper")
        for entry in entries
    ]
    assert asked == {run.hash for runs in meant for run in runs} and len(asked) == len(entries)


def test_committed_records_are_found_again(root):
    """A changed hash would train hours again: each record is of a run in config/paper.yaml."""
    results = root / "results"
    if not any(results.glob("*.parquet")):
        pytest.skip("results/ holds no records yet")
    recorded = set(swrlib.load_records(results)["run"])  # of any scale: all that was trained
    settings = yaml.safe_load((root / "config/paper.yaml").read_text())
    known = set()
    for entry in [*settings["selection"], *settings["records"]]:
        apart = ("separate", "measure", "methods", "stream")
        keywords = {k: v for k, v in entry.items() if k not in apart}
        streams = [entry["stream"]] if isinstance(entry["stream"], str) else entry["stream"]
        for stream, method in product(streams, entry["methods"]):
            asked = {"stream": stream, "methods": [method], "scale": "paper", "results": results}
            try:
                runs = resolve(**asked, **keywords)
            except ValueError as error:
                assert "has not been selected yet" in str(error)
            else:
                known |= {run.hash for run in runs}
    assert recorded <= known, f"{len(recorded - known)} recorded runs are not in config/paper.yaml"


def test_the_project_names_no_machine_of_its_makers(root):
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, text=True, capture_output=True, timeout=60)
    own_paths = re.compile("|".join(["/" + "work/", "/" + "tmp/swr", "file" + ":///"]))
    for name in listed.stdout.split():
        path = root / name
        if path.is_file() and path.suffix in {
            ".py",
            ".md",
            ".ipynb",
            ".yml",
            ".yaml",
            ".toml",
            ".txt",
            "",
        }:
            assert not own_paths.search(path.read_text()), name


def test_the_readme_says_what_ran_on_a_gpu(root):
    from swrlib import cost, records

    text = (root / "README.md").read_text()
    paragraph = re.search(r"\*\*On a GPU\.\*\*.*", text)[0]
    measured = cost.load_gpu(root / "results/_benchmarks/gpu.json")
    assert {"equality", "stacks", "vgg16"} <= set(measured.machine.index)
    first = measured.machine.sort_values("date").iloc[0]
    day = date.fromisoformat(first["date"][:10])
    assert first["device"] in paragraph and f"{day.day} {day:%B %Y}" in paragraph
    assert f"torch {first['torch'].rpartition('.')[0]}" in paragraph
    about = records.load_provenance(root / "results")
    trained = about[about["device"] != "cpu"]
    for device in trained["device"].unique():
        assert " ".join(device.split()[:2]) in paragraph
    runs = swrlib.load_records(root / "results", run=list(trained["run"])).drop_duplicates("run")
    assert set(runs["dataset"]) == {"cifar10"} and set(runs["model"]) == {"cnn"}
    assert len(runs) > 20  # "many"
    # What was run is nowhere said not to have been.
    for page in [
        root / "README.md",
        *(root / "book").glob("*.md"),
        *root.glob("notebooks/*.ipynb"),
    ]:
        for sentence in re.split(r"(?<=[.:!?])\s", page.read_text()):
            assert not re.search(r"(?i)\bnot (?:yet |been )*run\b.*(?:GPU|CUDA|device)", sentence)
            assert not re.search(r"(?i)(?:GPU|CUDA|device).*\bnot (?:yet |been )*run\b", sentence)


def test_the_readme_says_how_long_the_benchmarks_take(root):
    from swrlib import cost

    _, machine = cost.load_cost(root / "results/_benchmarks/cost.json")
    assert 10 < machine["minutes"].sum() < 20
    assert "a quarter of an hour" in (root / "README.md").read_text()


#: Rooms of the library from the ground up: none imports one that stands after it.
ROOMS = [
    *("checks", "files", "memory", "statistics", "papers", "network", "rescaling", "swr", "theory"),
    *("image_files", "datasets", "models", "streams", "wide", "walks", "stacks"),
    *("population", "methods", "in_loop", "measures", "provenance", "records", "engine"),
    *("verdicts", "cost", "claims", "overview", "tables", "figures", "notebook"),
]


def imports_of(path: Path) -> set[str]:
    """Return the rooms of swrlib that a file imports, within functions or not."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("swrlib"):
            _, _, room = node.module.partition(".")
            names = [room] if room else [alias.name for alias in node.names]
            found |= {name.split(".")[0] for name in names}
    return found


def test_no_room_imports_one_above_it(root):
    there = {path.stem for path in (root / "swrlib").iterdir() if path.suffix in ("", ".py")}
    assert there - {"__init__", "__main__", "__pycache__"} == set(ROOMS)
    for position, room in enumerate(ROOMS):
        place = root / "swrlib" / room
        files = place.rglob("*.py") if place.is_dir() else [place.with_suffix(".py")]
        for path in files:
            above = imports_of(path) & set(ROOMS[position + 1 :])
            assert not above, f"{path.relative_to(root)} imports {sorted(above)}"


def test_methods_streams_and_measures_know_no_engine(root):
    """What a newcomer writes needs the rooms below alone; only the engine knows the records."""
    for room in ("streams", "methods", "measures", "stacks"):
        place = root / "swrlib" / room
        for path in place.rglob("*.py") if place.is_dir() else [place.with_suffix(".py")]:
            assert not imports_of(path) & {"engine", "records"}


def rooms_of(picture: str) -> set[str]:
    """Return the names that are written in bold monospace in the picture of the rooms."""
    names = re.findall(r'font-family="ui-monospace, monospace"[^>]*>([^<]+)<', picture)
    return {name for text in names for name in text.split()}


def test_the_picture_of_the_rooms_names_rooms_that_exist(root):
    assert rooms_of((root / "book/images/rooms.svg").read_text()) == set(ROOMS)


def test_no_file_class_or_function_of_the_library_is_long(root):
    for path in (root / "swrlib").rglob("*.py"):
        text = path.read_text()
        assert len(text.splitlines()) <= 450, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                limit = 250 if isinstance(node, ast.ClassDef) else 60
                assert node.end_lineno - node.lineno < limit, f"{path.name}: {node.name}"
