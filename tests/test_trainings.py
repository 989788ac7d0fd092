"""The trainings that config/paper.yaml lists: jobs of a workflow, or one process on a GPU."""

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from swrlib import load_records
from swrlib.engine.jobs import missing_jobs
from swrlib.engine.runs import resolve

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "book"))
trainings = importlib.import_module("trainings")

TINY = {"dataset": "mnist-5k", "model": "mlp", "stream": "single-task", "epochs": 2}
ENTRIES = [
    TINY | {"dataset": "no such folder", "methods": ["vanilla"], "seeds": [0]},
    TINY | {"methods": ["vanilla", "swr:1e-3"], "seeds": [0, 1], "separate": True},
    TINY | {"methods": ["l2:1e-3"], "seeds": [0]},
]


def hashes(jobs):
    asked = [{k: v for k, v in job.items() if k != "measure"} for job in jobs.values()]
    return {run.hash for job in asked for run in resolve(**job)}


def test_jobs_are_one_seed_or_one_run_and_together_an_entry():
    apart, together = (trainings.jobs_of(ENTRIES[1:], "r", together=t) for t in (False, True))
    asked = [(job["methods"], job["seeds"]) for job in apart.values()]
    single = [([m], [s]) for s in (0, 1) for m in ("vanilla", "swr:1e-3")]
    assert asked == [*single, (["l2:1e-3"], [0])]
    asked = [(job["methods"], job["seeds"]) for job in together.values()]
    assert asked == [(["vanilla", "swr:1e-3"], [0, 1]), (["l2:1e-3"], [0])]


def test_together_the_listed_runs_are_the_same():
    listed = yaml.safe_load((ROOT / "config/paper.yaml").read_text())
    entries = [entry for entry in listed["records"] if entry["dataset"].startswith("mnist")]
    apart, together = (trainings.jobs_of(entries, "results", together=t) for t in (False, True))
    assert len(together) < len(apart)
    assert hashes(apart) == hashes(together)


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "config").mkdir()
    listed = {"results": "results", "selection": [], "records": ENTRIES}
    (tmp_path / "config/paper.yaml").write_text(yaml.safe_dump(listed))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_one_process_trains_all_that_can_be_and_says_what_cannot(project, capsys):
    assert trainings.main("records") == 1
    said = capsys.readouterr()
    assert "1 of 3" in said.out and "3 of 3" in said.out
    assert "no such folder" in said.err and "Not trained: single-task_no-such-folder" in said.err
    possible = trainings.jobs_of(ENTRIES[1:], "results")
    assert set(load_records("results")["run"]) == hashes(possible)
    assert missing_jobs(possible) == []
    assert trainings.main("records") == 1
    assert "1 of 1" in capsys.readouterr().out


def test_when_time_is_up_it_carries_on_where_it_was_copied_to(project, tmp_path_factory, capsys):
    listed = {"results": "results", "selection": [], "records": ENTRIES[2:]}
    (project / "config/paper.yaml").write_text(yaml.safe_dump(listed))
    assert trainings.main("records", 1e-9) == 0
    assert "Stopped with 1 to do" in capsys.readouterr().out
    assert not list(project.glob("results/*.parquet"))
    elsewhere = shutil.copytree(project, tmp_path_factory.mktemp("another machine") / "copy")
    os.chdir(elsewhere)
    (saved,) = [path.stat().st_mtime_ns for path in elsewhere.glob(".checkpoints/*.pt")]
    assert saved and trainings.main("records") == 0
    ends = {}
    for folder in (elsewhere, project):  # the other one begins anew
        shutil.rmtree(project / ".checkpoints", ignore_errors=True)
        os.chdir(folder)
        assert trainings.main("records") == 0
        ends[folder] = load_records("results")[["epoch", "train_loss", "test_accuracy"]]
    assert ends[elsewhere].equals(ends[project])


@pytest.mark.parametrize("profile, rule", [("local", "train"), ("gpu", "train_on_gpu")])
def test_the_workflow_plans_what_is_missing(tmp_path, profile, rule):
    for name in ("Snakefile", "config", "profiles", "book"):  # no results
        (tmp_path / name).symlink_to(ROOT / name)
    process = subprocess.run(
        [sys.executable, "-m", "snakemake", "--profile", f"profiles/{profile}", "selection", "-n"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    planned = {line.split()[0] for line in process.stdout.splitlines() if line[:5] == "train"}
    assert process.returncode == 0 and planned == {rule}, process.stdout + process.stderr
