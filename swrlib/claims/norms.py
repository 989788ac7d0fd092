"""Norms of layers along trainings, and the verdicts on how they grow (Section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from swrlib import verdicts
from swrlib.methods import SWRExceptNormalization
from swrlib.models import build_model
from swrlib.network.layers import trace_layers
from swrlib.papers import SWR as paper
from swrlib.papers import Claim

#: SWR that leaves normalization layers alone.
LEFT_ALONE = SWRExceptNormalization.name
#: What the growth of a training whose numbers cease to be finite counts as.
DIVERGED = 100.0
#: The size of a growth, as ln, that matters: a quarter.
GROWN = math.log(1.25)
#: The streams in which data change.
CHANGING = ("warm-start", "full-access", "limited-access")
_SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
#: Shape and classes of the images of each data set on which the MLP was trained at length: what
#: `swrlib.build_model` needs of one.
IMAGES: Mapping[str, Any] = MappingProxyType(
    {name: SimpleNamespace(shape=shape, classes=range(10)) for name, shape in _SHAPES.items()}
)


def norms_by_layer(
    frame: pd.DataFrame, measures: pd.DataFrame | None = None, *, of: str = "weight"
) -> pd.DataFrame:
    """Lay recorded norms out: a row for each run, epoch and layer.

    Runs of a model with other layers than the paper's are left out.

    Parameters
    ----------
    frame : DataFrame
        Records, which hold norms of some epochs.
    measures : DataFrame, optional
        What `swrlib.notebook.measured` returned. With "norm-before-rescaling:last" among it, the
        norms of every epoch replace those of some, on data sets where all runs have them.
    of : {"weight", "bias"}
        Whose norms.

    Returns
    -------
    DataFrame
        ``run, dataset, model, scale, method, lam, lam_features, lam_classifier, seed, epoch, step,
        layer, norm, start``, the last being the norm at epoch 0.
    """
    moment = ["run", "epoch", "step", "layer", "norm"]
    parts = [pd.DataFrame(columns=moment)]
    for model, rows in frame[frame[f"{of}_norms"].notna()].groupby("model"):
        names = _layer_names(str(model), of)
        rows = rows[rows[f"{of}_norms"].map(len) == len(names)]
        norms = rows[f"{of}_norms"].tolist()
        long = rows[moment[:3]].assign(layer=[names] * len(rows), norm=norms)
        parts.append(long.explode(["layer", "norm"]))
    norms = pd.concat([part for part in parts if len(part)] or parts)
    start = norms[norms["epoch"] == 0].rename(columns={"norm": "start"})
    identity = ["run", "dataset", "model", "scale", "method", "lam"]
    identity += ["lam_features", "lam_classifier", "seed"]
    runs = frame.drop_duplicates("run")[identity]
    if measures is not None:
        every = measures[measures["measure"] == "norm-before-rescaling:last"]
        lacking = runs[~runs["run"].isin(every["run"])]["dataset"]
        every = every[~every["dataset"].isin(lacking)].rename(columns={"value": "norm"})
        kept = norms[(norms["epoch"] == 0) | ~norms["run"].isin(every["run"])]
        norms = pd.concat([part for part in (kept, every[moment]) if len(part)] or [kept])
    table = runs.merge(norms, on="run").merge(start[["run", "layer", "start"]], on=["run", "layer"])
    return table.astype({"norm": float, "start": float})


def _layer_names(model: str, of: str) -> list[str]:
    """Name a model's layers that have a weight, or a bias, in the order of the records."""
    images = SimpleNamespace(shape=(3, 64, 64), classes=range(10))  # names do not depend on it
    with torch.device("meta"):
        layers = trace_layers(build_model(model, images))  # type: ignore[arg-type]
    return [layer.name for layer in layers if getattr(layer, of) is not None]


def weight_norms(network: nn.Module) -> list[float]:
    """Return the Frobenius norm of each layer's weight, of the layers that have one."""
    weights = (layer.weight for layer in trace_layers(network))
    return [weight.detach().norm().item() for weight in weights if weight is not None]


