"""The rule for streams of tasks, of 2026-11-27: from a value a task to numbers, cases and words.

Written before any record of such a stream was looked at; ``book/verdicts.md`` states it for pencil
and paper, and `swrlib.claims.task_simulation` says how often it errs. It has outcomes of its own;
errors, intervals and words are the second rule's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from swrlib.papers import Claim
from swrlib.verdicts import LEAST_SEEDS, NOT_RUN, Case, Verdict, judge_cases, second_rule
from swrlib.verdicts.first_rule import LACKING

#: The size that matters of an error at a task's end, and of an average online accuracy.
MARGINS = {"error": 0.05, "online": 0.01}
#: How many tasks the start is the mean of, and which share of all tasks the end.
START, SHARE = 2, 5
#: A task is lost where its error at the end is above this.
LOST = 0.1
#: A measure has fallen where it is below this share of its start.
FALLEN = 0.5
#: What a trend is, for readers.
TREND = "by the line through all tasks, as a share of the start"
#: The size that matters of an onset, in tasks, and of a trend, as a share of the start.
ONSET_MARGIN, TREND_MARGIN = 1.0, 0.1
#: With fewer seeds a size that matters is never ruled out: three runs that keep their plasticity
#: say little of a method that loses it in every other run.
BOUND_SEEDS = 5
#: An onset is known to a task: no spread is smaller than that of a rounded number.
ROUNDING = 1 / 12

#: What words of the second rule become in small, where it is not the word itself.
_IN_SMALL = dict.fromkeys(second_rule.HOLDS, "holds")
_IN_SMALL |= {second_rule.NOT_REPRODUCED: "does not hold", second_rule.NO_EFFECT: "no effect"}


# ---------------------------------------------------------------------------------------------
# From records to a value a task


def task_rows(records: pd.DataFrame) -> pd.DataFrame:
    """Return records of a stream of tasks with a row a run and task.

    Parameters
    ----------
    records : DataFrame
        What `swrlib.load_records` returns, of streams that write a row a stage.

    Returns
    -------
    DataFrame
        All columns, and ``task`` (from 1 on), ``error`` at the task's end (1 − its accuracy on what
        it trains on) and ``online``, the mean accuracy before each update. Of a run that diverged
        the tasks from there on have error 1 and online accuracy 0: it learns nothing more.
    """
    rows = records[records["epoch"] > 0].reset_index(drop=True)
    rows = rows.assign(
        task=rows["stage"].astype(int),
        error=1 - rows["task_accuracy"].astype(float),
        online=rows["train_accuracy"].astype(float),
    )
    lost = rows["diverged"].astype(bool)
    rows.loc[lost, ["error", "online"]] = 1.0, 0.0
    most = rows.groupby(["dataset", "model", "stream", "epochs"])["task"].transform("max")
    missing = [list(range(t, m + 1)) for t, m in zip(rows["task"][lost], most[lost], strict=True)]
    filled = pd.concat([rows[~lost], rows[lost].assign(task=missing).explode("task")])
    filled = filled.sort_values(["run", "task"], ignore_index=True)
    return filled.astype({"task": int, "seed": int, "error": float, "online": float})


def measured_by_task(measures: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Lay measures of stages out by task, beside what tells the runs apart.

    Parameters
    ----------
    measures : DataFrame
        What `swrlib.records.load_measures` returns, of measures at stages' starts and ends: what
        was taken at a task's start stands in that task's row. "hessian-start:10", which is taken
        at every tenth, is "hessian-start".
    rows : DataFrame
        What `task_rows` returned.

    Returns
    -------
    DataFrame
        ``rows`` with a column for each measure and label, "hessian-start, srank" say, NaN where a
        run has none.
    """
    measures = measures.assign(measure=measures["measure"].str.split(":").str[0])
    ends = rows.groupby("run")["epoch"].unique()
    parts = []
    for run, part in measures[measures["run"].isin(ends.index)].groupby("run"):
        past = np.searchsorted(np.sort(ends[run]), part["epoch"], side="right")
        parts.append(part.assign(task=past + part["measure"].str.endswith("-start").to_numpy()))
    if not parts:
        return rows
    table = pd.concat(parts)
    layer = table["layer"].where(table["layer"].eq(""), ", " + table["layer"])
    table = table.assign(name=table["measure"] + layer)
    wide = table.pivot_table("value", ["run", "task"], "name")
    return rows.merge(wide.reset_index(), on=["run", "task"], how="left")


