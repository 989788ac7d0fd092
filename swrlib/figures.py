"""Pictures: one palette for the whole book, one function for each kind of picture.

Lines go out as SVG that does not change from build to build, clouds of points as PNG. The
alternative text travels with the picture as metadata of the output.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from swrlib import paper
from swrlib.verdicts import final_accuracy

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
    "full-reset": (_COLORS[5], "X"),
    "adamw": (_COLORS[2], "p"),
}
MARKED: dict[str, Any] = {"markersize": 5, "markeredgecolor": "white", "markeredgewidth": 0.6}


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
    buffer = io.BytesIO()
    options = {"dpi": 200} if cloud else {"metadata": {"Date": None}}
    form = "png" if cloud else "svg"
    figure.savefig(buffer, format=form, bbox_inches="tight", **options)
    plt.close(figure)
    data: Any = buffer.getvalue()
    if not cloud:
        data = data.decode()
    else:
        import base64

        data = base64.b64encode(data).decode()
    display({kind: data, "text/plain": alt}, raw=True, metadata={kind: {"alt": alt}})


def mean_and_interval(values: pd.DataFrame | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean over seeds and the half-width of its 95% t interval.

    Parameters
    ----------
    values : array, shape [seeds, …]

    Returns
    -------
    tuple of arrays
        Half-widths are NaN with a single seed.
    """
    array = np.asarray(values, dtype=float)
    n = len(array)
    mean = array.mean(0)
    if n < 2:
        return mean, np.full_like(mean, math.nan)
    return mean, stats.t.ppf(0.975, n - 1) * array.std(0, ddof=1) / math.sqrt(n)


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
    """Draw one curve a method: the mean over seeds with a t interval, single runs thin behind it.

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
    for number, method in enumerate(m for m in STYLE if m in set(shown["method"])):
        table = shown[shown["method"] == method].pivot_table(
            index="seed", columns="epoch", values=value, aggfunc="last"
        )
        table = table.dropna(axis=1)
        epochs = table.columns.to_numpy()
        mean, half = mean_and_interval(table.to_numpy())
        color, marker = STYLE[method]
        ax.plot(epochs, table.to_numpy().T, color=color, lw=0.5, alpha=0.35)
        ax.fill_between(epochs, mean - half, mean + half, color=color, alpha=0.15, lw=0)
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
    for name, level in (references or {}).items():
        ax.axhline(level, color="0.35", lw=1, ls="--")
        ax.annotate(
            name,
            (1, level),
            xycoords=("axes fraction", "data"),
            fontsize=8,
            ha="right",
            va="bottom",
        )
    ax.set(xlabel="epoch", ylabel=label)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax.get_figure()  # type: ignore[return-value]


def finals(records: pd.DataFrame, *, ax: Axes | None = None) -> Figure:
    """Draw the final test accuracies: a point a seed, the mean with its t interval beside them."""
    ax = ax or plt.subplots(figsize=(7.2, 3.2))[1]
    table = final_accuracy(records)
    methods = [m for m in STYLE if m in set(table["method"])]
    for row, method in enumerate(methods):
        color, marker = STYLE[method]
        values = table[table["method"] == method]["test_accuracy"].to_numpy()
        mean, half = mean_and_interval(values)
        ax.plot(
            values,
            np.full(len(values), row) + 0.18,
            ls="",
            marker=marker,
            color=color,
            alpha=0.5,
            ms=5,
        )
        ax.errorbar(mean, row - 0.12, xerr=half, color=color, marker=marker, capsize=3, ms=7)
    ax.set(yticks=range(len(methods)), yticklabels=[paper.label(m) for m in methods])
    ax.set(xlabel="final test accuracy", ylim=(len(methods) - 0.5, -0.5))
    return ax.get_figure()  # type: ignore[return-value]


def weight_norms(records: pd.DataFrame, layers: Sequence[str] | None = None) -> Figure:
    """Draw each layer's norm over the epochs that record it, mean over seeds, a panel a layer."""
    shown = records[records["weight_norms"].notna()]
    count = len(shown["weight_norms"].iloc[0])
    figure, axes = plt.subplots(1, count, figsize=(2.6 * count + 1.2, 3), squeeze=False)
    for layer, ax in enumerate(axes[0]):
        for method in (m for m in STYLE if m in set(shown["method"])):
            rows = shown[shown["method"] == method]
            norms = rows.assign(norm=[n[layer] for n in rows["weight_norms"]])
            mean = norms.groupby("epoch")["norm"].mean()
            color, marker = STYLE[method]
            ax.plot(
                mean.index,
                mean,
                color=color,
                marker=marker,
                lw=1.5,
                label=paper.label(method),
                **MARKED,
            )
        ax.set(xlabel="epoch", title=layers[layer] if layers else f"layer {layer + 1}")
    axes[0][0].set_ylabel("‖W‖")
    axes[0][-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.tight_layout()
    return figure


def paired_differences(
    records: pd.DataFrame, *, against: str = "vanilla", methods: Iterable[str] | None = None
) -> Figure:
    """Draw final accuracy minus a rival's, seed by seed, with the paired 95% t interval."""
    table = final_accuracy(records).pivot_table(
        index="seed", columns="method", values="test_accuracy"
    )
    chosen = [m for m in (methods or STYLE) if m in table and m != against]
    figure, ax = plt.subplots(figsize=(7.2, 0.5 * len(chosen) + 1.2))
    for row, method in enumerate(chosen):
        color, marker = STYLE[method]
        values = 100 * (table[method] - table[against]).dropna().to_numpy()
        mean, half = mean_and_interval(values)
        ax.plot(
            values,
            np.full(len(values), row) + 0.18,
            ls="",
            marker=marker,
            color=color,
            alpha=0.5,
            ms=5,
        )
        ax.errorbar(mean, row - 0.12, xerr=half, color=color, marker=marker, capsize=3, ms=7)
    ax.axvline(0, color="0.35", lw=1, ls="--")
    ax.set(yticks=range(len(chosen)), yticklabels=[paper.label(m) for m in chosen])
    ax.set(ylim=(len(chosen) - 0.5, -0.5))
    ax.set_xlabel(f"percentage points above {paper.label(against)}, final test accuracy")
    return figure
