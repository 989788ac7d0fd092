"""What training costs: the committed measurements, their ratios, and the verdict on the claim.

`python -m benchmarks` measures and writes them; the rule below was fixed before.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd

from swrlib import paper, records, verdicts
from swrlib.verdicts import Verdict

#: "Minimal overhead" is read as: a step takes at most this share longer.
SMALL = 0.05
COLUMNS = ("table", "name", "model", "processes", "threads", "runs", "repeat", "milliseconds")


def load_cost(path: str | os.PathLike[str] | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the measurements, and what they were made on.

    Parameters
    ----------
    path : path, optional
        What ``python -m benchmarks --output`` wrote; default: the project's own, in
        ``results/_benchmarks/cost.json`` (or ``results/cost.json``, where it lay before).

    Returns
    -------
    tuple of DataFrame
        A row per way of training and repetition: `COLUMNS`, ``rescaling`` (the share of the time
        within SWR) and ``mebibytes`` (what a process needed beyond its start). ``milliseconds`` are
        of one run's step on the whole machine. Then a row per table: commit, versions, processor.

    Raises
    ------
    FileNotFoundError
        If nothing was measured; the command that does it is named.
    ValueError
        If the file is no such table.
    """
    file = Path(path) if path is not None else _measurements(records.results_folder())
    if not file.is_file():
        raise FileNotFoundError(f"there are no measurements in {file}: `make bench` makes them")
    try:
        content = json.loads(file.read_text())
        frame = pd.DataFrame([row for table in content.values() for row in table["rows"]])
        machine = pd.DataFrame({name: table["machine"] for name, table in content.items()}).T
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is no table of measurements: `make bench` makes one") from error
    if not len(frame) or not set(COLUMNS) <= set(frame.columns):
        raise ValueError(f"{file} lacks columns of a table of measurements: `make bench` makes one")
    return frame, machine


def _measurements(results: Path) -> Path:
    new, old = results / "_benchmarks" / "cost.json", results / "cost.json"
    return old if old.is_file() and not new.is_file() else new


def ratios(frame: pd.DataFrame, base: str) -> pd.DataFrame:
    """Return each way's time over that of the way ``base``, within each repetition.

    Parameters
    ----------
    frame : DataFrame
        Rows of one table.
    base : str
        The name of the way to divide by.

    Returns
    -------
    DataFrame
        Indexed by model and name: the median ``milliseconds``, the median ``ratio`` and the least
        and greatest one (``low, high``).
    """
    wide = frame.pivot_table(index=["model", "repeat"], columns="name", values="milliseconds")
    ratio = wide.div(wide[base], axis=0).stack().groupby(["model", "name"])
    table = ratio.agg(ratio="median", low="min", high="max").dropna()
    table["milliseconds"] = frame.groupby(["model", "name"])["milliseconds"].median()
    return table


def judge_cost(frame: pd.DataFrame) -> Verdict:
    """Judge the claim on SWR's cost, by the steps of the careful loop.

    For each model, over repetitions: the step with SWR over the plain one is to lie below
    1 + `SMALL`, and below the step with a term in the loss. Each with a t interval: *reproduced* if
    it lies below, *not reproduced* if above, else *undecided*; *mixed* over models and rivals.
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
            gap = verdicts.paired_interval((allowed - overhead).to_numpy(), 0.0)
            word = verdicts.UNDECIDED
            if gap.low > 0:
                word = verdicts.REPRODUCED
            elif gap.high < 0:
                word = verdicts.NOT_REPRODUCED
            of_model = words.setdefault(word, {}).setdefault(paper.label(str(model)), [])
            of_model.append(paper.label(rival))
    verdict = verdicts.MIXED if len(words) > 1 else next(iter(words))
    detail = f"A step with SWR takes longer than a plain one by: {', '.join(said)} (median)."
    for word in sorted(set(words) - {verdicts.REPRODUCED}):
        where = (f"{model} against {', '.join(rivals)}" for model, rivals in words[word].items())
        detail += f" {word.capitalize()}: {'; '.join(where)}."
    return Verdict(claim, verdict, verdict, detail, verdicts.NOT_PRINTED)
