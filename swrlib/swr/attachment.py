"""Rescaling after each step that an optimizer takes."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from swrlib.checks import listed, warn
from swrlib.swr.cautions import Cautions
from swrlib.swr.steps import Watch, parameters_of
from swrlib.swr.structure import Structure

#: Steps within which an optimizer has shown all that it keeps.
ENOUGH = 50


def find_optimizer(optimizer: Any) -> Optimizer:
    """Return the optimizer that takes the steps: the one inside, where a wrapper is given.

    Raises
    ------
    TypeError
        If it is none; the sentence says what to attach instead.
    ValueError
        If it has several inside, or its steps run no hooks.
    """
    kind = type(optimizer).__name__
    if isinstance(optimizer, list | tuple | set | Mapping):
        raise TypeError(f"a {kind} is no optimizer: attach the one in it that steps last")
    if isinstance(optimizer, type):
        raise TypeError(f"{optimizer.__name__} is a class: attach the optimizer that it makes")
    inside = [
        (name, value)
        for name, value in getattr(optimizer, "__dict__", {}).items()
        if isinstance(value, Optimizer) and value is not optimizer
    ]
    steps = hasattr(optimizer, "step") and hasattr(optimizer, "zero_grad")
    if not isinstance(optimizer, Optimizer) and not steps:
        instead = f"attach its {inside[0][0]}" if inside else "attach what steps the weights"
        raise TypeError(f"a {kind} is no optimizer: {instead}")
    hooked = getattr(getattr(type(optimizer), "step", None), "hooked", False)
    hooked = hooked and hasattr(optimizer, "_optimizer_step_post_hooks")
    if inside and (not hooked or _other_steps(optimizer)):
        if len(inside) > 1:
            names = listed([name for name, _ in inside])
            raise ValueError(f"{kind} has several optimizers ({names}): attach one of them")
        return find_optimizer(inside[0][1])
    if not hooked:
        raise ValueError(
            f"the steps of {kind} run no hooks (torch.optim.Optimizer's __init__ lays them): call "
            "rescaling.step() after each of them instead"
        )
    return optimizer


class Attachments:
    """The optimizers whose steps are followed by a rescaling.

    Parameters
    ----------
    cautions : Cautions
    """

    def __init__(self, cautions: Cautions) -> None:
        self._cautions = cautions
        self._held: list[tuple[weakref.ref[Optimizer], RemovableHandle]] = []
        self._stepped: set[str] = set()

    def live(self) -> list[Optimizer]:
        """Return those that are there and whose handles were not removed."""
        if not self._held:
            return []
        self._held = [
            (other, handle)
            for other, handle in self._held
            if other() is not None and handle.id in (handle.hooks_dict_ref() or ())
        ]
        return [optimizer for other, _ in self._held if (optimizer := other()) is not None]

    def add(
        self,
        attached: Any,
        weights: Mapping[str, Tensor],
        rescale: Callable[[Tensor | None], None],
        structure: Structure,
    ) -> RemovableHandle:
        """Call ``rescale`` after every step of an optimizer that holds some of these weights."""
        optimizer = find_optimizer(attached)
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
        if optimizer is attached:
            _warn_of_other_steps(optimizer)
        wrapped = (optimizer,) if attached is optimizer else (optimizer, attached)
        keepers = [_OwnWeights(one, ours, self._cautions) for one in wrapped]
        nested = sum("step" in vars(kind) for kind in type(optimizer).__mro__) > 2

        def after_step(taken: Optimizer, args: Any, kwargs: Any) -> None:
            if nested and _within_another_step(taken):
                return
            _refuse_within_backward()
            for keeper in keepers:
                keeper.look()
            with torch.no_grad():
                # A fused optimizer fires its hooks also where GradScaler makes it skip the step.
                rescale(getattr(taken, "found_inf", None))
            watch.end()
            for keeper in keepers:
                keeper.remember()
            if keepers and keepers[0].looks > ENOUGH:
                keepers.clear()

        handle = optimizer.register_step_post_hook(_outside_of_graphs(after_step))
        watch = Watch(ours[0], handle)
        optimizer.register_step_pre_hook(watch.begin)
        self._held.append((weakref.ref(optimizer), handle))
        stepped = {name for name, weight in weights.items() if id(weight) in held}
        self._stepped = self._stepped | stepped if live else stepped
        return handle

    def warn_of_replaced(self, weights: Mapping[str, Tensor]) -> None:
        """Warn of weights that were an optimizer's when it was attached and are no longer."""
        held = {id(p) for optimizer in self.live() for p in parameters_of(optimizer)}
        self._cautions.say(
            [name for name in weights if name in self._stepped and id(weights[name]) not in held],
            "the weight of {} is a new Parameter, which the attached optimizer does not hold and "
            "does not train (load_state_dict(assign=True) makes such ones): make a new optimizer, "
            "and attach that",
            kind="replaced",
        )

    def __getstate__(self) -> dict[str, Any]:
        # Hooks stay with the optimizer that they were given to.
        return self.__dict__ | {"_held": [], "_stepped": set()}


