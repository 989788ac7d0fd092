"""Which measure, taken at the start of a task, predicts how the task ends: correlations, words.

A question of this book, and no paper's claim. Each measure at a task's start is held against the
task's *trouble*: the error at its end, or 1 − the online accuracy. Correlations are Spearman's; the
unit of every interval is a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import rankdata

#: What counts as a correlation of a size that matters: about a tenth of the ranks' variance.
SIZE = 0.3
#: From how many tasks on a run has a correlation.
LEAST_TASKS = 5
#: From how many methods on a setting has one.
LEAST_METHODS = 4
#: Each stream's outcome, as a share of images: what grows where plasticity is lost.
TROUBLES = {
    "label-shuffled": ("task_accuracy", "error at the task's end"),
    "pixel-permuted": ("train_accuracy", "1 − online accuracy of the task"),
}


# ---------------------------------------------------------------------------------------------
# The measures


@dataclass(frozen=True)
class Predictor:
    """A measure at a task's start, as it stands in the table of measures.

    Attributes
    ----------
    name : str
        For readers.
    measure, value : str
        "hessian-start", and the label within it: "srank", or "srank, {last}" of the last hidden
        layer; "dead, " and all that begins so where ``over`` is given.
    sign : int
        Of the correlation with the trouble that who proposed it expects; 0: none is stated.
    over : {"mean", "sum"}, optional
        What is made of the layers, where there are several.
    """

    name: str
    measure: str
    value: str
    sign: int
    over: str | None = None


PREDICTORS = (
    Predictor("Hessian: srank", "hessian-start", "srank", -1),
    Predictor("Hessian: effective rank", "hessian-start", "effective-rank", -1),
    Predictor("Hessian: largest eigenvalue", "hessian-start", "largest", 0),
    Predictor("Hessian: negative eigenvalues", "hessian-start", "negative", 0),
    Predictor("spectrum: ε-rank, ε = 0.01", "spectrum-start", "epsilon-rank 0.01", -1),
    Predictor("spectrum: ε-rank, ε = 0.1", "spectrum-start", "epsilon-rank 0.1", -1),
    Predictor("spectrum: effective rank", "spectrum-start", "effective-rank", -1),
    Predictor("spectrum: largest eigenvalue", "spectrum-start", "largest", 0),
    Predictor("features: srank", "features-start", "srank, {last}", -1),
    Predictor("features: effective rank", "features-start", "effective-rank, {last}", -1),
    Predictor("features: entropy", "features-start", "entropy, {last}", -1),
    Predictor("features: dead units", "features-start", "dead, ", 1, "sum"),
    Predictor("weights: mean size", "weights-start", "size mean", 1),
    Predictor("weights: distance from start", "weights-start", "distance l2", 1),
    Predictor("weights: srank", "weights-start", "srank, {last}", -1),
    Predictor("weights: off isometry", "weights-start", "deviation-from-isometry, ", 1, "mean"),
    Predictor("update in the task before", "weights-end", "update l2", -1),
    Predictor("gradient-Hessian overlap", "overlap-start", "", 0),
)
#: What knows nothing of the network: a measure should say more than these.
CLOCK, BEFORE = "number of the task", "trouble of the task before"
BASELINES = (CLOCK, BEFORE)
NAMES = tuple(predictor.name for predictor in PREDICTORS)
SOURCES = tuple(dict.fromkeys(predictor.measure for predictor in PREDICTORS))
#: What tells runs of one seed apart.
_RUN = ["stream", "activation", "method", "seed"]


def tasks(frame: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """Lay measures at a task's start beside the task's trouble.

    The first task is left out: its network is untrained, and nothing can be lost yet.

    Parameters
    ----------
    frame : DataFrame
        Records of streams of tasks, a row a stage; runs of other streams are passed over.
    measured : DataFrame
        What `swrlib.load_measures` returned of these runs, for the measures of `SOURCES` (those
        that there are). What is measured at a stage's start stands at the epoch before it.

    Returns
    -------
    DataFrame
        A row a run and task: ``stream, activation, method`` (with its strength), ``seed, run,
        task, trouble``, and a column a predictor or baseline, NaN where it was not measured. Tasks
        without a finite outcome are left out.
    """
    ends = frame[frame["stream"].isin(TROUBLES) & (frame["stage_epoch"] > 0)]
    ends = ends.sort_values("stage_epoch").drop_duplicates(["run", "stage"], keep="last")
    ends = ends.sort_values(["run", "stage"]).reset_index(drop=True)
    outcomes = [TROUBLES[stream][0] for stream in ends["stream"]]
    values = [1 - ends.at[i, name] if name in ends else np.nan for i, name in enumerate(outcomes)]
    activation = ends.get("activation", pd.Series(index=ends.index, dtype=object))
    table = pd.DataFrame(
        {
            "stream": ends["stream"],
            "activation": activation.astype(object).fillna("relu"),
            "method": [_way(*pair) for pair in zip(ends["method"], ends["lam"], strict=True)],
            "seed": ends["seed"],
            "run": ends["run"],
            "task": ends["stage"],
            "start": ends.groupby("run")["epoch"].shift(1, fill_value=0),
            "trouble": pd.Series(values, ends.index, dtype=float),
        }
    )
    table[CLOCK] = table["task"].astype(float)
    table[BEFORE] = table.groupby("run")["trouble"].shift(1)
    wide = _values(measured)
    table = table.merge(wide, "left", left_on=["run", "start"], right_index=True)
    table = table[(table["task"] > 1) & np.isfinite(table["trouble"])]
    return table.drop(columns="start").reset_index(drop=True)


def _way(method: str, lam: float) -> str:
    return method if np.isnan(lam) else f"{method} {lam:g}"


def _values(measured: pd.DataFrame) -> pd.DataFrame:
    """Return a column a predictor, by run and epoch."""
    features = measured[measured["measure"] == "features-start"]
    layer = features["layer"].str.extract(r"^srank, (.*)$")[0]
    last = layer.groupby(features["run"]).max()  # linear1, linear2, …
    found = {}
    for predictor in PREDICTORS:
        rows = measured[measured["measure"] == predictor.measure]
        if predictor.over:
            rows = rows[rows["layer"].str.startswith(predictor.value)]
        else:
            wanted = [predictor.value.format(last=last.get(run)) for run in rows["run"]]
            rows = rows[rows["layer"] == wanted]
        groups = rows.groupby(["run", "epoch"])["value"]
        found[predictor.name] = groups.agg(predictor.over or "last").astype(float)
    return pd.DataFrame(found, columns=NAMES)


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
        A row a run and measure: ``stream, activation, method, seed, measure``, ``rho``, and
        ``beyond``, the same with the number of the task taken off. NaN where a side does not vary,
        or there are fewer than `LEAST_TASKS` tasks.
    """
    rows = []
    for key, run in table.groupby(_RUN, sort=False):
        trouble, task = run["trouble"].to_numpy(float), run[CLOCK].to_numpy(float)
        for name in (*NAMES, *BASELINES):
            values = run[name].to_numpy(float)
            known = np.isfinite(values)
            rho = beyond = np.nan
            if known.sum() >= LEAST_TASKS:
                rho = float(spearman(values[known], trouble[known]))
                beyond = float(partial(values[known], trouble[known], task[known]))
            rows.append((*key, name, rho, beyond))
    return pd.DataFrame(rows, columns=[*_RUN, "measure", "rho", "beyond"])


