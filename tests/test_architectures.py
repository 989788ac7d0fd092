"""The theorems on random networks: what must hold for any depth, kind of layer and normalization.

`SWR_EXAMPLES=500 pytest tests/test_architectures.py` draws more networks than a usual run does.
"""

from __future__ import annotations

import copy
import math
import os
from dataclasses import dataclass

import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, event, example, given, settings
from hypothesis import strategies as st
from oracles import biases_at_the_scale_of_activations
from torch import Tensor, nn

from swrlib import SoftWeightRescaling, rescale_, rescaling, trace_layers
from swrlib.theory import (
    balance_,
    layer_balance,
    lipschitz_bound,
    lipschitz_lower_bound,
    lpq_norm,
    norm_bound,
    proportionality_gap,
)

TOLERANCE = 1e-10
EXAMPLES = int(os.environ.get("SWR_EXAMPLES", "30"))
many = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
SIDE, CHANNELS, BATCH = 8, 2, 8


# --- random networks ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """A layer and what follows it: normalization, activation, addition of the input, pooling."""

    kind: str
    units: int
    bias: bool = True
    normalization: str | None = None
    affine: bool = True
    slope: float = 0.1
    residual: bool = False
    pool: str | None = None
    kernel: int = 3
    stride: int = 1
    groups: int = 1


@dataclass(frozen=True)
class Architecture:
    """Blocks, convolutions first, and the seed of the numbers in them."""

    blocks: tuple[Block, ...]
    seed: int = 0


