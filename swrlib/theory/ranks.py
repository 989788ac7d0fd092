"""Ranks, activity of units and distances: what papers on the loss of plasticity measure.

Two measures go by the name of stable rank, and both are here under names of their own: `srank`,
the number of values that make up 99% of the sum, and `stable_rank`, ‖M‖_F²/‖M‖₂².
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def srank(values: Tensor, share: float = 0.99) -> Tensor:
    """Return the least j with Σ_{i≤j} σ_i / Σ_i σ_i > share.

    Lewandowski et al., *Curvature Explains Loss of Plasticity* (Section 4). It is blind to scale;
    of values that are all zero it is 0, by definition. `stable_rank` is another measure.

    Parameters
    ----------
    values : torch.Tensor
        Singular values or eigenvalues, [..., k], in any order; their absolute values count.
    share : float
        In (0, 1).

    Returns
    -------
    torch.Tensor
        int64 [...].

    Raises
    ------
    ValueError
        If a value is not finite, or the share is outside of (0, 1).
    """
    if not 0 < share < 1:
        raise ValueError(f"share is {share!r}: it must be a number between 0 and 1")
    sums = _magnitudes(values).sort(-1, descending=True).values.cumsum(-1)
    if not values.shape[-1]:
        return torch.zeros(values.shape[:-1], dtype=torch.int64)
    total = sums[..., -1:]
    needed = (sums <= share * total).sum(-1) + 1
    return torch.where(total.squeeze(-1) > 0, needed, 0)


def stable_rank(values: Tensor) -> Tensor:
    """Return Σσ_i² / max σ_i² = ‖M‖_F²/‖M‖₂², 0 of values that are all zero.

    This is what is called the stable rank in numerical linear algebra; not `srank`.

    Parameters
    ----------
    values : torch.Tensor
        As for `srank`.

    Returns
    -------
    torch.Tensor
        [...].
    """
    squares = _magnitudes(values).square()
    largest = squares.amax(-1)
    return torch.where(largest > 0, squares.sum(-1) / largest.where(largest > 0, 1), 0)


def effective_rank(values: Tensor, guard: float = 0.0) -> Tensor:
    """Return exp(−Σ p_i ln(p_i + guard)) over the shares p_i of the sum.

    Absolute values count; of values that are all zero it is 0, by definition. Roy and Vetterli's
    has a guard of 0, the release of *Spectral Collapse Drives Loss of Plasticity* (Prakash, He, Guo
    et al.) one of 1e-8. The result can be differentiated; with a guard also where values are zero.

    Parameters
    ----------
    values : torch.Tensor
        As for `srank`.
    guard : float
        From 0 on.

    Returns
    -------
    torch.Tensor
        [...].
    """
    magnitudes = _magnitudes(values)
    total = magnitudes.sum(-1, keepdim=True)
    shares = magnitudes / total.where(total > 0, 1)
    terms = shares * (shares + guard).log() if guard else torch.xlogy(shares, shares)
    return torch.where(total.squeeze(-1) > 0, (-terms.sum(-1)).exp(), 0)


def singular_values(values: Tensor) -> Tensor:
    """Return the singular values of features or a weight [N, …], as N rows: float64 [k].

    Raises
    ------
    ValueError
        If a value is not finite.
    """
    return torch.linalg.svdvals(_finite(values.detach().flatten(1).double()))


def _magnitudes(values: Tensor) -> Tensor:
    return _finite(values).abs().double()


def _finite(values: Tensor) -> Tensor:
    if not bool(values.isfinite().all()):
        raise ValueError("some of the values are not finite: they have no rank, and no activity")
    return values


# ---------------------------------------------------------------------------------------------
# Units


def activity(features: Tensor) -> Tensor:
    """Return each unit's mean absolute feature over images, and over places in maps: [units].

    Parameters
    ----------
    features : torch.Tensor
        [N, units], or maps [N, channels, H, W], whose channels are the units.
    """
    if features.dim() < 2 or not len(features):
        raise ValueError(
            f"features of the shape {tuple(features.shape)} are none of units: [N, units, …]"
        )
    return _per_image(features).mean(0)


def unit_entropy(features: Tensor, *, of_each: bool = False) -> float:
    """Return the entropy −Σ p_i ln p_i of the units' shares p_i of the activity, in nats.

    The curvature paper's measure of dormancy: ln(units) where all are equally active, 0 where one
    alone is. It does not say whether the mean over images is taken before or after the entropy.

    Parameters
    ----------
    features : torch.Tensor
        As for `activity`.
    of_each : bool
        The mean of the entropies of single images, instead of the entropy of the mean.

    Returns
    -------
    float
        0, by definition, where no unit is active: for one image, or for all.
    """
    means = activity(features)
    values = _per_image(features) if of_each else means.unsqueeze(0)
    total = values.sum(1, keepdim=True)
    shares = values / total.where(total > 0, 1)
    return float(-torch.xlogy(shares, shares).sum(1).mean())


def dead_units(features: Tensor) -> int:
    """Return how many units are exactly zero on all images; ``features`` as for `activity`."""
    return int((activity(features) == 0).sum())


def dormant_units(features: Tensor, threshold: float = 0.0) -> int:
    """Return how many units have a mean absolute feature of at most threshold · the layer's mean.

    τ-dormant units (Sokar et al., 2023, Definition 3.1); in a layer that is all zero, all are.

    Parameters
    ----------
    features : torch.Tensor
        As for `activity`.
    threshold : float
        τ.
    """
    scores = activity(features)
    return int((scores <= threshold * scores.mean()).sum())


def _per_image(features: Tensor) -> Tensor:
    """Return absolute features [N, units] in float64, the mean over places in maps."""
    values = _finite(features.detach()).abs().double()
    return values.flatten(2).mean(2) if values.dim() > 2 else values


# ---------------------------------------------------------------------------------------------
# Weights


def difference_norms(now: Iterable[Tensor], before: Iterable[Tensor]) -> dict[str, float]:
    """Return three norms of all entries' differences: of an update, or of a distance travelled.

    Papers report "the norm of the update" and "the distance from initialization" without a word
    on which norm and whether it is divided by the number of entries.

    Parameters
    ----------
    now, before : iterable of torch.Tensor
        Of the same shapes, tensor by tensor. For the weights' own norms, ``before`` is zeros.

    Returns
    -------
    dict of str to float
        "sum" and "mean" of the absolute differences; "l2", the root of the sum of squares.

    Raises
    ------
    ValueError
        If shapes differ, or there are no entries.
    """
    pairs = list(zip(now, before, strict=True))
    for one, other in pairs:
        if one.shape != other.shape:
            raise ValueError(
                f"tensors of the shapes {tuple(one.shape)} and {tuple(other.shape)} have no "
                "difference: give the same parameters, at two times"
            )
    flat = [(one.detach().double() - other.detach().double()).flatten() for one, other in pairs]
    difference = torch.cat(flat) if flat else torch.zeros(0)
    if not len(difference):
        raise ValueError("there are no entries: give the parameters")
    absolute = difference.abs()
    return {
        "sum": float(absolute.sum()),
        "mean": float(absolute.mean()),
        "l2": float(difference.norm()),
    }
