"""What operations do to activations: one table, read by layers, the theory and stacks of replicas.

An operation is found by its name in one spelling, whether it is a function, a method or a module;
what it does to scales also depends on its operands (`swrlib.network.powers`).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import fx

# fmt: off
Role = Literal[
    "entries", "places", "window", "reduction", "mixing", "sum", "join", "product", "quotient",
    "contraction", "addition", "mixture", "copy", "comparison", "choice", "clamp", "shape",
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
        "addition": to the first operand, of such sums of the others; "mixture": homogeneous in two
        branches together; "copy": of the second operand into the first; "comparison": true or
        false; "choice": by a mask; "clamp": to bounds; "shape": it returns no activations.
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


def _without_threshold(option: Option) -> float | None:
    return 1.0 if option("lambd", 1, 0.5) == 0 else None


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
    "rrelu nantonum": Operation("entries", 1),
    "threshold": Operation("entries", _threshold, _threshold),
    "softshrink": Operation("entries", _without_threshold, 1.0),
    "hardshrink": Operation("entries", _without_threshold),
    "zero": Operation("entries", 1),
    "fill": Operation("entries", _filled),
    "dropout dropout1d dropout2d dropout3d featuredropout": Operation("entries", 1, _unless_random),
    "alphadropout featurealphadropout": Operation("entries", _unless_random, _unless_random),
    "to type float double half bfloat16 tocopy typeas": Operation("entries", 1),  # they round
    # Smooth, or not homogeneous; slopes are rounded up.
    "relu6 hardtanh tanh softsign logsigmoid tanhshrink sin cos atan arctan": Operation(
        "entries", slope=1.0
    ),
    "softmax softmax2d": Operation("mixing", slope=0.5),  # J = diag(p) − p·pᵀ
    "exp log expm1 log1p logsoftmax logsumexp glu scaleddotproductattention round floor ceil "
    "trunc": Operation("mixing"),
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
    "pixelunshuffle channelshuffle roll flip fliplr flipud rot90 movedim swapaxes viewas mt": (
        Operation("places", 1, 1.0)
    ),
    # They may repeat entries, or return several tensors.
    "expand expandas repeat tile unfold getitem chunk split splitwithsizes tensorsplit unbind "
    "narrow slice select index indexselect gather takealongdim values": Operation("places", 1),
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
    "layernorm rmsnorm groupnorm instancenorm batchnorm normalize cosinesimilarity argmax argmin "
    "argsort indices": (
        Operation("mixing", 0)
    ),
    "pad constantpadnd": Operation("mixing", _padded),
    "add iadd sub subtract isub rsub maximum minimum hypot": Operation("sum"),
    "lerp fmod remainder mod cdist": Operation("mixture"),
    "copy": Operation("copy"),
    "cat concat concatenate stack": Operation("join"),
    "mul imul multiply": Operation("product"),
    "div truediv itruediv divide": Operation("quotient"),
    "linear matmul mm bmm mv dot outer inner einsum tensordot conv1d conv2d conv3d convtranspose1d "
    "convtranspose2d convtranspose3d": Operation("contraction"),
    "addmm addmv addbmm baddbmm addcmul": Operation("addition"),
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


def called(value: Any) -> str:
    """Return the name of the function or method that a node calls, in one spelling; else nothing.

    An argument, a parameter or a module may have any name.
    """
    if not isinstance(value, fx.Node) or value.op not in ("call_function", "call_method"):
        return ""
    return spelled(str(getattr(value.target, "__name__", value.target)))


def operands_of(node: fx.Node) -> list[fx.Node]:
    """Return all values that an operation takes, with repetitions: x + x has two."""
    operands: list[fx.Node] = []
    fx.map_arg((node.args, node.kwargs), operands.append)
    return operands


def options_of(node: fx.Node, *names: str) -> dict[str, Any]:
    """Return what an operation was given beside its input, by name."""
    return dict(zip(names, node.args[1:], strict=False)) | dict(node.kwargs)


def option_of(args: Sequence[Any], kwargs: Mapping[str, Any], module: object) -> Option:
    """Return a function that gives the options of an operation, as the table asks for them."""

    def option(name: str, position: int, default: Any) -> Any:
        value = args[position] if len(args) > position else kwargs.get(name, default)
        return getattr(module, name, value)

    return option
