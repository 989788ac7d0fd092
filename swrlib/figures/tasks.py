"""Outcomes task by task: lines of methods, a small panel for each activation, say."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from swrlib.figures import STYLE, in_order, method_lines
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
    limits: tuple[float, float] | None = None,
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
    limits : (float, float), optional
        Between which values can lie: what reaches beyond them, an interval say, is cut.
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
        part = rows[rows[panel] == which]
        name = (names or {}).get(which, str(which))
        said.append(_panel(ax, part, value, name))
        if limits is not None:
            room = 0.03 * (limits[1] - limits[0])
            ax.set_ylim(limits[0] - room, limits[1] + room)
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
    rows = rows.dropna(subset=[value]) if value in rows else rows[:0]
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


def grid(
    rows: pd.DataFrame,
    values: Mapping[str, str],
    *,
    panel: str,
    panels: Iterable[Any],
    names: Mapping[Any, str] | None = None,
) -> tuple[Figure, str]:
    """Draw several outcomes: a line of panels for each, a column for each value of a column.

    Parameters
    ----------
    rows : DataFrame
        As for `by_task`; what a run lacks is left out.
    values : mapping of str to str
        What is drawn, in this order: its name on the axis and its column.
    panel, panels, names
        As for `by_task`.

    Returns
    -------
    (Figure, str)
        The picture, and where each method starts and ends in each panel.
    """
    panels, names = list(panels), names or {}
    size = (1.9 * len(panels) + 0.6, 1.75 * len(values) + 0.7)
    figure, axes = plt.subplots(
        len(values), len(panels), figsize=size, squeeze=False, sharey="row", sharex=True
    )
    said = []
    for place, ((label, value), line) in enumerate(zip(values.items(), axes, strict=True)):
        for which, ax in zip(panels, line, strict=True):
            part = rows[rows[panel] == which]
            name = names.get(which, str(which))
            said.append(f"{label}, {_panel(ax, part, value, name)}")
            ax.set_title("" if place else name, loc="left", fontsize=9)
            ax.set(xlabel="task" if place == len(values) - 1 else "", ylabel="")
            ax.tick_params(labelsize=8)
        line[0].set_ylabel(label, fontsize=8)
    legend_below(figure)
    return figure, " ".join(said)


def what_came_first(
    events: pd.DataFrame,
    *,
    panel: str,
    panels: Iterable[Any],
    names: Mapping[Any, str] | None = None,
) -> tuple[Figure, str]:
    """Draw when the error rises against when a measure falls: a point a run, SWR's in front.

    Above the diagonal the measure falls first. What never came lies beyond the last task, hollow.

    Parameters
    ----------
    events : DataFrame
        ``method, seed, onset, censored, fallen, never, tasks`` and the panel's column, a row a run.
    panel, panels, names
        As for `by_task`.

    Returns
    -------
    (Figure, str)
        The picture, and how often which came first.
    """
    panels, events = list(panels), events.dropna(subset=["onset", "fallen"])
    size = (2.3 * len(panels) + 0.4, 3.2)
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, sharey=True)
    order = [*(m for m in in_order(events) if m != "swr"), "swr"]
    said = []
    for which, ax in zip(panels, axes[0], strict=True):
        part, name = events[events[panel] == which], (names or {}).get(which, str(which))
        ax.set_title(f"{name}{'' if len(part) else ': not run'}", loc="left", fontsize=10)
        ax.axline((1, 1), slope=1, color="0.6", lw=0.9, ls="--", zorder=0)
        for place, method in enumerate(order):
            color, marker = STYLE[method]
            for run in part[part["method"] == method].itertuples():
                whole = not (run.never or run.censored)
                look = {"color": color if whole else "none", "edgecolors": color, "marker": marker}
                ax.scatter(run.fallen + 0.15 * place, run.onset, s=40, zorder=2 + place, **look)
            ax.scatter([], [], color=color, marker=marker, label=paper.label(method))
        end = part["tasks"].max() + 2 if len(part) else 2
        ax.set(xlabel="rank falls, task", xlim=(0, end), ylim=(0, end))
        said.append(f"{name}: {_order_of_events(part)}")
    axes[0][0].set_ylabel("error rises, task")
    legend_below(figure)
    return figure, " ".join(said)


def _order_of_events(events: pd.DataFrame) -> str:
    """Count the runs in which the fall came first, in the same task, later; or neither came."""
    neither = events["never"].astype(bool) & events["censored"].astype(bool)
    lead = (events["onset"] - events["fallen"])[~neither].astype(float)
    return (
        f"of {len(events)} runs the rank fell before the error rose in {(lead > 0).sum()}, in the "
        f"same task in {(lead == 0).sum()}, later in {(lead < 0).sum()}; in {neither.sum()} "
        "neither was seen."
    )
