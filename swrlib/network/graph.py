"""A traced network: its steps in the order of the forward pass, and what each does to a scale.

Two ways of tracing lead to the same list of steps: `torch.fx`, which needs no input and follows the
path of a call with the required arguments alone, and `torch.export`, which follows any code on an
example. What an operation does to activations is in one table (`swrlib.network.operations`).
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import logging
import operator
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import fx, nn

from swrlib.checks import first_line
from swrlib.network.arguments import call_arguments
from swrlib.network.hooks import changing_hook
from swrlib.network.operations import OPERATIONS, OUT_OF_PLACE, Operation, option_of, spelled
from swrlib.network.powers import classify, degree_of_part, is_zero, lags, straight_through
from swrlib.network.writes import fills_constant, read_later

# -------------------------------------------------------------------------------------------------
# Layers

Kind = Literal["linear", "convolution", "normalization"]
Classes = tuple[type[nn.Module], ...]
NORMALIZATIONS: Classes = (
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
    """Return whether a module computes something else than the class of torch.nn it comes from."""
    kinds = (c for c in type(module).__mro__ if c.__module__.startswith("torch.nn.modules."))
    base = next(kinds, nn.Module)
    return "forward" in vars(module) or any(
        getattr(type(module), name, None) is not getattr(base, name, None)
        for name in ("forward", "_conv_forward")
    )


# -------------------------------------------------------------------------------------------------
# Steps

StepKind = Literal["input", "layer", "homogeneous", "power", "sum", "other"]


@dataclass(frozen=True)
class Step:
    """One operation of the forward pass, with the steps that feed it.

    Attributes
    ----------
    name : str
    kind : str
        "input"; "layer"; "homogeneous", f(c·x) = c·f(x) for c > 0; "power", f(c·x, d·y) =
        c^p·d^q·f(x, y), p and q as in ``powers``; "sum", branches of one scale are added,
        concatenated or compared; "other", anything else, a constant that is added among them.
    inputs : tuple of str
    powers : tuple of float
        Of each input's scale in the result's; 0 for a mask, an index, and what is normalized.
    label, operation : str
        As a message calls it: a module by its own name and its type; in one spelling: "maxpool2d".
    lags : bool
        Whether it normalizes by running statistics that no rescaling reaches.
    """

    name: str
    kind: StepKind
    inputs: tuple[str, ...]
    label: str = ""
    operation: str = ""
    node: fx.Node | None = field(default=None, repr=False, compare=False)
    module: nn.Module | None = field(default=None, repr=False, compare=False)
    powers: tuple[float, ...] = ()
    lags: bool = False

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
        name = name.split(".")[0]  # an export says add_.Tensor
        by_name = name.endswith("_") and not name.endswith("__") and self.module is None
        return by_name or target in OUT_OF_PLACE


def flattens_rows(step: Step) -> bool:
    """Return whether an operation flattens all behind the batch: flatten(1), view(n, -1)."""
    assert step.node is not None
    if step.operation == "flatten":
        option = option_of(step.node.args, step.node.kwargs, step.module)
        return (option("start_dim", 1, 0), option("end_dim", 2, -1)) == (1, -1)
    if step.operation in ("view", "reshape"):
        sizes = step.node.args[1:]
        if len(sizes) == 1 and isinstance(sizes[0], list | tuple):
            sizes = tuple(sizes[0])
        return len(sizes) == 2 and _is_batch(sizes[0]) and isinstance(sizes[1], int)
    return False


def _is_batch(size: Any) -> bool:
    """Return whether a size is x.size(0) or x.shape[0]."""
    if not isinstance(size, fx.Node) or size.args[1:] != (0,):
        return False
    if size.target == "size":
        return True
    shape = size.args[0]
    read = isinstance(shape, fx.Node) and (shape.target == "size" or shape.args[1:] == ("shape",))
    return size.target is operator.getitem and read


# -------------------------------------------------------------------------------------------------
# Tracing


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
    left_out : tuple of str
        What the forward pass may be given besides, and was not: "mask=None".
    """

    steps: list[Step]
    outputs: tuple[str, ...]
    used: frozenset[str]
    nodes: fx.Graph = field(repr=False)
    left_out: tuple[str, ...] = ()


class Untraceable(ValueError):
    """A network cannot be traced; ``why`` says it in one line."""

    def __init__(self, sentence: str, error: Exception) -> None:
        self.why = first_line(error)
        super().__init__(f"{sentence} ({self.why})")


