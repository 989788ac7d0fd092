"""Norms of layers along a training, and beside the accuracy at its end."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from swrlib.figures import (
    MARKED,
    STYLE,
    grid_of,
    legend_below,
    look,
    name_of,
    of_methods,
    plain_ticks,
    setting_panels,
)
from swrlib.papers import SWR as paper
from swrlib.verdicts import coefficient, outcomes, setting

_CELL = ["dataset", "model"]


def spread(names: Sequence[str]) -> list[str]:
    """Choose up to three names, from the first to the last: those that get a panel."""
    places = np.unique(np.linspace(0, len(names) - 1, 3).round().astype(int))
    return [names[place] for place in places]


def panels(
    rows: pd.DataFrame, label: str, *, by: Sequence[str] = _CELL, **sharing: Any
) -> tuple[plt.Figure, list[tuple[plt.Axes, pd.DataFrame]]]:
    """Lay out a line of panels for each setting, a panel for each of up to three layers.

    Parameters
    ----------
    rows : DataFrame
        A row for each run, epoch and layer, as `swrlib.claims.norms.norms_by_layer` returns them.
    label : str
        Of the vertical axis.
    by : sequence of str
        Columns that tell the lines apart; a λ among them is part of the heading.
    **sharing
        ``sharex``, ``sharey`` of `matplotlib.pyplot.subplots`.

    Returns
    -------
    (Figure, list of (Axes, DataFrame))
        Each panel with the rows of its setting and layer, still to be drawn.
    """
    groups = [part for _, part in rows.groupby(list(by), dropna=False)]
    size = (6.5, 2.3 * len(groups) + 0.6)
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
        line[0].set_label(", ".join(filter(None, head)))
        line[0].set_ylabel(label)
    return figure, panels


def method_courses(ax: plt.Axes, rows: pd.DataFrame) -> None:
    """Draw norms over the epochs, mean over seeds: a line a method, dashed for a second λ."""
    lams = ["lam", "lam_features", "lam_classifier"]
    for method, own in of_methods(rows):
        groups = [part for _, part in own.groupby(lams, dropna=False)]
        for line, part in zip(itertools.cycle(("-", "--", ":")), groups):
            mean = part.groupby("epoch")["norm"].mean()
            name = [name_of(method), coefficient(part) if len(groups) > 1 else ""]
            style = {"color": STYLE[method][0], "ls": line, "lw": 1.6}
            ax.plot(mean, label=", ".join(filter(None, name)), **style)
            ax.plot(mean.iloc[-1:], **look(method, **MARKED))
    ax.set_xlabel("epoch")


def courses(norms: pd.DataFrame, label: str, **sharing: Any) -> plt.Figure:
    """Draw the courses of norms under each method: `panels`, `method_courses`, `legend_below`."""
    figure, drawn = panels(norms, label, **sharing)
    for ax, rows in drawn:
        method_courses(ax, rows)
    legend_below(figure)
    return figure


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
        there = [method for method in ("vanilla", "swr") if method in ratio]
        text = "at {:.2f} times its initial value with {}"
        ends = ", ".join(text.format(ratio[method], paper.label(method)) for method in there)
        parts.append(f"{setting(rows)}: the first layer's norm ends {ends}.")
    return " ".join(parts)


def norm_courses(without: pd.DataFrame, swr: pd.DataFrame, lam: float) -> tuple[plt.Figure, str]:
    """Draw each layer's norm over the steps, without SWR and with it, relative to its start.

    Parameters
    ----------
    without, swr : DataFrame
        Norms: a row a step, a column a layer.
    lam : float
        λ of the second.

    Returns
    -------
    (Figure, str)
        The picture and what it says.
    """
    ways = {"vanilla": ("without", without), "swr": (f"SWR, λ = {lam:g}", swr)}
    figure, axes = grid_of(without.shape[1], 3, 2.3, 2.2, sharey=True)
    for layer, ax in zip(without, axes.flat, strict=False):
        for method, (name, norms) in ways.items():
            course = norms[layer] / norms[layer].iloc[0]
            every = max(1, len(norms) // 5)
            ax.plot(course, **look(method, label=name, lw=1.8, markevery=every, **MARKED))
        ax.set(title=str(layer), xlabel="step", ylabel="‖W‖ / initial ‖W‖")
    legend_below(figure)
    plain, soft = (norms.iloc[-1] / norms.iloc[0] for norms in (without, swr))
    ends = ", ".join(f"{name} {soft[name]:.2f} ({plain[name]:.2f})" for name in without)
    return figure, (
        f"Norms by step for each layer. After {len(without) - 1} steps with λ = {lam:g} (without "
        f"SWR in brackets), in multiples of the initial norm: {ends}."
    )


def norms_and_accuracies(records: pd.DataFrame) -> tuple[plt.Figure, str]:
    """Draw final accuracy against the norm of all weights, one point a run.

    Parameters
    ----------
    records : DataFrame
        What `swrlib.load_records` returns, of one stream; runs need norms at their last epoch.

    Returns
    -------
    (Figure, str)
        The picture, a panel for each data set and model, the norm in multiples of the initial one;
        and what it shows, with the rank correlation of the two over all runs of a panel.
    """
    last = records.sort_values("epoch").groupby("run").tail(1).set_index("run")
    first = records[records["epoch"] == 0].set_index("run")["weight_norms"]
    size = [frame.map(np.linalg.norm) for frame in (last["weight_norms"], first)]
    points = last.assign(ratio=size[0] / size[1], accuracy=100 * outcomes.late_accuracy(records))
    figure, drawn = setting_panels(points.reset_index(), height=2.9)
    sentences = ["Test accuracy against the norm of all weights, a point a run."]
    for ax, rows in drawn:
        for method, own in of_methods(rows):
            style = look(method, label=name_of(method), alpha=0.8, ls="")
            ax.plot(own["ratio"], own["accuracy"], **style)
        ax.set(xscale="log", xlabel="norm of all weights / initial", ylabel="test accuracy, %")
        plain_ticks(ax.xaxis, (1, 2, 5))
        rank = rows["ratio"].corr(rows["accuracy"], method="spearman")
        sentences.append(f"{setting(rows)}: rank correlation {rank:+.2f} over {len(rows)} runs.")
    legend_below(figure)
    return figure, " ".join(sentences)
