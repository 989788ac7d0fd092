"""What the walk over scales knows of any model: paths, chains, normalizations that are functions.

The oracle is the network itself: after one step f_c must be a multiple of f on random inputs, or
`summary` says where and why not.
"""

from __future__ import annotations

import copy
import functools
import math
import re
import warnings
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from oracles import twin
from torch import Tensor, nn

from swrlib import SoftWeightRescaling, rescale_, trace_layers
from swrlib.network.layers import trace
from swrlib.rescaling import membership
from swrlib.theory import balance_, lipschitz_bound, proportionality_gap


def mlp(*units: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(units):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def drifted(model: nn.Module, generator: int = 0) -> None:
    """Take the weights away from their initial norms, each by another factor; biases are seen."""
    draw = torch.Generator().manual_seed(generator)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(1.5 + torch.rand((), generator=draw).double())
            if name.endswith("bias"):
                parameter.add_(torch.randn(parameter.shape, generator=draw).to(parameter))


def gap_after_a_step(model: nn.Module, *inputs, **options) -> tuple[float, list[str]]:
    """Rescale once with λ = ½; how far the output is from a multiple of what it was; the summary.

    All returned tensors must be multiples, each by its own factor.
    """
    model.double()
    swr = SoftWeightRescaling(model, 0.5, **options)
    drifted(model)
    with torch.no_grad():
        before = model(*inputs)
        swr.step()
        after = model(*inputs)
    pairs = zip(*((o,) if isinstance(o, Tensor) else o for o in (before, after)), strict=True)
    gaps = []
    for f, g in pairs:
        multiple = (f * g).sum() / (f * f).sum()
        gaps.append(float((g - multiple * f).abs().max() / (multiple * f).abs().max()))
    return max(gaps), list(swr.summary()["proportional"])


X = torch.randn(64, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


# --- the path that is traced -----------------------------------------------------------------


class Conditioned(nn.Module):
    """An optional condition, added to the hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.condition, self.head = nn.Linear(6, 8), nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor, c: Tensor | None = None, *, double: bool = False) -> Tensor:
        h = self.first(x)
        if c is not None:
            h = h + self.condition(c)
        if double:
            h = F.gelu(h)
        return self.head(torch.relu(h))


def test_a_branch_that_the_call_never_takes_is_not_traced_and_that_is_said():
    with pytest.warns(UserWarning, match=r"traced with c=None, double=False: .*example="):
        layers = trace_layers(Conditioned())
    assert [layer.name for layer in layers] == ["first", "head"]
    with pytest.warns(UserWarning, match="c=None"):
        gap, ends = gap_after_a_step(Conditioned(), X)
    assert gap < 1e-12 and ends == ["yes", "yes"]


def test_an_example_says_which_path():
    c = torch.randn(64, 3, dtype=torch.float64)
    for example in ((X, c), (X, {"c": c}), {"x": X, "c": c}, (X, c, {})):
        layers = trace(Conditioned().double(), example).layers
        assert [layer.name for layer in layers] == ["first", "condition", "head"]
    network = trace(Conditioned().double(), (X, {"double": True}))
    assert [step.operation for step in network.steps if step.kind == "other"] == ["gelu"]
    with pytest.raises(ValueError, match="different scales"):
        rescale_(Conditioned().double(), [2.0, 3.0, 1.0], example=(X, c))


class Dictionary(nn.Module):
    """It takes one dict, as data loaders give it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x = batch["x"]
        return self.head(torch.relu(self.a(x * batch["mask"] if "mask" in batch else x)))


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 4), nn.Linear(4, 2)

    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        left, right = pair
        return self.b(torch.relu(self.a(left) + self.a.weight.new_zeros(())) * right)


@pytest.mark.parametrize(
    ("build", "example"),
    [
        (Dictionary, {"x": X, "mask": torch.ones(64, 1, dtype=torch.float64)}),
        (Dictionary, ({"x": X},)),
        (Pair, (X, torch.ones(64, 4, dtype=torch.float64))),
    ],
    ids=["dict", "dict in a tuple", "tuple as one argument"],
)
def test_an_example_is_anything_that_the_forward_takes(build, example):
    model = build().double()
    assert len(trace(model, example).layers) == 2
    swr = SoftWeightRescaling(model, 0.1, example=example)
    assert (swr.summary()["proportional"] == "yes").all()
    assert proportionality_gap(build().double(), [2.0, 3.0], example, example=example) < 1e-12


class Open(nn.Module):
    """Any arguments: a keyword that nobody gives must not be found in a trace."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.extra, self.head = nn.Linear(6, 5), nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor, *more: Tensor, **options: Tensor) -> Tensor:
        h = self.a(x)
        if options.get("extra") is not None:
            h = self.extra(options["extra"])
        return self.head(torch.relu(h))


def test_open_arguments_are_left_out_and_named():
    with pytest.warns(UserWarning, match=r"\*more, \*\*options"):
        assert [layer.name for layer in trace_layers(Open())] == ["a", "head"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trace_layers(mlp(6, 5, 2))
        trace_layers(Open().double(), X)


def test_lipschitz_bound_takes_a_forward_with_an_optional_argument():
    model = Conditioned()
    bound = lipschitz_bound(model, X)
    norms = [
        torch.linalg.matrix_norm(m.weight.detach().double(), 2) for m in (model.first, model.head)
    ]
    assert bound == pytest.approx(float(norms[0] * norms[1]))


def test_a_failed_example_says_its_sentence_and_nothing_else(capfd):
    class Decides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) if x.sum() > 0 else -self.layer(x)

    with pytest.raises(ValueError, match="cannot be traced on the example") as caught:
        trace_layers(Decides(), X.float())
    import traceback

    assert len("".join(traceback.format_exception(caught.value)).splitlines()) < 60
    out, err = capfd.readouterr()
    assert not out and not err


# --- layers that are named -------------------------------------------------------------------


class ActorCritic(nn.Module):
    """A trunk and two heads, which a Python value chooses: it cannot be traced without an input."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.actor, self.critic = mlp(6, 8), mlp(8, 8, 3), mlp(8, 8, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.relu(self.trunk(x)) * float(len(x) > 0)
        return self.actor(h), self.critic(h)


CHAINS = [["trunk.0", "actor.0", "actor.2"], ["trunk.0", "critic.0", "critic.2"]]
FEEDING = {
    "trunk.0": [],
    "actor.0": "trunk.0",
    "actor.2": ["actor.0"],
    "critic.0": ["trunk.0"],
    "critic.2": ["critic.0"],
}


@pytest.mark.parametrize("layers", [CHAINS, FEEDING, dict(reversed(FEEDING.items()))], ids=str)
def test_layers_may_be_chains_or_what_feeds_them(layers):
    model = ActorCritic()
    gap, ends = gap_after_a_step(model, X, layers=layers)
    assert gap < 1e-12 and ends == ["not traced"] * 5
    # The critic's last bias: its own two factors and the trunk's, none of the actor's.
    swr = SoftWeightRescaling(model, 1.0, layers=layers)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    bias = model.critic[2].bias.detach().clone()
    swr.step()
    torch.testing.assert_close(model.critic[2].bias, bias / 8)
    assert set(swr.summary().index) == {*FEEDING}


def test_one_list_is_one_chain_and_never_called_proportional():
    model = ActorCritic()
    summary = SoftWeightRescaling(model, 0.1, layers=list(FEEDING)).summary()
    assert (summary["proportional"] == "not traced").all()


def test_a_layer_may_be_fed_by_several():
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.head = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, 2)

    layers = {"left": (), "right": (), "head": ("left", "right")}
    network = trace(Joined(), layers=layers)
    assert [la.predecessors for la in network.layers] == [(), (), ("left", "right")]
    ends = SoftWeightRescaling(Joined(), 0.1, layers=layers).summary()["proportional"]
    assert "adds branches of different scale" in ends["head"] and ends["left"] == "not traced"
    assert rescale_(Joined(), [2.0, 2.0, 3.0], layers=layers) == 6


