"""L2-ER: weight decay, and every so many steps one up the effective rank of the features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from swrlib.checks import check_whole, make_numbers
from swrlib.methods.compared import L2
from swrlib.methods.watching import Watching, features_of_latest, hidden_layers
from swrlib.population import Members
from swrlib.theory.ranks import effective_rank


@dataclass(frozen=True)
class L2EffectiveRank(L2, Watching):
    """λ/2‖θ‖² in the loss, and θ ← θ + rate·∇ mean_l erank_l every so many steps, apart from it.

    Prakash, He, Guo et al., *Spectral Collapse Drives Loss of Plasticity in Deep Continual
    Learning*. erank_l = exp(−Σ p ln(p + 1e-8)), p the shares of the singular values of a hidden
    layer's features, images by units. The step is a plain one on all parameters, on the images of
    the minibatches since the last; it is not the optimizer's. With λ = 0 it is their ER alone.

    Parameters
    ----------
    lam : float
        λ; in their release weight decay of SGD, which is the same.
    rate : float
        Of the separate step.
    every : int
        After how many minibatches it is taken.
    watched : int
        How many of the latest images it looks at: those of ``every`` minibatches in the release.
    layers : int, optional
        How many hidden layers count, from the last on; None: all.
    """

    rate: float = 1e-2
    every: int = 100
    watched: int = 100
    layers: int | None = None
    name: ClassVar[str] = "l2-er"

    def __post_init__(self) -> None:
        super().__post_init__()
        make_numbers(self, "rate")
        check_whole("every", self.every)
        check_whole("watched", self.watched)
        if self.layers is not None:
            check_whole("layers", self.layers)

    def start(self, members: Members) -> None:
        """Note which features count."""
        steps = [step for _, step in hidden_layers(members.network)]
        if not steps:
            raise ValueError(f"{self.name} needs a hidden layer, and the network has none")
        members.fixed["steps"] = steps[-(self.layers or len(steps)) :]
        Watching.start(self, members)

    def act_(self, members: Members) -> None:
        """Step up the mean effective rank."""
        blocks = members.population.blocks
        latest = features_of_latest(members, members.fixed["steps"])
        with torch.enable_grad(), latest as features:
            ranks = torch.stack([_rank(values) for values in features]).mean(0)
            gradients = torch.autograd.grad(
                ranks.sum(), blocks, allow_unused=True, materialize_grads=True
            )
        for parameter, gradient in zip(members.parameters, gradients, strict=True):
            parameter.add_(members.part(gradient), alpha=self.rate)


def _rank(features: Tensor) -> Tensor:
    """Return the effective ranks of features [seeds, runs, N, width]: [seeds, runs]."""
    # The rank does not depend on the scale, but singular values of large features overflow.
    largest = features.detach().abs().amax((-2, -1), keepdim=True)
    scaled = features / largest.where(largest > 0, 1)
    return effective_rank(torch.linalg.svdvals(scaled), guard=1e-8)