# ---------------------------------------------------------------------------------------------
# From a value a task to numbers of a run


def summarized(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    """Sum each run's course up.

    Parameters
    ----------
    rows : DataFrame
        ``method, seed, task`` and the value, a row a run and task, of one setting.
    value : str
        Its column. Tasks without a value are left out.

    Returns
    -------
    DataFrame
        By ``method, seed``: ``start``, the mean of tasks 1 and 2; ``late``, that of the last fifth
        of the tasks (rounded up); ``change``, late minus start, and ``kept``, late over start;
        ``trend``, the slope of the least squares line through all tasks times the number of steps
        between them, as a share of the start; ``onset``, the number of the first task whose value
        is above `LOST`, and ``censored`` where there is none: then the onset is one more than the
        number of tasks; ``fallen`` and ``never``, the same of the first task whose value is below
        `FALLEN` times the start; and ``tasks``. Without three tasks NaN.

    Raises
    ------
    ValueError
        If there are several runs of one method and seed: of two λ, say.
    """
    twice = rows.loc[rows.duplicated(["method", "seed", "task"]), "method"]
    if len(twice):
        raise ValueError(
            f"there are several runs of {twice.iloc[0]!r} with one seed: filter the rows to one λ "
            "and one setting"
        )
    rows = rows.dropna(subset=[value]).sort_values("task")
    runs = rows.groupby(["method", "seed"])
    sums = {
        key: _sums(run["task"].to_numpy(dtype=float), run[value].to_numpy(dtype=float))
        for key, run in runs[["task", value]]
    }
    index = pd.MultiIndex.from_tuples(list(sums), names=["method", "seed"])
    return pd.DataFrame(list(sums.values()), index=index, columns=_SUMS)


_SUMS = ["start", "late", "change", "kept", "trend"]
_SUMS += ["onset", "censored", "fallen", "never", "tasks"]


def _sums(tasks: np.ndarray, values: np.ndarray) -> dict[str, float | bool]:
    count = len(tasks)
    if count <= START:
        return dict.fromkeys(_SUMS, math.nan) | {"tasks": count}
    start, late = values[:START].mean(), values[-math.ceil(count / SHARE) :].mean()
    slope = np.polyfit(tasks, values, 1)[0]
    over, under = tasks[values > LOST], tasks[values < FALLEN * start]
    never = tasks[-1] + 1
    return {
        "start": start,
        "late": late,
        "change": late - start,
        "kept": late / start if start else math.nan,
        "trend": slope * (tasks[-1] - tasks[0]) / start if start else math.nan,
        "onset": over[0] if len(over) else never,
        "censored": not len(over),
        "fallen": under[0] if len(under) else never,
        "never": not len(under),
        "tasks": count,
    }


def wide(sums: pd.DataFrame, name: str) -> pd.DataFrame:
    """Lay one column of `summarized` out by seed (rows) and method (columns)."""
    return sums[name].astype(float).unstack("method")


# ---------------------------------------------------------------------------------------------
# Cases


def lead_case(
    what: str, first: pd.Series, second: pd.Series, first_never: pd.Series, second_never: pd.Series
) -> Case:
    """Compare by how many tasks one event of a run comes before another, seed by seed.

    Both are of one run, so that leads are averaged. Where only one of them was seen, the lead is a
    bound.

    Parameters
    ----------
    what : str
    first, second : Series
        Tasks of the two events, by seed: what is claimed to be the earlier one first.
    first_never, second_never : Series
        Where they did not come. A seed without either says nothing: its tasks become NaN.
    """
    first_never, second_never = first_never.astype(bool), second_never.astype(bool)
    tasks = pd.DataFrame({"second": second, "first": first}).astype(float)
    tasks = tasks.mask(first_never & second_never)
    one = bool((first_never ^ second_never).any())
    weights = {"second": 1.0, "first": -1.0}
    return Case(what, tasks, weights, ONSET_MARGIN, paired=True, censored=one, rounding=ROUNDING)


def onset_case(what: str, sums: pd.DataFrame, later: str, earlier: str) -> Case | None:
    """Compare when two methods lose their first task.

    The mean number of tasks before that, of those that were run (the restricted mean of survival
    analysis). Where neither ever loses one, nothing was seen.

    Parameters
    ----------
    what : str
    sums : DataFrame
        What `summarized` returned of the error.
    later, earlier : str
        Methods, as they are claimed.
    """
    values, censored = wide(sums, "onset"), wide(sums, "censored")
    there = [method for method in (later, earlier) if method in values]
    pair = censored[there].stack().dropna()
    if len(there) == 2 and pair.all():
        return None
    weights, some = {later: 1.0, earlier: -1.0}, bool(pair.any())
    return Case(what, values, weights, ONSET_MARGIN, censored=some, rounding=ROUNDING)


# ---------------------------------------------------------------------------------------------
# Words


@dataclass(frozen=True)
class Scope:
    """How much of a paper's experiment was repeated.

    Attributes
    ----------
    tasks, of_tasks, of_seeds : int
        How many tasks, of how many in the paper; and the paper's seeds.
    small : str
        What differs in size or kind (width, batch, images), for readers: then nothing counts as
        reproduced. Empty where each task is the paper's.
    """

    tasks: int
    of_tasks: int
    of_seeds: int
    small: str = ""

    def word(self, word: str) -> str:
        """Return a verdict's word: *in small* where a task is not the paper's."""
        small = self.small and word in second_rule.WORDS
        return f"{_IN_SMALL.get(word, word)} in small" if small else word

    def label(self, word: str, seeds: int, cases: str = "") -> str:
        """Return the word with what it rests on, where that is less than the paper's."""
        parts = [cases] if cases else []
        if self.tasks < self.of_tasks:
            parts.append(f"{self.tasks} of {self.of_tasks} tasks")
        if seeds < self.of_seeds:
            parts.append(f"{seeds} of {self.of_seeds} seeds")
        parts += [self.small] if self.small else []
        return f"{self.word(word)} ({', '.join(parts)})" if parts else self.word(word)


def judge(
    claim: Claim,
    cases: Sequence[Case],
    scope: Scope,
    *,
    kind: str = "above",
    lacking: str = "",
    bound_seeds: int = BOUND_SEEDS,
) -> Verdict:
    """Judge a claim on streams of tasks.

    Parameters
    ----------
    claim : Claim
    cases : sequence of Case
        All that the claim speaks of; those that were not run count as ones that could hold.
    scope : Scope
    kind : {"above", "not below", "little", "same"}
        What is claimed of each: see `swrlib.verdicts.second_rule`.
    lacking : str
        What it would take, said where something was not run.
    bound_seeds : int
        With fewer seeds a size that matters is never ruled out.
    """
    how: dict[str, Any] = {"kind": kind, "bound_seeds": bound_seeds, "say": scope.word}
    judged = judge_cases(claim, cases, scale="paper", number=len(cases), **how)
    if judged.verdict in LACKING:
        not_run = judged.verdict == NOT_RUN
        return replace(judged, detail=(not_run and lacking) or judged.detail)
    seeds = [case.n for case in cases if case.n >= LEAST_SEEDS]
    part = f"{len(seeds)} of {len(cases)} cases" * (len(seeds) < len(cases))
    label = scope.label(judged.label, min(seeds), part)
    detail = (
        f"{judged.detail} What is not recorded: {lacking}" if part and lacking else judged.detail
    )
    return replace(judged, verdict=scope.word(judged.verdict), label=label, detail=detail)
