"""Fig. 1's scaling of a trained network: what a ratio means, and what happens to the biases."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from swrlib.checks import check_name
from swrlib.network.layers import trace
from swrlib.rescaling import multi_tensor_norms, rescale_

Reading = Literal["norm", "factor"]
Biases = Literal["proportional", "own-factor", "untouched"]
READINGS: tuple[str, ...] = get_args(Reading)
BIASES: tuple[str, ...] = get_args(Biases)


def scaling_factors(norms: Tensor, initial: Tensor, ratio: float, reading: str) -> Tensor:
    """Return Fig. 1's factors of layers from their present and initial norms, [layers] each."""
    if reading == "factor":
        return torch.full_like(norms, max(ratio, 0.01))
    return (ratio * norms + (1 - ratio) * initial) / norms


@torch.no_grad()
def scale_(
    model: nn.Module,
    initial_norms: Tensor,
    *,
    ratio: float,
    reading: str = "norm",
    biases: str = "proportional",
) -> None:
    """Scale the weights of a trained model in place, as Fig. 1 does.

    Parameters
    ----------
    model : torch.nn.Module
    initial_norms : torch.Tensor
        n_l, shape [layers that have a weight].
    ratio : float
        Fig. 1's scaling ratio r in [0, 1].
    reading : {"norm", "factor"}
        What r means: weights moved to the norm r‖W‖ + (1 − r)n_l (SWR's own factor with
        λ = 1 − r), or weights multiplied by max(r, 0.01).
    biases : {"proportional", "own-factor", "untouched"}
        Whether biases are scaled by the cumulative product, by their layer's factor or not at all.

    Raises
    ------
    ValueError
        If a value is senseless; the nearest right one is given.
    """
    check_scaling(ratio, reading, biases)
    layers = trace(model).layers
    weighted = [layer for layer in layers if layer.weight is not None]
    norms = multi_tensor_norms([layer.weight for layer in weighted])  # type: ignore[misc]
    scaled = scaling_factors(norms, initial_norms, ratio, reading).tolist()
    factors = dict.fromkeys((layer.name for layer in layers), 1.0)
    factors |= zip((layer.name for layer in weighted), scaled, strict=True)
    if biases == "proportional":
        rescale_(model, factors)
        return
    for layer in weighted:
        layer.weight.mul_(factors[layer.name])  # type: ignore[union-attr]
        if layer.bias is not None and biases == "own-factor":
            layer.bias.mul_(factors[layer.name])


def check_scaling(ratio: object, reading: object, biases: object) -> None:
    """Refuse a ratio outside [0, 1], and unknown readings and ways with the biases."""
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 <= ratio <= 1:
        raise ValueError(f"a scaling needs a ratio in [0, 1], not {ratio!r}")
    check_name("reading", reading, READINGS)
    check_name("biases", biases, BIASES)