def trace(model: nn.Module, example: Any = None, *, normalizations: Classes = ()) -> Graph:
    """Trace a network, without an input or on an example.

    What its forward pass writes into it stays there, as do constants that the trace refers to.

    Parameters
    ----------
    model : torch.nn.Module
    example : optional
        What the forward pass takes, as for `call_arguments`. Without one, the path is traced that a
        call takes which gives the required arguments alone.
    normalizations : tuple of type
        Classes of modules that normalize, besides torch's.

    Raises
    ------
    Untraceable
        If that fails; from nothing, since torch's own account has hundreds of lines.
    ValueError
        If nothing is returned.
    """
    if example is None:
        return _symbolic(model, normalizations)
    return _exported(model, example, normalizations)


def is_leaf(module: nn.Module) -> bool:
    """Return whether a module is one operation."""
    return _Tracer().is_leaf_module(module, "")


class _Proxy(fx.Proxy):
    """A value in a trace; fx itself takes x += y for x = x + y, and forgets other names of x."""


def _written(function: Callable[..., Any]) -> Callable[[fx.Proxy, Any], fx.Proxy]:
    return lambda x, y: x.tracer.create_proxy("call_function", function, (x, y), {})


for _function in OUT_OF_PLACE:
    setattr(_Proxy, f"__{_function.__name__}__", _written(_function))


class _Tracer(fx.Tracer):
    def __init__(self, normalizations: Classes = ()) -> None:
        super().__init__()
        self.normalizations = normalizations
        self.left_out: list[str] = []

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        layer = kind_of(m) is not None or isinstance(m, self.normalizations)
        return layer or super().is_leaf_module(m, module_qualified_name)

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        """Give the required arguments alone (fx would give all, and `if mask is None` mislead)."""
        parameters = [*inspect.signature(root_fn).parameters.values()][1:]
        required = [p for p in parameters if p.default is p.empty and p.kind < p.VAR_POSITIONAL]
        named = [p for p in parameters if p.default is p.empty and p.kind is p.KEYWORD_ONLY]
        if not required + named:  # it has to be given something
            required = [p for p in parameters if p.kind <= p.VAR_POSITIONAL][:1]
        self.left_out = [
            f"{p.name}={p.default!r}" if p.default is not p.empty else str(p).partition(":")[0]
            for p in parameters
            if p not in required + named
        ]
        args = [self.create_proxy("placeholder", p.name, (), {}) for p in required]
        keywords = {p.name: self.create_proxy("placeholder", p.name, (), {}) for p in named}
        return functools.partial(root_fn, **keywords) if named else root_fn, [self.root, *args]


def _step(
    target: str, node: fx.Node, names: dict[fx.Node, str], module: nn.Module | None = None
) -> Step:
    operation = spelled(target)
    kind, powers = classify(operation, node, names, module)
    sources = list(dict.fromkeys(n for n in node.all_input_nodes if n in names))
    if (passed := straight_through(node, names)) is not None:
        kind, powers, sources = "homogeneous", {passed: 1.0}, [passed]
    inputs = tuple(dict.fromkeys(names[n] for n in sources))
    by_name = dict.fromkeys(inputs, 0.0)
    for source, power in powers.items():
        before = by_name[names[source]]  # several nodes may be one value, or parts of one
        by_name[names[source]] = max(before, power) if kind == "sum" else before + power
    described = (names[node], kind, inputs, _label(node, module), operation, node, module)
    return Step(*described, tuple(by_name.values()), lags(operation, node))


def _label(node: fx.Node, module: nn.Module | None) -> str:
    if module is None:
        return repr(node.name)
    return f"{str(node.target)!r} ({type(module).__name__})"


def _normalized(
    name: str, inputs: tuple[str, ...], label: str, node: fx.Node, module: nn.Module | None = None
) -> Step:
    """Return the step of a module that is declared to normalize, and is no layer of torch's."""
    powers = (0.0,) * len(inputs)
    return Step(name, "power", inputs, label, node=node, module=module, powers=powers)


def _returns_no_activations(target: str) -> bool:
    does = OPERATIONS.get(spelled(target))
    return does is not None and does.role == "shape"


def _write(
    node: fx.Node, names: dict[fx.Node, str], steps: list[Step], seen: Iterable[fx.Node]
) -> None:
    """Let what an operation has written into be what it wrote; where it may be a part, a sum."""
    written, into = names[node], node.args[0]
    before = names.get(into) if isinstance(into, fx.Node) else None
    names |= {n: written for n, name in names.items() if name == before}
    for other in read_later(node, seen):
        old = names.get(other)
        if old is None and other is not into and not is_zero(other):  # a part of a constant
            label = f"{written!r} into a part of {other.name!r}"
            steps.append(Step(f"{written} in {other.name}", "other", (written,), label))
            names[other] = steps[-1].name
        elif old is not None and old != written:
            step = f"{written} in {old}"
            steps.append(Step(step, "sum", (old, written), repr(old), powers=(1.0, 1.0)))
            names |= {n: step for n, name in names.items() if name == old}
        else:
            names[other] = written


