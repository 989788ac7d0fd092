"""Outcomes task by task: lines of methods, a small panel for each activation, say."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from swrlib.figures import STYLE, in_order, legend_below, method_lines, seeds_of
from swrlib.papers import SWR as paper
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
    level: float | None = None,
) -> tuple[Figure, str]:
    """Draw an outcome against the task: a line a method with its interval, SWR in front.

    The axis has all single runs; what of an interval reaches beyond them is cut.

    Parameters
    ----------
    rows : DataFrame
        ``method, seed, task``, the value and the panel's column, a row a run and task.
    value, label : str
        What is drawn, and its name on the axis.
    panel : str
        A panel for each value of this column.
    panels : iterable, optional
        Which, in this order. Of those without rows the sentence says that they were not run.
        Default: all.
    names : mapping, optional
        How they are called; default: as they are written.
    columns : int
        Panels side by side.
    level : float, optional
        A dashed line: from where on a task counts as lost, say.

    Returns
    -------
    (Figure, str)
        The picture, and who starts and ends where in each panel.
    """
    wanted = sorted(rows[panel].unique()) if panels is None else list(panels)
    parts, said = _parts(rows, value, panel, wanted, names)
    columns = max(1, min(columns, len(parts)))
    lines = max(1, math.ceil(len(parts) / columns))
    size = (max(3.6 * columns, 5.0), 2.7 * lines + 0.5)
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, sharey=True)
    for (which, part), ax in zip(parts.items(), axes.flat, strict=False):
        ax.set_title(f"{_name(which, names)}, {seeds_of(part)}", loc="left", fontsize=10)
        _lines(ax, part, value)
        if level is not None:
            ax.axhline(level, color="0.35", lw=0.9, ls="--", zorder=1)
    for ax in axes.flat[len(parts) :]:
        ax.set_axis_off()
    for line in axes:
        line[0].set_ylabel(label)
    _keep_to_runs(axes[0, 0], parts.values(), value)
    legend_below(figure)
    return figure, said


def _name(which: Any, names: Mapping[Any, str] | None) -> str:
    return (names or {}).get(which, str(which))


def _parts(
    rows: pd.DataFrame,
    value: str,
    panel: str,
    panels: Iterable[Any],
    names: Mapping[Any, str] | None,
) -> tuple[dict[Any, pd.DataFrame], str]:
    """Return the rows of each panel that has some, and what all panels say."""
    rows = rows.dropna(subset=[value]) if value in rows else rows[:0]
    parts, said = {}, []
    for which in panels:
        name, part = _name(which, names), rows[rows[panel] == which]
        if not len(part):
            said.append(f"{name}: not run.")
            continue
        parts[which] = part
        means = summarized(part, value).groupby("method")[["start", "late"]].mean()
        ends = ", ".join(
            f"{paper.label(m)} {means.at[m, 'start']:.3g} → {means.at[m, 'late']:.3g}"
            for m in paper.labels
            if m in means.index
        )
        said.append(f"{name}: {ends}.")
    return parts, " ".join(said)


def _lines(ax: Axes, rows: pd.DataFrame, value: str) -> None:
    method_lines(ax, rows, value, x="task")
    bring_to_front(ax)


def _keep_to_runs(ax: Axes, parts: Iterable[pd.DataFrame], value: str) -> None:
    """Let a vertical axis, which others may share, reach from the least to the greatest run."""
    values = [part[value].astype(float) for part in parts]
    if values:
        low, high = min(part.min() for part in values), max(part.max() for part in values)
        room = 0.05 * (high - low) or 1.0
        ax.set_ylim(low - room, high + room)


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
    """Draw several outcomes: a line of panels for each, a panel for each value of a column.

    Parameters
    ----------
    rows : DataFrame
        As for `by_task`; what a run lacks is left out.
    values : mapping of str to str
        What is drawn, in this order: the heading of its line, and its column.
    panel, panels, names
        As for `by_task`.

    Returns
    -------
    (Figure, str)
        The picture, and where each method starts and ends in each panel.
    """
    panels, said = list(panels), []
    there = [which for which in panels if (rows[panel] == which).any()]
    size = (max(1.42 * len(there), 3.0) + 0.6, 1.75 * len(values) + 0.7)
    shape = (len(values), max(1, len(there)))
    figure, axes = plt.subplots(*shape, figsize=size, squeeze=False, sharey="row", sharex=True)
    for place, ((label, value), line) in enumerate(zip(values.items(), axes, strict=True)):
        parts, text = _parts(rows, value, panel, panels, names)
        said.append(f"{label}: {text}")
        for which, ax in zip(there, line, strict=False):
            if which in parts:
                _lines(ax, parts[which], value)
            ax.set_title(_name(which, names), loc="left", fontsize=9)  # of each: lines may wrap
            ax.set(xlabel="task" if place == len(values) - 1 else "", ylabel="")
            ax.tick_params(labelsize=8)
        line[0].set_label(label)  # the heading of its line
        _keep_to_runs(line[0], parts.values(), value)
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
    events = events.dropna(subset=["onset", "fallen"])
    parts = {which: events[events[panel] == which] for which in panels}
    there = {which: part for which, part in parts.items() if len(part)}
    size = (max(2.3 * len(there), 5.0) + 0.4, 3.2)
    figure, axes = plt.subplots(1, max(1, len(there)), figsize=size, squeeze=False, sharey=True)
    end = events["tasks"].max() + 3 if len(events) else 2
    order = [*(m for m in in_order(events) if m != "swr"), "swr"]
    for (which, part), ax in zip(there.items(), axes[0], strict=False):
        ax.set_title(_name(which, names), loc="left", fontsize=10)
        ax.axline((1, 1), slope=1, color="0.6", lw=0.9, ls="--", zorder=0)
        for place, method in enumerate(order):
            color, marker = STYLE[method]
            for run in part[part["method"] == method].itertuples():
                whole = not (run.never or run.censored)
                look = {"color": color if whole else "none", "edgecolors": color, "marker": marker}
                ax.scatter(run.fallen + 0.3 * place, run.onset, s=26, zorder=2 + place, **look)
            ax.scatter([], [], color=color, marker=marker, label=paper.label(method))
        ax.set(xlabel="task at which the rank falls", xlim=(0, end), ylim=(0, end))
    axes[0][0].set_ylabel("task at which the error rises")
    legend_below(figure)
    said = [
        f"{_name(which, names)}: {_order_of_events(part) if len(part) else 'not run.'}"
        for which, part in parts.items()
    ]
    return figure, " ".join(said)


def _order_of_events(events: pd.DataFrame) -> str:
    """Count the runs in which the fall came first, in the same task, later; or neither came."""
    neither = events["never"].astype(bool) & events["censored"].astype(bool)
    lead = (events["onset"] - events["fallen"])[~neither].astype(float)
    return (
        f"of {len(events)} runs the rank fell before the error rose in {(lead > 0).sum()}, in the "
        f"same task in {(lead == 0).sum()}, later or not at all in {(lead < 0).sum()}; in "
        f"{neither.sum()} neither was seen."
    )
