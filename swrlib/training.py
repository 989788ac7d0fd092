"""The engine: trains the runs of one data set, model and stream, and keeps their records.

All methods of one seed start from the same weights and see the same batches in the same order, so
that comparisons are paired. The parameters of a job's runs are the rows of one matrix: methods act
on rows, one fused Adam on all of them, and each run's module holds views into its row.

The path, from top to bottom: `train` has what is asked for resolved into runs, and lets a `_Job`
train each job of those that the records lack: stages, epochs, steps.
"""

from __future__ import annotations

import copy
import itertools
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from swrlib import paper, records
from swrlib.datasets import Dataset, load_dataset
from swrlib.layers import Network, trace
from swrlib.measures import EPOCH_MEASURES, STEP_MEASURES, checked_measures
from swrlib.methods import Method, Rows, Vanilla
from swrlib.models import build_model
from swrlib.progress import Progress
from swrlib.rescaling import multi_tensor_norms, rescale_
from swrlib.runs import Run, cut_into_jobs, missing, resolve, stream_name
from swrlib.streams import Stage, Stream, generator, scaling_factors

#: Seconds between checkpoints of a job, at the least.
CHECKPOINT_EVERY = 30.0


def train(
    *,
    dataset: str | os.PathLike[str],
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
    batch_size: int = paper.BATCH_SIZE,
    optimizer_state: str = "kept",
    options: Mapping[str, Any] | None = None,
    root: str | os.PathLike[str] | None = None,
    checkpoints: str | os.PathLike[str] = ".checkpoints",
    progress: bool = True,
) -> pd.DataFrame:
    """Train every method with every seed, but for what the records hold already.

    Parameters
    ----------
    dataset : str or path
        A name of `swrlib.load_dataset`, or a folder of class folders.
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
        Of parameters and arithmetic.
    batch_size : int
    optimizer_state : {"kept", "new"}
        Whether Adam's state survives a change of data.
    options : mapping, optional
        The model's options (see `swrlib.build_model`).
    root : path, optional
        Where the data are; default: ``$SWR_DATA``.
    checkpoints : path
        Folder of checkpoints: an interrupted job carries on from there.
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
    """
    measure = checked_measures((measure,) if isinstance(measure, str) else tuple(measure))
    if measure and results is None:
        raise ValueError("measures are kept in a folder of records: name one with results=")
    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ValueError(f"unknown device {device!r}: give 'cpu' or 'cuda'") from error
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"there is no CUDA device here, so {device!r} cannot be used: give 'cpu'")
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
        batch_size=batch_size,
        optimizer_state=optimizer_state,
        options=options,
        root=root,
        device=place,
    )
    with tempfile.TemporaryDirectory() as nowhere:
        if results is None:
            results = checkpoints = nowhere
        folder = Path(results)
        jobs = cut_into_jobs(missing(runs, folder, measure), place)
        if jobs:
            data = load_dataset(dataset, root=None if root is None else Path(root))
            data = _split(data, split).to(place)
            total = sum(run.epochs for job in jobs for run in job)
            with Progress(total, f"{model} on {data.name}, {stream_name(stream)}", progress) as bar:
                for job in jobs:
                    _train_job(job, data, place, folder, measure, Path(checkpoints), bar)
        return records.load_records(folder, measures=measure, run=[run.hash for run in runs])


