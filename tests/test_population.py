"""One population: what a newcomer adds, in a test, is trained as a plain loop would train it.

A stream, a method and a measure of one's own, none of them in the library, with Adam and with SGD;
and what seeds that lie side by side, batches of a stage, rows of a stage must not change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import cross_entropy

import swrlib
from swrlib import SWR, Method, SoftWeightRescaling, records
from swrlib.datasets import Dataset
from swrlib.measures import Measure
from swrlib.population import SGD, Adam
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
    lambda shot: {"": float(cross_entropy(shot.model(shot.stage_images), shot.stage_labels))},
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
        handed.append((epochs, table))
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


@pytest.mark.parametrize("stack", [None, 3, 2, 1])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_what_a_newcomer_writes_trains_as_a_plain_loop_does(
    optimizer, stack, noise, monkeypatch, tmp_path
):
    """By default as one stack of two seeds and three runs; cut up, it is the same."""
    jobs = {None: 1, 3: 2, 2: 4, 1: 6}[stack]
    rows, measured = trained(
        monkeypatch, tmp_path, noise, optimizer=optimizer, stack=stack, jobs=jobs
    )
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
            expected = np.array(plain_loop(noise, seed, method, optimizer))
            found = np.column_stack([*starts, ends])
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
            assert len({tuple(row) for row in expected.round(6)}) == len(STREAM.epochs)
