"""Ranks, activity of units, distances and isometries: closed forms, scipy, brute force."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swrlib.theory import isometry
from swrlib.theory.isometry import (
    deviation_from_isometry,
    newton_schulz,
    polar_factor,
    reinitialized,
    slices,
    squared_frobenius_error,
    unsliced,
)
from swrlib.theory.ranks import (
    activity,
    dead_units,
    difference_norms,
    dormant_units,
    effective_rank,
    singular_values,
    srank,
    stable_rank,
    unit_entropy,
)


def matrix(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def counted(values, share=0.99):
    """srank, one value after another, in exact fractions of what the floats are."""
    sizes = sorted((abs(v) for v in values), reverse=True)
    if not math.fsum(sizes) > 0:
        return 0
    return next(
        j for j in range(1, len(sizes) + 1) if math.fsum(sizes[:j]) / math.fsum(sizes) > share
    )


@pytest.mark.parametrize("size", [1, 7, 60, 99, 100, 101, 200])
def test_ranks_of_an_identity(size):
    ones = torch.ones(size)
    assert int(srank(ones)) == (size if size <= 100 else math.floor(0.99 * size) + 1)
    assert float(stable_rank(ones)) == size
    assert float(effective_rank(ones)) == pytest.approx(size, rel=1e-12)


def test_ranks_of_rank_one_and_of_nothing():
    one = torch.linalg.svdvals(matrix(9, 1) @ matrix(1, 6, seed=1))
    assert (int(srank(one)), float(stable_rank(one))) == (1, pytest.approx(1, rel=1e-12))
    assert float(effective_rank(one)) == pytest.approx(1, rel=1e-10)
    for nothing in (torch.zeros(5), torch.zeros(0)):
        ranks = [srank(nothing), effective_rank(nothing)]
        assert [float(rank) for rank in ranks] == [0, 0]
    assert float(stable_rank(torch.zeros(5))) == 0


@given(st.lists(st.floats(-10, 10).map(lambda x: round(x, 3)), min_size=1, max_size=30))
@settings(deadline=None, max_examples=60)
def test_ranks_of_anything(values):
    tensor = torch.tensor(values, dtype=torch.float64)
    assert int(srank(tensor)) == counted(values)
    assert int(srank(-tensor.flip(0))) == counted(values)
    shares = np.abs(values) / max(np.sum(np.abs(values)), 1e-300)
    entropy = -sum(p * math.log(p) for p in shares if p > 0)
    expected = math.exp(entropy) if any(values) else 0.0
    assert float(effective_rank(tensor)) == pytest.approx(expected, rel=1e-10)
    batch = torch.stack([tensor, tensor * 3, torch.zeros_like(tensor)])
    assert srank(batch).tolist() == [counted(values), counted([3 * v for v in values]), 0]


def test_the_other_srank_is_another():
    """A mutant of the one is the other: they agree on no spectrum that falls off slowly."""
    values = 1 / torch.arange(1, 65, dtype=torch.float64)
    assert int(srank(values)) == counted(values.tolist()) == 62
    assert float(stable_rank(values)) == pytest.approx(float((values**2).sum()), rel=1e-12)
    assert int(srank(values.square())) != int(srank(values))  # nor are squares summed


def test_the_guard_is_in_the_logarithm():
    values = torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64, requires_grad=True)
    found = effective_rank(values, guard=1e-8)
    shares = [2 / 3, 1 / 3, 0]
    expected = math.exp(-sum(p * math.log(p + 1e-8) for p in shares))
    assert found.item() == pytest.approx(expected, rel=1e-14)
    found.backward()
    assert bool(values.grad.isfinite().all())


def test_units():
    features = torch.zeros(4, 6)
    features[:, 1], features[2, 3] = -2.0, 8.0  # two units, equally active on the mean
    assert activity(features).tolist() == [0, 2, 0, 2, 0, 0]
    assert unit_entropy(features) == pytest.approx(math.log(2), rel=1e-14)
    share = 0.8  # of one unit in one image, the other images having a single active unit
    alone = -(share * math.log(share) + (1 - share) * math.log(1 - share)) / 4
    assert unit_entropy(features, of_each=True) == pytest.approx(alone, rel=1e-12)
    assert dead_units(features) == 4
    assert dormant_units(features) == 4
    features[0, 0] = 0.1
    assert (dead_units(features), dormant_units(features, 0.1)) == (3, 4)
    assert unit_entropy(torch.ones(3, 32)) == pytest.approx(math.log(32), rel=1e-14)
    nothing = torch.zeros(3, 5)
    assert (unit_entropy(nothing), unit_entropy(nothing, of_each=True)) == (0, 0)
    assert (dead_units(nothing), dormant_units(nothing)) == (5, 5)


def test_units_of_maps_are_channels():
    maps = matrix(5, 3, 2, 4)
    expected = [maps[:, c].abs().mean() for c in range(3)]
    torch.testing.assert_close(activity(maps), torch.stack(expected), rtol=1e-13, atol=0)
    maps[:, 1] = 0
    assert dead_units(maps) == 1


def test_differences():
    now, before = [matrix(3, 4), matrix(5)], [matrix(3, 4, seed=1), matrix(5, seed=2)]
    flat = np.concatenate([(a - b).numpy().ravel() for a, b in zip(now, before, strict=True)])
    expected = {
        "sum": np.abs(flat).sum(),
        "mean": np.abs(flat).mean(),
        "l2": np.linalg.norm(flat),
    }
    assert difference_norms(now, before) == pytest.approx(expected, rel=1e-13)


# Isometries


@pytest.mark.parametrize("shape", [(9, 9), (12, 5), (5, 12)])
def test_the_polar_factor_is_scipys(shape):
    given = matrix(*shape)
    expected, _ = scipy.linalg.polar(given.numpy())
    np.testing.assert_allclose(polar_factor(given).numpy(), expected, rtol=0, atol=1e-12)
    assert float(deviation_from_isometry(polar_factor(given))) < 1e-24


@pytest.mark.parametrize("shape", [(9, 9), (12, 5), (5, 12)])
@pytest.mark.parametrize("iterations", [0, 1, 5, 10, 30])
def test_newton_schulz_maps_singular_values(shape, iterations):
    given = matrix(*shape)
    values = np.linalg.svd(given.numpy(), compute_uv=False) / np.linalg.norm(given.numpy())
    for _ in range(iterations):
        values = 1.5 * values - 0.5 * values**3
    found = newton_schulz(given, iterations)
    expected = np.sort(values)[::-1]
    np.testing.assert_allclose(torch.linalg.svdvals(found), expected, rtol=0, atol=1e-10)
    if iterations == 30:
        torch.testing.assert_close(found, polar_factor(given), rtol=0, atol=1e-10)


def test_ten_iterations_do_not_suffice_for_a_square():
    """What FIRE's release does on the way leaves a random square far from an isometry."""
    square, flat = matrix(100, 100), matrix(100, 784)
    assert float(deviation_from_isometry(newton_schulz(square))) > 0.02
    assert float(deviation_from_isometry(newton_schulz(flat))) < 1e-9
    assert float(deviation_from_isometry(newton_schulz(square, 30))) < 1e-9


