"""The loop: trains the runs of one data set, model and stream, and keeps their records.

All methods of one seed start from the same weights and see the same batches in the same order, so
that comparisons are paired. Where it pays they train as one population (`swrlib.population`): one
forward and backward pass, one fused optimizer; a method acts on its part of it.

The path, from top to bottom: `train` has what is asked for resolved into runs, and lets a `Job`
train each job of those that the records lack: stages, epochs, steps. Nothing within an epoch waits
for the device.
"""

from __future__ import annotations

import itertools
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from swrlib import paper, records
from swrlib.datasets import Dataset, load_dataset
from swrlib.engine.checkpoints import Checkpoint, default_folder, locked, save
from swrlib.engine.devices import CapturedStep, arithmetic, find_device
from swrlib.engine.feed import Feed
from swrlib.engine.jobs import Run, missing, plan, resolve, stream_name
from swrlib.engine.progress import Progress
from swrlib.engine.recorder import Recorder
from swrlib.files import make_folder
from swrlib.measures import Measure, StepMeasures, checked_measures
from swrlib.methods import Method
from swrlib.population import Batch, Blueprint, Members, Optimizer, Population
from swrlib.streams import Stage, Stream, generator, held_out

#: Seconds between checkpoints of a job, at the least.
CHECKPOINT_EVERY = 30.0


class Stopped(Exception):
    """Training was asked to stop and did, at a checkpoint: the same call carries on."""


