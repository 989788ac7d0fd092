"""How the scale of activations follows from the layers' factors, and where that ends, and why.

One walk over the steps of a network. `rescale_` asks it whether given factors keep the function's
shape, SWR which factors enter which bias, and its summary where proportionality ends.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass

from swrlib.network.graph import Step
from swrlib.network.layers import Layer, Network
from swrlib.network.powers import large


@dataclass(frozen=True)
class Scale:
    """By what an activation is multiplied.

    Attributes
    ----------
    powers : mapping of str to float
        The layers whose factors are multiplied, each to which power.
    since : int
        The last step that a factor entered at, or where the product started anew.
    bent : str
        The operation that made a power other than 1.
    """

    powers: Mapping[str, float]
    since: int = -1
    bent: str = ""

    def value(self, factors: Mapping[str, float]) -> float:
        """Return the product of the factors, each to its power."""
        try:
            return math.prod(factors[name] ** power for name, power in self.powers.items())
        except OverflowError:
            return math.inf

    @property
    def linear(self) -> bool:
        """Whether each factor enters once."""
        return all(power == 1 for power in self.powers.values())


#: Of a scale that is followed behind a fault: a variance has 2, its square 4.
_LARGEST_POWER = 8.0


class Course:
    """The scales in a network, followed from its input to its outputs.

    Where branches of different scale meet, the scale of the one is kept that a factor entered last,
    as Algorithm 1's running product does.

    Parameters
    ----------
    network : Network
    factors : mapping of str to float, optional
        By layer; without them, any factors: then scales agree only where the same factors enter.
    frozen : container of str
        Layers whose factor is 1 then.
    also : callable, optional
        Further faults of a layer, from it and the scale of its input; empty where there is none.

    Attributes
    ----------
    scales, enters : dict of str to Scale
        By the names of steps; of layers' inputs.
    faults : dict of str to str
        The reason for every step that is not C times what it was.
    outputs : Scale
        C, of what is returned.
    fault : str
        The first that matters; empty where there is none.
    """

    def __init__(
        self,
        network: Network,
        factors: Mapping[str, float] | None = None,
        *,
        frozen: Container[str] = (),
        also: Callable[[Layer, Scale], str] = lambda layer, enters: "",
    ) -> None:
        self._network, self._fixed = network, factors is not None
        draw = random.Random(0)  # numbers of which no two products agree
        self._factors: Mapping[str, float] = factors or {
            la.name: 1.0 if la.name in frozen else math.exp(draw.uniform(-1, 1))
            for la in network.layers
        }
        self.scales: dict[str, Scale] = {}
        self.enters: dict[str, Scale] = {}
        self.faults: dict[str, str] = {}
        layers = {layer.name: layer for layer in network.layers}
        for position, step in enumerate(network.steps):
            reason = next((self.faults[i] for i in step.inputs if i in self.faults), "")
            if step.kind == "layer":
                scale, fault = self._through_layer(position, step, layers[step.name])
                fault = fault or also(layers[step.name], self.enters[step.name])
            else:
                scale, fault = self._through_operation(position, step)
            self.scales[step.name] = scale
            if reason or fault:
                self.faults[step.name] = reason or fault
        self.outputs, fault = self._meet(network.outputs, "the output")
        matter = {*layers, *network.outputs} & {*self.faults}
        first = (self.faults[step.name] for step in network.steps if step.name in matter)
        self.fault = next(first, fault)

    def _agree(self, scale: Scale, value: float) -> bool:
        return math.isclose(scale.value(self._factors), value, rel_tol=1e-9)

    def _meet(self, inputs: Sequence[str], where: str) -> tuple[Scale, str]:
        """Return the scale that branches have in common, or why they have none."""
        if not inputs:
            return Scale({}), ""
        scales = [self.scales[name] for name in inputs]
        latest = max(scales, key=lambda scale: scale.since)
        values = [scale.value(self._factors) for scale in scales]
        if all(self._agree(scale, values[0]) for scale in scales):
            return latest, ""
        if not self._fixed:
            return latest, f"{where.removeprefix('operation ')} adds branches of different scale"
        listed = ", ".join(f"{i}: {v:.6g}" for i, v in zip(inputs, values, strict=True))
        return latest, (
            f"the branches that meet at {where} have different scales ({listed}): choose factors "
            "whose products along both branches agree"
        )

    def _bent(self, label: str, scale: Scale, known: bool = True) -> str:
        is_not = f"is not {'' if known else 'known to be '}positively homogeneous"
        if not self._fixed:
            return f"{label} {is_not}"
        return (
            f"operation {label} {is_not} and its input is scaled by "
            f"{scale.value(self._factors):.6g}: the factors before it must multiply to 1"
        )

    def _through_layer(self, position: int, step: Step, layer: Layer) -> tuple[Scale, str]:
        """Return the scale behind a layer, and why its output is not scaled by it alone."""
        enters, fault = self._meet(step.inputs, f"layer {step.name!r}")
        self.enters[step.name] = enters
        powers = {} if layer.kind == "normalization" else dict(enters.powers)
        if self._network.effects.get(layer.name) != "nothing":
            powers[layer.name] = 1.0
        scale = Scale(powers, position, enters.bent)
        alone = self._agree(enters, 1.0)
        if not (fault or enters.linear or all(self._factors[n] == 1 for n in enters.powers)):
            fault = self._bent(enters.bent, enters)
        eps = getattr(layer.module, "eps", None)
        if not (fault or alone) and large(eps):
            fault = (
                f"the eps of {step.name!r} ({eps:g}) is too large for a normalization that does "
                "not see the scale of its input"
            )
        if not fault and not (alone and self._factors[layer.name] == 1):
            fault = self._network.fault(layer)
            if fault and self._fixed:
                fault = f"a scaled layer would do more than scale its output: {fault}"
        return scale, fault

    def _through_operation(self, position: int, step: Step) -> tuple[Scale, str]:
        """Return the scale behind an operation, and why its output is not scaled by it alone."""
        if step.kind == "homogeneous":
            return self.scales[step.inputs[0]], ""
        if step.kind == "power":
            return self._power(position, step)
        powers = dict(zip(step.inputs, step.powers, strict=False))
        branches = [name for name in step.inputs if powers.get(name)] or step.inputs
        scale, fault = self._meet(branches, f"operation {step.label}")
        if step.kind == "sum" and not any(powers.values()):  # compared: true or false
            return Scale({}, position), fault
        if step.kind == "other":
            alone = all(self._agree(self.scales[name], 1.0) for name in step.inputs)
            fault = "" if alone else self._bent(step.label, scale, step.does is not None)
        return scale, fault

    def _power(self, position: int, step: Step) -> tuple[Scale, str]:
        powers: dict[str, float] = {}
        reaching = [self.scales[name] for name in step.inputs]
        for scale, exponent in zip(reaching, step.powers, strict=True):
            for name, power in scale.powers.items():
                powers[name] = powers.get(name, 0.0) + exponent * power
        powers = {name: power for name, power in powers.items() if power}
        # Behind a fault nothing is a multiple of anything, and gates upon gates would grow.
        if any(name in self.faults for name in step.inputs) and any(
            abs(power) > _LARGEST_POWER for power in powers.values()
        ):
            return max(reaching, key=lambda scale: scale.since), ""
        since = max((scale.since for scale in reaching), default=-1)
        result = Scale(powers, since if powers else position, step.label)
        scaled = not all(self._agree(scale, 1.0) for scale in reaching)
        lags = f"{step.label} has running statistics, which lag in evaluation mode"
        return result, lags if step.lags and scaled else ""
