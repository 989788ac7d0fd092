"""Corollary 2.1: how much a network can stretch a change of its input, from above.

A network's Lipschitz constant is at most the product of its layers' operator norms and of the
greatest slopes of what stands between them, along branches that are added their sum. The paper
bounds an operator norm by the Frobenius norm of the weight. That needs a factor √m for
convolutions, m being how many windows meet an input, and 1/√(σ² + eps) for batch normalization,
which has a constant in evaluation mode alone.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from swrlib.checks import check_name
from swrlib.network import graph
from swrlib.network.graph import Step, has_own_forward, kind_of
from swrlib.network.operations import operands_of, option_of
from swrlib.theory.convolutions import conv_spectral_norm, operator_norm
from swrlib.theory.copies import evaluated, refuse_inputs, refuse_mixing, run

Norm = Literal["spectral", "frobenius"]

# What an operation may return beside numbers and tensors: none of it follows the input's values.
_SHAPES = (int, torch.Size, torch.dtype, torch.device)


@torch.inference_mode(False)
def lipschitz_bound(model: nn.Module, example: Tensor, *, norm: Norm = "spectral") -> float:
    """Bound the Lipschitz constant of a network in evaluation mode (Corollary 2.1).

    Parameters
    ----------
    model : torch.nn.Module
        What `torch.fx` can trace; it is left as it is. Called with one input alone: an argument
        with a default keeps it.
    example : torch.Tensor
        Inputs, [batch, …]: their size decides the norm of convolutions.
    norm : {"spectral", "frobenius"}
        Operator norms of linear and convolution layers, of large convolutions from just above
        (`conv_spectral_norm`); or the paper's Frobenius norms, those of convolutions times √(taps
        that an input meets), without which they bound nothing.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If the model cannot be traced or run, or mixes the inputs of a batch, an operation has no
        known constant (it is named), or inputs or weights are not real.
    """
    check_name("norm", norm, ("spectral", "frobenius"))
    refuse_inputs(example)
    network: nn.Module = evaluated(model).cpu().double()
    example = example[:1].detach().cpu().double()
    if graph.is_leaf(network):
        network = nn.Sequential(network)  # the model is itself one layer
    try:
        traced = graph.trace(network)
    except graph.Untraceable as error:
        raise ValueError(f"{type(model).__name__} cannot be traced: {error.why}") from None
    walk = _Constants(network, traced, norm)
    with torch.no_grad():
        expected = run(network, example)
        outputs = walk.run(example.clone())
        try:
            torch.testing.assert_close(outputs, expected, rtol=1e-9, atol=1e-12, equal_nan=True)
        except (AssertionError, TypeError) as error:
            raise ValueError(
                f"{type(model).__name__} computes something else than its trace, or not tensors "
                "alone: it is random, or changes an activation in place that has another name too"
            ) from error
        refuse_mixing(network, example, expected)
    return walk.result


class _Constants(fx.Interpreter):
    """Runs a traced network once and follows the constant through it, from the input's 1."""

    def __init__(self, network: nn.Module, traced: graph.Graph, norm: Norm) -> None:
        super().__init__(network, graph=traced.nodes)
        self.norm = norm
        self.extra_traceback = False  # errors are a sentence
        self.steps = {step.node: step for step in traced.steps}
        self.bounds: dict[fx.Node, float] = {}
        self.result = math.nan

    def run_node(self, n: fx.Node) -> Any:
        """Run a node, and note the constant of the map from the network's input to its value."""
        sources = [operand for operand in operands_of(n) if operand in self.bounds]
        before = {node: v._version for node, v in self.env.items() if isinstance(v, Tensor)}
        without = self._without_hooks(n)
        value = super().run_node(n)
        if without is not None:
            same = isinstance(value, Tensor) and value.shape == without.shape
            if not (same and torch.allclose(without, value, equal_nan=True)):
                raise ValueError(f"a hook changes what {n.target} computes")
        if n.op == "placeholder":
            if isinstance(value, Tensor):  # not the default of an argument that was not given
                self.bounds[n] = 1.0
        elif n.op == "output":
            self.result = math.hypot(*(self.bounds[source] for source in sources))
        elif sources and not isinstance(value, _SHAPES):
            self.bounds[n] = self._bound(self.steps[n], n, sources, value)
            for node, version in before.items():
                if self.env[node]._version != version:  # changed in place, itself or by a view
                    self.bounds[node] = self._changed(node, n, value)
        return value

    def _without_hooks(self, n: fx.Node) -> Tensor | None:
        """Return what a module gives by itself; it gets copies, which it may change in place."""
        if n.op != "call_module":
            return None
        module = self.fetch_attr(str(n.target))
        if has_own_forward(module):
            raise ValueError(f"{n.target} ({type(module).__name__}) has a forward of its own")
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        output = module.forward(
            *(a.clone() if isinstance(a, Tensor) else a for a in args), **kwargs
        )
        return output if isinstance(output, Tensor) else None

    def _changed(self, node: fx.Node, by: fx.Node, value: Tensor) -> float:
        if node not in self.bounds:
            raise ValueError(f"operation {by.name!r} writes into {node.name!r}, no activation")
        old = self.env[node]
        if old.data_ptr() == value.data_ptr() and old.numel() == value.numel():
            return self.bounds[by]
        return math.hypot(self.bounds[node], self.bounds[by])  # a part of it

    def _bound(self, step: Step, node: fx.Node, sources: list[fx.Node], value: Any) -> float:
        if isinstance(value, Tensor) and value.is_floating_point():
            args, kwargs = self.fetch_args_kwargs_from_env(node)
            role = step.does.role if step.does else ""
            if role == "join":
                return math.hypot(*(self.bounds[source] for source in sources))
            # Repeated over a larger shape, a value weighs more.
            spread = [
                self.bounds[source] * math.sqrt(value.numel() / (self.env[source].numel() or 1))
                for source in sources
            ]
            if role == "sum" and len(args) <= 2 and kwargs.get("alpha", 1) == 1:
                return sum(spread)
            factor = None
            if len(sources) == 1 and role in ("product", "quotient"):
                operands = (*node.args, *node.kwargs.values())
                pairs = zip(operands, (*args, *kwargs.values()), strict=True)
                constants = [value for operand, value in pairs if operand is not sources[0]]
                if role == "product" or node.args[:1] == (sources[0],):
                    factor = _scale(constants, inverse=role == "quotient")
                before = spread[0]
            elif len(sources) == 1:
                factor = self._factor(step, node, args, kwargs)
                before = self.bounds[sources[0]]
            if factor is not None:
                return before * factor
        name = step.operation or type(step.module).__name__.lower()
        raise ValueError(f"operation {node.name!r} ({name}) has no known Lipschitz constant")

    def _factor(self, step: Step, node: fx.Node, args: Any, kwargs: Any) -> float | None:
        kwargs = dict(kwargs)
        inputs = args[0] if args else kwargs.pop("input", None)
        if step.kind == "layer":
            return _layer_norm(node.name, step.module, tuple(inputs.shape[1:]), self.norm)
        if (does := step.does) is None:
            return None
        if callable(does.slope):
            return does.slope(option_of(args, kwargs, step.module))
        if does.maximum:
            names = ("kernel_size", "stride", "padding", "dilation")
            options = dict(zip(names, args[1:], strict=False)) | kwargs
            pool = step.module or getattr(nn, f"MaxPool{does.axes}d")(**options)
            return math.sqrt(_patches(node.name, pool))
        if not does.linear:
            return does.slope

        def again(x: Tensor) -> Tensor:
            if step.module is not None:
                return step.module(x)
            function = self.call_method if node.op == "call_method" else self.call_function
            return function(node.target, (x, *args[1:]), kwargs)

        if does.axes:  # windows treat all axes but the last ones alike
            return operator_norm(again, tuple(inputs.shape[-does.axes :]))
        return operator_norm(lambda x: again(x[0]), tuple(inputs.shape))


