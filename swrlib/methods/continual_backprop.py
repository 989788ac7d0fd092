"""Continual backprop: at every step a few old units of low utility start anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch

from swrlib.checks import check_name, check_whole, make_numbers
from swrlib.methods.base import Method
from swrlib.methods.units import HiddenLayer, hidden_layers, of_units, renew_
from swrlib.population import Members

Utility = Literal["lowest", "lop-jax"]


@dataclass(frozen=True)
class ContinualBackprop(Method):
    """Units of low utility start anew: a share of the mature units of each hidden layer a step.

    Dohare et al., *Loss of Plasticity in Deep Continual Learning* (2024), Algorithm 1. A unit's
    utility is the running mean of mean|feature| · mean|outgoing weights|, corrected for its short
    start. Weights into a unit that is replaced, and its bias, are drawn anew, those out of it
    become zero, the optimizer's moments of all these too. For chains of linear and convolution
    layers.

    Parameters
    ----------
    rate : float
        ρ: of a layer's mature units so many are replaced a step, on average; below 1.
    decay : float
        η of the running mean, from 0 to below 1.
    maturity : int
        After how many steps a unit may be replaced.
    variant : {"lowest", "lop-jax"}
        "lop-jax" does as the release of *Spectral Collapse* does: it replaces the units of
        *highest* utility, which is abs(sum over steps of the mean feature) · mean|outgoing
        weights|, and draws the weights out of them anew, too.
    """

    rate: float = 1e-4
    decay: float = 0.99
    maturity: int = 100
    variant: Utility = "lowest"
    name: ClassVar[str] = "continual-backprop"

    def __post_init__(self) -> None:
        make_numbers(self, "rate", "decay", below=1.0)
        check_whole(f"maturity of {self.name}", self.maturity, 0)
        check_name(f"variant of {self.name}", self.variant, get_args(Utility))

    def start(self, members: Members) -> None:
        """Begin with units of no age."""
        layers = members.fixed["hidden"] = hidden_layers(members, self.name)
        for number, layer in enumerate(layers):
            weight = members.parameters[layer.into[False]]
            zeros = torch.zeros(weight.shape[:3], dtype=torch.float64, device=weight.device)
            for kept in ("activity", "age"):
                members.memory[f"{kept} {number}"] = zeros.clone()
            members.memory[f"due {number}"] = zeros[..., 0].clone()
        members.memory["steps"] = torch.zeros_like(zeros[..., 0])

    def looks_at(self, members: Members) -> tuple[str, ...]:
        """Return the steps that give the features."""
        return tuple(layer.step for layer in members.fixed["hidden"])

    def acts_every(self) -> int:
        """Return 1: units may be replaced after every step."""
        return 1

    def regularly_(self, members: Members) -> None:
        """Take note of this step's features, and replace what is due."""
        members.memory["steps"].add_(1)
        drawn = None
        for number, layer in enumerate(members.fixed["hidden"]):
            marked = self._due_(members, number, layer)
            if not bool(marked.any()):
                continue
            if drawn is None:
                drawn = members.fresh(f"{self.name} {int(members.memory['steps'][0, 0])}")
            out = drawn[layer.out_of] if self.variant == "lop-jax" else None
            renew_(members, layer, marked, drawn, out)
            for kept in ("activity", "age"):
                members.memory[f"{kept} {number}"].masked_fill_(marked, 0)

    def _due_(self, members: Members, number: int, layer: HiddenLayer) -> torch.Tensor:
        """Return which units are to be replaced now, [seeds, runs, units]."""
        activity, age = (members.memory[f"{kept} {number}"] for kept in ("activity", "age"))
        due, units = members.memory[f"due {number}"], activity.shape[2]
        features = of_units(members.features[layer.step].double(), units)
        outgoing = members.parameters[layer.out_of].double()
        of_unit = outgoing.flatten(4) if outgoing.dim() > 4 else outgoing.unsqueeze(4)
        size = of_unit.abs().mean((2, 4)).unflatten(-1, (units, -1)).mean(-1)
        age.add_(1)
        if self.variant == "lop-jax":
            activity.add_(features.mean((2, 4)))
            utility = -(activity.abs() * size)
        else:
            activity.lerp_(features.abs().mean((2, 4)) * size, 1 - self.decay)
            utility = activity / (1 - self.decay**age)
        mature = age > self.maturity
        due.add_(self.rate * mature.sum(-1))
        count = due.floor()
        due.sub_(count)
        order = utility.masked_fill(~mature, torch.inf).sort(dim=-1, stable=True).indices
        places = order.argsort(-1)
        return (places < count.unsqueeze(-1)) & mature
