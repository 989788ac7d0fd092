"""What every chapter begins and ends with: checked parameters, provenance, the verdict banner."""

from __future__ import annotations

import html
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from swrlib import paper, records, runs, streams, training, verdicts
from swrlib.datasets import DATASETS
from swrlib.layers import nearest
from swrlib.methods import Method
from swrlib.models import MODELS
from swrlib.verdicts import Verdict

_PLAIN = (str, int, float, bool, list, tuple, dict, type(None))
_JUPYTER = {"In", "Out"}


def project_root() -> Path:
    """Return the project's folder, or the working directory where a notebook stands alone."""
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "_config.yml").is_file() and (folder / "notebooks").is_dir():
            return folder
    return Path.cwd()


class Chapter:
    """A chapter's checked parameters, and the two things it does with them: train and judge.

    Attributes
    ----------
    dataset, model, scale : str
    seeds : list of int
    epochs : int or None
        Epochs of each stage instead of the scale's.
    results : Path
        Folder of the records that this notebook makes.
    """

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self.parameters = dict(parameters)
        self.dataset: str = parameters.get("dataset", "mnist-5k")
        self.model: str = parameters.get("model", "mlp")
        self.scale: str = parameters.get("scale", "quick")
        self.epochs: int | None = parameters.get("epochs")
        self.seeds = list(range(parameters.get("seeds", 1)))
        self.root = project_root()
        given = parameters.get("results")
        self.results = Path(given) if given else self.root / "build" / "records"

    def methods(self, names: Iterable[str], stream: str) -> list[str | Method]:
        """Return methods with the paper's λ, or one borrowed from a near column, which is said."""
        chosen: list[str | Method] = []
        for name in names:
            source, lam = self._lambda(name, stream)
            if source is None:
                chosen.append(name)
            elif lam is None:
                print(f"{paper.label(name)} is left out: {source}")
            else:
                text = ",".join(
                    f"{value:g}" for value in (lam if isinstance(lam, tuple) else [lam])
                )
                print(f"{paper.label(name)}: λ = {text}, {source}")
                chosen.append(f"{name}:{text}")
        return chosen

    def _lambda(self, name: str, stream: str) -> tuple[str | None, paper.Lambda | None]:
        """Return where a λ comes from and λ; (None, None) where the name alone does."""
        if name == "adamw":
            places = [(self.dataset, self.model, stream), (self.dataset, self.model, "single-task")]
            for place in [*places, ("mnist", "mlp", "single-task")]:
                try:
                    best = runs.selected_lambda(name, *place, self.results)
                except ValueError:
                    continue
                return f"the best on held-out images of {' '.join(place)}", best
            return "its λ has not been selected on held-out images", None
        if name not in paper.GRIDS and name != "swr-reinit":
            return None, None
        if paper.published_lambda(name, self.dataset, self.model, stream) is not None:
            return None, None
        for dataset, model in paper.PAIRS:
            if model == self.model:
                lam = paper.published_lambda(name, dataset, model, stream)
                return f"the paper's for {paper.label(dataset)} (none for {self.dataset})", lam
        return "the paper has no λ for it", None

    def train(self, stream: str | streams.Stream, methods: Iterable[str], **options: Any) -> Any:
        """Train what the chapter's records lack, and return them (see `swrlib.train`)."""
        name = runs.stream_name(stream)
        return training.train(
            dataset=self.dataset,
            model=self.model,
            stream=stream,
            methods=self.methods(methods, name),
            seeds=self.seeds,
            scale=self.scale,
            epochs=self.epochs if isinstance(stream, str) else None,
            results=self.results,
            checkpoints=self.root / ".checkpoints",
            **options,
        )

    def paper_records(self, stream: str, **filters: Any) -> pd.DataFrame:
        """Return the committed records of a stream at paper scale; empty where there are none."""
        try:
            return records.load_records(stream=stream, scale="paper", split="all", **filters)
        except FileNotFoundError:
            return pd.DataFrame(columns=list(records.COLUMNS))


