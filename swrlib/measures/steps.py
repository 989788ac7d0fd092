"""Measures around every step: the norms before it, after the update, after the rescaling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from swrlib.measures.measure import Failures, Measure
from swrlib.population import Members


@dataclass(frozen=True)
class Norms:
    """‖W_l‖ around one step, [runs, layers] each.

    Attributes
    ----------
    initial : torch.Tensor
        Before training.
    before, updated, rescaled : torch.Tensor
        Before the step, after the optimizer's update, after the method acted on it.
    """

    initial: Tensor
    before: Tensor
    updated: Tensor
    rescaled: Tensor


def growth(norms: Norms) -> Tensor:
    """Return ‖W‖² after the gradient update minus before it: the empirical B of Theorem 2."""
    return norms.updated.square() - norms.before.square()


def factor(norms: Norms) -> Tensor:
    """Return c_l, the ratio of the norms after and before the rescaling."""
    return norms.rescaled / norms.updated


def norm_before_rescaling(norms: Norms) -> Tensor:
    """Return ‖W‖ after the optimizer's update, the norm that Theorem 2 as printed bounds."""
    return norms.updated


def balance_change(norms: Norms) -> Tensor:
    """Return by how much the rescaling changes Definition 2's balance of each pair of layers.

    Theorem 3 says that it is never above 0, with one λ.
    """
    start, updated, rescaled = _ratios(norms)
    return (rescaled - start).abs() - (updated - start).abs()


def balance_worse(norms: Norms) -> Tensor:
    """Return 1 where the rescaling takes a pair's balance further off by more than rounding."""
    start, updated, _ = _ratios(norms)
    return (balance_change(norms) > 1e-5 * (start + updated)).to(start)


def _ratios(norms: Norms) -> tuple[Tensor, Tensor, Tensor]:
    """Return r of each pair, the layer larger at the start above: then, updated, rescaled."""
    first, second = _pairs(norms.initial.shape[1])
    swapped = norms.initial[:, second] < norms.initial[:, first]

    def ratio(now: Tensor) -> Tensor:
        value = now[:, second] / now[:, first]
        return torch.where(swapped, 1 / value, value)

    return ratio(norms.initial), ratio(norms.updated), ratio(norms.rescaled)


def _pairs(layers: int) -> Tensor:
    return torch.triu_indices(layers, layers, offset=1)


class StepMeasures:
    """The norms around each step, gathered only where a step measure was asked for.

    Of an epoch in which a measure fails it has no values.
    """

    def __init__(
        self, measures: Sequence[Measure], initial: Tensor, failures: Failures, before: int
    ) -> None:
        self.measures = [measure for measure in measures if measure.when == "step"]
        self.initial, self.failures, self.before = initial, failures, before
        self.norms: list[Tensor] = []
        self.layers: list[str] = []
        self.tables: dict[str, tuple[Tensor, Tensor, Tensor]] = {}  # maximum, sum, last
        self.steps = 0

    def note(self, groups: Sequence[Members]) -> None:
        """Take the norms as they are: before the step, updated, rescaled."""
        if not self.measures:
            return
        self.layers = groups[0].weighted
        self.norms.append(all_norms(groups))
        if len(self.norms) == 3:
            norms = Norms(self.initial, *self.norms)
            for measure in list(self.measures):
                try:
                    self._add(measure.name, measure.function(norms))
                except Exception as error:  # of whatever kind: it must not end the training
                    self.failures.meet(measure, error, self.before + self.steps)
                    self.measures.remove(measure)
            self.steps += 1
            self.norms = []

    def _add(self, name: str, value: Tensor) -> None:
        maximum, total, _ = self.tables.get(name, (value, torch.zeros_like(value), value))
        self.tables[name] = torch.maximum(maximum, value), total + value, value

    def results(self) -> Iterator[tuple[int, str, str, float]]:
        """Yield (member, layer or pair, name, value): the epoch's maximum, mean and last value."""
        first, second = _pairs(len(self.layers)).tolist()
        pairs = [f"{self.layers[a]}, {self.layers[b]}" for a, b in zip(first, second, strict=True)]
        for measure in self.measures:
            name, labels = measure.name, pairs if measure.pairs else self.layers
            maximum, total, last = self.tables[name]
            tables = {"max": maximum, "mean": total / self.steps, "last": last}
            for kind, table in tables.items():
                for member, values in enumerate(table.tolist()):
                    for label, value in zip(labels, values, strict=True):
                        yield member, label, f"{name}:{kind}", value


def all_norms(groups: Sequence[Members]) -> Tensor:
    """Return ‖W_l‖ of the whole population, [seeds·runs, layers that have a weight]."""
    return torch.cat([members.weight_norms() for members in groups], 1).flatten(0, 1)
