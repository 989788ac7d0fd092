"""Records: hashes, atomic writing, reading, what is missing."""

import os
import shutil
import subprocess
import sys
from multiprocessing import get_context

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swrlib import records
from swrlib.records import (
    COLUMNS,
    MEASURE_COLUMNS,
    load_configuration,
    load_measures,
    load_provenance,
    load_records,
    missing_runs,
    provenance,
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
    assert len(list(tmp_path.glob("*.parquet"))) == 7  # no job has replaced another

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
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == sorted([f"{first.stem}.parquet", f"{first.stem}.measures.parquet"])
    assert (load_measures(tmp_path)["value"] == 0.75).all()


def test_an_interrupted_job_does_not_exist(tmp_path, monkeypatch):
    replaced = []

    def replace(source, target):
        replaced.append(target.name)
        if len(replaced) == 2:
            raise KeyboardInterrupt
        os.rename(source, target)

    monkeypatch.setattr(records.os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        write_job(tmp_path, make_epochs(), make_measures(), provenance=provenance())
    assert [".measures." in name for name in replaced] == [True, False]  # the run file is the last
    assert [p.name for p in tmp_path.iterdir()] == replaced[:1]  # and no temporary file is left
    assert load_records(tmp_path).empty and load_measures(tmp_path).empty
    assert missing_runs(["a" * 16], tmp_path, measures=["factors"]) == ["a" * 16]


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


def test_damaged_pages_and_lost_measures_are_named(tmp_path):
    path = write_job(tmp_path, make_epochs(), make_measures(), provenance=provenance())
    content = bytearray(path.read_bytes())
    content[4:400] = bytes(396)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path.name} is broken"):
        load_records(tmp_path)
    path.with_suffix(".measures.parquet").unlink()
    with pytest.raises(ValueError, match=f"measures.parquet is broken .*; remove {path.name} from"):
        load_measures(tmp_path)


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
    copy = tmp_path / "swrlib" / "records.py"
    copy.parent.mkdir()
    copy.write_text("")
    monkeypatch.setattr(records, "__file__", str(copy))

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
    with pytest.raises(FileNotFoundError, match="set SWR_RESULTS"):
        load_records()
