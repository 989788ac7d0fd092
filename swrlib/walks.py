"""The forward pass of a network for many replicas at once: its graph, walked with wider operations.

A `Walk` is laid out once: for every step of the graph a function of what the steps before it gave.
Activations have one of two forms: "maps" [N, count·C, H, W] and "units" [count, U, N], with the
images last, where softmax and sums over classes are fastest on a processor. Until the first layer,
count is the number of different inputs: replicas that share one have one wide product or
convolution there. From then on it is the number of replicas. No replica sees another's numbers.

On a processor, float32 maps lie in oneDNN's own layout from a convolution on, for as long as it
knows the operations that follow.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, fx, nn

from swrlib import wide
from swrlib.checks import check_name
from swrlib.network.graph import Graph, Step, flattens_rows, kind_of
from swrlib.network.operations import OUT_OF_PLACE, operands_of, options_of
from swrlib.wide import Mode, Setting, Unstackable, apart, named, refuse, units

#: Operations that oneDNN computes in its own layout, blocks of channels that fill a vector
#: register, as it does convolutions and batch norm.
BLOCKED = ("maxpool2d", "relu", "add", "iadd")
Form = Literal["maps", "units"]


@dataclass(frozen=True)
class _Value:
    """What is known of an activation before there is one: its place, form and layout."""

    slot: int
    form: Form
    count: int
    blocked: bool = False


class Walk:
    """A network's forward pass for many replicas.

    Parameters
    ----------
    graph : Graph
    setting : Setting
    inputs : int
        How many different inputs there are: 1, or one for each seed; replicas that share one lie
        next to each other.

    Raises
    ------
    Unstackable
        If a step cannot be computed for several replicas at once; it is named.
    """

    def __init__(self, graph: Graph, setting: Setting, inputs: int) -> None:
        self._mode = Mode()
        errors: list[tuple[int, Unstackable]] = []
        for form in get_args(Form):  # images, or rows of features
            layout = _Layout(setting, self._mode)
            try:
                layout.lay_out(graph, form, inputs)
                break
            except Unstackable as error:
                errors.append((len(layout.named), error))
        else:
            raise max(errors, key=lambda reached: reached[0])[1]
        self._layout, self._first = layout, layout.named[graph.steps[0].name]
        self._memory_format = setting.memory_format
        self._replicas = setting.replicas
        last = {slot: place for place, call in enumerate(layout.calls) for slot in call[1]}
        last.pop(layout.output.slot, None)
        self._calls = [
            (function, slots, output, [slot for slot in {*slots} if last.get(slot) == place])
            for place, (function, slots, output) in enumerate(layout.calls)
        ]

    def __call__(
        self, images: Tensor, *, training: bool, features: Collection[str] = ()
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the outputs and the features that are asked for.

        Parameters
        ----------
        images : torch.Tensor
            [N, C, H, W] or [N, U]; with several inputs [inputs, N, …].
        training : bool
        features : collection of str
            Names of steps.

        Returns
        -------
        torch.Tensor
            [replicas, classes, N]; maps [replicas, C, N, H, W].
        dict of str to torch.Tensor
            What the steps give, [replicas, N, …].
        """
        for name in features:
            check_name("step", name, self._layout.named, "the model has no")
        wanted = {self._layout.named[name].slot for name in features}
        self._mode.training = training
        values: list[Any] = [None] * self._layout.slots
        values[0] = self._enter(images)
        kept = {0: values[0]} if wanted else {}
        for function, slots, output, dead in self._calls:
            value = values[output] = function(*[values[slot] for slot in slots])
            if output in wanted:
                kept[output] = value
            for slot in dead:
                values[slot] = None
        result = values[self._layout.output.slot]
        if self._layout.output.form == "maps":
            result = apart(result, self._replicas).permute(1, 2, 0, 3, 4)
        return result, {name: self._rows(self._layout.named[name], kept) for name in features}

    def _enter(self, images: Tensor) -> Tensor:
        if self._first.form == "units":
            return (images if images.dim() == 3 else images.unsqueeze(0)).mT
        if images.dim() == 5:
            images = images.transpose(0, 1).flatten(1, 2)
        return images.contiguous(memory_format=self._memory_format)

    def _rows(self, value: _Value, kept: Mapping[int, Tensor]) -> Tensor:
        """Return a feature as [replicas, N, …]."""
        x = kept[value.slot]
        x = x.to_dense() if value.blocked else x
        x = x.mT if value.form == "units" else apart(x, value.count).transpose(0, 1)
        each = self._replicas // value.count
        return x if each == 1 else x.repeat_interleave(each, 0)


def _add(a: Tensor, b: Tensor) -> Tensor:
    """Add maps that lie in oneDNN's layout, where it repeats nothing."""
    return a + b if a.shape == b.shape else (a.to_dense() + b.to_dense()).to_mkldnn()


