"""Soft Weight Rescaling in a user's own training loop."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from swrlib import rescaling, summary
from swrlib.attachment import Attachments
from swrlib.cautions import Cautions, biases_left
from swrlib.choice import Choice, Lam, Selection, Strengths
from swrlib.layers import Layer, trace
from swrlib.order import Order
from swrlib.plan import Plan, Present
from swrlib.steps import Change, claim
from swrlib.structure import Structure
from swrlib.targets import Targets


class SoftWeightRescaling:
    """Soft Weight Rescaling for any model and any training loop (Algorithm 1).

    Parameters
    ----------
    model : torch.nn.Module
        Its norms at this moment are the n_l. It may be moved, cast or compiled afterwards.
    lam : float
        λ in [0, 1] for all layers, …
    lam_features, lam_classifier : float
        … or one λ each for the feature extractor and the classifier (Section 3.3).
    classifier : sequence of str, optional
        Names of the modules that form the classifier. By default, the last fully connected layer
        on the way to the output; after the last convolution, all of them, where they form a chain.
    variant : {"proportional", "printed"}
        How biases are scaled: so that the function keeps its shape, or as Algorithm 1 is printed.
    running_statistics : bool
        Scale batch normalization's running statistics along, so that evaluation mode follows at
        once; otherwise they catch up in training, as in the paper.
    layers : optional
        For a model that cannot be traced, the names of its layers: a list in the order of the
        forward pass, each feeding the next; a list of such chains, each of which begins at the
        input; or a mapping from each layer to the names of those that feed it.
    normalizations : sequence of type, optional
        Classes of modules that normalize their input, besides torch's.
    example : optional
        As for `trace_layers`: an input, a tuple of arguments, a mapping of keyword arguments.

    Raises
    ------
    TypeError, ValueError
        If λ is missing, given twice or outside [0, 1]; if the model has no trainable weights,
        shares weights between layers or cannot be traced; if a norm is not a finite number; if a
        name or the variant is unknown.

    Warns
    -----
    UserWarning
        Once, if parameters belong to no known layer (they are left alone), if weights are in half
        precision, where soft factors round to 1, and if a layer's norm is zero, now or at the start
        (its factor is 1).

    Notes
    -----
    Frozen tensors (``requires_grad=False``) are never written. `step` makes a small, fixed number
    of calls whatever the depth, and none that waits for the device. No factor is larger than 10,
    which none is on the paper's models: without that limit a norm that has all but vanished would
    blow up every bias behind its layer. Weights that an optimizer keeps for itself (averages, slow
    weights) are not rescaled, which a warning says where its state shows them.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> optimizer = torch.optim.Adam(model.parameters())
    >>> handle = SoftWeightRescaling(model, lam=1e-3).attach(optimizer)
    """

    def __init__(
        self,
        model: nn.Module,
        lam: float | Mapping[str, float] | None = None,
        *,
        lam_features: float | None = None,
        lam_classifier: float | None = None,
        classifier: Sequence[str] | None = None,
        exclude: Choice | Iterable[Choice] | None = None,
        include: Choice | Iterable[Choice] | None = None,
        variant: rescaling.Variant = "proportional",
        running_statistics: bool = False,
        layers: Order | None = None,
        normalizations: Sequence[type[nn.Module]] = (),
        example: Any = None,
    ) -> None:
        network = trace(
            model, example, classifier=classifier, layers=layers, normalizations=normalizations
        )
        # Without the graph, which a copy or a pickle of this object would take along.
        steps = [replace(step, node=None, module=None) for step in network.steps]
        self._network = replace(network, steps=steps)
        self._variant: rescaling.Variant = variant
        self._members = rescaling.membership(self._network, variant)
        self._running_statistics = running_statistics
        self._selection = Selection.of(model, network.layers, include, exclude)
        self._members |= {row.name: {row.name} for row in self._selection.rows[len(self.layers) :]}
        self._scaled = self._selection.scaled
        self._strengths = Strengths(self._scaled, lam, lam_features, lam_classifier)
        self._structure = Structure(model)
        self._cautions = Cautions()
        self._cautions.note(biases_left(self._scaled))
        self._plan: Plan | None = None
        self._attachments = Attachments(self._cautions)
        self._by_hand = False
        self.retarget()

    @property
    def layers(self) -> list[Layer]:
        """The layers that were found, in the order of the forward pass."""
        return [row for row in self._selection.rows if isinstance(row, Layer)]

    @property
    def variant(self) -> rescaling.Variant:
        """How biases are scaled; fixed at construction."""
        return self._variant

    @property
    def running_statistics(self) -> bool:
        """Whether batch normalization's running statistics are scaled along."""
        return self._running_statistics

    @running_statistics.setter
    def running_statistics(self, value: bool) -> None:
        self._running_statistics, self._stale = value, True

    @property
    def lam(self) -> float | tuple[float, float] | dict[str, float]:
        """λ; the pair (λ_f, λ_c) where they differ; λ by pattern. One number sets all."""
        return self._strengths.lam

    @lam.setter
    def lam(self, value: Lam) -> None:
        self._strengths.lam = value

    @property
    def lam_features(self) -> float:
        """λ_f, of the feature extractor."""
        return self._strengths.group("features")

    @lam_features.setter
    def lam_features(self, value: float) -> None:
        self._strengths.set(features=value)

    @property
    def lam_classifier(self) -> float:
        """λ_c, of the classifier."""
        return self._strengths.group("classifier")

    @lam_classifier.setter
    def lam_classifier(self, value: float) -> None:
        self._strengths.set(classifier=value)

    @torch.no_grad()
    def step(self) -> None:
        """Rescale once; call it after each ``optimizer.step()``, or `attach` it instead.

        Where an optimizer has changed the weights between earlier calls and has not since the last
        one, nothing is done: a wrapped optimizer that accumulates gradients takes no step, nor does
        one that ``torch.amp.GradScaler`` makes skip it (a fused one has to be attached for that).

        Raises
        ------
        ValueError
            If it is attached, or another object rescales these weights; if the model has changed:
            a module was replaced, a weight is computed (pruned, parametrized), of another shape
            (sharded), or another layer's Parameter. Nothing is changed then.
        """
        if self._attachments.live():
            raise ValueError(
                "SWR is attached to an optimizer, after whose steps it rescales: leave out step(), "
                "or remove the handle that attach() returned"
            )
        present = Present.of(self._scaled)
        if not self._by_hand:
            claim(present.tensors, self)
            self._by_hand = True
        missing = self._change.missing(present)
        self._step(missing, present)
        if self._plan is not None and present.weights:
            self._change.note(present, self._plan.norms_after if missing is None else ())

    def attach(self, optimizer: torch.optim.Optimizer) -> RemovableHandle:
        """Rescale the whole model after every step that the optimizer takes from now on.

        A step that mixed-precision training skips counts as none. ``handle.remove()`` detaches. Of
        several optimizers of one model attach the one that steps last; of wrapped ones (by
        accelerate, Lightning, a sharpness-aware optimizer) either. A copy of the optimizer has no
        hooks: attach it again.

        Raises
        ------
        TypeError, ValueError
            If it is no optimizer, or runs no hooks; if it holds none of the parameters that are
            rescaled, or is attached already; if another object rescales these weights; if a module
            of the model was replaced.

        Warns
        -----
        UserWarning
            If another optimizer is attached: each one's steps would rescale the model. If the
            optimizer decays the same weights, holds parameters that are not the model's, or keeps
            weights of its own. Once, if ten steps pass without a rescaling.
        """
        self._structure.refuse_changes()
        weights = {la.name: la.weight for la in self._scaled if la.weight is not None}
        claim(Present.of(self._scaled).tensors, self)
        handle = self._attachments.add(optimizer, weights, self._step, self._structure)
        self._by_hand = False
        return handle

    def owns(self) -> str:
        """Say how to end the rescaling of these weights; empty where nothing rescales them."""
        if self._attachments.live():
            return "call remove() of the handle that its attach() returned, or make a new optimizer"
        return "delete it with del, where its step() is no longer called" * self._by_hand

    @torch.no_grad()
    def retarget(self) -> None:
        """Take the present norms as the new n_l (SWR + re-init, Appendix E).

        Raises
        ------
        ValueError
            If there is no weight, or a norm is not a finite number.
        """
        self._targets = Targets(self._scaled)
        self._begin_anew()

    def norms(self) -> Tensor:
        """Return the present norms in the order of the rows of `summary`, [rows].

        nan where there is no weight. Nothing waits for the device: for a log of each step, say.
        """
        return summary.norms(self._selection.rows)

    def factors(self) -> Tensor:
        """Return the factors c_l of the last step, like `norms`; nan before the first."""
        plan = self._plan
        if plan is None or plan.factors is None:
            return torch.full_like(self.norms(), math.nan)
        rows = [row.name for row in self._selection.rows]
        return summary.aligned(rows, plan.names, plan.factors)

    def summary(self) -> Any:
        """Return a pandas.DataFrame with a row for each layer.

        Columns: ``kind``, ``group``, ``lam`` (λ; nan where the layer is excluded),
        ``initial_norm`` (n_l), ``norm``, ``factor`` (the last c_l) and ``proportional``: "yes", or
        where and why a rescaling stops to keep the function's shape. The index is the layer's name.
        """
        ends = summary.where_proportionality_ends(
            self._network, self._variant, self.running_statistics, self._selection.excluded
        )
        initial, rows = self._targets.by_layer(), self._selection.rows
        return summary.table(rows, self._strengths, initial, self.norms(), self.factors(), ends)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs: n_l and shape by layer, λ and the variant."""
        options = {"variant": self.variant, "running_statistics": self.running_statistics}
        return self._targets.state() | self._strengths.state() | options

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises
        ------
        ValueError
            If the state is another model's or another variant's; nothing is changed then.
        """
        missing = set(self.state_dict()) - set(state)
        if missing:
            raise ValueError(f"the state dict lacks {', '.join(sorted(missing))}")
        for option in ("variant", "running_statistics"):
            if state[option] != getattr(self, option):
                raise ValueError(
                    f"the state dict was made with {option}={state[option]!r}: construct "
                    f"SoftWeightRescaling with it too"
                )
        strengths = self._strengths.loaded(state)
        self._targets.load(state)
        self._strengths = strengths
        self._begin_anew()

    def __getstate__(self) -> dict[str, Any]:
        # The plan is made anew by a copy: its views would not survive pickling.
        return {**self.__dict__, "_plan": None}

    def _begin_anew(self) -> None:
        """Let the next step lay out a plan, and act in any case."""
        self._stale, self._change = True, Change()

    def _step(self, skipped: Tensor | None, present: Present | None = None) -> None:
        self._structure.refuse_changes()
        idle = present is not None and skipped is not None
        present = present or Present.of(self._scaled)
        if self._plan is None or self._stale or self._plan.key != present.key:
            self._plan = self._lay_out(present)
        if present.weights:
            norms = self._plan.rescale_(present, self._strengths, skipped, idle=idle)
            self._cautions.of_norms(self._plan.names, norms, self._plan.least)

    def _lay_out(self, present: Present) -> Plan:
        """Lay out who is multiplied by whom; again only when a tensor is another or elsewhere."""
        self._targets.refuse_other_weights(self._scaled)
        claim(present.tensors, self)
        self._cautions.of_biases(self._scaled)
        self._cautions.of_half_precision(present.weights)
        plan = Plan(
            self._network,
            self._scaled,
            self._members,
            present,
            self._targets.by_layer(),
            self._strengths,
            self.running_statistics,
        )
        self._cautions.of_norms(plan.names, plan.initial, plan.least)
        self._stale = False
        return plan
