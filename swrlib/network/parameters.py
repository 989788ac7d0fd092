"""Which parameters of layers can be scaled in place, each by itself."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


def shared(first: str, second: str) -> str:
    """Return why a layer that is used twice, or two that share a weight, are refused."""
    why = "a weight has one norm to return to, so give each use its own"
    if first == second:
        return f"layer {first!r} is used twice: {why}, or name each layer once with layers="
    return f"{first!r} and {second!r} share one weight: {why}"


def refuse_parameters(layers: Mapping[str, nn.Module], model: nn.Module | None = None) -> None:
    """Refuse parameters of layers that cannot be scaled in place, each by itself.

    Raises
    ------
    ValueError
        If one has no shape yet, holds whole numbers or float8 ones, is sparse or distributed, has
        entries that share memory, or shares it with another parameter of the layers, or of the
        model if given.
    """
    for name, module in layers.items():
        _refuse_parameters(name, module)
    compared = {"": model} if model is not None else layers
    parameters = [
        named
        for prefix, module in compared.items()
        for named in module.named_parameters(prefix, remove_duplicate=False)
    ]
    _refuse_shared_weights(parameters, layers)


def _refuse_parameters(layer: str, module: nn.Module) -> None:
    for name, parameter in module.named_parameters(layer, recurse=False):
        if is_lazy(parameter):
            raise ValueError(f"{name} has no shape yet: run the model once on an input")
        numbers = parameter.is_floating_point() or parameter.is_complex()
        if not numbers or parameter.element_size() == 1:  # a float8
            raise ValueError(
                f"{name} holds {parameter.dtype} numbers, which cannot be scaled: "
                "convert the model to float32, say, first"
            )
        if hasattr(parameter, "placements"):  # a DTensor
            raise ValueError(
                f"{name} is distributed over processes: SWR needs the norms of whole weights"
            )
        if parameter.layout is not torch.strided:
            raise ValueError(f"{name} is sparse: make it dense first")
        extent = 0
        for stride, size in sorted(zip(parameter.stride(), parameter.shape, strict=True)):
            if size > 1 and stride <= extent:
                raise ValueError(f"entries of {name} share memory: clone it first")
            extent += (size - 1) * stride


def _refuse_shared_weights(
    parameters: Iterable[tuple[str, nn.Parameter]], names: Container[str]
) -> None:
    """Refuse layers whose parameters lie in the same memory, be they one Parameter or several."""
    stretches = []
    for name, parameter in parameters:
        if is_lazy(parameter) or parameter.layout is not torch.strided or not parameter.numel():
            continue
        # On the device "meta" there is no memory.
        storage = parameter.untyped_storage().data_ptr() or id(parameter)
        begin = parameter.storage_offset()
        axes = zip(parameter.shape, parameter.stride(), strict=True)
        last = begin + sum((size - 1) * stride for size, stride in axes)
        stretches.append((storage, begin, last, name, parameter))
    # The sort is stable: of one tensor's names the first stays first.
    stretches.sort(key=lambda stretch: stretch[:2])
    held: Any = (None, 0, -1, "", None)
    for stretch in stretches:
        storage, begin, last, name, parameter = stretch
        if storage == held[0] and begin <= held[2]:
            owners = (held[3].rpartition(".")[0], name.rpartition(".")[0])
            if any(layer in names for layer in owners) and _meet(held[4], parameter):
                raise ValueError(shared(held[3], name))
        if storage != held[0] or last > held[2]:
            held = stretch


def _meet(first: Tensor, second: Tensor) -> bool:
    """Say whether two tensors in overlapping stretches of one memory have an entry in common."""
    if first.storage_offset() == second.storage_offset():
        return True
    entries = []
    for tensor in (first, second):
        places = torch.tensor(tensor.storage_offset(), device="cpu")
        for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
            places = places.unsqueeze(-1) + stride * torch.arange(size, device="cpu")
        entries.append(places.flatten())
    return bool(torch.isin(*entries).any())
