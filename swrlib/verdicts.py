"""Statistics over seeds, and the rules that turn records into verdicts on the paper.

A *cell* (one method in one column of a table) is compared with the paper's printed number by
Welch's interval. A *claim* is judged on differences of methods, paired over seeds. All
thresholds come from q, a quarter of the range of the paper's means in a column. The rules are
functions of an interval and a threshold alone: `cell_verdict`, `ordering_verdict`,
`same_verdict`, `comparable_verdict`. Accuracies are fractions; only texts speak of points.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import t as student

from swrlib.papers import ACCURACY_KINDS, CHANGE_KINDS, Accuracy, Cell, Claim
from swrlib.papers import SWR as paper
from swrlib.records import COLUMNS

#: Fewer seeds than this carry no verdict.
LEAST_SEEDS = 3
CONFIDENCE = 0.95
#: How many epochs the mean takes in that stands, without a verdict, beside the last epoch's.
LATE = 10

label = paper.label

AGREES, COMPATIBLE = "agrees", "compatible"
REPRODUCED, REVERSED, NOT_REPRODUCED = "reproduced", "reversed", "not reproduced"
UNDECIDED, MIXED = "undecided", "mixed"
NOT_RUN, TOO_FEW_SEEDS = "not run", "too few seeds"
QUICK = "quick scale: no verdict on the paper"
CUSTOM = "custom scale: no verdict on the paper"
OUTSIDE = "outside the paper"
IN_CHAPTER = "judged in its chapter"
NOT_PRINTED = "not printed"
#: Stands for the rival of a method that is claimed to lose nothing.
NOTHING = "no loss"

_WORST_FIRST = (REVERSED, NOT_REPRODUCED, NOT_RUN, TOO_FEW_SEEDS, UNDECIDED, REPRODUCED)
# The paper's setting of what its tables do not vary; a missing value is the default too.
_PAPERS_SETTING = {
    "split": "all",
    "variant": "proportional",
    "optimizer_state": "kept",
    "dtype": "float32",
}


def severity(verdict: str) -> int:
    """Return 0 for the worst verdict and more for better ones: against several rivals it wins."""
    return _WORST_FIRST.index(verdict) if verdict in _WORST_FIRST else len(_WORST_FIRST)


def combined(verdicts: Collection[str]) -> str:
    """Make one verdict of several: *mixed* where they differ; what was not run does not enter it.

    Of none at all: *not run*.
    """
    said = {verdict for verdict in verdicts if verdict not in (NOT_RUN, TOO_FEW_SEEDS)}
    if not said:
        return max(verdicts, key=severity, default=NOT_RUN)
    return said.pop() if len(said) == 1 else MIXED


# ---------------------------------------------------------------------------------------------
# Intervals


class Interval(NamedTuple):
    """A difference and its confidence interval, as fractions (or arrays of them)."""

    difference: Any
    low: Any
    high: Any


_NO_INTERVAL = Interval(np.nan, np.nan, np.nan)


def _quantile(degrees: float) -> float:
    return student.ppf((1 + CONFIDENCE) / 2, degrees)


def welch_interval(
    mean: float, sd: float, n: int, other_mean: float, other_sd: float, other_n: int
) -> Interval:
    """Welch's interval of a difference of means, unpaired, with unequal variances.

    Parameters
    ----------
    mean, sd, n, other_mean, other_sd, other_n : float
        Means, sample standard deviations and numbers of runs (at least 2) of both sides.

    Returns
    -------
    Interval
        Of ``mean - other_mean``; of no width where neither side varies.
    """
    a, b = sd**2 / n, other_sd**2 / other_n
    degrees = (a + b) ** 2 / (a**2 / (n - 1) + b**2 / (other_n - 1)) if a + b else 1.0
    half = _quantile(degrees) * np.sqrt(a + b)
    difference = mean - other_mean
    return Interval(difference, difference - half, difference + half)


def paired_interval(a: Any, b: Any) -> Interval:
    """Student's interval of the mean difference of pairs, over the last axis.

    Parameters
    ----------
    a, b : array, shape [..., n]
        Values of both sides, pair by pair; n is at least 2.

    Returns
    -------
    Interval
        Of the mean of ``a - b``.
    """
    differences = np.subtract(a, b, dtype=np.float64)
    n = differences.shape[-1]
    mean = differences.mean(-1)
    half = _quantile(n - 1) * differences.std(-1, ddof=1) / np.sqrt(n)
    return Interval(mean, mean - half, mean + half)


def mean_and_interval(values: pd.DataFrame | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean over seeds and the half-width of its 95% t interval.

    Parameters
    ----------
    values : array, shape [seeds, …]

    Returns
    -------
    tuple of arrays
        Half-widths are NaN with a single seed.
    """
    array = np.asarray(values, dtype=float)
    n = len(array)
    mean = array.mean(0)
    if n < 2:
        return mean, np.full_like(mean, np.nan)
    return mean, _quantile(n - 1) * array.std(0, ddof=1) / np.sqrt(n)


