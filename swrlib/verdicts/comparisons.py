"""The comparisons that claims make, method against rival in a setting, and their words.

Estimates are the second rule's (mean of the last epochs, block design); the first rule's word,
from the last epoch and pairs of seeds, is given with each.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from swrlib import statistics
from swrlib.papers import SWR as paper
from swrlib.papers import Cell, Claim
from swrlib.statistics import NO_INTERVAL, Estimate, Interval
from swrlib.verdicts import first_rule, outcomes, second_rule
from swrlib.verdicts.first_rule import LACKING, LEAST_SEEDS, NOT_RUN, TOO_FEW_SEEDS

QUICK = "quick scale: no verdict on the paper"
CUSTOM = "custom scale: no verdict on the paper"
OUTSIDE = "outside the paper"
NOT_PRINTED = "not printed"
#: Stands for the rival of a method that is claimed to lose nothing.
NOTHING = "no loss"
#: Stands for a cell where cells are pooled.
POOLED: Cell = ("pooled", "", "")

NO_ESTIMATE = Estimate(np.nan, np.nan, np.nan)


@dataclass(frozen=True)
class Comparison:
    """A method against a rival in one cell.

    Attributes
    ----------
    cell : (dataset, model, stream)
    method, rival : str
    n : int
        Seeds of the method that has fewer.
    estimate : Estimate
        Of the second rule's outcome, method minus rival.
    way : {"pooled", "Welch"}
        How its error was found.
    margin : float
        The size that matters.
    methods : int
        In the block design.
    printed : Estimate
        Of the paper's numbers; NaN where none are printed.
    last : Interval
        Of the last epoch, paired over seeds: the first rule's.
    verdict, printed_verdict, first : str
        Our word, the same rule's on the printed numbers, and the first rule's.
    seeds_to_decide : int or None
        Where undecided.
    """

    cell: Cell
    method: str
    rival: str
    n: int
    estimate: Estimate = NO_ESTIMATE
    way: str = ""
    margin: float = np.nan
    methods: int = 0
    printed: Estimate = NO_ESTIMATE
    last: Interval = NO_INTERVAL
    verdict: str = NOT_RUN
    printed_verdict: str = NOT_PRINTED
    first: str = NOT_RUN
    seeds_to_decide: int | None = None

    @property
    def difference(self) -> float:
        """The estimate."""
        return self.estimate.difference

    @property
    def low(self) -> float:
        """The lower end of its interval at 95%."""
        return float(self.estimate.interval().low)

    @property
    def high(self) -> float:
        """The upper end."""
        return float(self.estimate.interval().high)

    @property
    def decided(self) -> bool:
        """Whether there are seeds enough to say something."""
        return self.verdict not in LACKING

    @property
    def where(self) -> str:
        """The cell, for readers."""
        *pair, stream = self.cell
        return f"{paper.label(*pair)}, {paper.label(stream)}" if stream else "all settings together"

    @property
    def numbers(self) -> str:
        """Difference, interval and seeds, for readers: of pooled ones in margins."""
        if self.n < 2:
            return f"n = {self.n}"
        if self.cell == POOLED:
            return f"{self.difference:+.2f} margins [{self.low:+.2f}, {self.high:+.2f}]"
        return f"{in_points(self.difference, self.low, self.high)}, n = {self.n}"

    @property
    def wanted(self) -> str:
        """How many seeds would decide, for readers."""
        return f"{self.seeds_to_decide or f'not even {second_rule.MOST_SEEDS}'} seeds"

    @property
    def what(self) -> str:
        """Who against whom, where, and the numbers, for readers."""
        methods = " against ".join(map(paper.label, (self.method, self.rival)))
        return f"{methods}, {self.where}: {self.numbers}"

    def __str__(self) -> str:
        """Write one line for readers, in percentage points."""
        text = f"{self.what}: {self.verdict}"
        if self.verdict == second_rule.UNDECIDED:
            text += f" ({self.wanted} would decide)"
        if self.printed_verdict != NOT_PRINTED:
            numbers = in_points(*self.printed.interval())
            text += f" (printed: {numbers}, {self.printed_verdict})"
        return text


def in_points(difference: float, low: float, high: float, *, unit: str = " points") -> str:
    """Write a difference of accuracies and its interval in percentage points; a dash for NaN."""
    if np.isnan(low):
        return "–"
    return f"{100 * difference:+.2f}{unit} [{100 * low:+.2f}, {100 * high:+.2f}]"


def kind_of(claim: Claim) -> str:
    """Return what a claim says of the difference: one of `swrlib.verdicts.second_rule.KINDS`."""
    kinds = {
        **dict.fromkeys(("comparable", "loses nothing"), "not below"),
        "little": "little",
        "loses more": "seen",  # an epoch may have made good what was lost at once
    }
    return kinds.get(claim.kind, "above")


def other_scale(scale: str) -> str:
    """Return the word in place of a verdict where the scale is not the paper's."""
    return QUICK if scale == "quick" else CUSTOM


