"""Theorem 1: scaled layer by layer, biases along, a network keeps its function up to a constant."""

from __future__ import annotations

import math
from functools import partial

import oracles
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracles import (
    biases_at_the_scale_of_activations,
    gap,
    inputs_for,
    small_model,
    spread_factors,
    train,
    twin,
    variation,
)
from torch import Tensor, nn

from swrlib import rescale_, rescaling, trace_layers
from swrlib.models import build_model

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
DTYPES = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=["float64", "float32"])


def scaled(model: nn.Module, factors: list[float], **options) -> tuple[nn.Module, float]:
    result = twin(model)
    return result, rescaling.rescale_(result, factors, **options)


def without_one_bias_factor(model: nn.Module, position: int, factor: float) -> nn.Module:
    """Take back one factor from the bias of the layer at a position."""
    result = twin(model)
    with torch.no_grad():
        trace_layers(result)[position].bias.div_(factor)
    return result


def check_theorem(model: nn.Module, inputs: Tensor, factors: list[float]) -> None:
    """Scale, compare with the theorem's constant, and see that the comparison is not empty."""
    assert variation(model, inputs) > 0.02, "constant outputs prove nothing"
    after, constant = scaled(model, factors)
    assert math.isclose(constant, math.prod(factors), rel_tol=1e-12)
    tolerance = TOLERANCE[inputs.dtype]
    assert gap(after, model, constant, inputs) < tolerance
    assert gap(after, model, constant * 1.01, inputs) > 1e-3, "the constant matters"
    for position in range(1, len(factors)):
        wrong = without_one_bias_factor(after, position, factors[0])
        assert gap(wrong, model, constant, inputs) > 100 * tolerance, f"bias {position} is unseen"


# --- networks without normalization; random ones: test_architectures.py -------------------------


@DTYPES
@pytest.mark.parametrize("seed", [4, 5, 6])
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_trained_networks(name, seed, dtype):
    model = small_model(name)
    train(model, name, steps=20)
    factors = spread_factors(len(oracles.LAYERS[name]), seed)
    check_theorem(model.to(dtype), inputs_for(name).to(dtype), factors)


@DTYPES
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_he_weights_with_biases_at_the_scale_of_the_activations(name, dtype):
    model, inputs = small_model(name), inputs_for(name)
    biases_at_the_scale_of_activations(model, inputs)
    factors = spread_factors(len(oracles.LAYERS[name]))
    check_theorem(model.to(dtype), inputs.to(dtype), factors)


@pytest.fixture(scope="module")
def vgg16() -> nn.Module:
    torch.manual_seed(0)
    data = oracles.dataset(shape=(3, 32, 32))
    model = build_model("vgg16", data, normalization=False)
    # In float32, for speed: the numbers are cast, so any dtype holds the same network.
    inputs = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    biases_at_the_scale_of_activations(model, inputs)
    return model


@DTYPES
def test_vgg16_without_normalization(vgg16, dtype):
    inputs = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1)).to(dtype)
    original = twin(vgg16).to(dtype)
    factors = spread_factors(16)
    with torch.no_grad():
        outputs = original(inputs)
        assert variation(original, inputs) > 0.02
        constant = rescale_(original, factors)
        assert math.isclose(constant, math.prod(factors), rel_tol=1e-12)
        expected = constant * outputs

        def distance() -> float:
            return float((original(inputs) - expected).abs().max() / expected.abs().max())

        assert distance() < TOLERANCE[dtype]
        for position in (1, 7, 15):
            bias = trace_layers(original)[position].bias
            kept = bias.clone()
            bias.div_(factors[0])
            assert distance() > 1e-3, f"dropping a factor of bias {position} is unseen"
            bias.copy_(kept)


def test_both_variants_agree_without_normalization():
    model, inputs = small_model("cnn"), inputs_for("cnn")
    factors = spread_factors(4)
    after, constant = scaled(model, factors, variant="printed")
    assert gap(after, model, constant, inputs) < 1e-12


# --- normalization layers ----------------------------------------------------------------------


def set_eps(model: nn.Module, eps: float) -> nn.Module:
    for module in model.modules():
        if hasattr(module, "eps"):
            module.eps = eps
    return model


def with_statistics(name: str, mode: str) -> nn.Module:
    """Return a model with trained shifts and running statistics, in a mode."""
    model = small_model(name)
    train(model, name, steps=10)
    return model.train(mode == "training")


def constant_of(name: str, factors: list[float]) -> float:
    """Multiply the factors from the last normalization on: what the scale of the output is."""
    kinds = [layer.kind for layer in oracles.LAYERS[name]]
    last = max((i for i, kind in enumerate(kinds) if kind == "normalization"), default=0)
    return math.prod(factors[last:])


class OneNormalization(nn.Module):
    """Linear → ReLU → linear → normalization → linear: the rest of the network is linear."""

    def __init__(self, normalization: nn.Module) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.second = nn.Linear(8, 8)
        self.normalization = normalization
        self.last = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.normalization(self.second(torch.relu(self.first(x)))))


