"""Theorem 2 and its bounds: never crossed, approached by an adversary, mutants that are caught."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swrlib import SoftWeightRescaling
from swrlib.theory import adam_norm_bound, norm_bound
from swrlib.theory.boundedness import largest_adam_step, unbounded_norm

norms = st.floats(0, 1e3)
lams = st.floats(1e-4, 1)
growths = st.floats(0, 1e4)


def follow(n0: float, lam: float, growths: list[float]) -> tuple[list[float], list[float]]:
    """Return the norms before and after each rescaling, by the theorem's recursion."""
    n, before, after = n0, [], []
    for b in growths:
        before.append(math.sqrt(max(0.0, n * n + b)))
        n = lam * n0 + (1 - lam) * before[-1]
        after.append(n)
    return before, after


@given(norms, lams, growths, st.lists(st.floats(-1, 1), min_size=1, max_size=60))
def test_no_growth_within_the_premise_crosses_the_bounds(n0, lam, b, shares):
    before, after = follow(n0, lam, [share * b for share in shares])
    allow = 1 + 1e-12
    assert max(after) <= norm_bound(n0, lam, b) * allow + 1e-12
    assert max(before) <= norm_bound(n0, lam, b, when="before") * allow + 1e-12
    assert max(before) <= norm_bound(n0, lam, b, kind="printed") * allow + 1e-12


@given(norms, lams, growths)
def test_the_sharp_bound_is_a_fixed_point_and_below_the_printed_one(n0, lam, b):
    sharp = norm_bound(n0, lam, b)
    assert sharp == pytest.approx(lam * n0 + (1 - lam) * math.sqrt(sharp**2 + b), rel=1e-9)
    printed = norm_bound(n0, lam, b, kind="printed")
    assert sharp <= norm_bound(n0, lam, b, when="before") <= printed * (1 + 1e-12)


@pytest.mark.parametrize(("n0", "lam", "b"), [(1, 0.1, 1), (3, 0.02, 0.5), (0, 0.5, 2), (5, 1, 1)])
def test_an_adversary_on_real_tensors_approaches_the_sharp_bound(n0, lam, b):
    """Every update adds B to ‖W‖², along W and in random directions; SWR answers each."""
    torch.manual_seed(0)
    model = torch.nn.Linear(7, 5, bias=False).double()
    with torch.no_grad():
        model.weight.mul_(max(n0, 1e-3) / model.weight.norm())
    start = model.weight.norm().item()
    rescaling = SoftWeightRescaling(model, lam=lam)
    bound, before = norm_bound(start, lam, b), norm_bound(start, lam, b, when="before")
    for step in range(math.ceil(40 / lam)):
        with torch.no_grad():
            norm = model.weight.norm()
            if step % 2:
                model.weight.mul_((norm**2 + b).sqrt() / norm)
            else:  # at a right angle
                update = torch.randn_like(model.weight)
                update -= (update * model.weight).sum() / norm**2 * model.weight
                model.weight.add_(update * math.sqrt(b) / update.norm())
        assert float(model.weight.norm()) <= before * (1 + 1e-12)
        rescaling.step()
        assert float(model.weight.norm()) <= bound * (1 + 1e-12)
    assert float(model.weight.norm()) == pytest.approx(bound, rel=1e-6)


def test_how_loose_the_printed_bound_is():
    """For n_0 much below √(B/λ), by about √(2/λ); far above it, in the excess over n_0."""
    ratio = norm_bound(1e-6, 1e-3, 1, kind="printed") / norm_bound(1e-6, 1e-3, 1)
    assert ratio == pytest.approx(math.sqrt(2 / 1e-3), rel=0.01)
    excess = norm_bound(1e4, 1e-3, 1) - 1e4
    assert excess == pytest.approx((1 - 1e-3) / (2 * 1e-3 * 1e4), rel=0.01)


def test_without_swr_norms_grow_like_a_root():
    assert norm_bound(1, 0, 1) == math.inf
    assert norm_bound(2, 0, 0) == 2
    before, _ = follow(1.5, 0.0, [0.3] * 50)
    assert before[-1] == pytest.approx(unbounded_norm(1.5, 0.3, 50))


