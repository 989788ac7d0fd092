"""The ways of training that are timed, and how they are timed beside each other.

Every way sits in processes of its own, which wait while another one is measured. Each repetition
goes once through all ways of a table and model, so that a busy spell of the machine meets all
alike; what is told are medians over repetitions, and ratios within each.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.loops import METHODS, WITHOUT_AUTOGRAD, Measured
from swrlib.files import replacing

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
#: As the workflow sets it for its jobs: freed memory is kept, in large pages.
ALLOCATOR = {
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
ALL = tuple(METHODS)
#: What a process measured, and the memory that it took beyond its start, in MiB.
Answer = tuple[Measured, float]


@dataclass(frozen=True)
class Way:
    """A way of training that is timed.

    Attributes
    ----------
    table : str
        Where it belongs: "steps", "throughput", "stack", "products" or "measures".
    name, model : str
    loop : str
        A class of `benchmarks.loops`, with its options.
    processes, threads : int
        How many processes run side by side, and the threads of each.
    tuned : bool
        Whether the allocator is set up as the workflow does it.
    """

    table: str
    name: str
    model: str
    loop: str
    options: dict[str, Any] = field(default_factory=dict)
    processes: int = 1
    threads: int = 1
    tuned: bool = False


def ways(quick: bool = False) -> list[Way]:
    """Return all that is timed."""
    timed = []
    # Some tenths of a second each: shorter ones would mostly time the machine's hiccups.
    steps = {"mlp": 200, "cnn": 16, "cnn-bn": 16, "vgg16": 1}
    if quick:
        steps = {"mlp": 2, "cnn": 1}
    for model, count in steps.items():
        # All methods in one process, some steps each in turn: their times meet the same moments.
        options = {"model": model, "methods": (*ALL, *WITHOUT_AUTOGRAD), "steps": count}
        timed.append(Way("steps", "plain", model, "Plain", options))
        options = {"model": model, "methods": ("swr",), "steps": count}
        timed.append(Way("steps", "swr in the engine", model, "Engine", options))
    ten = {"model": "mlp", "methods": ("swr",), "steps": max(2, steps["mlp"] // 10), "runs": 10}
    timed.append(Way("steps", "swr in a stack of 10", "mlp", "Engine", ten))

    every_core = {"processes": CORES, "threads": 1}
    one_process = {"processes": 1, "threads": CORES}
    for model in ("mlp", "cnn"):
        plain = {"model": model, "methods": ALL, "steps": max(1, steps[model] // 4)}
        several = {**plain, "steps": max(1, steps[model] // 8)}
        for workers in (0, 2):
            options = {**several, "workers": workers}
            name = f"release, {workers} workers"
            timed.append(Way("throughput", name, model, "Release", options, **one_process))
        default = {**several, "channels_last": False}
        timed += [
            Way("throughput", "plain, all threads", model, "Plain", default, **one_process),
            Way("throughput", "plain, a process per core", model, "Plain", default, **every_core),
        ]
        engine = {**several, "runs": 20}
        if model == "cnn":  # one run after another
            engine = {**plain, "runs": len(ALL), "stack": 1}
            last = {**several, "channels_last": True}
            timed.append(
                Way("throughput", "plain, channels last", model, "Plain", last, **every_core)
            )
        timed.append(Way("throughput", "engine", model, "Engine", engine, tuned=True, **every_core))
        half = {**engine, "dtype": "bfloat16"}
        timed.append(
            Way("throughput", "engine, bfloat16", model, "Engine", half, tuned=True, **every_core)
        )
    for runs in (1, 10) if quick else (1, 2, 5, 10, 20, 50, 100):
        count = max(2, steps["mlp"] // (5 if runs < 10 else 20))
        options = {"model": "mlp", "methods": ALL, "steps": count, "runs": runs}
        timed.append(Way("stack", str(runs), "mlp", "Engine", options, tuned=True))
    timed.append(Way("products", "matrix products", "", "Products", {}, **every_core))
    for name in ("hessian-start", "spectrum-start"):
        timed.append(Way("measures", name, "mlp", "Measures", {"measure": name}))
    return timed


def serve(way: Way, connection: Connection) -> None:
    """Make a loop, and run it whenever asked: the life of a process."""
    import torch

    from benchmarks import loops

    torch.set_num_threads(way.threads)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    options = dict(way.options)
    if "dtype" in options:
        options["dtype"] = getattr(torch, options["dtype"])
    loop = getattr(loops, way.loop)(**options)
    loop()  # the first steps also set up
    connection.send("ready")
    while connection.recv():
        measured = loop()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        connection.send((measured, (peak - before) / 1024))


@contextmanager
def running(way: Way) -> Iterator[Callable[[], list[Answer]]]:
    """Start a way's processes and give what makes them all measure at once."""
    context = multiprocessing.get_context("spawn")
    changed = ALLOCATOR if way.tuned else {}
    changed = changed | {"OMP_NUM_THREADS": str(way.threads)}
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)  # read when a process starts
    pairs = [context.Pipe() for _ in range(way.processes)]
    processes = [context.Process(target=serve, args=(way, theirs)) for _, theirs in pairs]
    for process, (_, theirs) in zip(processes, pairs, strict=True):
        process.start()
        theirs.close()  # so that the end of a process is noticed here
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
    ours = [mine for mine, _ in pairs]
    waiting = list(ours)
    try:

        def measure() -> list[Answer]:
            while waiting:
                waiting.pop().recv()  # until it is ready
            for connection in ours:
                connection.send(True)
            return [connection.recv() for connection in ours]

        yield measure
    finally:
        for connection, process in zip(ours, processes, strict=True):
            with suppress(BrokenPipeError):
                connection.send(False)
            process.join()


def measure(chosen: Sequence[Way], repeats: int) -> list[dict[str, Any]]:
    """Measure all ways, so many times, those of a table and model in turn; a row each time."""
    from tqdm import tqdm

    rows = []
    with tqdm(total=repeats * len(chosen), desc="measurements") as bar:
        for _, together in itertools.groupby(chosen, lambda way: (way.table, way.model)):
            with ExitStack() as stack:
                started = [(way, stack.enter_context(running(way))) for way in together]
                for _, ready in started:
                    ready()  # all are set up before the first is timed
                for repeat, (way, ask) in itertools.product(range(repeats), started):
                    rows += _rows(way, repeat, ask())
                    bar.update()
    return rows


def _rows(way: Way, repeat: int, answers: list[Answer]) -> list[dict[str, Any]]:
    """Return a row, or one for each method where they were timed apart."""
    common = {
        "table": way.table,
        "name": way.name,
        "model": way.model,
        "processes": way.processes,
        "threads": way.threads,
        "runs": way.options.get("runs", 1),
        "repeat": repeat,
        "mebibytes": max(memory for _, memory in answers),
    }
    measurements = [measured for measured, _ in answers]
    if way.table == "steps" and measurements[0].methods:
        return [
            common | {"name": method, "milliseconds": 1e3 * seconds, "rescaling": part / seconds}
            for method, (seconds, part) in measurements[0].methods.items()
        ]
    seconds = [measured.seconds for measured in measurements]
    # Of a run's step, on the whole machine.
    milliseconds = 1e3 * max(seconds) / sum(measured.run_steps for measured in measurements)
    rescaling = sum(measured.rescaling for measured in measurements) / sum(seconds)
    return [common | {"milliseconds": milliseconds, "rescaling": rescaling}]


def write(content: dict[str, Any], file: Path) -> None:
    """Write all tables, whole or not at all."""
    with replacing(file) as opened:
        opened.write((json.dumps(content, indent=1) + "\n").encode())
