"""One population: what a newcomer adds, in a test, is trained as a plain loop would train it.

A stream, a method and a measure of one's own, none of them in the library, with Adam and with SGD;
and what seeds that lie side by side, batches of a stage, rows of a stage must not change.
"""

from __future__ import annotations

import cProfile
import pstats
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import cross_entropy

import swrlib
from swrlib import SWR, Method, SoftWeightRescaling, records
from swrlib.datasets import Dataset
from swrlib.engine import feed
from swrlib.engine.feed import Feed
from swrlib.engine.loop import Job, Setting
from swrlib.engine.runs import Request
from swrlib.measures import Measure
from swrlib.methods import Vanilla
from swrlib.population import SGD, Adam, make_optimizer
from swrlib.streams import Stage, Stream, generator

SEEDS = (3, 8)
LAMS = (0.1, 0.4)
BATCH = 6


@pytest.fixture(scope="module")
def noise() -> Dataset:
    """Images that a network can tell apart, from a generator of their own."""
    draws = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (60, 1, 10, 10), generator=draws, dtype=torch.uint8)
    labels = torch.arange(60) % 4
    parts = (images[:40], labels[:40], images[40:], labels[40:])
    return Dataset("noise", *parts, tuple("abcd"), (0.5,), (0.25,))


# What a newcomer writes


@dataclass(frozen=True)
class Reshuffled(Stream):
    """The same images in every task; their labels are shuffled anew."""

    name: ClassVar[str] = "reshuffled"

    def stages(self, images, seed, labels=None):
        draws = [generator(seed, self.name, task) for task in range(len(self.epochs))]
        shuffled = [labels[torch.randperm(images, generator=draw)] for draw in draws]
        return [
            Stage(torch.arange(images), rates, own, rows="stage", evaluated=("task",))
            for own, rates in zip(shuffled, self.constant_rates(), strict=True)
        ]


@dataclass(frozen=True)
class Quieten(Method):
    """Units that answer loudly to the batch get smaller weights, and smaller moments."""

    lam: float
    name: ClassVar[str] = "quieten"
    features: ClassVar[tuple[str, ...]] = ("activation1",)

    def after_step_(self, members):
        (answers,) = members.features.values()  # [seeds, runs, N, units]
        loud = answers.mean(2).tanh() * members.values["lam"].unsqueeze(-1)
        for tensors in (members.parameters, *members.moments.values()):
            tensors[0].mul_((1 - loud).unsqueeze(-1))


SPREAD = Measure("spread", lambda shot: {"": shot.model.linear1.weight.std().item()}, when="start")
LOSS = Measure(
    "loss-at-start",
    lambda shot: {"": cross_entropy(shot.model(shot.stage_images), shot.stage_labels).item()},
    when="start",
)
STREAM = Reshuffled(epochs=(2, 2, 2), learning_rate=1e-2)
METHODS = [Quieten(lam=LAMS[0]), Quieten(lam=LAMS[1]), SWR(lam=0.1)]
OPTIMIZERS = [Adam(), SGD(momentum=0.9), SGD(momentum=0.5, weight_decay=0.1), SGD()]


# What the library makes of it, and what torch alone does


