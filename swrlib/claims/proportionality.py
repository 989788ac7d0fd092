"""Fig. 1: networks that are scaled after their training, what it costs them, and its verdicts."""

from __future__ import annotations

import os
from typing import Any

import pandas as pd

from swrlib import paper, records, verdicts
from swrlib.verdicts import Verdict


def scaled_runs(frame: pd.DataFrame, results: str | os.PathLike[str] | None = None) -> pd.DataFrame:
    """Return what Fig. 1 is made of: one row per run of the stream "scaled".

    At ratio 1 nothing is scaled, so one run stands for all readings and ways with the biases.

    Parameters
    ----------
    frame : DataFrame
        Records of that stream.
    results : path, optional
        Folder that holds their parents' records; default: the project's own.

    Returns
    -------
    DataFrame
        ``dataset, model, scale, seed, ratio, reading, biases``, and test accuracies: ``trained``
        (the parent's last epoch), ``best_before`` (its best), ``after`` (right after the scaling)
        and ``best_after`` (the best epoch of the fine-tuning).

    Raises
    ------
    ValueError
        If a parent has no records there.
    """
    keys = ["dataset", "model", "scale", "seed", "ratio", "reading", "biases", "parent"]
    numbers = ["trained", "best_before", "after", "best_after"]
    if not len(frame):
        return pd.DataFrame(columns=[*keys, *numbers])
    parents = records.load_records(results, run=list(frame["parent"].unique()))

    def accuracies(rows: pd.DataFrame, by: list[str]) -> Any:
        return (
            rows.astype({"test_accuracy": float}).sort_values("epoch").groupby(by)["test_accuracy"]
        )

    before = accuracies(parents[parents["epoch"] > 0], ["run"]).agg(
        trained="last", best_before="max"
    )
    if not set(frame["parent"]) <= set(before.index):
        raise ValueError(
            "the records lack runs that were scaled: train the stream's parent "
            "(make_stream('scaled', …).parent) into the same folder"
        )
    rows = accuracies(frame[frame["epoch"] == 0], keys).agg(after="first")
    rows = rows.join(accuracies(frame[frame["epoch"] > 0], keys).agg(best_after="max"))
    rows = rows.reset_index().join(before, on="parent")
    network, way = ["dataset", "model", "scale", "seed"], ["reading", "biases"]
    unscaled = rows[rows["ratio"] == 1].drop_duplicates(network).drop(columns=way)
    ways = rows[[*network, *way]].drop_duplicates()
    rows = pd.concat([rows[rows["ratio"] < 1], unscaled.merge(ways, on=network)])
    return rows.sort_values(keys[:-1], ignore_index=True)


def scaling_verdicts(rows: pd.DataFrame) -> list[Verdict]:
    """Judge the three claims of Fig. 1 on what `scaled_runs` returned.

    Differences are paired over seeds. q as in `swrlib.verdicts.quarter_range`. Judged for each
    reading of the ratio by the worst of the reading's cases; *mixed* where the readings differ.
    Where records of the paper's scale lack some of Fig. 1's ratios, the label says how many there
    are.

    - scaling-keeps-accuracy: at every ratio, ``after`` − ``trained`` within ±q, biases scaled too.
    - scaling-without-biases: at ratio 0, ``trained`` above ``after``, biases untouched.
    - scaling-then-training: at every ratio below 1, either way, ``best_after`` above
      ``best_before``.
    """
    scaled = rows[(rows["ratio"] < 1) & rows["biases"].isin(["proportional", "untouched"])]
    along = scaled[scaled["biases"] == "proportional"]
    least = min(paper.FIGURE_1_RATIOS)  # another, if it is missing, would be another claim
    left = scaled[(scaled["biases"] == "untouched") & (scaled["ratio"] == least)]
    ratios = len(paper.FIGURE_1_RATIOS) - 1  # but for 1
    return [
        _scaling_verdict("scaling-keeps-accuracy", along, "after", "trained", ratios),
        _scaling_verdict("scaling-without-biases", left, "trained", "after", 1),
        _scaling_verdict("scaling-then-training", scaled, "best_after", "best_before", 2 * ratios),
    ]


def _scaling_verdict(
    id: str, rows: pd.DataFrame, higher: str, lower: str, printed_cases: int
) -> Verdict:
    claim = paper.find_claim(id)
    worst: dict[str, tuple[int, float, str, str]] = {}
    for (reading, biases, ratio), group in rows.groupby(["reading", "biases", "ratio"]):
        verdict, distance, text = _scaling_case(claim, group, higher, lower)
        where = f"ratio {ratio:g}, biases {biases}, {text}"
        case = (verdicts.severity(verdict), distance, verdict, where)
        worst[reading] = min(case, worst.get(reading, case))
    found = {verdict for _, _, verdict, _ in worst.values()} or {verdicts.NOT_RUN}
    word = found.pop() if len(found) == 1 else verdicts.MIXED
    cases = rows.drop_duplicates(["reading", "biases", "ratio"])["reading"].value_counts()
    judged = word not in (verdicts.QUICK, verdicts.CUSTOM, verdicts.OUTSIDE, verdicts.NOT_RUN)
    lacking = judged and cases.min() < printed_cases
    part = f" ({cases.min()} of {printed_cases} comparisons)" if lacking else ""
    detail = "; ".join(
        f"reading “{reading}”, worst case: {text}"
        + ("" if verdict in (verdicts.QUICK, verdicts.CUSTOM, verdicts.OUTSIDE) else f": {verdict}")
        for reading, (_, _, verdict, text) in worst.items()
    )
    return Verdict(claim, word, word + part, f"{detail}." if detail else "", verdicts.NOT_PRINTED)


def _scaling_case(
    claim: paper.Claim, group: pd.DataFrame, higher: str, lower: str
) -> tuple[str, float, str]:
    """Judge one ratio: the verdict, a number that is smaller where it is worse, and a text."""
    n, first = len(group), group.iloc[0]
    same = claim.id == "scaling-keeps-accuracy"
    if n < verdicts.LEAST_SEEDS:
        mean = float((group[higher] - group[lower]).mean())
        text = f"{100 * mean:+.2f} points, n = {n}"
        return verdicts.TOO_FEW_SEEDS, -abs(mean) if same else mean, text
    interval = verdicts.paired_interval(group[higher].to_numpy(), group[lower].to_numpy())
    low, high = float(interval.low), float(interval.high)
    text = f"{verdicts.in_points(*interval)}, n = {n}"
    cell = (first["dataset"], first["model"], "scaled")
    q = verdicts.quarter_range(*cell)
    if first["scale"] != "paper":
        verdict = verdicts.QUICK if first["scale"] == "quick" else verdicts.CUSTOM
    elif cell not in claim.cells or q is None:
        verdict = verdicts.OUTSIDE
    else:
        rule = verdicts.same_verdict if same else verdicts.ordering_verdict
        verdict = rule(low, high, q)
    return verdict, -max(-low, high) if same else low, text
