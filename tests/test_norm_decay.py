"""SWR as a decoupled decay of the norm: the identity, and what it has to do with AdamW."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from swrlib import SoftWeightRescaling, rescaling

LR, LAM, STEPS = 1e-3, 1e-2, 200


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)).double()


def weights_and_biases(model: nn.Sequential) -> tuple[list[Tensor], list[Tensor]]:
    layers = [model[0], model[2]]
    return [layer.weight for layer in layers], [layer.bias for layer in layers]


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        inputs = torch.randn(32, 6, generator=generator, dtype=torch.float64)
        yield inputs, torch.randint(4, (32,), generator=generator)


def gap(model: nn.Module, other: nn.Module) -> float:
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


@pytest.mark.parametrize("lam", [0.0, 1e-3, 0.3, 1.0])
def test_a_rescaling_is_a_decay_of_what_the_norm_has_beyond_its_start(lam):
    model = network()
    rescaling = SoftWeightRescaling(model, lam=lam)
    starts = [w.norm().item() for w in weights_and_biases(model)[0]]
    for scale in (0.2, 1.0, 3.0):  # below the start, at it, above it
        with torch.no_grad():
            for weight, start in zip(weights_and_biases(model)[0], starts, strict=True):
                weight.mul_(scale * start / weight.norm())
        before = [w.detach().clone() for w in weights_and_biases(model)[0]]
        rescaling.step()
        for weight, old, start in zip(weights_and_biases(model)[0], before, starts, strict=True):
            expected = old - lam * (1 - start / old.norm()) * old
            torch.testing.assert_close(weight.detach(), expected, rtol=1e-14, atol=1e-15)
            excess, last = weight.norm().item() - start, old.norm().item() - start
            assert excess == pytest.approx((1 - lam) * last, abs=1e-13)


def train(model: nn.Sequential, optimizer: torch.optim.Optimizer, after_step=None) -> None:
    for inputs, labels in batches():
        optimizer.zero_grad()
        cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        if after_step is not None:
            after_step()


def swr_toward_zero(model: nn.Sequential) -> None:
    """SWR with n_l = 0 on the weights, by a start too small to count; biases untouched."""
    rescaling = SoftWeightRescaling(model, lam=LAM)
    state = rescaling.state_dict()
    state["initial_norms"] = dict.fromkeys(state["initial_norms"], 1e-300)
    rescaling.load_state_dict(state)
    biases = weights_and_biases(model)[1]

    def weights_only() -> None:
        kept = [bias.detach().clone() for bias in biases]
        rescaling.step()
        with torch.no_grad():
            for bias, value in zip(biases, kept, strict=True):
                bias.copy_(value)

    train(model, torch.optim.Adam(model.parameters(), LR), weights_only)


def adamw(model: nn.Sequential, lr: float, decay: float) -> None:
    weights, biases = weights_and_biases(model)
    groups = [
        {"params": weights, "lr": lr, "weight_decay": decay},
        {"params": biases, "lr": LR, "weight_decay": 0.0},
    ]
    train(model, torch.optim.AdamW(groups))


def test_toward_zero_it_is_adamw_with_a_smaller_rate_and_a_larger_decay():
    """SWR shrinks after the step and so the step, too; AdamW shrinks before it."""
    soft = network()
    exact, naive = copy.deepcopy(soft), copy.deepcopy(soft)
    swr_toward_zero(soft)
    adamw(exact, (1 - LAM) * LR, LAM / ((1 - LAM) * LR))
    adamw(naive, LR, LAM / LR)
    assert gap(soft, exact) < 1e-12
    assert 1e-4 < gap(soft, naive) < 1e-2


def test_toward_its_start_it_is_adamw_with_a_rate_and_a_decay_of_each_layer_and_step():
    """c·lr and (1 − c)/(c·lr); biases with C·lr and (1 − C)/(C·lr)."""
    soft = network()
    other = copy.deepcopy(soft)
    rescaling = SoftWeightRescaling(soft, lam=0.1)
    factors: list[list[float]] = []

    def note() -> None:
        rescaling.step()
        factors.append(rescaling.summary()["factor"].tolist())

    train(soft, torch.optim.Adam(soft.parameters(), LR), note)
    assert max(abs(c - 1) for pair in factors for c in pair) > 2e-4  # there is something to match

    groups = [{"params": [p]} for p in other.parameters()]  # first weight, first bias, …
    optimizer = torch.optim.AdamW(groups, LR)
    steps = iter(factors)

    def prepare(*_: object) -> None:
        first, second = next(steps)
        for group, c in zip(
            optimizer.param_groups, (first, first, second, first * second), strict=True
        ):
            group["lr"], group["weight_decay"] = c * LR, (1 - c) / (c * LR)

    optimizer.register_step_pre_hook(prepare)
    train(other, optimizer)
    assert gap(soft, other) < 1e-12


@pytest.mark.parametrize(("power", "along"), [(1, True), (2, False)])
def test_the_balance_of_growth_and_pull_goes_with_a_power_of_the_rate(power, along):
    """Steps along the weight: excess ∝ lr/λ; at a right angle: n(n − n_0) ∝ lr²/λ."""

    def settled(length: float, lam: float) -> float:
        n = 1.0
        for _ in range(math.ceil(30 / lam)):
            updated = n + length if along else math.hypot(n, length)
            n = lam + (1 - lam) * updated
        return n - 1 if along else n * (n - 1)

    for share in (0.1, 0.01):
        ratio = settled(1e-3 * share, 1e-3) / settled(1e-3, 1e-3)
        assert ratio == pytest.approx(share**power, rel=1e-2)
        same = settled(1e-2 * share, 1e-2 * share**power) / settled(1e-2, 1e-2)
        assert same == pytest.approx(1, rel=0.02)  # λ that follows the rate keeps the norm


# Mutants


@pytest.mark.parametrize(
    "wrong",
    [
        lambda norms, pull, rest, right: right(norms, -pull, 2 - rest),
        lambda norms, pull, rest, right: right(norms, pull, rest).square(),
    ],
    ids=["away from the start", "twice as strong"],
)
def test_another_pull_is_caught(wrong, monkeypatch):
    right = rescaling.soft_factors
    monkeypatch.setattr(
        rescaling, "soft_factors", lambda norms, pull, rest: wrong(norms, pull, rest, right)
    )
    with pytest.raises(AssertionError):
        test_a_rescaling_is_a_decay_of_what_the_norm_has_beyond_its_start(0.3)
    with pytest.raises(AssertionError):
        test_toward_zero_it_is_adamw_with_a_smaller_rate_and_a_larger_decay()