class _Layout:
    """Lays a walk out: its calls (a function, the slots that it reads and the one it writes)."""

    def __init__(self, setting: Setting, mode: Mode) -> None:
        self.setting, self.mode = setting, mode
        self.calls: list[tuple[Callable[..., Tensor], tuple[int, ...], int]] = []
        self.slots = 1
        self.named: dict[str, _Value] = {}
        self._converted: dict[tuple[int, str], _Value] = {}

    def lay_out(self, graph: Graph, form: Form, inputs: int) -> None:
        """Lay out the steps of a graph, whose input has this form."""
        self._steps = {step.node: step for step in graph.steps}
        by_node: dict[fx.Node | None, _Value] = {}
        for step in graph.steps:
            if step.kind != "input":
                value = self._follow(step, by_node)
            elif not self.named:
                value = _Value(0, form, inputs)
            else:
                refuse(f"{step.name!r} is a second input")
            by_node[step.node] = self.named[step.name] = value
        if len(graph.outputs) != 1:
            refuse("the network returns several tensors")
        self.output = self._dense(self._own(self.named[graph.outputs[0]]))

    def _call(self, function: Callable[..., Tensor], *values: _Value, **differs: Any) -> _Value:
        """Note a call; what it gives is like its first value but for what differs."""
        slot, self.slots = self.slots, self.slots + 1
        self.calls.append((function, tuple(value.slot for value in values), slot))
        return replace(values[0], slot=slot, **differs)

    # Conversions: each at most once.

    def _convert(
        self, what: str, function: Callable[..., Tensor], value: _Value, **differs: Any
    ) -> _Value:
        key = (value.slot, what)
        if key not in self._converted:
            self._converted[key] = self._call(function, value, **differs)
        return self._converted[key]

    def _dense(self, value: _Value) -> _Value:
        if not value.blocked:
            return value
        return self._convert("dense", lambda x: x.to_dense(), value, blocked=False)

    def _block(self, value: _Value) -> _Value:
        if value.blocked or not self.setting.blocked:
            return value
        return self._convert("blocked", lambda x: x.to_mkldnn(), value, blocked=True)

    def _own(self, value: _Value) -> _Value:
        """Give each replica a copy of the input that it shares."""
        count, replicas = value.count, self.setting.replicas
        if count == replicas:
            return value
        each = replicas // count

        def copies(x: Tensor) -> Tensor:
            if value.form == "units":
                return x.repeat_interleave(each, 0)
            return apart(x, count).repeat_interleave(each, 1).flatten(1, 2)

        return self._convert("own", copies, self._dense(value), count=replicas)

    # Steps.

    def _follow(self, step: Step, by_node: Mapping[fx.Node | None, _Value]) -> _Value:
        assert step.node is not None
        operands = operands_of(step.node)
        if flattens_rows(step):
            operands = operands[:1]  # the others are the size of the batch
        does, module = step.does, step.module
        unknown = does is None or does.role not in _FOLLOWED
        if step.kind != "layer" and (
            unknown or (module is not None and any(True for _ in module.parameters()))
        ):
            refuse(named(step))
        if not all(operand in by_node for operand in operands):
            refuse(f"{named(step)} of more than activations and numbers")
        if step.in_place and not self._read_once(operands[0]):
            refuse(f"{named(step)} in place on what is read elsewhere, too")
        follow = _Layout._layer if does is None else _FOLLOWED[does.role]
        return follow(self, step, *(by_node[operand] for operand in operands))

    def _read_once(self, node: fx.Node) -> bool:
        """Say whether nothing else reads an activation, nor what it may be a view of."""
        while len(node.users) == 1:
            step = self._steps[node]
            if step.kind in ("input", "layer", "sum") or not isinstance(node.args[0], fx.Node):
                return True
            node = node.args[0]
        return False

    def _entries(self, step: Step, value: _Value, *others: _Value) -> _Value:
        """Follow operations on every entry, of one activation or two."""
        if others:
            return self._branches(step, value, *others)
        if step.operation == "identity":
            return value
        node, operation = step.node, step.operation
        assert node is not None
        random = operation == "rrelu" or "dropout" in operation
        function: Any = _function(step)
        if random:
            of_rows = operation in ("rrelu", "dropout")  # the others drop channels
            if step.module is None or (value.form == "units" and not of_rows):
                refuse(named(step))  # whether a function is on was decided when it was traced
            mode = self.mode
            return self._call(lambda x: function.train(mode.training)(x), self._dense(value))
        stays = operation in BLOCKED and len(node.args) == 1
        return self._call(function, value if stays else self._dense(value))

    def _branches(self, step: Step, *values: _Value) -> _Value:
        """Follow sums and products of two activations."""
        assert step.node is not None
        if len({value.form for value in values}) > 1:
            refuse(named(step))
        if len({value.count for value in values}) > 1:
            values = tuple(map(self._own, values))
        function, plain = _function(step), len(step.node.args) == 2 and not step.node.kwargs
        if step.operation in BLOCKED and plain and all(value.blocked for value in values):
            return self._call(_add, *values)
        values = tuple(map(self._dense, values))
        if values[0].form == "units":
            return self._call(function, *values)
        count = values[0].count

        def alike(a: Tensor, b: Tensor) -> Tensor:
            if a.shape[1] == b.shape[1]:
                return function(a, b)
            return function(apart(a, count), apart(b, count)).flatten(1, 2)

        return self._call(alike, *values)

    def _join(self, step: Step, *values: _Value) -> _Value:
        assert step.node is not None
        values = tuple(self._dense(self._own(value)) for value in values)
        options = options_of(step.node, "dim")
        dim = options.get("dim", options.get("axis", 0))
        forms = {value.form for value in values}
        replicas = self.setting.replicas
        if step.operation == "stack" or len(forms) > 1:
            refuse(named(step))
        if forms == {"units"} and dim in (1, -1):
            return self._call(lambda *x: torch.cat(x, 1), *values)
        if forms == {"maps"} and dim in (1, -3):
            return self._call(
                lambda *x: torch.cat([apart(y, replicas) for y in x], 2).flatten(1, 2), *values
            )
        if forms == {"maps"} and dim in (2, 3, -1, -2):
            return self._call(lambda *x: torch.cat(x, dim), *values)
        refuse(f"{named(step)} along axis {dim}")

    def _window(self, step: Step, value: _Value) -> _Value:
        does, node = step.does, step.node
        assert does is not None and node is not None
        indices = getattr(step.module, "return_indices", node.kwargs.get("return_indices", False))
        if value.form == "units" or does.axes not in (2, None) or indices:
            refuse(named(step))
        pool: Any = step.module  # a function's defaults oneDNN does not take
        stays = step.operation in BLOCKED and pool is not None and pool.dilation in (1, (1, 1))
        return self._call(_function(step), value if stays else self._dense(value))

    def _reduction(self, step: Step, value: _Value) -> _Value:
        assert step.node is not None
        options = options_of(step.node, "dim", "keepdim")
        dim = options.get("dim")
        axes = {axis % 4 for axis in (dim if isinstance(dim, tuple | list) else ())}
        if value.form == "units" or axes != {2, 3}:
            refuse(f"{named(step)} over other axes than the maps'")
        function, count = _function(step), value.count
        if options.get("keepdim"):
            return self._call(function, self._dense(value))
        return self._call(lambda x: units(function(x), count), self._dense(value), form="units")

    def _places(self, step: Step, value: _Value) -> _Value:
        if not flattens_rows(step):
            refuse(named(step))
        if value.form == "units":
            return value
        count = value.count
        return self._call(lambda x: units(x.flatten(1), count), self._dense(value), form="units")

    def _layer(self, step: Step, value: _Value) -> _Value:
        module, setting, replicas = step.module, self.setting, self.setting.replicas
        wide.check_layer(step, setting)
        kind, maps = kind_of(module), value.form == "maps"
        if kind == "linear" and not maps:
            return self._call(wide.linear(step, setting, value.count), value, count=replicas)
        if kind == "convolution" and maps:
            if module.groups > 1:  # type: ignore[union-attr, operator]
                value = self._own(value)  # its groups would mix with those of the replicas
            function = wide.convolution(step, setting, value.count)
            return self._call(function, self._block(value), count=replicas)
        if kind != "normalization":
            refuse(f"{named(step)} on {'maps' if maps else 'rows'}")
        value = self._own(value)  # replicas that share an input have statistics of their own
        if isinstance(module, nn.LayerNorm | nn.RMSNorm):
            return self._call(wide.layer_norm(step, setting, maps=maps), self._dense(value))
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            function = wide.batch_norm(step, setting, self.mode)
        else:
            function, value = wide.group_norm(step, setting), self._dense(value)
        if maps:
            return self._call(function, value)
        return self._call(lambda x: units(function(x.permute(2, 0, 1).flatten(1)), replicas), value)


