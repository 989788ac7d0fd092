"""Statistics over seeds, and the rules that turn records into verdicts on the paper.

A *cell* (one method in one column of a table) is compared with the paper's printed number by
Welch's interval. A *claim* is judged on differences of methods, paired over seeds. All
thresholds come from q, a quarter of the range of the paper's means in a column. The rules are
functions of an interval and a threshold alone: `cell_verdict`, `ordering_verdict`,
`same_verdict`, `comparable_verdict`. Accuracies are fractions; only texts speak of points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from swrlib import paper
from swrlib.paper import Accuracy, Cell, Claim, label
from swrlib.records import COLUMNS

#: Fewer seeds than this carry no verdict.
LEAST_SEEDS = 3
CONFIDENCE = 0.95

AGREES, COMPATIBLE = "agrees", "compatible"
REPRODUCED, REVERSED, NOT_REPRODUCED = "reproduced", "reversed", "not reproduced"
UNDECIDED, MIXED = "undecided", "mixed"
NOT_RUN, TOO_FEW_SEEDS = "not run", "too few seeds"
QUICK = "quick scale: no verdict on the paper"
CUSTOM = "custom scale: no verdict on the paper"
OUTSIDE = "outside the paper"
IN_CHAPTER = "judged in its chapter"
NOT_PRINTED = "not printed"

# The worst first: the verdict of a method against several rivals is the worst of them.
_WORST_FIRST = (
    REVERSED,
    NOT_REPRODUCED,
    NOT_RUN,
    TOO_FEW_SEEDS,
    UNDECIDED,
    REPRODUCED,
    OUTSIDE,
    QUICK,
    CUSTOM,
    NOT_PRINTED,
)
# The paper's setting of what its tables do not vary; a missing value is the default too.
_PAPERS_SETTING = {
    "split": "all",
    "variant": "proportional",
    "optimizer_state": "kept",
    "dtype": "float32",
}
_WHO = ["dataset", "model", "stream", "method", "seed"]


# ---------------------------------------------------------------------------------------------
# Intervals


class Interval(NamedTuple):
    """A difference and its confidence interval, as fractions (or arrays of them)."""

    difference: Any
    low: Any
    high: Any


def _student_quantile(degrees: Any, confidence: float) -> Any:
    try:
        from scipy.stats import t
    except ImportError as error:
        raise ImportError("intervals need SciPy: pip install 'swrlib[pictures]'") from error
    return t.ppf((1 + confidence) / 2, degrees)


def welch_interval(
    mean: Any,
    sd: Any,
    n: Any,
    other_mean: Any,
    other_sd: Any,
    other_n: Any,
    *,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Welch's interval of a difference of means, unpaired, with unequal variances.

    Parameters
    ----------
    mean, sd, n, other_mean, other_sd, other_n : float or array
        Means, sample standard deviations and numbers of runs (at least 2) of both sides.
    confidence : float
        Coverage.

    Returns
    -------
    Interval
        Of ``mean - other_mean``; of no width where neither side varies.
    """
    a, b = np.square(sd) / n, np.square(other_sd) / other_n
    with np.errstate(divide="ignore", invalid="ignore"):
        degrees = np.square(a + b) / (np.square(a) / (n - 1) + np.square(b) / (other_n - 1))
    spread = np.sqrt(a + b)
    half = np.where(spread > 0, _student_quantile(degrees, confidence) * spread, spread)
    difference = np.subtract(mean, other_mean)
    return Interval(difference, difference - half, difference + half)


def paired_interval(a: Any, b: Any, *, confidence: float = CONFIDENCE) -> Interval:
    """Student's interval of the mean difference of pairs, over the last axis.

    Parameters
    ----------
    a, b : array, shape [..., n]
        Values of both sides, pair by pair; n is at least 2.
    confidence : float
        Coverage.

    Returns
    -------
    Interval
        Of the mean of ``a - b``.
    """
    differences = np.subtract(a, b, dtype=np.float64)
    n = differences.shape[-1]
    mean = differences.mean(-1)
    spread = differences.std(-1, ddof=1) / np.sqrt(n)
    half = _student_quantile(n - 1, confidence) * spread
    return Interval(mean, mean - half, mean + half)


# ---------------------------------------------------------------------------------------------
# Rules


