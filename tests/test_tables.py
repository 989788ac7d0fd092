"""Tables and badges: what they show is what the records hold, and nobody's text becomes HTML."""

import html
import re

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest
from IPython.utils.capture import capture_output

from swrlib import load_records, tables, train, verdicts
from swrlib.papers import SWR as paper

pytestmark = pytest.mark.usefixtures("shell")


def shown(function, *arguments, **options) -> str:
    with capture_output() as captured:
        function(*arguments, **options)
    return " ".join(output.data.get("text/html", "") for output in captured.outputs)


def lines(text: str) -> dict[str, list[str]]:
    """Return the cells of each line of a table by the line's name."""
    rows = re.findall(r"<tr>\s*<th[^>]*row_heading[^>]*>([^<]+)</th>(.*?)</tr>", text, re.S)
    return {name: re.findall(r"<td[^>]*>(.*?)</td>", row, re.S) for name, row in rows}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    return train(
        dataset="mnist-5k",
        model="mlp",
        stream="single-task",
        methods=["vanilla", "swr", "l2", "adamw:1e-2"],
        seeds=[0, 1],
        epochs=1,
        results=folder,
        checkpoints=folder / "checkpoints",
        progress=False,
    )


@pytest.fixture(scope="module")
def committed(root):
    return load_records(root / "results", stream="single-task", scale="paper", split="all")


def test_numbers_of_rows_are_not_shown_and_names_are():
    rows = pd.DataFrame({"a": [0.5, 0.25]})
    assert "row_heading" not in shown(tables.show, "Two:", rows, "{:.2f}")
    assert [*lines(shown(tables.show, "Two:", rows.set_axis(["one", "two"])))] == ["one", "two"]


def test_badges_say_their_word():
    for verdict in ("reproduced", "not reproduced", verdicts.QUICK, "slightly higher by 0.1"):
        assert verdict in tables.badge(verdict)
    assert "verdict-not-reproduced" in tables.badge("not reproduced")
    assert "verdict-quick" in tables.badge(verdicts.QUICK)


def test_a_pages_own_runs_are_told_apart_from_the_papers():
    claim, other = paper.find_claim("decay-pull"), paper.find_claim("growth-prevented")
    values = [pd.Series([0.1, 0.2, 0.3]), pd.Series([0.0, 0.1, 0.1])]
    verdict = verdicts.judge_cases(claim, [verdicts.of_two("a < b", *values, 0.1)], scale="quick")
    quick, whole = (pd.DataFrame({"scale": [s], "dataset": "mnist"}) for s in ("quick", "paper"))
    text = shown(tables.own_runs, [verdict], quick)
    assert "This page's own runs" in text and "a &lt; b" in text and "verdict-quick" in text
    assert shown(tables.own_runs, [verdict], whole) == "" == shown(tables.own_runs, [], quick)
    # Of several claims each one's sentence is given.
    case = verdicts.of_two("c", *values, 0.1)
    several = [verdict, verdicts.judge_cases(other, [case], scale="quick")]
    text = shown(tables.own_runs, several, quick)
    assert "own runs, on MNIST" in text and text.count("<li>") == 2 and "verdict-quick" in text
    assert html.escape(f"{other.sentence} c:") in text and "a &lt; b" in text


def test_a_table_has_a_dash_for_what_is_missing_and_shows_nobodys_text_as_html():
    table = pd.DataFrame({"x": [np.nan, 0.5, 3], "y": ["<b>", "ok", None]}, index=["<i>", "b", "c"])
    text = shown(tables.show, "title <u>", table, "{:.2f}")
    assert "title &lt;u&gt;" in text and "<b>" not in text and "<i>" not in text
    assert lines(text) == {"&lt;i&gt;": ["–", "&lt;b&gt;"], "b": ["0.50", "ok"], "c": ["3.00", "–"]}
    assert text.index('<div class="table-container">') < text.index('class="dataframe"')
    assert "–" in shown(tables.show, "none", table[:0])
    numbers = pd.DataFrame({"n": np.array([2], dtype=np.float32)}, index=["a"])
    assert lines(shown(tables.show, "", numbers, "{:.1f}")) == {"a": ["2.0"]}


def test_cells_show_the_verdict_and_fold_what_was_not_run(committed):
    found = verdicts.table_cells(committed, 1)
    text = shown(tables.cells, found)
    assert "cells not run" in text and "MNIST MLP" in text and 'class="verdict' in text
    run = text.split("<details>")[0]
    rows = [
        re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>.*?</tr>", run, re.S)
    ]
    (row,) = found.query("dataset == 'mnist' and model == 'mlp' and method == 'swr'").itertuples()
    (swr,) = [cells for cells in rows[1:] if cells[0] == "SWR"][:1]
    assert swr[1] == tables.badge(row.verdict)
    assert swr[2] == f"{100 * row.ours_mean:.2f} ± {100 * row.ours_sd:.2f} ({row.n})"
    assert swr[4] == verdicts.in_points(row.difference, row.low, row.high, unit="")
    assert verdicts.in_points(np.nan, np.nan, np.nan) == "–"
    assert rows[1] == ["MNIST MLP", "", "", "", ""], "a line of its own names the setting"
    assert "font-weight: bold" in text
    assert "vanilla" in shown(tables.cells, verdicts.table_cells(committed[:0], 1))


