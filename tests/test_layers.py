"""Layers as traced: order, kinds, predecessors, groups, and what a scaling may pass through."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import NamedTuple

import oracles
import pytest
import torch
import torch.nn.functional as F
from oracles import LAYERS, gap, inputs_for, small_model, spread_factors, twin
from torch import Tensor, nn

from swrlib import SoftWeightRescaling, rescale_, trace_layers
from swrlib.models import build_model
from swrlib.network.layers import Layer, parameters_outside, trace, unwrap
from swrlib.theory import balance_, proportionality_gap


def names(layers: list[Layer]) -> list[str]:
    return [layer.name for layer in layers]


def chain(layers: list[Layer]) -> bool:
    """Return whether each layer is fed by the one before it."""
    before = [(), *((layer.name,) for layer in layers[:-1])]
    return [layer.predecessors for layer in layers] == before


class Functional(nn.Module):
    """Modules in another order than they run in; everything else as functions and methods."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)
        self.hidden = nn.Linear(16, 6)
        self.second = nn.Conv2d(3, 4, 3)
        self.first = nn.Conv2d(1, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.first(x)), 2)
        x = F.leaky_relu(self.second(x), 0.1).flatten(1)
        x = x.view(x.size(0), -1).reshape(x.shape[0], -1)
        return self.head(torch.relu(self.hidden(x)) / 2)


class Residual(nn.Module):
    """The block's output is added to its input."""

    def __init__(self, *, shortcut: bool = False) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 5)
        self.first = nn.Linear(5, 5)
        self.second = nn.Linear(5, 5)
        self.shortcut = nn.Linear(5, 5) if shortcut else nn.Identity()
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = self.second(torch.relu(self.first(x))) + self.shortcut(x)
        return self.head(torch.relu(x))