def _outside_of_graphs(hook: Callable[..., None]) -> Callable[..., None]:
    """Return a hook at which a compiled step leaves its graph."""
    aside = torch.compiler.disable(hook)

    def called(*arguments: Any) -> None:
        (aside if torch.compiler.is_compiling() else hook)(*arguments)

    return called


def _warn_of_other_steps(optimizer: Optimizer) -> None:
    if others := _other_steps(optimizer):
        warn(
            f"rescalings follow {type(optimizer).__name__}.step() alone: where the training calls "
            f"{listed(others)} instead, call rescaling.step() after the last of them"
        )


def _refuse_within_backward() -> None:
    if torch._C._current_graph_task_id() != -1:
        raise ValueError(
            "the optimizer steps within the backward pass, which still needs the other weights as "
            "they are: do not attach it, and call rescaling.step() after backward()"
        )


def _within_another_step(optimizer: Optimizer) -> bool:
    """Say whether a step was called by a step of the same optimizer, whose own hooks will follow.

    A class whose ``step`` calls ``super().step()`` runs its hooks twice.
    """
    code = type(optimizer).step.__code__  # torch's wrapper, which runs the hooks
    frame, steps = sys._getframe(1), 0
    for _ in range(14):
        if frame.f_code is code and frame.f_locals.get("self") is optimizer:
            steps += 1
        if frame.f_back is None:
            break
        frame = frame.f_back
    return steps > 1


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
    """Checks whether an optimizer keeps weights of its own, which are not rescaled along.

    They are near the weights from the first step on, but not what the last rescaling made of them,
    as a copy would be that is taken anew before each step.
    """

    def __init__(self, optimizer: Any, weights: list[Tensor], cautions: Cautions) -> None:
        self._optimizer = weakref.ref(optimizer)
        self._weights = [weight for weight in weights if weight.dim() > 1 or len(weights) == 1]
        self._cautions, self._known, self.looks = cautions, 0, 0
        self._suspects: list[str] = []
        self._rescaled: Tensor | None = None

    def look(self) -> None:
        """Look where there is something new in the state; called before a rescaling."""
        state = getattr(self._optimizer(), "state", {})
        self.looks += 1
        if not self._weights or not (kept := state.get(self._weights[0])):
            return
        if self._suspects and self._rescaled is not None:
            old = self._rescaled.flatten()
            own = [n for n in self._suspects if not torch.equal(kept[n].flatten().to(old), old)]
            self._suspects, self._rescaled = [], None
            self._cautions.say(
                own,
                f"{type(self._optimizer()).__name__} keeps weights of its own (its state {{}}), "
                "which SWR does not rescale: what it computes from them, to evaluate or to go on "
                "from, is not rescaled either; use another optimizer, or the weights after a step",
            )
        if len(kept) != self._known:
            self._known = len(kept)
            self._suspects = [
                name
                for name in kept
                if all(_resemble(state.get(w, {}).get(name), w.detach()) for w in self._weights)
            ]

    def remember(self) -> None:
        """Remember what a rescaling has made of a weight, where that is of use."""
        if self._suspects:
            self._rescaled = self._weights[0].detach().clone()


def _resemble(kept: Any, weight: Tensor) -> bool:
    """Say whether a tensor is nearly a weight, in other precision or shape perhaps."""
    if not isinstance(kept, Tensor) or kept.numel() != weight.numel() or weight.numel() < 4:
        return False
    if kept.data_ptr() == weight.data_ptr():  # the weight itself
        return False
    kept, weight = kept.detach().flatten().float(), weight.flatten().float()
    return bool((kept - weight).norm() < 0.5 * weight.norm())
