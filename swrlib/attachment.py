"""Rescaling after each step that an optimizer takes."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from swrlib.cautions import Cautions, listed, warn
from swrlib.steps import parameters_of, trace_of
from swrlib.structure import Structure

#: Steps without a rescaling after which a warning is due.
PATIENCE = 10


def find_optimizer(given: Any) -> Optimizer:
    """Return the optimizer that takes the steps: the one inside, where a wrapper was given.

    Raises
    ------
    TypeError
        If it is none; the sentence says what to attach instead.
    ValueError
        If it has several inside, or its steps run no hooks.
    """
    kind = type(given).__name__
    if isinstance(given, list | tuple | set | Mapping):
        raise TypeError(f"a {kind} is no optimizer: attach the one in it that steps last")
    inside = [
        (name, value)
        for name, value in getattr(given, "__dict__", {}).items()
        if isinstance(value, Optimizer) and value is not given
    ]
    if not isinstance(given, Optimizer) and not hasattr(given, "zero_grad"):
        instead = f"attach its {inside[0][0]}" if inside else "attach what steps the weights"
        raise TypeError(f"a {kind} is no optimizer: {instead}")
    hooked = getattr(getattr(type(given), "step", None), "hooked", False)
    hooked = hooked and hasattr(given, "_optimizer_step_post_hooks")
    if inside and (not hooked or _other_steps(given)):
        if len(inside) > 1:
            names = listed([name for name, _ in inside])
            raise ValueError(f"{kind} has several optimizers ({names}): attach one of them")
        return find_optimizer(inside[0][1])
    if not hooked:
        raise ValueError(
            f"the steps of {kind} run no hooks (torch.optim.Optimizer's __init__ lays them): call "
            "rescaling.step() after each of them instead"
        )
    return given


class Attachments:
    """The optimizers whose steps are followed by a rescaling.

    Parameters
    ----------
    cautions : Cautions
    """

    def __init__(self, cautions: Cautions) -> None:
        self._cautions = cautions
        self._held: list[tuple[weakref.ref[Optimizer], RemovableHandle]] = []

    def live(self) -> list[Optimizer]:
        """Return those that are there and whose handles were not removed."""
        self._held = [
            (other, handle)
            for other, handle in self._held
            if other() is not None and handle.id in (handle.hooks_dict_ref() or ())
        ]
        return [optimizer for other, _ in self._held if (optimizer := other()) is not None]

    def add(
        self,
        given: Any,
        weights: Mapping[str, Tensor],
        rescale: Callable[[Tensor | None], None],
        structure: Structure,
    ) -> RemovableHandle:
        """Call ``rescale`` after every step of an optimizer that holds some of these weights."""
        optimizer = find_optimizer(given)
        parameters = parameters_of(optimizer)
        held = {id(p) for p in parameters}
        ours = [weight for weight in weights.values() if id(weight) in held]
        if not ours:
            raise ValueError(
                "the optimizer holds none of the model's weights: build it from the same model, "
                "not from copies of its weights (in another precision, say)"
            )
        live = self.live()
        if any(other is optimizer for other in live):
            raise ValueError("the optimizer is attached already: its steps would rescale twice")
        if live:
            warn(
                "another optimizer is attached, too: a step of either rescales the whole model "
                "(attach the one that steps last, or remove the other's handle)"
            )
        if strangers := structure.strangers(parameters):
            warn(
                "the optimizer holds parameters that are not in the model that SWR was made from "
                f"({strangers}), and they are left alone: where they are a new head's, say, "
                "construct SoftWeightRescaling again from the whole model"
            )
        _warn_of_decay(optimizer, weights)
        if optimizer is given and (others := _other_steps(given)):
            warn(
                f"rescalings follow {type(given).__name__}.step() alone: where the training calls "
                f"{listed(others)} instead, call rescaling.step() after the last of them"
            )
        watch = _Watch(ours[0])
        wrapped = (optimizer,) if given is optimizer else (optimizer, given)
        keepers = [_OwnWeights(one, ours, self._cautions) for one in wrapped]

        def after_step(taken: Optimizer, args: Any, kwargs: Any) -> None:
            if _within_another_step(taken):
                return
            for keeper in keepers:
                keeper.look()
            # A fused optimizer fires its hooks also where GradScaler makes it skip the step.
            rescale(getattr(taken, "found_inf", None))
            watch.rescaled()

        handle = optimizer.register_step_post_hook(after_step)
        watch.until(handle)
        self._held.append((weakref.ref(optimizer), handle))
        return handle

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_held": []}  # hooks stay with the optimizer they were given to


def _within_another_step(optimizer: Optimizer) -> bool:
    """Say whether a step was called by a step of the same optimizer, whose own hooks will follow.

    A class whose ``step`` calls ``super().step()`` runs its hooks twice.
    """
    wrapper = sys._getframe(2)  # torch's, which runs the hooks
    code, frame = wrapper.f_code, wrapper.f_back
    for _ in range(10):
        if frame is None:
            return False
        if frame.f_code is code and frame.f_locals.get("self") is optimizer:
            return True
        frame = frame.f_back
    return False


def _warn_of_decay(optimizer: Optimizer, weights: Mapping[str, Tensor]) -> None:
    decays = {
        id(p): group["weight_decay"]
        for group in optimizer.param_groups
        if group.get("weight_decay")
        for p in group["params"]
    }
    decayed = [name for name, weight in weights.items() if id(weight) in decays]
    if decayed:
        decay = decays[id(weights[decayed[0]])]
        warn(
            f"the optimizer decays the same weights (weight_decay={decay:g}, of "
            f"{listed(decayed)}): it pulls their norms to 0 where SWR pulls them to the initial "
            "ones, so that they settle between; set weight_decay=0 for them, or exclude= them"
        )


def _other_steps(optimizer: Any) -> list[str]:
    """Name the methods beside ``step`` that take one, as sharpness-aware optimizers have them."""
    names = [name for name in dir(type(optimizer)) if name.endswith("_step")]
    return [name for name in names if name[0] != "_" and not hasattr(Optimizer, name)]


class _OwnWeights:
    """Looks whether an optimizer keeps copies of the weights, which are not rescaled along."""

    def __init__(self, optimizer: Any, weights: list[Tensor], cautions: Cautions) -> None:
        self._optimizer = weakref.ref(optimizer)
        self._weights = [weight for weight in weights if weight.dim() > 1 or len(weights) == 1]
        self._cautions, self._known = cautions, 0
        self.look()

    def look(self) -> None:
        """Look where there is something new in the state."""
        state = getattr(self._optimizer(), "state", {})
        if not self._weights or len(kept := state.get(self._weights[0], ())) == self._known:
            return
        self._known = len(kept)
        copies = [
            name
            for name in kept
            if all(_resemble(state.get(w, {}).get(name), w.detach()) for w in self._weights)
        ]
        self._cautions.say(
            copies,
            f"{type(self._optimizer()).__name__} keeps weights of its own (its state {{}}), which "
            "SWR does not rescale: what it computes from them, to evaluate or to go on from, is "
            "not rescaled either; take the weights as they are after a step, or another optimizer",
        )


def _resemble(kept: Any, weight: Tensor) -> bool:
    """Say whether a tensor is nearly a weight, in other precision or shape perhaps."""
    if not isinstance(kept, Tensor) or kept.numel() != weight.numel() or weight.numel() < 4:
        return False
    kept, weight = kept.detach().flatten().float(), weight.flatten().float()
    return bool((kept - weight).norm() < 0.5 * weight.norm())


class _Watch:
    """Warns once where steps change a weight and no rescaling follows."""

    def __init__(self, weight: Tensor) -> None:
        self._seen, self._missed, self._done = trace_of([weight]), 0, False
        self._own: RemovableHandle | None = None
        self._handle: RemovableHandle | None = None
        if weight.requires_grad and weight.is_leaf:
            self._own = weight.register_post_accumulate_grad_hook(self._look)

    def until(self, handle: RemovableHandle) -> None:
        """Look as long as this hook is there."""
        self._handle = handle

    def rescaled(self) -> None:
        """Begin anew."""
        self._done = True

    def _look(self, weight: Tensor) -> None:
        """Look at a weight after a backward pass."""
        assert self._handle is not None and self._own is not None
        now = trace_of([weight])
        if self._done or now == self._seen:
            self._missed *= not self._done
        else:
            self._missed += 1
        self._seen, self._done = now, False
        removed = self._handle.id not in (self._handle.hooks_dict_ref() or ())
        if removed or self._missed >= PATIENCE:
            self._own.remove()
        if not removed and self._missed >= PATIENCE:
            warn(
                f"{PATIENCE} steps have changed the weights without a rescaling: the attached "
                "optimizer is not the one that steps, or its steps run no hooks; attach the one "
                "that does, or call rescaling.step() after each step"
            )
