"""Sentences of the neighbours' chapters that are made of their records."""

from __future__ import annotations

import pandas as pd

from swrlib.claims import curvature
from swrlib.claims import spectral_collapse as collapse
from swrlib.verdicts import task_rule


def leads(rows: pd.DataFrame) -> str:
    """Say for each activation whether the rank of plain training's Hessian warns.

    Parameters
    ----------
    rows : DataFrame
        As for `swrlib.claims.curvature.Courses`; there may be none.
    """
    if not len(rows):
        return ""
    courses, said = curvature.Courses(rows), []
    for activation in curvature.ACTIVATIONS:
        events = curvature.events_of(courses, activation)
        events = events[events.index.get_level_values("method") == "vanilla"]
        events = events.dropna(subset=["onset", "fallen"])
        if not len(events):
            continue
        never, kept = (events[name].astype(bool) for name in ("never", "censored"))
        tasks = (events["onset"] - events["fallen"])[~never & ~kept].astype(float)
        counts = {
            "fell before it in": (tasks > 0).sum(),
            "fell at it in": (tasks == 0).sum(),
            "fell after it in": (tasks < 0).sum(),
            "never fell in": (never & ~kept).sum(),
            "fell, and no task was lost, in": (~never & kept).sum(),
            "did not fall, and no task was lost, in": (never & kept).sum(),
        }
        text = ", ".join(f"{which} {count}" for which, count in counts.items() if count)
        if len(tasks):
            when = "earlier" if tasks.mean() >= 0 else "later"
            text += f" (where both were seen, {abs(tasks.mean()):.1f} tasks {when} on average)"
        if (events["onset"] == 1).all():
            text += "; the first task is counted as lost already, so nothing is lost on the way"
        said.append(f"{curvature.NAMED[activation]}: of {len(events)} runs the rank {text}.")
    title = "The fall of the rank and the first lost task, plain training."
    return " ".join([title, *said]) if said else ""


def strengths(records: pd.DataFrame, used: pd.DataFrame) -> str:
    """Say what the strengths that are judged rest on, and where another one did better.

    Parameters
    ----------
    records, used : DataFrame
        As for `swrlib.claims.spectral_collapse.strengths`.
    """
    table = collapse.strengths(records, used)
    if not len(table):
        return (
            f"Strengths were chosen after trials of a few tasks on seed {collapse.CHOOSING}, whose "
            "records are not among the committed ones yet, so take them as given."
        )
    tasks = task_rule.task_rows(records)["task"].max()
    seed = f"seed {collapse.CHOOSING}, apart from all else here."
    said = [f"Strengths were tried on {tasks} tasks of {seed}"]
    best, other = [], []
    for method, tried in table.dropna(subset=["λ"]).groupby("method", sort=False):
        own, first = tried[tried["used"] != ""], tried.loc[tried["online accuracy"].idxmax()]
        if len(own) and first["used"]:
            best.append(str(method))
        elif len(own):
            gap = first["online accuracy"] - own["online accuracy"].max()
            other.append(f"{method} ({first['λ']:g}, by {gap:.4f})")
    if best:
        said.append(f"The strength used here had the highest online accuracy of {', '.join(best)}.")
    if other:
        said.append(f"Another one was higher of {', '.join(other)}.")
    return " ".join(said)
