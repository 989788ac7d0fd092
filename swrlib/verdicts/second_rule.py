"""The second rule, of 2026-11-27: which word follows from estimates, and nothing else.

Written and simulated before it was run on the records (`swrlib.claims.simulation`); the first
rule's verdicts were known. Every function takes arrays as well as numbers. ``book/verdicts.md``
states the rule for pencil and paper.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from swrlib.statistics import CONFIDENCE, NO_INTERVAL, Estimate, Interval, holm

REPRODUCED, NOT_REPRODUCED, REVERSED = "reproduced", "not reproduced", "reversed"
UNDECIDED, MIXED = "undecided", "mixed"
SMALLER = "reproduced but smaller than printed"
NO_EFFECT = "no effect of a size that matters"
EQUAL, DIFFERS, TOO_NOISY = "equal within the margin", "differs", "too noisy to say"
#: The badge of what is ours: the paper does not claim it.
REMARK = "remark"
#: Words by which a claim holds in a comparison, and by which it fails; all that a claim can get.
HOLDS, FAILS = (REPRODUCED, SMALLER), (NO_EFFECT, NOT_REPRODUCED, REVERSED)
WORDS = (*HOLDS, *FAILS, MIXED, UNDECIDED)

#: What these words come to where there is no paper to reproduce.
_OF_REMARKS = {
    **dict.fromkeys(HOLDS, "holds"),
    **dict.fromkeys((NO_EFFECT, NOT_REPRODUCED), "does not hold"),
    REVERSED: "the reverse holds",
    MIXED: "holds in part",
    UNDECIDED: "undecided",
}

#: A direction has to be certain to half of this (one side of a 95% interval) …
DIRECTION = (1 - CONFIDENCE) / 2
#: … and a bound (at most, at least, within the margin) to this: a side of a 90% interval.
BOUND = 0.05
#: What is claimed of the difference: above 0; the same, where nothing that is not seen speaks
#: against it; not below minus the margin; not above the margin; within the margin.
KINDS = ("above", "seen", "not below", "little", "same")
#: More seeds than this are not asked for.
MOST_SEEDS = 100


def number_word(difference: Estimate, margin: Any) -> Any:
    """Judge ours minus the printed number: the same within the margin, different, or neither.

    Parameters
    ----------
    difference : Estimate
    margin : float
        The size that matters.
    """
    different = np.minimum(difference.above(), difference.below()) <= DIRECTION
    words = np.select([difference.within(margin) <= BOUND, different], [EQUAL, DIFFERS], TOO_NOISY)
    return words if words.ndim else str(words)


def smaller(difference: Estimate, printed: Interval) -> Any:
    """Return whether a difference is smaller than the printed one, which has an interval, too.

    Both half-widths add up like the sides of a right angle. False where nothing is printed.
    """
    own = difference.interval()
    half = np.hypot(own.high - own.difference, printed.high - printed.difference)
    return np.subtract(printed.difference, own.difference) > half


def words(
    difference: Estimate, margin: Any, printed: Interval, kind: str, quantifier: str = "all"
) -> Any:
    """Judge the comparisons of one claim, which share the last axis.

    What speaks against the claim needs one comparison of many and is corrected for their number
    after Holm; what speaks for it needs all and is not, except for "sometimes" and "often".

    Parameters
    ----------
    difference : Estimate
        Arrays of shape [..., comparisons].
    margin : array
        The sizes that matter.
    printed : Interval
        Of the printed differences, NaN where there are none.
    kind : {"above", "seen", "not below", "little", "same"}
    quantifier : {"all", "most", "often", "sometimes", "generally"}

    Returns
    -------
    array of str
    """
    few = quantifier in ("sometimes", "often")

    def favourable(p: Any) -> np.ndarray:
        return holm(p) if few else np.asarray(p)

    if kind in ("above", "seen"):
        cases = [
            (holm(difference.within(margin)) <= BOUND, NO_EFFECT),
            (favourable(difference.above()) <= DIRECTION, REPRODUCED),
            (holm(difference.below()) <= DIRECTION, REVERSED),
        ]
    else:
        least, most = difference.above(np.negative(margin)), difference.below(margin)
        too_low, too_high = difference.below(np.negative(margin)), difference.above(margin)
        claimed, refuted = {
            "not below": (least, too_low),
            "little": (most, too_high),
            "same": (np.maximum(least, most), np.minimum(too_low, too_high)),
        }[kind]
        cases = [
            (favourable(claimed) <= BOUND, REPRODUCED),
            (holm(refuted) <= DIRECTION, NOT_REPRODUCED),
        ]
    chosen = np.select([case for case, _ in cases], [word for _, word in cases], UNDECIDED)
    if kind in ("above", "seen"):
        chosen = np.where((chosen == REPRODUCED) & smaller(difference, printed), SMALLER, chosen)
    return np.where(chosen == REPRODUCED, chosen, UNDECIDED) if kind == "seen" else chosen


def by_a_bound(words: Any, difference: Estimate, kind: str) -> np.ndarray:
    """Return where a word rules a size that matters out, and no direction is certain instead.

    *No effect*, and whatever holds of the other kinds but for a difference that certainly has the
    sign which the claim has nothing against.
    """
    if kind == "above":
        return np.asarray(words) == NO_EFFECT
    harmless = {"little": difference.below(), "not below": difference.above()}.get(kind, 1.0)
    return np.isin(words, HOLDS) & (np.asarray(harmless) > DIRECTION)


def remark_label(word: str) -> str:
    """Return what a remark's badge says: whether it holds by the same rule."""
    return f"{REMARK}: {_OF_REMARKS[word]}" if word in _OF_REMARKS else REMARK


