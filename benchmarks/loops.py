"""The training loops that are timed: ours, and what a user would write instead.

- `release`: what the authors' partial release does, rewritten from its description: a DataLoader
  with transforms for each image, a loop over the layers with ``.item()``, PyTorch's default Adam.
- `plain`: a careful loop: normalized images in memory, ``index_select``, a fused Adam; penalties
  in the loss, SWR by `swrlib.SoftWeightRescaling`.
- `engine`: `swrlib.train`.

Each is made once, in a process of its own, and then asked again and again to take some steps.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import swrlib
from swrlib import make_stream
from swrlib.datasets import Dataset
from swrlib.measures import MEASURES, Snapshot

#: Images of a random data set: their shape, how many classes, and the size of a batch.
SHAPES = {
    "mlp": ((1, 28, 28), 10, 256),
    "cnn": ((3, 32, 32), 10, 256),
    "cnn-bn": ((3, 32, 32), 100, 256),
    "vgg16": ((3, 64, 64), 200, 32),
}
#: Steps that a method takes before it is another's turn.
TURN = 10
#: What the paper compares at every step, with one of its λ's each.
METHODS = {"vanilla": 0.0, "l2": 1e-5, "l2-init": 1e-5, "swr": 1e-4, "adamw": 1e-2}
#: The terms of the loss without a pass through autograd: Adam's own ``weight_decay``, and λ(θ − θ₀)
#: added to the gradients. The same steps as the methods that they stand for.
WITHOUT_AUTOGRAD = {"l2 in adam": "l2", "l2-init by hand": "l2-init"}


@dataclass
class Measured:
    """Steps of single runs that were taken, the wall time, and the part of it within SWR."""

    run_steps: int
    seconds: float
    rescaling: float = 0.0
    #: By method: the median time of its steps, and of the part within SWR.
    methods: dict[str, tuple[float, float]] = field(default_factory=dict)


def random_images(model: str, steps: int, batch: int | None = None) -> Dataset:
    """Return random images that make so many batches: what a step costs does not depend on them."""
    (channels, height, width), classes, usual = SHAPES[model]
    batch = batch or usual
    generator = torch.Generator().manual_seed(0)

    def images(count: int) -> Tensor:
        shape = (count, channels, height, width)
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)

    def labels(count: int) -> Tensor:
        return torch.randint(0, classes, (count,), generator=generator)

    count = steps * batch
    return Dataset(
        name="random",
        train_images=images(count),
        train_labels=labels(count),
        test_images=images(batch),
        test_labels=labels(batch),
        classes=tuple(map(str, range(classes))),
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
    )


def usual_model(model: str, data: Dataset) -> nn.Module:
    """Return the paper's model as one would write it: the activation before the pooling."""
    modules = list(swrlib.build_model(model, data).children())
    for i, (first, second) in enumerate(itertools.pairwise(modules)):
        if isinstance(first, nn.MaxPool2d) and isinstance(second, nn.ReLU):
            modules[i], modules[i + 1] = second, first
    return nn.Sequential(*modules)


def penalty(method: str, model: nn.Module, initial: list[Tensor]) -> Tensor | float:
    """Return the term of the loss, for autograd."""
    lam = METHODS.get(method, 0.0)
    if method == "l2":
        return lam / 2 * sum(p.square().sum() for p in model.parameters())
    if method == "l2-init":
        pairs = zip(model.parameters(), initial, strict=True)
        return lam / 2 * sum((p - start).square().sum() for p, start in pairs)
    return 0.0


