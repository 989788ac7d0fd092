"""From an example input to the arguments of a forward pass."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn


def call_arguments(model: nn.Module, example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and keyword arguments that an example gives.

    A tuple holds positional arguments, a mapping whose keys are parameters of the forward pass
    keyword arguments, as does such a mapping at the end of a tuple; anything else is the one
    argument. Where that does not fit the forward pass, the example as it is is its one argument.
    """
    signature = inspect.signature(model.forward)

    def fits(args: tuple[Any, ...], keywords: Mapping[str, Any]) -> bool:
        try:
            signature.bind(*args, **keywords)
        except TypeError:
            return False
        return True

    args = example if isinstance(example, tuple) else (example,)
    keywords: Any = args[-1] if args and isinstance(args[-1], Mapping) else {0: None}
    if all(isinstance(key, str) for key in keywords) and fits(args[:-1], keywords):
        return args[:-1], dict(keywords)
    return (args, {}) if fits(args, {}) else ((example,), {})
