"""The spectrum of a whole network's Hessian by Lanczos' method, and what is read off it.

Prakash, He, Guo et al., *Spectral Collapse Drives Loss of Plasticity in Deep Continual Learning*
(arXiv 2509.22335; version 3 has the ε-rank). m steps from a vector q give m nodes θ_i and weights
w_i, Σw_i = 1, with Σ w_i θ_i^k = qᵀH^k q for k < 2m: for random q these stand for the distribution
of H's eigenvalues.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from swrlib.checks import check_whole
from swrlib.memory import free_memory
from swrlib.theory.curvature import LossHessian
from swrlib.theory.ranks import effective_rank


@dataclass(frozen=True)
class Spectrum:
    """A distribution of eigenvalues, as nodes with weights.

    Attributes
    ----------
    nodes, weights : torch.Tensor
        float64 [k], of all probes together; the weights' sum is 1.
    dimension : int
        Of the matrix.
    """

    nodes: Tensor
    weights: Tensor
    dimension: int

    def epsilon_rank(self, epsilons: Tensor) -> Tensor:
        """Return the share of eigenvalues outside ±ε: the weight of the nodes outside of it.

        Parameters
        ----------
        epsilons : torch.Tensor
            [...], from 0 on.

        Returns
        -------
        torch.Tensor
            float64 like ``epsilons``.
        """
        beyond = self.nodes.abs() > epsilons.double().unsqueeze(-1)
        return (self.weights * beyond).sum(-1)

    def density(self, grid: Tensor, variance: float) -> Tensor:
        """Return Σ w_i N(t; θ_i, variance) at the points t of a grid, [points]."""
        squares = (grid.double().unsqueeze(-1) - self.nodes).square() / variance
        heights = (-squares / 2).exp() / (2 * torch.pi * variance) ** 0.5
        return heights @ self.weights

    def smoothed_epsilon_rank(self, epsilons: Tensor) -> Tensor:
        """Return the ε-rank as the paper's release integrates it: not the one to rely on.

        The density with variance 1e-5·max(1, range), on 10,000 points from 0.01 below the smallest
        node to as much above the largest, by the trapezoidal rule over those outside ±ε. The rule
        bridges the gap that is left out, so that values above 1 occur; and in a wide spectrum no
        point lies within ±ε, so that the result measures the width of the spectrum.

        Parameters
        ----------
        epsilons : torch.Tensor
            [k], from 0 on.

        Returns
        -------
        torch.Tensor
            float64 [k].
        """
        least, most = float(self.nodes.min()) - 0.01, float(self.nodes.max()) + 0.01
        grid = torch.linspace(least, most, 10_000, dtype=torch.float64)
        values = self.density(grid, 1e-5 * max(1.0, most - least - 0.02))
        kept = [grid.abs() > epsilon for epsilon in epsilons]
        return torch.stack([torch.trapezoid(values[mask], grid[mask]) for mask in kept])

    def effective_rank(self, *, weighted: bool = True) -> float:
        """Return exp(−Σ p ln p) over the eigenvalues, p their shares of the sum of absolute values.

        0, by definition, if all are 0.

        Parameters
        ----------
        weighted : bool
            False: over the nodes, as if each were one eigenvalue, which is what the paper's release
            does; then the result is at most the number of nodes.
        """
        if not weighted:
            return float(effective_rank(self.nodes))
        sizes = self.nodes.abs()
        total = self.dimension * (self.weights * sizes).sum()
        if not float(total):
            return 0.0
        shares = sizes / total
        return float((-self.dimension * (self.weights * torch.xlogy(shares, shares)).sum()).exp())


def tridiagonal(
    product: Callable[[Tensor], Tensor], start: Tensor, order: int
) -> tuple[Tensor, Tensor]:
    """Run Lanczos' method with full reorthogonalization, twice in every step.

    Parameters
    ----------
    product : callable
        v ↦ Hv of a symmetric matrix, [P] to [P].
    start : torch.Tensor
        [P], of any length but 0.
    order : int
        How many steps at most: fewer where they exhaust the space that ``start`` spans.

    Returns
    -------
    torch.Tensor
        float64 [steps], the diagonal.
    torch.Tensor
        float64 [steps − 1], beside it; positive.
    """
    basis = start.new_zeros(order, len(start))
    diagonal: list[float] = []
    beside: list[float] = []
    vector = start / start.norm()
    for step in range(order):
        basis[step] = vector
        vector = product(vector)
        diagonal.append(float(vector.double() @ basis[step].double()))
        for _ in range(2):
            vector = vector - (basis[: step + 1] @ vector) @ basis[: step + 1]
        length = float(vector.norm())
        size = max(map(abs, [*diagonal, *beside]))
        if length <= 10 * torch.finfo(start.dtype).eps * size:
            break
        vector = vector / length
        beside.append(length)
    numbers = (diagonal, beside[: len(diagonal) - 1])
    first, second = (torch.tensor(values, dtype=torch.float64) for values in numbers)
    return first, second


def quadrature(diagonal: Tensor, beside: Tensor) -> tuple[Tensor, Tensor]:
    """Return nodes and weights of a symmetric tridiagonal matrix, [m] each.

    Eigenvalues, and the squares of the first entries of their eigenvectors (Golub and Welsch).
    """
    matrix = torch.diag(diagonal) + torch.diag(beside, 1) + torch.diag(beside, -1)
    nodes, vectors = torch.linalg.eigh(matrix)
    return nodes, vectors[0].square()


def hessian_spectrum(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    order: int = 60,
    probes: int = 1,
    seed: int = 0,
) -> Spectrum:
    """Return the spectrum of the Hessian of a network's mean cross-entropy.

    Parameters
    ----------
    model : torch.nn.Module
    images : torch.Tensor
        [N, …].
    labels : torch.Tensor
        int64 [N].
    order : int
        Steps of Lanczos' method from each probe.
    probes : int
        How many random vectors it starts from.
    seed : int
        Of their generator.

    Raises
    ------
    ValueError
        As `swrlib.theory.curvature.LossHessian`, or if there are fewer parameters than steps.
    MemoryError
        If the vectors of the steps do not fit into the memory.
    """
    check_whole("probes", probes)
    dimension = check_order(model, order)
    hessian = LossHessian(model, images, labels)
    draws = torch.Generator().manual_seed(seed)
    rules = []
    for _ in range(probes):
        start = torch.randn(dimension, generator=draws, dtype=torch.float64)
        start = start.to(hessian.gradient)
        rules.append(quadrature(*tridiagonal(hessian.__matmul__, start, order)))
    nodes, weights = (torch.cat(parts) for parts in zip(*rules, strict=True))
    return Spectrum(nodes, weights / probes, dimension)


def check_order(model: nn.Module, order: int) -> int:
    """Return how many parameters a network has; refuse so many steps as `hessian_spectrum` does."""
    check_whole("order", order)
    parameters = list(model.parameters())
    dimension = sum(parameter.numel() for parameter in parameters)
    if order > dimension:
        raise ValueError(f"order is {order}: the network has only {dimension} parameters")
    needed = order * dimension * parameters[0].element_size()
    free = free_memory(parameters[0].device)
    if needed > free:
        raise MemoryError(
            f"{order} steps with {dimension} parameters keep {needed / 2**20:.0f} MiB of vectors, "
            f"but {max(free, 0) / 2**20:.0f} MiB of memory are free: take a lower order"
        )
    return dimension