@pytest.mark.parametrize(
    ("layers", "error", "words"),
    [
        ({"0": ["2"], "2": ["0"]}, ValueError, "circle: 0 → 2 → 0"),
        ({"0": ["2"]}, ValueError, "'2', which feeds '0', is itself not in layers="),
        ([["0"], "2"], TypeError, "names, or lists of names, not both"),
        ([["0", "2", "0"]], ValueError, "layer '0' is used twice"),
        ("0", TypeError, "list of module names"),
        ([["0", "5"]], ValueError, "no module '5'"),
        ({"1": []}, ValueError, "is a ReLU"),
    ],
)
def test_named_layers_that_make_no_network(layers, error, words):
    with pytest.raises(error, match=words) as caught:
        SoftWeightRescaling(mlp(6, 5, 2), 0.1, layers=layers)
    assert "\n" not in str(caught.value)


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = mlp(6, 5, 4), nn.Linear(4, 2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(torch.relu(self.encoder(a) - self.encoder(b)))


def test_a_shared_encoder_is_told_of_layers_which_works():
    with pytest.raises(ValueError, match=r"used twice.*layers="):
        trace_layers(Siamese())
    gap, ends = gap_after_a_step(Siamese(), X, X.flip(0), layers=["encoder.0", "encoder.2", "head"])
    assert gap < 1e-12 and ends == ["not traced"] * 3


# --- normalizations that are no modules ------------------------------------------------------


def standardized(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True) + 1e-12)


def unit_length(x: Tensor) -> Tensor:
    return x / (x.norm(dim=-1, keepdim=True) + 1e-12)


def root_mean_square(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-12)


def centred_and_scaled(x: Tensor) -> Tensor:
    mean = x.mean(dim=1, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=1, keepdim=True)
    return (x - mean) * (variance + 1e-12) ** -0.5


def by_both_at_once(x: Tensor) -> Tensor:
    variance, mean = torch.var_mean(x, 1, keepdim=True)
    deviation, again = torch.std_mean(x, 1, keepdim=True)
    return (x - mean) * torch.rsqrt(variance + 1e-12) + (x - again) / deviation


def clamped_length(x: Tensor) -> Tensor:
    return x / torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp(min=1e-12)


FUNCTIONS = {
    "layer_norm": lambda x: F.layer_norm(x, x.shape[1:], eps=1e-12),
    "rms_norm": lambda x: F.rms_norm(x, (8,), eps=1e-12),
    "batch_norm": lambda x: F.batch_norm(x, None, None, training=True, eps=1e-12),
    "group_norm": lambda x: F.group_norm(x, 2, eps=1e-12),
    "instance_norm": lambda x: F.instance_norm(x.unsqueeze(1), eps=1e-12).squeeze(1),
    "normalize": lambda x: F.normalize(x, dim=-1),
    "standardized": standardized,
    "unit length": unit_length,
    "root mean square": root_mean_square,
    "centred and scaled": centred_and_scaled,
    "clamped length": clamped_length,
    "by both at once": by_both_at_once,
    "by the largest": lambda x: x / x.abs().amax(1, keepdim=True),
    "by the sum": lambda x: x / x.abs().sum(1, keepdim=True),
    "by the deviation": lambda x: x / x.std(1, keepdim=True),
    "signs": torch.sign,
}


