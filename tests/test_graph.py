"""The table of operations, each against what it computes, and the steps of a trace."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import swrlib
from swrlib.network.graph import Untraceable, flattens_rows, trace
from swrlib.network.operations import OPERATIONS
from swrlib.theory import lipschitz_bound

WEIGHT = torch.randn(8, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
ROWS, SIGNALS, MAPS, VOLUMES = (3, 8), (2, 4, 6), (2, 4, 6, 6), (2, 4, 4, 4, 4)


class Op(nn.Module):
    """Any function as a network."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function, self.a = function, nn.Parameter(torch.tensor([0.3], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def in_place(name: str, other=lambda x: 3 * x):
    """Return x += other(x) and its like, on a copy."""
    return lambda x: getattr(x.clone(), f"__{name}__")(other(x))


def ordinary(name: str):
    return lambda x: getattr(F, name)(x)


# Every operation of the table: how it is called, and on what shape.
CALLS = {
    **{name: (ordinary(name), ROWS) for name in ("relu", "relu6", "hardtanh", "tanh", "softsign")},
    **{name: (ordinary(name), ROWS) for name in ("logsigmoid", "tanhshrink", "sigmoid", "gelu")},
    **{name: (ordinary(name), ROWS) for name in ("hardsigmoid", "hardswish", "silu", "mish")},
    **{name: (ordinary(name), ROWS) for name in ("selu", "elu", "celu", "softplus")},
    "leakyrelu": (lambda x: F.leaky_relu(x, 0.2), ROWS),
    "prelu": (nn.PReLU(), ROWS),
    "rrelu": (nn.RReLU().eval(), ROWS),
    "erf": (torch.erf, ROWS),
    "identity": (nn.Identity(), ROWS),
    **{
        name: (lambda x, name=name: getattr(x, name)(), ROWS)
        for name in ("neg", "abs", "contiguous", "clone", "detach", "float", "double", "half", "t")
    },
    "to": (lambda x: x.to(torch.float32), ROWS),
    "type": (lambda x: x.type(torch.float32), ROWS),
    "tocopy": (lambda x: torch.ops.aten._to_copy(x, dtype=torch.float32), ROWS),
    "dropout": (nn.Dropout().eval(), ROWS),
    "dropout1d": (nn.Dropout1d().eval(), SIGNALS),
    "dropout2d": (nn.Dropout2d().eval(), MAPS),
    "dropout3d": (nn.Dropout3d().eval(), VOLUMES),
    "featuredropout": (lambda x: torch.feature_dropout(x, 0.5, False), MAPS),
    "flatten": (lambda x: x.flatten(1), MAPS),
    "unflatten": (lambda x: x.unflatten(1, (2, 2)), MAPS),
    "reshape": (lambda x: x.reshape(2, -1), MAPS),
    "view": (lambda x: x.view(2, -1), MAPS),
    "permute": (lambda x: x.permute(0, 2, 3, 1), MAPS),
    "transpose": (lambda x: x.transpose(1, 2), MAPS),
    "numpyt": (lambda x: torch.ops.aten.numpy_T(x), ROWS),
    "squeeze": (lambda x: x.squeeze(0), (1, 8)),
    "unsqueeze": (lambda x: x.unsqueeze(1), ROWS),
    "pixelshuffle": (nn.PixelShuffle(2), MAPS),
    "expand": (lambda x: x.expand(3, 8), (1, 8)),
    "getitem": (lambda x: x[:, [1, 0, 0]], ROWS),
    "chunk": (lambda x: torch.chunk(x, 2, 1)[0], ROWS),
    "split": (lambda x: x.split(4, 1)[0], ROWS),
    "unbind": (lambda x: x.unbind(1)[0], ROWS),
    "narrow": (lambda x: x.narrow(1, 2, 3), ROWS),
    "slice": (lambda x: torch.ops.aten.slice(x, 1, 2, 5), ROWS),
    "select": (lambda x: x.select(1, 2), ROWS),
    "index": (lambda x: torch.ops.aten.index(x, [None, torch.tensor([1, 0])]), ROWS),
    "avgpool1d": (lambda x: F.avg_pool1d(x, 2), SIGNALS),
    "avgpool2d": (nn.AvgPool2d(3, 2, 1), MAPS),
    "avgpool3d": (nn.AvgPool3d(2), VOLUMES),
    "adaptiveavgpool1d": (nn.AdaptiveAvgPool1d(4), SIGNALS),
    "adaptiveavgpool2d": (lambda x: F.adaptive_avg_pool2d(x, 4), MAPS),
    "adaptiveavgpool3d": (nn.AdaptiveAvgPool3d(1), VOLUMES),
    "maxpool1d": (lambda x: F.max_pool1d(x, 2), SIGNALS),
    "maxpool2d": (lambda x: F.max_pool2d(x, 3, 1), MAPS),
    "maxpool3d": (nn.MaxPool3d(2), VOLUMES),
    "adaptivemaxpool1d": (nn.AdaptiveMaxPool1d(4), SIGNALS),
    "adaptivemaxpool2d": (nn.AdaptiveMaxPool2d(1), MAPS),
    "adaptivemaxpool3d": (nn.AdaptiveMaxPool3d(1), VOLUMES),
    "lppool1d": (nn.LPPool1d(2, 2), SIGNALS),
    "lppool2d": (nn.LPPool2d(2, 2), MAPS),
    "lppool3d": (nn.LPPool3d(2, 2), VOLUMES),
    "zeropad1d": (nn.ZeroPad1d(1), SIGNALS),
    "zeropad2d": (nn.ZeroPad2d(1), MAPS),
    "zeropad3d": (nn.ZeroPad3d(1), VOLUMES),
    "reflectionpad2d": (nn.ReflectionPad2d(1), MAPS),
    "replicationpad2d": (nn.ReplicationPad2d(1), MAPS),
    "upsamplenearest2d": (lambda x: torch.ops.aten.upsample_nearest2d(x, [12, 12]), MAPS),
    "upsamplebilinear2d": (
        lambda x: torch.ops.aten.upsample_bilinear2d(x, [12, 12], False),
        MAPS,
    ),
    "upsample": (nn.Upsample(scale_factor=2), MAPS),
    "interpolate": (lambda x: F.interpolate(x, scale_factor=1.5, mode="bilinear"), MAPS),
    "mean": (lambda x: x.mean((2, 3)), MAPS),
    "sum": (lambda x: x.sum(1), MAPS),
    "amax": (lambda x: x.amax((2, 3)), MAPS),
    "add": (lambda x: x + x, ROWS),
    "iadd": (in_place("iadd"), ROWS),
    "sub": (lambda x: x - 2 * x, ROWS),
    "isub": (in_place("isub"), ROWS),
    "rsub": (lambda x: torch.rsub(x, 2 * x), ROWS),
    **{
        name: (lambda x, name=name: getattr(torch, name)([x, x], 1), ROWS)
        for name in ("cat", "concat", "concatenate", "stack")
    },
    "mul": (lambda x: x * -3, ROWS),
    "imul": (in_place("imul", lambda x: 2), ROWS),
    "multiply": (lambda x: torch.multiply(x, 2), ROWS),
    "div": (lambda x: x.div(-4), ROWS),
    "truediv": (lambda x: x / 4, ROWS),
    "itruediv": (in_place("itruediv", lambda x: 4), ROWS),
    "divide": (lambda x: torch.divide(x, 4), ROWS),
    "sqrt": (lambda x: x.abs().sqrt(), ROWS),
    "rsqrt": (lambda x: x.abs().rsqrt(), ROWS),
    **{
        name: (lambda x, name=name: getattr(torch, name)(x), ROWS)
        for name in ("square", "reciprocal", "sign", "sgn")
    },
    "pow": (lambda x: x**3, ROWS),
    "bfloat16": (lambda x: x.bfloat16(), ROWS),
    "typeas": (lambda x: x.type_as(x), ROWS),
    "channelshuffle": (nn.ChannelShuffle(2), MAPS),
    "roll": (lambda x: x.roll(1, 1), ROWS),
    "flip": (lambda x: x.flip(1), ROWS),
    "movedim": (lambda x: x.movedim(1, 2), MAPS),
    "swapaxes": (lambda x: x.swapaxes(1, 2), MAPS),
    "viewas": (lambda x: x.view_as(x), ROWS),
    "mt": (lambda x: x.mT, ROWS),
    "expandas": (lambda x: x[:1].expand_as(x), ROWS),
    "repeat": (lambda x: x.repeat(2, 1), ROWS),
    "splitwithsizes": (lambda x: torch.split_with_sizes(x, [3, 5], 1)[1], ROWS),
    "tensorsplit": (lambda x: torch.tensor_split(x, 2, 1)[0], ROWS),
    "indexselect": (lambda x: x.index_select(1, torch.tensor([1, 1])), ROWS),
    "gather": (lambda x: x.gather(1, torch.ones(3, 1, dtype=torch.long)), ROWS),
    "values": (lambda x: x.max(1).values, ROWS),
    "amin": (lambda x: x.amin((2, 3)), MAPS),
    "std": (lambda x: x.std(1), ROWS),
    "var": (lambda x: x.var(1), ROWS),
    "stdmean": (lambda x: torch.std_mean(x, 1)[0], ROWS),
    "varmean": (lambda x: torch.var_mean(x, 1)[1], ROWS),
    "indices": (lambda x: x.max(1).indices, ROWS),
    "max": (lambda x: x.max(1)[0], ROWS),
    "min": (lambda x: torch.min(x, 2 * x), ROWS),
    "cumsum": (lambda x: x.cumsum(1), ROWS),
    **{name: (lambda x, name=name: getattr(x, name)(1), ROWS) for name in ("nansum", "nanmean")},
    **{
        name: (lambda x, name=name: getattr(x, name)(1)[0], ROWS)
        for name in ("median", "nanmedian", "sort", "topk", "kthvalue", "cummax", "cummin")
    },
    **{
        name: (lambda x, name=name: getattr(x, name)(), ROWS)
        for name in ("diff", "triu", "tril", "fliplr", "flipud", "rot90")
    },
    **{
        name: (lambda x, name=name: getattr(torch, name)(x), ROWS)
        for name in ("sin", "cos", "atan", "arctan", "exp")
    },
    "log": (lambda x: x.abs().log(), ROWS),
    "softmax": (lambda x: x.softmax(1), ROWS),
    "softmax2d": (nn.Softmax2d(), MAPS),
    "logsoftmax": (lambda x: F.log_softmax(x, 1), ROWS),
    "logsumexp": (lambda x: x.logsumexp(1), ROWS),
    "tile": (lambda x: x.tile(2, 1), ROWS),
    "unfold": (lambda x: x.unfold(1, 3, 1), ROWS),
    "threshold": (lambda x: F.threshold(x, 0, 0), ROWS),
    "softshrink": (lambda x: F.softshrink(x, 0), ROWS),
    "hardshrink": (lambda x: F.hardshrink(x, 0), ROWS),
    "zero": (lambda x: (2 * x).zero_(), ROWS),
    "copy": (lambda x: (2 * x.sign()).copy_(x), ROWS),
    "nantonum": (torch.nan_to_num, ROWS),
    "alphadropout": (nn.AlphaDropout().eval(), ROWS),
    "featurealphadropout": (nn.FeatureAlphaDropout().eval(), MAPS),
    "pixelunshuffle": (nn.PixelUnshuffle(2), MAPS),
    "takealongdim": (lambda x: x.take_along_dim(torch.ones(3, 1, dtype=torch.long), 1), ROWS),
    **{
        name: (lambda x, name=name: getattr(torch, name)(x), ROWS)
        for name in ("expm1", "round", "floor", "ceil", "trunc")
    },
    "log1p": (lambda x: x.abs().log1p(), ROWS),
    "glu": (F.glu, ROWS),
    "scaleddotproductattention": (lambda x: F.scaled_dot_product_attention(x, x, x), SIGNALS),
    "cosinesimilarity": (lambda x: F.cosine_similarity(x, x.roll(1, 0)), ROWS),
    "hypot": (lambda x: torch.hypot(x, 2 * x), ROWS),
    "lerp": (lambda x: torch.lerp(x, 3 * x.abs(), 0.3), ROWS),
    "fmod": (lambda x: torch.fmod(x, x.roll(1, 0)), ROWS),
    "remainder": (lambda x: torch.remainder(x, x.roll(1, 0)), ROWS),
    "mod": (lambda x: x % x.roll(1, 0), ROWS),
    "cdist": (lambda x: torch.cdist(x, 2 * x), ROWS),
    "mv": (lambda x: x.mv(WEIGHT[0]), ROWS),
    "dot": (lambda x: torch.dot(x[0], x[1]), ROWS),
    "outer": (lambda x: torch.outer(x[0], x[1]), ROWS),
    "inner": (lambda x: torch.inner(x, WEIGHT), ROWS),
    "tensordot": (lambda x: torch.tensordot(x, WEIGHT, 1), ROWS),
    "addmm": (lambda x: torch.addmm(x, x, WEIGHT), ROWS),
    "addmv": (lambda x: torch.addmv(x[:, 0], x, WEIGHT[0]), ROWS),
    "addbmm": (lambda x: torch.addbmm(x[0], x, WEIGHT[:6, :6].expand(2, 6, 6)), SIGNALS),
    "baddbmm": (lambda x: torch.baddbmm(x, x, WEIGHT[:6, :6].expand(2, 6, 6)), SIGNALS),
    "addcmul": (lambda x: torch.addcmul(x, WEIGHT[:3], x, value=2), ROWS),
    **{
        f"convtranspose{n}d": (
            lambda x, n=n: getattr(F, f"conv_transpose{n}d")(
                x, WEIGHT[:4, :4].reshape(4, 4, *(1,) * n)
            ),
            shape,
        )
        for n, shape in ((1, SIGNALS), (2, MAPS), (3, VOLUMES))
    },
    "fill": (lambda x: (2 * x).fill_(3), ROWS),
    "norm": (lambda x: x.norm(dim=1), ROWS),
    "linalgvectornorm": (lambda x: torch.linalg.vector_norm(x, dim=1), ROWS),
    "layernorm": (lambda x: F.layer_norm(x, (8,), eps=1e-30), ROWS),
    "rmsnorm": (lambda x: F.rms_norm(x, (8,), eps=1e-30), ROWS),
    "groupnorm": (lambda x: F.group_norm(x, 2, eps=1e-30), MAPS),
    "instancenorm": (lambda x: F.instance_norm(x, eps=1e-30), MAPS),
    "batchnorm": (lambda x: F.batch_norm(x, None, None, training=True, eps=1e-30), ROWS),
    "normalize": (F.normalize, ROWS),
    **{
        name: (lambda x, name=name: getattr(x, name)(1), ROWS)
        for name in ("argmax", "argmin", "argsort")
    },
    "pad": (lambda x: F.pad(x, (1, 1)), ROWS),
    "constantpadnd": (lambda x: torch.constant_pad_nd(x, (1, 1)), ROWS),
    "subtract": (lambda x: torch.subtract(x, 2 * x), ROWS),
    "maximum": (lambda x: torch.maximum(x, -x), ROWS),
    "minimum": (lambda x: torch.minimum(x, 3 * x), ROWS),
    "linear": (lambda x: F.linear(x, WEIGHT), ROWS),
    "matmul": (lambda x: x @ WEIGHT, ROWS),
    "mm": (lambda x: x.mm(WEIGHT), ROWS),
    "bmm": (lambda x: x.bmm(x.mT), SIGNALS),
    "einsum": (lambda x: torch.einsum("ij,jk->ik", x, WEIGHT), ROWS),
    **{
        f"conv{n}d": (
            lambda x, n=n: getattr(F, f"conv{n}d")(x, WEIGHT[:4, :4].reshape(4, 4, *(1,) * n)),
            shape,
        )
        for n, shape in ((1, SIGNALS), (2, MAPS), (3, VOLUMES))
    },
    **{
        name: (lambda x, name=name: getattr(x, name)(0), ROWS)
        for name in ("gt", "ge", "lt", "le", "ne")
    },
    "eq": (lambda x: x.relu().eq(0), ROWS),
    "where": (lambda x: torch.where(x > 0, x, 3 * x), ROWS),
    "maskedfill": (lambda x: x.masked_fill(x > 0, 0), ROWS),
    "clamp": (lambda x: x.clamp(min=0), ROWS),
    "clampmin": (lambda x: x.clamp_min(0), ROWS),
    "clip": (lambda x: torch.clip(x, 0), ROWS),
    "size": (lambda x: x.size(), ROWS),
    **{
        name: (lambda x, name=f"{name[:-4]}_like": getattr(torch, name)(x), ROWS)
        for name in ("zeroslike", "oneslike", "emptylike")
    },
    "fulllike": (lambda x: torch.full_like(x, 2), ROWS),
    "newzeros": (lambda x: x.new_zeros(3), ROWS),
    "newones": (lambda x: x.new_ones(3), ROWS),
    "newfull": (lambda x: x.new_full((3,), 2), ROWS),
    "dim": (lambda x: x.dim(), ROWS),
    "numel": (lambda x: x.numel(), ROWS),
    **{
        name: (lambda x, name=name: getattr(x, name), ROWS)
        for name in ("shape", "ndim", "dtype", "device")
    },
}
#: Others that PyTorch writes down where it exports a network.
EXPORTED = {"asserttensormetadata"}
NUMBERS = [name for name in CALLS if OPERATIONS[name].role != "shape"]