#: Each seed's ρ in a setting, by measure.
Seeds = dict[str, pd.Series]


def _by_seed(runs: pd.DataFrame, column: str) -> Seeds:
    means = runs.groupby(["seed", "measure"])[column].mean().unstack()
    means = means.reindex(columns=[*NAMES, *BASELINES])
    return {name: of.dropna() for name, of in means.items()}


def _within(rows: pd.DataFrame, column: str) -> Seeds:
    return _by_seed(of_runs(rows), column)


def _pooled(rows: pd.DataFrame) -> Seeds:
    return _by_seed(of_runs(rows.assign(method="all")), "rho")


def method_means(rows: pd.DataFrame, measure: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return means over tasks of a measure and of the trouble: by seed (rows) and method.

    Of the seeds that have every method, over the tasks in which both are known.
    """
    known = rows.dropna(subset=[measure])
    x, y = (
        known.pivot_table(index="seed", columns="method", values=value).dropna()
        for value in (measure, "trouble")
    )
    return x, y


def _across(rows: pd.DataFrame) -> Seeds:
    found = {}
    for name in NAMES:
        x, y = method_means(rows, name)
        enough = x.shape[1] >= LEAST_METHODS and len(x)
        rho = spearman(x.to_numpy(), y.to_numpy()) if enough else np.full(len(x), np.nan)
        found[name] = pd.Series(rho, x.index).dropna()
    return found


TOGETHER, WITHIN, BEYOND = "all together", "within runs", "beyond the clock"
ACROSS = "across methods"
#: The four ways to look at a measure, in the order in which they are shown.
VIEWS: Mapping[str, Callable[[pd.DataFrame], Seeds]] = {
    TOGETHER: _pooled,
    WITHIN: lambda rows: _within(rows, "rho"),
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
    counts = {"with": rho.agg(lambda x: (x > 0).sum()), "against": rho.agg(lambda x: (x < 0).sum())}
    return pd.DataFrame(counts | {"least": rho.min(), "largest": rho.max()})


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
        included) and ``not measured``.
    """
    rows = {}
    for (stream, activation), part in table.groupby(["stream", "activation"]):
        last = part.groupby("run")["task"].max()
        ends = sorted({int(last.min()), int(last.max())})
        absent = [name for name in NAMES if part[name].isna().all()]
        rows[f"{stream}, {activation}"] = {
            "methods": part["method"].nunique(),
            "seeds": part["seed"].nunique(),
            "tasks": "–".join(map(str, ends)),
            "not measured": ", ".join(absent) or "–",
        }
    columns = ["methods", "seeds", "tasks", "not measured"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)
