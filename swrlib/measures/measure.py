"""What a measure is: a function, and when it is called."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn


@dataclass(frozen=True)
class Measure:
    """What is measured, and when.

    Attributes
    ----------
    name : str
    function : callable
        function(snapshot) → dict of values by layer, pair or kind; of the measures of a step,
        function(norms) → a tensor [runs, layers or pairs].
    when : {"step", "epoch", "start", "end"}
        Around every step; after epochs; before the first step of every stage, after what a method
        does at the change; after its last step.
    every : int, optional
        Of those after epochs: at the start and after every so many, and after the last; None: after
        the last alone. Of those of stages: in the first, every so many later, and in the last.
    pairs : bool
        Of those of a step: whether it is by pairs of layers.
    check : callable, optional
        check(model, images, labels) raises for a network that the measure does not fit; called
        before anything is trained, with two images.
    """

    name: str
    function: Callable[[Any], Any]
    when: Literal["step", "epoch", "start", "end"] = "epoch"
    every: int | None = 1
    pairs: bool = False
    check: Callable[[nn.Module, Tensor, Tensor], object] | None = None

    def due(self, moment: str, passed: int, last: bool) -> bool:
        """Return whether it is due at a moment, so many epochs or stages after the first."""
        due = last or (self.every is not None and passed % self.every == 0)
        return self.when == moment and due


class Failures:
    """What is done where a measure fails: before the first step it ends the training.

    After it hours may have been trained, so the values are missing, and a sentence says so once.
    """

    def __init__(self) -> None:
        self.said: set[str] = set()

    def meet(self, measure: Measure, error: Exception, step: int) -> None:
        """Say that a measure failed after so many steps; raise its error where there were none."""
        if not step:
            raise error
        if measure.name not in self.said:
            self.said.add(measure.name)
            warnings.warn(
                f"the measure {measure.name} failed after {step} steps, and wherever it fails its "
                f"values are missing: {type(error).__name__}: {error}",
                stacklevel=2,
            )
