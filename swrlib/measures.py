"""What is measured in training beyond the columns of the records.

Step measures compare the norms around one step and one rescaling; they are stored as the epoch's
maximum, mean and last value. Others look at a network after an epoch, or at the start or the end of
a stage. A measure of one's own is a `Measure`, given to `swrlib.train` instead of a name.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from swrlib.checks import nearest
from swrlib.network.layers import trace
from swrlib.population import Members
from swrlib.theory import (
    balance_,
    layer_balance,
    lipschitz_bound,
    lipschitz_lower_bound,
    lpq_norm,
    ranks,
    scale_,
)
from swrlib.theory.curvature import LossHessian, gradient_hessian_overlap, spectrum_summary
from swrlib.theory.isometry import deviation_from_isometry
from swrlib.theory.last_layers import last_layers_hessian
from swrlib.theory.scaling import BIASES, READINGS
from swrlib.theory.spectrum import check_order, hessian_spectrum

#: How many test images measures look at, where they look at images.
PROBED = 1000
#: How many images of a stage, in the stage's order, at its start and its end.
PROBED_OF_STAGE = 2000
#: From how many of them the Lipschitz constant is sought by ascent.
ASCENDED = 16
#: Standard deviations of the noise on normalized images.
NOISE = (0.25, 0.5, 1.0)
#: Scaling ratios of Fig. 1 that "scaled-accuracy" tries.
SCALING_RATIOS = (1.0, 0.8, 0.6, 0.4, 0.2, 0.0)
#: Steps of Lanczos' method for "spectrum", on how many of a stage's images.
SPECTRUM_ORDER, SPECTRUM_IMAGES = 60, 1000
#: At which ε "spectrum" takes the ε-rank.
EPSILONS = tuple(10 ** (exponent / 4) for exponent in range(-16, 5))


# ---------------------------------------------------------------------------------------------
# Around every step


@dataclass(frozen=True)
class Norms:
    """‖W_l‖ around one step, [runs, layers] each.

    Attributes
    ----------
    initial : torch.Tensor
        Before training.
    before, updated, rescaled : torch.Tensor
        Before the step, after the optimizer's update, after the method acted on it.
    """

    initial: Tensor
    before: Tensor
    updated: Tensor
    rescaled: Tensor


def growth(norms: Norms) -> Tensor:
    """Return ‖W‖² after the gradient update minus before it: the empirical B of Theorem 2."""
    return norms.updated.square() - norms.before.square()


def factor(norms: Norms) -> Tensor:
    """Return c_l, the ratio of the norms after and before the rescaling."""
    return norms.rescaled / norms.updated


def norm_before_rescaling(norms: Norms) -> Tensor:
    """Return ‖W‖ after the optimizer's update, the norm that Theorem 2 as printed bounds."""
    return norms.updated


def balance_change(norms: Norms) -> Tensor:
    """Return by how much the rescaling changes Definition 2's balance of each pair of layers.

    Theorem 3 says that it is never above 0, with one λ.
    """
    start, updated, rescaled = _ratios(norms)
    return (rescaled - start).abs() - (updated - start).abs()


def balance_worse(norms: Norms) -> Tensor:
    """Return 1 where the rescaling takes a pair's balance further off by more than rounding."""
    start, updated, _ = _ratios(norms)
    return (balance_change(norms) > 1e-5 * (start + updated)).to(start)


def _ratios(norms: Norms) -> tuple[Tensor, Tensor, Tensor]:
    """Return r of each pair, the layer larger at the start above: then, updated, rescaled."""
    first, second = _pairs(norms.initial.shape[1])
    swapped = norms.initial[:, second] < norms.initial[:, first]

    def ratio(now: Tensor) -> Tensor:
        value = now[:, second] / now[:, first]
        return torch.where(swapped, 1 / value, value)

    return ratio(norms.initial), ratio(norms.updated), ratio(norms.rescaled)


def _pairs(layers: int) -> Tensor:
    return torch.triu_indices(layers, layers, offset=1)


