"""Which layers are rescaled, and how strongly."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from swrlib.checks import listed, nearest, warn
from swrlib.network.graph import kind_of
from swrlib.network.layers import Group, Layer, Network, parameters_outside, unwrap
from swrlib.rescaling import checked_lambda

#: A name or a pattern of names, a class of modules, or a function of name and module.
Choice = str | type[nn.Module] | Callable[[str, nn.Module], bool]
#: One λ, the pair (λ_f, λ_c), or one for each pattern of names.
Lam = float | tuple[float, float] | Mapping[str, float]

_GROUPS = ("features", "classifier")


def fits(pattern: str, name: str) -> bool:
    """Whether a pattern is a layer's name or that of a module around it: "head", "blocks.*.fc"."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def chosen(
    choices: Choice | Iterable[Choice] | None,
    names: Mapping[str, nn.Module],
    modules: Mapping[str, nn.Module],
    option: str,
) -> set[str]:
    """Return those of some names in a model of these modules that choices fit.

    A class fits what lies in a module of it, too.

    Raises
    ------
    TypeError
        If one is neither a name nor a class nor a function.
    ValueError
        If one fits nothing.
    """
    fitted: set[str] = set()
    for choice in _each(choices):
        if isinstance(choice, str):
            fitting = {name for name in names if fits(choice, name)}
        elif isinstance(choice, type):
            of_class = [name for name, module in modules.items() if isinstance(module, choice)]
            fitting = {n for n in names if any(n == c or n.startswith(f"{c}.") for c in of_class)}
        elif callable(choice) and not isinstance(choice, nn.Module):
            _check_arguments(choice, option)
            fitting = {name for name, module in names.items() if _says(choice, name, module)}
        else:
            kind = type(choice).__name__
            raise TypeError(f"{option} takes names, classes or functions, not a {kind}: {choice!r}")
        if not fitting:
            called = repr(choice) if isinstance(choice, str) else getattr(choice, "__name__", "…")
            known = nearest(called, names) if names else "all parameters belong to layers"
            raise ValueError(f"{option}: {called} fits nothing: {known}")
        fitted |= fitting
    return fitted


def _each(choices: Choice | Iterable[Choice] | None) -> list[Choice]:
    """Return one choice or several as a list."""
    if choices is None:
        return []
    single = isinstance(choices, str | type | nn.Module | Tensor)
    return [*choices] if isinstance(choices, Iterable) and not single else [choices]  # type: ignore


def _check_arguments(choice: Callable[..., Any], option: str) -> None:
    """Refuse a function that does not take a name and a module."""
    try:
        inspect.signature(choice).bind("", None)
    except TypeError:
        name = getattr(choice, "__name__", repr(choice))
        raise TypeError(
            f"{option}: a function is called with a name and a module, as in lambda name, module: "
            f"…, which {name} does not take"
        ) from None
    except ValueError:  # some built-in functions have no signature
        pass


def _says(choice: Callable[[str, nn.Module], bool], name: str, module: nn.Module) -> bool:
    """Return whether a function fits; what only layers have, it may ask for of other modules."""
    with suppress(*() if kind_of(module) else (AttributeError,)):
        return bool(choice(name, module))
    return False


def excluded(
    choices: Choice | Iterable[Choice] | None, layers: Mapping[str, nn.Module], model: nn.Module
) -> set[str]:
    """Return the names of the layers, and of the parameters outside of them, that a user excludes.

    Everything in the model may be named, also what is left alone anyway.

    Raises
    ------
    TypeError, ValueError
        As for `chosen`; or if part of a layer is named.
    """
    choices, model = _each(choices), unwrap(model)
    modules = dict(model.named_modules())
    owners = {name: name.rpartition(".")[0] for name, _ in model.named_parameters()}
    outside = {name: owner for name, owner in owners.items() if owner not in layers}
    asked = {n: m for n, m in modules.items() if n in owners.values() or not [*m.children()]}
    names = {**layers, **asked, **{name: modules[owner] for name, owner in outside.items()}}
    for choice in choices:
        for name in owners.keys() - outside.keys():
            layer = owners[name]
            if isinstance(choice, str) and fits(choice, name) and not fits(choice, layer):
                raise ValueError(
                    f"exclude: {choice!r} fits {name}, and a layer is left alone as a whole: name "
                    f"{layer!r}, or leave its weight alone by lam={{{layer!r}: 0.0, …}}"
                )
    named = chosen(choices, names, modules, "exclude")
    # A function that fits attention, say, means all that is inside.
    within = tuple(f"{name}." for name in named & {*asked} - {*layers} if name)
    return named & {*layers, *outside} | {name for name in outside if name.startswith(within)}


