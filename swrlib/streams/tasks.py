"""Streams of tasks on one fixed set of images: labels shuffled, or pixels permuted, at each change.

Lewandowski et al., *Curvature Explains Loss of Plasticity* (2023, Section 4 and Appendix B). What
they judge is the training error at the end of each task, so that a row is a task's. Whether the
first task is already shuffled they do not say: here it is. Training goes on through a change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from swrlib.checks import make_whole
from swrlib.streams.base import Stage, Stream, generator


@dataclass(frozen=True)
class _Tasks(Stream):
    """Tasks on images that are drawn once.

    What a task is depends on the seed, the stream's name and the task's number alone: thirty tasks
    are the first thirty of a hundred.

    Attributes
    ----------
    tasks : int, optional
        How many; then all have as many epochs as the first. Default: as many as there are epochs.
    images : int
        How many training images are drawn; 1,280 as in the paper.
    """

    tasks: int | None = None
    images: int = 1280
    quick: ClassVar[tuple[int, ...]] = (50,) * 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tasks is None:
            object.__setattr__(self, "tasks", len(self.epochs))
        make_whole(self, *self.option_names())
        if self.tasks != len(self.epochs):
            if len(set(self.epochs)) > 1:
                raise ValueError(
                    f"tasks is {self.tasks}, but epochs of {len(self.epochs)} tasks are given"
                )
            object.__setattr__(self, "epochs", self.epochs[:1] * self.tasks)  # type: ignore[operator]

    def stages(self, images: int, seed: int, labels: Tensor | None = None) -> list[Stage]:
        """Return a stage for each task."""
        if labels is None or len(labels) != images:
            raise ValueError(f"the stream {self.name!r} needs the label of each of the images")
        if self.images > images:
            raise ValueError(
                f"the stream {self.name!r} draws {self.images} images and there are {images}: "
                f"take images={images} or fewer"
            )
        drawn = generator(seed, self.name, "images")
        chosen = torch.randperm(images, generator=drawn)[: self.images]
        return [
            Stage(chosen, rates, **self.task(labels[chosen], generator(seed, self.name, number)))
            for number, rates in enumerate(self.constant_rates(), start=1)
        ]

    def task(self, labels: Tensor, draw: torch.Generator) -> dict[str, Any]:
        """Return what a task's stage has beside images and rates.

        Parameters
        ----------
        labels : torch.Tensor
            The images' own, [images].
        draw : torch.Generator
            The task's.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class LabelShuffled(_Tasks):
    """Each task deals the images' labels out to them anew, so that class counts stay.

    There is no test accuracy: labels say nothing of images.
    """

    name: ClassVar[str] = "label-shuffled"

    def task(self, labels: Tensor, draw: torch.Generator) -> dict[str, Any]:
        """Shuffle the images' own labels."""
        order = torch.randperm(len(labels), generator=draw)
        return {"labels": labels[order], "rows": "stage", "evaluated": ("task",)}


@dataclass(frozen=True)
class PixelPermuted(_Tasks):
    """Each task has a permutation of the pixels, of test images too.

    Attributes
    ----------
    pixels : int
        How many an image has; 784 in MNIST.
    """

    pixels: int = 784
    name: ClassVar[str] = "pixel-permuted"

    def task(self, labels: Tensor, draw: torch.Generator) -> dict[str, Any]:
        """Draw a permutation."""
        order = torch.randperm(self.pixels, generator=draw)
        return {"pixels": order, "rows": "stage", "evaluated": ("test", "task")}