class StepMeasures:
    """The norms around each step, gathered only where a step measure was asked for."""

    def __init__(self, measures: Sequence[Measure], initial: Tensor) -> None:
        self.measures = [measure for measure in measures if measure.when == "step"]
        self.initial = initial
        self.norms: list[Tensor] = []
        self.layers: list[str] = []
        self.maximum: dict[str, Tensor] = {}
        self.sum: dict[str, Tensor] = {}
        self.last: dict[str, Tensor] = {}
        self.steps = 0

    def note(self, groups: Sequence[Members]) -> None:
        """Take the norms as they are: before the step, updated, rescaled."""
        if not self.measures:
            return
        self.layers = groups[0].weighted
        self.norms.append(all_norms(groups))
        if len(self.norms) == 3:
            self.steps += 1
            norms = Norms(self.initial, *self.norms)
            for measure in self.measures:
                name, value = measure.name, measure.function(norms)
                self.last[name] = value
                self.sum[name] = self.sum.get(name, torch.zeros_like(value)) + value
                self.maximum[name] = torch.maximum(self.maximum.get(name, value), value)
            self.norms = []

    def results(self) -> Iterator[tuple[int, str, str, float]]:
        """Yield (member, layer or pair, name, value): the epoch's maximum, mean and last value."""
        first, second = _pairs(len(self.layers)).tolist()
        pairs = [f"{self.layers[a]}, {self.layers[b]}" for a, b in zip(first, second, strict=True)]
        for measure in self.measures:
            name, labels = measure.name, pairs if measure.pairs else self.layers
            for kind, table in (
                ("max", self.maximum[name]),
                ("mean", self.sum[name] / self.steps),
                ("last", self.last[name]),
            ):
                for member, values in enumerate(table.tolist()):
                    for label, value in zip(labels, values, strict=True):
                        yield member, label, f"{name}:{kind}", value


def all_norms(groups: Sequence[Members]) -> Tensor:
    """Return ‖W_l‖ of the whole population, [seeds·runs, layers that have a weight]."""
    return torch.cat([members.weight_norms() for members in groups], 1).flatten(0, 1)


# ---------------------------------------------------------------------------------------------
# After epochs, at the start and the end of stages


@dataclass(frozen=True)
class Snapshot:
    """A network at a moment of its training, and what it is compared with.

    Attributes
    ----------
    model, initial : torch.nn.Module
        The network, and the same before training.
    images : torch.Tensor
        Normalized test images, [N, C, H, W].
    labels : torch.Tensor
        [N].
    stage_images, stage_labels : torch.Tensor, optional
        Those that the stage trains on, at its start and end alone.
    moments : dict of str to dict of str to torch.Tensor
        What the optimizer keeps, by torch's names and the parameter's.
    begun : list of torch.Tensor, optional
        The parameters when the stage began, in the model's order, at its end alone.
    """

    model: nn.Module
    initial: nn.Module
    images: Tensor
    labels: Tensor
    stage_images: Tensor | None = None
    stage_labels: Tensor | None = None
    moments: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    begun: list[Tensor] | None = None


def _lpq_balance(snapshot: Snapshot) -> dict[str, float]:
    """Return the least ‖W‖_{2,2} that rescaling can reach over the present one (Fig. 5).

    Also as the authors' release stops: a change of factors below 1e-5, or 100 iterations.
    """
    present = lpq_norm(snapshot.model)
    found = {}
    for label, stopping in (("", {}), ("release", {"tolerance": 1e-5, "iterations": 100})):
        balanced = copy.deepcopy(snapshot.model).double()
        found[label] = float(balance_(balanced, **stopping).iloc[-1]) / present  # type: ignore[arg-type]
    return found


def _layer_balance(snapshot: Snapshot) -> dict[str, float]:
    """Return Definition 2's balance of each pair of layers."""
    found = layer_balance(snapshot.model, snapshot.initial)
    return {", ".join(pair): float(value) for pair, value in found.items()}


def _lipschitz(snapshot: Snapshot) -> dict[str, float]:
    """Return Corollary 2.1's bound with both norms, and a bound from below (from real images)."""
    example = snapshot.images[:1]
    return {
        "frobenius": lipschitz_bound(snapshot.model, example, norm="frobenius"),
        "spectral": lipschitz_bound(snapshot.model, example),
        "lower": lipschitz_lower_bound(snapshot.model, snapshot.images[:ASCENDED]),
    }


@torch.no_grad()
def _noise_accuracy(snapshot: Snapshot) -> dict[str, float]:
    """Return the accuracy on test images with Gaussian noise, by its standard deviation."""
    draws = torch.Generator().manual_seed(0)
    noise = torch.randn(snapshot.images.shape, generator=draws).to(snapshot.images)
    model = copy.deepcopy(snapshot.model).eval()
    found = {}
    for deviation in (0.0, *NOISE):
        answers = model(snapshot.images + deviation * noise).argmax(1)
        found[f"{deviation:g}"] = float((answers == snapshot.labels).double().mean())
    return found


