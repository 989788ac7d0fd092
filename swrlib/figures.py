"""Pictures: one palette for the whole book, one function for each kind of picture.

Lines go out as SVG that does not change from build to build, clouds of points as PNG. The
alternative text travels with the picture as metadata of the output.
"""

from __future__ import annotations

import base64
import html
import io
import itertools
import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from swrlib.papers import SWR as paper
from swrlib.verdicts import (
    coefficient,
    final_accuracy,
    mean_and_interval,
    seed_count,
    setting,
)

#: Colour and marker of each method: the colour-blind palette, and a marker so that colour is not
#: needed.
_COLORS = sns.color_palette("colorblind")
STYLE: dict[str, tuple[Any, str]] = {
    "vanilla": (_COLORS[7], "o"),
    "l2": (_COLORS[0], "s"),
    "l2-init": (_COLORS[9], "D"),
    "shrink-perturb": (_COLORS[1], "v"),
    "head-reset": (_COLORS[8], "^"),
    "swr": (_COLORS[3], "*"),
    "swr-reinit": (_COLORS[4], "P"),
    "swr-except-normalization": (_COLORS[6], "h"),
    "full-reset": (_COLORS[5], "X"),
    "adamw": (_COLORS[2], "p"),
}
MARKED: dict[str, Any] = {"markersize": 5, "markeredgecolor": "white", "markeredgewidth": 0.6}


#: Epochs that long curves are averaged over, and the name of the points that are not.
SMOOTHED = 5
LAST_EPOCH = "last epoch alone"
_CELL = ["dataset", "model"]


