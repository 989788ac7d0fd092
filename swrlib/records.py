"""Records of training runs: what a run is, how it is stored, found and read.

A run is one whole resolved configuration; `run_hash` names it. A finished job writes its runs to
one Parquet file ``<job>.parquet`` and, where something was measured, the long table of that to
``_measures/<job>.parquet``. Files never change afterwards, and each holds a digest of itself, so
that damage is seen. The measures are renamed first and the run file last: only the run file makes
a job exist, so whatever else an interrupted job leaves is ignored.

Other programs read the runs by the obvious pattern. A column of an option (``ratio``) is only in
files of runs that have it, so it takes a word more to get all columns, or, in polars, any::

    pandas.read_parquet("results/")  # without columns of options
    polars.scan_parquet("results/*.parquet", missing_columns="insert", extra_columns="ignore")
    polars.concat(map(polars.read_parquet, glob("results/*.parquet")), how="diagonal_relaxed")
    SELECT * FROM read_parquet('results/*.parquet', union_by_name = true)  -- DuckDB
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from swrlib.checks import check_name
from swrlib.files import replacing, state_of
from swrlib.provenance import PROVENANCE

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
    "weight_norms": pa.list_(pa.float32()),
    "bias_norms": pa.list_(pa.float32()),
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
#: Folder of the measures: readers of a folder of tables skip names that begin with ``_``.
_MEASURES = "_measures"
#: What stands before a file's digest.
SEAL = b"\0swrlib sha256\0"


def run_hash(configuration: Mapping[str, Any]) -> str:
    """Name a run by its whole configuration.

    The order of keys does not matter, every value and its type does: ``1``, ``1.0`` and ``True``
    are different values. Types are settled before a configuration is hashed.

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
    TypeError, ValueError
        If a value has no JSON, or a number is not finite.
    """
    text = json.dumps(configuration, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_job(
    folder: str | os.PathLike[str],
    epochs: pd.DataFrame,
    measures: pd.DataFrame | None = None,
    *,
    provenance: Mapping[str, Any],
    configurations: Mapping[str, Mapping[str, Any]] | None = None,
    measured: Iterable[str] = (),
) -> Path:
    """Store a finished job, whole or not at all; the same one again replaces its file.

    Parameters
    ----------
    folder : path
        Folder of records; made where it is missing.
    epochs : DataFrame
        The columns `COLUMNS`; further ones are options, written only for runs that depart from
        an option's default: a value there marks a run that is not the paper's.
    measures : DataFrame, optional
        The columns `MEASURE_COLUMNS`.
    provenance : mapping
        What `provenance` returns.
    configurations : mapping, optional
        The configuration of each run, by its hash.
    measured : iterable of str
        What was measured beside it and gave no value for these runs.

    Returns
    -------
    Path
        The run file.

    Raises
    ------
    ValueError
        If a column is missing or does not fit its type, or a row occurs twice.
    OSError
        If the folder cannot be written; the sentence names the file.
    """
    if epochs.duplicated(["run", "epoch"]).any():
        raise ValueError("an epoch of a run occurs twice; a job stores each once")
    measures = pd.DataFrame(columns=list(MEASURE_COLUMNS)) if measures is None else measures
    runs, names = sorted(set(epochs["run"])), sorted({*measures["measure"], *measured})
    job = hashlib.sha256(json.dumps([runs, names]).encode()).hexdigest()[:16]
    told = {"provenance": dict(provenance), "runs": runs, "measures": names}
    told["configuration_json"] = {run: dict(c) for run, c in (configurations or {}).items()}
    options = epochs[epochs.columns.difference(list(COLUMNS), sort=False)]
    schema = [*pa.schema(COLUMNS), *pa.Schema.from_pandas(options, preserve_index=False)]
    path = Path(folder) / f"{job}.parquet"
    tables = {path: _table(epochs, schema)}
    if names:  # first: the run file, written last, makes the job exist
        tables = {_measures_of(path): _table(measures, pa.schema(MEASURE_COLUMNS))} | tables
    for place, table in tables.items():
        table = table.replace_schema_metadata({"swrlib": json.dumps(told, allow_nan=False)})
        with replacing(place) as file:
            file.write(_sealed(table))
    return path


def _sealed(table: pa.Table) -> bytes:
    """Return a Parquet file with a digest of its bytes between the pages and what describes them.

    No reader looks there: pages are found by their places, the description from the end.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    content = sink.getvalue().to_pybytes()
    end = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    return content[:end] + SEAL + hashlib.sha256(content).digest() + content[end:]


def _table(frame: pd.DataFrame, fields: Iterable[pa.Field]) -> pa.Table:
    try:
        return pa.Table.from_pandas(frame, pa.schema(fields), preserve_index=False)
    except (KeyError, pa.ArrowException) as error:
        raise ValueError(f"records do not fit their columns: {'; '.join(error.args)}") from error


_Sources = dict[str, tuple[Path, dict[str, Any]]]


@contextmanager
def _naming(path: Path, job: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is broken or no record of swrlib ({error}); remove {job.name} from the folder "
            "of records and make its runs again"
        ) from error


def _open(path: Path) -> pq.ParquetFile:
    """Open a file whose bytes are those that were written, if it holds a digest of them."""
    content = path.read_bytes()
    seal = content.rfind(SEAL)
    if seal >= 0:
        start, end = seal + len(SEAL), seal + len(SEAL) + 32
        if hashlib.sha256(content[:seal] + content[end:]).digest() != content[start:end]:
            raise ValueError("its bytes are not those that were written")
    return pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)