def late_growth(norms: pd.DataFrame) -> pd.Series:
    """Return ln ‖W‖ at the end minus half-way, by layer and seed, of one method in one setting.

    Parameters
    ----------
    norms : DataFrame
        Rows of what `norms_by_layer` returned, one a layer, seed and epoch.

    Raises
    ------
    ValueError
        If there are several: two λ, say.
    """
    by_epoch = norms.pivot(index=["layer", "seed"], columns="epoch", values="norm")
    end = norms["epoch"].max()
    return np.log(by_epoch[end] / by_epoch[end // 2])


def whole_growth(norms: pd.DataFrame) -> pd.Series:
    """Return ln ‖W‖ at the end minus at the start, by layer and seed: see `late_growth`."""
    last = norms[norms["epoch"] == norms["epoch"].max()].set_index(["layer", "seed"])
    return np.log(last["norm"] / last["start"])


def prevention_verdicts(norms: pd.DataFrame) -> list[verdicts.Verdict]:
    """Judge in each setting that norms grow less with SWR than without (Section 3.3).

    Of ln ‖W‖ from start to end, in every layer whose norm grows in plain training by more than the
    claim's margin: elsewhere there is no growth to prevent.

    Parameters
    ----------
    norms : DataFrame
        What `norms_by_layer` returned, with one λ a method and setting.

    Returns
    -------
    list of Verdict
        One a setting, but for those without both methods, or where nothing grows.
    """
    claim = paper.find_claim("growth-prevented")
    assert isinstance(claim.margin, float)
    judged = []
    for _, rows in norms.groupby(["dataset", "model", "scale"]):
        if rows["epoch"].max() < 1 or not {"vanilla", "swr"} <= set(rows["method"]):
            continue
        plain, soft = (whole_growth(rows[rows["method"] == name]) for name in ("vanilla", "swr"))
        cases = []
        for layer in plain.index.unique("layer"):
            a, b = plain.loc[layer], soft.loc[layer]
            if a.mean() > claim.margin:
                what = f"{verdicts.setting(rows)}, {layer}: ln of the growth without SWR "
                what += f"({math.exp(a.mean()):.1f} times) minus with it "
                what += f"({math.exp(b.mean()):.1f} times)"
                cases.append(verdicts.of_two(what, a, b, claim.margin))
        if cases:
            judged.append(verdicts.judge_cases(claim, cases, scale=rows["scale"].iloc[0]))
    return judged


def divergence_verdicts(frame: pd.DataFrame) -> list[verdicts.Verdict]:
    """Judge in each setting that weights diverge where normalization is left alone (Section 3.3).

    The paper says so of its non-stationary experiments: there, of all layers the one whose norm
    grows most from half-way to the end counts, and has to double at least, by more than the size
    that matters. A run whose numbers cease to be finite counts as a hundredfold. What a single task
    shows is a remark.

    Parameters
    ----------
    frame : DataFrame
        Records of SWR that leaves normalization layers alone and, to be set beside it, of SWR:
        one λ a setting.

    Returns
    -------
    list of Verdict
        The claim's is *not run* where there is no non-stationary setting.
    """
    claim, remark = map(paper.find_claim, ("normalization-diverges", "normalization-single"))
    changing = frame["stream"].isin(CHANGING)
    judged = [
        _divergence(claim, rows)
        for _, rows in frame[changing].groupby(["stream", "dataset", "model", "scale"])
        if LEFT_ALONE in set(rows["method"])
    ]
    judged = judged or [verdicts.Verdict(claim, verdicts.NOT_RUN, verdicts.NOT_RUN)]
    for _, rows in frame[~changing].groupby(["dataset", "model", "scale"]):
        if {LEFT_ALONE, "swr"} <= set(rows["method"]):
            judged.append(_single_task(remark, rows))
    return judged


def _divergence(claim: Claim, rows: pd.DataFrame) -> verdicts.Verdict:
    growth = _most_growth(rows[rows["method"] == LEFT_ALONE])
    what = f"{verdicts.setting(rows)}: largest late growth of ln ‖W‖ ({growth.mean():.3f}"
    if "swr" in set(rows["method"]):
        beside = _most_growth(rows[rows["method"] == "swr"])
        what += f"; {beside.mean():.3f} where all are rescaled" if len(beside) else ""
    doubling = pd.Series(math.log(2), growth.index)
    case = verdicts.of_two(f"{what}) minus ln 2", growth, doubling, GROWN)
    return verdicts.judge_cases(claim, [case], scale=rows["scale"].iloc[0])


def _single_task(claim: Claim, rows: pd.DataFrame) -> verdicts.Verdict:
    """Say where norms and accuracy end, with normalization rescaled or not."""
    norms = norms_by_layer(rows)
    ends = norms[norms["epoch"] == norms["epoch"].max()]
    means = ends.assign(grown=ends["norm"] / ends["start"]).pivot_table("grown", "layer", "method")
    late = rows.drop_duplicates("run").set_index("run")["method"]
    accuracy = 100 * verdicts.outcomes.late_accuracy(rows).groupby(late).mean()
    detail = f"{verdicts.setting(rows)}, n = {rows['seed'].nunique()}: "
    if {LEFT_ALONE, "swr"} <= set(means):
        layer = (means[LEFT_ALONE] / means["swr"]).idxmax()
        detail += f"{layer} ends at {means.at[layer, LEFT_ALONE]:.1f} times its start where "
        detail += f"normalization is left alone, at {means.at[layer, 'swr']:.1f} where it is not; "
    detail += f"accuracy {accuracy[LEFT_ALONE]:.1f}% against {accuracy['swr']:.1f}%."
    return verdicts.Verdict(claim, verdicts.second_rule.REMARK, verdicts.second_rule.REMARK, detail)


def _most_growth(rows: pd.DataFrame) -> pd.Series:
    """Return by seed the `late_growth` of the layer where it is largest."""
    diverged = rows["seed"].isin(rows[rows["diverged"]]["seed"])
    counted = pd.Series(math.log(DIVERGED), rows[diverged]["seed"].unique())
    norms = norms_by_layer(rows[~diverged])
    return pd.concat([late_growth(norms).groupby("seed").max(), counted]) if len(norms) else counted
