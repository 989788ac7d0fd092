"""Trains the runs of one data set, model and stream that the records lack, and keeps them.

`train` has what is asked for resolved into runs (`swrlib.engine.runs`), those that are missing cut
into jobs (`swrlib.engine.jobs`), and lets a `swrlib.engine.loop.Job` train each.
"""

from __future__ import annotations

import functools
import inspect
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pandas as pd
import torch
from torch import nn

from swrlib import records
from swrlib.checks import listed, nearest, warn
from swrlib.datasets import Dataset, load_dataset
from swrlib.engine.checkpoints import default_folder, locked
from swrlib.engine.devices import arithmetic, find_device
from swrlib.engine.jobs import cut_into_jobs, missing, plan
from swrlib.engine.loop import Job, Setting, Stopped
from swrlib.engine.progress import Progress
from swrlib.engine.runs import Request, Run
from swrlib.files import make_folder
from swrlib.measures import Measure, checked_measures
from swrlib.population import Blueprint
from swrlib.provenance import provenance
from swrlib.streams import held_out

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")


def takes_parameters_of(kind: Callable[P, T]) -> Callable[[Callable[[T], R]], Callable[P, R]]:
    """Let a function of one object take that object's parameters, and document them."""
    signature = inspect.signature(kind)

    def decorate(function: Callable[[T], R]) -> Callable[P, R]:
        @functools.wraps(function)
        def called(*args: P.args, **keywords: P.kwargs) -> R:
            for name in keywords:
                if name not in signature.parameters:
                    near = nearest(name, signature.parameters)
                    raise TypeError(f"{function.__name__}() takes no {name!r}: {near}")
            return function(kind(*args, **keywords))

        own = inspect.signature(function).return_annotation
        called.__signature__ = signature.replace(return_annotation=own)  # type: ignore[attr-defined]
        does, returns, rest = inspect.cleandoc(function.__doc__ or "").partition("Returns\n")
        _, title, parameters = inspect.cleandoc(kind.__doc__ or "").partition("Parameters\n")
        called.__doc__ = f"{does}{title}{parameters}\n\n{returns}{rest}"
        return called

    return decorate


@takes_parameters_of(Request)
def train(request: Request) -> pd.DataFrame:
    """Train every method with every seed, but for what the records hold already.

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
    measures = checked_measures(request.measure)
    if request.results is None and (measures or request.stop):
        kept = "what is measured" if measures else "what is stopped"
        raise ValueError(f"{kept} is kept in a folder of records: name one with results=")
    device = find_device(request.device, request.tf32)
    runs = request.runs()
    names = tuple(measure.name for measure in measures)
    with tempfile.TemporaryDirectory() as nowhere:
        folder = Path(nowhere if request.results is None else request.results)
        if wanted := missing(runs, folder, names):
            _train_runs(wanted, request, device, folder, measures)
        return records.load_records(folder, measures=names, run=[run.hash for run in runs])


def _train_runs(
    runs: Sequence[Run],
    request: Request,
    device: torch.device,
    folder: Path,
    measures: tuple[Measure, ...],
) -> None:
    """Cut runs into jobs and train these, one after another."""
    data = load_dataset(request.dataset, root=request.root)
    data = held_out(data) if request.split == "selection" else data
    first = runs[0]
    model = Blueprint(first.model, dict(first.options), data).draw(first.seed, "weights")
    _say_what_is_lost(first, data, model)
    jobs = plan(runs, model, data, device, request.stack)
    if checks := [measure.check for measure in measures if measure.check]:  # on two images
        images, dtype = data.train_images[:2].to(device), getattr(torch, first.dtype)
        images, labels = data.normalize(images, dtype), data.train_labels[:2].to(device)
        for check in checks:
            check(model.to(device, dtype), images, labels)
    make_folder(folder)  # said now, not when the first job has ended
    if request.results is None:
        states = folder
    elif request.checkpoints is None:
        states = default_folder(folder)
    else:
        states = Path(request.checkpoints)
    setting = Setting(
        data.to(device), device, folder, measures, states, request.graphs, request.stop
    )
    what = f"{request.model} on {data.name}, {runs[0].stream.name}"
    total = sum(run.epochs for run in runs)
    with Progress(total, what, request.progress) as bar, arithmetic(device, request.tf32):
        for job in jobs:
            _train_job(job, setting, bar)


def _say_what_is_lost(run: Run, data: Dataset, model: nn.Module) -> None:
    """Warn of convolutions on permuted pixels: it can be wanted, and is rarely meant."""
    labels = data.train_labels.cpu()
    stages = run.stream.stages(len(labels), run.seed, labels)
    convolutions = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.conv._ConvNd) and math.prod(module.kernel_size) > 1
    ]
    if convolutions and any(stage.pixels is not None for stage in stages):
        warn(
            f"the stream {run.stream.name} permutes the pixels of all images, and the model "
            f"{run.model} has convolutions ({listed(convolutions)}): these look for patterns of "
            "neighbouring pixels, which the permutation takes apart; a fully connected network, as "
            "the model mlp, loses nothing by it"
        )


def _train_job(runs: Sequence[Run], setting: Setting, bar: Progress) -> None:
    """Train runs that lie side by side, and record them."""
    with _locked(runs, setting):
        # Another process may have trained some of them meanwhile, and seeds differ in the others.
        lacking = missing(runs, setting.results, setting.measured)
        for alike in cut_into_jobs(lacking, len(runs), side_by_side=True):
            origin = provenance()  # of the code as it is now, not when the job has ended
            _train_parents(alike, setting, bar, origin)
            job = Job(alike, setting)
            job.train(bar)
            _record(job, alike, origin)
            job.checkpoint.remove()


def _train_parents(
    runs: Sequence[Run], setting: Setting, bar: Progress, origin: Mapping[str, Any]
) -> None:
    """Train what these runs start from, where its record or its final state is missing."""
    parents = list({run.parent.hash: run.parent for run in runs if run.parent}.values())
    with _locked(parents, setting):
        unrecorded = missing(parents, setting.results)
        lost = [run for run in parents if not setting.final_state(run).exists()]
        if lacking := [run for run in parents if run in unrecorded or run in lost]:
            job = Job(lacking, setting)
            job.train(bar.silent())
            job.save_final_states()
            _record(job, unrecorded, origin)
            job.checkpoint.remove()


def _locked(runs: Sequence[Run], setting: Setting) -> AbstractContextManager[None]:
    def give_up() -> None:
        if setting.stop():
            raise Stopped("stopped while another process trains the same run")

    return locked([run.hash for run in runs], setting.checkpoints, give_up)


def _record(job: Job, runs: Sequence[Run], origin: Mapping[str, Any]) -> None:
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
        provenance=dict(origin) | job.place,
        configurations={run.hash: run.configuration() for run in runs},
        measured=job.setting.measured,
    )