@given(norms, lams, growths, st.lists(st.floats(-1, 1), min_size=1, max_size=60), st.floats(0, 0.1))
def test_with_rounding_the_bound_covers_norms_that_are_off(n0, lam, b, errors, eta):
    """Each norm is off by up to η of itself; the exact bound would be crossed."""
    after, before = (norm_bound(n0, lam, b, when=w, rounding=eta) for w in ("after", "before"))
    printed = norm_bound(n0, lam, b, kind="printed", rounding=eta)
    n = n0
    for error in errors:
        updated = math.sqrt(n * n + b)
        assert updated <= min(before, printed) * (1 + 1e-12) + 1e-12
        n = (1 + eta * error) * (lam * n0 + (1 - lam) * updated)
        assert n <= after * (1 + 1e-12) + 1e-12


def test_rounding_that_always_errs_upward_crosses_the_exact_bound_and_nears_its_own():
    n0, lam, b, eta = 1.0, 0.01, 0.5, 1e-3
    n = n0
    for _ in range(5000):
        n = (1 + eta) * (lam * n0 + (1 - lam) * math.sqrt(n * n + b))
    assert n > 1.01 * norm_bound(n0, lam, b)
    assert n == pytest.approx(norm_bound(n0, lam, b, rounding=eta), rel=2 * eta)
    assert norm_bound(n0, lam, b, rounding=0.0) == norm_bound(n0, lam, b)
    assert norm_bound(n0, lam, b, rounding=0.02) == math.inf


# Adam


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9), (0.0, 0.99), (0.9, 0.82)])
def test_the_worst_gradients_reach_adams_largest_step_and_no_others_pass_it(betas):
    torch.manual_seed(0)
    for t in (1, 2, 10, 60):
        worst = torch.tensor([(betas[0] / betas[1]) ** (t - i) for i in range(1, t + 1)])
        worst = worst.double() / worst.max()
        for gradients in (worst, *torch.randn(5, t).double()):
            parameter = torch.nn.Parameter(torch.zeros(1).double())
            optimizer = torch.optim.Adam([parameter], lr=1.0, betas=betas, eps=1e-200)
            for gradient in gradients:
                last = parameter.item()
                parameter.grad = gradient.view(1)
                optimizer.step()
            moved = abs(parameter.item() - last)
            assert moved <= largest_adam_step(betas, t) * (1 + 1e-9)
            if gradients is worst:
                assert moved == pytest.approx(largest_adam_step(betas, t), rel=1e-9)
        assert largest_adam_step(betas, t) <= largest_adam_step(betas) * (1 + 1e-12)


def test_the_largest_step_with_the_usual_betas():
    assert largest_adam_step(step=1) == pytest.approx(1)
    assert largest_adam_step() == pytest.approx(7.27, abs=0.005)
    assert largest_adam_step() > 0.1 / math.sqrt(0.001)  # the often quoted one


@pytest.mark.parametrize("lam", [0.05, 0.5, 1.0])
def test_adam_and_swr_stay_below_the_bound_without_a_premise(lam):
    torch.manual_seed(0)
    model = torch.nn.Linear(6, 4, bias=False).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, eps=0)
    start = model.weight.norm().item()
    rescaling = SoftWeightRescaling(model, lam=lam)
    after, before = (
        adam_norm_bound(start, lam, lr=0.1, entries=24, when=when) for when in ("after", "before")
    )
    for step in range(300):
        scale = 1e-3 if step < 150 else 1.0  # a burst after a quiet phase
        model.weight.grad = -model.weight.detach().sign() * scale * 1.1**step
        optimizer.step()
        assert model.weight.norm().item() <= before * (1 + 1e-12)
        rescaling.step()
        assert model.weight.norm().item() <= after * (1 + 1e-12)


@pytest.mark.parametrize("lam", [0.02, 0.3])
def test_an_adversary_of_adam_approaches_its_bound(lam):
    """After a quiet phase gradients grow by β2/β1 a step, all entries alike: every step is u."""
    betas = (0.9, 0.99)
    model = torch.nn.Linear(4, 4, bias=False).double()
    torch.nn.init.constant_(model.weight, 0.5)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, betas=betas, eps=1e-200)
    rescaling = SoftWeightRescaling(model, lam=lam)
    after, before = (
        adam_norm_bound(2.0, lam, lr=0.1, entries=16, betas=betas, when=when)
        for when in ("after", "before")
    )
    for step in range(1700 + math.ceil(20 / lam)):
        gradient = 0.0 if step < 1700 else -((betas[1] / betas[0]) ** (step - 1700))
        model.weight.grad = torch.full_like(model.weight, gradient)
        optimizer.step()
        assert model.weight.norm().item() <= before * (1 + 1e-9)
        rescaling.step()
        assert model.weight.norm().item() <= after * (1 + 1e-9)
    assert model.weight.norm().item() == pytest.approx(after, rel=1e-6)


