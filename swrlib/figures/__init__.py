"""Pictures. Here what all of them share: the palette, the lines of methods, how one is shown.

They go out as SVG that does not change from build to build. Where there are several panels, each
is a separate image, so that they are side by side or one below the other as there is room.
The alternative text travels with the picture.
"""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.ticker import LogLocator, NullLocator

from swrlib.figures.rendering import LEGEND, Piece, rendered
from swrlib.papers import SWR as paper
from swrlib.statistics import mean_and_interval
from swrlib.verdicts import seed_count, setting

#: The colour-blind palette.
COLORS = sns.color_palette("colorblind")
#: Further ones, for the neighbours' methods.
DARK = sns.color_palette("dark")


class _Style(dict[str, tuple[Any, Any]]):
    def __missing__(self, method: str) -> tuple[Any, Any]:
        return "0.35", "."


#: Colour and marker of each method: a marker, so that colour is not needed. Others are grey dots.
STYLE = _Style()
STYLE |= {
    "vanilla": (COLORS[7], "o"),
    "l2": (COLORS[0], "s"),
    "l2-init": (COLORS[9], "D"),
    "shrink-perturb": (COLORS[1], "v"),
    "head-reset": ((0.62, 0.56, 0.02), "^"),  # its yellow cannot be seen on white
    "swr": (COLORS[3], "*"),
    "swr-reinit": (COLORS[4], "P"),
    "swr-except-normalization": (COLORS[6], "h"),
    "full-reset": (COLORS[5], "X"),
    "adamw": (COLORS[2], "p"),
    "wasserstein": (DARK[2], ">"),
    "wasserstein-1": (DARK[7], (7, 1, 0)),
    "spectral": (DARK[4], "<"),
    "l2-er": (DARK[0], "d"),
    "er": (DARK[9], (3, 1, 0)),
    "fire": (DARK[1], "H"),
    "redo": (DARK[5], "8"),
    "shrink-perturb-noise": (DARK[8], (4, 1, 0)),
    "layer-norm-l2": (DARK[3], (6, 1, 0)),
    "continual-backprop": (DARK[6], (5, 1, 0)),
}
MARKED: dict[str, Any] = {"markersize": 5, "markeredgecolor": "white", "markeredgewidth": 0.6}
#: Inches of a panel of which a phone shows one at a time and a wide window two side by side.
PANEL_WIDTH = 3.4
#: The look of a band of an interval.
BAND: dict[str, Any] = {"alpha": 0.12, "lw": 0}


def use_style(*, small: bool = False) -> None:
    """Set the look of all pictures: light grid, reproducible SVG, words that a phone shows as well.

    Parameters
    ----------
    small : bool
        Smaller titles and labels, for pictures of many panels.
    """
    sns.set_theme(context="notebook", style="whitegrid")
    mpl.rcParams.update(
        {
            "figure.figsize": (5.0, 3.2),
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "svg.hashsalt": "swrlib",
            "svg.fonttype": "path",
            "legend.frameon": False,
            "legend.fontsize": 9,
            "font.size": 9,
            "axes.titlesize": 10,
            "axes.labelsize": 9 if small else 10,
            "xtick.labelsize": 9,
            "ytick.labelsize": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": "0.7",
            "grid.color": "0.9",
            "grid.linewidth": 0.8,
        }
    )


def show(figure: plt.Figure, alt: str, *, cloud: bool = False) -> None:
    """Display a picture with its alternative text: one SVG, or a small one for each panel.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        Closed afterwards.
    alt : str
        What the picture shows and what it says, for those who do not see it.
    cloud : bool
        Draw what is in the axes as pixels, since there are many points; all words stay lines.
    """
    from IPython.display import display

    pieces = rendered(figure, cloud=cloud)
    if len(pieces) == 1:
        kind, data = "image/svg+xml", pieces[0].svg.decode()
    else:
        kind, data = "text/html", _images(pieces, alt)
    display({kind: data, "text/plain": alt}, raw=True, metadata={kind: {"alt": alt}})


def as_html(figure: plt.Figure, alt: str) -> str:
    """Return a picture as HTML images that carry their own data."""
    return _images(rendered(figure), alt)


def _images(pieces: list[Piece], alt: str) -> str:
    """Write an image a piece; the first has the alternative text, the others say what they are."""
    lines = []
    for number, piece in enumerate(pieces, 1):
        of_all = f"Part {number} of {len(pieces)} of the picture described above"
        text = alt if number == 1 else ": ".join(filter(None, (of_all, piece.title)))
        heading = f'<p class="heading">{html.escape(piece.heading)}</p>' if piece.heading else ""
        source = f"data:image/svg+xml;base64,{base64.b64encode(piece.svg).decode()}"
        image = f'<img src="{source}" alt="{html.escape(text)}">'
        lines.append(heading + (f"<p>{image}</p>" if piece.title == LEGEND else image))
    return f'<div class="picture">{" ".join(lines)}</div>' if len(lines) > 1 else lines[0]


def interval(values: pd.Series) -> tuple[float, float]:
    """Return the ends of the mean's 95% t interval over seeds: seaborn's ``errorbar``."""
    mean, half = mean_and_interval(values.to_numpy())
    return float(mean - half), float(mean + half)


