"""The rule for streams of tasks: made-up records of every outcome, and how often it errs."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from swrlib import tables
from swrlib.claims import simulation, task_simulation
from swrlib.papers import Claim
from swrlib.statistics import contrast, mean_of
from swrlib.verdicts import NOT_RUN, TOO_FEW_SEEDS, Case, second_rule, task_rule
from swrlib.verdicts.task_rule import Scope, judge, lead_case, onset_case, summarized

CLAIM = Claim("made-up", "course", "Section 6", "A sentence.")
WHOLE = Scope(100, 100, 0)


def made_up(levels, *, tasks=30, seeds=5, noise=0.003, onset=None, value="error"):
    """Return rows of methods whose value jumps from 0 to a level at a task."""
    random, rows = np.random.default_rng(0), []
    for method, level in levels.items():
        for seed in range(seeds):
            at = (onset or {}).get(method, 1)
            at = at[seed] if isinstance(at, list) else at
            for task in range(1, tasks + 1):
                height = (level if task >= at else 0.0) + noise * abs(random.standard_normal())
                rows.append({"method": method, "seed": seed, "task": task, value: height})
    return pd.DataFrame(rows)


def change_case(rows, method="a", sign=1.0):
    values = task_rule.wide(summarized(rows, "error"), "change")
    return Case("loss", values, {method: sign}, task_rule.MARGINS["error"])


# -------------------------------------------------------------------- from records to numbers


def records(accuracies, *, method="vanilla", seed=0, diverged_at=None, run=None):
    rows = []
    for task, (end, online) in enumerate(accuracies, start=1):
        rows.append(
            {
                "run": run or f"{method}{seed}",
                "dataset": "mnist",
                "model": "mlp",
                "stream": "label-shuffled",
                "method": method,
                "seed": seed,
                "epochs": 10 * len(accuracies),
                "stage": task,
                "epoch": 10 * task,
                "task_accuracy": end,
                "train_accuracy": online,
                "diverged": task == diverged_at,
            }
        )
        if task == diverged_at:
            break
    start = rows[0] | {"epoch": 0, "train_accuracy": math.nan}
    return pd.DataFrame([start, *rows])


def test_a_row_a_task_and_nothing_learnt_after_a_divergence():
    whole = records([(0.9, 0.5), (0.8, 0.4), (0.7, 0.3)])
    lost = records([(0.9, 0.5), (math.nan, 0.4), (0.7, 0.3)], seed=1, diverged_at=2)
    rows = task_rule.task_rows(pd.concat([whole, lost]))
    table = rows.pivot(index="task", columns="seed", values="error")
    assert table[0].tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert table[1].tolist() == pytest.approx([0.1, 1.0, 1.0])
    online = rows.pivot(index="task", columns="seed", values="online")
    assert online[0].tolist() == pytest.approx([0.5, 0.4, 0.3])
    assert online[1].tolist() == pytest.approx([0.5, 0.0, 0.0])


def test_what_is_measured_at_a_start_stands_in_the_task_that_starts():
    rows = task_rule.task_rows(records([(0.9, 0.5), (0.8, 0.4), (0.7, 0.3)]))
    measures = pd.DataFrame(
        [
            {"run": "vanilla0", "epoch": epoch, "step": 0, "measure": measure, "layer": layer}
            | {"value": float(epoch + (layer == "srank"))}
            for measure, epochs in (("hessian-start", (0, 10, 20)), ("weights-end", (10, 20, 30)))
            for epoch in epochs
            for layer in ("srank", "")
        ]
    )
    other = measures.assign(run="nobody's")
    table = task_rule.measured_by_task(pd.concat([measures, other]), rows).set_index("task")
    assert table["hessian-start, srank"].tolist() == [1, 11, 21]
    assert table["weights-end"].tolist() == [10, 20, 30]
    assert len(table) == 3
    assert task_rule.measured_by_task(other, rows) is rows


def test_the_numbers_of_a_run_are_those_of_the_page():
    error = [0.0, 0.02, 0.05, 0.11, 0.09, 0.5, 0.7, 0.9, 0.8, 0.6, 0.4]
    run = pd.DataFrame({"method": "a", "seed": 0, "task": range(1, 12), "error": error})
    sums = summarized(run, "error").loc[("a", 0)]
    assert sums["start"] == pytest.approx(0.01)
    assert sums["late"] == pytest.approx((0.8 + 0.6 + 0.4) / 3)  # a fifth of 11, rounded up
    assert sums["change"] == pytest.approx(sums["late"] - 0.01)
    slope = stats.linregress(range(1, 12), error).slope
    assert sums["trend"] == pytest.approx(10 * slope / 0.01)
    assert sums["onset"] == 4 and not sums["censored"] and sums["tasks"] == 11
    rank = run.assign(error=[100, 80, 46, 44, 90, *[60] * 6])
    found = summarized(rank, "error").loc[("a", 0)]
    assert found["fallen"] == 4 and not found["never"]
    still = summarized(run.assign(error=0.05), "error").loc[("a", 0)]
    assert still["onset"] == 12 and still["censored"] and still["fallen"] == 12 and still["never"]
    short = summarized(run[run["task"] < 3], "error").loc[("a", 0)]
    assert math.isnan(short["change"]) and short["tasks"] == 2
    assert not len(summarized(run[:0], "error"))


# ------------------------------------------------------------------------------ every word


@pytest.mark.parametrize(
    ("levels", "onset", "kind", "word"),
    [
        ({"a": 0.6, "b": 0.0}, {"a": 8}, "above", second_rule.REPRODUCED),
        ({"a": 0.0, "b": 0.0}, {}, "above", second_rule.NO_EFFECT),
        ({"a": 0.6, "b": 0.0}, {"a": [8, 60, 9, 60, 60]}, "above", second_rule.UNDECIDED),
        ({"a": 0.0, "b": 0.0}, {}, "little", second_rule.REPRODUCED),
        ({"a": 0.6, "b": 0.0}, {"a": 8}, "little", second_rule.NOT_REPRODUCED),
        ({"a": 0.6, "b": 0.0}, {"a": [8, 60, 9, 60, 60]}, "little", second_rule.UNDECIDED),
    ],
)
def test_every_word_on_a_loss_of_plasticity(levels, onset, kind, word):
    case = change_case(made_up(levels, onset=onset))
    found = judge(CLAIM, [case], WHOLE, kind=kind)
    assert (found.verdict, found.label) == (word, word)
    assert "n = 5" in found.detail


def test_an_improvement_reverses_a_claimed_loss():
    case = change_case(made_up({"a": 0.6}, onset={"a": 8}), sign=-1.0)
    assert judge(CLAIM, [case], WHOLE).verdict == second_rule.REVERSED


def test_three_seeds_never_rule_a_size_that_matters_out():
    rows = made_up({"a": 0.0, "b": 0.6}, onset={"b": 8}, seeds=3)
    kept, lost = change_case(rows), change_case(rows, "b")
    for case, kind in ((kept, "above"), (kept, "little"), (kept, "same"), (kept, "not below")):
        assert judge(CLAIM, [case], WHOLE, kind=kind).verdict == second_rule.UNDECIDED
    assert judge(CLAIM, [lost], WHOLE).verdict == second_rule.REPRODUCED
    assert judge(CLAIM, [lost], WHOLE, kind="little").verdict == second_rule.NOT_REPRODUCED


def test_three_seeds_do_say_that_something_moves_the_other_way():
    rows = made_up({"a": 0.6, "b": 0.0}, onset={"a": 8}, seeds=3)
    falls, grows = change_case(rows, sign=-1.0), change_case(rows)
    assert judge(CLAIM, [falls], WHOLE, kind="little").verdict == second_rule.REPRODUCED
    assert judge(CLAIM, [grows], WHOLE, kind="not below").verdict == second_rule.REPRODUCED
    assert judge(CLAIM, [grows], WHOLE, kind="same").verdict == second_rule.NOT_REPRODUCED


def test_two_runs_of_one_method_and_seed_are_refused():
    rows = made_up({"a": 0.6})
    with pytest.raises(ValueError, match="several runs of 'a' with one seed"):
        summarized(pd.concat([rows, rows]), "error")


def test_two_methods_are_compared_in_the_setting_s_block_design():
    rows = made_up({"a": 0.5, "b": 0.3, "c": 0.4}, noise=0.02)
    values = task_rule.wide(summarized(rows, "error"), "late")
    case = Case("a - b", values, {"a": 1.0, "b": -1.0}, 0.05)
    assert tuple(case.estimate()) == tuple(contrast(values, case.weights)[0])
    single = Case("-a", values, {"a": -1.0}, 0.05)
    assert single.estimate().difference == -mean_of(values, "a").difference
    assert single.estimate().error == mean_of(values, "a").error
    assert judge(CLAIM, [case], WHOLE).verdict == second_rule.REPRODUCED
    assert Case("?", values, {"a": 1.0, "nobody": -1.0}, 0.05).n == 0


@pytest.mark.parametrize(
    ("a", "b", "word"),
    [
        ([14, 15, 16, 14, 15], [4, 5, 6, 5, 5], second_rule.REPRODUCED),
        ([60] * 5, [4, 5, 6, 5, 5], second_rule.REPRODUCED),  # never against early
        ([4, 5, 6, 5, 5], [60] * 5, second_rule.REVERSED),
        ([4, 5, 6, 20, 5], [5, 6, 5, 6, 14], second_rule.UNDECIDED),
        ([60, 60, 60, 60, 29], [60, 60, 60, 60, 29], second_rule.UNDECIDED),  # nearly all censored
        ([9] * 5, [9] * 5, second_rule.NO_EFFECT),
        ([10] * 5, [9] * 5, second_rule.REPRODUCED),
    ],
)
def test_every_word_on_an_onset(a, b, word):
    rows = made_up({"a": 0.5, "b": 0.5}, onset={"a": a, "b": b})
    case = onset_case("tasks", summarized(rows, "error"), "a", "b")
    assert judge(CLAIM, [case], WHOLE).verdict == word


def test_an_onset_is_no_better_known_than_to_a_task_and_nothing_is_said_where_none_came():
    rows = made_up({"a": 0.5, "b": 0.5}, onset={"a": 9, "b": 9})
    case = onset_case("tasks", summarized(rows, "error"), "a", "b")
    assert case.estimate().error == pytest.approx(math.sqrt(2 / 12 / 5))
    never = summarized(made_up({"a": 0.0, "b": 0.0}), "error")
    assert onset_case("tasks", never, "a", "b") is None
    assert onset_case("tasks", never, "nobody", "neither").n == 0
    assert judge(CLAIM, [], WHOLE, lacking="it takes a run").detail == "it takes a run"


@pytest.mark.parametrize(
    ("first", "second", "word"),
    [
        ([4, 5, 6, 5, 5], [9, 9, 10, 8, 9], second_rule.REPRODUCED),
        ([9, 9, 10, 8, 9], [4, 5, 6, 5, 5], second_rule.REVERSED),
        ([5] * 5, [5] * 5, second_rule.NO_EFFECT),
        ([5] * 5, [31] * 5, second_rule.REPRODUCED),  # the second never came
        ([5, 31, 5, 31, 5], [31, 5, 31, 5, 31], second_rule.UNDECIDED),
    ],
)
def test_every_word_on_what_comes_before_what(first, second, word):
    first, second = (pd.Series(tasks, dtype=float) for tasks in (first, second))
    case = lead_case("tasks", first, second, first.eq(31), second.eq(31))
    assert judge(CLAIM, [case], WHOLE).verdict == word


def test_a_seed_in_which_neither_event_came_says_nothing():
    tasks = pd.Series([4.0, 31.0, 5.0, 31.0])
    case = lead_case("tasks", tasks, tasks + 2, tasks.eq(31), tasks.eq(31))
    assert case.n == 2 and case.differences().tolist() == [2, 2]
    assert judge(CLAIM, [case], WHOLE).verdict == TOO_FEW_SEEDS


# ------------------------------------------------------------------------------- the label


def test_a_label_says_what_a_verdict_rests_on():
    yes = second_rule.REPRODUCED
    assert Scope(100, 100, 30).label(yes, 30) == yes
    assert Scope(30, 100, 30).label(yes, 3) == f"{yes} (30 of 100 tasks, 3 of 30 seeds)"
    assert Scope(30, 100, 30).label(yes, 30) == f"{yes} (30 of 100 tasks)"
    assert Scope(100, 100, 30).label(yes, 5) == f"{yes} (5 of 30 seeds)"


@pytest.mark.parametrize(
    "word",
    [
        *second_rule.HOLDS,
        *second_rule.FAILS,
        second_rule.MIXED,
        second_rule.UNDECIDED,
    ],
)
def test_in_small_is_never_reproduced(word, root):
    scope = Scope(40, 800, 5, small="width 100 for 1,000")
    for text in (scope.word(word), scope.label(word, 5)):
        assert "in small" in text and "reproduced" not in text
    assert "width 100 for 1,000" in scope.label(word, 5)
    css = (root / "book/style/book.css").read_text()
    slug = tables.badge(scope.word(word)).split('"')[1].split()[1]
    assert f".{slug}" in css and "small" not in slug


def test_cases_that_were_not_run_count_as_ones_that_could_hold():
    rows = made_up({"a": 0.6, "b": 0.0}, onset={"a": 8})
    lost, kept = change_case(rows), change_case(rows, "b")
    absent, few = change_case(rows, "nobody"), change_case(rows[rows["seed"] < 2])
    found = judge(CLAIM, [lost, absent], Scope(30, 100, 30))
    yes = second_rule.REPRODUCED
    assert found.label == f"{yes} (1 of 2 cases, 30 of 100 tasks, 5 of 30 seeds)"
    assert judge(CLAIM, [kept, absent], WHOLE).verdict == second_rule.NO_EFFECT
    assert judge(CLAIM, [lost, kept], WHOLE).verdict == second_rule.MIXED
    assert judge(CLAIM, [absent], WHOLE).verdict == NOT_RUN
    assert judge(CLAIM, [few], WHOLE, lacking="more").verdict == TOO_FEW_SEEDS
    assert "n = 2" in judge(CLAIM, [few], WHOLE, lacking="more").detail
    remark = judge(replace(CLAIM, remark=True), [lost], Scope(30, 100, 30), lacking="more")
    unlike = judge(replace(CLAIM, remark=True), [kept], WHOLE)
    assert (unlike.verdict, unlike.label) == ("remark", "remark: does not hold")
    assert (
        remark.label == "remark: holds (30 of 100 tasks, 5 of 30 seeds)"
        and "loss: " in remark.detail
    )


# ------------------------------------------------------------------------------ simulation


@pytest.fixture(scope="module")
def simulated():
    return task_simulation.simulated()


def test_how_often_the_rule_is_wrong(simulated):
    asked = simulated["asked; true"]
    rare = asked.str.contains("half, from|a quarter, from") & (simulated["seeds"] == 5)
    assert simulated.loc[~rare, "wrong"].max() <= 0.05
    # Five seeds cannot see what happens in one of four.
    assert simulated.loc[rare, "wrong"].max() < 0.3
    lost = asked == "the same; all, from task 3 to 9 on"
    assert simulated.loc[lost, "reproduced"].min() > 0.99


def test_the_page_shows_the_simulation_and_the_rule_s_numbers(simulated, root):
    page = (root / "book/verdicts.md").read_text()
    begin, end = "<!-- simulation of tasks, begin -->", "<!-- simulation of tasks, end -->"
    shown = page.partition(begin)[2].partition(end)[0]
    again = simulation.as_text(simulated)
    assert shown.strip() == again, "python -m swrlib.claims.task_simulation"
    rule = page.partition("## The rule for streams of tasks (2026-11-27)")[2].partition("\n## ")[0]
    assert rule
    for number in (
        f"{task_rule.MARGINS['error']:g} in error",
        f"{task_rule.MARGINS['online']:g} in online accuracy",
        f"above {task_rule.LOST:g}",
        "last fifth",
        "tasks 1 and 2",
        "below half",
        "a tenth of the start",
        "fewer than five seeds",
    ):
        assert number in rule, number
    assert (task_rule.SHARE, task_rule.START, task_rule.FALLEN) == (5, 2, 0.5)
    assert (task_rule.TREND_MARGIN, task_rule.BOUND_SEEDS) == (0.1, 5)


@pytest.mark.parametrize("question", task_simulation.QUESTIONS[:1] + task_simulation.QUESTIONS[-4:])
def test_what_is_drawn_is_judged_as_records_are(question):
    draws, seeds = 8, 5
    words = task_simulation.question_words(question, seeds, seed=3, draws=draws)
    random = np.random.default_rng(3)
    kinds = [*question.kinds, task_simulation.LATE, *[task_simulation.KEEPS] * 5][:5]
    drawn = [task_simulation.courses(kind, (draws, 1, seeds), random)[:, 0] for kind in kinds]
    names = [f"m{place}" for place in range(len(kinds))]
    for draw in range(draws):
        rows = pd.concat(
            pd.DataFrame({"method": name, "seed": seed, "task": range(1, 31), "error": course})
            for name, values in zip(names, drawn, strict=True)
            for seed, course in enumerate(values[draw])
        )
        sums = summarized(rows, "error")
        if question.outcome == "onset":
            case = onset_case("tasks", sums, "m0", "m1")
        else:
            weights = {"m0": 1.0, "m1": -1.0} if len(question.kinds) > 1 else {"m0": 1.0}
            values = task_rule.wide(sums, question.outcome)
            case = Case("made up", values, weights, task_rule.MARGINS["error"])
        word = judge(CLAIM, [case] if case else [], WHOLE, kind=question.kind).verdict
        assert words[draw] == (word if case else second_rule.UNDECIDED)
