"""Corollary 2.1: how much a network can stretch a change of its input, from above and from below.

A network's Lipschitz constant is at most the product of its layers' operator norms, along branches
that are added their sum. The paper bounds an operator norm by the Frobenius norm of the weight,
which needs a factor for convolutions and holds only in evaluation mode for batch normalization.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, fx, nn

from swrlib.layers import kind_of, nearest, unwrap

Norm = Literal["spectral", "frobenius"]

# |f'| ≤ 1, or shapes alone.
_NON_EXPANSIVE = {
    *("relu", "relu6", "leakyrelu", "tanh", "hardtanh", "identity", "dropout", "dropout1d"),
    *(
        "dropout2d",
        "dropout3d",
        "flatten",
        "view",
        "reshape",
        "unflatten",
        "contiguous",
        "softplus",
    ),
    *("permute", "transpose", "squeeze", "unsqueeze", "elu", "celu", "softsign", "abs", "neg"),
}
# Greatest slope of activations that are steeper, or always flatter.
_SLOPES = {"sigmoid": 0.25, "gelu": 1.1290, "silu": 1.0999, "mish": 1.0886, "hardswish": 1.5}
_LINEAR = {"avgpool1d", "avgpool2d", "avgpool3d", "adaptiveavgpool1d", "adaptiveavgpool2d", "mean"}
_MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)


def operator_norm(function: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> float:
    """Return the greatest singular value of a linear function of inputs of this shape.

    By Lanczos iteration on the function and its adjoint, in float64; nothing is written out.
    """
    from scipy.sparse.linalg import LinearOperator, svds  # not needed to train

    start = torch.zeros(1, *shape, dtype=torch.float64)
    output, adjoint = torch.func.vjp(function, start)[:2]
    size = (output.numel(), start.numel())

    def forward(x: np.ndarray) -> np.ndarray:
        return function(torch.from_numpy(np.ascontiguousarray(x)).view_as(start)).numpy().ravel()

    def backward(y: np.ndarray) -> np.ndarray:
        (x,) = adjoint(torch.from_numpy(np.ascontiguousarray(y)).view_as(output))
        return x.numpy().ravel()

    with torch.no_grad():
        if min(size) < 3:
            narrow, apply = (size[1], forward) if size[1] <= size[0] else (size[0], backward)
            columns = [apply(row) for row in np.eye(narrow)]
            return float(np.linalg.norm(np.stack(columns, 1), 2))
        operator = LinearOperator(size, matvec=forward, rmatvec=backward, dtype=np.float64)
        first = np.random.default_rng(0).standard_normal(min(size))
        values = svds(operator, k=1, v0=first, tol=1e-9, return_singular_vectors=False)
    return float(values[0])


def conv_spectral_norm(module: nn.Module, input_shape: tuple[int, ...]) -> float:
    """Return the spectral norm of a convolution as an operator on inputs of their real size.

    Not that of the kernel written as a matrix, which is no bound: strides, padding, groups and
    dilation are as in the module; its bias is left out.

    Parameters
    ----------
    module : torch.nn.Conv1d, Conv2d, Conv3d or transposed
    input_shape : tuple of int
        Channels and sizes of one input: (C, H, W).

    Raises
    ------
    TypeError
        If the module is no convolution.
    ValueError
        If inputs of this shape do not fit it.
    """
    if kind_of(module) != "convolution":
        raise TypeError(f"{type(module).__name__} is no convolution")
    linear: Any = copy.deepcopy(module).cpu().double().requires_grad_(False)
    linear.bias = None
    try:
        return operator_norm(linear, tuple(input_shape))
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"inputs of shape {tuple(input_shape)} do not fit: {first}") from error


def lipschitz_bound(model: nn.Module, example: Tensor, *, norm: Norm = "spectral") -> float:
    """Bound the Lipschitz constant of a network in evaluation mode (Corollary 2.1).

    Parameters
    ----------
    model : torch.nn.Module
        What `torch.fx` can trace; it is left as it is.
    example : torch.Tensor
        Inputs, [batch, …]: their size decides the norm of convolutions.
    norm : {"spectral", "frobenius"}
        Exact operator norms of linear and convolution layers; or the paper's Frobenius norms, those
        of convolutions times √(taps that an input meets), without which they bound nothing.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If the model cannot be traced, or an operation has no known constant; it is named.
    """
    if norm not in ("spectral", "frobenius"):
        raise ValueError(f"unknown norm {norm!r}: {nearest(norm, ('spectral', 'frobenius'))}")
    network = copy.deepcopy(unwrap(model)).cpu().double().eval().requires_grad_(False)
    try:
        traced = fx.symbolic_trace(network)
    except Exception as error:
        raise ValueError(f"{type(model).__name__} cannot be traced: {error}") from error
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_var is None:
            raise ValueError(f"{name} has no running statistics: it maps whole batches")
    walk = _Constants(traced, norm)
    with torch.no_grad():
        walk.run(example[:1].cpu().double())
    return walk.result


class _Constants(fx.Interpreter):
    """Runs a traced network once and follows the constant through it, from the input's 1."""

    def __init__(self, traced: fx.GraphModule, norm: Norm) -> None:
        super().__init__(traced)
        self.norm = norm
        self.extra_traceback = False  # errors are a sentence
        self.bounds: dict[fx.Node, float] = {}
        self.result = math.nan

    def run_node(self, n: fx.Node) -> Any:
        """Run a node, and note the constant of the map from the network's input to its value."""
        value = super().run_node(n)
        sources = [source for source in n.all_input_nodes if source in self.bounds]
        if n.op == "placeholder":
            self.bounds[n] = 1.0
        elif n.op == "output":
            self.result = math.hypot(*(self.bounds[source] for source in sources))
        elif sources and isinstance(value, Tensor):
            self.bounds[n] = self._bound(n, [self.bounds[source] for source in sources])
        return value

    def _bound(self, node: fx.Node, before: list[float]) -> float:
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        module = self.fetch_attr(str(node.target)) if node.op == "call_module" else None
        name = _name(node, module)
        numbers = [a for a in args if isinstance(a, int | float)]
        if name in ("add", "iadd", "sub", "isub"):
            # The same value twice is two branches, a constant is none.
            nodes = [a for a in node.args if isinstance(a, fx.Node) and a in self.bounds]
            return sum(self.bounds[a] for a in nodes)
        if name in ("cat", "concat"):
            return math.hypot(*before)
        if len(before) == 1 and name in ("mul", "imul") and numbers:
            return before[0] * abs(numbers[0])
        if len(before) == 1 and name in ("truediv", "div") and numbers and args[1] in numbers:
            return before[0] / abs(numbers[0])
        if len(before) == 1:
            factor = self._factor(node, name, module, args, kwargs)
            if factor is not None:
                return before[0] * factor
        raise ValueError(f"operation {node.name!r} ({name}) has no known Lipschitz constant")

    def _factor(
        self, node: fx.Node, name: str, module: Any, args: Any, kwargs: Any
    ) -> float | None:
        inputs = args[0]
        kind = kind_of(module) if module is not None else None
        if kind == "linear":
            order = 2 if self.norm == "spectral" else "fro"
            return float(torch.linalg.matrix_norm(module.weight, order))
        if kind == "convolution":
            if self.norm == "spectral":
                return conv_spectral_norm(module, tuple(inputs.shape[1:]))
            return float(module.weight.norm()) * math.sqrt(_patches(node.name, module))
        if kind == "normalization":
            return _normalization(node.name, module)
        if name in _NON_EXPANSIVE:
            return max(1.0, abs(getattr(module, "negative_slope", kwargs.get("negative_slope", 0))))
        if name in _SLOPES:
            return _SLOPES[name]
        if isinstance(module, _MAX_POOLS):
            return math.sqrt(_patches(node.name, module))
        if name in _LINEAR:

            def again(x: Tensor) -> Tensor:
                if module is not None:
                    return module(x)
                run = self.call_method if node.op == "call_method" else self.call_function
                return run(node.target, (x, *args[1:]), kwargs)

            # Pools treat all channels alike.
            channels = inputs.shape[1:2] if name == "mean" else (1,)
            return operator_norm(again, (*channels, *inputs.shape[2:]))
        return None


