"""Hessians: of the last two layers against torch's own, of whole networks by finite differences."""

import copy
import math
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from swrlib.theory import last_layers
from swrlib.theory.curvature import (
    LossHessian,
    gradient_hessian_overlap,
    overlap,
    spectrum_summary,
    symmetric_eigenvalues,
)
from swrlib.theory.last_layers import LARGEST, last_layers_hessian, last_parameters
from swrlib.theory.spectrum import hessian_spectrum


class Both(nn.Module):
    """CReLU: positive and negative parts side by side."""

    def forward(self, x):
        return torch.cat([x.relu(), (-x).relu()], 1)


#: What stands between the last two layers, and how many features it makes of 8 units.
BETWEEN = {
    "relu": (nn.ReLU, 8),
    "leaky relu": (nn.LeakyReLU, 8),
    "tanh": (nn.Tanh, 8),
    "identity": (nn.Identity, 8),
    "in place": (lambda: nn.ReLU(inplace=True), 8),
    "crelu": (Both, 16),
    "normalized": (lambda: nn.Sequential(nn.LayerNorm(8), nn.GELU()), 8),
    "softmax": (lambda: nn.Softmax(1), 8),
}


def network(between="tanh", *, bias=True, seed=0):
    torch.manual_seed(seed)
    make, features = BETWEEN[between]
    layers = [nn.Flatten(), nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 8, bias=bias), make()]
    return nn.Sequential(*layers, nn.Linear(features, 5, bias=bias)).double()


def batch(count=17, seed=1, classes=5):
    draws = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, 4, generator=draws, dtype=torch.float64)
    return images, torch.randint(0, classes, (count,), generator=draws)


def by_autograd(model, images, labels, names):
    """Return torch.autograd.functional.hessian over these parameters, as one matrix."""
    all_values = {name: p.detach() for name, p in model.named_parameters()}

    def loss(*values):
        parts = all_values | dict(zip(names, values, strict=True))
        return cross_entropy(functional_call(model, parts, (images,)), labels)

    values = tuple(all_values[name] for name in names)
    blocks = torch.autograd.functional.hessian(loss, values)
    rows = [
        torch.cat([b.reshape(v.numel(), -1) for b in row], 1)
        for row, v in zip(blocks, values, strict=True)
    ]
    return torch.cat(rows)


def last_names(model):
    return [name for name, _ in model.named_parameters() if name[0] in "35"]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("between", BETWEEN)
def test_the_last_two_layers_equal_autograd(between, bias):
    model, (images, labels) = network(between, bias=bias), batch()
    before = copy.deepcopy(model.state_dict())
    found = last_layers_hessian(model, images, labels)
    expected = by_autograd(model, images, labels, last_names(model))
    assert expected.abs().max() > 1e-2
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


ACTIVATIONS = ("relu", "leaky relu", "tanh", "identity")


@pytest.mark.parametrize("between", ACTIVATIONS)
def test_the_last_two_layers_equal_curvlinops(between):
    curvlinops = pytest.importorskip("curvlinops")
    model, (images, labels) = network(between), batch(40)
    own = [dict(model.named_parameters())[name] for name in last_names(model)]
    operator = curvlinops.HessianLinearOperator(
        model, nn.CrossEntropyLoss(), own, [(images[:25], labels[:25]), (images[25:], labels[25:])]
    )
    found = last_layers_hessian(model, images, labels)
    expected = operator @ torch.eye(len(found), dtype=torch.float64)
    assert expected.abs().max() > 1e-2
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


def test_parts_of_the_images_add_up(monkeypatch):
    model, (images, labels) = network("relu"), batch(40)
    whole = last_layers_hessian(model, images, labels)
    monkeypatch.setattr(last_layers, "_ENTRIES", 2000)  # three images at a time
    torch.testing.assert_close(
        last_layers_hessian(model, images, labels), whole, rtol=0, atol=1e-15
    )
    other = last_layers_hessian(model, images, labels.roll(1))
    assert (other - whole).abs().max() > 1e-3  # the labels are seen


def test_a_network_in_float32_and_training_mode_is_looked_at_in_evaluation():
    layers = [nn.Flatten(), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout()]
    model = nn.Sequential(*layers, nn.Linear(8, 5))
    images, labels = batch()
    found = last_layers_hessian(model, images.float(), labels)
    still = copy.deepcopy(model).double().eval()
    names = ["1.weight", "1.bias", "5.weight", "5.bias"]
    expected = by_autograd(still, images.float().double(), labels, names)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    assert model.training and model[2].num_batches_tracked == 0


