"""What an experiment's chapter found, in a sentence a setting that follows the numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd

from swrlib import verdicts
from swrlib.claims.plasticity import own_gaps
from swrlib.overview import rivals
from swrlib.papers import SWR as paper


def answers(changed: pd.DataFrame, single: pd.DataFrame | None = None) -> list[str]:
    """Say of each setting how plain training, SWR and the best of its rivals end.

    By the second rule: means of the last ten epochs, the block design's intervals.

    Parameters
    ----------
    changed : DataFrame
        Records at the paper's scale, of one stream.
    single : DataFrame, optional
        Of single tasks: then also what SWR and plain training lost against themselves.

    Returns
    -------
    list of str
        Settings in which SWR or vanilla has fewer than three seeds are left out.
    """
    sentences = []
    for (dataset, model), rows in changed.groupby(["dataset", "model"]):
        late = verdicts.late_by_seed(rows)
        gain = verdicts.difference(late, "swr", "vanilla")
        if np.isnan(gain.error):
            continue
        ends = late.mean()
        text = (
            f"{paper.label(dataset)}, {paper.label(model)} ({verdicts.seed_count(rows)} seeds): "
            f"plain training ends at {ends['vanilla']:.1%}, SWR at {ends['swr']:.1%} "
            f"({verdicts.in_points(*gain.interval())})"
        )
        others = [method for method in rivals(late) if method != "vanilla"]
        if others:
            beside = verdicts.difference(late, "swr", others[0]).interval()
            text += f", the best of the others, {paper.label(others[0])}, at {ends[others[0]]:.1%} "
            text += f"(SWR minus it: {verdicts.in_points(*beside)})"
        text += f". {_own(rows, single)}" if single is not None and len(single) else "."
        sentences.append(text.strip())
    return sentences


def _own(rows: pd.DataFrame, single: pd.DataFrame) -> str:
    """Say what SWR and plain training lost of their own accuracy from scratch."""
    gaps = own_gaps(rows, single).set_index("method")
    if not {"swr", "vanilla"} <= set(gaps.index) or gaps.loc["swr"].isna()["recovered_low"]:
        return ""
    if gaps.loc["vanilla", "low"] <= 0:
        return "No loss of plain training by the change is seen here, so none can be recovered."
    lost = 100 * gaps["gap"]
    rest = gaps.loc["swr", ["recovered", "recovered_low", "recovered_high"]]
    return (
        f"Of its own accuracy from scratch SWR lost {lost['swr']:.2f} points, plain training "
        f"{lost['vanilla']:.2f}: the difference, which is what SWR recovers, is "
        f"{verdicts.in_points(*rest)}."
    )