@given(norms, st.floats(1e-3, 1), st.floats(1e-6, 10))
def test_adams_bound_is_the_sharp_one_of_the_growth_that_it_allows(n0, lam, lr):
    """Steps of length u from norms below n̄ grow the square by at most B = 2un̄ + u²."""
    bound = adam_norm_bound(n0, lam, lr=lr, entries=9)
    u = lr * largest_adam_step() * 3
    assert norm_bound(n0, lam, 2 * u * bound + u**2) == pytest.approx(bound, rel=1e-9)


def test_the_printed_bound_is_the_sharp_one_for_steps_of_bounded_length():
    """Steps of length √B along the weight: n + √B, not √(n² + B); the premise does not hold."""
    n0, lam, b = 1.5, 0.05, 0.4
    n = n0
    for _ in range(1000):
        before = n + math.sqrt(b)
        n = lam * n0 + (1 - lam) * before
    assert before == pytest.approx(norm_bound(n0, lam, b, kind="printed"), rel=1e-9)
    assert n > 2 * norm_bound(n0, lam, b)


# Mutants


def adversary_exceeds(bound) -> bool:
    n0, lam, b = 1.0, 0.05, 2.0
    _, after = follow(n0, lam, [b] * 2000)
    return max(after) > bound(n0, lam, b) * (1 + 1e-9)


def test_bounds_that_are_too_low_are_caught():
    assert not adversary_exceeds(norm_bound)
    wrong = {
        "B instead of B/λ": lambda n, lam, b: (
            (n + (1 - lam) * math.sqrt(n**2 + (2 - lam) * b)) / (2 - lam)
        ),
        "without 2 − λ": lambda n, lam, b: (n + (1 - lam) * math.sqrt(n**2 + b / lam)) / (2 - lam),
        "of √B alone": lambda n, lam, b: n + math.sqrt(b),
    }
    assert all(adversary_exceeds(bound) for bound in wrong.values())


def test_the_often_quoted_step_is_caught():
    """A burst after a quiet phase, as at a change of data, goes further than (1−β1)/√(1−β2)."""
    quiet, burst = [0.0] * 2000, [(0.9 / 0.999) ** (100 - i) for i in range(1, 101)]
    parameter = torch.nn.Parameter(torch.zeros(1).double())
    optimizer = torch.optim.Adam([parameter], lr=1.0, eps=1e-200)
    for gradient in quiet + burst:
        last = parameter.item()
        parameter.grad = torch.tensor([gradient]).double()
        optimizer.step()
    moved = abs(parameter.item() - last)
    assert 1.5 * 0.1 / math.sqrt(1e-3) < moved <= largest_adam_step()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: norm_bound(-1, 0.1, 1), "initial_norm"),
        (lambda: norm_bound(1, 1.1, 1), "λ lies in"),
        (lambda: norm_bound(1, 0.1, -1), "squared_growth"),
        (lambda: norm_bound(1, 0.1, math.nan), "squared_growth"),
        (lambda: norm_bound(1, 0.1, 1, kind="loose"), "sharp, printed"),
        (lambda: norm_bound(1, 0.1, 1, when="now"), "after, before"),
        (lambda: norm_bound(1, 0.1, 1, rounding=-1e-7), "rounding"),
        (lambda: norm_bound(1, 0.1, 1, rounding=math.nan), "rounding"),
        (lambda: adam_norm_bound(1, 0.1, lr=-1, entries=3), "lr"),
        (lambda: adam_norm_bound(1, 0.1, lr=1, entries=0), "entries"),
        (lambda: adam_norm_bound(1, 0.1, lr=1, entries=3, when="now"), "after, before"),
        (lambda: adam_norm_bound(1, 0.1, lr=1, entries=1, betas=(0.9, 0.5)), "no bound"),
        (lambda: largest_adam_step((1.0, 0.999)), "betas"),
        (lambda: largest_adam_step(step=0), "steps count"),
    ],
)
def test_bad_input_is_one_sentence(call, words):
    with pytest.raises(ValueError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value) and ". " not in str(caught.value)
