"""What is said once: warnings of `swrlib.SoftWeightRescaling`."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from swrlib.layers import Layer


def warn(sentence: str) -> None:
    """Warn at the line of the user's own code that led here."""
    frame, level = sys._getframe(), 1
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in ("swrlib", "torch"):
        frame, level = frame.f_back, level + 1
    warnings.warn(sentence, stacklevel=level)


def listed(names: Sequence[str], most: int = 6) -> str:
    """Join names for a sentence; of many the first."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def weight_of(layer: str) -> str:
    """Name a layer's weight."""
    return f"the weight of {layer or 'the model'}"


class Cautions:
    """Warnings of one object: each sentence once for each thing that it is about."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def say(self, about: Iterable[str], sentence: str, *, kind: str = "") -> None:
        """Warn of these things, unless that was done before; {} in the sentence names them."""
        new = {f"{kind}:{name}" for name in about} - self._said
        if new:
            self._said |= new
            warn(sentence.format(listed(sorted(name.partition(":")[2] for name in new))))

    def note(self, about: Iterable[str], *, kind: str = "") -> None:
        """Take these things for said."""
        self._said |= {f"{kind}:{name}" for name in about}

    def of_biases(self, layers: Iterable[Layer]) -> None:
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

    def of_zeros(self, layers: Sequence[str], norms: Sequence[float]) -> None:
        """Warn of layers that have no norm to return to, or none at all."""
        if not all(norms):
            self.say(
                [name for name, norm in zip(layers, norms, strict=True) if not norm],
                "the norm of {} is zero, now or at the start: SWR leaves a layer as it is where it "
                "has no norm to return to (factor 1)",
                kind="zero",
            )


def biases_left(layers: Iterable[Layer]) -> list[str]:
    """Name the biases that are no parameters, so that they cannot be scaled along."""
    return [f"{layer.name}.bias" for layer in layers if layer.computes_its_bias]
