"""Methods of the paper's neighbours: the engine does what a plain PyTorch loop does, in float64.

The loop below knows nothing of the engine but how random numbers are keyed. What is compared is a
projection of every parameter at the end of every stage, beside the losses.
"""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import swrlib
from swrlib import L2, SWR, FullReset, SoftWeightRescaling, Vanilla, records
from swrlib.datasets import Dataset
from swrlib.engine.strengths import find_method
from swrlib.measures import Measure
from swrlib.methods import (
    FIRE,
    ContinualBackprop,
    L2EffectiveRank,
    ReDo,
    ShrinkPerturbNoise,
    SpectralRegularization,
    Wasserstein,
    make_method,
    reinitializations,
)
from swrlib.papers import find_paper
from swrlib.population import SGD, Adam, Batch, Blueprint, Members, Population
from swrlib.streams import generator

SEEDS = (3, 8)
BATCH = 7  # 40 images: five batches and a short one
RATE = 1e-2


@pytest.fixture(scope="module")
def noise() -> Dataset:
    draws = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (60, 1, 10, 10), generator=draws, dtype=torch.uint8)
    labels = torch.arange(60) % 4
    parts = (images[:40], labels[:40], images[40:], labels[40:])
    return Dataset("noise", *parts, tuple("abcd"), (0.5,), (0.25,))


def written(text):
    return find_method(text, "mnist", "mlp", "warm-start", None, paper=find_paper("swr"))


def projections(model):
    """Return one number a parameter, in which every entry counts."""
    found = {}
    for place, (name, parameter) in enumerate(model.named_parameters()):
        weights = torch.randn(
            parameter.numel(), generator=torch.Generator().manual_seed(place), dtype=torch.float64
        )
        found[name] = float(parameter.detach().double().flatten() @ weights)
    return found


PROJECTIONS = Measure("projections", lambda shot: projections(shot.model), when="end")


@dataclass
class Plain:
    """What the plain loop does for a method."""

    penalty: object = None  # penalty(model, initial) → term of the loss
    rescaling: dict | None = None
    every: int = 0
    regularly: object = None  # regularly(loop)
    change: object = None  # change(loop, stage)
    new_optimizer: bool = False


@dataclass
class Loop:
    """The state of a plain loop."""

    seed: int
    data: Dataset
    name: str
    make: object
    model: nn.Module = None
    initial: nn.Module = None
    optimizer: torch.optim.Optimizer = None
    seen: list = field(default_factory=list)  # images, one by one
    drawn: int = 0
    options: dict = field(default_factory=dict)

    def draw(self, purpose):
        torch.manual_seed(generator(self.seed, purpose).initial_seed())
        return swrlib.build_model(self.name, self.data, **self.options).double()

    def run(self, stream, plain):
        self.initial = self.draw("weights")
        self.model = copy.deepcopy(self.initial)
        self.optimizer = self.make(self.model.parameters())
        swr = SoftWeightRescaling(self.model, **plain.rescaling) if plain.rescaling else None
        images = (self.data.train_images.double() / 255 - 0.5) / 0.25
        table, steps = [], 0
        for number, stage in enumerate(
            stream.stages(len(images), self.seed, self.data.train_labels), start=1
        ):
            if number > 1:
                with torch.no_grad():
                    if plain.change:
                        plain.change(self, number)
                if plain.new_optimizer:
                    self.optimizer = self.make(self.model.parameters())
                self.seen.clear()
            shown, labels = images, self.data.train_labels.clone()
            if stage.labels is not None:
                labels[stage.indices] = stage.labels
            if stage.pixels is not None:
                shown = images.flatten(2)[:, :, stage.pixels].view_as(images)
            for epoch in range(1, stage.epochs + 1):
                draw = generator(self.seed, "order", number, epoch)
                order = stage.indices[torch.randperm(len(stage.indices), generator=draw)]
                if stage.rows == "epoch" or epoch == 1:
                    losses = []
                for batch in order.split(BATCH):
                    self.model.train()
                    loss = cross_entropy(self.model(shown[batch]), labels[batch])
                    losses.append(loss.item())
                    if plain.penalty:
                        loss = loss + plain.penalty(self.model, self.initial)
                    self.optimizer.zero_grad()
                    loss.backward()
                    self.optimizer.step()
                    if swr:
                        swr.step()
                    self.seen += list(shown[batch])
                    steps += 1
                    if plain.every and steps % plain.every == 0:
                        plain.regularly(self)
            table.append({"": sum(losses) / len(losses)} | projections(self.model))
        return table


# The methods once more


def wasserstein(lam, sort=True, sort_initial=True):
    def penalty(model, initial):
        total = 0.0
        for p, p0 in zip(model.parameters(), initial.parameters(), strict=True):
            now, then = p.flatten(), p0.detach().flatten()
            if sort:
                now = now.sort().values
            if sort and sort_initial:
                then = then.sort().values
            total = total + (now - then).square().mean()
        return lam * total

    return Plain(penalty)


