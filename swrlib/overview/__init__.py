"""What came out where, for the front page and for the chapter on the warm start.

The front page's numbers, and some of its words, come from the records.

Its text has places in double brackets, ``[[gap: warm-start cifar10 cnn swr vanilla]]``; the
first word names a method of `Overview`, the others are what it is given.
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from swrlib import verdicts
from swrlib.claims import curvature
from swrlib.papers import SWR as paper
from swrlib.papers import Cell
from swrlib.statistics import Interval
from swrlib.verdicts import LEAST_SEEDS, difference
from swrlib.verdicts.task_rule import summarized, task_rows

#: The paper's methods that are compared with SWR; its streams in the order of its sections, with
#: the chapter on each.
RIVALS = ("vanilla", "l2", "l2-init", "shrink-perturb", "head-reset")
CHAPTERS = {
    "warm-start": "warm_start",
    "full-access": "continual_learning",
    "limited-access": "continual_learning_limited",
    "single-task": "generalization",
    "single-task-decay": "generalization_decay",
}
STREAMS = tuple(CHAPTERS)
_PLACE = re.compile(r"\[\[(\w+):\s*([^\]]*?)\s*\]\]")
_MISSING = "–"


def late_accuracies(records: pd.DataFrame) -> dict[Cell, pd.DataFrame]:
    """Return the mean accuracy of the last epochs, by seed and method, of each setting.

    Parameters
    ----------
    records : DataFrame
        What `swrlib.load_records` returns. Runs that do not count for a verdict are passed over.
    """
    finals = verdicts.outcomes.judged(records, "paper")
    late = {
        cell: rows.pivot(index="seed", columns="method", values="late")
        for cell, rows in finals.groupby(["dataset", "model", "stream"])
    }
    pairs = dict.fromkeys([*paper.pairs, *(cell[:2] for cell in late)])
    cells = [(*pair, stream) for stream in STREAMS for pair in pairs]
    return {cell: late[cell] for cell in cells if cell in late}


def rivals(late: pd.DataFrame) -> list[str]:
    """Return the paper's other methods that have enough seeds in a setting, the best mean first."""
    others = [m for m in RIVALS if m in late and late[m].count() >= LEAST_SEEDS]
    return sorted(others, key=lambda method: -late[method].mean())


class Overview:
    """Accuracies by setting, of the runs that count for a verdict; a dash for what lacks.

    By the second rule: the mean of the last ten epochs, and the error of the block design.

    Parameters
    ----------
    records : DataFrame
        What `swrlib.load_records` returns. A setting is a stream, a data set and a model.
    shuffled : DataFrame, optional
        Records of label-shuffled MNIST.
    """

    def __init__(self, records: pd.DataFrame, shuffled: pd.DataFrame | None = None) -> None:
        #: Accuracy by seed (rows) and method (columns), of each setting.
        self.accuracy = late_accuracies(records)
        self._shuffled = pd.DataFrame() if shuffled is None else shuffled

    def fill(self, text: str) -> str:
        """Replace every place in double brackets by what the records say."""
        return _PLACE.sub(lambda place: getattr(self, place[1])(*place[2].split()), text)

    def late(self, stream: str, dataset: str, model: str) -> pd.DataFrame:
        """Return the accuracies of a setting; nothing where there is none."""
        return self.accuracy.get((dataset, model, stream), pd.DataFrame())

    def interval(self, stream: str, dataset: str, model: str, a: str, b: str) -> Interval:
        """Return the interval of a's accuracy minus b's; NaN under three seeds."""
        return difference(self.late(stream, dataset, model), a, b).interval()

    # What a place on the page may ask for; all return text.

    def seeds(self, stream: str, dataset: str, model: str, *methods: str) -> str:
        """How many seeds the methods have, by default all of the setting."""
        late = self.late(stream, dataset, model)
        counts = late.count().reindex(methods or late.columns)
        if not len(counts) or counts.isna().any():
            return _MISSING
        counts = counts.astype(int)
        return "–".join(map(str, sorted({counts.min(), counts.max()})))

    def mean(self, stream: str, dataset: str, model: str, method: str) -> str:
        """Write a mean accuracy in percent."""
        late = self.late(stream, dataset, model)
        return f"{late[method].mean():.1%}" if method in late else _MISSING

    def gap(
        self, stream: str, dataset: str, model: str, a: str, b: str, unit: str = " points"
    ) -> str:
        """Write a's accuracy minus b's, with its interval."""
        return verdicts.in_points(*self.interval(stream, dataset, model, a, b), unit=unit)

    def printed(self, stream: str, dataset: str, model: str, a: str, b: str) -> str:
        """Write the printed difference of a and b."""
        x, y = (paper.printed_accuracy(name, dataset, model, stream) for name in (a, b))
        return f"{100 * (x.mean - y.mean):+.1f} points" if x and y else _MISSING

    def beyond(self, stream: str, dataset: str, model: str, method: str) -> str:
        """Write a mean accuracy minus the printed one."""
        late = self.late(stream, dataset, model)
        theirs = paper.printed_accuracy(method, dataset, model, stream)
        if method not in late or theirs is None:
            return _MISSING
        return f"{100 * (late[method].mean() - theirs.mean):+.1f} points"

    def side(self, stream: str, dataset: str, model: str, a: str, b: str) -> str:
        """Say where a ends, seen from b: above, below, or not to be told from it."""
        return _side(self.interval(stream, dataset, model, a, b))

    def tally(self, a: str, b: str) -> str:
        """Count the settings in which a ends above b and below it; elsewhere neither is seen."""
        sides = [_side(difference(late, a, b).interval()) for late in self.accuracy.values()]
        above, below = sides.count("above"), sides.count("below")
        compared = len(sides) - sides.count(_MISSING)
        where = f"above {paper.label(b)} in {above or 'none'} of {compared} settings"
        return f"{where}, below it in {below or 'none'}"

    def shuffled(self, method: str, activation: str = "relu") -> str:
        """Write a method's error over the last fifth of label-shuffled MNIST's tasks."""
        runs = curvature.at_the_paper_s_setting(self._shuffled)
        runs = runs[(runs["dataset"] == curvature.NORMALIZED) & (runs["activation"] == activation)]
        runs = runs[runs["method"] == method]
        if not len(runs):
            return _MISSING
        late = summarized(task_rows(runs), "error")["late"]
        return f"{late.mean():.2f} ({len(late)} seeds)"

    def collapsed(self) -> str:
        """Name the runs that collapsed, if there are any."""
        runs = [
            f"{said} ({_name(cell)}; {others})"
            for cell, late in self.accuracy.items()
            for said, others in collapsed_runs(late)
        ]
        return f"A run that collapsed counts like any other: {', '.join(runs)}." if runs else ""

    def table(self) -> str:
        """Write a line for each setting in which SWR was trained, as HTML."""
        lines = []
        for cell, late in self.accuracy.items():
            others = rivals(late)
            if "swr" not in late or not others:
                continue
            setting, best = (cell[2], *cell[:2]), others[0]
            line = {
                "setting": _name(cell),
                "seeds": self.seeds(*setting, "swr", *others),
                "vanilla": self.mean(*setting, "vanilla"),
                "SWR": self.mean(*setting, "swr"),
                "SWR − vanilla": self.gap(*setting, "swr", "vanilla", ""),
                "best of the others": f"{paper.label(best)}, {self.mean(*setting, best)}",
                "SWR − that": self.gap(*setting, "swr", best, ""),
            }
            lines.append(line)
        table = pd.DataFrame(lines).to_html(index=False, border=0, classes="table")
        return f'<div class="table-container">{table}</div>'


