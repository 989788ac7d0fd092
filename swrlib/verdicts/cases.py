"""What a claim on anything measured compares: means over seeds, of methods or of moments."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from swrlib.statistics import Estimate, contrast, mean_of, of_mean


@dataclass(frozen=True)
class Case:
    """A weighted sum of means over seeds, or one mean.

    Attributes
    ----------
    what : str
        What the number is, for readers.
    values : DataFrame
        By seed (rows) and method (columns): all methods of the setting, as the block design has
        them.
    weights : mapping of str to float
        By method. Several that sum to zero, or one of 1 or −1.
    margin : float
        The size that matters.
    paired : bool
        Whether all values of a seed are of one run: then it is differences that are averaged.
    censored : bool
        Whether some value is a bound only, so that a size that matters cannot be ruled out.
    rounding : float
        Variance of the rounding of a value: none has a smaller spread.
    """

    what: str
    values: pd.DataFrame
    weights: Mapping[str, float]
    margin: float
    paired: bool = False
    censored: bool = False
    rounding: float = 0.0

    @property
    def n(self) -> int:
        """Seeds of the method that has fewest, or pairs."""
        if self.paired:
            return len(self.differences())
        return min(int(self.values.get(m, pd.Series(dtype=float)).count()) for m in self.weights)

    def alone(self) -> str:
        """Write the number without an interval, for readers."""
        if not self.n:
            return "n = 0"
        middle = sum(w * self.values[m].astype(float).mean() for m, w in self.weights.items())
        return f"{round(middle, 9):+.3g}, n = {self.n}"

    def differences(self) -> pd.Series:
        """Return the weighted sum seed by seed, of the seeds that have all values."""
        chosen = self.values[[*self.weights]].astype(float)
        return chosen.mul(pd.Series(self.weights)).sum(axis=1, skipna=False).dropna()

    def estimate(self) -> Estimate:
        """Estimate it as the second rule does."""
        if self.paired:
            gaps = self.differences()
            estimate = of_mean(gaps.mean(), gaps.std(), len(gaps))
        elif len(self.weights) > 1:
            estimate = contrast(self.values, self.weights)[0]
        else:
            ((method, sign),) = self.weights.items()
            estimate = mean_of(self.values, method)
            estimate = estimate._replace(difference=sign * estimate.difference)
        least = math.sqrt(self.rounding * sum(w**2 for w in self.weights.values()) / self.n)
        return estimate._replace(error=max(estimate.error, least))


def of_two(
    what: str, higher: pd.Series, lower: pd.Series, margin: float, *, paired: bool = False
) -> Case:
    """Compare two numbers by seed, of the seeds that have both.

    Parameters
    ----------
    what : str
        What the difference is of, for readers.
    higher, lower : Series
        By seed: what is claimed to be the higher and the lower one.
    margin : float
        The size that matters.
    paired : bool
        Whether both are of the same run, before and after something.
    """
    both = pd.concat({"higher": higher, "lower": lower}, axis=1, join="inner").dropna()
    return Case(what, both, {"higher": 1.0, "lower": -1.0}, margin, paired)