def _name(node: fx.Node, module: nn.Module | None) -> str:
    if module is not None:
        return type(module).__name__.lower()
    target = node.target if isinstance(node.target, str) else node.target.__name__
    return target.replace("_", "").lower()


def _patches(name: str, module: Any) -> int:
    """Return how many windows of a convolution or a pooling an input meets at most."""
    if getattr(module, "padding_mode", "zeros") not in ("zeros", "circular"):
        raise ValueError(f"{name} pads with its own inputs, which counts them more than once")
    size = module.kernel_size
    dimensions = len(size) if isinstance(size, tuple) else int(type(module).__name__[-2])

    def each(value: Any) -> tuple[int, ...]:
        return value if isinstance(value, tuple) else (value,) * dimensions

    windows = zip(each(size), each(module.stride), each(module.dilation), strict=True)
    return math.prod(
        math.ceil(kernel * math.gcd(stride, dilation) / stride)
        for kernel, stride, dilation in windows
    )


def _normalization(name: str, module: Any) -> float:
    scale = 1.0 if module.weight is None else float(module.weight.abs().max())
    if getattr(module, "running_var", None) is not None:
        slopes = (module.running_var + module.eps).rsqrt()
        if module.weight is not None:
            slopes = slopes * module.weight.abs()
        return float(slopes.max())
    if module.eps is None:
        raise ValueError(f"{name} has no eps, so its slope has no bound")
    return scale / math.sqrt(module.eps)  # steepest where the input hardly varies


