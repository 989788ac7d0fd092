"""Theorem 2: under SWR the norm of a weight stays bounded. As printed, sharp, and for Adam.

A step grows the squared norm by at most B, then the norm moves a share λ of the way back to n_0:

    n ← λ n_0 + (1 − λ) √(n² + B)

With λ > 0 the map has one fixed point n*. It rises with n and starts from n_0 ≤ n*, so the norm
stays below n*, and comes as near to it as one likes where every step grows the squared norm by B:
the bound is sharp.
"""

from __future__ import annotations

import functools
import math
from typing import Literal

from swrlib.checks import check_name


def norm_bound(
    initial_norm: float,
    lam: float,
    squared_growth: float,
    *,
    kind: Literal["sharp", "printed"] = "sharp",
    when: Literal["after", "before"] = "after",
    rounding: float = 0.0,
) -> float:
    """Bound the norm of a weight under SWR, if a step changes its square by at most B (Theorem 2).

    Parameters
    ----------
    initial_norm : float
        n_0, the norm at the start.
    lam : float
        λ in [0, 1].
    squared_growth : float
        B: how much an optimizer's step adds to ‖W‖² at most.
    kind : {"sharp", "printed"}
        The least bound, n* = [n_0 + (1−λ)√(n_0² + (2−λ)B/λ)] / (2−λ); or the paper's √B/λ + n_0,
        (11)-(12), which is larger.
    when : {"after", "before"}
        After the rescaling, n*, or before it, √(n*² + B). The printed bound speaks of the norm
        before; it holds after, too, and is the same for both.
    rounding : float
        η: by how much of itself each computed norm may be off at most. The rounded map
        n ← (1+η)(λ n_0 + (1−λ) √(n² + B)) is the exact one of 1 − λ′ = (1+η)(1−λ) and
        n_0′ = (1+η) λ n_0 / λ′, so the bound is theirs: λ is weakened by nearly η.

    Returns
    -------
    float
        Infinite with λ = 0, where norms grow like √(n_0² + tB), and where the rounding is as
        strong as the shrinkage.

    Raises
    ------
    ValueError
        If a number is out of range or a name unknown.
    """
    _check(initial_norm, lam, when)
    if not squared_growth >= 0:
        raise ValueError(f"squared_growth is {squared_growth}: B is a bound on growth, from 0 on")
    check_name("kind", kind, ("sharp", "printed"))
    if not 0 <= rounding < math.inf:
        raise ValueError(f"rounding is {rounding}: it is a relative error, from 0 on")
    if rounding:
        if (pull := lam - rounding * (1 - lam)) <= 0:
            return math.inf
        start = (1 + rounding) * lam * initial_norm / pull
        return (1 + rounding) * norm_bound(start, pull, squared_growth, kind=kind, when=when)
    if lam == 0:
        return math.inf if squared_growth else initial_norm
    if kind == "printed":
        return math.sqrt(squared_growth) / lam + initial_norm
    root = math.sqrt(initial_norm**2 + (2 - lam) * squared_growth / lam)
    after = (initial_norm + (1 - lam) * root) / (2 - lam)
    return after if when == "after" else math.hypot(after, math.sqrt(squared_growth))


def adam_norm_bound(
    initial_norm: float,
    lam: float,
    *,
    lr: float,
    entries: int,
    betas: tuple[float, float] = (0.9, 0.999),
    when: Literal["after", "before"] = "after",
) -> float:
    """Bound the norm of a weight under Adam and SWR; it needs no premise on the gradients.

    A step of Adam moves an entry by at most lr·s_t (`largest_adam_step`), so a weight of d entries
    by at most u = lr·s·√d: the norm stays below n_0 + (1−λ)u/λ after the rescaling, n_0 + u/λ
    before it. Entries of one size whose gradients grow by β2/β1 from step to step come as near to
    it as one likes: it is sharp, too.

    Parameters
    ----------
    initial_norm, lam, when
        As for `norm_bound`.
    lr : float
        Learning rate, the largest one in training.
    entries : int
        d, the number of entries of the weight.
    betas : tuple of float
        Adam's.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If a number is out of range.
    """
    _check(initial_norm, lam, when)
    if not lr >= 0 or entries < 1:
        raise ValueError(f"lr is {lr} and entries {entries}: they are numbers from 0 and 1 on")
    step = lr * largest_adam_step(betas) * math.sqrt(entries)
    if lam == 0:
        return math.inf if step else initial_norm
    return initial_norm + (1 - lam if when == "after" else 1) * step / lam


