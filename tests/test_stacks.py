"""The stack: every replica does what the model would do alone, and knows nothing of the others."""

from __future__ import annotations

import gc
import os
import time
import types
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from oracles import Norms, dataset
from torch import nn
from torch.nn.functional import cosine_similarity, cross_entropy
from torch.nn.parameter import is_lazy

from swrlib import wide
from swrlib.memory import free_memory
from swrlib.models import MODELS, build_model
from swrlib.network.graph import NORMALIZATIONS
from swrlib.population import Blueprint, Population
from swrlib.stacks import Stack, default_size, needed_memory, outline
from swrlib.wide import OneDNNAffine, onednn_product, product

CPU = torch.device("cpu")
GREY = dataset(shape=(1, 10, 10), classes=4)


def vgg_like(*, bias: bool = True) -> nn.Sequential:
    """Return two blocks of two convolutions with batch norm, then three linear layers."""
    layers: list[tuple[str, nn.Module]] = []
    channels = 1
    for number, outputs in enumerate((4, 6), start=1):
        for position in "ab":
            name = f"{number}{position}"
            layers += [
                (f"conv{name}", nn.Conv2d(channels, outputs, 3, padding=1, bias=bias)),
                (f"norm{name}", nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.3)),
                (f"activation{name}", nn.ReLU()),
            ]
            channels = outputs
        layers.append((f"pool{number}", nn.MaxPool2d(2)))
    layers += [
        ("flatten", nn.Flatten()),
        ("linear1", nn.Linear(6 * 2 * 2, 9)),
        ("activation1", nn.ReLU()),
        ("linear2", nn.Linear(9, 7)),
        ("activation2", nn.Tanh()),
        ("linear3", nn.Linear(7, 4)),
    ]
    return nn.Sequential(OrderedDict(layers))


def odd_convolutions() -> nn.Sequential:
    """Return convolutions with a stride, a dilation, an uneven padding and groups."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 4, (3, 2), stride=(1, 2), padding=(2, 0)),
            activation1=nn.LeakyReLU(0.3),
            conv2=nn.Conv2d(4, 6, 3, dilation=2, padding="same", groups=2),
            pool=nn.AvgPool2d(3),
            flatten=nn.Flatten(),
            linear=nn.Linear(6 * 4 * 1, 4),
        )
    )


class Residual(nn.Module):
    """A stem, a block with a shortcut, one whose sum is in place, and a pooling head."""

    def __init__(self, norm=nn.BatchNorm2d) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 4, 3, padding=1, bias=False), norm(4)
        self.relu = nn.ReLU(inplace=True)
        self.first, self.norm1 = nn.Conv2d(4, 6, 3, 2, 1, bias=False), norm(6)
        self.second, self.norm2 = nn.Conv2d(6, 6, 3, padding=1, bias=False), norm(6)
        self.shortcut = nn.Sequential(nn.Conv2d(4, 6, 1, stride=2, bias=False), norm(6))
        self.third, self.norm3 = nn.Conv2d(6, 6, 3, padding=1, groups=2, bias=False), norm(6)
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.norm(self.stem(x)))
        out = self.norm2(self.second(self.relu(self.norm1(self.first(x)))))
        out += self.shortcut(x)
        x = self.relu(out)
        x = self.relu(x + self.norm3(self.third(x)))
        return self.head(torch.flatten(self.pool(x), 1))


class Code(nn.Module):
    """A convolution, any code, and a linear layer without bias on what it leaves."""

    def __init__(self, code, units: int = 6) -> None:
        super().__init__()
        self.conv, self.code = nn.Conv2d(1, 6, 3, padding=1), code
        self.head = nn.Linear(units, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.code(self.conv, x))


def averaged(function):
    """Return code that applies a function to the convolution's maps, and averages."""
    return lambda conv, x: function(conv(x)).mean((2, 3))


def in_place(h: torch.Tensor) -> torch.Tensor:
    h = 2 * h
    h += 0.1
    h *= 3
    return F.relu(h, inplace=True)


