"""Copies of a model to run, and in one sentence what hinders that."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from swrlib.checks import first_line
from swrlib.layers import unwrap


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


def run(network: nn.Module, inputs: Tensor) -> Any:
    """Return a model's output, without leaving its inputs to it: it may change them in place."""
    try:
        return network(inputs.clone())
    except Exception as error:
        raise ValueError(
            f"{type(network).__name__} fails on an input of shape {tuple(inputs.shape[1:])}: "
            f"{first_line(error)}"
        ) from error
