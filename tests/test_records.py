"""Records: hashes, atomic writing, reading, what is missing."""

import glob
import hashlib
import os
import resource
import shlex
import shutil
import subprocess
import sys
import warnings
from multiprocessing import get_context

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swrlib import provenance as origin
from swrlib import records
from swrlib.provenance import provenance
from swrlib.records import (
    COLUMNS,
    MEASURE_COLUMNS,
    load_configuration,
    load_measures,
    load_provenance,
    load_records,
    missing_runs,
    read_provenance,
    results_folder,
    run_hash,
    write_job,
)


def make_epochs(run="a" * 16, epochs=2, **values):
    rows = []
    for epoch in range(epochs + 1):
        row = {
            "run": run,
            "dataset": "mnist-5k",
            "split": "all",
            "model": "mlp",
            "stream": "single-task",
            "method": "swr",
            "lam": 1e-4,
            "lam_features": 1e-4,
            "lam_classifier": 1e-4,
            "variant": "proportional",
            "seed": 0,
            "optimizer_state": "kept",
            "dtype": "float32",
            "device": "cpu",
            "scale": "quick",
            "epochs": epochs,
            "parent": None,
            "stage": 1 if epoch else 0,
            "stage_epoch": epoch,
            "epoch": epoch,
            "step": 16 * epoch,
            "lr": 1e-3,
            "train_loss": 1.0 / epoch if epoch else np.nan,
            "train_accuracy": 0.5 if epoch else np.nan,
            "test_loss": 0.25,
            "test_accuracy": 0.9375,
            "weight_norms": [1.5, 2.5] if epoch in (0, epochs) else None,
            "bias_norms": np.array([0.5, 0.25], np.float32) if epoch in (0, epochs) else None,
            "seconds": 0.125,
            "diverged": False,
        }
        rows.append(row | values)
    return pd.DataFrame(rows)


def make_measures(run="a" * 16, measure="factors", value=0.5):
    rows = [(run, 1, 16, measure, layer, value) for layer in ("0", "2")]
    return pd.DataFrame(rows, columns=list(MEASURE_COLUMNS))


def dated(date):
    return provenance() | {"date": date}


# --------------------------------------------------------------------------------------- hashes

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
configurations = st.dictionaries(st.text(), plain, max_size=5)


@given(configurations, st.randoms())
def test_the_order_of_keys_does_not_change_a_hash(configuration, random):
    items = list(configuration.items())
    random.shuffle(items)
    assert run_hash(dict(items)) == run_hash(configuration)
    assert len(run_hash(configuration)) == 16
    assert set(run_hash(configuration)) <= set("0123456789abcdef")


