"""The norm of a convolution as an operator: by iteration, or bounded from above by its symbol."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from swrlib.checks import first_line
from swrlib.network.graph import has_own_forward, kind_of
from swrlib.theory.copies import evaluated

#: Share of an operator norm that the iteration may miss; its result is raised by as much.
TOLERANCE = 5e-7
#: By how much of itself the bound by the symbol may exceed the norm on an infinite plane, for up to
#: 64 channels; for more, as much more, since their symbol is the same nearly everywhere.
EXCESS = 1e-3
# Beyond so many multiplications a convolution's norm is bounded, not iterated, by default: it takes
# a second or two either way. On so few positions the plane is no good model.
_MULTIPLICATIONS, _POSITIONS = 10_000_000, 64


def operator_norm(function: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> float:
    """Return the greatest singular value of a linear function of inputs of this shape.

    By Lanczos iteration on the function and its adjoint, in float64, raised by `TOLERANCE`, which
    it may miss; only small ones are written out. NaN where the function is not finite.
    """
    from scipy.sparse.linalg import LinearOperator, svds  # not needed to train

    start = torch.zeros(1, *shape, dtype=torch.float64)
    output, adjoint = torch.func.vjp(function, start)[:2]
    size = (output.numel(), start.numel())

    def forward(x: np.ndarray) -> np.ndarray:
        return function(torch.from_numpy(np.ascontiguousarray(x)).view_as(start)).numpy().ravel()

    def backward(y: np.ndarray) -> np.ndarray:
        (x,) = adjoint(torch.from_numpy(np.ascontiguousarray(y)).view_as(output))
        return x.numpy().ravel()

    narrow, apply = (size[1], forward) if size[1] <= size[0] else (size[0], backward)
    with torch.no_grad():
        first = np.random.default_rng(0).standard_normal(narrow)
        once = np.linalg.norm(apply(first))
        if not (0 < once < math.inf):
            return float(once) if once == 0 else math.nan
        if narrow <= 40:
            columns = [apply(row) for row in np.eye(narrow)]
            return float(np.linalg.norm(np.stack(columns, 1), 2))
        linear = LinearOperator(size, matvec=forward, rmatvec=backward, dtype=np.float64)
        # ARPACK's tolerance is on the square.
        options = {"v0": first, "tol": 2 * TOLERANCE, "ncv": 40, "return_singular_vectors": False}
        values = svds(linear, k=1, **options)
    return float(values[0]) * (1 + TOLERANCE)


@torch.inference_mode(False)
def conv_spectral_norm(
    module: nn.Module, input_shape: tuple[int, ...], *, exact: bool | None = None
) -> float:
    """Return the spectral norm of a convolution as an operator, or a bound just above it.

    Not that of the kernel written as a matrix, which is no bound: strides, padding, groups and
    dilation are as in the module; its bias is left out.

    Parameters
    ----------
    module : torch.nn.Conv1d, Conv2d, Conv3d or transposed
    input_shape : tuple of int
        Channels and sizes of one input: (C, H, W).
    exact : bool, optional
        Whether to iterate on inputs of their real size, which takes minutes for many channels on
        large images; or to bound the norm from above by that on an infinite plane, to which it
        tends as images grow (0.5% above it for 16 channels at 28×28, 0.1% for 64 at 56×56). By
        default, iterated where that is quick, or the plane no good model: on at most 64 positions.

    Returns
    -------
    float
        Never below the norm; when iterated, within 1e-6 of it.

    Raises
    ------
    TypeError
        If the module is no convolution.
    ValueError
        If inputs of this shape do not fit it, or its weight is not real; if it pads with other
        than zeros and is to be bounded.

    Notes
    -----
    With zeros around it, an image is a part of the plane, and so is the convolution of the one on
    the plane, A. The norm of A is the greatest one of its symbol, √λ(ω), λ being the largest
    eigenvalue of a trigonometric polynomial G(ω) = Σ_τ R(τ) exp(iτ·ω) of degree d_i in each axis
    (R: the kernel's products with itself, moved by τ strides). Where λ has its maximum M, it falls
    no faster than M·cos²(Σ d_i|δ_i|/2) with the distance δ (Bernstein's inequality in the form of
    Duffin and Schaeffer, for u*G(ω)u with the maximal u). So M is at most m if at the centre of
    each cell of a grid G < m·cos²(…), which a Cholesky factorization decides; other cells are
    divided.
    """
    if kind_of(module) != "convolution":
        raise TypeError(f"{type(module).__name__} is no convolution")
    if has_own_forward(module):
        raise TypeError(f"{type(module).__name__} has a forward of its own: it may be another map")
    linear: Any = evaluated(module).cpu().double()
    dimensions = linear.weight.dim() - 2
    try:
        shape = tuple(operator.index(size) for size in input_shape)
    except TypeError:
        shape = ()
    if len(shape) != 1 + dimensions:
        raise ValueError(
            f"inputs of shape {input_shape} do not fit: channels and {dimensions} sizes of one "
            "input are needed, whole numbers"
        )
    return _norm(linear, shape, exact)


def _norm(linear: Any, shape: tuple[int, ...], exact: bool | None) -> float:
    padded = linear.padding_mode == "zeros"
    try:
        offset = linear(torch.zeros(1, *shape, dtype=torch.float64))
        if exact is None:
            positions = math.prod(shape[1:] if linear.transposed else offset.shape[2:])
            quick = positions * linear.weight.numel() <= _MULTIPLICATIONS
            exact = quick or positions <= _POSITIONS or not padded
        if exact:
            return operator_norm(lambda x: linear(x) - offset, shape)
    except RuntimeError as error:
        raise ValueError(f"inputs of shape {shape} do not fit: {first_line(error)}") from error
    if not padded:
        raise ValueError(f"it pads with {linear.padding_mode} values: only exact=True fits")
    return plane_bound(linear.weight, linear.stride, linear.dilation, linear.groups)


@torch.no_grad()
def plane_bound(
    weight: Tensor, stride: Sequence[int], dilation: Sequence[int], groups: int = 1
) -> float:
    """Bound a convolution's norm on images of any size, padded with zeros.

    Parameters
    ----------
    weight : torch.Tensor
        [outputs, inputs/groups, *kernel]; or a transposed convolution's, whose norm is that of the
        convolution with the same weight.
    stride, dilation : sequence of int
        For each axis.
    groups : int

    Returns
    -------
    float
        Above the norm on the plane by about `EXCESS` of it. NaN where a weight is not finite.
    """
    if not weight.isfinite().all():
        return math.nan
    offsets, products, degrees = _products(weight.double(), stride, dilation, groups)
    counts = [4 * max(d, 2) if d else 1 for d in degrees]
    axes = [[(place + 0.5) * 2 * math.pi / n for place in range(n)] for n in counts]
    axes[0] = axes[0][: (counts[0] + 1) // 2]  # -ω has the same eigenvalues
    cells = torch.tensor(list(itertools.product(*axes)), dtype=torch.float64)
    half = torch.tensor([math.pi / n for n in counts]) * torch.tensor([d > 0 for d in degrees])
    sides = itertools.product(*((-0.5, 0.5) if d else (0.0,) for d in degrees))
    corners = torch.tensor(list(sides), dtype=torch.float64)
    size = products.shape[-1]
    most = max(1, 1_000_000 // products[0].numel())  # cells at a time
    excess = EXCESS * max(1, size / 64)
    parts = (products + products.mT) / 2, (products - products.mT) / 2
    first = _symbol(cells[:: max(1, len(cells) // 8)], offsets, *parts)
    bound = (1 + excess) ** 2 * _nearly_greatest(first)
    while len(cells) and bound:
        share = math.cos(float((half * torch.tensor(degrees)).sum()) / 2) ** 2
        left = []
        for some in cells.split(most):
            symbols = _symbol(some, offsets, *parts)
            over = ~_below(symbols, bound * share)
            left.append(some[over])
            if over.any():  # elsewhere there is nothing greater
                bound = max(bound, (1 + excess) ** 2 * _nearly_greatest(symbols[over]))
        cells = (torch.cat(left).unsqueeze(1) + corners * half).flatten(0, 1)
        half = half / 2
    return math.sqrt(bound) * (1 + 1e-9)  # what rounding may have hidden


def _products(
    weight: Tensor, stride: Sequence[int], dilation: Sequence[int], groups: int
) -> tuple[Tensor, Tensor, list[int]]:
    """Return the offsets τ in the half plane, R(τ) of each group, and the degree in each axis."""
    weight = weight.unflatten(0, (groups, -1))
    sizes = [(k - 1) * d + 1 for k, d in zip(weight.shape[3:], dilation, strict=True)]
    kernel = weight.new_zeros(*weight.shape[:3], *sizes)
    taps: Any = (..., *(slice(None, None, d) for d in dilation))
    kernel[taps] = weight
    if max(stride) == 1 and kernel.shape[2] < kernel.shape[1]:
        kernel = kernel.transpose(1, 2)  # the adjoint has the same norm, and fewer rows
    degrees = [(k - 1) // s for k, s in zip(sizes, stride, strict=True)]
    everywhere = itertools.product(*(range(-d, d + 1) for d in degrees))
    offsets = [offset for offset in everywhere if offset >= (0,) * len(degrees)]

    def moved(sign: int, offset: tuple[int, ...]) -> Tensor:
        by = [sign * s * o for s, o in zip(stride, offset, strict=True)]
        parts = [slice(max(0, b), k + min(0, b)) for b, k in zip(by, sizes, strict=True)]
        part: Any = (..., *parts)
        return kernel[part].flatten(3)

    pairs = [(moved(1, offset), moved(-1, offset)) for offset in offsets]
    products = torch.stack([torch.einsum("goit,gpit->gop", *pair) for pair in pairs])
    return torch.tensor(offsets, dtype=torch.float64), products, degrees


def _symbol(angles: Tensor, offsets: Tensor, even: Tensor, odd: Tensor) -> Tensor:
    """Return G(ω), Hermitian: [angles, groups, outputs, outputs].

    ``even``, ``odd``: the symmetric and the antisymmetric part of R(τ).
    """
    phases = angles @ offsets.T
    twice = torch.where(offsets.any(1), 2.0, 1.0).double()  # τ and -τ
    real = (phases.cos() * twice) @ even.flatten(1)
    imaginary = (phases.sin() * twice) @ odd.flatten(1)
    return torch.complex(real, imaginary).unflatten(1, even.shape[1:])


def _below(symbols: Tensor, limit: float) -> Tensor:
    """Return where all eigenvalues are below a limit: [angles]."""
    rest = -symbols
    rest.diagonal(dim1=-2, dim2=-1).add_(limit)
    return torch.linalg.cholesky_ex(rest).info.eq(0).all(-1)


def _nearly_greatest(symbols: Tensor) -> float:
    """Return an eigenvalue near the greatest of all, from below: that where a few rounds end."""
    matrices = symbols.flatten(0, 1)
    start = torch.Generator().manual_seed(0)
    vectors = torch.randn(*matrices.shape[:2], 1, generator=start, dtype=matrices.dtype)
    for _ in range(12):
        vectors = matrices @ torch.nn.functional.normalize(vectors, dim=1)
    best = matrices[int(vectors.norm(dim=1).argmax())]
    return float(torch.linalg.eigvalsh(best)[-1])
