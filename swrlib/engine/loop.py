"""The loop: the runs of a job through stages, epochs and steps.

All methods of one seed start from the same weights and see the same batches in the same order, so
that comparisons are paired. Where it pays they train as one population (`swrlib.population`): one
forward and backward pass, one fused optimizer; a method acts on its part of it. Nothing within an
epoch waits for the device.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from swrlib import records
from swrlib.datasets import Dataset
from swrlib.engine.checkpoints import Checkpoint, save
from swrlib.engine.devices import CapturedStep, flushing_denormals
from swrlib.engine.feed import Feed
from swrlib.engine.progress import Progress
from swrlib.engine.recorder import Recorder
from swrlib.engine.runs import Run
from swrlib.measures import Measure, StepMeasures
from swrlib.methods import Method, stacked_values
from swrlib.population import Batch, Blueprint, Members, Population
from swrlib.streams import Stage
from swrlib.wide import by_onednn

#: Seconds between checkpoints of a job, at the least.
CHECKPOINT_EVERY = 30.0


class Stopped(Exception):
    """Training was asked to stop and did, at a checkpoint: the same call carries on."""


@dataclass(frozen=True)
class Setting:
    """Where and how jobs train."""

    data: Dataset
    device: torch.device
    results: Path
    measures: tuple[Measure, ...]
    checkpoints: Path
    graphs: bool
    asked_to_stop: Callable[[], bool] | None

    def stop(self) -> bool:
        """Ask whether to stop."""
        return self.asked_to_stop is not None and self.asked_to_stop()

    @property
    def measured(self) -> tuple[str, ...]:
        """The names of the measures."""
        return tuple(measure.name for measure in self.measures)

    def final_state(self, run: Run) -> Path:
        """Return the file of the state in which a run ended that others start from."""
        return self.checkpoints / f"{run.hash}.final.pt"


class Job:
    """Runs that train at once, the same methods for each of its seeds."""

    def __init__(self, runs: Sequence[Run], setting: Setting) -> None:
        # Runs that a method handles together lie next to each other, new optimizers last.
        self.runs = sorted(
            runs,
            key=lambda r: (r.seed, r.method.new_optimizer, r.method.name, repr(r.method)),
        )
        self.setting, self.data, self.device = setting, setting.data, setting.device
        on_gpu = self.device.type == "cuda"
        self.device_name = torch.cuda.get_device_name(self.device) if on_gpu else "cpu"
        first = self.runs[0]
        onednn = by_onednn(self.device, getattr(torch, first.dtype))
        #: What its records say of where they come from: the products' rounding is a library's.
        self.place = {"device": self.device_name, "products": "oneDNN" if onednn else "PyTorch"}
        self.seeds = list(dict.fromkeys(run.seed for run in self.runs))
        labels = self.data.train_labels.cpu()
        plans = [first.stream.stages(len(labels), seed, labels) for seed in self.seeds]
        self.stages = list(zip(*plans, strict=True))
        hashes = sorted(run.hash for run in self.runs)
        identity = {"runs": hashes, "measures": list(setting.measured)}
        name = f"{records.run_hash(identity)}.pt"
        self.checkpoint = Checkpoint(setting.checkpoints / name, identity)
        self.saved = time.monotonic()
        lengths = first.epochs, len(self.stages)
        self.recorder = Recorder(self.data, self.device_name, setting.measures, *lengths)
        self.lay_out(self.runs)
        if first.parent is not None:
            self._start_from_parents()

    @torch.no_grad()
    def lay_out(self, active: Sequence[Run]) -> None:
        """Lay out the runs that still train, all from their seed's initial weights."""
        self.active = list(active)
        first, count = self.active[0], len(self.active) // len(self.seeds)
        methods = [run.method for run in self.active[:count]]
        handled = []
        for _, alike in itertools.groupby(range(count), lambda i: methods[i].kind()):
            indices = list(alike)
            handled.append((methods[indices[0]], slice(indices[0], indices[-1] + 1)))
        kept = sum(not method.new_optimizer for method in methods)
        parts = [slice(0, kept)] if kept else []
        self.population = Population(
            Blueprint(first.model, dict(first.options), self.data),
            self.seeds,
            count,
            device=self.device,
            dtype=getattr(torch, first.dtype),
            optimizer=first.optimizer,
            parts=parts + [part for method, part in handled if method.new_optimizer],
        )
        self.groups: list[tuple[Method, Members]] = [
            (method, Members(self.population, part, stacked_values(methods[part])))
            for method, part in handled
        ]
        self.members = [members for _, members in self.groups]
        self.recorder.watch(self.active, self.population, self.members)
        for method, members in self.groups:
            method.start(members)
        self.features = {name for method, own in self.groups for name in method.looks_at(own)}
        due = [(method.acts_every(), method, own) for method, own in self.groups]
        self.regular = [item for item in due if item[0]]
        self.captured: CapturedStep | None = None
        self.warm = False

    @torch.no_grad()
    def _start_from_parents(self) -> None:
        """Take the final state of each run's parent, and what its stream makes of it (Fig. 1)."""
        initial = self.recorder.initial_norms  # the runs still hold θ_0
        for place, run in enumerate(self.runs):
            assert run.parent is not None
            path = self.setting.final_state(run.parent)
            if not path.exists():
                raise ValueError(
                    "the run to be scaled has diverged: there is no state to start from"
                )
            state = torch.load(path, map_location=self.device, weights_only=True)
            model = self.population.stack.module(place)
            model.load_state_dict(state)
            run.stream.start_(model, initial[place])
            self.population.stack.load(place, model)

    @property
    def epoch(self) -> int:
        """How many epochs were trained."""
        return self.recorder.epoch

    @flushing_denormals()
    def train(self, bar: Progress) -> None:
        """Train all stages, or what a checkpoint leaves to do."""
        bar.resume(self._load_checkpoint() * len(self.runs))
        before = 0
        for number, stages in enumerate(self.stages, start=1):
            epochs = stages[0].epochs
            if self.active and self.epoch < before + epochs:
                self._stage(number, stages, self.epoch - before, bar)
            before += epochs

    def _stage(self, number: int, stages: Sequence[Stage], begun: int, bar: Progress) -> None:
        """Train a stage from the epoch on that it has come to."""
        stage, first = stages[0], self.runs[0]
        self.feed = Feed(self.data, stages, first.batch_size, self.population.dtype)
        self.captured = None  # other labels and pixels
        if not self.recorder.rows:
            self._write(number, 0, stage, math.nan)
        for epoch, rate in enumerate(stage.learning_rates, start=1):
            if epoch <= begun:
                continue
            if not self.active:
                return
            started = time.perf_counter()
            if epoch == 1:
                self._begin(number)
            elif rate < stage.learning_rates[epoch - 2]:
                self._decay()
            watch = self.epoch_(self.feed.order(self.seeds, number, epoch), rate)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            images, seconds = self.feed.indices.shape[1], time.perf_counter() - started
            self.recorder.end(images, -(-images // self.feed.batch_size), seconds, watch)
            self._write(number, epoch, stage, rate)
            bar.update(len(self.runs))
            self._save_or_stop()

    @torch.no_grad()
    def _begin(self, number: int) -> None:
        """Let methods act at a change of data, and take the measures of a stage's start."""
        if number > 1:
            for method, members in self.groups:
                method.change_(members, number)
            if self.runs[0].optimizer_state == "new":
                self.population.renew_optimizer_(slice(0, self.population.runs))
        self.recorder.measure(self.feed, "start", number)

    @torch.no_grad()
    def _decay(self) -> None:
        for method, members in self.groups:
            method.decay_(members)

    def epoch_(self, order: Tensor, rate: float) -> StepMeasures:
        """One pass over the images in this order; nothing in it waits for the device."""
        population, size = self.population, self.feed.batch_size
        population.learning_rate.fill_(rate)
        watch = self.recorder.begin()
        graphs = self.device.type == "cuda" and self.setting.graphs and not watch.measures
        if graphs and self.warm and self.captured is None and order.shape[1] >= size:
            self.captured = CapturedStep(lambda batch: self.step_(batch, watch), order[:, :size])
        for number, batch in enumerate(order.split(size, dim=1), start=self.recorder.step + 1):
            if self.captured is not None and batch.shape[1] == size:
                population.batch = self.captured(batch)
            else:
                self.step_(batch, watch)
            for every, method, members in self.regular:
                if number % every == 0:
                    with torch.no_grad():
                        method.regularly_(members)
        self.warm = True  # a step was taken, so that the next epoch may capture one
        return watch

    def step_(self, positions: Tensor, watch: StepMeasures) -> Batch:
        """One step of all runs on one batch: gradients, method, optimizer, method."""
        batch = self.population.gradients_(
            *self.feed.batch(positions), features=self.features, classes=self.feed.classes
        )
        with torch.no_grad():
            self.recorder.count(batch)
            watch.note(self.members)
            for method, members in self.groups:
                method.gradients_(members)
                method.before_step_(members)
            self.population.updates.step_()
            watch.note(self.members)
            for method, members in self.groups:
                method.after_step_(members)
            watch.note(self.members)
        return batch

    def _write(self, number: int, epoch: int, stage: Stage, rate: float) -> None:
        """Write down what is due after an epoch, and go on without the runs that are lost."""
        ended = epoch in (0, stage.epochs)
        if ended or stage.rows == "epoch":
            self.recorder.row(self.feed, number, epoch, stage, rate)
        self.recorder.measure(self.feed, "epoch", number)
        if epoch == stage.epochs:
            self.recorder.measure(self.feed, "end", number)
        count = self.population.runs
        lost = [name in self.recorder.lost for name in self.recorder.names]
        kept = [place for place in range(count) if not all(lost[place::count])]
        if not kept:
            self.active = []
        elif len(kept) < count:  # the others cost nothing from here on
            places = [start + place for start in range(0, len(lost), count) for place in kept]
            self._restore([self.active[place] for place in places], self._state(), places)

    # The state of the runs, which have an axis in every tensor, so that some can be kept alone.

    def _state(self) -> dict[str, Any]:
        memory = [
            {key: value[:, place] for key, value in members.memory.items()}
            for members in self.members
            for place in range(len(members))
        ]
        return self.population.state() | {"memory": memory}

    @torch.no_grad()
    def _restore(self, runs: Sequence[Run], state: Mapping[str, Any], kept: Sequence[int]) -> None:
        """Lay out runs anew, and take what stands at their places of a state."""
        self.lay_out(runs)
        self.population.take_(state, kept)
        places = iter(kept)
        for members in self.members:
            for place in range(len(members)):
                for key, value in state["memory"][next(places)].items():
                    members.memory[key][:, place] = value

    def _save_or_stop(self) -> None:
        """Write a checkpoint where it is time, and stop where that was asked for."""
        unfinished = self.active and self.epoch < self.runs[0].epochs
        stop = unfinished and self.setting.stop()
        if stop or (self.active and time.monotonic() - self.saved > CHECKPOINT_EVERY):
            active = {"active": [run.hash for run in self.active]}
            self.checkpoint.save(self._state() | self.recorder.state() | active)
            self.saved = time.monotonic()
        if stop:
            raise Stopped(f"stopped after epoch {self.epoch}: the same call carries on")

    def _load_checkpoint(self) -> int:
        """Take up these very runs where a checkpoint left them; return its epoch."""
        state = self.checkpoint.load(self.device)
        if state is None:
            return 0
        self.active = [run for run in self.runs if run.hash in state["active"]]
        if self.active:
            self._restore(self.active, state, range(len(self.active)))
            self.recorder.take(state)
        return self.epoch

    def save_final_states(self) -> None:
        """Keep the states that other runs start from."""
        for place, run in enumerate(self.active):
            if run.hash not in self.recorder.lost:
                state = dict(self.population.stack.module(place).state_dict())
                save(state, self.setting.final_state(run))
