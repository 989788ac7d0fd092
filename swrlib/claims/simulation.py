"""How often the second rule says each word, where the truth is known.

Run it: ``python -m swrlib.claims.simulation`` prints the table of *How verdicts are made*.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import bartlett

from swrlib.statistics import UNLIKE, Estimate, Interval, quantile
from swrlib.verdicts import second_rule as rule

#: True differences, as shares of the printed one.
TRUTHS = {"as printed": 1.0, "half": 0.5, "a quarter": 0.25, "none": 0.0, "minus half": -0.5}
DRAWS = 10_000


class Design(NamedTuple):
    """A claim as it is simulated; the margin, the size that matters, is 1.

    Attributes
    ----------
    name : str
        For readers.
    methods, seeds : int
        Of a setting.
    noise : float
        Standard deviation over seeds, in margins.
    printed : float
        The printed difference, in margins; its own spread is the same, over five seeds.
    kind, quantifier : str
        See `swrlib.verdicts.second_rule`.
    rivals, cells : int
        Comparisons of a method within a setting, and settings.
    louder : float
        The first method's noise over the others'.
    """

    name: str
    methods: int
    seeds: int
    noise: float = 1.0
    printed: float = 4.0
    kind: str = "above"
    quantifier: str = "all"
    rivals: int = 1
    cells: int = 1
    louder: float = 1.0


#: What the page shows: the designs of the records.
DESIGNS = (
    Design("one comparison", 7, 5),
    Design("one comparison", 7, 5, noise=0.5),
    Design("one comparison", 4, 3),
    Design("one comparison", 7, 5, louder=4.0),
    Design("one comparison", 4, 3, louder=4.0),
    Design("one comparison", 7, 3, louder=4.0),
    Design("best of four", 4, 5, rivals=3),
    Design("best of four", 4, 3, rivals=3),
    Design("best of five, in three settings", 7, 5, rivals=4, cells=3),
    Design("above, in all of 8", 7, 5, cells=8),
    Design("above, in most of 4", 7, 5, cells=4, quantifier="most"),
    Design("above, often, of 15", 7, 5, cells=15, quantifier="often"),
    Design("above, sometimes, of 4", 7, 5, cells=4, quantifier="sometimes"),
    Design("above, generally, of 5", 7, 5, cells=5, quantifier="generally"),
    Design("not below, in all of 5", 7, 5, rivals=5, kind="not below"),
    Design("gains little, in all of 4", 7, 5, cells=4, kind="little"),
)


def drawn_estimates(
    design: Design, truth: float, random: np.random.Generator, draws: int
) -> Estimate:
    """Draw whole settings and estimate the first method minus each rival, as the rule does.

    Parameters
    ----------
    design : Design
    truth : float
        The first method's true lead over every rival, in margins.
    random : numpy.random.Generator
    draws : int

    Returns
    -------
    Estimate
        [draws, cells, rivals].
    """
    shape = (draws, design.cells, design.methods, design.seeds)
    values = design.noise * random.standard_normal(shape)
    values[:, :, 0] = design.louder * values[:, :, 0] + truth
    return estimated(values, design.rivals)


def estimated(values: np.ndarray, rivals: int) -> Estimate:
    """Estimate the first method minus each of the next ones, as the library does in each setting.

    Parameters
    ----------
    values : array, shape [draws, cells, methods, seeds]
    rivals : int
        How many.

    Returns
    -------
    Estimate
        [draws, cells, rivals].
    """
    methods, seeds = values.shape[-2:]
    means = values.mean(-1)
    rest = values - values.mean(-2, keepdims=True)
    squares = ((rest - rest.mean(-1, keepdims=True)) ** 2).sum((-2, -1))
    degrees = (methods - 1) * (seeds - 1)
    pooled = np.sqrt(2 * squares / degrees / seeds)[..., None]
    parts = values.var(-1, ddof=1) / seeds
    first, others = parts[:, :, :1], parts[:, :, 1 : 1 + rivals]
    own = np.sqrt(first + others)
    chosen = alike(values)[..., None] & (pooled > own)
    lead = means[:, :, :1] - means[:, :, 1 : 1 + rivals]
    error = np.where(chosen, pooled, own)
    return Estimate(lead, error, np.where(chosen, float(degrees), seeds - 1.0))


def alike(values: np.ndarray) -> np.ndarray:
    """Return where the methods' spreads are alike, [...] of [..., methods, seeds]."""
    rest = values - values.mean(-2, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        return bartlett(*np.moveaxis(rest, -2, 0), axis=-1).pvalue > UNLIKE


def estimated_mean(values: np.ndarray) -> Estimate:
    """Estimate the first method's mean, as `swrlib.statistics.mean_of` does.

    Parameters
    ----------
    values : array, shape [..., methods, seeds]

    Returns
    -------
    Estimate
        [...].
    """
    methods, seeds = values.shape[-2:]
    variances = values.var(-1, ddof=1)
    own, all_methods = variances[..., 0], variances.mean(-1)
    pooled = alike(values) & (all_methods > own)
    error = np.sqrt(np.where(pooled, all_methods, own) / seeds)
    return Estimate(values[..., 0, :].mean(-1), error, np.where(pooled, methods, 1) * (seeds - 1.0))


def claim_words(design: Design, truth: float, *, seed: int = 0, draws: int = DRAWS) -> np.ndarray:
    """Return the claim's word in each draw.

    Parameters
    ----------
    design : Design
    truth : float
        In margins.
    seed, draws : int
    """
    random = np.random.default_rng(seed)
    estimate = drawn_estimates(design, truth, random, draws)
    flat = Estimate(*(part.reshape(draws, -1) for part in np.broadcast_arrays(*estimate)))
    half = quantile(4) * design.noise * np.sqrt(2 / 5)
    if design.quantifier == "generally":
        flat, half = _pooled(flat), half / np.sqrt(design.cells)
    printed = Interval(design.printed, design.printed - half, design.printed + half)
    words = rule.words(flat, 1.0, printed, design.kind, design.quantifier)
    units = rule.worst(words.reshape(draws, -1, design.rivals))
    return rule.verdict(units, design.quantifier)


def _pooled(estimate: Estimate) -> Estimate:
    """Average settings, over the last axis."""
    cells = estimate.difference.shape[-1]
    error = np.sqrt((estimate.error**2).sum(-1, keepdims=True)) / cells
    largest = estimate.error.argmax(-1)[..., None]
    degrees = np.take_along_axis(estimate.degrees, largest, -1)
    return Estimate(estimate.difference.mean(-1, keepdims=True), error, degrees)


def number_words(
    truth: float,
    *,
    seeds: int,
    noise: float = 1.0,
    louder: float = 1.0,
    seed: int = 0,
    draws: int = DRAWS,
) -> np.ndarray:
    """Return the word on ours minus a printed number, of five seeds, in each draw.

    Parameters
    ----------
    truth : float
        The true difference, in margins.
    seeds : int
        Of ours, of four methods whose spreads are pooled if they are alike.
    noise : float
        Standard deviation over seeds, in margins, of ours and of the paper's.
    louder : float
        Our method's noise over the others' and the paper's.
    seed, draws : int
    """
    random = np.random.default_rng(seed)
    ours = noise * random.standard_normal((draws, 4, seeds))
    theirs = noise * random.standard_normal((draws, 5))
    ours[:, 0] *= louder
    own, error = estimated_mean(ours), theirs.std(-1, ddof=1) / np.sqrt(5)
    difference = truth + own.difference - theirs.mean(-1)
    degrees = np.where(own.error > error, own.degrees, 4)
    return rule.number_word(Estimate(difference, np.hypot(own.error, error), degrees), 1.0)


def wrong(design: Design, truth: float) -> tuple[str, ...]:
    """Return the words that are wrong, where a size that matters is true or absent; else none.

    *Undecided* never is. "Above" is wrong where nothing is there; *no effect* where a size that
    matters is, *reversed* where the difference is not below 0, *not reproduced* where the claim
    holds.

    Parameters
    ----------
    design : Design
    truth : float
        In margins.
    """
    if design.kind == "not below":
        truth = -truth  # the same as of "little"
    if design.kind != "above":
        refuted = (rule.NOT_REPRODUCED, rule.MIXED)
        return refuted if truth <= 0 else (rule.REPRODUCED,) if truth >= 1 else ()
    if truth == 0:
        return (*rule.HOLDS, rule.REVERSED, rule.MIXED)
    if truth <= -1:
        return (*rule.HOLDS, rule.NO_EFFECT, rule.MIXED)
    missed = (rule.NO_EFFECT, rule.REVERSED, rule.MIXED)
    if truth >= design.printed:
        return (rule.SMALLER, *missed)
    return missed if truth >= 1 else ()


def rates(words: np.ndarray, of: Sequence[str]) -> dict[str, float]:
    """Return each word's share."""
    return {word: float((words == word).mean()) for word in of}


def simulated(designs: Sequence[Design] = DESIGNS, *, draws: int = DRAWS) -> pd.DataFrame:
    """Return how often each word comes out, by design and truth.

    Parameters
    ----------
    designs : sequence of Design
    draws : int

    Returns
    -------
    DataFrame
        A row a design and truth: ``claim, methods × seeds, noise, truth``, a column a word
        (shares), and ``wrong``, the share of wrong words in all.
    """
    rows = []
    for design in designs:
        for name, share in TRUTHS.items():
            truth = share * design.printed
            shares = rates(claim_words(design, truth, draws=draws), rule.WORDS)
            noise = f"{design.noise:g}" + (f", one {design.louder:g}×" if design.louder > 1 else "")
            size = f"{design.methods} × {design.seeds}"
            case = {"claim": design.name, "methods × seeds": size, "noise": noise, "truth": name}
            rows.append(case | shares | {"wrong": sum(shares[w] for w in wrong(design, truth))})
    return pd.DataFrame(rows)


def simulated_numbers(*, draws: int = DRAWS) -> pd.DataFrame:
    """Return the same for numbers: ``seeds, noise, truth``, a column a word, ``wrong``."""
    rows = []
    designs = itertools.product((5, 3), (("0.5", 1), ("1", 1), ("0.5", 4)), (0, 1, 2))
    for seeds, (noise, louder), truth in designs:
        said = number_words(truth, seeds=seeds, noise=float(noise), louder=louder, draws=draws)
        shares = rates(said, (rule.EQUAL, rule.DIFFERS, rule.TOO_NOISY))
        bad = rule.DIFFERS if truth == 0 else rule.EQUAL
        noise += f", ours {louder}×" * (louder > 1)
        case = {"seeds": seeds, "noise": noise, "truth": truth}
        rows.append(case | shares | {"wrong": shares[bad]})
    return pd.DataFrame(rows)


def as_text(table: pd.DataFrame) -> str:
    """Write a table of shares as Markdown, in percent."""
    shares = table.select_dtypes("float").columns
    cells = table.astype(str)
    for name in shares:
        cells[name] = [f"{100 * share:.1f}" for share in table[name]]
    lines = [list(cells.columns), ["---"] * len(cells.columns), *cells.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    print(as_text(simulated()), as_text(simulated_numbers()), sep="\n\n")
