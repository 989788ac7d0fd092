"""The engine: pairing, jobs, records of every run, interruptions, and every pair of model and data.

What a single method does is in test_methods.py, what a stream is in test_streams.py.
"""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from image_folder import make_image_folder

import swrlib
from swrlib import L2, SWR, AdamW, FullReset, HeadReset, SWRReinit, records, training
from swrlib.streams import STREAMS, make_stream

#: One of each kind of method, some of them with two λ's.
METHODS = [
    "vanilla",
    "l2:1e-2",
    "l2:1e-4",
    "l2-init:1e-2",
    "shrink-perturb:0.4",
    "head-reset",
    "swr:1e-2",
    "swr:1e-3,1e-1",
    "swr-reinit:1e-2",
    "full-reset",
    "adamw:1",
]
#: What a run's rows hold of its training.
CURVES = ["epoch", "step", "lr", "train_loss", "train_accuracy", "test_loss", "test_accuracy"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return make_image_folder(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture
def train(pictures, tmp_path):
    """Train a little and keep it; every argument can be replaced."""

    def trained(**options):
        return swrlib.train(
            **{
                "dataset": pictures,
                "model": "mlp",
                "stream": "warm-start",
                "methods": "vanilla",
                "epochs": 2 if isinstance(options.get("stream", ""), str) else None,
                "batch_size": 16,
                "device": "cpu",
                "results": tmp_path / "results",
                "checkpoints": tmp_path / "checkpoints",
                "progress": False,
            }
            | options
        )

    return trained


def curves(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return for each run what came out, norms included."""
    return {
        run: rows[[*CURVES, "weight_norms", "bias_norms"]].reset_index(drop=True)
        for run, rows in frame.groupby("run")
    }


def assert_same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    """Two runs agree bit for bit in all that the records hold of them."""
    pd.testing.assert_frame_equal(one, other, check_exact=True)


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.glob("*.parquet")}


# Jobs: a run does not see its neighbours


@pytest.fixture
def jobs(monkeypatch):
    """Every job that trains, as it is when it has ended."""
    seen = []
    whole = training._Job.train

    def noted(job, bar):
        whole(job, bar)
        seen.append(job)

    monkeypatch.setattr(training._Job, "train", noted)
    return seen


def states(jobs) -> dict[str, dict[str, torch.Tensor]]:
    """Return every run's parameters and buffers."""
    return {
        run.hash: {name: view.clone() for name, view in job.stack.views(replica).items()}
        for job in jobs
        for replica, run in enumerate(job.active)
    }


#: Twenty runs, of every kind of method.
TWENTY = [*METHODS, *(f"swr:{k}e-3" for k in range(2, 6)), *(f"l2:{k}e-3" for k in range(2, 7))]


@pytest.mark.parametrize("model", ["mlp", "cnn", "cnn-bn"])
def test_a_run_is_the_same_alone_in_a_stack_of_two_and_of_twenty(model, train, jobs, tmp_path):
    found = {}
    for size in (1, 2, 20):
        # 10 epochs of 2 steps, then 10 of 3.
        train(
            model=model,
            methods=TWENTY,
            dtype=torch.float64,
            epochs=10,
            stack=size,
            results=tmp_path / str(size),
        )
        assert {len(job.runs) for job in jobs} == {size}
        assert {job.step for job in jobs} == {50}
        found[size] = states(jobs)
        assert len(found[size]) == len(TWENTY) == 20
        jobs.clear()
    for size in (1, 2):
        for run, state in found[20].items():
            for name, tensor in state.items():
                torch.testing.assert_close(found[size][run][name], tensor, rtol=0, atol=1e-10)
    # They moved, and apart from one another.
    weights = [state["linear1.weight"] for state in found[20].values()]
    assert all(not torch.allclose(weights[0], other, atol=1e-6) for other in weights[1:])


def test_initial_weights_and_order_are_the_same_bit_for_bit(train, monkeypatch, tmp_path):
    starts, orders = {}, {}
    build, epoch = training._Job._build, training._Job._epoch

    def noted_build(job, active):
        build(job, active)
        starts.update({run.hash: job.stack.views(i) for i, run in enumerate(active)})
        starts.update({run: {n: t.clone() for n, t in s.items()} for run, s in starts.items()})

    def noted_epoch(job, order, rate):
        for run in job.active:
            orders.setdefault(run.hash, []).append(order.tolist())
        epoch(job, order, rate)

    monkeypatch.setattr(training._Job, "_build", noted_build)
    monkeypatch.setattr(training._Job, "_epoch", noted_epoch)
    seen = []
    for size in (1, 2, 20):
        train(model="cnn-bn", methods=TWENTY, stack=size, results=tmp_path / str(size))
        seen.append((dict(starts), dict(orders)))
        starts.clear()
        orders.clear()
    for other, order in seen[1:]:
        assert order == seen[0][1]
        for run, state in seen[0][0].items():
            assert all(torch.equal(state[name], other[run][name]) for name in state)


def test_methods_of_a_seed_are_paired_and_seeds_differ(train):
    frame = train(methods=METHODS, seeds=[0, 1], dtype=torch.float64)
    start = frame[frame["epoch"] == 0]
    assert start.groupby("seed")["test_loss"].nunique().tolist() == [1, 1]
    assert start["test_loss"].nunique() == 2
    # A method that acts at changes alone is vanilla before the first one.
    acts_later = ["vanilla", "shrink-perturb", "head-reset", "full-reset"]
    half = frame[(frame["stage"] == 1) & (frame["epoch"] > 0) & frame["method"].isin(acts_later)]
    assert half.groupby(["seed", "epoch"])["train_loss"].nunique().eq(1).all()
    assert half.groupby("epoch")["train_loss"].nunique().eq(2).all()
    # Without a decay swr-reinit is swr, to the last bit; no other two are the same.
    first = frame[(frame["epoch"] == 4) & (frame["seed"] == 0)]
    twins = first[first["lam"] == 1e-2].set_index("method")["test_loss"]
    assert twins["swr-reinit"] == twins["swr"]
    last = frame[(frame["epoch"] == 4) & (frame["method"] != "swr-reinit")]
    assert last["test_loss"].nunique() == len(last) == 2 * (len(METHODS) - 1)


def test_the_global_generator_is_neither_used_nor_moved(train, tmp_path):
    torch.manual_seed(1)
    first = train(methods=["full-reset", "head-reset"])
    state = torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    again = train(methods=["full-reset", "head-reset"], results=tmp_path / "again")
    for run, rows in curves(first).items():
        assert_same(rows, curves(again)[run])


# Records


def test_the_schema_is_whole(train, pictures):
    frame = train(methods=["vanilla", "swr:1e-3,1e-1", "l2:1e-2"], seeds=[4])
    assert list(frame.columns[: len(records.COLUMNS)]) == list(records.COLUMNS)
    assert len(frame) == 3 * 5
    constant = frame.drop_duplicates("run").set_index("method")
    assert set(frame["dataset"]) == {swrlib.load_dataset(pictures).fingerprint}
    for name, value in {
        "split": "all",
        "model": "mlp",
        "stream": "warm-start",
        "seed": 4,
        "optimizer_state": "kept",
        "dtype": "float32",
        "device": "cpu",
        "scale": "custom",
        "epochs": 4,
        "batch_size": 16,
    }.items():
        assert set(frame[name]) == {value}
    assert frame["parent"].isna().all()
    assert constant.loc["swr", ["lam_features", "lam_classifier"]].tolist() == [1e-3, 1e-1]
    assert math.isnan(constant.loc["swr", "lam"])
    assert constant.loc["swr", "variant"] == "proportional"
    assert constant.loc["l2", "lam"] == 1e-2
    assert (
        constant.loc["vanilla", ["lam", "lam_features", "lam_classifier", "variant"]].isna().all()
    )
    for _, run in frame.groupby("run"):
        assert run["epoch"].tolist() == [0, 1, 2, 3, 4]
        assert run["stage"].tolist() == [1, 1, 1, 2, 2]
        assert run["stage_epoch"].tolist() == [0, 1, 2, 1, 2]
        assert run["step"].tolist() == [0, 2, 4, 7, 10]  # 22 and 45 images in batches of 16
        assert run["lr"].tolist()[1:] == [1e-3] * 4
        trained = run[run["epoch"] > 0]
        assert run[["test_loss", "test_accuracy"]].notna().all(axis=None)
        assert trained[["train_loss", "train_accuracy"]].notna().all(axis=None)
        assert run.iloc[0][["lr", "train_loss", "train_accuracy"]].isna().all()
        assert (trained["seconds"] > 0).all()
        assert not run["diverged"].any()
        hits = trained["train_accuracy"] * [22, 22, 45, 45]
        assert hits.to_numpy() == pytest.approx(hits.round().to_numpy(), abs=1e-4)


def test_norms_stand_at_every_tenth_epoch_and_the_last(train, pictures):
    frame = train(stream="single-task", epochs=12, model="cnn-bn", methods="swr:0.1")
    there = frame[frame["weight_norms"].notna()]
    assert there["epoch"].tolist() == [0, 10, 12]
    assert frame[frame["bias_norms"].notna()]["epoch"].tolist() == [0, 10, 12]
    model = swrlib.build_model("cnn-bn", swrlib.load_dataset(pictures))
    layers = swrlib.trace_layers(model)
    assert {len(norms) for norms in there["weight_norms"]} == {len(layers)}
    with_bias = [layer for layer in layers if layer.bias is not None]
    assert {len(norms) for norms in there["bias_norms"]} == {len(with_bias)}
    assert there["weight_norms"].iloc[0][1] == 4.0  # √16: a fresh normalization's scale


def test_configurations_and_provenance_are_kept(train, tmp_path):
    frame = train(methods=["vanilla", "swr:0.1"])
    for run in set(frame["run"]):
        configuration = records.load_configuration(run, tmp_path / "results")
        assert records.run_hash(configuration) == run
    (path,) = (tmp_path / "results").glob("*.parquet")
    assert records.read_provenance(path)["device"] == "cpu"


def test_what_is_there_is_not_trained_again(train, tmp_path):
    first = train(methods=["vanilla", "swr:0.1"], seeds=[0, 1])
    before = files(tmp_path / "results")
    assert len(before) == 2  # a job is a seed
    again = train(methods=["swr:0.1", "vanilla"], seeds=[1, 0])
    assert files(tmp_path / "results") == before
    pd.testing.assert_frame_equal(first, again)
    more = train(methods=["vanilla", "swr:0.1", "l2:0.1"], seeds=[0])
    after = files(tmp_path / "results")
    assert len(after) == 3
    assert {name: after[name] for name in before} == before
    assert set(more["method"]) == {"vanilla", "swr", "l2"}
    (new,) = set(after) - set(before)
    assert set(pd.read_parquet(tmp_path / "results" / new)["method"]) == {"l2"}
    assert not list((tmp_path / "checkpoints").glob("*.pt"))


def test_a_measure_asked_for_later_is_trained_for_and_both_come_from_one_file(train, tmp_path):
    plain = train(methods="swr:0.1")
    assert swrlib.load_measures(tmp_path / "results").empty
    measured = train(methods="swr:0.1", measure=["factor", "growth"])
    table = swrlib.load_measures(tmp_path / "results")
    names = {f"{name}:{kind}" for name in ("factor", "growth") for kind in ("max", "mean", "last")}
    assert set(table["measure"]) == names
    assert set(table["run"]) == set(plain["run"])
    assert sorted(set(table["epoch"])) == [1, 2, 3, 4]
    for run, rows in curves(plain).items():
        assert_same(rows, curves(measured)[run])  # looking does not disturb
    jobs = [p for p in files(tmp_path / "results") if "measures" not in p]
    assert len(jobs) == 2
    before = files(tmp_path / "results")
    again = train(methods="swr:0.1", measure="growth")
    assert files(tmp_path / "results") == before
    pd.testing.assert_frame_equal(measured, again)
    # Both tables from the training in which it was measured: its times show which.
    newest = swrlib.load_records(tmp_path / "results", measures=["factor"])
    assert newest["seconds"].tolist() == measured["seconds"].tolist()
    assert newest["seconds"].tolist() != plain["seconds"].tolist()


def test_measures_are_what_they_say(train, tmp_path):
    """In one step: the factor is Algorithm 1's, and growth is the change of the squared norm."""
    stream = make_stream("single-task", epochs=1)
    names = ["factor", "growth", "norm-before-rescaling"]
    frame = train(stream=stream, batch_size=64, methods=["vanilla", "swr:0.25"], measure=names)
    table = swrlib.load_measures(tmp_path / "results")
    norms = {row.method: row.weight_norms for row in frame[frame["epoch"] == 1].itertuples()}
    initial = frame[frame["epoch"] == 0]["weight_norms"].iloc[0]
    methods = frame.drop_duplicates("run").set_index("method")["run"]

    def values(method, measure):
        rows = table[(table["run"] == methods[method]) & (table["measure"] == measure)]
        return rows.set_index("layer")["value"].loc[["linear1", "linear2", "linear3"]].to_numpy()

    updated = values("vanilla", "norm-before-rescaling:last")
    np.testing.assert_allclose(updated, norms["vanilla"], rtol=1e-6)
    np.testing.assert_allclose(values("vanilla", "factor:mean"), 1)
    np.testing.assert_allclose(values("swr", "norm-before-rescaling:max"), updated, rtol=1e-6)
    factors = (0.25 * initial + 0.75 * updated) / updated
    np.testing.assert_allclose(values("swr", "factor:last"), factors, rtol=1e-5)
    growth = updated.astype(float) ** 2 - np.array(initial, dtype=float) ** 2
    np.testing.assert_allclose(values("swr", "growth:mean"), growth, rtol=1e-3)


def test_without_a_folder_nothing_is_kept(train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame = train(results=None, checkpoints=".checkpoints")
    assert len(frame) == 5
    assert not list(tmp_path.rglob("*.parquet"))
    assert not list(tmp_path.rglob("*.pt"))


def test_the_selection_holds_a_fixed_tenth_out(train, pictures):
    options = {"split": "selection", "stream": "single-task", "batch_size": 41}
    frames = {seed: train(seeds=[seed], **options) for seed in (0, 1)}
    assert frames[0]["step"].tolist() == [0, 1, 2]  # 41 images are left
    for frame in frames.values():
        hits = frame["test_accuracy"] * 4  # and 4 held out
        assert hits.to_numpy() == pytest.approx(hits.round().to_numpy(), abs=1e-4)


def test_adamw_by_name_takes_the_best_of_the_selection(train, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("SWR_RESULTS", str(tmp_path / "empty"))
    with pytest.raises(ValueError) as caught:
        train(methods="adamw", stream="single-task")
    message = str(caught.value)
    assert "python -m swrlib train" in message and "--split selection" in message
    assert "adamw:0.0001" in message and "--seeds 0 1" in message and "\n" not in message
    grid = [f"adamw:{lam}" for lam in (1e-4, 1e-1, 50)]
    stream = make_stream("single-task", epochs=6, learning_rate=1e-2)
    selection = train(methods=grid, seeds=[0, 1], split="selection", stream=stream)
    final = selection[selection["epoch"] == 6].groupby("lam")["test_accuracy"].mean()
    assert final.idxmax() != 50
    chosen = train(methods="adamw", stream=stream)
    assert set(chosen["lam"]) == {final.idxmax()}


# Hashes


def hashes(train, **options) -> set[str]:
    return set(train(results=None, **options)["run"])


BASE = {"stream": make_stream("single-task", epochs=1), "methods": L2(lam=0.1), "seeds": [0]}
#: Each differs from BASE, and from every other, in one argument.
CHANGES = [
    {},
    {"model": "cnn"},
    {"model": "cnn-bn"},
    {"split": "selection"},
    {"seeds": [1]},
    {"batch_size": 17},
    {"dtype": torch.float64},
    {"optimizer_state": "new"},
    {"options": {"hidden": (7,)}},
    {"options": {"hidden": (7, 7)}},
    {"options": {"activation": "tanh"}},
    {"stream": make_stream("single-task", epochs=2)},
    {"stream": make_stream("single-task", epochs=1, learning_rate=2e-3)},
    {"stream": make_stream("single-task-decay", epochs=1)},
    {"stream": make_stream("warm-start", epochs=1)},
    {"stream": make_stream("full-access", epochs=1)},
    {"stream": make_stream("limited-access", epochs=1)},
    {"stream": make_stream("scaled", epochs=1, ratio=0.5)},
    {"stream": make_stream("scaled", epochs=1, ratio=0.6)},
    {"stream": make_stream("scaled", epochs=1, ratio=0.5, reading="factor")},
    {"stream": make_stream("scaled", epochs=1, ratio=0.5, biases="untouched")},
    {"methods": "vanilla"},
    {"methods": L2(lam=0.2)},
    {"methods": AdamW(lam=0.1)},
    {"methods": "l2-init:0.1"},
    {"methods": "shrink-perturb:0.1"},
    {"methods": HeadReset()},
    {"methods": HeadReset(to_initial=True)},
    {"methods": FullReset()},
    {"methods": SWR(lam=0.1)},
    {"methods": SWR(lam_features=0.1, lam_classifier=0.2)},
    {"methods": SWR(lam_features=0.2, lam_classifier=0.1)},
    {"methods": SWR(lam=0.1, variant="printed")},
    {"methods": SWRReinit(lam=0.1)},
    {"methods": SWRReinit(lam=0.1, at_changes=True)},
]


def check_hashes(train, changes=CHANGES) -> None:
    """No two of these configurations share a hash."""
    found = [hashes(train, **(BASE | change)) for change in changes]
    assert all(len(runs) == 1 for runs in found)
    assert len(set().union(*found)) == len(changes)


def test_every_argument_enters_the_hash(train):
    check_hashes(train)


@settings(max_examples=12, deadline=None)
@given(
    lam=st.floats(0, 1),
    other=st.floats(0, 1),
    seed=st.integers(0, 2**31 - 1),
    batch_size=st.integers(1, 300),
)
def test_hashes_agree_only_where_configurations_do(
    lam, other, seed, batch_size, pictures, tmp_path_factory
):
    def run(lam, seed, batch_size):
        frame = swrlib.train(
            dataset=pictures,
            model="mlp",
            stream=make_stream("single-task", epochs=1),
            methods=[SWR(lam=value) for value in lam],
            seeds=seed,
            batch_size=batch_size,
            device="cpu",
            checkpoints=tmp_path_factory.getbasetemp() / "none",
            progress=False,
        )
        return frame.drop_duplicates("run").set_index("lam")["run"].to_dict()

    both = run([lam, other], seed, batch_size)
    assert len(both) == len({lam, other}) == len(set(both.values()))
    assert run([lam], seed, batch_size)[lam] == both[lam]
    assert run([lam], seed ^ 1, batch_size)[lam] != both[lam]
    assert run([lam], seed, batch_size + 1)[lam] != both[lam]


def test_the_content_of_a_folder_enters_the_hash(train, tmp_path):
    one = make_image_folder(tmp_path / "one" / "pictures")
    other = make_image_folder(tmp_path / "other" / "pictures", train=16)
    assert hashes(train, dataset=one) != hashes(train, dataset=other)
    assert hashes(train, dataset=one) == hashes(train, dataset=str(one))


@pytest.mark.parametrize("ignored", ["lam", "seed", "batch_size", "ratio"])
def test_a_hash_that_ignores_something_is_caught(ignored, train, monkeypatch):
    def without(value):
        if isinstance(value, dict):
            return {k: without(v) for k, v in value.items() if not k.startswith(ignored)}
        return value

    true = records.run_hash
    monkeypatch.setattr(records, "run_hash", lambda configuration: true(without(configuration)))
    changes = {
        "lam": [{}, {"methods": L2(lam=0.2)}],
        "seed": [{}, {"seeds": [1]}],
        "batch_size": [{}, {"batch_size": 17}],
        "ratio": [{"stream": make_stream("scaled", epochs=1, ratio=r)} for r in (0.5, 0.6)],
    }[ignored]
    with pytest.raises(AssertionError):
        check_hashes(train, changes)
    monkeypatch.undo()
    check_hashes(train, changes)


# Divergence


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_a_diverging_run_is_recorded_and_leaves_the_others_alone(model, train, tmp_path):
    wild = AdamW(lam=1e80)  # 1 − lr·λ to the power of the steps leaves float64
    options = {"model": model, "stream": "warm-start", "epochs": 3, "dtype": torch.float64}
    options |= {"stack": 3}
    frame = train(methods=["vanilla", wild, "swr:0.1"], **options)
    lost = frame[frame["method"] == "adamw"]
    assert lost["diverged"].tolist() == [False] * (len(lost) - 1) + [True]
    assert 1 < len(lost) < 7
    assert not frame[frame["method"] != "adamw"]["diverged"].any()
    apart = {"results": tmp_path / "without", "stack": 1}  # the very same numbers in float64
    without = curves(train(methods=["vanilla", "swr:0.1"], **options | apart))
    for run, rows in without.items():
        pd.testing.assert_frame_equal(rows, curves(frame)[run], check_exact=False, rtol=1e-6)
    before = files(tmp_path / "results")
    train(methods=["vanilla", wild, "swr:0.1"], **options)
    assert files(tmp_path / "results") == before  # not tried again


def test_where_all_diverge_the_job_ends(train):
    stream = make_stream("single-task", epochs=40, learning_rate=1e38)
    frame = train(stream=stream, methods=["vanilla", "l2:1"])
    assert frame.groupby("run")["diverged"].last().all()
    assert frame["epoch"].max() < 40


# Interruptions

#: Kills itself in the middle of an epoch, as a machine does that loses its power.
DRIVER = """
    import os, signal, sys
    import torch
    torch.set_num_threads(1)
    import swrlib
    from swrlib import training

    training.CHECKPOINT_EVERY = 0.0
    step, steps = torch.optim.Adam.step, 0

    def counted(self, *arguments, **options):
        global steps
        steps += 1
        if steps == int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, *arguments, **options)

    torch.optim.Adam.step = counted
    swrlib.train(**eval(sys.argv[2]))
"""


def kill_at_step(step: int, options: dict) -> None:
    command = [sys.executable, "-c", textwrap.dedent(DRIVER), str(step), repr(options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def interrupted(pictures, folder, **options) -> dict:
    return {
        "dataset": str(pictures),
        "model": "mlp",
        "stream": "warm-start",
        "epochs": 4,
        "batch_size": 16,
        "device": "cpu",
        "methods": METHODS,
        "measure": ["factor"],
        "results": str(folder / "results"),
        "checkpoints": str(folder / "checkpoints"),
        "progress": False,
    } | options


@pytest.mark.parametrize(
    ("changes", "killed_at"),
    [
        # 2 steps in each of the first four epochs, 3 in the others.
        ({"model": "mlp", "methods": METHODS, "stream": "warm-start", "epochs": 4}, 13),
        # 3 steps in each epoch; the references became others before the fifth.
        (
            {"model": "cnn-bn", "methods": ["swr-reinit:1e-3,1e-1"]}
            | {"stream": "single-task-decay", "epochs": 8},
            17,
        ),
    ],
    ids=["mlp", "cnn-bn"],
)
def test_a_killed_job_carries_on_bit_for_bit(changes, killed_at, pictures, tmp_path, monkeypatch):
    """Killed in the sixth of eight epochs."""
    options = interrupted(pictures, tmp_path / "killed", **changes)
    kill_at_step(killed_at, options)
    assert not list(Path(options["results"]).glob("*"))
    checkpoints = list(Path(options["checkpoints"]).glob("*.pt"))
    assert len(checkpoints) == 2  # the newest and the one before it

    steps = []
    step = torch.optim.Adam.step
    with monkeypatch.context() as patched:
        patched.setattr(
            torch.optim.Adam,
            "step",
            lambda self, *given, **more: (steps.append(1), step(self, *given, **more))[1],
        )
        resumed = swrlib.train(**options)
    assert len(steps) == 9  # those of the last three epochs
    assert not list(Path(options["checkpoints"]).glob("*.pt"))

    whole_options = interrupted(pictures, tmp_path / "whole", **changes)
    whole = swrlib.train(**whole_options)
    assert resumed["run"].nunique() == len(changes["methods"])
    for run, rows in curves(whole).items():
        assert_same(rows, curves(resumed)[run])
    measures = [swrlib.load_measures(o["results"]) for o in (options, whole_options)]
    pd.testing.assert_frame_equal(*measures, check_exact=True)


def test_a_broken_checkpoint_is_refused_in_one_sentence(pictures, tmp_path):
    options = interrupted(pictures, tmp_path, methods=["vanilla", "swr:0.1"])
    kill_at_step(6, options)
    (path,) = (p for p in Path(options["checkpoints"]).iterdir() if p.suffix == ".pt")
    whole = path.read_bytes()
    for keep in (0, 10, len(whole) // 2, len(whole) - 40):
        path.write_bytes(whole[:keep])
        with pytest.raises(ValueError, match=r"delete it to start this job over") as caught:
            swrlib.train(**options)
        message = str(caught.value)
        assert str(path) in message
        assert "\n" not in message and ". " not in message
        assert not list(Path(options["results"]).glob("*"))
    # It belongs to these two runs together, and to no other job.
    alone = swrlib.train(**interrupted(pictures, tmp_path, methods=["vanilla"]))
    path.unlink()
    both = curves(swrlib.train(**options))
    assert len(both) == 2
    for run, rows in curves(alone).items():
        assert_same(rows, both[run])


# Bad input


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({"dataset": "mnist-5"}, ValueError, "'mnist-5k'"),
        ({"dataset": "/nowhere/at/all"}, FileNotFoundError, "/nowhere/at/all"),
        ({"model": "mlpp"}, ValueError, "'mlp'"),
        ({"model": "vgg16"}, ValueError, "32x32"),
        ({"stream": "warm-starts"}, ValueError, "'warm-start'"),
        ({"stream": "scaled"}, ValueError, "ratio"),
        ({"methods": "srw:0.1"}, ValueError, "'swr'"),
        ({"methods": ["vanilla", "swr:much"]}, ValueError, "swr:1e-3"),
        ({"methods": "swr:2"}, ValueError, "2"),
        ({"methods": "vanilla:0.1"}, ValueError, "no λ"),
        ({"methods": "swr"}, ValueError, "published"),
        ({"methods": 3}, TypeError, "3|int"),
        ({"scale": "papers"}, ValueError, "'paper'"),
        ({"epochs": 0}, ValueError, "epochs"),
        ({"split": "select"}, ValueError, "'selection'"),
        ({"optimizer_state": "keep"}, ValueError, "'kept'"),
        ({"measure": "factors"}, ValueError, "'factor'"),
        ({"measure": "factor", "results": None}, ValueError, "results="),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"dtype": torch.int64}, ValueError, "dtype"),
        ({"options": {"activations": "tanh"}}, ValueError, "'activation'"),
        ({"seeds": [2**40]}, ValueError, "seed"),
        ({"seeds": [1.5]}, ValueError, "seed"),
        ({"seeds": [True]}, ValueError, "seed"),
        ({"seeds": []}, ValueError, "seed"),
        ({"methods": []}, ValueError, "method"),
        ({"stream": make_stream("single-task"), "epochs": 3}, ValueError, "epochs"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_bad_input_is_one_sentence_before_any_training(
    wrong, error, words, train, tmp_path, monkeypatch
):
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: pytest.fail("trained for nothing"))
    with pytest.raises(error, match=words) as caught:
        train(**wrong)
    message = str(caught.value)
    assert "\n" not in message and ". " not in message
    assert not (tmp_path / "results").exists()


def test_results_that_are_no_folder_are_refused_before_training(train, tmp_path, monkeypatch):
    (tmp_path / "results").write_text("not a folder")
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: pytest.fail("trained for nothing"))
    with pytest.raises((ValueError, OSError), match="results"):
        train()


# Every pair of model and data


DATASETS = ["mnist-5k", "mnist", "cifar10", "cifar100", "tinyimagenet-part", "tinyimagenet"]


@pytest.fixture(scope="module")
def cut():
    """Return real images, a few of each data set."""
    loaded = {}

    def cut_copy(name):
        if name not in loaded:
            if name != "mnist-5k" and not os.environ.get("SWR_DATA"):
                pytest.skip("SWR_DATA names no folder of data")
            try:
                loaded[name] = swrlib.load_dataset(name)
            except (FileNotFoundError, ValueError) as error:
                loaded[name] = error
            else:
                data = loaded[name]
                # Spread over the classes, in whatever order they are stored.
                train, test = (
                    torch.linspace(0, len(labels) - 1, count).long()
                    for labels, count in ((data.train_labels, 10), (data.test_labels, 4))
                )
                loaded[name] = dataclasses.replace(
                    data,
                    train_images=data.train_images[train],
                    train_labels=data.train_labels[train],
                    test_images=data.test_images[test],
                    test_labels=data.test_labels[test],
                )
        if isinstance(loaded[name], Exception):
            pytest.skip(str(loaded[name]))
        return loaded[name]

    return cut_copy


def real_steps(model, dataset, name, data, folder, monkeypatch):
    monkeypatch.setattr(training, "load_dataset", lambda *given, **options: data)
    stream = make_stream(name, epochs=1, ratio=0.5 if name == "scaled" else None)
    return swrlib.train(
        dataset=dataset,
        model=model,
        stream=stream,
        methods="swr:1e-4,1e-1",
        device="cpu",
        checkpoints=folder,
        progress=False,
    )


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("model", ["mlp", "cnn", "cnn-bn"])
def test_every_pair_takes_real_steps_on_every_stream(
    model, dataset, name, cut, tmp_path, monkeypatch
):
    frame = real_steps(model, dataset, name, cut(dataset), tmp_path, monkeypatch)
    stages = 10 if "access" in name else 2 if name == "warm-start" else 1
    assert frame["step"].tolist() == list(range(stages + 1))
    assert set(frame["dataset"]) == {dataset}
    assert frame["test_loss"].nunique() == len(frame)
    assert np.isfinite(frame["test_loss"]).all()


@pytest.mark.parametrize("name", [name for name in STREAMS if name != "single-task"])
def test_vgg16_takes_real_steps_on_every_stream(name, cut, tmp_path, monkeypatch):
    """The single task is among them: it is the parent of `scaled`."""
    data = cut("tinyimagenet-part")
    frame = real_steps("vgg16", "tinyimagenet-part", name, data, tmp_path, monkeypatch)
    assert frame["test_loss"].nunique() == len(frame)
    assert np.isfinite(frame["test_loss"]).all()
    assert {len(norms) for norms in frame["weight_norms"].dropna()} == {29}  # 13, 13 and 3


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
def test_vgg16_takes_a_real_step_on_smaller_images(dataset, cut, tmp_path, monkeypatch):
    frame = real_steps("vgg16", dataset, "single-task", cut(dataset), tmp_path, monkeypatch)
    assert frame["step"].tolist() == [0, 1]
    assert frame["test_loss"].nunique() == 2


@pytest.mark.parametrize("dataset", ["mnist-5k", "mnist"])
def test_vgg16_refuses_digits(dataset, cut, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="28x28"):
        real_steps("vgg16", dataset, "single-task", cut(dataset), tmp_path, monkeypatch)
