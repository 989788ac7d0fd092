"""Definition 2, Theorem 3 and Fig. 5: how evenly a network's weights are spread over its layers.

Two things bear the name. Definition 2 compares the ratio of two layers' norms with what it was at
the start; Theorem 3 says that a rescaling with one λ never takes it further away. Fig. 5 compares
the network's ℓp,q norm with the least one that scaling the weights into each hidden unit by a
factor and those out of it by its inverse can reach; that minimum is found by the algorithm of Saul
(2023). Other networks with the same function may have a smaller norm.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd
import torch
from torch import Tensor, fx, nn

from swrlib.network.graph import Step, flattens_rows, kind_of
from swrlib.network.layers import Layer, Network, trace
from swrlib.network.operations import options_of


def layer_balance(model: nn.Module, reference: nn.Module) -> pd.Series:
    """Return the balance ``b = |r − r_0|`` of each pair of layers (Definition 2).

    r = ‖W′‖/‖W‖ is the ratio of the two weights' norms, the one that was larger at the start above;
    r_0 the same at the start.

    Parameters
    ----------
    model : torch.nn.Module
    reference : torch.nn.Module
        The same network at its start.

    Returns
    -------
    pandas.Series
        Indexed by the pair: the layer whose norm was smaller at the start, and the other.

    Raises
    ------
    ValueError
        If the models have other layers, or a norm was zero at the start.
    """
    weights, at_start = _weights(model), _weights(reference)
    shapes, before = (
        ", ".join(f"{name} {list(weight.shape)}" for name, weight in layers.items())
        for layers in (weights, at_start)
    )
    if shapes != before:
        raise ValueError(f"the layers differ: {shapes} and {before}")
    now, start = (
        {name: float(weight.norm()) for name, weight in layers.items()}
        for layers in (weights, at_start)
    )
    for name, norm in start.items():
        if norm == 0:
            raise ValueError(f"the norm of {name} was zero at the start: its ratios are undefined")
    balance = {}
    for pair in itertools.combinations(start, 2):
        small, large = sorted(pair, key=start.__getitem__)
        ratio = now[large] / now[small] if now[small] else math.inf
        balance[small, large] = abs(ratio - start[large] / start[small])
    index = pd.MultiIndex.from_tuples(list(balance), names=["layer", "other"])
    return pd.Series(list(balance.values()), index=index, name="balance", dtype=float)


def _weights(model: nn.Module) -> dict[str, Tensor]:
    layers = _with_weights(trace(model))
    return {layer.name: layer.weight.detach() for layer in layers}  # type: ignore[union-attr]


def _with_weights(network: Network) -> list[Layer]:
    """Return the layers that have a weight; refuse those whose weight cannot be reached."""
    for step in network.steps:
        inside = step.module.modules() if step.module and step.kind != "layer" else ()
        if any(kind_of(module) not in (None, "normalization") for module in inside):
            raise ValueError(f"{step.label} has layers inside that cannot be traced")
    for layer in network.layers:
        if layer.weight is None and layer.kind != "normalization":
            raise ValueError(
                f"the weight of {layer.name} is computed by a parametrization and cannot be "
                "scaled: remove it first (torch.nn.utils.parametrize.remove_parametrizations)"
            )
    return [layer for layer in network.layers if layer.weight is not None]


def lpq_norm(model: nn.Module, p: float = 2, q: float = 2) -> float:
    """Return ``‖W‖_{p,q} = (Σ_i (Σ_j |W_ij|^p)^{q/p})^{1/q}`` over all units i (16).

    The rows are those of linear and convolution layers: a unit's weights, over its inputs and, in a
    convolution, its taps. Biases and normalizations do not count.

    Raises
    ------
    ValueError
        If p or q is no number from 1 on, or a weight cannot be reached.
    """
    _check(p, q)
    rows = [_rows(layer, p).sum(1) for layer in _weighted(trace(model))]
    return float(sum(row.pow(q / p).sum() for row in rows)) ** (1 / q)


@torch.no_grad()
def balance_(
    model: nn.Module,
    p: float = 2,
    q: float = 2,
    *,
    tolerance: float = 1e-8,
    iterations: int = 10_000,
) -> pd.Series:
    """Rebalance a network in place: the least ``‖W‖_{p,q}`` by rescaling units (Saul, 2023).

    Every hidden unit i has a factor a_i > 0 on the weights into it and its bias, and 1/a_i on those
    out of it. All factors are updated at once,

        a_i ← a_i · (v_i/u_i)^{1/(4 max(p, q))},

    where u_i and v_i are what the weights into and out of the unit contribute to the norm's power
    q; they are equal at the only minimum. In a convolutional network the units are its channels. A
    unit without weights on one side is left alone.

    Parameters
    ----------
    model : torch.nn.Module
        A chain of linear and convolution layers and homogeneous operations, on batches of inputs.
    p, q : float
        From 1 on.
    tolerance, iterations : float, int
        Stop when no factor changes by more than this share (the norm, which is flat there, is then
        off by far less), or after so many. The authors' release: 1e-5 and 100.

    Returns
    -------
    pandas.Series
        ``‖W‖_{p,q}`` by iteration, 0 being the network as it was.

    Raises
    ------
    ValueError
        If the network has normalization layers, whose input may shrink for free: no minimum; or
        branches, or operations that are not positively homogeneous or may move a unit; each is
        named. Or if a weight is not finite. Nothing is changed then.
    """
    _check(p, q)
    if iterations < 0:
        raise ValueError(f"iterations is {iterations}: from 0 on")
    layers = _chain(trace(model))
    matrices = _powers(layers, p)
    factors = [matrices[0].new_ones(count) for count in (matrices[0].shape[1], *map(len, matrices))]
    history: list[float] = []
    while True:
        sums = _row_sums(matrices, factors, p)
        history.append(float(sum(row.pow(q / p).sum() for row in sums)) ** (1 / q))
        if len(history) > iterations:
            break
        updates = _updates(matrices, factors, sums, p, q)
        for factor, update in zip(factors[1:-1], updates, strict=True):
            factor.mul_(update)
        if all((update - 1).abs().max() <= tolerance for update in updates):
            break
    _apply(layers, factors)
    return pd.Series(history, name="norm").rename_axis("iteration")


def _powers(layers: Sequence[Layer], p: float) -> list[Tensor]:
    """Return |W|^p of each layer, [units, units of the layer before]."""
    for layer in layers:
        if not layer.weight.isfinite().all():  # type: ignore[union-attr]
            raise ValueError(f"the weight of {layer.name} is not finite")
    matrices = [_rows(layer, p) for layer in layers]
    # What leaves a unit: columns that come from the same unit (a channel's positions) together.
    return matrices[:1] + [
        matrix.unflatten(1, (len(before), -1)).sum(2)
        for before, matrix in itertools.pairwise(matrices)
    ]


def _row_sums(matrices: Sequence[Tensor], factors: Sequence[Tensor], p: float) -> list[Tensor]:
    """Return Σ_j |W_ij|^p of every layer's units, with the factors so far.

    Those of the network's inputs and outputs, the first and the last, stay 1.
    """
    pairs = zip(matrices, itertools.pairwise(factors), strict=True)
    return [after.pow(p) * (matrix @ before.pow(-p)) for matrix, (before, after) in pairs]


def _updates(
    matrices: Sequence[Tensor],
    factors: Sequence[Tensor],
    sums: Sequence[Tensor],
    p: float,
    q: float,
) -> list[Tensor]:
    """Return by what Saul's algorithm multiplies the factors of each hidden layer's units."""
    updates = []
    for position, (before, after) in enumerate(itertools.pairwise(sums)):
        factor, following = factors[position + 1 : position + 3]
        weight = after.pow(q / p - 1).where(after > 0, 0.0) * following.pow(p)
        into, out = before.pow(q / p), factor.pow(-p) * (matrices[position + 1].T @ weight)
        ratio = (out / into).where((into > 0) & (out > 0), 1.0)
        updates.append(ratio.pow(1 / (4 * max(p, q))))
    return updates


def _apply(layers: Sequence[Layer], factors: Sequence[Tensor]) -> None:
    for layer, (before, after) in zip(layers, itertools.pairwise(factors), strict=True):
        weight = layer.weight
        assert weight is not None
        groups = getattr(layer.module, "groups", 1)
        # A unit's columns are neighbours, and a group's rows see the units of that group alone.
        columns = (1 / before).repeat_interleave(weight.shape[1] * groups // len(before))
        columns = columns.view(groups, -1).repeat_interleave(len(weight) // groups, 0)
        scales = after.unsqueeze(1) * columns
        weight.mul_(scales.to(weight).view(*scales.shape, *(1,) * (weight.dim() - 2)))
        if layer.bias is not None:
            layer.bias.mul_(after.to(layer.bias))


def _rows(layer: Layer, p: float) -> Tensor:
    """Return |W|^p of a layer, [units, inputs]: taps summed, groups written out."""
    assert layer.weight is not None
    powers = layer.weight.detach().abs().double().pow(p)
    matrix = powers.flatten(2).sum(2) if powers.dim() > 2 else powers
    groups = getattr(layer.module, "groups", 1)
    return torch.block_diag(*matrix.chunk(groups)) if groups > 1 else matrix


def _weighted(network: Network) -> list[Layer]:
    layers = [la for la in _with_weights(network) if la.kind != "normalization"]
    for layer in layers:
        if getattr(layer.module, "transposed", False):
            raise ValueError(f"{layer.name} is a transposed convolution, whose rows are no units")
    return layers


def _chain(network: Network) -> list[Layer]:
    """Return the layers of a network in which each feeds the next; refuse any other."""
    for layer in network.layers:
        if layer.kind == "normalization":
            raise ValueError(
                f"{layer.name} normalizes its input, so that the weights before it may shrink for "
                "free: there is no least norm"
            )
        if fault := network.fault(layer):
            raise ValueError(f"a scaled layer would do more than scale its output: {fault}")
        if layer.name in network.effects:
            raise ValueError(f"{layer.name} standardizes its weight, whose scale does nothing")
    layers = _weighted(network)
    positions = {layer.name: position for position, layer in enumerate(layers)}
    places: dict[str, _Place | None] = {}
    for step in network.steps:
        if step.kind != "layer" and all(places[name] is None for name in step.inputs):
            places[step.name] = None  # before the first layer, and behind the last, all may happen
        elif step.kind == "homogeneous":
            places[step.name] = _place_after(step, places[step.inputs[0]])
        elif step.kind == "sum":
            raise ValueError(f"{step.label} joins branches: only chains of layers are rebalanced")
        elif step.kind != "layer":
            raise ValueError(f"{step.label} is not positively homogeneous: scales do not pass it")
        else:
            position = positions[step.name]
            layer = layers[position]
            fed_by = (layers[position - 1].name,) if position else ()
            if layer.predecessors != fed_by:
                raise ValueError(f"{layer.name} does not follow {''.join(fed_by)} alone")
            _refuse_other_inputs(layer, places[step.inputs[0]])
            last = position == len(layers) - 1  # its units have no factor: they may go anywhere
            places[step.name] = None if last else _Place(layer, _axes_behind(layer))
    for name in network.outputs:
        if (place := places[name]) is not None:
            raise ValueError(f"the units of {place.layer.name} are an output: none may be scaled")
    return layers


@dataclass(frozen=True)
class _Place:
    """Where the units of a layer lie in an activation: the axis with ``behind`` axes behind it.

    ``spread``: each unit has several neighbouring entries there, as its positions flattened.
    """

    layer: Layer
    behind: int
    spread: bool = False


def _axes_behind(layer: Layer) -> int:
    return layer.weight.dim() - 2  # type: ignore[union-attr]


def _refuse_other_inputs(layer: Layer, place: _Place | None) -> None:
    if place is None:
        return
    units = len(place.layer.weight)  # type: ignore[arg-type]
    inputs = layer.weight.shape[1] * getattr(layer.module, "groups", 1)  # type: ignore[union-attr]
    fits = inputs % units == 0 if place.spread else inputs == units
    if not fits or place.behind != _axes_behind(layer):
        raise ValueError(f"the inputs of {layer.name} are not the units of {place.layer.name}")


def _place_after(step: Step, place: _Place | None) -> _Place | None:
    """Follow units through an operation; refuse one that moves or mixes them, or may do so."""
    if place is None:
        return None
    does = step.does
    assert does is not None and step.node is not None
    if does.elementwise:
        return place
    if does.role == "window" and does.axes is not None and does.axes <= place.behind:
        return place
    if does.role == "reduction":
        left = _axes_left(step.node, place.behind)
        if left is not None:
            return replace(place, behind=left)
    elif flattens_rows(step):
        return replace(place, behind=0, spread=place.spread or place.behind > 0)
    raise ValueError(
        f"{step.label} may move or mix the units of {place.layer.name}: only networks in which "
        "each keeps its place are rebalanced (flatten(1) does)"
    )


def _axes_left(node: fx.Node, behind: int) -> int | None:
    """Return how many axes behind the units a reduction leaves; None where it takes others too."""
    options = options_of(node, "dim", "keepdim")
    dim = options.pop("dim", None)
    axes = [*dim] if isinstance(dim, list | tuple) else [dim]
    kept = options.pop("keepdim", False)
    if options or kept not in (True, False) or not all(isinstance(axis, int) for axis in axes):
        return None
    # Counted from the end: before the units stands the batch alone.
    places = {axis if axis < 0 else axis - 2 - behind for axis in axes}
    if not all(-behind <= place < 0 for place in places):
        return None
    return behind if kept else behind - len(places)


def _check(p: float, q: float) -> None:
    for name, value in (("p", p), ("q", q)):
        if not 1 <= value < math.inf:
            raise ValueError(f"{name} is {value}: it must be a number from 1 on")
