"""Which parameters of a model form a layer, and how the layers follow one another.

Everything is read from the traced model (`swrlib.network.graph`): no name, and no class of this
library's own models, is looked at.
"""

from __future__ import annotations

import contextlib
import random
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from swrlib.checks import check_name, warn
from swrlib.network import graph
from swrlib.network.effects import Effect, effect_of
from swrlib.network.graph import Kind, Step, kind_of
from swrlib.network.hooks import changing_hook
from swrlib.network.order import Order, ordered
from swrlib.network.parameters import refuse_parameters, shared

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
        # What a parametrization (weight norm, say) computes afresh each time cannot be scaled in
        # place. Not getattr: this is asked at every step.
        return self.module._parameters.get("weight")

    @property
    def bias(self) -> nn.Parameter | None:
        """The bias b_l, or a normalization's shift β; None where there is none."""
        return self.module._parameters.get("bias")

    @property
    def computes_its_bias(self) -> bool:
        """Whether there is a bias that is no parameter and cannot be scaled along."""
        return self.bias is None and getattr(self.module, "bias", None) is not None


@dataclass(frozen=True)
class Network:
    """A traced model: its layers in the order of the forward pass, and all steps between them.

    Attributes
    ----------
    layers : list of Layer
    steps : list of Step
    outputs : tuple of str
        The steps that are returned.
    reused : frozenset of str
        Parameters of layers that other code uses too, on the way to the output.
    patched : bool
        Whether the model was given another forward than the one that was traced, or a hook on it.
    effects : mapping of str to str
        What the scale of a layer's parameters does, where it does not just scale the output.
    traced : bool
        Whether the steps between the layers are known: not where the layers were named.
    """

    layers: list[Layer]
    steps: list[Step]
    outputs: tuple[str, ...]
    reused: frozenset[str] = frozenset()
    patched: bool = False
    effects: Mapping[str, Effect] = field(default_factory=dict)
    traced: bool = True

    def fault(self, layer: Layer) -> str:
        """Return why scaling a layer's parameters does not just scale its output, or nothing."""
        if self.patched:
            return (
                "the model was given a forward of its own, or a hook that may change what it sees, "
                "which only tracing on an example input can follow"
            )
        if self.effects.get(layer.name) == "other":
            return f"{layer.name!r} ({type(layer.module).__name__}) has a forward of its own"
        if hook := changing_hook(layer.module):
            return (
                f"a hook of {layer.name!r} ({hook}) returns something and so may change what it "
                "sees: one that only watches returns nothing"
            )
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
    """Undo what a forward pass writes into its model, and what it draws.

    That is attributes, lists and dicts, buffers; random numbers of Python's and torch's.
    """
    drawn = random.getstate()
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
        with torch.random.fork_rng(devices=()):
            yield
    finally:
        random.setstate(drawn)
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


def trace_layers(model: nn.Module, example: Any = None) -> list[Layer]:
    """Return the layers of a model in the order of its forward pass.

    Parameters
    ----------
    model : torch.nn.Module
        Compiled and data-parallel models are looked into.
    example : optional
        What the forward pass takes: an input, shape [batch, …]; a tuple of positional arguments; a
        mapping of keyword arguments, by itself or at the end of the tuple. Needed where the forward
        pass depends on values that `torch.fx` cannot follow, or takes another path with an argument
        that has a default.

    Returns
    -------
    list of Layer

    Raises
    ------
    ValueError
        If the model cannot be traced, or uses a layer or a weight in more than one place.

    Warns
    -----
    UserWarning
        If the forward pass takes more arguments than an example or its required ones give.
    """
    return trace(model, example).layers


def trace(
    model: nn.Module,
    example: Any = None,
    *,
    classifier: Sequence[str] | None = None,
    layers: Order | None = None,
    normalizations: Sequence[type[nn.Module]] = (),
) -> Network:
    """Trace a model into its layers and the steps between them.

    Parameters
    ----------
    model, example
        As for `trace_layers`.
    classifier : sequence of str, optional
        Names of modules: every layer in one of them belongs to the classifier. By default the last
        fully connected layer on the way to each output; and all of them after the last convolution
        where they form a chain, as VGG's do, but not a vision transformer's.
    layers : optional
        Names, for a model that cannot be traced: in the order of the forward pass, each feeding the
        next; several such chains from the input; or a mapping from each to those that feed it.
    normalizations : sequence of type, optional
        Classes of modules that normalize their input besides torch's: the product of factors starts
        anew behind them. One derived from a normalization of torch's is a layer; the parameters of
        another are left alone.

    Raises
    ------
    ValueError
        If a name is unknown, the model cannot be traced, a layer is used twice, or a parameter
        cannot be scaled in place (`refuse_parameters`).
    TypeError
        If the model is no module, or a normalization no class of modules.

    Notes
    -----
    Hooks that return nothing are taken to watch, not to change what they see.
    """
    model = _not_scripted(unwrap(model))
    declared = _checked_classes(normalizations)
    modules = dict(model.named_modules(remove_duplicate=False))
    if layers is None and kind_of(model):
        layers = [""]  # the model is itself one layer
    if layers is not None:
        traced = ordered(layers, modules, declared)
    else:
        traced = _traced(model, example, declared)
    before = _predecessors(traced.steps)
    refuse_parameters({name: modules[name] for name in before}, model)
    kinds = {name: kind for name in before if (kind := kind_of(modules[name]))}
    groups = _groups(kinds, before, traced, classifier, modules)
    return Network(
        [Layer(n, kinds[n], groups[n], before[n], modules[n]) for n in kinds],
        traced.steps,
        traced.outputs,
        frozenset(name for name in traced.used if name.rpartition(".")[0] in before),
        patched=layers is None and example is None and _patched(model),
        effects=_effects({name: modules[name] for name in kinds}, declared),
        traced=layers is None or layers == [""],
    )


