"""What a stage and a stream are, and the streams of the paper that this book reproduces.

A stage says which images, labels and pixels, for how many epochs at which rates and batch size, and
when what is evaluated. Random choices (the half, the chunks) come from a processor generator keyed
by seed and purpose, so that all methods of a seed see the same data.

Places in these docstrings are those of `swrlib.papers.SWR`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from swrlib.checks import settle_numbers
from swrlib.datasets import Dataset
from swrlib.theory.scaling import check_scaling, scale_


def generator(seed: int, *purpose: object) -> torch.Generator:
    """Return a processor generator that depends on the seed and what it is for, and nothing else.

    The same numbers come out on every device and in every order of calls.
    """
    key = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(key[:8], "little") >> 1)


def held_out(data: Dataset) -> Dataset:
    """Hold a fixed random tenth of the training images out, and test on it: for choosing λ.

    Raises
    ------
    ValueError
        If there are too few images for a tenth of them to be one.
    """
    if len(data.train_images) < 10:
        raise ValueError(
            f"the split 'selection' tests on a tenth of the training images, and {data.name} has "
            f"{len(data.train_images)}: at least 10 are needed"
        )
    order = torch.randperm(len(data.train_images), generator=generator(0, "selection"))
    held, rest = order[: len(order) // 10], order[len(order) // 10 :]
    return replace(
        data,
        train_images=data.train_images[rest],
        train_labels=data.train_labels[rest],
        test_images=data.train_images[held],
        test_labels=data.train_labels[held],
    )


@dataclass(frozen=True)
class Stage:
    """Training on one set of images. All seeds of a stream must have stages of the same lengths.

    Attributes
    ----------
    indices : torch.Tensor
        int64 [images]: positions among the images that may be trained on.
    learning_rates : tuple of float
        One for each epoch.
    labels : torch.Tensor, optional
        int64 [images]: the labels of these images in this stage, instead of their own.
    pixels : torch.Tensor, optional
        int64 [H·W]: a permutation of the pixels of all images, test images among them.
    batch_size : int, optional
        Instead of the run's.
    classes : tuple of int, optional
        The classes so far: the others' logits take no part, in training and where it is evaluated,
        nor do the test images that are theirs. None: all.
    rows : {"epoch", "stage"}
        Whether a row is written, and evaluated for, after every epoch or after the stage alone:
        then training loss and accuracy are means over all of its steps.
    evaluated : tuple of {"test", "task"}
        On what, when a row is written: the test set; the images and labels of the stage itself
        (`task_loss`, `task_accuracy`).
    """

    indices: Tensor
    learning_rates: tuple[float, ...]
    labels: Tensor | None = None
    pixels: Tensor | None = None
    batch_size: int | None = None
    classes: tuple[int, ...] | None = None
    rows: Literal["epoch", "stage"] = "epoch"
    evaluated: tuple[Literal["test", "task"], ...] = ("test",)

    @property
    def epochs(self) -> int:
        """Number of epochs."""
        return len(self.learning_rates)


@dataclass(frozen=True)
class Stream:
    """A stream, resolved but for the seed and the images; part of a run's hash.

    A stream of one's own is a subclass with a name and `stages`; its further fields are options,
    each with a default, whose type a number takes.

    Attributes
    ----------
    epochs : tuple of int
        Epochs of each stage.
    learning_rate : float
        At the start of each stage.
    """

    epochs: tuple[int, ...]
    learning_rate: float = 1e-3
    name: ClassVar[str]
    #: Epochs of each stage at the quick scale: enough to see the shapes, minutes in all.
    quick: ClassVar[tuple[int, ...]] = ()

    def __post_init__(self) -> None:
        rate = self.learning_rate
        if not isinstance(rate, int | float) or not 0 < rate < math.inf:
            raise ValueError(f"learning_rate is {rate!r}: it must be a positive number")
        settle_numbers(self)

    def stages(self, images: int, seed: int, labels: Tensor | None = None) -> list[Stage]:
        """Return the stages for a number of images, a seed and, for some streams, the labels.

        Raises
        ------
        ValueError
            If there are too few images.
        """
        raise NotImplementedError

    def options(self) -> dict[str, Any]:
        """Return what the stream has beyond epochs and rate; columns of the records."""
        return {name: getattr(self, name) for name in self.option_names()}

    @classmethod
    def option_names(cls) -> list[str]:
        """Return the names of the fields beyond epochs and rate."""
        return [f.name for f in fields(cls) if f.name not in ("epochs", "learning_rate")]

    @classmethod
    def checked_options(cls, text: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options that are written behind the name's colon, or given by keyword.

        Behind a colon stand all of them; of keywords some may be left out.

        Raises
        ------
        ValueError
            If they are given twice, or not those of this stream.
        """
        names = cls.option_names()
        options = {name: value for name, value in options.items() if value is not None}
        if text is not None and options:
            raise ValueError(
                f"options of {cls.name!r} are given twice: behind the name and by keyword"
            )
        if text is not None:
            values = text.split(",") if text else []
            if len(values) != len(names):
                listed = f" ({', '.join(names)})" if names else ""
                raise ValueError(
                    f"the stream {cls.name!r} takes {_values(len(names))} behind its name{listed}, "
                    f"and {f'{cls.name}:{text}'!r} gives {_values(len(values))}"
                )
            return dict(zip(names, map(_number, values), strict=True))
        for option in options:
            if option not in names:
                owners = [k.name for k in STREAMS.values() if option in k.option_names()]
                where = f"it belongs to {owners[0]!r}" if owners else "no stream has it"
                raise ValueError(f"the stream {cls.name!r} has no option {option!r}: {where}")
        return options

    def configuration(self) -> dict[str, Any]:
        """Return what is hashed."""
        parts = {"epochs": list(self.epochs), "learning_rate": self.learning_rate}
        return {"name": self.name} | parts | self.options()

    @property
    def trained(self) -> int:
        """Epochs in all, those of a parent not among them."""
        return sum(self.epochs)

    @property
    def parent(self) -> Stream | None:
        """The stream whose final state this one starts from, None where it starts from θ_0."""
        return None

    def start_(self, model: nn.Module, initial_norms: Tensor) -> None:
        """Make the start of this stream out of its parent's final state, in place.

        Parameters
        ----------
        model : torch.nn.Module
            The parent's network.
        initial_norms : torch.Tensor
            ‖W‖ of each layer that has a weight, before any training: [layers].
        """

    def constant_rates(self) -> list[tuple[float, ...]]:
        """Return one rate for all epochs of each stage."""
        return [(self.learning_rate,) * epochs for epochs in self.epochs]


