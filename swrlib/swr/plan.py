"""What a step multiplies by whose factors, laid out once for the tensors as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from swrlib import rescaling
from swrlib.network.layers import Layer, Network
from swrlib.network.scales import follow
from swrlib.swr.choice import Included, Strengths, trainable


class Present(NamedTuple):
    """The tensors of layers as they are now; frozen ones are out.

    Attributes
    ----------
    weights : list of torch.Tensor
        Whose norms count.
    tensors : list of torch.Tensor
        All that is scaled.
    key : tuple
        Equal for two steps where the same plan serves both.
    """

    weights: list[Tensor]
    tensors: list[Tensor]
    key: tuple[object, ...]

    @classmethod
    def of(cls, layers: Sequence[Layer | Included]) -> Present:
        """Look at the layers' parameters."""
        weights: list[Tensor] = []
        tensors: list[Tensor] = []
        key: list[object] = []
        for layer in layers:  # written out: this is asked at every step
            weight, bias = layer.weight, layer.bias
            free = weight is not None and weight.requires_grad
            free_bias = bias is not None and bias.requires_grad
            key += [id(weight), free, id(bias), free_bias]
            if free:
                key.append(weight.numel())  # type: ignore[union-attr]
                weights.append(weight)  # type: ignore[arg-type]
                tensors.append(weight)  # type: ignore[arg-type]
            if free_bias:
                tensors.append(bias)  # type: ignore[arg-type]
        if weights:
            key += [weights[0].device, weights[0].dtype]
        return cls(weights, tensors, tuple(key))


class Plan:
    """Rescalings of the same tensors.

    Parameters
    ----------
    network : Network
    layers : sequence of Layer or Included
        What is rescaled.
    members : mapping of str to set of str
        By layer, whose factors make up its C_l.
    present : Present
    initial : mapping of str to float
        n_l by layer.
    strengths : Strengths
    running_statistics : bool

    Attributes
    ----------
    names : list of str
        The layers whose weights are scaled.
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
        present: Present,
        initial: Mapping[str, float],
        strengths: Strengths,
        running_statistics: bool,
    ) -> None:
        self.key = present.key
        self.initial: list[float] = []
        self.least: list[float] = []
        self.names = [layer.name for layer in layers if trainable(layer.weight)]
        self.factors: Tensor | None = None
        self.norms: Tensor | None = None
        products: list[set[str]] = []
        for layer in layers:
            if trainable(layer.weight):
                products.append({layer.name})
            if trainable(layer.bias):
                products.append(members[layer.name])
        self._statistics: list[Any] = [
            layer.module
            for layer in network.layers
            if running_statistics and getattr(layer.module, "running_mean", None) is not None
        ]
        course = follow(network)
        enters = [
            {*course.enters[layer.name].powers}
            for layer in network.layers
            if any(layer.module is module for module in self._statistics)
        ]
        if not self.names:
            return
        with torch.inference_mode(False), torch.no_grad():  # for later steps in any mode
            norms = rescaling.multi_tensor_norms(present.weights)
            self.initial = [initial[name] for name in self.names]
            self.targets = norms.new_tensor(self.initial)
            self._with_key = {
                key: norms.new_tensor([strengths.key_of[name] == key for name in self.names])
                for key in strengths.values
            }
            mask = rescaling.membership_mask(products, self.names)
            terms = self._terms(strengths)
            self._rescale = rescaling.SoftRescaling(*terms, mask, present.tensors)
            enter = rescaling.membership_mask(enters, self.names).to(self.targets)
            self._statistics_members = enter, 1 - enter
            self._seen = torch.ones(
                norms.shape, dtype=norms.dtype, device="cpu", pin_memory=norms.is_cuda
            )

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
        present: Present,
        strengths: Strengths,
        skipped: Tensor | None = None,
        *,
        idle: bool = False,
    ) -> list[float]:
        """Rescale once.

        Parameters
        ----------
        present : Present
        strengths : Strengths
        skipped : torch.Tensor, optional
            Non-zero where the optimizer skipped its step.
        idle : bool
            Whether such a step counts as none at all, so that the factors of the last one stay.

        Returns
        -------
        list of float
            The norms before the rescaling; on a GPU those of an earlier step.
        """
        if self._changes != strengths.changes:
            self._rescale.pull, self._rescale.rest = self._terms(strengths)
        if skipped is not None:
            skipped = skipped.to(self.targets.device, non_blocking=True)
        factors, norms = self._rescale(present.weights, present.tensors, skipped)
        before, self.factors, self.norms = self.factors, factors, norms
        if idle and before is not None:
            assert skipped is not None
            self.factors = before.where(skipped, factors)
        if self._statistics:
            scales = rescaling.cumulative_factors(factors, *self._statistics_members)
            means = [module.running_mean for module in self._statistics]
            rescaling.multi_tensor_multiply_(means, scales.unbind())
            variances = [module.running_var for module in self._statistics]
            rescaling.multi_tensor_multiply_(variances, scales.square().unbind())
        # On a GPU the copy arrives later and a coming step sees it: nothing waits for the device.
        seen = self._seen.copy_(norms, non_blocking=True) if norms.is_cuda else norms
        return seen.tolist()
