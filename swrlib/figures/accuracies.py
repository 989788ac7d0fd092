"""Accuracies: along a training, over changes of data, at its end, by λ, and Fig. 1's."""

from __future__ import annotations

import itertools
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from swrlib.figures import (
    BAND,
    COLORS,
    MARKED,
    PANEL_WIDTH,
    STYLE,
    complete,
    grid_of,
    in_order,
    interval,
    legend_below,
    look,
    method_lines,
    name_of,
    of_methods,
    setting_panels,
)
from swrlib.papers import SWR as paper
from swrlib.statistics import mean_and_interval
from swrlib.verdicts import difference, late_by_seed, setting

#: Epochs that long curves are averaged over, and the name of the points that are not.
SMOOTHED = 5
LAST_EPOCH = "last epoch alone"
#: Training accuracies that differ by less than this are not drawn: all have learnt everything.
ALIKE = 0.002
#: Those that differ by more are told in words, too.
UNLIKE = 0.05
_RIM: dict[str, Any] = {"markersize": 8, "markeredgecolor": "0.15"}


def curves(
    records: pd.DataFrame,
    *,
    value: str = "test_accuracy",
    label: str = "test accuracy",
    first_epoch: int = 0,
    references: dict[str, float] | None = None,
    ax: plt.Axes | None = None,
) -> plt.Figure:
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
        shown = thinned(smoothed(shown, value))
    else:  # of long ones they would hide the means
        thin = {"lw": 0.5, "alpha": 0.35, "legend": False, "ax": ax}
        palette = {method: STYLE[method][0] for method in shown["method"].unique()}
        runs = {"hue": "method", "palette": palette, "units": "seed", "estimator": None}
        sns.lineplot(shown, x="epoch", y=value, **runs, **thin)
    method_lines(ax, shown, value, label=label)
    for start in starts:
        ax.axvline(start - 0.5, color="0.75", lw=0.8, zorder=0)
    for (name, level), line in zip((references or {}).items(), itertools.cycle(("--", ":"))):
        ax.axhline(level, color="0.35", lw=1.2, ls=line, label=name)
    if long:
        ax.plot([], [], ls="", marker="o", color="white", label=LAST_EPOCH, **_RIM)
    return ax.get_figure()  # type: ignore[return-value]


def smoothed(rows: pd.DataFrame, value: str, window: int = SMOOTHED) -> pd.DataFrame:
    """Average each epoch with those before it in its stage, ``window`` in all."""
    late = rows.groupby(["method", "seed", "stage"])[value].rolling(window, min_periods=1)
    return rows.assign(**{value: late.mean().droplevel([0, 1, 2])})


