"""Soft Weight Rescaling: its arithmetic, once.

Section 3.2-3.3 and Algorithm 1 of the paper: after every optimizer step each weight is scaled by

    c_l = (λ n_l + (1 − λ) ‖W_l‖) / ‖W_l‖,        n_l the norm of W_l at initialization,

and each bias by C_l, a product of such factors that keeps the function proportional. Which factors
enter C_l is what the two variants differ in:

- ``"proportional"`` (default): C_l = c_l at a normalization layer, else c_l·C of the layer before,
  so that the product restarts at *every* normalization layer, whose output does not depend on the
  scale of its input.
- ``"printed"``: Algorithm 1 to the letter, C_l = c_l·C_{l−1} from the last normalization layer on
  and c_l before it. At that layer itself this scales the shift by c_{l−1} too often.

In a chain without normalization layers they agree; where branches part, the printed running product
takes in the factors of other branches.
"""

from __future__ import annotations

import functools
import math
import numbers
import operator
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from swrlib.checks import check_name
from swrlib.network.layers import Layer, Network, trace
from swrlib.network.order import Order
from swrlib.network.scales import Course

Variant = Literal["proportional", "printed"]


#: Where a tensor has more entries than this, a processor adds the squares row by row: one float32
#: sum over the 17 million weights of VGG-16's classifier would be off by 0.1%, more than a step
#: pulls.
LARGE = 2**17


def multi_tensor_norms(tensors: Sequence[Tensor], *, stacked: int = 0) -> Tensor:
    """Return the Frobenius norms of many tensors, in float32 at least: [tensors].

    Where every tensor has ``stacked`` leading axes, of seeds and runs say: [*leading, tensors].
    """
    dtypes = {tensor.dtype for tensor in tensors}
    if any(dtype.is_complex for dtype in dtypes):  # real and imaginary parts as entries
        tensors = [torch.view_as_real(t) if t.is_complex() else t for t in tensors]
        dtypes = {tensor.dtype for tensor in tensors}
    dtype = functools.reduce(torch.promote_types, dtypes, torch.float32)
    leading = tensors[0].shape[:stacked]
    if max(map(Tensor.numel, tensors)) > LARGE * leading.numel() and tensors[0].is_cpu:
        tensors = [_row_norms(tensor, stacked, dtype) for tensor in tensors]
    if leading.numel() > 1:
        axes = [tuple(range(stacked, tensor.dim())) for tensor in tensors]
        pairs = zip(tensors, axes, strict=True)
        return torch.stack([torch.linalg.vector_norm(t, dim=d, dtype=dtype) for t, d in pairs], -1)
    return torch.stack(torch._foreach_norm(list(tensors), dtype=dtype)).view(*leading, -1)


def _row_norms(tensor: Tensor, stacked: int, dtype: torch.dtype) -> Tensor:
    """Return the norms of a tensor's rows, which have the tensor's norm; [entries] stay as is."""
    axes = tuple(range(stacked + 1, tensor.dim()))
    return torch.linalg.vector_norm(tensor, dim=axes, dtype=dtype) if axes else tensor


def pull_and_rest(initial_norms: Tensor, lam: Tensor | float) -> tuple[Tensor, Tensor]:
    """Return λ n_l and 1 − λ, the parts of a soft factor that do not change from step to step.

    Where n_l is zero there is no norm to return to: 0 and 1, so that the factor is 1. Shapes:
    [..., layers], λ broadcasts against it.
    """
    there = initial_norms > 0
    rest = torch.ones_like(initial_norms) - lam
    return (lam * initial_norms).where(there, 0.0), rest.where(there, 1.0)


#: No factor is larger than this. Algorithm 1 has no such limit: a norm that has all but vanished
#: makes a factor that, through the product, would blow up every bias behind its layer at once.
LARGEST_FACTOR = 10.0


def soft_factors(norms: Tensor, pull: Tensor, rest: Tensor) -> Tensor:
    """Return c_l = (λ n_l + (1 − λ) ‖W_l‖) / ‖W_l‖ = pull/‖W_l‖ + rest. Shapes: [..., layers] each.

    Not finite where ‖W_l‖ is zero: `limited_` follows, unless all norms are `ordinary`.
    """
    return torch.addcdiv(rest, pull, norms)


def limited_(factors: Tensor) -> Tensor:
    """Limit factors to `LARGEST_FACTOR`, in place; where there is no norm to scale, to 1."""
    return factors.nan_to_num_(1.0, 1.0).clamp_max_(LARGEST_FACTOR)


