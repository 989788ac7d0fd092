"""What a step multiplies by whose factors, laid out once for the tensors as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from swrlib import rescaling
from swrlib.network.layers import Layer, Network
from swrlib.network.scales import Course
from swrlib.swr.choice import Included, Strengths, trainable


def free_tensors(layers: Sequence[Layer | Included]) -> list[Tensor]:
    """Return the weights and biases of layers that an optimizer may change."""
    tensors = (tensor for layer in layers for tensor in (layer.weight, layer.bias))
    return [tensor for tensor in tensors if tensor is not None and trainable(tensor)]


class Plan:
    """Rescalings of the tensors of layers as they are now; frozen ones are out.

    Parameters
    ----------
    network : Network
    layers : sequence of Layer or Included
        What is rescaled.
    members : mapping of str to set of str
        By layer, whose factors make up its C_l.
    initial : mapping of str to float
        n_l by layer.
    strengths : Strengths
    running_statistics : bool

    Attributes
    ----------
    names, weights : list of str, list of torch.Tensor
        The layers whose weights are scaled, and these.
    tensors : list of torch.Tensor
        All that is scaled.
    targets : torch.Tensor
        Their n_l.
    initial : list of float
        The same on the host.
    least : list of float
        The norms below which a factor is limited.
    factors, norms : torch.Tensor, optional
        Their c_l in the last step, and the norms before it.
    """

    def __init__(
        self,
        network: Network,
        layers: Sequence[Layer | Included],
        members: Mapping[str, set[str]],
        initial: Mapping[str, float],
        strengths: Strengths,
        running_statistics: bool,
    ) -> None:
        self.initial: list[float] = []
        self.least: list[float] = []
        self.factors: Tensor | None = None
        self.norms: Tensor | None = None
        self.tensors = free_tensors(layers)
        weighted = [layer for layer in layers if trainable(layer.weight)]
        self.names = [layer.name for layer in weighted]
        self.weights: list[Any] = [layer.weight for layer in weighted]
        products: list[set[str]] = []
        self._places: list[tuple[nn.Module, str, Tensor | None, bool]] = []
        for layer in layers:
            named: dict[str, Tensor | None] = {"weight": layer.weight, "bias": layer.bias}
            if isinstance(layer, Included):
                named = {layer.parameter: layer.weight}
            self._places += [(layer.module, n, t, trainable(t)) for n, t in named.items()]
            if trainable(layer.weight):
                products.append({layer.name})
            if trainable(layer.bias):
                products.append(members[layer.name])
        self._kinds = self._look()
        tracking = [
            layer
            for layer in network.layers
            if running_statistics and getattr(layer.module, "running_mean", None) is not None
        ]
        self._statistics: list[Any] = [layer.module for layer in tracking]
        scales = Course(network).enters
        enters = [{*scales[layer.name].powers} for layer in tracking]
        if not self.names:
            return
        with torch.inference_mode(False), torch.no_grad():  # for later steps in any mode
            norms = rescaling.multi_tensor_norms(self.weights)
            self.initial = [initial[name] for name in self.names]
            self.targets = norms.new_tensor(self.initial)
            self._with_key = {
                key: norms.new_tensor([strengths.key_of[name] == key for name in self.names])
                for key in strengths.values
            }
            mask = rescaling.membership_mask(products, self.names)
            terms = self._terms(strengths)
            self._rescale = rescaling.SoftRescaling(*terms, mask, self.tensors)
            enter = rescaling.membership_mask(enters, self.names).to(self.targets)
            self._statistics_members = enter, 1 - enter
            self._seen = torch.ones(
                norms.shape, dtype=norms.dtype, device="cpu", pin_memory=norms.is_cuda
            )

    def _look(self) -> list[object]:
        kinds: list[object] = [(weight.numel(), weight.dtype) for weight in self.weights]
        return [*kinds, self.weights[0].device] if kinds else kinds

    def holds(self) -> bool:
        """Return whether the tensors still are those that it was laid out for."""
        for module, name, tensor, free in self._places:  # asked at every step
            now = module._parameters.get(name)
            if now is not tensor or (now is not None and now.requires_grad is not free):
                return False
        return self._look() == self._kinds

    def _terms(self, strengths: Strengths) -> tuple[Tensor, Tensor]:
        """Return the parts of the soft factors that the present λ's make."""
        self._changes = strengths.changes
        lam = sum(mask * strengths.values[key] for key, mask in self._with_key.items())
        self.least = [
            strengths.of(name) * target / (rescaling.LARGEST_FACTOR - 1 + strengths.of(name))
            for name, target in zip(self.names, self.initial, strict=True)
        ]
        return rescaling.pull_and_rest(self.targets, lam)

    @property
    def norms_after(self) -> tuple[Tensor, ...]:
        """Factors of the norms after the last step, the same but for rounding; empty before it."""
        return () if self.norms is None or self.factors is None else (self.norms, self.factors)

    def rescale_(
        self,
        strengths: Strengths,
        skipped: Tensor | None = None,
        *,
        idle: bool = False,
    ) -> list[float]:
        """Rescale once.

        Parameters
        ----------
        strengths : Strengths
        skipped : torch.Tensor, optional
            Non-zero where the optimizer skipped its step.
        idle : bool
            Whether such a step counts as none at all, so that the factors of the last one stay.

        Returns
        -------
        list of float
            The norms before the rescaling, where one of them is not `ordinary`, else empty; on a
            GPU those of an earlier step.
        """
        if self._changes != strengths.changes:
            self._rescale.pull, self._rescale.rest = self._terms(strengths)
        if skipped is not None:
            skipped = skipped.to(self.targets.device, non_blocking=True)
        norms = self._rescale.norms_of(self.weights)
        # On a GPU the copy arrives later and a coming step sees it: nothing waits for the device.
        seen = (self._seen.copy_(norms, non_blocking=True) if norms.is_cuda else norms).tolist()
        usual = rescaling.ordinary(seen, self.least)
        limited = norms.is_cuda or not usual
        factors = self._rescale.scale_(self.tensors, norms, skipped, limited=limited)
        before, self.factors, self.norms = self.factors, factors, norms
        if idle and before is not None:
            assert skipped is not None
            self.factors = before.where(skipped, factors)
        if self._statistics:
            scales = rescaling.cumulative_factors(factors, *self._statistics_members)
            torch._foreach_mul_([m.running_mean for m in self._statistics], scales.unbind())
            torch._foreach_mul_([m.running_var for m in self._statistics], scales.square().unbind())
        return [] if usual else seen
