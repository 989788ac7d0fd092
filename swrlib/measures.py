"""What is measured of a network in training beyond the columns of the records.

Step measures compare the norms around one step and one rescaling; they are stored as the epoch's
maximum, mean and last value. Epoch measures look at the model after an epoch.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from swrlib.layers import nearest

StepMeasure = Callable[[Tensor, Tensor, Tensor], Tensor]
EpochMeasure = Callable[[nn.Module], dict[str, float]]


def growth(before: Tensor, updated: Tensor, rescaled: Tensor) -> Tensor:
    """Return ‖W‖² after the gradient update minus before it: the empirical B of Theorem 2.

    Shapes: norms before the step, after the optimizer's update and after the method acted on it,
    each [runs, layers].
    """
    return updated.square() - before.square()


def factor(before: Tensor, updated: Tensor, rescaled: Tensor) -> Tensor:
    """Return c_l, the ratio of the norms after and before the rescaling; shapes as `growth`."""
    return rescaled / updated


def norm_before_rescaling(before: Tensor, updated: Tensor, rescaled: Tensor) -> Tensor:
    """Return ‖W‖ after the optimizer's update, the norm that Theorem 2 as printed bounds."""
    return updated


STEP_MEASURES: dict[str, StepMeasure] = {
    "growth": growth,
    "factor": factor,
    "norm-before-rescaling": norm_before_rescaling,
}
EPOCH_MEASURES: dict[str, EpochMeasure] = {}


def checked_measures(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names; refuse an unknown one."""
    known = [*STEP_MEASURES, *EPOCH_MEASURES]
    for name in names:
        if name not in known:
            raise ValueError(f"unknown measure {name!r}: {nearest(name, known)}")
    return tuple(names)
