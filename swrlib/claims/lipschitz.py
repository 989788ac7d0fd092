"""Corollary 2.1 on records and on networks built for it, and what was measured beside it."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from swrlib import verdicts
from swrlib.claims.boundedness import weighted_layers
from swrlib.claims.norms import weight_norms
from swrlib.models import build_model
from swrlib.network.layers import trace_layers
from swrlib.papers import SWR as paper
from swrlib.rescaling import rescale_
from swrlib.statistics import NO_INTERVAL, Interval, paired_interval
from swrlib.theory import adam_norm_bound, lipschitz_bound, lipschitz_lower_bound, norm_bound
from swrlib.verdicts import second_rule

#: The three numbers on a network, from the least to the greatest: column and name.
KINDS = {"lower": "lower bound", "spectral": "spectral product", "frobenius": "Frobenius product"}
#: What is set side by side.
COMPARED = ("vanilla", "swr")
#: Single precision.
SLACK = 1 + 1e-4

_SETTING = ["scale", "dataset", "model"]


def place_name(dataset: str, model: str, scale: str | None = None) -> str:
    """Name a setting for readers."""
    return paper.label(dataset, model) + (f", {scale} scale" if scale else "")


# ---------------------------------------------------------------------------------------------
# The corollary on records


def constants(measures: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each run and epoch, the three numbers of `KINDS` side by side.

    Parameters
    ----------
    measures : DataFrame
        What `swrlib.notebook.measured` returned, "lipschitz" among it.

    Returns
    -------
    DataFrame
        ``dataset, model, scale, method, lam, seed, run, epoch`` and `KINDS`; λ is -1 where there
        are two or none.
    """
    rows = measures[measures["measure"] == "lipschitz"]
    keys = ["dataset", "model", "scale", "method", "lam", "seed", "run", "epoch"]
    index = rows[keys].fillna({"lam": -1})
    wide = rows.assign(**index).pivot_table(index=keys, columns="layer", values="value")
    return wide.reindex(columns=list(KINDS)).reset_index().astype(dict.fromkeys(KINDS, float))


def in_order(rows: pd.DataFrame) -> bool:
    """Return whether the columns of `KINDS` are in order in every row, up to rounding (`SLACK`)."""
    below = (rows[low] <= rows[high] * SLACK for low, high in itertools.pairwise(KINDS))
    return all(each.all() for each in below)


def ceiling(network: nn.Module, shape: Sequence[int], norms: Sequence[float]) -> float:
    """Return the Frobenius product of a network whose layers have these norms, at worst.

    Parameters
    ----------
    network : nn.Module
        Is left as it is.
    shape : sequence of int
        Of an image.
    norms : sequence of float
        One for each layer with a weight. A normalization layer's is given to one channel without
        variance.
    """
    network = copy.deepcopy(network)
    with torch.no_grad():
        for layer, norm in zip(weighted_layers(network), norms, strict=True):
            assert layer.weight is not None
            if layer.kind == "normalization":
                layer.weight.zero_()[0] = norm
                layer.module.running_var.zero_()  # type: ignore[operator]
            else:
                layer.weight.mul_(norm / layer.weight.norm())
    return lipschitz_bound(network, torch.zeros(1, *shape), norm="frobenius")


