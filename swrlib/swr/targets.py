"""The norms to return to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from swrlib.network.layers import Layer, refuse_parameters
from swrlib.rescaling import multi_tensor_norms
from swrlib.swr.cautions import weight_of
from swrlib.swr.choice import Included


class Targets:
    """n_l of each layer that has a weight, and the shapes of these weights.

    Parameters
    ----------
    layers : sequence of Layer or Included
        Their present norms are taken.

    Raises
    ------
    ValueError
        If there is no weight, one cannot be changed, or a norm is not a finite number.
    """

    def __init__(self, layers: Sequence[Layer | Included]) -> None:
        weights = {layer.name: layer.weight for layer in layers if layer.weight is not None}
        for name, weight in weights.items():
            if weight.is_meta:
                raise ValueError(f"{weight_of(name)} has no values yet, so no norm to return to")
            if weight.is_inference() and not torch.is_inference_mode_enabled():
                raise ValueError(
                    f"{weight_of(name)} was made in inference mode, outside of which nothing can "
                    "change it: make the model outside, too"
                )
        if not weights:
            raise ValueError("no layer has a weight that is a parameter: there is no norm to take")
        self.norms = multi_tensor_norms([weight.detach() for weight in weights.values()])
        for name, norm in zip(weights, self.norms.tolist(), strict=True):
            if not math.isfinite(norm):
                raise ValueError(f"the norm of {weight_of(name)} is {norm}: there is no way back")
        self.shapes = {name: list(weight.shape) for name, weight in weights.items()}

    def by_layer(self) -> dict[str, float]:
        """Return n_l by layer."""
        return dict(zip(self.shapes, self.norms.tolist(), strict=True))

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint needs."""
        shapes = {name: list(shape) for name, shape in self.shapes.items()}
        return {"initial_norms": self.by_layer(), "shapes": shapes}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned; nothing is changed where it is another model's."""
        shapes = {name: list(shape) for name, shape in state["shapes"].items()}
        if set(state["initial_norms"]) != set(shapes) or shapes != self.shapes:
            theirs, ours = (
                ", ".join(f"{name} {shape}" for name, shape in shapes.items())
                for shapes in (shapes, self.shapes)
            )
            raise ValueError(f"the state dict is another model's: layers {theirs}, here {ours}")
        norms = self.norms.new_tensor([state["initial_norms"][name] for name in self.shapes])
        if not (norms.isfinite() & (norms >= 0)).all():
            raise ValueError("the initial norms of the state dict are not finite numbers ≥ 0")
        self.norms = norms

    def refuse_other_weights(self, layers: Sequence[Layer | Included]) -> None:
        """Refuse weights that are no longer what the norms were taken of.

        Raises
        ------
        ValueError
            If a weight is computed now, of another shape, or no longer apart from the others.
        """
        for layer in layers:
            shape, weight = self.shapes.get(layer.name), layer.weight
            now = None if weight is None else list(weight.shape)
            if now != shape:
                was, is_now = (
                    "computed (pruned, parametrized or sharded)" if s is None else f"of shape {s}"
                    for s in (shape, now)
                )
                raise ValueError(
                    f"{weight_of(layer.name)} was {was} at the start and is {is_now}: undo that, "
                    "or construct SoftWeightRescaling again"
                )
        refuse_parameters({la.name: la.module for la in layers if isinstance(la, Layer)})
