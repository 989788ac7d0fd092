"""Lipschitz constants: against dense operators and brute force; what is no bound is caught."""

from __future__ import annotations

import copy
import itertools
import math
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from swrlib.theory import conv_spectral_norm, convolutions, lipschitz_bound, lipschitz_lower_bound
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


@pytest.mark.parametrize("size", range(12, 19))
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 3, 1), (5, 2, 2), (3, 2, 1)])
def test_the_frobenius_bound_holds_where_inputs_wrap_around(kernel, stride, padding, size):
    layer = nn.Conv1d(1, 1, kernel, stride, padding, padding_mode="circular", bias=False)
    nn.init.ones_(layer.weight)
    bound = lipschitz_bound(layer, torch.zeros(1, 1, size), norm="frobenius")
    norm = dense_norm(layer, (1, size))
    assert norm <= bound * (1 + 1e-9) < 2 * norm


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
    real = module._Constants._bound
    monkeypatch.setattr(
        module._Constants,
        "_bound",
        lambda self, step, node, sources, value: min(self.bounds[source] for source in sources),
    )
    assert lower > lipschitz_bound(Twice(), x)
    monkeypatch.setattr(module._Constants, "_bound", real)


# Bad input


class Squares(nn.Module):
    def forward(self, x):
        return x * x


class Other(nn.Module):
    """A linear layer and any code."""

    def __init__(self, code) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.code = nn.Linear(8, 8), code

    def forward(self, x):
        return self.code(self.layer, x)


def hooked(change) -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 3))
    model[0].register_forward_hook(change)
    return model


def in_place() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 8), nn.LeakyReLU(0.1, inplace=True), nn.Linear(8, 8))
    model[1].register_forward_hook(lambda *_: None)
    return model


def patched() -> nn.Module:
    model = nn.Sequential(nn.ReLU())
    model[0].forward = lambda x: 7 * torch.relu(x)
    return model


def without_statistics() -> nn.Module:
    model = nn.Sequential(nn.InstanceNorm1d(3, track_running_stats=True, eps=0.2))
    model[0].track_running_stats = False
    return model


