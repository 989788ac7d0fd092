"""Fig. 1: a trained network is scaled and trained on."""

from __future__ import annotations

import itertools

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from swrlib import paper
from swrlib.figures.style import BAND, COLORS, MARKED, interval

#: The accuracies of Fig. 1, by column of `swrlib.claims.proportionality.scaled_runs`: name and
#: line. Those of trained networks stand in one panel, that right after the scaling in another, as
#: in print.
_SCALED = {
    "fine-tuned accuracy": {
        "best_before": ("best before the scaling", {"color": COLORS[7], "ls": "-."}),
        "best_after": ("best of the fine-tuning", {"color": COLORS[0], "marker": "o"}),
    },
    "accuracy after scaling": {
        "after": ("right after the scaling", {"color": COLORS[1], "ls": "--", "marker": "s"}),
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
    cell = (first["dataset"], first["model"], "scaled")
    printed = {p.measure: p.axis for p in paper.PANELS if p.cell == cell}
    sentences = []
    for (measure, lines), line in zip(_SCALED.items(), axes, strict=True):
        for (biases, title), ax in zip(sides.items(), line, strict=True):
            part = rows[rows["biases"] == biases]
            for value, (name, style) in lines.items():
                table = part.pivot_table(index="seed", columns="ratio", values=value).dropna(axis=1)
                look = {"errorbar": interval, "err_kws": BAND, "lw": 1.8, **MARKED, **style}
                sns.lineplot(table.melt(), x="ratio", y="value", ax=ax, label=name, **look)
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
            ax.tick_params(labelsize=9)
        line[0].set_ylabel(measure, fontsize=10)
    for ax, title in zip(axes[0], sides.values(), strict=True):
        ax.set(xlabel="")
        ax.set_title(title, fontsize=11)
    found = [ax.get_legend_handles_labels() for ax in axes[:, 1]]
    handles, labels = (list(itertools.chain(*part)) for part in zip(*found, strict=True))
    figure.legend(handles, labels, loc="upper center", ncols=2, bbox_to_anchor=(0.5, 1.08))
    figure.tight_layout()
    return figure, " ".join(sentences)