def ceilings(
    frame: pd.DataFrame, measures: pd.DataFrame, images: Mapping[tuple[str, str], Any]
) -> pd.DataFrame:
    """Return the products of the norms' bounds for every run with SWR, with its own product.

    Parameters
    ----------
    frame : DataFrame
        Records.
    measures : DataFrame
        Their "lipschitz" and "growth:max", as `swrlib.notebook.measured` returns them.
    images : mapping of (dataset, model)
        What has the ``shape`` and ``classes`` of the images.

    Returns
    -------
    DataFrame
        ``dataset, model, scale, seed``, ``Frobenius product`` (the run's largest), ``Theorem 2``
        (with the largest growth of a step; NaN where it was not measured) and ``any Adam``.
    """
    rows = []
    for run, part in frame[frame["method"] == "swr"].sort_values("epoch").groupby("run"):
        first, place = part.iloc[0], tuple(part.iloc[0][["dataset", "model"]])
        here = measures[measures["run"] == run]
        growth = here[here["measure"] == "growth:max"].groupby("layer")["value"].max().clip(0)
        largest = here[(here["measure"] == "lipschitz") & (here["layer"] == "frobenius")]
        network = build_model(place[1], images[place])
        premise, free = [], []
        for layer, start in zip(weighted_layers(network), first["weight_norms"], strict=True):
            lam = first["lam"] if first["lam"] == first["lam"] else first[f"lam_{layer.group}"]
            entries = 1 if layer.weight is None else layer.weight.numel()
            known = layer.name in growth
            premise.append(norm_bound(float(start), lam, growth[layer.name]) if known else np.nan)
            free.append(adam_norm_bound(float(start), lam, lr=part["lr"].max(), entries=entries))
        row = {**first[["dataset", "model", "scale", "seed"]]}
        row["Frobenius product"] = largest["value"].max()
        for name, norms in (("Theorem 2", premise), ("any Adam", free)):
            row[name] = ceiling(network, images[place].shape, norms)
        rows.append(row)
    return pd.DataFrame(rows)


def bound_verdict(measured: pd.DataFrame, held: pd.DataFrame) -> verdicts.Verdict:
    """Judge Corollary 2.1: the three numbers in order, and below the product of the norms' bounds.

    Parameters
    ----------
    measured : DataFrame
        What `constants` returned.
    held : DataFrame
        What `ceilings` returned; products that are not known or not finite are passed over.

    Returns
    -------
    Verdict
        *Not run* where one of the two has nothing.
    """
    promised = held[["Theorem 2", "any Adam"]].replace(math.inf, np.nan)
    reached = promised.rdiv(held["Frobenius product"], axis=0).stack().dropna()
    below, ordered = reached <= SLACK, in_order(measured)
    detail = (
        f"In order in {len(measured)} records of {measured['run'].nunique()} runs: "
        f"{'yes' if ordered else 'no'}. Below the product of the norms' bounds, wherever that is "
        f"known and finite, in {int(below.sum())} of {len(reached)} comparisons of "
        f"{len(held)} runs with SWR."
    )
    cases = min(len(measured), len(reached))
    holds = ordered and bool(below.all())
    return verdicts.judge_theorem(paper.find_claim("lipschitz-bound"), holds, detail, cases=cases)


# ---------------------------------------------------------------------------------------------
# Networks built so that the plain product fails


def plain_product(network: nn.Module) -> float:
    """Return the product of the Frobenius norms of all layers, no factors: (15) read literally."""
    return math.prod(weight_norms(network))


@torch.no_grad()
def all_ones(model: str, images: Any) -> nn.Module:
    """Return a network of the paper that uses only the first channel of each layer, all taps 1.

    Parameters
    ----------
    model : {"cnn", "cnn-bn"}
    images : object
        Has their ``shape``, (1, 28, 28), and ``classes``.
    """
    network = build_model(model, images).eval()
    for layer in trace_layers(network):
        assert layer.weight is not None
        weight = layer.weight.zero_()
        if layer.bias is not None:
            layer.bias.zero_()
        if layer.name == "linear1":
            weight[0, :25] = 1  # what is left of the first channel: 5×5 values
        elif weight.dim() == 1:
            weight[0] = 1
        else:
            weight[0, 0] = 1
    return network


def built_networks(images: Any) -> dict[str, nn.Module]:
    """Return networks that stretch some image more than their plain product, by name.

    Parameters
    ----------
    images : object
        See `all_ones`.
    """
    networks = {"CNN, ones": all_ones("cnn", images), "CNN-BN, ones": all_ones("cnn-bn", images)}
    shrunk = networks["CNN-BN, shrunk"] = copy.deepcopy(networks["CNN-BN, ones"])
    shrink = {x.name: 0.1 if x.kind == "convolution" else 1.0 for x in trace_layers(shrunk)}
    rescale_(shrunk, shrink, running_statistics=True)
    return networks


