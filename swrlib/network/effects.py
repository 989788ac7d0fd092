"""What the scale of a layer's parameters does, found by trying where the layer has its own forward.

A convolution that pads in its own way is still scaled by its weight; one that standardizes its
weight first is not, and only its bias passes a scale on.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from swrlib.network.graph import has_own_forward, kind_of

#: "scales": it scales the output; "nothing": the weight is standardized before use; or else.
Effect = Literal["scales", "nothing", "other"]
#: A scale so near to 1 that weights which are rounded to a grid do not follow it …
_SCALE = 1.01
#: … and what an eps in the layer, or float32 inside of it, may change then.
_TOLERANCE = 2e-5


def effect_of(module: nn.Module) -> Effect:
    """Return what the scale of a layer's weight does.

    A layer as torch computes it is scaled by weight and bias together. One with a forward of its
    own is run on random inputs, in a copy and in float64: f(c·W, c·b, x) against c·f(W, b, x), and
    f(c·W, b, x) against f(W, b, x); a linear layer or a convolution must also pass the scale of its
    input on, f(W, c·b, c·x) = c·f(W, b, x), and a normalization by its input must not. That must
    hold in training and in evaluation, and wherever training may take the other parameters, many
    of which begin at zero.
    """
    if not has_own_forward(module):
        return "scales"
    with torch.no_grad(), torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        try:
            tried = copy.deepcopy(module).cpu().double()
        except Exception:  # of any kind: what cannot be copied is not known
            return "other"
        if isinstance(bias := getattr(tried, "bias", None), Tensor):
            bias.normal_()
        for name, parameter in tried.named_parameters():
            if name not in ("weight", "bias"):
                parameter.add_(torch.rand_like(parameter))
        for x in _inputs(tried):
            try:
                effects = {_effect_on(tried.train(mode), x) for mode in (False, True)}
                return effects.pop() if len(effects) == 1 else "other"
            except Exception:  # its inputs have another shape
                continue
    return "other"


def _effect_on(module: Any, x: Tensor) -> Effect:
    c = _SCALE

    def run(weight: float, bias: float, scale: float) -> Tensor:
        tried = copy.deepcopy(module)
        for name, factor in (("weight", weight), ("bias", bias)):
            if isinstance(parameter := getattr(tried, name, None), Tensor):
                parameter.mul_(factor)
        torch.manual_seed(1)
        result: Tensor = tried(scale * x)
        return result

    def same(first: Tensor, second: Tensor) -> bool:
        return bool((first - second).norm() <= _TOLERANCE * second.norm())

    plain = run(1, 1, 1)
    if not (plain.isfinite().all() and plain.any()):
        return "other"
    if kind_of(module) == "normalization":
        passes = getattr(module, "running_var", None) is not None or same(run(1, 1, c), plain)
    else:
        passes = same(run(1, c, c), c * plain)
    if passes and same(run(c, c, 1), c * plain):
        return "scales"
    return "nothing" if passes and same(run(c, 1, 1), plain) else "other"


def _inputs(module: Any) -> Iterator[Tensor]:
    """Draw inputs that a layer may take, in float64."""
    kind = kind_of(module)
    if kind == "linear":
        shapes = [(4, module.in_features), (4, 3, module.in_features)]
    elif kind == "convolution":
        sizes = [2 * d * k + 2 for k, d in zip(module.kernel_size, module.dilation, strict=True)]
        shapes = [(4, module.in_channels, *sizes)]
    else:
        channels = getattr(module, "num_features", getattr(module, "num_channels", None))
        normalized = tuple(getattr(module, "normalized_shape", ()))
        shapes = [(4, *normalized)] if normalized else []
        channels = channels or (normalized[0] if len(normalized) == 1 else 4)
        shapes += [(4, channels, *(5,) * axes) for axes in (2, 1, 3, 0)]
    for shape in shapes:
        yield torch.randn(shape, dtype=torch.float64, device="cpu")
