"""Soft Weight Rescaling in a user's own training loop."""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from swrlib import rescaling
from swrlib.layers import Layer, parameters_outside, refuse_parameters, trace


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
        pair = (lam_features, lam_classifier)
        if lam is not None and pair != (None, None):
            raise ValueError("give either lam, or lam_features and lam_classifier, not both")
        if lam is None and None in pair:
            raise ValueError("λ is missing: give lam, or both lam_features and lam_classifier")
        self._lam_features = rescaling.checked_lambda(lam if lam is not None else lam_features, "λ")
        self._lam_classifier = rescaling.checked_lambda(
            lam if lam is not None else lam_classifier, "λ"
        )
        self._variant: rescaling.Variant = variant
        self._running_statistics = running_statistics
        network = trace(model, example, classifier=classifier, layers=layers)
        # Without the graph, which a copy or a pickle of this object would take along.
        steps = [replace(step, node=None, module=None) for step in network.steps]
        self._network = replace(network, steps=steps)
        self._members = rescaling.membership(self._network, variant)
        self.layers = [layer for layer in self._network.layers if _has_parameters(layer)]
        if not any(_trainable(layer.weight) for layer in self.layers):
            raise ValueError(
                f"{type(model).__name__} has no trainable weight in a linear, convolution or "
                "normalization layer, so there is nothing to rescale"
            )
        outside = parameters_outside(model, self.layers)
        if outside:
            listed = ", ".join(outside[:6]) + (f" and {len(outside) - 6} more" * (len(outside) > 6))
            warnings.warn(
                "SWR leaves alone the parameters outside the linear, convolution and normalization "
                f"layers that were traced: {listed}",
                stacklevel=2,
            )
        self._warned = _biases_left(self.layers)
        self._plan_key: tuple[Any, ...] | None = None
        self._lam_key: tuple[float, float] | None = None
        self._rescale: rescaling.SoftRescaling | None = None
        self._factors: Tensor | None = None
        self._attached: list[tuple[weakref.ref[torch.optim.Optimizer], RemovableHandle]] = []
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
        self._running_statistics = value
        self._plan_key = None

    @property
    def lam_features(self) -> float:
        """λ_f, of the feature extractor."""
        return self._lam_features

    @lam_features.setter
    def lam_features(self, value: float) -> None:
        self._lam_features = rescaling.checked_lambda(value, "lam_features")

    @property
    def lam_classifier(self) -> float:
        """λ_c, of the classifier."""
        return self._lam_classifier

    @lam_classifier.setter
    def lam_classifier(self, value: float) -> None:
        self._lam_classifier = rescaling.checked_lambda(value, "lam_classifier")

    @property
    def lam(self) -> float | tuple[float, float]:
        """λ; the pair (λ_f, λ_c) where they differ. One number sets both."""
        pair = (self._lam_features, self._lam_classifier)
        return pair[0] if pair[0] == pair[1] else pair

    @lam.setter
    def lam(self, value: float | tuple[float, float]) -> None:
        pair = value if isinstance(value, tuple) and len(value) == 2 else (value, value)
        self._lam_features, self._lam_classifier = (rescaling.checked_lambda(lam) for lam in pair)

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
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if held.isdisjoint(id(p) for layer in self.layers for p in (layer.weight, layer.bias)):
            raise ValueError(
                "the optimizer holds none of the model's weights: build it from the same model"
            )
        self._attached = [
            (other, handle)
            for other, handle in self._attached
            if other() is not None and handle.id in (handle.hooks_dict_ref() or ())
        ]
        if any(other() is optimizer for other, _ in self._attached):
            raise ValueError("the optimizer is attached already: its steps would rescale twice")
        if self._attached:
            warnings.warn(
                "another optimizer is attached, too: a step of either rescales the whole model "
                "(attach the one that steps last, or remove the other's handle)",
                stacklevel=2,
            )

        @torch.no_grad()
        def after_step(taken: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
            # A fused optimizer fires its hooks also where GradScaler makes it skip the step.
            self._step(getattr(taken, "found_inf", None))

        handle = optimizer.register_step_post_hook(after_step)
        self._attached.append((weakref.ref(optimizer), handle))
        return handle

    @torch.no_grad()
    def retarget(self) -> None:
        """Take the present norms as the new n_l (SWR + re-init, Appendix E).

        Raises
        ------
        ValueError
            If there is no weight, or a norm is not a finite number.
        """
        weights = self._weights()
        for name, weight in weights.items():
            if weight.is_meta:
                raise ValueError(f"{_weight(name)} has no values yet, so no norm to return to")
        if not weights:
            raise ValueError("no layer has a weight that is a parameter: there is no norm to take")
        self._initial_norms = rescaling.multi_tensor_norms(list(weights.values()))
        for name, norm in zip(weights, self._initial_norms.tolist(), strict=True):
            if not math.isfinite(norm):
                raise ValueError(f"the norm of {_weight(name)} is {norm}: there is no way back")
        self._shapes = {name: list(weight.shape) for name, weight in weights.items()}
        self._plan_key = None

    def summary(self) -> Any:
        """Return a pandas.DataFrame with a row for each layer.

        Columns: ``kind``, ``group``, ``initial_norm`` (n_l), ``norm``, ``factor`` (the last c_l)
        and ``proportional``: "yes", or where and why a rescaling stops to keep the function's
        shape. The index is the layer's name.
        """
        import pandas as pd

        initial, present = self._initial(), self._weights()
        norms = rescaling.multi_tensor_norms(list(present.values())).tolist() if present else []
        now = dict(zip(present, norms, strict=True))
        factors = (
            {}
            if self._factors is None
            else dict(zip(self._rescaled, self._factors.tolist(), strict=True))
        )
        rows = [
            {
                "layer": layer.name,
                "kind": layer.kind,
                "group": layer.group,
                "initial_norm": initial.get(layer.name, math.nan),
                "norm": now.get(layer.name, math.nan),
                "factor": factors.get(layer.name, math.nan),
                "proportional": reason,
            }
            for layer, reason in zip(self.layers, self._where_proportionality_ends(), strict=True)
        ]
        return pd.DataFrame(rows).set_index("layer")

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs: n_l and shape by layer, λ and the variant."""
        return {
            "initial_norms": self._initial(),
            "shapes": {name: list(shape) for name, shape in self._shapes.items()},
            "lam_features": self._lam_features,
            "lam_classifier": self._lam_classifier,
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
        shapes = {name: list(shape) for name, shape in state["shapes"].items()}
        if set(state["initial_norms"]) != set(shapes) or shapes != self._shapes:
            theirs, ours = (
                ", ".join(f"{name} {shape}" for name, shape in shapes.items())
                for shapes in (shapes, self._shapes)
            )
            raise ValueError(f"the state dict is another model's: layers {theirs}, here {ours}")
        for option in ("variant", "running_statistics"):
            if state[option] != getattr(self, option):
                raise ValueError(
                    f"the state dict was made with {option}={state[option]!r}: construct "
                    f"SoftWeightRescaling with it too"
                )
        norms = self._initial_norms.new_tensor([state["initial_norms"][n] for n in self._shapes])
        if not (norms.isfinite() & (norms >= 0)).all():
            raise ValueError("the initial norms of the state dict are not finite numbers ≥ 0")
        lam_features = rescaling.checked_lambda(state["lam_features"], "lam_features")
        self._lam_classifier = rescaling.checked_lambda(state["lam_classifier"], "lam_classifier")
        self._lam_features = lam_features
        self._initial_norms = norms
        self._plan_key = None

    def __getstate__(self) -> dict[str, Any]:
        # The plan is made anew by a copy: its views would not survive pickling.
        # Hooks stay with the optimizer that they were given to.
        return {**self.__dict__, "_plan_key": None, "_rescale": None, "_attached": []}

    def _weights(self) -> dict[str, nn.Parameter]:
        return {la.name: la.weight for la in self.layers if la.weight is not None}

    def _initial(self) -> dict[str, float]:
        """Return n_l by layer."""
        return dict(zip(self._shapes, self._initial_norms.tolist(), strict=True))

    def _step(self, skipped: Tensor | None) -> None:
        weights, tensors = self._tensors()
        if self._rescale is None or not weights:
            return
        if skipped is not None:
            skipped = skipped.to(weights[0].device, non_blocking=True)
        factors, norms = self._rescale(weights, tensors, skipped)
        if self._statistics:
            scales = rescaling.cumulative_factors(factors, *self._statistics_members)
            means = [module.running_mean for module in self._statistics]
            rescaling.multi_tensor_multiply_(means, scales.unbind())
            variances = [module.running_var for module in self._statistics]
            rescaling.multi_tensor_multiply_(variances, scales.square().unbind())
        self._factors = factors
        self._watch_zero_norms(norms)

    def _tensors(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return the weights whose norms count and everything to scale; frozen tensors are out."""
        weights: list[Tensor] = []
        tensors: list[Tensor] = []
        key: list[object] = []
        for layer in self.layers:
            weight, bias = layer.weight, layer.bias
            key += [id(weight), free := _trainable(weight), id(bias), free_bias := _trainable(bias)]
            if free:
                key.append(weight.numel())  # type: ignore[union-attr]
                weights.append(weight)  # type: ignore[arg-type]
                tensors.append(weight)  # type: ignore[arg-type]
            if free_bias:
                tensors.append(bias)  # type: ignore[arg-type]
        if weights:
            key += [weights[0].device, weights[0].dtype]
        if self._plan_key != tuple(key):
            self._make_plan(weights, tensors)
            self._plan_key = tuple(key)
        elif weights and self._lam_key != (self._lam_features, self._lam_classifier):
            assert self._rescale is not None
            self._rescale.pull, self._rescale.rest = self._terms()
        return weights, tensors

    def _make_plan(self, weights: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
        """Lay out who is multiplied by whom; again only when a tensor is another or elsewhere."""
        self._refuse_other_weights()
        self._warn_once(
            _biases_left(self.layers),
            "{} is no parameter any more (pruned, or parametrized) and is not scaled along with "
            "the weights",
        )
        self._rescaled = [la.name for la in self.layers if _trainable(la.weight)]
        if not weights:
            self._factors = None
            return
        members: list[set[str]] = []
        self._statistics: list[Any] = []
        entering_statistics: list[set[str]] = []
        for layer in self.layers:
            if _trainable(layer.weight):
                members.append({layer.name})
            if _trainable(layer.bias):
                members.append(self._members[layer.name])
        if self._running_statistics:
            for layer in self._network.layers:
                if getattr(layer.module, "running_mean", None) is not None:
                    self._statistics.append(layer.module)
                    entering_statistics.append(
                        rescaling.entering(self._network, self._members, layer)
                    )
        initial = self._initial()
        groups = {layer.name: layer.group for layer in self.layers}
        with torch.inference_mode(False), torch.no_grad():  # for later steps in any mode
            norms = rescaling.multi_tensor_norms(weights)
            targets = norms.new_tensor([initial[name] for name in self._rescaled])
            self._targets = targets
            self._features = norms.new_tensor([groups[n] == "features" for n in self._rescaled])
            mask = rescaling.membership_mask(members, self._rescaled)
            self._rescale = rescaling.SoftRescaling(*self._terms(), mask, tensors)
            enter = rescaling.membership_mask(entering_statistics, self._rescaled).to(targets)
            self._statistics_members = enter, 1 - enter
            self._seen = torch.ones(
                norms.shape, dtype=norms.dtype, device="cpu", pin_memory=norms.is_cuda
            )
        self._warn_of_zeros(targets.tolist())
        self._warn_once(
            {str(w.dtype) for w in weights if w.dtype in (torch.float16, torch.bfloat16)},
            "weights are {}: a factor that is nearer to 1 than their rounding changes nothing, as "
            "with the λ of the paper; keep float32 weights and compute in half precision by "
            "torch.autocast",
        )

    def _terms(self) -> tuple[Tensor, Tensor]:
        """Return the present λ's parts of the soft factors."""
        self._lam_key = (self._lam_features, self._lam_classifier)
        lam = self._features * self._lam_features + (1 - self._features) * self._lam_classifier
        return rescaling.pull_and_rest(self._targets, lam)

    def _refuse_other_weights(self) -> None:
        """Refuse weights that are no longer what the initial norms were taken of."""
        for layer in self.layers:
            shape, weight = self._shapes.get(layer.name), layer.weight
            now = None if weight is None else list(weight.shape)
            if now != shape:
                was, is_now = (
                    "computed (pruned, parametrized or sharded)" if s is None else f"of shape {s}"
                    for s in (shape, now)
                )
                raise ValueError(
                    f"{_weight(layer.name)} was {was} at the start and is {is_now}: undo "
                    "that, or construct SoftWeightRescaling again"
                )
        refuse_parameters({layer.name: layer.module for layer in self.layers})

    def _warn_once(self, found: set[str], sentence: str) -> None:
        if found - self._warned:
            self._warned |= found
            warnings.warn(sentence.format(", ".join(sorted(found))), stacklevel=7)

    def _watch_zero_norms(self, norms: Tensor) -> None:
        # On a GPU the copy arrives later and a coming step sees it: nothing waits for the device.
        seen = self._seen.copy_(norms, non_blocking=True) if norms.is_cuda else norms
        self._warn_of_zeros(seen.tolist())

    def _warn_of_zeros(self, norms: list[float]) -> None:
        if all(norms):
            return
        self._warn_once(
            {name for name, norm in zip(self._rescaled, norms, strict=True) if not norm},
            "the norm of {} is zero, now or at the start: SWR leaves a layer as it is where it has "
            "no norm to return to (factor 1)",
        )

    def _statistics_lag(self, layer: Layer) -> bool:
        """Say whether a layer normalizes by statistics that do not follow its input's scale."""
        statistics = getattr(layer.module, "running_mean", None)
        if statistics is None or layer.module.training or self._running_statistics:
            return False
        before = rescaling.entering(self._network, self._members, layer)
        return any(la.name in before and _trainable(la.weight) for la in self.layers)

    def _where_proportionality_ends(self) -> list[str]:
        ends: dict[str, str] = {}
        kinds = {step.name: step for step in self._network.steps}
        layers = {layer.name: layer for layer in self._network.layers}
        members = self._members
        for step in kinds.values():
            reason = next((ends[i] for i in step.inputs if ends[i] != "yes"), "yes")
            if reason == "yes" and step.kind == "other" and step.inputs:
                reason = f"no: {step.label} is not positively homogeneous"
            if reason == "yes" and step.kind == "sum" and len(step.inputs) > 1:
                reason = f"no: {step.label} adds branches of different scale"
            if reason == "yes" and step.kind == "layer":
                layer = layers[step.name]
                if fault := self._network.fault(layer):
                    reason = f"no: {fault}"
                frozen = layer.bias is not None and not layer.bias.requires_grad
                scaled = any(_trainable(layers[name].weight) for name in members[layer.name])
                if frozen and scaled:
                    reason = f"no: the bias of {layer.name} is frozen"
                if self._statistics_lag(layer):
                    reason = f"no: {layer.name} is in evaluation mode and its statistics lag"
                if self.variant == "printed" and layer.bias is not None:
                    exact = rescaling.membership(self._network, "proportional")[layer.name]
                    if members[layer.name] != exact:
                        reason = f"no: Algorithm 1 as printed misscales the bias of {layer.name}"
            ends[step.name] = reason
        return [ends[layer.name] for layer in self.layers]


def _weight(layer: str) -> str:
    return f"the weight of {layer or 'the model'}"


def _biases_left(layers: Iterable[Layer]) -> set[str]:
    return {f"{layer.name}.bias" for layer in layers if layer.computes_its_bias}


def _trainable(parameter: Tensor | None) -> bool:
    return parameter is not None and parameter.requires_grad


def _has_parameters(layer: Layer) -> bool:
    return layer.weight is not None or layer.bias is not None