class Branches(nn.Module):
    """Two branches of the input, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(4, 3)
        self.right = nn.Linear(4, 2)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([torch.relu(self.left(x)), self.right(x)], dim=1))


class Between(nn.Module):
    """Two linear layers with any function between them."""

    def __init__(self, function) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.shift = nn.Parameter(torch.randn(4))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.function(self, self.first(x)))


# --- order, kinds, groups --------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYERS)
def test_the_layers_of_known_models(name):
    layers = trace_layers(small_model(name))
    found = [(layer.name, layer.kind, layer.group) for layer in layers]
    assert found == [(row.name, row.kind, row.group) for row in LAYERS[name]]
    assert chain(layers)
    model = small_model(name)
    for layer in trace_layers(model):
        assert layer.module is model.get_submodule(layer.name)
        assert layer.weight is model.get_parameter(f"{layer.name}.weight")


def test_the_order_is_that_of_the_forward_pass_not_of_the_attributes():
    layers = trace_layers(Functional())
    assert names(layers) == ["first", "second", "hidden", "head"]
    assert [layer.group for layer in layers] == ["features"] * 2 + ["classifier"] * 2
    assert chain(layers)


def test_a_residual_block():
    layers = trace_layers(Residual())
    assert {layer.name: layer.predecessors for layer in layers} == {
        "stem": (),
        "first": ("stem",),
        "second": ("first",),
        "head": ("second", "stem"),
    }
    # No convolution: the classifier is the last fully connected layer.
    assert [layer.group for layer in layers] == ["features"] * 3 + ["classifier"]
    with_shortcut = trace_layers(Residual(shortcut=True))
    assert set(with_shortcut[-1].predecessors) == {"second", "shortcut"}


def test_parallel_branches():
    layers = trace_layers(Branches())
    assert [(la.name, la.predecessors) for la in layers] == [
        ("left", ()),
        ("right", ()),
        ("head", ("left", "right")),
    ]


def test_the_classifier_begins_after_the_last_convolution():
    model = nn.Sequential(
        nn.Flatten(2),
        nn.Linear(9, 8),  # before a convolution: features
        nn.Conv1d(1, 2, 3),
        nn.BatchNorm1d(2),
        nn.Flatten(),
        nn.Linear(12, 5),
        nn.LayerNorm(5),
        nn.ReLU(),
        nn.Linear(5, 3),
    )
    groups = {layer.name: layer.group for layer in trace_layers(model)}
    classifier = [name for name, group in groups.items() if group == "classifier"]
    assert classifier == ["5", "6", "8"]
    assert [layer.kind for layer in trace_layers(model)].count("normalization") == 2


def test_a_network_of_convolutions_has_no_classifier():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.Flatten())
    assert [layer.group for layer in trace_layers(model)] == ["features", "features"]
    deep = nn.Sequential(nn.ConvTranspose2d(3, 4, 3), nn.Conv3d(4, 5, 1), nn.Linear(3, 2))
    assert [layer.kind for layer in trace_layers(deep)] == ["convolution", "convolution", "linear"]
    assert [layer.group for layer in trace_layers(deep)][-1] == "classifier"


def test_the_user_may_name_the_classifier():
    model = nn.Sequential()
    model.add_module("body", nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4)))
    model.add_module("head", nn.Linear(4, 2))
    model.add_module("header", nn.Linear(2, 2))

    def classifier(*given: str) -> list[str]:
        layers = trace(model, classifier=given).layers
        return [layer.name for layer in layers if layer.group == "classifier"]

    assert classifier("body") == ["body.0", "body.2"]
    assert classifier("body.2", "head") == ["body.2", "head"], "'header' is another module"
    assert classifier() == []
    swr = SoftWeightRescaling(model, lam_features=0, lam_classifier=1, classifier=["body.2"])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    swr.step()
    assert swr.summary()["factor"].tolist() == [1, 0.5, 1, 1]
    with pytest.raises(ValueError, match="no module 'hed': did you mean 'head'"):
        classifier("hed")
    with pytest.raises(ValueError, match=r"module 'body\.1' of the classifier has no layer"):
        classifier("body.1")
    assert classifier("") == ["body.0", "body.2", "head", "header"]  # the whole model
    with pytest.raises(ValueError, match="known are body, "):
        classifier("quite another name")
    layers = trace(model, classifier=iter(["head"])).layers
    assert [layer.group for layer in layers].count("classifier") == 1


def test_subclasses_and_bare_layers():
    class Dense(nn.Linear):
        pass

    class MyNorm(nn.BatchNorm1d):
        pass

    layers = trace_layers(nn.Sequential(Dense(3, 4), MyNorm(4), nn.ReLU(), Dense(4, 2)))
    assert [layer.kind for layer in layers] == ["linear", "normalization", "linear"]

    model = nn.Linear(3, 2).double()
    (layer,) = trace_layers(model)
    assert (layer.name, layer.kind, layer.group) == ("", "linear", "classifier")
    x = torch.randn(5, 3, dtype=torch.float64)
    after = twin(model)
    assert rescale_(after, [3.0]) == 3.0
    assert gap(after, model, 3.0, x) < 1e-15
    SoftWeightRescaling(model, 0.1).step()


def test_all_normalizations_are_layers_also_without_parameters():
    normalizations = [
        nn.BatchNorm2d(4),
        nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4),
        nn.LayerNorm([3, 3]),
        nn.RMSNorm(3),
        nn.BatchNorm2d(4, affine=False),
    ]
    layers = trace_layers(nn.Sequential(*normalizations))
    assert [layer.kind for layer in layers] == ["normalization"] * 6
    assert [layer.weight is None for layer in layers] == [False, False, True, False, False, True]
    assert layers[4].bias is None


@pytest.mark.parametrize("count", [1, 2])
def test_compiled_and_parallel_models_are_looked_into(count):
    model = small_model("mlp")
    wrapped: nn.Module = model
    for _ in range(count):
        wrapped = torch.compile(nn.DataParallel(wrapped), backend="eager")
    assert unwrap(wrapped) is model
    assert names(trace_layers(wrapped)) == ["linear1", "linear2", "linear3"]
    assert parameters_outside(wrapped, trace_layers(wrapped)) == []


# --- real networks ---------------------------------------------------------------------------


def test_vgg16_of_this_library():
    data = oracles.dataset(shape=(3, 32, 32))
    with torch.device("meta"):
        model = build_model("vgg16", data)
    layers = trace_layers(model)
    kinds = [layer.kind for layer in layers]
    assert kinds == ["convolution", "normalization"] * 13 + ["linear"] * 3
    assert [layer.group for layer in layers] == ["features"] * 26 + ["classifier"] * 3
    assert chain(layers)


def test_torchvision_vgg16_bn():
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        model = torchvision.models.vgg16_bn()
    layers = trace_layers(model)
    assert [la.kind for la in layers] == ["convolution", "normalization"] * 13 + ["linear"] * 3
    assert [la.name for la in layers if la.group == "classifier"] == [
        "classifier.0",
        "classifier.3",
        "classifier.6",
    ]
    assert chain(layers)


def test_torchvision_resnet18():
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model = torchvision.models.resnet18()
    layers = trace_layers(model)
    assert len(layers) == 41
    by_name = {layer.name: layer for layer in layers}
    assert layers[-1].name == "fc" and by_name["fc"].group == "classifier"
    assert [layer.group for layer in layers[:-1]] == ["features"] * 40
    assert by_name["layer1.0.conv1"].predecessors == ("bn1",)
    assert set(by_name["layer1.1.conv1"].predecessors) == {"layer1.0.bn2", "bn1"}
    assert by_name["layer2.0.downsample.1"].predecessors == ("layer2.0.downsample.0",)
    assert set(by_name["layer2.1.conv1"].predecessors) == {
        "layer2.0.bn2",
        "layer2.0.downsample.1",
    }
    exported = trace_layers(model, example=torch.randn(2, 3, 32, 32))
    assert {(la.name, la.kind, la.group, frozenset(la.predecessors)) for la in exported} == {
        (la.name, la.kind, la.group, frozenset(la.predecessors)) for la in layers
    }
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="different scales"):
        rescale_(model, spread_factors(41))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    # Convolutions may take any factor before a batch norm, whose own factors must agree where
    # branches are added.
    factors = {la.name: 1.0 for la in layers}
    for i, la in enumerate(la for la in layers if la.kind == "convolution"):
        factors[la.name] = spread_factors(41)[i]
    for la in layers:
        if la.kind == "normalization" and not la.name.endswith(".bn1"):
            factors[la.name] = 1.5
    factors["fc"] = 0.3
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-100
    model.double()
    after = twin(model)
    constant = rescale_(after, factors)
    assert math.isclose(constant, 1.5 * 0.3)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert gap(after, model, constant, x) < 1e-12
    assert gap(after.eval(), model.eval(), constant, x) < 1e-12


# --- two ways of tracing ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: small_model("mlp", dtype=torch.float32), (2, 1, 6, 6)),
        (lambda: small_model("cnn", dtype=torch.float32), (2, 1, 10, 10)),
        (lambda: small_model("cnn-bn", dtype=torch.float32), (2, 1, 10, 10)),
        (lambda: small_model("norms", dtype=torch.float32), (2, 6)),
        (Functional, (2, 1, 10, 10)),
        (Residual, (2, 4)),
        (lambda: Residual(shortcut=True), (2, 4)),
        (Branches, (2, 4)),
        (lambda: nn.Linear(4, 4), (2, 4)),
        (lambda: nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular"), (2, 1, 4)),
    ],
)
def test_symbolic_and_exported_traces_give_the_same_layers(build, shape):
    torch.manual_seed(0)
    model = build()
    example = torch.randn(shape)
    symbolic, exported = trace_layers(model), trace_layers(model, example=example)
    assert [(la.name, la.kind, la.group, la.predecessors) for la in exported] == [
        (la.name, la.kind, la.group, la.predecessors) for la in symbolic
    ]
    assert [la.module for la in exported] == [la.module for la in symbolic]


class Blocks(nn.Module):
    """A loop whose length is the input's: no symbol can follow it, an example can."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        total = self.first(x)
        for row in range(len(x)):
            total = total * (row + 1)
        return self.second(torch.relu(total))