rows, maps = torch.randn(4, 8), torch.randn(2, 6, 6)
FAULTS = {
    "pooled maps": (nn.Sequential(nn.AvgPool2d(3, 1, 1)), maps, ""),
    "pooled rows": (nn.Sequential(nn.AvgPool1d(3, 1, 1)), rows, ""),
    "pooled to the edge": (
        nn.Sequential(nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False)),
        maps,
        "",
    ),
    "halved": (nn.Sequential(nn.AvgPool1d(2)), rows, ""),
    "by keyword": (Other(lambda a, x: F.avg_pool1d(input=x, kernel_size=2)), rows, ""),
    "dropout that is off": (
        Other(lambda a, x: F.dropout(a(x), 0.5, training=False, inplace=True)),
        rows,
        "",
    ),
    "another keyword": (
        nn.Sequential(Other(lambda a, x: F.linear(bias=None, weight=a.weight, input=x))),
        rows,
        "linear",
    ),
    "mean by keyword": (Other(lambda a, x: torch.mean(input=a(x), dim=1)), rows, ""),
    "changing hook": (hooked(lambda m, i, o: 7 * o), rows, "a hook changes what 0"),
    "hooked in place": (in_place(), rows, ""),
    "patched": (patched(), rows, r"0 \(ReLU\) has a forward of its own"),
    "insisting": (Other(lambda a, x: a(x.float().double())), rows, "float"),
    "watching hook": (hooked(lambda m, i, o: None), rows, ""),
    "without statistics": (without_statistics(), 0.01 * torch.randn(2, 3, 8), ""),
    "steep celu": (nn.Sequential(nn.CELU(-1.0)), rows, "celu"),
    "flat celu": (nn.Sequential(nn.CELU(0.5)), rows, ""),
    "steep celu, function": (Other(lambda a, x: F.celu(a(x), -1.0)), rows, "celu"),
    "softplus that jumps": (Other(lambda a, x: F.softplus(x, 1, 0)), rows, "softplus"),
    "usual softplus": (Other(lambda a, x: F.softplus(a(x))), rows, ""),
    "leaky by position": (Other(lambda a, x: F.leaky_relu(x, 2.0)), rows, ""),
    "old addition": (Other(lambda a, x: torch.add(x, 3, x)), rows, "add"),
    "stacked in front": (Other(lambda a, x: torch.stack([x, x]).sum(0)), rows, ""),
    "turned": (Other(lambda a, x: torch.stack([x, a(x)], 1).transpose(0, 1).mean(0)), rows, ""),
    "softmax": (Other(lambda a, x: torch.softmax(5 * a(x), 1)), rows, ""),
    "softmax over the batch": (Other(lambda a, x: torch.softmax(x, 0)), rows, "mixes the inputs"),
    "mean over the batch": (Other(lambda a, x: a(x) - x.mean(0)), rows, "mixes the inputs"),
    "cancelled": (Other(lambda a, x: a(x) + 1e6 - 1e6), rows, ""),
    "no outputs": (nn.Sequential(nn.Flatten(), nn.Linear(8, 1), nn.ReLU()), rows, ""),
}


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: conv_spectral_norm(nn.Linear(2, 2), (2,)), TypeError, "Linear is no convolution"),
        (lambda: conv_spectral_norm(nn.Conv2d(2, 2, 3), (3, 8, 8)), ValueError, "do not fit"),
        (lambda: lipschitz_bound(Squares(), torch.zeros(1, 2)), ValueError, "mul"),
        (
            lambda: lipschitz_bound(nn.Sequential(nn.LogSoftmax(1)), torch.zeros(1, 2)),
            ValueError,
            "logsoftmax",
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


@pytest.mark.filterwarnings("ignore:This overload of add is deprecated")
@pytest.mark.parametrize("name", FAULTS)
def test_a_bound_is_no_smaller_than_what_is_found_or_refused(name):
    model, inputs, refusal = FAULTS[name]
    model, inputs = copy.deepcopy(model).double(), inputs.double()
    if refusal:
        with pytest.raises(ValueError, match=refusal) as caught:
            lipschitz_bound(model, inputs)
        assert "\n" not in str(caught.value)
    else:
        lower = lipschitz_lower_bound(model, inputs)
        assert lower <= lipschitz_bound(model, inputs) * (1 + 1e-6) < 3


def test_small_shapes_are_written_out():
    assert np.isclose(module.operator_norm(lambda x: 3 * x, (1,)), 3)


# What a network may do besides: each either right or refused in one sentence


class Network(nn.Module):
    def __init__(self, function, *modules) -> None:
        super().__init__()
        self.function, self.inner = function, nn.ModuleList(modules)
        torch.manual_seed(0)
        for parameter in self.parameters():
            nn.init.normal_(parameter)

    def forward(self, x):
        return self.function(x, *self.inner)


def scaled_in_place(x, layer):
    y = layer(x)
    y.mul_(10)  # the value keeps its old name
    return y


def scaled_through_a_view(x, layer):
    y = layer(x)
    y.view(-1).mul_(10)
    return y


def part_scaled(x, layer):
    y = layer(x)
    y.squeeze(0).mul_(10)
    return y


def scaled_behind_a_view(x, layer):
    y = layer(x)
    seen = y.view(-1, 4)
    y *= 3
    return seen


def added_to_under_another_name(x, layer):
    y = layer(x)
    same = y
    y += x
    return same


CONSTANT = torch.tensor([1.0, -4.0, 2.0, 0.5]).double()
RIGHT = {  # network, least and greatest value that are right, in norms of its layer
    "shared module": (lambda x, layer: layer(layer(x)), 1, 1),
    "in-place addition": (lambda x, layer: layer(x).add_(x), None, None),
    "augmented addition": (lambda x, layer: layer(x).__iadd__(x), None, None),
    "in place, old name": (scaled_in_place, 10, 10),
    "in place, through a view": (scaled_through_a_view, 10, 10),
    "in place, part": (part_scaled, 10, 10),
    "in place, behind a view": (scaled_behind_a_view, 3, 3),
    "in place, another name": (added_to_under_another_name, None, None),
    "input in place": (lambda x, layer: layer(x.mul_(3)), 3, 3),
    "named operand": (lambda x, layer: torch.add(layer(x), other=layer(x)), 2, 2),
    "twice side by side": (lambda x, layer: layer(torch.cat([x, x], 0)), 2**0.5, 2**0.5),
    "broadcast": (lambda x, layer: layer(x) + layer(x).mean(1, keepdim=True), 1, 2),
    "product with constants": (lambda x, layer: layer(x * CONSTANT), 0.5, 4),
    "quotient": (lambda x, layer: layer((x - CONSTANT) / CONSTANT), 0.25, 2),
    "method": (lambda x, layer: layer(x).div(4), 0.25, 0.25),
    "steep ELU": (lambda x, layer: F.elu(layer(x), alpha=3.0), 1, 3),
    "steep leaky ReLU": (lambda x, layer: F.leaky_relu(layer(x), 5.0), 1, 5),
    "SELU": (lambda x, layer: F.selu(layer(x)), 1, 1.7582),
}


@pytest.mark.parametrize("name", RIGHT)
def test_other_operations_are_followed(name):
    function, least, greatest = RIGHT[name]
    model = Network(function, nn.Linear(4, 4)).double()
    norm = float(torch.linalg.matrix_norm(model.inner[0].weight.detach(), 2))
    inputs = torch.randn(5, 4, dtype=torch.float64)
    before = inputs.clone()
    bound = lipschitz_bound(model, inputs)
    lower = 0.0
    if name != "twice side by side":  # which has two rows of output for one of input
        lower = lipschitz_lower_bound(model, inputs, steps=5)
    assert torch.equal(inputs, before)
    assert lower <= bound * (1 + 1e-9)
    if name == "shared module":
        assert bound == pytest.approx(norm**2)
    elif least is None:
        assert bound == pytest.approx(1 + norm)
    else:
        assert least * norm * (1 - 1e-9) <= bound <= greatest * norm * (1 + 1e-9)


@pytest.mark.parametrize(
    ("model", "inputs", "expected"),
    [
        (nn.Sequential(), torch.randn(2, 4), 1),
        (nn.Identity(), torch.randn(2, 4), 1),
        (nn.Sequential(nn.LayerNorm(4, eps=0.01, elementwise_affine=False)), torch.randn(2, 4), 10),
        (
            nn.Sequential(nn.BatchNorm2d(3, eps=1e-12, affine=False)).eval(),
            torch.randn(2, 3, 2, 2),
            1,
        ),
        (nn.Sequential(nn.InstanceNorm2d(3, eps=0.01)), torch.randn(2, 3, 2, 2), 10),
        (nn.Sequential(nn.GroupNorm(1, 3, eps=0.01, affine=False)), torch.randn(2, 3, 2, 2), 10),
    ],
    ids=["no layers", "identity", "layer norm", "batch norm", "instance norm", "group norm"],
)
def test_networks_without_weights(model, inputs, expected):
    for norm in ("spectral", "frobenius"):
        assert lipschitz_bound(model, inputs, norm=norm) == pytest.approx(expected)
    assert lipschitz_lower_bound(model, inputs, steps=2) <= expected * (1 + 1e-5)


def test_a_single_layer_is_a_network():
    layer = nn.Linear(4, 3)
    true = float(torch.linalg.matrix_norm(layer.weight.detach(), 2))
    assert lipschitz_bound(layer, torch.zeros(1, 4)) == pytest.approx(true, rel=1e-6)
    wrapped = nn.utils.parametrizations.weight_norm(copy.deepcopy(layer))
    assert lipschitz_bound(wrapped, torch.zeros(1, 4)) == pytest.approx(true, rel=1e-6)


def test_weights_of_zero_and_weights_that_are_no_numbers():
    x = torch.randn(2, 3, 8, 8)
    layer = nn.Conv2d(3, 4, 3, bias=False)
    for value, expected in ((0.0, 0.0), (math.nan, math.nan), (math.inf, math.nan)):
        nn.init.constant_(layer.weight, value)
        model = nn.Sequential(layer, nn.Flatten(), nn.Linear(144, 2))
        assert lipschitz_bound(model, x) == pytest.approx(expected, nan_ok=True)
        assert lipschitz_lower_bound(model, x, steps=1) == pytest.approx(expected, nan_ok=True)
        assert conv_spectral_norm(layer, (3, 8, 8)) == pytest.approx(expected, nan_ok=True)


def test_an_ascent_from_zero_does_not_take_rounding_for_slope():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 50), nn.ReLU(), nn.Linear(50, 3))
    nn.init.constant_(model[0].bias, 100.0)
    for inputs in (torch.zeros(2, 4), torch.full((2, 4), 1e-9)):
        assert lipschitz_lower_bound(model, inputs) <= lipschitz_bound(model, inputs)


