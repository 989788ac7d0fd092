"""What predicts a task's end: correlations with intervals, by setting, and of single runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from swrlib.claims.predictors import ACROSS, BASELINES, BEYOND, NAMES, SIZE, WITHIN
from swrlib.figures import COLORS, STYLE, legend_below
from swrlib.papers import SWR as paper

#: Of each view: its colour, marker, and place within a line.
_VIEWS = {
    WITHIN: (COLORS[0], "o", -0.24),
    BEYOND: (COLORS[3], "s", 0.0),
    ACROSS: (COLORS[2], "D", 0.24),
}
_ROWS = (*NAMES, *BASELINES)
#: Narrow enough for a phone, where letters must still be read.
_WIDTH = 4.8
#: So many numbers stand beside each other in that width; more are turned.
_ACROSS = 7


def _lines(ax: plt.Axes) -> None:
    """Give each measure a line, groups apart, with the band of what does not matter."""
    groups = [name.split(":")[0] for name in _ROWS]
    ax.set_yticks(range(len(_ROWS)), _ROWS, fontsize=10)
    ax.set_ylim(len(_ROWS) - 0.5, -0.5)
    for row in range(1, len(_ROWS)):
        if groups[row] != groups[row - 1]:
            ax.axhline(row - 0.5, color="0.8", lw=0.8, zorder=0)
    ax.axvspan(-SIZE, SIZE, color="0.93", zorder=0)
    ax.axvline(0, color="0.6", lw=1, zorder=0)
    ax.set(xlim=(-1.03, 1.03), xlabel="Spearman's ρ with the task's error")
    ax.grid(False, axis="y")


def dots(judged: pd.DataFrame) -> plt.Figure:
    """Draw each measure's correlation over all settings with its interval, in three views.

    Parameters
    ----------
    judged : DataFrame
        What `swrlib.claims.prediction_rule.judged` returned.
    """
    figure, ax = plt.subplots(figsize=(_WIDTH, 0.36 * len(_ROWS) + 1.2))
    _lines(ax)
    for view, (color, marker, shift) in _VIEWS.items():
        rows = judged[(judged["view"] == view) & (judged["setting"] == "all")]
        rows = rows[rows["measure"].isin(_ROWS)].dropna(subset=["rho"])
        places = np.array([_ROWS.index(name) for name in rows["measure"]]) + shift
        ax.hlines(places, rows["low"], rows["high"], color=color, lw=1.8, alpha=0.6)
        ax.plot(rows["rho"], places, marker, color=color, ms=5, mec="white", mew=0.6, label=view)
    legend_below(figure, columns=3)
    return figure


def by_setting(judged: pd.DataFrame, view: str) -> plt.Figure:
    """Draw correlations, measures by settings, as a heat map with numbers.

    Parameters
    ----------
    judged : DataFrame
        What `swrlib.claims.prediction_rule.judged` returned.
    view : str
        Of `swrlib.claims.predictors.VIEWS`.
    """
    rows = judged[(judged["view"] == view) & (judged["setting"] != "all")]
    table = rows.pivot(index="measure", columns="setting", values="rho")
    return _heat(table.rename(columns=lambda name: name.replace(", ", "\n", 1)))


def by_method(runs: pd.DataFrame) -> plt.Figure:
    """Draw the mean of runs' correlations, measures by methods, as a heat map with numbers.

    Parameters
    ----------
    runs : DataFrame
        What `swrlib.claims.predictors.of_runs` returned.
    """
    table = runs.pivot_table(index="measure", columns="method", values="rho")
    return _heat(table[sorted(table, key=_place)].rename(columns=written))


def written(method: str) -> str:
    """Write a method and its strength for readers: "SWR 0.0003"."""
    name, *rest = method.split(" ", 1)
    return " ".join([paper.label(name), *rest])


def _place(method: str) -> tuple[int, str]:
    order, name = list(STYLE), method.split()[0]
    return (order.index(name) if name in order else len(order), method)


def _heat(table: pd.DataFrame) -> plt.Figure:
    table = table.reindex(_ROWS).astype(float)
    figure, ax = plt.subplots(figsize=(_WIDTH, 0.33 * len(_ROWS) + 1.2))
    text = table.map(lambda rho: "" if pd.isna(rho) else f"{rho:+.2f}".replace("0.", "."))
    look = {"vmin": -1, "vmax": 1, "cmap": "vlag", "cbar": False, "linewidths": 0.5}
    turned = table.shape[1] > _ACROSS
    numbers = {"size": 8 if turned else 9, "rotation": 90 if turned else 0}
    sns.heatmap(table, ax=ax, annot=text, fmt="", annot_kws=numbers, **look)
    ax.set(xlabel="", ylabel="")
    ax.tick_params(axis="x", rotation=90, labelsize=9)
    ax.tick_params(axis="y", rotation=0, labelsize=10)
    return figure


def of_single_runs(runs: pd.DataFrame) -> plt.Figure:
    """Draw each run's correlation as a point, by measure.

    Parameters
    ----------
    runs : DataFrame
        What `swrlib.claims.predictors.of_runs` returned.
    """
    figure, ax = plt.subplots(figsize=(_WIDTH, 0.34 * len(_ROWS) + 1.6))
    _lines(ax)
    known = runs.dropna(subset=["rho"])
    methods = sorted(known["method"].unique(), key=_place)
    by = {"x": "rho", "y": "measure", "order": _ROWS, "hue": "method", "hue_order": methods}
    look = {"size": 4, "jitter": 0.28, "alpha": 0.8, "palette": _colors(methods)}
    before = np.random.get_state()
    np.random.seed(0)  # seaborn takes no generator, and the picture should not change by itself
    sns.stripplot(known, ax=ax, **by, **look)
    np.random.set_state(before)
    ax.set(xlabel="ρ within one run", ylabel="")
    handles, labels = ax.get_legend_handles_labels()
    if (legend := ax.get_legend()) is not None:
        legend.remove()
        figure.tight_layout()
        below: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.0)}
        figure.legend(handles, map(written, labels), ncols=2, fontsize=9, **below)
    return figure


def _colors(methods: Iterable[str]) -> dict[str, Any]:
    return {method: STYLE.get(method.split()[0], ("0.4", "o"))[0] for method in methods}


def scatter(table: pd.DataFrame, measure: str, setting: str) -> tuple[plt.Figure, str]:
    """Draw a setting's tasks by a measure at their start and their trouble, a colour a method.

    Parameters
    ----------
    table : DataFrame
        What `swrlib.claims.predictors.tasks` returned.
    measure, setting : str

    Returns
    -------
    (Figure, str)
        The picture, and what it shows.
    """
    rows = table[table["setting"] == setting].dropna(subset=[measure])
    figure, ax = plt.subplots(figsize=(_WIDTH, 3.6))
    methods = sorted(rows["method"].unique(), key=_place)
    markers = {method: STYLE.get(method.split()[0], ("0.4", "o"))[1] for method in methods}
    by = {"x": measure, "y": "trouble", "hue": "method", "style": "method", "hue_order": methods}
    look = {"palette": _colors(methods), "markers": markers, "s": 26, "alpha": 0.7}
    sns.scatterplot(rows, ax=ax, **by, **look)
    ax.set(xlabel=f"{measure}, at the task's start", ylabel="error of the task")
    if (legend := ax.get_legend()) is not None:
        for text in legend.get_texts():
            text.set_text(written(text.get_text()))
        sns.move_legend(ax, "upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, title=None)
    if not len(rows):
        return figure, f"{setting}: {measure} was not measured."
    rho = rows[measure].corr(rows["trouble"], method="spearman")
    return figure, f"{setting}: {len(rows)} tasks, all seeds and methods together, ρ = {rho:+.2f}."
