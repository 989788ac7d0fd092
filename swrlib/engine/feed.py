"""What a stage hands to a population: images and labels by their positions, each seed its own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from swrlib.datasets import Dataset
from swrlib.stacks import EVALUATED
from swrlib.streams import Stage, generator

#: Up to how many bytes a stage's images are kept normalized, their pixels permuted.
KEPT = 2**24
#: The label of a test image that is left out; torch counts no loss for it.
LEFT_OUT = -100


class Feed:
    """The images and labels of a stage.

    Parameters
    ----------
    data : Dataset
        On the device.
    stages : sequence of Stage
        This stage, as each seed has it.
    batch_size : int
        The run's.
    dtype : torch.dtype
        Of the normalized images.
    """

    def __init__(
        self, data: Dataset, stages: Sequence[Stage], batch_size: int, dtype: torch.dtype
    ) -> None:
        self.data, self.dtype = data, dtype
        device = data.train_images.device
        self.batch_size = stages[0].batch_size or batch_size
        self.indices = torch.stack([stage.indices for stage in stages]).to(device)
        labels = [
            data.train_labels[stage.indices.to(device)]
            if stage.labels is None
            else stage.labels.to(data.train_labels)
            for stage in stages
        ]
        self.labels = torch.stack(labels)  # [seeds, images], as the indices
        self.classes = self._classes(stages)  # [seeds, classes]
        pixels = [stage.pixels for stage in stages if stage.pixels is not None]
        there = data.shape[1] * data.shape[2]
        for own in pixels:
            if len(own) != there:
                raise ValueError(
                    f"the stream permutes {len(own)} pixels, and images of {data.name} have "
                    f"{there}: give it pixels={there}"
                )
        self.pixels = torch.stack(pixels).to(device) if pixels else None  # [seeds, H·W]
        self._kept: Tensor | None = None  # an image of all seeds after another
        if self.indices.numel() * math.prod(data.shape) * dtype.itemsize <= KEPT:
            self._kept = self._normalized(data.train_images, self.indices)
            rows = torch.arange(self.indices.numel(), device=device)
            self._rows = rows.view(-1, len(stages)).T  # [seeds, images]

    def _classes(self, stages: Sequence[Stage]) -> Tensor | None:
        """Return which classes there are so far, [seeds, classes]; None: all."""
        if all(stage.classes is None for stage in stages):
            return None
        there = torch.zeros(len(stages), len(self.data.classes), dtype=torch.bool)
        for own, stage in zip(there, stages, strict=True):
            own[slice(None) if stage.classes is None else list(stage.classes)] = True
        there = there.to(self.labels.device)
        if not there.gather(1, self.labels).all():
            raise ValueError("a stage trains on images of classes that are not among its classes")
        return there

    def order(self, seeds: Sequence[int], stage: int, epoch: int) -> Tensor:
        """Return an epoch's order, [seeds, images]: places among the stage's images."""
        draws = [generator(seed, "order", stage, epoch) for seed in seeds]
        images = self.indices.shape[1]
        orders = torch.stack([torch.randperm(images, generator=draw) for draw in draws])
        return orders.to(self.labels.device)

    def batch(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return images and labels at these places, as in `swrlib.population.Batch`."""
        labels = self.labels.gather(1, places)
        if self._kept is None:
            return self._images(self.data.train_images, self.indices.gather(1, places)), labels
        rows = self._rows.gather(1, places)
        return self._by_seed(self._kept.index_select(0, rows.T.flatten()), rows), labels

    def test(self, most: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield test images in batches; labels [1, N] are the same for all seeds.

        With classes so far they are [seeds, N], those of other images `LEFT_OUT`.
        """
        labels = self.data.test_labels[:most]
        seeds = 1 if self.pixels is None else len(self.pixels)
        for positions in torch.arange(len(labels), device=labels.device).split(self._evaluated()):
            images = self._images(self.data.test_images, positions.expand(seeds, -1))
            own = labels[positions].unsqueeze(0)
            if self.classes is not None:
                own = own.where(self.classes[:, own[0]], LEFT_OUT)
            yield images, own

    def task(self, most: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield what the stage trains on in batches, in its own order."""
        seeds, images = self.indices.shape
        places = torch.arange(images, device=self.indices.device)[:most].expand(seeds, -1)
        for part in places.split(self._evaluated(), dim=1) if most != 0 else ():
            yield self.batch(part)

    def _evaluated(self) -> int:
        return max(EVALUATED, self.batch_size)

    def _images(self, images: Tensor, positions: Tensor) -> Tensor:
        return self._by_seed(self._normalized(images, positions), positions)

    def _normalized(self, images: Tensor, positions: Tensor) -> Tensor:
        """Return images at positions [seeds, N], the seeds side by side: [N·seeds, C, H, W]."""
        chosen = images.index_select(0, positions.T.flatten())
        if self.pixels is not None:
            flat = chosen.view(*positions.T.shape, chosen.shape[1], -1)
            places = self.pixels[:, None].expand_as(flat)
            chosen = flat.gather(3, places).view_as(chosen)
        return self.data.normalize(chosen, self.dtype)

    @staticmethod
    def _by_seed(chosen: Tensor, positions: Tensor) -> Tensor:
        """Return these images as in `swrlib.population.Batch`."""
        if len(positions) == 1:
            return chosen
        return chosen.view(*positions.T.shape, *chosen.shape[1:]).transpose(0, 1)