def test_an_example_helps_where_symbols_do_not():
    torch.manual_seed(0)
    model = Blocks().double()
    with pytest.raises(ValueError, match=r"cannot be traced.*pass an example input") as caught:
        trace_layers(model)
    assert "\n" not in str(caught.value)
    assert "to SoftWeightRescaling the names" in str(caught.value)  # trace_layers has no layers=
    x = torch.randn(2, 3, dtype=torch.float64)
    assert names(trace_layers(model, example=x)) == ["first", "second"]
    after = twin(model)
    constant = rescale_(after, [2.0, 3.0], example=x)
    assert gap(after, model, constant, x) < 1e-14


def test_a_forward_pass_that_fails_without_a_word_is_reported_all_the_same():
    class Silent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            raise NotImplementedError

    for example in (None, torch.randn(1, 2)):
        with pytest.raises(ValueError, match="NotImplementedError"):
            trace_layers(Silent(), example)


@pytest.mark.parametrize("consecutive", [True, False])
@pytest.mark.parametrize("exported", [True, False])
def test_a_layer_that_is_used_twice_is_refused(consecutive, exported):
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.inner(x)
            return self.inner(x if consecutive else torch.relu(x))

    with pytest.raises(ValueError, match="layer 'inner' is used twice"):
        trace_layers(Twice(), torch.randn(2, 3) if exported else None)


