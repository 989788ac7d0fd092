"""From claims and records to verdicts: the second rule's word, the first rule's beside it.

A *claim* is judged on differences of methods (`comparisons`), a *number* of a table against the
printed one (`printed_numbers`). The rules are described in `second_rule` and `first_rule`, what
they are applied to in `outcomes`. Accuracies are fractions; only texts speak of points.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from swrlib.papers import ACCURACY_KINDS, Cell, Claim
from swrlib.papers import SWR as paper
from swrlib.statistics import NO_INTERVAL, Estimate
from swrlib.verdicts import comparisons, first_rule, outcomes, second_rule

# The names that are not used here are for those who look for words and outcomes in this room.
from swrlib.verdicts.cases import Case, of_two  # noqa: F401
from swrlib.verdicts.comparisons import CUSTOM, NOT_PRINTED, OUTSIDE, QUICK, difference, in_points  # noqa: F401
from swrlib.verdicts.first_rule import AGREES, COMPATIBLE, LEAST_SEEDS, NOT_RUN, TOO_FEW_SEEDS  # noqa: F401
from swrlib.verdicts.outcomes import (  # noqa: F401
    changes_of_data,
    coefficient,
    final_accuracy,
    late_by_seed,
    seed_count,
    setting,
)
from swrlib.verdicts.printed_numbers import table_cells  # noqa: F401
from swrlib.verdicts.second_rule import MIXED, NOT_REPRODUCED, REPRODUCED, REVERSED, UNDECIDED  # noqa: F401

IN_CHAPTER = "judged in its chapter"


@dataclass(frozen=True)
class Verdict:
    """What the records say on a claim.

    Attributes
    ----------
    claim : Claim
        The claim.
    verdict : str
        One word or a few, by the second rule; over what was run.
    label : str
        The verdict, and how much of the claim's scope was run where that is not all of it.
    detail : str
        A sentence with the numbers, or what came out where.
    printed : str
        The same rule on the paper's own numbers, *not printed* where there are none.
    comparisons : tuple of Comparison
        Everything behind it.
    first : str
        The first rule's word on the same cells; empty where it has none.
    """

    claim: Claim
    verdict: str
    label: str
    detail: str = ""
    printed: str = NOT_PRINTED
    comparisons: tuple[comparisons.Comparison, ...] = ()
    first: str = ""


# ---------------------------------------------------------------------------------------------
# Claims on accuracies


def judge_claim(
    claim: Claim,
    records: pd.DataFrame,
    *,
    cells: Sequence[Cell] | None = None,
    scale: str = "paper",
) -> Verdict:
    """Judge a claim on accuracies, or on what changes of data cost, by records.

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
        return Verdict(claim, IN_CHAPTER, IN_CHAPTER, claim.place)
    cells = claim.cells if cells is None else cells
    streams = {stream for *_, stream in cells}
    finals = outcomes.judged(records[records["stream"].isin(streams)], scale, claim)
    single = comparisons.worded(claim, comparisons.estimated(claim, cells, finals), scale)
    chosen = single
    if claim.quantifier.startswith("generally") and scale == "paper":
        together = comparisons.pooled(claim, [case for case in single if case.decided], finals)
        chosen = comparisons.worded(claim, together, scale) or single
    units, alone = _units(chosen), _units(single)
    words = [_unit_word([c.verdict for c in unit]) for unit in units]
    printed = [_unit_word([c.printed_verdict for c in unit]) for unit in units]
    printed = [word for word in printed if word != NOT_PRINTED] or [NOT_PRINTED]
    lowest = [min((c.first for c in unit), key=first_rule.severity) for unit in alone]
    run = sum(_unit_word([c.verdict for c in unit]) not in first_rule.LACKING for unit in alone)
    number = len({case.cell for case in single}) if chosen is not single else len(units)
    word = _claim_word(claim, words, number, lacking=run < len(alone))
    label = second_rule.remark_label(word) if claim.remark and run else word
    label += f" ({run} of {len(alone)} comparisons)" if 0 < run < len(alone) else ""
    return Verdict(
        claim,
        second_rule.REMARK if claim.remark and run else word,
        label,
        _detail(claim, map(_telling, units if chosen is single else [*units, *alone]), len(alone)),
        _claim_word(claim, printed, len(printed)),
        tuple(single if chosen is single else [*chosen, *single]),
        first_rule.combined(lowest),
    )


