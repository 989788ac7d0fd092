"""A stream whose classes come one group after the other, beside all that came before.

FIRE (Han et al., ICLR 2026) trains 20 stages of 100 epochs on CIFAR-100 and lets all outputs take
part from the start; *Spectral Collapse Drives Loss of Plasticity* (Prakash, He, Guo et al.) trains
20 of 200 epochs, and masks the outputs of classes to come. That FIRE tests on the whole test set is
read off its figures, which begin near 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from swrlib.checks import check_name, make_whole
from swrlib.streams.base import Stage, Stream, generator

Outputs = Literal["all", "so-far"]


@dataclass(frozen=True)
class ClassIncremental(Stream):
    """Each stage adds classes, in a random order of the seed's; it has all images so far.

    So that all seeds have as many images, each class gives as many as the smallest has. Fewer
    stages are the first ones of more.

    Attributes
    ----------
    added : int
        How many classes a stage adds.
    outputs : {"all", "so-far"}
        Whether all logits take part and all test images count, as in FIRE; or the logits and the
        test images of the classes so far, as in *Spectral collapse*.
    """

    added: int = 5
    outputs: Outputs = "all"
    name: ClassVar[str] = "class-incremental"
    quick: ClassVar[tuple[int, ...]] = (4, 4)

    def __post_init__(self) -> None:
        super().__post_init__()
        make_whole(self, "added")
        check_name("outputs", self.outputs, get_args(Outputs))

    def stages(self, images: int, seed: int, labels: Tensor | None = None) -> list[Stage]:
        """Return a stage for each group of classes."""
        if labels is None or len(labels) != images:
            raise ValueError(f"the stream {self.name!r} needs the label of each of the images")
        classes, counts = labels.unique(return_counts=True)
        needed = self.added * len(self.epochs)
        if needed > len(classes):
            most = len(classes) // self.added
            remedy = f"{most} stages" if most else f"added={max(1, len(classes) // 2)}"
            raise ValueError(
                f"{len(self.epochs)} stages that add {self.added} classes each need {needed} "
                f"classes, and the images have {len(classes)}: take {remedy} or fewer"
            )
        order = torch.randperm(len(classes), generator=generator(seed, self.name, "classes"))
        order, least = classes[order], int(counts.min())
        of_each = [self._images_of(int(own), labels, seed)[:least] for own in order]
        return [
            Stage(
                torch.cat(of_each[:there]),
                rates,
                classes=tuple(order[:there].tolist()) if self.outputs == "so-far" else None,
            )
            for there, rates in zip(
                range(self.added, needed + 1, self.added), self.constant_rates(), strict=True
            )
        ]

    def _images_of(self, own: int, labels: Tensor, seed: int) -> Tensor:
        """Return the positions of a class's images in a random order."""
        places = torch.nonzero(labels == own)[:, 0]
        draw = generator(seed, self.name, "images", own)
        return places[torch.randperm(len(places), generator=draw)]
