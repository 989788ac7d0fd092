"""Write the curves of the records for the pictures that a reader can move (style/play.js).

Few points of means over seeds, as a script that sets one name: a page that is opened as a file may
load a script, but not data.
"""

import json
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.colors import to_hex

from swrlib import verdicts
from swrlib.figures import STYLE, complete, in_order
from swrlib.figures.accuracies import SMOOTHED
from swrlib.overview import RIVALS, STREAMS
from swrlib.papers import SWR as paper
from swrlib.verdicts.outcomes import OURS

VALUE = "test_accuracy"
METHODS = (*RIVALS, "swr", "swr-reinit", "full-reset", OURS)


def curves(records: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """Return what each stream's picture shows: a list of its settings.

    Parameters
    ----------
    records : DataFrame
        What `swrlib.load_records` returns at paper scale.

    Returns
    -------
    dict
        By stream, for each data set and model: the ``epochs``, ``changes`` of data, the range
        ``low`` to ``high`` of the axis, and of each method the ``mean`` test accuracy over seeds.
        An epoch is averaged with the four before it in its stage, as in the other pictures; kept
        are the first epoch of a stage and every fifth. ``printed`` is the paper's final accuracy.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    runs = verdicts.outcomes.counting(records, "paper")["run"]
    whole = records[records["run"].isin(runs) & records["method"].isin(METHODS)]
    by_setting = dict(list(whole[whole["epoch"] > 0].groupby(["stream", "dataset", "model"])))
    # MNIST last: it shows the least.
    for cell in sorted(by_setting, key=lambda key: key[1] == "mnist"):
        rows = by_setting[cell]
        if cell[0] in STREAMS and "vanilla" in set(rows["method"]):
            found.setdefault(cell[0], []).append(_setting(rows, *cell))
    return found


def _setting(rows: pd.DataFrame, stream: str, dataset: str, model: str) -> dict[str, Any]:
    rows = complete(rows, VALUE).sort_values("epoch")
    late = rows.groupby(["method", "seed", "stage"])[VALUE].rolling(SMOOTHED, min_periods=1)
    rows = rows.assign(**{VALUE: late.mean().droplevel([0, 1, 2])})
    kept = rows[(rows["stage_epoch"] == 1) | (rows["stage_epoch"] % SMOOTHED == 0)]
    means = kept.groupby(["epoch", "method"])[VALUE].mean().unstack().dropna()
    starts = rows[(rows["stage_epoch"] == 1) & (rows["stage"] > 1)]["epoch"].unique()
    methods = []
    for method in (name for name in in_order(rows) if name in means):
        printed = paper.printed_accuracy(method, dataset, model, stream)
        methods.append(
            {
                "id": method,
                "label": paper.label(method).replace(" (our addition)", ""),
                "color": to_hex(STYLE[method][0]),
                "mean": [round(value, 4) for value in means[method]],
                **({"printed": printed.mean} if printed else {}),
            }
        )
    # A network right after a reset would press all curves together; every end is shown.
    values = means.to_numpy()
    ends = [*values[-1], *(method["printed"] for method in methods if "printed" in method)]
    low, high = min(pd.Series(values.ravel()).quantile(0.08), *ends), max(values.max(), *ends)
    return {
        "name": f"{paper.label(dataset)}, {paper.label(model)}",
        "seeds": verdicts.seed_count(rows),
        "epochs": [int(epoch) for epoch in means.index],
        "changes": [float(start) - 0.5 for start in sorted(starts)],
        "low": round(low - 0.05 * (high - low), 4),
        "high": round(high + 0.05 * (high - low), 4),
        "methods": methods,
    }


def write_curves(path: Path, records: pd.DataFrame) -> None:
    """Write the script."""
    text = json.dumps(curves(records), separators=(",", ":"), ensure_ascii=False)
    path.write_text(f"window.swrCurves={text};\n", encoding="utf-8")
