"""The methods that the paper compares, and AdamW."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

import torch

from swrlib import rescaling
from swrlib.checks import check_name
from swrlib.methods.base import Method, Penalty
from swrlib.population import Members


@dataclass(frozen=True)
class L2(Penalty):
    """λ/2‖θ‖² in the loss, over all parameters (Section 4): through Adam's scaling, not AdamW.

    The authors' release leaves out the ½: a coefficient c there is λ = 2c here.
    """

    name: ClassVar[str] = "l2"

    def gradients_(self, members: Members) -> None:
        """Add λθ."""
        torch._foreach_addcmul_(members.gradients, members.parameters, members.lam())


@dataclass(frozen=True)
class L2Init(Penalty):
    """λ/2‖θ − θ_0‖² in the loss, over all parameters (Section 4; the release leaves out the ½)."""

    name: ClassVar[str] = "l2-init"

    def gradients_(self, members: Members) -> None:
        """Add λ(θ − θ_0)."""
        distances = torch._foreach_sub(members.parameters, members.initial)
        torch._foreach_addcmul_(members.gradients, distances, members.lam())


@dataclass(frozen=True)
class AdamW(Penalty):
    """Decoupled weight decay, torch's AdamW with weight_decay = λ. Our addition to the paper."""

    name: ClassVar[str] = "adamw"

    def before_step_(self, members: Members) -> None:
        """Scale by 1 − lr·λ, as torch does before Adam's update."""
        for parameter, lam in zip(members.parameters, members.lam(), strict=True):
            parameter.mul_(1 - members.learning_rate * lam)


@dataclass(frozen=True)
class ShrinkPerturb(Method):
    """S&P: θ ← (1 − λ)θ + λθ_0 at each change of data, toward the *initial* weights (Section 4)."""

    lam: float
    name: ClassVar[str] = "shrink-perturb"

    def __post_init__(self) -> None:
        object.__setattr__(self, "lam", rescaling.checked_lambda(self.lam, "λ of shrink-perturb"))

    def change_(self, members: Members, stage: int) -> None:
        """Move toward the initial parameters."""
        for parameter, initial, lam in zip(
            members.parameters, members.initial, members.lam(), strict=True
        ):
            parameter.lerp_(initial.expand_as(parameter), lam)


@dataclass(frozen=True)
class HeadReset(Method):
    """The fully connected layers re-initialized at each change of data (MLP: the last layer).

    Parameters
    ----------
    to_initial : bool
        Back to their *initial* values, as in the authors' release, instead of new ones.
    """

    to_initial: bool = False
    name: ClassVar[str] = "head-reset"

    def change_(self, members: Members, stage: int) -> None:
        """Replace the classifier."""
        new = members.initial if self.to_initial else members.fresh(f"change {stage}")
        for parameter, value, belongs in zip(
            members.parameters, new, members.in_classifier, strict=True
        ):
            if belongs:
                parameter.copy_(value.expand_as(parameter))


@dataclass(frozen=True)
class FullReset(Method):
    """A new network and a new optimizer at each change of data: training from scratch."""

    name: ClassVar[str] = "full-reset"
    new_optimizer: ClassVar[bool] = True

    def change_(self, members: Members, stage: int) -> None:
        """Start over."""
        members.reinitialize_(f"change {stage}")


@dataclass(frozen=True)
class SWR(Method):
    """Soft Weight Rescaling (Algorithm 1).

    Parameters
    ----------
    lam : float, optional
        λ for all layers, …
    lam_features, lam_classifier : float, optional
        … or λ_f and λ_c.
    variant : {"proportional", "printed"}
        As for `swrlib.SoftWeightRescaling`.
    """

    lam: float | None = None
    lam_features: float | None = None
    lam_classifier: float | None = None
    variant: rescaling.Variant = "proportional"
    name: ClassVar[str] = "swr"
    stacked: ClassVar[tuple[str, ...]] = ("lam", "lam_features", "lam_classifier")

    def __post_init__(self) -> None:
        check_name("variant", self.variant, get_args(rescaling.Variant))
        pair = (self.lam_features, self.lam_classifier)
        if self.lam is None and None in pair:
            raise ValueError(f"λ of {self.name} is missing: give lam, or the pair of λ_f and λ_c")
        if self.lam is not None and pair not in ((None, None), (self.lam, self.lam)):
            raise ValueError("give either lam, or lam_features and lam_classifier, not both")
        for name in ("lam_features", "lam_classifier"):
            value = self.lam if self.lam is not None else getattr(self, name)
            object.__setattr__(self, name, rescaling.checked_lambda(value, name))
        if self.lam_features == self.lam_classifier:
            object.__setattr__(self, "lam", self.lam_features)

    def start(self, members: Members) -> None:
        """Note the norms to return to, λ per layer, and which factors enter which tensor."""
        norms = members.weight_norms()
        groups = {layer.name: layer.group for layer in members.network.layers}
        classifier = norms.new_tensor([groups[n] == "classifier" for n in members.weighted])
        features, head = (
            members.values[name].unsqueeze(-1) for name in ("lam_features", "lam_classifier")
        )
        members.fixed["lam"] = features + classifier * (head - features)
        pull, rest = rescaling.pull_and_rest(norms, members.fixed["lam"])
        members.memory |= {"pull": pull, "rest": rest}
        mask = rescaling.membership_mask(self._entering(members), members.weighted)
        members.fixed["rescale"] = rescaling.SoftRescaling(pull, rest, mask, members.tensors)

    def _entering(self, members: Members) -> list[set[str]]:
        """Return for each tensor the layers whose factors enter its scale."""
        products = rescaling.membership(members.network, self.variant)
        return [products[name] if bias else {name} for name, bias in members.owners]

    def after_step_(self, members: Members) -> None:
        """Rescale."""
        members.fixed["rescale"](members.weights, members.tensors)


@dataclass(frozen=True)
class SWRReinit(SWR):
    """SWR whose reference norms become the present ones at each decay (Appendix E).

    Parameters
    ----------
    at_changes : bool
        Also at each change of data, as in the authors' release.
    """

    at_changes: bool = False
    name: ClassVar[str] = "swr-reinit"

    def decay_(self, members: Members) -> None:
        """Take the present norms as n_l."""
        terms = rescaling.pull_and_rest(members.weight_norms(), members.fixed["lam"])
        for name, value in zip(("pull", "rest"), terms, strict=True):
            members.memory[name].copy_(value)

    def change_(self, members: Members, stage: int) -> None:
        """Take the present norms as n_l, if asked."""
        if self.at_changes:
            self.decay_(members)


@dataclass(frozen=True)
class SWRExceptNormalization(SWR):
    """SWR that leaves scale and shift of normalization layers alone.

    Weights of several models diverge then, says Section 3.3: a method to try that with.
    """

    name: ClassVar[str] = "swr-except-normalization"

    def _entering(self, members: Members) -> list[set[str]]:
        """Take normalization layers out of what is scaled and of all products."""
        known = members.network.layers
        alone = {layer.name for layer in known if layer.kind == "normalization"}
        pairs = zip(super()._entering(members), members.owners, strict=True)
        return [set() if name in alone else layers - alone for layers, (name, _) in pairs]
