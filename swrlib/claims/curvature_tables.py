"""Tables of the chapter *Curvature*: what its verdicts rest on, written for readers."""

from __future__ import annotations

import numpy as np
import pandas as pd

from swrlib.claims.curvature import (
    EARLIER,
    HESSIAN,
    NAMED,
    PAPER,
    PIXELS,
    Courses,
    at_the_paper_s_setting,
)
from swrlib.papers import SWR
from swrlib.verdicts import task_rule

#: Errors that count as the loss of a task: name, error, and in how many tasks running.
_LOST = {
    "above 0.1": (task_rule.LOST, 1),
    "above 0.1, two tasks running": (task_rule.LOST, 2),
    "above 0.3": (0.3, 1),
}
#: Shares of its start below which the rank has fallen.
_FALLEN = (task_rule.FALLEN, 0.6, 0.75)


def leads_by_threshold(rows: pd.DataFrame, activation: str = "tanh") -> pd.DataFrame:
    """Return by how many tasks the rank falls before the error rises, by what counts as that.

    Parameters
    ----------
    rows : DataFrame
        As for `swrlib.claims.curvature.Courses`; there may be none.
    activation : str

    Returns
    -------
    DataFrame
        Of plain training, on the mean over the seeds in which both were seen: by scale of the
        pixels, a row a threshold of the error, a column a threshold of the rank, whose first are
        the rule's. NaN where both were seen in no seed.
    """
    if HESSIAN not in rows:
        return pd.DataFrame()
    plain = rows[(rows["activation"] == activation) & (rows["method"] == "vanilla")]
    plain = plain[np.isclose(plain["lr"].astype(float), PAPER.learning_rate)]
    tables = {PIXELS[name]: _leads(part) for name, part in plain.groupby("dataset")}
    return pd.concat(tables, names=["pixels", "error"]) if tables else pd.DataFrame()


def _leads(plain: pd.DataFrame) -> pd.DataFrame:
    error, rank = (plain.pivot(index="task", columns="seed", values=v) for v in ("error", HESSIAN))
    share = rank / rank.iloc[: task_rule.START].mean()

    def first(event: pd.DataFrame) -> pd.Series:
        return event.idxmax().where(event.any()).astype(float)

    lost = {
        name: (error > level)[::-1].rolling(running).min()[::-1] == 1
        for name, (level, running) in _LOST.items()
    }
    return pd.DataFrame(
        {
            f"rank below {below:.0%} of its start": {
                name: (first(event) - first(share < below)).mean() for name, event in lost.items()
            }
            for below in _FALLEN
        }
    )


def by_pixels(records: pd.DataFrame) -> pd.DataFrame:
    """Return how tasks with ReLU end by the scale of the pixels, where both were trained.

    Parameters
    ----------
    records : DataFrame
        What `swrlib.load_records` returns.

    Returns
    -------
    DataFrame
        A row a method: the mean error at the ends of as many tasks as both have, and the first
        task of each seed that was lost ("–": none).
    """
    parts = []
    relu = at_the_paper_s_setting(records)
    relu = relu[relu["activation"] == "relu"]
    for dataset, scale in PIXELS.items():
        chosen = relu[relu["dataset"] == dataset]
        if not len(chosen):
            return pd.DataFrame()
        parts.append(task_rule.task_rows(chosen).assign(pixels=scale))
    rows = pd.concat(parts)[["method", "seed", "pixels", "task", "error"]]
    rows = rows[rows["task"] <= rows.groupby("pixels")["task"].max().min()]
    rows = rows[rows.groupby(["method", "seed"])["pixels"].transform("nunique") == len(parts)]
    lost = rows["task"].where(rows["error"] > task_rule.LOST)
    first = lost.groupby([rows["method"], rows["pixels"], rows["seed"]]).min()
    first = first.map("{:.0f}".format).replace("nan", "–")
    columns = {
        "mean error": rows.groupby(["method", "pixels"])["error"].mean().map("{:.3f}".format),
        "first lost task": first.groupby(["method", "pixels"]).agg(", ".join),
    }
    table = pd.DataFrame(columns).unstack("pixels")
    table.columns = [f"{what}, {scale}" for what, scale in table.columns]
    return table.rename(index=SWR.label).rename_axis(None)


def levels(rows: pd.DataFrame) -> pd.DataFrame:
    """Set the levels of plain training beside those that the figures print, written for readers."""
    if not len(rows):
        return pd.DataFrame()
    names = {"update": "update norm", "representation-rank": "rank of the representation"}
    names |= {"entropy": "entropy of the features"}
    courses, lines = Courses(rows), []
    for key, name in names.items():
        for activation, printed in PAPER.details["levels"][key].items():
            sums = courses.sums(EARLIER[name], activation)
            if "vanilla" in sums.index.unique("method"):
                own = sums.loc["vanilla"].astype(float)
                ours = "{:.3g} → {:.3g}".format(*own[["start", "late"]].mean())
                theirs = "{:g} → {:g}".format(*printed)
                lines.append([name, NAMED[activation], ours, theirs, len(own)])
    return pd.DataFrame(lines, columns=["measure", "activation", "ours", "printed", "seeds"])