class Restarting(nn.Module):
    """Two layers, a function that normalizes, and two more, all with biases."""

    def __init__(self, function) -> None:
        super().__init__()
        self.before, self.after, self.function = mlp(6, 8, 8), mlp(8, 8, 3), function

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.function(self.before(x)))


@pytest.mark.parametrize("exported", [False, True], ids=["symbolic", "exported"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_normalization_that_is_a_function_restarts_the_product(name, exported):
    torch.manual_seed(0)
    model = Restarting(FUNCTIONS[name]).double()
    options = {"example": X} if exported else {}
    gap, ends = gap_after_a_step(model, X, **options)
    assert gap < 1e-9 and ends == ["yes"] * 4
    after = twin(model)
    constant = rescale_(after, [2.0, 3.0, 5.0, 7.0], **options)
    assert constant == 35
    torch.testing.assert_close(after(X), 35 * model(X), rtol=1e-8, atol=1e-9)


class PreNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(mlp(8, 8, 8) for _ in range(6))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(F.layer_norm(x, (8,)))
        return self.head(F.layer_norm(x, (8,)))


def test_six_blocks_with_functional_layer_norm_leave_the_last_bias_its_own_factor():
    model = PreNorm()
    swr = SoftWeightRescaling(model, 0.02)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    bias = model.head.bias.detach().clone()
    swr.step()
    torch.testing.assert_close(model.head.bias, 0.99 * bias)


def test_functional_batch_norm_with_running_statistics_is_said():
    class Running(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(6, 4), nn.Linear(4, 2)
            self.register_buffer("mean", torch.zeros(4))
            self.register_buffer("variance", torch.ones(4))

        def forward(self, x: Tensor) -> Tensor:
            x = F.batch_norm(self.first(x), self.mean, self.variance, training=self.training)
            return self.head(x)

    for example in (None, X):
        for training in (True, False):
            model = Running().double().train(training)
            ends = SoftWeightRescaling(model, 0.1, example=example).summary()["proportional"]
            assert ends["first"] == "yes" and "running statistics" in ends["head"]
            with pytest.raises(ValueError, match="running statistics"):
                rescale_(model, [2.0, 1.0], example=example)


class OwnNorm(nn.Module):
    """Nothing can look into it: it decides by a value."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(units))

    def forward(self, x: Tensor) -> Tensor:
        spread = x.std(1, keepdim=True)
        return self.weight * x / (spread if bool((spread > 0).all()) else 1.0)


def test_a_class_of_ones_own_may_be_declared_a_normalization():
    def model() -> nn.Sequential:
        return nn.Sequential(mlp(6, 8), OwnNorm(8), mlp(8, 5, 2)).double()

    with pytest.raises(ValueError, match="cannot be traced"):
        trace_layers(model())
    with pytest.warns(UserWarning, match=r"leaves alone .*1\.weight"):
        gap, ends = gap_after_a_step(model(), X, normalizations=[OwnNorm])
    assert gap < 1e-9 and ends == ["yes"] * 3
    with pytest.warns(UserWarning):
        named = {"layers": ["0.0", "1", "2.0", "2.2"], "normalizations": [OwnNorm]}
        gap, ends = gap_after_a_step(model(), X, **named)
    assert gap < 1e-9 and ends == ["not traced"] * 3
    assert rescale_(model(), [2.0, 3.0, 5.0], normalizations=[OwnNorm]) == 15
    with pytest.raises(TypeError, match="classes of modules"):
        trace(model(), normalizations=["OwnNorm"])


class Inside(nn.Module):
    """The same, as an example sees it: `torch.export` follows it operation by operation."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(x - x, 1) + x.sign()


def test_a_declared_class_is_one_step_on_an_example_too():
    model = nn.Sequential(mlp(6, 8), Inside(), mlp(8, 5, 2)).double()
    network = trace(model, X, normalizations=(Inside,))
    kinds = [step.kind for step in network.steps]
    assert kinds == ["input", "layer", "power", "layer", "homogeneous", "layer"]
    gap, ends = gap_after_a_step(model, X, example=X, normalizations=(Inside,))
    assert gap < 1e-12 and ends == ["yes"] * 3


# --- layers with a forward of their own ------------------------------------------------------


class StandardizedConv(nn.Conv2d):
    """Weight standardization (Qiao et al., 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.std((1, 2, 3), keepdim=True) + 1e-12)
        return self._conv_forward(x, weight, self.bias)


class CosineLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, F.normalize(self.weight), self.bias)


class SamePadded(nn.Conv2d):
    """A convolution that pads in its own way: its weight scales it all the same."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 1, 0, 1)))


class ChannelsFirst(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x.movedim(1, -1), self.normalized_shape, self.weight, self.bias, 1e-12)
        return x.movedim(-1, 1)


class Squared(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight**2, self.bias)


IMAGES = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize(
    ("first", "constant"),
    [
        (lambda: StandardizedConv(3, 4, 3), 15.0),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 1), StandardizedConv(4, 4, 3)), 30.0),
        (lambda: SamePadded(3, 4, 3), 30.0),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), ChannelsFirst(4)), 45.0),
    ],
    ids=["standardized", "after a layer", "padded", "channels first"],
)
def test_a_layer_with_its_own_forward_is_tried(first, constant):
    torch.manual_seed(0)
    body = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4), nn.ReLU()]
    model = nn.Sequential(first(), *body, nn.Linear(4, 2)).double()
    gap, ends = gap_after_a_step(model, IMAGES)
    assert gap < 1e-9 and set(ends) == {"yes"}
    after = twin(model)
    factors = [2.0, 3.0, 5.0] if len(ends) == 3 else [2.0, 3.0, 3.0, 5.0]
    assert rescale_(after, factors) == pytest.approx(constant)
    torch.testing.assert_close(after(IMAGES), constant * model(IMAGES), rtol=1e-8, atol=1e-9)