def use_style() -> None:
    """Set the look of all pictures: white ground, light grid, reproducible SVG."""
    sns.set_theme(context="notebook", style="whitegrid")
    mpl.rcParams.update(
        {
            "figure.figsize": (7.2, 4.2),
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "svg.hashsalt": "swrlib",
            "svg.fonttype": "path",
            "legend.frameon": False,
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    )


def show(figure: Figure, alt: str, *, cloud: bool = False) -> None:
    """Display a picture with its alternative text, as SVG, or as PNG where there are many points.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        Closed afterwards.
    alt : str
        What the picture shows and what it says, for those who do not see it.
    cloud : bool
        PNG at 200 dots per inch instead of SVG.
    """
    from IPython.display import display

    kind = "image/png" if cloud else "image/svg+xml"
    data = _rendered(figure, "png" if cloud else "svg")
    text = base64.b64encode(data).decode() if cloud else data.decode()
    display({kind: text, "text/plain": alt}, raw=True, metadata={kind: {"alt": alt}})


def as_html(figure: Figure, alt: str) -> str:
    """Return a picture as an HTML image that carries its own data."""
    data = base64.b64encode(_rendered(figure, "svg")).decode()
    return f'<img src="data:image/svg+xml;base64,{data}" alt="{html.escape(alt)}">'


def _rendered(figure: Figure, form: str) -> bytes:
    buffer = io.BytesIO()
    # Without a date the same picture is the same file.
    options: dict[str, Any] = {"dpi": 200} if form == "png" else {"metadata": {"Date": None}}
    figure.savefig(buffer, format=form, bbox_inches="tight", **options)
    plt.close(figure)
    return buffer.getvalue()


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
    shown = records[records["epoch"] >= first_epoch]
    stages = shown.groupby("epoch")["stage"].first()
    long = len(stages) > 60
    for number, method in enumerate(m for m in STYLE if m in set(shown["method"])):
        table = shown[shown["method"] == method].pivot_table(
            index="seed", columns="epoch", values=value, aggfunc="last"
        )
        table = table.dropna(axis=1)
        epochs = table.columns.to_numpy()
        color, marker = STYLE[method]
        if long:
            rim: dict[str, Any] = {"markersize": 8, "markeredgecolor": "0.15", "zorder": 4}
            ax.plot(epochs[-1:], [table.iloc[:, -1].mean()], color=color, marker=marker, **rim)
            blocks = table.T.groupby(stages[epochs]).rolling(SMOOTHED, min_periods=1)
            table = blocks.mean().droplevel(0).T
        mean, half = mean_and_interval(table.to_numpy())
        if not long:  # they would hide the means
            ax.plot(epochs, table.to_numpy().T, color=color, lw=0.5, alpha=0.35)
        ax.fill_between(epochs, mean - half, mean + half, color=color, alpha=0.12, lw=0)
        every = max(1, len(epochs) // 8)
        ax.plot(
            epochs,
            mean,
            color=color,
            lw=1.8,
            marker=marker,
            markevery=(number % every, every),
            label=paper.label(method),
            **MARKED,
        )
    if changes:
        starts = shown[(shown["stage_epoch"] == 1) & (shown["stage"] > 1)]["epoch"].unique()
        for start in starts:
            ax.axvline(start - 0.5, color="0.75", lw=0.8, zorder=0)
    for (name, level), line in zip((references or {}).items(), itertools.cycle(("--", ":"))):
        ax.axhline(level, color="0.35", lw=1.2, ls=line, label=name)
    if long:
        rim = {"markersize": 8, "markeredgecolor": "0.15"}
        ax.plot([], [], ls="", marker="o", color="white", label=LAST_EPOCH, **rim)
    name = f"{label}, {SMOOTHED}-epoch mean" if long else label
    ax.set(xlabel="epoch", ylabel=name)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax.get_figure()  # type: ignore[return-value]


def _seeds_and_mean(ax: Axes, row: int, method: str, values: pd.Series) -> None:
    """Draw one point per seed in a row, and the mean with its t interval just above them."""
    color, marker = STYLE[method]
    mean, half = mean_and_interval(values.to_numpy())
    points = {"color": color, "marker": marker}
    ax.plot(values, np.full(len(values), row) + 0.18, ls="", alpha=0.5, ms=5, **points)
    ax.errorbar(mean, row - 0.12, xerr=half, capsize=3, ms=7, **points)


def finals(records: pd.DataFrame, *, ax: Axes | None = None) -> Figure:
    """Draw final test accuracies: one point per seed, the mean with its t interval beside them."""
    ax = ax or plt.subplots(figsize=(7.2, 3.2))[1]
    table = final_accuracy(records)
    methods = [m for m in STYLE if m in set(table["method"])]
    for row, method in enumerate(methods):
        _seeds_and_mean(ax, row, method, table[table["method"] == method]["test_accuracy"])
    ax.set(yticks=range(len(methods)), yticklabels=[paper.label(m) for m in methods])
    ax.set(xlabel="final test accuracy", ylim=(len(methods) - 0.5, -0.5))
    return ax.get_figure()  # type: ignore[return-value]


def spread(names: Sequence[str], most: int = 3) -> list[str]:
    """Choose up to so many names, from the first to the last: those that get a panel."""
    places = np.unique(np.linspace(0, len(names) - 1, most).round().astype(int))
    return [names[place] for place in places]


def layer_panels(
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
    for method in (m for m in STYLE if m in set(rows["method"])):
        color, marker = STYLE[method]
        lams = ["lam", "lam_features", "lam_classifier"]
        groups = [part for _, part in rows[rows["method"] == method].groupby(lams, dropna=False)]
        for line, part in zip(itertools.cycle(("-", "--", ":")), groups):
            mean = part.groupby("epoch")[value].mean()
            name = [paper.label(method), coefficient(part) if len(groups) > 1 else ""]
            ax.plot(mean, color=color, ls=line, lw=1.6, label=", ".join(filter(None, name)))
            ax.plot(mean.iloc[-1:], color=color, marker=marker, **MARKED)
    ax.set_xlabel("epoch")


def legend_below(figure: Figure, columns: int = 5) -> None:
    """Give all panels of a picture one legend, below them."""
    found: dict[str, Any] = {}
    for ax in figure.axes:
        handles, labels = ax.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    lines = math.ceil(len(found) / columns)
    figure.tight_layout(rect=(0, (0.1 + 0.22 * lines) / figure.get_figheight(), 1, 1))
    figure.legend(found.values(), found, loc="lower center", ncols=columns, fontsize=9)


def paired_differences(records: pd.DataFrame, *, against: str = "vanilla") -> tuple[Figure, str]:
    """Draw final accuracy minus a rival's, seed by seed, with the paired 95% t interval.

    Parameters
    ----------
    records : DataFrame
        What `swrlib.load_records` returns, of one stream.
    against : str
        The rival.

    Returns
    -------
    (Figure, str)
        The picture, a panel for each data set and model, and what it says. Settings without the
        rival have an empty panel, methods that share no seed with it no row.
    """
    finals = final_accuracy(records)
    figure, panels = _panels(finals, height=0.45 * finals["method"].nunique() + 0.9)
    sentences = []
    for ax, rows in panels:
        table = rows.pivot_table(index="seed", columns="method", values="test_accuracy")
        if against not in table:
            said = f"{paper.label(against)} was not trained here"
            ax.text(0.5, 0.5, said, ha="center", transform=ax.transAxes)
            ax.set(xticks=[], yticks=[])
            sentences.append(f"{setting(rows)}: {said}.")
            continue
        shared = table.sub(table[against], axis=0).notna().any()
        chosen = [m for m in STYLE if m in table and m != against and shared[m]]
        for row, method in enumerate(chosen):
            _seeds_and_mean(ax, row, method, 100 * (table[method] - table[against]).dropna())
        ax.axvline(0, color="0.35", lw=1, ls="--")
        ax.set(yticks=range(len(chosen)), yticklabels=[paper.label(m) for m in chosen])
        ax.set(ylim=(len(chosen) - 0.5, -0.5))
        ax.set_xlabel(f"percentage points above {paper.label(against)}, final test accuracy")
        gaps = (100 * table[chosen].sub(table[against], axis=0)).mean()
        said = ", ".join(f"{paper.label(m)} {gaps[m]:+.2f}" for m in chosen)
        sentences.append(f"{setting(rows)}, points above {paper.label(against)}: {said}.")
    figure.tight_layout()
    return figure, " ".join(sentences)


def _panels(
    rows: pd.DataFrame, height: float, columns: int = 1, width: float = 7.2
) -> tuple[Figure, list[tuple[Any, pd.DataFrame]]]:
    """Lay out a line of axes (or one) for each setting, named in its title; return them, rows."""
    groups = [part for _, part in rows.groupby([*_CELL, "scale"])]
    size = (width, height * len(groups))
    figure, axes = plt.subplots(len(groups), columns, figsize=size, squeeze=False)
    for line, part in zip(axes, groups, strict=True):
        seeds = seed_count(part)
        title = f"{setting(part)}, {'one seed' if seeds == '1' else f'{seeds} seeds'}"
        line[0].set_title(title, fontsize=11, loc="left" if columns > 1 else "center")
    lines = axes[:, 0] if columns == 1 else axes
    return figure, list(zip(lines, groups, strict=True))


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
    figure, panels = _panels(records, height=4.2)
    sentences = []
    for ax, rows in panels:
        ends = final_accuracy(rows).groupby("method")["test_accuracy"].mean().sort_values()
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
            f"{setting(rows)}: {paper.label(str(ends.index[-1]))} ends highest with "
            f"{100 * ends.iloc[-1]:.1f}% and {paper.label(str(ends.index[0]))} lowest with "
            f"{100 * ends.iloc[0]:.1f}%."
        )
    figure.tight_layout()
    return figure, " ".join(sentences)


def drops(changes: pd.DataFrame) -> tuple[Figure, str]:
    """Draw what `swrlib.verdicts.changes_of_data` returned; return the picture and what it says."""
    figure, panels = _panels(changes, height=3.6, columns=2, width=8.6)
    sentences = []
    for axes, part in panels:
        for value, ax in zip(("drop", "train_accuracy"), axes, strict=True):
            for method in (m for m in STYLE if m in set(part["method"])):
                rows = part[part["method"] == method].groupby("stage")[value]
                color, marker = STYLE[method]
                style = {"color": color, "marker": marker, "lw": 1.5, **MARKED}
                ax.plot(rows.mean(), label=paper.label(method), **style)
                least, most = rows.min(), rows.max()
                ax.fill_between(least.index, least, most, color=color, alpha=0.12, lw=0)
            ax.set_xlabel("stage")
        axes[0].axhline(0, color="0.35", lw=1, ls="--")
        axes[0].set_ylabel("test accuracy gained at a change")
        axes[1].set_ylabel("training accuracy at the end")
        axes[1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        means = part.groupby("method")["drop"].mean().sort_values()
        sentences.append(
            f"{setting(part)}: at a change of data {paper.label(str(means.index[0]))} moves by "
            f"{100 * means.iloc[0]:+.1f} points on average, {paper.label(str(means.index[-1]))} "
            f"by {100 * means.iloc[-1]:+.1f}."
        )
    figure.tight_layout()
    return figure, " ".join(sentences)


def finals_beside_paper(records: pd.DataFrame, number: int) -> tuple[Figure, str]:
    """Draw final accuracies with Table 1's or 5's means ± standard deviations as bands.

    Returns
    -------
    (Figure, str)
        The picture, a panel for each data set and model, and what it says.
    """
    figure, panels = _panels(records, height=3.4)
    printed = paper.tables[number].accuracy
    sentences = []
    for ax, rows in panels:
        dataset, model, scale = rows.iloc[0][[*_CELL, "scale"]]
        finals(rows, ax=ax)
        methods = [m for m in STYLE if m in set(rows["method"])]
        for row, method in enumerate(methods):
            theirs = printed.get((dataset, model), {}).get(method) if scale == "paper" else None
            if theirs is not None:
                ax.barh(
                    row,
                    2 * theirs.std,
                    left=theirs.mean - theirs.std,
                    height=0.8,
                    color="0.85",
                    zorder=0,
                )
                ax.plot([theirs.mean] * 2, [row - 0.4, row + 0.4], color="0.5", lw=1)
        ends = final_accuracy(rows).groupby("method")["test_accuracy"].mean().sort_values()
        sentences.append(
            f"{setting(rows)}: {paper.label(str(ends.index[-1]))} ends highest with "
            f"{100 * ends.iloc[-1]:.2f}%, {paper.label(str(ends.index[0]))} lowest with "
            f"{100 * ends.iloc[0]:.2f}%."
        )
    figure.tight_layout()
    return figure, " ".join(sentences)


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


#: The accuracies of Fig. 1, by column of `swrlib.claims.proportionality.scaled_runs`: name and
#: line. Those of trained networks stand in one panel, that right after the scaling in another, as
#: in print.
_SCALED = {
    "fine-tuned accuracy": {
        "best_before": ("best before the scaling", {"color": _COLORS[7], "ls": "-."}),
        "best_after": ("best of the fine-tuning", {"color": _COLORS[0], "marker": "o"}),
    },
    "accuracy after scaling": {
        "after": ("right after the scaling", {"color": _COLORS[1], "ls": "--", "marker": "s"}),
    },
}


def scaling(rows: pd.DataFrame) -> tuple[Figure, str]:
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
    figure, axes = plt.subplots(2, 2, figsize=(7.2, 5.6), sharey="row", sharex=True)
    sides = {"untouched": "biases untouched", "proportional": "proportional"}
    first = rows.iloc[0]
    printed = {p.measure: p.axis for p in paper.panels if p.cell == (*first[_CELL], "scaled")}
    sentences = []
    for (measure, lines), line in zip(_SCALED.items(), axes, strict=True):
        for (biases, title), ax in zip(sides.items(), line, strict=True):
            part = rows[rows["biases"] == biases]
            for value, (name, style) in lines.items():
                table = part.pivot_table(index="seed", columns="ratio", values=value).dropna(axis=1)
                mean, half = mean_and_interval(table.to_numpy())
                ax.plot(table.columns, mean, lw=1.8, label=name, **MARKED, **style)
                ax.fill_between(
                    table.columns, mean - half, mean + half, color=style["color"], alpha=0.15, lw=0
                )
                if value != "best_before":
                    sentences.append(
                        f"{title.capitalize()}, {name}: {100 * mean[-1]:.1f}% at ratio "
                        f"{table.columns[-1]:g}, {100 * mean[0]:.1f}% at {table.columns[0]:g}."
                    )
            if measure in printed and first["scale"] == "paper":
                ax.axhspan(*printed[measure], color="0.94", zorder=-1, lw=0)  # type: ignore[misc]
            if measure == "fine-tuned accuracy":
                ax.set_title(title, fontsize=11)
            else:
                ax.set(xlabel="scaling ratio", xlim=(1.03, -0.03))
            ax.tick_params(labelsize=9)
        line[0].set_ylabel(measure, fontsize=10)
    found = [ax.get_legend_handles_labels() for ax in axes[:, 1]]
    handles, labels = (list(itertools.chain(*part)) for part in zip(*found, strict=True))
    figure.legend(handles, labels, loc="upper center", ncols=2, bbox_to_anchor=(0.5, 1.08))
    figure.tight_layout()
    return figure, " ".join(sentences)


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
    columns = min(4, without.shape[1])
    lines = math.ceil(without.shape[1] / columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(2.4 * columns + 1.2, 2.7 * lines), squeeze=False, sharey=True
    )
    for layer, ax in zip(without, axes.flat, strict=False):
        for method, norms in (("vanilla", without), ("swr", with_swr)):
            color, marker = STYLE[method]
            name = "without" if method == "vanilla" else f"SWR, λ = {lam:g}"
            every = max(1, len(norms) // 5)
            style = {"color": color, "marker": marker, "markevery": every, **MARKED}
            ax.plot(norms[layer] / norms[layer].iloc[0], lw=1.8, label=name, **style)
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