# --- what a scaling may pass through ---------------------------------------------------------

HOMOGENEOUS = {
    "relu": lambda m, x: torch.relu(x),
    "leaky": lambda m, x: F.leaky_relu(x, 0.3),
    "prelu": lambda m, x: F.prelu(x, m.shift[:1]),
    "number times": lambda m, x: 3 * x,
    "divided": lambda m, x: x / x.shape[1],
    "times a parameter": lambda m, x: x * m.shift,
    "transposed": lambda m, x: (x.T + x.t()) / 2,
    "reshaped": lambda m, x: x.view(x.size(0), -1)[:, [1, 0, 2, 3]],
    "twice the same": lambda m, x: x + x,
    "with itself": lambda m, x: torch.cat([x, x], dim=1)[:, 2:6],
    "centred": lambda m, x: x - x.mean(0),
    "rectified residual": lambda m, x: x + torch.relu(x),
    "cast": lambda m, x: x.to(torch.float64),
    "joined alone": lambda m, x: torch.cat([x], dim=1),
}
NOT_HOMOGENEOUS = {
    "gelu": lambda m, x: F.gelu(x),
    "softmax": lambda m, x: torch.softmax(x, dim=1),
    "tanh": lambda m, x: x.tanh(),
    "sigmoid gate": lambda m, x: x * torch.sigmoid(x),
    "relu6": lambda m, x: F.relu6(x),
    "plus one": lambda m, x: x + 1,
    "one minus": lambda m, x: 1 - x,
    "in place": lambda m, x: x.add_(1),
    "plus a parameter": lambda m, x: x + m.shift,
    "squared": lambda m, x: x * x,
    "power": lambda m, x: x**2,
    "product": lambda m, x: x @ x,
    "divides": lambda m, x: 1 / (x + 10 * x.abs()),
    "maximum with a parameter": lambda m, x: torch.max(x, m.shift.expand(4, 4)),
    "clamped": lambda m, x: x.clamp(max=0.1),
    "alpha dropout": lambda m, x: F.feature_alpha_dropout(x, training=True),
    "rounded quotient": lambda m, x: torch.div(x, 0.5, rounding_mode="floor"),
    "concatenated constant": lambda m, x: torch.cat([x[:, :3], torch.ones(4, 1).to(x)], dim=1),
    "constant between two": lambda m, x: torch.stack([x, m.shift.expand(4, 4), x]).mean(0),
    "whole numbers": lambda m, x: x.to(torch.int).to(x),
    "sum of whole numbers": lambda m, x: x.sum(1, keepdim=True, dtype=torch.int) * x,
}


@pytest.mark.parametrize("exported", [False, True], ids=["symbolic", "exported"])
@pytest.mark.parametrize("name", HOMOGENEOUS)
def test_homogeneous_operations_pass_the_scale_on(name, exported):
    torch.manual_seed(0)
    model = Between(HOMOGENEOUS[name]).double()
    x = torch.randn(4, 4, dtype=torch.float64)
    after = twin(model)
    constant = rescale_(after, [2.0, 3.0], example=x if exported else None)
    assert constant == 6.0
    assert gap(after, model, constant, x) < 1e-14