class Adapted(nn.Linear):
    """Low-rank adaptation (Hu et al., 2021): its second factor begins at zero."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.down = nn.Parameter(torch.randn(2, inputs))
        self.up = nn.Parameter(torch.zeros(outputs, 2))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x @ self.down.T @ self.up.T


class Gated(nn.Linear):
    """A skip connection that training opens."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.gate * x[:, :1]


class Noisy(nn.Linear):
    """Noise on the weights in training alone (Fortunato et al., 2018)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.sigma = nn.Parameter(torch.full((outputs, inputs), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        noise = self.sigma * torch.randn_like(self.sigma) if self.training else 0
        return F.linear(x, self.weight + noise, self.bias)


class OnAGrid(nn.Linear):
    """Quantization-aware: weights are rounded to multiples of a fixed step."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, (self.weight / 1e-3).round() * 1e-3, self.bias)


class OnItsOwnGrid(nn.Linear):
    """The step follows the largest weight, so that rounding sees no factor."""

    def forward(self, x: Tensor) -> Tensor:
        step = self.weight.abs().max() / 127
        return F.linear(x, (self.weight / step).round() * step, self.bias)


@pytest.mark.parametrize("kind", [Adapted, Gated, Noisy, OnAGrid])
def test_what_holds_only_now_is_no_effect(kind):
    torch.manual_seed(0)
    model = nn.Sequential(kind(6, 4), nn.ReLU(), nn.Linear(4, 2)).double().eval()
    assert trace(model).effects == {"0": "other"}
    assert not trace(nn.Sequential(OnItsOwnGrid(6, 4), nn.ReLU(), nn.Linear(4, 2))).effects