def test_callers_in_any_mode_get_the_same_and_no_warning(recwarn):
    torch.manual_seed(0)
    model, x = convolutional().eval(), torch.randn(2, 2, 11, 11)

    def both():
        return lipschitz_bound(model, x), lipschitz_lower_bound(model, x, steps=1)

    plain = both()
    with torch.no_grad():
        assert both() == plain
    with torch.inference_mode():
        assert both() == plain
    assert not [str(w.message) for w in recwarn]
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def integers() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2, bias=False))
    weight = torch.ones(2, 2, dtype=torch.int64)
    model[0].weight = nn.Parameter(weight, requires_grad=False)
    return model


two, calls = torch.zeros(1, 2), itertools.count(1)
BAD = {
    "another network each time": (
        Network(lambda x: x * next(calls)),
        two + 1,
        "something else than its trace",
    ),
    "control flow": (Network(lambda x: x if x.sum() > 0 else -x), two, "cannot be traced"),
    "unknown": (Network(torch.tan), two, "tan"),
    "weighted sum": (Network(lambda x: torch.add(x, x, alpha=5)), two, "add"),
    "rounded quotient": (
        Network(lambda x: torch.div(x, 2, rounding_mode="floor")),
        two,
        "div",
    ),
    "inverse": (Network(lambda x: 1 / x), two, "truediv"),
    "pieces": (Network(lambda x: torch.chunk(x, 2, 1)[0]), two, "chunk"),
    "number": (Network(lambda x: x * x.abs().mean().item()), two, "item"),
    "dropout of torch": (Network(lambda x: torch.dropout(x, 0.5, True)), two, "dropout"),
    "dropout that stays": (Network(lambda x: F.dropout(x, 0.5)), two, "dropout"),
    "padding twice": (
        nn.Sequential(nn.Conv2d(1, 1, 3, padding=3, padding_mode="circular")),
        torch.zeros(1, 1, 4, 4),
        "pads",
    ),
    "complex weights": (nn.Sequential(nn.Linear(2, 2, dtype=torch.complex64)), two, "complex64"),
    "integer weights": (integers(), two, "int64"),
    "integer inputs": (nn.Sequential(nn.Linear(2, 2)), two.long(), "int64"),
    "complex inputs": (nn.Sequential(nn.Linear(2, 2)), two.to(torch.complex64), "complex64"),
    "no inputs": (nn.Sequential(nn.Linear(2, 2)), two[:0], "none"),
    "other size": (nn.Sequential(nn.Linear(3, 2)), two, "shape"),
    "one number": (nn.Sequential(nn.ReLU()), torch.tensor(1.0), "there are none"),
    "images wanted": (nn.Sequential(nn.BatchNorm2d(2)), two, "expected 4D input"),
    "two axes short": (Network(lambda x: x.mean((2, 3))), two, "out of range"),
    "two inputs": (nn.Bilinear(2, 2, 2), two, "missing"),
    "no eps": (nn.Sequential(nn.LayerNorm(2, eps=0)), torch.randn(1, 2), "has no eps"),
    "dropout by another word": (
        Network(lambda x: torch.dropout(x, 0.5, train=True)),
        two + 1,
        "something else|dropout",
    ),
    "no shape yet": (nn.Sequential(nn.LazyLinear(2)), two, "0.weight has no shape yet"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_has_no_bound_is_refused_in_one_sentence(name):
    model, inputs, words = BAD[name]
    with pytest.raises(ValueError, match=words) as caught:
        lipschitz_bound(model, inputs, norm="frobenius")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "inputs", "words"),
    [
        (nn.Sequential(nn.Linear(2, 2, dtype=torch.complex64)), two, "complex64"),
        (integers(), two, "int64"),
        (nn.Sequential(nn.Linear(2, 2)), two.long(), "int64"),
        (nn.Sequential(nn.Linear(2, 2)), two[:0], "none"),
        (nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False)), two, "running"),
        (Network(lambda x: (x, x)), two, "one tensor"),
        (Network(lambda x: x.argmax(1)), two, "one tensor"),
        (Network(lambda x: x.sum()), two, "one tensor"),
        (Network(lambda x: F.dropout(x, 0.5)), torch.ones(1, 50), "random"),
        (nn.Sequential(nn.Linear(3, 2)), two, "fails on an input of shape"),
        (nn.Bilinear(2, 2, 2), two, "missing"),
        (Network(lambda x: x.sum()[None]), torch.zeros(3, 2), "a row for each"),
        (Network(lambda x: x - x.mean(0)), torch.randn(3, 2), "mixes the inputs"),
        (Network(lambda x: torch.softmax(x, 0)), torch.randn(2, 2), "mixes the inputs"),
    ],
)
def test_where_no_ascent_is_possible(model, inputs, words):
    with pytest.raises(ValueError, match=words) as caught:
        lipschitz_lower_bound(model, inputs)
    assert "\n" not in str(caught.value)


