"""Lipschitz constants: against dense operators and brute force; what is no bound is caught."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from swrlib.theory import conv_spectral_norm, lipschitz_bound, lipschitz_lower_bound
from swrlib.theory import lipschitz as module


def dense_norm(layer: nn.Module, shape: tuple[int, ...]) -> float:
    """Write the operator out, column by column, and take its greatest singular value."""
    layer = copy.deepcopy(layer).double()
    layer.bias = None
    basis = torch.eye(math.prod(shape), dtype=torch.float64).view(-1, *shape)
    with torch.no_grad():
        return float(torch.linalg.matrix_norm(layer(basis).flatten(1), 2))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(2, 3, 3), (2, 6, 5)),
        (nn.Conv2d(2, 3, 3, padding=1), (2, 6, 6)),
        (nn.Conv2d(3, 4, 5, padding=1, stride=2), (3, 9, 8)),
        (nn.Conv2d(4, 6, 3, groups=2, padding=2, dilation=2), (4, 7, 7)),
        (nn.Conv2d(4, 4, 3, groups=4), (4, 6, 6)),
        (nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), (2, 5, 5)),
        (nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), (2, 5, 5)),
        (nn.Conv1d(2, 3, 4, stride=3), (2, 12)),
        (nn.Conv3d(1, 2, 2), (1, 3, 4, 3)),
        (nn.ConvTranspose2d(2, 3, 3, stride=2), (2, 4, 4)),
        (nn.Conv2d(1, 1, 4), (1, 4, 4)),
        (nn.Conv2d(3, 1, 2), (3, 2, 3)),
    ],
    ids=str,
)
def test_the_norm_of_a_convolution_is_that_of_its_dense_operator(layer, shape):
    assert conv_spectral_norm(layer, shape) == pytest.approx(dense_norm(layer, shape), rel=1e-6)


def test_it_is_not_that_of_the_reshaped_kernel():
    layer = nn.Conv2d(3, 8, 3, padding=1)
    reshaped = float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2))
    assert conv_spectral_norm(layer, (3, 12, 12)) > 1.1 * reshaped


def stretch(model: nn.Module, inputs: torch.Tensor) -> float:
    """Return the greatest norm of the Jacobian at these inputs, written out."""
    norms = []
    for x in inputs:
        jacobian = torch.autograd.functional.jacobian(lambda z: model(z[None])[0], x)
        matrix = jacobian.reshape(jacobian.numel() // x.numel(), -1)
        norms.append(float(torch.linalg.matrix_norm(matrix, 2)))
    return max(norms)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.second = nn.Conv2d(3, 3, 3, padding=1)
        self.head = nn.Linear(3, 4)

    def forward(self, x):
        x = x + self.second(torch.relu(self.norm(self.first(x))))
        return self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


def convolutional() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(5, 4, 3, stride=2),
        nn.LeakyReLU(0.2),
        nn.AvgPool2d(2, stride=1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )


NETWORKS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4)), (6,)),
    "steep": (lambda: nn.Sequential(nn.Linear(6, 9), nn.LeakyReLU(3.0), nn.Linear(9, 4)), (6,)),
    "smooth": (lambda: nn.Sequential(nn.Linear(5, 8), nn.GELU(), nn.Linear(8, 2), nn.Tanh()), (5,)),
    "cnn": (convolutional, (2, 11, 11)),
    "residual": (Residual, (3, 6, 6)),
    "layer-norm": (lambda: nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.Linear(6, 2)), (5,)),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    torch.manual_seed(0)
    make, shape = NETWORKS[request.param]
    model = make().double()
    inputs = torch.randn(6, *shape).double()
    model.train()
    model(3 * inputs + 1)  # running statistics that are not 0 and 1
    return model.eval(), inputs


def test_lower_bounds_truth_and_upper_bounds_stand_in_order(network):
    model, inputs = network
    before = copy.deepcopy(model.state_dict())
    lower = lipschitz_lower_bound(model, inputs, steps=5)
    spectral = lipschitz_bound(model, inputs)
    frobenius = lipschitz_bound(model, inputs, norm="frobenius")
    assert 0 < lower <= spectral * (1 + 1e-9)
    assert spectral <= frobenius * (1 + 1e-9)
    assert stretch(model, inputs) <= lower * (1 + 1e-3)  # the ascent begins at these inputs
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_linear_network_is_met_from_both_sides():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(7, 5, bias=False)).double()
    true = float(torch.linalg.matrix_norm(model[0].weight.detach(), 2))
    assert lipschitz_bound(model, torch.zeros(1, 7)) == pytest.approx(true, rel=1e-9)
    inputs = torch.randn(3, 7).double()
    assert lipschitz_lower_bound(model, inputs, iterations=200) == pytest.approx(true, rel=1e-6)


def test_overlapping_pools_stretch_and_others_do_not():
    x = torch.zeros(1, 1, 9, 9)
    assert lipschitz_bound(nn.Sequential(nn.MaxPool2d(2)), x) == 1
    overlapping = nn.MaxPool2d(3, stride=1)
    moved = x.clone()
    moved[0, 0, 4, 4] = 1
    assert lipschitz_bound(nn.Sequential(overlapping), x) == 3
    assert float((overlapping(moved) - overlapping(x)).norm()) == 3


def test_batch_norm_in_evaluation_mode():
    norm = nn.BatchNorm1d(3, eps=0.01)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, -4.0, 2.0]))
        norm.running_var.copy_(torch.tensor([1.0, 3.99, 0.0]))
    assert lipschitz_bound(nn.Sequential(norm), torch.zeros(1, 3)) == pytest.approx(20)


def test_it_works_on_resnet18():
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model = torchvision.models.resnet18().eval()
    images = torch.randn(2, 3, 32, 32)
    upper = lipschitz_bound(model, images, norm="frobenius")
    assert 0 < lipschitz_lower_bound(model, images, steps=1, iterations=3) < upper < math.inf


# What is no bound


def test_a_frobenius_norm_without_its_factor_is_no_bound(monkeypatch):
    layer = nn.Conv2d(1, 1, 3, bias=False)
    nn.init.ones_(layer.weight)
    model, x = nn.Sequential(layer), torch.zeros(1, 1, 30, 30)
    spectral = lipschitz_bound(model, x)
    assert spectral <= lipschitz_bound(model, x, norm="frobenius")
    monkeypatch.setattr(module, "_patches", lambda name, layer: 1)
    assert spectral > 2.9 * lipschitz_bound(model, x, norm="frobenius")


def test_a_bound_that_forgets_a_branch_is_caught(monkeypatch):
    class Twice(nn.Module):
        def forward(self, x):
            return x + x

    x = torch.randn(2, 4).double()
    lower = lipschitz_lower_bound(Twice(), x)
    assert lower == pytest.approx(2) and lipschitz_bound(Twice(), x) == 2
    monkeypatch.setattr(module, "_NON_EXPANSIVE", module._NON_EXPANSIVE | {"add"})
    real = module._Constants._bound
    monkeypatch.setattr(
        module._Constants, "_bound", lambda self, node, before: min(before, default=1.0)
    )
    assert lower > lipschitz_bound(Twice(), x)
    monkeypatch.setattr(module._Constants, "_bound", real)


# Bad input


class Squares(nn.Module):
    def forward(self, x):
        return x * x


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: conv_spectral_norm(nn.Linear(2, 2), (2,)), TypeError, "Linear is no convolution"),
        (lambda: conv_spectral_norm(nn.Conv2d(2, 2, 3), (3, 8, 8)), ValueError, "do not fit"),
        (lambda: lipschitz_bound(Squares(), torch.zeros(1, 2)), ValueError, "mul"),
        (
            lambda: lipschitz_bound(nn.Sequential(nn.Softmax(1)), torch.zeros(1, 2)),
            ValueError,
            "softmax",
        ),
        (
            lambda: lipschitz_bound(nn.Linear(2, 2), torch.zeros(1, 2), norm="max"),
            ValueError,
            "spectral, frobenius",
        ),
        (
            lambda: lipschitz_bound(
                nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False)), torch.zeros(2, 2)
            ),
            ValueError,
            "running statistics",
        ),
    ],
)
def test_bad_input_is_one_sentence(call, error, words):
    with pytest.raises(error, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_small_shapes_are_written_out():
    assert np.isclose(module.operator_norm(lambda x: 3 * x, (1,)), 3)
