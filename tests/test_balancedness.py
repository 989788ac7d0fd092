"""Balance: Definition 2, Theorem 3 and Saul's algorithm, against direct minimization."""

from __future__ import annotations

import copy
import itertools
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import nn

from swrlib import SoftWeightRescaling
from swrlib.theory import balance_, layer_balance, lpq_norm
from swrlib.theory import balancedness as module


def mlp(*units: int, seed: int = 0, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(units):
        layers += [nn.Linear(inputs, outputs, bias=bias), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).double()


def convolutional(seed: int = 0, groups: int = 1) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, groups=groups),
        nn.LeakyReLU(0.1),
        nn.Flatten(),
        nn.Linear(24, 5),
        nn.ReLU(),
        nn.Linear(5, 3),
    ).double()


NETWORKS = {
    "mlp": lambda: (mlp(6, 5, 4, 3), torch.randn(20, 6).double()),
    "deep": lambda: (mlp(4, 6, 5, 6, 3, seed=3), torch.randn(20, 4).double()),
    "cnn": lambda: (convolutional(), torch.randn(7, 2, 8, 8).double()),
    "grouped": lambda: (convolutional(groups=2), torch.randn(7, 2, 8, 8).double()),
}


def written_out(model: nn.Module, p: float, q: float) -> float:
    """(16) to the letter, in plain loops."""
    total = 0.0
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            for unit in layer.weight.detach().numpy().reshape(len(layer.weight), -1):
                total += sum(abs(float(w)) ** p for w in unit) ** (q / p)
    return total ** (1 / q)


def least(model: nn.Module, p: float, q: float) -> float:
    """Minimize over the logarithms of all units' factors, with scaled copies of the weights."""
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    weights = [layer.weight.detach() for layer in layers]
    units = [len(weight) for weight in weights[:-1]]

    def norm(flat):
        logs = torch.tensor(flat, requires_grad=True)
        scales = list(logs.exp().split(units))
        total = torch.zeros((), dtype=torch.float64)
        for i, (weight, layer) in enumerate(zip(weights, layers, strict=True)):
            scaled = weight
            if i > 0:
                groups = getattr(layer, "groups", 1)
                before = scales[i - 1]
                if groups > 1:
                    before = before.view(groups, -1).repeat_interleave(len(weight) // groups, 0)
                else:
                    before = before.repeat_interleave(weight.shape[1] // len(before)).unsqueeze(0)
                scaled = scaled / before.view(*before.shape, *(1,) * (weight.dim() - 2))
            if i < len(scales):
                scaled = scaled * scales[i].view(-1, *(1,) * (weight.dim() - 1))
            total = total + scaled.abs().pow(p).flatten(1).sum(1).pow(q / p).sum()
        total.backward()
        return total.item(), logs.grad.numpy()

    found = minimize(norm, np.zeros(sum(units)), jac=True, method="BFGS", options={"gtol": 1e-11})
    return float(found.fun) ** (1 / q)


@pytest.mark.parametrize(("p", "q"), [(2, 2), (1, 1), (1, 2), (2, 1), (3, 2), (1.5, 4)])
@pytest.mark.parametrize("name", NETWORKS)
def test_saul_reaches_the_minimum_and_keeps_the_function(name, p, q):
    model, inputs = NETWORKS[name]()
    assert lpq_norm(model, p, q) == pytest.approx(written_out(model, p, q), rel=1e-12)
    before = model(inputs)
    wanted = least(model, p, q)
    history = balance_(model, p, q)
    assert lpq_norm(model, p, q) == pytest.approx(wanted, rel=1e-6)
    assert history.iloc[-1] == pytest.approx(lpq_norm(model, p, q), rel=1e-9)
    torch.testing.assert_close(model(inputs), before, rtol=1e-10, atol=1e-12)
    assert history.iloc[0] > history.iloc[-1] * (1 + 1e-4)  # there was something to gain
    assert (np.diff(history) <= 1e-12 * history.iloc[0]).all()  # and no step back


def test_the_releases_stopping_rule_stops_earlier():
    exact, coarse = mlp(20, 30, 30, 10), mlp(20, 30, 30, 10)
    whole = balance_(exact)
    early = balance_(coarse, tolerance=1e-5, iterations=100)
    assert len(early) < len(whole) and len(early) <= 101
    assert early.iloc[-1] == pytest.approx(whole.iloc[-1], rel=1e-4)


def test_with_p_and_q_two_a_balanced_unit_has_equal_norms_on_both_sides():
    model = mlp(6, 5, 3, bias=False)
    balance_(model, tolerance=1e-10)
    into, out = model[0].weight.norm(dim=1), model[2].weight.norm(dim=0)
    torch.testing.assert_close(into, out, rtol=1e-8, atol=0)


def test_a_dead_unit_is_left_alone():
    model = mlp(4, 5, 3)
    with torch.no_grad():
        model[0].weight[2] = 0
        model[2].weight[:, 4] = 0
    kept = model[0].weight[4].clone(), model[2].weight[:, 2].clone()
    inputs = torch.randn(9, 4).double()
    before = model(inputs)
    assert np.isfinite(balance_(model)).all()
    torch.testing.assert_close(model(inputs), before)
    assert torch.equal(model[0].weight[4], kept[0]) and torch.equal(model[2].weight[:, 2], kept[1])


def test_a_digits_network_takes_milliseconds():
    """No time is asserted in earnest: a thousand times the usual one would be a hang."""
    model = mlp(784, 100, 100, 10)
    started = time.perf_counter()
    history = balance_(model, tolerance=1e-8)
    assert time.perf_counter() - started < 5
    assert history.iloc[-1] < history.iloc[0]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)), "1 normalizes"),
        (nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)), "not positively homogeneous"),
        (nn.Sequential(nn.ConvTranspose2d(2, 3, 3), nn.Conv2d(3, 2, 3)), "transposed"),
    ],
)
def test_what_has_no_minimum_is_refused_and_left_alone(model, words):
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=words) as caught:
        balance_(model)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