def same(a, b):
    """Equality that tells 1, 1.0, True and 0.0, -0.0 apart."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and repr(a) == repr(b)


@given(configurations, configurations)
def test_two_configurations_share_a_hash_only_if_they_are_the_same(a, b):
    assert (run_hash(a) == run_hash(b)) == same(a, b)


@given(configurations, plain, plain)
def test_any_changed_value_changes_the_hash(configuration, value, other):
    first, second = ({**configuration, "λ": v} for v in (value, other))
    assert (run_hash(first) == run_hash(second)) == same(value, other)


def test_a_hash_tells_types_and_nesting_apart():
    values = [1, 1.0, True, "1", None, "", [], {}, [1], {"1": 1}, 0, 0.0, False, 0.1, 0.1 + 1e-18]
    hashes = [run_hash({"a": value}) for value in values]
    assert len(set(hashes)) == len(values) - 1  # 0.1 + 1e-18 is the float 0.1
    assert run_hash({"a": (1, 2)}) == run_hash({"a": [1, 2]}) != run_hash({"a": [2, 1]})
    assert run_hash({"a": {"b": 1}}) != run_hash({"a": {}, "b": 1}) != run_hash({"a.b": 1})
    # A fixed value: hashes must stay the same over years and machines.
    assert run_hash({"seed": 0, "method": {"name": "swr", "lam": 1e-4}}) == "8c5633e4f957573b"


@pytest.mark.parametrize("value", [object(), float("nan"), float("inf"), np.float32(1), {1, 2}])
def test_what_has_no_canonical_form_is_refused(value):
    with pytest.raises((TypeError, ValueError), match="JSON"):
        run_hash({"a": [0, {"x": value}]})


# ------------------------------------------------------------------------------ round and round


def test_what_is_written_is_read(tmp_path):
    written = make_epochs()
    path = write_job(tmp_path, written, provenance=provenance())
    assert path.parent == tmp_path
    read = load_records(tmp_path)
    assert list(read.columns) == list(COLUMNS)
    assert read["epoch"].tolist() == [0, 1, 2]
    assert read["parent"].isna().all()
    for name in written.columns.difference(["weight_norms", "bias_norms", "parent"]):
        pd.testing.assert_series_equal(
            read[name], written[name], check_dtype=False, check_names=False, obj=name
        )
    assert read["weight_norms"].iloc[2].tolist() == [1.5, 2.5]
    assert read["bias_norms"].iloc[0].dtype == np.float32
    assert read["weight_norms"].iloc[1] is None
    assert (read["lam"] == 1e-4).all()  # exactly: settings are not rounded


def test_types_on_disk(tmp_path):
    path = write_job(tmp_path, make_epochs(momentum=0.9), provenance=provenance())
    schema = pq.read_schema(path)
    assert {name: schema.field(name).type for name in COLUMNS} == COLUMNS
    assert str(schema.field("test_accuracy").type) == "float"
    assert str(schema.field("epoch").type) == "int32"
    columns = pq.ParquetFile(path).metadata.row_group(0)
    assert columns.column(0).compression == "ZSTD"


def test_options_of_different_jobs_meet_in_one_table(tmp_path):
    write_job(tmp_path, make_epochs("a", rescale_every=2), provenance=provenance())
    write_job(tmp_path, make_epochs("b", rescale_every=2.5), provenance=provenance())
    write_job(tmp_path, make_epochs("c", target="zero"), provenance=provenance())
    read = load_records(tmp_path)
    assert set(read.columns) == {*COLUMNS, "rescale_every", "target"}
    assert read.groupby("run")["rescale_every"].first().tolist()[:2] == [2, 2.5]
    assert load_records(tmp_path, rescale_every=2)["run"].unique().tolist() == ["a"]
    assert load_records(tmp_path, target=None)["run"].unique().tolist() == ["a", "b"]
    write_job(tmp_path, make_epochs("d", target=3), provenance=provenance())
    with pytest.raises(TypeError, match="target has incompatible types"):
        load_records(tmp_path)


def test_records_are_read_once_until_a_file_changes_comes_or_goes(tmp_path):
    path = write_job(tmp_path, make_epochs("a"), provenance=provenance())
    first = load_records(tmp_path)
    read = records._rows.cache_info().misses
    first["weight_norms"].iloc[2][:] = 0
    first["epoch"] = -1
    again = load_records(tmp_path)
    assert records._rows.cache_info().misses == read
    assert again["weight_norms"].iloc[2].tolist() == [1.5, 2.5] and min(again["epoch"]) == 0
    other = write_job(tmp_path, make_epochs("b"), provenance=provenance())
    assert load_records(tmp_path)["run"].unique().tolist() == ["a", "b"]
    path.unlink()
    assert load_records(tmp_path)["run"].unique().tolist() == ["b"]
    other.write_bytes(bytes(other.stat().st_size))
    with pytest.raises(ValueError, match="is broken"):
        load_records(tmp_path)


def test_an_empty_folder_gives_an_empty_table_with_the_schema(tmp_path):
    read = load_records(tmp_path)
    assert len(read) == 0 and list(read.columns) == list(COLUMNS)
    assert list(load_measures(tmp_path, measure="factors").columns) == list(MEASURE_COLUMNS)
    assert load_provenance(tmp_path).empty
    with pytest.raises(FileNotFoundError, match="no folder of records"):
        load_records(tmp_path / "elsewhere")


def test_filters(tmp_path):
    for seed, method in enumerate(["vanilla", "swr", "l2"]):
        frame = make_epochs(method, method=method, seed=seed, lam=seed * 1e-3 or None)
        write_job(tmp_path, frame, provenance=provenance())
    found = lambda **filters: load_records(tmp_path, **filters)["method"].unique().tolist()  # noqa: E731
    assert found(method="swr") == ["swr"]
    assert found(method=["vanilla", "l2"]) == found(seed=(0, 2)) == ["l2", "vanilla"]
    assert found(seed=range(2), lam=1e-3) == ["swr"]
    assert found(lam=None) == ["vanilla"]
    assert found(dataset="mnist") == []
    with pytest.raises(ValueError, match="no column 'metod': did you mean 'method'"):
        found(metod="swr")
    with pytest.raises(ValueError, match="no column 'zzz': known are run, "):
        found(zzz=1)


def test_the_newest_file_of_a_run_wins_whatever_its_time_or_name(tmp_path):
    both = pd.concat([make_epochs("a", test_accuracy=0.5), make_epochs("b", test_accuracy=0.5)])
    new = write_job(tmp_path, both, provenance=dated("2026-02-01T00:00:00+00:00"))
    old = write_job(
        tmp_path,
        make_epochs("a", test_accuracy=0.25),
        provenance=dated("2026-01-01T00:00:00+00:00"),
    )
    os.utime(new, (0, 0))
    read = load_records(tmp_path)
    assert len(read) == 6 and (read["test_accuracy"] == 0.5).all()
    newer = make_epochs("b", test_accuracy=0.75)
    write_job(tmp_path, newer, make_measures("b"), provenance=dated("2026-03-01T00:00:00+00:00"))
    accuracy = load_records(tmp_path).groupby("run")["test_accuracy"].first()
    assert accuracy.to_dict() == {"a": 0.5, "b": 0.75}
    jobs = load_provenance(tmp_path).set_index("run")["job"]
    assert jobs["a"] == new.name and old.name not in set(jobs)


def test_both_tables_come_from_the_newest_file_that_has_both(tmp_path):
    def write(accuracy, value, measures, date):
        tables = [make_measures(measure=name, value=value) for name in measures]
        write_job(
            tmp_path,
            make_epochs(test_accuracy=accuracy),
            pd.concat(tables) if tables else None,
            provenance=dated(f"2026-0{date}-01T00:00:00+00:00"),
        )

    write(0.125, 1.0, ["factors"], 1)
    write(0.25, 2.0, ["factors", "growth"], 2)
    write(0.5, 3.0, ["growth"], 3)
    write(0.75, None, [], 4)
    assert len(list(tmp_path.glob("*.parquet"))) == 4  # no job has replaced another

    assert (load_records(tmp_path)["test_accuracy"] == 0.75).all()
    for names, accuracy, value in [
        ("factors", 0.25, 2.0),
        (["growth"], 0.5, 3.0),
        (["factors", "growth"], 0.25, 2.0),
    ]:
        assert (load_records(tmp_path, measures=names)["test_accuracy"] == accuracy).all()
        assert (load_measures(tmp_path, measure=names)["value"] == value).all()
    assert load_records(tmp_path, measures="balance").empty
    assert (load_measures(tmp_path)["value"] == 3.0).all()
    assert len(load_measures(tmp_path, measure="growth", layer="2", method="swr")) == 1
    assert load_measures(tmp_path, method="l2").empty


# -------------------------------------------------------------------------------------- missing


def test_missing_runs_go_by_hash_and_measures_alone(tmp_path):
    assert missing_runs(["b", "a"], tmp_path / "not yet") == ["b", "a"]
    path = write_job(tmp_path, make_epochs("a"), provenance=provenance())
    os.utime(path, (0, 0))
    assert missing_runs(["b", "a"], tmp_path) == ["b"]
    assert missing_runs(["a"], tmp_path, measures=["factors"]) == ["a"]
    write_job(tmp_path, make_epochs("a"), make_measures("a"), provenance=provenance())
    assert missing_runs(["a"], tmp_path, measures="factors") == []
    assert missing_runs(["a"], tmp_path, measures=["factors", "growth"]) == ["a"]


def test_a_measure_without_values_counts_as_measured(tmp_path):
    write_job(tmp_path, make_epochs("a"), provenance=provenance(), measured=["factors"])
    assert missing_runs(["a"], tmp_path, measures=["factors"]) == []
    assert load_measures(tmp_path, measure="factors").empty
    assert len(load_records(tmp_path, measures="factors")) == 3


# --------------------------------------------------------------------- whole files or none


def test_writing_a_job_twice_replaces_it(tmp_path):
    runs = pd.concat([make_epochs("b"), make_epochs("a")])
    first = write_job(tmp_path, runs, make_measures("a"), provenance=provenance())
    again = write_job(
        tmp_path, runs.iloc[::-1], make_measures("a", value=0.75), provenance=provenance()
    )
    assert first == again
    files = {p for p in tmp_path.rglob("*") if p.is_file()}
    assert files == {first, tmp_path / "_measures" / first.name}
    assert (load_measures(tmp_path)["value"] == 0.75).all()


def test_an_interrupted_job_does_not_exist(tmp_path, monkeypatch):
    replaced = []

    def replace(source, target):
        replaced.append(target)
        if len(replaced) == 2:
            raise KeyboardInterrupt
        os.rename(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        write_job(tmp_path, make_epochs(), make_measures(), provenance=provenance())
    # The run file is the last, and no temporary file is left.
    assert [path.parent for path in replaced] == [tmp_path / "_measures", tmp_path]
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == replaced[:1]
    assert load_records(tmp_path).empty and load_measures(tmp_path).empty
    assert missing_runs(["a" * 16], tmp_path, measures=["factors"]) == ["a" * 16]


def test_a_full_disk_is_told_and_leaves_what_was_there(tmp_path):
    path = write_job(tmp_path, make_epochs(), provenance=provenance())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError) as caught:
            write_job(tmp_path, make_epochs(test_accuracy=0.5), provenance=provenance())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    message = str(caught.value)
    assert f"{path} cannot be written" in message and "make room" in message
    assert "\n" not in message and ". " not in message
    assert (load_records(tmp_path)["test_accuracy"] == 0.9375).all()
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_leaves_is_ignored(tmp_path):
    path = write_job(tmp_path, make_epochs(), provenance=provenance())
    (tmp_path / f".{path.name}.0123.tmp").write_bytes(path.read_bytes()[:100])
    assert len(load_records(tmp_path)) == 3


def _write_many(folder, numbers):
    for number in numbers:
        write_job(folder, make_epochs(f"{number:016x}"), provenance=provenance())


def test_processes_write_side_by_side(tmp_path):
    fork = get_context("fork")
    numbers = (range(20), range(10, 30))  # ten jobs are written by both
    writers = [fork.Process(target=_write_many, args=(tmp_path, n)) for n in numbers]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert len(load_records(tmp_path)) % 3 == 0  # whole jobs only, at any moment
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    assert load_records(tmp_path)["run"].nunique() == 30
    assert not [p for p in tmp_path.iterdir() if p.suffix == ".tmp"]


# -------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize("keep", [0, 3, 500, -1, -300])
def test_a_truncated_file_is_named(tmp_path, keep):
    path = write_job(tmp_path, make_epochs(), provenance=provenance())
    path.write_bytes(path.read_bytes()[:keep])
    for read in (load_records, lambda folder: missing_runs(["a"], folder)):
        with pytest.raises(ValueError, match=f"{path.name} is broken .*; remove {path.name} from"):
            read(tmp_path)


def test_lost_measures_are_named(tmp_path):
    path = write_job(tmp_path, make_epochs(), make_measures(), provenance=provenance())
    measures = tmp_path / "_measures" / path.name
    measures.unlink()
    with pytest.raises(ValueError, match=f"{measures} is broken .*; remove {path.name} from"):
        load_measures(tmp_path)
    path.unlink()  # what the sentence says helps
    assert load_measures(tmp_path).empty


@pytest.mark.parametrize("which", ["runs", "measures"])
def test_no_flipped_bit_goes_unseen(which, tmp_path):
    """Whatever bit is flipped: an error that names the file, or the same values as before."""
    job = write_job(
        tmp_path,
        make_epochs(),
        make_measures(),
        provenance=provenance(),
        configurations={"a" * 16: {"seed": 0}},
    )
    path = job if which == "runs" else tmp_path / "_measures" / job.name

    def everything():
        table = load_records(tmp_path) if which == "runs" else load_measures(tmp_path)
        about = load_provenance(tmp_path), load_configuration("a" * 16, tmp_path)
        return table.to_json(), about[0].to_json(), about[1], missing_runs(["a" * 16], tmp_path)

    whole, expected = path.read_bytes(), everything()
    unseen = 0
    for place in np.random.default_rng(0).choice(8 * len(whole), 400, replace=False):
        content = bytearray(whole)
        content[place // 8] ^= 1 << place % 8
        path.write_bytes(content)
        try:
            assert everything() == expected
            unseen += 1
        except ValueError as error:
            assert f"{path} is broken" in str(error) and f"remove {job.name} from" in str(error)
    assert unseen < 8  # in what marks the digest alone


def test_pages_have_checksums_for_other_readers(tmp_path):
    path = write_job(tmp_path, make_epochs(), provenance=provenance())
    column = pq.read_metadata(path).row_group(0).column(list(COLUMNS).index("test_loss"))
    content = bytearray(path.read_bytes())
    content[column.dictionary_page_offset + column.total_compressed_size - 1] ^= 1
    path.write_bytes(content)
    with pytest.raises(OSError, match="CRC"):
        pq.ParquetFile(path, page_checksum_verification=True).read()


def test_the_committed_records_are_what_was_committed(root):
    """Each holds its digest or, if it is older than these, stands in the list of checksums."""
    results = root / "results"
    lines = (results / "_checksums.txt").read_text().splitlines()
    listed = {name: checksum for checksum, name in map(str.split, lines)}
    for path in results.rglob("*.parquet"):
        content, name = path.read_bytes(), path.relative_to(results).as_posix()
        if name in listed:
            assert hashlib.sha256(content).hexdigest() == listed.pop(name), name
        else:
            assert records.SEAL in content, f"{name} has no digest: list what sha256sum says of it"
    assert not listed, "these are listed and not there"
    load_records(results), load_measures(results)  # which check the digests


# --------------------------------------------------------------------------------------- layout


def test_other_programs_read_the_runs_by_the_obvious_pattern(root, tmp_path):
    """Measures and measurements are not among them; each row is there once."""
    shutil.copytree(root / "results", tmp_path / "results")
    folder = tmp_path / "results"
    write_job(folder, make_epochs(), make_measures(), provenance=provenance())
    expected = sorted(load_records(folder)[["run", "epoch"]].itertuples(index=False, name=None))

    def rows(frame):
        assert {"test_accuracy", "weight_norms"} <= set(frame.columns)
        return sorted(frame[["run", "epoch"]].itertuples(index=False, name=None))

    assert rows(pd.read_parquet(folder)) == expected
    assert rows(pd.read_parquet(f"{folder}/")) == expected


def test_polars_reads_the_runs(root):
    polars = pytest.importorskip("polars")
    pattern = f"{root}/results/*.parquet"
    options = {"missing_columns": "insert", "extra_columns": "ignore"}
    expected = load_records(root / "results")
    assert polars.scan_parquet(pattern, **options).collect().shape == (len(expected), len(COLUMNS))
    tables = map(polars.read_parquet, glob.glob(pattern))
    assert polars.concat(tables, how="diagonal_relaxed").shape == expected.shape


def test_duckdb_reads_the_runs(root):
    duckdb = pytest.importorskip("duckdb")
    pattern = f"{root}/results/*.parquet"
    expected = load_records(root / "results")
    assert len(duckdb.sql(f"SELECT run FROM '{pattern}'").fetchall()) == len(expected)
    found = duckdb.sql(f"SELECT * FROM read_parquet('{pattern}', union_by_name = true)")
    assert set(found.columns) == set(expected.columns)
    assert len(found.fetchall()) == len(expected)


@pytest.mark.parametrize("name", ["._0123456789abcdef.parquet", "_more.parquet"])
def test_hidden_files_are_no_records(name, tmp_path):
    write_job(tmp_path, make_epochs(), provenance=provenance())
    (tmp_path / name).write_bytes(b"what a file manager leaves")
    assert len(load_records(tmp_path)) == 3


@pytest.mark.parametrize("name", ["my.own.parquet", "two words.parquet"])
def test_the_remedy_names_the_file(name, tmp_path):
    (tmp_path / name).write_bytes(b"no table")
    with pytest.raises(ValueError, match=f"remove {name} from"):
        load_records(tmp_path)


def test_a_foreign_file_is_named(tmp_path):
    make_epochs().to_parquet(tmp_path / "other.parquet")
    with pytest.raises(ValueError, match=r"other\.parquet is .* no record of swrlib"):
        load_records(tmp_path)


def test_bad_tables_leave_nothing_behind(tmp_path):
    good = make_epochs()
    for words, tables in [
        ("'seed' .* is not found", [good.drop(columns="seed")]),
        ("column seed", [good.assign(seed="zero")]),
        ("column seed", [good.assign(seed=0.5)]),
        ("occurs twice", [pd.concat([good, good])]),
        ("'value' .* is not found", [good, make_measures().drop(columns="value")]),
    ]:
        with pytest.raises(ValueError, match=words):
            write_job(tmp_path / "results", *tables, provenance=provenance())
        assert not (tmp_path / "results").exists()


# ----------------------------------------------------------------------------------- provenance


def test_provenance_is_stored_and_complete(tmp_path):
    origin = provenance(device="a GPU")
    path = write_job(tmp_path, make_epochs(), provenance=origin)
    assert read_provenance(path) == origin
    assert set(origin) >= {"commit", "dirty", "python", "torch", "pandas", "pyarrow", "swrlib"}
    assert origin["device"] == "a GPU" and origin["processor"] and origin["torch"]
    assert pd.Timestamp(origin["date"]).utcoffset().total_seconds() == 0
    row = load_provenance(tmp_path).iloc[0]
    assert (row["run"], row["job"], row["device"]) == ("a" * 16, path.name, "a GPU")


def test_the_command_names_no_folder_of_the_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["-m", "swrlib", f"--results={tmp_path}/results", "/elsewhere/x", "λ=1 0"]
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, *arguments])
    assert provenance()["command"] == "python -m swrlib --results=results x 'λ=1 0'"


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_is_swrlibs_own(tmp_path, monkeypatch):
    """Neither records nor a stranger's repository around an installed copy make it dirty."""
    copy = tmp_path / "swrlib" / "provenance.py"
    copy.parent.mkdir()
    copy.write_text("")
    monkeypatch.setattr(origin, "__file__", str(copy))

    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", *who, *arguments]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60)

    def found():
        origin = provenance()
        return origin["commit"], origin["dirty"]

    git("init")
    assert found() == (None, None)
    git("add", ".")
    git("commit", "-m", "first")
    commit, dirty = found()
    assert len(commit) == 40 and dirty is False
    (tmp_path / "new.parquet").touch()
    assert found() == (commit, False)
    copy.write_text("changed")
    assert found() == (commit, True)


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_checkout_that_git_does_not_trust_is_told_once_with_the_remedy(tmp_path, monkeypatch):
    copy = tmp_path / "my checkout" / "swrlib" / "provenance.py"
    copy.parent.mkdir(parents=True)
    copy.write_text("")
    checkout = copy.parents[1]
    for name in (
        "GIT_AUTHOR_NAME",
        "GIT_COMMITTER_NAME",
        "GIT_AUTHOR_EMAIL",
        "GIT_COMMITTER_EMAIL",
    ):
        monkeypatch.setenv(name, "a@b")
    for command in (["init"], ["add", "."], ["commit", "-m", "first"]):
        subprocess.run(["git", *command], cwd=checkout, check=True, capture_output=True, timeout=60)
    monkeypatch.setattr(origin, "__file__", str(copy))
    commit = provenance()["commit"]
    assert len(commit) == 40
    # git's own switch: as if the checkout belonged to somebody else.
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    origin.warn_of_no_commit.cache_clear()
    with pytest.warns(UserWarning, match="dubious ownership") as caught:
        assert [provenance()["commit"], provenance()["commit"]] == [None, None]
    (warning,) = caught
    message = str(warning.message)
    assert "\n" not in message
    remedy = message.split("`")[1]
    subprocess.run(shlex.split(remedy), check=True, timeout=60)  # what the sentence says helps
    assert provenance()["commit"] == commit