@torch.no_grad()
def _scaled_accuracy(snapshot: Snapshot) -> dict[str, float]:
    """Return the accuracy right after a scaling (Fig. 1), by "reading, biases, ratio"."""
    layers = [layer for layer in trace(snapshot.initial).layers if layer.weight is not None]
    norms = torch.stack([layer.weight.norm() for layer in layers])  # type: ignore[union-attr]
    found = {}
    for reading, biases, ratio in itertools.product(READINGS, BIASES, SCALING_RATIOS):
        model = copy.deepcopy(snapshot.model).eval()
        scale_(model, norms, ratio=ratio, reading=reading, biases=biases)
        hits = model(snapshot.images).argmax(1) == snapshot.labels
        found[f"{reading}, {biases}, {ratio:g}"] = float(hits.double().mean())
    return found


# ---------------------------------------------------------------------------------------------
# At the start and the end of stages, on what the stage trains on


def _of_stage(snapshot: Snapshot, most: int | None = None) -> tuple[Tensor, Tensor]:
    assert snapshot.stage_images is not None and snapshot.stage_labels is not None
    return snapshot.stage_images[:most], snapshot.stage_labels[:most]


@torch.no_grad()
def _features(snapshot: Snapshot) -> dict[str, float]:
    """Return ranks and activity of each hidden layer's features, by "measure, layer"."""
    images, _ = _of_stage(snapshot)
    model = copy.deepcopy(snapshot.model).eval()
    layers = [layer for layer in trace(model).layers if layer.kind != "normalization"]
    found: dict[str, float] = {}

    def note(values: Tensor, layer: str) -> None:
        singular = torch.linalg.svdvals(values.flatten(1).double())
        found[f"srank, {layer}"] = float(ranks.srank(singular))
        found[f"effective-rank, {layer}"] = float(ranks.effective_rank(singular))
        found[f"entropy, {layer}"] = ranks.unit_entropy(values)
        found[f"entropy-of-each, {layer}"] = ranks.unit_entropy(values, of_each=True)
        found[f"dead, {layer}"] = float(ranks.dead_units(values))

    for before, layer in itertools.pairwise(layers):
        layer.module.register_forward_pre_hook(
            lambda module, given, name=before.name: note(given[0], name)
        )
    model(images)
    return found


def _hessian(snapshot: Snapshot) -> dict[str, float]:
    """Return what is said of the Hessian over the last two layers by its eigenvalues."""
    hessian = last_layers_hessian(snapshot.model, *_of_stage(snapshot))
    return spectrum_summary(torch.linalg.eigvalsh(hessian))


def _spectrum(snapshot: Snapshot) -> dict[str, float]:
    """Return ε-ranks, as a release smooths them too, and extremes of the whole Hessian."""
    images, labels = _of_stage(snapshot, SPECTRUM_IMAGES)
    found = hessian_spectrum(snapshot.model, images, labels, order=_order(snapshot.model))
    epsilons = torch.tensor(EPSILONS, dtype=torch.float64)
    of_epsilons = {
        "epsilon-rank": found.epsilon_rank(epsilons),
        "smoothed-epsilon-rank": found.smoothed_epsilon_rank(epsilons),
    }
    values = {
        f"{name} {epsilon:.3g}": rank
        for name, ranks_of in of_epsilons.items()
        for epsilon, rank in zip(EPSILONS, ranks_of.tolist(), strict=True)
    }
    return values | {
        "largest": float(found.nodes.max()),
        "smallest": float(found.nodes.min()),
        "effective-rank": found.effective_rank(),
    }


def _order(model: nn.Module) -> int:
    return min(SPECTRUM_ORDER, sum(p.numel() for p in model.parameters()))