class Between(nn.Module):
    """Two layers and any code between them."""

    def __init__(self, first: nn.Module, code, second: nn.Module) -> None:
        super().__init__()
        self.first, self.code, self.second = first, code, second

    def forward(self, x):
        return self.code(self.first, self.second, x)


def conv(*sizes) -> nn.Module:
    return nn.Conv2d(*sizes)


PICTURES, ROWS, TOKENS = (6, 1, 6, 6), (6, 4), (6, 3, 4)
IN_PLACE = {
    "flattened": (conv(1, 3, 3), lambda a, b, x: b(a(x).relu().flatten(1)), nn.Linear(48, 2)),
    "by shape": (
        conv(1, 3, 3),
        lambda a, b, x: b(a(x).reshape((x.shape[0], 48))),
        nn.Linear(48, 2),
    ),
    "by keyword": (
        *(conv(1, 3, 3), lambda a, b, x: b(torch.flatten(a(x), start_dim=1, end_dim=-1))),
        nn.Linear(48, 2),
    ),
    "by size": (conv(1, 3, 3), lambda a, b, x: b(a(x).view(x.size(0), -1)), nn.Linear(48, 2)),
    "averaged": (conv(1, 3, 3), lambda a, b, x: b(a(x).abs().mean((2, 3))), nn.Linear(3, 2)),
    "columns summed": (
        *(conv(1, 3, 3), lambda a, b, x: b(a(x).relu().sum(-1, keepdim=True))),
        nn.Conv2d(3, 2, (2, 1)),
    ),
    "rows averaged": (conv(1, 3, 3), lambda a, b, x: b(a(x).mean(2)), nn.Conv1d(3, 2, 2)),
    "pooled": (
        *(conv(1, 3, 3), lambda a, b, x: b(F.avg_pool2d(a(x), 2, padding=1).relu())),
        conv(3, 2, 2),
    ),
    "tokens": (nn.Linear(4, 5), lambda a, b, x: b(a(x).relu() * 2), nn.Linear(5, 3)),
    "flattened in vain": (nn.Linear(4, 5), lambda a, b, x: b(a(x).flatten(1)), nn.Linear(5, 3)),
}
MOVED = {
    "tokens flattened": (
        *(nn.Linear(4, 5), lambda a, b, x: b(a(x).relu().flatten(1))),
        nn.Linear(15, 3),
    ),
    "channels last": (
        *(conv(1, 3, 3), lambda a, b, x: b(a(x).permute(0, 2, 3, 1).flatten(1))),
        nn.Linear(48, 2),
    ),
    "mixer": (nn.Linear(4, 3), lambda a, b, x: b(a(x).transpose(1, 2)), nn.Linear(3, 3)),
    "linear on the width": (conv(1, 4, 3), lambda a, b, x: b(a(x).relu()), nn.Linear(4, 3)),
    "channel shuffle": (
        conv(1, 4, 3),
        lambda a, b, x: b(a(x).view(-1, 2, 2, 4, 4).transpose(1, 2).reshape(-1, 4, 4, 4)),
        conv(4, 2, 3),
    ),
    "channels averaged": (conv(1, 3, 3), lambda a, b, x: b(a(x).mean(1, True)), conv(1, 2, 3)),
    "pooled units": (
        *(nn.Linear(4, 6), lambda a, b, x: b(F.avg_pool1d(a(x), 3, 1, 1))),
        nn.Linear(6, 2),
    ),
    "pooled channels": (
        *(conv(1, 4, 3), lambda a, b, x: b(F.avg_pool3d(a(x), 3, 1, 1))),
        conv(4, 2, 3),
    ),
    "exchanged": (nn.Linear(4, 3), lambda a, b, x: b(a(x)[:, [2, 0, 1]]), nn.Linear(3, 2)),
    "some": (conv(1, 4, 3), lambda a, b, x: b(a(x)[:, :2].flatten(1)), nn.Linear(32, 2)),
    "joined with itself": (
        *(nn.Linear(4, 3), lambda a, b, x: (lambda h: b(torch.cat([h, h], 1)))(a(x))),
        nn.Linear(6, 2),
    ),
    "two outputs": (nn.Linear(4, 3), lambda a, b, x: (lambda h: (b(h), h))(a(x)), nn.Linear(3, 2)),
    "hidden output": (
        *(nn.Linear(4, 3), lambda a, b, x: (lambda h: (b(h), h)[1])(a(x).relu())),
        nn.Linear(3, 2),
    ),
    "ends flattened": (
        *(conv(1, 4, 3), lambda a, b, x: b(a(x).relu().flatten(end_dim=1))),
        nn.Linear(4, 3),
    ),
    "patches": (
        conv(1, 4, 3),
        lambda a, b, x: (lambda h: b(h.reshape(h.shape[0] * h.shape[1], 16)))(a(x)),
        nn.Linear(16, 3),
    ),
    "by channels": (
        *(conv(1, 4, 3), lambda a, b, x: (lambda h: b(h.view(h.size(1), -1)))(a(x))),
        nn.Linear(96, 3),
    ),
    "one row": (conv(1, 4, 3), lambda a, b, x: b(a(x).view(-1)), nn.Linear(384, 3)),
    "as it was": (
        *(conv(1, 4, 3), lambda a, b, x: (lambda h: b(h.view(h.shape)))(a(x))),
        conv(4, 2, 3),
    ),
    "counted axis": (
        *(conv(1, 4, 3), lambda a, b, x: (lambda h: b(h.mean(h.dim() - 1)))(a(x))),
        nn.Conv1d(4, 2, 3),
    ),
    "rows of the batch": (conv(1, 4, 3), lambda a, b, x: b(a(x).view(-1, 4)), nn.Linear(4, 2)),
}


