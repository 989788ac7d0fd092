"""Soft Weight Rescaling in a user's own training loop."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from swrlib import rescaling, summary
from swrlib.attachment import Attachments
from swrlib.cautions import Cautions, biases_left, listed, warn
from swrlib.choice import Strengths
from swrlib.layers import parameters_outside, trace
from swrlib.plan import Plan, Present, trainable
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
        Names of the modules that form the classifier. By default, the fully connected layers after
        the last convolution; the last layer where there is no convolution.
    variant : {"proportional", "printed"}
        How biases are scaled: so that the function keeps its shape, or as Algorithm 1 is printed.
    running_statistics : bool
        Scale batch normalization's running statistics along, so that evaluation mode follows at
        once; otherwise they catch up in training, as in the paper.
    layers : sequence of str, optional
        Names of the layers in the order of the forward pass, for a model that cannot be traced.
    example : torch.Tensor, optional
        As for `trace_layers`.

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
    of calls whatever the depth, and none that waits for the device. A layer that is put into the
    model later is not seen: construct it again.

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
        lam: float | None = None,
        *,
        lam_features: float | None = None,
        lam_classifier: float | None = None,
        classifier: Sequence[str] | None = None,
        variant: rescaling.Variant = "proportional",
        running_statistics: bool = False,
        layers: Sequence[str] | None = None,
        example: Tensor | None = None,
    ) -> None:
        network = trace(model, example, classifier=classifier, layers=layers)
        # Without the graph, which a copy or a pickle of this object would take along.
        steps = [replace(step, node=None, module=None) for step in network.steps]
        self._network = replace(network, steps=steps)
        self._variant: rescaling.Variant = variant
        self._members = rescaling.membership(self._network, variant)
        self._strengths = Strengths(network.layers, lam, lam_features, lam_classifier)
        self._running_statistics = running_statistics
        self.layers = [la for la in network.layers if la.weight is not None or la.bias is not None]
        if not any(trainable(layer.weight) for layer in self.layers):
            raise ValueError(
                f"{type(model).__name__} has no trainable weight in a linear, convolution or "
                "normalization layer, so there is nothing to rescale"
            )
        if outside := parameters_outside(model, self.layers):
            warn(
                "SWR leaves alone the parameters outside the linear, convolution and normalization "
                f"layers that were traced: {listed(outside)}"
            )
        self._cautions = Cautions()
        self._cautions.note(biases_left(self.layers))
        self._plan: Plan | None = None
        self._attachments = Attachments()
        self.retarget()

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
    def lam_features(self) -> float:
        """λ_f, of the feature extractor."""
        return self._strengths.values["features"]

    @lam_features.setter
    def lam_features(self, value: float) -> None:
        self._strengths.set(features=value)

    @property
    def lam_classifier(self) -> float:
        """λ_c, of the classifier."""
        return self._strengths.values["classifier"]

    @lam_classifier.setter
    def lam_classifier(self, value: float) -> None:
        self._strengths.set(classifier=value)

    @property
    def lam(self) -> float | tuple[float, float]:
        """λ; the pair (λ_f, λ_c) where they differ. One number sets both."""
        return self._strengths.lam

    @lam.setter
    def lam(self, value: float | tuple[float, float]) -> None:
        pair = value if isinstance(value, tuple) and len(value) == 2 else (value, value)
        self._strengths.set(features=pair[0], classifier=pair[1])

    @torch.no_grad()
    def step(self) -> None:
        """Rescale once; call it after each ``optimizer.step()``, or `attach` it instead.

        With ``torch.amp.GradScaler``, attach it: a step that the scaler skips must not be rescaled.

        Raises
        ------
        ValueError
            If a weight has become another one than at the start: computed (pruned, parametrized),
            of another shape (sharded), or another layer's Parameter. Nothing is changed then.
        """
        self._step(None)

    def attach(self, optimizer: torch.optim.Optimizer) -> RemovableHandle:
        """Rescale the whole model after every step that the optimizer takes from now on.

        A step that mixed-precision training skips counts as none. ``handle.remove()`` detaches. Of
        several optimizers of one model attach the one that steps last. A copy of the optimizer has
        no hooks: attach it again.

        Raises
        ------
        ValueError
            If the optimizer holds none of the parameters that are rescaled, or is attached already.

        Warns
        -----
        UserWarning
            If another optimizer is attached: each one's steps would rescale the model.
        """
        tensors = [p for la in self.layers for p in (la.weight, la.bias) if p is not None]
        return self._attachments.add(optimizer, tensors, self._step)

    @torch.no_grad()
    def retarget(self) -> None:
        """Take the present norms as the new n_l (SWR + re-init, Appendix E).

        Raises
        ------
        ValueError
            If there is no weight, or a norm is not a finite number.
        """
        self._targets = Targets(self.layers)
        self._stale = True

    def summary(self) -> Any:
        """Return a pandas.DataFrame with a row for each layer.

        Columns: ``kind``, ``group``, ``lam`` (λ), ``initial_norm`` (n_l), ``norm``, ``factor`` (the
        last c_l) and ``proportional``: "yes", or where and why a rescaling stops to keep the
        function's shape. The index is the layer's name.
        """
        plan = self._plan
        factors = {} if plan is None else summary.by_name(plan.names, plan.factors)
        ends = summary.where_proportionality_ends(
            self._network, self._variant, self.running_statistics
        )
        reasons = [ends[layer.name] for layer in self.layers]
        return summary.table(
            self.layers, self._strengths, self._targets.by_layer(), factors, reasons
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs: n_l and shape by layer, λ and the variant."""
        return self._targets.state() | {
            "lam_features": self.lam_features,
            "lam_classifier": self.lam_classifier,
            "variant": self.variant,
            "running_statistics": self.running_statistics,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises
        ------
        ValueError
            If the state is another model's or another variant's; nothing is changed then.
        """
        present = self.state_dict()
        missing = set(present) - set(state)
        if missing:
            raise ValueError(f"the state dict lacks {', '.join(sorted(missing))}")
        for option in ("variant", "running_statistics"):
            if state[option] != getattr(self, option):
                raise ValueError(
                    f"the state dict was made with {option}={state[option]!r}: construct "
                    f"SoftWeightRescaling with it too"
                )
        lams = {key: state[f"lam_{key}"] for key in ("features", "classifier")}
        strengths = copy.deepcopy(self._strengths)
        strengths.set(**lams)
        self._targets.load(state)
        self._strengths, self._stale = strengths, True

    def __getstate__(self) -> dict[str, Any]:
        # The plan is made anew by a copy: its views would not survive pickling.
        return {**self.__dict__, "_plan": None}

    def _step(self, skipped: Tensor | None) -> None:
        present = Present.of(self.layers)
        if self._plan is None or self._stale or self._plan.key != present.key:
            self._plan = self._lay_out(present)
        if present.weights:
            norms = self._plan.rescale_(present, self._strengths, skipped)
            self._cautions.of_zeros(self._plan.names, norms)

    def _lay_out(self, present: Present) -> Plan:
        """Lay out who is multiplied by whom; again only when a tensor is another or elsewhere."""
        self._targets.refuse_other_weights(self.layers)
        self._cautions.of_biases(self.layers)
        initial = self._targets.by_layer()
        plan = Plan(
            self._network,
            self.layers,
            self._members,
            present,
            initial,
            self._strengths,
            self.running_statistics,
        )
        self._cautions.of_zeros(plan.names, [initial[name] for name in plan.names])
        self._cautions.of_half_precision(present.weights)
        self._stale = False
        return plan
