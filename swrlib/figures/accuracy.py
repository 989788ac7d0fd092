"""Accuracy along a training, over changes of data, and by λ."""

from __future__ import annotations

import itertools
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from swrlib import paper
from swrlib.figures.style import STYLE, complete, in_order, method_lines, setting_panels
from swrlib.verdicts import final_accuracy, setting

#: Epochs that long curves are averaged over, and the name of the points that are not.
SMOOTHED = 5
LAST_EPOCH = "last epoch alone"
_RIM: dict[str, Any] = {"markersize": 8, "markeredgecolor": "0.15"}


def curves(
    records: pd.DataFrame,
    *,
    value: str = "test_accuracy",
    label: str = "test accuracy",
    first_epoch: int = 0,
    changes: bool = True,
    references: dict[str, float] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw one curve a method: the mean over seeds with a t interval.

    Up to 60 epochs single runs stand thin behind it. Of more, each epoch is averaged with those
    before it in its stage, `SMOOTHED` in all, or spikes would hide everything; the axis says so,
    and a point with a dark rim at the end is the mean of the last epoch alone, as tables have it.

    Parameters
    ----------
    records : DataFrame
        What `swrlib.load_records` returns, of one data set, model and stream.
    value, label : str
        Which column, and its name on the axis.
    first_epoch : int
        The first epoch drawn.
    changes : bool
        Mark the changes of data.
    references : dict of str to float, optional
        Dashed horizontal lines by name.
    ax : Axes, optional
        Where to draw.
    """
    ax = ax or plt.subplots()[1]
    shown = records[records["epoch"] >= first_epoch].sort_values("epoch")
    starts = shown[(shown["stage_epoch"] == 1) & (shown["stage"] > 1)]["epoch"].unique()
    shown = complete(shown, value)
    long = shown["epoch"].nunique() > 60
    if long:
        _last_points(ax, shown, value)
        label = f"{label}, {SMOOTHED}-epoch mean"
        late = shown.groupby(["method", "seed", "stage"])[value].rolling(SMOOTHED, min_periods=1)
        shown = shown.assign(**{value: late.mean().droplevel([0, 1, 2])})
    else:  # of long ones they would hide the means
        thin = {"lw": 0.5, "alpha": 0.35, "legend": False, "ax": ax}
        palette = {method: STYLE[method][0] for method in shown["method"].unique()}
        runs = {"hue": "method", "palette": palette, "units": "seed", "estimator": None}
        sns.lineplot(shown, x="epoch", y=value, **runs, **thin)
    method_lines(ax, shown, value, label=label)
    for start in starts if changes else ():
        ax.axvline(start - 0.5, color="0.75", lw=0.8, zorder=0)
    for (name, level), line in zip((references or {}).items(), itertools.cycle(("--", ":"))):
        ax.axhline(level, color="0.35", lw=1.2, ls=line, label=name)
    if long:
        ax.plot([], [], ls="", marker="o", color="white", label=LAST_EPOCH, **_RIM)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax.get_figure()  # type: ignore[return-value]


def _last_points(ax: Axes, rows: pd.DataFrame, value: str) -> None:
    for method in in_order(rows):
        own = rows[rows["method"] == method]
        last = own[own["epoch"] == own["epoch"].max()]
        color, marker = STYLE[method]
        point = {"color": color, "marker": marker, "zorder": 4, **_RIM}
        ax.plot(last["epoch"].iloc[:1], [last[value].mean()], **point)


def course(records: pd.DataFrame, *, references: bool = True) -> tuple[Figure, str]:
    """Draw the course of test accuracy, a panel for each data set and model.

    Parameters
    ----------
    records : DataFrame
        What `swrlib.load_records` returns, of one stream.
    references : bool
        Dashed lines at the final accuracy of vanilla and of full reset.

    Returns
    -------
    (Figure, str)
        The picture, and a sentence that says who ended highest and lowest.
    """
    figure, panels = setting_panels(records, height=4.2)
    sentences = []
    for ax, rows in panels:
        ends = final_accuracy(rows).groupby("method")["test_accuracy"].mean()
        lines = {
            f"{paper.label(m)} at the end": float(ends[m])
            for m in ("vanilla", "full-reset")
            if references and m in ends
        }
        curves(rows, first_epoch=1, references=lines, ax=ax)
        # A network right after a reset would press all curves together; every end is shown.
        low = min(rows[rows["epoch"] >= 1]["test_accuracy"].quantile(0.08), ends.min())
        high = rows["test_accuracy"].max()
        ax.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        sentences.append(
            who_ends_where(rows, "{} ends highest with {:.1%} and {} lowest with {:.1%}")
        )
    figure.tight_layout()
    return figure, " ".join(sentences)


def who_ends_where(rows: pd.DataFrame, form: str) -> str:
    """Say of one setting which method ends highest and which lowest, and at what accuracy."""
    ends = final_accuracy(rows).groupby("method")["test_accuracy"].mean()
    extremes = ((paper.label(str(m)), ends[m]) for m in (ends.idxmax(), ends.idxmin()))
    return f"{setting(rows)}: {form.format(*itertools.chain(*extremes))}."


def drops(changes: pd.DataFrame) -> tuple[Figure, str]:
    """Draw what `swrlib.verdicts.changes_of_data` returned; return the picture and what it says."""
    figure, panels = setting_panels(changes, height=3.6, columns=2, width=8.6)
    sentences = []
    names = ("test accuracy gained at a change", "training accuracy at the end")
    for axes, part in panels:
        for value, name, ax in zip(("drop", "train_accuracy"), names, axes, strict=True):
            whole = {"errorbar": ("pi", 100), "lw": 1.5}  # from the least to the greatest
            method_lines(ax, part, value, x="stage", label=name, **whole)
        axes[0].axhline(0, color="0.35", lw=1, ls="--")
        axes[1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        means = part.groupby("method")["drop"].mean().sort_values()
        sentences.append(
            f"{setting(part)}: at a change of data {paper.label(str(means.index[0]))} moves by "
            f"{100 * means.iloc[0]:+.1f} points on average, {paper.label(str(means.index[-1]))} "
            f"by {100 * means.iloc[-1]:+.1f}."
        )
    figure.tight_layout()
    return figure, " ".join(sentences)


def by_lambda(finals: pd.DataFrame) -> tuple[Figure, str]:
    """Draw final accuracy against λ, one point per seed, the mean as a line; say where it is best.

    Parameters
    ----------
    finals : DataFrame
        ``lam``, ``test_accuracy``, a row a run.
    """
    figure, ax = plt.subplots(figsize=(6, 3))
    mean = finals.groupby("lam")["test_accuracy"].mean()
    color, marker = STYLE["swr"]
    ax.plot(finals["lam"], finals["test_accuracy"], ls="", marker=marker, color=color, alpha=0.5)
    ax.plot(mean, color=color, lw=1.8)
    ax.set(xscale="log", xlabel="λ", ylabel="held-out accuracy")
    return figure, (
        f"Held-out accuracy by λ: best at λ = {mean.idxmax():g} with {100 * mean.max():.1f}%, "
        f"least at λ = {mean.idxmin():g} with {100 * mean.min():.1f}%."
    )
