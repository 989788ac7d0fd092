"""Lanczos' method and its quadrature: moments, full order, scipy's Householder, bounds, mutants."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from test_curvature import ACTIVATIONS, batch, by_autograd, network
from torch.nn.functional import cross_entropy

from swrlib.theory import spectrum
from swrlib.theory.curvature import LossHessian
from swrlib.theory.spectrum import Spectrum, hessian_spectrum, quadrature, tridiagonal


def symmetric(size, seed=0):
    draws = torch.Generator().manual_seed(seed)
    given = torch.randn(size, size, generator=draws, dtype=torch.float64)
    start = torch.randn(size, generator=draws, dtype=torch.float64)
    return given + given.T, start


def of_matrix(matrix, start, order):
    return quadrature(*tridiagonal(lambda v: matrix @ v, start, order))


def by_householder(matrix, start):
    """Return the tridiagonal matrix of a start vector, which is unique: by scipy's reflections."""
    basis, _ = np.linalg.qr(np.column_stack([start, np.eye(len(start))[:, 1:]]))
    reduced = scipy.linalg.hessenberg(basis.T @ matrix @ basis)
    return np.diag(reduced), np.abs(np.diag(reduced, 1))


@pytest.mark.parametrize("order", [1, 2, 7, 25, 40])
def test_coefficients_equal_those_of_reflections(order):
    matrix, start = symmetric(40)
    diagonal, beside = tridiagonal(lambda v: matrix @ v, start, order)
    first, second = by_householder(matrix.numpy(), start.numpy())
    np.testing.assert_allclose(diagonal, first[:order], rtol=0, atol=1e-11)
    np.testing.assert_allclose(beside, second[: order - 1], rtol=0, atol=1e-11)


@pytest.mark.parametrize("between", ACTIVATIONS)
def test_coefficients_equal_those_of_hessian_eigenthings(between):
    theirs = pytest.importorskip("hessian_eigenthings")
    model, (images, labels) = network(between), batch(200)
    hessian, start = LossHessian(model, images, labels), symmetric(242, seed=5)[1]
    operator = theirs.HessianOperator(
        model, [(images, labels)], lambda model, given: cross_entropy(model(given[0]), given[1])
    )
    assert operator.size == len(hessian) == 242
    expected = theirs.lanczos_tridiagonal(operator, start, 40)
    diagonal, beside = tridiagonal(hessian.__matmul__, start, 40)
    torch.testing.assert_close(diagonal, expected.alphas, rtol=0, atol=1e-12)
    torch.testing.assert_close(beside, expected.betas, rtol=0, atol=1e-12)
    without = theirs.lanczos_tridiagonal(operator, start, 40, reorthogonalize=False)
    assert (without.alphas - diagonal).abs().max() > 1e-6  # a mutant: it does make a difference


