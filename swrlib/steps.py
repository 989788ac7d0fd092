"""Which steps really happened, and who rescales after them."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.weak import WeakTensorKeyDictionary

from swrlib.plan import Present
from swrlib.rescaling import multi_tensor_norms


class Owner(Protocol):
    """What rescales weights."""

    def owns(self) -> str:
        """Say how to end that, empty where it has ended."""


#: Who rescales a weight. A weight or an owner that is gone is forgotten.
_OWNERS: Any = WeakTensorKeyDictionary()


def claim(tensors: Iterable[Tensor], owner: Owner) -> None:
    """Make somebody the one who rescales these tensors.

    Raises
    ------
    ValueError
        If somebody else does; nothing is changed then.
    """
    tensors = list(tensors)
    others = _others(tensors, owner)
    if others:
        del others
        gc.collect()  # an optimizer with a scheduler lives on in a circle until then
        others = _others(tensors, owner)
    if others:
        raise ValueError(
            "the same weights are rescaled by another object already, so that a step would "
            f"rescale them twice (was a notebook's cell run again?): {others[0].owns()}"
        )
    for tensor in tensors:
        _OWNERS[tensor] = weakref.ref(owner)


def _others(tensors: Iterable[Tensor], owner: Owner) -> list[Owner]:
    found = (_OWNERS[tensor]() for tensor in tensors if tensor in _OWNERS)
    return [one for one in found if one is not None and one is not owner and one.owns()]


#: By optimizer: the parameters it holds, by their ids, and how many steps it has taken.
_TAKEN: weakref.WeakKeyDictionary[torch.optim.Optimizer, tuple[frozenset[int], list[int]]] = (
    weakref.WeakKeyDictionary()
)


def parameters_of(optimizer: Any) -> list[Tensor]:
    """Return what an optimizer changes."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def _count(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    found = _TAKEN.get(optimizer)
    if found is None:
        found = _TAKEN[optimizer] = frozenset(map(id, parameters_of(optimizer))), [0]
    found[1][0] += 1


# Fused optimizers leave no trace in the versions of what they change.
register_optimizer_step_post_hook(_count)


def trace_of(tensors: Sequence[Tensor]) -> tuple[object, ...] | None:
    """Return what is another after an optimizer's step, None where that cannot be told."""
    try:
        versions = [(id(tensor), tensor._version) for tensor in tensors]
    except RuntimeError:  # made in inference mode
        return None
    ids = {id(tensor) for tensor in tensors}
    taken = [count[0] for held, count in list(_TAKEN.values()) if not held.isdisjoint(ids)]
    return (*versions, *taken)


class Change:
    """Whether weights were changed since they were looked at last.

    Versions of tensors and the steps of optimizers tell that it happened, but not that it did not:
    ``weight.data -= …`` and a replayed CUDA graph leave no trace. Then the norms tell, on the
    device, without waiting for it.
    """

    def __init__(self) -> None:
        self._trace: tuple[object, ...] | None = None
        self._norms: tuple[Tensor, ...] = ()
        self._tolerance = 0.0

    def note(self, present: Present, *norms: Tensor) -> None:
        """Take note of the tensors as they are now.

        ``norms``: factors of the weights' norms, where they are known but for rounding.
        """
        self._trace = trace_of(present.tensors)
        self._norms = norms or (multi_tensor_norms(present.weights),)
        half = present.weights[0].element_size() < 4
        self._tolerance = 0.0 if not norms else 1e-2 if half else 4e-6

    def missing(self, present: Present) -> Tensor | None:
        """Return None where the tensors were changed, else a tensor that is true if not."""
        if self._trace is None or trace_of(present.tensors) != self._trace:
            return None
        now, before = multi_tensor_norms(present.weights), self._norms[0]
        if before.device != now.device:
            return None
        for factor in self._norms[1:]:
            before = before * factor
        return ((now - before).abs() <= self._tolerance * before).all()
