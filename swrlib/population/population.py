"""Networks that train at once, those of a seed from one start and on the same batches."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from swrlib.datasets import Dataset
from swrlib.models import build_model
from swrlib.network.layers import trace
from swrlib.population.optimizers import Adam, Optimizer, Updates
from swrlib.stacks import Stack, outline
from swrlib.streams import generator


@dataclass(frozen=True)
class Blueprint:
    """What networks are drawn from: a model's name and options, for a data set."""

    model: str
    options: Mapping[str, Any]
    data: Dataset

    def draw(self, seed: int, purpose: str) -> nn.Module:
        """Draw new weights from the generator of a seed and a purpose."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator(seed, purpose).initial_seed())
            return build_model(self.model, self.data, **self.options)


@dataclass
class Batch:
    """What the latest step has seen.

    Attributes
    ----------
    images : torch.Tensor
        Normalized, [N, C, H, W], or [seeds, N, C, H, W].
    labels : torch.Tensor
        [seeds, N].
    features : dict of str to torch.Tensor
        Those that methods ask for, [seeds, runs, N, …], by the names of modules.
    losses, correct : torch.Tensor
        Each member's mean loss, and how many images it had right: [seeds·runs].
    """

    images: Tensor
    labels: Tensor
    features: dict[str, Tensor]
    losses: Tensor
    correct: Tensor


class Population:
    """As many runs of each seed; a seed's runs share images, their order and initial weights.

    Members are numbered seed by seed, so that tensors are [seeds·runs, …]; `by_seed` shows one as
    [seeds, runs, …].

    Parameters
    ----------
    blueprint : Blueprint
    seeds : sequence of int
    runs : int
        Of each seed.
    device : torch.device
    dtype : torch.dtype
        As for `swrlib.stacks.Stack`.
    optimizer : Optimizer
    parts : sequence of slice
        Which of each seed's runs may begin a new optimizer apart from the others; side by side they
        are all runs. Default: all together.

    Attributes
    ----------
    network : Network
        The traced model.
    stack : Stack
        Weights, buffers and the walk through the layers.
    initial : list of torch.Tensor
        θ_0: [seeds, 1, *shape] for each parameter.
    updates : Updates
        The optimizer with its moments.
    learning_rate : torch.Tensor
        Of the coming step; no dimensions.
    batch : Batch, optional
        What the latest step has seen.
    """

    @torch.no_grad()
    def __init__(
        self,
        blueprint: Blueprint,
        seeds: Sequence[int],
        runs: int,
        *,
        device: torch.device,
        dtype: torch.dtype,
        optimizer: Optimizer | None = None,
        parts: Sequence[slice] = (),
    ) -> None:
        self.blueprint, self.seeds, self.runs, self.device = blueprint, tuple(seeds), runs, device
        models = [blueprint.draw(seed, "weights") for seed in seeds]
        self.network = trace(outline(models[0]))
        self.stack = Stack(models[0], len(self), device, dtype, seeds=len(seeds))
        self.dtype = self.stack.dtype
        for place in range(runs, len(self)):
            self.stack.load(place, models[place // runs])
        self.blocks = list(self.stack.parameters.values())
        self.initial = [self.by_seed(block.detach())[:, :1].clone() for block in self.blocks]
        # A tensor, so that a captured step reads it; as exact as fused optimizers take it.
        rate_type = torch.float32 if device.type == "cuda" else torch.float64
        self.learning_rate = torch.zeros((), dtype=rate_type, device=device)
        together = [
            slice(start + part.start, start + part.stop)
            for start in range(0, len(self), runs)
            for part in parts
        ]
        if len(parts) < 2:
            together = [slice(0, len(self))]
        self.updates = Updates(optimizer or Adam(), self.blocks, together, self.learning_rate)
        self.batch: Batch | None = None

    def __len__(self) -> int:
        return len(self.seeds) * self.runs

    def by_seed(self, tensor: Tensor) -> Tensor:
        """Show a tensor [seeds·runs, …] as [seeds, runs, …]: a view."""
        return tensor.view(len(self.seeds), self.runs, *tensor.shape[1:])

    def gradients_(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        features: Collection[str] = (),
        classes: Tensor | None = None,
    ) -> Batch:
        """Compute the gradients of the mean loss on a batch, and return what was seen.

        Parameters
        ----------
        images, labels : torch.Tensor
            As in `Batch`.
        features : collection of str
            Which features to keep.
        classes : torch.Tensor, optional
            As for `judge`.
        """
        logits, outputs = self.stack.forward(images, training=True, features=features)
        losses, hits = self.judge(logits, labels, classes)
        self.updates.forget_gradients()
        losses.backward(torch.full_like(losses, 1 / losses.shape[1]))  # of each member's mean
        shown = {name: self.by_seed(values.detach()) for name, values in outputs.items()}
        self.batch = Batch(images, labels, shown, losses.detach().mean(1), hits.sum(1))
        return self.batch

    def judge(
        self, logits: Tensor, labels: Tensor, classes: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return losses and hits, [seeds·runs, N] each.

        Shapes: logits [seeds·runs, classes, N], labels [seeds, N], or [1, N] where all seeds have
        the same; classes [seeds, classes], bool: which logits take part, None: all.
        """
        if classes is not None:
            without = ~classes.repeat_interleave(self.runs, 0).unsqueeze(2)
            logits = logits.masked_fill(without, -torch.inf)
        targets = labels.repeat_interleave(len(self) // len(labels), 0)
        losses = cross_entropy(logits, targets, reduction="none")
        # argmax is slow along this axis
        return losses, logits.detach().max(1).indices == targets

    def features(self, images: Tensor, names: Collection[str]) -> dict[str, Tensor]:
        """Return what modules give for images, [seeds, runs, N, …], as in training.

        Gradients flow through them, where they are on.
        """
        outputs = self.stack.forward(images, training=True, features=names)[1]
        return {name: self.by_seed(values) for name, values in outputs.items()}

    def fresh(self, purpose: str) -> list[Tensor]:
        """Draw new parameters, like ``initial``, each seed from its own generator."""
        drawn = [self.blueprint.draw(seed, purpose).parameters() for seed in self.seeds]
        return [
            torch.stack([p.detach() for p in of_seeds]).to(self.device, self.dtype).unsqueeze(1)
            for of_seeds in zip(*drawn, strict=True)
        ]

    def reinitialize_(self, runs: slice, purpose: str) -> None:
        """Give these runs of each seed new parameters and buffers, and a new optimizer."""
        for number, seed in enumerate(self.seeds):
            model = self.blueprint.draw(seed, purpose)
            for place in range(runs.start, runs.stop):
                self.stack.load(number * self.runs + place, model)
        self.renew_optimizer_(runs)

    def renew_optimizer_(self, runs: slice) -> None:
        """Let these runs of each seed begin with a new optimizer."""
        if runs == slice(0, self.runs):
            self.updates.renew_(slice(0, len(self)))
            return
        for start in range(0, len(self), self.runs):
            self.updates.renew_(slice(start + runs.start, start + runs.stop))

    def moments_of(self, member: int) -> dict[str, dict[str, Tensor]]:
        """Return what the optimizer keeps of one member, by torch's names and the parameter's."""
        return {
            name: dict(zip(self.stack.parameters, (m[member] for m in moments), strict=True))
            for name, moments in self.updates.moments.items()
        }

    def finite(self) -> Tensor:
        """Return for each member whether its numbers are finite: oneDNN's ReLU makes 0 of NaN."""
        blocks = [*self.blocks, *self.stack.buffers.values()]
        of_each = [block.detach().reshape(len(block), -1).isfinite().all(1) for block in blocks]
        return torch.stack(of_each).all(0)

    # The state: tensors with an axis of members, so that some of them can be kept alone.

    def _tensors(self) -> list[Tensor]:
        parameters = [block.detach() for block in self.blocks]
        moments = itertools.chain.from_iterable(self.updates.moments.values())
        return [*parameters, *self.stack.buffers.values(), *moments]

    def state(self) -> dict[str, Any]:
        """Return all that a step changes."""
        return {"tensors": self._tensors(), "steps": self.updates.steps}

    @torch.no_grad()
    def take_(self, state: Mapping[str, Any], members: Sequence[int]) -> None:
        """Take what stands at these places of another population's state."""
        for tensor, value in zip(self._tensors(), state["tensors"], strict=True):
            tensor.copy_(value[members])
        self.updates.steps = state["steps"][members]