def test_the_epsilon_rank_equals_that_of_hessian_eigenthings():
    theirs = pytest.importorskip("hessian_eigenthings")
    matrix, _ = symmetric(60)
    operator = theirs.LambdaOperator(lambda v: matrix @ v, 60, dtype=torch.float64)
    density = theirs.spectral_density(operator, num_runs=3, lanczos_steps=9, seed=2)
    parts = []
    for run in range(3):
        draw, probe = torch.Generator().manual_seed(2 + run), torch.empty(60, dtype=torch.float64)
        signs = theirs.linalg.SingleDeviceBackend().rademacher_like(probe, generator=draw)
        parts.append(of_matrix(matrix, signs, 9))
    nodes, weights = (torch.cat(values) for values in zip(*parts, strict=True))
    ours = Spectrum(nodes, weights / 3, 60)
    epsilons = torch.linspace(0, 25, 60, dtype=torch.float64)
    outside = density.raw_eigenvalues.abs() > epsilons[:, None, None]
    expected = (outside * density.raw_weights).sum((1, 2)) / 3
    assert 0.05 < float(expected.min()) + 0.1 < float(expected.max())
    torch.testing.assert_close(ours.epsilon_rank(epsilons), expected, rtol=0, atol=1e-12)
    found = ours.density(density.grid, density.sigma**2)
    torch.testing.assert_close(found, density.density, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("between", ACTIVATIONS)
def test_moments_and_the_full_spectrum_of_a_networks_hessian(between):
    """qᵀHᵏq by the matrix of torch.autograd.functional.hessian, which no product has seen."""
    model, (images, labels) = network(between), batch(60)
    matrix = by_autograd(model, images, labels, [name for name, _ in model.named_parameters()])
    hessian = LossHessian(model, images, labels)
    start = symmetric(len(matrix), seed=6)[1]
    nodes, weights = quadrature(*tridiagonal(hessian.__matmul__, start, 4))
    power = vector = start / start.norm()
    for exponent in range(8):
        exact = float(vector @ power)
        assert float((weights * nodes**exponent).sum()) == pytest.approx(exact, rel=1e-10)
        assert float((nodes**exponent).mean()) != pytest.approx(exact, rel=1e-2) or not exponent
        power = matrix @ power
    found = quadrature(*tridiagonal(hessian.__matmul__, start, len(matrix)))
    values, vectors = torch.linalg.eigh(matrix)
    shares = (vectors.T @ vector).square()
    for epsilon in (1e-6, 1e-3, 1e-2, 1e-1):  # eigenvalues that are alike count together
        whole = Spectrum(*found, len(matrix)).epsilon_rank(torch.tensor(epsilon))
        exact = float(shares[values.abs() > epsilon].sum())
        assert float(whole) == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize("order", [4, 6])
def test_moments_are_exact(order):
    matrix, start = symmetric(30)
    nodes, weights = of_matrix(matrix, start, order)
    vector = start / start.norm()
    assert float(weights.sum()) == pytest.approx(1, rel=1e-12)
    power = vector
    for exponent in range(8):  # below 2·order
        exact = float(vector @ power)
        assert float((weights * nodes**exponent).sum()) == pytest.approx(exact, rel=1e-10, abs=1e-9)
        power = matrix @ power
    # A mutant: the quadrature weights left out.
    equal = (nodes**2).mean()
    assert float(equal) != pytest.approx(float((matrix @ vector).norm() ** 2), rel=1e-2)


def test_full_order_recovers_the_spectrum():
    matrix, start = symmetric(60)
    nodes, weights = of_matrix(matrix, start, 60)
    values, vectors = torch.linalg.eigh(matrix)
    torch.testing.assert_close(nodes, values, rtol=0, atol=1e-11)
    exact = (vectors.T @ (start / start.norm())).square()
    torch.testing.assert_close(weights, exact, rtol=0, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_it_ends_where_the_space_does(dtype):
    matrix, start = symmetric(30)
    values, vectors = torch.linalg.eigh(matrix)
    low = (vectors[:, :3] * values[:3]) @ vectors[:, :3].T  # four eigenvalues, 0 among them
    nodes, weights = of_matrix(low.to(dtype), start.to(dtype), 20)
    assert len(nodes) < 8  # rounding may tear a node in two
    near = 1e-3 if dtype.itemsize == 4 else 1e-10
    shares = (vectors[:, :3].T @ (start / start.norm())).square()
    for value, share in zip([*values[:3], 0.0], [*shares, 1 - shares.sum()], strict=True):
        found = weights[(nodes - value).abs() < near].sum()
        assert float(found) == pytest.approx(float(share), abs=near)
    nodes, weights = of_matrix(torch.zeros(5, 5), torch.ones(5), 4)
    assert (nodes.tolist(), weights.tolist()) == ([0], [1])


def test_without_reorthogonalization_it_goes_wrong(monkeypatch):
    """A spectrum with a wide gap: plain recursion finds its largest eigenvalue twice."""
    values = torch.cat([torch.linspace(0, 1, 99, dtype=torch.float64), torch.tensor([1e4])])
    _, start = symmetric(100)
    nodes, _ = quadrature(*tridiagonal(lambda v: values * v, start, 60))
    assert int((nodes > 10).sum()) == 1
    vector, before, diagonal, beside = start / start.norm(), 0 * start, [], []
    for _ in range(60):  # the mutant
        moved = values * vector - (beside[-1] * before if beside else 0)
        diagonal.append(float(moved @ vector))
        moved = moved - diagonal[-1] * vector
        beside.append(float(moved.norm()))
        before, vector = vector, moved / moved.norm()
    wrong, _ = quadrature(torch.tensor(diagonal).double(), torch.tensor(beside[:-1]).double())
    assert int((wrong > 10).sum()) > 1


@pytest.mark.parametrize("order", [5, 12, 20])
def test_the_epsilon_rank_is_within_its_bounds(order):
    """Between two nodes the exact share below differs by at most their weights.

    The inequalities of Chebyshev, Markov and Stieltjes.
    """
    matrix, start = symmetric(80, seed=order)
    nodes, weights = of_matrix(matrix, start, order)
    values, vectors = torch.linalg.eigh(matrix)
    exact = Spectrum(values, (vectors.T @ (start / start.norm())).square(), 80)
    epsilons = torch.linspace(0, float(values.abs().max()), 50, dtype=torch.float64)
    found = Spectrum(nodes, weights, 80).epsilon_rank(epsilons)
    padded = torch.cat([torch.zeros(1), weights, torch.zeros(1)])
    ends = torch.stack([-epsilons, epsilons])
    after = torch.searchsorted(nodes, ends)  # how many nodes lie below each end
    slack = (padded[after] + padded[after + 1]).sum(0)
    assert bool(((found - exact.epsilon_rank(epsilons)).abs() <= slack + 1e-12).all())
    if order < 12:
        return
    # A mutant, the weights left out, is outside.
    unweighted = Spectrum(nodes, torch.full_like(weights, 1 / order), 80).epsilon_rank(epsilons)
    assert not bool(((unweighted - exact.epsilon_rank(epsilons)).abs() <= slack + 1e-12).all())


def test_epsilon_ranks_by_hand():
    given = Spectrum(
        torch.tensor([-2.0, 0.0, 0.1, 5.0]).double(), torch.tensor([1, 4, 2, 1]) / 8, 50
    )
    found = given.epsilon_rank(torch.tensor([[0.0, 0.05], [1.0, 3.0]]))
    assert found.tolist() == [[0.5, 0.5], [0.25, 0.125]]


def test_the_density_is_a_mixture():
    given = Spectrum(torch.tensor([-1.0, 2.0]).double(), torch.tensor([0.25, 0.75]).double(), 9)
    grid = torch.tensor([0.0, 2.0])
    expected = [
        sum(
            w * math.exp(-((t - x) ** 2) / (2 * 0.3)) / math.sqrt(2 * math.pi * 0.3)
            for x, w in ((-1, 0.25), (2, 0.75))
        )
        for t in (0, 2)
    ]
    assert given.density(grid, 0.3).tolist() == pytest.approx(expected, rel=1e-12)


def test_the_smoothed_variant_is_the_trapezoid_over_what_is_left():
    nodes, weights = torch.tensor([-0.5, 0.0, 3.0]).double(), torch.tensor([0.1, 0.7, 0.2]).double()
    given = Spectrum(nodes, weights, 9)
    grid = np.linspace(-0.51, 3.01, 10_000)
    variance = 1e-5 * 3.5
    density = sum(
        w * np.exp(-((grid - x) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
        for x, w in zip(nodes.tolist(), weights.tolist(), strict=True)
    )
    expected = []
    for epsilon in (0.0, 0.01, 0.1, 1.0):
        mask = np.abs(grid) > epsilon
        expected.append(np.trapezoid(density[mask], grid[mask]))
    found = given.smoothed_epsilon_rank(torch.tensor([0.0, 0.01, 0.1, 1.0]))
    assert found.tolist() == pytest.approx(expected, rel=1e-6)


def test_the_smoothed_variant_measures_the_width_of_a_wide_spectrum():
    """Nearly all eigenvalues are tiny, but with one of 6,000 no point of the grid is near zero."""
    nodes = torch.tensor([-80.0, 0.0, 6000.0]).double()
    given = Spectrum(nodes, torch.tensor([1e-3, 1 - 2e-3, 1e-3], dtype=torch.float64), 10**6)
    epsilon = torch.tensor([0.1])
    assert float(given.epsilon_rank(epsilon)) == pytest.approx(2e-3, rel=1e-9)
    assert float(given.smoothed_epsilon_rank(epsilon)) > 0.9


def test_the_effective_rank_counts_eigenvalues():
    matrix, _ = symmetric(50)
    values = torch.linalg.eigvalsh(matrix)
    exact = Spectrum(values, torch.full((50,), 0.02, dtype=torch.float64), 50)
    shares = (values.abs() / values.abs().sum()).numpy()
    expected = math.exp(-np.sum(shares * np.log(shares)))
    assert exact.effective_rank() == pytest.approx(expected, rel=1e-12)
    assert exact.effective_rank(weighted=False) == pytest.approx(expected, rel=1e-12)
    few = Spectrum(
        torch.tensor([0.0, 1.0]).double(), torch.tensor([0.9, 0.1], dtype=torch.float64), 1000
    )
    assert few.effective_rank() == pytest.approx(100, rel=1e-9)
    assert few.effective_rank(weighted=False) == pytest.approx(1, rel=1e-12)
    assert Spectrum(torch.zeros(1), torch.ones(1), 9).effective_rank() == 0


@pytest.mark.parametrize("between", ["tanh", "relu"])
def test_the_spectrum_of_a_network(between):
    model, (images, labels) = network(between), batch()
    names = [name for name, _ in model.named_parameters()]
    matrix = by_autograd(model, images, labels, names)
    values = torch.linalg.eigvalsh(matrix)
    found = hessian_spectrum(model, images, labels, order=60, probes=3, seed=4)
    assert found.dimension == len(matrix)
    assert float(found.nodes.max()) == pytest.approx(float(values.max()), rel=1e-8)
    assert float(found.nodes.min()) == pytest.approx(float(values.min()), rel=1e-8)
    again = hessian_spectrum(model, images, labels, order=60, probes=3, seed=4)
    assert torch.equal(found.nodes, again.nodes)
    assert float(found.weights.sum()) == pytest.approx(1, rel=1e-12)
    trace = float((found.weights * found.nodes).sum()) * found.dimension
    assert abs(trace - float(matrix.trace())) < 4 * float((2 * matrix.square().sum() / 3).sqrt())
    single = dataclasses.replace(found).nodes.dtype
    assert single == torch.float64
    float32 = hessian_spectrum(model.float(), images.float(), labels, order=20)
    assert float(float32.nodes.max()) == pytest.approx(float(values.max()), rel=1e-4)


def test_refusals_come_before_any_product(monkeypatch):
    model, (images, labels) = network(), batch()
    monkeypatch.setattr(spectrum, "LossHessian", lambda *given: pytest.fail("computed"))
    with pytest.raises(ValueError, match="only 242 parameters"):
        hessian_spectrum(model, images, labels, order=1000)
    for options in ({"order": 0}, {"probes": 0}, {"order": 1.5}):
        with pytest.raises(ValueError, match="whole number"):
            hessian_spectrum(model, images, labels, **options)
    monkeypatch.setattr(spectrum, "free_memory", lambda device: 1000)
    with pytest.raises(MemoryError, match="lower order") as caught:
        hessian_spectrum(model, images, labels, order=60)
    assert "\n" not in str(caught.value) and ". " not in str(caught.value)
