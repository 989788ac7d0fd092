"""Theorem 1: scaled layer by layer, biases along, a network is the same up to a constant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from swrlib.network.layers import trace
from swrlib.rescaling import Variant, rescale_
from swrlib.theory.copies import copied, run


@torch.no_grad()
def output_gap(
    scaled: nn.Module,
    model: nn.Module,
    constant: float,
    inputs: Any,
    *,
    training: bool | None = False,
) -> float:
    """Measure the gap of f_c to C·f: max|f_c(x) − C·f(x)| / max|C·f(x)|.

    Parameters
    ----------
    scaled, model : torch.nn.Module
        f_c and f. Both are copied: a batch normalization in training mode would move its running
        statistics.
    constant : float
        C.
    inputs : torch.Tensor
        x, shape [batch, …], of the models' dtype and device; or all that they take, as for
        `swrlib.trace_layers`.
    training : bool or None
        Compare in training mode, in evaluation mode, or, with None, each as it stands. Random
        layers draw the same for both.

    Returns
    -------
    float
        0 where f_c = C·f on all inputs; about the machine epsilon where only rounding is left.

    Raises
    ------
    ValueError
        If a model cannot be copied or run or returns something else than one tensor; if C·f is zero
        on all inputs or an output is not finite: the gap would say nothing.
    """
    outputs = []
    for network in (scaled, model):
        network = copied(network)
        if training is not None:
            network.train(training)
        with torch.random.fork_rng():  # afterwards the generators have their former states
            outputs.append(run(network, inputs))
        if not isinstance(outputs[-1], Tensor) or not outputs[-1].numel():
            raise ValueError(f"{type(network).__name__} does not return one tensor with numbers")
    expected = constant * outputs[1]
    largest = float(expected.abs().max())
    gap = float((outputs[0] - expected).abs().max()) / largest if largest else largest
    if largest == 0:
        raise ValueError("C·f(x) is zero on all of these inputs: take others, or another model")
    if not (gap < float("inf") and largest < float("inf")):
        raise ValueError("an output is not finite: take smaller factors or inputs, or float64")
    return gap


def proportionality_gap(
    model: nn.Module,
    factors: Sequence[float] | Mapping[str, float],
    inputs: Any,
    *,
    variant: Variant = "proportional",
    running_statistics: bool = True,
    training: bool | None = False,
    example: Any = None,
) -> float:
    """Scale a copy of a model and measure how far it is from C times the model.

    Theorem 1 (Section 3.2, Appendix A): the gap is zero, up to rounding, for a network of affine
    layers and positively homogeneous activations and any positive factors. With normalization
    layers (Section 3.3) what is left is of the order of eps over the variance there, and only in
    the "proportional" variant; in evaluation mode only if the running statistics follow.

    Parameters
    ----------
    model : torch.nn.Module
        Never changed.
    factors, variant, running_statistics, example
        As for `swrlib.rescale_`, which also gives C.
    inputs
        As for `output_gap`.
    training : bool or None
        As for `output_gap`.

    Returns
    -------
    float
        max|f_c(x) − C·f(x)| / max|C·f(x)|, over all inputs and outputs.

    Raises
    ------
    ValueError
        As `swrlib.rescale_` and `output_gap`.
    """
    trace(model, example)  # refuses weights in the same memory, which a copy would part
    scaled = copied(model)
    constant = rescale_(
        scaled, factors, variant=variant, running_statistics=running_statistics, example=example
    )
    return output_gap(scaled, model, constant, inputs, training=training)