def drawn(name: str, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(CALLS[name][1], generator=generator, dtype=torch.float64)


def called(name: str, x: Tensor) -> Tensor:
    model = Op(CALLS[name][0]).double()
    with torch.no_grad():
        return model(x).double()


def having(**attributes) -> list[str]:
    return [
        name
        for name in NUMBERS
        if all(getattr(OPERATIONS[name], key) == value for key, value in attributes.items())
    ]


def test_every_operation_of_the_table_is_tried():
    assert set(CALLS) | EXPORTED == set(OPERATIONS)


@pytest.mark.parametrize("name", CALLS)
def test_an_operation_is_found_under_its_name(name):
    graph = trace(Op(CALLS[name][0]))
    found = {step.operation for step in graph.steps}
    if OPERATIONS[name].role == "shape":
        assert found == {""}  # the input alone: no activation comes of it
    else:
        assert name in found


@pytest.mark.parametrize("name", NUMBERS)
def test_a_degree_is_the_power_of_a_factor_that_passes(name):
    """f(c·x) = c^d·f(x), d followed from the input to the operation; no table of ours is asked."""
    x, factor = drawn(name), 25
    steps = trace(Op(CALLS[name][0])).steps
    degrees: dict[str, float] = {}
    for step in steps:
        reached = [degrees[i] for i in step.inputs]
        if step.kind == "power":
            degrees[step.name] = sum(map(math.prod, zip(reached, step.powers, strict=True)))
        elif step.kind == "sum" and step.powers:
            (degrees[step.name],) = {d for d, p in zip(reached, step.powers, strict=True) if p}
        else:
            degrees[step.name] = reached[0] if reached else 1.0
        if step.operation == name:
            break
    expected = factor ** degrees[step.name] * called(name, x)
    gap = (called(name, factor * x) - expected).abs().max() / (expected.abs().max() or 1)
    rounding = dict.fromkeys(("half", "bfloat16"), 2e-2)
    rounding |= dict.fromkeys(("to", "tocopy", "float", "type"), 1e-6)
    if step.kind == "other":
        assert OPERATIONS[name].degree != 1 and gap > 1e-2
    else:
        assert gap <= max(rounding.get(name, 0), 1e-12)


@pytest.mark.parametrize("name", having(elementwise=True))
def test_elementwise_is_what_entries_do_by_themselves(name):
    x = drawn(name)
    order = torch.randperm(x.numel(), generator=torch.Generator().manual_seed(1))
    moved = x.flatten()[order].view_as(x)
    expected = called(name, x).flatten()[order]
    torch.testing.assert_close(called(name, moved).flatten(), expected, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("name", having(role="places"))
def test_places_are_what_changes_no_value(name):
    x = drawn(name)
    assert torch.isin(called(name, x), x).all()
    if OPERATIONS[name].slope is not None:  # each once
        assert torch.equal(called(name, x).flatten().sort().values, x.flatten().sort().values)


@pytest.mark.parametrize("name", having(role="window"))
def test_windows_treat_each_channel_by_itself(name):
    x = drawn(name)
    axes = OPERATIONS[name].axes
    assert axes in (None, x.dim() - 2)
    torch.testing.assert_close(called(name, x)[:, 1:3], called(name, x[:, 1:3]))


@pytest.mark.parametrize("name", having(linear=True))
def test_linear_is_what_sums_pass_through(name):
    x, y = drawn(name), drawn(name, 1)
    expected = 2 * called(name, x) - 3 * called(name, y)
    torch.testing.assert_close(called(name, 2 * x - 3 * y), expected)


@pytest.mark.parametrize("name", having(maximum=True))
def test_a_maximum_is_one_of_the_entries_and_no_less_than_the_mean(name):
    x = drawn(name)
    assert torch.isin(called(name, x), x).all()
    assert called(name, x).mean() > x.mean()


# Greatest slopes


OPTIONS = {
    "steep leaky ReLU": lambda x: F.leaky_relu(x, -3.0),
    "flat leaky ReLU": nn.LeakyReLU(0.1),
    "steep PReLU": nn.PReLU(init=-1.5),
    "steep ELU": lambda x: F.elu(x, alpha=2.5),
    "flat ELU": nn.ELU(0.5),
    "CELU": lambda x: F.celu(x, 0.4),
    "softplus": nn.Softplus(beta=3.0),
    "GELU by tanh": nn.GELU(approximate="tanh"),
    "narrow hardtanh": nn.Hardtanh(-0.1, 0.2),
}
NOT_ALWAYS = ("dropout", "feature", "alpha", "detach")
STEEP = OPTIONS | {
    name: CALLS[name][0]
    for name in having(role="entries")
    if OPERATIONS[name].slope is not None and not name.startswith(NOT_ALWAYS)
}


@pytest.mark.parametrize("name", STEEP)
def test_a_slope_is_the_greatest_there_is(name):
    model = Op(STEEP[name]).double()
    x = torch.linspace(-12, 12, 240_001, dtype=torch.float64)
    with torch.no_grad():
        values = model(x)
    differences = (values.diff() / x.diff()).abs().max()
    slope = lipschitz_bound(model, torch.zeros(1, 1))
    assert float(differences) <= slope * (1 + 1e-9)
    assert float(differences) >= 0.99 * slope
    x = x.requires_grad_()
    (gradient,) = torch.autograd.grad(model(x).sum(), x)
    assert float(gradient.abs().max()) <= slope * (1 + 1e-12)


def test_the_slopes_of_smooth_activations_are_right_to_four_digits():
    x = torch.linspace(-4, 4, 80_001, dtype=torch.float64)
    for name in ("gelu", "silu", "mish", "selu", "erf", "hardsigmoid"):
        greatest = (called_at(name, x).diff() / x.diff()).abs().max()
        slope = OPERATIONS[name].slope
        assert 0 <= slope - float(greatest) < 1.2e-4, name
    exact = 0.5 * (1 + math.erf(1)) + math.sqrt(2) * math.exp(-1) / math.sqrt(2 * math.pi)
    assert 1.1289 < exact < OPERATIONS["gelu"].slope  # GELU's, at √2: 1.1289 were no bound


def called_at(name: str, x: Tensor) -> Tensor:
    with torch.no_grad():
        return CALLS[name][0](x)


@pytest.mark.parametrize(
    "name",
    [n for n in NUMBERS if OPERATIONS[n].slope == 1.0 and OPERATIONS[n].role != "entries"],
)
def test_a_slope_of_one_stretches_no_change(name):
    for seed in range(20):
        x, change = drawn(name, seed), drawn(name, seed + 100)
        moved = called(name, x + change) - called(name, x)
        assert moved.norm() <= change.norm() * (1 + 1e-12)


def test_random_dropout_and_jumps_have_no_slope():
    for function in (
        lambda x: F.dropout(x, 0.5),
        lambda x: torch.feature_dropout(x, 0.5, True),
        lambda x: F.celu(x, -1.0),
        nn.Softplus(threshold=1.0),
    ):
        with pytest.raises(ValueError, match="no known Lipschitz constant"):
            lipschitz_bound(Op(function), torch.ones(1, 3, 4, 4))


# Steps


def test_steps_know_their_inputs_nodes_and_modules():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    graph = trace(model)
    assert [(s.name, s.kind, s.operation) for s in graph.steps] == [
        ("input_1", "input", ""),
        ("0", "layer", ""),
        ("_1", "homogeneous", "relu"),
        ("2", "layer", ""),
    ]
    assert [s.inputs for s in graph.steps] == [(), ("input_1",), ("0",), ("_1",)]
    assert [s.module for s in graph.steps[1:]] == list(model)
    assert graph.outputs == ("2",) and graph.used == frozenset()
    assert [s.node for s in graph.steps] == list(graph.nodes.nodes)[:-1]


def test_both_traces_have_the_same_steps():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    symbolic, exported = trace(model), trace(model, torch.randn(2, 1, 6, 6))
    kinds = [(step.kind, step.operation) for step in symbolic.steps]
    assert [(step.kind, step.operation) for step in exported.steps] == kinds


def test_types_are_bookkeeping_in_an_export():
    graph = trace(Op(lambda x: x.to(torch.float32)), torch.randn(2, 3).double())
    assert [step.kind for step in graph.steps] == ["input", "homogeneous"]


def test_what_is_written_in_place_is_traced_as_such():
    """x += y changes what other names of x see; to fx alone it is x = x + y."""

    def function(x: Tensor) -> Tensor:
        x = 2 * x
        seen = x
        x += 1
        x -= 2
        x *= 3
        x /= 4
        return seen

    graph = trace(Op(function))
    found = [step.operation for step in graph.steps]
    assert found == ["", "mul", "iadd", "isub", "imul", "itruediv"]
    assert graph.outputs == (graph.steps[-1].name,)  # what "seen" is in the end
    x = torch.randn(3, dtype=torch.float64)
    network = torch.fx.GraphModule(Op(function), graph.nodes)
    assert torch.equal(network(x), function(x))


@pytest.mark.parametrize("example", [None, torch.ones(2)])
def test_what_cannot_be_traced_is_said_in_one_sentence(example):
    model = Op(lambda x: x if bool((x > 0).all()) else -x)
    with pytest.raises(Untraceable, match="Op cannot be traced") as caught:
        trace(model, example)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (nn.Flatten(), True),
        (lambda x: torch.flatten(x, 1), True),
        (lambda x: x.flatten(), False),
        (lambda x: x.view(x.size(0), -1), True),
        (lambda x: x.reshape((x.shape[0], 12)), True),
        (lambda x: x.view(-1, 12), False),
        (nn.ReLU(), False),
    ],
)
def test_flattening_rows_is_seen_in_all_its_spellings(function, expected):
    assert flattens_rows(trace(Op(function)).steps[-1]) == expected


# The order of files

FILES = (
    *("operations", "powers", "hooks", "writes", "arguments", "graph", "effects"),
    *("parameters", "order", "layers", "scales"),
)


def test_no_file_imports_one_that_stands_above_it():
    folder = Path(swrlib.__file__).parent / "network"
    assert {path.stem for path in folder.glob("*.py")} == {"__init__", *FILES}
    for position, name in enumerate(FILES):
        text = (folder / f"{name}.py").read_text()
        imported = set(re.findall(r"^from swrlib\.network\.(\w+) import", text, re.M))
        assert imported <= set(FILES[:position]), name