@dataclass(frozen=True)
class Included:
    """A weight outside of all layers that is rescaled to its norm on request, independently.

    Theorem 1 does not speak of it: no bias follows its factor.
    """

    name: str
    kind: str
    module: nn.Module = field(repr=False)
    parameter: str
    group: Group = "features"
    bias: None = None
    computes_its_bias: bool = False

    @property
    def weight(self) -> nn.Parameter | None:
        """The weight, None where it is no parameter any more."""
        return self.module._parameters.get(self.parameter)


_KINDS: tuple[tuple[tuple[type[nn.Module], ...], str], ...] = (
    ((nn.Embedding, nn.EmbeddingBag), "embedding"),
    ((nn.MultiheadAttention,), "attention"),
    ((nn.RNNBase, nn.RNNCellBase), "recurrent"),
)


def included(
    choices: Choice | Iterable[Choice] | None, model: nn.Module, outside: Sequence[str]
) -> list[Included]:
    """Return the weights among the parameters outside of all layers that ``include=`` names.

    A module means its matrices; a vector has to be named in full.
    """
    if choices is None:
        return []
    choices, modules = _each(choices), dict(unwrap(model).named_modules())
    owners = {name: modules[name.rpartition(".")[0]] for name in outside}
    weights = []
    for name in sorted(chosen(choices, owners, modules, "include"), key=list(outside).index):
        parameter = name.rpartition(".")[2]
        if owners[name]._parameters[parameter].dim() > 1 or name in choices:
            kinds = (kind for classes, kind in _KINDS if isinstance(owners[name], classes))
            weights.append(Included(name, next(kinds, "other"), owners[name], parameter))
    if not weights:
        raise ValueError("include: what it names has no matrix; name a vector in full")
    return weights


class Selection:
    """What is rescaled; what is left alone unasked is named in a warning.

    Attributes
    ----------
    rows : list of Layer or Included
        All that have parameters, those that are left alone too.
    excluded : frozenset of str
        The names of those.
    scaled : list of Layer or Included
        The others.
    """

    def __init__(
        self,
        model: nn.Module,
        network: Network,
        include: Choice | Iterable[Choice] | None,
        exclude: Choice | Iterable[Choice] | None,
    ) -> None:
        known = [la for la in network.layers if la.weight is not None or la.bias is not None]
        modules = {layer.name: layer.module for layer in known}
        self.excluded = frozenset(excluded(exclude, modules, model))
        outside = parameters_outside(model, known)
        more = included(include, model, outside)
        asked_for = {one.name for one in more} | self.excluded
        if left := [name for name in outside if name not in asked_for]:
            reached = unreached(model, network, left)
            remedy = f"; {listed(reached)} would be reached with example=" if reached else ""
            warn(
                "SWR leaves alone the parameters outside the linear, convolution and normalization "
                f"layers that were traced: {listed(left)}{remedy}"
            )
        self.rows: list[Layer | Included] = [*known, *more]
        self.scaled = [row for row in self.rows if row.name not in self.excluded]
        if not any(trainable(row.weight) for row in self.scaled):
            raise ValueError(
                f"{type(model).__name__} has no trainable weight in a linear, convolution or "
                "normalization layer, so there is nothing to rescale"
            )


def unreached(model: nn.Module, network: Network, outside: Iterable[str]) -> list[str]:
    """Name the layers with parameters outside that would be traced on an example.

    They lie in modules of torch's that were taken for one operation; attention uses the weights of
    its layers itself and never calls them.
    """
    modules = dict(unwrap(model).named_modules())
    inside = {m for step in network.steps if step.module for m in step.module.modules()}
    inside -= {layer.module for layer in network.layers}
    for module in modules.values():
        if isinstance(module, nn.MultiheadAttention):
            inside -= {*module.modules()}
    owners = dict.fromkeys(name.rpartition(".")[0] for name in outside)
    layers = {name: modules[name] for name in owners if kind_of(modules[name])}
    return [
        name
        for name, layer in layers.items()
        if layer in inside and isinstance(layer._parameters.get("weight"), nn.Parameter)
    ]


def trainable(parameter: Tensor | None) -> bool:
    """Whether there is a parameter that an optimizer may change."""
    return parameter is not None and parameter.requires_grad