def test_a_spike_in_the_last_epoch_is_seen_beside_the_last_ten(records):
    again = records[records["epoch"] == 1].assign(epoch=2, stage_epoch=2)
    records = pd.concat([records, again], ignore_index=True).assign(test_accuracy=0.5)
    spike = records["epoch"] == 2
    records.loc[spike & (records["method"] == "swr"), "test_accuracy"] = 0.9
    records.loc[~spike & (records["method"] == "vanilla"), "test_accuracy"] = 0.95
    text = shown(tables.finals, records)
    found = lines(text)
    last = verdicts.final_accuracy(records).groupby("method")["test_accuracy"].mean()
    trained = records[records["epoch"] > 0]  # an untrained network's does not count
    late = trained.groupby(["method", "run"])["test_accuracy"].mean().groupby("method").mean()
    for method, name in ((m, paper.label(m)) for m in last.index):
        assert found[name][2].startswith(f"{100 * last[method]:.2f} ± ")
        assert found[name][0].startswith(f"{100 * late[method]:.2f} ± ")
    gap = 100 * (late["swr"] - late["vanilla"])
    assert found["SWR"][1] == f"{gap:+.2f}" and "–" in found["vanilla"], "two seeds: no interval"
    third = records[records["seed"] == 0].assign(seed=2, run="third" + records["run"])
    found = lines(shown(tables.finals, pd.concat([records, third])))
    assert re.fullmatch(r"[+-]\d+\.\d\d \[[+-]\d+\.\d\d, [+-]\d+\.\d\d\]", found["SWR"][1])
    assert "SWR is the most accurate method in the last epoch, vanilla over the last 2" in text
    assert "over the last" not in shown(tables.finals, records[spike])
    assert "last 2 epochs, %" in text, "a stage of two epochs has no last ten"
    assert "last 10" not in text


def test_a_run_that_collapsed_is_named_beside_its_table(records):
    assert "collapsed" not in shown(tables.finals, records)
    seeds = pd.concat(
        [records.assign(seed=seed, run=f"{seed}" + records["run"]) for seed in (0, 1, 2)]
    )
    lost = (seeds["method"] == "vanilla") & (seeds["seed"] == 1)
    text = shown(tables.finals, seeds.assign(test_accuracy=0.8 - 0.7 * lost))
    assert "vanilla ended at 10.0% with seed 1 (the mean of the others is 80.0%)" in text
    assert text.count("collapsed") == 1


def test_a_difference_needs_what_it_is_a_difference_from(records):
    """Where vanilla was not trained, or not with two of the seeds, there is a dash."""

    def differences(frame):
        text = shown(tables.finals, frame)
        return text, {name: cells[1] for name, cells in lines(text).items()}

    text, found = differences(records)
    assert "–" not in found["SWR"]
    text, found = differences(records[records["method"] != "vanilla"])
    assert set(found) == {"SWR", "L2", paper.label("adamw")}
    assert set(found.values()) == {"–"}
    assert "Vanilla was not trained here" in text
    one = (records["method"] == "vanilla") & (records["seed"] == 1)
    _, found = differences(records[~one])
    assert found["SWR"] == "–"


def test_the_most_accurate_method_is_sought_on_seeds_that_all_have(records):
    """A seed that only one method has, and that is good for all, makes it no better."""
    again = records[records["epoch"] == 1].assign(epoch=2, stage_epoch=2)
    rows = pd.concat([records, again], ignore_index=True).assign(test_accuracy=0.5)
    rows.loc[(rows["epoch"] == 2) & (rows["method"] == "l2"), "test_accuracy"] = 0.6
    rows.loc[(rows["epoch"] == 1) & (rows["method"] == "vanilla"), "test_accuracy"] = 0.8
    rows.loc[rows["seed"] == 1, "test_accuracy"] = 0.9
    lucky = rows[(rows["seed"] == 0) | (rows["method"] == "swr")]
    text = shown(tables.finals, lucky)
    assert "1–2 seeds" in text
    assert "L2 is the most accurate method in the last epoch, vanilla over the last 2" in text


def test_provenance_counts_the_runs(committed):
    committed = committed.query("method == 'swr' and dataset == 'mnist'")
    text = shown(tables.provenance, committed)
    assert "commit" in text and committed["run"].nunique() == 5 and "runs" in text
    assert "make paper" in shown(tables.provenance, committed[:0])


def test_what_was_not_run_says_what_it_would_take():
    claim = paper.claims[0]
    waiting = verdicts.Verdict(claim, verdicts.NOT_RUN, verdicts.NOT_RUN, "a <day>", "")
    judged = verdicts.Verdict(paper.claims[1], "reproduced", "reproduced", "numbers", "")
    text = shown(tables.not_run, [waiting, judged])
    assert "a &lt;day&gt;" in text and claim.place in html.unescape(text)
    assert "numbers" not in text
    assert "Every claim was run." in shown(tables.not_run, [judged])


def test_times_are_means_over_runs():
    rows = pd.DataFrame({"run": ["a", "a", "b"], "seconds": [1.0, 3.0, 4.0], "rate": ["x"] * 3})
    assert "X 3 s (2 runs)." in tables.times(rows, "rate", {"x": "X"})
