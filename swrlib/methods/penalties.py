"""Penalties of the paper's neighbours: the Wasserstein regularizer, spectral regularization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from swrlib.checks import check_whole
from swrlib.methods.base import Penalty
from swrlib.population import Members
from swrlib.streams import generator


@dataclass(frozen=True)
class Wasserstein(Penalty):
    """λ Σ_l (1/d_l) Σ_i (θ_(i) − θ⁰_(i))² in the loss, entries and initial entries sorted apart.

    The squared 2-Wasserstein distance between a tensor's entries and its initial ones: nothing is
    pulled where the entries are a permutation of θ⁰. Lewandowski et al., *Curvature Explains Loss
    of Plasticity* (Section 6). The paper does not say what becomes of biases: here they are tensors
    of their own. Sorting less than every step is another method.
    """

    name: ClassVar[str] = "wasserstein"

    def start(self, members: Members) -> None:
        """Sort the initial entries, once."""
        members.fixed["sorted"] = [p.flatten(2).sort(-1).values for p in members.initial]

    def gradients_(self, members: Members) -> None:
        """Add (2λ/d)(θ − target): each entry's target is the initial one of its place in order."""
        initial = members.fixed["sorted"]
        rows = zip(members.gradients, members.parameters, initial, members.lam(), strict=True)
        for gradient, parameter, ordered, lam in rows:
            flat = parameter.flatten(2)
            target = torch.empty_like(flat).scatter_(-1, _order(flat), ordered.expand_as(flat))
            factor = lam * (2 / flat.shape[-1])
            gradient.addcmul_(parameter - target.view(parameter.shape), factor)


def _order(values: Tensor) -> Tensor:
    """Return argsort along the last axis; on a processor by numpy, in a seventh of the time."""
    if values.is_cuda:
        return values.argsort(-1)
    return torch.from_numpy(np.argsort(values.numpy(), axis=-1))


@dataclass(frozen=True)
class SpectralRegularization(Penalty):
    """λ Σ [(σ² − 2)² + ‖b‖² + ‖γ − 1‖²] in the loss; σ is a weight's largest singular value.

    As in the release of *Spectral Collapse Drives Loss of Plasticity* (Prakash, He, Guo et al.): σ
    by power iterations that begin with the same vector each time. A kernel counts as a matrix
    [out, in·places], which is our choice.

    Parameters
    ----------
    lam : float
        λ.
    iterations : int
        How many each time.
    """

    iterations: int = 10
    name: ClassVar[str] = "spectral"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("iterations", self.iterations)

    def start(self, members: Members) -> None:
        """Note what each parameter is, and draw the vectors to begin with."""
        kinds = {layer.name: layer.kind for layer in members.network.layers}
        owners = {
            id(tensor): "bias" if bias else kinds[name]
            for tensor, (name, bias) in zip(members.tensors, members.owners, strict=True)
        }
        members.fixed["kinds"] = [owners.get(id(p), "other") for p in members.parameters]
        members.fixed["vectors"] = [
            torch.randn(
                p[0, 0, 0].numel() if p.dim() > 3 else 1,
                1,
                generator=generator(0, "spectral", place),
                dtype=torch.float64,
            ).to(p)
            for place, p in enumerate(members.parameters)
        ]

    def gradients_(self, members: Members) -> None:
        """Add 4λ(σ² − 2)·σ·uvᵀ to the weights', 2λb and 2λ(γ − 1) to the others'."""
        kinds, vectors, lams = members.fixed["kinds"], members.fixed["vectors"], members.lam()
        rows = zip(members.gradients, members.parameters, kinds, vectors, lams, strict=True)
        for gradient, parameter, kind, vector, lam in rows:
            if kind == "bias":
                gradient.addcmul_(parameter, 2 * lam)
            elif kind == "normalization":
                gradient.addcmul_(parameter - 1, 2 * lam)
            elif kind != "other":
                gradient.addcmul_(self._pull(parameter, vector), lam)

    def _pull(self, weight: Tensor, vector: Tensor) -> Tensor:
        """Return the gradient of (σ² − 2)² for weights [seeds, runs, out, in, …]."""
        matrix = weight.flatten(3)
        least = torch.finfo(matrix.dtype).tiny
        for _ in range(self.iterations):
            vector = matrix.mT @ (matrix @ vector)
            vector = vector / vector.norm(dim=-2, keepdim=True).clamp_min(least)
        image = matrix @ vector
        square = image.square().sum((-2, -1), keepdim=True)
        return (4 * (square - 2) * (image @ vector.mT)).view(weight.shape)
