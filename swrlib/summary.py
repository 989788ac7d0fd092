"""The table that says what was found and done, and how far the function keeps its shape."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from swrlib import rescaling
from swrlib.choice import Strengths
from swrlib.layers import Layer, Network
from swrlib.plan import trainable


def table(
    layers: Sequence[Layer],
    strengths: Strengths,
    initial: Mapping[str, float],
    factors: Mapping[str, float],
    proportional: Iterable[str],
) -> Any:
    """Return a pandas.DataFrame with a row for each layer: see `SoftWeightRescaling.summary`."""
    import pandas as pd

    present = {layer.name: layer.weight for layer in layers if layer.weight is not None}
    norms = rescaling.multi_tensor_norms(list(present.values())).tolist() if present else []
    now = dict(zip(present, norms, strict=True))
    rows = [
        {
            "layer": layer.name,
            "kind": layer.kind,
            "group": layer.group,
            "lam": strengths.of(layer.name),
            "initial_norm": initial.get(layer.name, math.nan),
            "norm": now.get(layer.name, math.nan),
            "factor": factors.get(layer.name, math.nan),
            "proportional": reason,
        }
        for layer, reason in zip(layers, proportional, strict=True)
    ]
    return pd.DataFrame(rows).set_index("layer")


def where_proportionality_ends(
    network: Network, variant: rescaling.Variant, running_statistics: bool
) -> dict[str, str]:
    """Return "yes" for each step of the network, or why its output is no multiple of what it was.

    Parameters
    ----------
    network : Network
    variant : {"proportional", "printed"}
    running_statistics : bool
        Whether they are scaled along.
    """
    ends: dict[str, str] = {}
    layers = {layer.name: layer for layer in network.layers}
    members = rescaling.membership(network, variant)
    exact = rescaling.membership(network, "proportional")
    moving = {name for name, layer in layers.items() if trainable(layer.weight)}
    for step in network.steps:
        reason = next((ends[i] for i in step.inputs if ends[i] != "yes"), "yes")
        if reason == "yes" and step.kind == "other" and step.inputs:
            reason = f"no: {step.label} is not positively homogeneous"
        if reason == "yes" and step.kind == "sum" and len(step.inputs) > 1:
            reason = f"no: {step.label} adds branches of different scale"
        if reason == "yes" and step.kind == "layer":
            layer = layers[step.name]
            if fault := network.fault(layer):
                reason = f"no: {fault}"
            frozen = layer.bias is not None and not layer.bias.requires_grad
            if frozen and members[layer.name] & moving:
                reason = f"no: the bias of {layer.name} is frozen"
            entering = rescaling.entering(network, members, layer)
            if _lags(layer, running_statistics) and entering & moving:
                reason = f"no: {layer.name} is in evaluation mode and its statistics lag"
            if layer.bias is not None and members[layer.name] != exact[layer.name]:
                reason = f"no: Algorithm 1 as printed misscales the bias of {layer.name}"
        ends[step.name] = reason
    return ends


def _lags(layer: Layer, running_statistics: bool) -> bool:
    """Say whether a layer normalizes by statistics that do not follow its input's scale."""
    statistics = getattr(layer.module, "running_mean", None)
    return not (statistics is None or layer.module.training or running_statistics)


def by_name(names: Sequence[str], values: Tensor | None) -> dict[str, float]:
    """Write a tensor's entries as a mapping; empty where there is none."""
    return {} if values is None else dict(zip(names, values.tolist(), strict=True))