def spectral(lam, iterations):
    def penalty(model, initial):
        total = 0.0
        for place, (name, p) in enumerate(model.named_parameters()):
            if name.endswith("bias"):
                total = total + p.square().sum()
                continue
            if "norm" in name:
                total = total + (p - 1).square().sum()
                continue
            matrix = p.flatten(1)
            draw = generator(0, "spectral", place)
            v = torch.randn(matrix.shape[1], 1, generator=draw, dtype=torch.float64)
            with torch.no_grad():
                for _ in range(iterations):
                    v = matrix.T @ (matrix @ v)
                    v = v / v.norm()
            total = total + ((matrix @ v).norm().square() - 2).square()
        return lam * total

    return Plain(penalty)


def hidden(model, images):
    """Return what feeds each layer after the first."""
    found, x, first = [], images, True
    for module in model:
        if isinstance(module, nn.Linear | nn.Conv2d):
            if not first:
                found.append(x)
            first = False
        x = module(x)
    return found


def l2_er(lam, rate, every, count, layers=None, sign=1):
    def regularly(loop):
        images = torch.stack(loop.seen[-count:])
        statistics = copy.deepcopy(dict(loop.model.named_buffers()))
        features = hidden(loop.model, images)
        total = 0.0
        for h in features[-layers:] if layers else features:
            values = torch.linalg.svdvals(h.flatten(1))
            p = values / values.sum()
            total = total + torch.exp(-(p * torch.log(p + 1e-8)).sum())
        parameters = list(loop.model.parameters())
        mean = total / len(features[-layers:] if layers else features)
        found = torch.autograd.grad(mean, parameters, allow_unused=True)
        with torch.no_grad():
            for p, g in zip(parameters, found, strict=True):
                if g is not None:
                    p.add_(sign * rate * g)
            for name, buffer in loop.model.named_buffers():
                buffer.copy_(statistics[name])

    def penalty(model, initial):
        return lam / 2 * sum(p.square().sum() for p in model.parameters())

    return Plain(penalty, every=every, regularly=regularly)


def polar(matrix, iterations):
    if iterations is None:
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        return u @ v
    x = matrix / matrix.norm()
    for _ in range(iterations):
        x = 1.5 * x - 0.5 * x @ x.T @ x
    return x


def fire(iterations=10, norm="isometry"):
    def change(loop, number):
        for (name, p), p0 in zip(
            loop.model.named_parameters(), loop.initial.parameters(), strict=True
        ):
            if name.endswith("bias") or p.dim() == 1:
                continue
            new = torch.empty_like(p)
            if p.dim() == 2:
                new = polar(p, iterations) * math.sqrt(p.shape[0] / p.shape[1])
            else:
                for i, j in itertools.product(range(p.shape[2]), range(p.shape[3])):
                    part = polar(p[:, :, i, j], iterations)
                    new[:, :, i, j] = part * math.sqrt(p.shape[0] / p.shape[1])
                new /= p.shape[2] * p.shape[3]
            if norm != "isometry":
                new *= (p0 if norm == "initial" else p).norm() / new.norm()
            p.copy_(new)

    return Plain(change=change, new_optimizer=True)


def redo(threshold, every, count, highest=False):
    @torch.no_grad()
    def regularly(loop):
        loop.drawn += 1
        new = loop.draw(f"redo {loop.drawn}")
        layers = [m for m in loop.model if isinstance(m, nn.Linear | nn.Conv2d)]
        fresh = [m for m in new if isinstance(m, nn.Linear | nn.Conv2d)]
        features = hidden(loop.model, torch.stack(loop.seen[-count:]))
        for h, layer, next_layer, drawn in zip(features, layers, layers[1:], fresh, strict=False):
            width = layer.weight.shape[0]
            for unit in range(width):
                grouped = h.abs().reshape(len(h), width, -1)
                score = grouped[:, unit].mean() / grouped.mean()
                if (score <= threshold) if not highest else (score >= 1 / threshold):
                    recycle(loop.optimizer, layer, drawn, next_layer, unit)

    return Plain(every=every, regularly=regularly)


