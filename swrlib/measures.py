"""What is measured of a network in training beyond the columns of the records.

Step measures compare the norms around one step and one rescaling; they are stored as the epoch's
maximum, mean and last value. Epoch measures look at the model after an epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from swrlib.layers import nearest
from swrlib.methods import Replicas

StepMeasure = Callable[[Tensor, Tensor, Tensor], Tensor]
EpochMeasure = Callable[[nn.Module], dict[str, float]]


def growth(before: Tensor, updated: Tensor, rescaled: Tensor) -> Tensor:
    """Return ‖W‖² after the gradient update minus before it: the empirical B of Theorem 2.

    Shapes: norms before the step, after the optimizer's update and after the method acted on it,
    each [runs, layers].
    """
    return updated.square() - before.square()


def factor(before: Tensor, updated: Tensor, rescaled: Tensor) -> Tensor:
    """Return c_l, the ratio of the norms after and before the rescaling; shapes as `growth`."""
    return rescaled / updated


def norm_before_rescaling(before: Tensor, updated: Tensor, rescaled: Tensor) -> Tensor:
    """Return ‖W‖ after the optimizer's update, the norm that Theorem 2 as printed bounds."""
    return updated


STEP_MEASURES: dict[str, StepMeasure] = {
    "growth": growth,
    "factor": factor,
    "norm-before-rescaling": norm_before_rescaling,
}
EPOCH_MEASURES: dict[str, EpochMeasure] = {}


def checked_measures(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names; refuse an unknown one."""
    known = [*STEP_MEASURES, *EPOCH_MEASURES]
    for name in names:
        if name not in known:
            raise ValueError(f"unknown measure {name!r}: {nearest(name, known)}")
    return tuple(names)


class StepMeasures:
    """The norms around each step, gathered only where a step measure was asked for."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.functions: dict[str, StepMeasure] = {
            name: STEP_MEASURES[name] for name in names if name in STEP_MEASURES
        }
        self.norms: list[Tensor] = []
        self.layers: list[str] = []
        self.maximum: dict[str, Tensor] = {}
        self.sum: dict[str, Tensor] = {}
        self.last: dict[str, Tensor] = {}
        self.steps = 0

    def note(self, replicas: Sequence[Replicas]) -> None:
        """Take the norms as they are: before the step, updated, rescaled."""
        if not self.functions:
            return
        self.layers = replicas[0].weighted
        self.norms.append(torch.cat([part.weight_norms() for part in replicas]))
        if len(self.norms) == 3:
            self.steps += 1
            for name, function in self.functions.items():
                value = function(*self.norms)
                self.last[name] = value
                self.sum[name] = self.sum.get(name, torch.zeros_like(value)) + value
                self.maximum[name] = torch.maximum(self.maximum.get(name, value), value)
            self.norms = []

    def results(self) -> Iterator[tuple[int, str, str, float]]:
        """Yield (run, layer, name, value) with the epoch's maximum, mean and last value."""
        for name in self.functions:
            for kind, table in (
                ("max", self.maximum[name]),
                ("mean", self.sum[name] / self.steps),
                ("last", self.last[name]),
            ):
                for run, values in enumerate(table.tolist()):
                    for layer, value in zip(self.layers, values, strict=True):
                        yield run, layer, f"{name}:{kind}", value
