"""What is asked for, resolved: runs, which of them the records lack, and the jobs they make.

A run is one whole configuration, and its hash covers all of it: two different trainings never share
one. Whether a run is missing is decided by its hash and by what was measured, never by file times.
"""

from __future__ import annotations

import itertools
import numbers
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from swrlib import records
from swrlib.checks import check_whole, nearest
from swrlib.datasets import DATASETS, Dataset, load_dataset
from swrlib.engine.strengths import find_method
from swrlib.memory import free_memory
from swrlib.methods import Method, Vanilla
from swrlib.models import MODELS
from swrlib.papers import SWR as paper
from swrlib.population import Adam, Blueprint, Optimizer, make_optimizer
from swrlib.stacks import default_size, needed_memory
from swrlib.streams import Stream, make_stream

#: Raised by hand when a change alters results by more than the order of rounding (which differs
#: between processors, too): then all runs count as new.
NUMERICS = 1
DTYPES = (torch.float32, torch.float64, torch.bfloat16)
SPLITS = ("all", "selection")
#: Up to which batch size calls cost a processor so much that seeds side by side pay: a run of the
#: MLP takes half the time with 16 images, 0.6 to 0.7 of it with 64, about all of it with 256.
SMALL_BATCH = 64
OPTIMIZER_STATES = ("kept", "new")


@dataclass(frozen=True)
class Run:
    """One whole resolved configuration: everything that its results depend on."""

    dataset: str
    split: str
    model: str
    options: tuple[tuple[str, Any], ...]
    stream: Stream
    method: Method
    seed: int
    batch_size: int
    optimizer: Optimizer
    optimizer_state: str
    dtype: str
    tf32: bool

    @property
    def parent(self) -> Run | None:
        """The run whose final state this one starts from, where there is one (Fig. 1)."""
        stream = self.stream.parent
        if stream is None:
            return None
        return Run(**(self.__dict__ | {"stream": stream, "method": Vanilla()}))

    @property
    def epochs(self) -> int:
        """Epochs that the run itself trains, its parent's not among them."""
        return self.stream.trained

    def configuration(self) -> dict[str, Any]:
        """Return what the hash covers, as plain values."""
        return {
            "dataset": self.dataset,
            "split": self.split,
            "model": {"name": self.model} | dict(self.options),
            "stream": self.stream.configuration(),
            "method": self.method.configuration(),
            "seed": self.seed,
            "batch_size": self.batch_size,
            "optimizer": self.optimizer.configuration(),
            "optimizer_state": self.optimizer_state,
            "dtype": self.dtype,
            "tf32": self.tf32,
            "parent": self.parent.hash if self.parent else None,
            "numerics": NUMERICS,
        }

    @property
    def hash(self) -> str:
        """The run's name."""
        return records.run_hash(self.configuration())

    def columns(self, device: str) -> dict[str, Any]:
        """Return what stands in every row of its records."""
        method = self.method.configuration()
        known = {"name", "lam", "lam_features", "lam_classifier", "variant"}
        default = type(self.method)
        further = {
            # Options that are not the default mark a run that is not the paper's.
            **{k: v for k, v in method.items() if k not in known and v != getattr(default, k)},
            **{f"model_{k}": v for k, v in self.options},
            **self.stream.options(),
        }
        if self.optimizer != Adam():
            for key, value in self.optimizer.configuration().items():
                further["optimizer" if key == "name" else f"optimizer_{key}"] = value
        if self.batch_size != paper.batch_size:
            further["batch_size"] = self.batch_size
        return {
            "run": self.hash,
            "dataset": self.dataset,
            "split": self.split,
            "model": self.model,
            "stream": self.stream.name,
            "method": self.method.name,
            **self.method.columns(),
            "seed": self.seed,
            "optimizer_state": self.optimizer_state,
            "dtype": self.dtype,
            "device": device,
            "scale": self.stream.scale,
            "epochs": self.epochs,
            "parent": self.parent.hash if self.parent else None,
            **{k: v for k, v in further.items() if v is not None},
        }


def stream_name(stream: str | Stream) -> str:
    """Return a stream's name."""
    return stream if isinstance(stream, str) else stream.name


def resolve(
    *,
    dataset: str | os.PathLike[str] | Dataset,
    model: str,
    stream: str | Stream,
    methods: Iterable[str | Method],
    seeds: Iterable[int],
    scale: str = "quick",
    epochs: int | None = None,
    split: str = "all",
    results: str | os.PathLike[str] | None = None,
    dtype: torch.dtype = torch.float32,
    batch_size: int = paper.batch_size,
    optimizer: str | Optimizer = "adam",
    optimizer_state: str = "kept",
    options: Mapping[str, Any] | None = None,
    root: str | os.PathLike[str] | None = None,
    tf32: bool = False,
) -> list[Run]:
    """Resolve what is asked for into runs, one per method and seed; parameters as for `train`."""
    for what, value, known in (
        ("model", model, MODELS),
        ("split", split, SPLITS),
        ("optimizer state", optimizer_state, OPTIMIZER_STATES),
    ):
        if value not in known:
            raise ValueError(f"unknown {what} {value!r}: {nearest(value, known)}")
    check_whole("batch_size", batch_size)
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype}: {nearest(dtype, map(str, DTYPES))}")
    if isinstance(stream, str):
        stream = make_stream(stream, scale=scale, epochs=epochs)
    elif epochs is not None:
        raise ValueError("this stream has its epochs already: give epochs to make_stream instead")
    optimizer = make_optimizer(optimizer)
    # Known data sets go by their names, so that looking for missing runs needs no data.
    named = isinstance(dataset, str) and dataset in DATASETS
    name = str(dataset) if named else load_dataset(dataset, root=_path(root)).fingerprint
    given = os.fspath(dataset) if isinstance(dataset, str | os.PathLike) else None
    chosen = [
        find_method(m, name, model, stream.name, results, path=given) for m in _listed(methods)
    ]
    seeds = _checked_seeds(seeds)
    if not chosen or not seeds:
        raise ValueError("nothing to train: give at least one method and one of the seeds")
    return [
        Run(
            dataset=name,
            split=split,
            model=model,
            options=tuple(sorted((options or {}).items())),
            stream=stream,
            method=method,
            seed=seed,
            batch_size=batch_size,
            optimizer=optimizer,
            optimizer_state=optimizer_state,
            dtype=str(dtype).removeprefix("torch."),
            tf32=tf32,
        )
        for seed in seeds
        for method in chosen
    ]


