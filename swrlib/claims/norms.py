"""Norms of layers along trainings, and the verdicts on how they grow (Section 3.3)."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch

from swrlib import verdicts
from swrlib.layers import trace_layers
from swrlib.methods import SWRExceptNormalization
from swrlib.models import build_model
from swrlib.papers import SWR as paper
from swrlib.verdicts import Verdict, setting

#: SWR that leaves normalization layers alone.
LEFT_ALONE = SWRExceptNormalization.name
#: What the growth of a training whose numbers cease to be finite counts as.
DIVERGED = 100.0


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
    about = ["run", "dataset", "model", "scale", "method", "lam"]
    about += ["lam_features", "lam_classifier", "seed"]
    runs = frame.drop_duplicates("run")[about]
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


def prevention_verdicts(norms: pd.DataFrame) -> list[Verdict]:
    """Judge in each setting that norms grow less late with SWR than without (Section 3.3).

    The worst layer decides, among those whose norm still grows late in plain training: elsewhere
    there is no growth to prevent. For each, plain training's `late_growth` must exceed SWR's,
    paired over seeds; half of its own mean takes the place of the printed difference.

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
    found = []
    for _, rows in norms.groupby(["dataset", "model", "scale"]):
        end = rows["epoch"].max()
        if end < 2 or not {"vanilla", "swr"} <= set(rows[rows["epoch"] == end // 2]["method"]):
            continue
        plain, soft = (late_growth(rows[rows["method"] == name]) for name in ("vanilla", "swr"))
        judged = []
        for layer in plain.index.unique("layer"):
            a, b = plain.loc[layer], soft.loc[layer]
            if a.mean() <= 0:
                continue
            what = f"{setting(rows)}, {layer}: late growth of ln ‖W‖ without SWR"
            what += f" ({a.mean():.3f}) minus with it ({b.mean():.3f})"
            scale = rows["scale"].iloc[0]
            verdict = verdicts.judge_paired(claim, a, b, a.mean() / 2, what=what, scale=scale)
            judged.append((verdicts.severity(verdict.verdict), (a - b).mean() / a.mean(), verdict))
        if judged:
            found.append(min(judged, key=lambda case: case[:2])[2])
    return found


def divergence_verdicts(frame: pd.DataFrame) -> list[Verdict]:
    """Judge in each setting that weights diverge where normalization is left alone (Section 3.3).

    Of all layers the one whose norm grows most from half-way to the end counts. *Reproduced* if it
    at least doubles, with a t interval over seeds on the logarithm, *not reproduced* if the
    interval lies wholly below a doubling, else *undecided*. A run whose numbers cease to be finite
    counts as a hundredfold.

    Parameters
    ----------
    frame : DataFrame
        Records of SWR that leaves normalization layers alone and, to be set beside it, of SWR:
        one λ a setting.

    Returns
    -------
    list of Verdict
        *Not run* where there is no setting.
    """
    claim = paper.find_claim("normalization-diverges")
    found = []
    for _, rows in frame.groupby(["dataset", "model", "scale"]):
        growths = {method: _most_growth(part) for method, part in rows.groupby("method")}
        if LEFT_ALONE not in growths:
            continue
        growth = growths[LEFT_ALONE]
        what = f"{setting(rows)}: largest late growth of ln ‖W‖"
        if "swr" in growths and growths["swr"].notna().any():
            what += f" ({growth.mean():.3f}; {growths['swr'].mean():.3f} where all are rescaled)"
        doubling = pd.Series(math.log(2), growth.index)
        verdict = verdicts.judge_paired(
            claim,
            growth,
            doubling,
            0.0,
            what=f"{what} minus ln 2",
            scale=rows["scale"].iloc[0],
            rule=verdicts.comparable_verdict,
        )
        found.append(verdict)
    return found or [Verdict(claim, verdicts.NOT_RUN, verdicts.NOT_RUN, "", verdicts.NOT_PRINTED)]


def _most_growth(rows: pd.DataFrame) -> pd.Series:
    """Return by seed the `late_growth` of the layer where it is largest."""
    diverged = rows["seed"].isin(rows[rows["diverged"]]["seed"])
    found = pd.Series(math.log(DIVERGED), rows[diverged]["seed"].unique())
    norms = norms_by_layer(rows[~diverged])
    return pd.concat([late_growth(norms).groupby("seed").max(), found]) if len(norms) else found
