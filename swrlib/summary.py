"""The table that says what was found and done, and how far the function keeps its shape."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from swrlib import rescaling
from swrlib.cautions import listed
from swrlib.choice import Included, Strengths, trainable
from swrlib.layers import Layer, Network


def table(
    rows: Sequence[Layer | Included],
    strengths: Strengths,
    initial: Mapping[str, float],
    norms: Tensor,
    factors: Tensor,
    ends: Mapping[str, str],
) -> Any:
    """Return a pandas.DataFrame with a row for each layer: see `SoftWeightRescaling.summary`."""
    import pandas as pd

    alone = [row.name for row in rows if isinstance(row, Included)]
    found = []
    for row, norm, factor in zip(rows, norms.tolist(), factors.tolist(), strict=True):
        reason = ends.get(row.name, "yes")
        if alone and reason == "yes":
            reason = f"no: Theorem 1 does not cover {listed(alone)}, scaled by request"
        found.append(
            {
                "layer": row.name,
                "kind": row.kind,
                "group": row.group,
                "lam": strengths.of(row.name),
                "initial_norm": initial.get(row.name, math.nan),
                "norm": norm,
                "factor": factor,
                "proportional": reason,
            }
        )
    return pd.DataFrame(found).set_index("layer")


def where_proportionality_ends(
    network: Network,
    variant: rescaling.Variant,
    running_statistics: bool,
    excluded: Container[str] = (),
) -> dict[str, str]:
    """Return "yes" for each step of the network, or why its output is no multiple of what it was.

    Parameters
    ----------
    network : Network
    variant : {"proportional", "printed"}
    running_statistics : bool
        Whether they are scaled along.
    excluded : container of str
        Layers that are left alone.
    """
    ends: dict[str, str] = {}
    layers = {layer.name: layer for layer in network.layers}
    members = rescaling.membership(network, variant)
    exact = rescaling.membership(network, "proportional")
    moving = {n for n, la in layers.items() if trainable(la.weight) and n not in excluded}
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
            alone = layer.name in excluded
            frozen = layer.bias is not None and (alone or not layer.bias.requires_grad)
            if frozen and members[layer.name] & moving:
                reason = f"no: the bias of {layer.name} is {'excluded' if alone else 'frozen'}"
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


def aligned(rows: Sequence[str], names: Sequence[str], values: Tensor) -> Tensor:
    """Put the values of some rows at their places among all, nan elsewhere: [rows].

    Nothing waits for the device.
    """
    if list(rows) == list(names):
        return values.clone()
    nothing = values.new_full((), math.nan)
    by_name = dict(zip(names, values.unbind(), strict=True))
    return torch.stack([by_name.get(name, nothing) for name in rows])


def norms(rows: Sequence[Layer | Included]) -> Tensor:
    """Return the present norms, nan where there is no weight: [rows]."""
    weights = {row.name: row.weight.detach() for row in rows if row.weight is not None}
    if not weights:
        return torch.full((len(rows),), math.nan)
    present = rescaling.multi_tensor_norms(list(weights.values()))
    return aligned([row.name for row in rows], list(weights), present)