def products(networks: Mapping[str, nn.Module], inputs: Tensor) -> pd.DataFrame:
    """Return what stretches how much, and what bounds it: a row a network.

    Parameters
    ----------
    networks : mapping
        By name.
    inputs : Tensor, shape [n, channels, height, width]
        Where the lower bound is sought from.

    Returns
    -------
    DataFrame
        ``network, plain product, lower, spectral, frobenius``; the last two with the factors of
        convolutions and normalization layers.
    """
    rows = []
    for name, network in networks.items():
        lower = lipschitz_lower_bound(network, inputs, steps=5)
        row = {"network": name, "plain product": plain_product(network), "lower": lower}
        row["spectral"] = lipschitz_bound(network, inputs, norm="spectral")
        rows.append(row | {"frobenius": lipschitz_bound(network, inputs, norm="frobenius")})
    return pd.DataFrame(rows)


def stretching(table: pd.DataFrame) -> list[str]:
    """Name the networks of `products` that stretch clearly more than their plain product."""
    return table[table["lower"] > 1.05 * table["plain product"]]["network"].tolist()


def similarly_verdicts(table: pd.DataFrame) -> list[verdicts.Verdict]:
    """Judge whether convolution and normalization layers are "similarly" Lipschitz continuous.

    And remark, since the paper does not say it, that their plain product is no bound.

    Parameters
    ----------
    table : DataFrame
        What `products` returned: the order must hold with finite products.
    """
    holds = in_order(table) and bool(np.isfinite(table["frobenius"]).all())
    detail = (
        f"With a factor for each convolution and batch normalization, in evaluation mode, the "
        f"order holds for all {len(table)} networks built below: {'yes' if holds else 'no'}."
    )
    claim, ours = map(paper.find_claim, ("lipschitz-similarly", "lipschitz-plain-product"))
    judged = [verdicts.judge_theorem(claim, holds, detail, cases=len(table))]
    if len(table):
        said = f"{len(stretching(table))} of {len(table)} networks stretch more than it."
        word = second_rule.REPRODUCED if stretching(table) else second_rule.NOT_REPRODUCED
        label = second_rule.remark_label(word)
        judged.append(verdicts.Verdict(ours, second_rule.REMARK, label, said))
    return judged


# ---------------------------------------------------------------------------------------------
# What was measured beside it: no claim


def _geometric(frame: pd.DataFrame, columns: list[str]) -> pd.Series:
    return np.exp(np.log(frame[columns].astype(float)).mean())


def looseness(measured: pd.DataFrame, held: pd.DataFrame) -> pd.DataFrame:
    """Return geometric means over seeds at the last epoch, from what was found to what is promised.

    Parameters
    ----------
    measured, held : DataFrame
        See `bound_verdict`.

    Returns
    -------
    DataFrame
        By setting and method: ``lower, spectral, Frobenius``, ``ratio`` (Frobenius over lower)
        and, with SWR, ``Theorem 2`` and ``any Adam``.
    """
    rows = {}
    for place, part in measured.groupby(_SETTING, sort=False):
        for method in COMPARED:
            chosen = part[part["method"] == method]
            if not len(chosen):
                continue
            row = _geometric(chosen[chosen["epoch"] == chosen["epoch"].max()], [*KINDS])
            row = row.rename({"frobenius": "Frobenius"})
            row["ratio"] = row["Frobenius"] / row["lower"]
            if method == "swr":
                same = (held[_SETTING] == list(place)).all(axis=1)
                row = pd.concat([row, _geometric(held[same], ["Theorem 2", "any Adam"])])
            rows[place_name(*place[1:]), paper.label(method)] = row
    columns = ["lower", "spectral", "Frobenius", "ratio", "Theorem 2", "any Adam"]
    return pd.DataFrame(rows).T.reindex(columns=columns)


