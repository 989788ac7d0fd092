"""Where trainings end: final accuracies, differences, and the paper's numbers behind them."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from swrlib import paper
from swrlib.figures.accuracy import who_ends_where
from swrlib.figures.style import STYLE, in_order, setting_panels
from swrlib.verdicts import final_accuracy, mean_and_interval, setting


def _seeds_and_means(ax: Axes, values: dict[str, pd.Series], label: str) -> None:
    """Draw a row a method: a point per seed, and the mean with its t interval just above them."""
    for row, (method, by_seed) in enumerate(values.items()):
        color, marker = STYLE[method]
        mean, half = mean_and_interval(by_seed.to_numpy())
        heights = np.full(len(by_seed), row) + 0.18
        ax.plot(by_seed, heights, ls="", alpha=0.5, ms=5, color=color, marker=marker)
        ax.errorbar(mean, row - 0.12, xerr=half, capsize=3, ms=7, color=color, marker=marker)
    ax.set(yticks=range(len(values)), yticklabels=map(paper.label, values))
    ax.set(xlabel=label, ylim=(len(values) - 0.5, -0.5))


def finals(records: pd.DataFrame, *, ax: Axes | None = None) -> Figure:
    """Draw final test accuracies: one point per seed, the mean with its t interval beside them."""
    ax = ax or plt.subplots(figsize=(7.2, 3.2))[1]
    accuracy = dict(iter(final_accuracy(records).groupby("method")["test_accuracy"]))
    rows = {method: accuracy[method] for method in in_order(records)}
    _seeds_and_means(ax, rows, "final test accuracy")
    return ax.get_figure()  # type: ignore[return-value]


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
    figure, panels = setting_panels(finals, height=0.45 * finals["method"].nunique() + 0.9)
    sentences = []
    for ax, rows in panels:
        table = 100 * rows.pivot_table(index="seed", columns="method", values="test_accuracy")
        if against not in table:
            said = f"{paper.label(against)} was not trained here"
            ax.text(0.5, 0.5, said, ha="center", transform=ax.transAxes)
            ax.set(xticks=[], yticks=[])
            sentences.append(f"{setting(rows)}: {said}.")
            continue
        gaps = {m: (table[m] - table[against]).dropna() for m in in_order(rows) if m != against}
        gaps = {method: gap for method, gap in gaps.items() if len(gap)}
        above = f"points above {paper.label(against)}"
        _seeds_and_means(ax, gaps, f"percentage {above}, final test accuracy")
        ax.axvline(0, color="0.35", lw=1, ls="--")
        said = ", ".join(f"{paper.label(m)} {gap.mean():+.2f}" for m, gap in gaps.items())
        sentences.append(f"{setting(rows)}, {above}: {said}.")
    figure.tight_layout()
    return figure, " ".join(sentences)


def finals_beside_paper(records: pd.DataFrame, number: int) -> tuple[Figure, str]:
    """Draw final accuracies with Table 1's or 5's means ± standard deviations as bands.

    Returns
    -------
    (Figure, str)
        The picture, a panel for each data set and model, and what it says.
    """
    figure, panels = setting_panels(records, height=3.4)
    sentences = []
    for ax, rows in panels:
        finals(rows, ax=ax)
        dataset, model, scale = rows.iloc[0][["dataset", "model", "scale"]]
        printed = (
            paper.TABLES[number].accuracy.get((dataset, model), {}) if scale == "paper" else {}
        )
        for row, method in enumerate(in_order(rows)):
            if method in printed:
                mean, std = printed[method].mean, printed[method].std
                ax.barh(row, 2 * std, left=mean - std, height=0.8, color="0.85", zorder=0)
                ax.plot([mean] * 2, [row - 0.4, row + 0.4], color="0.5", lw=1)
        sentences.append(who_ends_where(rows, "{} ends highest with {:.2%}, {} lowest with {:.2%}"))
    figure.tight_layout()
    return figure, " ".join(sentences)