CODE = {
    "images-added": (lambda conv, x: (conv(x) + x).mean(dim=[-1, -2]), 6),
    "joined-channels": (averaged(lambda h: torch.cat([h, F.relu(h), 2 * h], 1)), 18),
    "joined-rows": (averaged(lambda h: torch.cat([h, h.abs()], dim=-2)), 6),
    "joined-units": (
        lambda conv, x: torch.cat([conv(x).mean((2, 3)), x.amax((2, 3))], -1),
        7,
    ),
    "gate": (averaged(lambda h: h * torch.sigmoid(h.mean((2, 3), keepdim=True)) - h / 3), 6),
    "smooth": (averaged(lambda h: F.gelu(h) + F.silu(h).tanh() + F.softplus(h, 2.0)), 6),
    "constants": (averaged(lambda h: 1 - 3 * h.div(2) + 0.5), 6),
    "pools": (
        lambda conv, x: F.adaptive_max_pool2d(F.avg_pool2d(conv(x), 3, 1, 1), 2).flatten(1),
        24,
    ),
    "broadcast-pools": (averaged(lambda h: F.relu(h) + F.max_pool2d(h, 10)), 6),
    "dilated-pools": (averaged(lambda h: F.max_pool2d(h, 3, 1, dilation=2)), 6),
    "resized": (averaged(lambda h: F.interpolate(h, scale_factor=2)), 6),
    "by-size": (lambda conv, x: (lambda h: h.view(h.size(0), -1))(conv(x)), 600),
    "in-place": (averaged(in_place), 6),
    "images-first": (lambda conv, x: conv(F.max_pool2d(x.abs(), 2) - 1).relu().mean((2, 3)), 6),
    "read-twice": (lambda conv, x: (lambda h: F.relu(h) + 2 * h.tanh())(conv(x)).flatten(1), 600),
}


def normalized() -> nn.Sequential:
    """Return every normalization, on maps and on units."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.GroupNorm(2, 4),
        nn.ELU(inplace=True),
        nn.LayerNorm([4, 8, 8]),
        nn.Conv2d(4, 6, 3, groups=2),
        nn.InstanceNorm2d(6, affine=True),
        nn.LayerNorm(6, bias=False),
        nn.RMSNorm([6, 6]),
        nn.BatchNorm2d(6, affine=False),
        nn.Flatten(),
        nn.Linear(216, 8),
        nn.BatchNorm1d(8),
        nn.Hardswish(),
        nn.Linear(8, 6, bias=False),
        nn.LayerNorm(6),
        nn.GroupNorm(3, 6),
        nn.Linear(6, 4),
    )


BUILDERS = {
    "mlp": lambda: build_model("mlp", GREY, hidden=(11, 9)),
    "mlp-tanh": lambda: build_model("mlp", GREY, hidden=(7,), activation="tanh"),
    "linear": lambda: build_model("mlp", GREY, hidden=()),
    "cnn": lambda: build_model("cnn", GREY, hidden=(12,)),
    "cnn-leaky_relu": lambda: build_model("cnn", GREY, hidden=(12,), activation="leaky_relu"),
    "mlp-crelu": lambda: build_model("mlp", GREY, hidden=(7, 6), activation="crelu"),
    "mlp-layer-norm": lambda: build_model("mlp", GREY, hidden=(7, 6), layer_norm=True),
    "cnn-crelu": lambda: build_model("cnn", GREY, hidden=(12,), activation="crelu"),
    "cnn-identity": lambda: build_model("cnn", GREY, hidden=(12,), activation="identity"),
    "cnn-without-bias": lambda: build_model("cnn", GREY, hidden=(12,), convolution_bias=False),
    "cnn-bn": lambda: build_model("cnn-bn", GREY, hidden=(12,)),
    "cnn-bn-with-bias": lambda: build_model("cnn-bn", GREY, hidden=(12,), convolution_bias=True),
    "cnn-bn-tanh": lambda: build_model("cnn-bn", GREY, hidden=(12,), activation="tanh"),
    "vgg-like": vgg_like,
    "vgg-like-without-bias": lambda: vgg_like(bias=False),
    "odd-convolutions": odd_convolutions,
    "residual": Residual,
    "residual-group-norm": lambda: Residual(lambda channels: nn.GroupNorm(2, channels)),
    "normalizations": normalized,
    "images-normalized": lambda: nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(100, 4)),
    **{f"code-{name}": lambda code=code: Code(*code) for name, code in CODE.items()},
}


def made(name: str, seed: int, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Return a model in which no two replicas and no two channels are alike."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BUILDERS[name]()
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, NORMALIZATIONS) and module.weight is not None:
                    module.weight.uniform_(0.5, 1.5)
                    if getattr(module, "bias", None) is not None:
                        module.bias.normal_(0, 0.5)
                if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                    module.running_mean.normal_(0, 0.5)
                    module.running_var.uniform_(0.5, 2)
                    module.num_batches_tracked.fill_(seed)
    return model.to(dtype)


def several(name: str, replicas: int, dtype: torch.dtype = torch.float64):
    """Return models, and the stack whose replicas hold their weights."""
    models = [made(name, seed, dtype) for seed in range(replicas)]
    stack = Stack(models[0], replicas, CPU, dtype)
    for replica, model in enumerate(models):
        stack.load(replica, model)
    return models, stack


def images(count: int = 6, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(count, 1, 10, 10, generator=generator, dtype=torch.float64).to(dtype)


def targets(count: int = 6) -> torch.Tensor:
    return torch.arange(count) % 4


def losses_of(logits: torch.Tensor) -> torch.Tensor:
    """Return each replica's mean loss, from logits [replicas, classes, N]."""
    labels = targets(logits.shape[2]).expand(len(logits), -1)
    return cross_entropy(logits, labels, reduction="none").mean(1)


