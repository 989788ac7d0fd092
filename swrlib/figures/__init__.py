"""Pictures. Here what all of them share: the palette, the lines of methods, how one is shown.

Lines go out as SVG that does not change from build to build, clouds of points as PNG. The
alternative text travels with the picture as metadata of the output.
"""

from __future__ import annotations

import base64
import html
import io
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from swrlib.papers import SWR as paper
from swrlib.verdicts import mean_and_interval, seed_count, setting

#: The colour-blind palette.
COLORS = sns.color_palette("colorblind")
#: Further ones, for the neighbours' methods.
DARK = sns.color_palette("dark")
#: Colour and marker of each method: a marker, so that colour is not needed.
STYLE: dict[str, tuple[Any, Any]] = {
    "vanilla": (COLORS[7], "o"),
    "l2": (COLORS[0], "s"),
    "l2-init": (COLORS[9], "D"),
    "shrink-perturb": (COLORS[1], "v"),
    "head-reset": (COLORS[8], "^"),
    "swr": (COLORS[3], "*"),
    "swr-reinit": (COLORS[4], "P"),
    "swr-except-normalization": (COLORS[6], "h"),
    "full-reset": (COLORS[5], "X"),
    "adamw": (COLORS[2], "p"),
    "wasserstein": (DARK[2], ">"),
    "spectral": (DARK[4], "<"),
    "l2-er": (DARK[0], "d"),
    "fire": (DARK[1], "H"),
    "redo": (DARK[5], "8"),
    "shrink-perturb-noise": (DARK[8], (4, 1, 0)),
    "layer-norm-l2": (DARK[3], "s"),
}
MARKED: dict[str, Any] = {"markersize": 5, "markeredgecolor": "white", "markeredgewidth": 0.6}
#: The look of a band of an interval.
BAND: dict[str, Any] = {"alpha": 0.12, "lw": 0}


def use_style(*, small: bool = False) -> None:
    """Set the look of all pictures: white ground, light grid, reproducible SVG.

    Parameters
    ----------
    small : bool
        Smaller titles and labels, for pictures of many panels.
    """
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
    if small:
        mpl.rcParams.update({"axes.titlesize": 10, "axes.labelsize": 10, "font.size": 9})


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


def interval(values: pd.Series) -> tuple[float, float]:
    """Return the ends of the mean's 95% t interval over seeds: seaborn's ``errorbar``."""
    mean, half = mean_and_interval(values.to_numpy())
    return float(mean - half), float(mean + half)


def in_order(rows: pd.DataFrame) -> list[str]:
    """Return the methods that rows have, in the order of `STYLE`."""
    present = set(rows["method"])
    return [method for method in STYLE if method in present]


def complete(rows: pd.DataFrame, value: str, x: str = "epoch") -> pd.DataFrame:
    """Keep a row a method, seed and place, and of the places those that all its seeds reached."""
    rows = rows.dropna(subset=[value]).drop_duplicates(["method", "seed", x], keep="last")
    reached = rows.groupby(["method", x])["seed"].transform("size")
    return rows[reached == rows.groupby("method")["seed"].transform("nunique")]


def method_lines(
    ax: Axes, rows: pd.DataFrame, value: str, *, x: str = "epoch", label: str = "", **options: Any
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
        Of `seaborn.lineplot`: another ``errorbar``, say.
    """
    rows, drawn = complete(rows, value, x), len(ax.lines)
    methods = in_order(rows)
    look: dict[str, Any] = {"lw": 1.8, "errorbar": interval, "err_kws": BAND, **MARKED}
    look |= {"hue": "method", "hue_order": methods, "palette": {m: STYLE[m][0] for m in methods}}
    look |= {"style": "method", "markers": {m: STYLE[m][1] for m in methods}, "dashes": False}
    sns.lineplot(rows, x=x, y=value, ax=ax, legend=False, **look | options)
    for number, (line, method) in enumerate(zip(ax.lines[drawn:], methods, strict=True)):
        every = max(1, len(line.get_xdata()) // 8)  # type: ignore[arg-type]
        line.set(label=paper.label(method), markevery=(number % every, every))
    ax.set(xlabel=x, ylabel=label)


def setting_panels(
    rows: pd.DataFrame, height: float, columns: int = 1, width: float = 7.2
) -> tuple[Figure, list[tuple[Any, pd.DataFrame]]]:
    """Lay out a line of axes (or one) for each setting, named in its title; return them, rows."""
    groups = [part for _, part in rows.groupby(["dataset", "model", "scale"])]
    size = (width, height * len(groups))
    figure, axes = plt.subplots(len(groups), columns, figsize=size, squeeze=False)
    for line, part in zip(axes, groups, strict=True):
        seeds = seed_count(part)
        title = f"{setting(part)}, {'one seed' if seeds == '1' else f'{seeds} seeds'}"
        line[0].set_title(title, fontsize=11, loc="left" if columns > 1 else "center")
    lines = axes[:, 0] if columns == 1 else axes
    return figure, list(zip(lines, groups, strict=True))
