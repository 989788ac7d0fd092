"""Every comparison of the claims with its interval and margin, in one picture, as HTML."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import pandas as pd

from swrlib.overview import CHAPTERS
from swrlib.papers import SWR as paper
from swrlib.tables import badge, folded
from swrlib.verdicts import LEAST_SEEDS, in_points

#: How far the axis reaches to either side, in margins; an arrow points to what lies beyond.
REACH = 8.0
#: By what a reader can sort, and its name.
ORDERS = {"chapter": "chapter", "difference": "difference, in margins", "word": "verdict"}

_SORTING = """<script>
document.querySelectorAll(".sorting button").forEach((button) =>
  button.addEventListener("click", () => {
    const by = button.dataset.by, list = document.querySelector(".forest");
    const rank = (row) => Number(row.dataset[by]);
    list.append(...[...list.children].sort((a, b) => rank(a) - rank(b)));
    document.querySelectorAll(".sorting button").forEach((other) =>
      other.setAttribute("aria-pressed", other === button));
  }));
document.querySelector(".sorting").hidden = false;
</script>"""


def forest(comparisons: pd.DataFrame, titles: Mapping[str, str]) -> str:
    """Write a row for each comparison that was run, and how many were not, as HTML.

    What several claims compare has one row with all their words. The axis is in margins, so that
    the band from -1 to 1 is what does not matter in every row.

    Parameters
    ----------
    comparisons : DataFrame
        What `swrlib.verdicts.all_comparisons` returns.
    titles : mapping of str to str
        The title of each chapter by the name of its page, in the book's order.
    """
    run = comparisons[comparisons["n"] >= LEAST_SEEDS]
    pages = [CHAPTERS.get(row.stream, row.chapter) for row in run.itertuples()]
    run = run.assign(page=pages, size=run["estimate"] / run["margin"])
    key = ["page", "setting", "method", "rival", "estimate", "margin"]
    rows = [
        group.iloc[0].to_dict() | {"words": [*dict.fromkeys(group["word"])]}
        for _, group in run.groupby(key, sort=False)
    ]
    rows.sort(key=lambda row: (list(titles).index(row["page"]), row["setting"]))
    orders = {
        "chapter": range(len(rows)),
        "difference": _ranks([-row["size"] for row in rows]),
        "word": _ranks([row["words"] for row in rows]),
    }
    lines = [
        _row(row, titles[row["page"]], {name: ranks[i] for name, ranks in orders.items()})
        for i, row in enumerate(rows)
    ]
    button = '<button type="button" data-by="{}" aria-pressed="{}">{}</button>'
    pressed = dict.fromkeys(ORDERS, "false") | {"chapter": "true"}
    buttons = " ".join(button.format(by, pressed[by], name) for by, name in ORDERS.items())
    scale = "".join(f"<i>{x:+g}</i>" if x else "<i>0 margins</i>" for x in (-REACH, 0, REACH))
    waiting = comparisons[comparisons["n"] < LEAST_SEEDS]
    waiting = waiting.drop_duplicates(["setting", "method", "rival"])
    return "\n".join(
        [
            f'<p class="sorting" hidden>Sort by {buttons}</p>',
            f'<div class="forest-axis" aria-hidden="true"><span></span><span class="scale">{scale}'
            f'</span></div><ul class="forest">{"".join(lines)}</ul>',
            _SORTING,
            _not_run(waiting) if len(waiting) else "",
        ]
    ).strip()


def _ranks(values: list[Any]) -> list[int]:
    order = sorted(range(len(values)), key=values.__getitem__)
    return [order.index(i) for i in range(len(values))]


def _row(row: Mapping[str, Any], title: str, ranks: Mapping[str, int]) -> str:
    """Write one comparison; the mark is a link that says what it shows."""
    what, where = escape(_compared(row)), escape(row["setting"])
    gap = (row["estimate"], row["low"], row["high"])
    if row["pooled"]:
        said = f"{gap[0]:+.2f} margins [{gap[1]:+.2f}, {gap[2]:+.2f}]"
        margin = "in margins"
    else:
        said, margin = in_points(*gap, unit=""), f"margin {100 * row['margin']:.2g}"
    words = ", ".join(row["words"])
    page = f"../notebooks/{row['page']}.html"
    spoken = escape(f"{_compared(row)}, {row['setting']}: {said}, {margin}; {words}. {title}")
    data = " ".join(f'data-{name}="{rank}"' for name, rank in ranks.items())
    return (
        f'<li {data}><span><b>{what}</b> <a class="place" href="{page}">{where}</a></span>'
        f'<a class="to-chapter" href="{page}" aria-label="{spoken}">'
        f"{mark(*gap, margin=row['margin'])}</a>"
        f'<span class="numbers">{said} <span class="place">{margin}</span></span>'
        f"<span>{' '.join(map(badge, row['words']))}</span></li>"
    )


def _compared(row: Mapping[str, Any]) -> str:
    """Say what a difference is of: a method that drops less has a rival that drops more."""
    kind = paper.find_claim(row["claim"]).kind
    if kind == "loses nothing":
        return f"{paper.label(row['method'])}, accuracy after − before changes"
    if kind == "loses less":
        return f"{paper.label(row['rival'])} − {paper.label(row['method'])}, drop at changes"
    return str(row["comparison"]) + (", drop at changes" if kind == "loses more" else "")


def mark(estimate: float, low: float, high: float, *, margin: float) -> str:
    """Draw an interval over the band of the margin: an SVG whose axis is in margins."""
    x, left, right = (min(max(v / margin, -REACH), REACH) for v in (estimate, low, high))
    arrow = '<path class="beyond" d="M{0:g} -.25L{1:g} 0L{0:g} .25"/>'
    beyond = arrow.format(0.5 - REACH, -REACH) if low / margin < -REACH else ""
    beyond += arrow.format(REACH - 0.5, REACH) if high / margin > REACH else ""
    point = f'<path class="point" d="M{x:.2f} 0h0"/>' if abs(estimate / margin) <= REACH else ""
    return (
        f'<svg viewBox="{-REACH - 0.5:g} -1 {2 * REACH + 1:g} 2" preserveAspectRatio="none" '
        'aria-hidden="true" focusable="false"><rect class="band" x="-1" y="-1" width="2" '
        'height="2"/><path class="zero" d="M0 -1V1"/>'
        f'<path class="interval" d="M{left:.2f} 0H{right:.2f}"/>{point}{beyond}</svg>'
    )


def _not_run(waiting: pd.DataFrame) -> str:
    """Count the comparisons that were not run, by setting."""
    counts = waiting.groupby("setting", sort=False).size()
    listed = "".join(f"<li>{escape(place)}: {n}</li>" for place, n in counts.items())
    return folded(f"{len(waiting)} further comparisons were not run", f"<ul>{listed}</ul>")
