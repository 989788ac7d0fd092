"""What a model was made of, so that a change of it is noticed."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from swrlib.checks import listed
from swrlib.network.graph import kind_of
from swrlib.network.layers import unwrap


class Structure:
    """The modules of a model.

    Parameters
    ----------
    model : torch.nn.Module
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = unwrap(model)
        self._take()

    def _take(self) -> None:
        modules = dict(self.model.named_modules())
        self._parts = [
            (module, list(module._modules.values()), list(module._parameters))
            for module in modules.values()
            if module._modules or _may_grow(module)
        ]
        self._modules = modules
        # Those that compute what their class does.
        self._plain = [(vars(m), n) for n, m in modules.items() if "forward" not in vars(m)]

    def refuse_changes(self) -> None:
        """Refuse a model whose modules are others than before; asked at every step.

        Raises
        ------
        ValueError
            If a module was taken out or replaced, or one with parameters, or a parameter, put in.
        """
        for module, children, names in self._parts:
            grown = len(module._parameters) > len(names)
            if grown or list(module._modules.values()) != children:
                self._refuse_others()

    def patched(self) -> list[str]:
        """Return the modules that were given a forward of their own since; asked at every step."""
        named = [(own, name) for own, name in self._plain if "forward" in own]
        return [name or "the model" for own, name in named if not _wraps(own, self._modules[name])]

    def _refuse_others(self) -> None:
        now = dict(self.model.named_modules())
        names = {id(module): name for name, module in self._modules.items()}
        inside = {id(unwrap(module)) for module in now.values()}
        changes = [
            f"module {name!r} ({type(was).__name__}) is "
            + (f"a new {type(now[name]).__name__}" if name in now else "gone")
            for name, was in self._modules.items()
            if id(was) not in inside
        ]
        changes += [
            f"module {name!r} ({type(module).__name__}) was put into the model"
            for name, module in now.items()
            if id(module) not in names and any(True for _ in module.parameters(recurse=False))
        ]
        changes += [
            f"parameter {parameter!r} of {names[id(module)] or 'the model'} was put into the model"
            for module, _, known in self._parts
            for parameter in module._parameters
            if parameter not in known
        ]
        if changes:
            raise ValueError(
                f"{changes[0]}: after a change of the model construct SoftWeightRescaling again, "
                "and attach it again"
            )
        self._take()

    def strangers(self, parameters: Iterable[Tensor]) -> str:
        """Describe the parameters that are not the model's; empty where all are."""
        own = {id(parameter) for parameter in self.model.parameters()}
        shapes = [str(list(p.shape)) for p in parameters if id(p) not in own]
        return f"{len(shapes)} of shape {listed(shapes)}" if shapes else ""


def _may_grow(module: nn.Module) -> bool:
    """Return whether something may be put into a module that has no other inside."""
    containers = nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict
    own = not type(module).__module__.startswith("torch.")
    return isinstance(module, containers) or (own and kind_of(module) is None)


def _wraps(attributes: Mapping[str, Any], module: nn.Module) -> bool:
    """Return whether a forward says that it wraps that of its class, as mixed precision's does."""
    inner = inspect.unwrap(attributes["forward"])
    return getattr(inner, "__func__", inner) is type(module).forward