def trained(monkeypatch, tmp_path, data, jobs=1, **options) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train, and return rows and measures as the engine hands them over, in float64."""
    handed = []
    write = records.write_job

    def keep(folder, epochs, table, **more):
        handed.append((epochs, pd.DataFrame() if table is None else table))
        return write(folder, epochs, table, **more)

    with monkeypatch.context() as patched:
        patched.setattr(records, "write_job", keep)
        swrlib.train(
            **{
                "dataset": data,
                "model": "mlp",
                "stream": STREAM,
                "methods": METHODS,
                "seeds": SEEDS,
                "measure": [SPREAD, LOSS],
                "batch_size": BATCH,
                "dtype": torch.float64,
                "device": "cpu",
                "results": tmp_path / "results",
                "checkpoints": tmp_path / "checkpoints",
                "progress": False,
            }
            | options
        )
    frames = [pd.concat(part) for part in zip(*handed, strict=True)]
    assert len(handed) == jobs
    return frames[0], frames[1]


def plain_optimizer(optimizer, parameters):
    if isinstance(optimizer, Adam):
        return torch.optim.Adam(parameters, lr=STREAM.learning_rate)
    decay = {"momentum": optimizer.momentum, "weight_decay": optimizer.weight_decay}
    return torch.optim.SGD(parameters, lr=STREAM.learning_rate, **decay)


def plain_loop(data, seed, method, optimizer) -> list[tuple[float, ...]]:
    """Return spread and loss at each task's start, the mean loss of its steps, loss at its end."""
    torch.manual_seed(generator(seed, "weights").initial_seed())
    model = swrlib.build_model("mlp", data).double()
    images = (data.train_images.double() / 255 - data.mean[0]) / data.std[0]
    steps = plain_optimizer(optimizer, model.parameters())
    rescaling = SoftWeightRescaling(model, lam=method.lam) if isinstance(method, SWR) else None
    answers = []
    model.activation1.register_forward_hook(lambda module, given, out: answers.append(out.detach()))
    found = []
    for task, epochs in enumerate(STREAM.epochs):
        draw = generator(seed, "reshuffled", task)
        labels = data.train_labels[torch.randperm(len(images), generator=draw)]
        start = cross_entropy(model(images), labels).item()
        row = [model.linear1.weight.std().item(), start]
        losses = []
        for epoch in range(1, epochs + 1):
            draw = generator(seed, "order", task + 1, epoch)
            order = torch.randperm(len(images), generator=draw)
            for batch in order.split(BATCH):
                loss = cross_entropy(model(images[batch]), labels[batch])
                steps.zero_grad()
                loss.backward()
                steps.step()
                losses.append(loss.item())
                if rescaling:
                    rescaling.step()
                else:
                    quieten(model.linear1.weight, answers[-1], method.lam, steps)
        end = cross_entropy(model(images), labels).item()
        found.append((*row, sum(losses) / len(losses), end))
    return found


@torch.no_grad()
def quieten(weight, answers, lam, optimizer):
    factor = 1 - lam * answers.mean(0).tanh()
    kept = [m for name, m in optimizer.state[weight].items() if name != "step" and m is not None]
    for tensor in (weight, *kept):
        tensor.mul_(factor[:, None])


def assert_as_plain(rows, measured, data, optimizer) -> None:
    for seed in SEEDS:
        for method in METHODS:
            chosen = rows[(rows["seed"] == seed) & (rows["lam"] == method.lam)]
            chosen = chosen[chosen["method"] == method.name]
            assert chosen["epoch"].tolist() == [0, 2, 4, 6]  # a row a stage
            assert chosen["stage"].tolist() == [1, 1, 2, 3]
            assert chosen["test_loss"].isna().all()
            values = measured[measured["run"] == chosen["run"].iloc[0]]
            starts = [
                values[values["measure"] == measure.name]["value"].to_numpy()
                for measure in (SPREAD, LOSS)
            ]
            ends = chosen[["train_loss", "task_loss"]].to_numpy()[1:]
            expected = np.array(plain_loop(data, seed, method, optimizer))
            found = np.column_stack([*starts, ends])
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
            assert len({tuple(row) for row in expected.round(6)}) == len(STREAM.epochs)


@pytest.mark.parametrize("stack", [None, 3, 2, 1])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_what_a_newcomer_writes_trains_as_a_plain_loop_does(
    optimizer, stack, noise, monkeypatch, tmp_path
):
    """By default as one stack of two seeds and three runs; cut up, it is the same."""
    jobs = {None: 1, 3: 2, 2: 4, 1: 6}[stack]
    found = trained(monkeypatch, tmp_path, noise, optimizer=optimizer, stack=stack, jobs=jobs)
    assert_as_plain(*found, noise, optimizer)


@dataclass(frozen=True)
class FirstLabelsKept(Reshuffled):
    def stages(self, images, seed, labels=None):
        first, *others = super().stages(images, seed, labels)
        return [first, *(replace(stage, labels=first.labels) for stage in others)]


@dataclass(frozen=True)
class QuietenWithoutMoments(Quieten):
    def after_step_(self, members):
        kept = [moment[0].clone() for moment in members.moments.values()]
        super().after_step_(members)
        for moment, value in zip(members.moments.values(), kept, strict=True):
            moment[0].copy_(value)


@dataclass(frozen=True)
class QuietenByAnotherSeed(Quieten):
    def after_step_(self, members):
        members.population.batch.features["activation1"] = members.population.batch.features[
            "activation1"
        ].flip(0)
        super().after_step_(members)