@st.composite
def architectures(draw, *, normalization: bool = True, residual: bool = True) -> Architecture:
    depth = draw(st.integers(1, 8), label="depth")
    convolutions = draw(st.integers(0, depth), label="convolutions")
    maybe = st.booleans()
    slopes = st.sampled_from([0.0, 0.01, 0.3, 1.0]) | st.floats(0, 1.5)
    blocks: list[Block] = []
    units, side = CHANNELS, SIDE
    for position in range(depth):
        convolution = position < convolutions
        options = {"units": draw(st.sampled_from([2, 4] if convolution else [1, 2, 3, 5, 6]))}
        if residual and position not in (0, convolutions) and draw(st.integers(0, 2)) == 0:
            options |= {"residual": True, "units": units}
        if convolution:
            options["kernel"] = draw(st.sampled_from([1, 3]))
            options["groups"] = draw(st.sampled_from([1, 2]))
            if not options.get("residual") and side > 2:
                options["stride"] = draw(st.sampled_from([1, 1, 2]))
            side = math.ceil(side / options.get("stride", 1))
            pools = [None, "overlapping", "max", "average"] if side > 3 else [None]
            options["pool"] = draw(st.sampled_from(pools))
            side = {None: side, "overlapping": side - 1}.get(options["pool"], side // 2)
        if normalization and draw(maybe):
            names = ["batch", "group"] if convolution else ["batch", "layer", "root-mean-square"]
            if options["units"] == 1:  # a single number has no spread
                names = ["batch"]
            options |= {"normalization": draw(st.sampled_from(names)), "affine": draw(maybe)}
        kind = "convolution" if convolution else "linear"
        blocks.append(Block(kind, bias=draw(maybe), slope=draw(slopes), **options))
        units = options["units"]
    return Architecture(tuple(blocks), draw(st.integers(0, 999), label="seed"))


FACTORS = st.lists(st.floats(0.2, 5), min_size=16, max_size=16)


class Stage(nn.Module):
    def __init__(self, block: Block, inputs: int, *, last: bool, eps: float) -> None:
        super().__init__()
        units, affine = block.units, block.affine
        self.residual = block.residual
        if block.kind == "convolution":
            self.layer: nn.Module = nn.Conv2d(
                *(inputs, units, block.kernel, block.stride, block.kernel // 2),
                groups=block.groups,
                bias=block.bias,
            )
        else:
            self.layer = nn.Linear(inputs, units, bias=block.bias)
        batch = nn.BatchNorm2d if block.kind == "convolution" else nn.BatchNorm1d
        self.normalization = {
            None: lambda: None,
            "batch": lambda: batch(units, eps, momentum=1.0, affine=affine),
            "group": lambda: nn.GroupNorm(1, units, eps, affine=affine),
            "layer": lambda: nn.LayerNorm(units, eps, elementwise_affine=affine),
            "root-mean-square": lambda: nn.RMSNorm(units, eps, elementwise_affine=affine),
        }[block.normalization]()
        self.activation = nn.Identity() if last else nn.LeakyReLU(block.slope)
        self.pool = {
            None: nn.Identity,
            "max": lambda: nn.MaxPool2d(2),
            "average": lambda: nn.AvgPool2d(2),
            "overlapping": lambda: nn.MaxPool2d(2, stride=1),
        }[block.pool]()

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        if self.normalization is not None:
            y = self.normalization(y)
        y = self.activation(y)
        return self.pool(x + y if self.residual else y)


def build(architecture: Architecture, eps: float = 1e-100) -> tuple[nn.Sequential, Tensor]:
    """Return the network in float64, with biases that are seen, and inputs for it."""
    torch.manual_seed(architecture.seed)
    blocks = architecture.blocks
    convolutional = blocks[0].kind == "convolution"
    shape = (CHANNELS, SIDE, SIDE) if convolutional else (CHANNELS,)
    x = torch.randn(BATCH, *shape, dtype=torch.float64)
    model, y = nn.Sequential().double(), x
    for position, block in enumerate(blocks):
        if block.kind == "linear" and y.dim() > 2:
            model.append(nn.Flatten())
            y = y.flatten(1)
        last = position == len(blocks) - 1
        model.append(Stage(block, y.shape[1], last=last, eps=eps).double())
        with torch.no_grad():
            y = model[-1](y)
    for module in model.modules():
        if is_normalization(module) and module.weight is not None:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            if getattr(module, "bias", None) is not None:
                nn.init.normal_(module.bias, 0, 0.5)
    biases_at_the_scale_of_activations(model, x, architecture.seed)
    with torch.no_grad():
        model(x)  # running statistics of the network as it is now
    return model, x


def is_normalization(module: nn.Module) -> bool:
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
    return isinstance(module, kinds)


def well_conditioned(model: nn.Module, x: Tensor) -> bool:
    """Whether no normalization divides by what is hardly more than rounding, in both modes.

    Nor are all outputs zero, which dead units may bring about: any factors would do there.
    """
    least: list[float] = []

    def watch(module: nn.Module, inputs: tuple[Tensor], _: Tensor) -> None:
        (values,) = inputs
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            values = values.transpose(0, 1)
        values = values.flatten(1)
        size = values.square().mean(1)
        spread = size if isinstance(module, nn.RMSNorm) else values.var(1, unbiased=False)
        least.append(float((spread / size.clamp_min(1e-12)).min()))
        least.append(float(spread.min()))

    hooks = [m.register_forward_hook(watch) for m in model.modules() if is_normalization(m)]
    with torch.no_grad():
        for training in (True, False):
            least.append(float(model.train(training)(x).abs().max()))
    for hook in hooks:
        hook.remove()
    return min(least) > 1e-3


def scales(
    architecture: Architecture, model: nn.Module, drawn: list[float], *, agree: bool
) -> tuple[dict[str, float], float, bool]:
    """Follow the scale by hand: the factors by layer, C, and whether all additions agree."""
    draws = iter(drawn)
    names = iter([layer.name for layer in trace_layers(model)])
    factors: dict[str, float] = {}
    scale, agreed = 1.0, True
    for block in architecture.blocks:
        entered, own = scale, next(draws)
        if block.residual and agree and block.normalization is None:
            own = 1.0
        factors[next(names)] = own
        scale = entered * own
        if block.normalization is not None:
            own = next(draws) if block.affine else 1.0
            if block.residual and agree and block.affine:
                own = entered
            factors[next(names)] = own
            scale = own
        if block.residual and not math.isclose(scale, entered, rel_tol=1e-9):
            agreed = False
    return factors, scale, agreed


# --- Theorem 1 ---------------------------------------------------------------------------------


def check_theorem_1(architecture: Architecture, drawn: list[float], agree: bool) -> None:
    model, x = build(architecture)
    assume(well_conditioned(model, x))
    factors, constant, agreed = scales(architecture, model, drawn, agree=agree)
    scaled = copy.deepcopy(model)
    event("branches agree" if agreed else "branches disagree: refused")
    if not agreed:
        with pytest.raises(ValueError, match="scale"):
            rescale_(scaled, factors)
        assert same_state(scaled, model)
        return
    assert rescale_(scaled, factors) == pytest.approx(constant, rel=1e-12)
    for training in (True, False):
        gap = proportionality_gap(model, factors, x, training=training)
        assert gap < TOLERANCE, f"training={training}: {gap}"


def same_state(one: nn.Module, other: nn.Module) -> bool:
    states = (one.state_dict(), other.state_dict())
    return all(torch.equal(value, states[1][name]) for name, value in states[0].items())


# Around a normalization the addition agrees only if its factor is that of what enters.
RESIDUAL = Architecture(
    (
        Block("linear", 3),
        Block("linear", 3, normalization="layer", residual=True),
        Block("linear", 3, residual=True, normalization="batch", affine=False),
        Block("linear", 2),
    )
)


@many
@example(RESIDUAL, [1.0] * 16, True)
@example(RESIDUAL, [0.5] * 16, True)
@given(architectures(), FACTORS, st.sampled_from([True, True, False]))
def test_theorem_1_or_a_refusal(architecture, drawn, agree):
    check_theorem_1(architecture, drawn, agree)


# --- Saul's rebalancing ------------------------------------------------------------------------


@many
@given(
    architectures(normalization=False, residual=False),
    FACTORS,
    *[st.sampled_from([1, 1.5, 2, 3])] * 2,
)
def test_rebalancing_keeps_the_function_and_never_raises_the_norm(architecture, drawn, p, q):
    model, x = build(architecture)
    rescale_(model, drawn[: len(architecture.blocks)])
    before, outputs = lpq_norm(model, p, q), model(x).detach()
    history = balance_(model, p, q, iterations=200)
    assert lpq_norm(model, p, q) <= before * (1 + TOLERANCE)
    assert (history.diff().dropna() <= TOLERANCE * before).all()
    assert float((model(x).detach() - outputs).abs().max()) <= TOLERANCE * float(
        outputs.abs().max()
    )


# --- Corollary 2.1 -----------------------------------------------------------------------------


@many
@given(architectures())
def test_lipschitz_bounds_stand_in_order(architecture):
    model, x = build(architecture, eps=1e-3)
    lower = lipschitz_lower_bound(model, x[:2], steps=1, iterations=3)
    spectral = lipschitz_bound(model, x)
    frobenius = lipschitz_bound(model, x, norm="frobenius")
    assert 0 <= lower <= spectral * (1 + 1e-9)
    assert spectral <= frobenius * (1 + 1e-9)


# --- Theorem 3 ---------------------------------------------------------------------------------


def check_theorem_3(architecture: Architecture, drawn: list[float], lam: float) -> None:
    model, _ = build(architecture)
    start = copy.deepcopy(model)
    swr = SoftWeightRescaling(model, lam=lam)
    with torch.no_grad():
        for layer, factor in zip(trace_layers(model), drawn, strict=False):
            if layer.weight is not None:
                layer.weight.mul_(factor).add_(0.1 * torch.randn_like(layer.weight))
    before = layer_balance(model, start)
    swr.step()
    after = layer_balance(model, start)
    assert (after <= before + TOLERANCE * (1 + before)).all(), (after - before).max()


@many
@given(architectures(), FACTORS, st.floats(0, 1))
def test_theorem_3_no_pair_of_layers_gets_further_from_its_ratio(architecture, drawn, lam):
    check_theorem_3(architecture, drawn, lam)


# --- Theorem 2 ---------------------------------------------------------------------------------


def check_theorem_2(
    architecture: Architecture, drawn: list[float], lam: float, size: float
) -> None:
    """From any start below the bound with the update's B, a step ends below the bound."""
    model, _ = build(architecture)
    layers = [layer for layer in trace_layers(model) if layer.weight is not None]
    swr = SoftWeightRescaling(model, lam=lam)
    initial = [float(layer.weight.detach().norm()) for layer in layers]
    bounds = []
    with torch.no_grad():
        for layer, n0, factor in zip(layers, initial, drawn, strict=False):
            layer.weight.mul_(factor)
            n = float(layer.weight.norm())
            layer.weight.add_(size * n0 * torch.randn_like(layer.weight))
            growth = float(layer.weight.norm()) ** 2 - n**2
            # B such that the start lies below the bound: n ≤ λn₀ + (1−λ)√(n² + B).
            least = (max(0.0, n - lam * n0) / (1 - lam)) ** 2 - n**2
            b = max(0.0, growth, least)
            assert n <= norm_bound(n0, lam, b) * (1 + 1e-9)
            assert float(layer.weight.norm()) <= norm_bound(n0, lam, b, when="before") * (1 + 1e-9)
            bounds.append(norm_bound(n0, lam, b))
    swr.step()
    for layer, bound in zip(layers, bounds, strict=True):
        assert float(layer.weight.detach().norm()) <= bound * (1 + TOLERANCE)


@many
@given(architectures(), FACTORS, st.floats(1e-4, 0.999), st.floats(0, 2))
def test_theorem_2_a_step_from_below_the_bound_ends_below_it(architecture, drawn, lam, size):
    check_theorem_2(architecture, drawn, lam, size)


# --- mutants: each property fails where the library is wrong -------------------------------------

FAILING = settings(
    max_examples=60, deadline=None, database=None, phases=[Phase.generate], derandomize=True
)


def is_caught(check, *strategies) -> bool:
    found = FAILING(given(*strategies)(check))
    try:
        found()
    except Exception as error:
        return isinstance(error, AssertionError | ExceptionGroup)
    return False


def test_mutant_a_bias_without_the_product_is_caught(monkeypatch):
    real = rescaling.membership
    monkeypatch.setattr(
        rescaling, "membership", lambda net, variant: {n: {n} for n in real(net, variant)}
    )
    assert is_caught(check_theorem_1, architectures(), FACTORS, st.just(True))


def test_mutant_the_printed_variant_is_caught(monkeypatch):
    real = rescaling.membership
    monkeypatch.setattr(rescaling, "membership", lambda net, variant: real(net, "printed"))
    assert is_caught(check_theorem_1, architectures(), FACTORS, st.just(True))


def test_mutant_a_pull_of_another_strength_is_caught(monkeypatch):
    real = rescaling.soft_factors
    monkeypatch.setattr(
        rescaling, "soft_factors", lambda norms, pull, rest: real(norms, pull, rest) + 0.05
    )
    assert is_caught(check_theorem_2, architectures(), FACTORS, st.floats(0.1, 0.9), st.just(0.1))


def test_mutant_a_push_away_from_the_start_is_caught(monkeypatch):
    real = rescaling.soft_factors
    monkeypatch.setattr(
        rescaling, "soft_factors", lambda norms, pull, rest: real(norms, -pull, 2 - rest)
    )
    assert is_caught(check_theorem_3, architectures(), FACTORS, st.floats(0.1, 0.5))