@dataclass
class Plain:
    """The careful loop; several methods take turns, some steps each.

    A user trains with one method: at the first step of a turn its code and its weights are cold,
    at the others they are as warm as they would be. The median is of the others.
    """

    model: str
    methods: tuple[str, ...]
    steps: int
    channels_last: bool = True
    dtype: torch.dtype = torch.float32
    _runs: list[Callable[[Tensor, Tensor], float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        data = random_images(self.model, self.steps)
        self.images = data.normalize(data.train_images).to(self.dtype)
        if self.channels_last:
            self.images = self.images.contiguous(memory_format=torch.channels_last)
        self.labels = data.train_labels
        self.models: list[nn.Module] = []
        self._runs = [self._run(data, method) for method in self.methods]

    def _run(self, data: Dataset, method: str) -> Callable[[Tensor, Tensor], float]:
        torch.manual_seed(0)
        model = usual_model(self.model, data).to(self.dtype)
        if self.channels_last:
            model = model.to(memory_format=torch.channels_last)
        self.models.append(model)
        weights = list(model.parameters())
        initial = [p.detach().clone() for p in weights]
        kind = torch.optim.AdamW if method == "adamw" else torch.optim.Adam
        lam = METHODS[WITHOUT_AUTOGRAD.get(method, method)]
        decay = {"weight_decay": lam} if method in ("adamw", "l2 in adam") else {}
        optimizer = kind(weights, 1e-3, fused=True, **decay)
        rescaling = None
        if method == "swr":
            rescaling = swrlib.SoftWeightRescaling(model, lam=METHODS["swr"])

        def step(images: Tensor, labels: Tensor) -> float:
            loss = cross_entropy(model(images), labels) + penalty(method, model, initial)
            optimizer.zero_grad()
            loss.backward()
            if method == "l2-init by hand":
                with torch.no_grad():
                    gradients = [cast(Tensor, p.grad) for p in weights]
                    torch._foreach_add_(gradients, torch._foreach_sub(weights, initial), alpha=lam)
            optimizer.step()
            if rescaling is None:
                return 0.0
            started = time.perf_counter()
            rescaling.step()
            return time.perf_counter() - started

        return step

    def __call__(self) -> Measured:
        """Take all batches once, with each of the methods in turn."""
        steps: list[list[float]] = [[] for _ in self._runs]
        parts: list[list[float]] = [[] for _ in self._runs]
        batches = torch.randperm(len(self.labels)).split(SHAPES[self.model][2])
        for first in range(0, len(batches), TURN):
            for run, times, within in zip(self._runs, steps, parts, strict=True):
                for batch in batches[first : first + TURN]:
                    started = time.perf_counter()
                    images = self.images.index_select(0, batch)
                    within.append(run(images, self.labels.index_select(0, batch)))
                    times.append(time.perf_counter() - started)
        return Measured(
            run_steps=self.steps * len(self._runs),
            seconds=sum(map(sum, steps)),
            rescaling=sum(map(sum, parts)),
            methods={
                method: (median(times), median(within))
                for method, times, within in zip(self.methods, steps, parts, strict=True)
            },
        )


@dataclass
class Release:
    """The release's way, a method after another."""

    model: str
    methods: tuple[str, ...]
    steps: int
    workers: int

    def __post_init__(self) -> None:
        from torchvision import transforms

        data = random_images(self.model, self.steps)
        normalize = transforms.Normalize(data.mean, data.std)
        self.loader = torch.utils.data.DataLoader(
            _Pictures(data, transforms.Compose([transforms.ToTensor(), normalize])),
            batch_size=SHAPES[self.model][2],
            shuffle=True,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
        )
        self.runs = [self._run(data, method) for method in self.methods]

    def _run(self, data: Dataset, method: str) -> Callable[[], None]:
        model = usual_model(self.model, data)
        initial = [p.detach().clone() for p in model.parameters()]
        kind = torch.optim.AdamW if method == "adamw" else torch.optim.Adam
        optimizer = kind(model.parameters(), lr=1e-3)
        layers = [module for module in model if getattr(module, "weight", None) is not None]
        norms = [layer.weight.norm().item() for layer in layers]

        def rescale() -> None:
            cumulative = 1.0
            for layer, norm in zip(layers, norms, strict=True):
                present = layer.weight.norm().item()
                factor = (METHODS["swr"] * norm + (1 - METHODS["swr"]) * present) / present
                cumulative *= factor
                layer.weight.data *= factor
                layer.bias.data *= cumulative

        def epoch() -> None:
            correct, total = 0, 0.0
            for images, labels in self.loader:
                if method == "swr":
                    rescale()
                optimizer.zero_grad()
                outputs = model(images)
                loss = cross_entropy(outputs, labels) + penalty(method, model, initial)
                loss.backward()
                optimizer.step()
                total += loss.item()
                correct += (outputs.argmax(1) == labels).sum().item()

        return epoch

    def __call__(self) -> Measured:
        """Train an epoch with each of the methods."""
        started = time.perf_counter()
        for epoch in self.runs:
            epoch()
        return Measured(self.steps * len(self.runs), time.perf_counter() - started)


class _Pictures(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Images as torchvision gives them: one picture at a time, transformed when asked for."""

    def __init__(self, data: Dataset, transform: Callable[[Any], Tensor]) -> None:
        self.images = data.train_images.permute(0, 2, 3, 1).squeeze(-1).numpy()
        self.labels, self.transform = data.train_labels.tolist(), transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


@dataclass(frozen=True)
class _TimedSWR(swrlib.SWR):
    """SWR that notes how long each of its rescalings takes."""

    def after_step_(self, replicas: Any) -> None:
        started = time.perf_counter()
        super().after_step_(replicas)
        _RESCALINGS.append(time.perf_counter() - started)


_RESCALINGS: list[float] = []


@dataclass
class Engine:
    """`swrlib.train` on a stack of runs that cycle through the methods."""

    model: str
    methods: tuple[str, ...]
    steps: int
    runs: int = 1
    stack: int | None = None
    dtype: torch.dtype = torch.float32
    epochs: int = 2

    def __post_init__(self) -> None:
        self.data = random_images(self.model, self.steps)

    def _methods(self) -> Iterator[Any]:
        kinds = {
            "vanilla": swrlib.ShrinkPerturb,  # which acts at a change of data alone
            "l2": swrlib.L2,
            "l2-init": swrlib.L2Init,
            "swr": _TimedSWR,
            "adamw": swrlib.AdamW,
        }
        for i, method in zip(range(self.runs), itertools.cycle(self.methods), strict=False):
            # Slightly different λ's: runs of one configuration would be trained once.
            yield kinds[method](lam=(METHODS[method] + 1e-6) * (1 + i / 1000))

    def __call__(self) -> Measured:
        """Train and take the later epochs: the first also sets up."""
        _RESCALINGS.clear()
        frame = swrlib.train(
            dataset=self.data,
            model=self.model,
            stream=make_stream("single-task", epochs=1 + self.epochs),
            methods=list(self._methods()),
            dtype=self.dtype,
            batch_size=SHAPES[self.model][2],
            device="cpu",
            stack=self.stack or self.runs,
            progress=False,
        )
        runs = frame["run"].nunique()
        seconds = float(frame.loc[frame["epoch"] > 1, "seconds"].sum())
        rescaling = sum(_RESCALINGS[len(_RESCALINGS) // (1 + self.epochs) :])
        return Measured(runs * self.steps * self.epochs, seconds, rescaling)


@dataclass
class Products:
    """Products of matrices: the rate that a step is to be compared with."""

    size: int = 1024
    products: int = 20

    def __post_init__(self) -> None:
        self.a, self.b = torch.randn(2, self.size, self.size)

    def __call__(self) -> Measured:
        """Multiply; a step is one product of 2·size³ operations."""
        from swrlib.wide import product

        started = time.perf_counter()
        for _ in range(self.products):
            product(self.a, self.b)
        return Measured(self.products, time.perf_counter() - started)


@dataclass
class Measures:
    """A measure at a task's start, of the curvature paper's network on the images of a task."""

    measure: str
    images: int = 1280
    hidden: tuple[int, ...] = (128, 64, 32)

    def __post_init__(self) -> None:
        data = random_images("mlp", 1, self.images)
        torch.manual_seed(0)
        model = swrlib.build_model("mlp", data, hidden=self.hidden, initialization="glorot")
        images, labels = data.normalize(data.train_images), data.train_labels
        self.snapshot = Snapshot(model, model, images, labels, images, labels)
        self.function = MEASURES[self.measure].function

    def __call__(self) -> Measured:
        """Measure once."""
        started = time.perf_counter()
        self.function(self.snapshot)
        return Measured(1, time.perf_counter() - started)