def _split(data: Dataset, split: str) -> Dataset:
    """Hold a fixed random tenth of the training images out, where λ is to be selected."""
    if split == "all":
        return data
    order = torch.randperm(len(data.train_images), generator=generator(0, "selection"))
    held, rest = order[: len(order) // 10], order[len(order) // 10 :]
    return Dataset(
        name=data.name,
        train_images=data.train_images[rest],
        train_labels=data.train_labels[rest],
        test_images=data.train_images[held],
        test_labels=data.train_labels[held],
        classes=data.classes,
        mean=data.mean,
        std=data.std,
    )


def _train_job(
    runs: list[Run],
    data: Dataset,
    device: torch.device,
    results: Path,
    measure: tuple[str, ...],
    checkpoints: Path,
    bar: Progress,
) -> None:
    about = records.provenance()  # of the code as it is now, not when the job will have ended
    parent = runs[0].parent
    if parent is not None and (
        not _final_state(parent, checkpoints).exists() or missing([parent], results)
    ):
        _train_job([parent], data, device, results, measure, checkpoints, bar.silent())
    job = _Job(runs, data, device, measure, checkpoints)
    job.train(bar)
    records.write_job(
        results,
        pd.DataFrame(job.rows),
        pd.DataFrame(job.measured, columns=list(records.MEASURE_COLUMNS)) if measure else None,
        provenance=about | {"device": job.device_name},
        configurations={run.hash: run.configuration() for run in runs},
        measured=measure,
    )
    job.clean_up()


def _final_state(run: Run, checkpoints: Path) -> Path:
    return checkpoints / f"{run.hash}.final.pt"


class _Layout:
    """Where each parameter of a model lies in a flat row."""

    def __init__(self, model: nn.Module, channels_last: bool) -> None:
        self.shapes = {name: p.shape for name, p in model.named_parameters()}
        self.channels_last = channels_last
        self.starts: dict[str, int] = {}
        end = 0
        for name, shape in self.shapes.items():
            self.starts[name] = end
            end += math.prod(shape)
        # Rows start on a multiple of 64 entries, so that vectorized loops treat all rows alike.
        self.entries = math.ceil(end / 64) * 64

    def views(self, row: Tensor) -> dict[str, Tensor]:
        return {name: self._view(row, name) for name in self.shapes}

    def _view(self, row: Tensor, name: str) -> Tensor:
        shape, start = self.shapes[name], self.starts[name]
        part = row[start : start + math.prod(shape)]
        if self.channels_last and len(shape) == 4:
            out, into, height, width = shape
            return part.view(out, height, width, into).permute(0, 3, 1, 2)
        return part.view(shape)

    def row(self, model: nn.Module, like: Tensor) -> Tensor:
        """Return a model's parameters as a row of ``like``'s type."""
        row = torch.zeros_like(like)
        for name, view in self.views(row).items():
            view.copy_(model.get_parameter(name))
        return row


class _Job:
    """Runs of one seed that share their batches."""

    def __init__(
        self,
        runs: list[Run],
        data: Dataset,
        device: torch.device,
        measure: tuple[str, ...],
        checkpoints: Path,
    ) -> None:
        # Runs that a method handles together lie next to each other.
        self.runs = sorted(runs, key=lambda run: (run.method.name, repr(run.method)))
        self.data, self.device, self.measure = data, device, measure
        self.device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        self.checkpoint = checkpoints / f"{records.run_hash(self._identity())}.pt"
        self.checkpoints = checkpoints
        self.dtype = getattr(torch, runs[0].dtype)
        self.rows: list[dict[str, Any]] = []
        self.measured: list[tuple[Any, ...]] = []
        self.epoch = self.step = 0
        self.active = list(range(len(runs)))
        self._build()

    def _identity(self) -> dict[str, Any]:
        return {"runs": sorted(run.hash for run in self.runs), "measures": list(self.measure)}

    @torch.no_grad()
    def _build(self) -> None:
        first = self._new_model("weights")
        self.network: Network = trace(first)
        convolutional = any(layer.kind == "convolution" for layer in self.network.layers)
        self.memory_format = torch.channels_last if convolutional else torch.contiguous_format
        self.layout = _Layout(first, channels_last=convolutional)
        count, entries = len(self.runs), self.layout.entries
        self.parameters = torch.zeros(count, entries, dtype=self.dtype, device=self.device)
        self.gradients = torch.zeros_like(self.parameters)
        self.initial = self.layout.row(first, self.parameters[0]).unsqueeze(0)
        self.parameters.copy_(self.initial.expand_as(self.parameters))
        self.models = [copy.deepcopy(first).to(self.device, self.dtype) for _ in self.runs]
        for model, row, gradient in zip(self.models, self.parameters, self.gradients, strict=True):
            views, gradients = self.layout.views(row), self.layout.views(gradient)
            for name, parameter in model.named_parameters():
                parameter.data, parameter.grad = views[name], gradients[name]
        self.optimizer = torch.optim.Adam(self._optimized(), paper.LEARNING_RATE, fused=True)
        self.losses = torch.zeros(count, dtype=self.dtype, device=self.device)
        self.correct = torch.zeros(count, dtype=torch.int64, device=self.device)
        self.groups: list[tuple[Method, Rows]] = []
        for _, members in itertools.groupby(range(count), key=lambda i: self.runs[i].method.kind()):
            indices = list(members)
            self.groups.append((self.runs[indices[0]].method, self._rows(indices)))
        for method, rows in self.groups:
            method.start(rows)
        if self.runs[0].parent is not None:
            self._start_from_parent()

    def _new_model(self, purpose: str) -> nn.Module:
        run = self.runs[0]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator(run.seed, purpose).initial_seed())
            return build_model(run.model, self.data, **dict(run.options))

    def _optimized(self) -> list[nn.Parameter]:
        parameters = [nn.Parameter(row) for row in self.parameters]
        for parameter, gradient in zip(parameters, self.gradients, strict=True):
            parameter.grad = gradient
        return parameters

    def _rows(self, indices: list[int]) -> Rows:
        part = slice(indices[0], indices[-1] + 1)
        methods = [self.runs[i].method for i in indices]
        values = {
            name: torch.tensor([[getattr(m, name)] for m in methods], dtype=self.dtype)
            for name in methods[0].stacked
            if all(isinstance(getattr(m, name, None), float) for m in methods)
        }
        owners: list[tuple[str, bool]] = []
        names: list[str] = []
        classifier = torch.zeros_like(self.initial, dtype=torch.bool)
        for layer in self.network.layers:
            for kind, parameter in (("weight", layer.weight), ("bias", layer.bias)):
                if parameter is not None:
                    owners.append((layer.name, kind == "bias"))
                    names.append(f"{layer.name}.{kind}")
            if layer.group == "classifier":
                for name, view in self.layout.views(classifier[0]).items():
                    if name.rpartition(".")[0] == layer.name:
                        view.fill_(True)
        views = [self.layout.views(self.parameters[i]) for i in indices]

        def fresh(purpose: str) -> Tensor:
            return self.layout.row(self._new_model(purpose), self.initial[0]).unsqueeze(0)

        def reinitialize(purpose: str) -> None:
            new = self._new_model(purpose).to(self.device, self.dtype)
            for i in indices:
                self.parameters[i].copy_(self.layout.row(new, self.initial[0]))
                for buffer, value in zip(self.models[i].buffers(), new.buffers(), strict=True):
                    buffer.copy_(value)
                self._forget(i)

        return Rows(
            parameters=self.parameters[part],
            gradients=self.gradients[part],
            initial=self.initial,
            classifier=classifier,
            values={name: value.to(self.device) for name, value in values.items()},
            network=self.network,
            owners=owners,
            tensors=[view[name] for view in views for name in names],
            fresh=fresh,
            reinitialize=reinitialize,
        )

    def _forget(self, index: int) -> None:
        """Give a run a new Adam."""
        self.optimizer.state.pop(self.optimizer.param_groups[0]["params"][index], None)

    def _start_from_parent(self) -> None:
        """Take the parent's final state and scale it (Fig. 1)."""
        parent = self.runs[0].parent
        assert parent is not None
        initial = self.groups[0][1].weight_norms()[0]  # the rows still hold θ_0
        state = torch.load(_final_state(parent, self.checkpoints), weights_only=True)
        for run, model in zip(self.runs, self.models, strict=True):
            model.load_state_dict(state)
            layers = trace(model).layers
            weighted = [layer for layer in layers if layer.weight is not None]
            norms = multi_tensor_norms([layer.weight for layer in weighted])  # type: ignore[misc]
            scaled = scaling_factors(run.stream)(norms, initial).tolist()
            factors = dict.fromkeys((layer.name for layer in layers), 1.0)
            factors |= zip((layer.name for layer in weighted), scaled, strict=True)
            if run.stream.biases == "proportional":
                rescale_(model, factors)
                continue
            for layer in weighted:
                layer.weight.mul_(factors[layer.name])  # type: ignore[union-attr]
                if layer.bias is not None and run.stream.biases == "own-factor":
                    layer.bias.mul_(factors[layer.name])

    def train(self, bar: Progress) -> None:
        """Train all stages, or what a checkpoint leaves to do."""
        resumed = self._load_checkpoint()
        bar.update(resumed * len(self.runs))
        if not self.rows:
            self._record(stage=1, stage_epoch=0, learning_rate=math.nan, seconds=0.0)
        saved = time.monotonic()
        for stage, plan, epoch, rate in self._schedule():
            started = time.perf_counter()
            if epoch == 1 and stage > 1:
                self._change(stage)
            if epoch > 1 and rate < plan.learning_rates[epoch - 2]:
                for method, rows in self.groups:
                    method.decay_(rows)
            order = plan.indices[
                torch.randperm(
                    len(plan.indices),
                    generator=generator(self.runs[0].seed, "order", stage, epoch),
                )
            ]
            self._epoch(order.to(self.device), rate)
            self.epoch += 1
            self._record(stage, epoch, rate, time.perf_counter() - started)
            bar.update(len(self.runs))
            if time.monotonic() - saved > CHECKPOINT_EVERY:
                self._save_checkpoint()
                saved = time.monotonic()
        if self.runs[0].stream.name == "single-task":
            self._save_final_states()

    def _schedule(self) -> Iterator[tuple[int, Stage, int, float]]:
        """Yield (stage, its plan, epoch in it, learning rate) for the epochs still to do."""
        run = self.runs[0]
        everything = [
            (number, stage, epoch, rate)
            for number, stage in enumerate(
                run.stream.stages(len(self.data.train_images), run.seed), start=1
            )
            for epoch, rate in enumerate(stage.learning_rates, start=1)
        ]
        for item in everything[self.epoch :]:
            if not self.active:
                return
            yield item

    @torch.no_grad()
    def _change(self, stage: int) -> None:
        for method, rows in self.groups:
            method.change_(rows, stage)
        if self.runs[0].optimizer_state == "new":
            for index in range(len(self.runs)):
                self._forget(index)

    def _epoch(self, order: Tensor, learning_rate: float) -> None:
        """One pass over the images in this order; nothing in it waits for the device."""
        self.losses.zero_()
        self.correct.zero_()
        for model in self.models:
            model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        for _, rows in self.groups:
            rows.learning_rate = learning_rate
        watch = _StepMeasures(self.measure)
        batches = order.split(self.runs[0].batch_size)
        for batch in batches:
            images, labels = self._batch(self.data.train_images, self.data.train_labels, batch)
            self.gradients.zero_()
            for index in self.active:
                logits = self.models[index](images)
                loss = cross_entropy(logits, labels)
                loss.backward()
                self.losses[index] += loss.detach()
                self.correct[index] += (logits.detach().argmax(1) == labels).sum()
            with torch.no_grad():
                self._update(watch)
        self.step += len(batches)
        self.seen, self.batches = len(order), len(batches)
        for run, layer, name, value in watch.results():
            self.measured.append(
                (self.runs[run].hash, self.epoch + 1, self.step, name, layer, value)
            )

    def _update(self, watch: _StepMeasures) -> None:
        watch.note(self.groups)
        for method, rows in self.groups:
            method.gradients_(rows)
            method.before_step_(rows)
        self.optimizer.step()
        watch.note(self.groups)
        for method, rows in self.groups:
            method.after_step_(rows)
        watch.note(self.groups)

    def _batch(self, images: Tensor, labels: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
        chosen = self.data.normalize(images.index_select(0, batch), self.dtype)
        return chosen.contiguous(memory_format=self.memory_format), labels.index_select(0, batch)

    @torch.no_grad()
    def _evaluate(self) -> tuple[Tensor, Tensor]:
        """Return test loss and accuracy of each run, both [runs]."""
        losses = torch.zeros_like(self.losses)
        correct = torch.zeros_like(self.correct)
        labels = self.data.test_labels
        for model in self.models:
            model.eval()
        for batch in torch.arange(len(labels), device=self.device).split(1000):
            images, answers = self._batch(self.data.test_images, labels, batch)
            for index in self.active:
                logits = self.models[index](images)
                losses[index] += cross_entropy(logits, answers, reduction="sum")
                correct[index] += (logits.argmax(1) == answers).sum()
        return losses / len(labels), correct / len(labels)

    @torch.no_grad()
    def _record(self, stage: int, stage_epoch: int, learning_rate: float, seconds: float) -> None:
        """Write a row for each run: the state after the epoch and its last rescaling."""
        test_loss, test_accuracy = self._evaluate()
        last = self.epoch == self.runs[0].epochs
        norms = self._norms() if self.epoch % 10 == 0 or last else None
        trained = stage_epoch > 0
        for index in list(self.active):
            loss = float(self.losses[index]) / self.batches if trained else math.nan
            diverged = not math.isfinite(float(test_loss[index])) or (
                trained and not math.isfinite(loss)
            )
            self.rows.append(
                self.runs[index].columns(self.device_name)
                | {
                    "stage": stage,
                    "stage_epoch": stage_epoch,
                    "epoch": self.epoch,
                    "step": self.step,
                    "lr": learning_rate,
                    "train_loss": loss,
                    "train_accuracy": float(self.correct[index]) / self.seen
                    if trained
                    else math.nan,
                    "test_loss": float(test_loss[index]),
                    "test_accuracy": float(test_accuracy[index]),
                    "weight_norms": norms[index][0] if norms else None,
                    "bias_norms": norms[index][1] if norms else None,
                    "seconds": seconds / len(self.runs),
                    "diverged": diverged,
                }
            )
            for name in self.measure:
                if name in EPOCH_MEASURES:
                    for layer, value in EPOCH_MEASURES[name](self.models[index]).items():
                        self.measured.append(
                            (self.runs[index].hash, self.epoch, self.step, name, layer, value)
                        )
            if diverged:
                self.active.remove(index)

    def _norms(self) -> dict[int, tuple[list[float], list[float]]]:
        found: dict[int, tuple[list[float], list[float]]] = {}
        index = 0
        for _, rows in self.groups:
            per_run = len(rows.owners)
            for start in range(0, len(rows.tensors), per_run):
                tensors = rows.tensors[start : start + per_run]
                norms = [float(t.norm()) for t in tensors]
                pairs = list(zip(norms, rows.owners, strict=True))
                found[index] = (
                    [norm for norm, (_, bias) in pairs if not bias],
                    [norm for norm, (_, bias) in pairs if bias],
                )
                index += 1
        return found

    # Checkpoints: between epochs, written beside and renamed, read without unpickling objects.

    def _save_checkpoint(self) -> None:
        state = {
            "identity": self._identity(),
            "torch": str(torch.__version__),  # a plain string: read back without unpickling
            "position": [self.epoch, self.step],
            "active": self.active,
            "parameters": self.parameters,
            "optimizer": self.optimizer.state_dict()["state"],
            "buffers": [dict(model.named_buffers()) for model in self.models],
            "memory": [rows.memory for _, rows in self.groups],
            "rows": self.rows,
            "measured": self.measured,
        }
        _save(state, self.checkpoint)

    @torch.no_grad()
    def _load_checkpoint(self) -> int:
        """Restore a checkpoint of these very runs, where there is one; return its epoch."""
        if not self.checkpoint.exists():
            return 0
        try:
            state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        except Exception as error:
            raise ValueError(
                f"the checkpoint {self.checkpoint} cannot be read (truncated?): delete it to start "
                "this job over"
            ) from error
        if state["identity"] != self._identity() or state["torch"] != str(torch.__version__):
            raise ValueError(
                f"the checkpoint {self.checkpoint} is from another configuration or another torch "
                f"({state['torch']}): delete it to start this job over"
            )
        self.epoch, self.step = state["position"]
        self.active = state["active"]
        self.parameters.copy_(state["parameters"])
        whole = self.optimizer.state_dict()
        self.optimizer.load_state_dict(whole | {"state": state["optimizer"]})
        for model, buffers in zip(self.models, state["buffers"], strict=True):
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
        for (_, rows), memory in zip(self.groups, state["memory"], strict=True):
            rows.memory.update(memory)
        self.rows, self.measured = state["rows"], [tuple(m) for m in state["measured"]]
        return self.epoch

    def _save_final_states(self) -> None:
        for run, model in zip(self.runs, self.models, strict=True):
            if isinstance(run.method, Vanilla) and run.stream.parent is None:
                _save(dict(model.state_dict()), _final_state(run, self.checkpoints))

    def clean_up(self) -> None:
        """Remove the checkpoint of a finished job."""
        self.checkpoint.unlink(missing_ok=True)


def _save(state: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(f".{os.getpid()}.tmp")
    torch.save(state, beside)
    os.replace(beside, path)


class _StepMeasures:
    """The norms around each step, gathered only where a step measure was asked for."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.functions: dict[str, Callable[..., Tensor]] = {
            name: STEP_MEASURES[name] for name in names if name in STEP_MEASURES
        }
        self.norms: list[Tensor] = []
        self.layers: list[str] = []
        self.maximum: dict[str, Tensor] = {}
        self.sum: dict[str, Tensor] = {}
        self.last: dict[str, Tensor] = {}
        self.steps = 0

    def note(self, groups: list[tuple[Method, Rows]]) -> None:
        if not self.functions:
            return
        self.layers = groups[0][1].weighted
        self.norms.append(torch.cat([rows.weight_norms() for _, rows in groups]))
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