def continual_backprop(rate, decay, maturity, *, highest=False, released=False, rebirth=True):
    """Replace units one by one; features are those of the network before the step."""

    @torch.no_grad()
    def regularly(loop):
        if loop.drawn == 0:
            loop.before, loop.noted, loop.layers = copy.deepcopy(loop.initial), 0, {}
        loop.drawn += 1
        if len(loop.seen) <= loop.noted:  # another stage
            loop.noted = 0
        images = torch.stack(loop.seen[loop.noted :])
        loop.noted = len(loop.seen)
        layers = [m for m in loop.model if isinstance(m, nn.Linear | nn.Conv2d)]
        new = loop.draw(f"continual-backprop {loop.drawn}")
        fresh = [m for m in new if isinstance(m, nn.Linear | nn.Conv2d)]
        features = hidden(loop.before, images)
        for place, (h, layer) in enumerate(zip(features, layers, strict=False)):
            width, after = layer.weight.shape[0], layers[place + 1]
            grouped = h.reshape(len(h), width, -1)
            outgoing = after.weight.reshape(len(after.weight), width, -1).abs().mean((0, 2))
            kept = loop.layers.setdefault(
                place, {"sum": [0.0] * width, "age": [0] * width, "due": 0}
            )
            utility = []
            for unit in range(width):
                kept["age"][unit] += 1
                if released:
                    kept["sum"][unit] += float(grouped[:, unit].mean())
                    utility.append(abs(kept["sum"][unit]) * float(outgoing[unit]))
                else:
                    now = float(grouped[:, unit].abs().mean() * outgoing[unit])
                    kept["sum"][unit] = decay * kept["sum"][unit] + (1 - decay) * now
                    utility.append(kept["sum"][unit] / (1 - decay ** kept["age"][unit]))
            mature = [unit for unit in range(width) if kept["age"][unit] > maturity]
            kept["due"] += rate * len(mature)
            while kept["due"] >= 1:
                kept["due"] -= 1
                unit = (max if highest or released else min)(mature, key=utility.__getitem__)
                mature.remove(unit)
                recycle(loop.optimizer, layer, fresh[place], after, unit)
                if released:
                    each = after.weight.shape[1] // width
                    columns = slice(unit * each, (unit + 1) * each)
                    after.weight[:, columns] = fresh[place + 1].weight[:, columns]
                kept["sum"][unit], kept["age"][unit] = 0.0, 0 if rebirth else kept["age"][unit]
        loop.before = copy.deepcopy(loop.model)

    return Plain(every=1, regularly=regularly)


def recycle(optimizer, layer, drawn, next_layer, unit):
    each = next_layer.weight.shape[1] // layer.weight.shape[0]
    columns = slice(unit * each, (unit + 1) * each)
    layer.weight[unit] = drawn.weight[unit]
    layer.bias[unit] = drawn.bias[unit]
    next_layer.weight[:, columns] = 0
    for parameter, places in (
        (layer.weight, unit),
        (layer.bias, unit),
        (next_layer.weight, (slice(None), columns)),
    ):
        for moment in optimizer.state[parameter].values():
            if moment is not None and moment.dim():
                moment[places] = 0


def shrink_perturb_noise(lam, deviation):
    def change(loop, number):
        draw = generator(loop.seed, "shrink-perturb-noise", number)
        for p in loop.model.parameters():
            noise = torch.randn(p.shape, generator=draw, dtype=torch.float64)
            p.copy_((1 - lam) * p + deviation * noise)

    return Plain(change=change)


def l2(lam):
    return Plain(lambda model, initial: lam / 2 * sum(p.square().sum() for p in model.parameters()))


#: (the library's, ours)
PAIRS = {
    "vanilla": (Vanilla(), Plain()),
    "l2": (L2(lam=0.1), l2(0.1)),
    "swr": (SWR(lam=0.05), Plain(rescaling={"lam": 0.05})),
    "wasserstein": (Wasserstein(lam=3.0), wasserstein(3.0)),
    "spectral": (SpectralRegularization(lam=0.1), spectral(0.1, 10)),
    "l2-er": (
        L2EffectiveRank(lam=0.1, rate=0.1, every=4, watched=12),
        l2_er(0.1, 0.1, 4, 12),
    ),
    "l2-er, last layer": (
        L2EffectiveRank(lam=0.0, rate=0.1, every=3, watched=9, layers=1),
        l2_er(0.0, 0.1, 3, 9, layers=1),
    ),
    "fire": (FIRE(), fire()),
    "fire, exact": (FIRE(iterations=None), fire(None)),
    "fire, present norm": (FIRE(norm="present"), fire(norm="present")),
    "fire, initial norm": (FIRE(iterations=5, norm="initial"), fire(5, norm="initial")),
    "redo": (ReDo(threshold=0.6, every=4, watched=10), redo(0.6, 4, 10)),
    "continual-backprop": (
        ContinualBackprop(rate=0.02, decay=0.9, maturity=3),
        continual_backprop(0.02, 0.9, 3),
    ),
    "continual-backprop, released": (
        ContinualBackprop(rate=0.02, maturity=3, variant="lop-jax"),
        continual_backprop(0.02, 0.9, 3, released=True),
    ),
    "shrink-perturb-noise": (
        ShrinkPerturbNoise(lam=0.4, deviation=0.05),
        shrink_perturb_noise(0.4, 0.05),
    ),
}
OPTIMIZERS = {
    "adam": (Adam(), lambda parameters: torch.optim.Adam(parameters, lr=RATE)),
    "sgd": (SGD(), lambda parameters: torch.optim.SGD(parameters, lr=RATE)),
    "momentum": (
        SGD(momentum=0.9, weight_decay=0.1),
        lambda parameters: torch.optim.SGD(parameters, lr=RATE, momentum=0.9, weight_decay=0.1),
    ),
}
STREAM = swrlib.make_stream("warm-start", epochs=2, learning_rate=RATE)


