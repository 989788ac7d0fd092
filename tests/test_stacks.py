"""The stack: every replica does what the model would do alone, and knows nothing of the others."""

from __future__ import annotations

import os
import types
from collections import OrderedDict

import pytest
import torch
from oracles import dataset
from torch import nn
from torch.nn.functional import cosine_similarity, cross_entropy

from swrlib import stacks
from swrlib.memory import free_memory
from swrlib.models import MODELS, build_model
from swrlib.stacks import Stack, StackedLinear, default_size, needed_memory, product

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


BUILDERS = {
    "mlp": lambda: build_model("mlp", GREY, hidden=(11, 9)),
    "mlp-tanh": lambda: build_model("mlp", GREY, hidden=(7,), activation="tanh"),
    "linear": lambda: build_model("mlp", GREY, hidden=()),
    "cnn": lambda: build_model("cnn", GREY, hidden=(12,)),
    "cnn-leaky_relu": lambda: build_model("cnn", GREY, hidden=(12,), activation="leaky_relu"),
    "cnn-without-bias": lambda: build_model("cnn", GREY, hidden=(12,), convolution_bias=False),
    "cnn-bn": lambda: build_model("cnn-bn", GREY, hidden=(12,)),
    "cnn-bn-with-bias": lambda: build_model("cnn-bn", GREY, hidden=(12,), convolution_bias=True),
    "cnn-bn-tanh": lambda: build_model("cnn-bn", GREY, hidden=(12,), activation="tanh"),
    "vgg-like": vgg_like,
    "vgg-like-without-bias": lambda: vgg_like(bias=False),
    "odd-convolutions": odd_convolutions,
}


def made(name: str, seed: int, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Return a model in which no two replicas and no two channels are alike."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BUILDERS[name]()
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.weight.uniform_(0.5, 1.5)
                    module.bias.normal_(0, 0.5)
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


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("given", ["shared", "shared-with-gradient", "own"])
def test_the_gradients_of_the_linear_layer_are_numerical_ones(given, replicas):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    inputs = normal(replicas, 4, 5) if given == "own" else normal(5, 4)
    if given != "shared":
        inputs.requires_grad_()
    weight = normal(replicas, 3, 4).requires_grad_()
    bias = normal(replicas, 3).requires_grad_()
    assert torch.autograd.gradcheck(StackedLinear.apply, (inputs, weight, bias))


@pytest.mark.parametrize("replicas", [1, 3])
def test_the_linear_layer_is_that_of_each_replica(replicas):
    generator = torch.Generator().manual_seed(0)
    layers = [nn.Linear(4, 3, dtype=torch.float64) for _ in range(replicas)]
    weight, bias = (
        torch.stack([getattr(layer, name).detach() for layer in layers])
        for name in ("weight", "bias")
    )
    shared = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    own = torch.randn(replicas, 5, 4, generator=generator, dtype=torch.float64)
    from_shared = StackedLinear.apply(shared, weight, bias)
    from_own = StackedLinear.apply(own.mT, weight, bias)
    for replica, layer in enumerate(layers):
        assert_close(from_shared[replica], layer(shared).T)
        assert_close(from_own[replica], layer(own[replica]).T)


# Products


@pytest.fixture(params=["onednn", "fallback"])
def arithmetic(request, monkeypatch):
    if request.param == "fallback":
        monkeypatch.setattr(stacks, "_ONEDNN", None)
    elif stacks._ONEDNN is None:
        pytest.skip("this PyTorch has no product of oneDNN")
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


@pytest.mark.parametrize(
    "namespace",
    [
        types.SimpleNamespace(),
        failing(RuntimeError("no kernel")),
        failing(TypeError("another signature")),
    ],
    ids=["missing", "unsupported", "changed"],
)
def test_without_a_product_of_onednn_a_stack_works_all_the_same(namespace, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(torch.ops, "mkldnn", namespace)
        found = stacks._onednn()
    assert found is None
    monkeypatch.setattr(stacks, "_ONEDNN", found)
    models, stack = several("mlp", 3, torch.float32)
    logits = stack(images(dtype=torch.float32), training=True)
    losses_of(logits).sum().backward()
    for replica, model in enumerate(models):
        expected = model(images(dtype=torch.float32))
        assert_close(logits[replica], expected.T, 1e-5)
        cross_entropy(expected, targets()).backward()
        for name, parameter in model.named_parameters():
            assert_close(stack.parameters[name].grad[replica], parameter.grad, 1e-5)


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
@pytest.mark.parametrize("name", [name for name in BUILDERS if name[:3] in ("cnn", "vgg", "odd")])
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
        torch.testing.assert_close(found[key], expected, rtol=0, atol=2e-5 * scale, msg=key)


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


@pytest.mark.parametrize(
    ("module", "kind"),
    [(nn.PReLU(), "PReLU"), (nn.LayerNorm(9), "LayerNorm"), (nn.GroupNorm(1, 9), "GroupNorm")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_stacked_is_named(module, kind):
    layers = OrderedDict(linear1=nn.Linear(9, 9), strange=module, linear2=nn.Linear(9, 2))
    with pytest.raises(TypeError, match=f"strange is a {kind}") as caught:
        Stack(nn.Sequential(layers), 2, CPU, torch.float32)
    assert "\n" not in str(caught.value)


def test_groups_of_an_input_that_the_replicas_share_are_refused():
    convolution = nn.Conv2d(4, 8, 3, groups=2)
    with pytest.raises(TypeError, match="first is a Conv2d"):
        Stack(nn.Sequential(OrderedDict(first=convolution)), 2, CPU, torch.float32)
    Stack(nn.Sequential(nn.Conv2d(1, 4, 3), convolution), 2, CPU, torch.float32)


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
    assert default_size(model, torch.device("cuda")) == (1 if name == "vgg16" else 100)
