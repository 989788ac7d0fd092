"""What methods look at beside their tensors: the latest images, and what layers make of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from swrlib.methods.base import Method
from swrlib.network.layers import Layer, Network
from swrlib.population import Members


def hidden_layers(network: Network) -> list[tuple[Layer, str]]:
    """Return linear and convolution layers after the first, and the step that feeds each.

    What such a step gives are the features of the layer before, after activation and pooling.
    """
    steps = {step.name: step for step in network.steps}
    layers = [layer for layer in network.layers if layer.kind != "normalization"]
    return [(layer, steps[layer.name].inputs[0]) for layer in layers[1:]]


@contextlib.contextmanager
def features_of_latest(members: Members, steps: Sequence[str]) -> Iterator[list[Tensor]]:
    """Give what steps make of the latest images, [seeds, runs, N, width] each.

    Gradients flow to the population's blocks, where they are on. At the end all buffers are as they
    were: statistics are those of the training steps alone. What is not finite is 0, so that
    a run that has diverged leaves the others alone.
    """
    population, latest = members.population, members.fixed["latest"]
    seen = min(int(members.memory["seen"][0, 0]), latest.shape[1])
    images = latest[:, :seen]
    buffers = {name: value.clone() for name, value in population.stack.buffers.items()}
    features = population.features(images[0] if len(images) == 1 else images, steps)
    own = [features[step][:, members.runs].flatten(3).to(population.dtype) for step in steps]
    yield [values.nan_to_num(0.0, 0.0, 0.0) for values in own]
    for name, value in buffers.items():
        population.stack.buffers[name].copy_(value)


class Watching(Method):
    """A method that acts every so many steps, on the latest images of a stage."""

    every: int
    watched: int

    def start(self, members: Members) -> None:
        """Lay out room for the latest images of each seed, in the methods' memory.

        All runs of a seed share it, so that a checkpoint holds it once.
        """
        population = members.population
        shape = (len(population.seeds), self.watched, *population.blueprint.data.shape)
        images = torch.zeros(shape, dtype=population.dtype, device=population.device)
        members.fixed["latest"] = images
        members.memory["latest"] = images.unsqueeze(1).expand(-1, len(members), *shape[1:])
        seen = torch.zeros(len(images), len(members), dtype=torch.int64, device=images.device)
        members.memory["seen"] = seen

    def after_step_(self, members: Members) -> None:
        """Take the images of the latest step, in the place of the oldest."""
        assert members.population.batch is not None
        latest, seen = members.fixed["latest"], members.memory["seen"]
        images, count = members.population.batch.images, latest.shape[1]
        images = images if images.dim() == latest.dim() else images.unsqueeze(0)
        images = images[:, -count:]
        steps = torch.arange(images.shape[1], device=latest.device)
        places = (seen[0, 0] + steps) % count  # a tensor, since a captured step reads it
        latest.index_copy_(1, places, images.expand(len(latest), *images.shape[1:]))
        seen.add_(images.shape[1])

    def acts_every(self) -> int:
        """Return after how many steps it acts."""
        return self.every

    def regularly_(self, members: Members) -> None:
        """Act on the latest images, where there are any."""
        if int(members.memory["seen"].max()):
            self.act_(members)

    def act_(self, members: Members) -> None:
        """Act on the latest images."""
        raise NotImplementedError

    def change_(self, members: Members, stage: int) -> None:
        """Let the images go: others follow that look different."""
        members.memory["seen"].zero_()
