"""Which runs the records lack, and the jobs that they make.

Whether a run is missing is decided by its hash and by what was measured, never by file times.
"""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from swrlib import records
from swrlib.checks import check_whole
from swrlib.datasets import Dataset
from swrlib.engine.runs import Run, resolve
from swrlib.memory import free_memory
from swrlib.stacks import default_size, needed_memory

#: Up to which batch size calls cost a processor so much that seeds side by side pay: a run of the
#: MLP takes half the time with 16 images, 0.6 to 0.7 of it with 64, about all of it with 256.
SMALL_BATCH = 64


def missing_jobs(jobs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the names of those jobs (keywords of `train`, by name) that still lack records."""
    lacking: set[str] = set()
    asked: dict[tuple[Path, tuple[str, ...]], dict[str, list[Run]]] = {}
    for name, job in jobs.items():
        measure = tuple(job.get("measure", ()))
        try:
            runs = resolve(**job)
        except ValueError:
            lacking.add(name)  # its λ is still to be selected, or it will say what is wrong
        else:
            asked.setdefault((Path(job["results"]), measure), {})[name] = runs
    for (results, measure), named in asked.items():  # each folder is looked through once
        wanted_runs = list(itertools.chain(*named.values()))
        gone = {run.hash for run in missing(wanted_runs, results, measure)}
        lacking |= {name for name, runs in named.items() if any(run.hash in gone for run in runs)}
    return [name for name in jobs if name in lacking]


def missing(runs: Sequence[Run], results: Path, measure: tuple[str, ...] = ()) -> list[Run]:
    """Return the runs that the records lack; by hash and measures alone, never by file times."""
    by_hash = {run.hash: run for run in runs}
    if results.exists() and not results.is_dir():
        raise ValueError(f"the results {os.fspath(results)!r} must be a folder, but are a file")
    return [by_hash[name] for name in records.missing_runs(by_hash, results, measures=measure)]


def plan(
    runs: Sequence[Run],
    model: nn.Module,
    data: Dataset,
    device: torch.device,
    asked: int | None,
) -> list[list[Run]]:
    """Cut a stream's runs into jobs of as many as were asked for, or as are fastest, and fit.

    Parameters
    ----------
    runs : sequence of Run
        Of one network.
    model : torch.nn.Module
        That network, for its sizes.
    data : Dataset
    device : torch.device
    asked : int, optional
        How many runs of a job were asked for.

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
    images = largest_batch(first, data)
    side_by_side = device.type == "cuda" or images <= SMALL_BATCH
    jobs = cut_into_jobs(runs, asked or default_size(model, device), side_by_side)
    most = max(map(len, jobs))
    batch = (min(images, len(data.train_images)), *data.shape)
    needed = needed_memory(model, batch, getattr(torch, first.dtype))
    free = free_memory(device)
    fits = free // needed
    if fits < 1:
        raise MemoryError(
            f"one run of {first.model} with batches of {images} needs about "
            f"{needed / 2**20:.0f} MiB, but {max(free, 0) / 2**20:.0f} MiB of memory are free"
        )
    if fits >= most:
        return jobs
    jobs = cut_into_jobs(runs, fits, side_by_side)
    warnings.warn(
        f"{most} runs at once need about {most * needed / 2**20:.0f} MiB, but "
        f"{free / 2**20:.0f} MiB of memory are free: {max(map(len, jobs))} train at once",
        stacklevel=5,  # the caller of `train`
    )
    return jobs


def cut_into_jobs(runs: Sequence[Run], most: int, side_by_side: bool) -> list[list[Run]]:
    """Cut runs into jobs, even in number and ``most`` runs at most.

    A job has one stream, and the same methods for each of its seeds. Several seeds lie side by side
    where that pays: on a GPU, and with small batches on a processor, where the runs of one seed
    leave a step to the cost of its calls.
    """
    alike: dict[tuple[object, ...], list[list[Run]]] = {}
    for (stream, seed), members in itertools.groupby(runs, lambda run: (run.stream, run.seed)):
        group = list(members)
        together = side_by_side and len(group) <= most
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


def largest_batch(run: Run, data: Dataset) -> int:
    """Return the largest batch size of a run's stages, which may have their own.

    It is the same for all seeds of a stream, whose stages have the same sizes.
    """
    labels = data.train_labels.cpu()
    stages = run.stream.stages(len(labels), run.seed, labels)
    return max(stage.batch_size or run.batch_size for stage in stages)


def _even(items: list[Any], most: int) -> list[list[Any]]:
    """Cut a list into parts, even in number and ``most`` at most."""
    count = -(-len(items) // most)
    cuts = [len(items) * i // count for i in range(count + 1)]
    return [items[start:end] for start, end in itertools.pairwise(cuts)]