def test_a_default_device_changes_nothing():
    torch.manual_seed(0)
    model = nn.Sequential(CosineLinear(6, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    norm = model[2].weight.detach().norm()
    with torch.device("meta"):
        swr = SoftWeightRescaling(model, 0.5)
        drifted_norm = model[2].weight.data.mul_(3).norm()
        swr.step()
    assert set(swr.summary()["proportional"]) == {"yes"}
    torch.testing.assert_close(model[2].weight.detach().norm(), (norm + drifted_norm) / 2)


def test_what_no_trial_explains_is_refused():
    model = nn.Sequential(Squared(6, 4), nn.ReLU(), nn.Linear(4, 2))
    ends = SoftWeightRescaling(model, 0.1).summary()["proportional"]
    assert set(ends) == {"no: '0' (Squared) has a forward of its own"}
    with pytest.raises(ValueError, match="forward of its own"):
        rescale_(model, [2.0, 1.0])
    assert rescale_(model, [1.0, 3.0]) == 3.0, "a factor of 1 does no harm"
    with pytest.raises(ValueError, match="standardizes its weight"):
        balance_(nn.Sequential(CosineLinear(6, 4), nn.ReLU(), nn.Linear(4, 2)))


# --- one reason, for all who ask -------------------------------------------------------------


class Embedded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.body = nn.Embedding(10, 6), mlp(6, 5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.words(x).mean(1))


class Prepared(nn.Module):
    """The inputs are standardized by constants, or shifted, or squashed: all before any weight."""

    def __init__(self, function) -> None:
        super().__init__()
        self.body, self.function = mlp(6, 5, 2), function
        self.register_buffer("mean", torch.randn(6, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.function(x, self.mean))


class Masked(nn.Module):
    """Any function between two layers; a parameter of any name may be added to it."""

    def __init__(self, function, added: str = "") -> None:
        super().__init__()
        self.first, self.second, self.function = nn.Linear(6, 8), nn.Linear(8, 2), function
        self.added = added
        if added:
            self.register_parameter(added, nn.Parameter(LINE.clone()))

    def forward(self, x: Tensor) -> Tensor:
        h = self.function(self.first(x))
        return self.second(h + getattr(self, self.added) if self.added else h)


LINE, SQUARE = torch.linspace(-1, 1, 8).double(), torch.eye(8).double().roll(1, 0)
TOKENS = torch.randint(10, (16, 4), generator=torch.Generator().manual_seed(0))
WHOLE = {
    "embedding": (Embedded, TOKENS),
    "mean and spread": (lambda: Prepared(lambda x, m: (x - m) / 0.3), X),
    "one minus": (lambda: Prepared(lambda x, m: 1 - x), X),
    "squashed inputs": (lambda: Prepared(lambda x, m: torch.tanh(x)), X),
    "sign mask": (lambda: Masked(lambda h: h * (h > 0)), X),
    "where": (lambda: Masked(lambda h: torch.where(h > 0, h, 0.1 * h)), X),
    "filled": (lambda: Masked(lambda h: h.masked_fill(h < 0, 0.0)), X),
    "clamped": (lambda: Masked(lambda h: h.clamp(min=0)), X),
    "greatest": (lambda: Masked(lambda h: torch.maximum(h, 0.2 * h)), X),
    "compared": (lambda: Masked(lambda h: h * (h > h.mean(1, keepdim=True))), X),
    "padded": (lambda: Masked(lambda h: F.pad(h[:, 2:], (1, 1))), X),
    "zeros beside": (lambda: Masked(lambda h: torch.cat([h[:, 1:], h.new_zeros(64, 1)], 1)), X),
    "own product": (lambda: Masked(lambda h: h * F.normalize(h)), X),
    "square root": (lambda: Masked(lambda h: (h * h).sqrt()), X),
    "sorted": (lambda: Masked(lambda h: torch.sort(h, 1).values), X),
    "the largest first": (lambda: Masked(lambda h: h.topk(8, 1)[0]), X),
    "threshold": (lambda: Masked(lambda h: F.threshold(h, 0, 0)), X),
    "clamped below zero": (lambda: Masked(lambda h: h - h.clamp(max=0)), X),
    "filled with zero": (lambda: Masked(lambda h: h + h.clone().fill_(0.0)), X),
    "full of zeros": (lambda: Masked(lambda h: h + torch.full_like(h, 0.0)), X),
    "mixed": (lambda: Masked(lambda h: torch.lerp(h, h.abs(), 0.3)), X),
    "copied": (lambda: Masked(lambda h: h.new_zeros(64, 8).copy_(h)), X),
    "nothing added": (lambda: Masked(lambda h: torch.addmm(LINE, h, SQUARE, beta=0)), X),
    "straight through": (lambda: Masked(lambda h: h + (h.sign() - h).detach()), X),
    "straight through, otherwise": (
        lambda: Masked(lambda h: F.relu(h).detach() + h - h.detach()),
        X,
    ),
}
BROKEN = {
    "mask by a number": (lambda: Masked(lambda h: h * (h > 0.5)), X),
    "index by a mask": (lambda: Masked(lambda h: torch.where(h > 0.5, h, 2 * h)), X),
    "index from a mask": (lambda: Masked(lambda h: h[:, (h.mean(0) > 0.5).long()]), X),
    "filled with one": (lambda: Masked(lambda h: h.masked_fill(h < 0, 1.0)), X),
    "gate": (lambda: Masked(lambda h: h * torch.sigmoid(h)), X),
    "clamped from above": (lambda: Masked(lambda h: h.clamp(0, 0.3)), X),
    "squared": (lambda: Masked(lambda h: h * h), X),
    "root": (lambda: Masked(lambda h: h.abs().sqrt()), X),
    "large eps": (lambda: Masked(lambda h: h / (h.norm(dim=1, keepdim=True) + 0.5)), X),
    "eps alone": (lambda: Masked(lambda h: h + 1e-3), X),
    "threshold at a number": (lambda: Masked(lambda h: F.threshold(h, 0.5, 0)), X),
    "mixed by an activation": (lambda: Masked(lambda h: torch.lerp(h, -h, h.sigmoid())), X),
    "mixed with a constant": (lambda: Masked(lambda h: torch.lerp(h, end=LINE, weight=0.3)), X),
    "added product": (lambda: Masked(lambda h: torch.addmm(LINE, h, SQUARE)), X),
    "a parameter named zeros": (lambda: Masked(lambda h: h, "zeros"), X),
    "a parameter named full": (lambda: Masked(lambda h: h, "full"), X),
    "slopes by an activation": (lambda: Masked(lambda h: F.prelu(h, h.mean(0))), X),
    "scaled by an activation": (lambda: Masked(lambda h: F.layer_norm(h, (8,), h[0] * h[1])), X),
    "filled by an activation": (lambda: Masked(lambda h: h + h.clone().fill_((h * h).mean())), X),
    "normalized with a large eps": (lambda: Masked(lambda h: F.rms_norm(h, (8,), eps=0.5)), X),
    "a type by its name": (lambda: Masked(lambda h: h.type("torch.LongTensor").double()), X),
    "order of a softmax": (lambda: Masked(lambda h: torch.softmax(h, 1).sort(1).values), X),
}


@pytest.mark.parametrize("exported", [False, True], ids=["symbolic", "exported"])
@pytest.mark.parametrize(
    "function",
    [
        lambda h: h + (h.sign() - 2 * h).detach(),  # the sum is sign(h) − h
        lambda h: h.relu_() + (h.sign() - h).detach(),
        lambda h: (h.sign() - h).detach() + h.mul_(2),  # h is another by then
        lambda h: h - (h.sign() - h).detach(),
        lambda h: h + torch.topk(h, 8)[1].double(),
        lambda h: h + h.clone().fill_(1.0),
    ],
)
def test_what_only_looks_like_straight_through_is_followed(function, exported):
    torch.manual_seed(0)
    gap, ends = gap_after_a_step(
        Masked(function).double(), X, **({"example": X} if exported else {})
    )
    assert gap < 1e-9 or set(ends) != {"yes"}


@pytest.mark.parametrize("exported", [False, True], ids=["symbolic", "exported"])
def test_an_operation_that_the_table_lacks_is_not_said_to_be_bent(exported):
    model = Masked(torch.sinc).double()
    swr = SoftWeightRescaling(model, 0.1, **({"example": X} if exported else {}))
    ends = swr.summary()["proportional"]
    assert ends.iloc[-1] == "no: 'sinc' is not known to be positively homogeneous"


@pytest.mark.parametrize("exported", [False, True], ids=["symbolic", "exported"])
@pytest.mark.parametrize("name", WHOLE)
def test_yes_where_the_gap_is_zero_and_nothing_is_refused(name, exported):
    torch.manual_seed(0)
    build, inputs = WHOLE[name]
    options = {"example": inputs} if exported else {}
    model = build().double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        gap, ends = gap_after_a_step(model, inputs, **options)
    assert gap < 1e-9 and set(ends) == {"yes"}
    after = twin(model)
    constant = rescale_(after, [2.0, 3.0], **options)
    with torch.no_grad():
        torch.testing.assert_close(after(inputs), constant * model(inputs))


@pytest.mark.parametrize("exported", [False, True], ids=["symbolic", "exported"])
@pytest.mark.parametrize("name", BROKEN)
def test_no_where_the_gap_is_not_zero_and_refused_for_the_same_reason(name, exported):
    torch.manual_seed(0)
    build, inputs = BROKEN[name]
    options = {"example": inputs} if exported else {}
    gap, ends = gap_after_a_step(build(), inputs, **options)
    # Two layers alone hide a square, whose factor enters twice; an eps is small; an index may stay.
    assert gap > 1e-6 or name in ("squared", "eps alone", "index from a mask")
    (why,) = {end for end in ends if end != "yes"}
    assert why.startswith("no: ") and why.endswith("is not positively homogeneous")
    with pytest.raises(ValueError, match="is not positively homogeneous") as caught:
        rescale_(build().double(), [2.0, 3.0], **options)
    assert why.removeprefix("no: ").split(" is not")[0] in str(caught.value)


@pytest.mark.parametrize("name", ["mean and spread", "one minus", "squashed inputs"])
def test_balance_asks_the_same(name):
    torch.manual_seed(0)
    model = WHOLE[name][0]().double()
    before = twin(model)
    history = balance_(model)
    assert history.iloc[-1] < history.iloc[0]
    torch.testing.assert_close(model(X), before(X))


@pytest.mark.parametrize("norm", [nn.LayerNorm(8, eps=0.5), nn.BatchNorm1d(8, eps=0.1)])
def test_a_large_eps_is_said(norm):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), copy.deepcopy(norm), nn.Linear(8, 2))
    gap, ends = gap_after_a_step(model, X)
    assert gap > 1e-6 and ends[0] == "yes"
    assert all(end.startswith("no: the eps of '1' (") for end in ends[1:])
    with pytest.raises(ValueError, match=r"the eps of '1' \(0\.[15]\) is too large"):
        rescale_(model, [2.0, 1.0, 1.0])
    assert rescale_(model, [1.0, 2.0, 3.0]) == 3.0 * 2.0


# --- the classifier --------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(8), mlp(8, 8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm(x))


class Patches(nn.Module):
    """A transformer's frame: patches by a convolution, blocks of linear layers, a head."""

    def __init__(self, heads: int = 1) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.blocks = nn.Sequential(*(Block() for _ in range(3)))
        self.norm = nn.LayerNorm(8)
        self.heads = nn.ModuleList(nn.Linear(8, 2) for _ in range(heads))

    def forward(self, x: Tensor):
        x = self.norm(self.blocks(self.patch(x).flatten(2).mT)).mean(1)
        outputs = tuple(head(x) for head in self.heads)
        return outputs if len(outputs) > 1 else outputs[0]


def classifier(model: nn.Module, **options) -> list[str]:
    return [la.name for la in trace(model, **options).layers if la.group == "classifier"]


def test_the_classifier_of_a_transformer_is_its_head():
    assert classifier(Patches()) == ["heads.0"]
    assert classifier(Patches(2)) == ["heads.0", "heads.1"]
    assert classifier(Patches(), classifier=["heads", "norm"]) == ["norm", "heads.0"]
    assert classifier(
        nn.Sequential(nn.Conv2d(3, 4, 3), Block(), nn.Flatten(), nn.Linear(9, 2))
    ) == ["3"]
    vgg = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(9, 5), nn.ReLU()]
    assert classifier(nn.Sequential(*vgg, nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 2))) == [
        *("3", "5", "7")
    ]
    assert classifier(mlp(3, 4, 5, 2)) == ["4"]
    assert classifier(ActorCritic().double(), example=X) == ["actor.2", "critic.2"]