def engine(monkeypatch, tmp_path, data, methods, **options):
    """Train with the library, and return what it hands to the records in float64."""
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
                "methods": methods,
                "seeds": SEEDS,
                "measure": [PROJECTIONS],
                "batch_size": BATCH,
                "dtype": torch.float64,
                "device": "cpu",
                "results": tmp_path / "results",
                "checkpoints": tmp_path / "checkpoints",
                "progress": False,
                "stack": 60,
            }
            | options
        )
    assert len(handed) == 1
    return [pd.concat(part) for part in zip(*handed, strict=True)]


def assert_same(found, seed, method, expected, atol, stream=STREAM):
    """Compare the parameters at the end of each stage, and the mean loss of its rows.

    Each projection sums up to ten thousand entries, whose rounding is relative to the sum.
    """
    rows, table = found
    kept = rows[(rows["seed"] == seed) & (rows["method"] == method.name)]
    (run,) = kept["run"].unique()
    table = table[table["run"] == run]
    ends = np.cumsum(stream.epochs)
    for end, values in zip(ends, expected, strict=True):
        at_end = table[table["epoch"] == end].set_index("layer")["value"]
        loss = kept[kept["epoch"] == end]["train_loss"].item()
        assert loss == pytest.approx(values[""], rel=0, abs=atol)
        for name, value in values.items():
            if name:
                assert at_end[name] == pytest.approx(value, rel=atol, abs=atol), name


def compared(monkeypatch, tmp_path, data, name, optimizer, model="mlp", stream=STREAM, **more):
    """Train a method with the library, and return a comparison with a plain form of it."""
    method = PAIRS[name][0] if isinstance(name, str) else name
    theirs, make = OPTIMIZERS[optimizer]
    found = engine(
        monkeypatch, tmp_path, data, method, model=model, optimizer=theirs, stream=stream, **more
    )

    def compare(plain, atol):
        for seed in SEEDS:
            expected = Loop(seed, data, model, make).run(stream, plain)
            assert_same(found, seed, method, expected, atol, stream)

    return compare


def tolerance(name, optimizer):
    """Adam amplifies rounding where gradients vanish, as the regularizer's sorting does."""
    if name == "wasserstein" and optimizer == "adam":
        return 1e-5
    if name.startswith("continual-backprop") and optimizer == "adam":
        return 1e-10  # a unit that starts anew has vanishing gradients, too
    return 1e-10 if "exact" in name or name == "l2-er" else 1e-12  # an SVD


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", PAIRS)
def test_the_engine_equals_a_plain_loop(name, optimizer, noise, tmp_path, monkeypatch):
    compare = compared(monkeypatch, tmp_path, noise, name, optimizer)
    compare(PAIRS[name][1], tolerance(name, optimizer))


OPTIONS = {
    "layer norm": {"layer_norm": True, "initialization": "he"},
    "crelu": {"activation": "crelu", "initialization": "glorot"},
    "identity": {"activation": "identity", "hidden": (12, 9, 7)},
    "leaky": {"activation": "leaky_relu", "hidden": ()},
}


@pytest.mark.parametrize("name", ["l2", "swr", "wasserstein", "spectral", "l2-er", "fire"])
@pytest.mark.parametrize("case", OPTIONS)
def test_other_networks_equal_a_plain_loop(case, name, noise, tmp_path, monkeypatch):
    if (name, case) == ("l2-er", "leaky"):
        with pytest.raises(ValueError, match="needs a hidden layer"):
            engine(monkeypatch, tmp_path, noise, PAIRS[name][0], options=OPTIONS[case])
        return
    theirs, make = OPTIMIZERS["sgd"]
    options = {"options": OPTIONS[case], "optimizer": theirs}
    found = engine(monkeypatch, tmp_path, noise, PAIRS[name][0], **options)
    for seed in SEEDS:
        loop = Loop(seed, noise, "mlp", make, options=OPTIONS[case])
        assert_same(found, seed, PAIRS[name][0], loop.run(STREAM, PAIRS[name][1]), 1e-11)


@pytest.mark.parametrize("name", [name for name in PAIRS if name != "vanilla"])
@pytest.mark.parametrize("model", ["cnn", "cnn-bn"])
def test_convolutions_equal_a_plain_loop(name, model, noise, tmp_path, monkeypatch):
    if (name.split(",")[0], model) in (("redo", "cnn-bn"), ("continual-backprop", "cnn-bn")):
        pytest.skip("refused: it has normalizations")
    stream = swrlib.make_stream("warm-start", epochs=1, learning_rate=RATE)
    compare = compared(monkeypatch, tmp_path, noise, name, "sgd", model=model, stream=stream)
    compare(PAIRS[name][1], 1e-9 if model == "cnn-bn" else 1e-11)