def _patched(model: nn.Module) -> bool:
    return "forward" in vars(model) or bool(changing_hook(model))


def _effects(layers: Mapping[str, nn.Module], declared: graph.Classes) -> dict[str, Effect]:
    """Return what the scale of a layer's parameters does, where it does not scale the output."""
    tried = {name: effect_of(m) for name, m in layers.items() if not isinstance(m, declared)}
    return {name: effect for name, effect in tried.items() if effect != "scales"}


def _not_scripted(model: nn.Module) -> nn.Module:
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError(
            f"{type(model).__name__} is scripted and cannot be looked into: take the module that "
            "it was made from, which has the same parameters"
        )
    return model


def _checked_classes(normalizations: Sequence[type[nn.Module]]) -> graph.Classes:
    classes = tuple(normalizations) if isinstance(normalizations, Iterable) else (normalizations,)
    for declared in classes:
        if not (isinstance(declared, type) and issubclass(declared, nn.Module)):
            raise TypeError(f"normalizations takes classes of modules, not {declared!r}")
    return classes


def _predecessors(steps: Sequence[Step]) -> dict[str, tuple[str, ...]]:
    """Return for each layer those whose output reaches it with no other layer between."""
    sources: dict[str, tuple[str, ...]] = {}
    before: dict[str, tuple[str, ...]] = {}
    for step in steps:
        # A mask or an index is no activation: only the first operand counts.
        inputs = step.inputs[:1] if step.kind == "homogeneous" else step.inputs
        reaching = tuple(dict.fromkeys(s for i in inputs for s in sources[i]))
        if step.kind == "layer":
            if step.name in before:
                raise ValueError(shared(step.name, step.name))
            before[step.name] = reaching
        sources[step.name] = (step.name,) if step.kind == "layer" else reaching
    return before


def _traced(model: nn.Module, example: Any, normalizations: graph.Classes) -> graph.Graph:
    try:
        with left_alone(model):
            traced = graph.trace(model, example, normalizations=normalizations)
    except graph.Untraceable as error:
        remedy = (
            "SoftWeightRescaling takes the names of its layers in order instead (layers=[…])"
            if example is not None
            else "pass an example input to a function that takes one (example=), or to "
            "SoftWeightRescaling the names of the layers in the order of the forward pass "
            "(layers=[…])"
        )
        raise ValueError(f"{error}: {remedy}") from None
    if traced.left_out:
        warn(
            f"the forward of {type(model).__name__} was traced with {', '.join(traced.left_out)}: "
            "where it is called with others and takes another path then, pass them in example="
        )
    return traced


def parameters_outside(model: nn.Module, layers: Sequence[Layer]) -> list[str]:
    """Return the names of trainable parameters that belong to none of the layers."""
    inside = {id(p) for layer in layers for p in (layer.weight, layer.bias) if p is not None}
    return [
        name
        for name, parameter in unwrap(model).named_parameters()
        if parameter.requires_grad and id(parameter) not in inside
    ]


def _groups(
    kinds: Mapping[str, Kind],
    before: Mapping[str, Sequence[str]],
    traced: graph.Graph,
    classifier: Sequence[str] | None,
    modules: Mapping[str, nn.Module],
) -> dict[str, Group]:
    if classifier is None:
        chosen = _classifier(kinds, before, traced)
    else:
        chosen = _named_classifier(kinds, classifier, modules)
    return {name: "classifier" if name in chosen else "features" for name in kinds}


def _named_classifier(
    kinds: Mapping[str, Kind], classifier: Sequence[str], modules: Mapping[str, nn.Module]
) -> set[str]:
    if isinstance(classifier, str):
        raise TypeError(f"classifier takes a list of module names: [{classifier!r}]")
    layers: set[str] = set()
    for chosen in classifier:
        check_name("module", chosen, modules, "the model has no")
        inside = {n for n in kinds if n == chosen or n.startswith(f"{chosen}." * bool(chosen))}
        if not inside:
            raise ValueError(f"module {chosen!r} of the classifier has no layer in it")
        layers |= inside
    return layers


def _classifier(
    kinds: Mapping[str, Kind], before: Mapping[str, Sequence[str]], traced: graph.Graph
) -> set[str]:
    """Return the last linear layer before each output, or the chain of them behind convolutions."""
    heads: set[str] = set()
    chains: set[str] = set()
    for last in reaching(traced.steps, traced.outputs):
        # Back from the output, along the one way there is.
        chain = [last]
        while kinds[chain[-1]] != "convolution" and len(before[chain[-1]]) == 1:
            chain.append(before[chain[-1]][0])
        linear = [place for place, name in enumerate(chain) if kinds[name] == "linear"]
        if linear:
            heads |= {*chain[: linear[0] + 1]}
            chains |= {*chain[: linear[-1] + 1]}
    names = list(kinds)
    convolutions = [place for place, name in enumerate(names) if kinds[name] == "convolution"]
    if convolutions:
        late = {name for name in names[convolutions[-1] :] if kinds[name] == "linear"}
        if late and late <= chains:
            return chains & {*names[convolutions[-1] :]}
    return heads


def reaching(steps: Sequence[Step], outputs: Sequence[str]) -> list[str]:
    """Return the layers that reach one of some steps with no other layer between."""
    by_name = {step.name: step for step in steps}
    waiting, seen = list(outputs), set()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += by_name[name].inputs if by_name[name].kind != "layer" else ()
    return [name for name in seen if by_name[name].kind == "layer"]
