"""What the records mean for a user, in five sentences that follow the numbers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import pandas as pd

from swrlib.claims.plasticity import own_gaps
from swrlib.overview import STREAMS, late_accuracies
from swrlib.overview.scorecard import Against, against
from swrlib.papers import SWR as paper
from swrlib.papers import Cell
from swrlib.verdicts import in_points
from swrlib.verdicts import second_rule as rule
from swrlib.verdicts.outcomes import OURS, counting

#: Streams in which all images are there at the end, as they are from scratch.
CHANGES = ("warm-start", "full-access")


def advice(records: pd.DataFrame) -> dict[str, str]:
    """Return five sentences by the question that each answers.

    Parameters
    ----------
    records : DataFrame
        What `swrlib.load_records` returns. The second rule decides: the mean of the last ten
        epochs, its error, and the size that matters.
    """
    late = late_accuracies(records)
    vanilla, l2, adamw = (
        [cases for cell, table in late.items() if (cases := against(table, cell, rival))]
        for rival in ("vanilla", "l2", OURS)
    )
    gaps = losses(records)
    plain = gaps[(gaps["method"] == "vanilla") & (gaps["low"] > 0)]
    harmed = set(plain[["dataset", "model", "stream"]].itertuples(index=False, name=None))
    return {
        "Can these data show a recovery?": where_a_loss_is_seen(gaps),
        "Does SWR recover plasticity?": what_is_recovered(gaps),
        "Does it help?": what_is_gained(vanilla),
        "Is it better than weight decay?": beside_decay(l2, adamw, harmed),
        "What is not known?": what_is_not_known([*vanilla, *l2, *adamw]),
    }


def losses(records: pd.DataFrame) -> pd.DataFrame:
    """Return `swrlib.claims.plasticity.own_gaps` of all `CHANGES`, ``stream`` beside them."""
    counted = records[records["run"].isin(counting(records, "paper")["run"])]
    single = counted[counted["stream"] == "single-task"]
    changed = {stream: counted[counted["stream"] == stream] for stream in CHANGES}
    parts = [own_gaps(rows, single).assign(stream=stream) for stream, rows in changed.items()]
    return pd.concat(parts, ignore_index=True)


def where_a_loss_is_seen(gaps: pd.DataFrame) -> str:
    """Say first where plain training loses nothing: there nothing can be recovered."""
    plain = gaps[(gaps["method"] == "vanilla") & gaps["low"].notna()]
    spared: list[str] = []
    harmed: list[str] = []
    for pair, rows in plain.groupby(["dataset", "model"], sort=False):
        lost = rows[rows["low"] > 0]
        shown = (lost if len(lost) else rows).itertuples()
        numbers = "; ".join(f"{paper.label(row.stream)}: {_loss(row)}" for row in shown)
        (harmed if len(lost) else spared).append(f"{paper.label(*pair)} ({numbers})")
    if not len(plain):
        return "Whether plain training loses anything when data change was not measured."
    if not spared:
        return f"When data change, plain training loses accuracy on {' and '.join(harmed)}."
    return (
        "Plain training has to lose something that can be recovered, and is not seen to on "
        f"{' and '.join(spared)}, which therefore cannot test the thesis; "
        + (f"it does lose on {' and '.join(harmed)}." if harmed else "nothing else was measured.")
    )


def what_is_recovered(gaps: pd.DataFrame) -> str:
    """Say what SWR and L2 lose of their own accuracy from scratch, where plain training loses."""
    said = []
    for (dataset, model, stream), rows in gaps.groupby(["dataset", "model", "stream"], sort=False):
        own = {row.method: row for row in rows.itertuples() if pd.notna(row.low)}
        if "swr" not in own or "vanilla" not in own or own["vanilla"].low <= 0:
            continue
        swr = own["swr"]
        rest = in_points(swr.recovered, swr.recovered_low, swr.recovered_high)
        so = "so it recovers some" if swr.recovered_low > 0 else "so whether it recovers is open"
        so = "so it recovers none" if swr.recovered_high < 0 else so
        said.append(
            f"on {paper.label(dataset, model)}, {paper.label(stream)}, it loses {_loss(swr)}, and "
            f"plain training's loss minus that is {rest}, {so}"
            + (f" (L2 loses {_loss(own['l2'])})" if "l2" in own else "")
        )
    if not said:
        return "That is not known, since SWR was tried on no such loss."
    return f"Of its own accuracy from scratch, {'; '.join(said)}."


def what_is_gained(cases: Sequence[Against]) -> str:
    """Count where SWR ends above and below plain training, and say by how much on which network."""
    if not cases:
        return "Against plain training SWR was not tried."
    ranges = []
    seen = [a for a in cases if a.side in ("above", "below")]
    for pair in dict.fromkeys(a.cell[:2] for a in seen):
        gaps = [100 * a.gap.difference for a in seen if a.cell[:2] == pair]
        least, most = f"{min(gaps):+.1f}", f"{max(gaps):+.1f}"
        span = least if least == most else f"{least} to {most}"
        ranges.append(f"{span} points on {paper.label(*pair)}")
    there = f"; where a side is seen its mean differs by {', '.join(ranges)}" if ranges else ""
    return f"It ends {_tally(cases, 'plain training')}, whether or not that is plasticity{there}."


def beside_decay(
    l2: Sequence[Against], adamw: Sequence[Against], harmed: Collection[Cell] = ()
) -> str:
    """Compare with both kinds of weight decay, also where plain training loses by a change."""
    if not (l2 or adamw):
        return "Against weight decay SWR was not tried."
    parts, lead = [], []
    for name, cases in (
        ("L2 with the paper's λ", l2),
        ("AdamW with a λ chosen on held-out images", adamw),
    ):
        sides = [a.side for a in cases]
        lead.append(sides.count("above") - sides.count("below"))
        pairs = dict.fromkeys(paper.label(*a.cell[:2]) for a in cases)
        where = f" (tried on {next(iter(pairs))} alone)" if len(pairs) == 1 else ""
        said = _tally(cases, name + where, named=True)
        parts.append(said if cases else f"untried against {name}")
    if min(lead) < 0 < max(lead):
        so = "so which to try first depends on the kind of decay"
    elif any(lead):
        so = f"so try {'SWR before weight decay' if max(lead) > 0 else 'weight decay before SWR'}"
    else:
        so = "so over all settings neither leads"
    behind = [a for a in l2 if a.cell in harmed and a.side in ("above", "below")]
    text = " Where plain training loses ({}), SWR ends {} L2."
    there = "".join(text.format(paper.label(*a.cell), a.side) for a in behind)
    return f"It ends {'; '.join(parts)}; {so}.{there}"


def what_is_not_known(cases: Sequence[Against]) -> str:
    """Say which settings of the paper were not trained, and how many comparisons are open."""
    tried = {a.cell for a in cases}
    cells = [(*pair, stream) for pair in paper.pairs for stream in STREAMS]
    left = [cell for cell in cells if cell not in tried]
    pairs = [pair for pair in paper.pairs if not any(cell[:2] == pair for cell in tried)]
    noisy = sum(a.word == rule.TOO_NOISY for a in cases)
    text = f"{len(left)} of the paper's {len(cells)} settings, which were not trained"
    text = text if left else "what other networks and data would show"
    if pairs:
        text += f", among them all with {' and '.join(paper.label(*pair) for pair in pairs)}"
    if noisy:
        text += f", and {noisy} of these {len(cases)} comparisons, for which the seeds are too few"
    return f"{text[0].upper()}{text[1:]}, and all beyond such networks and images."


def _tally(cases: Sequence[Against], rival: str, *, named: bool = False) -> str:
    """Count on which side SWR ends; name the settings in which a side is seen."""

    def seen(side: str) -> str:
        here = [a for a in cases if a.side == side]
        names = [f"{paper.label(*a.cell)}, {100 * a.gap.difference:+.2f}" for a in here if named]
        return f" ({'; '.join(names)})" if names else ""

    above, below = (sum(a.side == side for a in cases) or "none" for side in ("above", "below"))
    level, noisy = (sum(a.word == word for a in cases) for word in (rule.EQUAL, rule.TOO_NOISY))
    rest = [f"equal within the size that matters in {level}"] if level else []
    rest += [f"not to be told from it in {noisy}"] if noisy else []
    number = "1 setting" if len(cases) == 1 else f"{len(cases)} settings"
    parts = [
        f"above {rival} in {above} of {number}{seen('above')}",
        f"below it in {below}{seen('below')}",
        *rest,
    ]
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def _loss(row: Any) -> str:
    return f"{100 * row.gap:.2f} points [{100 * row.low:.2f}, {100 * row.high:.2f}]"