def test_torchvisions_vision_transformer():
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        model = models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5)
    model = model.to_empty(device="cpu")
    assert classifier(model) == ["heads.head"]


def test_generic_products_never_agree_by_chance():
    """Two branches of many layers each: their scales differ, whatever the numbers."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = mlp(*(3,) * 41), mlp(*(3,) * 41)

        def forward(self, x: Tensor) -> Tensor:
            return self.left(x) + self.right(x)

    ends = SoftWeightRescaling(Two(), 0.1).summary()["proportional"]
    assert {name for name, end in ends.items() if end != "yes"} == {"left.78", "right.78"}
    assert ends["left.78"] == "no: behind it, 'add' adds branches of different scale"
    with pytest.raises(ValueError, match="different scales"):
        rescale_(Two(), [1.0] * 79 + [1.01])
    assert math.isclose(rescale_(Two(), [1.1] * 80), 1.1**40)


# --- where branches meet ---------------------------------------------------------------------


class Unequal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.left(x)) + torch.relu(self.right(x)))


def test_the_product_goes_on_from_the_last_branch():
    """As Algorithm 1's running C does; the factor of the other branch enters no bias behind."""
    members = membership(trace(Unequal()), "proportional")
    assert members == {"left": {"left"}, "right": {"right"}, "head": {"right", "head"}}
    model = Unequal()
    swr = SoftWeightRescaling(model, 1.0)
    with torch.no_grad():
        model.left.weight.mul_(4)
        model.right.weight.mul_(2)
    bias = model.head.bias.detach().clone()
    swr.step()
    torch.testing.assert_close(model.head.bias, bias / 2)


