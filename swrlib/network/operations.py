"""What operations do to activations: one table, read by layers, the theory and stacks of replicas.

An operation is found by its name in one spelling, whether it is a function, a method or a module;
what it does to scales also depends on its operands (`classify`).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import fx

# fmt: off
Role = Literal[
    "entries", "places", "window", "reduction", "mixing", "sum", "join", "product", "quotient",
    "contraction", "comparison", "choice", "clamp", "shape",
]
# fmt: on
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
        axes that it is told; "mixing": entries depend on many; "sum", "join": of branches;
        "product", "quotient": with a constant, or of branches; "contraction": sums of products;
        "comparison": true or false; "choice": by a mask; "clamp": to bounds; "shape": it returns no
        activations.
    degree : float or callable, optional
        d where f(c·x) = c^d·f(x) for every c > 0: 1 is homogeneous, 0 a normalization. A function
        of its options, which returns None where there is none.
    slope : float or callable, optional
        How much it stretches a change of its input at most, where that does not depend on sizes; a
        function of its options, which returns None where there is no bound.
    axes : int, optional
        Of a window; None where it works over all axes behind the channels.
    linear, maximum : bool
        Whether it is linear, or the maximum over windows: then sizes decide how much it stretches.
    """

    role: Role
    degree: float | Callable[[Option], float | None] | None = None
    slope: float | Callable[[Option], float | None] | None = None
    axes: int | None = None
    linear: bool = False
    maximum: bool = False

    @property
    def homogeneous(self) -> bool:
        """Whether f(c·x) = c·f(x) for every c > 0, whatever its options."""
        return self.degree == 1

    @property
    def elementwise(self) -> bool:
        """Whether every entry of the result depends on the same entry of the input alone."""
        return self.role in ("entries", "product", "quotient")


def _unless_random(option: Option) -> float | None:
    return None if option("training", 2, None) or option("train", 2, False) is True else 1.0


def _steepest(name: str, default: float) -> Callable[[Option], float]:
    return lambda option: max(1.0, abs(option(name, 1, default)))


def _exponent(option: Option) -> float | None:
    power = option("exponent", 1, None)
    return float(power) if isinstance(power, int | float) else None


def _padded(option: Option) -> float | None:
    mode = option("mode", 2, "constant")
    value = option("value", 3, 0) if isinstance(mode, str) else mode  # or constant_pad_nd's
    return 1.0 if mode in ("reflect", "replicate", "circular") or not value else None


def _zero(name: str, position: int) -> Callable[[Option], float | None]:
    return lambda option: 1.0 if option(name, position, 0.5) == 0 else None


def _threshold(option: Option) -> float | None:
    both = option("threshold", 1, None), option("value", 2, None)
    return 1.0 if both == (0, 0) else None


def _filled(option: Option) -> float:
    """Return the degree of what is filled with a constant: c·0 = 0."""
    return 1.0 if option("value", 1, None) == 0 else 0.0


def _order(option: Option) -> float | None:
    """Return the degree of a norm: it counts what is not zero where its order is 0."""
    return None if option("p", 1, 2) == 0 or option("ord", 1, 2) == 0 else 1.0