def assert_close(actual, expected, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


# The linear layer


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("with_inputs", [True, False])
def test_the_gradients_by_onednn_are_numerical_ones(with_inputs, with_bias):
    generator = torch.Generator().manual_seed(0)
    weight, inputs, bias = (
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in ((3, 4), (4, 5), (3, 1))
    )
    inputs = inputs if with_inputs else inputs.detach()
    assert torch.autograd.gradcheck(
        OneDNNAffine.apply, (weight, inputs, bias if with_bias else None)
    )


@pytest.mark.parametrize("inputs", [1, 2, 4])
@pytest.mark.parametrize("with_bias", [True, False])
def test_linear_layers_are_those_of_each_replica(with_bias, inputs, arithmetic):
    """One wide product for all, one for the replicas of an input, and one for each."""
    model = nn.Sequential(OrderedDict(only=nn.Linear(4, 3, bias=with_bias)))
    stack = Stack(model, 4, CPU, torch.float32, seeds=inputs)
    layers = [nn.Sequential(OrderedDict(only=nn.Linear(4, 3, bias=with_bias))) for _ in range(4)]
    for replica, layer in enumerate(layers):
        stack.load(replica, layer)
    rows = torch.randn(inputs, 5, 4, generator=torch.Generator().manual_seed(0))
    found = stack(rows if inputs > 1 else rows[0], training=True)
    upstream = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    found.backward(upstream)
    for replica, layer in enumerate(layers):
        expected = layer(rows[replica * inputs // 4])
        assert_close(found[replica], expected.T, 1e-5)
        expected.backward(upstream[replica].T)
        for name, parameter in layer.named_parameters():
            assert_close(stack.parameters[name].grad[replica], parameter.grad, 1e-5)


# Products


@pytest.fixture(params=["onednn", "own"])
def arithmetic(request, monkeypatch):
    function = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if request.param == "onednn" and function is None:
        pytest.skip("this PyTorch has no product of oneDNN")
    chosen = function if request.param == "onednn" else None
    monkeypatch.setattr(wide, "onednn_product", lambda: chosen)
    return request.param


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("transposed", ["", "a", "b", "ab"])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (7, 5, 1), (1, 33, 17), (130, 61, 257)])
def test_a_product_is_a_product(m, n, k, transposed, dtype, arithmetic):
    generator = torch.Generator().manual_seed(m)

    def matrix(rows, columns, as_transpose):
        if as_transpose:
            return torch.randn(columns, rows, generator=generator).to(dtype).T
        return torch.randn(rows, columns, generator=generator).to(dtype)

    a, b = matrix(m, k, "a" in transposed), matrix(n, k, "b" in transposed)
    found = product(a, b)
    assert found.dtype == dtype
    assert found.shape == (m, n)
    exact = a.double() @ b.double().T
    scale = (a.double().abs() @ b.double().abs().T).max()  # sums may cancel
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=float(1e-6 * scale))


def failing(error):
    def function(*arguments):
        raise error

    return types.SimpleNamespace(_linear_pointwise=function)


def taking(products):
    """Return what takes as long as so many of PyTorch's own products."""

    def function(a, b, *others):
        for _ in range(products):
            a @ b.T
        return a

    return types.SimpleNamespace(_linear_pointwise=function)


@pytest.fixture
def unchosen():
    onednn_product.cache_clear()
    yield
    onednn_product.cache_clear()


@pytest.mark.parametrize(
    ("namespace", "taken"),
    [
        (types.SimpleNamespace(), False),
        (failing(RuntimeError("no kernel")), False),
        (failing(TypeError("another signature")), False),
        (taking(0), True),
        (taking(1), False),
        (taking(2), False),
    ],
    ids=["missing", "unsupported", "changed", "faster", "as fast", "slower"],
)
def test_onednn_is_taken_where_it_is_there_and_faster(namespace, taken, monkeypatch, unchosen):
    with monkeypatch.context() as patched:
        patched.setattr(torch.ops, "mkldnn", namespace)
        chosen = onednn_product()
    assert chosen == (namespace._linear_pointwise if taken else None)
    assert onednn_product() is chosen  # a process chooses once
    assert wide.by_onednn(CPU, torch.float32) == taken
    assert not wide.by_onednn(CPU, torch.float64)


def test_what_is_chosen_here_is_not_the_slower_product(unchosen):
    function = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if function is None:
        pytest.skip("this PyTorch has no product of oneDNN")
    a, b = torch.ones(100, 784), torch.ones(256, 784)
    ways = (lambda: product(a, b), lambda: a @ b.T, lambda: function(a, b, None, "none", [], ""))
    seconds: list[list[float]] = [[], [], []]
    for way, of_way in 40 * list(zip(ways, seconds, strict=True)):
        began = time.perf_counter()
        way()
        of_way.append(time.perf_counter() - began)
    chosen, *others = map(min, seconds)
    assert chosen < 1.3 * min(others)


