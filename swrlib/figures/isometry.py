"""How far weights are from isometries: singular values, Newton-Schulz iterations, changes of data.

A name is a method's, or a variant's: "fire, exact" is FIRE with the exact polar factor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from swrlib.figures import STYLE, legend_below
from swrlib.papers import SWR as paper
from swrlib.papers import find_paper

#: The line of a variant, and how its marker is filled.
_LINES = {"": "-", "exact": "--", "present norm": ":"}
_FILLED = {"": "full", "exact": "left", "present norm": "none"}


def named(variant: str) -> str:
    """Write a method's or a variant's name for readers."""
    method, comma, what = variant.partition(", ")
    return find_paper("fire").label(paper.label(method)) + comma + what


def _look(variant: str) -> dict[str, Any]:
    method, _, what = variant.partition(", ")
    color, marker = STYLE.get(method, ("0.2", "."))
    look = {"color": color, "ls": _LINES[what], "label": named(variant), "marker": marker}
    return look | {"fillstyle": _FILLED[what], "markersize": 7}


def singular_values(values: Mapping[str, np.ndarray]) -> tuple[plt.Figure, str]:
    """Draw the singular values of one layer, by method or variant, from the largest on.

    Returns
    -------
    (Figure, str)
        The picture, and the largest and the smallest of each.
    """
    figure, ax = plt.subplots(figsize=(5.2, 4.2))
    said = []
    for number, (variant, ordered) in enumerate(values.items()):
        every = max(1, len(ordered) // 8)
        front: dict[str, Any] = {"lw": 2.4, "zorder": 3} if variant == "swr" else {"lw": 1.6}
        front["markevery"] = (number * every // len(values), every)
        ax.plot(np.arange(1, len(ordered) + 1), ordered, **_look(variant), **front)
        said.append(f"{named(variant)} {ordered[0]:.3g} to {ordered[-1]:.2g}")
    ax.set(xlabel="singular value, by size", ylabel="σ", ylim=(0, None))
    legend_below(figure)
    return figure, f"Largest to smallest: {', '.join(said)}."


def by_iterations(deviations: pd.DataFrame, levels: Mapping[str, float]) -> tuple[plt.Figure, str]:
    """Draw the deviation from isometry against the number of iterations, a line a shape.

    Parameters
    ----------
    deviations : DataFrame
        ``shape, iterations, seed, deviation``; more than 0 iterations are drawn.
    levels : mapping of str to float
        Level lines, by method.
    """
    figure, ax = plt.subplots(figsize=(5.2, 4.2))
    iterated = deviations[deviations["iterations"] > 0]
    means = iterated.groupby(["shape", "iterations"], sort=False)["deviation"].mean()
    color = STYLE["fire"][0]
    for shape, style in zip(means.index.unique("shape"), ("-", "--", ":", "-."), strict=False):
        label = f"{paper.label('fire')}, {shape}"
        ax.plot(means[shape], ls=style, marker="H", markersize=5, color=color, label=label)
    for method, level in levels.items():
        label = f"{paper.label(method)}, best scale"
        ax.axhline(level, color=STYLE[method][0], lw=1.6, label=label)
    ax.axvline(10, color="0.75", lw=0.8, zorder=0)
    ax.set(xlabel="Newton-Schulz iterations", ylabel="DfI / n", yscale="log", ylim=(1e-10, 3))
    ax.set_xticks(range(0, int(means.index.get_level_values("iterations").max()) + 1, 5))
    legend_below(figure)
    ten = means.xs(10, level="iterations")
    return figure, f"After ten: {', '.join(f'{s} {value:.2g}' for s, value in ten.items())}."


def moved(means: pd.DataFrame) -> tuple[plt.Figure, str]:
    """Draw how far a change moves weights against how far from isometry it leaves them.

    Parameters
    ----------
    means : DataFrame
        By method or variant: ``SFE``, ``DfI/n at the best scale``.
    """
    figure, ax = plt.subplots(figsize=(5.2, 4.2))
    said = []
    for variant, x, y in means[["SFE", "DfI/n at the best scale"]].itertuples():
        ax.plot(x, y, **_look(variant) | {"ls": "", "markersize": 10})
        said.append(f"{named(variant)} {x:.2f}, {y:.2f}")
    ax.set(xlabel="SFE / ‖W‖² at the change", ylabel="DfI / n at the best scale")
    ax.set_ylim(-0.02, None)
    legend_below(figure)
    return figure, f"Moved, and deviation left: {'; '.join(said)}."