def measured(
    frame: pd.DataFrame, *names: str, results: str | os.PathLike[str] | None = None
) -> pd.DataFrame:
    """Return what was measured in the runs of a frame, beside what tells the runs apart.

    Parameters
    ----------
    frame : DataFrame
        Records.
    *names : str
        Measures as they stand in the table: "lipschitz", "growth:max".
    results : path, optional
        Folder that holds them; default: the project's own.

    Returns
    -------
    DataFrame
        ``run, epoch, step, measure, layer, value, dataset, model, stream, method, lam, seed,
        scale``.
    """
    about = ["run", "dataset", "model", "stream", "method", "lam", "seed", "scale"]
    runs = frame.drop_duplicates("run")[about]
    if not len(runs):
        return pd.DataFrame(columns=[*records.MEASURE_COLUMNS, *about[1:]])
    table = records.load_measures(results, measure=list(names), run=list(runs["run"]))
    return table.merge(runs, on="run")


def begin(namespace: Mapping[str, Any], *names: str) -> Chapter:
    """Check a notebook's parameters, print what they resolve to, and stamp provenance.

    papermill only warns of an unknown parameter, so whatever plain value stands in the notebook's
    namespace at this point must be one of the chapter's parameters.

    Parameters
    ----------
    namespace : mapping
        The notebook's ``globals()``; nothing but imports and parameters may precede this call.
    *names : str
        The chapter's parameters.

    Raises
    ------
    ValueError
        If a parameter is unknown or senseless; the nearest right name is given.
    """
    for name, value in namespace.items():
        if name.startswith("_") or name in _JUPYTER or name in names:
            continue
        if isinstance(value, _PLAIN):
            raise ValueError(f"unknown parameter {name!r}: {nearest(name, names)}")
    parameters = {name: namespace[name] for name in names}
    for name, value in parameters.items():
        _check(name, value)
    chapter = Chapter(parameters)
    _stamp(chapter)
    return chapter


def _check(name: str, value: Any) -> None:
    choices: dict[str, Iterable[str]] = {
        "model": MODELS,
        "scale": streams.SCALES,
        "access": ("full", "limited"),
        "stream": streams.STREAMS,
    }
    if name in choices and value not in choices[name]:
        raise ValueError(f"unknown {name} {value!r}: {nearest(value, choices[name])}")
    if name == "dataset" and value not in DATASETS and not Path(str(value)).is_dir():
        raise ValueError(f"unknown dataset {value!r}: {nearest(value, DATASETS)}, or a folder")
    if name in ("seeds", "epochs", "steps") and not (name == "epochs" and value is None):
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or value < 1:
            raise ValueError(f"{name} is {value!r}: it must be a whole number from 1 on")
    if name == "decay" and not isinstance(value, bool):
        raise ValueError(f"decay is {value!r}: it must be true or false")
    if name == "results" and not isinstance(value, str | os.PathLike | None):
        raise ValueError(f"results is {value!r}: it must name a folder")


def _stamp(chapter: Chapter) -> None:
    about = records.provenance()
    given = ", ".join(f"{k} = {v}" for k, v in chapter.parameters.items() if v is not None)
    commit = (about["commit"] or "unknown")[:10] + (" with changes" if about["dirty"] else "")
    show_html(
        f'<p class="provenance">This page ran with {html.escape(given)}; '
        f"commit {commit}, Python {about['python']}, torch {about['torch']}, "
        f"{html.escape(str(about['processor']))}, {about['date'][:10]}.</p>"
    )


def show_html(text: str) -> None:
    """Display HTML in a notebook."""
    from IPython.display import HTML, display

    display(HTML(text))