_FOLLOWED: dict[str, Callable[..., _Value]] = {
    **dict.fromkeys(("entries", "sum", "product", "quotient"), _Layout._entries),
    **{"join": _Layout._join, "window": _Layout._window},
    **{"reduction": _Layout._reduction, "places": _Layout._places},
}


def _function(step: Step) -> Callable[..., Tensor]:
    """Return a step as a function of its activations, which it leaves as they are."""
    node, module = step.node, step.module
    assert node is not None
    if module is not None:
        if getattr(module, "inplace", False):
            module = copy.copy(module)
            module.inplace = False  # type: ignore[assignment]
        return module
    places = [place for place, argument in enumerate(node.args) if isinstance(argument, fx.Node)]
    if any(isinstance(value, fx.Node) for value in node.kwargs.values()) or not places:
        refuse(f"{named(step)} of named operands")
    options = {k: False if k == "inplace" else value for k, value in node.kwargs.items()}
    function: Any = OUT_OF_PLACE.get(node.target, node.target)
    if isinstance(function, str):
        function = getattr(Tensor, function)
    if step.in_place and node.target not in OUT_OF_PLACE and "inplace" not in options:
        refuse(f"{named(step)} in place")
    first, rest = len(places), node.args[len(places) :]
    if places == list(range(first)):
        return lambda *values: function(*values, *rest, **options)

    def call(*values: Tensor) -> Tensor:
        filled = list(node.args)
        for place, value in zip(places, values, strict=True):
            filled[place] = value
        result: Tensor = function(*filled, **options)
        return result

    return call