def largest_adam_step(betas: tuple[float, float] = (0.9, 0.999), step: int | None = None) -> float:
    """Return how far a step of Adam moves an entry at most, in learning rates.

    By the inequality of Cauchy and Schwarz, with r = β1²/β2,

        s_t = (1−β1)/(1−β1^t) · √((1−β2^t)/(1−β2)) · √((1−r^t)/(1−r)),

    attained by gradients g_i ∝ (β1/β2)^(t−i). It is 1 at the first step and rises, for the usual
    betas, to (1−β1)/√((1−β2)(1−r)) = 7.27; the often quoted (1−β1)/√(1−β2) = 3.16 is no bound.

    Parameters
    ----------
    betas : tuple of float
    step : int, optional
        t, counted from 1; without it, the largest over all steps.

    Raises
    ------
    ValueError
        If the betas are out of range, or β1² ≥ β2: then steps are not bounded.
    """
    first, second = betas
    if not (0 <= first < 1 and 0 < second < 1):
        raise ValueError(f"betas are {betas}: they lie in [0, 1), the second above 0")
    if first**2 >= second:
        raise ValueError(f"betas are {betas}: with β1² ≥ β2 Adam's steps have no bound")
    if step is None:
        return _largest_ever(first, second)
    if step < 1:
        raise ValueError(f"step is {step}: steps count from 1")
    return _largest_at(first, second, step)


def _largest_at(first: float, second: float, t: float) -> float:
    ratio = first**2 / second
    part = (1 - first) / (1 - first**t) * math.sqrt((1 - second**t) / (1 - second))
    return part * math.sqrt((1 - ratio**t) / (1 - ratio))


@functools.cache
def _largest_ever(first: float, second: float) -> float:
    # It may rise above its limit before it settles; from where all powers vanish it is the limit.
    slowest = max(first, second, first**2 / second)
    settled = math.ceil(math.log(1e-17) / math.log(slowest))
    return max(_largest_at(first, second, t) for t in (*range(1, settled), math.inf))


def unbounded_norm(initial_norm: float, squared_growth: float, steps: int) -> float:
    """Return √(n_0² + tB), the most that a norm can grow to in t steps without SWR (Appendix B)."""
    _check(initial_norm, 0.0)
    return math.sqrt(initial_norm**2 + steps * squared_growth)


def _check(initial_norm: float, lam: float, when: str = "after") -> None:
    if not initial_norm >= 0 or math.isinf(initial_norm):
        raise ValueError(f"initial_norm is {initial_norm}: a norm is a finite number from 0 on")
    if not 0 <= lam <= 1:
        raise ValueError(f"lam is {lam}: λ lies in [0, 1]")
    check_name("when", when, ("after", "before"))


def scalar_courses(
    initial_norm: float, lam: float, squared_growth: float, steps: int
) -> tuple[list[float], list[float]]:
    """Follow two norms under SWR whose every update has the length √B.

    Parameters
    ----------
    initial_norm, lam, squared_growth
        As for `norm_bound`.
    steps : int
        How many.

    Returns
    -------
    (list of float, list of float)
        The norms before each rescaling: with updates orthogonal to the weight, which add B
        to the square, and along it, which add √B to the norm and break the premise.
    """
    length, pulled = math.sqrt(squared_growth), lam * initial_norm
    n = m = initial_norm
    angle, along = [], []
    for _ in range(steps):
        angle.append(math.sqrt(n * n + squared_growth))
        along.append(m + length)
        n, m = (pulled + (1 - lam) * course[-1] for course in (angle, along))
    return angle, along