def test_a_convolutional_network_ends_in_two_linear_layers():
    torch.manual_seed(0)
    body = [nn.Conv2d(1, 3, 3, stride=2), nn.ReLU(), nn.Flatten()]
    model = nn.Sequential(*body, nn.Linear(27, 6), nn.ReLU(), nn.Linear(6, 4)).double()
    images = torch.randn(7, 1, 8, 8, dtype=torch.float64)
    labels = torch.arange(7) % 4
    names = ["3.weight", "3.bias", "5.weight", "5.bias"]
    expected = by_autograd(model, images, labels, names)
    found = last_layers_hessian(model, images, labels)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


def test_a_dead_network_has_the_head_bias_left():
    model, (images, labels) = network("relu"), batch()
    with torch.no_grad():
        model[3].bias.fill_(-1e3)
    found = last_layers_hessian(model, images, labels)
    assert int((found != 0).any(1).sum()) == 5  # the biases of the last layer
    summary = spectrum_summary(torch.linalg.eigvalsh(found))
    assert 0 < summary["srank"] <= 4 and summary["negative"] == 0


def test_a_summary():
    found = spectrum_summary(torch.tensor([-3.0, -1e-20, 0.0, 1.0], dtype=torch.float64))
    shares = [0.75, 0.25]
    expected = {
        "srank": 2,
        "effective-rank": math.exp(-sum(p * math.log(p) for p in shares)),
        "largest": 1,
        "smallest": -3,
        "sharpness": 3,
        "negative": 1,
    }
    assert found == pytest.approx(expected, rel=1e-12)
    nothing = spectrum_summary(torch.zeros(4, dtype=torch.float64))
    assert nothing == dict.fromkeys(expected, 0)


# Products


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def gradient_at(model, vector, images, labels):
    moved = copy.deepcopy(model)
    torch.nn.utils.vector_to_parameters(vector, moved.parameters())
    cross_entropy(moved(images), labels).backward()
    return torch.cat([p.grad.flatten() for p in moved.parameters()])


@pytest.mark.parametrize("between", ["relu", "tanh", "crelu", "normalized"])
def test_products_equal_finite_differences(between):
    model, (images, labels) = network(between), batch()
    hessian = LossHessian(model, images, labels)
    here, draws = flat(model), torch.Generator().manual_seed(3)
    assert len(hessian) == len(here)
    expected = gradient_at(model, here, images, labels)
    torch.testing.assert_close(hessian.gradient, expected, rtol=0, atol=1e-15)
    for _ in range(3):
        vector = torch.randn(len(here), generator=draws, dtype=torch.float64)
        step = 1e-6
        ahead, behind = (
            gradient_at(model, here + sign * step * vector, images, labels) for sign in (1, -1)
        )
        difference = (ahead - behind) / (2 * step)
        torch.testing.assert_close(hessian @ vector, difference, rtol=0, atol=1e-7)


def test_products_equal_the_matrix():
    model, (images, labels) = network("relu"), batch()
    names = last_names(model)
    hessian = LossHessian(model, images, labels, names)
    matrix = last_layers_hessian(model, images, labels)
    columns = [hessian @ column for column in torch.eye(len(matrix), dtype=torch.float64)]
    torch.testing.assert_close(torch.stack(columns), matrix, rtol=0, atol=1e-14)


def test_the_overlap():
    model, (images, labels) = network("tanh"), batch()
    every = [name for name, _ in model.named_parameters()]
    assert last_parameters(model, images) == last_names(model)
    for names, given in ((every, None), (last_names(model), last_names(model))):
        matrix = by_autograd(model, images, labels, names).numpy()
        hessian = LossHessian(model, images, labels, names)
        g = hessian.gradient.numpy()
        expected = g @ matrix @ g / (np.linalg.norm(g) * np.linalg.norm(matrix @ g))
        found = gradient_hessian_overlap(model, images, labels, given)
        assert found == pytest.approx(expected, rel=1e-10)
    vector = torch.tensor([3.0, 4.0])
    assert overlap(vector, 2 * vector) == pytest.approx(1, rel=1e-12)
    assert overlap(vector, -vector) == pytest.approx(-1, rel=1e-12)
    assert overlap(vector, 0 * vector) == overlap(0 * vector, vector) == 0


# What is refused


class Once(torch.autograd.Function):
    """A function with one derivative alone."""

    @staticmethod
    def forward(ctx, x):
        return x.exp()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return gradient


class OnceModule(nn.Module):
    def forward(self, x):
        return Once.apply(x)


class Cut(nn.Module):
    def forward(self, x):
        return x.detach()


class OverTheBatch(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


def with_between(module):
    layers = [nn.Flatten(), nn.Linear(12, 8), module, nn.Linear(8, 5)]
    return nn.Sequential(*layers).double()


def wide(units):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(12, units), nn.ReLU(), nn.Linear(units, 5)
    ).double()


