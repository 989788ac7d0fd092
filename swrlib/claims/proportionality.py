"""Theorem 1 on networks built to try it, and Fig. 1: networks scaled after their training."""

from __future__ import annotations

import copy
import itertools
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from swrlib import records, verdicts
from swrlib.network.layers import trace_layers
from swrlib.papers import SWR as paper
from swrlib.rescaling import Variant, rescale_
from swrlib.swr import SoftWeightRescaling
from swrlib.theory import output_gap, proportionality_gap

#: Theorem 1 holds if the gap of no network is larger in float64.
EXACT = 1e-12
#: Factors before the last normalization change nothing if the gradients agree to this share.
SAME_GRADIENT = 1e-8
#: So small an eps of a normalization layer is none.
NO_EPS = 1e-100

# ---------------------------------------------------------------------------------------------
# Fig. 1


def scaled_runs(frame: pd.DataFrame, results: str | os.PathLike[str] | None = None) -> pd.DataFrame:
    """Return what Fig. 1 is made of: one row per run of the stream "scaled".

    At ratio 1 nothing is scaled, so one run serves for all readings and ways with the biases.

    Parameters
    ----------
    frame : DataFrame
        Records of that stream.
    results : path, optional
        Folder that holds their parents' records; default: the project's own.

    Returns
    -------
    DataFrame
        ``dataset, model, scale, seed, ratio, reading, biases``, and test accuracies: ``trained``
        (the parent's last epoch), ``best_before`` (its best), ``after`` (right after the scaling)
        and ``best_after`` (the best epoch of the fine-tuning).

    Raises
    ------
    ValueError
        If a parent has no records there.
    """
    keys = ["dataset", "model", "scale", "seed", "ratio", "reading", "biases", "parent"]
    numbers = ["trained", "best_before", "after", "best_after"]
    if not len(frame):
        return pd.DataFrame(columns=[*keys, *numbers])
    parents = records.load_records(results, run=list(frame["parent"].unique()))

    def accuracies(rows: pd.DataFrame, by: list[str]) -> Any:
        rows = rows.astype({"test_accuracy": float}).sort_values("epoch")
        return rows.groupby(by)["test_accuracy"]

    own = accuracies(parents[parents["epoch"] > 0], ["run"])
    before = own.agg(trained="last", best_before="max")
    if not set(frame["parent"]) <= set(before.index):
        raise ValueError(
            "the records lack runs that were scaled: train the stream's parent "
            "(make_stream('scaled', …).parent) into the same folder"
        )
    rows = accuracies(frame[frame["epoch"] == 0], keys).agg(after="first")
    rows = rows.join(accuracies(frame[frame["epoch"] > 0], keys).agg(best_after="max"))
    rows = rows.reset_index().join(before, on="parent")
    network, way = ["dataset", "model", "scale", "seed"], ["reading", "biases"]
    unscaled = rows[rows["ratio"] == 1].drop_duplicates(network).drop(columns=way)
    ways = rows[[*network, *way]].drop_duplicates()
    rows = pd.concat([rows[rows["ratio"] < 1], unscaled.merge(ways, on=network)])
    return rows.sort_values(keys[:-1], ignore_index=True)


def scaling_verdicts(rows: pd.DataFrame) -> list[verdicts.Verdict]:
    """Judge the three claims of Fig. 1 on what `scaled_runs` returned, each in all of its cases.

    - scaling-keeps-accuracy: at every ratio, ``after`` is as ``trained``, biases scaled too.
    - scaling-without-biases: at ratio 0, ``trained`` above ``after``, biases untouched.
    - scaling-then-training: at every ratio below 1, either way, ``best_after`` above
      ``best_before``.

    A case is a reading of the ratio, a ratio and a way with the biases. Where records of the
    paper's scale lack some of Fig. 1's ratios, the label says how many there are.
    """
    scaled = rows[(rows["ratio"] < 1) & rows["biases"].isin(["proportional", "untouched"])]
    along, left = (scaled[scaled["biases"] == way] for way in ("proportional", "untouched"))
    asked = paper.details["figure_1_ratios"]
    left = left[left["ratio"] == min(asked)]  # another, if it is missing, would be another claim
    ratios = len(asked) - 1  # but for 1
    return [
        _scaling_verdict("scaling-keeps-accuracy", along, "after", "trained", ratios),
        _scaling_verdict("scaling-without-biases", left, "trained", "after", 1),
        _scaling_verdict("scaling-then-training", scaled, "best_after", "best_before", 2 * ratios),
    ]