def inputs_of(name: str, first: nn.Module) -> torch.Tensor:
    torch.manual_seed(1)
    shape = TOKENS if "token" in name or "mixer" in name else ROWS
    return torch.randn(PICTURES if isinstance(first, nn.Conv2d) else shape).double()


@pytest.mark.parametrize("name", IN_PLACE)
def test_operations_that_leave_units_in_their_place_keep_the_function(name):
    model = copy.deepcopy(Between(*IN_PLACE[name])).double()
    inputs = inputs_of(name, model.first)
    before = model(inputs)
    history = balance_(model)
    assert history.iloc[-1] < history.iloc[0] * (1 - 1e-6)
    torch.testing.assert_close(model(inputs), before, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", MOVED)
def test_operations_that_move_or_mix_units_are_refused(name):
    model = copy.deepcopy(Between(*MOVED[name])).double()
    model(inputs_of(name, model.first))  # it is a network
    before = copy.deepcopy(model.state_dict())
    words = "may move or mix the units|are not the units of|are an output|joins branches"
    with pytest.raises(ValueError, match=words) as caught:
        balance_(model)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


def test_weights_that_are_no_numbers_are_refused():
    model = mlp(3, 4, 2)
    with torch.no_grad():
        model[2].weight[0, 1] = float("nan")
    with pytest.raises(ValueError, match="the weight of 2 is not finite"):
        balance_(model)
    with pytest.raises(ValueError, match="iterations is -1"):
        balance_(mlp(3, 4, 2), iterations=-1)


def test_half_precision_is_balanced_in_double():
    model = mlp(100, 10, 2)
    with torch.no_grad():
        model[0].weight.mul_(0.03)
    half = copy.deepcopy(model).half()
    wanted = balance_(model, 3, 3)
    assert balance_(half, 3, 3).iloc[-1] == pytest.approx(wanted.iloc[-1], rel=1e-2)
    large = nn.Sequential(nn.Linear(800, 30))
    with torch.no_grad():
        large[0].weight.mul_(1e4)
    norm = lpq_norm(large)
    assert lpq_norm(large.half()) == pytest.approx(norm, rel=1e-3)


@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
def test_complex_weights_count_by_their_moduli():
    model = nn.Sequential(nn.Linear(3, 4, dtype=torch.complex128))
    assert lpq_norm(model) == pytest.approx(model[0].weight.detach().norm().item())


def test_layers_that_cannot_be_seen_are_not_left_out():
    inner = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.Sequential(inner, nn.Linear(8, 2))
    for function in (lpq_norm, lambda model: layer_balance(model, model)):
        with pytest.raises(ValueError, match=r"'0' \(TransformerEncoderLayer\) has layers inside"):
            function(model)


def test_balance_compares_networks_of_one_shape():
    with pytest.raises(ValueError, match="the layers differ"):
        layer_balance(mlp(2, 3, 1), mlp(2, 30, 1))


@pytest.mark.parametrize(("p", "q"), [(0.5, 2), (2, 0), (float("inf"), 2), (2, float("nan"))])
def test_p_and_q_are_numbers_from_one_on(p, q):
    with pytest.raises(ValueError, match="from 1 on"):
        lpq_norm(mlp(3, 3, 2), p, q)


def test_a_parametrized_weight_is_refused_by_name():
    model = mlp(3, 4, 2)
    torch.nn.utils.parametrizations.weight_norm(model[0])
    for function in (balance_, lpq_norm, lambda model: layer_balance(model, model)):
        with pytest.raises(ValueError, match="weight of 0 is computed by a parametrization"):
            function(model)


@pytest.mark.parametrize("name", ["vgg16_bn", "resnet18"])
def test_torchvisions_networks_have_layer_balances_and_no_least_norm(name):
    torchvision = pytest.importorskip("torchvision")
    with torch.random.fork_rng():
        model = getattr(torchvision.models, name)(num_classes=10)
    if name == "vgg16_bn":  # its 4096 units would only take time
        model.classifier = nn.Sequential(nn.Linear(25088, 16), nn.ReLU(), nn.Linear(16, 10))
    with pytest.raises(ValueError, match="normalizes") as caught:
        balance_(model)
    assert "\n" not in str(caught.value)
    grown = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in grown.parameters():
            parameter.mul_(1.5 if parameter.dim() > 1 else 1.0)
    before = layer_balance(grown, model)
    rescaling = SoftWeightRescaling(model, lam=0.5)
    state = rescaling.state_dict()
    rescaling = SoftWeightRescaling(grown, lam=0.5)
    rescaling.load_state_dict(state)
    rescaling.step()
    assert before.max() > 0
    assert (layer_balance(grown, model) <= before + 1e-4).all()


# Definition 2 and Theorem 3


def test_definition_2_by_hand():
    start, now = mlp(3, 4, 2, bias=False), mlp(3, 4, 2, bias=False)
    with torch.no_grad():
        for model, (first, second) in ((start, (2.0, 6.0)), (now, (4.0, 5.0))):
            model[0].weight.mul_(first / model[0].weight.norm())
            model[2].weight.mul_(second / model[2].weight.norm())
    found = layer_balance(now, start)
    assert found.to_dict() == {("0", "2"): pytest.approx(abs(5 / 4 - 6 / 2))}


def worsened(lam, seed: int) -> bool:
    """Whether one rescaling took any pair of layers further from its ratio at the start."""
    torch.manual_seed(seed)
    start = mlp(5, 7, 6, 4, seed=seed)
    model = copy.deepcopy(start)
    rescaling = SoftWeightRescaling(model, **lam)
    with torch.no_grad():
        for layer in model[::2]:
            layer.weight.mul_(torch.empty(()).uniform_(0.3, 4).double())
    before = layer_balance(model, start)
    rescaling.step()
    return bool((layer_balance(model, start) > before * (1 + 1e-12) + 1e-12).any())


@settings(max_examples=60)
@given(st.floats(0, 1), st.integers(0, 10_000))
def test_one_rescaling_with_one_lambda_never_worsens_the_balance(lam, seed):
    assert not worsened({"lam": lam}, seed)


def test_with_two_lambdas_it_can():
    pair = {"lam_features": 0.5, "lam_classifier": 0.01}
    share = np.mean([worsened(pair, seed) for seed in range(60)])
    assert 0 < share < 1


# Mutants


def test_factors_that_forget_the_biases_are_caught(monkeypatch):
    whole = module._apply

    def forgetful(layers, factors):
        biases = [layer.bias.clone() for layer in layers]
        whole(layers, factors)
        for layer, bias in zip(layers, biases, strict=True):
            layer.bias.copy_(bias)

    monkeypatch.setattr(module, "_apply", forgetful)
    with pytest.raises(AssertionError):
        test_saul_reaches_the_minimum_and_keeps_the_function("mlp", 2, 2)


def test_rows_without_the_power_are_caught(monkeypatch):
    whole = module._rows
    monkeypatch.setattr(module, "_rows", lambda layer, p: whole(layer, 1.0))
    with pytest.raises(AssertionError):
        test_saul_reaches_the_minimum_and_keeps_the_function("cnn", 2, 2)


def test_a_rescaling_away_from_the_start_is_caught(monkeypatch):
    from swrlib import rescaling

    real = rescaling.soft_factors
    monkeypatch.setattr(
        rescaling, "soft_factors", lambda norms, pull, rest: real(norms, -pull, 2 - rest)
    )
    assert any(worsened({"lam": 0.3}, seed) for seed in range(20))


@pytest.mark.parametrize(("p", "q"), [(1, 1), (2, 2), (1, 3), (4, 2)])
def test_one_update_has_sauls_exponent(p, q):
    """A chain of two scalars: u = |w|^q into the unit, v = |w'|^q out of it, by hand."""
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)).double()
    with torch.no_grad():
        model[0].weight.fill_(0.3)
        model[2].weight.fill_(2.5)
    balance_(model, p, q, iterations=1)
    factor = (2.5**q / 0.3**q) ** (1 / (4 * max(p, q)))
    assert model[0].weight.item() == pytest.approx(0.3 * factor, rel=1e-12)
    assert model[2].weight.item() == pytest.approx(2.5 / factor, rel=1e-12)