def shared():
    layer = nn.Linear(12, 12)
    return nn.Sequential(nn.Flatten(), layer, nn.ReLU(), layer).double()


HESSIAN_REFUSED = {
    "too large": (lambda: wide(300), "5405 parameters.*5000"),
    "not twice": (lambda: with_between(OnceModule()), "differentiated twice"),
    "cut off": (lambda: with_between(Cut()), "cut off"),
    "over the batch": (lambda: with_between(OverTheBatch()), "others of its batch"),
    "one layer": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 5)).double(), "no two linear"),
    "shared": (shared, "used twice"),
    "probabilities": (
        lambda: nn.Sequential(*wide(4), nn.LogSoftmax(1)),
        "not those of its last linear layer",
    ),
}


@pytest.mark.parametrize("case", HESSIAN_REFUSED)
def test_a_hessian_is_refused_before_it_is_computed(case, monkeypatch):
    make, words = HESSIAN_REFUSED[case]
    model, (images, labels) = make(), batch()
    monkeypatch.setattr(last_layers, "_sums", lambda *given: pytest.fail("computed"))
    with pytest.raises(ValueError, match=words) as caught:
        last_layers_hessian(model, images, labels)
    assert "\n" not in str(caught.value) and ". " not in str(caught.value)
    assert LARGEST == 5000


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.zeros(16, dtype=torch.int64), r"\(16,\) for 17 images"),
        (torch.zeros(17), "float32"),
        (torch.full((17,), 5), "from 5 to 5"),
        (torch.full((17,), -1), "from -1 to -1"),
        (torch.zeros(17, 1, dtype=torch.int64), r"\(17, 1\)"),
    ],
)
def test_labels_are_checked(labels, words):
    images, _ = batch()
    for call in (last_layers_hessian, LossHessian):
        with pytest.raises(ValueError, match=words):
            call(network(), images, labels)


@pytest.mark.parametrize("module", [OnceModule, Cut])
def test_products_are_refused_on_one_image(module):
    seen = []

    class Counted(nn.Module):
        def forward(self, x):
            seen.append(len(x))
            return x

    layers = [nn.Flatten(), Counted(), nn.Linear(12, 8), module(), nn.Linear(8, 5)]
    model = nn.Sequential(*layers).double()
    if module is Cut:
        model[-1].requires_grad_(False)
        model[-1] = nn.Sequential(model[-1], Cut())
    with pytest.raises(ValueError, match="differentiated twice") as caught:
        LossHessian(model, *batch())
    assert seen == [1]
    assert "\n" not in str(caught.value) and ". " not in str(caught.value)


# A graph that is cut, and numbers that are not finite


class Through(nn.Module):
    """Values go through something that autograd does not see."""

    def __init__(self, cut):
        super().__init__()
        self.cut = cut

    def forward(self, x):
        return self.cut(x)


@torch.no_grad()
def quietly(x):
    return x * 2


CUTS = {
    "detach": lambda x: x.detach(),
    "numpy": lambda x: torch.tensor(x.detach().numpy() ** 2),
    "no_grad": quietly,
    "sign": lambda x: (x > 0).to(x),
    "list": lambda x: torch.tensor(x.tolist(), dtype=x.dtype),
}


def cut_in_the_middle(cut, frozen=()):
    torch.manual_seed(0)
    first, last = [nn.Flatten(), nn.Linear(12, 6), nn.Tanh()], [nn.Linear(6, 5)]
    model = nn.Sequential(*first, Through(cut), *last).double()
    for layer in frozen:
        model[layer].requires_grad_(False)
    return model


@pytest.mark.parametrize("call", [hessian_spectrum, gradient_hessian_overlap, LossHessian])
@pytest.mark.parametrize("cut", CUTS)
def test_a_graph_that_is_cut_in_the_middle_is_refused(cut, call):
    for frozen in ((), (4,)):  # a frozen head is no excuse for the layer before the cut
        with pytest.raises(ValueError, match=r"1\.weight, 1\.bias act .*freeze them") as caught:
            call(cut_in_the_middle(CUTS[cut], frozen), *batch())
        assert "\n" not in str(caught.value) and ". " not in str(caught.value)


