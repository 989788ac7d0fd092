"""Which measure, taken at the start of a task, predicts how the task ends: correlations, words.

A question of this book, and no paper's claim. Each measure at a task's start is held against the
task's *trouble*: the error at its end, or 1 − the online accuracy. Correlations are Spearman's; the
unit of every interval is a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from swrlib.claims.curvature import ACTIVATIONS
from swrlib.claims.curvature import PAPER as CURVATURE
from swrlib.claims.settings import CHOOSING, option
from swrlib.claims.spectral_collapse import LABELS, named
from swrlib.verdicts import LEAST_SEEDS, task_rule

#: What counts as a correlation of a size that matters: about a tenth of the ranks' variance.
SIZE = 0.3
#: From how many tasks on a run has a correlation.
LEAST_TASKS = 5
#: From how many methods on a setting has one across them. Of four there are 24 orders: one that
#: is perfect, or the best of all with each seed, comes by chance too often to say a word.
LEAST_METHODS = 5
#: Each stream's trouble, from a column of `swrlib.verdicts.task_rule.task_rows`.
TROUBLES: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
    "label-shuffled": lambda rows: rows["error"],
    "pixel-permuted": lambda rows: 1 - rows["online"],
}


# ---------------------------------------------------------------------------------------------
# The measures


@dataclass(frozen=True)
class Predictor:
    """A measure at a task's start.

    Attributes
    ----------
    name : str
        For readers.
    measure, value : str
        "hessian-start" and "srank": as they stand in the table of measures.
    layers : {"last", "sum", "mean"}, optional
        Where there is one value a layer: that of the last hidden one, or of all.
    """

    name: str
    measure: str
    value: str
    layers: Literal["last", "sum", "mean"] | None = None


PREDICTORS = (
    Predictor("Hessian: srank", "hessian-start", "srank"),
    Predictor("Hessian: effective rank", "hessian-start", "effective-rank"),
    Predictor("Hessian: largest eigenvalue", "hessian-start", "largest"),
    Predictor("Hessian: negative eigenvalues", "hessian-start", "negative"),
    Predictor("spectrum: ε-rank, ε = 0.01", "spectrum-start", "epsilon-rank 0.01"),
    Predictor("spectrum: ε-rank, ε = 0.1", "spectrum-start", "epsilon-rank 0.1"),
    Predictor("spectrum: effective rank", "spectrum-start", "effective-rank"),
    Predictor("spectrum: largest eigenvalue", "spectrum-start", "largest"),
    Predictor("features: srank", "features-start", "srank", "last"),
    Predictor("features: effective rank", "features-start", "effective-rank", "last"),
    Predictor("features: entropy", "features-start", "entropy", "last"),
    Predictor("features: dead units", "features-start", "dead", "sum"),
    Predictor("weights: mean size", "weights-start", "size mean"),
    Predictor("weights: distance from start", "weights-start", "distance l2"),
    Predictor("weights: srank", "weights-start", "srank", "last"),
    Predictor("weights: non-isometry", "weights-start", "deviation-from-isometry", "mean"),
    Predictor("update in the task before", "weights-end", "update l2"),
    Predictor("gradient-Hessian overlap", "overlap-start", ""),
)
#: What knows nothing of the network: a measure should say more than these.
CLOCK, BEFORE = "number of the task", "error of the task before"
BASELINES = (CLOCK, BEFORE)
NAMES = tuple(predictor.name for predictor in PREDICTORS)
#: The settings that the page waits for.
PLANNED = [f"label-shuffled, {CURVATURE.label(activation)}" for activation in ACTIVATIONS]
PLANNED += [f"pixel-permuted, {CURVATURE.label('relu')}"]
#: What tells runs apart.
_RUN = ["setting", "method", "seed"]


def tasks(frame: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """Lay measures at a task's start beside the task's trouble.

    The first task is left out: its network is untrained, and nothing can be lost yet. So are seeds
    on which strengths were chosen, and runs in which nothing was measured.

    Parameters
    ----------
    frame : DataFrame
        Records; runs of other streams than `TROUBLES` has are passed over.
    measured : DataFrame
        What `swrlib.load_measures` returned of these runs. A measure of every so many tasks counts
        where it was taken.

    Returns
    -------
    DataFrame
        A row a run and task: ``setting`` (stream and activation; data and learning rate, too, where
        these do not tell it from others), ``method`` (with its strength), ``seed, run, task,
        trouble``, and a column a predictor or baseline, NaN where it was not measured.
    """
    kept = frame[frame["stream"].isin(TROUBLES) & (frame["seed"] < CHOOSING)]
    if not len(kept):
        names = [*_RUN, "run", "task", "trouble", *BASELINES, *NAMES]
        return pd.DataFrame(columns=names, dtype=float)
    rows = task_rule.task_rows(kept)
    wide = task_rule.measured_by_task(measured, rows)
    trouble = pd.concat([TROUBLES[stream](part) for stream, part in rows.groupby("stream")])
    table = rows.assign(method=_ways(rows), trouble=trouble.astype(float))
    table = table[[*_RUN[1:], "run", "task", "trouble"]]
    table[CLOCK] = table["task"].astype(float)
    table[BEFORE] = table.groupby("run")["trouble"].shift(1)
    for predictor in PREDICTORS:
        values = _column(wide, predictor)
        if predictor.measure.endswith("-end"):  # of the task before
            values = values.groupby(table["run"]).shift(1)
        table[predictor.name] = values
    looked_at = table[[*NAMES]].notna().any(axis=1).groupby(table["run"]).transform("any")
    table = table[looked_at & (table["task"] > 1) & np.isfinite(table["trouble"])]
    table.insert(0, "setting", _settings(rows.loc[table.index], table["method"]))
    return table.reset_index(drop=True)


def _settings(rows: pd.DataFrame, methods: pd.Series) -> pd.Series:
    """Name each row's setting, in short where it is the only one of that name with two methods."""
    activations = option(rows, "activation", "relu").map(CURVATURE.label)
    data = rows["dataset"].map(lambda name: LABELS.get(name, name))
    names = rows["stream"] + ", " + activations.astype(str)
    whole = names + ", " + data.astype(str) + ", rate " + rows["lr"].astype(str)
    compared = whole.where(methods.groupby(whole).transform("nunique") > 1)
    namesakes, rivals = (which.groupby(names).transform("nunique") for which in (whole, compared))
    return names.where((namesakes == 1) | (compared.notna() & (rivals == 1)), whole)