def ordinary(norms: Sequence[float], least: Sequence[float]) -> bool:
    """Return whether no factor is limited: no norm is zero, NaN, or below the least for that."""
    return all(map(operator.le, least, norms)) and all(norms)


def cumulative_factors(
    factors: Tensor, members: Tensor, others: Tensor, *, out: Tensor | None = None
) -> Tensor:
    """Return for each scaled tensor the product of the factors that enter it.

    Shapes: factors [..., layers]; members [tensors, layers], 1 where a factor enters, else 0;
    others = 1 − members; result [..., tensors].
    """
    entering = torch.addcmul(others, members, factors.unsqueeze(-2))
    return torch.prod(entering, -1, out=out)


class SoftRescaling:
    """Soft rescalings of the same tensors, one after another: the only place where SWR happens.

    The vectors of norms and scales and a view of each of their entries are made once: on a
    processor, making them anew at every step would cost as much as the multiplications.

    Parameters
    ----------
    pull, rest : torch.Tensor
        What `pull_and_rest` returns, shape [..., layers]; read at every step.
    members : torch.Tensor
        bool [tensors, layers]: whose factors multiply which tensor.
    tensors : sequence of torch.Tensor
        All that is to be scaled (weights, biases), or tensors of their shapes, each with the
        leading axes of ``pull``.
    """

    def __init__(
        self, pull: Tensor, rest: Tensor, members: Tensor, tensors: Sequence[Tensor]
    ) -> None:
        self.pull, self.rest = pull, rest
        with torch.inference_mode(False), torch.no_grad():  # for later steps in any mode
            self._members = members.to(pull)
            self._others = 1 - self._members
            self._scales = pull.new_ones(*pull.shape[:-1], len(members))
            self._norms = torch.empty_like(pull)
        self._norm_of_each = self._norms.unbind(-1)
        most = LARGE * pull.shape[:-1].numel()
        self._in_place = (pull.dim() > 1 or pull.is_cpu) and not any(
            tensor.numel() > most or tensor.is_complex() for tensor in tensors
        )
        pairs = zip(self._scales.unbind(-1), tensors, strict=True)
        self._scale_of_each = [
            scale.view(*scale.shape, *(1,) * (tensor.dim() - scale.dim())) if scale.dim() else scale
            for scale, tensor in pairs
        ]

    def __call__(self, weights: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
        """Rescale once, in place.

        Parameters
        ----------
        weights : sequence of torch.Tensor
            The weights whose norms decide.
        tensors : sequence of torch.Tensor
            All that is scaled, in the order of ``members``.
        """
        self.scale_(tensors, self.norms_of(weights))

    def norms_of(self, weights: Sequence[Tensor]) -> Tensor:
        """Return the norms of the weights; until the next call."""
        if not self._in_place:
            return multi_tensor_norms(weights, stacked=self.pull.dim() - 1)
        dtype, first = self._norms.dtype, self.pull.dim() - 1
        for weight, norm in zip(weights, self._norm_of_each, strict=True):
            axes = tuple(range(first, weight.dim())) if first else None
            torch.linalg.vector_norm(weight, 2, axes, dtype=dtype, out=norm)
        return self._norms

    def scale_(
        self,
        tensors: Sequence[Tensor],
        norms: Tensor,
        skipped: Tensor | None = None,
        *,
        limited: bool = True,
    ) -> Tensor:
        """Scale as the norms say, and return the factors c_l.

        ``skipped``: non-zero where the optimizer skipped its step: then nothing is scaled.
        ``limited``: False where all norms are `ordinary`, and there is nothing to limit.
        """
        factors = soft_factors(norms, self.pull, self.rest)
        if limited:
            limited_(factors)
        if skipped is not None:
            factors = factors.where(skipped == 0, 1.0)
        cumulative_factors(factors, self._members, self._others, out=self._scales)
        if self._in_place and self.pull.is_cpu:  # a loop is what torch makes of it there, too
            for tensor, scale in zip(tensors, self._scale_of_each, strict=True):
                tensor.mul_(scale)
        else:
            torch._foreach_mul_(list(tensors), self._scale_of_each)
        return factors


def membership(network: Network, variant: Variant) -> dict[str, set[str]]:
    """Return for each layer the layers whose factors make up its C_l, in the given variant.

    Where branches meet, the product goes on from the last layer in the order of the forward pass,
    as Algorithm 1's running C does. The factor of a layer that standardizes its weight enters none.
    """
    check_name("variant", variant, get_args(Variant))
    if variant == "proportional":
        scales = Course(network).scales
        return {layer.name: {*scales[layer.name].powers} for layer in network.layers}
    last = max((i for i, la in enumerate(network.layers) if la.kind == "normalization"), default=-1)
    members: dict[str, set[str]] = {}
    before: set[str] = set()
    for i, layer in enumerate(network.layers):
        members[layer.name] = before = {layer.name} | (before if i >= last else set())
    return members


def membership_mask(products: Sequence[set[str]], layers: Sequence[str]) -> Tensor:
    """Write products of factors as a mask, bool [products, layers]; other layers have factor 1."""
    rows = [[name in product for name in layers] for product in products]
    mask = torch.tensor(rows, dtype=torch.bool, device="cpu")
    return mask.view(len(products), len(layers))


def rescale_(
    model: nn.Module,
    factors: Sequence[float] | Mapping[str, float],
    *,
    variant: Variant = "proportional",
    running_statistics: bool = True,
    example: Any = None,
    layers: Order | None = None,
    normalizations: Sequence[type[nn.Module]] = (),
) -> float:
    """Scale every layer by a positive factor and the biases so that the function keeps its shape.

    Theorem 1 (Section 3.2): with b_l ← (Π_{i≤l} c_i) b_l, a network of affine layers and positively
    homogeneous activations satisfies f_c(x) = C·f(x). Normalization layers restart the product.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place.
    factors : sequence of float, or mapping of layer name to float
        One positive factor for each layer of `trace_layers`. A normalization without weights takes
        the factor 1.
    variant : {"proportional", "printed"}
        How biases are scaled; the returned constant is the theorem's in both.
    running_statistics : bool
        Whether batch normalization's running mean and variance follow the scale of their input, so
        that the evaluation mode is proportional at once.
    example : optional
        As for `trace_layers`.
    layers, normalizations : optional
        As for `SoftWeightRescaling`; what stands between named layers is taken for homogeneous.

    Returns
    -------
    float
        The proportionality constant C.

    Raises
    ------
    ValueError
        If a factor is missing or not positive, or if proportionality is impossible: where branches
        of different scale are added, or an operation is not positively homogeneous. The model is
        left as it was.
    """
    network = trace(model, example, layers=layers, normalizations=normalizations)
    c = _checked_factors(network.layers, factors)
    if (course := Course(network, c)).fault:
        raise ValueError(course.fault)
    members = membership(network, variant)
    for layer in network.layers:
        if layer.weight is not None:
            layer.weight.detach().mul_(c[layer.name])
        if layer.bias is not None:
            layer.bias.detach().mul_(math.prod(c[name] for name in sorted(members[layer.name])))
        mean = getattr(layer.module, "running_mean", None)
        if running_statistics and mean is not None:
            scale = course.enters[layer.name].value(c)
            mean.mul_(scale)
            layer.module.running_var.mul_(scale**2)  # type: ignore[operator]
    return course.outputs.value(c)


def _checked_factors(
    layers: Sequence[Layer], factors: Sequence[float] | Mapping[str, float]
) -> dict[str, float]:
    names = [layer.name for layer in layers]
    if isinstance(factors, (str, numbers.Real)):
        raise TypeError(f"factors are one number per layer ({', '.join(names)}), not {factors!r}")
    if isinstance(factors, Mapping):
        for name in factors:
            check_name("layer", name, names, "the model has no")
        by_name = dict(factors)
    else:
        by_name = dict(zip(names, factors, strict=False))
    if len(factors) != len(names) or len(by_name) != len(names):
        raise ValueError(f"{len(factors)} factors for {len(names)} layers: {', '.join(names)}")
    result = {name: float(value) for name, value in by_name.items()}
    for layer in layers:
        value = result[layer.name]
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(
                f"the factor of layer {layer.name!r} is {value}: Theorem 1 needs positive factors"
            )
        if layer.weight is None and value != 1:
            raise ValueError(f"layer {layer.name!r} has no weight to scale: its factor must be 1")
    return result


def checked_lambda(value: Any, name: str = "lam") -> float:
    """Return λ as a float; refuse what is no number in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number in [0, 1], not {value!r}")
    number = float(value)
    if not 0 <= number <= 1:
        raise ValueError(f"{name} is {number}, but SWR's λ lies in [0, 1] (0: off, 1: fixed norms)")
    return number
