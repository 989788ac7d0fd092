"""Soft Weight Rescaling: its arithmetic, once, and the object for a user's training loop.

Section 3.2-3.3 and Algorithm 1 of the paper: after every optimizer step each weight is scaled by

    c_l = (λ n_l + (1 − λ) ‖W_l‖) / ‖W_l‖,        n_l the norm of W_l at initialization,

and each bias by C_l, a product of such factors that keeps the function proportional. Which factors
enter C_l is what the two variants differ in:

- ``"proportional"`` (default): C_l = c_l at a normalization layer, else c_l·C of the layer before,
  so that the product restarts at *every* normalization layer, whose output does not depend on the
  scale of its input.
- ``"printed"``: Algorithm 1 to the letter, C_l = c_l·C_{l−1} from the last normalization layer on
  and c_l before it. At that layer itself this scales the shift by c_{l−1} too often.

In a chain without normalization layers they agree; where branches part, the printed running product
takes in the factors of other branches.
"""

from __future__ import annotations

import functools
import math
import numbers
import warnings
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from swrlib.layers import (
    Layer,
    Network,
    nearest,
    parameters_outside,
    refuse_parameters,
    trace,
)

Variant = Literal["proportional", "printed"]


#: Where a tensor has more entries than this, a processor adds the squares row by row: one float32
#: sum over the 17 million weights of VGG-16's classifier would be off by 0.1%, more than a step
#: pulls.
LARGE = 2**17


def multi_tensor_norms(tensors: Sequence[Tensor], *, stacked: bool = False) -> Tensor:
    """Return the Frobenius norms of many tensors, in float32 at least: [tensors].

    With ``stacked``, every tensor has a leading axis of replicas: [replicas, tensors].
    """
    dtypes = {tensor.dtype for tensor in tensors}
    if any(dtype.is_complex for dtype in dtypes):  # real and imaginary parts as entries
        tensors = [torch.view_as_real(t) if t.is_complex() else t for t in tensors]
        dtypes = {tensor.dtype for tensor in tensors}
    dtype = functools.reduce(torch.promote_types, dtypes, torch.float32)
    most = LARGE * (tensors[0].shape[0] if stacked else 1)
    if max(map(Tensor.numel, tensors)) > most and tensors[0].is_cpu:
        tensors = [_row_norms(tensor, int(stacked), dtype) for tensor in tensors]
    if stacked and tensors[0].shape[0] > 1:
        axes = [tuple(range(1, tensor.dim())) for tensor in tensors]
        pairs = zip(tensors, axes, strict=True)
        return torch.stack([torch.linalg.vector_norm(t, dim=d, dtype=dtype) for t, d in pairs], -1)
    if hasattr(torch, "_foreach_norm"):
        norms = torch.stack(torch._foreach_norm(list(tensors), dtype=dtype))
    else:
        norms = torch.stack([torch.linalg.vector_norm(tensor, dtype=dtype) for tensor in tensors])
    return norms.unsqueeze(0) if stacked else norms


def _row_norms(tensor: Tensor, first: int, dtype: torch.dtype) -> Tensor:
    """Return the norms of a tensor's rows, which have the tensor's norm; [entries] stay as is."""
    axes = tuple(range(first + 1, tensor.dim()))
    return torch.linalg.vector_norm(tensor, dim=axes, dtype=dtype) if axes else tensor


def multi_tensor_multiply_(tensors: Sequence[Tensor], scales: Sequence[Tensor]) -> None:
    """Multiply many tensors in place, each by its scale."""
    if hasattr(torch, "_foreach_mul_"):
        torch._foreach_mul_(list(tensors), list(scales))
    else:
        for tensor, scale in zip(tensors, scales, strict=True):
            tensor.mul_(scale)


def pull_and_rest(initial_norms: Tensor, lam: Tensor | float) -> tuple[Tensor, Tensor]:
    """Return λ n_l and 1 − λ, the parts of a soft factor that do not change from step to step.

    Where n_l is zero there is no norm to return to: 0 and 1, so that the factor is 1. Shapes:
    [..., layers], λ broadcasts against it.
    """
    there = initial_norms > 0
    rest = torch.ones_like(initial_norms) - lam
    return (lam * initial_norms).where(there, 0.0), rest.where(there, 1.0)