def badge(verdict: str, text: str | None = None) -> str:
    """Return a verdict's badge as HTML; the word says it, symbol and colour only help."""
    other = verdict in (verdicts.QUICK, verdicts.CUSTOM)
    slug = "quick" if other else verdict.split(" by ")[0].replace(" ", "-")
    return f'<span class="verdict verdict-{slug}">{html.escape(text or verdict)}</span>'


def banner(found: Iterable[Verdict]) -> None:
    """Show the verdict of each claim, with the numbers behind it and the paper's own."""
    judged, waiting = [], []
    for verdict in found:
        claim = verdict.claim
        line = (
            f"<p>{badge(verdict.verdict, verdict.label)} {html.escape(claim.sentence)} "
            f'<span class="place">{html.escape(claim.place)}</span></p>'
        )
        if verdict.verdict == verdicts.NOT_RUN:
            waiting.append(f'<div class="claim">{line}</div>')
            continue
        detail = html.escape(verdict.detail)
        if verdict.printed != verdicts.NOT_PRINTED:
            detail += f" The same rule on the printed numbers: {html.escape(verdict.printed)}."
        judged.append(f'<div class="claim">{line}<p class="detail">{detail}</p></div>')
    if waiting:
        number = "One claim" if len(waiting) == 1 else f"{len(waiting)} claims"
        judged.append(_folded(f"{number} not run at paper scale yet", "".join(waiting)))
    show_html(f'<div class="claims">{"".join(judged)}</div>')


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{html.escape(title)}</summary>{content}</details>"


def judge(chapter: Chapter, *claims: str, quick: pd.DataFrame | None = None) -> list[Verdict]:
    """Judge claims on the committed records at paper scale and show the banner.

    Parameters
    ----------
    chapter : Chapter
    *claims : str
        Ids of `swrlib.paper.CLAIMS`.
    quick : DataFrame, optional
        The chapter's own records: shown below, with the same statistics and no verdict on the
        paper.
    """
    chosen = [paper.find_claim(claim) for claim in claims]
    names = sorted({cell[2] for claim in chosen for cell in claim.cells})
    at_paper_scale = pd.concat([chapter.paper_records(name) for name in names])
    found = [verdicts.judge_claim(claim, at_paper_scale) for claim in chosen]
    banner(found)
    if quick is not None and len(quick):
        _quick_comparisons(chosen, quick)
    return found


def _compared(claim: paper.Claim) -> str:
    """Say what a claim's comparisons are differences of."""
    if claim.kind not in paper.CHANGE_KINDS:
        return "final accuracy"
    return "loss at changes" if claim.kind == "loses more" else "gain at changes"


def _quick_comparisons(claims: Iterable[paper.Claim], quick: pd.DataFrame) -> None:
    first = quick.iloc[0]
    cell, scale = (first["dataset"], first["model"], first["stream"]), first["scale"]
    pairs = dict.fromkeys(
        (c.method, c.rival, _compared(claim), c.n, c.difference, c.low, c.high)
        for claim in claims
        for c in verdicts.judge_claim(claim, quick, cells=[cell], scale=scale).comparisons
        if c.n > 1
    )
    rows = "".join(
        f"<tr><td>{paper.label(method)}</td><td>{paper.label(rival)}</td><td>{of}</td>"
        f"<td>{100 * gap:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]</td><td>{n}</td></tr>"
        for method, rival, of, n, gap, low, high in pairs
    )
    head = "<tr><th>method</th><th>against</th><th>of</th><th>points [95%]</th><th>seeds</th></tr>"
    table = f'<div class="table-container"><table class="dataframe">{head}{rows}</table></div>'
    own = f"{scale} scale: no verdict on the paper"
    show_html(
        f"<p>{badge(verdicts.QUICK, own)} This page's own runs, on {paper.label(cell[0])}.</p>"
        + (_folded("The same comparisons on them, paired over seeds", table) if rows else "")
    )