def _scaling_verdict(
    id: str, rows: pd.DataFrame, higher: str, lower: str, printed_cases: int
) -> verdicts.Verdict:
    claim = paper.find_claim(id)
    assert isinstance(claim.margin, float)
    cases = []
    for (reading, biases, ratio), group in rows.groupby(["reading", "biases", "ratio"]):
        points = 100 * group.set_index("seed")[[higher, lower]]
        what = f"reading “{reading}”, " if rows["reading"].nunique() > 1 else ""
        what += f"ratio {ratio:g}, biases {biases}, points"
        margin = 100 * claim.margin
        cases.append(verdicts.of_two(what, points[higher], points[lower], margin, paired=True))
    scale = rows["scale"].iloc[0] if len(rows) else "paper"
    kind = "same" if id == "scaling-keeps-accuracy" else "above"
    judged = verdicts.judge_cases(claim, cases, scale=scale, kind=kind)
    if scale != "paper" or judged.verdict == verdicts.NOT_RUN:
        return judged
    cell = rows.iloc[0][["dataset", "model"]]
    if (*cell, "scaled") not in claim.cells:
        return replace(judged, verdict=verdicts.OUTSIDE, label=verdicts.OUTSIDE)
    run = rows.drop_duplicates(["reading", "biases", "ratio"])["reading"].value_counts().min()
    part = f" ({run} of {printed_cases} comparisons)" if run < printed_cases else ""
    return replace(judged, label=judged.label + part)


# ---------------------------------------------------------------------------------------------
# Theorem 1


