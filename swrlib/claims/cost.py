"""The verdict on what SWR costs (Section 3.2)."""

from __future__ import annotations

import pandas as pd

from swrlib import verdicts
from swrlib.papers import SWR as paper
from swrlib.statistics import paired_interval

#: "Minimal overhead" is read as: a step takes at most this share longer.
SMALL = 0.05


def judge_cost(frame: pd.DataFrame) -> verdicts.Verdict:
    """Judge the claim on SWR's cost, by the steps of the careful loop.

    For each model, over repetitions: the step with SWR over the plain one is to lie below
    1 + `SMALL`, and below the step with a term in the loss. Each with a t interval: *reproduced* if
    it lies below, *not reproduced* if above, else *undecided*; *mixed* over models and rivals.

    Parameters
    ----------
    frame : DataFrame
        What `swrlib.cost.load_cost` returned: a row a way and repetition, milliseconds a step.

    Returns
    -------
    Verdict
        *Not run* without timed steps.
    """
    claim = paper.find_claim("overhead")
    steps = frame[frame["table"] == "steps"]
    wide = steps.pivot_table(index=["model", "repeat"], columns="name", values="milliseconds")
    said: list[str] = []
    words: dict[str, dict[str, list[str]]] = {}
    for model, times in wide.groupby("model", sort=False):
        plain = times["vanilla"]
        overhead = times["swr"] / plain - 1
        said.append(f"{paper.label(str(model))} {100 * float(overhead.median()):+.1f}%")
        for rival in ("vanilla", *claim.rivals):
            allowed = SMALL if rival == "vanilla" else times[rival] / plain - 1
            gap = paired_interval((allowed - overhead).to_numpy(), 0.0)
            word = verdicts.NOT_REPRODUCED if gap.high < 0 else verdicts.UNDECIDED
            word = verdicts.REPRODUCED if gap.low > 0 else word
            of_model = words.setdefault(word, {}).setdefault(paper.label(str(model)), [])
            of_model.append(paper.label(rival))
    if not words:
        return verdicts.Verdict(claim, verdicts.NOT_RUN, verdicts.NOT_RUN)
    verdict = verdicts.MIXED if len(words) > 1 else next(iter(words))
    detail = f"A step with SWR takes longer than a plain one by: {', '.join(said)} (median)."
    for word in sorted(set(words) - {verdicts.REPRODUCED}):
        where = (f"{model} against {', '.join(rivals)}" for model, rivals in words[word].items())
        detail += f" {word.capitalize()}: {'; '.join(where)}."
    return verdicts.Verdict(claim, verdict, verdict, detail)