def cells_table(cells: pd.DataFrame) -> None:
    """Show ours beside the paper's: mean ± standard deviation (n), difference and verdict."""

    def accuracy(mean: float, sd: float, n: int) -> str:
        if not n:
            return "–"
        return f"{100 * mean:.2f} ± {100 * sd:.2f} ({n})" if n > 1 else f"{100 * mean:.2f} (1)"

    run: list[str] = []
    waiting: list[str] = []
    for row in cells.itertuples():
        interval = "–"
        if pd.notna(row.low):
            interval = f"{100 * row.difference:+.2f} [{100 * row.low:+.2f}, {100 * row.high:+.2f}]"
        fields = [
            html.escape(f"{paper.label(row.dataset)} {paper.label(row.model)}"),
            html.escape(paper.label(row.method)),
            badge(row.verdict),
            accuracy(row.ours_mean, row.ours_sd, row.n),
            accuracy(row.paper_mean, row.paper_sd, row.paper_n),
            interval,
        ]
        line = "<tr>" + "".join(f"<td>{field}</td>" for field in fields) + "</tr>"
        (run if row.n else waiting).append(line)
    names = ("setting", "method", "verdict", "ours, % (n)", "paper, % (n)", "difference [95%]")
    head = "<tr>" + "".join(f"<th>{name}</th>" for name in names) + "</tr>"

    def table(lines: list[str]) -> str:
        start = '<div class="table-container"><table class="dataframe cells"><thead>'
        return f"{start}{head}</thead><tbody>{''.join(lines)}</tbody></table></div>"

    rest = _folded(f"{len(waiting)} cells not run yet", table(waiting)) if waiting else ""
    show_html((table(run) if run else "") + rest)


def provenance_table(frame: pd.DataFrame) -> None:
    """Show where records come from: how many runs, with what, on what, when."""
    if not len(frame):
        show_html(
            "<p>There are no records at paper scale yet: <code>make paper</code> makes them.</p>"
        )
        return
    about = records.load_provenance()
    about = about[about["run"].isin(frame["run"])]
    columns = ["commit", "dirty", "torch", "python", "device", "processor"]
    days = about.assign(day=about["date"].str[:10], commit=about["commit"].str[:10])
    table = days.groupby(columns, dropna=False).agg(
        runs=("run", "nunique"), first_day=("day", "min"), last_day=("day", "max")
    )
    shown = table.reset_index().to_html(index=False)
    show_html(f'<div class="table-container">{shown}</div>')


def panels(items: Mapping[str, str]) -> None:
    """Show pieces of HTML as tabs that need no program: what a slider shows, rendered beforehand.

    Parameters
    ----------
    items : mapping of str to str
        The label and the content of each tab.
    """
    import uuid

    name = f"tabs-{uuid.uuid4().hex[:8]}"
    parts = []
    for number, (label, content) in enumerate(items.items()):
        checked = " checked" if number == 0 else ""
        parts.append(
            f'<input type="radio" name="{name}" id="{name}-{number}"{checked}>'
            f'<label for="{name}-{number}">{html.escape(label)}</label>'
            f'<div class="panel">{content}</div>'
        )
    show_html('<div class="panels">' + "".join(parts) + "</div>")