def _check_spectrum(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    check_order(model, _order(model))
    LossHessian(model, images, labels)


def _overlap(snapshot: Snapshot) -> dict[str, float]:
    """Return the overlap of the gradient with the Hessian, of all parameters."""
    return {"": gradient_hessian_overlap(snapshot.model, *_of_stage(snapshot))}


@torch.no_grad()
def _weights(snapshot: Snapshot) -> dict[str, float]:
    """Return sizes, distances from the initialization, ranks and deviations from isometry.

    At a stage's end also the update: the distance from the stage's start.
    """
    now, before = list(snapshot.model.parameters()), list(snapshot.initial.parameters())
    found: dict[str, float] = {}
    zeros = [torch.zeros_like(parameter) for parameter in now]
    compared: dict[str, list[Tensor]] = {"size": zeros, "distance": [*before]}
    if snapshot.begun is not None:
        compared["update"] = snapshot.begun
    for what, values in compared.items():
        norms = ranks.difference_norms(now, values)
        found |= {f"{what} {kind}": value for kind, value in norms.items()}
    for layer in trace(snapshot.model).layers:
        if layer.weight is not None and layer.weight.dim() > 1:
            weight = layer.weight.detach()
            singular = torch.linalg.svdvals(weight.flatten(1).double())
            found[f"srank, {layer.name}"] = float(ranks.srank(singular))
            deviation = deviation_from_isometry(weight, weight.dim() - 2)
            found[f"deviation-from-isometry, {layer.name}"] = float(deviation)
    return found


@dataclass(frozen=True)
class Measure:
    """What is measured, and when.

    Attributes
    ----------
    name : str
    function : callable
        function(snapshot) → dict of values by layer, pair or kind; of the measures of a step,
        function(norms) → a tensor [runs, layers or pairs].
    when : {"step", "epoch", "start", "end"}
        Around every step; after epochs; before the first step of every stage, after what a method
        does at the change; after its last step.
    every : int, optional
        Of those after epochs: at the start and after every so many, and after the last; None: after
        the last alone. Of those of stages: in the first, every so many later, and in the last.
    pairs : bool
        Of those of a step: whether it is by pairs of layers.
    check : callable, optional
        check(model, images, labels) raises for a network that the measure does not fit; called
        before anything is trained, with two images.
    """

    name: str
    function: Callable[[Any], Any]
    when: Literal["step", "epoch", "start", "end"] = "epoch"
    every: int | None = 1
    pairs: bool = False
    check: Callable[[nn.Module, Tensor, Tensor], object] | None = None

    def due(self, moment: str, passed: int, last: bool) -> bool:
        """Return whether it is due at a moment, so many epochs or stages after the first."""
        due = last or (self.every is not None and passed % self.every == 0)
        return self.when == moment and due


_OF_STAGES: tuple[Literal["start"], Literal["end"]] = ("start", "end")
MEASURES = {
    measure.name: measure
    for measure in (
        Measure("growth", growth, "step"),
        Measure("factor", factor, "step"),
        Measure("norm-before-rescaling", norm_before_rescaling, "step"),
        Measure("balance-change", balance_change, "step", pairs=True),
        Measure("balance-worse", balance_worse, "step", pairs=True),
        Measure("lpq-balance", _lpq_balance),
        Measure("layer-balance", _layer_balance),
        Measure("lipschitz", _lipschitz, every=10),
        Measure("noise-accuracy", _noise_accuracy, every=10),
        Measure("scaled-accuracy", _scaled_accuracy, every=None),
        *(
            Measure(f"{name}-{when}", function, when, check=check)
            for name, function, check in (
                ("features", _features, None),
                ("hessian", _hessian, last_layers_hessian),
                ("spectrum", _spectrum, _check_spectrum),
                ("overlap", _overlap, LossHessian),
                ("weights", _weights, None),
            )
            for when in _OF_STAGES
        ),
    )
}


def checked_measures(given: str | Measure | Iterable[str | Measure]) -> tuple[Measure, ...]:
    """Return measures, known ones by their names; refuse an unknown one.

    "spectrum-start:10" is the measure "spectrum-start" in every tenth stage, and a name of its own.
    """
    measures = [given] if isinstance(given, str | Measure) else given
    return tuple(_find(measure) if isinstance(measure, str) else measure for measure in measures)


def _find(text: str) -> Measure:
    name, sign, every = text.partition(":")
    if name not in MEASURES:
        raise ValueError(f"unknown measure {text!r}: {nearest(name, MEASURES)}")
    measure = MEASURES[name]
    if not sign:
        return measure
    if measure.when == "step" or not every.isdecimal() or not int(every):
        takers = "behind a measure of epochs or stages stands a whole number from 1 on"
        raise ValueError(f"cannot read the measure {text!r}: {takers}, as in spectrum-start:10")
    return replace(measure, name=f"{name}:{int(every)}", every=int(every))


def check_fit(
    measures: Iterable[Measure], model: nn.Module, images: Tensor, labels: Tensor
) -> None:
    """Refuse a network that one of the measures does not fit: ValueError or MemoryError."""
    for measure in measures:
        if measure.check is not None:
            measure.check(model, images, labels)
