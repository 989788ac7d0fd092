"""Layers of many replicas at once: one wide product, grouped convolutions, grouped statistics.

Parameters carry a leading axis of replicas. Activations have one of two forms: maps
[N, count·C, H, W] and units [count, U, N]; the count is that of the replicas, or before the first
layer that of different inputs, which replicas that lie next to each other share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from timeit import timeit
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn import functional

from swrlib.network.graph import Step, has_own_forward


class Unstackable(TypeError):
    """Several replicas of a network cannot be computed at once."""


def refuse(what: str) -> NoReturn:
    """Refuse to compute several replicas at once."""
    raise Unstackable(
        f"{what}, which several runs cannot compute at once: train it alone (stack=1)"
    )


def named(step: Step) -> str:
    """Say what a step is, by its name."""
    if step.module is not None and step.node is not None:
        text = str(step.module)
        one_line = text if len(text.splitlines()) == 1 else type(step.module).__name__
        return f"{step.node.target} is a {one_line}"
    return f"operation {step.label} is {step.operation}"


@dataclass(frozen=True)
class Setting:
    """What replicas are computed with.

    Attributes
    ----------
    replicas : int
    parameters, buffers : mapping of str to torch.Tensor
        By name, [replicas, …].
    products : torch.dtype
        Of what enters products of matrices and convolutions.
    blocked : bool
        Whether maps lie in oneDNN's layout.
    memory_format : torch.memory_format
        Of images otherwise.
    """

    replicas: int
    parameters: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    products: torch.dtype
    blocked: bool
    memory_format: torch.memory_format


class Mode:
    """Whether a pass is one of training."""

    training = True


def apart(maps: Tensor, count: int) -> Tensor:
    """Return maps [N, count·C, H, W] as [N, count, C, H, W]."""
    images, channels, height, width = maps.shape
    return maps.view(images, count, channels // count, height, width)


def units(rows: Tensor, count: int) -> Tensor:
    """Return rows [N, count·U] as units [count, U, N]."""
    return rows.view(len(rows), count, -1).permute(1, 2, 0)


# -------------------------------------------------------------------------------------------------
# Products


@cache
def onednn_product() -> Callable[..., Tensor] | None:
    """Return oneDNN's product of matrices, or None where PyTorch's own is to be taken.

    PyTorch has its products from MKL, which uses half of an AMD processor's vector width, and its
    convolutions from oneDNN, which uses all of it: there oneDNN's product, which is not a public
    function, takes half of the time, on Intel's processors more of it. So both are timed, once a
    process, for about a millisecond. oneDNN's is taken where it saves a fifth: machines are far
    from that on one side or the other, so that each chooses, and rounds, the same every time.
    """
    a, b = torch.ones(2, 128, 256, dtype=torch.float32, device="cpu")
    try:
        function: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise
        products = (lambda: function(a, b, None, "none", [], ""), lambda: a @ b.T)
        seconds = [[timeit(multiply, number=1) for multiply in products] for _ in range(10)]
    except (AttributeError, RuntimeError, TypeError):
        return None
    onednn, own = map(min, zip(*seconds, strict=True))
    return function if onednn < 0.8 * own else None


def by_onednn(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether products of matrices are oneDNN's; float32 ones on a processor may be."""
    return device.type == "cpu" and dtype == torch.float32 and onednn_product() is not None


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return a bᵀ of matrices [m, k] and [n, k]."""
    if by_onednn(a.device, a.dtype) and (function := onednn_product()):
        return function(a, b, None, "none", [], "")
    return a @ b.T


class OneDNNAffine(torch.autograd.Function):
    """W x + b with oneDNN's products, which have no gradients of their own.

    Shapes: weight [out, in], inputs [in, N], bias [out, 1] or None; output [out, N].
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, inputs: Tensor, bias: Tensor | None) -> Tensor:
        """Return the outputs."""
        ctx.save_for_backward(weight, inputs)
        outputs = product(weight, inputs.T)
        return outputs if bias is None else outputs.add_(bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of weight, inputs and bias."""
        weight, inputs = ctx.saved_tensors
        own = product(weight.T, gradient.T) if ctx.needs_input_grad[1] else None
        bias = gradient.sum(1, keepdim=True) if ctx.needs_input_grad[2] else None
        return product(gradient, inputs), own, bias


def affine(weight: Tensor, inputs: Tensor, bias: Tensor | None) -> Tensor:
    """Return W x + b.

    Shapes: weight [out, in], inputs [in, N], bias [out, 1] or None; output [out, N].
    """
    if by_onednn(weight.device, weight.dtype):
        result: Tensor = OneDNNAffine.apply(weight, inputs, bias)
        return result
    return weight @ inputs if bias is None else torch.addmm(bias, weight, inputs)


# -------------------------------------------------------------------------------------------------
# Layers: each a function of activations


Function = Callable[[Tensor], Tensor]


def check_layer(step: Step, setting: Setting) -> None:
    """Refuse a layer whose parameters are not its own, or that computes something else."""
    module = step.module
    assert module is not None
    if has_own_forward(module):
        refuse(f"{named(step)} with a forward of its own")
    for name in ("weight", "bias"):
        there = getattr(module, name, None) is not None
        if there and f"{step.name}.{name}" not in setting.parameters:
            refuse(f"the {name} of {step.name} is computed, or is another layer's too")


def linear(step: Step, setting: Setting, count: int) -> Function:
    """Return the product of units [count, in, N] with all replicas' weights."""
    parameters, dtype, replicas = setting.parameters, setting.products, setting.replicas
    name = step.name

    def multiply(x: Tensor) -> Tensor:
        # A gradient passes through every view: there are as few as can be.
        weight, bias = parameters[f"{name}.weight"].to(dtype), parameters.get(f"{name}.bias")
        bias = None if bias is None else bias.to(dtype)
        x = x.to(dtype)
        if count == 1 and (replicas > 1 or by_onednn(x.device, dtype)):  # one wide product
            bias = None if bias is None else bias.view(-1, 1)
            return affine(weight.flatten(0, 1), x.squeeze(0), bias).view(replicas, -1, x.shape[2])
        if count < replicas:  # one for the replicas of an input
            weight = weight.view(count, -1, weight.shape[2])
            bias = None if bias is None else bias.view(count, -1)
        if bias is None:
            result = torch.bmm(weight, x)
        else:
            result = torch.baddbmm(bias.unsqueeze(2), weight, x)
        return result if count == replicas else result.view(replicas, -1, x.shape[2])

    return multiply


def convolution(step: Step, setting: Setting, count: int) -> Function:
    """Return the convolution of maps with all replicas' kernels."""
    module: Any = step.module
    if not isinstance(module, nn.Conv2d) or module.padding_mode != "zeros":
        refuse(named(step))
    parameters, dtype, name = setting.parameters, setting.products, step.name
    options: Any = (module.stride, module.padding, module.dilation, module.groups * count)

    def convolve(x: Tensor) -> Tensor:
        weight, bias = parameters[f"{name}.weight"], parameters.get(f"{name}.bias")
        bias = None if bias is None else bias.flatten().to(dtype)
        return functional.conv2d(x.to(dtype), weight.flatten(0, 1).to(dtype), bias, *options)

    return convolve


def batch_norm(step: Step, setting: Setting, mode: Mode) -> Function:
    """Return the batch normalization of [N, replicas·C, …]; it moves the running statistics."""
    module: Any = step.module
    if not module.track_running_stats or module.momentum is None:
        refuse(named(step))
    parameters, buffers, name = setting.parameters, setting.buffers, step.name

    def normalize(x: Tensor) -> Tensor:
        if mode.training:
            buffers[f"{name}.num_batches_tracked"].add_(1)
        mean, variance = (buffers[f"{name}.running_{kind}"].view(-1) for kind in ("mean", "var"))
        weight, bias = (_flat(parameters.get(f"{name}.{kind}")) for kind in ("weight", "bias"))
        rates = module.momentum, module.eps
        return functional.batch_norm(x, mean, variance, weight, bias, mode.training, *rates)

    return normalize


def group_norm(step: Step, setting: Setting) -> Function:
    """Return the normalization of [N, replicas·C, …] over groups of channels, or each by itself."""
    module: Any = step.module
    if isinstance(module, nn.GroupNorm):
        groups = module.num_groups * setting.replicas
    elif isinstance(module, nn.InstanceNorm2d) and not module.track_running_stats:
        groups = module.num_features * setting.replicas
    else:
        refuse(named(step))
    parameters, name = setting.parameters, step.name

    def normalize(x: Tensor) -> Tensor:
        weight, bias = (_flat(parameters.get(f"{name}.{kind}")) for kind in ("weight", "bias"))
        return functional.group_norm(x, groups, weight, bias, module.eps)

    return normalize


def layer_norm(step: Step, setting: Setting, *, maps: bool) -> Function:
    """Return the normalization of maps or units over their last axes."""
    module: Any = step.module
    shape, replicas = module.normalized_shape, setting.replicas
    if len(shape) > (3 if maps else 1):
        refuse(f"{named(step)} over the batch, too")
    parameters, name = setting.parameters, step.name
    function = functional.layer_norm if isinstance(module, nn.LayerNorm) else functional.rms_norm
    axes = (replicas, *(1,) * ((3 if maps else 2) - len(shape)), *shape)

    def normalize(x: Tensor) -> Tensor:
        weight, bias = (parameters.get(f"{name}.{kind}") for kind in ("weight", "bias"))
        x = function(apart(x, replicas) if maps else x.mT, shape, eps=module.eps)
        x = x if weight is None else x * weight.view(axes)
        x = x if bias is None else x + bias.view(axes)
        return x.flatten(1, 2) if maps else x.mT

    return normalize


def _flat(block: Tensor | None) -> Tensor | None:
    return None if block is None else block.flatten()
