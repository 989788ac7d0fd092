"""Norms of layers along a training."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from swrlib.figures import MARKED, STYLE, in_order
from swrlib.papers import SWR as paper
from swrlib.verdicts import coefficient, setting

_CELL = ["dataset", "model"]


def spread(names: Sequence[str], most: int = 3) -> list[str]:
    """Choose up to so many names, from the first to the last: those that get a panel."""
    places = np.unique(np.linspace(0, len(names) - 1, most).round().astype(int))
    return [names[place] for place in places]


def panels(
    rows: pd.DataFrame, label: str, *, by: Sequence[str] = _CELL, **sharing: Any
) -> tuple[Figure, list[tuple[Axes, pd.DataFrame]]]:
    """Lay out a line of panels for each setting, a panel for each of up to three layers.

    Parameters
    ----------
    rows : DataFrame
        A row for each run, epoch and layer, as `swrlib.claims.norms.norms_by_layer` returns them.
    label : str
        Of the vertical axis.
    by : sequence of str
        Columns that tell the lines apart; a λ among them stands in the title.
    **sharing
        ``sharex``, ``sharey`` of `matplotlib.pyplot.subplots`.

    Returns
    -------
    (Figure, list of (Axes, DataFrame))
        Each panel with the rows of its setting and layer, still to be drawn.
    """
    groups = [part for _, part in rows.groupby(list(by), dropna=False)]
    size = (7.2, 2.5 * len(groups) + 0.6)
    figure, axes = plt.subplots(len(groups), 3, figsize=size, squeeze=False, **sharing)
    panels = []
    for part, line in zip(groups, axes, strict=True):
        layers = spread(list(part["layer"].unique()))
        for layer, ax in zip(layers, line, strict=False):
            ax.set_title(layer, loc="left")
            panels.append((ax, part[part["layer"] == layer]))
        for ax in line[len(layers) :]:
            ax.set_axis_off()
        head = [setting(part), coefficient(part) if "lam" in by else ""]
        line[0].set_title(f"{', '.join(filter(None, head))}\n{layers[0]}", loc="left")
        line[0].set_ylabel(label)
    return figure, panels


def method_courses(ax: Axes, rows: pd.DataFrame, value: str = "norm") -> None:
    """Draw a value over the epochs, mean over seeds: a line a method, dashed for a second λ."""
    for method in in_order(rows):
        color, marker = STYLE[method]
        lams = ["lam", "lam_features", "lam_classifier"]
        groups = [part for _, part in rows[rows["method"] == method].groupby(lams, dropna=False)]
        for line, part in zip(itertools.cycle(("-", "--", ":")), groups):
            mean = part.groupby("epoch")[value].mean()
            name = [paper.label(method), coefficient(part) if len(groups) > 1 else ""]
            ax.plot(mean, color=color, ls=line, lw=1.6, label=", ".join(filter(None, name)))
            ax.plot(mean.iloc[-1:], color=color, marker=marker, **MARKED)
    ax.set_xlabel("epoch")


def courses(norms: pd.DataFrame, label: str, **sharing: Any) -> Figure:
    """Draw the courses of norms under each method: `panels`, `method_courses`, `legend_below`."""
    figure, drawn = panels(norms, label, **sharing)
    for ax, rows in drawn:
        method_courses(ax, rows)
    legend_below(figure)
    return figure


def legend_below(figure: Figure, columns: int = 5) -> None:
    """Give all panels of a picture one legend, below them."""
    found: dict[str, Any] = {}
    for ax in figure.axes:
        handles, labels = ax.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    lines = math.ceil(len(found) / columns)
    figure.tight_layout(rect=(0, (0.1 + 0.22 * lines) / figure.get_figheight(), 1, 1))
    figure.legend(found.values(), found, loc="lower center", ncols=columns, fontsize=9)


def growth_sentence(norms: pd.DataFrame) -> str:
    """Say by how much the first layer's norm changed under vanilla and under SWR.

    Parameters
    ----------
    norms : DataFrame
        What `swrlib.claims.norms.norms_by_layer` returned.
    """
    parts = []
    for _, rows in norms.groupby(_CELL):
        first = rows[rows["layer"] == rows["layer"].iloc[0]]
        end = first[first["epoch"] == first["epoch"].max()]
        ratio = (end["norm"] / end["start"]).groupby(end["method"]).mean()
        ends = ", ".join(
            f"at {ratio[method]:.2f} times its initial value with {paper.label(method)}"
            for method in ("vanilla", "swr")
            if method in ratio
        )
        parts.append(f"{setting(rows)}: the first layer's norm ends {ends}.")
    return " ".join(parts)


def norm_courses(without: pd.DataFrame, with_swr: pd.DataFrame, lam: float) -> tuple[Figure, str]:
    """Draw each layer's norm over the steps, without SWR and with it, relative to its start.

    Parameters
    ----------
    without, with_swr : DataFrame
        Norms: a row a step, a column a layer.
    lam : float
        λ of the second.

    Returns
    -------
    (Figure, str)
        The picture and what it says.
    """
    ways = {"vanilla": ("without", without), "swr": (f"SWR, λ = {lam:g}", with_swr)}
    columns = min(4, without.shape[1])
    lines = math.ceil(without.shape[1] / columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(2.4 * columns + 1.2, 2.7 * lines), squeeze=False, sharey=True
    )
    for layer, ax in zip(without, axes.flat, strict=False):
        for method, (name, norms) in ways.items():
            color, marker = STYLE[method]
            style = {"color": color, "marker": marker, **MARKED}
            every = max(1, len(norms) // 5)
            course = norms[layer] / norms[layer].iloc[0]
            ax.plot(course, lw=1.8, label=name, markevery=every, **style)
        ax.set_title(str(layer), fontsize=11)
        ax.set_xlabel("step")
    for ax in axes.flat[without.shape[1] :]:
        ax.set_axis_off()
    for line in axes:
        line[0].set_ylabel("‖W‖ / ‖W‖ at the start")
    axes[0][-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.tight_layout()
    plain, soft = (norms.iloc[-1] / norms.iloc[0] for norms in (without, with_swr))
    ends = ", ".join(f"{name} {soft[name]:.2f} ({plain[name]:.2f})" for name in without)
    return figure, (
        f"Norms by step for each layer. After {len(without) - 1} steps with λ = {lam:g} (without "
        f"SWR in brackets), in multiples of the start: {ends}."
    )
