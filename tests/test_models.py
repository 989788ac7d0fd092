"""The architectures: sizes, equivalences, and what is said of bad input."""

import itertools
import math

import pytest
import torch
import torch.fx
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from swrlib.datasets import Dataset
from swrlib.models import MODELS, CReLU, build_model


def images(channels, height, width, classes=10):
    pixels = torch.zeros(1, channels, height, width, dtype=torch.uint8)
    label = torch.zeros(1, dtype=torch.int64)
    names = tuple(map(str, range(classes)))
    constants = (0.5,) * channels
    return Dataset("made-up", pixels, label, pixels, label, names, constants, constants)


MNIST, CIFAR10 = images(1, 28, 28), images(3, 32, 32)
CIFAR100, TINY_IMAGENET = images(3, 32, 32, 100), images(3, 64, 64, 200)


def on_meta(name, dataset, **options):
    with torch.device("meta"):
        return build_model(name, dataset, **options)


@pytest.mark.parametrize(
    ("name", "dataset", "options", "count"),
    [
        ("mlp", MNIST, {}, 89_610),
        ("mlp", CIFAR10, {}, 318_410),
        ("cnn", CIFAR10, {}, 66_342),
        ("cnn", CIFAR100, {}, 75_432),
        ("cnn-bn", CIFAR100, {}, 75_464),
        ("vgg16", TINY_IMAGENET, {}, 40_716_552),
        ("vgg16", TINY_IMAGENET, {"convolution_bias": False}, 40_712_328),
        # without batch norm: less a scale and a shift for each of 4,224 channels
        ("vgg16", TINY_IMAGENET, {"normalization": False}, 40_716_552 - 2 * 4_224),
        ("cnn-strided", CIFAR10, {}, 91_594),
        ("resnet18", CIFAR10, {}, 11_173_962),
        ("resnet18", MNIST, {"width": 16}, 2_724 * 16**2 + (9 + 150 + 80) * 16 + 10),
    ],
)
def test_parameter_counts(name, dataset, options, count):
    model = on_meta(name, dataset, **options)
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    assert all(parameter.requires_grad for parameter in model.parameters())


def reference(model, name, x):
    """The forward pass in textbook order, the pooling after the ReLU, written out."""
    parts = dict(model.named_children())

    def convolve(x, key, padding=1):
        layer = parts[key]
        x = functional.conv2d(x, layer.weight, layer.bias, padding=padding)
        norm = parts.get(key.replace("conv", "norm"))
        if norm is not None:
            x = functional.batch_norm(x, None, None, norm.weight, norm.bias, training=True)
        return functional.relu(x)

    blocks = {"mlp": (), "cnn": (1, 1), "cnn-bn": (1, 1), "vgg16": (2, 2, 3, 3, 3)}[name]
    for last, depth in zip(itertools.accumulate(blocks), blocks, strict=True):
        for index in range(last - depth + 1, last + 1):
            x = convolve(x, f"conv{index}")
        x = functional.max_pool2d(x, 2)
    x = x.flatten(1)
    linear = [part for part in parts.values() if isinstance(part, nn.Linear)]
    for layer in linear[:-1]:
        x = functional.relu(functional.linear(x, layer.weight, layer.bias))
    return functional.linear(x, linear[-1].weight, linear[-1].bias)


