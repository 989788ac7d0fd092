"""Which parameters of a model form a layer, and how the layers follow one another.

Everything is read from the traced model (`swrlib.graph`): no name, and no class of this library's
own models, is looked at.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from swrlib import graph
from swrlib.checks import nearest
from swrlib.graph import Kind, Step, has_own_forward, kind_of

Group = Literal["features", "classifier"]


@dataclass(frozen=True)
class Layer:
    """A linear, convolution or normalization module, in its place in the network.

    Attributes
    ----------
    name : str
        The module's name in the model.
    kind : {"linear", "convolution", "normalization"}
        A normalization without affine parameters is a layer too: it has no weight, but the
        cumulative product restarts there.
    group : {"features", "classifier"}
        Which of the paper's two λ acts on it (λ_f or λ_c, Section 3.3).
    predecessors : tuple of str
        The layers whose output reaches this one with no other layer between; empty where only the
        network's input does.
    module : torch.nn.Module
    """

    name: str
    kind: Kind
    group: Group
    predecessors: tuple[str, ...]
    module: nn.Module = field(repr=False)

    @property
    def weight(self) -> nn.Parameter | None:
        """The weight W_l, or a normalization's scale γ; None where there is none."""
        return _parameter(self.module, "weight")

    @property
    def bias(self) -> nn.Parameter | None:
        """The bias b_l, or a normalization's shift β; None where there is none."""
        return _parameter(self.module, "bias")

    @property
    def computes_its_bias(self) -> bool:
        """Whether there is a bias that is no parameter and cannot be scaled along."""
        return self.bias is None and getattr(self.module, "bias", None) is not None


def _parameter(module: nn.Module, name: str) -> nn.Parameter | None:
    # What a parametrization (weight norm, say) computes afresh each time cannot be scaled in place.
    return module._parameters.get(name)  # not getattr: this is asked at every step


@dataclass(frozen=True)
class Network:
    """A traced model: its layers in the order of the forward pass, and all steps between them.

    ``reused``: parameters of layers that other code uses too, on the way to the output.
    ``patched``: whether the model was given another forward than the one that was traced.
    """

    layers: list[Layer]
    steps: list[Step]
    outputs: tuple[str, ...]
    reused: frozenset[str] = frozenset()
    patched: bool = False

    def fault(self, layer: Layer) -> str:
        """Say why scaling a layer's parameters does not just scale its output; empty if it does."""
        if self.patched:
            return "the model was given a forward that only tracing on an example input can see"
        if has_own_forward(layer.module):
            return f"{layer.name!r} ({type(layer.module).__name__}) has a forward of its own"
        if layer.computes_its_bias:
            return (
                f"the bias of {layer.name!r} is no parameter (pruned, parametrized or constant) "
                "that could be scaled along"
            )
        for kind in ("weight", "bias"):
            if (name := f"{layer.name}.{kind}") in self.reused:
                return f"{name} is used outside its layer, too"
        return ""


#: Wrappers that hold a model as their public attribute ``module``; by name, for some are classes of
#: libraries that are not needed here.
_WRAPPERS = {"DataParallel", "DistributedDataParallel", "AveragedModel", "_FabricModule"}


