"""What training costs: the committed measurements and their ratios.

`python -m benchmarks` measures and writes them, `python -m benchmarks.gpu` those on a GPU.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from swrlib.papers import SWR as paper
from swrlib.records import results_folder

T = TypeVar("T")
#: Where a folder of records holds what was timed.
BENCHMARKS = "_benchmarks"
COLUMNS = ("table", "name", "model", "processes", "threads", "runs", "repeat", "milliseconds")


def load_cost(path: str | os.PathLike[str] | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the measurements, and what they were made on.

    Parameters
    ----------
    path : path, optional
        What ``python -m benchmarks --output`` wrote; default: the project's own, in
        ``results/_benchmarks/cost.json`` (or ``results/cost.json``, where it lay before).

    Returns
    -------
    tuple of DataFrame
        A row per way of training and repetition: `COLUMNS`, ``rescaling`` (the share of the time
        within SWR) and ``mebibytes`` (what a process needed beyond its start). ``milliseconds`` are
        of one run's step on the whole machine; ``attrs`` name the project's own file. Then a row
        per table: commit, versions, processor.

    Raises
    ------
    FileNotFoundError
        If nothing was measured; the command that does it is named.
    ValueError
        If the file is no such table.
    """

    def tables(content: Mapping[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
        rows = [row for table in content.values() for row in table["rows"]]
        machine = {name: table["machine"] for name, table in content.items()}
        return pd.DataFrame(rows), pd.DataFrame(machine).T

    file = Path(path or results_folder() / BENCHMARKS / "cost.json")
    frame, machine = _read(file, "make bench", tables)
    if not len(frame) or not set(COLUMNS) <= set(frame.columns):
        raise ValueError(f"{file} lacks columns of a table of measurements: `make bench` makes one")
    if path is None:
        frame.attrs["file"] = f"{BENCHMARKS}/{file.name}"
    return frame, machine


def measured_on(frame: pd.DataFrame, machine: pd.DataFrame) -> pd.DataFrame:
    """Return what measurements were made on, and how often each was: a column a table.

    Parameters
    ----------
    frame, machine : DataFrame
        What `load_cost` returned.
    """
    facts = ["processor", "cores", "vector instructions", "torch", "commit", "dirty", "date"]
    short = {name: machine[name].str[:10] for name in ("commit", "date")}
    repetitions = frame.groupby("table")["repeat"].nunique()
    return machine.assign(**short, repetitions=repetitions)[[*facts, "repetitions"]].T


def measure_times() -> pd.Series:
    """Return the median seconds of each measure that was timed, by name; empty where none was.

    On one core, of the network 128-64-32 and as a training takes it.
    """
    try:
        frame, _ = load_cost()
    except FileNotFoundError:
        return pd.Series(dtype=float)
    timed = frame[frame["table"] == "measures"]
    return timed.groupby("name")["milliseconds"].median() / 1e3


def _read(file: Path, command: str, made: Callable[[Any], T]) -> T:
    """Return what is made of a file's content; if there is none, name the command that makes it."""
    if not file.is_file():
        raise FileNotFoundError(f"there are no measurements in {file}: `{command}` makes them")
    try:
        return made(json.loads(file.read_text()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"{file} is no table of measurements: `{command}` makes one"
        raise ValueError(message) from error


@dataclass(frozen=True)
class OnGPU:
    """What ``python -m benchmarks.gpu`` measured; a table is empty where its part was not run.

    Attributes
    ----------
    machine : DataFrame
        A row per part: device, versions, commit, date, command.
    equality : DataFrame
        ``model``, ``difference``: the largest one between the training losses of float64 trainings
        on the device and on a processor; records hold them in float32.
    stacks : DataFrame
        ``model``, ``runs`` (trained at once), ``captured`` (the steps), ``milliseconds`` (of one
        run's step), in float32.
    precision : DataFrame
        ``model``, ``arithmetic``, ``milliseconds``, with 20 runs at once and captured steps.
    vgg16 : DataFrame
        ``arithmetic``, ``images a second``, ``teraflops``, ``share of the measured matrix rate``,
        ``SWR over vanilla`` (the ratio of an epoch's time).
    """

    machine: pd.DataFrame
    equality: pd.DataFrame
    stacks: pd.DataFrame
    precision: pd.DataFrame
    vgg16: pd.DataFrame

    @property
    def attrs(self) -> dict[Any, Any]:
        """Name the project's file, where it is from there, as `load_cost`'s table does."""
        return self.machine.attrs

    def where(self) -> str:
        """Say on what the parts were run, with what and when; a dash where nothing was."""
        if not len(self.machine):
            return "–"
        parts = self.machine.assign(date=self.machine["date"].str[:10])
        parts["commit"] = parts["commit"].fillna("unknown").str[:10]
        text = "{} on one {}, {} (torch {}, commit {})"
        groups = parts.groupby(["device", "date", "torch", "commit"], sort=False)
        return "; ".join(text.format(", ".join(rows.index), *facts) for facts, rows in groups)

    def by_runs(self) -> pd.DataFrame:
        """Return the milliseconds of a run's step: a row a model and way, a column a stack size."""
        way = self.stacks["captured"].map({True: "captured", False: "not captured"})
        rows = self.stacks.assign(way=way, model=self.stacks["model"].map(paper.label))
        table = rows.rename(columns={"runs": "runs at once"})
        return table.pivot_table("milliseconds", ["model", "way"], "runs at once", sort=False)

    def by_arithmetic(self) -> pd.DataFrame:
        """Return the milliseconds of a run's step: a row a model, a column an arithmetic."""
        rows = self.precision.assign(model=self.precision["model"].map(paper.label))
        return rows.pivot_table("milliseconds", "model", "arithmetic", sort=False)


def trained_on(frame: pd.DataFrame, provenance: pd.DataFrame) -> pd.DataFrame:
    """Return on what records were trained: a row per device and setting.

    Parameters
    ----------
    frame, provenance : DataFrame
        What `swrlib.load_records` and `swrlib.records.load_provenance` returned.

    Returns
    -------
    DataFrame
        ``device, stream, data and model``, ``runs``, ``seeds``, ``seconds a run`` (median; the wall
        time of a job over its runs), ``until`` (the last day).
    """
    # Further options tell runs of Fig. 1 apart; here they are one setting.
    runs = frame.groupby(["device", "stream", "dataset", "model", "run"], as_index=False).agg(
        seed=("seed", "first"), seconds=("seconds", "sum")
    )
    runs["day"] = runs["run"].map(provenance.set_index("run")["date"].str[:10])
    where = ["device", "stream", "dataset", "model"]
    sums = {"runs": ("run", "nunique"), "seeds": ("seed", "nunique")}
    sums |= {"seconds a run": ("seconds", "median"), "until": ("day", "max")}
    table = runs.groupby(where, as_index=False).agg(**sums)
    for name in where[1:]:
        table[name] = table[name].map(paper.label)
    table.insert(1, "data and model", table.pop("dataset") + " " + table.pop("model"))
    return table.sort_values("device", key=lambda names: names == "cpu", kind="stable")


def load_gpu(path: str | os.PathLike[str] | None = None) -> OnGPU:
    """Return what was measured on a GPU.

    Parameters
    ----------
    path : path, optional
        What ``python -m benchmarks.gpu --output`` wrote; default: the project's own, in
        ``results/_benchmarks/gpu.json``, and nothing at all where there is none.

    Returns
    -------
    OnGPU

    Raises
    ------
    FileNotFoundError
        If the file that was named is missing; the command that makes it is named.
    ValueError
        If the file is no such table.
    """
    file = Path(path or results_folder() / BENCHMARKS / "gpu.json")
    if path is None and not file.is_file():
        return _on_gpu({})
    measured = _read(file, "python -m benchmarks.gpu", _on_gpu)
    if path is None:
        measured.machine.attrs["file"] = f"{BENCHMARKS}/{file.name}"
    return measured


def _on_gpu(content: Mapping[str, Any]) -> OnGPU:
    # Parts that were put together from several files share one description of the machine.
    shared = content.get("machine")
    parts = {name: dict(part) for name, part in content.items() if name != "machine"}
    machine = {name: part.pop("machine", shared) for name, part in parts.items()}

    def table(part: str, names: str, values: Mapping[str, str]) -> pd.DataFrame:
        """Return a row per entry: what its name says, then its numbers."""
        pattern = re.compile(names)
        columns = [*pattern.groupindex, *values.values()]
        rows = []
        for name, entry in parts.get(part, {}).items():
            if not isinstance(entry, Mapping):
                entry = {"value": entry}
            if parsed := pattern.fullmatch(name):
                numbers = {to: float(entry[of]) for of, to in values.items()}
                rows.append(parsed.groupdict() | numbers)
        return pd.DataFrame(rows, columns=columns)

    ms = {"ms per step per run": "milliseconds"}
    stacks = table("stacks", r"(?P<model>\S+), (?P<runs>\d+) at once, (?P<captured>.+)", ms)
    stacks = stacks.assign(runs=stacks["runs"].astype(int))
    of_vgg = ["images a second", "teraflops", "share of the measured matrix rate"]
    of_vgg += ["SWR over vanilla"]
    return OnGPU(
        machine=pd.DataFrame(machine).T,
        equality=table("equality", "(?P<model>.+)", {"value": "difference"}),
        stacks=stacks.assign(captured=stacks["captured"] == "captured"),
        precision=table("precision", r"(?P<model>\S+), (?P<arithmetic>.+)", ms),
        vgg16=table("vgg16", "(?P<arithmetic>b?float.+)", dict(zip(of_vgg, of_vgg, strict=True))),
    )


def ratios(frame: pd.DataFrame, base: str) -> pd.DataFrame:
    """Return each way's time over that of the way ``base``, within each repetition.

    Parameters
    ----------
    frame : DataFrame
        Rows of one table.
    base : str
        The name of the way to divide by.

    Returns
    -------
    DataFrame
        Indexed by model and name: the median ``milliseconds``, the median ``ratio`` and the least
        and greatest one (``low, high``).
    """
    wide = frame.pivot_table(index=["model", "repeat"], columns="name", values="milliseconds")
    ratio = wide.div(wide[base], axis=0).stack().groupby(["model", "name"])
    table = ratio.agg(ratio="median", low="min", high="max").dropna()
    table["milliseconds"] = frame.groupby(["model", "name"])["milliseconds"].median()
    return table
