"""What is said once: warnings of `swrlib.SoftWeightRescaling`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from swrlib.checks import listed, warn
from swrlib.rescaling import LARGEST_FACTOR


def weight_of(layer: str) -> str:
    """Name a layer's weight."""
    return f"the weight of {layer or 'the model'}"


class Cautions:
    """Warnings of one object: each sentence once for each thing that it is about.

    ``said``: the things of which it need not be said.
    """

    def __init__(self, said: Iterable[str] = ()) -> None:
        self._said = {f":{name}" for name in said}

    def say(self, things: Iterable[str], sentence: str, *, kind: str = "") -> None:
        """Warn of these things, unless that was done before; {} in the sentence names them."""
        new = {f"{kind}:{name}" for name in things} - self._said
        if new:
            self._said |= new
            warn(sentence.format(listed(sorted(name.partition(":")[2] for name in new))))

    def of_biases(self, layers: Iterable[Any]) -> None:
        """Warn of biases that ceased to be parameters."""
        self.say(
            biases_left(layers),
            "{} is no parameter any more (pruned, or parametrized) and is not scaled along with "
            "the weights",
        )

    def of_half_precision(self, weights: Iterable[Tensor]) -> None:
        """Warn of weights that soft factors cannot change."""
        self.say(
            {str(w.dtype) for w in weights if w.dtype in (torch.float16, torch.bfloat16)},
            "weights are {}: a factor that is nearer to 1 than their rounding changes nothing, as "
            "with the λ of the paper; keep float32 weights and compute in half precision by "
            "torch.autocast",
        )

    def of_norms(
        self, layers: Sequence[str], norms: Sequence[float], least: Sequence[float]
    ) -> None:
        """Warn of layers without a norm, and of norms so small that a factor was limited.

        ``least``: the norm below which that happens, by layer; 0 where there is no n_l either.
        """
        self.say(
            [name for name, norm in zip(layers, norms, strict=True) if not norm],
            "the norm of {} is zero, now or at the start: SWR leaves a layer as it is where it has "
            "no norm to return to (factor 1)",
            kind="zero",
        )
        limits = zip(layers, norms, least, strict=True)
        self.say(
            [name for name, norm, low in limits if 0 < norm < low],
            "the norm of {} is so much smaller than at the start that one step would multiply it "
            f"by more than {LARGEST_FACTOR:g}: it is multiplied by that",
            kind="limit",
        )


def biases_left(layers: Iterable[Any]) -> list[str]:
    """Name the biases that are no parameters, so that they cannot be scaled along."""
    return [f"{layer.name}.bias" for layer in layers if layer.computes_its_bias]