NORMALIZATIONS = {
    "layer norm": lambda: nn.LayerNorm(8),
    "group norm": lambda: nn.GroupNorm(2, 8),
    "batch norm": lambda: nn.BatchNorm1d(8),
}


@settings(max_examples=20, deadline=None)
@given(factors=st.lists(st.floats(0.1, 10), min_size=4, max_size=4), seed=st.integers(0, 99))
@pytest.mark.parametrize("kind", NORMALIZATIONS)
def test_the_gap_is_what_eps_makes_it(kind, factors, seed):
    """Two biased layers before one normalization: a bound that follows from eps, and 0 without."""
    torch.manual_seed(seed)
    normalization = NORMALIZATIONS[kind]()
    model = OneNormalization(normalization).double()
    for name, parameter in model.named_parameters():
        if "bias" in name:
            nn.init.normal_(parameter)
    x = torch.randn(16, 6, dtype=torch.float64)
    entering = model.second(torch.relu(model.first(x))).detach()
    groups = {"layer norm": (16, 1, 8), "group norm": (16, 2, 4), "batch norm": (8, 1, 16)}[kind]
    values = entering.T if kind == "batch norm" else entering
    variance = float(values.reshape(groups).var(-1, unbiased=False).min())
    assume(variance > 1e-3)  # else eps is no small number beside it
    scale = factors[0] * factors[1]
    for eps in (1e-5, 1e-7):
        set_eps(model, eps)
        after, constant = scaled(model, factors)
        assert math.isclose(constant, factors[2] * factors[3], rel_tol=1e-12)
        change = abs(math.sqrt((variance + eps) / (variance + eps / scale**2)) - 1)
        with torch.no_grad():
            normalized = normalization(entering) - normalization.bias
            reach = float((normalized.abs() @ model.last.weight.abs().T).max())
            largest = float(model(x).abs().max())
        assert gap(after, model, constant, x) <= 1.0001 * change * reach / largest + 1e-12
    set_eps(model, 1e-100)
    after, constant = scaled(model, factors)
    assert gap(after, model, constant, x) < 1e-12


@pytest.mark.parametrize("name", ["cnn-bn", "norms"])
@pytest.mark.parametrize("mode", ["training", "evaluation"])
def test_the_gap_vanishes_with_eps(name, mode):
    model, inputs = with_statistics(name, mode), inputs_for(name)
    factors = spread_factors(len(oracles.LAYERS[name]))
    gaps = []
    for eps in (1e-5, 1e-7, 1e-100):
        after, constant = scaled(set_eps(model, eps), factors)
        assert math.isclose(constant, constant_of(name, factors), rel_tol=1e-12)
        gaps.append(gap(after, model, constant, inputs))
    assert gaps[0] < 0.05
    assert math.isclose(gaps[1], gaps[0] / 100, rel_tol=0.2), "the gap is of first order in eps"
    assert gaps[2] < 1e-12
    assert variation(model, inputs) > 0.02


def test_in_evaluation_mode_eps_acts_as_another_scale_of_each_channel():
    """Exactly, and so at any eps: f_c = C·f with γ·√((v + eps)/(v + eps/s²)), s the input's scale.

    This is the tolerance that follows from eps, without any rest.
    """
    model, inputs = with_statistics("cnn-bn", "evaluation"), inputs_for("cnn-bn")
    set_eps(model, 1e-3)
    factors = spread_factors(6)
    after, constant = scaled(model, factors)
    predicted = twin(model)
    with torch.no_grad():
        for norm, s in ((predicted.norm1, factors[0]), (predicted.norm2, factors[1] * factors[2])):
            v = norm.running_var
            norm.weight.mul_(((v + norm.eps) / (v + norm.eps / s**2)).sqrt())
    assert gap(after, model, constant, inputs) > 1e-4, "eps is seen"
    assert gap(after, predicted, constant, inputs) < 1e-12


def check_running_statistics(inputs: Tensor) -> None:
    model = set_eps(with_statistics("cnn-bn", "evaluation"), 1e-100)
    after, constant = scaled(model, [0.5] * 6)
    assert gap(after, model, constant, inputs) < 1e-12


def test_evaluation_mode_needs_scaled_running_statistics():
    inputs = inputs_for("cnn-bn")
    check_running_statistics(inputs)
    model = set_eps(with_statistics("cnn-bn", "evaluation"), 1e-100)
    after, constant = scaled(model, [0.5] * 6, running_statistics=False)
    assert torch.equal(after.norm1.running_var, model.norm1.running_var)
    assert gap(after, model, constant, inputs) > 0.3
    # They catch up in training mode, where they are not looked at.
    assert gap(after.train(), model.train(), constant, inputs) < 1e-12