# By name, in one spelling (see `spelled`) for functions, methods and modules.
_TABLE = {
    "relu identity neg abs contiguous clone detach": Operation("entries", 1, 1.0),
    "leakyrelu": Operation("entries", 1, _steepest("negative_slope", 0.01)),
    "prelu": Operation(
        "entries", 1, lambda option: max(1.0, float(option("weight", 1, None).abs().max()))
    ),
    "rrelu": Operation("entries", 1),
    "threshold": Operation("entries", _threshold, _threshold),
    "softshrink": Operation("entries", _zero("lambd", 1), 1.0),
    "hardshrink": Operation("entries", _zero("lambd", 1)),
    "zero": Operation("entries", 1),
    "fill": Operation("entries", _filled),
    "dropout dropout1d dropout2d dropout3d featuredropout": Operation("entries", 1, _unless_random),
    "to type float double half bfloat16 tocopy typeas": Operation("entries", 1),  # they round
    # Smooth, or not homogeneous; slopes are rounded up.
    "relu6 hardtanh tanh softsign logsigmoid tanhshrink sin cos atan arctan": Operation(
        "entries", slope=1.0
    ),
    "softmax softmax2d": Operation("mixing", slope=0.5),  # J = diag(p) − p·pᵀ
    "exp log logsoftmax logsumexp": Operation("mixing"),
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
    # Powers.
    "sqrt": Operation("entries", 0.5),
    "rsqrt": Operation("entries", -0.5),
    "square": Operation("entries", 2),
    "reciprocal": Operation("entries", -1),
    "sign sgn": Operation("entries", 0),
    "pow": Operation("entries", _exponent),
    "flatten unflatten reshape view permute transpose t numpyt squeeze unsqueeze pixelshuffle "
    "channelshuffle roll flip fliplr flipud rot90 movedim swapaxes viewas mt": Operation(
        "places", 1, 1.0
    ),
    # They may repeat entries, or return several tensors.
    "expand expandas repeat tile unfold getitem chunk split splitwithsizes tensorsplit unbind "
    "narrow slice select index indexselect gather values": Operation("places", 1),
    **{f"avgpool{n}d adaptiveavgpool{n}d": Operation("window", 1, axes=n, linear=True)
       for n in (1, 2, 3)},
    **{f"maxpool{n}d": Operation("window", 1, axes=n, maximum=True) for n in (1, 2, 3)},
    **{f"adaptivemaxpool{n}d lppool{n}d": Operation("window", 1, axes=n) for n in (1, 2, 3)},
    **{f"zeropad{n}d": Operation("window", 1, 1.0, axes=n) for n in (1, 2, 3)},
    "reflectionpad2d replicationpad2d upsamplenearest2d upsamplebilinear2d": Operation(
        "window", 1, axes=2, linear=True
    ),
    "upsample interpolate": Operation("window", 1, linear=True),
    "mean sum": Operation("reduction", 1, linear=True),
    "amax": Operation("reduction", 1, 1.0),
    "amin std stdmean varmean max min median nanmedian nansum nanmean cumsum diff sort topk "
    "kthvalue cummax cummin triu tril": Operation("mixing", 1),
    "norm linalgvectornorm": Operation("mixing", _order),
    "var": Operation("mixing", 2),
    # Normalizations that are no modules, and what else does not see a factor. With running
    # statistics batch and instance normalization do (`swrlib.network.graph` says so).
    "layernorm rmsnorm groupnorm instancenorm batchnorm normalize argmax argmin argsort indices": (
        Operation("mixing", 0)
    ),
    "pad constantpadnd": Operation("mixing", _padded),
    "add iadd sub subtract isub rsub maximum minimum": Operation("sum"),
    "cat concat concatenate stack": Operation("join"),
    "mul imul multiply": Operation("product"),
    "div truediv itruediv divide": Operation("quotient"),
    "linear matmul mm bmm einsum conv1d conv2d conv3d": Operation("contraction"),
    "gt ge lt le eq ne": Operation("comparison"),
    "where maskedfill": Operation("choice"),
    "clamp clampmin clip": Operation("clamp"),
    "size shape dim ndim numel dtype device asserttensormetadata zeroslike oneslike newzeros "
    "newones emptylike fulllike newfull": Operation("shape"),
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
# What a step does to the scale of what enters it

#: Its kind, and the power of each activation's scale in that of the result.
Classified = tuple[Literal["homogeneous", "power", "sum", "other"], dict[fx.Node, float]]
#: Up to this a constant beside a spread only keeps it from zero, as a normalization's eps does.
LARGEST_EPS = 1e-3
_OTHER: Classified = ("other", {})


def classify(
    operation: str, node: fx.Node, known: Container[fx.Node], module: object = None
) -> Classified:
    """Return what an operation does to scales.

    Parameters
    ----------
    operation : str
        In one spelling.
    node : torch.fx.Node
    known : container of torch.fx.Node
        The activations; what else there is among the operands is constant.
    module : torch.nn.Module, optional
        That does it.

    Returns
    -------
    (str, dict of torch.fx.Node to float)
        "homogeneous", "power", "sum" or "other", as a `Step` of the graph is; and the power of each
        activation's scale in the result's.
    """
    does = OPERATIONS.get(operation)
    operands: list[fx.Node] = []  # with repetitions: x * x has two
    fx.map_arg((node.args, node.kwargs), operands.append)
    activations = [operand for operand in operands if operand in known]
    types = [a for a in (*node.args, *node.kwargs.values()) if isinstance(a, torch.dtype)]
    if does is None or not all(t.is_floating_point or t.is_complex for t in types):
        return _OTHER  # whole numbers, too
    if does.role in _CLASSIFIED:
        return _CLASSIFIED[does.role](node, operands, activations)
    if operation in ("max", "min") and len(operands) > 1:  # of two
        return _sum(node, operands, activations)
    degree = does.degree
    if callable(degree):
        degree = degree(option_of(node, module))
    if degree is None or operands[:1] != activations[:1]:  # constant.to(x)
        return _OTHER
    if operation in ("getitem", "indices") and (part := degree_of_part(node)) is not None:
        degree = part
    return ("homogeneous" if degree == 1 else "power"), {activations[0]: degree}


def given(node: fx.Node, *names: str) -> dict[str, Any]:
    """Return what an operation was given beside its input, by name."""
    return dict(zip(names, node.args[1:], strict=False)) | dict(node.kwargs)


def option_of(node: fx.Node, module: object) -> Option:
    """Return what tells the options that an operation was given, as the table asks for them."""

    def option(name: str, position: int, default: Any) -> Any:
        args = node.args
        value = args[position] if len(args) > position else node.kwargs.get(name, default)
        return getattr(module, name, value)

    return option


#: Of several results that scale differently, those that are not of degree 1: the second of
#: x.max(1) is a place, the first of torch.var_mean a square.
_WITH_INDICES = "max min sort topk median nanmedian kthvalue cummax cummin".split()  # noqa: SIM905
_PARTS = {("varmean", 0): 2.0} | {(name, 1): 0.0 for name in _WITH_INDICES}


def degree_of_part(node: fx.Node) -> float | None:
    """Return the degree of one of several results where it is not that of the others."""
    source = node.args[0]
    name = getattr(source.target, "__name__", source.target) if isinstance(source, fx.Node) else ""
    place: Any = {"values": 0, "indices": 1}.get(str(node.args[1]), node.args[1])
    return _PARTS.get((spelled(str(name)), place)) if isinstance(place, int) else None


def _is_zero(value: Any) -> bool:
    if isinstance(value, fx.Node):
        name = spelled(str(getattr(value.target, "__name__", value.target)))
        if name in ("scalartensor", "full", "fulllike", "newfull"):
            value = value.args[-1]
        else:
            return name in ("zeros", "zeroslike", "newzeros")
    return isinstance(value, int | float) and not isinstance(value, bool) and value == 0


def _keeps_from_zero(node: fx.Node, value: Any) -> bool:
    """Return whether a small number is added to what is then divided by, or a root is taken of."""
    small = isinstance(value, int | float) and 0 < abs(value) <= LARGEST_EPS
    return small and bool(node.users) and all(_divides(node, user) for user in node.users)


def _divides(node: fx.Node, user: fx.Node) -> bool:
    name = spelled(str(getattr(user.target, "__name__", user.target)))
    does = OPERATIONS.get(name)
    if does is not None and does.role == "places":
        return user.args[0] is node and all(_divides(user, further) for further in user.users)
    if does is not None and does.role == "quotient":
        return user.args[0] is not node
    return name in ("sqrt", "rsqrt", "pow", "reciprocal")


def _of_branches(node: fx.Node, activations: list[fx.Node], constants: list[Any]) -> Classified:
    """Classify what needs one scale of all its branches; constants have none unless they are 0."""
    if not all(map(_is_zero, constants)):
        alone = len(activations) == 1 and len(constants) == 1
        fits = alone and _keeps_from_zero(node, constants[0])
        return ("homogeneous", {activations[0]: 1}) if fits else _OTHER
    return "sum", dict.fromkeys(activations, 1.0)


def _sum(node: fx.Node, operands: list[fx.Node], activations: list[fx.Node]) -> Classified:
    sides = [*node.args[:2], *(node.kwargs[k] for k in ("input", "other") if k in node.kwargs)]
    return _of_branches(node, activations, [s for s in sides if s not in activations])


def straight_through(node: fx.Node, names: Mapping[fx.Node, str]) -> fx.Node | None:
    """Return y where a sum like x + (y − x).detach() is y, whose gradient alone is another.

    ``names``: of the activations' values now; where one was written into, it is not its own.
    """
    counts: dict[fx.Node, int] = {}

    def add(term: fx.Node, sign: int) -> bool:
        """Count a term, and return whether all of it was followed."""
        name = spelled(str(getattr(term.target, "__name__", term.target)))
        around = [path for path, _ in (term.meta.get("nn_module_stack") or {}).values()]
        if names.get(term) not in (term.name, term.target, *around):
            return False
        if name == "detach":
            return isinstance(term.args[0], fx.Node) and add(term.args[0], sign)
        first, second = _SIGNS.get(name, (0, 0))
        sides = [side for side in term.args if isinstance(side, fx.Node)]
        if first and len(sides) == len(term.args) == 2 and not term.kwargs:
            return add(sides[0], first * sign) and add(sides[1], second * sign)
        counts[term] = counts.get(term, 0) + sign
        return True

    if not (spelled(str(getattr(node.target, "__name__", node.target))) in _SIGNS and add(node, 1)):
        return None
    left = [term for term, count in counts.items() if count]
    return left[0] if [*counts.values()].count(0) and [counts[n] for n in left] == [1] else None


_SIGNS = {"add": (1, 1), "iadd": (1, 1), "sub": (1, -1), "subtract": (1, -1), "isub": (1, -1)}


def _join(node: fx.Node, operands: list[fx.Node], activations: list[fx.Node]) -> Classified:
    constants = [operand for operand in operands if operand not in activations]
    return _of_branches(node, activations, constants)


def _product(node: fx.Node, operands: list[fx.Node], activations: list[fx.Node]) -> Classified:
    powers = {a: float(activations.count(a)) for a in activations}
    return ("homogeneous" if len(activations) == 1 else "power"), powers


def _quotient(node: fx.Node, operands: list[fx.Node], activations: list[fx.Node]) -> Classified:
    if node.kwargs or len(node.args) != 2:
        return _OTHER
    powers = dict.fromkeys(activations, 0.0)
    for operand, power in zip(node.args, (1, -1), strict=True):
        if operand in powers:
            powers[operand] += power  # type: ignore[index]
    return ("homogeneous" if [*powers.values()] == [1] else "power"), powers


def _contraction(node: fx.Node, operands: list[fx.Node], activations: list[fx.Node]) -> Classified:
    biased = "einsum" not in str(node.target) and len(node.args) > 2 and node.args[2] is not None
    if biased or node.kwargs.get("bias") is not None:
        return _OTHER
    return _product(node, operands, activations)


def _comparison(node: fx.Node, operands: list[fx.Node], activations: list[fx.Node]) -> Classified:
    if node.kwargs:
        return _OTHER
    others = [side for side in node.args if side not in activations]
    if not all(map(_is_zero, others)):
        return _OTHER
    return ("power" if len(activations) == 1 else "sum"), dict.fromkeys(activations, 0.0)


def _choice(node: fx.Node, operands: list[fx.Node], activations: list[fx.Node]) -> Classified:
    sides, masks = list(node.args), [node.kwargs.get("mask")]
    filled = "masked" in str(getattr(node.target, "__name__", node.target))
    if filled or node.op == "call_method":  # x.where(mask, y)
        masks.append(sides.pop(1) if len(sides) > 1 else None)
    else:
        masks.append(sides.pop(0))
    sides += [node.kwargs[key] for key in ("value", "input", "other") if key in node.kwargs]
    branches = [activation for activation in activations if activation in sides]
    if not branches or not all(_is_zero(side) for side in sides if side not in activations):
        return _OTHER
    powers: dict[fx.Node, float] = {m: 0.0 for m in activations if m in masks}
    powers |= dict.fromkeys(branches, 1.0)
    return "sum", powers


def _clamp(node: fx.Node, operands: list[fx.Node], activations: list[fx.Node]) -> Classified:
    bounds = given(node, "min", "max")
    least = bounds.get("min")
    if operands != activations[:1]:
        return _OTHER
    if bounds.get("max") is not None:
        below_zero = least is None and _is_zero(bounds["max"])
        return ("homogeneous", {activations[0]: 1}) if below_zero else _OTHER
    if _is_zero(least) or _keeps_from_zero(node, least):
        return "homogeneous", {activations[0]: 1}
    return _OTHER


_CLASSIFIED: dict[str, Callable[..., Classified]] = {
    "sum": _sum,
    "join": _join,
    "product": _product,
    "quotient": _quotient,
    "contraction": _contraction,
    "comparison": _comparison,
    "choice": _choice,
    "clamp": _clamp,
}


def lags(operation: str, node: fx.Node) -> bool:
    """Return whether batch or instance normalization, as a function, has running statistics."""
    if operation not in ("batchnorm", "instancenorm"):
        return False
    exported = hasattr(node.target, "overloadpacket")
    args = dict(enumerate(node.args))
    running = node.kwargs.get("running_mean", args.get(3 if exported else 1))
    by_input = node.kwargs.get("training", node.kwargs.get("use_input_stats", args.get(5)))
    return running is not None or by_input is False
