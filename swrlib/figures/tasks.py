"""Outcomes task by task: lines of methods, a small panel for each activation, say."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from swrlib.figures import STYLE, method_lines
from swrlib.figures.layers import legend_below
from swrlib.papers import SWR as paper
from swrlib.verdicts import seed_count
from swrlib.verdicts.task_rule import summarized

#: Where SWR's band lies; its line lies just above.
_FRONT = 3.0


def by_task(
    rows: pd.DataFrame,
    value: str,
    label: str,
    *,
    panel: str,
    panels: Iterable[Any] | None = None,
    names: Mapping[Any, str] | None = None,
    columns: int = 2,
    log: bool = False,
    level: float | None = None,
) -> tuple[Figure, str]:
    """Draw an outcome against the task: a line a method with its interval, SWR in front.

    Parameters
    ----------
    rows : DataFrame
        ``method, seed, task``, the value and the panel's column, a row a run and task.
    value, label : str
        What is drawn, and its name on the axis.
    panel : str
        A panel for each value of this column.
    panels : iterable, optional
        Which, in this order; those without rows say that they were not run. Default: all.
    names : mapping, optional
        How they are called; default: as they are written.
    columns : int
        Panels side by side.
    log : bool
        A logarithmic axis.
    level : float, optional
        A dashed line: from where on a task counts as lost, say.

    Returns
    -------
    (Figure, str)
        The picture, and who starts and ends where in each panel.
    """
    wanted = sorted(rows[panel].unique()) if panels is None else list(panels)
    lines = max(1, math.ceil(len(wanted) / columns))
    size = (3.6 * columns, 2.7 * lines + 0.5)
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, sharey=True)
    said = []
    for which, ax in zip(wanted, axes.flat, strict=False):
        part = rows[rows[panel] == which].dropna(subset=[value])
        name = (names or {}).get(which, str(which))
        said.append(_panel(ax, part, value, name))
        if log:
            ax.set_yscale("log")
        if level is not None:
            ax.axhline(level, color="0.35", lw=0.9, ls="--", zorder=1)
    for ax in axes.flat[len(wanted) :]:
        ax.set_axis_off()
    for line in axes:
        line[0].set_ylabel(label)
    legend_below(figure)
    return figure, " ".join(said)


def _panel(ax: Axes, rows: pd.DataFrame, value: str, name: str) -> str:
    """Draw one panel; return what it says."""
    if not len(rows):
        ax.set_title(f"{name}: not run", loc="left", fontsize=10)
        return f"{name}: not run."
    seeds = seed_count(rows)
    title = f"{name}, {'one seed' if seeds == '1' else f'{seeds} seeds'}"
    ax.set_title(title, loc="left", fontsize=10)
    method_lines(ax, rows, value, x="task")
    bring_to_front(ax)
    means = summarized(rows, value).groupby("method")[["start", "late"]].mean()
    ends = ", ".join(
        f"{paper.label(method)} {means.at[method, 'start']:.3g} → {means.at[method, 'late']:.3g}"
        for method in paper.labels
        if method in means.index
    )
    return f"{name}: {ends}."


def bring_to_front(ax: Axes) -> None:
    """Put SWR's line and band before all others."""
    for line in ax.lines:
        if line.get_label() == paper.label("swr"):
            line.set(zorder=_FRONT + 0.1, linewidth=2.4)
    for band in ax.collections:
        if tuple(band.get_facecolor()[0][:3]) == tuple(STYLE["swr"][0]):  # type: ignore[index]
            band.set_zorder(_FRONT)
