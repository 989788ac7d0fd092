"""Records of training runs: what a run is, how it is stored, found and read.

A run is one whole resolved configuration; `run_hash` names it. A finished job writes its runs to
one Parquet file ``<job>.parquet`` and, where something was measured, to ``<job>.measures.parquet``
beside it. Files never change afterwards. The measures are renamed first and the run file last:
only the run file makes a job exist, so whatever else an interrupted job leaves is ignored.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_NORMS = pa.list_(pa.float32())
#: One row per run and epoch; option columns of a job's own may follow.
COLUMNS: dict[str, pa.DataType] = {
    # which run: the same in all its rows
    "run": pa.string(),
    "dataset": pa.string(),
    "split": pa.string(),
    "model": pa.string(),
    "stream": pa.string(),
    "method": pa.string(),
    "lam": pa.float64(),  # settings are not rounded: they are compared with ==
    "lam_features": pa.float64(),
    "lam_classifier": pa.float64(),
    "variant": pa.string(),
    "seed": pa.int32(),
    "optimizer_state": pa.string(),
    "dtype": pa.string(),
    "device": pa.string(),
    "scale": pa.string(),
    "epochs": pa.int32(),
    "parent": pa.string(),
    # when
    "stage": pa.int32(),
    "stage_epoch": pa.int32(),
    "epoch": pa.int32(),
    "step": pa.int32(),
    "lr": pa.float64(),
    # what came out
    "train_loss": pa.float32(),
    "train_accuracy": pa.float32(),
    "test_loss": pa.float32(),
    "test_accuracy": pa.float32(),
    "weight_norms": _NORMS,
    "bias_norms": _NORMS,
    "seconds": pa.float32(),
    "diverged": pa.bool_(),
}
#: The long table of everything else that was measured.
MEASURE_COLUMNS: dict[str, pa.DataType] = {
    "run": pa.string(),
    "epoch": pa.int32(),
    "step": pa.int32(),
    "measure": pa.string(),
    "layer": pa.string(),
    "value": pa.float32(),
}
_ORDER = ["dataset", "model", "stream", "method", "seed", "run", "epoch"]
_MEASURES_SUFFIX = ".measures.parquet"


def run_hash(configuration: Mapping[str, Any]) -> str:
    """Name a run by its whole configuration.

    The order of keys does not matter, every value and its type does: ``1``, ``1.0`` and ``True``
    are different values. Whoever resolves a configuration settles types first.

    Parameters
    ----------
    configuration : mapping
        Nested mappings (keys: str), lists or tuples of None, bool, int, float and str.

    Returns
    -------
    str
        16 hexadecimal digits of the SHA-256 of its canonical JSON.

    Raises
    ------
    TypeError
        If a value is of another type; the message names it.
    ValueError
        If a number is not finite.
    """
    return hashlib.sha256(_canonical(configuration).encode()).hexdigest()[:16]


def _canonical(configuration: Mapping[str, Any]) -> str:
    _check_plain(configuration, "configuration")
    return json.dumps(configuration, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _check_plain(value: Any, place: str) -> None:
    # json would turn keys into strings and so let two configurations coincide.
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{place} has the key {key!r}; keys must be strings")
            _check_plain(item, f"{place}[{key!r}]")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check_plain(item, f"{place}[{index}]")
    elif isinstance(value, float) and not np.isfinite(value):
        raise ValueError(f"{place} is {value}; a configuration needs finite numbers")
    elif value is not None and type(value) not in (bool, int, float, str):
        raise TypeError(
            f"{place} is a {type(value).__name__}; a run's hash needs plain None, bool, int, "
            "float, str, lists and dicts"
        )


# ---------------------------------------------------------------------------------------------
# Provenance


def provenance(*, device: str = "cpu") -> dict[str, Any]:
    """Describe where records come from.

    Parameters
    ----------
    device : str
        What the runs were trained on, ``"cpu"`` or the name of a GPU.

    Returns
    -------
    dict
        Commit of swrlib (None outside its repository) and whether swrlib differed from it
        (``dirty``), versions, device, processor, date in UTC (ISO 8601), and the command line
        without the machine's own folders.
    """
    commit, dirty = _commit()
    return {
        "commit": commit,
        "dirty": dirty,
        "python": platform.python_version(),
        **{name: _version(name) for name in ("torch", "pandas", "pyarrow", "swrlib")},
        "device": device,
        "processor": _processor(),
        "date": datetime.now(UTC).isoformat(timespec="microseconds"),
        "command": shlex.join(map(_without_folders, ["python", *sys.orig_argv[1:]])),
    }


def _commit() -> tuple[str | None, bool | None]:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # An installed copy may lie inside some other project's repository.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        # Only swrlib itself: a job's neighbours write records into the same work tree meanwhile.
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--", "."))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _without_folders(argument: str) -> str:
    head, equals, value = argument.rpartition("=")
    path = Path(value)
    if path.is_absolute():
        here = Path.cwd()
        value = str(path.relative_to(here)) if path.is_relative_to(here) else path.name
    return head + equals + value


# ---------------------------------------------------------------------------------------------
# Writing


def write_job(
    folder: str | os.PathLike[str],
    epochs: pd.DataFrame,
    measures: pd.DataFrame | None = None,
    *,
    provenance: Mapping[str, Any],
    configurations: Mapping[str, Mapping[str, Any]] | None = None,
    measured: Iterable[str] | None = None,
) -> Path:
    """Store a finished job, whole or not at all.

    The same job written twice replaces its file; processes may write different jobs at once.

    Parameters
    ----------
    folder : path
        Folder of records; made where it is missing.
    epochs : DataFrame
        The columns `COLUMNS`, one row per run and epoch; further columns are options. Write an
        option's column only for runs that depart from its default: a value there marks a run
        that is not the paper's.
    measures : DataFrame, optional
        The columns `MEASURE_COLUMNS`.
    provenance : mapping
        What `provenance` returns.
    configurations : mapping, optional
        Configuration per run, so that a reader can see what a hash stands for.
    measured : iterable of str, optional
        Names of what was measured, also where it gave no value for these runs; default: the
        names in `measures`.

    Returns
    -------
    Path
        The run file.

    Raises
    ------
    ValueError
        If a column is missing or does not fit its type, a row occurs twice, measures belong to
        another run, a configuration has another hash, or the provenance lacks its date.
    """
    if "date" not in provenance:
        raise ValueError("the provenance has no date; pass what swrlib.records.provenance() gives")
    runs = sorted(set(epochs.get("run", [])))
    if not runs:
        raise ValueError("there are no runs to store: the table of epochs is empty")
    table = _to_arrow(epochs, COLUMNS, options=True)
    if epochs.duplicated(["run", "epoch"]).any():
        raise ValueError("an epoch of a run occurs twice; a job stores each once")
    measured_table = None
    if measures is not None:
        measured_table = _to_arrow(measures, MEASURE_COLUMNS)
        foreign = sorted(set(measures["run"]) - set(runs))
        if foreign:
            raise ValueError(f"measures belong to run {foreign[0]}, which is not in this job")
    found = set() if measures is None else set(measures["measure"])
    names = sorted(found | set(measured or ()))
    for run, configuration in (configurations or {}).items():
        if run_hash(configuration) != run:
            raise ValueError(f"the configuration given for run {run} has another hash")
    if configurations is not None and set(configurations) != set(runs):
        raise ValueError("configurations must be given for all runs of the job or for none")

    job = hashlib.sha256(json.dumps([runs, names]).encode()).hexdigest()[:16]
    metadata = {
        "provenance": dict(provenance),
        "runs": runs,
        "measures": names,
        "configuration_json": {run: dict(c) for run, c in (configurations or {}).items()},
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if names:
        if measured_table is None:
            empty = pd.DataFrame({name: [] for name in MEASURE_COLUMNS})
            measured_table = _to_arrow(empty, MEASURE_COLUMNS)
        _write(measured_table, folder / f"{job}{_MEASURES_SUFFIX}", metadata)
    path = folder / f"{job}.parquet"
    _write(table, path, metadata)
    return path


def _to_arrow(
    frame: pd.DataFrame, schema: Mapping[str, pa.DataType], *, options: bool = False
) -> pa.Table:
    missing = [name for name in schema if name not in frame]
    if missing:
        raise ValueError(f"records lack the column {missing[0]!r}{_nearest(missing[0], frame)}")
    extra = [name for name in frame if name not in schema]
    if extra and not options:
        raise ValueError(f"measures have no column {extra[0]!r}{_nearest(extra[0], schema)}")
    arrays = {}
    for name in [*schema, *extra]:
        try:
            arrays[name] = pa.array(frame[name], type=schema.get(name), from_pandas=True)
        except (pa.ArrowException, TypeError, OverflowError) as error:
            kind = f" as {schema[name]}" if name in schema else ""
            raise ValueError(f"column {name!r} cannot be stored{kind}: {error}") from error
    return pa.table(arrays)


def _write(table: pa.Table, path: Path, metadata: Mapping[str, Any]) -> None:
    encoded = {"swrlib": json.dumps(metadata, allow_nan=False)}
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "wb") as file:
            pq.write_table(table.replace_schema_metadata(encoded), file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------------
# Reading


@dataclass(frozen=True, eq=False)
class _Job:
    path: Path
    provenance: dict[str, Any]
    runs: tuple[str, ...]
    measures: frozenset[str]
    configurations: dict[str, dict[str, Any]]


def _broken(path: Path, error: Exception, run_file: Path) -> ValueError:
    return ValueError(
        f"{path} is broken ({error}); delete {run_file.name} and make its records again"
    )


def _read_job(path: Path) -> _Job:
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise _broken(path, error, path) from error
    try:
        metadata = json.loads((schema.metadata or {})[b"swrlib"])
        return _Job(
            path,
            metadata["provenance"],
            tuple(metadata["runs"]),
            frozenset(metadata["measures"]),
            metadata["configuration_json"],
        )
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"{path} is no record of swrlib; move it out of the folder of records"
        ) from error


def _jobs(folder: Path) -> list[_Job]:
    """Read what every job in a folder is about, the oldest first."""
    paths = (p for p in folder.glob("*.parquet") if not p.name.endswith(_MEASURES_SUFFIX))
    jobs = [_read_job(path) for path in paths]
    return sorted(jobs, key=lambda job: (job.provenance["date"], job.path.name))


def _newest(folder: Path, fits: Callable[[_Job], bool]) -> dict[_Job, list[str]]:
    """Choose for each run the newest job that fits; return the runs to read from each job."""
    source = {run: job for job in _jobs(folder) if fits(job) for run in job.runs}
    chosen: dict[_Job, list[str]] = {}
    for run, job in source.items():
        chosen.setdefault(job, []).append(run)
    return chosen


def _read_all(
    chosen: Mapping[_Job, Sequence[str]],
    schema: Mapping[str, pa.DataType],
    suffix: str = ".parquet",
) -> pd.DataFrame:
    tables = [pa.table({name: pa.array([], kind) for name, kind in schema.items()})]
    for job, runs in chosen.items():
        path = job.path.with_suffix(suffix)
        try:
            table = pq.ParquetFile(path).read().replace_schema_metadata()
        except (pa.ArrowException, OSError) as error:
            raise _broken(path, error, job.path) from error
        tables.append(table.filter(pc.is_in(table["run"], pa.array(runs, pa.string()))))
    try:
        return pa.concat_tables(tables, promote_options="permissive").to_pandas()
    except pa.ArrowException as error:
        raise ValueError(f"records of different files do not fit together: {error}") from error


def _filter(frame: pd.DataFrame, filters: Mapping[str, Any]) -> pd.DataFrame:
    for name, value in filters.items():
        if name not in frame:
            raise ValueError(f"records have no column {name!r}{_nearest(name, frame)}")
        if value is None:
            frame = frame[frame[name].isna()]
        elif pd.api.types.is_list_like(value):
            frame = frame[frame[name].isin(list(value))]
        else:
            frame = frame[frame[name] == value]
    return frame


def _nearest(name: str, names: Iterable[str]) -> str:
    names = [str(n) for n in names]
    close = difflib.get_close_matches(name, names, 1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are: {', '.join(names)}"


def _names(names: str | Iterable[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def results_folder(results: str | os.PathLike[str] | None = None) -> Path:
    """Find a folder of records.

    Parameters
    ----------
    results : path, optional
        The folder. Default: ``$SWR_RESULTS``, else the nearest ``results/`` beside a
        ``_config.yml`` in the working directory or above it.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    named = results if results is not None else os.environ.get("SWR_RESULTS")
    if named:
        if Path(named).is_dir():
            return Path(named)
        raise FileNotFoundError(f"there is no folder of records {os.fspath(named)!r}")
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "_config.yml").is_file() and (folder / "results").is_dir():
            return folder / "results"
    raise FileNotFoundError(
        "no folder of records found; pass results=, set SWR_RESULTS, or work inside the project"
    )


