"""How strongly each layer is pulled: one λ, the paper's pair, or one for each pattern of names."""

from __future__ import annotations

from collections.abc import Sequence

from swrlib.layers import Layer
from swrlib.rescaling import checked_lambda


class Strengths:
    """λ of each layer.

    Parameters
    ----------
    layers : sequence of Layer
    lam, lam_features, lam_classifier
        As for `swrlib.SoftWeightRescaling`.

    Attributes
    ----------
    key_of : dict of str to str
        By layer, under what its λ is kept.
    values : dict of str to float
        λ by key.
    changes : int
        How often a value was set.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        lam: float | None,
        lam_features: float | None = None,
        lam_classifier: float | None = None,
    ) -> None:
        pair = (lam_features, lam_classifier)
        if lam is not None and pair != (None, None):
            raise ValueError("give either lam, or lam_features and lam_classifier, not both")
        if lam is None and None in pair:
            raise ValueError("λ is missing: give lam, or both lam_features and lam_classifier")
        self.key_of: dict[str, str] = {layer.name: layer.group for layer in layers}
        both = pair if lam is None else (lam, lam)
        keys = ("features", "classifier")
        self.values = {k: checked_lambda(v, "λ") for k, v in zip(keys, both, strict=True)}
        self.changes = 0

    def set(self, **values: float) -> None:
        """Set the λ of some keys; nothing is changed where one is no λ."""
        self.values |= {key: checked_lambda(v, f"lam_{key}") for key, v in values.items()}
        self.changes += 1

    def of(self, layer: str) -> float:
        """Return λ of a layer."""
        return self.values[self.key_of[layer]]

    @property
    def lam(self) -> float | tuple[float, float]:
        """The one λ, or the pair."""
        pair = (self.values["features"], self.values["classifier"])
        return pair[0] if pair[0] == pair[1] else pair