# ---------------------------------------------------------------------------------------------
# Rules


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
    difference, low, high = welch_interval(mean, sd, n, printed.mean, printed.std, printed.seeds)
    if low > 0 or high < 0:
        word = "higher" if difference > 0 else "lower"
        return f"slightly {word}" if abs(difference) < q else word
    if (high - low) / 2 <= q:
        return AGREES
    return COMPATIBLE if _quantile(n - 1) * sd / np.sqrt(n) <= q else UNDECIDED


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
    order = ["dataset", "model", "stream", "method", "seed", "run"]
    return last.sort_values(order, ignore_index=True).astype(dict.fromkeys(numbers, "float64"))


def late_accuracy(records: pd.DataFrame) -> pd.Series:
    """Average the test accuracy of each run over the last `LATE` epochs of its last stage, by run.

    A spike of Adam at a constant learning rate moves the last epoch, but hardly this. A shorter
    stage is averaged whole.
    """
    trained = records[records["epoch"] > 0].sort_values("epoch", kind="stable")
    stage = trained.groupby("run")["stage"].transform("max")
    last = trained[trained["stage"] == stage].groupby("run").tail(LATE)
    return last.astype({"test_accuracy": "float64"}).groupby("run")["test_accuracy"].mean()


def changes_of_data(records: pd.DataFrame) -> pd.DataFrame:
    """Return for each run and change of data what was lost at once and what was learnt.

    Returns
    -------
    DataFrame
        ``run, dataset, model, scale, method, seed, stage``, ``drop`` (test accuracy after a
        stage's first epoch minus that of the last epoch before it) and ``train_accuracy`` at the
        stage's end.
    """
    rows = records.sort_values("epoch")
    before = rows.groupby("run")["test_accuracy"].shift(1)
    first = rows[(rows["stage_epoch"] == 1) & (rows["stage"] > 1)]
    drop = first.assign(drop=first["test_accuracy"] - before[first.index])
    last = rows.groupby(["run", "stage"])["train_accuracy"].last()
    table = drop[["run", "dataset", "model", "scale", "method", "seed", "stage", "drop"]]
    return table.join(last, on=["run", "stage"]).reset_index(drop=True)


def counting(records: pd.DataFrame, scale: str) -> pd.DataFrame:
    """Take the final rows of the runs that count: the paper's settings, and its λ and epochs."""
    finals = final_accuracy(records[records["scale"] == scale])
    keep = pd.Series(True, index=finals.index)
    # An option of its own, beside the records' columns, marks an experiment beside the paper's.
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


def _by_seed(finals: pd.DataFrame, cell: Cell, method: str) -> pd.Series:
    here = finals[["dataset", "model", "stream", "method"]] == [*cell, method]
    rows = finals[here.all(axis=1)]
    if rows["seed"].duplicated().any():
        raise ValueError(
            f"there are several runs of {method!r} with one seed in {' '.join(cell)}: filter the "
            "records to one λ and one setting"
        )
    return rows.set_index("seed")["test_accuracy"].sort_index()


