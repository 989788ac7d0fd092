"""Tables and badges: pandas' Styler within frames that scroll on a phone, words beside colours."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import pandas as pd
from pandas.api.types import is_float
from pandas.io.formats.style import Styler

from swrlib import records, verdicts
from swrlib.overview import collapsed_runs
from swrlib.overview.answers import answers as answered
from swrlib.papers import CHANGE_KINDS, Claim
from swrlib.papers import SWR as paper

CORRECTED = (
    "What speaks against a claim of several comparisons is corrected for their number, so that a "
    "word may be more cautious than an interval by itself."
)
#: Writes a difference and its interval without a unit, which the head of the column has.
_points = partial(verdicts.in_points, unit="")


def show_html(text: str) -> None:
    """Display HTML in a notebook."""
    from IPython.display import HTML, display

    display(HTML(text))


def styled(table: pd.DataFrame, form: str = "{}") -> Styler:
    """Return pandas' Styler of a table: floats as the form says, a dash for what is missing."""

    def written(value: Any) -> Any:
        return form.format(value) if is_float(value) else value

    return table.style.format(written, na_rep="–", escape="html").format_index(escape="html")


def framed(table: Styler, *, head: str = "right") -> str:
    """Return a table as HTML, in a frame of its own that scrolls where it is wider than the page.

    Parameters
    ----------
    table : Styler
    head : str
        Where the names of columns stand.
    """
    heads = {"selector": "thead th", "props": f"text-align: {head}"}
    table.set_table_styles([heads], overwrite=False)
    text = table.to_html(table_attributes='class="dataframe"')
    return f'<div class="table-container">{text}</div>'


def show(title: str, table: pd.DataFrame, form: str = "{}") -> None:
    """Display a table below its title, which is plain text; a dash where it has no rows.

    An index that only counts the rows is left out.
    """
    lines = styled(table, form)
    if isinstance(table.index, pd.RangeIndex):
        lines.hide(axis="index")
    text = framed(lines) if len(table) else '<div class="table-container">–</div>'
    show_html(f"<p>{html.escape(title)}</p>{text}")


def answers(changed: pd.DataFrame, single: pd.DataFrame | None = None) -> None:
    """Show what records at the paper's scale say first: `swrlib.overview.answers`."""
    said = "".join(f"<li>{html.escape(text)}</li>" for text in answered(changed, single))
    show_html(f'<ul class="answers">{said}</ul>' if said else "")


def folded(title: str, content: str) -> str:
    """Return HTML that is opened by a click on its title."""
    return f"<details><summary>{html.escape(title)}</summary>{content}</details>"


# ---------------------------------------------------------------------------------------------
# Verdicts


def badge(verdict: str, text: str | None = None) -> str:
    """Return a verdict's badge as HTML; the word says it, symbol and colour only help."""
    other = verdict in (verdicts.QUICK, verdicts.CUSTOM)
    slug = "quick" if other else verdict.removesuffix(" in small").split(" by ")[0]
    slug = slug.replace(" ", "-")
    return f'<span class="verdict verdict-{slug}">{html.escape(text or verdict)}</span>'


def claim_line(claim: Claim, badges: str) -> str:
    """Return a claim's line as HTML: its verdict, what it says, its place in the paper."""
    place = f'<span class="place">{html.escape(claim.place)}</span>'
    return f"<p>{badges} {html.escape(claim.sentence)} {place}</p>"


def banner(judged: Iterable[verdicts.Verdict]) -> None:
    """Show the verdict of each claim, with the numbers behind it and the paper's own.

    For the page of all claims the verdicts travel along, as metadata of the output.
    """
    from IPython.display import display

    lines, waiting, handed_on = [], [], []
    judged = list(judged)
    for verdict in judged:
        handed = {"claim": verdict.claim.id, "verdict": verdict.verdict, "label": verdict.label}
        handed_on.append(handed | {"detail": verdict.detail})
        line = claim_line(verdict.claim, badge(verdict.verdict, verdict.label))
        if verdict.verdict == verdicts.NOT_RUN:
            waiting.append(f'<div class="claim">{line}</div>')
            continue
        detail = html.escape(verdict.detail)
        if verdict.printed != verdicts.NOT_PRINTED:
            detail += f" The same rule on the printed numbers: {html.escape(verdict.printed)}."
        lines.append(f'<div class="claim">{line}<p class="detail">{detail}</p></div>')
    several = tuple(f"{word}: " for word in verdicts.second_rule.WORDS)
    if any(" · " in v.detail or v.detail.startswith(several) for v in judged):
        lines.append(f'<p class="place">{html.escape(CORRECTED)}</p>')
    if waiting:
        number = "One claim" if len(waiting) == 1 else f"{len(waiting)} claims"
        lines.append(folded(f"{number} not run at paper scale", "".join(waiting)))
    text = f'<div class="claims">{"".join(lines)}</div>'
    metadata = {"text/html": {"verdicts": handed_on}}
    display({"text/html": text}, raw=True, metadata=metadata)