def _layer_norm(name: str, module: Any, shape: tuple[int, ...], norm: Norm) -> float:
    """Return how much a layer stretches an input of this shape at most."""
    kind = kind_of(module)
    if kind == "linear":
        return _linear_norm(module.weight, norm)
    if kind == "normalization":
        return _normalization(name, module)
    if norm == "spectral":
        return conv_spectral_norm(module, shape)
    return float(module.weight.norm()) * math.sqrt(_patches(name, module))


def _scale(constants: list[Any], inverse: bool) -> float | None:
    """Return the greatest factor in a product with one constant, or in the quotient by it."""
    if len(constants) != 1 or not isinstance(constants[0], int | float | Tensor):
        return None
    sizes = torch.as_tensor(constants[0], dtype=torch.float64).abs()
    return float((1 / sizes if inverse else sizes).max())


def _linear_norm(weight: Tensor, norm: Norm) -> float:
    if norm == "frobenius" or not weight.numel():
        return float(weight.norm())
    if not weight.isfinite().all():
        return math.nan
    if min(weight.shape) <= 1000:
        return float(torch.linalg.matrix_norm(weight, 2))
    return operator_norm(lambda x: x @ weight.T, weight.shape[1:])


def _patches(name: str, module: Any) -> int:
    """Return how many windows of a convolution or a pooling an input meets at most."""
    size = module.kernel_size
    dimensions = len(size) if isinstance(size, tuple) else int(type(module).__name__[-2])

    def each(value: Any) -> tuple[int, ...]:
        return value if isinstance(value, tuple) else (value,) * dimensions

    stride = module.stride if module.stride is not None else size
    windows = list(zip(each(size), each(stride), each(module.dilation), strict=True))
    mode = getattr(module, "padding_mode", "zeros")
    around = mode == "circular" and (
        isinstance(module.padding, str)
        or all(
            2 * padding <= dilation * (kernel - 1)
            for padding, (kernel, _, dilation) in zip(module.padding, windows, strict=True)
        )
    )
    if mode != "zeros" and not around:
        raise ValueError(f"{name} pads with its own inputs, which counts them more than once")
    meets = [
        (kernel, math.ceil(kernel * math.gcd(stride, dilation) / stride))
        for kernel, stride, dilation in windows
    ]
    if around:  # an input at the edge stands in two places, but each tap meets it once
        return math.prod(min(kernel, 2 * windows) for kernel, windows in meets)
    return math.prod(windows for _, windows in meets)


def _normalization(name: str, module: Any) -> float:
    scales = torch.ones(1) if module.weight is None else module.weight.abs()
    own = isinstance(module, nn.modules.instancenorm._InstanceNorm)  # follows its flag alone
    if getattr(module, "running_var", None) is not None and (module.track_running_stats or not own):
        return float(((module.running_var + module.eps).rsqrt() * scales).max())
    if not module.eps:
        raise ValueError(f"{name} has no eps, so its slope has no bound")
    return float(scales.max()) / math.sqrt(module.eps)  # steepest where the input hardly varies
