"""The rule for streams of tasks, of 2026-11-27: from a value a task to numbers, cases and words.

Written before any record of such a stream was looked at; ``book/verdicts.md`` states it for pencil
and paper, and `swrlib.claims.task_simulation` says how often it errs. It has outcomes of its own;
errors, intervals and words are the second rule's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from swrlib.papers import Claim
from swrlib.statistics import Estimate, contrast, mean_of, paired
from swrlib.verdicts import LACKING, LEAST_SEEDS, NOT_RUN, Verdict, judge_cases, second_rule

MADE = "2026-11-27"
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

_IN_SMALL = {
    second_rule.REPRODUCED: "holds in small",
    second_rule.SMALLER: "holds in small",
    second_rule.NOT_REPRODUCED: "does not hold in small",
    second_rule.NO_EFFECT: "no effect in small",
    second_rule.REVERSED: "reversed in small",
    second_rule.MIXED: "mixed in small",
    second_rule.UNDECIDED: "undecided in small",
}


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
        was taken at a task's start stands in that task's row.
    rows : DataFrame
        What `task_rows` returned.

    Returns
    -------
    DataFrame
        ``rows`` with a column for each measure and label, "hessian-start, srank" say, NaN where a
        run has none.
    """
    ends = rows.groupby("run")["epoch"].unique()
    parts = [
        part.assign(
            task=np.searchsorted(np.sort(ends[run]), part["epoch"], side="right")
            + part["measure"].str.endswith("-start").to_numpy()
        )
        for run, part in measures.groupby("run")
        if run in ends.index
    ]
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
        of the tasks (rounded up); ``change``, late minus start; ``trend``, the slope of the least
        squares line through all tasks times the number of steps between them, as a share of the
        start; ``onset``, the number of the first task whose value is above `LOST`, and ``censored``
        where there is none: then the onset is one more than the number of tasks; ``fallen`` and
        ``never``, the same of the first task whose value is below `FALLEN` times the start; and
        ``tasks``. Without three tasks NaN.

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
    found = {
        key: _sums(run["task"].to_numpy(dtype=float), run[value].to_numpy(dtype=float))
        for key, run in runs[["task", value]]
    }
    keys = [[key[level] for key in found] for level in (0, 1)]
    index = pd.MultiIndex.from_arrays(keys, names=["method", "seed"])
    return pd.DataFrame(list(found.values()), index=index, columns=_SUMS)


_SUMS = ["start", "late", "change", "trend", "onset", "censored", "fallen", "never", "tasks"]


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


@dataclass(frozen=True)
class TaskCase:
    """A weighted sum of methods' means in one setting, or the mean of one method.

    Attributes
    ----------
    what : str
        What the number is, for readers.
    values : DataFrame
        By seed (rows) and method (columns): all methods of the setting, as the block design has
        them.
    weights : mapping of str to float
        By method. Two that sum to zero, or one of 1 or −1.
    margin : float
        The size that matters.
    censored : bool
        Whether some value is a bound only: an onset that never came.
    rounded : bool
        Whether the values are whole numbers of tasks.
    """

    what: str
    values: pd.DataFrame
    weights: Mapping[str, float]
    margin: float
    censored: bool = False
    rounded: bool = False

    @property
    def n(self) -> int:
        """Seeds of the method that has fewest."""
        counts = [self.values[m].count() if m in self.values else 0 for m in self.weights]
        return int(min(counts))

    @property
    def bounded(self) -> bool:
        """Whether a size that matters cannot be ruled out."""
        return self.censored or self.n < BOUND_SEEDS

    def estimate(self) -> Estimate:
        """Estimate it as the second rule does."""
        if len(self.weights) > 1:
            found = contrast(self.values, self.weights)[0]
        else:
            ((method, sign),) = self.weights.items()
            found = mean_of(self.values, method)
            found = found._replace(difference=sign * found.difference)
        if not self.rounded:
            return found
        least = math.sqrt(ROUNDING * sum(w**2 for w in self.weights.values()) / self.n)
        return found._replace(error=max(found.error, least))