def lipschitz_lower_bound(
    model: nn.Module,
    inputs: Tensor,
    *,
    steps: int = 20,
    iterations: int = 10,
    length: float = 0.05,
) -> float:
    """Find how much a network stretches a change of its input at least, by ascent from real inputs.

    At each input the greatest singular value of the Jacobian is found by power iteration; then the
    input moves along its direction, to the side on which the output changes more.

    Parameters
    ----------
    model : torch.nn.Module
        Evaluated in evaluation mode, each input by itself; left as it is.
    inputs : torch.Tensor
        [batch, …].
    steps, iterations : int
        Moves of each input, and rounds of the power iteration at each place.
    length : float
        Of a move, over the input's own norm.

    Returns
    -------
    float
        The greatest value that was met: the Lipschitz constant is no smaller.
    """
    network = copy.deepcopy(unwrap(model)).eval().requires_grad_(False)
    x = inputs.detach().clone()
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)

    def lengths(t: Tensor) -> Tensor:
        return t.flatten(1).norm(dim=1).view(-1, *(1,) * (x.dim() - 1))

    greatest = 0.0
    for _ in range(steps + 1):
        for _ in range(iterations):
            direction = direction / lengths(direction).clamp_min(1e-30)
            change = torch.func.jvp(network, (x,), (direction,))[1]
            adjoint = torch.func.vjp(network, x)[1]
            (following,) = adjoint(change)
            greatest = max(greatest, float(change.flatten(1).norm(dim=1).max()))
            flat = lengths(following) == 0
            direction = torch.where(flat, direction, following)
        direction = direction / lengths(direction).clamp_min(1e-30)
        move = length * lengths(x).clamp_min(1e-12) * direction
        here = network(x)
        gains = [(network(x + sign * move) - here).flatten(1).norm(dim=1) for sign in (1, -1)]
        greatest = max(greatest, *(float((g / move.flatten(1).norm(dim=1)).max()) for g in gains))
        side = torch.where(gains[0] >= gains[1], 1.0, -1.0).to(x)
        x = x + side.view(-1, *(1,) * (x.dim() - 1)) * move
    return greatest