@pytest.mark.parametrize("exported", [False, True], ids=["symbolic", "exported"])
@pytest.mark.parametrize("name", NOT_HOMOGENEOUS)
def test_other_operations_are_refused_and_nothing_changes(name, exported):
    torch.manual_seed(0)
    model = Between(NOT_HOMOGENEOUS[name])
    x = torch.randn(4, 4)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    example = x if exported else None
    with pytest.raises(ValueError, match=r"operation '|different scales|cannot be traced"):
        rescale_(model, [2.0, 3.0], example=example)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    # SWR itself goes on, and says where proportionality ends.
    if not exported:
        with pytest.warns(UserWarning, match="shift"):
            summary = SoftWeightRescaling(model, 0.1).summary()
        assert summary["proportional"]["first"] == "yes"
        assert summary["proportional"]["second"].startswith("no: ")


def shifted(model, x):
    same = x
    x += 1
    return same


def scaled(model, x):
    same = x
    x.mul_(2)
    return same


def test_what_is_written_under_another_name_is_seen():
    with pytest.raises(ValueError, match="'iadd' is not positively homogeneous"):
        rescale_(Between(shifted), [2.0, 3.0])
    torch.manual_seed(0)
    model, x = Between(scaled).double(), torch.randn(4, 4, dtype=torch.float64)
    after = twin(model)
    assert gap(after, model, rescale_(after, [2.0, 3.0]), x) < 1e-14


@pytest.mark.parametrize(
    ("operation", "named"),
    [(nn.GELU(), "GELU"), (nn.Softmax(1), "Softmax"), (nn.Tanh(), "Tanh")],
)
def test_the_refused_operation_is_named(operation, named):
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(operation), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=rf"operation '1\.0' \({named}\) is not positively"):
        rescale_(model, [2.0, 3.0])
    # With a scale of 1 before it, it does no harm.
    assert rescale_(model, [1.0, 3.0]) == 3.0


class Unequal(nn.Module):
    """Branches added: x·W1 + x·W2, then a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(4, 4)
        self.right = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.left(x)) + torch.relu(self.right(x)))


@pytest.mark.parametrize("exported", [False, True], ids=["symbolic", "exported"])
@pytest.mark.parametrize(
    ("build", "unequal", "equal"),
    [
        (Unequal, [2.0, 3.0, 5.0], [3.0, 3.0, 5.0]),
        (Branches, [2.0, 3.0, 5.0], [3.0, 3.0, 5.0]),
        (Residual, [2.0, 3.0, 0.5, 5.0], [2.0, 4.0, 0.25, 5.0]),
    ],
    ids=["sum", "concatenation", "residual"],
)
def test_branches_must_agree(build, unequal, equal, exported):
    torch.manual_seed(0)
    model = build().double()
    x = torch.randn(6, 4, dtype=torch.float64)
    example = x if exported else None
    before = twin(model)
    with pytest.raises(ValueError, match=r"branches that meet at operation '(add|cat)'"):
        rescale_(model, unequal, example=example)
    assert oracles.difference(model, before) == 0
    constant = rescale_(model, equal, example=example)
    assert gap(model, before, constant, x) < 1e-13


def test_several_outputs_must_agree_too():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left = nn.Linear(3, 2)
            self.right = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.left(x), self.right(x)

    with pytest.raises(ValueError, match="meet at the output"):
        rescale_(Two(), [2.0, 3.0])
    assert rescale_(Two(), [2.0, 2.0]) == 2.0


def test_factors_may_be_given_by_name():
    model, inputs = small_model("cnn"), inputs_for("cnn")
    factors = dict(zip(("linear2", "linear1", "conv2", "conv1"), (2, 3, 0.5, 7), strict=True))
    after = twin(model)
    assert rescale_(after, factors) == pytest.approx(21)
    assert gap(after, model, 21, inputs) < 1e-12


def toeplitz_weight(model: nn.Sequential) -> None:
    model[0].weight = nn.Parameter(torch.randn(7).unfold(0, 4, 1))


def sparse_weight(model: nn.Sequential) -> None:
    model[0].weight = nn.Parameter(model[0].weight.detach().to_sparse())


def expanded_weight(model: nn.Sequential) -> None:
    model[0].weight = nn.Parameter(torch.ones(1, 4).expand(4, 4))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (expanded_weight, r"entries of 0\.weight share memory"),
        (toeplitz_weight, r"entries of 0\.weight share memory"),
        (sparse_weight, r"0\.weight is sparse"),
        (lambda model: model.append(nn.LazyLinear(3)), r"3\.weight has no shape yet"),
    ],
)
def test_parameters_that_cannot_be_scaled_in_place_are_refused_by_name(change, words):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    change(model)
    with pytest.raises(ValueError, match=words) as caught:
        trace_layers(model)
    assert "\n" not in str(caught.value)


class Reuse(nn.Module):
    """A layer's weight is used once more, by a function."""

    def __init__(self, use) -> None:
        super().__init__()
        self.first = nn.Linear(4, 3)
        self.second = nn.Linear(3, 3)
        self.use = use

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self.second(self.first(x)), self.first.weight)


