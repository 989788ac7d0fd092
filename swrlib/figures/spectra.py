"""Spectra of the Hessian: ε-ranks over ε, against accuracy, and what of it they explain."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from swrlib.claims import spectral_collapse
from swrlib.claims.spectral_collapse import EPSILON, FORMS, PAPER
from swrlib.figures import in_order, legend_below, look, method_lines, of_methods
from swrlib.figures.tasks import bring_to_front
from swrlib.papers import SWR as paper
from swrlib.theory.spectrum import Spectrum


def by_epsilon(spectra: pd.DataFrame) -> tuple[plt.Figure, str]:
    """Draw the ε-rank over ε at the first and the last task's start, and the widths beside it.

    Parameters
    ----------
    spectra : DataFrame
        What `swrlib.claims.spectral_collapse.spectra` returned; not empty.

    Returns
    -------
    (Figure, str)
    """
    figure, axes = plt.subplots(1, 3, figsize=(10.8, 3.6))
    ends = (spectra["task"].min(), spectra["task"].max())
    for ax, task in zip(axes, ends, strict=False):
        _over_epsilon(ax, spectra[spectra["task"] == task])
        ax.set_title(f"start of task {task}", loc="left", fontsize=10)
    widths = spectra.drop_duplicates(["run", "task"])
    method_lines(axes[2], widths, "largest", x="task", label="largest eigenvalue")
    axes[2].set(yscale="log")
    axes[2].xaxis.get_major_locator().set_params(integer=True)
    axes[2].set_title("at tasks' starts", loc="left", fontsize=10)
    bring_to_front(axes[2])
    legend_below(figure)
    return figure, _at_the_end(spectra)


def first_and_last(spectra: pd.DataFrame) -> tuple[plt.Figure, str]:
    """Draw the ε-rank over ε at the first (dashed) and the last task's start, in one panel.

    Parameters
    ----------
    spectra : DataFrame
        As for `by_epsilon`.

    Returns
    -------
    (Figure, str)
    """
    figure, ax = plt.subplots(figsize=(5.4, 3.6))
    for task, line in ((spectra["task"].min(), "--"), (spectra["task"].max(), "-")):
        drawn = len(ax.lines)
        _over_epsilon(ax, spectra[spectra["task"] == task], ls=line)
        for own in ax.lines[drawn:-1]:  # behind them that of the figures' ε
            own.set_label(f"{own.get_label()}, task {task}")
    ax.legend(fontsize=8)
    return figure, _at_the_end(spectra)


def _over_epsilon(ax: plt.Axes, rows: pd.DataFrame, **look: Any) -> None:
    """Draw the ε-rank over ε of one task."""
    method_lines(ax, rows, "epsilon-rank", x="epsilon", **look)
    ax.set(xscale="log", xlabel="ε", ylabel="share of eigenvalues outside ±ε")
    ax.set(yscale="log", ylim=(1e-3, 1.3))
    ax.minorticks_off()  # which no one sees, and each takes its time
    bring_to_front(ax)
    ax.axvline(EPSILON, color="0.35", lw=0.9, ls="--", zorder=1)


def _at_the_end(spectra: pd.DataFrame) -> str:
    """Say what is left of the spectra at the start of the last task."""
    end = spectra["task"].max()
    last = spectra[(spectra["task"] == end) & np.isclose(spectra["epsilon"], EPSILON)]
    means = last.groupby("method")[["epsilon-rank", "largest"]].mean()
    text = "{} {:.2g} with λ_max {:.3g}"
    said = ", ".join(text.format(paper.label(m), *means.loc[m]) for m in in_order(last))
    return f"At the start of task {end}, ε = {EPSILON:g}: {said}."


def against_accuracy(spectra: pd.DataFrame) -> tuple[plt.Figure, str]:
    """Draw a task's accuracy over the ε-rank at its start, both forms, and R² over ε.

    Parameters
    ----------
    spectra : DataFrame
        What `swrlib.claims.spectral_collapse.spectra` returned.

    Returns
    -------
    (Figure, str)
    """
    figure, axes = plt.subplots(1, 3, figsize=(10.8, 3.6))
    rows = spectral_collapse.at_epsilon(spectra)
    points = rows.groupby(["method", "task"])[["online", *FORMS]].mean().reset_index()
    said = []
    for ax, (form, name) in zip(axes, FORMS.items(), strict=False):
        share = spectral_collapse.explained(points[form], points["online"])
        _scatter(ax, points, form)
        ax.set(xlabel=f"ε-rank, {name}", ylabel="the task's online accuracy")
        ax.set_title(f"ε = {EPSILON:g}: R² = {share:.2f}", loc="left", fontsize=10)
        said.append(f"{name} {share:.2f}")
    curve = spectral_collapse.r_squared_by_epsilon(spectra)
    drawn = [
        axes[2].plot(curve["epsilon"], curve[form], line, color="0.15")[0]
        for form, line in zip(FORMS, ("-", "--"), strict=True)
    ]
    printed = PAPER.details["r_squared"]["permuted-mnist"]
    drawn += axes[2].plot(EPSILON, printed, "k*")
    axes[2].axhline(0, color="0.35", lw=0.9, zorder=1)
    axes[2].set(xscale="log", xlabel="ε", ylabel="R², below 0 where falling", ylim=(-1, 1))
    axes[2].legend(drawn, [*FORMS.values(), "printed"], fontsize=8)
    legend_below(figure)
    text = f"R² of accuracy by the ε-rank at ε = {EPSILON:g}: {', '.join(said)}"
    return figure, f"{text}; printed {printed:g}."


def _scatter(ax: plt.Axes, points: pd.DataFrame, form: str) -> None:
    """Draw a point a method and task."""
    for method, own in of_methods(points):
        front = {"zorder": 3, "s": 70} if method == "swr" else {"s": 32}
        ax.scatter(own[form], own["online"], **look(method, label=paper.label(method), **front))


def widening() -> tuple[plt.Figure, str]:
    """Draw both forms of the ε-rank of made-up spectra, of which one eigenvalue alone grows.

    Of a hundred eigenvalues ninety-eight lie within ±0.001, one is −1, and the last grows.
    """
    bulk = torch.linspace(-1e-3, 1e-3, 98, dtype=torch.float64)
    epsilon = torch.tensor([EPSILON], dtype=torch.float64)
    ranks, widths = [], (1, 3, 10, 30, 100, 300)
    for width in widths:
        nodes = torch.cat([bulk, torch.tensor([-1.0, width], dtype=torch.float64)])
        spectrum = Spectrum(nodes, torch.full_like(nodes, 0.01), 100)
        forms = (spectrum.epsilon_rank(epsilon), spectrum.smoothed_epsilon_rank(epsilon))
        ranks.append([float(rank) for rank in forms])
    figure, ax = plt.subplots(figsize=(5.4, 3.2))
    for name, line, values in zip(FORMS.values(), ("o-", "s--"), np.array(ranks).T, strict=True):
        ax.plot(widths, values, line, color="0.15", label=name)
    ax.set(xscale="log", xlabel="the one eigenvalue that grows", ylabel=f"ε-rank, ε = {EPSILON:g}")
    ax.legend()
    first, last = ranks[0], ranks[-1]
    return figure, (
        f"The share of the weight stays at {first[0]:.2g}; as released the ε-rank goes from "
        f"{first[1]:.2g} to {last[1]:.2g}."
    )