def random_factors(network: nn.Module, seed: int = 0) -> list[float]:
    """Draw a factor in [0.1, 10] for each layer of `swrlib.trace_layers`."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(len(trace_layers(network)), generator=generator)
    return (10 ** (2 * draws - 1)).tolist()


def without_one_bias_factor(network: nn.Module, factors: list[float]) -> tuple[nn.Module, float]:
    """Scale a copy by Theorem 1, but leave the factor farthest from 1 out of the last bias.

    Parameters
    ----------
    network : nn.Module
        Its last layer has a bias.
    factors : list of float
        One a layer.

    Returns
    -------
    (nn.Module, float)
        The copy, and C as if nothing were missing.
    """
    copied, constant = scaled_copy(network, factors)
    bias = trace_layers(copied)[-1].bias
    assert bias is not None
    bias.data.div_(max(factors, key=lambda c: abs(math.log(c))))
    return copied, constant


def theorem_gaps(networks: Mapping[str, nn.Module], inputs: Tensor) -> pd.DataFrame:
    """Measure Theorem 1's gap on networks without normalization, and without one bias factor.

    Parameters
    ----------
    networks : mapping
        By a name for readers.
    inputs : Tensor
        What both networks are given.

    Returns
    -------
    DataFrame
        A row a network and number type: ``network, numbers, C``, ``gap, all factors`` and ``gap,
        one bias factor dropped``.
    """
    rows = []
    for name, original in networks.items():
        for dtype in (torch.float64, torch.float32):
            network, own = copy.deepcopy(original).to(dtype), inputs.to(dtype)
            factors = random_factors(network)
            wrong, constant = without_one_bias_factor(network, factors)
            row = {"network": name, "numbers": str(dtype).removeprefix("torch."), "C": constant}
            row["gap, all factors"] = proportionality_gap(network, factors, own)
            row["gap, one bias factor dropped"] = output_gap(wrong, network, constant, own)
            rows.append(row)
    return pd.DataFrame(rows)


def theorem_verdict(gaps: pd.DataFrame) -> verdicts.Verdict:
    """Judge Theorem 1: in float64 the gap is below `EXACT` in every network tried.

    Parameters
    ----------
    gaps : DataFrame
        What `theorem_gaps` returned.
    """
    exact = gaps[gaps["numbers"] == "float64"]["gap, all factors"]
    detail = f"Largest gap in float64, over {len(exact)} networks: {exact.max():.1e}."
    claim = paper.find_claim("proportionality")
    holds = bool((exact < EXACT).all())
    return verdicts.judge_theorem(claim, holds, detail, cases=len(exact))


def without_eps(network: nn.Module) -> nn.Module:
    """Return a copy in float64 whose normalization layers have (nearly) no eps."""
    network = copy.deepcopy(network).double()
    for module in network.modules():
        if hasattr(module, "eps"):
            module.eps = NO_EPS  # type: ignore[assignment]
    return network


def normalization_gaps(network: nn.Module, inputs: Tensor) -> pd.DataFrame:
    """Measure the gap with all factors 0.5, for both variants, with the given eps and with none.

    Parameters
    ----------
    network : nn.Module
        With normalization layers.
    inputs : Tensor

    Returns
    -------
    DataFrame
        ``variant, mode, eps, gap``, in float64: in training mode, and in evaluation mode with
        running statistics that are scaled along, and left.
    """
    modes = {
        "training": (True, True),
        "evaluation, running statistics scaled": (False, True),
        "evaluation, running statistics left": (False, False),
    }
    variants: tuple[Variant, ...] = ("proportional", "printed")
    halves, inputs = [0.5] * len(trace_layers(network)), inputs.double()
    rows = []
    networks = {"as it is": copy.deepcopy(network).double(), "vanishing": without_eps(network)}
    for eps, own in networks.items():
        for variant, (mode, (training, statistics)) in itertools.product(variants, modes.items()):
            how: dict[str, Any] = {"running_statistics": statistics, "training": training}
            gap = proportionality_gap(own, halves, inputs, variant=variant, **how)
            rows.append({"variant": variant, "mode": mode, "eps": eps, "gap": gap})
    return pd.DataFrame(rows)


class Draws(NamedTuple):
    """What `draws_before_normalization` measured, a number a draw.

    Attributes
    ----------
    constants : list of float
        C.
    gaps : list of float
        Of the scaled network to C times the other, in training mode.
    spread : list of float
        The first layer's gradient times its weight's scale, less that of the first draw, over the
        norm of the latter.
    """

    constants: list[float]
    gaps: list[float]
    spread: list[float]


def draws_before_normalization(
    network: nn.Module, inputs: Tensor, labels: Tensor, *, draws: int = 5
) -> Draws:
    """Draw the factors before the last normalization anew, those from it on being 0.5.

    Parameters
    ----------
    network : nn.Module
        With normalization layers.
    inputs, labels : Tensor
        A batch, for outputs and gradients.
    draws : int
        How many.
    """
    network, inputs = without_eps(network).train(), inputs.double()
    layers = trace_layers(network)
    last = max(i for i, layer in enumerate(layers) if layer.kind == "normalization")
    constants, gaps, gradients = [], [], []
    for seed in range(draws):
        factors = [*random_factors(network, seed)[:last], *[0.5] * (len(layers) - last)]
        after = copy.deepcopy(network)
        constants.append(rescale_(after, factors))
        gaps.append(output_gap(after, network, constants[-1], inputs, training=True))
        first = copy.deepcopy(network)
        weight = trace_layers(first)[0].weight
        assert weight is not None
        weight.data.mul_(factors[0])
        cross_entropy(first(inputs), labels).backward()
        assert weight.grad is not None
        gradients.append(factors[0] * weight.grad)
    spread = [float((g - gradients[0]).norm() / gradients[0].norm()) for g in gradients]
    return Draws(constants, gaps, spread)


def normalization_verdicts(draws: Draws) -> list[verdicts.Verdict]:
    """Judge the role of the last normalization: C and the gradient forget the factors before it.

    Parameters
    ----------
    draws : Draws
        All C must be equal (final-normalization), the gradients to `SAME_GRADIENT`
        (effective-rate).
    """
    spread, cases = max(draws.spread, default=math.nan), len(draws.constants)
    same = (
        "Tested in training mode, as eps vanishes: five draws of all factors before it leave C "
        "and the function as they were, earlier shifts scaled by their own layer's factor."
    )
    rate = (
        "Over the same draws the first gradient times its weight's scale differs by "
        f"{spread:.0e} at most. With Adam the rate goes with one over the norm, which is derived "
        "above, not measured."
    )
    final, effective = map(paper.find_claim, ("final-normalization", "effective-rate"))
    equal = bool(cases and np.ptp(draws.constants) == 0)
    judged = verdicts.judge_theorem(final, equal, same, cases=cases)
    small = spread < SAME_GRADIENT
    return [judged, verdicts.judge_theorem(effective, small, rate, cases=cases)]


# ---------------------------------------------------------------------------------------------
# Residual networks


@torch.no_grad()
def with_drawn_statistics(network: nn.Module) -> nn.Module:
    """Give batch normalizations statistics and shifts unlike a new network's, and no eps.

    Parameters
    ----------
    network : nn.Module
        Is written to, from torch's global generator, and returned.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.eps = NO_EPS
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            module.bias.normal_(0, 0.1)
    return network


