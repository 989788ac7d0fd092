"""Copies of a model to run, and in one sentence what hinders that."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from swrlib.checks import first_line
from swrlib.network.arguments import call_arguments
from swrlib.network.layers import unwrap


def copied(model: nn.Module) -> nn.Module:
    """Copy a model, without what wraps it; refuse in one sentence what cannot be copied."""
    model = unwrap(model)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if nn.parameter.is_lazy(tensor):
            raise ValueError(f"{name} has no shape yet: run the model once on an input")
    try:
        return copy.deepcopy(model)
    except Exception as error:
        computed = [
            ".".join(filter(None, (name, key)))
            for name, module in model.named_modules()
            for key, value in vars(module).items()
            if isinstance(value, Tensor) and not value.is_leaf
        ]
        why = (
            f"{', '.join(computed)} was computed with gradients (run it once under torch.no_grad())"
            if computed
            else first_line(error)
        )
        raise ValueError(f"{type(model).__name__} cannot be copied: {why}") from error


def evaluated(model: nn.Module) -> nn.Module:
    """Copy a model into evaluation mode; refuse what is not a map of single, real inputs."""
    network = copied(model).eval().requires_grad_(False)
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        integer = not tensor.is_floating_point()
        if tensor.is_complex() or (integer and isinstance(tensor, nn.Parameter)):
            raise ValueError(f"{name} is {tensor.dtype}: only real weights have a bound here")
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is None:
            raise ValueError(f"{name} has no running statistics: it maps whole batches")
    return network


def refuse_inputs(inputs: Tensor) -> None:
    """Refuse inputs that are no real numbers, or none at all."""
    if not inputs.is_floating_point():
        raise ValueError(f"the inputs are {inputs.dtype}: a Lipschitz constant needs real numbers")
    if not inputs.dim() or not inputs.numel():
        raise ValueError(f"the inputs have the shape {tuple(inputs.shape)}: there are none")


def run(network: nn.Module, inputs: Any) -> Any:
    """Return a model's output, without leaving its inputs to it: it may change them in place.

    ``inputs``: a tensor, or all that the forward pass takes, as for `swrlib.trace_layers`.
    """
    copies = tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, inputs)
    try:
        args, keywords = call_arguments(network, copies)
        return network(*args, **keywords)
    except Exception as error:
        shape = f" of shape {tuple(inputs.shape[1:])}" if isinstance(inputs, Tensor) else ""
        raise ValueError(
            f"{type(network).__name__} fails on an input{shape}: {first_line(error)}"
        ) from error


def refuse_mixing(network: nn.Module, example: Tensor, expected: Any) -> None:
    """Refuse a model that makes something else of an input where others are beside it in a batch.

    ``example``: one input, [1, …]; ``expected``: what the model makes of it.
    """
    if not isinstance(expected, Tensor):
        return
    try:
        # Whatever the order of the results is, those of the example itself stay.
        one, two = (run(network, torch.cat([example, c * example.flip(-1) + c])) for c in (-1, 2))
        same = torch.isclose(one, two, rtol=1e-6, atol=1e-9, equal_nan=True)
    except (RuntimeError, TypeError, ValueError):  # it takes one input at a time
        return
    if int(same.sum()) < expected.numel():
        raise ValueError(
            f"{type(network).__name__} mixes the inputs of a batch: what it computes from one "
            "input alone is another map"
        )
