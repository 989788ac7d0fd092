"""Measures of a network: after an epoch, or on what a stage trains on, at its start or end."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from swrlib import theory
from swrlib.network.layers import trace
from swrlib.theory import ranks
from swrlib.theory.curvature import symmetric_eigenvalues
from swrlib.theory.scaling import BIASES, READINGS
from swrlib.theory.spectrum import check_order

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


def lpq_balance(snapshot: Snapshot) -> dict[str, float]:
    """Return the least ‖W‖_{2,2} that rescaling can reach over the present one (Fig. 5).

    Also as the authors' release stops: a change of factors below 1e-5, or 100 iterations.
    """
    present = theory.lpq_norm(snapshot.model)
    ratios = {}
    for label, stopping in (("", {}), ("release", {"tolerance": 1e-5, "iterations": 100})):
        balanced = copy.deepcopy(snapshot.model).double()
        ratios[label] = float(theory.balance_(balanced, **stopping).iloc[-1]) / present  # type: ignore[arg-type]
    return ratios


def balance_of_layers(snapshot: Snapshot) -> dict[str, float]:
    """Return Definition 2's balance of each pair of layers."""
    balance = theory.layer_balance(snapshot.model, snapshot.initial)
    return {", ".join(pair): float(value) for pair, value in balance.items()}


def lipschitz(snapshot: Snapshot) -> dict[str, float]:
    """Return Corollary 2.1's bound with both norms, and a bound from below (from real images)."""
    example = snapshot.images[:1]
    return {
        "frobenius": theory.lipschitz_bound(snapshot.model, example, norm="frobenius"),
        "spectral": theory.lipschitz_bound(snapshot.model, example),
        "lower": theory.lipschitz_lower_bound(snapshot.model, snapshot.images[:ASCENDED]),
    }


@torch.no_grad()
def noise_accuracy(snapshot: Snapshot) -> dict[str, float]:
    """Return the accuracy on test images with Gaussian noise, by its standard deviation."""
    draws = torch.Generator().manual_seed(0)
    noise = torch.randn(snapshot.images.shape, generator=draws).to(snapshot.images)
    model = copy.deepcopy(snapshot.model).eval()
    accuracies = {}
    for deviation in (0.0, *NOISE):
        answers = model(snapshot.images + deviation * noise).argmax(1)
        accuracies[f"{deviation:g}"] = float((answers == snapshot.labels).double().mean())
    return accuracies


@torch.no_grad()
def scaled_accuracy(snapshot: Snapshot) -> dict[str, float]:
    """Return the accuracy right after a scaling (Fig. 1), by "reading, biases, ratio"."""
    layers = [layer for layer in trace(snapshot.initial).layers if layer.weight is not None]
    norms = torch.stack([layer.weight.norm() for layer in layers])  # type: ignore[union-attr]
    accuracies = {}
    for reading, biases, ratio in itertools.product(READINGS, BIASES, SCALING_RATIOS):
        model = copy.deepcopy(snapshot.model).eval()
        theory.scale_(model, norms, ratio=ratio, reading=reading, biases=biases)
        hits = model(snapshot.images).argmax(1) == snapshot.labels
        accuracies[f"{reading}, {biases}, {ratio:g}"] = float(hits.double().mean())
    return accuracies


# ---------------------------------------------------------------------------------------------
# At the start and the end of stages, on what the stage trains on


def _of_stage(snapshot: Snapshot, most: int | None = None) -> tuple[Tensor, Tensor]:
    assert snapshot.stage_images is not None and snapshot.stage_labels is not None
    return snapshot.stage_images[:most], snapshot.stage_labels[:most]


