"""When and what of a model is rescaled: what stands behind `swrlib.SoftWeightRescaling`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from swrlib import rescaling
from swrlib.network.layers import Network
from swrlib.rescaling import Variant
from swrlib.swr.attachment import Attachments
from swrlib.swr.cautions import Cautions, biases_left
from swrlib.swr.choice import Selection, Strengths
from swrlib.swr.plan import Plan, free_tensors
from swrlib.swr.steps import Change, claim
from swrlib.swr.structure import Structure
from swrlib.swr.summary import aligned, norms
from swrlib.swr.targets import Targets


class Rescaler:
    """Rescales the weights of a model as they are at each step, and owns them meanwhile.

    Parameters
    ----------
    network : Network
        The traced model.
    structure : Structure
        Its modules.
    selection : Selection
        What of it is rescaled.
    strengths : Strengths
        How strongly.
    variant : {"proportional", "printed"}
    running_statistics : bool

    Attributes
    ----------
    targets : Targets
        The norms to return to.
    """

    def __init__(
        self,
        network: Network,
        structure: Structure,
        selection: Selection,
        strengths: Strengths,
        variant: Variant,
        running_statistics: bool,
    ) -> None:
        self.network, self.structure, self.selection = network, structure, selection
        self.strengths, self.variant = strengths, variant
        self.running_statistics = running_statistics
        self._members = {row.name: {row.name} for row in selection.rows}
        self._members |= rescaling.membership(network, variant)
        self._scaled = selection.scaled
        self._cautions = Cautions(said=biases_left(self._scaled))
        self._attachments = Attachments(self._cautions)
        self._by_hand = False
        self._plan: Plan | None = None
        self.retarget()

    def __getstate__(self) -> dict[str, Any]:
        # The plan is made anew by a copy: its views would not survive pickling.
        return {**self.__dict__, "_plan": None}

    def retarget(self) -> None:
        """Take the present norms as those to return to."""
        self.targets = Targets(self._scaled)
        self.begin_anew()

    def begin_anew(self) -> None:
        """Let the next step lay out a plan, and act in any case."""
        self._stale, self._change = True, Change()

    def attach(self, optimizer: Any) -> RemovableHandle:
        """Rescale after each step of an optimizer."""
        self.structure.refuse_changes()
        claim(free_tensors(self._scaled), self)
        handle = self._attachments.add(optimizer, self._weights(), self.step, self.structure)
        self._by_hand = False
        return handle

    def _weights(self) -> dict[str, Tensor]:
        return {row.name: row.weight for row in self._scaled if row.weight is not None}

    def owns(self) -> str:
        """Say how to end the rescaling of these weights; empty where nothing rescales them."""
        if self._attachments.live():
            return "call remove() of the handle that its attach() returned, or make a new optimizer"
        return "delete it with del, where its step() is no longer called" * self._by_hand

    def step_by_hand(self) -> None:
        """Rescale, unless steps are seen and none was taken."""
        if self._attachments.live():
            raise ValueError(
                "SWR is attached to an optimizer, after whose steps it rescales: leave out step(), "
                "or remove the handle that attach() returned"
            )
        plan = self._current()
        if not self._by_hand:
            claim(plan.tensors, self)
            self._by_hand = True
        missing = self._change.missing(plan)
        self.step(missing, plan)
        if plan.weights:
            self._change.note(plan, plan.norms_after if missing is None else ())

    def step(self, skipped: Tensor | None, plan: Plan | None = None) -> None:
        """Rescale, where ``skipped`` is zero or not given.

        ``plan``: given where a skipped step counts as none at all.
        """
        idle = plan is not None and skipped is not None
        plan = plan or self._current()
        if plan.weights and (unusual := plan.rescale_(self.strengths, skipped, idle=idle)):
            self._cautions.of_norms(plan.names, unusual, plan.least)

    def _current(self) -> Plan:
        """Return the plan; it is laid out again only when a tensor is another or elsewhere."""
        self.structure.refuse_changes()
        if patched := self.structure.patched():
            self._cautions.say(
                patched,
                "{} was given another forward after the model was traced: where it is another map, "
                "construct SoftWeightRescaling again",
                kind="forward",
            )
        if self._plan is None or self._stale or not self._plan.holds():
            self._plan = self._lay_out()
        return self._plan

    def _lay_out(self) -> Plan:
        """Lay out who is multiplied by whom."""
        self.targets.refuse_other_weights(self._scaled)
        claim(free_tensors(self._scaled), self)
        self._cautions.of_biases(self._scaled)
        if self._attachments.live():
            self._attachments.warn_of_replaced(self._weights())
        plan = Plan(
            self.network,
            self._scaled,
            self._members,
            self.targets.by_layer(),
            self.strengths,
            self.running_statistics,
        )
        self._cautions.of_half_precision(plan.weights)
        self._cautions.of_norms(plan.names, plan.initial, plan.least)
        self._stale = False
        return plan

    def factors(self) -> Tensor:
        """Return the last factors in the order of all rows, nan where there is none: [rows]."""
        plan, rows = self._plan, self.selection.rows
        if plan is None or plan.factors is None:
            return torch.full_like(norms(rows), math.nan)
        return aligned([row.name for row in rows], plan.names, plan.factors)