# A stack and the models it was made from


@pytest.mark.parametrize("replicas", [1, 2, 3])
@pytest.mark.parametrize("name", BUILDERS)
def test_every_replica_is_its_model(name, replicas):
    models, stack = several(name, replicas)
    for step in range(3):
        given = images() + step
        logits = stack(given, training=True)
        assert logits.shape == (replicas, 4, 6)
        for parameter in stack.parameters.values():
            parameter.grad = None
        losses_of(logits).sum().backward()
        for replica, model in enumerate(models):
            expected = model.train()(given)
            assert_close(logits[replica], expected.T)
            model.zero_grad()
            cross_entropy(expected, targets()).backward()
            for key, parameter in model.named_parameters():
                assert_close(stack.parameters[key].grad[replica], parameter.grad)
        with torch.no_grad():
            for parameter in [
                *stack.parameters.values(),
                *(p for m in models for p in m.parameters()),
            ]:
                parameter -= 0.1 * parameter.grad
    after = stack(images(4), training=False)
    for replica, model in enumerate(models):
        assert_close(after[replica], model.eval()(images(4)).T)
        state = model.state_dict()
        assert set(stack.views(replica)) == set(state)
        for key, view in stack.views(replica).items():
            assert_close(view, state[key])
    if replicas > 1:
        assert (logits[0] - logits[1]).abs().max() > 1e-3


def outcome(stack: Stack) -> dict[str, torch.Tensor]:
    """Return all that comes of two steps and an evaluation, in float64."""
    for step in range(2):
        logits = stack(images(dtype=stack.dtype) + step, training=True)
        for parameter in stack.parameters.values():
            parameter.grad = None
        losses_of(logits).sum().backward()
    found = {f"gradient of {key}": block.grad for key, block in stack.parameters.items()}
    found |= stack.buffers | {"training": logits}
    found["evaluation"] = stack(images(4, stack.dtype), training=False)
    return {key: tensor.detach().double() for key, tensor in found.items()}


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize(
    "name", [name for name in BUILDERS if name[:3] in ("cnn", "vgg", "odd", "res", "nor", "cod")]
)
def test_in_the_layout_of_onednn_a_stack_does_the_same(name, replicas, monkeypatch):
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this PyTorch has no oneDNN")
    exact = outcome(several(name, replicas)[1])
    stack = several(name, replicas, torch.float32)[1]
    entered = []
    enter = torch.Tensor.to_mkldnn
    monkeypatch.setattr(torch.Tensor, "to_mkldnn", lambda x: (entered.append(1), enter(x))[1])
    found = outcome(stack)
    assert entered
    for key, expected in exact.items():
        scale = max(0.1, float(expected.abs().max()))  # before batch norm, a bias has no gradient
        torch.testing.assert_close(found[key], expected, rtol=0, atol=5e-5 * scale, msg=key)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_what_onednn_has_no_layout_for_lies_channels_last(dtype, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "to_mkldnn", None)
    stack = several("cnn-bn", 1, dtype)[1]
    assert stack.memory_format == torch.channels_last
    stack(images(dtype=torch.float32).to(dtype), training=True)


def test_without_onednn_a_stack_works_all_the_same():
    with torch.backends.mkldnn.flags(enabled=False):
        models, stack = several("cnn-bn", 2, torch.float32)
        logits = stack(images(dtype=torch.float32), training=True)
        for replica, model in enumerate(models):
            assert_close(logits[replica], model.train()(images(dtype=torch.float32)).T, 1e-4)


@pytest.mark.parametrize("name", ["mlp", "cnn-bn"])
def test_evaluation_changes_nothing(name):
    _, stack = several(name, 2)
    before = {key: view.clone() for key, view in stack.views(1).items()}
    stack(images(), training=False)
    assert all(torch.equal(view, before[key]) for key, view in stack.views(1).items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["mlp", "cnn", "cnn-bn"])
@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_a_replica_that_is_lost_changes_no_bit_of_the_others(broken, name, dtype):
    found = []
    for value in (1.0, broken):
        _, stack = several(name, 3, dtype)
        with torch.no_grad():
            for view in stack.views(1).values():
                view.fill_(value if view.is_floating_point() else 1)
        logits = stack(images(dtype=dtype), training=True)
        losses_of(logits).sum().backward()
        gradients = {key: block.grad for key, block in stack.parameters.items()}
        found.append({"logits": logits, **gradients, **stack.buffers})
    whole, lost = found
    assert not lost["logits"][1].isfinite().all()
    for key, tensor in whole.items():
        for replica in (0, 2):
            assert torch.equal(tensor[replica], lost[key][replica]), key