def soft_factors(norms: Tensor, pull: Tensor, rest: Tensor) -> Tensor:
    """Return c_l = (λ n_l + (1 − λ) ‖W_l‖) / ‖W_l‖ = pull/‖W_l‖ + rest; 1 where ‖W_l‖ is zero.

    Shapes: [..., layers] each.
    """
    return torch.addcdiv(rest, pull, norms).nan_to_num_(1.0, 1.0)


def cumulative_factors(
    factors: Tensor, members: Tensor, others: Tensor, *, out: Tensor | None = None
) -> Tensor:
    """Return for each scaled tensor the product of the factors that enter it.

    Shapes: factors [..., layers]; members [tensors, layers], 1 where a factor enters, else 0;
    others = 1 − members; result [..., tensors].
    """
    entering = torch.addcmul(others, members, factors.unsqueeze(-2))
    return torch.prod(entering, -1, out=out)


class SoftRescaling:
    """Soft rescalings of the same tensors, one after another: the only place where SWR happens.

    The vector of scales and a view of each of its entries are made once: on a processor, making
    them anew at every step would cost more than the multiplications.

    Parameters
    ----------
    pull, rest : torch.Tensor
        What `pull_and_rest` returns, shape [layers] or [replicas, layers]; read at every step.
    members : torch.Tensor
        bool [tensors, layers]: whose factors multiply which tensor.
    tensors : sequence of torch.Tensor
        All that is to be scaled (weights, biases), or tensors of their shapes. Where ``pull`` has a
        leading axis of replicas, so has each.
    """

    def __init__(
        self, pull: Tensor, rest: Tensor, members: Tensor, tensors: Sequence[Tensor]
    ) -> None:
        self.pull, self.rest = pull, rest
        with torch.inference_mode(False), torch.no_grad():  # for later steps in any mode
            self._members = members.to(pull)
            self._others = 1 - self._members
            self._scales = pull.new_ones(*pull.shape[:-1], len(members))
        pairs = zip(self._scales.unbind(-1), tensors, strict=True)
        self._scale_of_each = [
            scale.view(-1, *(1,) * (tensor.dim() - 1)) if scale.dim() else scale
            for scale, tensor in pairs
        ]

    def __call__(
        self, weights: Sequence[Tensor], tensors: Sequence[Tensor], skipped: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Rescale once, in place.

        Parameters
        ----------
        weights : sequence of torch.Tensor
            The weights whose norms decide.
        tensors : sequence of torch.Tensor
            All that is scaled, in the order of ``members``.
        skipped : torch.Tensor, optional
            Non-zero where the optimizer skipped its step: then nothing is scaled.

        Returns
        -------
        tuple of torch.Tensor
            The factors c_l and the norms before the rescaling, shaped like ``pull``.
        """
        norms = multi_tensor_norms(weights, stacked=self.pull.dim() > 1)
        factors = soft_factors(norms, self.pull, self.rest)
        if skipped is not None:
            factors = factors.where(skipped == 0, 1.0)
        cumulative_factors(factors, self._members, self._others, out=self._scales)
        multi_tensor_multiply_(tensors, self._scale_of_each)
        return factors, norms


def membership(network: Network, variant: Variant) -> dict[str, set[str]]:
    """Return for each layer the layers whose factors make up its C_l, in the given variant.

    Where branches meet, the product goes on from the last layer in the order of the forward pass,
    as Algorithm 1's running C does.
    """
    if variant not in get_args(Variant):
        raise ValueError(f"unknown variant {variant!r}: {nearest(variant, get_args(Variant))}")
    names = [layer.name for layer in network.layers]
    last = max((i for i, la in enumerate(network.layers) if la.kind == "normalization"), default=-1)
    members: dict[str, set[str]] = {}
    for i, layer in enumerate(network.layers):
        if variant == "printed":
            enters = set() if i < last or i == 0 else members[names[i - 1]]
        else:
            enters = set() if layer.kind == "normalization" else entering(network, members, layer)
        members[layer.name] = {layer.name} | enters
    return members


def membership_mask(products: Sequence[set[str]], layers: Sequence[str]) -> Tensor:
    """Write products of factors as a mask, bool [products, layers]; other layers have factor 1."""
    rows = [[name in product for name in layers] for product in products]
    return torch.tensor(rows, dtype=torch.bool).view(len(products), len(layers))


def entering(network: Network, members: Mapping[str, set[str]], layer: Layer) -> set[str]:
    """Return the layers whose factors make up the scale of a layer's input."""
    order = [la.name for la in network.layers]
    return members[max(layer.predecessors, key=order.index)] if layer.predecessors else set()


def rescale_(
    model: nn.Module,
    factors: Sequence[float] | Mapping[str, float],
    *,
    variant: Variant = "proportional",
    running_statistics: bool = True,
    example: Tensor | None = None,
) -> float:
    """Scale every layer by a positive factor and the biases so that the function keeps its shape.

    Theorem 1 (Section 3.2): with b_l ← (Π_{i≤l} c_i) b_l, a network of affine layers and positively
    homogeneous activations satisfies f_c(x) = C·f(x). Normalization layers restart the product.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place.
    factors : sequence of float, or mapping of layer name to float
        One positive factor for each layer of `trace_layers`. A normalization without weights takes
        the factor 1.
    variant : {"proportional", "printed"}
        How biases are scaled; the returned constant is the theorem's in both.
    running_statistics : bool
        Whether batch normalization's running mean and variance follow the scale of their input, so
        that the evaluation mode is proportional at once.
    example : torch.Tensor, optional
        As for `trace_layers`.

    Returns
    -------
    float
        The proportionality constant C.

    Raises
    ------
    ValueError
        If a factor is missing or not positive, or if proportionality is impossible: where branches
        of different scale are added, or an operation is not positively homogeneous. The model is
        left as it was.
    """
    network = trace(model, example)
    for layer in network.layers:
        if fault := network.fault(layer):
            raise ValueError(f"a scaled layer would do more than scale its output: {fault}")
    c = _checked_factors(network.layers, factors)
    enters, constant = _propagate(network, c)
    tensors: list[Tensor] = []
    scales: list[float] = []
    members = membership(network, variant)
    for layer in network.layers:
        if layer.weight is not None:
            tensors.append(layer.weight.detach())
            scales.append(c[layer.name])
        if layer.bias is not None:
            tensors.append(layer.bias.detach())
            scales.append(math.prod(c[name] for name in sorted(members[layer.name])))
        mean = getattr(layer.module, "running_mean", None)
        if running_statistics and mean is not None:
            scale = enters[layer.name]
            tensors += [mean, layer.module.running_var]  # type: ignore[list-item]
            scales += [scale, scale**2]
    for tensor, scale in zip(tensors, scales, strict=True):
        tensor.mul_(scale)
    return constant


def _checked_factors(
    layers: Sequence[Layer], factors: Sequence[float] | Mapping[str, float]
) -> dict[str, float]:
    names = [layer.name for layer in layers]
    if isinstance(factors, (str, numbers.Real)):
        raise TypeError(f"factors are one number per layer ({', '.join(names)}), not {factors!r}")
    if isinstance(factors, Mapping):
        for name in factors:
            if name not in names:
                raise ValueError(f"the model has no layer {name!r}: {nearest(name, names)}")
        given = dict(factors)
    else:
        given = dict(zip(names, factors, strict=False))
    if len(factors) != len(names) or len(given) != len(names):
        raise ValueError(f"{len(factors)} factors for {len(names)} layers: {', '.join(names)}")
    result = {name: float(value) for name, value in given.items()}
    for layer in layers:
        value = result[layer.name]
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(
                f"the factor of layer {layer.name!r} is {value}: Theorem 1 needs positive factors"
            )
        if layer.weight is None and value != 1:
            raise ValueError(f"layer {layer.name!r} has no weight to scale: its factor must be 1")
    return result


def _propagate(network: Network, factors: Mapping[str, float]) -> tuple[dict[str, float], float]:
    """Follow the scale C through the network: what enters each layer, and what comes out."""
    kinds = {layer.name: layer.kind for layer in network.layers}
    scale: dict[str, float] = {}
    enters: dict[str, float] = {}

    def agreed(inputs: Sequence[str], where: str) -> float:
        values = [scale[i] for i in inputs]
        if values and not all(math.isclose(v, values[0], rel_tol=1e-9) for v in values):
            listed = ", ".join(f"{i}: {v:.6g}" for i, v in zip(inputs, values, strict=True))
            raise ValueError(
                f"the branches that meet at {where} have different scales ({listed}): choose "
                "factors whose products along both branches agree"
            )
        return values[0] if values else 1.0

    for step in network.steps:
        if step.kind == "layer":
            enters[step.name] = agreed(step.inputs, f"layer {step.name!r}")
            c = factors[step.name]
            scale[step.name] = c if kinds[step.name] == "normalization" else c * enters[step.name]
        elif step.kind == "other":
            value = agreed(step.inputs, f"operation {step.label}")
            if not math.isclose(value, 1.0, rel_tol=1e-9):
                raise ValueError(
                    f"operation {step.label} is not positively homogeneous and its input is "
                    f"scaled by {value:.6g}: the factors before it must multiply to 1"
                )
            scale[step.name] = 1.0
        else:
            scale[step.name] = agreed(step.inputs, f"operation {step.label}")
    return enters, agreed(network.outputs, "the output")


def checked_lambda(value: Any, name: str = "lam") -> float:
    """Return λ as a float; refuse what is no number in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number in [0, 1], not {value!r}")
    number = float(value)
    if not 0 <= number <= 1:
        raise ValueError(f"{name} is {number}, but SWR's λ lies in [0, 1] (0: off, 1: fixed norms)")
    return number


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
        variant: Variant = "proportional",
        running_statistics: bool = False,
        layers: Sequence[str] | None = None,
        example: Tensor | None = None,
    ) -> None:
        pair = (lam_features, lam_classifier)
        if lam is not None and pair != (None, None):
            raise ValueError("give either lam, or lam_features and lam_classifier, not both")
        if lam is None and None in pair:
            raise ValueError("λ is missing: give lam, or both lam_features and lam_classifier")
        self._lam_features = checked_lambda(lam if lam is not None else lam_features, "λ")
        self._lam_classifier = checked_lambda(lam if lam is not None else lam_classifier, "λ")
        self._variant: Variant = variant
        self._running_statistics = running_statistics
        network = trace(model, example, classifier=classifier, layers=layers)
        # Without the graph, which a copy or a pickle of this object would take along.
        steps = [replace(step, node=None, module=None) for step in network.steps]
        self._network = replace(network, steps=steps)
        self._members = membership(self._network, variant)
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
        self._rescale: SoftRescaling | None = None
        self._factors: Tensor | None = None
        self._attached: list[tuple[weakref.ref[torch.optim.Optimizer], RemovableHandle]] = []
        self.retarget()

    @property
    def variant(self) -> Variant:
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
        self._lam_features = checked_lambda(value, "lam_features")

    @property
    def lam_classifier(self) -> float:
        """λ_c, of the classifier."""
        return self._lam_classifier

    @lam_classifier.setter
    def lam_classifier(self, value: float) -> None:
        self._lam_classifier = checked_lambda(value, "lam_classifier")

    @property
    def lam(self) -> float | tuple[float, float]:
        """λ; the pair (λ_f, λ_c) where they differ. One number sets both."""
        pair = (self._lam_features, self._lam_classifier)
        return pair[0] if pair[0] == pair[1] else pair

    @lam.setter
    def lam(self, value: float | tuple[float, float]) -> None:
        pair = value if isinstance(value, tuple) and len(value) == 2 else (value, value)
        self._lam_features, self._lam_classifier = (checked_lambda(lam) for lam in pair)

    @torch.no_grad()
    def step(self) -> None:
        """Rescale once; call it after each ``optimizer.step()``, or `attach` it instead.

        With ``torch.amp.GradScaler``, attach it: a step that the scaler skips must not be rescaled.

        Raises
        ------
        ValueError
            If a weight has become another one than at the start: computed (pruned, parametrized),
            of another shape (sharded), or shared. Nothing is changed then.
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
        """Take the present norms as the new n_l (SWR + re-init, Appendix E)."""
        weights = {la.name: la.weight for la in self.layers if la.weight is not None}
        for name, weight in weights.items():
            if weight.is_meta:
                raise ValueError(f"the weight of {name} has no values yet, so no norm to return to")
        self._initial_norms = multi_tensor_norms(list(weights.values()))
        for name, norm in zip(weights, self._initial_norms.tolist(), strict=True):
            if not math.isfinite(norm):
                raise ValueError(f"the norm of {name} is {norm}: there is nothing to return to")
        self._shapes = {name: list(weight.shape) for name, weight in weights.items()}
        self._plan_key = None

    def summary(self) -> Any:
        """Return a pandas.DataFrame with a row for each layer.

        Columns: ``kind``, ``group``, ``initial_norm`` (n_l), ``norm``, ``factor`` (the last c_l)
        and ``proportional``: "yes", or where and why a rescaling stops to keep the function's
        shape. The index is the layer's name.
        """
        import pandas as pd

        initial = dict(zip(self._shapes, self._initial_norms.tolist(), strict=True))
        present = {la.name: la.weight for la in self.layers if la.weight is not None}
        norms = dict(zip(present, multi_tensor_norms(list(present.values())).tolist(), strict=True))
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
                "norm": norms.get(layer.name, math.nan),
                "factor": factors.get(layer.name, math.nan),
                "proportional": reason,
            }
            for layer, reason in zip(self.layers, self._where_proportionality_ends(), strict=True)
        ]
        return pd.DataFrame(rows).set_index("layer")

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs: n_l and shape by layer, λ and the variant."""
        return {
            "initial_norms": dict(zip(self._shapes, self._initial_norms.tolist(), strict=True)),
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
        if list(state["initial_norms"]) != list(shapes) or shapes != self._shapes:
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
        norms = self._initial_norms.new_tensor(list(state["initial_norms"].values()))
        if not (norms.isfinite() & (norms >= 0)).all():
            raise ValueError("the initial norms of the state dict are not finite numbers ≥ 0")
        lam_features = checked_lambda(state["lam_features"], "lam_features")
        self._lam_classifier = checked_lambda(state["lam_classifier"], "lam_classifier")
        self._lam_features = lam_features
        self._initial_norms = norms
        self._plan_key = None

    def __getstate__(self) -> dict[str, Any]:
        # The plan is made anew by a copy: its views would not survive pickling.
        # Hooks stay with the optimizer that they were given to.
        return {**self.__dict__, "_plan_key": None, "_rescale": None, "_attached": []}

    def _step(self, skipped: Tensor | None) -> None:
        weights, tensors = self._tensors()
        if self._rescale is None or not weights:
            return
        if skipped is not None:
            skipped = skipped.to(weights[0].device, non_blocking=True)
        factors, norms = self._rescale(weights, tensors, skipped)
        if self._statistics:
            scales = cumulative_factors(factors, *self._statistics_members)
            means = [module.running_mean for module in self._statistics]
            multi_tensor_multiply_(means, scales.unbind())
            variances = [module.running_var for module in self._statistics]
            multi_tensor_multiply_(variances, scales.square().unbind())
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
            self._plan_key, self._lam_key = tuple(key), None
        if weights and self._lam_key != (pair := (self._lam_features, self._lam_classifier)):
            self._set_lambda()
            self._lam_key = pair
        return weights, tensors

    def _make_plan(self, weights: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
        """Lay out who is multiplied by whom; again only when a tensor is another or elsewhere."""
        self._refuse_other_weights()
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
                    entering_statistics.append(entering(self._network, self._members, layer))
        initial = dict(zip(self._shapes, self._initial_norms.tolist(), strict=True))
        groups = {layer.name: layer.group for layer in self.layers}
        with torch.inference_mode(False), torch.no_grad():  # for later steps in any mode
            norms = multi_tensor_norms(weights)
            targets = norms.new_tensor([initial[name] for name in self._rescaled])
            self._targets = targets
            self._features = norms.new_tensor([groups[n] == "features" for n in self._rescaled])
            mask = membership_mask(members, self._rescaled)
            self._rescale = SoftRescaling(targets, targets, mask, tensors)  # λ comes below
            enter = membership_mask(entering_statistics, self._rescaled).to(targets)
            self._statistics_members = enter, 1 - enter
            self._seen = torch.ones(
                norms.shape, dtype=norms.dtype, device="cpu", pin_memory=norms.is_cuda
            )
        self._warn_of_zeros(targets.tolist())
        self._warn_of_half_precision(weights)

    def _set_lambda(self) -> None:
        assert self._rescale is not None
        lam = self._features * self._lam_features + (1 - self._features) * self._lam_classifier
        self._rescale.pull, self._rescale.rest = pull_and_rest(self._targets, lam)

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
                    f"the weight of {layer.name} was {was} at the start and is {is_now}: undo "
                    "that, or construct SoftWeightRescaling again"
                )
        refuse_parameters({layer.name: layer.module for layer in self.layers})
        left = _biases_left(self.layers) - self._warned
        if left:
            self._warned |= left
            warnings.warn(
                f"{', '.join(sorted(left))} is no parameter any more (pruned, or parametrized) and "
                "is not scaled along with the weights",
                stacklevel=8,
            )

    def _warn_of_half_precision(self, weights: Sequence[Tensor]) -> None:
        half = {str(w.dtype) for w in weights if w.dtype in (torch.float16, torch.bfloat16)}
        if half - self._warned:
            self._warned |= half
            warnings.warn(
                f"weights are {', '.join(sorted(half))}: a factor that is nearer to 1 than their "
                "rounding changes nothing, as with the λ of the paper; keep float32 weights and "
                "compute in half precision by torch.autocast",
                stacklevel=7,
            )

    def _watch_zero_norms(self, norms: Tensor) -> None:
        # On a GPU the copy arrives later and a coming step sees it: nothing waits for the device.
        seen = self._seen.copy_(norms, non_blocking=True) if norms.is_cuda else norms
        self._warn_of_zeros(seen.tolist())

    def _warn_of_zeros(self, norms: list[float]) -> None:
        if all(norms):
            return
        zero = {name for name, norm in zip(self._rescaled, norms, strict=True) if not norm}
        if zero - self._warned:
            self._warned |= zero
            warnings.warn(
                f"the norm of {', '.join(sorted(zero))} is zero, now or at the start: "
                "SWR leaves a layer as it is where it has no norm to return to (factor 1)",
                stacklevel=7,
            )

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
                lags = getattr(layer.module, "running_mean", None) is not None
                if lags and not (layer.module.training or self._running_statistics):
                    reason = f"no: {layer.name} is in evaluation mode and its statistics lag"
                if self.variant == "printed" and layer.bias is not None:
                    exact = membership(self._network, "proportional")[layer.name]
                    if members[layer.name] != exact:
                        reason = f"no: Algorithm 1 as printed misscales the bias of {layer.name}"
            ends[step.name] = reason
        return [ends[layer.name] for layer in self.layers]


def _biases_left(layers: Iterable[Layer]) -> set[str]:
    return {f"{layer.name}.bias" for layer in layers if layer.computes_its_bias}


def _trainable(parameter: Tensor | None) -> bool:
    return parameter is not None and parameter.requires_grad


def _has_parameters(layer: Layer) -> bool:
    return layer.weight is not None or layer.bias is not None