def train(
    *,
    dataset: str | os.PathLike[str] | Dataset,
    model: str,
    stream: str | Stream,
    methods: Iterable[str | Method] = ("vanilla", "swr"),
    seeds: Iterable[int] = (0,),
    scale: str = "quick",
    epochs: int | None = None,
    split: str = "all",
    measure: str | Measure | Iterable[str | Measure] = (),
    results: str | os.PathLike[str] | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    tf32: bool = False,
    batch_size: int = paper.BATCH_SIZE,
    optimizer: str | Optimizer = "adam",
    optimizer_state: str = "kept",
    options: Mapping[str, Any] | None = None,
    root: str | os.PathLike[str] | None = None,
    checkpoints: str | os.PathLike[str] | None = None,
    stack: int | None = None,
    graphs: bool = True,
    stop: Callable[[], bool] | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train every method with every seed, but for what the records hold already.

    Parameters
    ----------
    dataset : str, path or Dataset
        A name of `swrlib.load_dataset`, a folder of class folders, or images in memory.
    model : {"mlp", "cnn", "cnn-bn", "vgg16"}
    stream : str or Stream
        A name (see `swrlib.make_stream`) or what `make_stream` returned.
    methods : iterable of str or Method
        "swr" takes the λ that the paper chose for this data set, model and stream; "swr:1e-3" and
        "swr:1e-4,1e-1" (λ_f, λ_c) name it, as does an object, ``SWR(lam=1e-3)``.
    seeds : iterable of int
    scale : {"quick", "paper"}
        Whose number of epochs.
    epochs : int, optional
        Epochs of each stage instead of the scale's.
    split : {"all", "selection"}
        "selection" holds a fixed random tenth of the training images out, and accuracies are on it.
    measure : iterable of str or Measure
        What else to measure (`swrlib.measures`); read it with `swrlib.records.load_measures`.
    results : path, optional
        Folder of records, read and written. None keeps nothing.
    device : str, optional
        Default: a CUDA device where there is one, else the processor.
    dtype : torch.dtype
        float32, float64, or bfloat16: then products are in bfloat16, all else in float32.
    tf32 : bool
        Whether a CUDA device may round the inputs of float32 products to TensorFloat-32.
    batch_size : int
    optimizer : str or Optimizer
        "adam", "sgd", or "sgd:0.9,1e-4": with momentum and weight decay. The rate is the stream's.
    optimizer_state : {"kept", "new"}
        Whether the optimizer's state survives a change of data.
    options : mapping, optional
        The model's options (see `swrlib.build_model`).
    root : path, optional
        Where the data are; default: ``$SWR_DATA``.
    checkpoints : path, optional
        Folder of checkpoints: an interrupted job carries on from there. Default: ``.checkpoints``
        in the working directory or, where nothing can be written there, in the folder of records.
    stack : int, optional
        How many runs train at once, at most; the results are the same but for rounding. Default:
        what is fastest. Convolutions on a processor train one after another, the MLP and everything
        small on a GPU many at once, and never more than the memory holds. Runs of a seed share
        their images; seeds lie side by side on a GPU, and with small batches on a processor.
    graphs : bool
        Whether a CUDA device replays a training step that was captured once.
    stop : callable, optional
        stop() → bool is asked after each epoch; where it says True, training stops.
    progress : bool
        Whether to show progress.

    Returns
    -------
    pandas.DataFrame
        One row per run and epoch, the columns of `swrlib.records.COLUMNS`; accuracies as
        fractions, `seconds` per run.

    Raises
    ------
    ValueError
        If a name is unknown or a value senseless; the nearest right name is given.
    FileNotFoundError
        If the data are not there and cannot be downloaded.
    MemoryError
        If not even one run fits into the memory.
    OSError
        If a record or a checkpoint cannot be written; the sentence names the file. The last
        checkpoint that could be written stays, and the same call carries on from it.
    Stopped
        If `stop` said so; what was trained is in a checkpoint.
    """
    measures = checked_measures(measure)
    if measures and results is None:
        raise ValueError("measures are kept in a folder of records: name one with results=")
    if stop and results is None:
        raise ValueError("what is stopped is kept for another time: name a folder with results=")
    place = find_device(device, tf32)
    runs = resolve(
        dataset=dataset,
        model=model,
        stream=stream,
        methods=methods,
        seeds=seeds,
        scale=scale,
        epochs=epochs,
        split=split,
        results=results,
        dtype=dtype,
        tf32=tf32,
        batch_size=batch_size,
        optimizer=optimizer,
        optimizer_state=optimizer_state,
        options=options,
        root=root,
    )
    names = tuple(measure.name for measure in measures)
    with tempfile.TemporaryDirectory() as nowhere:
        if results is None:
            results = checkpoints = nowhere
        folder = Path(results)
        wanted = missing(runs, folder, names)
        if wanted:
            data = load_dataset(dataset, root=None if root is None else Path(root))
            data = held_out(data) if split == "selection" else data
            jobs = plan(wanted, data, place, stack)
            data = data.to(place)
            total = sum(run.epochs for run in wanted)
            make_folder(folder)  # said now, not when the first job has ended
            states = default_folder(folder) if checkpoints is None else Path(checkpoints)
            with (
                Progress(total, f"{model} on {data.name}, {stream_name(stream)}", progress) as bar,
                arithmetic(place, tf32),
            ):
                setting = Setting(data, place, folder, measures, states, graphs, stop or _never)
                for job in jobs:
                    _train_job(job, setting, bar)
        return records.load_records(folder, measures=names, run=[run.hash for run in runs])


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Setting:
    """Where and how jobs train."""

    data: Dataset
    device: torch.device
    results: Path
    measures: tuple[Measure, ...]
    checkpoints: Path
    graphs: bool
    stop: Callable[[], bool]

    @property
    def measured(self) -> tuple[str, ...]:
        """The names of the measures."""
        return tuple(measure.name for measure in self.measures)

    def final_state(self, run: Run) -> Path:
        """Return the file of the state in which a run ended that others start from."""
        return self.checkpoints / f"{run.hash}.final.pt"


def _train_job(runs: Sequence[Run], setting: Setting, bar: Progress) -> None:
    """Train runs that lie side by side, and record them."""
    with _locked(runs, setting):
        # Another process may have trained them meanwhile.
        runs = missing(runs, setting.results, setting.measured)
        if not runs:
            return
        about = records.provenance()  # of the code as it is now, not when the job will have ended
        parents = list({run.parent.hash: run.parent for run in runs if run.parent}.values())
        with _locked(parents, setting):
            unrecorded = missing(parents, setting.results)
            lost = [run for run in parents if not setting.final_state(run).exists()]
            if lacking := [run for run in parents if run in unrecorded or run in lost]:
                job = Job(lacking, setting)
                job.train(bar.silent())
                job.save_final_states()
                _record(job, unrecorded, about)
                job.checkpoint.remove()
        job = Job(runs, setting)
        job.train(bar)
        _record(job, runs, about)
        job.checkpoint.remove()


def _locked(runs: Sequence[Run], setting: Setting) -> AbstractContextManager[None]:
    def give_up() -> None:
        if setting.stop():
            raise Stopped("stopped while another process trains the same run")

    return locked([run.hash for run in runs], setting.checkpoints, give_up)


def _record(job: Job, runs: Sequence[Run], about: Mapping[str, Any]) -> None:
    """Write down these runs of a job: each is recorded once."""
    if not runs:
        return
    names = [run.hash for run in runs]
    rows, measured = pd.DataFrame(job.recorder.rows), None
    if job.setting.measures:
        measured = pd.DataFrame(job.recorder.measured, columns=list(records.MEASURE_COLUMNS))
        measured = measured[measured["run"].isin(names)]
    records.write_job(
        job.setting.results,
        rows[rows["run"].isin(names)],
        measured,
        provenance=dict(about) | {"device": job.device_name},
        configurations={run.hash: run.configuration() for run in runs},
        measured=job.setting.measured,
    )


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
        self.seeds = list(dict.fromkeys(run.seed for run in self.runs))
        labels = self.data.train_labels.cpu()
        plans = [first.stream.stages(len(labels), seed, labels) for seed in self.seeds]
        self.stages = list(zip(*plans, strict=True))
        identity = {
            "runs": sorted(run.hash for run in self.runs),
            "measures": list(setting.measured),
        }
        name = f"{records.run_hash(identity)}.pt"
        self.checkpoint = Checkpoint(setting.checkpoints / name, identity)
        self.saved = time.monotonic()
        self.recorder = Recorder(self.data, self.device_name, setting.measures, first.epochs)
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
        self.groups: list[tuple[Method, Members]] = []
        for method, part in handled:
            values = {
                name: [getattr(m, name) for m in methods[part]]
                for name in method.stacked
                if all(isinstance(getattr(m, name, None), float) for m in methods[part])
            }
            self.groups.append((method, Members(self.population, part, values)))
        self.members = [members for _, members in self.groups]
        self.recorder.watch(self.active, self.population, self.members)
        for method, members in self.groups:
            method.start(members)
        self.features = {name for method in methods for name in method.features}
        acting = [(method.acts_every(), method, members) for method, members in self.groups]
        self.regular = [item for item in acting if item[0]]
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
            watch = self.epoch_(self._order(number, epoch), rate)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            images = self.feed.indices.shape[1]
            seconds = time.perf_counter() - started
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
        self.recorder.measure(self.feed, "start")

    @torch.no_grad()
    def _decay(self) -> None:
        for method, members in self.groups:
            method.decay_(members)

    def _order(self, number: int, epoch: int) -> Tensor:
        """Return the positions of an epoch's images in their order, [seeds, images]."""
        images = self.feed.indices.shape[1]
        draws = [generator(seed, "order", number, epoch) for seed in self.seeds]
        return self.feed.order([torch.randperm(images, generator=draw) for draw in draws])

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
        batch = self.population.gradients_(*self.feed.batch(positions), features=self.features)
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
        self.recorder.measure(self.feed, "epoch")
        if epoch == stage.epochs:
            self.recorder.measure(self.feed, "end")
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
            for place in range(members.runs.stop - members.runs.start)
        ]
        return self.population.state() | {"memory": memory}

    @torch.no_grad()
    def _restore(self, runs: Sequence[Run], state: Mapping[str, Any], kept: Sequence[int]) -> None:
        """Lay out runs anew, and take what stands at their places of a state."""
        self.lay_out(runs)
        self.population.take_(state, kept)
        places = iter(kept)
        for members in self.members:
            for place in range(members.runs.stop - members.runs.start):
                for key, value in state["memory"][next(places)].items():
                    members.memory[key][:, place] = value

    def _save_or_stop(self) -> None:
        """Write a checkpoint where it is time, and stop where that was asked for."""
        unfinished = self.active and self.epoch < self.runs[0].epochs
        stop = unfinished and self.setting.stop()
        if stop or time.monotonic() - self.saved > CHECKPOINT_EVERY:
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
