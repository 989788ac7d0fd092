"""What a job writes down, and when: rows of the records, and what was asked to be measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from swrlib.datasets import Dataset
from swrlib.engine.feed import LEFT_OUT, Feed
from swrlib.engine.runs import Run
from swrlib.measures.measure import Failures, Measure
from swrlib.measures.networks import PROBED, PROBED_OF_STAGE, Snapshot
from swrlib.measures.steps import StepMeasures, all_norms
from swrlib.population import Batch, Members, Population
from swrlib.rescaling import multi_tensor_norms
from swrlib.streams import Stage

Batches = Sequence[tuple[Tensor, Tensor]]
#: Columns of every row; NaN where there was nothing to see.
OUTCOMES = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")


class Recorder:
    """Rows and measures of a job. Sums over steps are tensors of the device, read for a row alone.

    Parameters
    ----------
    data : Dataset
        On the device.
    device : str
        How it is called in the records.
    measures : sequence of Measure
    epochs, stages : int
        That the job trains in all.

    Attributes
    ----------
    rows : list of dict
        One a run and row of the records.
    measured : list of tuple
        Rows of the long table.
    lost : set of str
        The names of runs that have diverged: nothing more is written of them.
    begun : dict of str to list of torch.Tensor
        Each run's parameters when its stage began, where a measure at a stage's end may ask.
    """

    def __init__(
        self, data: Dataset, device: str, measures: Sequence[Measure], epochs: int, stages: int
    ) -> None:
        self.data, self.device, self.measures = data, device, measures
        self.epochs, self.stages = epochs, stages
        self.rows: list[dict[str, Any]] = []
        self.measured: list[tuple[Any, ...]] = []
        self.lost: set[str] = set()
        self.begun: dict[str, list[Tensor]] = {}
        self.failures = Failures()
        self.epoch = self.step = 0

    def watch(self, runs: Sequence[Run], population: Population, groups: Sequence[Members]) -> None:
        """Turn to a population as it is laid out now, at its start."""
        self.population, self.groups = population, groups
        self.names = [run.hash for run in runs]
        self.constant = [run.columns(self.device) for run in runs]
        self.initial_norms = all_norms(groups)
        device = population.device
        self.losses = torch.zeros(len(runs), dtype=population.dtype, device=device)
        self.correct = torch.zeros(len(runs), dtype=torch.int64, device=device)
        self.images = self.batches = 0
        self.seconds = 0.0

    # While it trains.

    def begin(self) -> StepMeasures:
        """Begin an epoch: return what looks at its steps."""
        return StepMeasures(self.measures, self.initial_norms, self.failures, self.step)

    def count(self, batch: Batch) -> None:
        """Count what a step has seen, without waiting for the device."""
        self.losses += batch.losses
        self.correct += batch.correct

    def end(self, images: int, steps: int, seconds: float, watch: StepMeasures) -> None:
        """End an epoch of so many images and steps."""
        self.epoch += 1
        self.step += steps
        self.images += images
        self.batches += steps
        self.seconds += seconds
        for member, layer, name, value in watch.results():
            self._measured(member, name, layer, value)

    # What is written down.

    @torch.no_grad()
    def row(self, feed: Feed, stage: int, stage_epoch: int, plan: Stage, rate: float) -> None:
        """Write a row for each run: the state after the epoch and its last rescaling."""
        outcomes: dict[str, list[float]] = {}
        for name, batches in (("test", feed.test()), ("task", feed.task())):
            if name in plan.evaluated:
                loss, accuracy = self._evaluate(batches, feed.classes)
                outcomes |= {f"{name}_loss": loss, f"{name}_accuracy": accuracy}
        if self.batches:
            outcomes["train_loss"] = (self.losses / self.batches).tolist()
            outcomes["train_accuracy"] = (self.correct / self.images).tolist()
        losses = [values for name, values in outcomes.items() if name.endswith("loss")]
        finite = self.population.finite().tolist()
        with_norms = self.epoch % 10 == 0 or self.epoch == self.epochs or plan.rows == "stage"
        norms: Sequence[Any] = self._norms() if with_norms else [(None, None)] * len(self.names)
        for member, name in enumerate(self.names):
            if name in self.lost:
                continue
            diverged = not (finite[member] and all(math.isfinite(loss[member]) for loss in losses))
            self.rows.append(
                self.constant[member]
                | {"stage": stage, "stage_epoch": stage_epoch}
                | {"epoch": self.epoch, "step": self.step, "lr": rate}
                | dict.fromkeys(OUTCOMES, math.nan)
                | {key: values[member] for key, values in outcomes.items()}
                | dict(zip(("weight_norms", "bias_norms"), norms[member], strict=True))
                | {"seconds": self.seconds / len(self.names), "diverged": diverged}
            )
            if diverged:
                self.lost.add(name)
        self.losses.zero_()
        self.correct.zero_()
        self.images = self.batches = 0
        self.seconds = 0.0

    def measure(self, feed: Feed, moment: str, stage: int) -> None:
        """Take the measures that are due: after an epoch, or at a stage's start or end."""
        of_stage = moment != "epoch"
        passed, most = (stage - 1, self.stages - 1) if of_stage else (self.epoch, self.epochs)
        if moment == "start" and any(measure.when == "end" for measure in self.measures):
            blocks = [block.detach() for block in self.population.blocks]
            for member, name in enumerate(self.names):
                self.begun[name] = [block[member].clone() for block in blocks]
        due = [m for m in self.measures if m.due(moment, passed, passed == most)]
        if not due:
            return
        population = self.population
        finite = population.finite().tolist()
        test, task = list(feed.test(PROBED)), list(feed.task(PROBED_OF_STAGE if of_stage else 0))
        draws = [population.blueprint.draw(seed, "weights") for seed in population.seeds]
        untrained = [model.to(self.losses) for model in draws]
        for member, name in enumerate(self.names):
            if name in self.lost or not finite[member]:
                continue
            seed = member // population.runs
            own: tuple[Any, Any] = _of_seed(task, seed) if of_stage else (None, None)
            snapshot = Snapshot(
                population.stack.module(member),
                untrained[seed],
                *_of_seed(test, seed),
                *own,
                population.moments_of(member),
                self.begun.get(name) if moment == "end" else None,
            )
            with torch.enable_grad():
                for measure in due:
                    for label, value in self._values(measure, snapshot).items():
                        self._measured(member, measure.name, label, value)

    def _values(self, measure: Measure, snapshot: Snapshot) -> dict[str, float]:
        """Return what a measure says of a network; nothing where it fails in mid-training."""
        try:
            values = measure.function(snapshot)
            return {str(label): float(value) for label, value in values.items()}
        except Exception as error:  # of whatever kind: it must not end the training
            self.failures.meet(measure, error, self.step)
            return {}

    def _measured(self, member: int, name: str, label: str, value: float) -> None:
        if self.names[member] not in self.lost:
            run = self.names[member]
            self.measured.append((run, self.epoch, self.step, name, label, value))

    def _evaluate(
        self, batches: Iterable[tuple[Tensor, Tensor]], classes: Tensor | None
    ) -> tuple[list[float], ...]:
        """Return loss and accuracy of each member on the images that are not left out."""
        losses, correct = torch.zeros_like(self.losses), torch.zeros_like(self.correct)
        images = torch.zeros_like(self.correct)
        for inputs, labels in batches:
            logits = self.population.stack(inputs, training=False)
            of_each, hits = self.population.judge(logits, labels, classes)
            losses += of_each.sum(1)
            correct += hits.sum(1)
            seen = (labels != LEFT_OUT).sum(1)  # of each seed, or of all
            images += seen.repeat_interleave(len(images) // len(seen))
        return (losses / images).tolist(), (correct / images).tolist()

    def _norms(self) -> list[tuple[list[float], list[float]]]:
        """Return each member's norms of weights and of biases."""
        biases = torch.tensor([bias for _, bias in self.groups[0].owners])
        tensors = [multi_tensor_norms(members.tensors, stacked=2) for members in self.groups]
        norms = torch.cat(tensors, 1).flatten(0, 1).cpu()
        return list(zip(norms[:, ~biases].tolist(), norms[:, biases].tolist(), strict=True))

    # Its state, for a checkpoint.

    def state(self) -> dict[str, Any]:
        """Return all that a later process needs to carry on."""
        return {
            "position": [self.epoch, self.step],
            "rows": self.rows,
            "measured": self.measured,
            "lost": sorted(self.lost),
            "begun": self.begun,
            "sums": [self.losses, self.correct],
            "counts": [self.images, self.batches, self.seconds],
        }

    def take(self, state: dict[str, Any]) -> None:
        """Carry on from a state of the same runs."""
        self.epoch, self.step = state["position"]
        self.rows, self.measured = state["rows"], [tuple(m) for m in state["measured"]]
        self.lost, self.begun = set(state["lost"]), state.get("begun", {})
        for sums, value in zip((self.losses, self.correct), state["sums"], strict=True):
            sums.copy_(value)
        self.images, self.batches, self.seconds = state["counts"]


def _of_seed(batches: Batches, place: int) -> tuple[Tensor, Tensor]:
    """Return images and labels as one seed has them, all batches together, none left out."""
    images = torch.cat([part if part.dim() == 4 else part[place] for part, _ in batches])
    labels = torch.cat([part[min(place, len(part) - 1)] for _, part in batches])
    kept = labels != LEFT_OUT
    return images[kept], labels[kept]