# ---------------------------------------------------------------------------------------------
# Estimates


def estimated(claim: Claim, cells: Sequence[Cell], finals: pd.DataFrame) -> list[Comparison]:
    """Estimate every comparison that a claim makes in these cells; no words yet.

    Parameters
    ----------
    claim : Claim
    cells : sequence of (dataset, model, stream)
    finals : DataFrame
        What `swrlib.verdicts.outcomes.judged` returned for this claim.
    """
    rivals = (NOTHING,) if claim.kind == "loses nothing" else claim.rivals
    cases = []
    for cell in cells:
        late, last = (outcomes.by_seed(finals, cell, outcome) for outcome in ("late", "last"))
        late = late.drop(columns=outcomes.OURS, errors="ignore")
        here = [rival for rival in rivals if rival == NOTHING or paper.compared(rival, cell)]
        pairs = itertools.product(claim.methods, here)
        cases += [_estimate(claim, cell, *pair, late, last) for pair in pairs]
    return cases


def difference(late: pd.DataFrame, a: str, b: str) -> Estimate:
    """Estimate a's accuracy minus b's in one setting; NaN where one has too few seeds.

    Parameters
    ----------
    late : DataFrame
        Accuracies as fractions, by seed (rows) and method (columns). Methods that are not the
        paper's are in the block design only where they are compared.
    a, b : str
    """
    late = late[[method for method in late if method in (a, b, *paper.methods)]]
    if not {a, b} <= set(late) or late[[a, b]].count().min() < LEAST_SEEDS:
        return NO_ESTIMATE
    return statistics.contrast(late, {a: 1.0, b: -1.0})[0]


def _estimate(
    claim: Claim, cell: Cell, method: str, rival: str, late: pd.DataFrame, last: pd.DataFrame
) -> Comparison:
    sides = [method] if rival == NOTHING else [method, rival]
    n = min(int(late[side].count()) if side in late else 0 for side in sides)
    margin = paper.size_that_matters(claim, cell)
    case = Comparison(cell, method, rival, n, margin=margin, methods=late.shape[1])
    case = replace(case, printed=printed_contrast(cell, {method: 1, rival: -1}))
    if n < 2:
        return case
    if rival == NOTHING:
        estimate = statistics.mean_of(late, method)
        way = "pooled" if estimate.degrees > n - 1 else "Welch"
    else:
        estimate, way = statistics.contrast(late, {method: 1.0, rival: -1.0})
    pairs = last[sides].dropna().to_numpy(dtype=float).T
    paired = statistics.paired_interval(pairs[0], pairs[1] if len(pairs) > 1 else 0.0 * pairs[0])
    return replace(case, estimate=estimate, way=way, last=paired)


def printed_contrast(cell: Cell, weights: Mapping[str, float]) -> Estimate:
    """Return the weighted sum of printed means, its error after Welch; NaN where one lacks."""
    parts = [statistics.of_mean(*a) for m in weights if (a := paper.printed_accuracy(m, *cell))]
    if len(parts) < len(weights):
        return NO_ESTIMATE
    return statistics.combined(parts, [*weights.values()])