@torch.no_grad()
def features(snapshot: Snapshot) -> dict[str, float]:
    """Return ranks and activity of each hidden layer's features, by "measure, layer"."""
    images, _ = _of_stage(snapshot)
    model = copy.deepcopy(snapshot.model).eval()
    layers = [layer for layer in trace(model).layers if layer.kind != "normalization"]
    measured: dict[str, float] = {}

    def note(values: Tensor, layer: str) -> None:
        singular = ranks.singular_values(values)
        measured[f"srank, {layer}"] = float(ranks.srank(singular))
        measured[f"effective-rank, {layer}"] = float(ranks.effective_rank(singular))
        measured[f"entropy, {layer}"] = ranks.unit_entropy(values)
        measured[f"entropy-of-each, {layer}"] = ranks.unit_entropy(values, of_each=True)
        measured[f"dead, {layer}"] = float(ranks.dead_units(values))

    for before, layer in itertools.pairwise(layers):
        layer.module.register_forward_pre_hook(
            lambda module, inputs, name=before.name: note(inputs[0], name)
        )
    model(images)
    return measured


def hessian(snapshot: Snapshot) -> dict[str, float]:
    """Return what is said of the Hessian over the last two layers by its eigenvalues."""
    hessian = theory.last_layers_hessian(snapshot.model, *_of_stage(snapshot))
    return theory.spectrum_summary(symmetric_eigenvalues(hessian))


def spectrum(snapshot: Snapshot) -> dict[str, float]:
    """Return ε-ranks, as a release smooths them too, and extremes of the whole Hessian."""
    images, labels = _of_stage(snapshot, SPECTRUM_IMAGES)
    order = _order(snapshot.model)
    eigenvalues = theory.hessian_spectrum(snapshot.model, images, labels, order=order)
    epsilons = torch.tensor(EPSILONS, dtype=torch.float64)
    of_epsilons = {
        "epsilon-rank": eigenvalues.epsilon_rank(epsilons),
        "smoothed-epsilon-rank": eigenvalues.smoothed_epsilon_rank(epsilons),
    }
    values = {
        f"{name} {epsilon:.3g}": rank
        for name, ranks_of in of_epsilons.items()
        for epsilon, rank in zip(EPSILONS, ranks_of.tolist(), strict=True)
    }
    return values | {
        "largest": float(eigenvalues.nodes.max()),
        "smallest": float(eigenvalues.nodes.min()),
        "effective-rank": eigenvalues.effective_rank(),
    }


def _order(model: nn.Module) -> int:
    return min(SPECTRUM_ORDER, sum(p.numel() for p in model.parameters()))


def check_spectrum(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Refuse a network whose spectrum does not fit, or which cannot be differentiated twice."""
    check_order(model, _order(model))
    theory.LossHessian(model, images, labels)


def overlap(snapshot: Snapshot) -> dict[str, float]:
    """Return the overlap of the gradient with the Hessian, of all parameters."""
    return {"": theory.gradient_hessian_overlap(snapshot.model, *_of_stage(snapshot))}


@torch.no_grad()
def weights(snapshot: Snapshot) -> dict[str, float]:
    """Return sizes, distances from the initialization, ranks and deviations from isometry.

    At a stage's end also the update: the distance from the stage's start.
    """
    now, before = list(snapshot.model.parameters()), list(snapshot.initial.parameters())
    measured: dict[str, float] = {}
    zeros = [torch.zeros_like(parameter) for parameter in now]
    compared: dict[str, list[Tensor]] = {"size": zeros, "distance": [*before]}
    if snapshot.begun is not None:
        compared["update"] = snapshot.begun
    for what, values in compared.items():
        norms = ranks.difference_norms(now, values)
        measured |= {f"{what} {kind}": value for kind, value in norms.items()}
    for layer in trace(snapshot.model).layers:
        if layer.weight is not None and layer.weight.dim() > 1:
            weight = layer.weight.detach()
            srank = ranks.srank(ranks.singular_values(weight))
            measured[f"srank, {layer.name}"] = float(srank)
            deviation = theory.deviation_from_isometry(weight, weight.dim() - 2)
            measured[f"deviation-from-isometry, {layer.name}"] = float(deviation)
    return measured