@pytest.mark.parametrize("exported", [False, True], ids=["symbolic", "exported"])
@pytest.mark.parametrize(
    "use",
    [lambda h, w: F.linear(h, w.t()), lambda h, w: h / w.norm(), lambda h, w: h * w.sum()],
    ids=["tied autoencoder", "divided by the norm", "times the sum"],
)
def test_a_weight_that_is_used_outside_its_layer_too(use, exported):
    model, example = Reuse(use), torch.randn(2, 4) if exported else None
    with pytest.raises(ValueError, match=r"first\.weight is used outside its layer, too"):
        rescale_(model, [2.0, 0.5], example=example)
    # Its norm can be pulled all the same.
    summary = SoftWeightRescaling(model, 0.1, example=example).summary()
    assert all("used outside its layer" in why for why in summary["proportional"])


@pytest.mark.parametrize("exported", [False, True], ids=["symbolic", "exported"])
@pytest.mark.parametrize(
    "use",
    [
        lambda h, w: h.to(w.dtype),
        lambda h, w: h.reshape(-1, w.shape[0]),
        lambda h, w: h * w.size(1),
        lambda h, w: (h, w.norm())[0],
    ],
    ids=["type", "shape", "size", "on the side"],
)
def test_a_weight_whose_values_do_not_reach_the_output(use, exported):
    model, x = Reuse(use).double(), torch.randn(5, 4).double()
    after = twin(model)
    constant = rescale_(after, [2.0, 0.5], example=x if exported else None)
    assert gap(after, model, constant, x) < 1e-14


class Halved(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.clamp(max=0.1), self.bias)