def quarter_range(dataset: str, model: str, stream: str) -> float | None:
    """Return q, a quarter of the range of the paper's means in a column.

    Streams without a printed table take Table 1's column for the same dataset and model; None
    where there is none.
    """
    table = paper.TABLE_5 if stream == paper.TABLE_5.stream else paper.TABLE_1
    means = [a.mean for a in table.accuracy.get((dataset, model), {}).values()]
    return (max(means) - min(means)) / 4 if means else None


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
    interval = welch_interval(mean, sd, n, printed.mean, printed.std, printed.seeds)
    if interval.low > 0 or interval.high < 0:
        word = "higher" if interval.difference > 0 else "lower"
        return f"slightly {word}" if abs(interval.difference) < q else word
    if (interval.high - interval.low) / 2 <= q:
        return AGREES
    ours = _student_quantile(n - 1, CONFIDENCE) * sd / np.sqrt(n)
    return COMPATIBLE if ours <= q else UNDECIDED


def ordering_verdict(low: float, high: float, margin: float) -> str:
    """Judge "a is above b" by the interval of a − b.

    Parameters
    ----------
    low, high : float
        The interval.
    margin : float
        Half the printed difference, or what stands in for it: the claim is *not reproduced*
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


# ---------------------------------------------------------------------------------------------
# From records to numbers


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
    last = records.sort_values("epoch", kind="stable").drop_duplicates("run", keep="last")
    numbers = ("test_accuracy", "lam", "lam_features", "lam_classifier")
    return last.sort_values([*_WHO, "run"], ignore_index=True).astype(
        dict.fromkeys(numbers, "float64")
    )


def _counting(records: pd.DataFrame, scale: str) -> pd.DataFrame:
    """Take the final rows of the runs that count: the paper's settings, and its λ and epochs."""
    finals = final_accuracy(records[records["scale"] == scale])
    keep = pd.Series(True, index=finals.index)
    for name, value in _PAPERS_SETTING.items():
        keep &= finals[name].isna() | (finals[name] == value)
    for name in finals.columns.difference(list(COLUMNS)):
        keep &= finals[name].isna()  # an option of its own: an experiment beside the paper's
    if scale == "paper":
        keep &= np.array([_as_in_the_paper(row) for row in finals.itertuples()], dtype=bool)
    return finals[keep]


def _as_in_the_paper(row: Any) -> bool:
    epochs = paper.EPOCHS.get(row.stream)
    if epochs and row.epoch != sum(epochs) and not row.diverged:
        return False
    chosen = paper.published_lambda(row.method, row.dataset, row.model, row.stream)
    if chosen is None:
        return True
    if isinstance(chosen, float) and not np.isnan(row.lam):
        return bool(np.isclose(row.lam, chosen, rtol=1e-9, atol=0))
    pair = (row.lam_features, row.lam_classifier)
    return bool(np.allclose(pair, chosen, rtol=1e-9, atol=0))


def _by_seed(finals: pd.DataFrame, cell: Cell, method: str) -> pd.Series:
    dataset, model, stream = cell
    rows = finals[
        (finals["dataset"] == dataset)
        & (finals["model"] == model)
        & (finals["stream"] == stream)
        & (finals["method"] == method)
    ]
    twice = rows[rows.duplicated("seed", keep=False)]
    if len(twice):
        first = twice[twice["seed"] == twice["seed"].iloc[0]]
        names = [n for n in COLUMNS if n not in ("run", "weight_norms", "bias_norms", "seconds")]
        differing = [n for n in names if first[n].nunique(dropna=False) > 1]
        raise ValueError(
            f"there are several runs of {method!r} with seed {first['seed'].iloc[0]} in "
            f"{' '.join(cell)} (they differ in {', '.join(differing[:4]) or 'their hash'}); "
            "filter the records"
        )
    return rows.set_index("seed")["test_accuracy"].sort_index()