@dataclass(frozen=True)
class LeadCase:
    """By how many tasks one event of a run comes before another, seed by seed.

    Attributes
    ----------
    what : str
    first, second : Series
        Tasks of the two events, by seed: what is claimed to be the earlier one first.
    first_never, second_never : Series
        Where they did not come. A seed without either says nothing and is left out.
    margin : float
    """

    what: str
    first: pd.Series
    second: pd.Series
    first_never: pd.Series
    second_never: pd.Series
    margin: float = ONSET_MARGIN

    def leads(self) -> pd.Series:
        """Return by seed by how many tasks the first event is earlier."""
        seen = ~(self.first_never.astype(bool) & self.second_never.astype(bool))
        return (self.second - self.first)[seen].astype(float)

    @property
    def n(self) -> int:
        """Seeds in which at least one of the events was seen."""
        return len(self.leads())

    @property
    def bounded(self) -> bool:
        """Whether a size that matters cannot be ruled out: in some seed only one of them was."""
        return self.n < BOUND_SEEDS or bool(
            (self.first_never.astype(bool) ^ self.second_never.astype(bool)).any()
        )

    def estimate(self) -> Estimate:
        """Estimate the mean lead from pairs: both events are of one run."""
        found = paired(self.leads())
        return found._replace(error=max(found.error, math.sqrt(2 * ROUNDING / self.n)))


def onset_case(what: str, sums: pd.DataFrame, later: str, earlier: str) -> TaskCase | None:
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
    weights = {later: 1.0, earlier: -1.0}
    return TaskCase(what, values, weights, ONSET_MARGIN, bool(pair.any()), rounded=True)


# ---------------------------------------------------------------------------------------------
# Words


@dataclass(frozen=True)
class Scope:
    """How much of a paper's experiment was repeated.

    Attributes
    ----------
    tasks, of_tasks, seeds, of_seeds : int
        Ours and the paper's.
    small : str
        What differs in size or kind (width, batch, images), for readers: then nothing counts as
        reproduced. Empty where each task is the paper's.
    """

    tasks: int
    of_tasks: int
    seeds: int
    of_seeds: int
    small: str = ""

    def word(self, word: str) -> str:
        """Return a verdict's word: *in small* where a task is not the paper's."""
        return _IN_SMALL.get(word, word) if self.small else word

    def label(self, word: str, cases: str = "") -> str:
        """Return the word with what it rests on, where that is less than the paper's."""
        parts = [cases] if cases else []
        if self.tasks < self.of_tasks:
            parts.append(f"{self.tasks} of {self.of_tasks} tasks")
        if self.seeds < self.of_seeds:
            parts.append(f"{self.seeds} of {self.of_seeds} seeds")
        parts += [self.small] if self.small else []
        return f"{self.word(word)} ({', '.join(parts)})" if parts else self.word(word)


def judge(
    claim: Claim,
    cases: Sequence[TaskCase | LeadCase],
    scope: Scope,
    *,
    kind: str = "above",
    lacking: str = "",
) -> Verdict:
    """Judge a claim on streams of tasks.

    Parameters
    ----------
    claim : Claim
    cases : sequence of TaskCase or LeadCase
        All that the claim speaks of; those that were not run count as ones that could hold.
    scope : Scope
    kind : {"above", "not below", "little", "same"}
        What is claimed of each: see `swrlib.verdicts.second_rule`.
    lacking : str
        What it would take, said where nothing was run.
    """
    found = judge_cases(claim, cases, scale="paper", kind=kind, number=len(cases), say=scope.word)
    if found.verdict in LACKING:
        not_run = found.verdict == NOT_RUN
        return replace(found, detail=(not_run and lacking) or found.detail)
    run = sum(case.n >= LEAST_SEEDS for case in cases)
    label = scope.label(found.label, f"{run} of {len(cases)} cases" * (run < len(cases)))
    return replace(found, verdict=scope.word(found.verdict), label=label)