def unwrap(model: nn.Module) -> nn.Module:
    """Return the module inside a compiled, averaged or (distributed) data-parallel model.

    Raises
    ------
    TypeError
        If the model is no module.
    ValueError
        If its weights are spread over processes.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"a {type(model).__name__} is no torch.nn.Module")
    while True:
        names = {kind.__name__ for kind in type(model).__mro__}
        if "FullyShardedDataParallel" in names:
            raise ValueError(
                "FullyShardedDataParallel spreads each weight over processes, but SWR needs the "
                "norms of whole weights: use DistributedDataParallel"
            )
        if names & _WRAPPERS:
            model = model.module  # type: ignore[assignment]
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):  # torch.compile
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


@contextlib.contextmanager
def left_alone(model: nn.Module) -> Iterator[None]:
    """Undo what a forward pass writes into its model: attributes, lists and dicts, buffers."""
    attributes = [(module, vars(module).copy()) for module in model.modules()]
    values = [value for _, names in attributes for value in names.values()]
    plain = (dict, OrderedDict, list, set)  # others may not take back what they held
    containers = [(value, value.copy()) for value in values if type(value) in plain]
    tensors = [
        (tensor, tensor._version, tensor.detach().clone())
        for tensor in (*model.buffers(), *(v for v in values if isinstance(v, Tensor)))
        if not (tensor.is_inference() or nn.parameter.is_lazy(tensor))
    ]
    try:
        yield
    finally:
        for module, before in attributes:
            vars(module).clear()
            vars(module).update(before)
        for container, content in containers:
            container.clear()
            container.extend(content) if isinstance(container, list) else container.update(content)
        with torch.no_grad():
            for tensor, version, kept in tensors:
                if tensor._version != version:
                    tensor.copy_(kept)


def trace_layers(model: nn.Module, example: Tensor | None = None) -> list[Layer]:
    """Return the layers of a model in the order of its forward pass.

    Parameters
    ----------
    model : torch.nn.Module
        Compiled and data-parallel models are looked into.
    example : torch.Tensor, optional
        An input of the model, shape [batch, …]. Needed only where the forward pass depends on
        values that `torch.fx` cannot follow.

    Returns
    -------
    list of Layer

    Raises
    ------
    ValueError
        If the model cannot be traced, or uses a layer or a weight in more than one place.
    """
    return trace(model, example).layers


def trace(
    model: nn.Module,
    example: Tensor | None = None,
    *,
    classifier: Sequence[str] | None = None,
    layers: Sequence[str] | None = None,
) -> Network:
    """Trace a model into its layers and the steps between them.

    Parameters
    ----------
    model, example
        As for `trace_layers`.
    classifier : sequence of str, optional
        Names of modules: every layer in one of them belongs to the classifier. By default, the
        layers from the first fully connected one after the last convolution on; without
        convolutions, from the last fully connected one on.
    layers : sequence of str, optional
        Names of the layers in the order of the forward pass, each feeding the next: for a model
        that cannot be traced.

    Raises
    ------
    ValueError
        If a name is unknown, the model cannot be traced, a layer is used twice, or a parameter
        cannot be scaled in place (`refuse_parameters`).
    TypeError
        If the model is no module.

    Notes
    -----
    Hooks are taken to watch, not to change what they see.
    """
    model = unwrap(model)
    modules = dict(model.named_modules(remove_duplicate=False))
    if layers is None and kind_of(model):
        layers = [""]  # the model is itself one layer
    used: frozenset[str] = frozenset()
    if layers is not None:
        steps, outputs = _chain(layers, modules)
    else:
        traced = _traced(model, example)
        steps, outputs, used = traced.steps, traced.outputs, traced.used

    sources: dict[str, tuple[str, ...]] = {}
    before: dict[str, tuple[str, ...]] = {}
    for step in steps:
        reaching = tuple(dict.fromkeys(s for i in step.inputs for s in sources[i]))
        if step.kind == "layer":
            if step.name in before:
                raise ValueError(_shared(step.name, step.name))
            before[step.name] = reaching
        sources[step.name] = (step.name,) if step.kind == "layer" else reaching
    names = list(before)
    refuse_parameters({name: modules[name] for name in names}, model)
    groups = _groups([(name, kind_of(modules[name])) for name in names], classifier, modules)
    found = [
        Layer(name, kind, groups[name], before[name], modules[name])
        for name in names
        if (kind := kind_of(modules[name]))
    ]
    reused = frozenset(name for name in used if name.rpartition(".")[0] in before)
    patched = layers is None and example is None and "forward" in vars(model)
    return Network(found, steps, outputs, reused, patched)


def _traced(model: nn.Module, example: Tensor | None) -> graph.Graph:
    try:
        with left_alone(model):
            return graph.trace(model, example)
    except graph.Untraceable as error:
        remedy = (
            "SoftWeightRescaling takes the names of its layers in order instead (layers=[…])"
            if example is not None
            else "pass an example input to a function that takes one (example=), or to "
            "SoftWeightRescaling the names of the layers in the order of the forward pass "
            "(layers=[…])"
        )
        raise ValueError(f"{error}: {remedy}") from error


def parameters_outside(model: nn.Module, layers: Sequence[Layer]) -> list[str]:
    """Return the names of trainable parameters that belong to none of the layers."""
    inside = {id(p) for layer in layers for p in (layer.weight, layer.bias) if p is not None}
    return [
        name
        for name, parameter in unwrap(model).named_parameters()
        if parameter.requires_grad and id(parameter) not in inside
    ]


def _groups(
    kinds: list[tuple[str, Kind | None]],
    classifier: Sequence[str] | None,
    modules: dict[str, nn.Module],
) -> dict[str, Group]:
    if classifier is not None:
        if isinstance(classifier, str):
            raise TypeError(f"classifier takes a list of module names: [{classifier!r}]")
        groups: dict[str, Group] = dict.fromkeys((name for name, _ in kinds), "features")
        for chosen in classifier:
            if chosen not in modules:
                raise ValueError(f"the model has no module {chosen!r}: {nearest(chosen, modules)}")
            inside = [n for n in groups if n == chosen or n.startswith(f"{chosen}." * bool(chosen))]
            if not inside:
                raise ValueError(f"module {chosen!r} of the classifier has no layer in it")
            groups |= dict.fromkeys(inside, "classifier")
        return groups
    convolutions = [i for i, (_, kind) in enumerate(kinds) if kind == "convolution"]
    linears = [i for i, (_, kind) in enumerate(kinds) if kind == "linear"]
    if convolutions:
        linears = [i for i in linears if i > convolutions[-1]][:1]
    first = linears[-1] if linears else len(kinds)
    return {name: "features" if i < first else "classifier" for i, (name, _) in enumerate(kinds)}


def _shared(first: str, second: str) -> str:
    where = f"layer {first!r} is used twice" if first == second else f"{first!r} and {second!r}"
    share = "" if first == second else " share one weight"
    remedy = ", or name each layer once with layers=" if first == second else ""
    return f"{where}{share}: a weight has one norm to return to, so give each use its own{remedy}"


def refuse_parameters(layers: Mapping[str, nn.Module], model: nn.Module | None = None) -> None:
    """Refuse parameters of layers that cannot be scaled in place, each by itself.

    Raises
    ------
    ValueError
        If one has no shape yet, holds whole numbers, is sparse or distributed, has entries that
        share memory, or shares it with another parameter of the layers, or of the model if given.
    """
    for name, module in layers.items():
        _refuse_parameters(name, module)
    whole = {"": model} if model is not None else layers
    parameters = [
        (".".join(filter(None, (prefix, name))), parameter)
        for prefix, module in whole.items()
        for name, parameter in module.named_parameters(remove_duplicate=False)
    ]
    _refuse_shared_weights(parameters, layers)


def _refuse_parameters(layer: str, module: nn.Module) -> None:
    for kind, parameter in module.named_parameters(recurse=False):
        name = ".".join(filter(None, (layer, kind)))
        if nn.parameter.is_lazy(parameter):
            raise ValueError(f"{name} has no shape yet: run the model once on an input")
        if not (parameter.is_floating_point() or parameter.is_complex()):
            raise ValueError(
                f"{name} holds {parameter.dtype} numbers, which cannot be scaled: "
                "convert the model to floating-point numbers first"
            )
        if hasattr(parameter, "placements"):  # a DTensor
            raise ValueError(
                f"{name} is distributed over processes: SWR needs the norms of whole weights"
            )
        if parameter.layout is not torch.strided:
            raise ValueError(f"{name} is sparse: make it dense first")
        extent = 0
        for stride, size in sorted(zip(parameter.stride(), parameter.shape, strict=True)):
            if size > 1 and stride <= extent:
                raise ValueError(f"entries of {name} share memory: clone it first")
            extent += (size - 1) * stride


def _refuse_shared_weights(
    parameters: Iterable[tuple[str, nn.Parameter]], names: Container[str]
) -> None:
    """Refuse layers whose parameters lie in the same memory, be they one Parameter or several."""
    stretches = []
    for name, parameter in parameters:
        if (
            nn.parameter.is_lazy(parameter)
            or parameter.layout is not torch.strided
            or not parameter.numel()
        ):
            continue
        # On the device "meta" there is no memory.
        storage = parameter.untyped_storage().data_ptr() or id(parameter)
        begin = parameter.storage_offset()
        axes = zip(parameter.shape, parameter.stride(), strict=True)
        last = begin + sum((size - 1) * stride for size, stride in axes)
        stretches.append((storage, begin, last, name, parameter))
    # The sort is stable: of one tensor's names the first stays first.
    stretches.sort(key=lambda stretch: stretch[:2])
    held: Any = (None, 0, -1, "", None)
    for stretch in stretches:
        storage, begin, last, name, parameter = stretch
        if storage == held[0] and begin <= held[2]:
            owners = (held[3].rpartition(".")[0], name.rpartition(".")[0])
            if any(layer in names for layer in owners) and _meet(held[4], parameter):
                raise ValueError(_shared(held[3], name))
        if storage != held[0] or last > held[2]:
            held = stretch


def _meet(first: Tensor, second: Tensor) -> bool:
    """Say whether two tensors in overlapping stretches of one memory have an entry in common."""
    if first.storage_offset() == second.storage_offset():
        return True
    entries = []
    for tensor in (first, second):
        places = torch.tensor(tensor.storage_offset())
        for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
            places = places.unsqueeze(-1) + stride * torch.arange(size)
        entries.append(places.flatten())
    return bool(torch.isin(*entries).any())


def _chain(
    layers: Sequence[str], modules: dict[str, nn.Module]
) -> tuple[list[Step], tuple[str, ...]]:
    if isinstance(layers, str):
        raise TypeError(f"layers takes a list of module names: [{layers!r}]")
    steps = [Step("input", "input", ())]
    for name in layers:
        if name not in modules:
            raise ValueError(f"the model has no module {name!r}: {nearest(name, modules)}")
        if kind_of(modules[name]) is None:
            raise ValueError(
                f"module {name!r} is a {type(modules[name]).__name__}, not a linear, convolution "
                "or normalization layer: leave it out of layers="
            )
        steps.append(Step(name, "layer", (steps[-1].name,)))
    return steps, (steps[-1].name,)
