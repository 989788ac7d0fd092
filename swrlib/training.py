"""The engine: trains the runs of one data set, model and stream, and keeps their records.

All methods of one seed start from the same weights and see the same batches in the same order, so
that comparisons are paired. Where it pays they train as one stack (`swrlib.stacks`): one forward
and backward pass, one fused Adam; a method acts on its part of the stack.

The path, from top to bottom: `train` has what is asked for resolved into runs, and lets a `_Job`
train each job of those that the records lack: stages, epochs, steps. Nothing within an epoch waits
for the device.
"""

from __future__ import annotations

import itertools
import math
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from swrlib import paper, records
from swrlib.checkpoints import Checkpoint, default_folder, locked, save
from swrlib.datasets import Dataset, load_dataset
from swrlib.devices import CapturedStep, arithmetic, find_device, free_memory
from swrlib.files import make_folder
from swrlib.layers import trace
from swrlib.measures import EPOCH_MEASURES, PROBED, Snapshot, StepMeasures, checked_measures
from swrlib.methods import Method, Replicas, Vanilla
from swrlib.models import build_model
from swrlib.progress import Progress
from swrlib.rescaling import multi_tensor_norms
from swrlib.runs import Run, cut_into_jobs, missing, resolve, stream_name
from swrlib.stacks import EVALUATED, Stack, default_size, needed_memory
from swrlib.streams import Stage, Stream, generator, held_out, scale_

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
    measure: Iterable[str] = (),
    results: str | os.PathLike[str] | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    tf32: bool = False,
    batch_size: int = paper.BATCH_SIZE,
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
    measure : iterable of str
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
    optimizer_state : {"kept", "new"}
        Whether Adam's state survives a change of data.
    options : mapping, optional
        The model's options (see `swrlib.build_model`).
    root : path, optional
        Where the data are; default: ``$SWR_DATA``.
    checkpoints : path, optional
        Folder of checkpoints: an interrupted job carries on from there. Default: ``.checkpoints``
        in the working directory or, where nothing can be written there, in the folder of records.
    stack : int, optional
        How many runs of a seed train at once, at most; the results are the same but for rounding.
        Default: what is fastest. Convolutions on a processor train one after another, the MLP and
        everything small on a GPU many at once, and never more than the memory holds.
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
    measure = checked_measures((measure,) if isinstance(measure, str) else tuple(measure))
    if measure and results is None:
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
        optimizer_state=optimizer_state,
        options=options,
        root=root,
    )
    with tempfile.TemporaryDirectory() as nowhere:
        if results is None:
            results = checkpoints = nowhere
        folder = Path(results)
        wanted = missing(runs, folder, measure)
        if wanted:
            data = load_dataset(dataset, root=None if root is None else Path(root))
            data = held_out(data) if split == "selection" else data
            jobs = cut_into_jobs(wanted, _runs_at_once(wanted, data, place, stack))
            data = data.to(place)
            total = sum(run.epochs for run in wanted)
            make_folder(folder)  # said now, not when the first job has ended
            states = default_folder(folder) if checkpoints is None else Path(checkpoints)
            with (
                Progress(total, f"{model} on {data.name}, {stream_name(stream)}", progress) as bar,
                arithmetic(place, tf32),
            ):
                setting = _Setting(data, place, folder, measure, states, graphs, stop or _never)
                for job in jobs:
                    _train_job(job, setting, bar)
        return records.load_records(folder, measures=measure, run=[run.hash for run in runs])


def _never() -> bool:
    return False