def test_a_network_that_insists_on_a_type_of_its_own_is_ascended_in_it():
    single = Other(lambda a, x: a(x.float()))
    found = lipschitz_lower_bound(single, rows)
    assert found == pytest.approx(
        float(torch.linalg.matrix_norm(single.layer.weight.detach(), 2)), rel=1e-3
    )


def test_biases_do_not_count_however_they_are_made():
    layer = nn.Conv2d(1, 3, 3, padding=1)
    wanted = conv_spectral_norm(layer, (1, 3, 3))
    nn.init.constant_(layer.bias, 5.0)
    assert conv_spectral_norm(layer, (1, 3, 3)) == pytest.approx(wanted, rel=1e-6)
    nn.utils.parametrize.register_parametrization(layer, "bias", nn.Softplus(), unsafe=True)
    assert conv_spectral_norm(layer, (1, 3, 3)) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(
    ("layer", "shape", "words"),
    [
        (nn.Conv2d(1, 2, 3), (8, 8), "channels and 2 sizes"),
        (nn.Conv2d(1, 2, 3), (1, 1, 8, 8), "channels and 2 sizes"),
        (nn.Conv2d(1, 2, 3), (1, 2, 2), "do not fit"),
        (nn.Conv2d(1, 2, 3), (1, 8.0, 8.0), "whole numbers"),
        (nn.Conv2d(1, 2, 3), 8, "channels and 2 sizes"),
        (nn.Conv2d(1, 2, 3, dtype=torch.complex64), (1, 8, 8), "complex64"),
    ],
)
def test_inputs_that_do_not_fit_a_convolution(layer, shape, words):
    with pytest.raises(ValueError, match=words) as caught:
        conv_spectral_norm(layer, shape)
    assert "\n" not in str(caught.value)