def needed(quantifier: str, number: int) -> int:
    """Return in how many of so many cases a claim has to hold.

    *All*; *most*: more than half; *often*: a third; *sometimes*: one. *Generally* makes one case
    of all, "generally in most" one of each network.
    """
    shares = {"most": number // 2 + 1, "often": math.ceil(number / 3), "sometimes": 1}
    return shares.get(quantifier.removeprefix("generally in "), number)


def worst(words: Any) -> Any:
    """Return the word of a method against several rivals: the first that is there, of a list.

    *Reversed*, *not reproduced*, *no effect*, *undecided*, *smaller*, *reproduced*; over the last
    axis.
    """
    words = np.asarray(words)
    order = (REVERSED, NOT_REPRODUCED, NO_EFFECT, UNDECIDED, SMALLER)
    chosen = np.select([(words == word).any(-1) for word in order], order, REPRODUCED)
    return chosen if chosen.ndim else str(chosen)


def verdict(words: Any, quantifier: str = "all", number: int | None = None) -> Any:
    """Make one word of a claim's cases, over the last axis.

    It holds where enough of the cases that were run do (*smaller* if too few of them at the
    printed size). It fails where it would whatever the others came to: *mixed* if it holds in
    some case, the word of all cases if they have the same, else *not reproduced*. In between
    *undecided*.

    Parameters
    ----------
    words : array of str, shape [..., cases]
        Of those that were run.
    quantifier : str
    number : int, optional
        Of all cases, run or not.
    """
    words = np.asarray(words)
    run = words.shape[-1]
    holding, as_printed = np.isin(words, HOLDS).sum(-1), (words == REPRODUCED).sum(-1)
    failing = np.isin(words, FAILS).sum(-1)
    number = max(number or run, run)
    failed = number - failing < needed(quantifier, number)
    alike = (words == words[..., :1]).all(-1)
    cases = [
        (as_printed >= needed(quantifier, run), np.array(REPRODUCED)),
        (holding >= needed(quantifier, run), np.array(SMALLER)),
        (failed & (holding > 0), np.array(MIXED)),
        (failed & alike, words[..., 0]),
        (failed, np.array(NOT_REPRODUCED)),
    ]
    chosen = np.select([case for case, _ in cases], [word for _, word in cases], UNDECIDED)
    return chosen if chosen.ndim else str(chosen)


def seeds_to_decide(
    difference: Estimate, margin: float, kind: str, seeds: int, methods: int, comparisons: int = 1
) -> int | None:
    """Return how many seeds would decide, if difference and spread stayed as they are.

    As if all of the claim's comparisons were like this one, which Holm's correction is hardest on.

    Parameters
    ----------
    difference : Estimate
        From this many seeds.
    margin : float
    kind : {"above", "seen", "not below", "little", "same"}
    seeds, methods : int
        Of the setting.
    comparisons : int
        Of the claim.

    Returns
    -------
    int or None
        None where more than `MOST_SEEDS` would be needed.
    """
    numbers = np.arange(seeds + 1, MOST_SEEDS + 1)
    error = difference.error * np.sqrt(seeds / numbers)
    more = Estimate(difference.difference, error, (numbers - 1) * max(methods - 1, 1))
    parts = np.broadcast_arrays(*more)
    tiled = Estimate(*(np.tile(part[:, None], comparisons) for part in parts))
    chosen = words(tiled, margin, NO_INTERVAL, kind)
    decided = numbers[chosen[:, 0] != UNDECIDED]
    return int(decided[0]) if len(decided) else None
