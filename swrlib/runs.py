"""What is asked for, resolved: runs, which of them the records lack, and the jobs they make.

A run is one whole configuration, and its hash covers all of it: two different trainings never share
one. Whether a run is missing is decided by its hash and by what was measured, never by file times.
"""

from __future__ import annotations

import itertools
import numbers
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from swrlib import paper, records
from swrlib.checks import check_whole, nearest
from swrlib.datasets import DATASETS, Dataset, load_dataset
from swrlib.methods import METHODS, Method, Vanilla, make_method
from swrlib.models import MODELS
from swrlib.streams import Stream, make_stream

#: Raised by hand when a change alters results by more than the order of rounding (which differs
#: between processors, too): then all runs count as new.
NUMERICS = 1
DTYPES = (torch.float32, torch.float64, torch.bfloat16)
SPLITS = ("all", "selection")
#: Where a λ for a part of a data set is selected: on the whole.
SELECTED_ON = {"mnist-5k": "mnist"}
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
        return sum(self.stream.epochs[1 if self.parent else 0 :])

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
            "optimizer": {"name": "adam", "betas": [0.9, 0.999], "eps": 1e-8},
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
            **{k: getattr(self.stream, k) for k in ("ratio", "reading", "biases")},
        }
        if self.batch_size != paper.BATCH_SIZE:
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
    batch_size: int = paper.BATCH_SIZE,
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
    # Known data sets go by their names, so that looking for missing runs needs no data.
    named = isinstance(dataset, str) and dataset in DATASETS
    name = str(dataset) if named else load_dataset(dataset, root=_path(root)).fingerprint
    given = os.fspath(dataset) if isinstance(dataset, str | os.PathLike) else None
    chosen = [_method(m, name, model, stream.name, results, given) for m in _listed(methods)]
    seeds = [seeds] if isinstance(seeds, int) else list(seeds)
    for seed in seeds:
        whole = isinstance(seed, numbers.Integral) and not isinstance(seed, bool)
        if not whole or not 0 <= seed < 2**31:
            raise ValueError(f"the seed {seed!r} must be a whole number from 0 to 2147483647")
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
            seed=int(seed),
            batch_size=batch_size,
            optimizer_state=optimizer_state,
            dtype=str(dtype).removeprefix("torch."),
            tf32=tf32,
        )
        for seed in seeds
        for method in chosen
    ]


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


def cut_into_jobs(runs: Sequence[Run], most: int) -> list[list[Run]]:
    """Cut runs into jobs: runs of one seed and stream, even in number and ``most`` at most."""
    jobs = []
    for _, members in itertools.groupby(runs, lambda run: (run.stream, run.seed)):
        group = list(members)
        count = -(-len(group) // most)
        cuts = [len(group) * i // count for i in range(count + 1)]
        jobs += [group[start:end] for start, end in itertools.pairwise(cuts)]
    return jobs


def _listed(methods: str | Method | Iterable[str | Method]) -> list[str | Method]:
    return [methods] if isinstance(methods, str | Method) else list(methods)


def _path(path: str | os.PathLike[str] | None) -> Path | None:
    return None if path is None else Path(path)


def _method(
    given: str | Method,
    dataset: str,
    model: str,
    stream: str,
    results: str | os.PathLike[str] | None,
    path: str | None,
) -> Method:
    if isinstance(given, Method):
        return given
    name, _, values = given.partition(":")
    if values:
        try:
            numbers = tuple(float(value) for value in values.split(","))
        except ValueError as error:
            raise ValueError(f"cannot read λ in {given!r}: write it as {name}:1e-3") from error
        return make_method(name, numbers[0] if len(numbers) == 1 else numbers)  # type: ignore[arg-type]
    if name not in METHODS or "lam" not in METHODS[name].__dataclass_fields__:
        return make_method(name)
    if name == "adamw":
        selected = selected_lambda(name, dataset, model, stream, results, path=path)
        return make_method(name, selected)
    lam = paper.published_lambda(name, dataset, model, stream)
    if lam is None:
        listed = ", ".join(" ".join(cell) for cell in paper.published_settings(name)) or "nothing"
        raise ValueError(
            f"the paper prints no λ of {name} for {dataset} {model} {stream}: give one as "
            f"'{name}:1e-3' (published: {listed})"
        )
    return make_method(name, lam)


def selected_lambda(
    method: str,
    dataset: str,
    model: str,
    stream: str,
    results: str | os.PathLike[str] | None = None,
    *,
    path: str | None = None,
) -> float:
    """Return the λ that was best on held-out training data, from the records of the selection.

    `dataset` is a fingerprint; the command line knows a folder of images by its `path`.

    Raises
    ------
    ValueError
        If there are no such records; the command that makes them is named.
    """
    measured = SELECTED_ON.get(dataset, dataset)
    wanted = {
        "split": "selection",
        "method": method,
        "dataset": measured,
        "model": model,
        "stream": stream,
    }
    for folder in (results, None):  # a folder of one's own first, then the project's records
        try:
            found = records.load_records(folder, **wanted)
        except FileNotFoundError:
            continue
        final = found.sort_values("epoch").groupby(["lam", "seed"])["test_accuracy"].last()
        over_seeds = final.groupby("lam").agg(["mean", "count"])
        over_seeds = over_seeds[over_seeds["count"] > 1]
        if len(over_seeds):
            return float(over_seeds["mean"].idxmax())
    named = measured if measured in DATASETS else path or "FOLDER"
    kept = f" --results {shlex.quote(os.fspath(results))}" if results else ""
    grid = ",".join(f"{method}:{lam:g}" for lam in paper.ADAMW_GRID).replace(",", " ")
    raise ValueError(
        f"λ of {method} for {measured} {model} {stream} has not been selected yet; make the "
        f"records: python -m swrlib train --dataset {shlex.quote(named)} --model {model} --stream "
        f"{stream} --split selection --seeds 0 1 --scale paper{kept} --methods {grid}"
    )