# ---------------------------------------------------------------------------------------------
# Tables


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
        One row per method and column: ``dataset, model, method``, ``ours_mean, ours_sd, n``,
        ``paper_mean, paper_sd, paper_n``, ``difference, low, high`` (Welch, 95%),
        ``quarter_range``, ``verdict``. Methods of ours that the paper lacks follow the paper's.

    Raises
    ------
    ValueError
        If there is no such table, or several runs of one seed count.
    """
    if number not in paper.TABLES:
        raise ValueError(f"there is no table {number!r} of accuracies; there are: 1, 5")
    table = paper.TABLES[number]
    finals = _counting(records, scale)
    finals = finals[finals["stream"] == table.stream]
    if scale == "paper":
        columns = dict(table.accuracy)
    else:
        columns = {(d, m): {} for d, m in zip(finals["dataset"], finals["model"], strict=True)}
    rows = []
    for (dataset, model), printed in columns.items():
        here = finals[(finals["dataset"] == dataset) & (finals["model"] == model)]
        for method in dict.fromkeys([*printed, *sorted(here["method"], key=_readers_order)]):
            ours = _by_seed(here, (dataset, model, table.stream), method)
            rows.append(
                {"dataset": dataset, "model": model, "method": method}
                | _cell(ours, printed.get(method), quarter_range(dataset, model, table.stream))
                | ({} if scale == "paper" else {"verdict": _other_scale(scale)})
            )
    names = ["dataset", "model", "method", *_cell(pd.Series(dtype=float), None, None)]
    return pd.DataFrame(rows, columns=names)


def _readers_order(method: str) -> tuple[int, str]:
    known = list(paper.LABELS)
    return (known.index(method) if method in known else len(known), method)


def _other_scale(scale: str) -> str:
    return QUICK if scale == "quick" else CUSTOM


def _cell(ours: pd.Series, printed: Accuracy | None, q: float | None) -> dict[str, Any]:
    n = len(ours)
    mean, sd = ours.mean(), ours.std(ddof=1)
    interval = Interval(np.nan, np.nan, np.nan)
    verdict = OUTSIDE
    if printed is not None:
        assert q is not None  # a printed cell has a printed column
        verdict = cell_verdict(mean, sd, n, printed, q)
        if n > 1:
            interval = welch_interval(mean, sd, n, printed.mean, printed.std, printed.seeds)
        elif n:
            interval = Interval(mean - printed.mean, np.nan, np.nan)
    return {
        "ours_mean": mean,
        "ours_sd": sd,
        "n": n,
        "paper_mean": printed.mean if printed else np.nan,
        "paper_sd": printed.std if printed else np.nan,
        "paper_n": printed.seeds if printed else 0,
        **{name: float(value) for name, value in interval._asdict().items()},
        "quarter_range": q if q is not None else np.nan,
        "verdict": verdict,
    }


# ---------------------------------------------------------------------------------------------
# Claims


@dataclass(frozen=True)
class Comparison:
    """A method against a rival in one cell: ours, paired over seeds; the printed, by Welch."""

    dataset: str
    model: str
    stream: str
    method: str
    rival: str
    n: int
    difference: float
    low: float
    high: float
    verdict: str
    printed_difference: float
    printed_low: float
    printed_high: float
    printed_verdict: str

    def __str__(self) -> str:
        """Write one line for readers, in percentage points."""
        who = f"{label(self.method)} against {label(self.rival)}, {self.where}"
        ours = f"n = {self.n}"
        if self.n > 1:
            ours = f"{_points(self.difference, self.low, self.high)}, {ours}"
        text = f"{who}: {ours}: {self.verdict}"
        if self.printed_verdict != NOT_PRINTED:
            numbers = _points(self.printed_difference, self.printed_low, self.printed_high)
            text += f" (in print {numbers}: {self.printed_verdict})"
        return text

    @property
    def where(self) -> str:
        """The cell, for readers."""
        return f"{label(self.dataset)} {label(self.model)}, {label(self.stream)}"


def _points(difference: float, low: float, high: float) -> str:
    return f"{100 * difference:+.2f} points [{100 * low:+.2f}, {100 * high:+.2f}]"


@dataclass(frozen=True)
class Verdict:
    """What the records say on a claim.

    Attributes
    ----------
    claim : Claim
        The claim.
    verdict : str
        One word or a few; over what was run.
    label : str
        The verdict, and how much of the claim's scope was run where that is not all of it.
    detail : str
        A sentence with the numbers, or for a mixed verdict with what came out where.
    printed : str
        The same rule on the paper's own numbers, *not printed* where there are none.
    comparisons : tuple of Comparison
        Everything behind it; ``pandas.DataFrame(verdict.comparisons)`` is a table of it.
    """

    claim: Claim
    verdict: str
    label: str
    detail: str
    printed: str
    comparisons: tuple[Comparison, ...] = ()

    @property
    def n(self) -> int:
        """The least number of paired seeds among the comparisons that were run."""
        return min((c.n for c in self.comparisons if c.n), default=0)


def judge_claim(
    claim: Claim,
    records: pd.DataFrame,
    *,
    cells: Sequence[Cell] | None = None,
    scale: str = "paper",
) -> Verdict:
    """Judge a claim on final accuracies by records.

    Within a cell a method gets the verdict against its worst rival; over cells and methods the
    verdict is *mixed* where they differ. What was not run does not enter it, but its label says
    how much was.

    Parameters
    ----------
    claim : Claim
        One of `swrlib.paper.CLAIMS`.
    records : DataFrame
        What `swrlib.records.load_records` returns.
    cells : sequence of (dataset, model, stream), optional
        Judge it here only; default: everywhere the claim speaks of. Cells that it does not speak
        of get their numbers and the verdict *outside the paper*.
    scale : str
        Which records. Any but ``"paper"`` gives the same statistics and no verdict on the paper.

    Returns
    -------
    Verdict
        For a claim that is not about final accuracies: *judged in its chapter*.

    Raises
    ------
    ValueError
        If several runs of one seed count.
    """
    if claim.kind not in paper.ACCURACY_KINDS:
        return Verdict(claim, IN_CHAPTER, IN_CHAPTER, claim.place, NOT_PRINTED)
    finals = _counting(records, scale)
    worst: list[Comparison] = []
    worst_printed: list[str] = []
    comparisons: list[Comparison] = []
    for cell in claim.cells if cells is None else cells:
        for method in claim.methods:
            unit = [_compare(claim, cell, method, rival, finals, scale) for rival in claim.rivals]
            comparisons += unit
            worst.append(min(unit, key=lambda c: (_WORST_FIRST.index(c.verdict), c.low)))
            worst_printed.append(min((c.printed_verdict for c in unit), key=_WORST_FIRST.index))
    verdict = _combine([c.verdict for c in worst])
    run = [c for c in worst if c.verdict not in (NOT_RUN, TOO_FEW_SEEDS)]
    text = verdict
    if run and len(run) < len(worst):
        text = f"{verdict} ({len(run)} of {len(worst)} run)"
    printed = _combine([v for v in worst_printed if v != NOT_PRINTED] or [NOT_PRINTED])
    return Verdict(claim, verdict, text, _detail(worst), printed, tuple(comparisons))


def _compare(
    claim: Claim, cell: Cell, method: str, rival: str, finals: pd.DataFrame, scale: str
) -> Comparison:
    pairs = pd.concat(
        [_by_seed(finals, cell, name) for name in (method, rival)], axis=1, join="inner"
    )
    n = len(pairs)
    interval = Interval(np.nan, np.nan, np.nan)
    if n > 1:
        interval = paired_interval(pairs.iloc[:, 0].to_numpy(), pairs.iloc[:, 1].to_numpy())

    a, b = (paper.printed_accuracy(name, *cell) for name in (method, rival))
    printed = Interval(np.nan, np.nan, np.nan)
    if a and b:
        printed = welch_interval(a.mean, a.std, a.seeds, b.mean, b.std, b.seeds)

    if n < LEAST_SEEDS:
        verdict = TOO_FEW_SEEDS if n else NOT_RUN
    elif scale != "paper":
        verdict = _other_scale(scale)
    elif cell not in claim.cells:
        verdict = OUTSIDE
    else:
        verdict = _rule(claim, cell, interval, printed.difference)
    printed_verdict = NOT_PRINTED
    if a and b and cell in claim.cells:
        printed_verdict = _rule(claim, cell, printed, printed.difference)
    dataset, model, stream = cell
    return Comparison(
        dataset=dataset,
        model=model,
        stream=stream,
        method=method,
        rival=rival,
        n=n,
        **{name: float(value) for name, value in interval._asdict().items()},
        verdict=verdict,
        **{f"printed_{name}": float(value) for name, value in printed._asdict().items()},
        printed_verdict=printed_verdict,
    )


def _rule(claim: Claim, cell: Cell, interval: Interval, printed_difference: float) -> str:
    """Apply the rule of the claim's kind with the threshold that belongs to this cell."""
    if claim.kind in ("ordering", "best"):
        margin = claim.margin
        if margin is None:
            margin = quarter_range(cell[0], cell[1], paper.TABLE_1.stream)
        if printed_difference > 0:
            margin = printed_difference / 2
        assert margin is not None, f"claim {claim.id} needs a margin"
        return ordering_verdict(interval.low, interval.high, margin)
    q = quarter_range(*cell)
    assert q is not None, f"claim {claim.id} speaks of a cell that no table has"
    rule = same_verdict if claim.kind == "same" else comparable_verdict
    return rule(interval.low, interval.high, q)


def _combine(verdicts: Sequence[str]) -> str:
    run = {v for v in verdicts if v not in (NOT_RUN, TOO_FEW_SEEDS)}
    if not run:
        return TOO_FEW_SEEDS if TOO_FEW_SEEDS in verdicts else NOT_RUN
    return run.pop() if len(run) == 1 else MIXED


def _detail(worst: Sequence[Comparison]) -> str:
    """Say what came out: in full where it is one verdict, by verdict where they differ."""
    run = [c for c in worst if c.verdict not in (NOT_RUN, TOO_FEW_SEEDS)]
    if len({c.verdict for c in run}) == 1:
        return "; ".join(map(str, run)) + "."
    groups: dict[str, list[str]] = {}
    for c in worst:
        groups.setdefault(c.verdict, []).append(f"{label(c.method)} on {c.where}")
    return "; ".join(f"{verdict}: {' · '.join(who)}" for verdict, who in groups.items()) + "."