def own_runs(judged: list[verdicts.Verdict], rows: pd.DataFrame) -> None:
    """Show what rules say of a page's own runs, where they are not at the paper's scale.

    Parameters
    ----------
    judged : list of Verdict
        Of several claims each one's sentence is given, too.
    rows : DataFrame
        The runs: with ``scale`` and ``dataset``.
    """
    first = rows.iloc[0]
    if first["scale"] == "paper":
        return
    if len({verdict.claim.id for verdict in judged}) < 2:
        for verdict in judged:
            line = f"{badge(verdict.verdict)} This page's own runs. {html.escape(verdict.detail)}"
            show_html(f'<p class="own-runs">{line}</p>')
        return
    kind = badge(verdicts.QUICK if first["scale"] == "quick" else verdicts.CUSTOM)
    lines = "".join(f"<li>{html.escape(f'{v.claim.sentence} {v.detail}')}</li>" for v in judged)
    title = f"<p>{kind} This page's own runs, on {paper.label(first['dataset'])}:</p>"
    show_html(f'<div class="own-runs">{title}<ul class="comparisons">{lines}</ul></div>')


def own_comparisons(claims: Iterable[Claim], quick: pd.DataFrame) -> None:
    """Show the comparisons of claims on a page's own records, which give no verdict on the paper.

    Parameters
    ----------
    claims : iterable of Claim
    quick : DataFrame
        Records of one data set, model and stream.
    """
    first = quick.iloc[0]
    cell, scale = (first["dataset"], first["model"], first["stream"]), first["scale"]
    rows = []
    for claim in claims:
        for c in verdicts.judge_claim(claim, quick, cells=[cell], scale=scale).comparisons:
            gap = f"{100 * c.difference:+.2f}"
            if c.n >= verdicts.LEAST_SEEDS:
                gap = _points(c.difference, c.low, c.high)
            if c.n > 1:
                names = map(paper.label, (c.method, c.rival))
                rows.append((*names, _compared(claim), gap, c.n))
    columns = ["method", "against", "of", "points [95%]", "seeds"]
    table = pd.DataFrame(rows, columns=columns).drop_duplicates()
    text = framed(styled(table).hide(axis="index"), head="left")
    own = badge(verdicts.QUICK, f"{scale} scale: no verdict on the paper")
    title = f"<p>{own} This page's own runs, on {paper.label(cell[0])}.</p>"
    rest = folded("The same comparisons on them", text) if rows else ""
    show_html(f'<div class="own-runs">{title}{rest}</div>')


def _compared(claim: Claim) -> str:
    """Say what a claim's comparisons are differences of."""
    if claim.kind not in CHANGE_KINDS:
        return "final accuracy"
    return "drop at changes" if claim.kind == "loses more" else "accuracy after − before changes"


# ---------------------------------------------------------------------------------------------
# What was trained


def _percent(mean: float, deviation: float) -> str:
    spread = f" ± {100 * deviation:.2f}" if pd.notna(deviation) else ""
    return f"{100 * mean:.2f}{spread}"


def cells(numbers: pd.DataFrame) -> None:
    """Show what `swrlib.verdicts.table_cells` returned: ours, the paper's, the words."""

    def table(rows: pd.DataFrame) -> str:
        lines: list[list[str]] = []
        for (dataset, model), group in rows.groupby(["dataset", "model"], sort=False):
            lines.append([paper.label(dataset, model), *[""] * 4])
            for row in group.itertuples():
                ours = f"{_percent(row.ours_mean, row.ours_sd)} ({row.n})" if row.n else "–"
                printed = _percent(row.paper_mean, row.paper_sd)
                theirs = f"{printed} ({row.paper_n})" if row.paper_n else "–"
                gap = _points(row.difference, row.low, row.high)
                lines.append([paper.label(row.method), row.verdict, ours, theirs, gap])
        names = ["method", "verdict", "ours, % (n)", "paper, % (n)", "difference [95%]"]
        shown = styled(pd.DataFrame(lines, columns=names)).hide(axis="index")
        shown.format(lambda verdict: verdict and badge(verdict), subset=["verdict"])
        heads = [number for number, line in enumerate(lines) if not line[1]]
        shown.set_properties(subset=(heads, "method"), **{"font-weight": "bold"})
        return framed(shown, head="left")

    run, waiting = numbers[numbers["n"] > 0], numbers[numbers["n"] == 0]
    rest = folded(f"{len(waiting)} cells not run", table(waiting)) if len(waiting) else ""
    show_html((table(run) if len(run) else "") + rest)