@pytest.mark.parametrize("name", ["mlp", "cnn", "cnn-bn"])
def test_pooling_before_the_activation_changes_nothing(name):
    torch.manual_seed(0)
    model = build_model(name, CIFAR10).double()
    x = torch.randn(8, 3, 32, 32, dtype=torch.double)
    outputs, expected = model(x), reference(model, name, x)
    assert outputs.std() > 1e-3
    assert torch.equal(outputs, expected)
    gradients = torch.autograd.grad(outputs.square().sum(), list(model.parameters()))
    for ours, theirs in zip(
        gradients,
        torch.autograd.grad(expected.square().sum(), list(model.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("data", [CIFAR10, images(2, 9, 5, 3)])
def test_strided_convolutions_forward(activation, data):
    torch.manual_seed(0)
    model = build_model("cnn-strided", data, activation=activation, initialization="glorot")
    model, act = model.double(), getattr(torch, activation)
    images = x = torch.randn(3, *data.shape, dtype=torch.double)
    for layer in (model.conv1, model.conv2, model.conv3):
        # stride 2, written out: every second place of the dense convolution
        x = act(functional.conv2d(x, layer.weight, layer.bias, padding=1)[..., ::2, ::2])
    x = x.flatten(1)
    for layer in (model.linear1, model.linear2):
        x = act(x @ layer.weight.T + layer.bias)
    expected = x @ model.linear3.weight.T + model.linear3.bias
    torch.testing.assert_close(model(images), expected, rtol=1e-12, atol=1e-12)
    last = (model.linear2, model.linear3)
    hessian = sum(p.numel() for layer in last for p in layer.parameters())
    assert hessian == 2410 - 33 * (10 - len(data.classes)), "as in the paper's MLP"


def test_vgg16_forward():
    torch.manual_seed(0)
    with torch.device("meta"):
        model = build_model("vgg16", CIFAR10)
    model.to_empty(device="cpu")
    for parameter in model.parameters():  # He's scale, so that the outputs depend on the input
        nn.init.normal_(parameter, std=math.sqrt(2 / parameter[0].numel()))
    x = torch.randn(4, 3, 32, 32)
    outputs = model(x)
    assert outputs.std(0).min() > 0.01
    torch.testing.assert_close(outputs, reference(model, "vgg16", x), rtol=1e-4, atol=1e-4)


def test_normalization_is_an_option():
    assert repr(on_meta("cnn", CIFAR10, normalization=True, convolution_bias=False)) == repr(
        on_meta("cnn-bn", CIFAR10)
    )
    kinds = [type(part) for part in on_meta("vgg16", TINY_IMAGENET)]
    without = [type(part) for part in on_meta("vgg16", TINY_IMAGENET, normalization=False)]
    assert kinds.count(nn.BatchNorm2d) == 13
    assert without == [kind for kind in kinds if kind is not nn.BatchNorm2d]


@settings(deadline=None, max_examples=25)
@given(
    st.sampled_from(["mlp", "cnn", "cnn-bn", "cnn-strided"]),
    st.integers(1, 4),
    st.integers(10, 40),
    st.integers(10, 40),
    st.integers(1, 12),
)
def test_any_size_and_number_of_channels(name, channels, height, width, classes):
    model = build_model(name, images(channels, height, width, classes))
    assert model(torch.randn(2, channels, height, width)).shape == (2, classes)


@pytest.mark.parametrize("size", [(32, 32), (33, 63), (64, 64), (96, 40)])
def test_any_size_for_vgg16(size):
    model = on_meta("vgg16", images(1, *size))
    assert model(torch.zeros(2, 1, *size, device="meta")).shape == (2, 10)


@pytest.mark.parametrize("name", MODELS)
def test_models_are_traceable(name):
    graph = torch.fx.symbolic_trace(on_meta(name, CIFAR10)).graph
    operations = [node.op for node in graph.nodes]
    added = {"call_function"} if name == "resnet18" else set()
    assert set(operations) == {"placeholder", "call_module", "output"} | added


def test_the_same_seed_gives_the_same_weights_in_every_place():
    torch.manual_seed(3)
    first = build_model("cnn", CIFAR10).state_dict()
    torch.manual_seed(3)
    second = build_model("cnn", CIFAR10).state_dict()
    torch.manual_seed(4)
    third = build_model("cnn", CIFAR10).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not any(torch.equal(first[key], third[key]) for key in first)
    # PyTorch's default: uniform within 1 / sqrt(fan in)
    bound = 1 / math.sqrt(3 * 25)
    assert 0.9 * bound < first["conv1.weight"].abs().max() <= bound


@pytest.mark.parametrize(
    ("activation", "kind"),
    [
        ("relu", nn.ReLU),
        ("leaky_relu", nn.LeakyReLU),
        ("tanh", nn.Tanh),
        ("identity", nn.Identity),
        ("crelu", CReLU),
    ],
)
@pytest.mark.parametrize("name", ["mlp", "cnn", "cnn-bn", "cnn-strided", "vgg16"])
def test_activations(name, activation, kind):
    model = on_meta(name, CIFAR10, activation=activation)
    expected = {"mlp": 2, "cnn": 3, "cnn-bn": 3, "cnn-strided": 5, "vgg16": 15}[name]
    assert sum(type(part) is kind for part in model) == expected


def test_without_an_activation_a_network_is_linear():
    torch.manual_seed(0)
    model = build_model("mlp", MNIST, activation="identity").double()
    x, y = torch.randn(2, 3, 1, 28, 28, dtype=torch.double)
    zero = model(0 * x)
    torch.testing.assert_close(model(x + 2 * y) - zero, model(x) + 2 * model(y) - 3 * zero)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_crelu_shows_both_signs_to_the_next_layer(name):
    torch.manual_seed(0)
    model = build_model(name, CIFAR10, activation="crelu", hidden=(7, 6)).double()
    x = torch.randn(4, 3, 32, 32, dtype=torch.double)
    expected = x
    layers = [part for part in model if isinstance(part, nn.Linear | nn.Conv2d)]
    for layer in layers:
        if isinstance(layer, nn.Linear):
            expected = layer(expected.flatten(1))
        else:
            expected = functional.conv2d(expected, layer.weight, layer.bias, padding=1)
        if layer is not layers[-1]:
            expected = torch.cat([expected.clamp(min=0), (-expected).clamp(min=0)], 1)
        if isinstance(layer, nn.Conv2d):  # not before: the second half falls
            expected = functional.max_pool2d(expected, 2)
    assert torch.equal(model(x), expected)
    assert [layer.out_features for layer in layers[-3:]] == [7, 6, 10]
    assert [layer.in_features for layer in layers[-2:]] == [14, 12]


@pytest.mark.parametrize("name", ["mlp", "cnn-bn"])
def test_layer_norm_stands_before_the_activations(name):
    torch.manual_seed(0)
    model = build_model(name, CIFAR10, layer_norm=True, hidden=(7, 6)).double().eval()
    names = [key for key, _ in model.named_children()]
    linear = [key for key, part in model.named_children() if isinstance(part, nn.Linear)]
    for key in linear[:-1]:
        norm, activation = names[names.index(key) + 1 :][:2]
        assert isinstance(model.get_submodule(norm), nn.LayerNorm)
        assert isinstance(model.get_submodule(activation), nn.ReLU)
    assert names[-1] == linear[-1]
    assert len(set(names)) == len(names)
    given = torch.randn(5, model.get_submodule(linear[0]).in_features, dtype=torch.double)
    behind = nn.Sequential(*[model.get_submodule(n) for n in names[names.index(linear[0]) :][:2]])
    response = model.get_submodule(linear[0])(given)
    centred = response - response.mean(1, keepdim=True)
    expected = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(behind(given), expected)


@pytest.mark.parametrize("name", ["mlp", "cnn", "cnn-bn"])
@pytest.mark.parametrize(
    ("initialization", "bound"),
    [
        ("glorot", lambda inputs, outputs: math.sqrt(6 / (inputs + outputs))),
        ("he", lambda inputs, outputs: math.sqrt(6 / inputs)),
    ],
)
def test_initializations(name, initialization, bound):
    torch.manual_seed(0)
    model = build_model(name, MNIST, initialization=initialization)
    for layer in model:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            places = layer.weight[0, 0].numel()
            outputs, inputs = layer.weight.shape[:2]
            limit = bound(inputs * places, outputs * places)
            assert 0.9 * limit < layer.weight.abs().max() <= limit
            assert abs(layer.weight.mean()) < 0.1 * limit
            assert layer.bias is None or not layer.bias.any()


def test_the_default_initialization_is_pytorchs_alone():
    torch.manual_seed(3)
    default = build_model("cnn", CIFAR10).state_dict()
    torch.manual_seed(3)
    named = build_model("cnn", CIFAR10, initialization="pytorch", layer_norm=False).state_dict()
    assert all(torch.equal(value, named[key]) for key, value in default.items())


def test_hidden_units():
    model = on_meta("mlp", MNIST, hidden=[30, 20, 5])
    shapes = [tuple(part.weight.shape) for part in model if isinstance(part, nn.Linear)]
    assert shapes == [(30, 784), (20, 30), (5, 20), (10, 5)]


@pytest.mark.parametrize(
    ("name", "dataset", "options", "parts"),
    [
        ("vgg", TINY_IMAGENET, {}, ("'vgg'", "did you mean 'vgg16'")),
        ("cnn_bn", CIFAR10, {}, ("'cnn_bn'", "did you mean 'cnn-bn'")),
        ("vgg16", CIFAR10, {"normalisation": False}, ("did you mean 'normalization'",)),
        ("mlp", CIFAR10, {"normalization": True}, ("of mlp", "initialization")),
        ("mlp", CIFAR10, {"activation": "rleu"}, ("did you mean 'relu'",)),
        ("mlp", CIFAR10, {"initialization": "xavier"}, ("'xavier'", "glorot")),
        ("mlp", CIFAR10, {"layernorm": True}, ("did you mean 'layer_norm'",)),
        ("vgg16", MNIST, {}, ("32x32", "28x28")),
        ("vgg16", images(3, 64, 31), {}, ("32x32", "64x31")),
        ("cnn", images(3, 9, 32), {}, ("10x10", "9x32")),
        ("resnet18", images(3, 7, 32), {}, ("8x8", "7x32")),
        ("resnet18", CIFAR10, {"width": 0}, ("width is 0", "whole number from 1 on")),
        ("resnet18", CIFAR10, {"hidden": (1,)}, ("'hidden' of resnet18", "width")),
        ("resnet", CIFAR10, {}, ("did you mean 'resnet18'",)),
    ],
)
def test_bad_input(name, dataset, options, parts):
    with pytest.raises(ValueError) as caught:
        build_model(name, dataset, **options)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