def load_records(
    results: str | os.PathLike[str] | None = None, *, measures: Iterable[str] = (), **filters: Any
) -> pd.DataFrame:
    """Read records: one row per run and epoch.

    A run that several files hold is read from the newest (by the date in its provenance).

    Parameters
    ----------
    results : path, optional
        Folder of records; default: the project's own, see `results_folder`.
    measures : iterable of str
        Only runs for which all of these were measured, from the newest file that has them, so
        that both tables come from the same training.
    **filters
        Column = value, or a collection of values, e.g. ``method=["swr", "l2"]``. None selects
        rows without a value.

    Returns
    -------
    DataFrame
        The columns `COLUMNS` and the options found, sorted; empty where nothing fits.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If a filter names no column, or a file is broken.
    """
    wanted = set(_names(measures))
    frame = _read_all(_newest(results_folder(results), lambda j: j.measures >= wanted), COLUMNS)
    return _filter(frame, filters).sort_values(_ORDER, ignore_index=True)


def load_measures(results: str | os.PathLike[str] | None = None, **filters: Any) -> pd.DataFrame:
    """Read what was measured beyond the records' own columns.

    Parameters
    ----------
    results : path, optional
        Folder of records; default: the project's own, see `results_folder`.
    **filters
        As in `load_records`: columns of the long table, or of the records, which select runs.
        With ``measure=``, each run is read from the newest file that has all of the named ones;
        without, from the newest file that has any.

    Returns
    -------
    DataFrame
        The columns `MEASURE_COLUMNS`.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If a filter names no column, or a file is broken.
    """
    wanted = set(_names(filters.get("measure", ())))
    newest = _newest(results_folder(results), lambda j: bool(j.measures) and j.measures >= wanted)
    own = {name: value for name, value in filters.items() if name in MEASURE_COLUMNS}
    others = {name: value for name, value in filters.items() if name not in MEASURE_COLUMNS}
    frame = _filter(_read_all(newest, MEASURE_COLUMNS, _MEASURES_SUFFIX), own)
    if others:
        runs = _filter(_read_all(newest, COLUMNS), others)["run"].unique()
        frame = frame[frame["run"].isin(runs)]
    return frame.sort_values(["run", "measure", "step"], kind="stable", ignore_index=True)