@dataclass(frozen=True)
class SingleTask(Stream):
    """One data set throughout (Section 4.3)."""

    name: ClassVar[str] = "single-task"
    quick: ClassVar[tuple[int, ...]] = (20,)

    def stages(self, images: int, seed: int, labels: Tensor | None = None) -> list[Stage]:
        """Return a stage with everything."""
        return [Stage(torch.arange(images), rates) for rates in self.constant_rates()]


@dataclass(frozen=True)
class SingleTaskDecay(Stream):
    """One data set, at a rate that falls after a half and after three quarters (Appendix E)."""

    name: ClassVar[str] = "single-task-decay"
    quick: ClassVar[tuple[int, ...]] = (20,)
    #: What the rate is multiplied by, after which shares of the epochs.
    factor: ClassVar[float] = 0.1
    shares: ClassVar[tuple[float, ...]] = (0.5, 0.75)

    def stages(self, images: int, seed: int, labels: Tensor | None = None) -> list[Stage]:
        """Return a stage with everything."""
        (epochs,) = self.epochs
        drops = [max(1, int(epochs * share)) for share in self.shares]
        rates = tuple(
            self.learning_rate * self.factor ** sum(epoch >= drop for drop in drops)
            for epoch in range(epochs)
        )
        return [Stage(torch.arange(images), rates)]


