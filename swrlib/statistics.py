"""Statistics over seeds: intervals, the block design of methods and seeds, and its tests.

Nothing here knows a claim or a record. The functions of a t value take arrays, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import bartlett
from scipy.stats import t as student

CONFIDENCE = 0.95
#: Spreads count as unlike where Bartlett's test says so at this level.
UNLIKE = 0.10


class Interval(NamedTuple):
    """A difference and its confidence interval, as fractions (or arrays of them)."""

    difference: Any
    low: Any
    high: Any


NO_INTERVAL = Interval(np.nan, np.nan, np.nan)


def quantile(degrees: float) -> float:
    """Return by how many standard errors a t interval reaches to either side."""
    return student.ppf((1 + CONFIDENCE) / 2, degrees)


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
    differences = np.subtract(np.asarray(a), np.asarray(b), dtype=np.float64)
    n = differences.shape[-1]
    return of_mean(differences.mean(-1), differences.std(-1, ddof=1), n).interval()


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
    return mean, quantile(n - 1) * array.std(0, ddof=1) / np.sqrt(n)


def prediction_interval(mean: float, sd: float, n: int, other_n: int) -> tuple[float, float]:
    """Where the mean of a faithful repetition has to fall (Patil, Peng and Leek 2016).

    Parameters
    ----------
    mean, sd, n : float
        Of the original: mean, sample standard deviation and number of runs (at least 2).
    other_n : int
        Number of runs of the repetition, which has the same true mean and spread.

    Returns
    -------
    (float, float)
        Of probability `CONFIDENCE`.
    """
    half = quantile(n - 1) * sd * np.sqrt(1 / n + 1 / other_n)
    return mean - half, mean + half


# ---------------------------------------------------------------------------------------------
# Estimates of differences, and their tests


class Estimate(NamedTuple):
    """An estimated difference (or arrays of them).

    Attributes
    ----------
    difference, error : float
        The estimate and its standard error.
    degrees : float
        Degrees of freedom of the error.
    """

    difference: Any
    error: Any
    degrees: Any

    def interval(self, confidence: float = CONFIDENCE) -> Interval:
        """Return the t interval."""
        half = student.ppf((1 + confidence) / 2, self.degrees) * self.error
        return Interval(self.difference, self.difference - half, self.difference + half)

    def above(self, bound: Any = 0.0) -> Any:
        """Return the one-sided p value of "the difference is at most the bound"."""
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.divide(np.subtract(self.difference, bound), self.error)
        return student.sf(np.where(np.isnan(t), 0.0, t), self.degrees)

    def below(self, bound: Any = 0.0) -> Any:
        """Return the one-sided p value of "the difference is at least the bound"."""
        return Estimate(np.negative(self.difference), *self[1:]).above(np.negative(bound))

    def within(self, margin: Any) -> Any:
        """Return the p value of "the difference is at least as large as the margin".

        The larger of two one-sided tests' (Schuirmann 1987).
        """
        return np.maximum(self.above(np.negative(margin)), self.below(margin))


def of_mean(mean: Any, sd: Any, n: int) -> Estimate:
    """Estimate a mean from that of a sample, its standard deviation and its size (at least 2)."""
    return Estimate(mean, sd / np.sqrt(n), n - 1.0)


def holm(p: Any) -> np.ndarray:
    """Correct p values for their number after Holm, over the last axis.

    Parameters
    ----------
    p : array, shape [..., k]
    """
    p = np.asarray(p, dtype=float)
    order = np.argsort(p, axis=-1)
    factors = np.arange(p.shape[-1], 0, -1)
    steps = np.maximum.accumulate(np.take_along_axis(p, order, -1) * factors, axis=-1)
    corrected = np.empty_like(p)
    np.put_along_axis(corrected, order, np.minimum(steps, 1.0), -1)
    return corrected


# ---------------------------------------------------------------------------------------------
# The block design


def alike(values: pd.DataFrame) -> bool:
    """Return whether the methods' spreads are alike, by Bartlett's test at `UNLIKE`.

    Each seed's mean is taken off first, since it is common to the methods. Methods with fewer than
    two values do not enter. Spreads of which one is zero are alike only where all are.

    Parameters
    ----------
    values : DataFrame
        By seed (rows) and method (columns).
    """
    rest = values.sub(values.mean(axis=1), axis=0)
    samples = [column.dropna().to_numpy() for _, column in rest.items()]
    samples = [sample for sample in samples if len(sample) > 1]
    spreads = [np.ptp(sample) > 0 for sample in samples]
    if len(samples) < 2 or not all(spreads):
        return not any(spreads)
    return bool(bartlett(*samples).pvalue > UNLIKE)


def contrast(values: pd.DataFrame, weights: Mapping[str, float]) -> tuple[Estimate, str]:
    """Estimate a weighted sum of methods' means.

    Least squares on a value for each method and one for each seed, with one residual variance, if
    the spreads are alike (`alike`) and its error is no smaller than Welch's; else Welch's, from
    each method's own spread (`combined`). Welch's and not the pairs': seeds have hardly anything
    in common here; where they do move methods together, Welch's interval is too wide rather than
    too narrow.

    Parameters
    ----------
    values : DataFrame
        By seed (rows) and method (columns), of one setting.
    weights : mapping of str to float
        By method; they sum to zero.

    Returns
    -------
    (Estimate, str)
        And its way: "pooled" or "Welch". NaN where a method has fewer than two values.
    """
    if any(method not in values or values[method].count() < 2 for method in weights):
        return Estimate(np.nan, np.nan, np.nan), "Welch"
    own = _welch(values, weights)
    pooled = _pooled(values, weights) if alike(values) else own
    return (pooled, "pooled") if pooled.error > own.error else (own, "Welch")


def mean_of(values: pd.DataFrame, method: str) -> Estimate:
    """Estimate a method's mean: its spread is that of all methods, under the same conditions.

    Parameters
    ----------
    values : DataFrame
        By seed (rows) and method (columns), of one setting.
    method : str
        With at least two values.
    """
    counts, variances = values.count(), values.var()
    n, own = counts[method], variances[method]
    within = counts - 1
    pooled = (within * variances).sum() / within.sum() if alike(values) else own
    variance, degrees = (pooled, within.sum()) if pooled > own else (own, n - 1)
    return Estimate(values[method].mean(), np.sqrt(variance / n), float(degrees))


def _welch(values: pd.DataFrame, weights: Mapping[str, float]) -> Estimate:
    chosen = values[[*weights]]
    parts = map(of_mean, chosen.mean(), chosen.std(), chosen.count())
    return combined([*parts], [*weights.values()])


def combined(
    estimates: Sequence[Estimate], weights: Sequence[float], *, welch: bool = False
) -> Estimate:
    """Return the weighted sum of independent estimates, with the degrees of its largest part.

    Fewer than Welch's, which make an interval too narrow by a little where the noisiest part rests
    on three to five seeds: see `swrlib.claims.simulation`.

    Parameters
    ----------
    estimates : sequence of Estimate
    weights : sequence of float
    welch : bool
        Degrees after Welch and Satterthwaite instead.
    """
    difference = sum(w * e.difference for w, e in zip(weights, estimates, strict=True))
    parts = [(w * e.error) ** 2 for w, e in zip(weights, estimates, strict=True)]
    degrees = -max((part, -e.degrees) for part, e in zip(parts, estimates, strict=True))[1]
    shares = sum(part**2 / e.degrees for part, e in zip(parts, estimates, strict=True))
    if welch and shares:
        degrees = sum(parts) ** 2 / shares
    return Estimate(difference, np.sqrt(sum(parts)), float(degrees))


def _pooled(values: pd.DataFrame, weights: Mapping[str, float]) -> Estimate:
    """Fit methods and seeds by least squares."""
    from statsmodels.regression.linear_model import OLS  # takes seconds to import

    long = values.rename_axis(index="seed", columns="method").stack().dropna().reset_index(name="y")
    methods = pd.get_dummies(long["method"], dtype=float)
    seeds = pd.get_dummies(long["seed"], dtype=float).iloc[:, 1:]
    fit = OLS(long["y"].to_numpy(), pd.concat([methods, seeds], axis=1).to_numpy()).fit()
    chosen = [weights.get(str(method), 0.0) for method in methods] + [0.0] * seeds.shape[1]
    test = fit.t_test(chosen)
    return Estimate(float(test.effect[0]), float(test.sd[0, 0]), float(fit.df_resid))
