"""What a network is trained on, and when: stages of images, epochs and learning rates.

Section 4 and Appendices D, E of the paper. Random choices (the half, the chunks) come from a
processor generator keyed by seed and purpose, so that all methods of a seed see the same data.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from swrlib import paper
from swrlib.checks import check_whole, nearest
from swrlib.datasets import Dataset
from swrlib.layers import trace
from swrlib.rescaling import multi_tensor_norms, rescale_

STREAMS = tuple(paper.EPOCHS)
READINGS = ("norm", "factor")
BIASES = ("proportional", "own-factor", "untouched")
#: Epochs of each stage at the quick scale: enough to see the shapes, minutes in all.
QUICK_EPOCHS = {
    "single-task": (20,),
    "single-task-decay": (20,),
    "warm-start": (15, 15),
    "full-access": (4,) * 10,
    "limited-access": (4,) * 10,
    "scaled": (10, 5),
}
SCALES = ("quick", "paper")


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
    """Training on one set of images.

    Attributes
    ----------
    indices : torch.Tensor
        int64 [images]: positions among the images that may be trained on.
    learning_rates : tuple of float
        One for each epoch.
    """

    indices: Tensor
    learning_rates: tuple[float, ...]

    @property
    def epochs(self) -> int:
        """Number of epochs."""
        return len(self.learning_rates)


@dataclass(frozen=True)
class Stream:
    """A stream, resolved but for the seed and the number of images; part of a run's hash.

    Attributes
    ----------
    name : str
    epochs : tuple of int
        Epochs of each stage; for ``scaled`` of the parent and of the fine-tuning.
    learning_rate : float
        At the start of each stage.
    ratio, reading, biases
        Of ``scaled`` alone (Fig. 1); see `make_stream`.
    """

    name: str
    epochs: tuple[int, ...]
    learning_rate: float = paper.LEARNING_RATE
    ratio: float | None = None
    reading: str | None = None
    biases: str | None = None

    def configuration(self) -> dict[str, Any]:
        """Return what is hashed."""
        return {k: v for k, v in asdict(self).items() if v is not None} | {
            "epochs": list(self.epochs)
        }

    @property
    def scale(self) -> str:
        """The scale whose epochs these are: "paper", "quick" or "custom"."""
        for scale, epochs in (("paper", paper.EPOCHS), ("quick", QUICK_EPOCHS)):
            if self.epochs == epochs[self.name] and self.learning_rate == paper.LEARNING_RATE:
                return scale
        return "custom"

    @property
    def parent(self) -> Stream | None:
        """The stream whose final state this one starts from (Fig. 1), None for all others."""
        if self.name != "scaled":
            return None
        return Stream("single-task", self.epochs[:1], self.learning_rate)

    def stages(self, images: int, seed: int) -> list[Stage]:
        """Return the stages for a number of images and a seed.

        Raises
        ------
        ValueError
            If there are fewer images than chunks.
        """
        constant = [(self.learning_rate,) * epochs for epochs in self.epochs]
        everything = torch.arange(images)
        if self.name == "single-task":
            return [Stage(everything, constant[0])]
        if self.name == "single-task-decay":
            return [Stage(everything, _decayed(self.learning_rate, self.epochs[0]))]
        if self.name == "scaled":
            return [Stage(everything, constant[1])]
        chunks = 2 if self.name == "warm-start" else len(self.epochs)
        if images < chunks:
            raise ValueError(f"{images} images cannot be cut into {chunks} chunks")
        size = images // chunks  # chunks are equal: a remainder is dropped
        order = torch.randperm(images, generator=generator(seed, self.name, "chunks"))
        if self.name == "warm-start":
            return [Stage(order[:size], constant[0]), Stage(everything, constant[1])]
        first = {"full-access": lambda k: 0, "limited-access": lambda k: k}[self.name]
        return [
            Stage(order[first(k) * size : (k + 1) * size], rates)
            for k, rates in enumerate(constant)
        ]


def _decayed(learning_rate: float, epochs: int) -> tuple[float, ...]:
    drops = [max(1, int(epochs * share)) for share in paper.DECAY_AT]
    return tuple(
        learning_rate * paper.DECAY_FACTOR ** sum(epoch >= drop for drop in drops)
        for epoch in range(epochs)
    )


def make_stream(
    name: str,
    *,
    scale: str = "quick",
    epochs: int | None = None,
    learning_rate: float = paper.LEARNING_RATE,
    ratio: float | None = None,
    reading: str = "norm",
    biases: str = "proportional",
) -> Stream:
    """Make a stream by name.

    Parameters
    ----------
    name : {"single-task", "single-task-decay", "warm-start", "full-access", "limited-access", \
"scaled"}
        One data set throughout (4.3), the same with a decaying rate (Appendix E), a random half and
        then everything (4.1), ten growing chunks or ten chunks alone (4.2), or Fig. 1: a trained
        network whose weights are scaled and which is then fine-tuned. "scaled:0.5,norm,untouched"
        names ratio, reading and biases, too.
    scale : {"quick", "paper"}
        Whose number of epochs.
    epochs : int, optional
        Epochs of each stage instead of the scale's.
    learning_rate : float
        Adam's; the decay multiplies it by 1/10 after a half and after three quarters.
    ratio : float
        Of ``scaled`` alone, and needed there: Fig. 1's scaling ratio in [0, 1].
    reading : {"norm", "factor"}
        What the ratio r means: weights moved to the norm r‖W‖ + (1 − r)n_l (SWR's own factor with
        λ = 1 − r), or weights multiplied by max(r, 0.01).
    biases : {"proportional", "own-factor", "untouched"}
        Whether biases are scaled by the cumulative product, by their layer's factor or not at all.

    Raises
    ------
    ValueError
        If a name is unknown or a value senseless.
    """
    name, _, further = name.partition(":")
    if further:
        given = further.split(",")
        if name != "scaled" or len(given) != 3 or ratio is not None:
            raise ValueError(
                f"cannot read the stream {name}:{further}: only 'scaled' takes more than its name, "
                "as in 'scaled:0.5,norm,untouched'"
            )
        try:
            ratio, reading, biases = float(given[0]), given[1], given[2]
        except ValueError as error:
            raise ValueError(f"the ratio {given[0]!r} of {name}:{further} is no number") from error
    for what, value, known in (
        ("stream", name, STREAMS),
        ("scale", scale, SCALES),
        ("reading", reading, READINGS),
        ("biases", biases, BIASES),
    ):
        if value not in known:
            raise ValueError(f"unknown {what} {value!r}: {nearest(value, known)}")
    if epochs is not None:
        check_whole("epochs", epochs)
    if not isinstance(learning_rate, int | float) or not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate is {learning_rate!r}: it must be a positive number")
    default = (paper.EPOCHS if scale == "paper" else QUICK_EPOCHS)[name]
    chosen = default if epochs is None else (epochs,) * len(default)
    learning_rate = float(learning_rate)  # 1 and 1.0 are the same run
    if name != "scaled":
        if ratio is not None:
            raise ValueError(f"a ratio belongs to the stream 'scaled', not to {name!r}")
        return Stream(name, chosen, learning_rate)
    if not isinstance(ratio, int | float) or not 0 <= ratio <= 1:
        raise ValueError(
            f"the stream 'scaled' needs a ratio in [0, 1], not {ratio!r}: name it as in "
            "'scaled:0.5,norm,untouched'"
        )
    return Stream(name, chosen, learning_rate, float(ratio), reading, biases)


def scaling_factors(stream: Stream) -> Callable[[Tensor, Tensor], Tensor]:
    """Return Fig. 1's factors as a function of present and initial norms, both [layers]."""
    ratio = stream.ratio
    assert ratio is not None
    if stream.reading == "factor":
        return lambda norms, initial: torch.full_like(norms, max(ratio, 0.01))
    return lambda norms, initial: (ratio * norms + (1 - ratio) * initial) / norms


@torch.no_grad()
def scale_(model: nn.Module, stream: Stream, initial_norms: Tensor) -> None:
    """Scale a trained model as a stream "scaled" says, in place (Fig. 1).

    Parameters
    ----------
    model : torch.nn.Module
    stream : Stream
        Its ratio, the reading of it, and what happens to the biases.
    initial_norms : torch.Tensor
        n_l, shape [layers that have a weight].
    """
    layers = trace(model).layers
    weighted = [layer for layer in layers if layer.weight is not None]
    norms = multi_tensor_norms([layer.weight for layer in weighted])  # type: ignore[misc]
    scaled = scaling_factors(stream)(norms, initial_norms).tolist()
    factors = dict.fromkeys((layer.name for layer in layers), 1.0)
    factors |= zip((layer.name for layer in weighted), scaled, strict=True)
    if stream.biases == "proportional":
        rescale_(model, factors)
        return
    for layer in weighted:
        layer.weight.mul_(factors[layer.name])  # type: ignore[union-attr]
        if layer.bias is not None and stream.biases == "own-factor":
            layer.bias.mul_(factors[layer.name])