def agreeing_factors(residual: nn.Module) -> dict[str, float]:
    """Draw factors for torchvision's ResNet-18, one number for all that is added in a stage."""
    layers = trace_layers(residual)
    agreeing = {x.name: f for x, f in zip(layers, random_factors(residual), strict=True)}
    for stage in range(1, 5):
        for name in agreeing:
            ends = name.endswith((".bn2", "downsample.1")) or (name == "bn1" and stage == 1)
            if ends and (name.startswith(f"layer{stage}.") or name == "bn1"):
                agreeing[name] = 0.5 * stage
    return agreeing


@torch.no_grad()
def step_gap(network: nn.Module, inputs: Tensor, *, running_statistics: bool) -> float:
    """Return how far a step of SWR is from proportional, by the constant that fits best.

    Parameters
    ----------
    network : nn.Module
        Is left as it is; each layer of a copy grows by a factor of its own first.
    inputs : Tensor
    running_statistics : bool
        See `swrlib.SoftWeightRescaling`.
    """
    after = copy.deepcopy(network)
    swr = SoftWeightRescaling(after, lam=0.1, running_statistics=running_statistics)
    for layer, factor in zip(trace_layers(after), random_factors(after), strict=True):
        assert layer.weight is not None
        layer.weight.mul_(1 + 0.3 * factor)
    grown = copy.deepcopy(after)
    swr.step()
    old, new = grown(inputs), after(inputs)
    best = float((old * new).sum() / (old * old).sum())
    return output_gap(after, grown, best, inputs)


# ---------------------------------------------------------------------------------------------
# What one image gets


def scaled_copy(
    network: nn.Module, factors: list[float], *, along: bool = True
) -> tuple[nn.Module, float]:
    """Return a scaled copy and C.

    Parameters
    ----------
    network : nn.Module
    factors : list of float
        One a layer.
    along : bool
        Whether biases are scaled along, or left as they are.
    """
    after = copy.deepcopy(network)
    constant = rescale_(after, factors)
    if not along:
        for new, old in zip(trace_layers(after), trace_layers(network), strict=True):
            if new.bias is not None and old.bias is not None:
                new.bias.data.copy_(old.bias)
    return after, constant
