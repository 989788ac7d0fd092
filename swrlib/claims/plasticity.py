"""What a change of data costs each method, against its own training on all images from the start.

Recovered plasticity is a method's *own* gap, its network from scratch minus its network after the
change. A method that makes every network better ends above a plain one from scratch even if it
recovers nothing.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from swrlib.papers import SWR as paper
from swrlib.statistics import NO_INTERVAL, Estimate, combined, of_mean
from swrlib.verdicts import second_rule
from swrlib.verdicts.comparisons import in_points
from swrlib.verdicts.outcomes import late_by_seed


def own_gaps(changed: pd.DataFrame, single: pd.DataFrame) -> pd.DataFrame:
    """Compare each method after changes of data with itself, trained on all images from the start.

    A single task is such a training: its records up to as many epochs as the last stage has, in
    which all images are there. The mean of the last epochs counts on both sides.

    Parameters
    ----------
    changed, single : DataFrame
        Records of a warm start or of full access, and of single tasks, of runs of one scale.

    Returns
    -------
    DataFrame
        A row per data set, model and method of both: ``dataset, model, method``, ``seeds`` (of the
        side that has fewer), ``start`` and ``end`` (means), ``gap, low, high`` (start minus end,
        95%, Welch), ``word`` (*equal within the margin*: no loss of a
        size that matters; *differs*; *too noisy to say*; a dash where no size is known), and
        ``recovered, recovered_low, recovered_high``: vanilla's gap minus the method's. Accuracies
        as fractions; NaN with one seed.
    """
    rows = []
    for (dataset, model), here in changed.groupby(["dataset", "model"]):
        there = single[(single["dataset"] == dataset) & (single["model"] == model)]
        length = here.loc[here["stage"] == here["stage"].max(), "stage_epoch"].max()
        start, end = late_by_seed(there[there["epoch"] <= length]), late_by_seed(here)
        methods = [m for m in paper.labels if m in end and m in start]
        gaps = {method: _gap(start[method], end[method]) for method in methods}
        size = paper.sizes.get((str(dataset), str(model)))
        for method, gap in gaps.items():
            a, b = start[method], end[method]
            sides = [gaps["vanilla"], gap] if "vanilla" in gaps and method != "vanilla" else []
            rest = combined(sides, (1, -1), welch=True).interval() if sides else NO_INTERVAL
            ends = [dataset, model, method, min(a.count(), b.count()), a.mean(), b.mean()]
            rows.append([*ends, *gap.interval(), _word(gap, size), *rest])
    return pd.DataFrame(rows, columns=COLUMNS)


COLUMNS = ["dataset", "model", "method", "seeds", "start", "end", "gap", "low", "high", "word"]
COLUMNS += ["recovered", "recovered_low", "recovered_high"]


def _gap(start: pd.Series, end: pd.Series) -> Estimate:
    """Return start minus end by Welch: two trainings, of which one may have more seeds."""
    if min(start.count(), end.count()) < 2:
        return Estimate(start.mean() - end.mean(), np.nan, np.nan)
    sides = [of_mean(x.mean(), x.std(), x.count()) for x in (start, end)]
    return combined(sides, (1, -1), welch=True)


def _word(gap: Estimate, size: float | None) -> str:
    if size is None or np.isnan(gap.error):
        return "–"
    return str(second_rule.number_word(gap, size))


def written(gaps: pd.DataFrame) -> pd.DataFrame:
    """Write one setting's `own_gaps` for readers, in points, a row a method."""

    def points(row: pd.Series, *names: str) -> str:
        return in_points(*(row[name] for name in names), unit="")

    lines = {
        paper.label(row["method"]): {
            "from scratch, %": f"{100 * row['start']:.1f}",
            "after the change, %": f"{100 * row['end']:.1f}",
            "lost": points(row, "gap", "low", "high"),
            "that is": row["word"],
            "less than vanilla by": points(row, "recovered", "recovered_low", "recovered_high"),
            "seeds": row["seeds"],
        }
        for _, row in gaps.iterrows()
    }
    return pd.DataFrame.from_dict(lines, orient="index")
