"""What a method is: when it may act, and on what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from swrlib.checks import checked_number, settle_numbers
from swrlib.population import Members


@dataclass(frozen=True)
class Method:
    """A method with its hyperparameters; the base class does nothing, which is "vanilla"."""

    name: ClassVar[str]
    #: Fields whose values differ between runs that are handled together.
    stacked: ClassVar[tuple[str, ...]] = ("lam",)
    #: Whether it begins a new optimizer for its own runs, at a change of data say.
    new_optimizer: ClassVar[bool] = False
    #: The modules whose outputs it looks at in every step (`Members.features`).
    features: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        settle_numbers(self)

    def configuration(self) -> dict[str, Any]:
        """Return what is hashed: the name and every option."""
        return {"name": self.name} | {f.name: getattr(self, f.name) for f in fields(self)}

    def columns(self) -> dict[str, Any]:
        """Return what stands in the records: λ, λ_f, λ_c and the variant, None where there is none.

        Where one λ serves both groups, all three are it.
        """
        names = ("lam", "lam_features", "lam_classifier", "variant")
        return {name: getattr(self, name, None) for name in names}

    def kind(self) -> tuple[object, ...]:
        """Return what runs must have in common to be handled together."""
        others = (getattr(self, f.name) for f in fields(self) if f.name not in self.stacked)
        return (type(self), *others)

    def start(self, members: Members) -> None:
        """Take note of what is needed later; called once, before the first step."""

    def gradients_(self, members: Members) -> None:
        """Add the penalty's gradient to that of the loss."""

    def before_step_(self, members: Members) -> None:
        """Act before the optimizer's step."""

    def after_step_(self, members: Members) -> None:
        """Act after the optimizer's step."""

    def looks_at(self, members: Members) -> tuple[str, ...]:
        """Return the modules whose outputs it looks at in every step, of this network."""
        return self.features

    def acts_every(self) -> int:
        """Return after how many steps `regularly_` acts each time; 0: never."""
        return 0

    def regularly_(self, members: Members) -> None:
        """Act after every so many steps. What is slow, or waits for the device, has its place here.

        On a CUDA device the steps themselves may be captured once and replayed, this is not.
        """

    def change_(self, members: Members, stage: int) -> None:
        """Act when the data change, before the first step of a stage (counted from 1)."""

    def decay_(self, members: Members) -> None:
        """Act when the learning rate falls within a stage."""


def stacked_values(methods: Sequence[Method]) -> dict[str, list[float]]:
    """Return the λ's of methods that are handled together, by field, where all have one."""
    stacked = methods[0].stacked
    lams: dict[str, Any] = {n: [getattr(m, n, None) for m in methods] for n in stacked}
    return {n: values for n, values in lams.items() if all(isinstance(v, float) for v in values)}


@dataclass(frozen=True)
class Vanilla(Method):
    """The optimizer alone."""

    name: ClassVar[str] = "vanilla"


@dataclass(frozen=True)
class Penalty(Method):
    """A method with one strength λ from 0 on, a coefficient of the loss say."""

    lam: float

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "lam", checked_number(f"λ of {self.name}", self.lam))