def finals(frame: pd.DataFrame) -> None:
    """Show how accurate each method ends, by the second rule, and its last epoch alone.

    Differences are from vanilla, with the interval that verdicts have; of two seeds without an
    interval, and a dash where there is no vanilla or one seed. Where the last epoch and the last
    ten name another method as the most accurate one, on the seeds that all methods have, a sentence
    says so. Of a stage of fewer than ten epochs the mean is over all of them.

    Parameters
    ----------
    frame : DataFrame
        Records of one stream.
    """
    for _, rows in frame.groupby(["dataset", "model", "scale"]):
        ends = verdicts.final_accuracy(rows)
        last = ends.pivot_table(index="seed", columns="method", values="test_accuracy")
        late = verdicts.late_by_seed(rows)
        epochs = min(verdicts.outcomes.LATE, int(ends["stage_epoch"].max()))
        seeds = verdicts.seed_count(rows)
        text = f"Accuracy at the end, {verdicts.setting(rows)}, "
        text += "one seed." if seeds == "1" else f"{seeds} seeds."
        if "vanilla" not in late:
            text += " Vanilla was not trained here, so there is no difference from it."
        best, steady = (table.dropna().mean() for table in (last, late))
        if best.notna().all() and best.idxmax() != steady.idxmax():
            text += f" {paper.label(best.idxmax())} is the most accurate method in the last epoch, "
            text += f"{paper.label(steady.idxmax())} over the last {epochs}."
        for said, others in collapsed_runs(late):
            text += f" A run collapsed and counts like any other: {said} ({others})."
        lines = {
            paper.label(method): {
                f"mean of the last {epochs} epochs, %": _spread(late[method]),
                "minus vanilla, points": _gap_from_vanilla(late, method),
                "last epoch alone, %": _spread(last[method]),
            }
            for method in sorted(late, key=[*paper.labels, *late].index)
        }
        show(text, pd.DataFrame.from_dict(lines, orient="index"))


def _spread(accuracies: pd.Series) -> str:
    return _percent(accuracies.mean(), accuracies.std())


def _gap_from_vanilla(late: pd.DataFrame, method: str) -> str:
    """Write a method's mean minus vanilla's."""
    if method == "vanilla" or "vanilla" not in late:
        return "–"
    gap = verdicts.difference(late, method, "vanilla").interval()
    if not pd.isna(gap.low):
        return _points(*gap)
    few = late[[method, "vanilla"]].count().min() < 2
    return "–" if few else f"{100 * (late[method].mean() - late['vanilla'].mean()):+.2f}"


def provenance(frame: pd.DataFrame) -> None:
    """Show where records come from: how many runs, with what, on what, when."""
    if not len(frame):
        show_html("<p>There are no records at paper scale: <code>make paper</code> makes them.</p>")
        return
    sources = records.load_provenance()
    sources = sources[sources["run"].isin(frame["run"])]
    changed = "uncommitted changes"
    columns = ["commit", changed, "torch", "python", "device", "processor"]
    days = sources.assign(day=sources["date"].str[:10], commit=sources["commit"].str[:10])
    days[changed] = days["dirty"].map({True: "yes", False: "no"})
    table = days.groupby(columns, dropna=False).agg(
        runs=("run", "nunique"), first_day=("day", "min"), last_day=("day", "max")
    )
    text = framed(styled(table.reset_index()).hide(axis="index"))
    show_html(f'<div class="provenance">{text}</div>')


def not_run(judged: Iterable[verdicts.Verdict]) -> None:
    """Show the claims that were not run, and what it would take: the details of their verdicts."""
    item = '<li>{} <span class="place">{}</span>: {}</li>'
    lines = [
        item.format(*map(html.escape, (v.claim.sentence, v.claim.place, v.detail or "–")))
        for v in judged
        if v.verdict == verdicts.NOT_RUN
    ]
    show_html(f"<ul>{''.join(lines)}</ul>" if lines else "<p>Every claim was run.</p>")


def times(rows: pd.DataFrame, by: str, labels: Mapping[str, str]) -> str:
    """Say how long a task of a run took to train.

    Parameters
    ----------
    rows : DataFrame
        ``run, seconds`` and another column, a row a run and task.
    by : str
        That column: a setting.
    labels : mapping of str to str
        How settings are called.
    """
    seconds = rows.groupby([by, "run"])["seconds"].mean()
    parts = [
        f"{labels.get(str(which), str(which))} {own.mean():.2g} s ({len(own)} runs)"
        for which, own in seconds.groupby(by)
    ]
    return f"Training time a task and run, measures not counted: {', '.join(parts)}."
