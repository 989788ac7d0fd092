"""Rescaling after each step that an optimizer takes."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from swrlib.cautions import warn


class Attachments:
    """The optimizers whose steps are followed by a rescaling."""

    def __init__(self) -> None:
        self._held: list[tuple[weakref.ref[torch.optim.Optimizer], RemovableHandle]] = []

    def add(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: Iterable[Tensor],
        rescale: Callable[[Tensor | None], None],
    ) -> RemovableHandle:
        """Call ``rescale`` after every step of an optimizer that holds some of the parameters."""
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if held.isdisjoint(map(id, parameters)):
            raise ValueError(
                "the optimizer holds none of the model's weights: build it from the same model"
            )
        self._held = [
            (other, handle)
            for other, handle in self._held
            if other() is not None and handle.id in (handle.hooks_dict_ref() or ())
        ]
        if any(other() is optimizer for other, _ in self._held):
            raise ValueError("the optimizer is attached already: its steps would rescale twice")
        if self._held:
            warn(
                "another optimizer is attached, too: a step of either rescales the whole model "
                "(attach the one that steps last, or remove the other's handle)"
            )

        @torch.no_grad()
        def after_step(taken: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
            # A fused optimizer fires its hooks also where GradScaler makes it skip the step.
            rescale(getattr(taken, "found_inf", None))

        handle = optimizer.register_step_post_hook(after_step)
        self._held.append((weakref.ref(optimizer), handle))
        return handle

    def __getstate__(self) -> dict[str, Any]:
        return {"_held": []}  # hooks stay with the optimizer that they were given to