@pytest.mark.parametrize(
    "options",
    [
        {"stream": FirstLabelsKept(STREAM.epochs, STREAM.learning_rate)},
        {"methods": [*(QuietenWithoutMoments(lam=lam) for lam in LAMS), METHODS[2]]},
        {"methods": [*(QuietenByAnotherSeed(lam=lam) for lam in LAMS), METHODS[2]]},
        {"measure": [replace(SPREAD, when="end"), LOSS]},
        {"optimizer_state": "new"},
    ],
    ids=["old-labels", "moments", "features", "moment", "state"],
)
def test_mutants_are_caught(options, noise, monkeypatch, tmp_path):
    rows, measured = trained(monkeypatch, tmp_path, noise, **options)
    with pytest.raises(AssertionError):
        assert_as_plain(rows, measured, noise, Adam())


# Seeds side by side

EVERY_KIND = ["vanilla", "l2:0.1", "l2-init:0.1", "shrink-perturb:0.4", "head-reset", "swr:0.1"]
EVERY_KIND += ["swr:0.01,0.1", "swr-reinit:0.1", "full-reset", "adamw:1"]
NUMBERS = ["train_loss", "test_loss", "train_accuracy", "test_accuracy"]


def by_run(rows: pd.DataFrame, columns=NUMBERS) -> dict[str, np.ndarray]:
    return {run: part[columns].to_numpy(float) for run, part in rows.groupby("run")}


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert set(one) == set(other)
    for run, numbers in one.items():
        np.testing.assert_allclose(numbers, other[run], rtol=0, atol=1e-10)


@pytest.mark.parametrize("model", ["mlp", "cnn", "cnn-bn"])
def test_seeds_side_by_side_are_what_they_are_alone(model, noise, monkeypatch, tmp_path):
    options = {"model": model, "methods": EVERY_KIND, "stream": "warm-start", "epochs": 2}
    options |= {"measure": ["factor", "layer-balance"], "batch_size": 16}
    found = [
        trained(monkeypatch, tmp_path / str(stack), noise, stack=stack, jobs=jobs, **options)
        for stack, jobs in ((20, 1), (10, 2))
    ]
    assert_same(*(by_run(rows) for rows, _ in found))
    order = ["run", "epoch", "step", "measure", "layer"]
    tables = [measured.sort_values(order, ignore_index=True) for _, measured in found]
    pd.testing.assert_frame_equal(*tables, rtol=1e-9)
    rows = found[0][0]
    assert rows.loc[rows["epoch"] == 0, "test_loss"].nunique() == len(SEEDS)


@dataclass(frozen=True)
class Poisoned(Method):
    """Spoils the runs of one seed, or of all, from the second epoch on."""

    seed: int | None = None
    name: ClassVar[str] = "poisoned"

    def start(self, members):
        members.memory["steps"] = torch.zeros(len(SEEDS), 1)

    def after_step_(self, members):
        members.memory["steps"] += 1
        for place, seed in enumerate(members.population.seeds):
            if self.seed in (None, seed) and members.memory["steps"][place] > 3:
                members.parameters[0][place] = torch.nan


@pytest.mark.parametrize("spoiled", [SEEDS[0], SEEDS[1], None])
def test_a_seed_that_diverges_leaves_the_others_alone(spoiled, noise, monkeypatch, tmp_path):
    options = {"stream": "single-task", "epochs": 4, "batch_size": 16, "measure": "factor"}
    methods = ["vanilla", Poisoned(seed=spoiled), "swr:0.1"]
    rows, measured = trained(monkeypatch, tmp_path, noise, methods=methods, **options)
    lost = rows[(rows["method"] == "poisoned") & rows["diverged"]]
    assert sorted(lost["seed"]) == sorted(SEEDS if spoiled is None else [spoiled])
    assert lost["epoch"].tolist() == [2] * len(lost)  # and no row after it
    last = rows.groupby("run")["epoch"].max()
    assert sorted(last) == sorted([2] * len(lost) + [4] * (6 - len(lost)))
    assert measured[measured["run"].isin(lost["run"])]["epoch"].max() == 2
    assert np.isfinite(measured[measured["epoch"] > 2]["value"]).all()
    plain, _ = trained(
        monkeypatch, tmp_path / "plain", noise, methods=["vanilla", "swr:0.1"], **options
    )
    assert_same(by_run(rows[rows["method"] != "poisoned"]), by_run(plain))