def paired_ratios(measured: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return SWR over vanilla with the same seed at the last epoch, and what that says.

    Parameters
    ----------
    measured : DataFrame
        What `constants` returned.

    Returns
    -------
    (DataFrame, list of str)
        A row a setting: ratio and 95% t interval (on logarithms) of each of `KINDS`, as text, and
        ``seeds``. Two lines a setting with two seeds or more: whether the lower bounds differ, and
        whether the true constants are proven to be in that order.
    """
    rows: dict[str, dict[str, Any]] = {}
    words: list[str] = []
    for (scale, dataset, model), part in measured.groupby(_SETTING, sort=False):
        last = part[part["epoch"] == part["epoch"].max()]
        where, row = place_name(dataset, model, scale), dict[str, Any]()
        for kind, name in KINDS.items():
            by_seed = np.log(_by_seed(last, kind))
            gap = np.exp(_gap(by_seed))
            row["seeds"] = len(by_seed)
            row[name] = _said(gap, "{:.2f}", "{:.2f} [{:.2f}, {:.2f}]")
            if kind == "lower" and len(by_seed) > 1:
                words += [f"{where}:\n  {_of_lower_bounds(*gap[1:])};", f"  {_of_constants(last)}."]
        rows[where] = row
    return pd.DataFrame(rows).T, words


def _by_seed(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    """Lay a number out by seed and method, of the seeds that have both of `COMPARED`."""
    wide = rows.pivot_table(index="seed", columns="method", values=value)
    return wide.reindex(columns=list(COMPARED)).dropna()


def _gap(by_seed: pd.DataFrame) -> Interval:
    """Return SWR minus vanilla with the same seed; the interval is NaN with a single one."""
    if len(by_seed) > 1:
        return paired_interval(by_seed["swr"], by_seed["vanilla"])
    return NO_INTERVAL._replace(difference=(by_seed["swr"] - by_seed["vanilla"]).mean())


def _said(gap: Any, alone: str, with_interval: str) -> str:
    if np.isnan(gap[0]):
        return "–"
    return (alone if np.isnan(gap[1]) else with_interval).format(*gap)


def _of_lower_bounds(low: float, high: float) -> str:
    outcome = "cannot be distinguished from 1"
    if low > 1 or high < 1:
        outcome = "is above 1" if low > 1 else "is below 1"
    return f"the ratio of lower bounds {outcome}"


def _of_constants(last: pd.DataFrame) -> str:
    ends = last.pivot_table(index="seed", columns="method", values=["lower", "spectral"])
    proven = bool((ends["spectral", "swr"] < ends["lower", "vanilla"]).all())
    outcome = "in the same order" if proven else "not ordered by these bounds"
    return f"the true constants are {outcome}"


def noise_accuracy(measures: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracies on noisy images at the end of each run, for `COMPARED`.

    Parameters
    ----------
    measures : DataFrame
        What `swrlib.notebook.measured` returned, "noise-accuracy" among it.

    Returns
    -------
    DataFrame
        Its rows with ``noise``, the standard deviation.
    """
    rows = measures[(measures["measure"] == "noise-accuracy") & measures["method"].isin(COMPARED)]
    rows = rows[rows["epoch"] == rows.groupby("run")["epoch"].transform("max")]
    return rows.assign(noise=rows["layer"].astype(float))


def paired_noise(measures: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracy of SWR minus vanilla with the same seed, by noise: points, as text.

    Parameters
    ----------
    measures : DataFrame
        See `noise_accuracy`.

    Returns
    -------
    DataFrame
        A row a setting, a column a deviation but for 0.25, so that the table fits a telephone; with
        a 95% t interval from two seeds on.
    """
    lines: dict[str, dict[str, str]] = {}
    rows = noise_accuracy(measures)
    rows = rows[rows["noise"] != 0.25]
    for (scale, dataset, model), part in rows.groupby(_SETTING, sort=False):
        line = lines[place_name(dataset, model, scale)] = {}
        for noise, group in part.groupby("noise"):
            gap = _gap(100 * _by_seed(group, "value"))
            line[f"noise {noise:g}"] = _said(gap, "{:+.2f}", "{:+.1f} [{:+.1f}, {:+.1f}]")
    return pd.DataFrame(lines).T