NEIGHBOURS = {"cnn-strided": {"activation": "tanh"}, "resnet18": {"width": 2}}


@pytest.mark.parametrize("name", ["fire", "swr"])
@pytest.mark.parametrize("model", NEIGHBOURS)
def test_the_neighbours_networks_equal_a_plain_loop(model, name, noise, tmp_path, monkeypatch):
    """The curvature paper's strided convolutions, and FIRE's ResNet-18."""
    stream = swrlib.make_stream("warm-start", epochs=1, learning_rate=RATE)
    theirs, make = OPTIMIZERS["sgd"]
    given = {"model": model, "options": NEIGHBOURS[model], "optimizer": theirs, "stream": stream}
    found = engine(monkeypatch, tmp_path, noise, ["vanilla", PAIRS[name][0]], **given)
    for seed in SEEDS:
        loop = Loop(seed, noise, model, make, options=NEIGHBOURS[model])
        expected = loop.run(stream, PAIRS[name][1])
        assert_same(found, seed, PAIRS[name][0], expected, 1e-9, stream)


# Mutants: the comparison above sees them.


MUTANTS = {
    "nothing sorted": ("wasserstein", wasserstein(3.0, sort=False), "mlp"),  # L2 Init
    "unsorted targets": ("wasserstein", wasserstein(3.0, sort_initial=False), "mlp"),
    "one power iteration": ("spectral", spectral(0.1, 1), "mlp"),
    "down the rank": ("l2-er", l2_er(0.1, 0.1, 4, 12, sign=-1), "mlp"),
    "the latest batch alone": ("l2-er", l2_er(0.1, 0.1, 4, BATCH), "mlp"),
    "nine iterations": ("fire", fire(9), "mlp"),
    "the optimizer kept": ("fire", Plain(change=fire().change), "mlp"),
    "the most active units": ("redo", redo(0.6, 4, 10, highest=True), "mlp"),
    "the highest utility": (
        "continual-backprop",
        continual_backprop(0.02, 0.9, 3, highest=True),
        "mlp",
    ),
    "units without a new age": (
        "continual-backprop",
        continual_backprop(0.02, 0.9, 3, rebirth=False),
        "mlp",
    ),
    "less noise": ("shrink-perturb-noise", shrink_perturb_noise(0.4, 0.04), "mlp"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_wrong_method_is_caught(mutant, noise, tmp_path, monkeypatch):
    name, plain, model = MUTANTS[mutant]
    compare = compared(monkeypatch, tmp_path, noise, name, "adam", model=model)
    with pytest.raises(AssertionError):
        compare(plain, 1e-5)


def test_a_transposed_slice_is_caught(noise, tmp_path, monkeypatch):
    right = reinitializations.reinitialized
    with monkeypatch.context() as patched:
        patched.setattr(
            reinitializations,
            "reinitialized",
            lambda weight, axes, iterations: (
                right(weight, axes, iterations).mT if axes else right(weight, axes, iterations)
            ),
        )
        compare = compared(patched, tmp_path, noise, "fire", "sgd", model="cnn")
    with pytest.raises(AssertionError):
        compare(PAIRS["fire"][1], 1e-5)


# Runs side by side


def final(found):
    """Return the projections at the end of training by method and seed, and by parameter."""
    rows, table = found
    last = table[table["epoch"] == rows["epoch"].max()]
    names = rows.drop_duplicates("run").set_index("run")[["method", "seed"]]
    return last.join(names, on="run").set_index(["method", "seed", "layer"])["value"].sort_index()


MANY = [
    Vanilla(),
    FullReset(),
    *(method for name, (method, _) in PAIRS.items() if name != "vanilla" and "," not in name),
    Wasserstein(lam=1.0),
    L2EffectiveRank(lam=0.2, rate=0.1, every=4, watched=12),
    FIRE(iterations=3),
]


@pytest.mark.parametrize("model", ["mlp", "cnn-bn"])
def test_no_run_sees_its_neighbours(model, noise, tmp_path, monkeypatch):
    """FIRE's new optimizer is its own beside a full reset's, L2-ER moves no other's statistics."""
    of_chains = (ReDo, ContinualBackprop) if model == "cnn-bn" else ()
    methods = [m for m in MANY if not isinstance(m, of_chains)]
    together = engine(monkeypatch, tmp_path, noise, methods, model=model)
    _, table = together
    for number, method in enumerate(methods):
        folder = tmp_path / str(number)
        alone = engine(monkeypatch, folder, noise, method, model=model)
        for run in alone[0]["run"].unique():
            ours = table[table["run"] == run].set_index(["epoch", "layer"])["value"]
            theirs = alone[1][alone[1]["run"] == run].set_index(["epoch", "layer"])["value"]
            pd.testing.assert_series_equal(ours, theirs, check_exact=False, rtol=0, atol=1e-9)


CARRIED_ON = ["l2-er", "redo", "continual-backprop", "fire", "wasserstein", "spectral"]


@pytest.mark.parametrize("name", CARRIED_ON)
def test_an_interrupted_training_carries_on_bit_for_bit(name, noise, tmp_path, monkeypatch):
    """The latest images, and how often units were drawn, are part of a checkpoint."""
    stream = swrlib.make_stream("warm-start", epochs=4, learning_rate=RATE)
    method = PAIRS[name][0]
    # Another strength beside it: these share the images in a checkpoint.
    methods = [method, *([L2EffectiveRank(lam=0.3, rate=0.1, every=4, watched=12)])]
    options = {"stream": stream}
    whole = engine(monkeypatch, tmp_path / "whole", noise, methods, **options)
    asked = itertools.count(1)
    part = tmp_path / "part"
    for _ in range(3):
        with pytest.raises(swrlib.engine.Stopped):
            engine(monkeypatch, part, noise, methods, **options, stop=lambda: next(asked) % 2 == 0)
    rest = engine(monkeypatch, part, noise, methods, **options)
    pd.testing.assert_series_equal(final(whole), final(rest), check_exact=True)


@pytest.mark.parametrize("name", [name for name in PAIRS if "," not in name])
def test_half_precision_trains_too(name, noise, tmp_path, monkeypatch):
    method = PAIRS[name][0]
    options = {"dtype": torch.bfloat16, "optimizer": OPTIMIZERS["sgd"][0]}
    rows, table = engine(monkeypatch, tmp_path, noise, method, **options)
    exact = final(
        engine(monkeypatch, tmp_path / "exact", noise, method, **options | {"dtype": torch.float32})
    )
    assert not rows["diverged"].any()
    if name != "redo":  # which unit is dormant, rounding decides
        difference = (final((rows, table)) - exact).abs().max()
        assert 0 < difference < 0.5


# Closed forms and bad input


class Group:
    """As much of `swrlib.population.Members` as a penalty needs: runs of two strengths."""

    def __init__(self, parameters, initial, lams):
        self.parameters, self.initial, self.lams = parameters, initial, lams
        self.gradients = [torch.zeros_like(p) for p in parameters]
        self.fixed, self.memory = {}, {}

    def lam(self):
        lam = torch.tensor(self.lams, dtype=torch.float64)
        return [lam.view(-1, *(1,) * (p.dim() - 2)) for p in self.parameters]


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_wasserstein_gradient_is_that_of_sorted_tensors():
    initial = [draws(3, 1, 5, 4, seed=1), draws(3, 1, 6, seed=2), draws(3, 1, 4, 2, 3, 3, seed=3)]
    parameters = [draws(3, 2, *p.shape[2:], seed=4 + i) for i, p in enumerate(initial)]
    parameters[2] = parameters[2].permute(0, 1, 2, 4, 5, 3).contiguous().permute(0, 1, 2, 5, 3, 4)
    group = Group(parameters, initial, [0.5, 2.0])
    method = Wasserstein(lam=1.0)
    method.start(group)
    method.gradients_(group)
    for p, p0, found in zip(parameters, initial, group.gradients, strict=True):
        for seed, (run, lam) in itertools.product(range(3), enumerate(group.lams)):
            leaf = p[seed, run].clone().requires_grad_()
            distance = leaf.flatten().sort().values - p0[seed, 0].flatten().sort().values
            (lam * distance.square().mean()).backward()
            torch.testing.assert_close(found[seed, run], leaf.grad, rtol=0, atol=1e-15)


def test_the_wasserstein_gradient_vanishes_at_every_permutation():
    initial = [draws(2, 1, 50, 4)]
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    parameters = [initial[0].flatten(2)[..., order].view(2, 1, 50, 4)]
    group = Group(parameters, initial, [1.0])
    method = Wasserstein(lam=1.0)
    method.start(group)
    method.gradients_(group)
    assert not group.gradients[0].any()


def mean_rank(features):
    """Return the mean effective rank of layers' features, by numpy's singular values."""
    ranks = []
    for h in features:
        values = np.linalg.svd(h.numpy(), compute_uv=False)
        p = values / values.sum()
        ranks.append(np.exp(-(p * np.log(p + 1e-8)).sum()))
    return float(np.mean(ranks))


def directional(function, parameters, place, direction):
    """Return the slope of a function where one of its tensors moves, by finite differences."""
    ahead, behind = (
        function(
            [p + sign * 1e-5 * direction if i == place else p for i, p in enumerate(parameters)]
        )
        for sign in (1, -1)
    )
    return (ahead - behind) / 2e-5


def test_the_separate_step_climbs_the_effective_rank(noise, tmp_path, monkeypatch):
    """By finite differences of numpy's singular values, without any automatic gradient."""
    torch.manual_seed(0)
    model = swrlib.build_model("mlp", noise, hidden=(5, 4)).double()
    loop = Loop(0, noise, "mlp", None, model=model)
    loop.seen = list(draws(9, 1, 10, 10, seed=1))
    images = torch.stack(loop.seen)

    @torch.no_grad()
    def rank(parameters):
        other = copy.deepcopy(model)
        for p, value in zip(other.parameters(), parameters, strict=True):
            p.copy_(value)
        return mean_rank(hidden(other, images))

    before = [p.detach().clone() for p in model.parameters()]
    l2_er(0.0, 1.0, 1, 9).regularly(loop)
    after = [p.detach() for p in model.parameters()]
    for place in (0, 1, 2, 3):
        direction = draws(*before[place].shape, seed=7)
        moved = float(((after[place] - before[place]) * direction).sum())
        slope = directional(rank, before, place, direction)
        assert moved == pytest.approx(slope, rel=1e-5, abs=1e-7)
    assert torch.equal(after[4], before[4])  # the head is behind all features


def test_a_weight_below_full_rank_is_named_once(noise, tmp_path, monkeypatch):
    class Dead(FIRE):
        """All weights of a layer's first two units are zero before each change."""

        def change_(self, members, stage):
            members.weights[1][:, :, :2] = 0
            super().change_(members, stage)

    stream = swrlib.make_stream("limited-access", epochs=1, learning_rate=RATE)
    with pytest.warns(UserWarning, match="below full") as caught:
        rows, _ = engine(monkeypatch, tmp_path, noise, Dead(), stream=stream, model="mlp")
    (message,) = [str(w.message) for w in caught if "below full" in str(w.message)]
    assert "linear2" in message and "linear1" not in message and "stage 2" in message
    assert not rows["diverged"].any()  # zero directions stay zero, they are no NaN


def test_the_library_climbs_the_effective_rank(noise):
    """As above, and in one population with two runs of a seed, in which no automatic gradient."""
    blueprint = Blueprint("mlp", {"hidden": (5, 4), "activation": "tanh"}, noise)
    options = {"device": torch.device("cpu"), "dtype": torch.float64}
    population = Population(blueprint, [3], 2, **options)
    members = Members(population, slice(0, 2), {"lam": [0.0, 0.0]})
    with torch.no_grad():
        for parameter in members.parameters:  # each run has weights of its own
            parameter += 0.1 * draws(*parameter.shape, seed=11)
    images = draws(9, 1, 10, 10, seed=1)
    method = L2EffectiveRank(lam=0.0, rate=1.0, every=1, watched=9)
    method.start(members)
    population.batch = Batch(images, torch.zeros(1, 9).long(), {}, *torch.zeros(2, 2))
    method.after_step_(members)
    before = [p.clone() for p in members.parameters]
    with torch.no_grad():
        method.regularly_(members)
    for run in range(2):

        @torch.no_grad()
        def rank(parameters):
            model = population.stack.module(0)
            for p, value in zip(model.parameters(), parameters, strict=True):
                p.copy_(value)
            return mean_rank(hidden(model, images))

        own = [p[0, run] for p in before]
        for place, after in enumerate(members.parameters):
            direction = draws(*own[place].shape, seed=7)
            moved = float(((after[0, run] - own[place]) * direction).sum())
            slope = directional(rank, own, place, direction)
            assert moved == pytest.approx(slope, rel=1e-5, abs=1e-7)
            assert moved or place > 3, "the head alone is behind all features"


class Spoiled(FIRE):
    """A weight of one seed's runs is not finite at the first change."""

    def change_(self, members, stage):
        if stage == 2:
            members.weights[1][0, :, 0, 0] = math.nan
        super().change_(members, stage)


@pytest.mark.parametrize("iterations", [10, None])
def test_a_weight_that_is_not_finite_is_named_once(iterations, noise, tmp_path, monkeypatch):
    stream = swrlib.make_stream("limited-access", epochs=1, learning_rate=RATE)
    options = {"stream": stream, "model": "mlp"}
    with pytest.warns(UserWarning, match="not finite: linear2;") as caught:
        rows, _ = engine(monkeypatch, tmp_path, noise, Spoiled(iterations), **options)
    (message,) = [str(w.message) for w in caught if "not finite" in str(w.message)]
    assert "linear2" in message and "linear1" not in message and "stage 2" in message
    assert "\n" not in message and ". " not in message
    assert set(rows[rows["diverged"]]["seed"]) == {SEEDS[0]}  # the other seed trains as ever
    right = engine(monkeypatch, tmp_path / "right", noise, FIRE(iterations), **options)
    theirs, ours = (f[0].query(f"seed == {SEEDS[1]}")["train_loss"] for f in (right, (rows,)))
    assert ours.tolist() == pytest.approx(theirs.tolist(), rel=1e-12, nan_ok=True)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Wasserstein(lam=-1), "wasserstein"),
        (lambda: SpectralRegularization(lam=1, iterations=0), "iterations is 0"),
        (lambda: L2EffectiveRank(lam=0, rate=-1), "rate of l2-er"),
        (lambda: L2EffectiveRank(lam=0, every=0), "every is 0"),
        (lambda: L2EffectiveRank(lam=0, watched=1.5), "watched is 1.5"),
        (lambda: L2EffectiveRank(lam=0, layers=0), "layers is 0"),
        (lambda: FIRE(iterations=0), "iterations is 0"),
        (lambda: FIRE(norm="presnet"), "'present'"),
        (lambda: ReDo(threshold=-0.1), "threshold of redo"),
        (lambda: ReDo(threshold=True), "threshold of redo"),
        (lambda: ReDo(every=0), "every is 0"),
        (lambda: ShrinkPerturbNoise(lam=2), "shrink-perturb-noise"),
        (lambda: ShrinkPerturbNoise(lam=0.2, deviation=math.nan), "deviation"),
        (lambda: make_method("fire", 0.1), "takes no λ"),
        (lambda: make_method("l2-er"), r"L2EffectiveRank\(lam="),
        (lambda: make_method("wassertein", 0.1), "'wasserstein'"),
        (lambda: written("fire:iteration=3"), "no option 'iteration': did you mean 'iterations'"),
        (lambda: written("fire:norm=presnet"), "'present'"),
        (lambda: written("fire:0.1,norm=present"), "takes no λ"),
        (lambda: written("l2:1e-3,half=1"), "no option 'half': it has none"),
        (lambda: written("spectral:iterations=3"), "prints no λ of spectral"),
        (lambda: written("spectral:x,iterations=3"), "cannot read λ"),
    ],
)
def test_a_senseless_method_is_refused_in_one_sentence(make, words):
    with pytest.raises(ValueError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value) and ". " not in str(caught.value)