@pytest.mark.parametrize("made", [newton_schulz, polar_factor])
def test_what_is_zero_stays_zero(made):
    assert torch.equal(made(torch.zeros(4, 3)), torch.zeros(4, 3))
    given = matrix(6, 5)
    given[:, 2] = 0  # a direction without a singular value
    found = made(given)
    assert float(found[:, 2].abs().max()) < 1e-14
    both = made(torch.stack([matrix(4, 3), torch.zeros(4, 3, dtype=torch.float64)]))
    assert torch.equal(both[1], torch.zeros(4, 3, dtype=torch.float64))
    torch.testing.assert_close(both[0], made(matrix(4, 3)), rtol=0, atol=1e-14)


@pytest.mark.parametrize("made", [newton_schulz, polar_factor])
def test_what_is_not_finite_leaves_the_others_alone(made):
    spoiled, right = matrix(5, 4), matrix(5, 4, seed=1)
    spoiled[1, 2] = math.inf
    found = made(torch.stack([spoiled, right]))
    assert not found[0].isfinite().any()
    torch.testing.assert_close(found[1], made(right), rtol=0, atol=1e-14)


@pytest.mark.parametrize("iterations", [10, None])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_float32_rounded(dtype, iterations):
    given = matrix(6, 4, 2, 2).to(dtype)
    found, exact = (reinitialized(weight, 2, iterations) for weight in (given, given.float()))
    assert found.dtype == dtype and torch.equal(found, exact.to(dtype))


