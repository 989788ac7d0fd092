"""What the tests compare with: the paper's statements, written down once more and independently.

Nothing here calls the library's arithmetic. Algorithm 1 is transcribed into float64 loops over
layers that are named by hand; models, data and measures of the gap are plain PyTorch.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from swrlib.datasets import Dataset
from swrlib.models import build_model


@dataclass(frozen=True)
class NamedLayer:
    """One row of a table of layers, written by hand for a known model."""

    name: str
    kind: str
    group: str


def _table(text: str) -> tuple[NamedLayer, ...]:
    return tuple(NamedLayer(*row.split()) for row in text.strip().splitlines())


LAYERS = {
    "mlp": _table("""
        linear1 linear features
        linear2 linear features
        linear3 linear classifier
    """),
    "cnn": _table("""
        conv1 convolution features
        conv2 convolution features
        linear1 linear classifier
        linear2 linear classifier
    """),
    "cnn-bn": _table("""
        conv1 convolution features
        norm1 normalization features
        conv2 convolution features
        norm2 normalization features
        linear1 linear classifier
        linear2 linear classifier
    """),
    # Two biased layers on each side of a layer norm, and one more normalization before.
    "norms": _table("""
        a linear features
        first normalization features
        b linear features
        c linear features
        second normalization features
        d linear features
        e linear classifier
    """),
}


def algorithm_1(
    layers: Sequence[NamedLayer],
    values: Mapping[str, np.ndarray],
    initial_norms: Mapping[str, float],
    lam: Mapping[str, float],
    variant: str,
) -> dict[str, np.ndarray]:
    """Return the rescaled parameters: Algorithm 1, line by line, or its proportional reading."""
    last_normalization = 0  # k, counted from 1
    for position, layer in enumerate(layers, start=1):
        if layer.kind == "normalization":
            last_normalization = position
    result = dict(values)
    cumulative = 1.0
    for position, layer in enumerate(layers, start=1):
        weight = values[f"{layer.name}.weight"]
        norm = math.sqrt(float(np.sum(weight * weight)))
        lam_l = lam[layer.group]
        c = (lam_l * initial_norms[layer.name] + (1 - lam_l) * norm) / norm
        if variant == "printed":
            cumulative = c * cumulative if position >= last_normalization else c
        else:
            cumulative = c if layer.kind == "normalization" else c * cumulative
        result[f"{layer.name}.weight"] = c * weight
        if f"{layer.name}.bias" in values:
            result[f"{layer.name}.bias"] = cumulative * values[f"{layer.name}.bias"]
    return result


class Oracle:
    """SWR on a model whose table of layers is known, applied from outside after each step."""

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[NamedLayer],
        lam: float | tuple[float, float],
        variant: str = "proportional",
    ) -> None:
        self.model, self.layers, self.variant = model, layers, variant
        features, classifier = lam if isinstance(lam, tuple) else (lam, lam)
        self.lam = {"features": features, "classifier": classifier}
        values = self._values()
        self.initial_norms = {
            la.name: math.sqrt(float(np.sum(values[f"{la.name}.weight"] ** 2))) for la in layers
        }

    def _values(self) -> dict[str, np.ndarray]:
        return {n: p.detach().double().numpy() for n, p in self.model.named_parameters()}

    def step(self) -> None:
        after = algorithm_1(self.layers, self._values(), self.initial_norms, self.lam, self.variant)
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(torch.from_numpy(np.array(after[name])))


# --- models and data -------------------------------------------------------------------------


def dataset(*, shape: tuple[int, int, int] = (3, 12, 12), classes: int = 5) -> Dataset:
    """Return noise of the right shape: models only look at its shape and classes."""
    images = torch.randint(0, 256, (classes, *shape), dtype=torch.uint8)
    labels = torch.arange(classes)
    channels = shape[0]
    return Dataset(
        "noise",
        images,
        labels,
        images,
        labels,
        tuple(str(i) for i in range(classes)),
        (0.5,) * channels,
        (0.25,) * channels,
    )


class Norms(nn.Module):
    """Two biased layers with an activation between, before a layer norm; a group norm first."""

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.a = nn.Linear(6, 8)
        self.first = nn.GroupNorm(2, 8, eps=eps)
        self.b = nn.Linear(8, 7)
        self.c = nn.Linear(7, 8)
        self.second = nn.LayerNorm(8, eps=eps)
        self.d = nn.Linear(8, 9)
        self.e = nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(self.a(x)))
        x = self.c(torch.relu(self.b(x)))
        return self.e(torch.relu(self.d(torch.relu(self.second(x)))))


def small_model(name: str, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Return one of `LAYERS`, small, with shifts and biases that are not zero."""
    torch.manual_seed(seed)
    if name == "norms":
        model: nn.Module = Norms()
    elif name == "mlp":
        model = build_model(name, dataset(shape=(1, 6, 6)), hidden=(11, 9))
    else:
        model = build_model(name, dataset(shape=(1, 10, 10)))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.5)
    return model.to(dtype)


