"""What an operation does to the scale of what enters it, by the table and by its operands."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import Any, Literal

import torch
from torch import fx

from swrlib.network.operations import OPERATIONS, called, operands_of, option_of, options_of

#: Its kind, and the power of each activation's scale in that of the result.
Classified = tuple[Literal["homogeneous", "power", "sum", "other"], dict[fx.Node, float]]
#: Up to this a constant beside a spread only keeps it from zero, as a normalization's eps does.
LARGEST_EPS = 1e-3
#: Where functions that normalize take it.
_EPS_AT = {"layernorm": 4, "groupnorm": 4, "batchnorm": 7, "instancenorm": 7}
_EPS_AT |= dict.fromkeys(("rmsnorm", "normalize", "cosinesimilarity"), 3)
_OTHER: Classified = ("other", {})
#: Whose further operands say where entries come from, or which shape or type the result has.
_PLACED = {"getitem", "index", "indexselect", "gather", "takealongdim", "expandas", "viewas"}
_PLACED |= {"typeas", "to", "cosinesimilarity"}


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
    operands = operands_of(node)
    activations = [operand for operand in operands if operand in known]
    types = [a for a in (*node.args, *node.kwargs.values()) if isinstance(a, torch.dtype)]
    if does is None or not all(t.is_floating_point or t.is_complex for t in types):
        return _OTHER  # whole numbers, too
    if does.role in _CLASSIFIED:
        return _CLASSIFIED[does.role](node, operands, activations)
    if operation in ("max", "min") and len(operands) > 1:  # of two
        return _sum(node, operands, activations)
    option = option_of(node.args, node.kwargs, module)
    degree = does.degree(option) if callable(does.degree) else does.degree
    if operation in _EPS_AT and large(option("eps", _EPS_AT[operation], 0)):
        return _OTHER
    if degree is None or operands[:1] != activations[:1]:  # constant.to(x)
        return _OTHER
    if len(activations) > 1 and operation not in _PLACED:  # a slope, a shift, a value
        return _OTHER
    if operation == "type" and not types:  # its name is one of whole numbers, perhaps
        return _OTHER
    if operation in ("getitem", "indices") and (part := degree_of_part(node)) is not None:
        degree = part
    return ("homogeneous" if degree == 1 else "power"), {activations[0]: degree}


#: Of several results that scale differently, those that are not of degree 1: the second of
#: x.max(1) is a place, the first of torch.var_mean a square.
_WITH_INDICES = "max min sort topk median nanmedian kthvalue cummax cummin".split()  # noqa: SIM905
_PARTS = {("varmean", 0): 2.0} | {(name, 1): 0.0 for name in _WITH_INDICES}


def degree_of_part(node: fx.Node) -> float | None:
    """Return the degree of one of several results where it is not that of the others."""
    place: Any = {"values": 0, "indices": 1}.get(str(node.args[1]), node.args[1])
    return _PARTS.get((called(node.args[0]), place)) if isinstance(place, int) else None


_BLANK = {"zeros", "zeroslike", "newzeros", "empty", "emptylike", "newempty"}


def is_zero(value: Any) -> bool:
    """Return whether a constant is zero, or has no values yet."""
    if isinstance(value, fx.Node):
        if called(value) not in ("scalartensor", "full", "fulllike", "newfull"):
            return called(value) in _BLANK
        value = value.kwargs.get("fill_value", value.args[-1:] and value.args[-1])
    return isinstance(value, int | float) and not isinstance(value, bool) and value == 0


def large(eps: Any) -> bool:
    """Return whether an eps does more than keep a spread from zero."""
    return isinstance(eps, int | float) and eps > LARGEST_EPS


def _keeps_from_zero(node: fx.Node, value: Any) -> bool:
    """Return whether a small number is added to what is then divided by, or a root is taken of."""
    small = isinstance(value, int | float) and 0 < abs(value) <= LARGEST_EPS
    return small and bool(node.users) and all(_divides(node, user) for user in node.users)


def _divides(node: fx.Node, user: fx.Node) -> bool:
    does = OPERATIONS.get(name := called(user))
    if does is not None and does.role == "places":
        return user.args[0] is node and all(_divides(user, further) for further in user.users)
    if does is not None and does.role == "quotient":
        return user.args[0] is not node
    return name in ("sqrt", "rsqrt", "pow", "reciprocal")


def _of_branches(node: fx.Node, activations: list[fx.Node], constants: list[Any]) -> Classified:
    """Classify what needs one scale of all its branches; constants have none unless they are 0."""
    if not all(map(is_zero, constants)):
        alone = len(activations) == 1 and len(constants) == 1
        fits = alone and _keeps_from_zero(node, constants[0])
        return ("homogeneous", {activations[0]: 1}) if fits else _OTHER
    return "sum", dict.fromkeys(activations, 1.0)


def _sum(node: fx.Node, operands: list[fx.Node], activations: list[fx.Node]) -> Classified:
    sides = [*node.args[:2], *(node.kwargs[k] for k in ("input", "other") if k in node.kwargs)]
    return _of_branches(node, activations, [s for s in sides if s not in activations])


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
    by_place = node.args[2] if len(node.args) > 2 else None
    biased = called(node) != "einsum" and isinstance(by_place, fx.Node)
    if biased or node.kwargs.get("bias") is not None:
        return _OTHER
    return _product(node, operands, activations)


def _addition(node: fx.Node, operands: list[fx.Node], activations: list[fx.Node]) -> Classified:
    added, *factors = operands
    powers = {a: float(factors.count(a)) for a in activations if a in factors}
    if len(operands) != 3 or operands != [*node.args[:3]]:
        return _OTHER
    if node.kwargs.get("beta", 1) == 0 or is_zero(added):
        return "power", powers
    if added in activations and [*powers.values()] == [1]:
        return "sum", dict.fromkeys((added, *powers), 1.0)
    return _OTHER


def _mixture(node: fx.Node, operands: list[fx.Node], activations: list[fx.Node]) -> Classified:
    named = {*node.kwargs} & {"end", "x2"}  # a side that `_sum` would not see
    weighted = any(operand in activations for operand in operands[2:])
    return _OTHER if named or weighted else _sum(node, operands, activations)


def _copy(node: fx.Node, operands: list[fx.Node], activations: list[fx.Node]) -> Classified:
    source = node.args[1] if len(node.args) > 1 else node.kwargs.get("src")
    if source in activations:
        return "power", {source: 1.0}  # type: ignore[dict-item]
    return ("homogeneous", {activations[0]: 1}) if is_zero(source) else ("power", {})


def _comparison(node: fx.Node, operands: list[fx.Node], activations: list[fx.Node]) -> Classified:
    if node.kwargs:
        return _OTHER
    others = [side for side in node.args if side not in activations]
    if not all(map(is_zero, others)):
        return _OTHER
    return ("power" if len(activations) == 1 else "sum"), dict.fromkeys(activations, 0.0)


def _choice(node: fx.Node, operands: list[fx.Node], activations: list[fx.Node]) -> Classified:
    sides, masks = list(node.args), [node.kwargs.get("mask")]
    filled = "masked" in called(node)
    if filled or node.op == "call_method":  # x.where(mask, y)
        masks.append(sides.pop(1) if len(sides) > 1 else None)
    else:
        masks.append(sides.pop(0))
    sides += [node.kwargs[key] for key in ("value", "input", "other") if key in node.kwargs]
    branches = [activation for activation in activations if activation in sides]
    if not branches or not all(is_zero(side) for side in sides if side not in activations):
        return _OTHER
    powers: dict[fx.Node, float] = {m: 0.0 for m in activations if m in masks}
    powers |= dict.fromkeys(branches, 1.0)
    return "sum", powers


def _clamp(node: fx.Node, operands: list[fx.Node], activations: list[fx.Node]) -> Classified:
    bounds = options_of(node, "min", "max")
    least = bounds.get("min")
    if operands != activations[:1]:
        return _OTHER
    if bounds.get("max") is not None:
        below_zero = least is None and is_zero(bounds["max"])
        return ("homogeneous", {activations[0]: 1}) if below_zero else _OTHER
    if is_zero(least) or _keeps_from_zero(node, least):
        return "homogeneous", {activations[0]: 1}
    return _OTHER


_CLASSIFIED: dict[str, Callable[..., Classified]] = {
    "sum": _sum,
    "join": _join,
    "product": _product,
    "quotient": _quotient,
    "contraction": _contraction,
    "addition": _addition,
    "mixture": _mixture,
    "copy": _copy,
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


_SIGNS = {"add": (1, 1), "iadd": (1, 1), "sub": (1, -1), "subtract": (1, -1), "isub": (1, -1)}


def straight_through(node: fx.Node, names: Mapping[fx.Node, str]) -> fx.Node | None:
    """Return y where a sum like x + (y − x).detach() is y, whose gradient alone is another.

    ``names``: of the activations' values now; where one was written into, it is not its own.
    """
    counts: dict[fx.Node, int] = {}

    def add(term: fx.Node, sign: int) -> bool:
        """Count a term, and return whether all of it was followed."""
        name = called(term)
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

    if not (called(node) in _SIGNS and add(node, 1)):
        return None
    left = [term for term, count in counts.items() if count]
    return left[0] if [*counts.values()].count(0) and [counts[n] for n in left] == [1] else None
