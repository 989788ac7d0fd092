"""The table that says what was found and done, and how far the function keeps its shape."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from swrlib import rescaling
from swrlib.checks import listed
from swrlib.network.layers import Layer, Network, reaching
from swrlib.network.scales import Course, Scale
from swrlib.swr.choice import Included, Strengths, trainable


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

    names = [row.name for row in rows]
    if alone := [row.name for row in rows if isinstance(row, Included)]:
        reason = f"no: Theorem 1 does not cover {listed(alone)}, scaled by request"
        ends = dict.fromkeys(names, reason) | {
            name: end for name, end in ends.items() if end.startswith("no:")
        }
    columns = {
        "kind": [row.kind for row in rows],
        "group": [row.group for row in rows],
        "lam": [strengths.of(name) for name in names],
        "initial_norm": [initial.get(name, math.nan) for name in names],
        "norm": norms.tolist(),
        "factor": factors.tolist(),
        "proportional": [ends.get(name, "yes") for name in names],
    }
    return pd.DataFrame(columns, pd.Index(names, name="layer"))


def where_proportionality_ends(
    network: Network,
    variant: rescaling.Variant,
    running_statistics: bool,
    excluded: Collection[str] = (),
) -> dict[str, str]:
    """Return for each step whether its output is a multiple of what it was.

    "yes"; "no" and why; or "not traced", where the layers were named and what stands between them
    is not known.

    Parameters
    ----------
    network : Network
    variant : {"proportional", "printed"}
    running_statistics : bool
        Whether they are scaled along.
    excluded : collection of str
        Layers that are left alone.
    """
    members = rescaling.membership(network, variant)
    exact = rescaling.membership(network, "proportional")
    frozen = {la.name for la in network.layers if not trainable(la.weight)} | {*excluded}

    def also(layer: Layer, enters: Scale) -> str:
        if layer.bias is not None and members[layer.name] != exact[layer.name]:
            return f"Algorithm 1 as printed misscales the bias of {layer.name}"
        follows = running_statistics or layer.module.training
        tracks = getattr(layer.module, "running_mean", None) is not None
        if tracks and not follows and {*enters.powers} - frozen:
            return f"{layer.name} is in evaluation mode and its statistics lag"
        alone = layer.name in excluded
        still = layer.bias is not None and (alone or not layer.bias.requires_grad)
        if still and members[layer.name] - frozen:
            return f"the bias of {layer.name} is {'excluded' if alone else 'frozen'}"
        return ""

    faults = dict(Course(network, frozen=frozen, also=also).faults)
    for output in network.outputs:
        if output in faults:  # what follows the last layer has no row of its own
            for last in reaching(network.steps, [output]):
                faults.setdefault(last, f"behind it, {faults[output]}")
    unknown = "yes" if network.traced else "not traced"
    return {
        step.name: f"no: {faults[step.name]}" if step.name in faults else unknown
        for step in network.steps
    }


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
