"""Which steps really happened, and who rescales after them."""

from __future__ import annotations

import gc
import operator
import weakref
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakTensorKeyDictionary

from swrlib.checks import warn
from swrlib.rescaling import multi_tensor_norms
from swrlib.swr.plan import Plan

#: Steps without a rescaling after which a warning is due.
PATIENCE = 10


class Owner(Protocol):
    """What rescales weights."""

    def owns(self) -> str:
        """Say how to end that, empty where it has ended."""


#: Who acts on a weight, by what it does. A weight or an owner that is gone is forgotten.
_OWNERS: Any = defaultdict(WeakTensorKeyDictionary)


def claim(tensors: Iterable[Tensor], owner: Owner, method: str = "") -> None:
    """Make somebody the one who rescales these tensors, or applies a method to them.

    Raises
    ------
    ValueError
        If somebody else does; nothing is changed then.
    """
    tensors, owners = list(tensors), _OWNERS[method]
    others = _others(tensors, owner, owners)
    if others:
        del others
        gc.collect()  # an optimizer with a scheduler lives on in a circle until then
        others = _others(tensors, owner, owners)
    if others:
        twice = f"{method} would act on them twice" if method else "a step would rescale them twice"
        remedy = (
            ""
            if method
            else "; or exclude= them from one SoftWeightRescaling, where two models share them"
        )
        raise ValueError(
            f"another object {f'applies {method} to' if method else 'rescales'} the same weights "
            f"already, so that {twice} (was a notebook's cell run again?): "
            f"{others[0].owns()}{remedy}"
        )
    for tensor in tensors:
        owners[tensor] = weakref.ref(owner)


def _others(tensors: Iterable[Tensor], owner: Owner, owners: Any) -> list[Owner]:
    present = (owners[tensor]() for tensor in tensors if tensor in owners)
    return [one for one in present if one is not None and one is not owner and one.owns()]


class _Last:
    """Which optimizer took the last step, which ever did, and how many steps were taken by any."""

    count = 0
    optimizer: weakref.ref[torch.optim.Optimizer] | None = None
    all: ClassVar[weakref.WeakSet[torch.optim.Optimizer]] = weakref.WeakSet()


def _count(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    _Last.count += 1
    _Last.optimizer = weakref.ref(optimizer)
    _Last.all.add(optimizer)


# Fused optimizers leave no trace in the versions of what they change.
register_optimizer_step_post_hook(_count)

_version = operator.attrgetter("_version")


def parameters_of(optimizer: Any) -> list[Tensor]:
    """Return what an optimizer changes."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def _warn_of_copies(tensors: Iterable[Tensor]) -> None:
    """Warn where optimizers take steps and none holds any of the tensors that are rescaled."""
    held = {id(p) for optimizer in _Last.all for p in parameters_of(optimizer)}
    if held and not any(id(tensor) in held for tensor in tensors):
        warn(
            "no optimizer that takes steps holds any of the weights that SWR rescales: where it "
            "trains copies of them (for torch.func.functional_call, in another precision, or of a "
            "copied model), these are not rescaled; let the optimizer train the parameters of the "
            "model that SoftWeightRescaling was made from"
        )


class Change:
    """Whether weights were changed since they were looked at last.

    Versions of tensors and the steps of optimizers show that it happened. That they did not move
    says something only where they have moved before, and not even then that nothing happened:
    ``weight.data -= …`` and a replayed CUDA graph leave no trace. The norms do, and they are
    compared on the device, without waiting for it.
    """

    def __init__(self) -> None:
        self._versions: tuple[int, ...] | None = None
        self._count = 0
        self._norms: tuple[Tensor, ...] = ()
        self._moves = False
        self._looks, self._begun = 0, 0

    def note(self, plan: Plan, norms: tuple[Tensor, ...] = ()) -> None:
        """Take note of the tensors as they are now.

        ``norms``: factors of the weights' norms, where they are known but for rounding.
        """
        self._count = _Last.count
        self._looks += 1
        if self._looks == 1:
            self._begun = self._count
        elif self._looks == PATIENCE and self._count - self._begun >= PATIENCE - 1:
            _warn_of_copies(plan.tensors)
        try:
            self._versions = tuple(map(_version, plan.tensors))
        except RuntimeError:  # made in inference mode: there is none
            self._versions = None
        self._norms = norms or (multi_tensor_norms(plan.weights),)

    def missing(self, plan: Plan) -> Tensor | None:
        """Return None where the tensors were changed, else a tensor that is true if not."""
        if self._versions is None:
            return None
        versions = tuple(map(_version, plan.tensors))
        moved = self._count != _Last.count or self._versions != versions
        self._moves = self._moves or moved
        if moved or not self._moves:
            return None
        now, before = multi_tensor_norms(plan.weights), self._norms[0]
        if before.device != now.device or before.shape != now.shape:
            return None
        tolerance = 0.0
        for factor in self._norms[1:]:
            before = before * factor
            tolerance = 1e-2 if plan.weights[0].element_size() < 4 else 4e-6
        return ((now - before).abs() <= tolerance * before).all()


class Watch:
    """Warns once where steps change a weight and no rescaling follows.

    Parameters
    ----------
    weight : torch.Tensor
        Looked at after each backward pass.
    handle : RemovableHandle
        Of the hook that rescales; without it there is nothing to watch.
    """

    def __init__(self, weight: Tensor, handle: RemovableHandle) -> None:
        self._handle, self._missed = handle, 0
        self._within = self._done = False
        self._own: RemovableHandle | None = None
        if weight.requires_grad and weight.is_leaf and not weight.is_inference():
            self._version, self._count = weight._version, _Last.count
            self._own = weight.register_post_accumulate_grad_hook(self._look)

    def begin(self, *arguments: Any) -> None:
        """Take note that the watched optimizer's step begins; it may evaluate a loss many times."""
        self._within = True

    def end(self) -> None:
        """Take note that its step was followed by a rescaling."""
        self._within, self._done = False, True

    def _look(self, weight: Tensor) -> None:
        if self._done or self._within:
            self._missed, self._done = 0, False
        elif weight._version != self._version or self._stepped(weight):
            self._missed += 1
        self._version, self._count = weight._version, _Last.count
        removed = self._handle.id not in (self._handle.hooks_dict_ref() or ())
        if self._own is not None and (removed or self._missed >= PATIENCE):
            self._own.remove()
        if not removed and self._missed >= PATIENCE:
            warn(
                f"the weights were changed before each of {PATIENCE} backward passes without a "
                "rescaling: where these changes are steps, the attached optimizer is not the one "
                "that takes them, or its steps run no hooks; attach the one that does, or call "
                "rescaling.step() after each step"
            )

    def _stepped(self, weight: Tensor) -> bool:
        """Say whether an optimizer took a step that has left no trace in the weight."""
        if self._count == _Last.count or _Last.optimizer is None:
            return False
        optimizer = _Last.optimizer()
        return optimizer is not None and any(p is weight for p in parameters_of(optimizer))