def test_kernels_and_their_gradients_lie_channels_last():
    """So that grouped convolutions and the fused optimizer copy nothing."""
    _, stack = several("cnn", 3, torch.float32)
    losses_of(stack(images(dtype=torch.float32), training=True)).sum().backward()
    kernel = stack.parameters["conv2.weight"]
    assert kernel.is_leaf
    assert kernel.shape == (3, 16, 16, 5, 5)
    assert kernel.grad.stride() == kernel.stride()
    assert kernel.detach()[1].is_contiguous(memory_format=torch.channels_last)


# Single replicas


@pytest.mark.parametrize("name", ["mlp", "cnn-bn", "vgg-like"])
def test_a_replica_comes_out_as_it_was_put_in(name):
    models, stack = several(name, 3)
    for replica, model in enumerate(models):
        state = model.state_dict()
        out = stack.module(replica)
        assert list(out.state_dict()) == list(state)
        for key, tensor in out.state_dict().items():
            assert tensor.dtype == state[key].dtype
            assert torch.equal(tensor, state[key])
        assert torch.equal(out.eval()(images()), model.eval()(images()))


@pytest.mark.parametrize("name", ["mlp", "cnn-bn"])
def test_a_module_is_a_copy_and_a_view_is_none(name):
    models, stack = several(name, 3)
    out = stack.module(1)
    with torch.no_grad():
        for tensor in out.state_dict().values():
            tensor.zero_()
    for key, tensor in models[1].state_dict().items():
        assert torch.equal(stack.views(1)[key], tensor)
    for view in stack.views(1).values():
        assert not view.requires_grad
        view.zero_()
    assert all(not tensor.any() for tensor in stack.module(1).state_dict().values())
    stack.load(1, models[0])
    for replica, model in ((0, models[0]), (1, models[0]), (2, models[2])):
        for key, tensor in model.state_dict().items():
            assert torch.equal(stack.views(replica)[key], tensor)


def test_all_replicas_start_as_the_model_and_leave_it_alone():
    model = made("cnn-bn", 0)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    stack = Stack(model, 2, CPU, torch.float64)
    stack(images(), training=True)
    with torch.no_grad():
        for replica in (0, 1):
            for key, parameter in model.named_parameters():
                assert torch.equal(stack.views(replica)[key], parameter)
        for block in stack.parameters.values():
            block += 1
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def between(module: nn.Module) -> nn.Module:
    layers = OrderedDict(linear1=nn.Linear(9, 9), strange=module, linear2=nn.Linear(9, 2))
    return nn.Sequential(layers)


class Nets(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).tanh()


class Rows(nn.Module):
    """Two linear layers and any code."""

    def __init__(self, code) -> None:
        super().__init__()
        self.linear1, self.linear2, self.code = nn.Linear(9, 9), nn.Linear(9, 2), code

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.code(self, x)


def tied() -> nn.Module:
    model = between(nn.Linear(9, 9, bias=False))
    model.strange.weight = model.linear1.weight
    return model


def patched() -> nn.Module:
    model = between(nn.ReLU())
    inner = model.linear1
    model.forward = lambda x: inner(x)[:, :2]
    return model


def on_maps(code) -> nn.Module:
    return nn.Sequential(nn.Unflatten(1, (1, 3, 3)), Code(code))


def kept(m, x):
    h = m.linear1(x)
    seen = h.view(h.size(0), -1)
    h *= 3
    return m.linear2(seen)