def pooled(claim: Claim, cases: Sequence[Comparison], finals: pd.DataFrame) -> list[Comparison]:
    """Pool comparisons into the means over methods within a cell, or over everything.

    Parameters
    ----------
    claim : Claim
        Whose quantifier is "generally in most" (within cells) or "generally" (over everything).
    cases : sequence of Comparison
        Those with enough seeds, against one rival.
    finals : DataFrame
        What `swrlib.verdicts.outcomes.judged` returned for this claim.

    Returns
    -------
    list of Comparison
        In margins, with a margin of 1.
    """
    together = []
    for cell in dict.fromkeys(case.cell for case in cases):
        here = [case for case in cases if case.cell == cell]
        late = outcomes.by_seed(finals, cell, "late").drop(columns=outcomes.OURS, errors="ignore")
        first, share = here[0], 1 / len(here)
        weights = dict.fromkeys((case.method for case in here), share) | {first.rival: -1.0}
        estimate, way = statistics.contrast(late, weights)
        printed = printed_contrast(cell, weights)
        n = min(case.n for case in here)
        case = replace(first, estimate=estimate, way=way, printed=printed, n=n)
        names = " and ".join(paper.label(case.method) for case in here)
        together.append(case if len(here) == 1 else replace(case, method=names))
    if claim.quantifier == "generally" and together:
        scales = [1 / (len(together) * case.margin) for case in together]
        estimate, printed = (
            statistics.combined([getattr(case, name) for case in together], scales)
            for name in ("estimate", "printed")
        )
        n = min(case.n for case in together)
        case = replace(together[0], cell=POOLED, n=n, margin=1)
        together = [replace(case, estimate=estimate, printed=printed)]
    return together


# ---------------------------------------------------------------------------------------------
# Words


def worded(claim: Claim, cases: Sequence[Comparison], scale: str) -> list[Comparison]:
    """Give every comparison its word, by the second rule, beside it the first rule's.

    Parameters
    ----------
    claim : Claim
    cases : sequence of Comparison
        All that the claim makes: words against it are corrected for their number.
    scale : str
        Any but ``"paper"`` gets no verdict on the paper.
    """
    spoken = [case for case in cases if case.cell in claim.cells or case.cell == POOLED]
    run = [case for case in spoken if case.n >= LEAST_SEEDS]
    ours = _words(claim, run, "estimate") if scale == "paper" else {}
    with_print = [case for case in spoken if not np.isnan(case.printed.difference)]
    printed = _words(claim, with_print, "printed")
    judged = []
    for case in cases:
        needed = None
        if case.n < LEAST_SEEDS:
            word = first = TOO_FEW_SEEDS if case.n else NOT_RUN
        elif scale != "paper":
            word = first = other_scale(scale)
        else:
            word, first = ours.get(id(case), OUTSIDE), OUTSIDE
            if id(case) in ours and case.cell != POOLED and " and " not in case.method:
                shown = case.printed.interval()
                first = first_rule.comparison_word(claim, case.cell, case.last, shown)
        if word == second_rule.UNDECIDED:
            setting = (case.estimate, case.margin, kind_of(claim), case.n, case.methods, len(run))
            needed = second_rule.seeds_to_decide(*setting)
        theirs = printed.get(id(case), NOT_PRINTED)
        case = replace(case, verdict=word, first=first, seeds_to_decide=needed)
        judged.append(replace(case, printed_verdict=theirs))
    return judged


def _words(claim: Claim, cases: Sequence[Comparison], which: str) -> dict[int, str]:
    """Apply the second rule to our estimates, or to the printed ones; by a case's identity."""
    if not cases:
        return {}
    estimate, printed = (
        Estimate(*np.array([getattr(case, name) for case in cases], dtype=float).T)
        for name in (which, "printed")
    )
    shown = printed.interval() if claim.size is None else Interval(*[claim.size] * 3)
    shown = NO_INTERVAL if which == "printed" else shown
    margins = np.array([case.margin for case in cases])
    words = second_rule.words(estimate, margins, shown, kind_of(claim), claim.quantifier)
    return {id(case): str(word) for case, word in zip(cases, words, strict=True)}
