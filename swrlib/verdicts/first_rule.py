"""The first rule, of 2026-11-21: thresholds and words from one interval each.

It is kept for comparison with the second (`second_rule`), and judges norms, balance and what else
is measured in chapters. All thresholds come from q, a quarter of the range of the paper's
means in a column.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from swrlib import statistics
from swrlib.papers import SWR as paper
from swrlib.papers import Accuracy, Cell, Claim
from swrlib.statistics import Interval, of_mean, quantile
from swrlib.verdicts.second_rule import MIXED, REPRODUCED, REVERSED, UNDECIDED

#: Fewer seeds than this carry no verdict.
LEAST_SEEDS = 3

AGREES, COMPATIBLE = "agrees", "compatible"
NOT_REPRODUCED = "not reproduced"
NOT_RUN, TOO_FEW_SEEDS = LACKING = ("not run", "too few seeds")  # which say nothing

_WORST_FIRST = (REVERSED, NOT_REPRODUCED, NOT_RUN, TOO_FEW_SEEDS, UNDECIDED, REPRODUCED)


def severity(verdict: str) -> int:
    """Return 0 for the worst verdict and more for better ones: against several rivals it wins."""
    return _WORST_FIRST.index(verdict) if verdict in _WORST_FIRST else len(_WORST_FIRST)


def combined(verdicts: Collection[str]) -> str:
    """Make one verdict of several: *mixed* where they differ; what was not run does not enter it.

    Of none at all: *not run*.
    """
    said = {verdict for verdict in verdicts if verdict not in LACKING}
    if not said:
        return max(verdicts, key=severity, default=NOT_RUN)
    return said.pop() if len(said) == 1 else MIXED


def quarter_range(dataset: str, model: str, stream: str) -> float | None:
    """Return q, a quarter of the range of the paper's means in a column.

    Streams without a printed table take Table 1's column for the same dataset and model; None
    where there is none.
    """
    tables = {table.stream: table for table in paper.tables.values()}
    column = tables.get(stream, paper.tables[1]).accuracy.get((dataset, model), {})
    return float(np.ptp([printed.mean for printed in column.values()])) / 4 if column else None


def cell_verdict(mean: float, sd: float, n: int, printed: Accuracy, q: float) -> str:
    """Judge one mean against the printed one.

    Parameters
    ----------
    mean, sd : float
        Our mean and sample standard deviation.
    n : int
        Number of our seeds.
    printed : Accuracy
        The paper's.
    q : float
        See `quarter_range`.

    Returns
    -------
    str
        *agrees*: the interval of the difference contains 0 and is at most ±q wide;
        *compatible*: it contains 0 and only our own part of it is that narrow, the paper's spread
        hides the rest; *undecided*: neither is. Else *higher* or *lower*, *slightly* if by less
        than q. Under three seeds: *too few seeds*; none: *not run*.
    """
    if n < LEAST_SEEDS:
        return TOO_FEW_SEEDS if n else NOT_RUN
    sides = [of_mean(mean, sd, n), of_mean(*printed)]
    difference, low, high = statistics.combined(sides, (1, -1), welch=True).interval()
    if low > 0 or high < 0:
        word = "higher" if difference > 0 else "lower"
        return f"slightly {word}" if abs(difference) < q else word
    if (high - low) / 2 <= q:
        return AGREES
    return COMPATIBLE if quantile(n - 1) * sd / np.sqrt(n) <= q else UNDECIDED


def ordering_verdict(low: float, high: float, margin: float) -> str:
    """Judge "a is above b" by the interval of a − b.

    Parameters
    ----------
    low, high : float
        The interval.
    margin : float
        Half the printed difference, or what replaces it: the claim is *not reproduced*
        only where an effect of this size is excluded.

    Returns
    -------
    str
        *reproduced* above 0, *reversed* below 0, *not reproduced* where the interval contains 0
        and ends below the margin, else *undecided*.
    """
    if low > 0:
        return REPRODUCED
    if high < 0:
        return REVERSED
    return NOT_REPRODUCED if high < margin else UNDECIDED


def same_verdict(low: float, high: float, q: float) -> str:
    """Judge "a is as b": *reproduced* within ±q, *not reproduced* wholly outside."""
    if low >= -q and high <= q:
        return REPRODUCED
    return NOT_REPRODUCED if low > q or high < -q else UNDECIDED


def comparable_verdict(low: float, high: float, q: float) -> str:
    """Judge "a is not below b": *reproduced* above −q, *not reproduced* wholly below."""
    if low >= -q:
        return REPRODUCED
    return NOT_REPRODUCED if high < -q else UNDECIDED


def comparison_word(claim: Claim, cell: Cell, interval: Interval, printed: Interval) -> str:
    """Apply the rule of the claim's kind with the threshold that belongs to this cell.

    Parameters
    ----------
    claim : Claim
    cell : (dataset, model, stream)
    interval : Interval
        Of the paired differences of the last epoch.
    printed : Interval
        Of the printed difference; NaN where there is none.
    """
    q = quarter_range(*cell)
    if claim.kind in ("ordering", "best", "half-way", "loses more", "loses less"):
        q = quarter_range(*cell[:2], paper.tables[1].stream)
        q = claim.margin if isinstance(claim.margin, float) else q
        q = printed.difference / 2 if printed.difference > 0 else q
    assert q is not None, f"claim {claim.id} needs a margin in {cell}"
    rules = dict.fromkeys(("comparable", "loses nothing"), comparable_verdict)
    rules["little"] = same_verdict
    return rules.get(claim.kind, ordering_verdict)(interval.low, interval.high, q)
