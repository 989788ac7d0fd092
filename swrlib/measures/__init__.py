"""What is measured in training beyond the columns of the records.

Step measures compare the norms around one step and one rescaling; they are stored as the epoch's
maximum, mean and last value. Others look at a network after an epoch, or at the start or the end of
a stage. A measure of one's own is a `Measure`, given to `swrlib.train` instead of a name.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

from swrlib.checks import nearest
from swrlib.measures import networks, steps
from swrlib.measures.measure import Failures, Measure
from swrlib.measures.networks import PROBED, PROBED_OF_STAGE, Snapshot
from swrlib.measures.steps import Norms, StepMeasures, all_norms
from swrlib.theory.curvature import LossHessian
from swrlib.theory.last_layers import last_layers_hessian

_OF_STAGES: tuple[Literal["start"], Literal["end"]] = ("start", "end")
MEASURES = {
    measure.name: measure
    for measure in (
        Measure("growth", steps.growth, "step"),
        Measure("factor", steps.factor, "step"),
        Measure("norm-before-rescaling", steps.norm_before_rescaling, "step"),
        Measure("balance-change", steps.balance_change, "step", pairs=True),
        Measure("balance-worse", steps.balance_worse, "step", pairs=True),
        Measure("lpq-balance", networks.lpq_balance),
        Measure("layer-balance", networks.balance_of_layers),
        Measure("lipschitz", networks.lipschitz, every=10),
        Measure("noise-accuracy", networks.noise_accuracy, every=10),
        Measure("scaled-accuracy", networks.scaled_accuracy, every=None),
        *(
            Measure(f"{name}-{when}", function, when, check=check)
            for name, function, check in (
                ("features", networks.features, None),
                ("hessian", networks.hessian, last_layers_hessian),
                ("spectrum", networks.spectrum, networks.check_spectrum),
                ("overlap", networks.overlap, LossHessian),
                ("weights", networks.weights, None),
            )
            for when in _OF_STAGES
        ),
    )
}


def checked_measures(measures: str | Measure | Iterable[str | Measure]) -> tuple[Measure, ...]:
    """Return measures, known ones by their names; refuse an unknown one.

    "spectrum-start:10" is the measure "spectrum-start" in every tenth stage, and a name of its own.
    """
    measures = [measures] if isinstance(measures, str | Measure) else measures
    return tuple(_find(measure) if isinstance(measure, str) else measure for measure in measures)


def _find(text: str) -> Measure:
    name, sign, every = text.partition(":")
    if name not in MEASURES:
        raise ValueError(f"unknown measure {text!r}: {nearest(name, MEASURES)}")
    measure = MEASURES[name]
    if not sign:
        return measure
    if measure.when == "step" or not every.isdecimal() or not int(every):
        takers = "behind a measure of epochs or stages stands a whole number from 1 on"
        raise ValueError(f"cannot read the measure {text!r}: {takers}, as in spectrum-start:10")
    return replace(measure, name=f"{name}:{int(every)}", every=int(every))
