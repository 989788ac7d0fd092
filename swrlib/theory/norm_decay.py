"""SWR as a decay of the norm toward its start, decoupled from loss and rate (Appendix E)."""

from __future__ import annotations

import math


def scalar_norms(
    lam: float, length: float, decay: int, *, along: bool, power: int, steps: int = 3000
) -> list[float]:
    """Follow a norm that starts at 1, grows by steps of one length, and is rescaled by SWR.

    Parameters
    ----------
    lam : float
        λ before the decay.
    length : float
        Length of the optimizer's step before the decay.
    decay : int
        From which step on the length is a tenth.
    along : bool
        Whether steps go along the weight, n + s, or orthogonal to it, √(n² + s²).
    power : int
        λ falls with this power of the rate: 0 leaves it as it is.
    steps : int
        How many.

    Returns
    -------
    list of float
        The norm after each rescaling.
    """
    n, course = 1.0, []
    for step in range(steps):
        share = 0.1 if step >= decay else 1.0
        pull, s = lam * share**power, length * share
        updated = n + s if along else math.sqrt(n * n + s * s)
        n = pull + (1 - pull) * updated
        course.append(n)
    return course


def adamw_pair(lam: float, lr: float) -> tuple[float, float]:
    """Return the rate and weight decay with which AdamW does what SWR does on target zero.

    SWR shrinks after Adam's step and so the step, too; AdamW shrinks before it: the rate is
    (1 − λ)·lr, the decay λ/((1 − λ)·lr).

    Parameters
    ----------
    lam : float
        λ in [0, 1).
    lr : float
        The learning rate of the Adam that SWR follows.
    """
    return (1 - lam) * lr, lam / ((1 - lam) * lr)