@pytest.mark.parametrize("optimizer", [Adam(), SGD(momentum=0.9)], ids=str)
def test_stopped_within_a_stage_it_ends_as_undisturbed(optimizer, noise, monkeypatch, tmp_path):
    whole = trained(monkeypatch, tmp_path / "whole", noise, optimizer=optimizer)
    options = {"optimizer": optimizer, "stop": lambda: True}
    for _ in range(sum(STREAM.epochs) - 1):
        with pytest.raises(swrlib.engine.Stopped):
            trained(monkeypatch, tmp_path / "stopped", noise, **options)
    found = trained(monkeypatch, tmp_path / "stopped", noise, **options)
    for one, other in zip(whole, found, strict=True):
        pd.testing.assert_frame_equal(
            one.drop(columns="seconds", errors="ignore"),
            other.drop(columns="seconds", errors="ignore"),
        )


# What a stage says


@dataclass(frozen=True)
class Permuted(Stream):
    """One task with permuted pixels, in batches of its own size."""

    name: ClassVar[str] = "permuted"

    @staticmethod
    def permutation(seed):
        return torch.randperm(100, generator=generator(seed, "pixels"))

    def stages(self, images, seed, labels=None):
        (rates,) = self.constant_rates()
        pixels = self.permutation(seed)
        return [Stage(torch.arange(images), rates, pixels=pixels, batch_size=7)]


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_permuted_pixels_are_permuted_images(model, noise, monkeypatch, tmp_path):
    """Of training and test, each seed its own; and a stage's batch size is taken."""
    options = {"model": model, "methods": ["vanilla", "swr:0.1"], "measure": [], "stack": 4}
    rows, _ = trained(monkeypatch, tmp_path, noise, stream=Permuted((2,)), **options)
    assert rows["step"].tolist() == [0] * 4 + [6] * 4 + [12] * 4
    for seed in SEEDS:
        pixels = Permuted.permutation(seed)
        images = [
            part.flatten(2)[..., pixels].view_as(part)
            for part in (noise.train_images, noise.test_images)
        ]
        data = replace(noise, train_images=images[0], test_images=images[1])
        single = {"stream": "single-task", "epochs": 2, "batch_size": 7, "seeds": seed}
        plain, _ = trained(monkeypatch, tmp_path / str(seed), data, **options | single)
        of_seed = rows[rows["seed"] == seed].sort_values(["method", "epoch"])
        plain = plain.sort_values(["method", "epoch"])
        found = of_seed[NUMBERS].to_numpy(float)
        np.testing.assert_allclose(found, plain[NUMBERS].to_numpy(float), rtol=0, atol=1e-10)
        assert plain.groupby("method")["train_loss"].nunique().tolist() == [2, 2]


@dataclass(frozen=True)
class Counted(Method):
    """Notes after which steps it acts, and what it sees there."""

    every: int = 4
    name: ClassVar[str] = "counted"
    seen: ClassVar[list[tuple[int, ...]]] = []

    def acts_every(self):
        return self.every

    def regularly_(self, members):
        batch = members.population.batch
        features = members.population.features(batch.images, ["activation2"])["activation2"]
        self.seen.append((*batch.labels.shape, *features.shape))


def test_a_method_may_act_every_so_many_steps(noise, monkeypatch, tmp_path):
    Counted.seen.clear()
    options = {"stream": "single-task", "epochs": 3, "measure": [], "batch_size": 16}
    trained(monkeypatch, tmp_path, noise, methods=["vanilla", Counted()], **options)
    # Nine steps; the fourth is the first of an epoch, the eighth a second one.
    assert Counted.seen == [(2, 16, 2, 2, 16, 100), (2, 16, 2, 2, 16, 100)]


# Optimizers