# A network, and how a refusal names what several replicas cannot compute.
REFUSED = {
    "PReLU": (lambda: between(nn.PReLU()), "strange is a PReLU"),
    "softmax": (lambda: between(nn.Softmax(1)), "strange is a Softmax"),
    "functional softmax": (
        lambda: Rows(lambda m, x: m.linear2(F.softmax(m.linear1(x), 1))),
        "operation 'softmax' is softmax",
    ),
    "own forward": (lambda: between(Nets(9, 9)), "strange is a Nets.* with a forward of its own"),
    "cumulative statistics": (
        lambda: between(nn.BatchNorm1d(9, momentum=None)),
        "strange is a BatchNorm1d",
    ),
    "attention": (
        lambda: between(nn.TransformerEncoderLayer(9, 3, 5, dropout=0)),
        "strange is a TransformerEncoderLayer",
    ),
    "computed weight": (
        lambda: between(nn.utils.parametrizations.weight_norm(nn.Linear(9, 9))),
        "the weight of strange is computed",
    ),
    "tied": (tied, "the weight of .* is computed, or is another layer's too"),
    "control flow": (
        lambda: Rows(lambda m, x: m.linear2(m.linear1(x) if x.sum() > 0 else x)),
        "Rows cannot be traced",
    ),
    "a size": (
        lambda: Rows(lambda m, x: m.linear2(m.linear1(x) / x.shape[1])),
        "operation 'truediv' is truediv of more than activations",
    ),
    "a parameter": (
        lambda: Rows(lambda m, x: m.linear2(m.linear1(x) * m.linear1.bias)),
        "operation 'mul' is mul of more than activations",
    ),
    "in place under two names": (
        lambda: Rows(kept),
        "operation 'imul' is imul in place on what is read elsewhere",
    ),
    "a method in place": (
        lambda: Rows(lambda m, x: m.linear2(m.linear1(x).relu_())),
        "operation 'relu_' is relu in place",
    ),
    "padding with itself": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 3, 3)),
            nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"),
            nn.Flatten(),
        ),
        "Unflatten|padding_mode=circular",
    ),
    "parts": (
        lambda: Rows(lambda m, x: m.linear2(m.linear1(x)[:, [0] * 9])),
        "operation 'getitem' is getitem",
    ),
    "functional dropout": (
        lambda: Rows(lambda m, x: m.linear2(F.dropout(m.linear1(x), 0.5, False))),
        "operation 'dropout' is dropout",
    ),
    "stacked": (
        lambda: Rows(lambda m, x: m.linear2(torch.stack([m.linear1(x), x], 1).sum(1))),
        "operation 'stack' is stack",
    ),
    "two axes": (
        lambda: Rows(lambda m, x: m.linear2(torch.cat([m.linear1(x), x], 0))[: len(x)]),
        "cannot be traced|along axis 0",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_several_cannot_do_is_refused_and_one_does_it(name):
    build, words = REFUSED[name]
    torch.manual_seed(0)
    model = build().double()
    with pytest.raises(TypeError, match=words) as caught:
        Stack(model, 2, CPU, torch.float64)
    assert "train it alone" in str(caught.value)
    assert "\n" not in str(caught.value)
    stack = Stack(model, 1, CPU, torch.float64)
    rows = torch.randn(5, 9, dtype=torch.float64)
    logits = stack(rows, training=True)
    expected = model.train()(rows)
    assert_close(logits[0], expected.T)
    logits.square().sum().backward()
    expected.square().sum().backward()
    for key, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert_close(stack.parameters[key].grad[0], parameter.grad)
    for key, buffer in model.named_buffers():
        assert_close(stack.buffers[key][0], buffer)
    assert_close(stack(rows, training=False)[0], model.eval()(rows).T)
    assert_close(stack.module(0).eval()(rows), model(rows))


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_forward_that_was_given_to_an_instance_is_not_overlooked(replicas):
    with pytest.raises(TypeError, match="Sequential was given another forward") as caught:
        Stack(patched(), replicas, CPU, torch.float64)
    assert "\n" not in str(caught.value)


def test_rows_of_features_are_taken_as_images_are():
    models = [Norms().double() for _ in range(3)]
    stack = Stack(models[0], 3, CPU, torch.float64)
    for replica, model in enumerate(models):
        stack.load(replica, model)
    rows = torch.randn(5, 6, dtype=torch.float64)
    for replica, model in enumerate(models):
        assert_close(stack(rows, training=True)[replica], model(rows).T)


def test_groups_of_an_input_that_the_replicas_share():
    """They may not mix with the groups of replicas: each replica gets the input to itself."""
    models = [
        nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.Flatten(), nn.Linear(512, 3)).double()
        for _ in range(3)
    ]
    stack = Stack(models[0], 3, CPU, torch.float64)
    given = torch.randn(2, 4, 10, 10, dtype=torch.float64)
    for replica, model in enumerate(models):
        stack.load(replica, model)
    for replica, model in enumerate(models):
        assert_close(stack(given, training=True)[replica], model(given).T)


def test_dropout_is_on_in_training_alone():
    stack = Stack(between(nn.Dropout(0.5)), 4, CPU, torch.float64)
    rows = torch.ones(50, 9, dtype=torch.float64)
    first, second = (stack(rows, training=True) for _ in range(2))
    assert (first[0] - first[1]).abs().max() > 1e-3  # each replica draws its own
    assert (first - second).abs().max() > 1e-3
    quiet = stack(rows, training=False)
    assert torch.equal(quiet[0], quiet[3])
    assert torch.equal(quiet, stack(rows, training=False))


# Features


