"""Accuracy along a training as a difference from vanilla, a small panel a method."""

from __future__ import annotations

import math
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from swrlib.figures import BAND, STYLE, complete, heading, in_order, name_of
from swrlib.figures.accuracies import smoothed, thinned
from swrlib.papers import SWR as paper
from swrlib.statistics import mean_and_interval
from swrlib.verdicts import difference, late_by_seed, setting

#: How many small panels a line has; a phone shows two of them side by side.
COLUMNS = 4
_GREY: dict[str, Any] = {"color": "0.75", "lw": 0.6, "zorder": 1}


def against_vanilla(records: pd.DataFrame) -> tuple[plt.Figure, str]:
    """Draw each method's test accuracy minus vanilla's by epoch, all others in grey behind it.

    Differences are paired over seeds, with a 95% t interval; each epoch is averaged with those
    before it in its stage, a fortieth of all epochs. A grey band holds what is too small to matter.
    The first panel of a setting is vanilla's own accuracy, and its band the range of the paper's
    printed axis where the scale is the paper's.

    Parameters
    ----------
    records : DataFrame
        What `swrlib.load_records` returns, of one stream. Settings without vanilla are left out.

    Returns
    -------
    (Figure, str)
        The picture, and by how many points each method ends above vanilla, as written above its
        panel: the second rule's differences, of means of the last ten epochs.
    """
    parts = [part for _, part in records.groupby(["dataset", "model", "scale"])]
    settings = [part for part in parts if "vanilla" in set(part["method"])]
    lines = [math.ceil(part["method"].nunique() / COLUMNS) for part in settings]
    size = (1.55 * COLUMNS, 1.45 * max(1, sum(lines)))
    figure, axes = plt.subplots(max(1, sum(lines)), COLUMNS, figsize=size, squeeze=False)
    figure.subplots_adjust(0.03, 0.05, 0.99, 0.95, wspace=0.37, hspace=0.5)
    for ax in axes.flat:
        ax.set_axis_off()
    own = np.split(axes, np.cumsum(lines, dtype=int)[:-1])
    # Without a setting there is an empty line all the same.
    pairs = zip(own, settings, strict=False)
    sentences = [_setting(panels.ravel(), part) for panels, part in pairs]
    alone = [setting(part) for part in parts if "vanilla" not in set(part["method"])]
    sentences += [f"{name}: vanilla was not trained here." for name in alone]
    return figure, " ".join(sentences)


def _setting(axes: np.ndarray, rows: pd.DataFrame) -> str:
    """Draw the panels of one setting; say where each method ends."""
    axes[0].set_label(heading(rows))
    starts = rows[(rows["stage_epoch"] == 1) & (rows["stage"] > 1)]["epoch"].unique()
    late = late_by_seed(rows)
    plain = late["vanilla"].mean()
    estimates = {method: difference(late, method, "vanilla").difference for method in late}
    ends = 100 * pd.Series(estimates).fillna(late.mean() - plain)
    curves = _points(rows)
    methods = list(curves)
    for ax, method in zip(axes, methods, strict=False):
        ax.set_axis_on()
        color, _ = STYLE[method]
        for other in methods if method != "vanilla" else ():
            if other not in (method, "vanilla"):
                ax.plot(curves[other].mean(axis=1), **_GREY)
        mean, half = mean_and_interval(curves[method].T.to_numpy())
        epochs = curves[method].index
        ax.fill_between(epochs, mean - half, mean + half, color=color, **BAND)
        ax.plot(epochs, mean, color=color, lw=1.6, zorder=3)
        for start in starts:
            ax.axvline(start - 0.5, color="0.85", lw=0.8, zorder=0)
        value = f"{100 * plain:.1f}%" if method == "vanilla" else f"{ends[method]:+.2f}"
        ax.set_title(f"{name_of(method)}: {value}".replace("-", "−"), fontsize=9)
        ax.tick_params(labelsize=8, pad=1)
        unit = "accuracy, %" if method == "vanilla" else "points"
        ax.set_xlabel("epoch", fontsize=8, labelpad=1)
        ax.set_ylabel(unit, fontsize=8, labelpad=1)
        ax.locator_params(axis="x", nbins=3)
    _limits(axes, methods, curves, rows)
    said = ", ".join(f"{paper.label(m)} {ends[m]:+.2f}" for m in methods if m != "vanilla")
    return f"{setting(rows)}, points above vanilla at the end: {said or 'no other method'}."


def _points(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return smoothed accuracies minus vanilla's, and vanilla's own, in points: epochs by seeds."""
    rows = complete(rows[rows["epoch"] > 0], "test_accuracy")
    window = max(1, rows["epoch"].nunique() // 40)
    rows = thinned(smoothed(rows.sort_values("epoch"), "test_accuracy", window), most=100)
    wide = rows.pivot(index="epoch", columns=["method", "seed"], values="test_accuracy")
    wide = 100 * wide.astype(float).sort_index(axis=1)
    points = {}
    for method in in_order(rows):
        gaps = wide[method] if method == "vanilla" else wide[method] - wide["vanilla"]
        points[method] = gaps.dropna(axis=1, how="all").dropna()
    return points


def _limits(
    axes: np.ndarray, methods: list[str], curves: dict[str, pd.DataFrame], rows: pd.DataFrame
) -> None:
    """Give all differences one axis, cut where single epochs lie outside, and vanilla its own."""
    first = rows.iloc[0]
    cell = (first["dataset"], first["model"], first["stream"])
    printed = [p.axis for p in paper.panels if p.cell == cell and p.measure == "test_accuracy"]
    means = {method: curve.mean(axis=1) for method, curve in curves.items()}
    own = means["vanilla"]
    low, high = own.quantile(0.05), own.max()
    if first["scale"] == "paper" and printed and printed[0]:
        axes[0].axhspan(*(100 * end for end in printed[0]), color="0.93", zorder=-1, lw=0)
        low, high = min(low, 100 * printed[0][0]), max(high, 100 * printed[0][1])
    _set_limits(axes[0], low, high)
    others = [means[method] for method in methods if method != "vanilla"]
    if not others:
        return
    together = pd.concat(others)
    ends = [other.iloc[-1] for other in others]
    size = 100 * paper.size_that_matters(None, cell)
    low = min(together.quantile(0.03), *ends, *([-1.5 * size] if size > 0 else [0]))
    high = max(together.quantile(0.97), *ends, *([1.5 * size] if size > 0 else [0]))
    for ax in axes[1 : len(methods)]:
        if size > 0:
            ax.axhspan(-size, size, color="0.93", zorder=-1, lw=0)
        ax.axhline(0, color="0.35", lw=1, ls="--", zorder=2)
        _set_limits(ax, low, high)


def _set_limits(ax: plt.Axes, low: float, high: float) -> None:
    margin = 0.06 * (high - low) or 1.0
    ax.set_ylim(low - margin, high + margin)
