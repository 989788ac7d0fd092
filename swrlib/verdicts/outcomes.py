"""From records to numbers: how accurate runs end, what changes of data cost, which runs count.

Accuracies are fractions; only texts speak of points.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd

from swrlib.papers import CHANGE_KINDS, HALF_WAY, Cell, Claim
from swrlib.papers import SWR as paper
from swrlib.records import COLUMNS

#: How many epochs the mean takes in that a verdict is on.
LATE = 10
#: Our addition, which stays out of the block design of the paper's methods.
OURS = "adamw"
# The paper's setting of what its tables do not vary; a missing value is the default too.
_PAPERS_SETTING = {"split": "all", "variant": "proportional"}
_PAPERS_SETTING |= {"optimizer_state": "kept", "dtype": "float32"}


def final_accuracy(records: pd.DataFrame) -> pd.DataFrame:
    """Take the last epoch of each run: final means the last epoch's.

    Parameters
    ----------
    records : DataFrame
        What `swrlib.records.load_records` returns.

    Returns
    -------
    DataFrame
        One row per run, all columns kept; ``test_accuracy`` and the λ's in float64.
    """
    of_runs = records[["run", "epoch"]].reset_index(drop=True)  # all columns are slow to sort
    ends = of_runs.sort_values("epoch", kind="stable").drop_duplicates("run", keep="last").index
    last = records.iloc[ends]
    numbers = ("test_accuracy", "lam", "lam_features", "lam_classifier")
    order = ["dataset", "model", "stream", "method", "seed", "run"]
    return last.sort_values(order, ignore_index=True).astype(dict.fromkeys(numbers, "float64"))


def late_accuracy(records: pd.DataFrame) -> pd.Series:
    """Average the test accuracy of each run over the last `LATE` epochs of its last stage, by run.

    A spike of Adam at a constant learning rate moves the last epoch, but hardly this. A shorter
    stage is averaged whole.
    """
    columns = ["run", "stage", "epoch", "test_accuracy"]
    trained = records.loc[records["epoch"] > 0, columns].sort_values("epoch", kind="stable")
    stage = trained.groupby("run")["stage"].transform("max")
    last = trained[trained["stage"] == stage].groupby("run").tail(LATE)
    return last.astype({"test_accuracy": "float64"}).groupby("run")["test_accuracy"].mean()


def late_by_seed(records: pd.DataFrame) -> pd.DataFrame:
    """Lay the late accuracies of one setting out by seed (rows) and method (columns)."""
    runs = records.drop_duplicates("run")[["run", "seed", "method"]]
    late = runs.assign(late=runs["run"].map(late_accuracy(records)).astype(float))
    return late.pivot_table(index="seed", columns="method", values="late")


def changes_of_data(records: pd.DataFrame) -> pd.DataFrame:
    """Return for each run and change of data what was lost at once and what was learnt.

    Returns
    -------
    DataFrame
        ``run, dataset, model, scale, method, seed, stage``; ``drop`` and ``late_drop``, test
        accuracy of the last epoch before a stage, and the mean of the last `LATE` before it, minus
        that after the stage's first epoch; ``train_accuracy`` at the stage's end.
    """
    kept = ["run", "dataset", "model", "scale", "method", "seed", "stage", "stage_epoch", "epoch"]
    rows = records[[*kept, "train_accuracy", "test_accuracy"]].sort_values("epoch")
    rows = rows.astype({"test_accuracy": "float64"})
    by_run = rows.groupby("run")["test_accuracy"]
    first = rows[(rows["stage_epoch"] == 1) & (rows["stage"] > 1)]
    trained = rows[rows["epoch"] > 0].groupby(["run", "stage"])
    late = trained["test_accuracy"].agg(lambda values: values.tail(LATE).mean()).rename("late")
    before = first.assign(stage=first["stage"] - 1).join(late, on=["run", "stage"])["late"]
    after, at_once = first["test_accuracy"], by_run.shift(1)[first.index]
    table = first[kept[:7]].assign(drop=at_once - after, late_drop=before - after)
    last = rows.groupby(["run", "stage"])["train_accuracy"].last()
    return table.join(last, on=["run", "stage"]).reset_index(drop=True)


def counting(records: pd.DataFrame, scale: str, also: Collection[str] = ()) -> pd.DataFrame:
    """Take the final rows of the runs that count: the paper's settings, and its λ and epochs.

    Methods of other papers do not, but for `OURS`, and those that are asked for in ``also``.
    """
    finals = final_accuracy(records[records["scale"] == scale])
    keep = finals["method"].isin([*paper.methods, OURS, *also])
    # An option that has no column in the records marks an experiment that is not the paper's.
    for name in (*_PAPERS_SETTING, *finals.columns.difference(list(COLUMNS))):
        keep &= finals[name].isna() | (finals[name] == _PAPERS_SETTING.get(name))
    if scale == "paper":
        keep &= np.array([_as_in_the_paper(row) for row in finals.itertuples()], dtype=bool)
    return finals[keep]


def _as_in_the_paper(row: Any) -> bool:
    if row.epoch != sum(paper.epochs.get(row.stream, ())) and not row.diverged:
        return False
    published = paper.published_lambda(row.method, row.dataset, row.model, row.stream)
    both = (row.lam_features, row.lam_classifier) if np.isnan(row.lam) else (row.lam, row.lam)
    return published is None or bool(np.all(np.equal(both, published)))


def judged(
    records: pd.DataFrame, scale: str, claim: Claim | None = None, also: Collection[str] = ()
) -> pd.DataFrame:
    """Return what a claim is judged on, by run: the runs that count, with two outcomes.

    Parameters
    ----------
    records : DataFrame
    scale : str
    claim : Claim, optional
        Of a kind that is judged on changes of data: their mean; else final accuracies.
    also : collection of str
        Methods of other papers that count, too.

    Returns
    -------
    DataFrame
        What `counting` returns, with ``late`` (the second rule's outcome) and ``last`` (the
        first's): so that the claimed side is the higher one.
    """
    finals = counting(records, scale, also)
    if claim is not None and claim.kind == HALF_WAY:
        second = records[records["stage"] > records.groupby("run")["stage"].transform("max") / 2]
        halves = finals["run"].map(second.groupby("run")["test_accuracy"].mean().astype(float))
        return finals.assign(late=halves, last=halves)
    if claim is None or claim.kind not in CHANGE_KINDS:
        late = finals["run"].map(late_accuracy(records))
        return finals.assign(late=late, last=finals["test_accuracy"])
    means = changes_of_data(records).groupby("run")[["late_drop", "drop"]].mean()
    sign = 1 if claim.kind == "loses more" else -1
    late, last = (sign * finals["run"].map(means[name]) for name in ("late_drop", "drop"))
    return finals.assign(late=late, last=last)


def by_seed(finals: pd.DataFrame, cell: Cell, outcome: str) -> pd.DataFrame:
    """Lay an outcome of one setting out by seed (rows) and method (columns).

    Parameters
    ----------
    finals : DataFrame
        What `judged` returned.
    cell : (dataset, model, stream)
    outcome : {"late", "last"}

    Raises
    ------
    ValueError
        If several runs of one seed count: of several λ, say.
    """
    here = (finals[["dataset", "model", "stream"]] == [*cell]).all(axis=1)
    rows = finals.loc[here, ["method", "seed", outcome]]
    twice = rows.loc[rows.duplicated(["method", "seed"]), "method"]
    if len(twice):
        raise ValueError(
            f"there are several runs of {twice.iloc[0]!r} with one seed in {' '.join(cell)}: "
            "filter the records to one λ and one setting"
        )
    return rows.pivot(index="seed", columns="method", values=outcome)


def setting(rows: pd.DataFrame) -> str:
    """Name the data, the model and the scale of records of one setting."""
    first = rows.iloc[0]
    return f"{paper.label(first['dataset'])}, {paper.label(first['model'])}, {first['scale']} scale"


def seed_count(rows: pd.DataFrame) -> str:
    """Write how many seeds the methods have: "5", or "3–5" where not all have as many."""
    counts = rows.groupby("method")["seed"].nunique()
    return "–".join(map(str, sorted({counts.min(), counts.max()})))


def coefficient(rows: pd.DataFrame) -> str:
    """Write the λ of runs that share it, or their λ_f and λ_c; empty where the method has none."""
    lams = rows.iloc[0][["lam", "lam_features", "lam_classifier"]].astype(float)
    if lams.isna().all():
        return ""
    pair = [lams["lam"]] if lams.notna()["lam"] else [lams["lam_features"], lams["lam_classifier"]]
    return "λ = " + ", ".join(f"{lam:g}" for lam in pair)