def thinned(rows: pd.DataFrame, most: int = 200) -> pd.DataFrame:
    """Keep about so many epochs, evenly spaced, the last ones of stages among them."""
    epochs = rows.groupby("epoch")["stage"].first()
    every = max(1, len(epochs) // most)
    last = epochs.index[epochs != epochs.shift(-1)]
    return rows[rows["epoch"].isin(last) | (rows["epoch"] % every == 0)]


def _last_points(ax: plt.Axes, rows: pd.DataFrame, value: str) -> None:
    for method, own in of_methods(rows):
        last = own[own["epoch"] == own["epoch"].max()]
        ax.plot(last["epoch"].iloc[:1], [last[value].mean()], **look(method, zorder=4, **_RIM))


def course(records: pd.DataFrame, *, references: bool = True) -> tuple[plt.Figure, str]:
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
    figure, panels = setting_panels(records, height=3.0)
    sentences = []
    for ax, rows in panels:
        ends = late_by_seed(rows).mean()
        named = [m for m in ("vanilla", "full-reset") if references and m in ends]
        lines = {f"{paper.label(m)} at the end": float(ends[m]) for m in named}
        curves(rows, first_epoch=1, references=lines, ax=ax)
        # A network right after a reset would press all curves together; every end is shown.
        low = min(rows[rows["epoch"] >= 1]["test_accuracy"].quantile(0.08), ends.min())
        high = rows["test_accuracy"].max()
        ax.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        form = "{} ends highest with {:.1%} and {} lowest with {:.1%}"
        sentences.append(who_ends_where(rows, form))
    legend_below(figure)
    return figure, " ".join(sentences)


def who_ends_where(rows: pd.DataFrame, form: str) -> str:
    """Say of one setting which method ends highest and which lowest, and at what accuracy."""
    ends = late_by_seed(rows).mean().sort_values()
    lowest, highest = paper.label(str(ends.index[0])), paper.label(str(ends.index[-1]))
    said = form.format(highest, ends.iloc[-1], lowest, ends.iloc[0])
    return f"{setting(rows)}: {said}."


def changes(table: pd.DataFrame) -> tuple[plt.Figure, str]:
    """Draw what `verdicts.changes_of_data` returned; return the picture and what it says.

    On the left the drop, which is what a change of data takes from the test accuracy: a point for
    each change, the mean over seeds, and the mean of all with its 95% t interval. On the right the
    training accuracy at the ends of stages in the same way, where methods differ in it.
    """
    figure, panels = setting_panels(table, height=0.3 * table["method"].nunique() + 0.9, columns=2)
    names = {"drop": "drop of test accuracy, points", "train_accuracy": "training accuracy, %"}
    sentences = []
    for axes, part in panels:
        for (value, name), ax in zip(names.items(), axes, strict=True):
            if value == "train_accuracy" and np.ptp(part[value]) < ALIKE:
                ax.set_axis_off()
                continue
            means = 100 * part.pivot_table(index="method", columns="stage", values=value)
            seeds = 100 * part.pivot_table(index="method", columns="seed", values=value)
            rows = {m: _with_interval(means.loc[m], seeds.loc[m]) for m in in_order(part)}
            _points_and_means(ax, rows, name)
        axes[0].axvline(0, color="0.35", lw=1, ls="--")
        average = 100 * part.groupby("method")["drop"].mean().sort_values()
        said = ", ".join(f"{paper.label(str(m))} {x:+.1f}" for m, x in average.items())
        sentences.append(f"{setting(part)}, mean drop of test accuracy, points: {said}.")
        learnt = 100 * part.groupby("method")["train_accuracy"].mean().sort_values()
        if learnt.iloc[-1] - learnt.iloc[0] >= 100 * UNLIKE:
            said = ", ".join(f"{paper.label(str(m))} {x:.1f}" for m, x in learnt.items())
            sentences.append(f"Training accuracy at a stage's end, %: {said}.")
    figure.tight_layout()
    return figure, " ".join(sentences)


def by_lambda(finals: pd.DataFrame) -> tuple[plt.Figure, str]:
    """Draw final accuracy against λ, one point per seed, the mean as a line; say where it is best.

    Parameters
    ----------
    finals : DataFrame
        A row a run, as `verdicts.final_accuracy` returns them: a panel for each stream, data set,
        model and method.
    """
    groups = finals.groupby(["stream", "dataset", "model", "method"])
    figure, axes = grid_of(len(groups), 2, PANEL_WIDTH, 2.3)
    sentences = []
    for ax, (key, rows) in zip(axes.flat, groups, strict=False):
        stream, dataset, model = map(paper.label, key[:3])
        method = name_of(key[3])
        accuracy = 100 * rows["test_accuracy"]
        mean = accuracy.groupby(rows["lam"]).mean()
        ax.plot(rows["lam"], accuracy, **look(key[3], ls="", alpha=0.5))
        ax.plot(mean, color=STYLE[key[3]][0], lw=1.8)
        ax.set(xscale="log", xlabel=f"λ of {method}", ylabel="held-out accuracy, %")
        ax.set_title(f"{dataset}, {model}, {stream}", fontsize=9)
        best = mean.idxmax()
        edge = ", the edge of its grid, so that it may lie beyond"
        sentences.append(
            f"{method}, {dataset}, {model}, {stream}: held-out accuracy is best at λ = {best:g} "
            f"with {mean.max():.1f}%{edge if best in (mean.index[0], mean.index[-1]) else ''}; it "
            f"is least at λ = {mean.idxmin():g} with {mean.min():.1f}%."
        )
    figure.tight_layout()
    return figure, " ".join(sentences)


def _points_and_means(
    ax: plt.Axes, rows: dict[str, tuple[pd.Series, float, float]], label: str
) -> None:
    """Draw a row a method: points, and just above them a mean with the half of its interval."""
    for row, (method, (points, mean, half)) in enumerate(rows.items()):
        ax.plot(points, np.full(len(points), row + 0.18), **look(method, ls="", alpha=0.5, ms=5))
        ax.errorbar(mean, row - 0.12, xerr=half, capsize=3, ms=7, **look(method))
    ax.set(yticks=range(len(rows)), yticklabels=map(name_of, rows))
    ax.set(xlabel=label, ylim=(len(rows) - 0.5, -0.5))


def _with_interval(points: pd.Series, averaged: pd.Series) -> tuple[pd.Series, float, float]:
    """Return points, and the mean of others with the half-width of its t interval."""
    mean, half = mean_and_interval(averaged.dropna().to_numpy())
    return points, float(mean), float(half)


def finals(records: pd.DataFrame, *, ax: plt.Axes | None = None) -> plt.Figure:
    """Draw how accurate methods end, means of the last epochs: a point a seed, and their mean."""
    ax = ax or plt.subplots(figsize=(7.2, 3.2))[1]
    late = late_by_seed(records)
    rows = {m: _with_interval(late[m].dropna(), late[m]) for m in in_order(records)}
    _points_and_means(ax, rows, "test accuracy, mean of the last epochs")
    return ax.get_figure()  # type: ignore[return-value]


def differences_at_the_end(records: pd.DataFrame) -> tuple[plt.Figure, str]:
    """Draw how accurate methods end minus vanilla's mean, with the interval that verdicts have.

    Parameters
    ----------
    records : DataFrame
        What `swrlib.load_records` returns, of one stream.

    Returns
    -------
    (Figure, str)
        The picture, a panel for each data set and model, and what it says. A point is a seed, the
        mean of its last ten epochs; there is no interval under three seeds. Settings without
        vanilla have an empty panel.
    """
    height = 0.34 * records["method"].nunique() + 0.9
    figure, panels = setting_panels(records, height=height)
    sentences = []
    for ax, rows in panels:
        late = late_by_seed(rows)
        if "vanilla" not in late:
            said = "vanilla was not trained here"
            ax.text(0.5, 0.5, said, ha="center", transform=ax.transAxes)
            ax.set(xticks=[], yticks=[])
            sentences.append(f"{setting(rows)}: {said}.")
            continue
        gaps = 100 * (late - late["vanilla"].mean())
        drawn = {}
        for method in (m for m in in_order(rows) if m != "vanilla"):
            mean, low, high = difference(late, method, "vanilla").interval()
            mean = gaps[method].mean() if np.isnan(mean) else 100 * mean
            drawn[method] = (gaps[method].dropna(), mean, 50 * (high - low))
        above = "points above vanilla"
        _points_and_means(ax, drawn, above)
        ax.axvline(0, color="0.35", lw=1, ls="--")
        said = ", ".join(f"{paper.label(m)} {mean:+.2f}" for m, (_, mean, _) in drawn.items())
        sentences.append(f"{setting(rows)}, {above}: {said}.")
    figure.tight_layout()
    return figure, " ".join(sentences)


def finals_beside_paper(records: pd.DataFrame, number: int) -> tuple[plt.Figure, str]:
    """Draw final accuracies with Table 1's or 5's means ± standard deviations as bands.

    Returns
    -------
    (Figure, str)
        The picture, a panel for each data set and model, and what it says.
    """
    figure, panels = setting_panels(records, height=0.36 * records["method"].nunique() + 0.9)
    sentences = []
    for ax, rows in panels:
        finals(rows, ax=ax)
        dataset, model, scale = rows.iloc[0][["dataset", "model", "scale"]]
        printed = paper.tables[number].accuracy.get((dataset, model), {})
        printed = printed if scale == "paper" else {}
        for row, method in enumerate(in_order(rows)):
            if method in printed:
                mean, std = printed[method].mean, printed[method].std
                ax.barh(row, 2 * std, left=mean - std, height=0.8, color="0.85", zorder=0)
                ax.plot([mean] * 2, [row - 0.4, row + 0.4], color="0.5", lw=1)
        sentences.append(who_ends_where(rows, "{} ends highest with {:.2%}, {} lowest with {:.2%}"))
    figure.tight_layout()
    return figure, " ".join(sentences)


#: The accuracies of Fig. 1, by column of `swrlib.claims.proportionality.scaled_runs`: name and
#: line. Those of trained networks are in one panel, that right after the scaling in another, as in
#: the paper.
_SCALED = {
    "fine-tuned accuracy": {
        "best_before": ("best before the scaling", {"color": COLORS[7], "ls": "-."}),
        "best_after": ("best of the fine-tuning", {"color": COLORS[0], "marker": "o"}),
    },
    "accuracy after scaling": {
        "after": ("right after the scaling", {"color": COLORS[1], "ls": "--", "marker": "s"}),
    },
}


def scaling(rows: pd.DataFrame) -> tuple[plt.Figure, str]:
    """Draw Fig. 1, for one reading of the ratio.

    Parameters
    ----------
    rows : DataFrame
        What `swrlib.claims.proportionality.scaled_runs` returned, of one reading.

    Returns
    -------
    (Figure, str)
        The picture, without proportionality on the left and with it on the right, the printed axes
        behind it where the records are the paper's; and what it says.
    """
    figure, axes = plt.subplots(2, 2, figsize=(2 * PANEL_WIDTH, 5.4), sharey="row", sharex=True)
    sides = {"untouched": "biases untouched", "proportional": "proportional"}
    first = rows.iloc[0]
    cell = (first["dataset"], first["model"], "scaled")
    printed = {p.measure: p.axis for p in paper.panels if p.cell == cell}
    sentences = []
    for (measure, lines), line in zip(_SCALED.items(), axes, strict=True):
        for (biases, title), ax in zip(sides.items(), line, strict=True):
            part = rows[rows["biases"] == biases]
            for value, (name, style) in lines.items():
                table = part.pivot_table(index="seed", columns="ratio", values=value).dropna(axis=1)
                line_of = {"errorbar": interval, "err_kws": BAND, "lw": 1.8, **MARKED, **style}
                sns.lineplot(table.melt(), x="ratio", y="value", ax=ax, label=name, **line_of)
                mean = table.mean()
                if value != "best_before":
                    sentences.append(
                        f"{title.capitalize()}, {name}: {mean.iloc[-1]:.1%} at ratio "
                        f"{mean.index[-1]:g}, {mean.iloc[0]:.1%} at {mean.index[0]:g}."
                    )
            if measure in printed and first["scale"] == "paper":
                ax.axhspan(*printed[measure], color="0.94", zorder=-1, lw=0)  # type: ignore[misc]
            ax.get_legend().remove()
            ax.set(xlabel="scaling ratio", xlim=(1.03, -0.03), ylabel="")
            ax.set_title(title)
        line[0].set_ylabel(measure)
    legend_below(figure, columns=1)
    return figure, " ".join(sentences)