@pytest.mark.parametrize("mode", ["training", "evaluation"])
@pytest.mark.parametrize("name", ["cnn-bn", "norms"])
def test_the_printed_variant_is_not_proportional_where_normalizations_are(name, mode):
    """At the last normalization C = c_k·c_{k−1} as printed, where C = c_k is needed."""
    model = set_eps(with_statistics(name, mode), 1e-100)
    factors = [0.5] * len(oracles.LAYERS[name])
    gaps = {}
    for variant in ("proportional", "printed"):
        after, constant = scaled(model, factors, variant=variant)
        gaps[variant] = gap(after, model, constant, inputs_for(name))
    assert gaps["proportional"] < 1e-12
    assert gaps["printed"] > 0.02


class BeforeLayerNorm(nn.Module):
    """Two biased layers before a normalization, whose shift is zero; no bias after it."""

    def __init__(self, activation: nn.Module, normalization: nn.Module) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.second = nn.Linear(8, 8)
        self.activation = activation
        self.normalization = normalization
        self.last = nn.Linear(8, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(torch.relu(self.first(x)))
        return self.last(self.normalization(self.activation(x)))


@pytest.mark.parametrize(
    ("activation", "normalization", "seen"),
    [
        (nn.Identity(), nn.BatchNorm1d(8), False),  # batch norm subtracts the second bias
        (nn.ReLU(), nn.BatchNorm1d(8), True),
        (nn.Identity(), nn.LayerNorm(8), True),
        (nn.ReLU(), nn.LayerNorm(8), True),
    ],
    ids=["batch norm", "activation, batch norm", "layer norm", "activation, layer norm"],
)
def test_two_biased_layers_before_a_normalization(activation, normalization, seen):
    """Between them the product runs on; the printed rule takes c_l alone.

    The other fault, at l = k, reaches the shift and the biases behind it: there are none here.
    """
    torch.manual_seed(0)
    model = set_eps(BeforeLayerNorm(activation, normalization).double(), 1e-100)
    nn.init.normal_(model.first.bias)
    nn.init.normal_(model.second.bias)
    x = torch.randn(16, 6, dtype=torch.float64)
    factors = [0.3, 0.5, 2.0, 0.7]
    after, constant = scaled(model, factors)
    assert gap(after, model, constant, x) < 1e-12
    printed, _ = scaled(model, factors, variant="printed")
    difference = gap(printed, model, constant, x)
    assert difference > 0.05 if seen else difference < 1e-12
    # In evaluation mode the second bias is no longer subtracted with the batch's mean.
    if isinstance(normalization, nn.BatchNorm1d):
        printed, _ = scaled(model.eval(), factors, variant="printed")
        assert gap(printed, model, constant, x) > 0.05
        after, _ = scaled(model, factors)
        assert gap(after, model, constant, x) < 1e-12


def test_a_normalization_without_parameters_restarts_the_product_too():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 8), nn.LayerNorm(8, 0.0, elementwise_affine=False), nn.ReLU(), nn.Linear(8, 3)
    ).double()
    x = torch.randn(8, 6, dtype=torch.float64)
    after, constant = scaled(model, [0.2, 1.0, 5.0])
    assert constant == 5.0
    assert gap(after, model, constant, x) < 1e-12
    with pytest.raises(ValueError, match="'1' has no weight to scale"):
        rescale_(model, [0.2, 2.0, 5.0])


# --- mutants: each must fail a check that the real code passes -----------------------------------


def caught_by(check, *arguments) -> bool:
    try:
        check(*arguments)
    except AssertionError:
        return True
    return False


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_mutant_dropped_bias_factor_is_caught_by_the_theorem(monkeypatch, name):
    model, inputs = small_model(name), inputs_for(name)
    factors = spread_factors(len(oracles.LAYERS[name]))
    check_theorem(model, inputs, factors)
    real = rescaling.membership

    def dropping(network, variant):
        members = dict(real(network, variant))
        last = network.layers[-1].name
        members[last] = members[last] - {network.layers[0].name}
        return members

    monkeypatch.setattr(rescaling, "membership", dropping)
    assert caught_by(check_theorem, model, inputs, factors)


def test_mutant_wrong_variant_is_caught_by_the_gap(monkeypatch):
    check = test_the_printed_variant_is_not_proportional_where_normalizations_are
    check("norms", "training")
    real = rescaling.membership
    swap = {"proportional": "printed", "printed": "proportional"}
    monkeypatch.setattr(rescaling, "membership", lambda net, variant: real(net, swap[variant]))
    assert caught_by(check, "norms", "training")


def test_mutant_forgotten_running_statistics_are_caught_by_the_gap(monkeypatch):
    inputs = inputs_for("cnn-bn")
    check_running_statistics(inputs)
    forgetful = partial(rescaling.rescale_, running_statistics=False)
    monkeypatch.setattr(rescaling, "rescale_", forgetful)
    assert caught_by(check_running_statistics, inputs)