def _units(cases: Sequence[comparisons.Comparison]) -> list[list[comparisons.Comparison]]:
    """Put a method's comparisons with its rivals in a setting together."""
    units: dict[Any, list[comparisons.Comparison]] = {}
    for case in cases:
        units.setdefault((case.cell, case.method), []).append(case)
    return list(units.values())


def _telling(unit: Sequence[comparisons.Comparison]) -> comparisons.Comparison:
    """Return the comparison that a method's word in a setting comes from: the lowest of those."""
    word = _unit_word([case.verdict for case in unit])
    return min((case for case in unit if case.verdict == word), key=lambda case: case.low)


def _unit_word(words: Sequence[str]) -> str:
    """Return a method's word against all its rivals, of which some may lack."""
    rule = [word for word in words if word in (*second_rule.HOLDS, *second_rule.FAILS, UNDECIDED)]
    others = [word for word in words if word not in rule]
    known = second_rule.worst(rule) if rule else ""
    # What a missing rival could not mend is said all the same.
    return known if known and (not others or known in second_rule.FAILS) else others[0]


def _claim_word(claim: Claim, words: Sequence[str], number: int, *, lacking: bool = False) -> str:
    """Return the claim's word, of so many cases; what was not run does not speak against it."""
    said = [word for word in words if word not in first_rule.LACKING]
    if not said:
        return TOO_FEW_SEEDS if TOO_FEW_SEEDS in words else NOT_RUN
    if said[0] in (QUICK, CUSTOM, OUTSIDE, NOT_PRINTED):
        return said[0]
    said = [word for word in said if word != OUTSIDE]
    together = claim.quantifier == "generally"
    word = second_rule.verdict(said, claim.quantifier, 1 if together else number)
    # What lacks is pooled with the others, and could still make the claim hold.
    return UNDECIDED if together and lacking and word in second_rule.FAILS else word


def _detail(claim: Claim, chosen: Iterable[comparisons.Comparison], number: int) -> str:
    """Say what came out: in full where it is one comparison, by verdict where there are more.

    With the margin where it decides: where more than a direction is claimed. ``number`` is how
    many comparisons the claim makes, pooled ones not counted.
    """
    cases = list(chosen)
    bounded = comparisons.kind_of(claim) not in ("above", "seen")
    run = [case for case in cases if case.decided]
    if len(run) == 1:
        return f"{run[0]}."
    groups: dict[str, list[str]] = {}
    for case in run:
        text = case.what
        if bounded and case.cell != comparisons.POOLED:
            text += f", margin {100 * case.margin:.2g}"
        if case.verdict == UNDECIDED:
            text += f", {case.wanted} would decide"
        groups.setdefault(case.verdict, []).append(text)
    said = [f"{verdict}: {' · '.join(who)}" for verdict, who in groups.items()]
    others = Counter(case.verdict for case in cases if case not in run)
    said += [f"{verdict}: {n} of {number} comparisons" for verdict, n in others.items()]
    return "; ".join(said) + "."


def all_comparisons(records: pd.DataFrame) -> pd.DataFrame:
    """Return every comparison of every claim on accuracies, a row each.

    Parameters
    ----------
    records : DataFrame
        What `swrlib.records.load_records` returns.

    Returns
    -------
    DataFrame
        ``claim, chapter, place, sentence, quantifier, remark``; ``dataset, model, stream`` and
        ``setting`` (for readers); ``method, rival, comparison`` (for readers); ``estimate, low,
        high, low90, high90, margin`` (fractions; of pooled ones in margins, ``pooled`` says so);
        ``n, methods, way, seeds_to_decide``; ``printed``; ``word`` (the second rule's), ``first``
        (the first rule's), ``verdict`` and ``first_verdict`` (the whole claim's), ``reason`` (why
        the claim's verdict changed).
    """
    judged = [judge_claim(c, records) for c in paper.claims if c.kind in ACCURACY_KINDS]
    return pd.DataFrame([_row(verdict, case) for verdict in judged for case in verdict.comparisons])


