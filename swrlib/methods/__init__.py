"""Methods against the loss of plasticity: one small class each, acting on many runs at once.

A method holds its λ and says what it does to the gradients, before and after a step, every so many
steps, at a change of data and at a decay of the learning rate. It acts on
`swrlib.population.Members`: runs of one kind of method that train side by side, each parameter a
tensor with leading axes of seeds and runs and λ a vector over runs, so that a penalty's gradient is
one operation and needs no autograd.

`compared` has those that the paper compares, the other modules those of its neighbours.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from swrlib.checks import check_name, nearest
from swrlib.methods.base import Method, Vanilla, stacked_values
from swrlib.methods.compared import (
    L2,
    SWR,
    AdamW,
    FullReset,
    HeadReset,
    L2Init,
    ShrinkPerturb,
    SWRExceptNormalization,
    SWRReinit,
)
from swrlib.methods.continual_backprop import ContinualBackprop
from swrlib.methods.effective_rank import L2EffectiveRank
from swrlib.methods.penalties import SpectralRegularization, Wasserstein
from swrlib.methods.reinitializations import FIRE, ReDo, ShrinkPerturbNoise

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        Vanilla,
        L2,
        L2Init,
        ShrinkPerturb,
        HeadReset,
        SWR,
        SWRReinit,
        SWRExceptNormalization,
        FullReset,
        AdamW,
        Wasserstein,
        SpectralRegularization,
        L2EffectiveRank,
        FIRE,
        ReDo,
        ShrinkPerturbNoise,
        ContinualBackprop,
    )
}


def make_method(
    name: str, lam: float | tuple[float, float] | None = None, **options: Any
) -> Method:
    """Make a method by name, with its λ or the pair (λ_f, λ_c) where it takes one, and options.

    Raises
    ------
    ValueError
        If the name or an option is unknown, or λ is missing, superfluous or out of range.
    """
    check_name("method", name, METHODS)
    kind = METHODS[name]
    accepts = {f.name for f in fields(kind)}
    known = sorted(accepts - {"lam", "lam_features", "lam_classifier"})
    for option in options:
        if option not in known:
            has = nearest(option, known) if known else "it has none"
            raise ValueError(f"the method {name!r} has no option {option!r}: {has}")
    if "lam" not in accepts:
        if lam is not None:
            raise ValueError(f"the method {name!r} takes no λ, but was given {lam}")
        return kind(**options)
    if lam is None:
        raise ValueError(f"the method {name!r} needs a λ: give it as {kind.__name__}(lam=…)")
    if isinstance(lam, tuple):
        if "lam_features" not in accepts or len(lam) != 2:
            raise ValueError(f"the method {name!r} takes one λ, not {lam}")
        return kind(lam_features=lam[0], lam_classifier=lam[1], **options)  # type: ignore[call-arg]
    return kind(lam=lam, **options)  # type: ignore[call-arg]