def _new_model(run: Run, data: Dataset, purpose: str) -> nn.Module:
    """Draw new weights from the generator of a run's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(run.seed, purpose).initial_seed())
        return build_model(run.model, data, **dict(run.options))


def _runs_at_once(
    runs: Sequence[Run], data: Dataset, device: torch.device, asked: int | None
) -> int:
    """Return how many runs of a seed train in one stack: as asked, or what is fastest and fits."""
    if asked is not None and (isinstance(asked, bool) or not isinstance(asked, int) or asked < 1):
        raise ValueError(f"stack is {asked!r}: it must be a whole number from 1 on")
    model = _new_model(runs[0], data, "weights")
    most = asked or default_size(model, device)
    most = min(most, max(len(job) for job in cut_into_jobs(runs, most)))
    batch = (min(runs[0].batch_size, len(data.train_images)), *data.shape)
    needed = needed_memory(model, batch, getattr(torch, runs[0].dtype))
    free = free_memory(device)
    fits = free // needed
    if fits < 1:
        raise MemoryError(
            f"one run of {runs[0].model} with batches of {runs[0].batch_size} needs about "
            f"{needed / 2**20:.0f} MiB, but {max(free, 0) / 2**20:.0f} MiB of memory are free"
        )
    if fits < most:
        warnings.warn(
            f"{most} runs at once need about {most * needed / 2**20:.0f} MiB, but "
            f"{free / 2**20:.0f} MiB of memory are free: {fits} train at once",
            stacklevel=3,
        )
    return min(most, fits)


@dataclass(frozen=True)
class _Setting:
    """Where and how jobs train."""

    data: Dataset
    device: torch.device
    results: Path
    measure: tuple[str, ...]
    checkpoints: Path
    graphs: bool
    stop: Callable[[], bool]


def _train_job(
    runs: Sequence[Run], setting: _Setting, bar: Progress, *, again: bool = False
) -> None:
    def give_up() -> None:
        if setting.stop():
            raise Stopped("stopped while another process trains the same run")

    with locked((run.hash for run in runs), setting.checkpoints, give_up):
        if not again:  # another process may have trained them meanwhile
            runs = missing(runs, setting.results, setting.measure)
        if not runs:
            return
        about = records.provenance()  # of the code as it is now, not when the job will have ended
        parent = runs[0].parent
        if parent is not None and (
            not _final_state(parent, setting.checkpoints).exists()
            or missing([parent], setting.results)
        ):
            _train_job([parent], setting, bar.silent(), again=True)
        job = _Job(runs, setting)
        job.train(bar)
        if not again or missing(runs, setting.results):  # a run is recorded once
            records.write_job(
                setting.results,
                pd.DataFrame(job.rows),
                pd.DataFrame(job.measured, columns=list(records.MEASURE_COLUMNS))
                if setting.measure
                else None,
                provenance=about | {"device": job.device_name},
                configurations={run.hash: run.configuration() for run in runs},
                measured=setting.measure,
            )
        job.checkpoint.remove()


def _final_state(run: Run, checkpoints: Path) -> Path:
    return checkpoints / f"{run.hash}.final.pt"


class _Job:
    """Runs of one seed that train as one stack."""

    def __init__(self, runs: Sequence[Run], setting: _Setting) -> None:
        # Runs that a method handles together lie next to each other, new optimizers last.
        self.runs = sorted(
            runs, key=lambda run: (run.method.new_optimizer, run.method.name, repr(run.method))
        )
        self.setting, self.data, self.device = setting, setting.data, setting.device
        on_gpu = self.device.type == "cuda"
        self.device_name = torch.cuda.get_device_name(self.device) if on_gpu else "cpu"
        identity = {
            "runs": sorted(run.hash for run in self.runs),
            "measures": list(setting.measure),
        }
        name = f"{records.run_hash(identity)}.pt"
        self.checkpoint = Checkpoint(setting.checkpoints / name, identity)
        self.rows: list[dict[str, Any]] = []
        self.measured: list[tuple[Any, ...]] = []
        self.epoch = self.step = 0
        self._build(self.runs)
        if self.runs[0].parent is not None:
            self._start_from_parent()

    @torch.no_grad()
    def _build(self, active: Sequence[Run]) -> None:
        """Lay out the runs that still train, all from the seed's initial weights."""
        self.active = list(active)
        count, first = len(active), active[0]
        model = _new_model(first, self.data, "weights")
        self.network = trace(model)
        self.stack = Stack(model, count, self.device, getattr(torch, first.dtype))
        self.initial = [block.detach()[:1].clone() for block in self.stack.parameters.values()]
        floats = {"dtype": self.stack.dtype, "device": self.device}
        self.losses = torch.zeros(count, **floats)  # type: ignore[call-overload]
        self.correct = torch.zeros(count, dtype=torch.int64, device=self.device)
        # A tensor, so that a captured step reads it; as exact as the fused Adam takes it.
        rate_type = torch.float32 if self.device.type == "cuda" else torch.float64
        self.learning_rate = torch.zeros((), dtype=rate_type, device=self.device)
        self._build_optimizer()
        self.groups: list[tuple[Method, Replicas]] = []
        for _, members in itertools.groupby(range(count), lambda i: active[i].method.kind()):
            indices = list(members)
            replicas = self._replicas(slice(indices[0], indices[-1] + 1))
            self.groups.append((active[indices[0]].method, replicas))
        self.initial_norms = [replicas.weight_norms() for _, replicas in self.groups]
        for method, replicas in self.groups:
            method.start(replicas)
        self.captured: CapturedStep | None = None
        self.warm = False

    def _build_optimizer(self) -> None:
        """Make one fused Adam for all runs, its state in tensors with an axis of runs."""
        blocks = list(self.stack.parameters.values())
        self.moments = [(torch.zeros_like(b), torch.zeros_like(b)) for b in blocks]
        # Runs of methods that start a new Adam at a change of data count their steps apart.
        kept = sum(not run.method.new_optimizer for run in self.active)
        parts = [slice(0, kept), slice(kept, len(self.active))]
        self.parts = [part for part in parts if part.start < part.stop]
        self.steps = torch.zeros(len(self.parts), len(blocks), device=self.device)
        self.optimized = [[nn.Parameter(b.detach()[part]) for b in blocks] for part in self.parts]
        self.optimizer = torch.optim.Adam(
            itertools.chain.from_iterable(self.optimized),
            self.learning_rate,
            fused=True,
            capturable=self.device.type == "cuda",
        )
        for part, parameters, steps in zip(self.parts, self.optimized, self.steps, strict=True):
            for parameter, (mean, square), step in zip(
                parameters, self.moments, steps, strict=True
            ):
                self.optimizer.state[parameter] = {
                    "step": step,
                    "exp_avg": mean[part],
                    "exp_avg_sq": square[part],
                }

    def _replicas(self, part: slice) -> Replicas:
        """Make what a method sees of its runs."""
        methods = [run.method for run in self.active[part]]
        values = {
            name: torch.tensor([getattr(m, name) for m in methods], dtype=self.stack.dtype)
            for name in methods[0].stacked
            if all(isinstance(getattr(m, name, None), float) for m in methods)
        }
        owners = [
            (layer.name, kind == "bias")
            for layer in self.network.layers
            for kind, parameter in (("weight", layer.weight), ("bias", layer.bias))
            if parameter is not None
        ]
        names = [f"{layer}.{'bias' if bias else 'weight'}" for layer, bias in owners]
        classifier = {la.name for la in self.network.layers if la.group == "classifier"}
        blocks = self.stack.parameters
        seed_of = self.active[part.start]

        def fresh(purpose: str) -> list[Tensor]:
            parameters = _new_model(seed_of, self.data, purpose).parameters()
            return [p.detach().to(self.device, self.stack.dtype).unsqueeze(0) for p in parameters]

        def reinitialize(purpose: str) -> None:
            model = _new_model(seed_of, self.data, purpose)
            for replica in range(part.start, part.stop):
                self.stack.load(replica, model)
            self._new_optimizer(part)

        return Replicas(
            count=len(methods),
            parameters=[block.detach()[part] for block in blocks.values()],
            gradients=lambda: [block.grad[part] for block in blocks.values()],  # type: ignore[index]
            initial=self.initial,
            in_classifier=[name.rpartition(".")[0] in classifier for name in blocks],
            values={name: value.to(self.device) for name, value in values.items()},
            network=self.network,
            owners=owners,
            tensors=[blocks[name].detach()[part] for name in names],
            learning_rate=self.learning_rate,
            fresh=fresh,
            reinitialize=reinitialize,
        )

    def _new_optimizer(self, runs: slice) -> None:
        """Give runs a new Adam: all of them, or those whose steps are counted apart."""
        for part, steps in zip(self.parts, self.steps, strict=True):
            if runs.start <= part.start and part.stop <= runs.stop:
                steps.zero_()
                for moment in itertools.chain.from_iterable(self.moments):
                    moment[part].zero_()

    @torch.no_grad()
    def _start_from_parent(self) -> None:
        """Take the parent's final state and scale it (Fig. 1)."""
        parent = self.runs[0].parent
        assert parent is not None
        if not _final_state(parent, self.setting.checkpoints).exists():
            raise ValueError("the run to be scaled has diverged: there is no state to start from")
        initial = self.groups[0][1].weight_norms()[0]  # the runs still hold θ_0
        state = torch.load(
            _final_state(parent, self.setting.checkpoints),
            map_location=self.device,
            weights_only=True,
        )
        for replica, run in enumerate(self.runs):
            model = self.stack.module(replica)
            model.load_state_dict(state)
            scale_(model, run.stream, initial)
            self.stack.load(replica, model)

    def train(self, bar: Progress) -> None:
        """Train all stages, or what a checkpoint leaves to do."""
        bar.resume(self._load_checkpoint() * len(self.runs))
        if not self.rows:
            self._record(stage=1, stage_epoch=0, learning_rate=math.nan, seconds=0.0)
        saved = time.monotonic()
        for stage, plan, epoch, rate in self._schedule():
            started = time.perf_counter()
            if epoch == 1 and stage > 1:
                self._change(stage)
            if epoch > 1 and rate < plan.learning_rates[epoch - 2]:
                for method, replicas in self.groups:
                    method.decay_(replicas)
            seed = self.runs[0].seed
            shuffled = torch.randperm(
                len(plan.indices), generator=generator(seed, "order", stage, epoch)
            )
            self._epoch(plan.indices[shuffled].to(self.device), rate)
            self.epoch += 1
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self._record(stage, epoch, rate, time.perf_counter() - started)
            bar.update(len(self.runs))
            unfinished = self.active and self.epoch < self.runs[0].epochs
            stop = unfinished and self.setting.stop()
            if stop or time.monotonic() - saved > CHECKPOINT_EVERY:
                self._save_checkpoint()
                saved = time.monotonic()
            if stop:
                raise Stopped(f"stopped after epoch {self.epoch}: the same call carries on")
        if self.runs[0].stream.name == "single-task":
            self._save_final_states()

    def _schedule(self) -> Iterator[tuple[int, Stage, int, float]]:
        """Yield (stage, its plan, epoch in it, learning rate) for the epochs still to do."""
        run = self.runs[0]
        stages = run.stream.stages(len(self.data.train_images), run.seed)
        everything = [
            (number, stage, epoch, rate)
            for number, stage in enumerate(stages, start=1)
            for epoch, rate in enumerate(stage.learning_rates, start=1)
        ]
        for item in everything[self.epoch :]:
            if not self.active:
                return
            yield item

    @torch.no_grad()
    def _change(self, stage: int) -> None:
        for method, replicas in self.groups:
            method.change_(replicas, stage)
        if self.runs[0].optimizer_state == "new":
            self._new_optimizer(slice(0, len(self.active)))

    def _epoch(self, order: Tensor, learning_rate: float) -> None:
        """One pass over the images in this order; nothing in it waits for the device."""
        self.losses.zero_()
        self.correct.zero_()
        self.learning_rate.fill_(learning_rate)
        watch = StepMeasures(self.setting.measure, self.initial_norms)
        size = self.runs[0].batch_size
        graphs = self.device.type == "cuda" and self.setting.graphs and not watch.functions
        if graphs and self.warm and self.captured is None and len(order) >= size:
            self.captured = CapturedStep(lambda batch: self._step(batch, watch), order[:size])
        batches = order.split(size)
        for batch in batches:
            if self.captured is not None and len(batch) == size:
                self.captured(batch)
            else:
                self._step(batch, watch)
        self.warm = True  # a step was taken, so that the next epoch may capture one
        self.step += len(batches)
        self.seen, self.batches = len(order), len(batches)
        for replica, layer, name, value in watch.results():
            run = self.active[replica].hash
            self.measured.append((run, self.epoch + 1, self.step, name, layer, value))

    def _step(self, batch: Tensor, watch: StepMeasures) -> None:
        """One step of all runs on one batch: gradients, method, optimizer, method."""
        images, labels = self._batch(self.data.train_images, self.data.train_labels, batch)
        logits = self.stack(images, training=True)
        targets = labels.expand(len(self.active), -1)
        losses = cross_entropy(logits, targets, reduction="none").mean(1)
        for tensor in itertools.chain(self.stack.parameters.values(), *self.optimized):
            tensor.grad = None  # here, so that backward finds their memory free and in the cache
        losses.sum().backward()
        with torch.no_grad():
            self.losses += losses
            self.correct += _hits(logits, labels)
            watch.note([replicas for _, replicas in self.groups])
            for method, replicas in self.groups:
                method.gradients_(replicas)
                method.before_step_(replicas)
            for part, parameters in zip(self.parts, self.optimized, strict=True):
                for parameter, block in zip(
                    parameters, self.stack.parameters.values(), strict=True
                ):
                    parameter.grad = block.grad[part]  # type: ignore[index]
            self.optimizer.step()
            watch.note([replicas for _, replicas in self.groups])
            for method, replicas in self.groups:
                method.after_step_(replicas)
            watch.note([replicas for _, replicas in self.groups])

    def _batch(self, images: Tensor, labels: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
        chosen = self.data.normalize(images.index_select(0, batch), self.stack.dtype)
        return chosen, labels.index_select(0, batch)

    @torch.no_grad()
    def _evaluate(self) -> tuple[list[float], list[float]]:
        """Return test loss and accuracy of each run that still trains."""
        losses, correct = torch.zeros_like(self.losses), torch.zeros_like(self.correct)
        answers = self.data.test_labels
        size = max(EVALUATED, self.runs[0].batch_size)
        for batch in torch.arange(len(answers), device=self.device).split(size):
            images, labels = self._batch(self.data.test_images, answers, batch)
            logits = self.stack(images, training=False)
            targets = labels.expand(len(self.active), -1)
            losses += cross_entropy(logits, targets, reduction="none").sum(1)
            correct += _hits(logits, labels)
        return (losses / len(answers)).tolist(), (correct / len(answers)).tolist()

    @torch.no_grad()
    def _record(self, stage: int, stage_epoch: int, learning_rate: float, seconds: float) -> None:
        """Write a row for each run: the state after the epoch and its last rescaling."""
        test_loss, test_accuracy = self._evaluate()
        trained = stage_epoch > 0
        nothing = [math.nan] * len(self.active)
        train_loss = (self.losses / self.batches).tolist() if trained else nothing
        train_accuracy = (self.correct / self.seen).tolist() if trained else nothing
        last = self.epoch == self.runs[0].epochs
        norms = self._norms() if self.epoch % 10 == 0 or last else None
        lost = set()
        whole = self._finite()
        for replica, run in enumerate(self.active):
            finite = whole[replica] and math.isfinite(test_loss[replica])
            diverged = not (finite and (not trained or math.isfinite(train_loss[replica])))
            self.rows.append(
                run.columns(self.device_name)
                | {
                    "stage": stage,
                    "stage_epoch": stage_epoch,
                    "epoch": self.epoch,
                    "step": self.step,
                    "lr": learning_rate,
                    "train_loss": train_loss[replica],
                    "train_accuracy": train_accuracy[replica],
                    "test_loss": test_loss[replica],
                    "test_accuracy": test_accuracy[replica],
                    "weight_norms": norms[replica][0] if norms else None,
                    "bias_norms": norms[replica][1] if norms else None,
                    "seconds": seconds / len(self.runs),
                    "diverged": diverged,
                }
            )
            if diverged:
                lost.add(replica)
            else:
                self._measure(replica, last)
        if lost:
            self._keep([i for i in range(len(self.active)) if i not in lost])

    def _finite(self) -> list[bool]:
        """Tell of each run whether its numbers are finite: oneDNN's ReLU makes 0 of what is not."""
        blocks = [*self.stack.parameters.values(), *self.stack.buffers.values()]
        of_each = [block.detach().reshape(len(block), -1).isfinite().all(1) for block in blocks]
        finite: list[bool] = torch.stack(of_each).all(0).tolist()
        return finite

    @cached_property
    def _untrained(self) -> Snapshot:
        """What all runs start from, with the images that epoch measures look at."""
        model = _new_model(self.runs[0], self.data, "weights").to(self.device, self.stack.dtype)
        images = self.data.normalize(self.data.test_images[:PROBED], self.stack.dtype)
        return Snapshot(model, model, images, self.data.test_labels[:PROBED])

    def _measure(self, replica: int, last: bool) -> None:
        """Take the epoch measures that are due of one run."""
        due = [
            name
            for name, measure in EPOCH_MEASURES.items()
            if name in self.setting.measure
            and (last or (measure.every is not None and self.epoch % measure.every == 0))
        ]
        if not due:
            return
        run = self.active[replica]
        snapshot = replace(self._untrained, model=self.stack.module(replica))
        with torch.enable_grad():
            for name in due:
                for label, value in EPOCH_MEASURES[name].function(snapshot).items():
                    self.measured.append((run.hash, self.epoch, self.step, name, label, value))

    def _norms(self) -> list[tuple[list[float], list[float]]]:
        """Return each run's norms of weights and of biases."""
        found = []
        for _, replicas in self.groups:
            for norms in multi_tensor_norms(replicas.tensors, stacked=True).tolist():
                pairs = list(zip(norms, replicas.owners, strict=True))
                weights = [norm for norm, (_, bias) in pairs if not bias]
                found.append((weights, [norm for norm, (_, bias) in pairs if bias]))
        return found

    # The state of the runs: tensors with an axis of runs, so that some of them can be kept alone.

    def _blocks(self) -> list[Tensor]:
        stack = self.stack
        parameters = [block.detach() for block in stack.parameters.values()]
        return [*parameters, *stack.buffers.values(), *itertools.chain(*self.moments)]

    def _state(self) -> dict[str, Any]:
        steps = [self.steps[i, :1].expand(p.stop - p.start) for i, p in enumerate(self.parts)]
        return {
            "blocks": self._blocks(),
            "steps": torch.cat(steps),
            "memory": [
                {key: value[i] for key, value in replicas.memory.items()}
                for _, replicas in self.groups
                for i in range(replicas.count)
            ],
        }

    @torch.no_grad()
    def _restore(self, active: Sequence[Run], state: dict[str, Any], kept: Sequence[int]) -> None:
        """Lay out these runs anew, and take what stands at their places of a state."""
        self._build(active)
        for block, value in zip(self._blocks(), state["blocks"], strict=True):
            block.copy_(value[kept])
        for steps, part in zip(self.steps, self.parts, strict=True):
            steps.fill_(state["steps"][kept[part.start]])
        places = iter(kept)
        for _, replicas in self.groups:
            for i in range(replicas.count):
                for key, value in state["memory"][next(places)].items():
                    replicas.memory[key][i] = value

    def _keep(self, kept: list[int]) -> None:
        """Go on with some of the runs; the others cost nothing from here on."""
        if not kept:
            self.active = []
            return
        self._restore([self.active[i] for i in kept], self._state(), kept)

    def _save_checkpoint(self) -> None:
        self.checkpoint.save(
            self._state()
            | {
                "position": [self.epoch, self.step],
                "active": [run.hash for run in self.active],
                "rows": self.rows,
                "measured": self.measured,
            }
        )

    def _load_checkpoint(self) -> int:
        """Take up these very runs where a checkpoint left them; return its epoch."""
        state = self.checkpoint.load(self.device)
        if state is None:
            return 0
        self.epoch, self.step = state["position"]
        self.rows, self.measured = state["rows"], [tuple(m) for m in state["measured"]]
        self.active = [run for run in self.runs if run.hash in state["active"]]
        if self.active:
            self._restore(self.active, state, range(len(self.active)))
        return self.epoch

    def _save_final_states(self) -> None:
        for replica, run in enumerate(self.active):
            if isinstance(run.method, Vanilla) and run.stream.parent is None:
                state = dict(self.stack.module(replica).state_dict())
                save(state, _final_state(run, self.setting.checkpoints))


def _hits(logits: Tensor, labels: Tensor) -> Tensor:
    """Return how many images each run [runs] has right: logits [runs, classes, N], labels [N]."""
    return (logits.max(1).indices == labels).sum(1)  # argmax is slow along this axis