def explore_methods(frame: pd.DataFrame) -> None:
    """Let a reader choose which methods a course shows; tabs of vanilla and one other elsewhere."""
    import ipywidgets as widgets
    from IPython.display import display

    from swrlib import figures

    present = [m for m in figures.STYLE if m in set(frame["method"])]

    def draw(methods: tuple[str, ...]) -> None:
        chosen = frame[frame["method"].isin(methods)]
        if len(chosen):
            figures.show(*figures.course(chosen, references=False))

    choice = widgets.SelectMultiple(
        options=[(paper.label(m), m) for m in present],
        value=tuple(m for m in present if m in ("vanilla", "swr", "full-reset")),
        description="methods",
        rows=len(present),
    )
    display(widgets.interactive(draw, methods=choice))
    rivals = [m for m in present if m != "vanilla"]
    panels(
        {
            paper.label(m): figures.as_html(
                *figures.course(frame[frame["method"].isin(["vanilla", m])], references=False)
            )
            for m in rivals
        }
    )


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

    - scaling-keeps-accuracy: at every ratio, ``after`` − ``trained`` within ±q, biases scaled too.
    - scaling-without-biases: at the least ratio, ``trained`` above ``after``, biases untouched.
    - scaling-then-training: at every ratio below 1, either way, ``best_after`` above
      ``best_before``.
    """
    scaled = rows[(rows["ratio"] < 1) & rows["biases"].isin(["proportional", "untouched"])]
    along = scaled[scaled["biases"] == "proportional"]
    left = scaled[(scaled["biases"] == "untouched") & (scaled["ratio"] == scaled["ratio"].min())]
    return [
        _scaling_verdict("scaling-keeps-accuracy", along, "after", "trained"),
        _scaling_verdict("scaling-without-biases", left, "trained", "after"),
        _scaling_verdict("scaling-then-training", scaled, "best_after", "best_before"),
    ]


def _scaling_verdict(id: str, rows: pd.DataFrame, higher: str, lower: str) -> Verdict:
    claim = paper.find_claim(id)
    worst: dict[str, tuple[int, float, str, str]] = {}
    for (reading, biases, ratio), group in rows.groupby(["reading", "biases", "ratio"]):
        verdict, distance, text = _scaling_case(claim, group, higher, lower)
        case = (
            verdicts.severity(verdict),
            distance,
            verdict,
            f"ratio {ratio:g}, biases {biases}, {text}",
        )
        worst[reading] = min(case, worst.get(reading, case))
    found = {verdict for _, _, verdict, _ in worst.values()} or {verdicts.NOT_RUN}
    label = found.pop() if len(found) == 1 else verdicts.MIXED
    detail = "; ".join(
        f"reading “{reading}”, worst case: {text}"
        + ("" if verdict in (verdicts.QUICK, verdicts.CUSTOM, verdicts.OUTSIDE) else f": {verdict}")
        for reading, (_, _, verdict, text) in worst.items()
    )
    return Verdict(claim, label, label, f"{detail}." if detail else "", verdicts.NOT_PRINTED)


def _scaling_case(
    claim: paper.Claim, group: pd.DataFrame, higher: str, lower: str
) -> tuple[str, float, str]:
    """Judge one ratio: the verdict, a number that is smaller where it is worse, and a text."""
    n, first = len(group), group.iloc[0]
    if n < verdicts.LEAST_SEEDS:
        return verdicts.TOO_FEW_SEEDS, 0.0, f"n = {n}"
    interval = verdicts.paired_interval(group[higher].to_numpy(), group[lower].to_numpy())
    difference, low, high = (float(value) for value in interval)
    text = f"{100 * difference:+.2f} points [{100 * low:+.2f}, {100 * high:+.2f}], n = {n}"
    same = claim.id == "scaling-keeps-accuracy"
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


def judge_scaling(chapter: Chapter, own: pd.DataFrame) -> list[Verdict]:
    """Judge Fig. 1's claims on the committed records, and show this page's own numbers below."""
    committed = chapter.paper_records("scaled", dataset="cifar10", model="cnn")
    found = scaling_verdicts(scaled_runs(committed))
    banner(found)
    lines = "".join(
        f"<li>{html.escape(f'{verdict.claim.sentence} {verdict.detail}')}</li>"
        for verdict in scaling_verdicts(own)
    )
    first = own.iloc[0]
    kind = verdicts.QUICK if first["scale"] == "quick" else verdicts.CUSTOM
    if first["scale"] != "paper":
        show_html(
            f"<p>{badge(kind)} This page's own runs, on {paper.label(first['dataset'])}:</p>"
            f'<ul class="comparisons">{lines}</ul>'
        )
    return found