def collapsed_runs(accuracy: pd.DataFrame) -> list[tuple[str, str]]:
    """Name the runs that ended at less than half of their method's median, and the others' mean.

    Parameters
    ----------
    accuracy : DataFrame
        Final accuracies as fractions, by seed (rows) and method (columns).
    """
    collapsed = []
    for method, ends in (100 * accuracy).items():
        low = ends < ends.median() / 2
        others = f"the mean of the others is {ends[~low].mean():.1f}%"
        for seed, end in ends[low].items():
            said = f"{paper.label(str(method))} ended at {end:.1f}% with seed {seed}"
            collapsed.append((said, others))
    return collapsed


def _side(interval: Interval) -> str:
    if interval.low > 0 or interval.high < 0:
        return "above" if interval.low > 0 else "below"
    return _MISSING if np.isnan(interval.low) else "not to be told from"


def _name(cell: Cell) -> str:
    return f"{paper.label(cell[2])}, {paper.label(*cell[:2])}"


def repair(records: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """Say whether a warm start did harm, and how each method ends beside both plain networks.

    By the second rule: the mean of the last ten epochs, and the error of the block design.

    Parameters
    ----------
    records : DataFrame
        What `swrlib.load_records` returns, of one setting of a warm start.

    Returns
    -------
    (str, DataFrame)
        The sentence, empty where from scratch or vanilla is missing; and a row a method, written
        for readers: ``ends at, %``, ``minus from scratch`` and ``minus vanilla`` in points (a dash
        under three seeds).
    """
    late = verdicts.late_by_seed(records)
    references = {"from scratch": "full-reset", "vanilla": "vanilla"}
    lines = {}
    for method in (m for m in paper.labels if m in late and m not in references.values()):
        line = {"ends at, %": f"{100 * late[method].mean():.1f}"}
        for name, other in references.items():
            gap = difference(late, method, other).interval()
            line[f"minus {name}"] = verdicts.in_points(*gap, unit="")
        lines[paper.label(method)] = line
    table = pd.DataFrame.from_dict(lines, orient="index")
    harm = difference(late, "full-reset", "vanilla").interval()
    if np.isnan(harm.low):
        return "", table
    scratch, plain = late["full-reset"].mean(), late["vanilla"].mean()
    said = "the warm start did harm" if harm.low > 0 else "no harm is seen, so none to repair"
    ends = f"From scratch {scratch:.1%}, after the warm start {plain:.1%}"
    return f"{ends}, {verdicts.in_points(*harm)}: {said}.", table