def test_whatever_else_git_says_is_told(tmp_path, monkeypatch):
    if shutil.which("git") is None:
        pytest.skip("needs git")
    copy = tmp_path / "swrlib" / "provenance.py"
    copy.parent.mkdir()
    copy.write_text("")
    subprocess.run(["git", "init"], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    (tmp_path / ".git" / "config").write_text("[core")
    monkeypatch.setattr(origin, "__file__", str(copy))
    with pytest.warns(UserWarning, match="commit is not recorded, since git says .*config"):
        assert provenance()["commit"] is None


def test_without_git_or_a_repository_nothing_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(origin, "__file__", str(tmp_path / "provenance.py"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert provenance()["commit"] is None
        monkeypatch.setenv("PATH", str(tmp_path))
        assert provenance()["commit"] is None


def test_a_hash_can_be_looked_up(tmp_path):
    configuration = {"seed": 0, "method": {"name": "swr", "lam": 1e-4}}
    run = run_hash(configuration)
    write_job(
        tmp_path,
        make_epochs(run),
        provenance=provenance(),
        configurations={run: configuration},
    )
    assert load_configuration(run, tmp_path) == configuration
    assert run_hash(load_configuration(run, tmp_path)) == run
    with pytest.raises(ValueError, match="no record here holds the run '0'"):
        load_configuration("0", tmp_path)


def test_the_projects_own_records_are_found_from_below(tmp_path, monkeypatch):
    monkeypatch.delenv("SWR_RESULTS", raising=False)
    (tmp_path / "results").mkdir()
    (tmp_path / "_config.yml").touch()
    below = tmp_path / "notebooks" / "results"  # not beside a _config.yml
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert results_folder() == tmp_path / "results"
    write_job(results_folder(), make_epochs(), provenance=provenance())
    assert len(load_records()) == 3
    monkeypatch.setenv("SWR_RESULTS", str(below))
    assert load_records().empty
    monkeypatch.setenv("SWR_RESULTS", str(below / "missing"))
    with pytest.raises(FileNotFoundError, match="missing"):
        load_records()
    monkeypatch.delenv("SWR_RESULTS")
    (tmp_path / "_config.yml").unlink()
    with pytest.raises(
        FileNotFoundError, match="set the environment variable SWR_RESULTS"
    ) as caught:
        load_records()
    assert "results=" not in str(caught.value)  # which not every caller of this takes