class Gated(nn.Module):
    """The gate h1·h3 has met a layer later than h2, with which it is added."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third, self.head = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        second = self.second(first)
        return self.head(second + first * self.third(second))


def test_a_product_is_as_late_as_its_latest_factor():
    members = membership(trace(Gated()), "proportional")
    assert members["head"] == {"first", "second", "third", "head"}


@pytest.mark.parametrize("off", [1e-3, 1e-5, 1e-7])
def test_branches_agree_to_rounding_and_no_further(off):
    model = Unequal().double()
    with pytest.raises(ValueError, match="different scales"):
        rescale_(model, [2.0, 2.0 * (1 + off), 3.0])
    assert rescale_(model, [0.1 + 0.2, 0.3, 3.0]) == pytest.approx(0.9)


# --- modules of torch's with layers inside ---------------------------------------------------


def encoder(**options) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True, **options)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def test_what_would_be_reached_on_an_example_is_said_and_true():
    model = nn.Sequential(nn.Linear(6, 8), encoder(norm_first=True), nn.Linear(8, 2))
    with pytest.warns(UserWarning, match=r"1\.layers\.0\.linear1.* reached with example=") as said:
        swr = SoftWeightRescaling(model, 0.1)
    assert [layer.name for layer in swr.layers] == ["0", "2"]
    (sentence,) = [str(w.message) for w in said if "leaves alone" in str(w.message)]
    assert "out_proj" not in sentence.partition(";")[2], "attention never calls it"
    reached = trace_layers(model, torch.randn(2, 5, 6))
    assert {f"1.layers.{i}.{name}" for i in (0, 1) for name in ("linear1", "linear2", "norm1")} <= {
        layer.name for layer in reached
    }


class CosineHead(nn.Module):
    """Its head is a layer whose weight is used, and which is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = Adapted(6, 8), nn.Linear(8, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.normalize(self.body(x)), F.normalize(self.head.weight))


@pytest.mark.parametrize("example", [None, X])
def test_what_no_example_would_reach_is_not_said_to_be(example):
    with pytest.warns(UserWarning, match=r"leaves alone .*: body\.down, body\.up, head") as said:
        SoftWeightRescaling(CosineHead().double(), 0.1, example=example)
    assert not [w for w in said if "example=" in str(w.message)]


def test_gates_upon_gates_are_said_and_no_number_overflows():
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(80))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = x * torch.sigmoid(layer(x))
            return x

    ends = SoftWeightRescaling(Gated(), 0.1).summary()["proportional"]
    assert set(ends.iloc[1:]) == {"no: 'sigmoid' is not positively homogeneous"}
    assert ends.iloc[0] == "no: behind it, 'sigmoid' is not positively homogeneous"
    squares = nn.Sequential(*(Masked(lambda h: h * h) for _ in range(12)))
    for block in squares:
        block.first, block.second = nn.Linear(6, 6), nn.Linear(6, 6)
    assert SoftWeightRescaling(squares, 0.1).summary()["proportional"].iloc[-1].startswith("no: ")
    with pytest.raises(ValueError, match="not positively homogeneous"):
        rescale_(squares, [1e300] * 24)


@pytest.mark.parametrize("exported", [False, True])
@pytest.mark.parametrize("last", [nn.Softmax(1), nn.Sigmoid(), nn.GELU()])
def test_what_bends_behind_the_last_layer_is_said_of_that_layer(last, exported):
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3), last)
    example = torch.randn(2, 4) if exported else None
    said = SoftWeightRescaling(model, 0.1, example=example).summary()["proportional"]
    assert said["0"] == "yes"
    assert re.match("no: behind it, .* is not positively homogeneous", said["2"])
    with pytest.raises(ValueError, match="is not positively homogeneous"):
        rescale_(model, [2.0, 3.0], example=example)


def a_column_set(h):
    h = h.clone()
    h[:, 0] = 1.0
    return h


def columns_shifted(h):
    h = h.clone()
    h[:, :2].add_(1.0)
    return h


def shifted_in_another_shape(h):
    h.view(-1).add_(1.0)
    return h


def shifted_beside_another_view(h):
    first, second = h.view(-1), h.view(2, -1)
    first.add_(1.0)
    return second.view_as(h)


def a_canvas(h):
    canvas = h.new_zeros(h.shape)
    canvas.narrow(1, 0, 2).copy_(h.narrow(1, 0, 2)).add_(1.0)
    return canvas


def columns_doubled(h):
    h = h.clone()
    h[:, :2].mul_(2.0)
    return h


class Written(nn.Module):
    def __init__(self, write) -> None:
        super().__init__()
        self.first, self.second, self.write = nn.Linear(4, 6), nn.Linear(6, 3), write

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.write(self.first(x)))


@pytest.mark.parametrize("exported", [False, True])
@pytest.mark.parametrize(
    "write",
    [
        a_column_set,
        columns_shifted,
        shifted_in_another_shape,
        shifted_beside_another_view,
        a_canvas,
    ],
)
def test_what_is_written_through_a_view_is_seen(write, exported):
    example = torch.randn(4, 4) if exported else None
    if write is a_column_set and not exported:
        with pytest.raises(ValueError, match=r"cannot be traced.*example="):
            SoftWeightRescaling(Written(write), 0.1)
        return
    said = SoftWeightRescaling(Written(write), 0.1, example=example).summary()["proportional"]
    assert said["second"].startswith("no: ")


@pytest.mark.parametrize("exported", [False, True])
def test_what_is_multiplied_through_a_view_keeps_its_scale(exported):
    model, example = Written(columns_doubled), torch.randn(4, 4) if exported else None
    assert {*SoftWeightRescaling(model, 0.1, example=example).summary()["proportional"]} == {"yes"}