def test_optimizers_go_by_names():
    assert make_optimizer("adam") == Adam()
    assert make_optimizer("sgd:0.9,1e-4") == SGD(momentum=0.9, weight_decay=1e-4)
    assert make_optimizer("sgd:0.9") == SGD(momentum=0.9)
    assert make_optimizer(SGD()) == make_optimizer("sgd") == SGD(momentum=0)
    assert Adam().configuration() == {"name": "adam", "betas": [0.9, 0.999], "eps": 1e-8}
    assert SGD().configuration() == {"name": "sgd", "momentum": 0.0, "weight_decay": 0.0}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: make_optimizer("sdg"), "'sgd'"),
        (lambda: make_optimizer("sgd:much"), "'much'.*sgd:0.9,1e-4"),
        (lambda: make_optimizer("sgd:0.9,1e-4,3"), "sgd:0.9,1e-4"),
        (lambda: make_optimizer("adam:0.9"), "sgd:0.9,1e-4"),
        (lambda: SGD(momentum=1), "momentum of sgd is 1"),
        (lambda: SGD(weight_decay=-1), "weight_decay of sgd is -1"),
        (lambda: SGD(momentum="0.9"), "'0.9'"),
        (lambda: Adam(betas=(0.9, 1.0)), "betas"),
        (lambda: Adam(eps=0), "eps"),
    ],
)
def test_a_senseless_optimizer_is_refused_in_one_sentence(make, words):
    with pytest.raises(ValueError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value) and ". " not in str(caught.value)


def test_the_optimizer_is_part_of_a_run(noise, monkeypatch, tmp_path):
    options = {"methods": "vanilla", "measure": [], "seeds": 3, "stream": "single-task"}
    options |= {"epochs": 1}
    kinds = ["adam", "sgd", "sgd:0.9", "sgd:0.9,0.1", Adam(betas=(0.8, 0.9))]
    frames = [trained(monkeypatch, tmp_path, noise, optimizer=k, **options)[0] for k in kinds]
    assert len({frame["run"].iloc[0] for frame in frames}) == len(kinds)
    assert "optimizer" not in frames[0]  # what is the paper's has no mark
    marks = frames[3][["optimizer", "optimizer_momentum", "optimizer_weight_decay"]]
    assert marks.iloc[0].tolist() == ["sgd", 0.9, 0.1]
    assert swrlib.load_records(tmp_path / "results")["run"].nunique() == len(kinds)


def calls_of(work, *args) -> int:
    """Return how many functions Python calls: what a small step costs, on any machine alike."""
    work(*args)  # what is made once
    profile = cProfile.Profile()
    profile.runcall(work, *args)
    return pstats.Stats(profile).total_calls  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", [Vanilla(), SWR(lam=0.1), swrlib.L2(lam=0.1)])
def test_a_small_step_calls_less_than_a_plain_loop(method, noise, tmp_path):
    batch = 8
    asked = Request(
        dataset=noise, model="mlp", stream="single-task", methods=[method], batch_size=batch
    )
    place = torch.device("cpu")
    job = Job(asked.runs(), Setting(noise, place, tmp_path, (), tmp_path, False, None))
    job.feed = Feed(noise, job.stages[0], batch, job.population.dtype)
    order = job.feed.order([0], 1, 1)
    model = swrlib.build_model("mlp", noise)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    images = noise.normalize(noise.train_images)

    def plain():
        for places in order[0].split(batch):
            labels = noise.train_labels.index_select(0, places)
            loss = cross_entropy(model(images.index_select(0, places)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    assert calls_of(job.epoch_, order, 1e-3) < calls_of(plain)


@pytest.mark.parametrize("seeds", [(3,), SEEDS])
@pytest.mark.parametrize("name", ["warm-start", "pixel-permuted:2,30,100", "label-shuffled:2,30"])
def test_images_that_a_stage_keeps_are_those_that_it_would_take_anew(
    name, seeds, noise, monkeypatch
):
    stream = swrlib.make_stream(name, epochs=1)
    for stages in zip(*[stream.stages(40, s, noise.train_labels) for s in seeds], strict=True):
        kept = Feed(noise, stages, BATCH, torch.float32)
        with monkeypatch.context() as patch:
            patch.setattr(feed, "KEPT", 0)
            anew = Feed(noise, stages, BATCH, torch.float32)
        places = kept.order(seeds, 1, 1)[:, :BATCH]
        (images, labels), (others, theirs) = kept.batch(places), anew.batch(places)
        assert torch.equal(images, others) and torch.equal(labels, theirs)
        images = images.view(len(seeds), *images.shape[-4:])
        for own, stage, taken, known in zip(images, stages, places, labels, strict=True):
            positions = stage.indices[taken]
            raw = noise.train_images[positions]
            if stage.pixels is not None:
                raw = raw.flatten(2)[..., stage.pixels].view_as(raw)
            assert torch.equal(own, noise.normalize(raw))
            true = noise.train_labels[positions] if stage.labels is None else stage.labels[taken]
            assert torch.equal(known, true)
