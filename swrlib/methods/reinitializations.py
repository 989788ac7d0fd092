"""Methods that replace weights, or some units': FIRE, ReDo, shrink and perturb with noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from swrlib.checks import check_name, check_whole, listed, make_numbers, warn
from swrlib.methods import units
from swrlib.methods.base import Method
from swrlib.methods.watching import Watching, features_of_latest
from swrlib.population import Members
from swrlib.rescaling import checked_lambda
from swrlib.streams import generator
from swrlib.theory.isometry import reinitialized, slices

Norm = Literal["isometry", "present", "initial"]


@dataclass(frozen=True)
class FIRE(Method):
    """Each weight replaced by its polar factor times √(out/in) at each change of data.

    Han et al., *Frobenius-Isometry Reinitialization* (ICLR 2026), and a new optimizer, as there.
    Biases and normalizations stay.

    Parameters
    ----------
    iterations : int, optional
        Of `swrlib.theory.isometry.newton_schulz`, on the way to the polar factor; 10 as in its
        release, which is not enough for large square matrices. None: the exact polar factor.
    norm : {"isometry", "present", "initial"}
        Whose norm each layer gets: that of √(out/in) times an isometry, which is FIRE; or, to see
        what the norms contribute, the one that the layer has, or the initial one.
    """

    iterations: int | None = 10
    norm: Norm = "isometry"
    name: ClassVar[str] = "fire"
    new_optimizer: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.iterations is not None:
            check_whole("iterations", self.iterations)
        check_name("norm", self.norm, get_args(Norm))

    def start(self, members: Members) -> None:
        """Note the initial norms."""
        members.fixed["norms"] = [_norm(weight).clone() for weight in members.weights]
        members.fixed["said"] = set()

    def change_(self, members: Members, stage: int) -> None:
        """Replace the weights, and begin a new optimizer."""
        faults: dict[str, list[str]] = {}
        for name, weight, initial in zip(
            members.weighted, members.weights, members.fixed["norms"], strict=True
        ):
            kernel_axes = weight.dim() - 4
            if kernel_axes < 0:  # a normalization's scale
                continue
            for fault in _faults(slices(weight, kernel_axes)):
                faults.setdefault(fault, []).append(name)
            new = reinitialized(weight, kernel_axes, self.iterations)
            if self.norm != "isometry":
                wanted = initial if self.norm == "initial" else _norm(weight)
                present = _norm(new)
                new = new * (wanted / present.where(present > 0, 1))
            weight.copy_(new)
        members.renew_optimizer_()
        for fault in faults.keys() - members.fixed["said"]:
            members.fixed["said"].add(fault)
            names = listed(faults[fault])
            warn(f"weights at the change to stage {stage} are {fault.format(names)}")


def _norm(weight: Tensor) -> Tensor:
    """Return ‖W‖ of weights [seeds, runs, …], with as many axes."""
    return weight.flatten(2).norm(dim=2).view(*weight.shape[:2], *(1,) * (weight.dim() - 2))


_BELOW_FULL_RANK = (
    "of rank below full: {}; directions of singular value zero stay zero, so that no isometry "
    "comes out"
)
_NOT_FINITE = (
    "not finite: {}; they have no nearest isometry and stay so, until a state from before is taken "
    "up again (with a lower learning rate, say)"
)


def _faults(matrices: Tensor) -> list[str]:
    """Return why matrices [..., out, in] have no isometry to become, as sentences about names."""
    each = matrices.flatten(0, -3)
    known = each[each.isfinite().all(-1).all(-1)]
    ranks = torch.linalg.matrix_rank(known) if len(known) else torch.zeros(0)
    below = bool((ranks < min(matrices.shape[-2:])).any())
    return [_BELOW_FULL_RANK] * below + [_NOT_FINITE] * (len(known) < len(each))


@dataclass(frozen=True)
class ReDo(Watching):
    """Units whose activity is at most a share of their layer's mean start anew, regularly.

    Sokar et al., *The Dormant Neuron Phenomenon in Deep Reinforcement Learning* (2023). Weights
    into such a unit, and its bias, are drawn anew, those out of it become zero, the optimizer's
    moments of all these too. For chains of linear and convolution layers.

    Parameters
    ----------
    threshold : float
        τ: a unit's mean absolute feature over the layer's mean of them.
    every : int
        After how many steps.
    watched : int
        On how many of the latest images activity is measured.
    """

    threshold: float = 0.025
    every: int = 1000
    watched: int = 100
    name: ClassVar[str] = "redo"

    def __post_init__(self) -> None:
        make_numbers(self, "threshold")
        check_whole("every", self.every)
        check_whole("watched", self.watched)

    def start(self, members: Members) -> None:
        """Note which features are whose, and where its parameters are."""
        members.fixed["hidden"] = units.hidden_layers(members, self.name)
        members.fixed["steps"] = [layer.step for layer in members.fixed["hidden"]]
        shape = (len(members.population.seeds), len(members))
        drawn = torch.zeros(shape, dtype=torch.int64, device=members.weights[0].device)
        members.memory["drawn"] = drawn
        super().start(members)

    def act_(self, members: Members) -> None:
        """Let dormant units start anew."""
        members.memory["drawn"].add_(1)
        new = members.fresh(f"redo {int(members.memory['drawn'][0, 0])}")
        with features_of_latest(members, members.fixed["steps"]) as of_layers:
            for features, layer in zip(of_layers, members.fixed["hidden"], strict=True):
                count = members.parameters[layer.into[False]].shape[2]
                activity = units.of_units(features.abs().mean(2, keepdim=True), count).mean((2, 4))
                dormant = activity <= self.threshold * activity.mean(-1, keepdim=True)
                units.renew_(members, layer, dormant, new, None)


@dataclass(frozen=True)
class ShrinkPerturbNoise(Method):
    """θ ← (1 − λ)θ + ε with ε ~ N(0, σ²) at each change of data.

    Ash and Adams, *On Warm-Starting Neural Network Training* (2020), whose λ is 1 − λ here. The
    method `shrink-perturb` goes towards the initial weights instead, as SWR's paper has it.

    Parameters
    ----------
    lam : float
        λ.
    deviation : float
        σ.
    """

    lam: float
    deviation: float = 0.01
    name: ClassVar[str] = "shrink-perturb-noise"

    def __post_init__(self) -> None:
        object.__setattr__(self, "lam", checked_lambda(self.lam, f"λ of {self.name}"))
        make_numbers(self, "deviation")

    def change_(self, members: Members, stage: int) -> None:
        """Shrink, and add noise that all runs of a seed share."""
        seeds = members.population.seeds
        draws = [generator(seed, self.name, stage) for seed in seeds]
        for parameter, lam in zip(members.parameters, members.lam(), strict=True):
            shape = parameter.shape[2:]
            noise = [torch.randn(shape, generator=draw, dtype=torch.float64) for draw in draws]
            perturbation = self.deviation * torch.stack(noise).unsqueeze(1)
            parameter.mul_(1 - lam).add_(perturbation.to(parameter))