def _description(path: Path) -> dict[str, Any]:
    with _naming(path, path):
        told: dict[str, Any] = json.loads((_open(path).metadata.metadata or {})[b"swrlib"])
        _ = told["provenance"]["date"], told["runs"], told["measures"]
        return told


def _newest(folder: Path, fits: Callable[[set[str]], bool] = lambda measures: True) -> _Sources:
    """Find for each run the newest file whose measures fit, and what that file says of itself."""
    jobs = [
        (path, _description(path)) for path in folder.glob("*.parquet") if path.name[0] not in "._"
    ]
    jobs.sort(key=lambda job: (job[1]["provenance"]["date"], job[0].name))
    return {
        run: (path, told)
        for path, told in jobs
        if fits(set(told["measures"]))
        for run in told["runs"]
    }


def _measures_of(job: Path) -> Path:
    return job.parent / _MEASURES / job.name


def _read(
    sources: _Sources,
    schema: Mapping[str, pa.DataType],
    file_of: Callable[[Path], Path] = lambda job: job,
) -> pa.Table:
    tables = [pa.schema(schema).empty_table()]
    for job in dict.fromkeys(job for job, _ in sources.values()):
        runs = pa.array([run for run, source in sources.items() if source[0] == job], pa.string())
        path = file_of(job)
        with _naming(path, job):
            table = _open(path).read().replace_schema_metadata()
            tables.append(table.filter(pc.is_in(table["run"], runs)))
    return pa.concat_tables(tables, promote_options="permissive")


@lru_cache(maxsize=4)
def _rows(folder: Path, state: Hashable, measures: frozenset[str]) -> pa.Table:
    """Return the records of every run of a folder in this state: reading them takes a second."""
    return _read(_newest(folder, measures.issubset), COLUMNS)


def _filter(frame: pd.DataFrame, filters: Mapping[str, Any]) -> pd.DataFrame:
    for name, value in filters.items():
        check_name("column", name, frame, "records have no")
        values = value if pd.api.types.is_list_like(value) else [value]
        frame = frame[frame[name].isna() if value is None else frame[name].isin(values)]
    return frame


def _names(names: str | Iterable[str]) -> set[str]:
    return {names} if isinstance(names, str) else set(names)


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
    named = results or os.environ.get("SWR_RESULTS")
    if named:
        if Path(named).is_dir():
            return Path(named)
        raise FileNotFoundError(f"there is no folder of records {os.fspath(named)!r}")
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "_config.yml").is_file() and (folder / "results").is_dir():
            return folder / "results"
    raise FileNotFoundError(
        "no folder of records was found: set the environment variable SWR_RESULTS to one, or work "
        "inside the project"
    )


def load_records(
    results: str | os.PathLike[str] | None = None,
    *,
    measures: str | Iterable[str] = (),
    **filters: Any,
) -> pd.DataFrame:
    """Read records: one row per run and epoch.

    A run that several files hold is read from the newest (by the date in its provenance).

    Parameters
    ----------
    results : path, optional
        Folder of records; default: the project's own, see `results_folder`.
    measures : str or iterable of str
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
    folder = results_folder(results)
    frame = _rows(folder, state_of(folder, "*.parquet"), frozenset(_names(measures))).to_pandas()
    order = ["dataset", "model", "stream", "method", "seed", "run", "epoch"]
    return _filter(frame, filters).sort_values(order, ignore_index=True)


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
    wanted = _names(filters.get("measure", ()))
    sources = _newest(results_folder(results), wanted.issubset if wanted else bool)
    own = {name: filters.pop(name) for name in MEASURE_COLUMNS if name in filters}
    frame = _filter(_read(sources, MEASURE_COLUMNS, _measures_of).to_pandas(), own)
    if filters:
        chosen = _filter(_read(sources, COLUMNS).to_pandas(), filters)["run"]
        frame = frame[frame["run"].isin(chosen)]
    return frame.sort_values(["run", "measure", "step"], kind="stable", ignore_index=True)


def missing_runs(
    hashes: Iterable[str],
    results: str | os.PathLike[str] | None = None,
    *,
    measures: str | Iterable[str] = (),
) -> list[str]:
    """Return which runs a folder lacks, or holds without all of these measures.

    Hashes and names of measures alone decide, never the times of files. A folder that is not there
    holds nothing.

    Parameters
    ----------
    hashes : iterable of str
        Runs, as `run_hash` names them.
    results : path, optional
        Folder of records; default: the project's own, see `results_folder`.
    measures : str or iterable of str
        Names of what must have been measured.

    Returns
    -------
    list of str
        The missing ones, in the order given.
    """
    if results is not None and not Path(results).exists():
        return list(hashes)
    present = _newest(results_folder(results), _names(measures).issubset)
    return [run for run in hashes if run not in present]


def read_provenance(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the provenance of one file of records.

    Raises
    ------
    ValueError
        If the file is broken or no record of swrlib.
    """
    return _description(Path(path))["provenance"]


def load_provenance(results: str | os.PathLike[str] | None = None) -> pd.DataFrame:
    """Read where each run of a folder comes from: one row per run, with its file (``job``)."""
    rows = [
        {"run": run, "job": path.name, **told["provenance"]}
        for run, (path, told) in _newest(results_folder(results)).items()
    ]
    return pd.DataFrame(rows, columns=None if rows else ["run", "job", *PROVENANCE])


def load_configuration(run: str, results: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """Read the configuration of a run by its hash.

    Raises
    ------
    ValueError
        If no file of the folder holds this run.
    """
    sources = _newest(results_folder(results))
    if run not in sources:
        raise ValueError(f"no record here holds the run {run!r}: see load_records()")
    return sources[run][1]["configuration_json"][run]
