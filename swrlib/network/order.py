"""Networks whose layers are named by hand, where the forward pass cannot be traced."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import fx, nn

from swrlib.checks import check_name
from swrlib.network.graph import Classes, Graph, Step, kind_of
from swrlib.network.parameters import shared

#: Names in the order of the forward pass, each fed by the one before it; several such chains, each
#: of which begins at the input; or the names of those that feed each layer.
Order = Sequence[str] | Sequence[Sequence[str]] | Mapping[str, str | Sequence[str]]


def ordered(layers: Order, modules: Mapping[str, nn.Module], normalizations: Classes) -> Graph:
    """Return the steps of a network whose layers are named, with those that feed each."""
    before = _named_order(layers)
    for name in before:
        check_name("module", name, modules, "the model has no")
        if kind_of(modules[name]) is None and not isinstance(modules[name], normalizations):
            raise ValueError(
                f"module {name!r} is a {type(modules[name]).__name__}, not a linear, convolution "
                "or normalization layer: leave it out of layers="
            )
    steps = [Step("input", "input", ())]
    for name, feeding in before.items():
        inputs = tuple(feeding)
        if len(inputs) > 1:
            meeting = f"the inputs of {name}"
            steps.append(Step(meeting, "sum", inputs, repr(meeting), powers=(1.0,) * len(inputs)))
            inputs = (meeting,)
        layer = kind_of(modules[name]) is not None
        steps.append(Step(name, "layer" if layer else "power", inputs, repr(name), powers=(0.0,)))
    fed = {name for feeding in before.values() for name in feeding}
    outputs = tuple(name for name in before if name not in fed)
    return Graph(steps, outputs, frozenset(), fx.Graph())


def _named_order(layers: Order) -> dict[str, list[str]]:
    """Return what feeds each layer, layers after those that feed them."""
    if isinstance(layers, str):
        raise TypeError(f"layers takes a list of module names: [{layers!r}]")
    if not isinstance(layers, Sequence | Mapping):
        raise TypeError(f"layers is a {type(layers).__name__}, without order: give a list of names")
    feeding: dict[str, list[str]] = {}
    if isinstance(layers, Mapping):
        for name, sources in layers.items():
            named = [sources] if isinstance(sources, str) else [*sources]
            feeding[name] = named or ["input"]
    else:
        listed: list[Any] = [*layers]
        nested = [not isinstance(name, str) for name in listed]
        if any(nested) and not all(nested):
            raise TypeError("layers takes names, or lists of names, not both")
        for chain in listed if any(nested) else [listed]:
            names = [*chain] if isinstance(chain, Iterable) else [chain]
            if wrong := [name for name in names if not isinstance(name, str)]:
                raise TypeError(
                    f"layers takes names of modules (of named_modules()), not {wrong[0]!r}"
                )
            if len({*names}) < len(names):
                raise ValueError(shared(*[n for n in names if names.count(n) > 1][:1] * 2))
            for name, source in zip(names, ["input", *names], strict=False):
                feeding.setdefault(name, []).append(source)
    feeding = {name: [*dict.fromkeys(sources)] for name, sources in feeding.items()}
    placed: dict[str, list[str]] = {}

    def place(name: str, behind: tuple[str, ...]) -> None:
        if name in behind:
            raise ValueError(f"layers feed one another in a circle: {' → '.join((*behind, name))}")
        for source in feeding[name]:
            if source != "input" and source not in feeding:
                raise ValueError(f"{source!r}, which feeds {name!r}, is itself not in layers=")
            if source != "input" and source not in placed:
                place(source, (*behind, name))
        placed[name] = feeding[name]

    for name in feeding:
        if name not in placed:
            place(name, ())
    return placed