# Large convolutions, bounded by their symbol


def plane(layer) -> float:
    return convolutions.plane_bound(
        layer.weight.detach(), layer.stride, layer.dilation, layer.groups
    )


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(2, 3, 3), (2, 9, 8)),
        (nn.Conv2d(3, 2, 3, padding=1), (3, 9, 9)),
        (nn.Conv2d(3, 4, 5, padding=1, stride=2), (3, 11, 10)),
        (nn.Conv2d(3, 4, 5, padding=4, stride=3), (3, 11, 10)),
        (nn.Conv2d(4, 6, 3, groups=2, padding=2, dilation=2), (4, 9, 9)),
        (nn.Conv2d(4, 4, 3, groups=4, padding="same"), (4, 8, 8)),
        (nn.Conv2d(2, 3, (3, 2), stride=(2, 1), dilation=(1, 2)), (2, 9, 9)),
        (nn.Conv2d(4, 6, 1), (4, 5, 5)),
        (nn.Conv2d(2, 3, 2, 2), (2, 8, 8)),
        (nn.Conv2d(2, 3, 2, 3), (2, 8, 8)),
        (nn.Conv1d(2, 3, 4, stride=3), (2, 30)),
        (nn.Conv1d(1, 1, 9, padding=4), (1, 60)),
        (nn.Conv3d(1, 2, 2), (1, 5, 4, 5)),
        (nn.ConvTranspose2d(2, 3, 3, stride=2), (2, 6, 6)),
        (nn.ConvTranspose2d(4, 2, 3, 2, 1, output_padding=1, groups=2), (4, 6, 6)),
    ],
    ids=str,
)
@pytest.mark.parametrize("kernel", ["drawn", "ones", "smooth"])
def test_the_symbol_bounds_the_dense_operator_and_not_by_much(layer, shape, kernel):
    torch.manual_seed(0)
    layer = copy.deepcopy(layer)
    with torch.no_grad():
        if kernel == "ones":
            layer.weight.fill_(1)
        elif kernel == "smooth":
            layer.weight.copy_(layer.weight.abs() + 0.05 * torch.randn_like(layer.weight))
    dense = dense_norm(layer, shape)
    bound = conv_spectral_norm(layer, shape, exact=False)
    assert bound == plane(layer)
    # Much larger images come nearer to the plane: the bound is no more than 0.2% above those.
    assert dense <= bound
    larger = (shape[0], *(8 * size if len(shape) < 4 else 4 * size for size in shape[1:]))
    near = conv_spectral_norm(layer, larger, exact=True)
    assert near <= bound <= 1.03 * near