def slice_by_slice(kernel, iterations):
    """Return FIRE's kernel [lead, out, in, 3, 3], a matrix at a time."""
    found = torch.empty_like(kernel)
    for lead in range(len(kernel)):
        for row in range(3):
            for column in range(3):
                alone = kernel[lead, :, :, row, column]
                exact = polar_factor(alone) if iterations is None else newton_schulz(alone, 10)
                found[lead, :, :, row, column] = exact * math.sqrt(4 / 6) / 9
    return found


@pytest.mark.parametrize("iterations", [None, 10])
def test_kernels_are_treated_slice_by_slice(iterations, monkeypatch):
    kernel = matrix(2, 4, 6, 3, 3)  # an axis in front, out, in, places
    expected = slice_by_slice(kernel, iterations)
    torch.testing.assert_close(reinitialized(kernel, 2, iterations), expected)
    assert torch.equal(unsliced(slices(kernel, 2), 2), kernel)
    # A mutant: the slices are put back with rows and columns of places exchanged.
    monkeypatch.setattr(isometry, "unsliced", lambda m, axes: unsliced(m, axes).mT)
    assert not torch.allclose(reinitialized(kernel, 2, iterations), expected)


def test_an_exact_reinitialization_sets_the_norm():
    for shape, norm in [((100, 784), 3.5714), ((100, 100), 10.0), ((10, 100), 1.0)]:
        found = reinitialized(matrix(*shape), iterations=None).norm()
        assert float(found) == pytest.approx(norm, rel=1e-4)


def test_deviations_and_errors():
    given = matrix(3, 5)
    gram = given.numpy() @ given.numpy().T - np.eye(3)
    expected = np.linalg.norm(gram) ** 2 / 3
    assert float(deviation_from_isometry(given)) == pytest.approx(expected, rel=1e-12)
    assert float(deviation_from_isometry(given.T)) == pytest.approx(expected, rel=1e-12)
    kernel = matrix(2, 3, 2, 2)
    places = [deviation_from_isometry(kernel[:, :, i, j]) for i in range(2) for j in range(2)]
    expected = float(torch.stack(places).mean())
    assert float(deviation_from_isometry(kernel, 2)) == pytest.approx(expected, rel=1e-12)
    error, relative = squared_frobenius_error(given, given + 2)
    assert error == pytest.approx(60, rel=1e-12)
    assert relative == pytest.approx(60 / float(given.square().sum()), rel=1e-12)
    nothing = torch.zeros(2, 2)
    assert squared_frobenius_error(nothing, nothing) == (0, 0)
    assert squared_frobenius_error(nothing, nothing + 1) == (4, math.inf)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: srank(torch.tensor([1.0, math.nan])), "not finite"),
        (lambda: effective_rank(torch.tensor([1.0, math.inf])), "not finite"),
        (lambda: singular_values(torch.tensor([[1.0, math.nan]])), "not finite"),
        (lambda: dead_units(torch.tensor([[0.0, math.nan]])), "not finite"),
        (lambda: dormant_units(torch.tensor([[0.0, math.inf]])), "not finite"),
        (lambda: unit_entropy(torch.tensor([[1.0, math.nan]])), "not finite"),
        (lambda: srank(torch.ones(3), share=1.0), "between 0 and 1"),
        (lambda: activity(torch.ones(3)), r"\(3,\)"),
        (lambda: dead_units(torch.ones(0, 3)), r"\(0, 3\)"),
        (lambda: difference_norms([torch.ones(2)], [torch.ones(3)]), "shapes"),
        (lambda: difference_norms([], []), "no entries"),
        (lambda: squared_frobenius_error(torch.ones(2, 2), torch.ones(2, 3)), r"\(2, 3\)"),
    ],
)
def test_what_has_no_measure_is_refused_in_one_sentence(call, words):
    with pytest.raises(ValueError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value) and ". " not in str(caught.value)