def _checked_seeds(seeds: int | Iterable[int]) -> list[int]:
    seeds = [seeds] if isinstance(seeds, int) else list(seeds)
    for seed in seeds:
        whole = isinstance(seed, numbers.Integral) and not isinstance(seed, bool)
        if not whole or not 0 <= seed < 2**31:
            raise ValueError(f"the seed {seed!r} must be a whole number from 0 to 2147483647")
    return [int(seed) for seed in seeds]


def missing_jobs(jobs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the names of those jobs (keywords of `train`, by name) that still lack records."""
    lacking = []
    for name, job in jobs.items():
        measure = tuple(job.get("measure", ()))
        wanted = {key: value for key, value in job.items() if key != "measure"}
        try:
            runs = resolve(**wanted)
        except ValueError:
            lacking.append(name)  # its λ is still to be selected, or it will say what is wrong
        else:
            if missing(runs, Path(job["results"]), measure):
                lacking.append(name)
    return lacking


def missing(runs: Sequence[Run], results: Path, measure: tuple[str, ...] = ()) -> list[Run]:
    """Return the runs that the records lack; by hash and measures alone, never by file times."""
    by_hash = {run.hash: run for run in runs}
    if results.exists() and not results.is_dir():
        raise ValueError(f"the results {os.fspath(results)!r} must be a folder, but are a file")
    if not results.is_dir():
        return list(by_hash.values())
    lacking = set(records.missing_runs(by_hash, results, measures=measure))
    return [run for name, run in by_hash.items() if name in lacking]


def plan(
    runs: Sequence[Run], data: Dataset, device: torch.device, asked: int | None
) -> list[list[Run]]:
    """Cut runs into jobs of as many runs as were asked for, or as are fastest, and fit.

    Raises
    ------
    ValueError
        If what was asked for is no whole number from 1 on.
    MemoryError
        If not even one run fits into the memory.
    """
    if asked is not None:
        check_whole("stack", asked)
    first = runs[0]
    model = Blueprint(first.model, dict(first.options), data).draw(first.seed, "weights")
    jobs = cut_into_jobs(runs, asked or default_size(model, device), device)
    most = max(map(len, jobs))
    batch = (min(first.batch_size, len(data.train_images)), *data.shape)
    needed = needed_memory(model, batch, getattr(torch, first.dtype))
    free = free_memory(device)
    fits = free // needed
    if fits < 1:
        raise MemoryError(
            f"one run of {first.model} with batches of {first.batch_size} needs about "
            f"{needed / 2**20:.0f} MiB, but {max(free, 0) / 2**20:.0f} MiB of memory are free"
        )
    if fits >= most:
        return jobs
    jobs = cut_into_jobs(runs, fits, device)
    warnings.warn(
        f"{most} runs at once need about {most * needed / 2**20:.0f} MiB, but "
        f"{free / 2**20:.0f} MiB of memory are free: {max(map(len, jobs))} train at once",
        stacklevel=3,
    )
    return jobs


def cut_into_jobs(runs: Sequence[Run], most: int, device: torch.device) -> list[list[Run]]:
    """Cut runs into jobs, even in number and ``most`` runs at most.

    A job has one stream, and the same methods for each of its seeds. Several seeds lie side by side
    where that pays: on a GPU, and with small batches on a processor, where the runs of one seed
    leave a step to the cost of its calls.
    """
    pays = device.type == "cuda" or all(run.batch_size <= SMALL_BATCH for run in runs)
    alike: dict[tuple[object, ...], list[list[Run]]] = {}
    for (stream, seed), members in itertools.groupby(runs, lambda run: (run.stream, run.seed)):
        group = list(members)
        together = pays and len(group) <= most
        key = (stream, *(run.method for run in group), None if together else seed)
        alike.setdefault(key, []).append(group)
    jobs = []
    for groups in alike.values():
        if len(groups[0]) > most:
            jobs += _even(groups[0], most)
        else:
            parts = _even(groups, most // len(groups[0]))
            jobs += [[run for group in part for run in group] for part in parts]
    return jobs


def _even(items: list[Any], most: int) -> list[list[Any]]:
    """Cut a list into parts, even in number and ``most`` at most."""
    count = -(-len(items) // most)
    cuts = [len(items) * i // count for i in range(count + 1)]
    return [items[start:end] for start, end in itertools.pairwise(cuts)]


def _listed(methods: str | Method | Iterable[str | Method]) -> list[str | Method]:
    return [methods] if isinstance(methods, str | Method) else list(methods)


def _path(path: str | os.PathLike[str] | None) -> Path | None:
    return None if path is None else Path(path)