class Strengths:
    """λ of each layer.

    Parameters
    ----------
    layers : sequence of Layer or Included
        Those that are rescaled.
    lam, lam_features, lam_classifier
        As for `swrlib.SoftWeightRescaling`.

    Attributes
    ----------
    key_of : dict of str to str
        By layer, under what its λ is kept: a group, or a pattern.
    values : dict of str to float
        λ by key.
    changes : int
        How often a value was set.
    """

    def __init__(
        self,
        layers: Sequence[Layer | Included],
        lam: float | Mapping[str, float] | None,
        lam_features: float | None = None,
        lam_classifier: float | None = None,
    ) -> None:
        pair = (lam_features, lam_classifier)
        if lam is not None and pair != (None, None):
            raise ValueError("give either lam, or lam_features and lam_classifier, not both")
        if lam is None and None in pair:
            raise ValueError("λ is missing: give lam, or both lam_features and lam_classifier")
        self.changes = 0
        self.by_pattern = isinstance(lam, Mapping)
        if isinstance(lam, Mapping):
            if strange := [key for key in lam if not isinstance(key, str)]:
                raise TypeError(f"λ's are given for patterns of names, not for {strange[0]!r}")
            self.values = {key: checked_lambda(v, f"λ of {key!r}") for key, v in lam.items()}
            self.key_of = _patterns([layer.name for layer in layers], list(lam))
            return
        self.key_of = {layer.name: layer.group for layer in layers}
        both = pair if lam is None else (lam, lam)
        self.values = {k: checked_lambda(v, "λ") for k, v in zip(_GROUPS, both, strict=True)}
        there = {layer.group for layer in layers if layer.weight is not None}
        for group in _GROUPS:
            if lam is None and group not in there:
                warn(
                    f"lam_{group} applies to nothing: no layer that is rescaled belongs to the "
                    f"{group} (see summary(), and classifier=)"
                )

    def of(self, layer: str) -> float:
        """Return λ of a layer, nan where it is not rescaled."""
        return self.values[self.key_of[layer]] if layer in self.key_of else math.nan

    def set(self, **values: float) -> None:
        """Set the λ of groups; nothing is changed where one is no λ."""
        if self.by_pattern:
            raise ValueError("λ was given by pattern: set lam to a mapping of the same patterns")
        self._set(values)

    def _set(self, values: Mapping[str, Any]) -> None:
        called = "λ of {!r}" if self.by_pattern else "lam_{}"
        checked = {key: checked_lambda(v, called.format(key)) for key, v in values.items()}
        self.values = {**self.values, **checked}
        self.changes += 1

    def group(self, name: str) -> float:
        """Return the λ of a group."""
        if self.by_pattern:
            raise ValueError(f"λ was given by pattern: read lam, not lam_{name}")
        return self.values[name]

    @property
    def lam(self) -> float | tuple[float, float] | dict[str, float]:
        """The one λ, the pair, or those of the patterns."""
        if self.by_pattern:
            return dict(self.values)
        features, classifier = (self.values[group] for group in _GROUPS)
        return features if features == classifier else (features, classifier)

    @lam.setter
    def lam(self, value: Lam) -> None:
        if isinstance(value, Mapping):
            if not self.by_pattern or set(value) - set(self.values):
                known = ", ".join(self.values)
                raise ValueError(f"λ's can be set for what they were given for: {known}")
            self._set(value)
        elif self.by_pattern:
            self._set(dict.fromkeys(self.values, checked_lambda(value)))
        else:
            pair = value if isinstance(value, tuple) and len(value) == 2 else (value, value)
            self._set(dict(zip(_GROUPS, pair, strict=True)))

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint needs."""
        if self.by_pattern:
            return {"lam": dict(self.values)}
        return {f"lam_{group}": self.values[group] for group in _GROUPS}

    def loaded(self, state: Mapping[str, Any]) -> Strengths:
        """Return a copy with the λ's that `state` returned."""
        theirs = {key: state[f"lam_{key}"] for key in _GROUPS if f"lam_{key}" in state}
        theirs = theirs or dict(state.get("lam", ()))
        if {*theirs} != {*self.values}:
            raise ValueError(
                f"the state dict has λ for {listed([*map(repr, theirs)]) or 'nothing'}, and here "
                f"it was given for {listed([*map(repr, self.values)])}: construct "
                "SoftWeightRescaling with the same patterns or groups"
            )
        other = copy.copy(self)
        other._set(theirs)
        return other


def _patterns(layers: Sequence[str], patterns: Sequence[str]) -> dict[str, str]:
    """Return for each layer the first pattern that fits; each must be the first for some layer."""
    first = {name: next((p for p in patterns if fits(p, name)), None) for name in layers}
    if without := [name for name, pattern in first.items() if pattern is None]:
        raise ValueError(
            f"no pattern of lam fits {listed(without)}: add '*' as the last, or exclude= them"
        )
    if idle := [pattern for pattern in patterns if pattern not in first.values()]:
        raise ValueError(
            f"{listed([repr(p) for p in idle])} of lam applies to no layer (the first pattern that "
            f"fits a layer counts): {nearest(idle[0], layers)}"
        )
    return {name: pattern for name, pattern in first.items() if pattern is not None}