def test_a_layer_with_a_forward_of_its_own_is_pulled_but_not_proportional():
    model = nn.Sequential(Halved(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"'0' \(Halved\) has a forward of its own"):
        rescale_(model, [2.0, 3.0])
    summary = SoftWeightRescaling(model, 0.1).summary()
    assert list(summary["proportional"]) == ["no: '0' (Halved) has a forward of its own"] * 2

    class Named(nn.Linear):  # a name alone changes nothing
        pass

    assert rescale_(nn.Sequential(Named(4, 3), nn.ReLU(), nn.Linear(3, 2)), [2.0, 3.0]) == 6.0


class Standardized(nn.Conv1d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, weight / (1 + weight.norm()), bias)


def patched(name: str) -> nn.Sequential:
    """A network, or its activation, that was given another forward."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    if name == "the whole":
        layers = list(model)
        model.forward = lambda x: layers[2](torch.tanh(layers[0](x)))
    else:
        model[1].forward = lambda x: torch.relu(x) + 1
    return model


@pytest.mark.parametrize("name", ["the whole", "an activation"])
def test_a_forward_that_was_given_to_an_instance_is_not_overlooked(name):
    words = "was given a forward" if name == "the whole" else r"'1' \(ReLU\) is not"
    for scale in (lambda model: rescale_(model, [2.0, 3.0]), balance_):
        with pytest.raises(ValueError, match=words):
            scale(patched(name))
    with pytest.raises(ValueError, match="not positively homogeneous"):
        rescale_(patched(name), [2.0, 3.0], example=torch.randn(2, 3).double())
    assert len(SoftWeightRescaling(patched(name), 0.1).layers) == 2


def test_a_convolution_that_changes_its_weight_first():
    with pytest.raises(ValueError, match="has a forward of its own"):
        rescale_(nn.Sequential(Standardized(2, 3, 3)), [2.0])


def test_layers_may_be_columns_of_one_matrix():
    whole = torch.randn(4, 8)
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[0].weight, model[1].weight = (nn.Parameter(part) for part in whole.split(4, dim=1))
    assert len(trace_layers(model)) == 2
    model[1].weight = nn.Parameter(whole[:, 3:7])
    with pytest.raises(ValueError, match="share one weight"):
        trace_layers(model)


def test_one_layer_under_two_names():
    model = nn.Sequential(nn.Linear(3, 3))
    model.other = model[0]
    with pytest.raises(ValueError, match="share one weight"):
        trace_layers(model, torch.randn(2, 3))


@pytest.mark.filterwarnings("ignore:The tensor attribute")  # torch.export's
@pytest.mark.parametrize("exported", [False, True], ids=["symbolic", "exported"])
def test_tracing_leaves_the_model_as_it_was(exported):
    class Watching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)
            self.calls = 0
            self.met = []
            self.count = torch.zeros(())
            self.register_buffer("seen", torch.zeros(()))
            self.register_buffer("again", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            self.count += 1
            self.met.append(x)
            self.seen += 1
            self.again = self.again + 1
            self.hidden = self.layer(x)
            return torch.relu(self.hidden)

    model = Watching()
    inputs = torch.randn(4, 3)
    model(inputs)
    hidden = model.hidden
    trace_layers(model, inputs if exported else None)
    assert model.calls == model.seen == model.again == model.count == len(model.met) == 1
    assert model.hidden is hidden


class Shaken(nn.Module):
    """It draws in its forward pass, from torch and from Python."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x * torch.rand(3)) * random.random()


@pytest.mark.parametrize("exported", [False, True], ids=["symbolic", "exported"])
def test_tracing_draws_no_random_numbers_of_the_users(exported):
    model = Shaken()
    before = torch.get_rng_state(), random.getstate()
    trace_layers(model, torch.ones(2, 3) if exported else None)
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == random.getstate()


@dataclass
class Found:
    logits: Tensor
    hidden: Tensor


class Pair(NamedTuple):
    logits: Tensor
    hidden: Tensor


class Answering(nn.Module):
    """It returns an object, as the models of many libraries do."""

    def __init__(self, kind, bends: bool) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(3, 4), nn.Linear(4, 2)
        self.kind, self.bends = kind, bends

    def forward(self, x: Tensor):
        hidden = torch.relu(self.body(x))
        logits = self.head(hidden)
        return self.kind(torch.tanh(logits) if self.bends else logits, hidden=hidden)


@pytest.mark.parametrize("kind", [Found, Pair])
def test_what_is_returned_in_an_object_is_returned(kind):
    ends = SoftWeightRescaling(Answering(kind, False), 0.1).summary()["proportional"]
    assert set(ends) == {"yes"}
    ends = SoftWeightRescaling(Answering(kind, True), 0.1).summary()["proportional"]
    assert ends["head"].startswith("no: behind it, 'tanh'") and ends["body"] == "yes"
    with pytest.raises(ValueError, match="branches that meet at the output"):
        rescale_(Answering(kind, False), [2.0, 3.0])


@pytest.mark.parametrize("dtype", [torch.int64, torch.float8_e4m3fn])
def test_parameters_that_cannot_be_scaled_are_refused_by_name(dtype):
    model = nn.Sequential(nn.Linear(3, 2))
    model[0].weight.requires_grad_(False)
    model[0].weight.data = torch.ones(2, 3, dtype=dtype)
    with pytest.raises(ValueError, match=rf"0\.weight holds {dtype} numbers"):
        trace_layers(model)


def test_complex_parameters_are_scaled_like_real_ones():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).to(torch.complex64)
    inputs = torch.randn(5, 3, dtype=torch.complex64)
    assert proportionality_gap(model, [0.5, 3.0], inputs) < 1e-5