@pytest.mark.parametrize("seed", range(8))
def test_the_plane_is_searched_without_a_gap(seed):
    """Against the greatest value on a fine grid of angles, for kernels with narrow peaks."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(2, 2, 7, generator=generator, dtype=torch.float64)
    weight = weight * torch.cos(torch.arange(7) * (0.3 + seed) + seed)
    angles = torch.linspace(0, math.pi, 20_001, dtype=torch.float64)
    phases = torch.exp(1j * angles[:, None] * torch.arange(7))
    symbol = torch.einsum("oik,ak->aoi", weight.to(phases), phases)
    greatest = float(torch.linalg.matrix_norm(symbol, 2).max())
    bound = convolutions.plane_bound(weight, (1,), (1,))
    assert greatest * (1 - 1e-12) <= bound <= greatest * (1 + 2 * convolutions.EXCESS)


def test_a_large_convolution_takes_seconds():
    torch.manual_seed(0)
    layer = nn.Conv2d(64, 64, 3, padding=1)
    began = time.process_time()
    norms = [conv_spectral_norm(layer, (64, size, size)) for size in (56, 112)]
    assert time.process_time() - began < 6  # 1 to 2 on an idle machine; the exact ones 200
    assert norms[0] == norms[1] == plane(layer)
    x = torch.randn(1, 64, 56, 56, dtype=torch.float64)
    weight = layer.weight.detach().double()
    for _ in range(15):  # a power iteration is a bound from below, and comes near
        x = x / x.norm()
        y = F.conv2d(x, weight, padding=1)
        stretched = float(y.norm())
        x = F.conv_transpose2d(y, weight, padding=1)
    assert 0.9 * norms[0] < stretched < norms[0]


@pytest.mark.parametrize("kernel", ["drawn", "smooth", "one peak", "low rank"])
def test_many_channels_are_bounded_in_seconds(kernel):
    torch.manual_seed(0)
    weight = torch.randn(128, 128, 3, 3, dtype=torch.float64)
    if kernel == "smooth":
        weight += 0.3
    elif kernel == "one peak":
        weight[:] *= torch.tensor([1.0, -1.0, 1.0])
        weight[0] += 1
    elif kernel == "low rank":
        weight = torch.einsum("or,rikl->oikl", weight[:, :2, 0, 0], weight[:2])
    began = time.process_time()
    bound = convolutions.plane_bound(weight, (1, 1), (1, 1))
    assert time.process_time() - began < 8  # one on an idle machine
    angles = torch.rand(60, 2, generator=torch.Generator().manual_seed(1)) * 2 * math.pi
    phases = torch.einsum(
        "ak,al->akl", *torch.exp(1j * angles[..., None] * torch.arange(3)).unbind(1)
    )
    symbols = torch.einsum("oikl,akl->aoi", weight.to(torch.complex64), phases)
    assert float(torch.linalg.matrix_norm(symbols, 2).max()) <= bound * (1 + 1e-5)


def test_what_pads_with_its_own_inputs_is_only_iterated():
    layer = nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect")
    with pytest.raises(ValueError, match="only exact=True fits"):
        conv_spectral_norm(layer, (2, 9, 9), exact=False)
    assert math.isnan(convolutions.plane_bound(torch.full((1, 1, 3), math.nan), (1,), (1,)))
    assert convolutions.plane_bound(torch.zeros(1, 1, 3), (1,), (1,)) == 0


# At real size


def test_vgg16_layer_by_layer():
    """The first convolution, on the largest images, and the last, with the most weights."""
    torch.manual_seed(0)
    first, last = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(512, 512, 3, padding=1)
    for layer, shape in ((first, (3, 64, 64)), (last, (512, 4, 4))):
        weight = layer.weight.detach()
        norm = conv_spectral_norm(layer, shape)
        reshaped = float(torch.linalg.matrix_norm(weight.flatten(1), 2))
        assert reshaped <= norm <= 3 * float(weight.norm())
        # No input is stretched further.
        x = torch.randn(4, *shape)
        with torch.no_grad():
            y = F.conv2d(x, weight, padding=1)
        assert (y.flatten(1).norm(dim=1) <= norm * x.flatten(1).norm(dim=1)).all()


def test_a_large_linear_layer_is_iterated_to_the_same_norm():
    weight = torch.randn(1100, 1500, dtype=torch.float64)
    found = module._linear_norm(weight, "spectral")
    assert found == pytest.approx(float(torch.linalg.matrix_norm(weight, 2)), rel=1e-6)


@pytest.mark.parametrize("name", ["vgg16_bn", "resnet18"])
def test_torchvisions_networks(name):
    """VGG-16-BN pools *up* to 7×7 here, ResNet-18 has branches and an overlapping pool."""
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    with torch.device("meta"):
        model = getattr(torchvision.models, name)(weights=None)
        if name == "vgg16_bn":  # the shape of what enters is kept
            model.classifier[0], model.classifier[3] = nn.Linear(25088, 64), nn.Linear(64, 4096)
    model = model.to_empty(device="cpu").eval()
    for value in model.state_dict().values():
        value.fill_(0.001)
    images = torch.ones(1, 3, 32, 32)
    upper = lipschitz_bound(model, images, norm="frobenius")
    lower = lipschitz_lower_bound(model, images, steps=0, iterations=1)
    assert 0 <= lower < upper < math.inf
