"""The engine: pairing, jobs, records of every run, interruptions, and every pair of model and data.

What a single method does is in test_methods.py, what a stream is in test_streams.py.
"""

from __future__ import annotations

import dataclasses
import gc
import inspect
import itertools
import math
import multiprocessing
import os
import pydoc
import random
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from image_folder import make_image_folder

import swrlib
from swrlib import L2, SWR, AdamW, FullReset, HeadReset, SWRReinit, make_stream, records
from swrlib.engine import loop, strengths, training
from swrlib.engine.jobs import resolve
from swrlib.engine.runs import Request
from swrlib.engine.strengths import SELECTION_GRIDS
from swrlib.papers import SWR as paper
from swrlib.population.optimizers import Updates
from swrlib.stacks import needed_memory
from swrlib.streams import STREAMS
from swrlib.wide import by_onednn

# A server that has loaded the library, so that a process which is to be killed is there at once.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(
    ["pytest", "hypothesis", "torchvision.datasets", "swrlib.__main__"]
)

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
    whole = loop.Job.train

    def noted(job, bar):
        whole(job, bar)
        seen.append(job)

    monkeypatch.setattr(loop.Job, "train", noted)
    return seen


def states(jobs) -> dict[str, dict[str, torch.Tensor]]:
    """Return every run's parameters and buffers."""
    return {
        run.hash: {name: view.clone() for name, view in job.population.stack.views(replica).items()}
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
        assert {job.recorder.step for job in jobs} == {50}
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
    lay_out, epoch = loop.Job.lay_out, loop.Job.epoch_

    def noted_start(job, active):
        lay_out(job, active)
        views = job.population.stack.views
        starts.update({run.hash: views(i) for i, run in enumerate(active)})
        starts.update({run: {n: t.clone() for n, t in s.items()} for run, s in starts.items()})

    def noted_epoch(job, order, rate):
        for run in job.active:
            orders.setdefault(run.hash, []).append(order.tolist())
        return epoch(job, order, rate)

    monkeypatch.setattr(loop.Job, "lay_out", noted_start)
    monkeypatch.setattr(loop.Job, "epoch_", noted_epoch)
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
    origin = records.read_provenance(path)
    assert origin["device"] == "cpu"
    dtype = getattr(torch, frame["dtype"].iloc[0])
    assert origin["products"] == ("oneDNN" if by_onednn(torch.device("cpu"), dtype) else "PyTorch")


def test_what_is_there_is_not_trained_again(train, tmp_path):
    first = train(methods=["vanilla", "swr:0.1"], seeds=[0, 1])
    before = files(tmp_path / "results")
    assert len(before) == 1  # with small batches, seeds lie side by side
    again = train(methods=["swr:0.1", "vanilla"], seeds=[1, 0])
    assert files(tmp_path / "results") == before
    pd.testing.assert_frame_equal(first, again)
    more = train(methods=["vanilla", "swr:0.1", "l2:0.1"], seeds=[0])
    after = files(tmp_path / "results")
    assert len(after) == 2
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
    before = files(tmp_path / "results")
    assert len(before) == 2
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
    grid = [f"adamw:{lam}" for lam in (*SELECTION_GRIDS["adamw"], 50)]
    stream = make_stream("single-task", epochs=6, learning_rate=1e-2)
    selection = train(methods=grid, seeds=[0, 1], split="selection", stream=stream)
    final = selection[selection["epoch"] == 6].groupby("lam")["test_accuracy"].mean()
    assert final.idxmax() != 50
    chosen = train(methods="adamw", stream=stream)
    assert set(chosen["lam"]) == {final.idxmax()}


def test_the_best_of_an_incomplete_selection_is_not_taken(train, tmp_path, monkeypatch):
    """What lacks is named, until all of the grid has two seeds of one length of training."""
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("SWR_RESULTS", str(tmp_path / "empty"))
    stream = make_stream("single-task", epochs=1, learning_rate=1e-2)
    longer = make_stream("single-task", epochs=2, learning_rate=1e-2)
    first, *others = (f"adamw:{lam}" for lam in SELECTION_GRIDS["adamw"])
    selection = {"split": "selection", "stream": stream}
    for more in (
        {"methods": [first, *others], "seeds": [0]},
        {"methods": others, "seeds": [1]},
        {"methods": first, "seeds": [2]},  # the others have no such seed
        {"methods": first, "seeds": [1], "stream": longer},  # of another length
    ):
        train(**(selection | more))
        with pytest.raises(ValueError, match="has not been selected yet") as caught:
            train(methods="adamw", stream=stream)
    message = str(caught.value)
    assert "\n" not in message and ". " not in message
    assert "no record of λ = 0.0001 with seed 0, λ = 0.001 with seed 0" in message
    train(**selection, methods=first, seeds=[1])
    chosen = train(methods="adamw", stream=stream)
    ends = train(**selection, methods=[first, *others], seeds=[0, 1])
    ends = ends[ends["epoch"] == 1].groupby("lam")["test_accuracy"].mean()
    assert ends[chosen["lam"].iloc[0]] == ends.max()


def test_a_lambda_with_which_training_diverges_is_never_the_best(tmp_path, monkeypatch):
    """Its last accuracy, here the highest, is that of a network that was lost."""
    grid = SELECTION_GRIDS["adamw"]
    rows = [
        {"lam": lam, "seed": seed, "test_accuracy": 0.5 + lam / 4, "diverged": lam == 1}
        for lam in grid
        for seed in (0, 1)
    ]
    found = pd.DataFrame(rows).assign(run=range(len(rows)), epoch=3, epochs=3)
    (table,) = strengths.final_accuracies(found)
    assert strengths.best_of(table, grid) == 0.1
    assert strengths.best_of(table.drop(columns=1), grid) is None


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
    {"dtype": torch.bfloat16},
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


def test_tensorfloat_enters_the_hash(pictures):
    """It can be asked for on a CUDA device alone."""
    given = {"dataset": pictures, "model": "mlp", "stream": "single-task", "methods": "vanilla"}
    (one,), (other,) = (resolve(**given, seeds=0, tf32=tf32) for tf32 in (False, True))
    assert one.hash != other.hash


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


@pytest.mark.parametrize("model", ["mlp", "cnn-bn"])
def test_what_has_diverged_is_no_longer_computed(model, train, monkeypatch, tmp_path):
    sizes = []

    class Noted(loop.Population):
        def __init__(self, *given, **options):
            super().__init__(*given, **options)
            sizes.append(len(self))

    monkeypatch.setattr(loop, "Population", Noted)
    methods = ["vanilla", AdamW(lam=1e80), AdamW(lam=1e20), "swr:0.1", "full-reset"]
    options = {"model": model, "dtype": torch.float64, "epochs": 5, "stack": 5}
    frame = train(methods=methods, **options)
    lost = frame[frame["diverged"]].set_index("lam")["epoch"]
    assert 1 <= lost[1e80] < lost[1e20] < 10
    assert sizes == [5, 4, 3]  # which stays until the end
    assert frame["run"].nunique() == 5
    rest = frame[frame["method"] != "adamw"]
    assert rest.groupby("run")["epoch"].max().tolist() == [10] * 3
    alone = train(methods=[methods[i] for i in (0, 3, 4)], results=tmp_path / "alone", **options)
    for run, rows in curves(alone).items():
        pd.testing.assert_frame_equal(rows, curves(frame)[run], check_exact=False, rtol=1e-6)


@pytest.mark.parametrize("name", ["conv1.weight", "conv2.weight", "linear1.weight"])
def test_numbers_that_no_loss_shows_to_be_lost_are_seen(name, train):
    """On a processor ReLU and pooling make finite numbers of what a convolution has lost."""

    class Poisoned(SWR):
        def after_step_(self, members):
            super().after_step_(members)
            position = members.owners.index((name.split(".")[0], False))
            members.tensors[position][:, :, 0] = torch.nan

    frame = train(methods=[Poisoned(lam=0.1), "vanilla"], model="cnn", epochs=2, stack=2)
    last = frame.groupby("method")["diverged"].last()
    assert last["swr"] and not last["vanilla"]
    assert frame[frame["method"] == "swr"]["epoch"].max() == 1


def diverging(folder: Path) -> dict:
    stream = make_stream("single-task", epochs=40, learning_rate=1e38)
    return {"stream": stream, "methods": ["vanilla", "l2:1"], "results": folder}


def test_where_all_diverge_the_job_ends(train, tmp_path):
    frame = train(**diverging(tmp_path / "results"))
    assert frame.groupby("run")["diverged"].last().all()
    assert frame["epoch"].max() < 40


def test_where_all_diverge_the_job_ends_also_when_asked_to_stop(train, tmp_path):
    whole = train(**diverging(tmp_path / "whole"))
    found = until_done(lambda: train(**diverging(tmp_path / "results"), stop=lambda: True))
    for run, rows in curves(whole).items():
        assert_same(rows, curves(found[-1])[run])


# Interruptions

#: Kills itself in the middle of an epoch, as a machine does that loses its power.
DRIVER = """
    import os, signal, sys
    import torch
    torch.set_num_threads(1)
    import swrlib
    from swrlib.engine import loop
    from swrlib.population.optimizers import Updates

    loop.CHECKPOINT_EVERY = 0.0
    step, steps = Updates.step_, 0

    def counted(self, *arguments, **options):
        global steps
        steps += 1
        if steps == int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, *arguments, **options)

    Updates.step_ = counted
    swrlib.train(**eval(sys.argv[2]))
"""


def kill_at_step(step: int, options: dict) -> None:
    command = [sys.executable, "-c", textwrap.dedent(DRIVER), str(step), repr(options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
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
    step = Updates.step_
    with monkeypatch.context() as patched:
        patched.setattr(
            Updates,
            "step_",
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


def assert_same_results(options: dict, other: dict) -> None:
    """Two folders of records agree bit for bit in all that they hold of the training."""
    frames = [curves(swrlib.load_records(o["results"])) for o in (options, other)]
    assert set(frames[0]) == set(frames[1])
    for run, rows in frames[0].items():
        assert_same(rows, frames[1][run])
    measures = [swrlib.load_measures(o["results"]) for o in (options, other)]
    order = list(measures[0].columns)
    measures = [m.sort_values(order, ignore_index=True) for m in measures]
    pd.testing.assert_frame_equal(*measures, check_exact=True)


def wait_for(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def train_in_a_process(options: dict, begun) -> None:
    torch.set_num_threads(1)
    loop.CHECKPOINT_EVERY = 0.0
    # A kill leaves each checkpoint whole or absent: none is ever refused.
    warnings.filterwarnings("error", "the checkpoint")
    swrlib.train(**options, stop=lambda: begun.set())  # asked after each epoch


@pytest.mark.parametrize(
    ("changes", "kills"),
    [
        ({"model": "mlp", "methods": ["vanilla", "l2:1e-2", *METHODS[7:10]], "epochs": 8}, 10),
        ({"model": "cnn-bn", "methods": ["swr-reinit:1e-3,1e-1", "full-reset"], "epochs": 4}, 4),
    ],
    ids=["mlp", "cnn-bn"],
)
def test_kills_at_random_moments_leave_no_trace(changes, kills, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 0.0)
    for name in ("warm", "whole"):
        whole = interrupted(pictures, tmp_path / name, **changes)
        started = time.perf_counter()
        swrlib.train(**whole)
        lasts = time.perf_counter() - started
    moments = random.Random(0)
    for attempt in itertools.count():
        options = interrupted(pictures, tmp_path / str(attempt), **changes)
        status = None
        while kills > 0 and status != 0:
            begun = processes.Event()
            process = processes.Process(target=train_in_a_process, args=(options, begun))
            process.start()
            wait_for(lambda p=process, b=begun: b.is_set() or not p.is_alive())
            time.sleep(moments.uniform(0, lasts / 6))
            process.kill()
            process.join(20)
            status = process.exitcode
            assert status in (0, -signal.SIGKILL)
            kills -= status != 0
        swrlib.train(**options)
        assert_same_results(options, whole)
        if kills == 0:
            break


@pytest.fixture
def stopped(pictures, tmp_path, monkeypatch):
    """Stop a job after its third epoch; return what it was given, and its two checkpoints."""
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 0.0)
    options = interrupted(pictures, tmp_path / "stopped", methods=["vanilla", "swr:0.1"])
    epochs = itertools.count(1)
    with pytest.raises(loop.Stopped):
        swrlib.train(**options, stop=lambda: next(epochs) == 3)
    newest, before = sorted(Path(options["checkpoints"]).glob("*.pt"), key=lambda p: len(p.name))
    assert before == newest.with_suffix(".before.pt")
    return options, newest, before


def cuts(whole: bytes) -> list[bytes]:
    return [whole[:keep] for keep in (0, 10, len(whole) // 2, len(whole) - 40)]


def test_where_the_newest_checkpoint_is_broken_the_one_before_is_used(stopped, pictures, tmp_path):
    options, newest, before = stopped
    whole = interrupted(pictures, tmp_path / "whole", methods=options["methods"])
    swrlib.train(**whole)
    states = {path: path.read_bytes() for path in (newest, before)}
    for broken in cuts(states[newest]):
        before.write_bytes(states[before])
        newest.write_bytes(broken)
        with pytest.warns(UserWarning, match="the one before it is used") as caught:
            swrlib.train(**options)
        assert [str(newest) in str(warning.message) for warning in caught] == [True]
        assert_same_results(options, whole)
        assert not list(Path(options["checkpoints"]).glob("*.pt"))
        shutil.rmtree(options["results"])


def test_a_broken_checkpoint_is_refused_in_one_sentence(stopped, pictures, tmp_path):
    options, newest, before = stopped
    for broken in cuts(newest.read_bytes()):
        newest.write_bytes(broken)
        before.write_bytes(broken)
        with pytest.raises(ValueError, match=r"delete it to start this job over") as caught:
            swrlib.train(**options)
        message = str(caught.value)
        assert str(newest) in message
        assert "\n" not in message and ". " not in message
        assert not list(Path(options["results"]).glob("*"))
        assert newest.read_bytes() == before.read_bytes() == broken
    # It belongs to these two runs together, and to no other job.
    alone = swrlib.train(**(options | {"methods": ["vanilla"]}))
    newest.unlink()
    before.unlink()
    both = curves(swrlib.train(**options))
    assert len(both) == 2
    for run, rows in curves(alone).items():
        assert_same(rows, both[run])


# Stops


def until_done(call, most: int = 200) -> list:
    """Call until nothing stops it; return each Stopped, and at last what came out."""
    found = []
    while len(found) < most:
        try:
            found.append(call())
        except loop.Stopped as stopped:
            found.append(stopped)
        else:
            return found
    raise AssertionError("it never ends")


@pytest.mark.parametrize(
    "changes",
    [
        {"methods": METHODS, "measure": ["factor"], "seeds": [0, 1]},
        {"methods": METHODS, "optimizer_state": "new"},
        {"methods": METHODS[5:], "stack": 3},
        {"methods": ["vanilla", "swr-reinit:0.1"], "model": "cnn-bn"},
        {"methods": ["swr-reinit:0.1"], "stream": "single-task-decay", "epochs": 8},
        {"methods": ["vanilla", "swr:0.1"], "stream": "scaled"},
        {"methods": ["vanilla", AdamW(lam=1e80), "swr:0.1"], "dtype": torch.float64},
    ],
    ids=["measured", "new-state", "small-stacks", "cnn-bn", "decay", "parent", "diverging"],
)
def test_stopped_after_every_epoch_it_ends_as_undisturbed(changes, pictures, tmp_path):
    if changes.get("stream") == "scaled":
        changes = changes | {
            "stream": make_stream("scaled", epochs=4, ratio=0.5),
            "epochs": None,
        }
    whole, options = (
        interrupted(pictures, tmp_path / name, **changes) for name in ("whole", "stopped")
    )
    asked = []

    def stop():
        asked.append(True)
        return True

    found = until_done(lambda: swrlib.train(**options, stop=stop))
    again = []
    swrlib.train(**whole, stop=lambda: again.append(False))
    assert len(asked) == len(again)  # no epoch was trained twice
    assert len(found) >= 7
    for stopped in found[:-1]:
        message = str(stopped)
        assert "the same call carries on" in message and re.search(r"epoch \d+", message)
        assert "\n" not in message and ". " not in message
    assert_same_results(options, whole)
    assert not [
        path for path in Path(options["checkpoints"]).glob("*.pt") if "final" not in path.name
    ]


def test_nothing_is_recorded_of_a_job_that_was_stopped(train, tmp_path):
    with pytest.raises(loop.Stopped, match="epoch 1"):
        train(seeds=[0, 1], stop=lambda: True)
    assert not list((tmp_path / "results").glob("*"))
    assert len(list((tmp_path / "checkpoints").glob("*.pt"))) == 1  # the second has not begun


def test_a_job_that_has_ended_is_not_stopped(train):
    epochs = itertools.count(1)
    assert len(train(stop=lambda: next(epochs) == 4)) == 5
    assert next(epochs) == 4  # it was not even asked after the last of the four


# Several processes


def train_until_another_waits(options: dict, begun: Path, said: Path) -> None:
    def stop() -> bool:
        begun.touch()
        wait_for(lambda: said.exists() and said.read_text())
        return False

    swrlib.train(**options, stop=stop)


def train_second(options: dict, said: Path, steps: Path) -> None:
    step = Updates.step_

    def counted(self, *given, **more):
        with steps.open("a") as file:
            file.write("step\n")
        return step(self, *given, **more)

    Updates.step_ = counted
    sys.stderr = said.open("w")
    swrlib.train(**options)


@pytest.mark.parametrize(
    ("methods", "count"),
    [(["vanilla", "swr:0.1"], 0), (["swr:0.1", "l2:0.1"], 10)],  # steps of the second
    ids=["the-same", "overlapping"],
)
def test_two_processes_train_each_run_once(methods, count, pictures, tmp_path):
    first = interrupted(pictures, tmp_path / "both", methods=["vanilla", "swr:0.1"], epochs=2)
    second = first | {"methods": methods}
    begun, said, steps = (tmp_path / name for name in ("begun", "said", "steps"))
    one = processes.Process(target=train_until_another_waits, args=(first, begun, said))
    other = processes.Process(target=train_second, args=(second, said, steps))
    one.start()
    wait_for(begun.exists)
    other.start()
    for process in (one, other):
        process.join(60)
        assert process.exitcode == 0
    files = list(Path(first["results"]).glob("*.parquet"))
    trained = [run for p in files for run in set(pd.read_parquet(p)["run"])]
    asked = {run.hash for o in (first, second) for run in resolved(o)}
    assert sorted(trained) == sorted(asked)  # each once
    line, *more = said.read_text().splitlines()
    assert not more
    assert line.startswith("swrlib: ") and "waiting" in line
    assert any(run.hash in line for run in resolved(first))
    assert (steps.read_text().count("step") if count else steps.exists()) == count
    assert not list(Path(first["checkpoints"]).glob("*.pt"))
    undisturbed = interrupted(pictures, tmp_path / "alone", methods=first["methods"], epochs=2)
    swrlib.train(**undisturbed)
    if count:
        swrlib.train(**(undisturbed | {"methods": "l2:0.1"}))
    assert_same_results(first, undisturbed)


def resolved(options: dict) -> list:
    names = ["dataset", "model", "stream", "methods", "epochs", "batch_size"]
    return resolve(**{name: options[name] for name in names}, seeds=0)


def test_what_another_process_has_trained_meanwhile_is_left_out(train, jobs, monkeypatch):
    """Then the seeds that were to lie side by side lack different runs."""
    held, locked = [], training.locked

    def busy(names, *rest):
        if not held:
            held.append(True)
            train(methods="vanilla", seeds=[0])
            train(methods="swr:0.1", seeds=[1, 2])
            jobs.clear()
        return locked(names, *rest)

    monkeypatch.setattr(training, "locked", busy)
    frame = train(methods=["vanilla", "swr:0.1"], seeds=[0, 1, 2])
    assert frame["run"].nunique() == 6 and len(frame) == 6 * 5
    trained = [({run.method.name for run in job.runs}, job.seeds) for job in jobs]
    assert trained == [({"swr"}, [0]), ({"vanilla"}, [1, 2])]


# Memory


@pytest.fixture
def memory(monkeypatch, pictures):
    """Say how many runs of the MLP the memory holds."""

    def hold(runs: float, **options) -> int:
        model = swrlib.build_model("mlp", swrlib.load_dataset(pictures), **options)
        needed = needed_memory(model, (16, 1, 12, 12), torch.float32)
        monkeypatch.setattr("swrlib.engine.jobs.free_memory", lambda device: int(runs * needed))
        return needed

    return hold


def test_more_runs_than_the_memory_holds_train_after_one_another(train, jobs, memory):
    needed = memory(3.5)
    with pytest.warns(UserWarning, match="3 train at once") as caught:
        frame = train(methods=METHODS, seeds=[0, 1])
    (warning,) = caught
    assert warning.filename == __file__  # it points at the call
    message = str(warning.message)
    sizes = [int(size) for size in re.findall(r"(\d+) MiB", message)]
    assert sizes == [round(count * needed / 2**20) for count in (len(METHODS), 3.5)]
    assert "\n" not in message and ". " not in message
    assert frame["run"].nunique() == 2 * len(METHODS)
    assert frame.groupby("run")["epoch"].max().eq(4).all()
    counts = [len(job.runs) for job in jobs]
    assert sum(counts) == 2 * len(METHODS)
    assert max(counts) <= 3


def test_seeds_that_do_not_fit_side_by_side_are_split_and_that_is_said_once(train, jobs, memory):
    memory(3.5)
    with pytest.warns(UserWarning, match="4 runs at once .* 2 train at once") as caught:
        frame = train(methods=["vanilla", "swr:0.1"], seeds=[0, 1])
    assert len(caught) == 1
    assert [len(job.runs) for job in jobs] == [2, 2]
    assert [len(job.seeds) for job in jobs] == [1, 1]
    memory(4.5)
    jobs.clear()
    together = train(methods=["vanilla", "swr:0.1"], seeds=[0, 1], results=None)
    assert [len(job.seeds) for job in jobs] == [2]
    pd.testing.assert_series_equal(frame["run"], together["run"])


@pytest.mark.parametrize(("holds", "stack"), [(11.5, None), (3.5, 3), (1.0, 1)])
def test_where_all_that_is_asked_for_fits_nothing_is_said(holds, stack, train, jobs, memory):
    memory(holds)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(methods=METHODS, stack=stack)
    assert max(len(job.runs) for job in jobs) == (stack or 11)


@pytest.mark.parametrize("holds", [0.9, 0.0, -0.5])
def test_a_run_that_does_not_fit_is_refused_in_one_sentence(holds, train, memory, tmp_path):
    options = {"hidden": (700, 700)}
    needed = memory(holds, **options)
    assert needed > 10 * 2**20
    with pytest.raises(MemoryError, match="mlp with batches of 16") as caught:
        train(methods=METHODS, options=options)
    message = str(caught.value)
    sizes = [int(size) for size in re.findall(r"(\d+) MiB", message)]
    assert sizes == [round(needed / 2**20), round(max(holds, 0) * needed / 2**20)]
    assert "\n" not in message and ". " not in message
    assert not (tmp_path / "results").exists()


def train_with_little_memory(options: dict, said: Path) -> None:
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + 2**27
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        swrlib.train(**options)
    except MemoryError as error:
        said.write_text(str(error))


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of the address space")
def test_a_real_limit_of_memory_is_seen(pictures, tmp_path):
    options = interrupted(pictures, tmp_path, options={"hidden": (3000, 3000)})
    said = tmp_path / "said"
    process = processes.Process(target=train_with_little_memory, args=(options, said))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    needed, free = (int(size) for size in re.findall(r"(\d+) MiB", said.read_text()))
    # At least the parameters, their gradients and Adam's two moments: in floats of 4 bytes.
    assert needed > 4 * 4 * 3000 * (144 + 3000 + 3) / 2**20
    assert 0 < free <= 128


def peak(call) -> int:
    """Return the most bytes that were allocated at a time, as PyTorch tells."""
    gc.collect()  # what an earlier call left behind would count as freed by this one
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        call()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(itertools.accumulate(held))


@pytest.mark.parametrize("batch_size", [16, 256])
@pytest.mark.parametrize("model", ["mlp", "cnn", "cnn-bn"])
def test_the_estimate_of_memory_covers_a_whole_training(model, batch_size, train, monkeypatch):
    images = torch.randint(0, 256, (1000, 3, 32, 32), dtype=torch.uint8)
    labels = torch.arange(1000) % 10
    data = swrlib.Dataset(
        name="cifar10",
        train_images=images[:256],
        train_labels=labels[:256],
        test_images=images,
        test_labels=labels,
        classes=tuple(map(str, range(10))),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
    )
    monkeypatch.setattr(training, "load_dataset", lambda *given, **options: data)
    options = {"dataset": "cifar10", "model": model, "batch_size": batch_size, "epochs": 1}
    true = peak(lambda: train(**options, stream="single-task"))
    network = swrlib.build_model(model, data)
    estimated = needed_memory(network, (batch_size, 3, 32, 32), torch.float32)
    assert true / 3 < estimated < 3 * true


# bfloat16


@pytest.mark.parametrize("model", ["mlp", "cnn-bn"])
def test_products_in_bfloat16_by_argument(model, train, jobs):
    methods = ["vanilla", "swr:0.1", "l2:1e-2", "full-reset"]
    exact = train(model=model, methods=methods)
    jobs.clear()
    frame = train(model=model, methods=methods, dtype=torch.bfloat16)
    assert set(frame["dtype"]) == {"bfloat16"} and set(exact["dtype"]) == {"float32"}
    assert not set(frame["run"]) & set(exact["run"])
    assert len(frame) == len(exact) == 4 * 5
    losses = [f.sort_values(["method", "epoch"])["test_loss"].to_numpy() for f in (frame, exact)]
    assert (losses[0] != losses[1]).all()
    start = [f[f["epoch"] == 0]["test_loss"].to_numpy() for f in (frame, exact)]
    np.testing.assert_allclose(*start, rtol=2e-2)
    np.testing.assert_allclose(*losses, rtol=0.2)
    for job in jobs:
        moments = itertools.chain.from_iterable(job.population.updates.moments.values())
        tensors = [*job.population.blocks, *moments, job.recorder.losses]
        assert {tensor.dtype for tensor in tensors} == {torch.float32}


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
        ({"dtype": torch.float16}, ValueError, "dtype is torch.float16"),
        ({"dtype": "float46"}, ValueError, "'float64'"),
        ({"paper": "swrr"}, ValueError, "'swr'"),
        ({"tf32": True}, ValueError, "TensorFloat-32"),
        ({"stack": 0}, ValueError, "stack is 0"),
        ({"stack": -1}, ValueError, "stack is -1"),
        ({"stack": True}, ValueError, "stack is True"),
        ({"stack": 1.5}, ValueError, "stack is 1.5"),
        ({"stack": "2"}, ValueError, "stack is '2'"),
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


def test_every_parameter_is_documented_and_a_wrong_one_refused(train):
    signature = inspect.signature(swrlib.train)
    assert list(signature.parameters) == [f.name for f in dataclasses.fields(Request)]
    assert signature.parameters["seeds"].default == (0,)
    text = pydoc.render_doc(swrlib.train, renderer=pydoc.plaintext)
    documented = re.findall(r"^    (\w+) : ", text, flags=re.M)
    assert documented == list(signature.parameters)
    assert text.index("Parameters\n") < text.index("Returns\n") < text.index("Raises\n")
    with pytest.raises(TypeError, match=r"train\(\) takes no 'model_': did you mean 'model'"):
        train(model_="mlp")
    with pytest.raises(TypeError, match="stream"):
        swrlib.train(dataset="mnist", model="mlp")


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


#: Streams of the paper; others have tests of their own.
PAPERS = [name for name in STREAMS if name in paper.epochs]


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


@pytest.mark.parametrize("name", PAPERS)
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


@pytest.mark.parametrize("name", [name for name in PAPERS if name != "single-task"])
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