def of_several_methods(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Leave out the settings with one method alone, which compare nothing.

    Parameters
    ----------
    table : DataFrame
        What `tasks` returned.

    Returns
    -------
    (DataFrame, list of str)
        The rest, and the settings that were left out.
    """
    methods = table.groupby("setting")["method"].nunique()
    alone = sorted(methods.index[methods < 2])
    return table[~table["setting"].isin(alone)].reset_index(drop=True), alone


def _ways(rows: pd.DataFrame) -> pd.Series:
    strength = rows["lam"].map(lambda lam: f" {lam:g}" if lam > 0 else "")
    every = rows.reindex(columns=["every"])["every"]
    every = every.map(lambda steps: "" if np.isnan(steps) else f" (every {steps:g})")
    return named(rows)["method"] + strength + every


def _column(wide: pd.DataFrame, predictor: Predictor) -> pd.Series:
    """Return a predictor's values, a row a run and task; NaN where there are none."""
    if predictor.layers is None:
        name = ", ".join(filter(None, (predictor.measure, predictor.value)))
        return wide.reindex(columns=[name])[name].astype(float)
    start = f"{predictor.measure}, {predictor.value}, "
    of_layers = wide[sorted(name for name in wide if name.startswith(start))].astype(float)
    if predictor.layers == "sum":
        return of_layers.sum(axis=1, min_count=1)
    if predictor.layers == "mean":
        return of_layers.mean(axis=1).astype(float)
    last = pd.Series(np.nan, wide.index)
    for name in of_layers:  # the head has no features behind it
        hidden = f"features-start, srank, {name.removeprefix(start)}"
        if hidden in wide:
            last = of_layers[name].where(wide[hidden].notna(), last)
    return last


# ---------------------------------------------------------------------------------------------
# Correlations


def centred(values: np.ndarray) -> np.ndarray:
    """Return ranks along the last axis, of mean 0 and length 1; NaN where all are alike."""
    ranks = rankdata(values, axis=-1) - (values.shape[-1] + 1) / 2
    length = np.sqrt((ranks**2).sum(-1, keepdims=True))
    with np.errstate(invalid="ignore"):
        return np.where(length > 0, ranks / length, np.nan)


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return Spearman's ρ along the last axis; NaN where one side does not vary."""
    return (centred(x) * centred(y)).sum(-1)


def partial(x: np.ndarray, y: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Return Spearman's ρ of two series with a third one taken off (of ranks, linearly).

    NaN where the third explains one of them alone.
    """
    a, b, c = spearman(x, y), spearman(x, by), spearman(y, by)
    rest = (1 - b**2) * (1 - c**2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(rest > 1e-12, (a - b * c) / np.sqrt(rest), np.nan)


def of_runs(table: pd.DataFrame) -> pd.DataFrame:
    """Correlate within each run, over its tasks.

    Parameters
    ----------
    table : DataFrame
        What `tasks` returned.

    Returns
    -------
    DataFrame
        A row a run and measure: ``setting, method, seed, measure``, ``rho``, and
        ``beyond``, the same with the number of the task taken off. NaN where a side does not vary,
        or there are fewer than `LEAST_TASKS` tasks.
    """
    names, rows = np.array([*NAMES, *BASELINES]), []
    for key, run in table.groupby(_RUN, sort=False):
        trouble, task = run["trouble"].to_numpy(float), run[CLOCK].to_numpy(float)
        values = run[[*names]].to_numpy(float).T
        correlations = np.full((2, len(names)), np.nan)
        for known in np.unique(np.isfinite(values), axis=0):  # measures of the same tasks at once
            if known.sum() >= LEAST_TASKS:
                alike = (np.isfinite(values) == known).all(axis=1)
                x, y, by = values[alike][:, known], trouble[known], task[known]
                correlations[:, alike] = spearman(x, y), partial(x, y, by)
        rows += [(*key, name, *rho) for name, rho in zip(names, correlations.T, strict=True)]
    return pd.DataFrame(rows, columns=[*_RUN, "measure", "rho", "beyond"])


def _within(rows: pd.DataFrame, column: str = "rho") -> pd.DataFrame:
    """Return the mean over a seed's runs: by seed (rows) and measure (columns)."""
    means = of_runs(rows).groupby(["seed", "measure"])[column].mean().unstack()
    return means.reindex(columns=[*NAMES, *BASELINES])


def method_means(rows: pd.DataFrame, measure: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return means over tasks of a measure and of the trouble: by seed (rows) and method.

    Of the seeds that have every method, over the tasks in which both are known.
    """
    known = rows.loc[rows[measure].notna(), ["seed", "method", measure, "trouble"]]
    means = known.groupby(["seed", "method"])[[measure, "trouble"]].mean()
    x, y = (means[value].unstack("method").dropna() for value in (measure, "trouble"))
    return x, y


def _across(rows: pd.DataFrame) -> pd.DataFrame:
    seeds = {}
    for name in NAMES:
        x, y = method_means(rows, name)
        enough = x.shape[1] >= LEAST_METHODS and len(x)
        rho = spearman(x.to_numpy(), y.to_numpy()) if enough else np.nan
        seeds[name] = pd.Series(rho, x.index, dtype=float)
    return pd.DataFrame(seeds)


TOGETHER, WITHIN, BEYOND = "pooled", "within runs", "given the task number"
ACROSS = "across methods"
#: The four ways to look at a measure, in the order in which they are shown: each seed's ρ in a
#: setting, by seed (rows) and measure (columns).
VIEWS: Mapping[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    TOGETHER: lambda rows: _within(rows.assign(method="all")),
    WITHIN: _within,
    BEYOND: lambda rows: _within(rows, "beyond"),
    ACROSS: _across,
}


# ---------------------------------------------------------------------------------------------
# What there is


def signs(runs: pd.DataFrame) -> pd.DataFrame:
    """Count in how many runs each measure goes with the trouble, and in how many against it.

    Parameters
    ----------
    runs : DataFrame
        What `of_runs` returned.

    Returns
    -------
    DataFrame
        By measure: ``with``, ``against`` (runs with ρ above and below 0), ``least``, ``largest``.
    """
    rho = runs.dropna(subset=["rho"]).groupby("measure", sort=False)["rho"]
    counts = {"with": lambda x: (x > 0).sum(), "against": lambda x: (x < 0).sum()}
    return rho.agg(**counts, least="min", largest="max")


def of_methods(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the measure with the largest mean correlation within the runs of each method.

    Parameters
    ----------
    runs : DataFrame
        What `of_runs` returned.

    Returns
    -------
    DataFrame
        By method: ``measure, rho``.
    """
    means = runs[runs["measure"].isin(NAMES)].pivot_table("rho", "method", "measure")
    best = means.abs().idxmax(axis=1)
    rho = [means.at[method, name] for method, name in best.items()]
    return pd.DataFrame({"measure": best, "rho": rho})


def turned(rows: pd.DataFrame, by: str) -> list[str]:
    """Name the measures that go with the trouble in one group and against it in another.

    Both by `SIZE` or more, on the mean.

    Parameters
    ----------
    rows : DataFrame
        ``measure, rho`` and the column of groups.
    by : str
        That column: "method", say.
    """
    means = rows.pivot_table("rho", "measure", by)
    both = (means.min(axis=1) <= -SIZE) & (means.max(axis=1) >= SIZE)
    return [name for name in NAMES if both.get(name, False)]


def coverage(table: pd.DataFrame) -> pd.DataFrame:
    """Say of each setting what was recorded.

    Parameters
    ----------
    table : DataFrame
        What `tasks` returned.

    Returns
    -------
    DataFrame
        By setting: ``methods, seeds, tasks`` (the least and the most of a run, the first
        included), ``rise of the error`` (the least and the most of a method: its mean over seeds in
        the last fifth of the tasks minus that in the first) and ``not measured``.
    """
    groups = table.groupby("setting")
    recorded = groups.agg(methods=("method", "nunique"), seeds=("seed", "nunique"))
    last = table.groupby(["setting", "run"])["task"].max().groupby("setting")
    ends = zip(last.min(), last.max(), strict=True)
    recorded["tasks"] = ["–".join(map(str, sorted({int(a), int(b)}))) for a, b in ends]
    recorded["rise of the error"] = _rises(table)
    known = groups[[*NAMES]].count()
    absent = [known.columns[row] for row in known.eq(0).to_numpy()]
    recorded["not measured"] = [_together(set(names)) or "–" for names in absent]
    return recorded.rename_axis(None)


def _together(absent: set[str]) -> str:
    """List measures; what all measures of one thing have before their colons stands for them."""
    things = {name: name.split(":")[0] for name in NAMES}
    there = {things[name] for name in NAMES if name not in absent}
    said = (name if things[name] in there else things[name] for name in NAMES if name in absent)
    return ", ".join(dict.fromkeys(said))


def _rises(table: pd.DataFrame) -> list[str]:
    """Write by how much the error rises over the stream, from the least method's to the most's."""
    by, of_run = ["setting", "method"], table.groupby("run")["task"]
    early = table["task"] <= of_run.transform("quantile", 0.2)
    late = table["task"] >= of_run.transform("quantile", 0.8)
    first, last = (table[rows].groupby(by)["trouble"].mean() for rows in (early, late))
    ends = (last - first).groupby("setting").agg(["min", "max"])
    return [f"{least:+.2f} to {most:+.2f}" for least, most in ends.itertuples(index=False)]


def missing(table: pd.DataFrame) -> str:
    """Say which of the planned settings lack records, seeds or methods; nothing if none does.

    Parameters
    ----------
    table : DataFrame
        What `tasks` returned.
    """
    recorded = coverage(table)
    few_seeds = recorded.index[recorded["seeds"] < LEAST_SEEDS]
    few_methods = recorded.index[recorded["methods"] < LEAST_METHODS]
    absent = [name for name in PLANNED if not any(n.startswith(name) for n in recorded.index)]
    parts = {
        "Not recorded yet with several methods": absent,
        f"With fewer than {LEAST_SEEDS} seeds": few_seeds,
        f"With fewer than {LEAST_METHODS} methods, too few for a word across them": few_methods,
    }
    return " ".join(f"{said}: {'; '.join(names)}." for said, names in parts.items() if len(names))
