"""Units of hidden layers that start anew: where their parameters are, and how they are renewed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from swrlib.methods import watching
from swrlib.population import Members


class HiddenLayer(NamedTuple):
    """A hidden layer.

    Attributes
    ----------
    step : str
        What its features come from: it feeds the next layer.
    into : dict of bool to int
        The places of its weight (False) and its bias (True) among the parameters.
    out_of : int
        That of the next layer's weight.
    """

    step: str
    into: dict[bool, int]
    out_of: int


def hidden_layers(members: Members, name: str) -> list[HiddenLayer]:
    """Return the hidden layers of a chain of linear and convolution layers.

    Raises
    ------
    ValueError
        If the network is another one: the sentence names the method and what hinders it.
    """
    network = members.network
    layers = network.layers
    chained = all(
        layer.predecessors == ((before.name,) if before else ())
        for before, layer in zip([None, *layers], layers, strict=False)
    )
    joined = [step.label or step.name for step in network.steps if step.kind == "sum"]
    others = [
        layer.name
        for layer in layers
        if layer.kind == "normalization" or getattr(layer.module, "groups", 1) > 1
    ]
    if joined or others or not chained or len(layers) < 2:
        hinders = ", ".join(joined + others) or "the layers are no chain"
        raise ValueError(
            f"{name} needs a chain of linear and convolution layers with nothing but activations, "
            f"pooling and flattening between them ({hinders}): take another model"
        )
    places = {id(parameter): i for i, parameter in enumerate(members.parameters)}
    owned: dict[str, dict[bool, int]] = {}
    for tensor, (layer_name, bias) in zip(members.tensors, members.owners, strict=True):
        owned.setdefault(layer_name, {})[bias] = places[id(tensor)]
    return [
        HiddenLayer(step, owned[before.name], owned[layer.name][False])
        for before, (layer, step) in zip(layers, watching.hidden_layers(network), strict=False)
    ]


def of_units(features: Tensor, units: int) -> Tensor:
    """Show features [seeds, runs, N, …] by unit: [seeds, runs, N, units, places of its map]."""
    return features.flatten(3).unflatten(-1, (units, -1))


def renew_(
    members: Members, layer: HiddenLayer, units: Tensor, new: list[Tensor], out: Tensor | None
) -> None:
    """Renew marked units, and the optimizer's moments of their weights.

    Parameters
    ----------
    members : Members
    layer : HiddenLayer
    units : torch.Tensor
        [seeds, runs, units], bool.
    new : list of torch.Tensor
        What `Members.fresh` returned: weights into the units, and their biases, are these.
    out : torch.Tensor, optional
        What the weights out of them become, [seeds, 1, …]; None: zero.
    """
    for place in layer.into.values():
        _put_(members.parameters[place], units, new[place])
        for moments in members.moments.values():
            _put_(moments[place], units, torch.zeros_like(new[place]))
    weight = members.parameters[layer.out_of]  # [seeds, runs, out, in, …]; a map's places together
    columns = units.repeat_interleave(weight.shape[3] // units.shape[2], -1).unsqueeze(2)
    marked = columns.view(*columns.shape, *(1,) * (weight.dim() - 4))
    weight.copy_(torch.where(marked, torch.zeros_like(weight) if out is None else out, weight))
    for moments in members.moments.values():
        moments[layer.out_of].masked_fill_(marked, 0)


def _put_(tensor: Tensor, units: Tensor, values: Tensor) -> None:
    """Put values [seeds, 1, units, …] where units [seeds, runs, units] are marked."""
    marked = units.view(*units.shape, *(1,) * (tensor.dim() - units.dim()))
    tensor.copy_(torch.where(marked, values, tensor))