def a_part_of_ones(h):
    canvas = torch.ones(4, 6)
    canvas[:, :3].copy_(h[:, :3])
    return canvas.relu()


def ones_set(h):
    canvas = torch.ones(4, 6)
    canvas[:, :3] = h[:, :3]
    return canvas.relu()


def a_part_of_zeros(h):
    canvas = torch.zeros(4, 6)
    canvas[:, :3].copy_(h[:, :3])
    return canvas.relu()


@pytest.mark.parametrize("write", [a_part_of_ones, ones_set, a_part_of_zeros])
def test_what_is_written_into_a_constant_is_seen(write):
    """Without an example nothing of it is: `torch.fx` takes what comes of it for constants."""
    with pytest.raises(ValueError, match=r"writes an activation into a tensor.*example="):
        SoftWeightRescaling(Written(write), 0.1)
    swr = SoftWeightRescaling(Written(write), 0.1, example=torch.randn(4, 4))
    end = swr.summary()["proportional"]["second"]
    assert end == "yes" if write is a_part_of_zeros else "into a part of 'ones'" in end


class Remembering(nn.Module):
    """It keeps an average of an activation in a buffer, and may go on from that."""

    def __init__(self, reads: bool) -> None:
        super().__init__()
        self.first, self.second, self.reads = nn.Linear(4, 6), nn.Linear(6, 3), reads
        self.register_buffer("average", torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        self.average.mul_(0.9).add_(h.detach().mean(0), alpha=0.1)
        return self.second(torch.relu(self.average + 1) if self.reads else h.relu())


def test_an_average_in_a_buffer_is_no_matter_unless_it_is_read():
    swr = SoftWeightRescaling(Remembering(False), 0.1)
    assert set(swr.summary()["proportional"]) == {"yes"}
    with pytest.raises(ValueError, match="writes an activation into a tensor"):
        SoftWeightRescaling(Remembering(True), 0.1)


# --- hooks -----------------------------------------------------------------------------------


def doubled(module, given, out):
    return 2 * out


def kept_and_doubled(module, given, out):
    KEPT.append(out)
    return 2 * out


def shifted(module, given, out):
    return out + 1


def shifted_before(module, given):
    return (given[0] + 1,)


KEPT = []


@torch.no_grad()
def watching(module, given, out=None):
    if out is not None:
        out.detach().mean()


class Recorder:
    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, module, given, out) -> None:
        self.seen.append(out)


def hooked(place: str, hook, *, before: bool = False) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 8)), nn.ReLU())
    model = nn.Sequential(*model, nn.Linear(8, 2)).double()
    module = model.get_submodule(place)
    (module.register_forward_pre_hook if before else module.register_forward_hook)(hook)
    return model


@pytest.mark.parametrize("exported", [False, True], ids=["symbolic", "exported"])
@pytest.mark.parametrize("place", ["0", "1", "2", "4", ""])
@pytest.mark.parametrize("before", [False, True])
def test_a_hook_that_changes_what_it_sees_is_followed_or_said(place, before, exported):
    model = hooked(place, shifted_before if before else shifted, before=before)
    options = {"example": X} if exported else {}
    gap, ends = gap_after_a_step(model, X, **options)
    if gap > 1e-9:  # an input may be shifted
        assert any(end.startswith("no: ") for end in ends)
        with pytest.raises(ValueError, match=r"hook|homogeneous"):
            rescale_(model, [2.0, 3.0, 4.0], **options)
    else:
        assert before and place in ("0", "")


@pytest.mark.parametrize("place", ["0", "1", "2", ""])
@pytest.mark.parametrize(
    "hook",
    [
        watching,
        functools.partial(watching),
        Recorder(),
        lambda module, *given: KEPT.append(given[-1]),
        lambda module, given, out: KEPT.append(out.detach().abs().mean()),
    ],
)
def test_a_hook_that_only_watches_is_no_matter(hook, place):
    gap, ends = gap_after_a_step(hooked(place, hook), X)
    assert gap < 1e-9 and set(ends) == {"yes"}


@pytest.mark.parametrize(
    "hook",
    [
        lambda module, given, out: KEPT.append(out) or 2 * out,
        lambda module, given, out: out.mul(2),
        lambda module, given, out: torch.add(out, 1),
        lambda module, given, out: (KEPT.append(out), 2 * out)[1],
        lambda module, given, out: doubled(module, KEPT.append(out), out),
        kept_and_doubled,
    ],
)
def test_a_hook_in_one_expression_that_returns_something_is_said(hook):
    ends = SoftWeightRescaling(hooked("0", hook), 0.1).summary()["proportional"]
    assert "hook" in ends["0"]


def test_a_hook_of_all_modules_is_one_of_each():
    model = hooked("4", watching)
    swr = SoftWeightRescaling(model, 0.1)
    handle = nn.modules.module.register_module_forward_hook(doubled)
    try:
        ends = list(swr.summary()["proportional"])
    finally:
        handle.remove()
    assert all("(doubled) returns something" in end for end in ends)


def test_a_hook_that_comes_later_is_said_with_its_name():
    model = hooked("4", watching)
    swr = SoftWeightRescaling(model, 0.1)
    handle = model[0].register_forward_hook(doubled)
    ends = swr.summary()["proportional"]
    assert "a hook of '0' (doubled) returns something" in ends["0"]
    handle.remove()
    assert set(swr.summary()["proportional"]) == {"yes"}