def name_of(method: str) -> str:
    """Return a method's name as pictures have it: without a remark in brackets."""
    return paper.label(method).split(" (")[0]


def in_order(rows: pd.DataFrame) -> list[str]:
    """Return the methods that rows have, in the order of `STYLE`; others come last."""
    present = sorted(set(rows["method"]))
    return sorted(present, key=[*STYLE, *present].index)


def of_methods(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Go through the methods that rows have, in the order of `STYLE`, each with its rows."""
    return ((method, rows[rows["method"] == method]) for method in in_order(rows))


def look(method: str, **options: Any) -> dict[str, Any]:
    """Return a method's colour and marker, and further options, as `Axes.plot` takes them."""
    color, marker = STYLE[method]
    return {"color": color, "marker": marker} | options


def complete(rows: pd.DataFrame, value: str, x: str = "epoch") -> pd.DataFrame:
    """Keep a row a method, seed and place, and of the places those that all its seeds reached."""
    rows = rows.dropna(subset=[value]).drop_duplicates(["method", "seed", x], keep="last")
    reached = rows.groupby(["method", x])["seed"].transform("size")
    return rows[reached == rows.groupby("method")["seed"].transform("nunique")]


def method_lines(
    ax: plt.Axes, rows: pd.DataFrame, value: str, x: str = "epoch", label: str = "", **options: Any
) -> None:
    """Draw a line a method: the mean over seeds, with its t interval as a band.

    What not all seeds of a method reached is left out.

    Parameters
    ----------
    ax : Axes
        Where to draw. About eight marks stand on a line, apart from those of other lines.
    rows : DataFrame
        ``method, seed`` and the two columns that follow.
    value, x : str
        Columns: what is drawn, and over what.
    label : str
        Of the vertical axis.
    **options
        Of `Axes.plot`.
    """
    rows = complete(rows, value, x)
    for number, (method, own) in enumerate(of_methods(rows)):
        seeds = own.astype({value: float}).pivot(index="seed", columns=x, values=value)
        places, (mean, half) = seeds.columns.to_numpy(), mean_and_interval(seeds)
        every = max(1, len(places) // 8)
        marks = {"label": name_of(method), "markevery": (number % every, every), "lw": 1.8}
        ax.plot(places, mean, **look(method, **marks, **MARKED) | options)
        ax.fill_between(places, mean - half, mean + half, color=STYLE[method][0], **BAND)
    ax.set(xlabel=x, ylabel=label)


def grid_of(
    number: int, columns: int, width: float, height: float, **sharing: Any
) -> tuple[plt.Figure, np.ndarray]:
    """Lay out so many panels of a size in inches, up to so many side by side; return all axes."""
    columns = max(1, min(columns, number))
    lines = max(1, math.ceil(number / columns))
    size = (width * columns, height * lines)
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, **sharing)
    for ax in axes.flat[number:]:
        ax.set_axis_off()
    return figure, axes


def plain_ticks(axis: Any, subs: tuple[int, ...]) -> None:
    """Mark a logarithmic axis by plain numbers: powers of ten times each of some numbers."""
    axis.set(major_locator=LogLocator(subs=subs), minor_locator=NullLocator())
    axis.set(major_formatter="{x:g}")


def logarithmic_steps(ax: plt.Axes) -> None:
    """Make both axes logarithmic, with few and plain ticks; the horizontal one has steps."""
    ax.set(xscale="log", yscale="log", xlabel="step")
    plain_ticks(ax.xaxis, (1,))
    plain_ticks(ax.yaxis, (1, 3))


def setting_panels(
    rows: pd.DataFrame, height: float, columns: int = 1
) -> tuple[plt.Figure, list[tuple[Any, pd.DataFrame]]]:
    """Lay out one panel (or several) for each setting, named above it; return them, rows.

    Of several panels, the name is the heading of a group, as `swrlib.figures.rendering` has it.
    """
    groups = [part for _, part in rows.groupby(["dataset", "model", "scale"])]
    size = (PANEL_WIDTH * columns, height * len(groups))
    figure, axes = plt.subplots(len(groups), columns, figsize=size, squeeze=False)
    for line, part in zip(axes, groups, strict=True):
        if columns == 1:
            line[0].set_title(heading(part), fontsize=9)
        else:
            line[0].set_label(heading(part))
    lines = axes[:, 0] if columns == 1 else axes
    return figure, list(zip(lines, groups, strict=True))


def heading(rows: pd.DataFrame) -> str:
    """Name the setting of records and say how many seeds they have."""
    return f"{setting(rows)}, {seeds_of(rows)}"


def seeds_of(rows: pd.DataFrame) -> str:
    """Say how many seeds records have."""
    seeds = seed_count(rows)
    return "one seed" if seeds == "1" else f"{seeds} seeds"


def legend_below(figure: plt.Figure, columns: int = 3) -> None:
    """Give all panels of a picture one legend, below them."""
    entries: dict[str, Any] = {}
    for ax in figure.axes:
        handles, labels = ax.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    lines = math.ceil(len(entries) / columns)
    figure.tight_layout(rect=(0, (0.1 + 0.22 * lines) / figure.get_figheight(), 1, 1))
    figure.legend(entries.values(), entries, loc="lower center", ncols=min(columns, len(entries)))