def test_options_are_written_behind_the_name():
    assert written("fire:norm=present") == FIRE(norm="present")
    assert written("fire:iterations=none,norm=initial") == FIRE(iterations=None, norm="initial")
    assert written("spectral:1e-3,iterations=4") == SpectralRegularization(lam=1e-3, iterations=4)
    assert written("redo:threshold=0.1") == ReDo(threshold=0.1)
    assert written("swr:variant=printed") == SWR(lam=1e-4, variant="printed"), "the paper's λ"
    assert written("swr:1e-4,1e-1,variant=printed").lam_classifier == 0.1


@pytest.mark.parametrize("method", [ReDo(), ContinualBackprop()], ids=lambda method: method.name)
@pytest.mark.parametrize("model", ["cnn-bn", "resnet18"])
def test_what_replaces_units_names_what_hinders_it(model, method, noise, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=rf"{method.name} needs a chain.*(norm1|bn1)"):
        engine(monkeypatch, tmp_path, noise, method, model=model)


@pytest.mark.parametrize("name", ["continual-backprop", "continual-backprop, released"])
@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_continual_backprop_in_a_loop_of_ones_own(name, model, noise):
    """The same class, in a loop that a user wrote; it looks at steps that train alone."""
    method, plain = PAIRS[name]
    make = OPTIMIZERS["sgd"][1]
    ours, theirs = (Loop(3, noise, model, make) for _ in range(2))
    expected = theirs.run(STREAM, plain)[-1]
    network = ours.draw("weights")
    optimizer = make(network.parameters())
    fresh = lambda: ours.draw(f"continual-backprop {loop._steps}")  # noqa: E731
    loop = swrlib.InLoop(method, network, optimizer, fresh=fresh)
    images = (noise.train_images.double() / 255 - 0.5) / 0.25
    for number, stage in enumerate(STREAM.stages(len(images), 3, noise.train_labels), start=1):
        for epoch in range(1, stage.epochs + 1):
            draw = generator(3, "order", number, epoch)
            order = stage.indices[torch.randperm(len(stage.indices), generator=draw)]
            for batch in order.split(BATCH):
                optimizer.zero_grad()
                cross_entropy(network(images[batch]), noise.train_labels[batch]).backward()
                with torch.no_grad():
                    network(torch.zeros_like(images))
                optimizer.step()
    for place, value in projections(network).items():
        assert value == pytest.approx(expected[place], rel=1e-10, abs=1e-10), place
    loop.remove()
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_methods_by_name():
    assert make_method("wasserstein", 0.1) == Wasserstein(lam=0.1)
    assert make_method("l2-er", 1e-3) == L2EffectiveRank(
        lam=1e-3, rate=1e-2, every=100, watched=100
    )
    assert make_method("spectral", 1e-3) == SpectralRegularization(lam=1e-3, iterations=10)
    assert make_method("fire") == FIRE(iterations=10, norm="isometry")
    assert make_method("continual-backprop") == ContinualBackprop(
        rate=1e-4, decay=0.99, maturity=100, variant="lowest"
    )
    assert make_method("redo") == ReDo(threshold=0.025, every=1000, watched=100)
    assert make_method("shrink-perturb-noise", 0.4) == ShrinkPerturbNoise(lam=0.4, deviation=0.01)