def seen(model: nn.Module, names: list[str], given: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return what modules of a model give."""
    found = {}
    for name in names:
        model.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: found.update({name: output.clone()})
        )
    model(given)
    return found


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("mlp", ["linear1", "linear3"]),
        ("cnn-bn", ["conv1", "norm1", "conv2", "norm2", "linear1"]),
        ("residual", ["stem", "norm2", "shortcut.0", "third", "head"]),
        ("normalizations", ["0", "1", "3", "7", "10", "11", "14"]),
    ],
)
def test_features_are_what_each_layer_gives(name, layers, dtype):
    models, stack = several(name, 3, dtype)
    given = images(dtype=dtype)
    _, found = stack.forward(given, training=True, features=layers)
    assert list(found) == layers
    for replica, model in enumerate(models):
        for layer, expected in seen(model.train(), layers, given).items():
            assert_close(found[layer][replica], expected, 1e-12 if dtype.itemsize > 4 else 1e-4)
    assert torch.equal(stack(given, training=False), stack.forward(given, training=False)[0])


def test_features_of_other_steps_and_of_one_replica():
    stack = several("cnn", 1)[1]
    _, found = stack.forward(images(), training=True, features=["activation1", "flatten"])
    assert found["activation1"].shape == (1, 6, 16, 4, 4) and found["activation1"].min() == 0
    assert found["flatten"].shape == (1, 6, 16)
    stack = Stack(between(nn.Softmax(1)), 1, CPU, torch.float64)
    _, found = stack.forward(torch.ones(3, 9).double(), training=True, features=["strange"])
    assert found["strange"].shape == (1, 3, 9)
    for one in (stack, several("mlp", 2)[1]):
        with pytest.raises(ValueError, match=r"no .* 'linear4': did you mean 'linear"):
            one.forward(images(), training=False, features=["linear4"])


# Seeds side by side


@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize("name", ["mlp", "cnn", "cnn-bn", "residual", "images-normalized"])
def test_seeds_side_by_side_are_runs_of_their_own(name, runs):
    seeds, steps = 2, 4
    models = [made(name, seed) for seed in range(seeds * runs)]
    stack = Stack(models[0], seeds * runs, CPU, torch.float64, seeds=seeds)
    for replica, model in enumerate(models):
        stack.load(replica, model)
    together = torch.optim.Adam(stack.parameters.values(), 1e-2)
    alone = [torch.optim.Adam(model.parameters(), 1e-2) for model in models]
    for step in range(steps):
        given = torch.stack([images() + step, images().flip(0) * 2 - step])
        labels = torch.stack([targets(), (targets() + 1 + step) % 4])
        logits = stack(given, training=True)
        each = labels.repeat_interleave(runs, 0)
        together.zero_grad()
        cross_entropy(logits, each, reduction="none").mean(1).sum().backward()
        together.step()
        for replica, (model, optimizer) in enumerate(zip(models, alone, strict=True)):
            seed = replica // runs
            outputs = model.train()(given[seed])
            assert_close(logits[replica], outputs.T, 1e-10)
            optimizer.zero_grad()
            cross_entropy(outputs, labels[seed]).backward()
            optimizer.step()
    for replica, model in enumerate(models):
        for key, tensor in model.state_dict().items():
            assert_close(stack.views(replica)[key], tensor, 1e-10)
    # In an evaluation all may look at the same images.
    shared = stack(images(), training=False)
    for replica, model in enumerate(models):
        assert_close(shared[replica], model.eval()(images()).T, 1e-10)


def test_seeds_share_the_replicas_evenly():
    with pytest.raises(ValueError, match="5 replicas are no multiple of 2 seeds"):
        Stack(made("mlp", 0), 5, CPU, torch.float64, seeds=2)


# bfloat16


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("name", ["mlp", "cnn", "cnn-bn"])
def test_products_in_bfloat16_with_parameters_in_float32(name, replicas):
    _, exact = several(name, replicas, torch.float32)
    _, stack = several(name, replicas, torch.bfloat16)
    found = []
    for replica in range(replicas):
        stack.load(replica, exact.module(replica))
    for one in (exact, stack):
        logits = one(images(32, torch.float32), training=True)
        losses_of(logits).sum().backward()
        found.append(logits.detach())
    true, rounded = found
    assert rounded.dtype == torch.float32
    scale = float(true.abs().max())
    torch.testing.assert_close(rounded, true, rtol=2e-2, atol=2e-2 * scale)
    assert (rounded - true).abs().max() > 1e-4 * scale
    # What comes out of a product in bfloat16 is a number of bfloat16.
    assert torch.equal(rounded.bfloat16().float(), rounded)
    for key, block in stack.parameters.items():
        assert block.dtype == block.grad.dtype == torch.float32
        assert torch.equal(block, exact.parameters[key])
        if key.endswith("weight") and not key.startswith("norm"):
            assert torch.equal(block.grad.bfloat16().float(), block.grad), key
            assert not torch.equal(block.bfloat16().float(), block)  # float32 to its last bits
        one, other = block.grad.flatten(), exact.parameters[key].grad.flatten()
        assert cosine_similarity(one, other, dim=0) > 0.9, key
    for key, block in stack.buffers.items():
        assert block.dtype == exact.buffers[key].dtype
        assert_close(block, exact.buffers[key], 2e-2)
    assert stack(images(dtype=torch.float32), training=False).dtype == torch.float32


# Memory and sizes


def allocated(model: nn.Module, batch: tuple[int, ...], dtype: torch.dtype) -> int:
    """Return the most bytes that a step of a stack of one holds at a time, as PyTorch tells."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        stack = Stack(model, 1, CPU, dtype)
        optimizer = torch.optim.Adam(stack.parameters.values(), fused=True)
        given, labels = torch.zeros(batch, dtype=stack.dtype), torch.zeros(1, batch[0]).long()
        for _ in range(2):
            logits = stack(given, training=True)
            optimizer.zero_grad()
            cross_entropy(logits, labels).backward()
            optimizer.step()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("count", [256, 512])
@pytest.mark.parametrize("name", ["mlp", "cnn", "cnn-bn"])
def test_the_estimate_of_memory_is_about_what_is_allocated(name, count, dtype):
    model = build_model(name, dataset(shape=(3, 32, 32), classes=10))
    batch = (count, 3, 32, 32)
    estimated, true = needed_memory(model, batch, dtype), allocated(model, batch, dtype)
    assert true > 1_000_000
    assert true / 3 < estimated < 3 * true


def test_more_images_and_more_parameters_need_more_memory():
    data = dataset(shape=(1, 28, 28), classes=10)
    model = build_model("mlp", data)
    needed = [needed_memory(model, (n, 1, 28, 28), torch.float32) for n in (1, 1000, 4000)]
    assert needed == sorted(set(needed))
    # Parameters, gradients and Adam's two moments alone are four times the parameters.
    entries = sum(parameter.numel() for parameter in model.parameters())
    assert needed[0] > 4 * 4 * entries
    larger = build_model("mlp", data, hidden=(200, 100))
    assert needed_memory(larger, (1000, 1, 28, 28), torch.float32) > needed[1]
    assert needed_memory(model, (1000, 1, 28, 28), torch.float64) == 2 * needed[1]
    assert needed_memory(model, (1000, 1, 28, 28), torch.bfloat16) >= needed[1] / 2
    assert all(parameter.device == CPU for parameter in model.parameters())


def test_free_memory_is_some_of_the_machines():
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < free_memory(CPU) < total


@pytest.mark.parametrize("name", MODELS)
def test_how_many_train_at_once_by_default(name):
    data = dataset(shape=(3, 64, 64), classes=200)
    with torch.device("meta"):
        model = build_model(name, data)
    assert default_size(model, CPU) == (20 if name == "mlp" else 1)
    assert default_size(model, torch.device("cuda")) == (
        1 if name in ("vgg16", "resnet18") else 100
    )


def test_a_model_that_keeps_what_it_saw_is_taken_out_of_its_stack_all_the_same():
    """Nobody can trace it, so it trains alone; what its forward pass notes is not the stack's."""

    class Keeping(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.seen = nn.Linear(4, 3), None

        def forward(self, x):
            self.seen = self.layer(x)
            return self.seen if x.sum() > 0 else -self.seen

    model = Keeping()
    stack = Stack(model, 1, CPU, torch.float32)
    rows = torch.ones(5, 4)
    logits = stack(rows, training=True)
    logits.sum().backward()
    assert_close(logits[0].T, model.layer(rows), 1e-6)
    taken_out = stack.module(0)
    assert taken_out.seen is None
    assert torch.equal(taken_out.layer.weight, model.layer.weight)


# Memory


def test_an_outline_has_no_memory_and_is_like_its_model():
    model = nn.Sequential(OrderedDict(a=nn.Linear(4, 4), norm=nn.BatchNorm1d(4), b=nn.Linear(4, 4)))
    model.b.weight = model.a.weight
    model.a.bias.requires_grad_(False)
    found = outline(model)
    assert found.b.weight is found.a.weight
    assert not found.a.bias.requires_grad
    assert {t.device.type for t in found.state_dict().values()} == {"meta"}
    assert {t.device.type for t in model.state_dict().values()} == {"cpu"}
    for name, tensor in model.state_dict().items():
        like = found.state_dict()[name]
        assert (like.shape, like.dtype) == (tensor.shape, tensor.dtype)


def test_a_population_has_the_memory_of_weights_moments_and_initial_weights_alone():
    """VGG-16's weights are 160 MB: no copies of them lie beside."""
    hidden = 37  # a size that nothing else has
    sizes = [4 * hidden * 100 * replicas for replicas in (1, 2)]

    def memories() -> set[int]:
        gc.collect()
        held = [t for t in gc.get_objects() if issubclass(type(t), torch.Tensor)]
        storages = [t.untyped_storage() for t in held if t.is_cpu and not is_lazy(t)]
        return {storage.data_ptr() for storage in storages if storage.nbytes() in sizes}

    before = memories()
    population = Population(
        Blueprint("mlp", {"hidden": (hidden,)}, GREY), [0], 2, device=CPU, dtype=torch.float32
    )
    assert len(memories() - before) == 4  # θ and two moments of both runs, θ_0 of their seed
    assert len(population) == 2