def _symbolic(model: nn.Module, normalizations: Classes) -> Graph:
    tracer = _Tracer(normalizations)
    try:
        graph = tracer.trace(model)
    except Exception as error:
        raise Untraceable(f"{type(model).__name__} cannot be traced", error) from None
    steps: list[Step] = []
    names: dict[fx.Node, str] = {}
    used: dict[fx.Node, set[str]] = {}
    packed: dict[fx.Node, tuple[str, ...]] = {}  # what is returned in a dataclass or named tuple
    for node in graph.nodes:
        inputs = tuple(names[n] for n in node.all_input_nodes if n in names)
        used[node] = set().union(*(used[n] for n in node.all_input_nodes))
        if node.op == "output":
            inputs += tuple(name for n in node.all_input_nodes for name in packed.get(n, ()))
            return Graph(steps, inputs, frozenset(used[node]), graph, tuple(tracer.left_out))
        if node.op == "get_attr":
            used[node] = {str(node.target)}  # a constant
        elif node.op == "placeholder":
            names[node] = node.name
            steps.append(Step(node.name, "input", (), node=node))
        elif node.op == "call_module":
            module = model.get_submodule(node.target)
            names[node] = node.target if kind_of(module) else node.name
            steps.append(_module_step(module, node, names, inputs, normalizations))
        else:
            target = node.target if isinstance(node.target, str) else node.target.__name__
            if node.target is getattr:
                target = str(node.args[1])  # x.shape, x.T
            if _returns_no_activations(target):
                used[node] = set()
            elif isinstance(node.target, type) and {user.op for user in node.users} == {"output"}:
                packed[node] = inputs
            elif inputs:
                names[node] = node.name
                steps.append(_step(target, node, names))
        if node in names and fills_constant(node, steps[-1].in_place):
            why = ValueError("it writes an activation into a tensor of its own and reads that")
            raise Untraceable(f"{type(model).__name__} cannot be traced", why)
        if node in names and steps[-1].in_place:
            _write(node, names, steps, used)
    raise ValueError(f"{type(model).__name__} returns nothing")


def _module_step(
    module: nn.Module,
    node: fx.Node,
    names: dict[fx.Node, str],
    inputs: tuple[str, ...],
    normalizations: Classes,
) -> Step:
    if kind_of(module):
        return Step(names[node], "layer", inputs, node=node, module=module)
    label = _label(node, module)
    if isinstance(module, normalizations):
        return _normalized(names[node], inputs, label, node, module)
    if has_own_forward(module) or changing_hook(module):
        return Step(names[node], "other", inputs, label, node=node, module=module)
    return _step(type(module).__name__, node, names, module)


def _exported(model: nn.Module, example: Any, normalizations: Classes) -> Graph:
    program = _export(model, example)
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
        target = getattr(node.target, "__name__", str(node.target))
        call, path = _unit(node, model, normalizations)
        if path:  # a layer may use what is its own
            used[node] = {name for name in used[node] if name.rpartition(".")[0] != path}
        if _returns_no_activations(target):
            used[node] = set()
            continue
        if not inputs:
            continue  # bookkeeping of parameters and buffers, numbers
        if path:
            names[node] = path
            # A layer may be several operations: only the first of a call enters it.
            if calls.get(path) != call:
                module = model.get_submodule(path)
                label = f"{path!r} ({type(module).__name__})"
                layer = Step(path, "layer", inputs)
                steps.append(layer if kind_of(module) else _normalized(path, inputs, label, node))
            calls[path] = call
        elif node.target is operator.getitem and degree_of_part(node) is None:
            names[node] = inputs[0]
        else:
            names[node] = node.name
            steps.append(_step(target, node, names))
            if steps[-1].in_place:
                _write(node, names, steps, used)
    raise ValueError(f"{type(model).__name__} returns nothing")


def _unit(node: fx.Node, model: nn.Module, normalizations: Classes) -> tuple[str, str]:
    """Return the call and the path of the layer, or the normalization, that an operation is in."""
    stack = node.meta.get("nn_module_stack") or {}
    for call, (path, _) in stack.items():
        module = model.get_submodule(path) if path else None
        if kind_of(module) is not None or isinstance(module, normalizations):
            return call, path
    return "", ""


def _export(model: nn.Module, example: Any) -> Any:
    """Export a model quietly: where that fails, torch prints what it had come to."""
    held, printed = logging.root.manager.disable, io.StringIO()
    try:
        logging.disable(logging.CRITICAL)
        with contextlib.redirect_stderr(printed):
            program = torch.export.export(model, *call_arguments(model, example))
    except Exception as error:
        name = type(model).__name__
        raise Untraceable(f"{name} cannot be traced on the example", error) from None
    finally:
        logging.disable(held)
    sys.stderr.write(printed.getvalue())
    return program