def test_what_is_frozen_or_unused_is_no_cut():
    images, labels = batch()
    model = cut_in_the_middle(CUTS["detach"], frozen=(1,))
    for p, expected in ((model, 30 + 5), (network(), 242)):
        p.spare = nn.Identity()  # called, and has no parameters
        hessian = LossHessian(p, images, labels)
        vector = torch.ones(len(hessian), dtype=torch.float64)
        assert int((hessian @ vector).count_nonzero()) == expected
    frozen_head = network()
    frozen_head[-1].requires_grad_(False)
    vector = torch.ones(242, dtype=torch.float64)
    found = [LossHessian(m, images, labels) @ vector for m in (frozen_head, network())]
    assert torch.equal(*found)  # all parameters count, frozen ones too


class Spare(nn.Module):
    """A layer that is never called, and one whose outputs go nowhere."""

    def __init__(self):
        super().__init__()
        self.body, self.never, self.dropped = network(), nn.Linear(2, 2), nn.Linear(12, 2).double()

    def forward(self, x):
        self.dropped(x.flatten(1))
        return self.body(x)


def test_a_layer_that_does_nothing_to_the_outputs_is_no_cut():
    assert len(LossHessian(Spare(), *batch())) == 242 + 6 + 26


def test_what_is_not_symmetric_is_refused_with_its_size_and_a_remedy():
    model, (images, labels) = with_between(OnceModule()), batch()
    with pytest.raises(
        ValueError, match=r"replace that .* not symmetric, by ([\d.]+) of"
    ) as caught:
        hessian_spectrum(model, images, labels, order=5)
    words = str(caught.value)
    assert "1e-06 may be rounding" in words and "\n" not in words and ". " not in words
    (share,) = re.findall("not symmetric, by ([\\d.]+) of", words)
    assert 1e-3 < float(share) <= 1


def spoiled(value, image=False):
    model, (images, labels) = network("relu"), batch()
    with torch.no_grad():
        (images if image else model[1].weight).view(-1)[7] = value
    return model, images, labels


@pytest.mark.parametrize(
    "call",
    [last_layers_hessian, LossHessian, gradient_hessian_overlap, hessian_spectrum],
)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_named(value, call):
    for image, words in ((False, r"1\.weight"), (True, "images")):
        with pytest.raises(ValueError, match=f"not all numbers are finite in {words}") as caught:
            call(*spoiled(value, image))
        assert "\n" not in str(caught.value) and ". " not in str(caught.value)
    model, images, labels = spoiled(0.5)
    with torch.no_grad():
        model[1].weight.mul_(1e200)
        model[2] = nn.Identity()
        model[3].weight.mul_(1e200)
    with pytest.raises(ValueError, match=r"outputs are not finite.*float64") as caught:
        call(model, images, labels)
    assert "\n" not in str(caught.value) and ". " not in str(caught.value)


@pytest.mark.parametrize("call", [last_layers_hessian, hessian_spectrum])
def test_derivatives_that_are_not_finite_are_refused(call):
    """The root of an inactive unit: its value is finite, its slope is not."""
    with pytest.raises(ValueError, match="a derivative of the loss is not finite") as caught:
        call(with_between(Through(lambda x: x.relu().sqrt())), *batch())
    assert "\n" not in str(caught.value) and ". " not in str(caught.value)


def test_unknown_parameters_are_refused():
    with pytest.raises(ValueError, match=r"did you mean '3\.weight'"):
        LossHessian(network(), *batch(), ["3.weigth"])


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("factor", [1, 10, 30, 100])
def test_a_network_that_is_sure_is_not_refused(factor, activation):
    """Where an answer has all the probability, second derivatives of its loss are rounding."""
    torch.manual_seed(0)
    sizes = ((20, 16), (16, 8))
    layers = [part for size in sizes for part in (nn.Linear(*size), activation())]
    model = nn.Sequential(*layers, nn.Linear(8, 5))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(factor)
    images = torch.randn(30, 20)
    hessian = last_layers_hessian(model, images, model(images).argmax(1))
    assert torch.isfinite(hessian).all()


@pytest.mark.parametrize("dead", [(), (0, 3, 4), tuple(range(12))])
def test_zero_rows_have_the_eigenvalue_zero(dead):
    torch.manual_seed(0)
    matrix = torch.randn(12, 12, dtype=torch.float64)
    matrix = matrix + matrix.T
    matrix[[*dead]] = 0
    matrix[:, [*dead]] = 0
    expected = torch.linalg.eigvalsh(matrix)
    torch.testing.assert_close(symmetric_eigenvalues(matrix), expected, rtol=1e-12, atol=1e-12)


def test_dead_units_leave_zero_rows():
    """So that the Hessian of a network with dead units costs less."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    with torch.no_grad():
        model[2].bias[1] = -100
    images, labels = torch.randn(20, 5), torch.arange(20) % 3
    hessian = last_layers_hessian(model, images, labels)
    assert int((hessian != 0).any(0).sum()) <= len(hessian) - (6 + 1 + 3)
