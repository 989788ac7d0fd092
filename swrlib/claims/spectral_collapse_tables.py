"""Tables of the chapter *Spectral collapse*: its numbers beside the paper's, for readers."""

from __future__ import annotations

import numpy as np
import pandas as pd

from swrlib.claims.settings import CHOOSING, of_setting
from swrlib.claims.spectral_collapse import DEFAULTS, IN_SMALL, LABELS, PAPER, named, rare
from swrlib.verdicts import task_rule

#: What is said of L2-ER where its step comes every hundred minibatches of ten images.
SELDOM = ", its step every 1,000 images"


def levels(rows: pd.DataFrame) -> pd.DataFrame:
    """Set accuracies at the start and the end beside those that the main figure prints.

    Parameters
    ----------
    rows : DataFrame
        What `by_task` returned; there may be none.

    Returns
    -------
    DataFrame
        ``ours`` and ``printed`` by method, written for readers; a dash where one has none.
    """
    sums = task_rule.summarized(rows, "online").astype(float)
    own = {m: tuple(part[["start", "late"]].mean()) for m, part in sums.groupby("method")}
    table = pd.DataFrame({"ours": pd.Series(own), "printed": pd.Series(PAPER.details["levels"])})
    written = table.map(lambda pair: "–" if np.ndim(pair) == 0 else "{:.3f} → {:.3f}".format(*pair))
    order = [method for method in LABELS if method in written.index]
    return written.loc[order].rename(index=LABELS)


def other_settings(records: pd.DataFrame) -> pd.DataFrame:
    """Give levels of what departs from the setting that is judged: the rate, or L2-ER's interval.

    Parameters
    ----------
    records : DataFrame
        What `swrlib.load_records` returns.

    Returns
    -------
    DataFrame
        By ``rate``, ``tasks`` and ``method``: ``seeds``, and ``online accuracy``, start → end.
    """
    free = {name: value for name, value in IN_SMALL.items() if name != "lr"}
    chosen = of_setting(records, free, DEFAULTS) if "tasks" in records else records[:0]
    chosen = chosen[(chosen["epoch"] > 0) & (chosen["seed"] < CHOOSING)]  # no rate before a step
    chosen = chosen[rare(chosen) | chosen["lr"].ne(IN_SMALL["lr"])]
    columns = ["seeds", "online accuracy"]
    if not len(chosen):
        return pd.DataFrame(columns=columns)
    rows = task_rule.task_rows(named(chosen))
    names = rows["method"].map(LABELS) + rare(rows).map({True: SELDOM, False: ""})
    table = {}
    for (rate, tasks, label), part in rows.groupby(["lr", "tasks", names], sort=False):
        sums = task_rule.summarized(part, "online").astype(float)[["start", "late"]]
        levels = "{:.3f} → {:.3f}".format(*sums.mean())
        table[f"{rate:g}", int(tasks), label] = {"seeds": len(sums), "online accuracy": levels}
    index = pd.MultiIndex.from_tuples(table, names=["rate", "tasks", "method"])
    return pd.DataFrame([*table.values()], index=index, columns=columns)


def features(rows: pd.DataFrame) -> pd.DataFrame:
    """Set ranks, dead units and accuracy at the end side by side, the most accurate first.

    Parameters
    ----------
    rows : DataFrame
        What `by_task` returned; there may be none.

    Returns
    -------
    DataFrame
        By method, means over seeds at the end of the stream: ``online accuracy``, ``rank``,
        ``dead``; and ``printed rank`` and ``printed dead`` from the paper's figures, of networks of
        ten times the width.
    """
    named_as = {"online": "online accuracy", "features": "rank", "dead": "dead"}
    if not len(rows):
        return pd.DataFrame(columns=[*named_as.values()])
    ends = {
        name: task_rule.summarized(rows, column)["late"].astype(float).groupby("method").mean()
        for column, name in named_as.items()
    }
    printed = pd.DataFrame(PAPER.details["features"]).T.add_prefix("printed ")
    table = pd.DataFrame(ends).join(printed).sort_values("online accuracy", ascending=False)
    return table.rename(index=LABELS)


def strengths(records: pd.DataFrame, used: pd.DataFrame) -> pd.DataFrame:
    """Return what strengths were tried, and what came of it.

    Parameters
    ----------
    records : DataFrame
        What `in_small` returned with ``choosing``.
    used : DataFrame
        The records that are judged.

    Returns
    -------
    DataFrame
        ``method``, ``λ``, ``online accuracy`` (the mean over all tasks) and ``used``.
    """
    if not len(records):
        return pd.DataFrame(columns=["method", "λ", "online accuracy", "used"])
    means = task_rule.task_rows(records).groupby(["method", "lam"])["online"].mean().reset_index()
    pairs = set(zip(used["method"], used["lam"], strict=True))
    taken = [pair in pairs for pair in zip(means["method"], means["lam"], strict=True)]
    table = means.assign(used=np.where(taken, "used", ""), method=means["method"].map(LABELS))
    return table.rename(columns={"lam": "λ", "online": "online accuracy"})