def _row(verdict: Verdict, case: comparisons.Comparison) -> dict[str, Any]:
    claim, narrow = verdict.claim, case.estimate.interval(0.9)
    methods = " − ".join(map(paper.label, (case.method, case.rival)))
    return (
        {"claim": claim.id, "chapter": claim.chapter, "place": claim.place}
        | {name: getattr(claim, name) for name in ("sentence", "quantifier", "remark")}
        | dict(zip(("dataset", "model", "stream"), case.cell, strict=True))
        | {"setting": case.where, "method": case.method, "rival": case.rival}
        | {"comparison": methods, "estimate": case.difference, "low": case.low, "high": case.high}
        | {"low90": narrow.low, "high90": narrow.high, "margin": case.margin}
        | {"pooled": case.cell == comparisons.POOLED}
        | {name: getattr(case, name) for name in ("n", "methods", "way", "seeds_to_decide")}
        | {"printed": case.printed.difference, "word": case.verdict, "first": case.first}
        | {"verdict": verdict.label, "first_verdict": verdict.first, "reason": claim.changed}
    )


# ---------------------------------------------------------------------------------------------
# Anything measured


def judge_cases(
    claim: Claim,
    cases: Sequence[Case],
    *,
    scale: str,
    kind: str = "above",
    number: int | None = None,
    bound_seeds: int = LEAST_SEEDS,
    say: Callable[[str], str] = str,
) -> Verdict:
    """Judge a claim on anything measured, in several cases, by the second rule.

    Parameters
    ----------
    claim : Claim
    cases : sequence of Case
        Layers or ratios, say.
    scale : str
        Which records. Any but ``"paper"`` gets no verdict on the paper.
    kind : {"above", "not below", "little", "same"}
        What is claimed of higher minus lower.
    number : int, optional
        Of all cases, run or not. Default: only those that were run are asked.
    bound_seeds : int
        With fewer seeds a size that matters is never ruled out.
    say : callable, optional
        say(word) → how a case's word is written in the detail.
    """
    run = [case for case in cases if case.n >= LEAST_SEEDS]
    if not run:
        word = TOO_FEW_SEEDS if any(case.n for case in cases) else NOT_RUN
        return Verdict(claim, word, word, " ".join(f"{c.what}: {c.alone()}." for c in cases))
    estimates = [case.estimate() for case in run]
    stacked = Estimate(*np.array(estimates, dtype=float).T)
    margins = np.array([case.margin for case in run])
    words = second_rule.words(stacked, margins, NO_INTERVAL, kind, claim.quantifier)
    open_ended = np.array([case.censored or case.n < bound_seeds for case in run])
    words = np.where(open_ended & second_rule.by_a_bound(words, stacked, kind), UNDECIDED, words)
    by_word: dict[str, list[str]] = {}
    for case, estimate, one in zip(run, estimates, words, strict=True):
        middle, low, high = (f"{round(value, 9):+.3g}" for value in estimate.interval())
        text = f"{case.what}: {middle} [{low}, {high}], n = {case.n}"
        by_word.setdefault(str(one), []).append(text)
    listed = {one: " · ".join(said) for one, said in by_word.items()}
    word = second_rule.verdict(words, claim.quantifier, number)
    if scale != "paper":
        word, listed = comparisons.other_scale(scale), {"": " · ".join(listed.values())}
    several = len(run) > 1 and word != comparisons.other_scale(scale)
    detail = "; ".join(f"{say(one)}: {said}" if several else said for one, said in listed.items())
    label = second_rule.remark_label(word) if claim.remark else word
    return Verdict(claim, second_rule.REMARK if claim.remark else word, label, f"{detail}.")


def judge_theorem(claim: Claim, holds: bool, detail: str, *, cases: int) -> Verdict:
    """Judge a statement that must hold on any data, by whether it held in all cases tried.

    *Reproduced* or *not reproduced*; without any case *not run*, though nothing speaks against it.
    """
    word = (REPRODUCED if holds else NOT_REPRODUCED) if cases else NOT_RUN
    return Verdict(claim, word, word, detail)
