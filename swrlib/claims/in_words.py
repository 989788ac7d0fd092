"""Sentences of the neighbours' chapters that are made of their records."""

from __future__ import annotations

import pandas as pd

from swrlib.claims import curvature, spectral_collapse_tables
from swrlib.claims import spectral_collapse as collapse
from swrlib.verdicts import task_rule

#: A network that is initialized anew at each task: methods above it keep plasticity, by version 3.
RESET = "full-reset"


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


def keepers(rows: pd.DataFrame) -> str:
    """Say which methods keep their accuracy on permuted MNIST, and their ε-rank beside it.

    Parameters
    ----------
    rows : DataFrame
        What `swrlib.claims.spectral_collapse.by_task` returned; there may be none.
    """
    if not len(rows):
        return ""
    courses = collapse.Courses(rows)
    ends = task_rule.wide(courses.sums, "late").mean()
    lost = -task_rule.wide(courses.sums, "change").mean()
    ranks = task_rule.wide(courses.rank_sums(), "kept").mean().reindex(ends.index)

    def of(method: str) -> str:
        return f"{collapse.LABELS[method]} {ranks[method]:.2f} ({lost[method]:+.3f})"

    keeping = courses.keepers()
    others = [m for m in collapse.LABELS if m in ends.index and m not in keeping]
    said = ["Share of the ε-rank that is left at the end (and the accuracy that was lost)."]
    if keeping:
        said.append(f"Methods that lose none, by the rule: {', '.join(map(of, keeping))}.")
    said.append(f"All others, undecided ones among them: {', '.join(map(of, others))}.")
    above = [collapse.LABELS[m] for m in collapse.LABELS if ends.get(m, 0) > ends.get(RESET, 1)]
    if above:
        said.append(f"Above full reset, by their means: {', '.join(above)}.")
    return " ".join(said)


def strengths(records: pd.DataFrame, used: pd.DataFrame) -> str:
    """Say what the strengths that are judged rest on, and where another one did better.

    Parameters
    ----------
    records, used : DataFrame
        As for `swrlib.claims.spectral_collapse_tables.strengths`.
    """
    table = spectral_collapse_tables.strengths(records, used)
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
