"""A traced network: its steps in the order of the forward pass, and what each operation does.

Two ways of tracing lead to the same list of steps: `torch.fx`, which needs no input, and
`torch.export`, which follows any code on an example input. What an operation does to activations
stands in one table, `OPERATIONS`; layers, the theory and stacks of replicas read it there.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from swrlib.checks import first_line

# -------------------------------------------------------------------------------------------------
# What operations do

Role = Literal[
    "entries", "places", "window", "reduction", "sum", "join", "product", "quotient", "shape"
]
#: option(name, position, default): what an operation was given beside its input, which is at 0.
Option = Callable[[str, int, Any], Any]


@dataclass(frozen=True)
class Operation:
    """What a function does to its first operand.

    Attributes
    ----------
    role : str
        "entries": to every entry by itself (or drops it); "places": entries move, are repeated or
        left out; "window": over its last ``axes`` axes, each channel by itself; "reduction": over
        axes that it is told; "sum", "join": of branches; "product", "quotient": with a constant;
        "shape": it returns no activations.
    homogeneous : bool
        Whether f(c·x) = c·f(x) for every c > 0.
    slope : float or callable, optional
        How much it stretches a change of its input at most, where that does not depend on sizes; a
        function of its options, which returns None where there is no bound.
    axes : int, optional
        Of a window; None where it works over all axes behind the channels.
    linear, maximum : bool
        Whether it is linear, or the maximum over windows: then sizes decide how much it stretches.
    """

    role: Role
    homogeneous: bool = False
    slope: float | Callable[[Option], float | None] | None = None
    axes: int | None = None
    linear: bool = False
    maximum: bool = False

    @property
    def elementwise(self) -> bool:
        """Whether every entry of the result depends on the same entry of the input alone."""
        return self.role in ("entries", "product", "quotient")


def _unless_random(option: Option) -> float | None:
    return None if option("training", 2, None) or option("train", 2, False) is True else 1.0


def _steepest(name: str, default: float) -> Callable[[Option], float]:
    return lambda option: max(1.0, abs(option(name, 1, default)))


# By name, in one spelling (see `spelled`) for functions, methods and modules.
_TABLE = {
    "relu identity neg abs contiguous clone detach": Operation("entries", True, 1.0),
    "leakyrelu": Operation("entries", True, _steepest("negative_slope", 0.01)),
    "prelu": Operation(
        "entries", True, lambda option: max(1.0, float(option("weight", 1, None).abs().max()))
    ),
    "rrelu": Operation("entries", True),
    "dropout dropout1d dropout2d dropout3d featuredropout": Operation(
        "entries", True, _unless_random
    ),
    "to type float double half tocopy": Operation("entries", True),  # they round
    # Smooth, or not homogeneous; slopes are rounded up.
    "relu6 hardtanh tanh softsign logsigmoid tanhshrink": Operation("entries", slope=1.0),
    "sigmoid": Operation("entries", slope=0.25),
    "hardsigmoid": Operation("entries", slope=0.1667),
    "erf": Operation("entries", slope=1.1284),
    "gelu": Operation("entries", slope=1.1290),  # exact and by tanh
    "silu": Operation("entries", slope=1.0999),
    "mish": Operation("entries", slope=1.0885),
    "hardswish": Operation("entries", slope=1.5),
    "selu": Operation("entries", slope=1.7581),
    "elu": Operation("entries", slope=_steepest("alpha", 1.0)),
    # They fall without bound, or jump.
    "celu": Operation("entries", slope=lambda option: 1.0 if option("alpha", 1, 1.0) > 0 else None),
    "softplus": Operation(
        "entries", slope=lambda option: 1.0 if option("threshold", 2, 20.0) >= 20 else None
    ),
    "flatten unflatten reshape view permute transpose t numpyt squeeze unsqueeze pixelshuffle": (
        Operation("places", True, 1.0)
    ),
    # They may repeat entries, or return several tensors.
    "expand getitem chunk split unbind narrow slice select index": Operation("places", True),
    **{f"avgpool{n}d adaptiveavgpool{n}d": Operation("window", True, axes=n, linear=True)
       for n in (1, 2, 3)},
    **{f"maxpool{n}d": Operation("window", True, axes=n, maximum=True) for n in (1, 2, 3)},
    **{f"adaptivemaxpool{n}d lppool{n}d": Operation("window", True, axes=n) for n in (1, 2, 3)},
    **{f"zeropad{n}d": Operation("window", True, 1.0, axes=n) for n in (1, 2, 3)},
    "reflectionpad2d replicationpad2d upsamplenearest2d upsamplebilinear2d": Operation(
        "window", True, axes=2, linear=True
    ),
    "upsample interpolate": Operation("window", True, linear=True),
    "mean sum": Operation("reduction", True, linear=True),
    "amax": Operation("reduction", True, 1.0),
    "add iadd sub isub rsub": Operation("sum"),
    "cat concat concatenate stack": Operation("join"),
    "mul imul multiply": Operation("product"),
    "div truediv itruediv divide": Operation("quotient"),
    "size shape dim ndim numel dtype device asserttensormetadata": Operation("shape"),
}  # fmt: skip
OPERATIONS = {name: does for names, does in _TABLE.items() for name in names.split()}

#: Functions that write into their first operand, and those that give the same and do not.
OUT_OF_PLACE: dict[Any, Callable[..., Any]] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}


def spelled(name: str) -> str:
    """Reduce "max_pool2d", "MaxPool2d", "relu_" and "relu.default" to one spelling."""
    return name.split(".")[0].replace("_", "").lower()


# -------------------------------------------------------------------------------------------------
# Layers

Kind = Literal["linear", "convolution", "normalization"]
NORMALIZATIONS = (
    nn.modules.batchnorm._NormBase,  # batch and instance normalization of any dimension
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)


def kind_of(module: nn.Module | None) -> Kind | None:
    """Return the kind of layer that a module is, None where it is none."""
    if isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, nn.modules.conv._ConvNd):
        return "convolution"
    return "normalization" if isinstance(module, NORMALIZATIONS) else None


def has_own_forward(module: nn.Module) -> bool:
    """Say whether a module computes something else than the class of torch.nn it comes from."""
    kinds = (c for c in type(module).__mro__ if c.__module__.startswith("torch.nn.modules."))
    base = next(kinds, nn.Module)
    return "forward" in vars(module) or any(
        getattr(type(module), name, None) is not getattr(base, name, None)
        for name in ("forward", "_conv_forward")
    )


# -------------------------------------------------------------------------------------------------
# Steps


@dataclass(frozen=True)
class Step:
    """One operation of the forward pass, with the steps that feed it.

    ``kind`` is "input", "layer", "homogeneous" (f(c·x) = c·f(x) for c > 0), "sum" (branches are
    added or concatenated) or "other" (anything else, a constant that is added among them).
    """

    name: str
    kind: Literal["input", "layer", "homogeneous", "sum", "other"]
    inputs: tuple[str, ...]
    label: str = ""  # as a message calls it: a module by its own name and its type
    operation: str = ""  # in one spelling: "maxpool2d"
    node: fx.Node | None = field(default=None, repr=False, compare=False)
    module: nn.Module | None = field(default=None, repr=False, compare=False)

    @property
    def does(self) -> Operation | None:
        """What the table says of the operation, None where it does not know it."""
        return OPERATIONS.get(self.operation)

    @property
    def in_place(self) -> bool:
        """Whether it writes into its first operand, which it returns."""
        if self.node is None or self.kind in ("input", "layer"):
            return False
        if getattr(self.module, "inplace", self.node.kwargs.get("inplace", False)):
            return True
        target = self.node.target
        name = target if isinstance(target, str) else getattr(target, "__name__", "")
        by_name = name.endswith("_") and not name.endswith("__") and self.module is None
        return by_name or target in OUT_OF_PLACE


def given(node: fx.Node, *names: str) -> dict[str, Any]:
    """Return what an operation was given beside its input, by name."""
    return dict(zip(names, node.args[1:], strict=False)) | dict(node.kwargs)


def flattens_rows(step: Step) -> bool:
    """Say whether an operation flattens everything behind the batch: flatten(1), view(n, -1)."""
    assert step.node is not None
    if step.operation == "flatten":
        ends = given(step.node, "start_dim", "end_dim")
        if isinstance(step.module, nn.Flatten):
            ends = {"start_dim": step.module.start_dim, "end_dim": step.module.end_dim}
        return {"start_dim": 0, "end_dim": -1} | ends == {"start_dim": 1, "end_dim": -1}
    if step.operation in ("view", "reshape"):
        sizes = step.node.args[1:]
        if len(sizes) == 1 and isinstance(sizes[0], list | tuple):
            sizes = tuple(sizes[0])
        return len(sizes) == 2 and _is_batch(sizes[0]) and isinstance(sizes[1], int)
    return False


def _is_batch(size: Any) -> bool:
    """Say whether a size is x.size(0) or x.shape[0]."""
    if not isinstance(size, fx.Node) or size.args[1:] != (0,):
        return False
    if size.target == "size":
        return True
    shape = size.args[0]
    read = isinstance(shape, fx.Node) and (shape.target == "size" or shape.args[1:] == ("shape",))
    return size.target is operator.getitem and read


@dataclass(frozen=True)
class Graph:
    """A traced network.

    Attributes
    ----------
    steps : list of Step
        In the order of the forward pass. What depends on no input, or is no activation, is none.
    outputs : tuple of str
        The steps that are returned.
    used : frozenset of str
        The parameters that code outside modules uses on the way to an output, by more than their
        shape or type.
    nodes : torch.fx.Graph
        All that was traced.
    """

    steps: list[Step]
    outputs: tuple[str, ...]
    used: frozenset[str]
    nodes: fx.Graph = field(repr=False)


class Untraceable(ValueError):
    """A network cannot be traced."""


def trace(model: nn.Module, example: Tensor | None = None) -> Graph:
    """Trace a network, without an input or on an example.

    What its forward pass writes into it stays there, as do constants that the trace refers to.

    Raises
    ------
    Untraceable
        If that fails.
    ValueError
        If nothing is returned.
    """
    return _symbolic(model) if example is None else _exported(model, example)


def is_leaf(module: nn.Module, name: str = "") -> bool:
    """Say whether a module is one operation."""
    return _Tracer().is_leaf_module(module, name)


class _Proxy(fx.Proxy):
    """A value in a trace; fx itself takes x += y for x = x + y, and forgets other names of x."""


def _written(function: Callable[..., Any]) -> Callable[[fx.Proxy, Any], fx.Proxy]:
    return lambda x, y: x.tracer.create_proxy("call_function", function, (x, y), {})


for _function in OUT_OF_PLACE:
    setattr(_Proxy, f"__{_function.__name__}__", _written(_function))


class _Tracer(fx.Tracer):
    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return kind_of(m) is not None or super().is_leaf_module(m, module_qualified_name)


def _classify(
    operation: str, node: fx.Node, names: dict[fx.Node, str]
) -> Literal["homogeneous", "sum", "other"]:
    """Classify an operation by the table and by which of its operands depend on the input."""
    does = OPERATIONS.get(operation)
    operands: list[fx.Node] = []  # with repetitions: x * x has two
    fx.map_arg((node.args, node.kwargs), operands.append)
    activations = [operand for operand in operands if operand in names]
    types = [a for a in (*node.args, *node.kwargs.values()) if isinstance(a, torch.dtype)]
    if does is None or not all(t.is_floating_point or t.is_complex for t in types):
        return "other"  # whole numbers, too
    if does.role == "join":
        return "sum" if activations == operands else "other"
    if does.role == "sum":  # a single one here means that a constant is added to it
        return "sum" if len(activations) > 1 else "other"
    if does.role == "product":
        return "homogeneous" if len(activations) == 1 else "other"
    if does.role == "quotient":
        divided = [*node.args[:1]] == activations and not node.kwargs
        return "homogeneous" if divided else "other"
    first = operands[:1] == activations[:1]  # not so in constant.to(x)
    return "homogeneous" if does.homogeneous and first else "other"


def _step(
    target: str, node: fx.Node, names: dict[fx.Node, str], module: nn.Module | None = None
) -> Step:
    operation = spelled(target)
    kind = _classify(operation, node, names)
    inputs = tuple(dict.fromkeys(names[n] for n in node.all_input_nodes if n in names))
    # A mask or an index taken from another tensor is no activation: only the first operand counts.
    inputs = inputs[:1] if kind == "homogeneous" else inputs
    return Step(names[node], kind, inputs, _label(node, module), operation, node, module)


def _label(node: fx.Node, module: nn.Module | None) -> str:
    if module is None:
        return repr(node.name)
    return f"{str(node.target)!r} ({type(module).__name__})"


def _returns_no_activations(target: str) -> bool:
    does = OPERATIONS.get(spelled(target))
    return does is not None and does.role == "shape"


def _symbolic(model: nn.Module) -> Graph:
    try:
        graph = _Tracer().trace(model)
    except Exception as error:
        raise Untraceable(
            f"{type(model).__name__} cannot be traced ({first_line(error)})"
        ) from error
    steps: list[Step] = []
    names: dict[fx.Node, str] = {}
    used: dict[fx.Node, set[str]] = {}
    for node in graph.nodes:
        inputs = tuple(names[n] for n in node.all_input_nodes if n in names)
        used[node] = set().union(*(used[n] for n in node.all_input_nodes))
        if node.op == "output":
            return Graph(steps, inputs, frozenset(used[node]), graph)
        if node.op == "get_attr":
            used[node] = {str(node.target)}
            continue  # a constant
        if node.op == "placeholder":
            names[node] = node.name
            steps.append(Step(node.name, "input", (), node=node))
        elif node.op == "call_module":
            module = model.get_submodule(node.target)
            names[node] = node.target if kind_of(module) else node.name
            if kind_of(module):
                steps.append(Step(node.target, "layer", inputs, node=node, module=module))
            elif has_own_forward(module):
                label = _label(node, module)
                steps.append(Step(node.name, "other", inputs, label, node=node, module=module))
            else:
                steps.append(_step(type(module).__name__, node, names, module))
        else:
            target = node.target if isinstance(node.target, str) else node.target.__name__
            if node.target is getattr:
                target = str(node.args[1])  # x.shape, x.T
            if _returns_no_activations(target):
                used[node] = set()
            elif inputs:
                names[node] = node.name
                steps.append(_step(target, node, names))
        if node in names and steps[-1].in_place and node.args and node.args[0] in names:
            old = names[node.args[0]]  # from here on, it is what was written
            names |= {n: names[node] for n, name in names.items() if name == old}
    raise ValueError(f"{type(model).__name__} returns nothing")


def _exported(model: nn.Module, example: Tensor) -> Graph:
    try:
        program = torch.export.export(model, (example,))
    except Exception as error:
        raise Untraceable(
            f"{type(model).__name__} cannot be traced on the example ({first_line(error)})"
        ) from error
    users = set(program.graph_signature.user_inputs)
    parameters = program.graph_signature.inputs_to_parameters
    used: dict[fx.Node, set[str]] = {}
    steps: list[Step] = []
    names: dict[fx.Node, str] = {}
    calls: dict[str, str] = {}
    for node in program.graph.nodes:
        inputs = tuple(dict.fromkeys(names[n] for n in node.all_input_nodes if n in names))
        if node.op == "output":
            wanted = set(program.graph_signature.user_outputs)
            returned = [n for n in node.all_input_nodes if n.name in wanted and n in names]
            reaching = frozenset().union(*(used[n] for n in returned))
            return Graph(steps, tuple(names[n] for n in returned), reaching, program.graph)
        used[node] = set().union(*(used[n] for n in node.all_input_nodes))
        if node.op == "placeholder":
            if node.name in parameters:
                used[node] = {parameters[node.name]}
            if node.name in users:
                names[node] = node.name
                steps.append(Step(node.name, "input", (), node=node))
            continue
        target = str(node.target).removeprefix("aten.")
        stack = node.meta.get("nn_module_stack") or {"": ("", None)}
        call, (path, _) = list(stack.items())[-1]
        within = bool(path) and kind_of(model.get_submodule(path)) is not None
        if within:  # a layer may use what is its own
            used[node] = {name for name in used[node] if name.rpartition(".")[0] != path}
        if not inputs or _returns_no_activations(target):
            continue  # bookkeeping of parameters and buffers, numbers
        if within:
            names[node] = path
            # A layer may be several operations: only the first of a call enters it.
            if path not in inputs or calls[path] != call:
                steps.append(Step(path, "layer", inputs))
            calls[path] = call
        elif node.target is operator.getitem:
            names[node] = inputs[0]
        else:
            names[node] = node.name
            steps.append(_step(target, node, names))
    raise ValueError(f"{type(model).__name__} returns nothing")
