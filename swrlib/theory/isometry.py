"""FIRE's statements: how far a weight is from an isometry, and the isometry nearest to it.

Han et al., *Frobenius-Isometry Reinitialization* (ICLR 2026). A weight is a matrix [out, in], or a
convolution's kernel [out, in, …], of which every spatial slice is a matrix of its own. All
functions take further axes in front.
"""

from __future__ import annotations

import torch
from torch import Tensor


def polar_factor(matrix: Tensor) -> Tensor:
    """Return the exact polar factor W(WᵀW)^(−1/2), the isometry nearest to W.

    Directions of singular value zero stay zero, so that the result depends on W alone: where the
    rank is below full, any isometry that agrees on the others would be as near. A matrix with an
    entry that is not finite has none: its result is NaN.

    Parameters
    ----------
    matrix : torch.Tensor
        [..., rows, columns].

    Returns
    -------
    torch.Tensor
        Like ``matrix``; its singular values are 1, or 0 where those of ``matrix`` vanish.
    """
    finite = matrix.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
    left, values, right = torch.linalg.svd(matrix.where(finite, 0), full_matrices=False)
    least = max(matrix.shape[-2:]) * torch.finfo(matrix.dtype).eps * values[..., :1]
    return ((left * (values > least).unsqueeze(-2)) @ right).where(finite, torch.nan)


def newton_schulz(matrix: Tensor, iterations: int = 10) -> Tensor:
    """Return what Newton-Schulz iterations make of W/‖W‖_F on the way to its polar factor.

    Each of them is X ← 1.5X − 0.5·X XᵀX, and maps every singular value σ to 1.5σ − 0.5σ³: at most
    1.5 times as much. Ten do not suffice for large square matrices (FIRE's release takes ten). A
    zero matrix stays zero.

    Parameters
    ----------
    matrix : torch.Tensor
        [..., rows, columns].
    iterations : int
        From 0 on.
    """
    norm = torch.linalg.matrix_norm(matrix, keepdim=True)
    x = matrix / norm.where(norm > 0, 1)
    tall = matrix.shape[-2] >= matrix.shape[-1]
    for _ in range(iterations):
        product = x @ (x.mT @ x) if tall else (x @ x.mT) @ x
        x = 1.5 * x - 0.5 * product
    return x


def slices(weight: Tensor, kernel_axes: int) -> Tensor:
    """Return a kernel [..., out, in, places…] as matrices [..., places…, out, in]: a view.

    Parameters
    ----------
    weight : torch.Tensor
    kernel_axes : int
        How many axes of places there are; 0 in a linear layer.
    """
    axes = tuple(range(-kernel_axes, 0))
    return weight.movedim(axes, tuple(axis - 2 for axis in axes)) if axes else weight


def unsliced(matrices: Tensor, kernel_axes: int) -> Tensor:
    """Return matrices [..., places…, out, in] as a kernel [..., out, in, places…]: a view."""
    axes = tuple(range(-kernel_axes, 0))
    return matrices.movedim(tuple(axis - 2 for axis in axes), axes) if axes else matrices


def reinitialized(weight: Tensor, kernel_axes: int = 0, iterations: int | None = 10) -> Tensor:
    """Return FIRE's weight: (nearly) the polar factor of every slice, times √(out/in)/places.

    Parameters
    ----------
    weight : torch.Tensor
        [..., out, in, places…].
    kernel_axes : int
        As for `slices`.
    iterations : int, optional
        Of `newton_schulz`; None: the exact `polar_factor`.

    Returns
    -------
    torch.Tensor
        Like ``weight``; of half precision it is computed in float32, and rounded.
    """
    matrices = slices(weight, kernel_axes)
    matrices = matrices.to(torch.promote_types(weight.dtype, torch.float32))
    factor = polar_factor(matrices) if iterations is None else newton_schulz(matrices, iterations)
    outputs, inputs = matrices.shape[-2:]
    places = weight.shape[weight.dim() - kernel_axes :].numel()
    return unsliced(factor * ((outputs / inputs) ** 0.5 / places), kernel_axes).to(weight.dtype)


def deviation_from_isometry(weight: Tensor, kernel_axes: int = 0) -> Tensor:
    """Return DfI/n: ‖WᵀW − I‖_F² with the smaller Gram matrix, divided by its size n.

    FIRE's DfI is not divided: divided, layers can be compared.

    Parameters
    ----------
    weight : torch.Tensor
        [..., out, in, places…].
    kernel_axes : int
        As for `slices`.

    Returns
    -------
    torch.Tensor
        [...]; of kernels the mean over places.
    """
    matrices = slices(weight, kernel_axes).double()
    wide = matrices.shape[-2] < matrices.shape[-1]
    gram = matrices @ matrices.mT if wide else matrices.mT @ matrices
    one = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    of_each = (gram - one).square().sum((-2, -1)) / gram.shape[-1]
    return of_each.flatten(-kernel_axes).mean(-1) if kernel_axes else of_each


def squared_frobenius_error(weight: Tensor, other: Tensor) -> tuple[float, float]:
    """Return FIRE's SFE ‖W − W̃‖_F², and the same divided by ‖W‖_F².

    Parameters
    ----------
    weight, other : torch.Tensor
        W, W̃, of the same shape.

    Returns
    -------
    float, float
        The second is infinite where W is zero and W̃ is not, and 0 where both are.
    """
    if weight.shape != other.shape:
        raise ValueError(f"W is {tuple(weight.shape)}, but W̃ {tuple(other.shape)}: as W is needed")
    error = float((weight.double() - other.double()).square().sum())
    size = float(weight.double().square().sum())
    relative = error / size if size else (float("inf") if error else 0.0)
    return error, relative
