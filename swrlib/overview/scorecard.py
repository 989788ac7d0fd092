"""SWR in every setting of the paper, at one look: the front page's scorecard, as HTML."""

from __future__ import annotations

from html import escape
from typing import NamedTuple

import numpy as np
import pandas as pd

from swrlib.overview import CHAPTERS, late_accuracies, rivals
from swrlib.papers import SWR as paper
from swrlib.papers import Cell
from swrlib.statistics import Interval
from swrlib.verdicts import NOT_RUN, TOO_FEW_SEEDS, difference, in_points, second_rule


class Against(NamedTuple):
    """SWR against a rival in one setting, by the second rule's outcome and error.

    Attributes
    ----------
    cell : (dataset, model, stream)
    rival : str
    gap : Interval
        SWR minus the rival, at 95%, as fractions.
    word : str
        The second rule's for a number against 0: *equal within the margin*, *differs*, *too noisy
        to say*.
    seeds : int
        Of the side that has fewer.
    """

    cell: Cell
    rival: str
    gap: Interval
    word: str
    seeds: int

    @property
    def side(self) -> str:
        """Where SWR ends, seen from the rival: above, below, or what the word says."""
        if self.word != second_rule.DIFFERS:
            return self.word
        return "above" if self.gap.difference > 0 else "below"


def against(late: pd.DataFrame, cell: Cell, rival: str) -> Against | None:
    """Set SWR beside a rival; None where one of them has too few seeds.

    Parameters
    ----------
    late : DataFrame
        One of `late_accuracies`. Our addition is in the block design only as the rival.
    cell : (dataset, model, stream)
    rival : str
    """
    estimate = difference(late, "swr", rival)
    if np.isnan(estimate.error):
        return None
    word = second_rule.number_word(estimate, paper.sizes.get(cell[:2], float("nan")))
    return Against(cell, rival, estimate.interval(), word, int(late[["swr", rival]].count().min()))


def scorecard(records: pd.DataFrame) -> str:
    """Write the scorecard as HTML: a row a stream, a column a pair of data and network.

    Parameters
    ----------
    records : DataFrame
        What `swrlib.load_records` returns.
    """
    late = late_accuracies(records)
    heads = [paper.label(*pair) for pair in paper.pairs]
    top = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    lines = [f'<thead><tr><th scope="col">setting</th>{top}</tr></thead><tbody>']
    for stream, name in CHAPTERS.items():
        chapter = f"../notebooks/{name}.html"
        cells = [f'<th scope="row"><a href="{chapter}">{escape(paper.label(stream))}</a></th>']
        for pair, head in zip(paper.pairs, heads, strict=True):
            state, text = _cell(late.get((*pair, stream)), (*pair, stream))
            link = f'<a href="{chapter}">{text}</a>'
            cells.append(f'<td class="{state}" data-head="{escape(head)}">{link}</td>')
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f'<table class="scorecard">{"".join(lines)}</tbody></table>'


def _cell(late: pd.DataFrame | None, cell: Cell) -> tuple[str, str]:
    """Return a cell's class and its HTML: who is best, the difference, how much is behind it."""
    others = [] if late is None else rivals(late)
    beside = against(late, cell, others[0]) if late is not None and others else None
    if beside is None:
        tried = late is not None and "swr" in late
        return "none", TOO_FEW_SEEDS if tried else NOT_RUN
    rival = escape(paper.label(beside.rival))
    state, who = {
        "above": ("best", "SWR is best"),
        "below": ("behind", f"{rival} is best"),
        second_rule.EQUAL: ("level", f"SWR and {rival} level"),
        second_rule.TOO_NOISY: ("open", f"open: SWR or {rival}"),
    }[beside.side]
    gap = in_points(*beside.gap, unit="")
    number = "one rival" if len(others) == 1 else f"{len(others)} rivals"
    behind = f"{number}, {beside.seeds} seeds"
    text = f'<b>{who}</b><span class="gap">SWR − {rival}: {gap}</span>'
    return state, f'{text}<span class="about">{behind}</span>'
