"""Trains the runs of one data set, model and stream that the records lack, and keeps them.

`train` has what is asked for resolved into runs (`swrlib.engine.jobs`), those that are missing cut
into jobs, and lets a `swrlib.engine.loop.Job` train each.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from swrlib import paper, records
from swrlib.datasets import Dataset, load_dataset
from swrlib.engine.checkpoints import default_folder, locked
from swrlib.engine.devices import arithmetic, find_device
from swrlib.engine.jobs import Run, cut_into_jobs, missing, plan, resolve, stream_name
from swrlib.engine.loop import Job, Setting, Stopped
from swrlib.engine.progress import Progress
from swrlib.files import make_folder
from swrlib.measures import Measure, checked_measures
from swrlib.methods import Method
from swrlib.population import Optimizer
from swrlib.provenance import provenance
from swrlib.streams import Stream, held_out


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
    if results is None and (measures or stop):
        kept = "what is measured" if measures else "what is stopped"
        raise ValueError(f"{kept} is kept in a folder of records: name one with results=")
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
        if wanted := missing(runs, folder, names):
            data = load_dataset(dataset, root=None if root is None else Path(root))
            data = held_out(data) if split == "selection" else data
            jobs = plan(wanted, data, place, stack)
            make_folder(folder)  # said now, not when the first job has ended
            states = default_folder(folder) if checkpoints is None else Path(checkpoints)
            setting = Setting(data.to(place), place, folder, measures, states, graphs, stop)
            what = f"{model} on {data.name}, {stream_name(stream)}"
            total = sum(run.epochs for run in wanted)
            with Progress(total, what, progress) as bar, arithmetic(place, tf32):
                for job in jobs:
                    _train_job(job, setting, bar)
        return records.load_records(folder, measures=names, run=[run.hash for run in runs])


def _train_job(runs: Sequence[Run], setting: Setting, bar: Progress) -> None:
    """Train runs that lie side by side, and record them."""
    with _locked(runs, setting):
        # Another process may have trained some of them meanwhile, and seeds differ in the others.
        lacking = missing(runs, setting.results, setting.measured)
        for alike in cut_into_jobs(lacking, len(runs), setting.device):
            about = provenance()  # of the code as it is now, not when the job has ended
            _train_parents(alike, setting, bar, about)
            job = Job(alike, setting)
            job.train(bar)
            _record(job, alike, about)
            job.checkpoint.remove()


def _train_parents(
    runs: Sequence[Run], setting: Setting, bar: Progress, about: Mapping[str, Any]
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
            _record(job, unrecorded, about)
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
        provenance=dict(about) | job.place,
        configurations={run.hash: run.configuration() for run in runs},
        measured=job.setting.measured,
    )