def missing_runs(
    hashes: Iterable[str],
    results: str | os.PathLike[str] | None = None,
    *,
    measures: Iterable[str] = (),
) -> list[str]:
    """Tell which runs a folder lacks, or holds without all of these measures.

    Hashes and names of measures alone decide, never the times of files. A folder that does not
    exist yet holds nothing.

    Parameters
    ----------
    hashes : iterable of str
        Runs, as `run_hash` names them.
    results : path, optional
        Folder of records; default: the project's own, see `results_folder`.
    measures : iterable of str
        Names of what must have been measured.

    Returns
    -------
    list of str
        The missing ones, in the order given.
    """
    wanted = set(_names(measures))
    present: set[str] = set()
    if results is None or Path(results).exists():
        jobs = _jobs(results_folder(results))
        present.update(*(job.runs for job in jobs if job.measures >= wanted))
    return [run for run in hashes if run not in present]


def read_provenance(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the provenance of one file of records.

    Raises
    ------
    ValueError
        If the file is broken or no record of swrlib.
    """
    return _read_job(Path(path)).provenance


def load_provenance(results: str | os.PathLike[str] | None = None) -> pd.DataFrame:
    """Read where each run of a folder comes from: one row per run, with its file (``job``)."""
    rows = [
        {"run": run, "job": job.path.name, **job.provenance}
        for job, runs in _newest(results_folder(results), lambda j: True).items()
        for run in runs
    ]
    return pd.DataFrame(rows, columns=None if rows else ["run", "job"])


def load_configuration(run: str, results: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """Read the configuration that a hash stands for.

    Raises
    ------
    ValueError
        If no file of the folder holds the configuration of this run.
    """
    for job in reversed(_jobs(results_folder(results))):
        if run in job.configurations:
            return job.configurations[run]
    raise ValueError(f"no record here holds the configuration of run {run!r}; see load_records()")
