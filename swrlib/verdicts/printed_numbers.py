"""The paper's tables beside ours: each number with its difference, interval and word."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from swrlib.papers import SWR as paper
from swrlib.papers import Accuracy, Cell
from swrlib.statistics import Interval, combined, mean_of, of_mean, prediction_interval
from swrlib.verdicts import first_rule, second_rule
from swrlib.verdicts.comparisons import OUTSIDE, other_scale
from swrlib.verdicts.outcomes import OURS, by_seed, judged


def table_cells(records: pd.DataFrame, number: int, *, scale: str = "paper") -> pd.DataFrame:
    """Set records beside a table of the paper.

    Parameters
    ----------
    records : DataFrame
        What `swrlib.records.load_records` returns. Runs with other settings, λ or epochs than
        the paper's are passed over.
    number : int
        1 or 5.
    scale : str
        Which records. Any but ``"paper"`` gives the same statistics for the columns found, no
        numbers of the paper's, and no verdict on it.

    Returns
    -------
    DataFrame
        One row per method and column: ``dataset, model, method``, ``ours_mean, ours_sd, n`` (of
        the mean of the last epochs), ``last_mean`` (of the last), ``paper_mean, paper_sd,
        paper_n``, ``difference, low, high`` (95%), ``margin``, ``predicted_low, predicted_high``
        (where a faithful repetition falls), ``verdict``, and the ``first`` rule's. Methods of ours
        that the paper lacks follow the paper's.

    Raises
    ------
    ValueError
        If several runs of one seed count.
    """
    table = paper.tables[number]
    finals = judged(records, scale)
    finals = finals[finals["stream"] == table.stream]
    columns = table.accuracy
    if scale != "paper":
        columns = {(d, m): {} for d, m in zip(finals["dataset"], finals["model"], strict=True)}
    rows = []
    for pair, printed in columns.items():
        cell = (*pair, table.stream)
        late, last = (by_seed(finals, cell, outcome) for outcome in ("late", "last"))
        ran = [method for method in paper.labels if method in late]
        for method in dict.fromkeys([*printed, *ran]):
            empty = pd.Series(dtype=float)
            ours, at_last = (values.get(method, empty).dropna() for values in (late, last))
            row: dict[str, Any] = {"dataset": pair[0], "model": pair[1], "method": method}
            row |= {"ours_mean": ours.mean(), "ours_sd": ours.std(), "n": len(ours)}
            row |= {"last_mean": at_last.mean()}
            rows.append(row | _beside(cell, method, late, at_last, printed.get(method), scale))
    return pd.DataFrame(rows)


def _beside(
    cell: Cell,
    method: str,
    late: pd.DataFrame,
    last: pd.Series,
    theirs: Accuracy | None,
    scale: str,
) -> dict[str, Any]:
    """Return what a table's cell shows next to our own numbers."""
    ends = ("predicted_low", "predicted_high")
    row: dict[str, Any] = {"paper_mean": np.nan, "paper_sd": np.nan, "paper_n": 0}
    row |= dict.fromkeys((*Interval._fields, "margin", *ends), np.nan)
    if theirs is None or scale != "paper":
        word = OUTSIDE if scale == "paper" else other_scale(scale)
        return row | {"verdict": word, "first": word}
    row |= {"paper_mean": theirs.mean, "paper_sd": theirs.std, "paper_n": theirs.seeds}
    row["margin"] = paper.size_that_matters(None, cell)
    n, q = len(last), first_rule.quarter_range(*cell)
    word = first_rule.TOO_FEW_SEEDS if n else first_rule.NOT_RUN
    if n > 1:
        block = late if method == OURS else late.drop(columns=OURS, errors="ignore")
        estimate = combined([mean_of(block, method), of_mean(*theirs)], (1, -1))
        row |= estimate.interval()._asdict()
        row |= dict(zip(ends, prediction_interval(*theirs, n), strict=True))
        if n >= first_rule.LEAST_SEEDS:
            word = second_rule.number_word(estimate, row["margin"])
    assert q is not None
    first = first_rule.cell_verdict(last.mean(), last.std(), n, theirs, q)
    return row | {"verdict": word, "first": first}
