"""What training costs: the loops that are timed, the table, and the rule for the claim."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from benchmarks import __main__ as timings
from benchmarks import gpu, loops
from benchmarks.measure import ways
from swrlib import build_model, cost, records
from swrlib.claims.cost import judge_cost
from swrlib.measures import MEASURES
from swrlib.provenance import provenance

ROOT = Path(__file__).parents[1]


def table(**milliseconds) -> pd.DataFrame:
    """Return a table of steps: five repetitions of every method, with a little noise."""
    times = {"vanilla": 10.0, "l2": 12.0, "l2-init": 12.5, "swr": 10.2, "adamw": 10.1}
    noise = (0.999, 1.001, 1.0, 1.002, 0.998)
    return pd.DataFrame(
        {
            "table": "steps",
            "name": name,
            "model": model,
            "processes": 1,
            "threads": 1,
            "runs": 1,
            "repeat": repeat,
            "milliseconds": value * factor,
        }
        for model in ("mlp", "cnn")
        for name, value in (times | milliseconds).items()
        for repeat, factor in enumerate(noise if name == "swr" else reversed(noise))
    )


# The rule


def test_small_overhead_below_the_penalties_is_reproduced():
    verdict = judge_cost(table())
    assert verdict.verdict == "reproduced"
    assert "MLP +" in verdict.detail and "against" not in verdict.detail


@pytest.mark.parametrize(
    ("times", "word"),
    [
        ({"swr": 11.0}, "Not reproduced: CNN against vanilla; MLP against vanilla"),
        ({"l2": 10.05}, "Not reproduced: CNN against L2; MLP against L2"),
    ],
)
def test_what_is_not_so_is_said(times, word):
    verdict = judge_cost(table(**times))
    assert verdict.verdict == "mixed"
    assert word in verdict.detail


def test_noise_larger_than_the_difference_leaves_it_undecided():
    noisy = table()
    swr = noisy["name"] == "swr"
    noisy.loc[swr, "milliseconds"] *= noisy.loc[swr, "repeat"].map(
        [0.8, 1.2, 0.9, 1.3, 1.0].__getitem__
    )
    assert judge_cost(noisy).verdict == "undecided"


def test_a_step_that_takes_twice_as_long_is_not_reproduced():
    verdict = judge_cost(table(swr=20.0))
    assert verdict.verdict == "not reproduced" and "median). Not reproduced:" in verdict.detail


def test_without_times_it_is_not_run():
    assert judge_cost(table()[:0]).verdict == "not run"


def test_swapped_names_change_the_verdict():
    swapped = table().replace({"name": {"swr": "l2", "l2": "swr"}})
    assert judge_cost(swapped).verdict != judge_cost(table()).verdict


def test_ratios_are_taken_within_a_repetition():
    frame = table()
    frame["milliseconds"] *= 1 + frame["repeat"]  # a machine that becomes slower and slower
    found = cost.ratios(frame, "vanilla")
    assert found.loc[("mlp", "l2"), "ratio"] == pytest.approx(1.2)
    assert found.loc[("mlp", "l2"), "high"] == pytest.approx(1.2)
    assert found.loc[("mlp", "vanilla"), "milliseconds"] == pytest.approx(30, rel=1e-2)


# The file


def test_the_committed_table_is_whole():
    frame, machine = cost.load_cost(ROOT / "results" / "_benchmarks" / "cost.json")
    assert {"steps", "throughput", "stack", "products"} <= set(frame["table"])
    assert set(machine.index) == set(frame["table"])
    assert not machine[["processor", "cores", "torch", "commit", "date"]].isna().any(axis=None)
    assert (frame["milliseconds"] > 0).all()
    assert frame["repeat"].nunique() >= 5
    wanted = [way for way in ways() if way.table in set(frame["table"])]
    timed = {(way.table, way.name, way.model) for way in wanted if way.name != "plain"}
    plain = [way for way in wanted if way.name == "plain"]
    timed |= {("steps", method, way.model) for way in plain for method in way.options["methods"]}
    found = set(frame[["table", "name", "model"]].itertuples(index=False, name=None))
    assert found == timed


@pytest.mark.parametrize(
    "content",
    ["", "{}", '{"machine": {}, "rows": []}', '{"machine": {}, "rows": [{"a": 1}]}', "[]"],
)
def test_a_file_that_is_no_table_is_refused_in_one_sentence(content, tmp_path):
    file = tmp_path / "cost.json"
    file.write_text(content)
    with pytest.raises(ValueError, match="make bench") as caught:
        cost.load_cost(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="make bench"):
        cost.load_cost(tmp_path / "cost.json")


# The loops


@pytest.mark.parametrize("model", ["mlp", "cnn", "cnn-bn"])
def test_the_usual_model_is_the_same_function(model):
    data = loops.random_images(model, steps=1, batch=4)
    torch.manual_seed(0)
    usual = loops.usual_model(model, data)
    torch.manual_seed(0)
    ours = build_model(model, data)
    images = data.normalize(data.train_images)
    assert torch.equal(usual(images), ours(images))


@pytest.mark.parametrize(
    ("loop", "run_steps"),
    [
        (lambda: loops.Plain("mlp", tuple(loops.METHODS), steps=2), 10),
        (lambda: loops.Plain("cnn", ("swr",), steps=1, channels_last=False), 1),
        (lambda: loops.Release("mlp", tuple(loops.METHODS), steps=2, workers=0), 10),
        (lambda: loops.Engine("mlp", tuple(loops.METHODS), steps=1, runs=7), 14),
        (lambda: loops.Engine("mlp", ("swr",), steps=1, dtype=torch.bfloat16), 2),
    ],
    ids=["plain", "plain-cnn", "release", "engine", "engine-bfloat16"],
)
def test_a_loop_counts_the_steps_it_takes(loop, run_steps):
    made = loop()
    measured = made()
    assert measured.run_steps == run_steps
    assert 0 <= measured.rescaling < measured.seconds
    assert (measured.rescaling > 0) == (
        "swr" in made.methods and not isinstance(made, loops.Release)
    )


@pytest.mark.parametrize(("other", "method"), loops.WITHOUT_AUTOGRAD.items())
def test_a_term_without_autograd_is_the_same_training(other, method, monkeypatch):
    monkeypatch.setitem(loops.METHODS, method, 1e-2)
    plain = loops.Plain("mlp", ("vanilla", method, other), steps=3, dtype=torch.float64)
    for _ in range(4):
        plain()
    vanilla, term, without = (
        torch.cat([p.detach().flatten() for p in model.parameters()]) for model in plain.models
    )
    assert (term - without).abs().max() < 1e-13
    assert (term - vanilla).abs().max() > 1e-4


def test_methods_of_a_table_of_steps_take_turns():
    """Only what is timed in one process, in turn, can be told apart on a machine with hiccups."""
    for way in ways():
        if way.table == "steps" and way.loop == "Plain":
            assert set(way.options["methods"]) == {*loops.METHODS, *loops.WITHOUT_AUTOGRAD}


def test_the_rival_is_no_straw_man():
    """The plain loop trains: with every method it learns its random images by heart."""
    plain = loops.Plain("mlp", tuple(loops.METHODS), steps=1)
    for _ in range(30):
        plain()
    for model in plain.models:
        assert (model(plain.images).argmax(1) == plain.labels).float().mean() > 0.9


@pytest.mark.parametrize("measure", ["hessian-start", "spectrum-start"])
def test_a_measure_is_timed_as_a_training_takes_it(measure):
    timed = loops.Measures(measure, images=20, hidden=(9, 8, 7))
    assert len(timed.snapshot.stage_images) == 20 and timed.snapshot.stage_images.shape[1:] == (
        1,
        28,
        28,
    )
    assert timed.function is MEASURES[measure].function
    done = timed()
    assert done.run_steps == 1 and done.seconds > 0
    whole = loops.Measures(measure)
    assert sum(p.numel() for p in list(whole.snapshot.model.parameters())[-4:]) == 2410


def test_times_of_measures_are_medians_and_none_where_none_was_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("SWR_RESULTS", str(tmp_path))
    assert not len(cost.measure_times())
    row = {"table": "measures", "model": "mlp", "processes": 1, "threads": 1, "runs": 1}
    times = {"hessian-start": (900, 400, 500), "spectrum-start": (700, 600, 800)}
    rows = [
        row | {"name": name, "repeat": repeat, "milliseconds": time}
        for name, of in times.items()
        for repeat, time in enumerate(of)
    ]
    content = {"measures": {"machine": {}, "rows": rows}}
    (tmp_path / cost.BENCHMARKS).mkdir()
    (tmp_path / cost.BENCHMARKS / "cost.json").write_text(json.dumps(content))
    assert cost.measure_times().to_dict() == {"hessian-start": 0.5, "spectrum-start": 0.7}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240
    )


def refused(monkeypatch, main, *arguments: str) -> int:
    """Return the status with which a command ends that is given what it cannot do."""
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_the_command_measures_and_writes(tmp_path, monkeypatch):
    file = tmp_path / "cost.json"
    arguments = ("--quick", "--repeats", "2", "--only", "stack", "products")
    done = run("benchmarks", *arguments, "--output", str(file))
    assert done.returncode == 0, done.stderr
    frame, _ = cost.load_cost(file)
    assert frame.groupby("name")["repeat"].nunique().to_dict() == {
        "1": 2,
        "10": 2,
        "matrix products": 2,
    }
    assert (frame["mebibytes"] > 0).all()
    assert refused(monkeypatch, timings.main, "--only", "nothing") == 2


def test_what_is_for_a_gpu_runs_here_as_far_as_it_can(tmp_path, monkeypatch, capsys):
    file = tmp_path / "gpu.json"
    for parts in (("equality", "stacks"), ("precision",)):
        arguments = ("--device", "cpu", "--quick", "--only", *parts, "--output", str(file))
        done = run("benchmarks.gpu", *arguments)
        assert done.returncode == 0, done.stderr
    found = cost.load_gpu(file)
    assert set(found.machine["device"]) == {"cpu"}
    # Every part has its own command, and a later part leaves the earlier ones.
    commands = found.machine["command"]
    assert "--only equality stacks" in commands["equality"]
    assert "--only precision" in commands["precision"]
    assert found.equality["difference"].max() < 1e-9
    assert len(found.stacks) == 12 and (found.stacks["milliseconds"] > 0).all()
    assert set(found.precision["arithmetic"]) == {"float32", "bfloat16"}
    assert not len(found.vgg16)
    if not torch.cuda.is_available():
        assert refused(monkeypatch, gpu.main) == 2
        assert "--device cpu" in capsys.readouterr().err


def test_the_committed_table_of_the_gpu_is_whole():
    found = cost.load_gpu(ROOT / "results/_benchmarks/gpu.json")
    about = found.machine[["device", "torch", "commit", "date"]]
    assert set(about.index) >= {"equality", "stacks", "vgg16"} and not about.isna().any(axis=None)
    assert "cpu" not in set(about["device"])
    assert set(found.equality["model"]) == set(found.stacks["model"]) == {"mlp", "cnn", "cnn-bn"}
    assert found.equality["difference"].max() < 1e-6
    for _, rows in found.stacks.groupby(["model", "captured"]):
        assert set(rows["runs"]) == {1, 5, 20, 50, 100}
    assert {"float32", "bfloat16"} <= set(found.vgg16["arithmetic"])


def test_what_was_trained_on_which_device_is_read_from_the_records():
    about = records.load_provenance()
    table = cost.trained_on(records.load_records(scale="paper"), about)
    runs = records.load_records(scale="paper").drop_duplicates("run")
    assert table["runs"].sum() == len(runs)
    assert set(table["device"]) == set(runs["device"])
    row = table.set_index(["device", "stream", "data and model"]).loc[
        ("NVIDIA H200", "warm start", "CIFAR-10 CNN")
    ]
    here = runs[(runs["stream"] == "warm-start") & (runs["device"] == "NVIDIA H200")]
    assert row["seeds"] == here["seed"].nunique() and row["runs"] == len(here)
    assert 5 < row["seconds a run"] < 60 and row["until"] >= "2026-11-27"


def test_without_a_gpus_measurements_the_tables_are_empty(tmp_path, monkeypatch):
    monkeypatch.setenv("SWR_RESULTS", str(tmp_path))
    nothing = cost.load_gpu()
    for table in ("machine", "equality", "stacks", "precision", "vgg16"):
        assert not len(getattr(nothing, table))
    assert (
        nothing.where() == "–" and not len(nothing.by_runs()) and not len(nothing.by_arithmetic())
    )
    with pytest.raises(FileNotFoundError, match=r"benchmarks\.gpu"):
        cost.load_gpu(tmp_path / "gpu.json")
    for content in ("", "[]", '{"stacks": {"mlp, 1 at once, captured": {}}}', '{"vgg16": 3}'):
        (tmp_path / "mine.json").write_text(content)
        with pytest.raises(ValueError, match=r"benchmarks\.gpu"):
            cost.load_gpu(tmp_path / "mine.json")


def test_without_records_nothing_was_trained_anywhere(tmp_path):
    about = records.load_provenance(tmp_path)
    assert list(about.columns) == ["run", "job", *provenance()]
    table = cost.trained_on(records.load_records(tmp_path), about)
    assert table.empty and "until" in table