def _other_scale(scale: str) -> str:
    return QUICK if scale == "quick" else CUSTOM


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
        ``paper_mean, paper_sd, paper_n``, ``difference, low, high`` (Welch, 95%), ``verdict``.
        Methods of ours that the paper lacks follow the paper's.

    Raises
    ------
    ValueError
        If several runs of one seed count.
    """
    table = paper.tables[number]
    finals = counting(records, scale)
    finals = finals[finals["stream"] == table.stream]
    columns = table.accuracy
    if scale != "paper":
        columns = {(d, m): {} for d, m in zip(finals["dataset"], finals["model"], strict=True)}
    rows = []
    for (dataset, model), printed in columns.items():
        here = finals[(finals["dataset"] == dataset) & (finals["model"] == model)]
        ran = [method for method in paper.labels if method in set(here["method"])]
        for method in dict.fromkeys([*printed, *ran]):
            ours = _by_seed(here, (dataset, model, table.stream), method)
            mean, sd, n = ours.mean(), ours.std(ddof=1), len(ours)
            theirs = printed.get(method)
            interval = _NO_INTERVAL
            if theirs and n > 1:
                interval = welch_interval(mean, sd, n, theirs.mean, theirs.std, theirs.seeds)
            q = quarter_range(dataset, model, table.stream)
            if scale != "paper":
                verdict = _other_scale(scale)
            elif theirs and q:
                verdict = cell_verdict(mean, sd, n, theirs, q)
            else:
                verdict = OUTSIDE
            rows.append(
                {
                    "dataset": dataset,
                    "model": model,
                    "method": method,
                    "ours_mean": mean,
                    "ours_sd": sd,
                    "n": n,
                    "paper_mean": theirs.mean if theirs else np.nan,
                    "paper_sd": theirs.std if theirs else np.nan,
                    "paper_n": theirs.seeds if theirs else 0,
                    **interval._asdict(),
                    "verdict": verdict,
                }
            )
    return pd.DataFrame(rows)


def setting(rows: pd.DataFrame) -> str:
    """Name the data, the model and the scale of records of one setting."""
    first = rows.iloc[0]
    return f"{label(first['dataset'])}, {label(first['model'])}, {first['scale']} scale"


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


# ---------------------------------------------------------------------------------------------
# Claims


@dataclass(frozen=True)
class Comparison:
    """A method against a rival in one cell: ours, paired over seeds; the printed, by Welch."""

    cell: Cell
    method: str
    rival: str
    n: int
    difference: float
    low: float
    high: float
    verdict: str
    printed: Interval
    printed_verdict: str

    def __str__(self) -> str:
        """Write one line for readers, in percentage points."""
        text = f"{label(self.method)} against {label(self.rival)}, {self.where}: "
        if self.n > 1:
            text += f"{in_points(self.difference, self.low, self.high)}, "
        text += f"n = {self.n}: {self.verdict}"
        if self.printed_verdict != NOT_PRINTED:
            text += f" (in print {in_points(*self.printed)}: {self.printed_verdict})"
        return text

    @property
    def where(self) -> str:
        """The cell, for readers."""
        dataset, model, stream = map(label, self.cell)
        return f"{dataset} {model}, {stream}"


def in_points(difference: float, low: float, high: float, *, unit: str = " points") -> str:
    """Write a difference of accuracies and its interval in percentage points; a dash for NaN."""
    if np.isnan(low):
        return "–"
    return f"{100 * difference:+.2f}{unit} [{100 * low:+.2f}, {100 * high:+.2f}]"


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


def judge_claim(
    claim: Claim,
    records: pd.DataFrame,
    *,
    cells: Sequence[Cell] | None = None,
    scale: str = "paper",
) -> Verdict:
    """Judge a claim on final accuracies, or on what changes of data cost, by records.

    Within a cell a method gets the verdict against its worst rival; over cells and methods the
    verdict is *mixed* where they differ. What was not run does not enter it, but its label says
    how much was.

    Parameters
    ----------
    claim : Claim
        One of the paper's.
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
        For a claim of another kind: *judged in its chapter*.

    Raises
    ------
    ValueError
        If several runs of one seed count.
    """
    if claim.kind not in ACCURACY_KINDS:
        return Verdict(claim, IN_CHAPTER, IN_CHAPTER, claim.place, NOT_PRINTED)
    finals = counting(records, scale)
    if claim.kind in CHANGE_KINDS:
        mean = changes_of_data(records).groupby("run")["drop"].mean()
        sign = -1 if claim.kind == "loses more" else 1  # so that the claimed side is the higher
        finals = finals.assign(test_accuracy=sign * finals["run"].map(mean))
    rivals = (NOTHING,) if claim.kind == "loses nothing" else claim.rivals
    # One unit: a method in a cell, against all its rivals.
    units = [
        [_compare(claim, cell, method, rival, finals, scale) for rival in rivals]
        for cell in (claim.cells if cells is None else cells)
        for method in claim.methods
    ]
    worst = [min(unit, key=lambda c: (severity(c.verdict), c.low)) for unit in units]
    run = [c for c in worst if c.verdict not in (NOT_RUN, TOO_FEW_SEEDS)]
    verdict = combined([c.verdict for c in worst])
    part = f" ({len(run)} of {len(worst)} comparisons)" if 0 < len(run) < len(worst) else ""
    printed = [min((c.printed_verdict for c in unit), key=severity) for unit in units]
    return Verdict(
        claim,
        verdict,
        verdict + part,
        _detail(run, worst),
        combined([p for p in printed if p != NOT_PRINTED] or [NOT_PRINTED]),
        tuple(comparison for unit in units for comparison in unit),
    )


def judge_paired(
    claim: Claim,
    higher: pd.Series,
    lower: pd.Series,
    margin: float,
    *,
    what: str,
    scale: str,
    rule: Callable[[float, float, float], str] = ordering_verdict,
) -> Verdict:
    """Judge "one number is above another" on anything measured, paired over seeds.

    Parameters
    ----------
    claim : Claim
    higher, lower : Series
        By seed: what is claimed to be the higher and the lower one.
    margin : float
        See the rule.
    what : str
        What the difference is of, for readers.
    scale : str
        Which records. Any but ``"paper"`` gets no verdict on the paper.
    rule : callable
        `ordering_verdict`; `same_verdict` and `comparable_verdict` say something else.
    """
    a, b = pd.concat([higher, lower], axis=1, join="inner").dropna().to_numpy().T
    n = len(a)
    if n < LEAST_SEEDS:
        verdict = TOO_FEW_SEEDS if n else NOT_RUN
        return Verdict(claim, verdict, verdict, f"{what}: n = {n}.", NOT_PRINTED)
    gap = paired_interval(a, b)
    verdict = rule(gap.low, gap.high, margin)
    if scale != "paper":
        verdict = _other_scale(scale)
    detail = f"{what}: {gap.difference:+.3g} [{gap.low:+.3g}, {gap.high:+.3g}], n = {n}."
    return Verdict(claim, verdict, verdict, detail, NOT_PRINTED)


def judge_theorem(claim: Claim, holds: bool, detail: str, *, cases: int) -> Verdict:
    """Judge a statement that must hold on any data, by whether it held in all cases tried.

    *Reproduced* or *not reproduced*; without any case *not run*, though nothing speaks against it.
    """
    verdict = REPRODUCED if holds else NOT_REPRODUCED
    if not cases:
        verdict = NOT_RUN
    return Verdict(claim, verdict, verdict, detail, NOT_PRINTED)


def _compare(
    claim: Claim, cell: Cell, method: str, rival: str, finals: pd.DataFrame, scale: str
) -> Comparison:
    by_seed = [_by_seed(finals, cell, method)]
    by_seed.append(0 * by_seed[0] if rival == NOTHING else _by_seed(finals, cell, rival))
    a, b = pd.concat(by_seed, axis=1, join="inner").dropna().to_numpy().T
    ours = paired_interval(a, b) if len(a) > 1 else _NO_INTERVAL
    printed, printed_verdict = _NO_INTERVAL, NOT_PRINTED
    x, y = (paper.printed_accuracy(name, *cell) for name in (method, rival))
    if x and y:
        printed = welch_interval(x.mean, x.std, x.seeds, y.mean, y.std, y.seeds)
        if cell in claim.cells:
            printed_verdict = _rule(claim, cell, printed, printed)
    if len(a) < LEAST_SEEDS:
        verdict = TOO_FEW_SEEDS if len(a) else NOT_RUN
    elif scale != "paper":
        verdict = _other_scale(scale)
    else:
        verdict = _rule(claim, cell, ours, printed) if cell in claim.cells else OUTSIDE
    return Comparison(cell, method, rival, len(a), *ours, verdict, printed, printed_verdict)


def _rule(claim: Claim, cell: Cell, interval: Interval, printed: Interval) -> str:
    """Apply the rule of the claim's kind with the threshold that belongs to this cell."""
    if claim.kind in ("ordering", "best", "loses more", "loses less"):
        threshold = claim.margin or quarter_range(cell[0], cell[1], paper.tables[1].stream)
        if printed.difference > 0:
            threshold = printed.difference / 2
    else:
        threshold = quarter_range(*cell)
    assert threshold is not None, f"claim {claim.id} needs a margin in {cell}"
    rules = dict.fromkeys(("comparable", "loses nothing"), comparable_verdict)
    rules["same"] = same_verdict
    return rules.get(claim.kind, ordering_verdict)(interval.low, interval.high, threshold)


def _detail(run: Sequence[Comparison], worst: Sequence[Comparison]) -> str:
    """Say what came out: in full where it is one verdict, by verdict where they differ."""
    if len({c.verdict for c in run}) == 1:
        return "; ".join(map(str, run)) + "."
    groups: dict[str, list[str]] = {}
    for c in run:
        numbers = f"{in_points(c.difference, c.low, c.high)} against {label(c.rival)}, n = {c.n}"
        groups.setdefault(c.verdict, []).append(f"{label(c.method)} on {c.where} ({numbers})")
    said = [f"{verdict}: {' · '.join(who)}" for verdict, who in groups.items()]
    others = Counter(c.verdict for c in worst if c not in run)
    said += [f"{verdict}: {n} of {len(worst)} comparisons" for verdict, n in others.items()]
    return "; ".join(said) + "."
