"""What a method sees of a population: its runs, as plain tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from swrlib.network.layers import Network
from swrlib.population.population import Population
from swrlib.rescaling import multi_tensor_norms


class Members:
    """Runs of each seed that train side by side under one method.

    Tensors are views into the population: what is written into them happens to the runs.

    Parameters
    ----------
    population : Population
    runs : slice
        Which of each seed's runs.
    values : mapping of str to sequence of float
        The methods' λ's by field, one for each of these runs.

    Attributes
    ----------
    population : Population
        All that trains, where a method needs more than what stands here.
    parameters : list of torch.Tensor
        [seeds, runs, …] each: the model's parameters in their order.
    initial : list of torch.Tensor
        [seeds, 1, …] each: θ_0, which all runs of a seed share.
    moments : dict of str to list of torch.Tensor
        What the optimizer keeps, by torch's names, like ``parameters``.
    in_classifier : list of bool
        Which parameters belong to the classifier.
    values : dict of str to torch.Tensor
        [runs] each.
    network : Network
        The traced model.
    owners : list of (str, bool)
        For each layer's tensor, the layer's name and whether the tensor is its bias.
    tensors : list of torch.Tensor
        [seeds, runs, …] each: these tensors, which share the memory of ``parameters``.
    weights : list of torch.Tensor
        The weights among ``tensors``, in their order.
    weighted : list of str
        The names of the layers that have a weight.
    learning_rate : torch.Tensor
        Of the coming step; no dimensions.
    memory : dict of str to torch.Tensor
        What a method keeps between steps, [seeds, runs, …] each; part of a checkpoint. Written in
        place only, since what stands in ``fixed`` may hold the same tensors.
    fixed : dict
        What it laid out once, at the start.
    """

    def __init__(
        self, population: Population, runs: slice, values: Mapping[str, Sequence[float]]
    ) -> None:
        self.population, self.runs = population, runs
        self.values = {
            name: torch.tensor(numbers, dtype=population.dtype).to(population.device)
            for name, numbers in values.items()
        }
        self.network: Network = population.network
        layers = self.network.layers
        self.owners = [
            (layer.name, kind == "bias")
            for layer in layers
            for kind, parameter in (("weight", layer.weight), ("bias", layer.bias))
            if parameter is not None
        ]
        blocks = population.stack.parameters
        self.parameters = [self.part(block.detach()) for block in blocks.values()]
        by_name = dict(zip(blocks, self.parameters, strict=True))
        kinds = ("weight", "bias")
        self.tensors = [by_name[f"{layer}.{kinds[bias]}"] for layer, bias in self.owners]
        self.weighted = [name for name, bias in self.owners if not bias]
        self.weights = [by_name[f"{name}.weight"] for name in self.weighted]
        classifier = {layer.name for layer in layers if layer.group == "classifier"}
        self.in_classifier = [name.rpartition(".")[0] in classifier for name in blocks]
        self.initial = population.initial
        self.moments = {
            name: [self.part(moment) for moment in moments]
            for name, moments in population.updates.moments.items()
        }
        lam = self.values.get("lam")
        self._lam = [
            lam.view(-1, *(1,) * (p.dim() - 2)) for p in self.parameters if lam is not None
        ]
        self.learning_rate = population.learning_rate
        self.memory: dict[str, Tensor] = {}
        self.fixed: dict[str, Any] = {}

    def __len__(self) -> int:
        """Return how many runs of each seed they are."""
        return self.runs.stop - self.runs.start

    def part(self, tensor: Tensor) -> Tensor:
        """Return these runs' part of a tensor [seeds·runs, …] of the population: a view."""
        return self.population.by_seed(tensor)[:, self.runs]

    @property
    def gradients(self) -> list[Tensor]:
        """Those of the parameters, as they are in this step."""
        return [self.part(block.grad) for block in self.population.blocks]  # type: ignore[arg-type]

    @property
    def features(self) -> dict[str, Tensor]:
        """What this step's images became in the modules that the method named, [seeds, runs, N, …].

        See `swrlib.methods.Method.features`.
        """
        assert self.population.batch is not None
        features = self.population.batch.features
        return {name: values[:, self.runs] for name, values in features.items()}

    def weight_norms(self) -> Tensor:
        """Return ‖W_l‖, [seeds, runs, layers that have a weight]."""
        return multi_tensor_norms(self.weights, stacked=2)

    def lam(self) -> list[Tensor]:
        """Return λ for each parameter, [runs, 1, …], so that it multiplies the parameter."""
        return self._lam

    def fresh(self, purpose: str) -> list[Tensor]:
        """Return parameters like ``initial``, newly drawn from each seed's own generator."""
        return self.population.fresh(purpose)

    def reinitialize_(self, purpose: str) -> None:
        """Give these runs new parameters and buffers, and a new optimizer."""
        self.population.reinitialize_(self.runs, purpose)

    def renew_optimizer_(self) -> None:
        """Give these runs a new optimizer; for methods that say so (`new_optimizer`)."""
        self.population.renew_optimizer_(self.runs)