def inputs_for(name: str, *, count: int = 8, seed: int = 1) -> Tensor:
    shape = {"norms": (6,), "mlp": (1, 6, 6)}.get(name, (1, 10, 10))
    return torch.randn(
        count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def batches(name: str, *, steps: int, classes: int = 4) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    for step in range(steps):
        labels = torch.randint(0, classes, (8,), generator=generator)
        yield inputs_for(name, seed=step), labels


def train(
    model: nn.Module,
    name: str,
    *,
    steps: int,
    after_step: Callable[[], object] = lambda: None,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Take steps of Adam (or of the given optimizer) on noise, each followed by ``after_step``."""
    optimizer = optimizer or torch.optim.Adam(model.parameters(), lr=1e-2)
    dtype = next(model.parameters()).dtype
    for inputs, labels in batches(name, steps=steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs.to(dtype)), labels).backward()
        optimizer.step()
        after_step()


def biases_at_the_scale_of_activations(model: nn.Module, inputs: Tensor, seed: int = 3) -> None:
    """Draw He weights, and each bias with half the spread of what it is added to, about −its mean.

    About zero, sixteen layers of them would drown the input: all outputs would be the same.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(module: nn.Linear | nn.Conv2d, arguments: tuple[Tensor]) -> None:
        fan_in = module.weight[0].numel()
        module.weight.normal_(0, math.sqrt(2 / fan_in), generator=generator)
        if module.bias is not None:
            module.bias.zero_()
            response = type(module).forward(module, *arguments)
            spread = float(response.std()) or 1.0
            mean = response.mean([d for d in range(response.dim()) if d != 1])
            module.bias.normal_(0, spread / 2, generator=generator).sub_(mean)

    layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    hooks = [layer.register_forward_pre_hook(draw) for layer in layers]
    with torch.no_grad():
        model(inputs)
    for hook in hooks:
        hook.remove()


# --- measures --------------------------------------------------------------------------------


@torch.no_grad()
def gap(scaled: nn.Module, original: nn.Module, constant: float, inputs: Tensor) -> float:
    """Return max|f_c(x) − C·f(x)| / max|C·f(x)|."""
    expected = constant * original(inputs)
    return float((scaled(inputs) - expected).abs().max() / expected.abs().max())


@torch.no_grad()
def variation(model: nn.Module, inputs: Tensor) -> float:
    """Return how much the outputs differ between inputs, relative to their size."""
    outputs = model(inputs)
    return float(outputs.std(0).max() / outputs.abs().max())


@torch.no_grad()
def difference(one: nn.Module, other: nn.Module) -> float:
    """Return the largest difference of parameters, relative to each tensor's largest entry."""
    return max(
        float((p - q).abs().max() / q.abs().max().clamp_min(1e-30))
        for p, q in zip(one.parameters(), other.parameters(), strict=True)
    )


def twin(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model)


def spread_factors(count: int, seed: int = 4) -> list[float]:
    """Return factors that lie evenly, on a logarithmic scale, in [0.1, 10]."""
    return (10 ** np.random.default_rng(seed).uniform(-1, 1, count)).tolist()