@dataclass(frozen=True)
class _Chunked(Stream):
    """Equal random chunks: a remainder is dropped."""

    def chunks(self, images: int, seed: int, count: int) -> tuple[Tensor, int]:
        """Return a random order of the images and the size of a chunk."""
        if images < count:
            raise ValueError(f"{images} images cannot be cut into {count} chunks")
        order = torch.randperm(images, generator=generator(seed, self.name, "chunks"))
        return order, images // count


@dataclass(frozen=True)
class WarmStart(_Chunked):
    """A random half, then everything (Section 4.1)."""

    name: ClassVar[str] = "warm-start"
    quick: ClassVar[tuple[int, ...]] = (15, 15)

    def stages(self, images: int, seed: int, labels: Tensor | None = None) -> list[Stage]:
        """Return the half and the whole."""
        order, size = self.chunks(images, seed, 2)
        first, second = self.constant_rates()
        return [Stage(order[:size], first), Stage(torch.arange(images), second)]


@dataclass(frozen=True)
class FullAccess(_Chunked):
    """Ten chunks, each beside all before it (Section 4.2)."""

    name: ClassVar[str] = "full-access"
    quick: ClassVar[tuple[int, ...]] = (4,) * 10

    def stages(self, images: int, seed: int, labels: Tensor | None = None) -> list[Stage]:
        """Return the growing sets."""
        order, size = self.chunks(images, seed, len(self.epochs))
        rates = enumerate(self.constant_rates(), start=1)
        return [Stage(order[: count * size], constant) for count, constant in rates]


@dataclass(frozen=True)
class LimitedAccess(_Chunked):
    """Ten chunks, each alone (Section 4.2)."""

    name: ClassVar[str] = "limited-access"
    quick: ClassVar[tuple[int, ...]] = (4,) * 10

    def stages(self, images: int, seed: int, labels: Tensor | None = None) -> list[Stage]:
        """Return the chunks."""
        order, size = self.chunks(images, seed, len(self.epochs))
        rates = enumerate(self.constant_rates())
        return [Stage(order[k * size : (k + 1) * size], constant) for k, constant in rates]


@dataclass(frozen=True)
class Scaled(Stream):
    """A trained network whose weights are scaled and which is then trained on (Fig. 1).

    ``epochs`` are the parent's and those of the fine-tuning; the options are those of
    `swrlib.theory.scale_`.
    """

    ratio: float | None = None
    reading: str = "norm"
    biases: str = "proportional"
    name: ClassVar[str] = "scaled"
    quick: ClassVar[tuple[int, ...]] = (10, 5)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scaling(self.ratio, self.reading, self.biases)
        object.__setattr__(self, "ratio", float(self.ratio))  # type: ignore[arg-type]

    @property
    def trained(self) -> int:
        """Epochs of the fine-tuning."""
        return self.epochs[1]

    @property
    def parent(self) -> Stream | None:
        """The single task."""
        return SingleTask(self.epochs[:1], self.learning_rate)

    def stages(self, images: int, seed: int, labels: Tensor | None = None) -> list[Stage]:
        """Return the fine-tuning, on everything."""
        return [Stage(torch.arange(images), self.constant_rates()[1])]

    def start_(self, model: nn.Module, initial_norms: Tensor) -> None:
        """Scale."""
        assert self.ratio is not None
        scale_(model, initial_norms, ratio=self.ratio, reading=self.reading, biases=self.biases)


def _values(count: int) -> str:
    return f"{count or 'no'} value{'s' * (count != 1)}"


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


STREAMS: dict[str, type[Stream]] = {
    stream.name: stream
    for stream in (SingleTask, SingleTaskDecay, WarmStart, FullAccess, LimitedAccess, Scaled)
}
