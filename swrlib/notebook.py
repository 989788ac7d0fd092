"""What the chapters share: checked parameters, provenance, verdicts, tables of what was trained."""

from __future__ import annotations

import html
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from swrlib import paper, records, streams, verdicts
from swrlib.checks import check_whole, nearest
from swrlib.claims.proportionality import scaled_runs, scaling_verdicts
from swrlib.datasets import DATASETS, Dataset
from swrlib.engine import train
from swrlib.engine.checkpoints import default_folder
from swrlib.engine.jobs import stream_name
from swrlib.engine.strengths import SELECTED_ON, selected_lambda
from swrlib.loop import SoftWeightRescaling
from swrlib.methods import Method
from swrlib.models import MODELS
from swrlib.overview import collapsed_runs
from swrlib.provenance import provenance
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
                    best = selected_lambda(name, *place, self.results)
                except ValueError:
                    continue
                measured = SELECTED_ON.get(place[0], place[0])
                where = f"{' '.join(map(paper.label, (measured, *place[1:])))}, paper scale"
                return f"the best on held-out images of {where}", best
            return "its λ has not been selected on held-out images", None
        if name not in (*paper.GRIDS, *paper.WITH_SWRS_LAMBDA):
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
        name = stream_name(stream)
        return train(
            dataset=self.dataset,
            model=self.model,
            stream=stream,
            methods=self.methods(methods, name),
            seeds=self.seeds,
            scale=self.scale,
            epochs=self.epochs if isinstance(stream, str) else None,
            results=self.results,
            checkpoints=default_folder(self.results, self.root / ".checkpoints"),
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


def train_briefly(
    network: nn.Module, data: Dataset, *, steps: int = 50, batch: int = 64, lam: float = 0.0
) -> nn.Module:
    """Train a network in place for a few steps of Adam, with SWR where λ is above 0.

    Batches are drawn from torch's global generator.

    Returns
    -------
    nn.Module
        The network, in evaluation mode.
    """
    optimizer = torch.optim.Adam(network.parameters(), paper.LEARNING_RATE)
    if lam:
        SoftWeightRescaling(network, lam=lam).attach(optimizer)
    for chosen in torch.randint(len(data.train_images), (steps, batch)):
        answers = network(data.normalize(data.train_images[chosen]))
        optimizer.zero_grad()
        cross_entropy(answers, data.train_labels[chosen]).backward()
        optimizer.step()
    return network.eval()


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
        check_whole(name, value)
    if name == "decay" and not isinstance(value, bool):
        raise ValueError(f"decay is {value!r}: it must be true or false")
    if name == "results" and not isinstance(value, str | os.PathLike | None):
        raise ValueError(f"results is {value!r}: it must name a folder")


def _stamp(chapter: Chapter) -> None:
    about = provenance()
    given = ", ".join(f"{k} = {v}" for k, v in chapter.parameters.items() if v is not None)
    commit = (about["commit"] or "unknown")[:10] + (" with changes" if about["dirty"] else "")
    show_html(
        f'<p class="provenance">This page ran{html.escape(given and f" with {given}")}; '
        f"commit {commit}, Python {about['python']}, torch {about['torch']}, "
        f"{html.escape(str(about['processor']))}, {about['date'][:10]}.</p>"
    )


def show_html(text: str) -> None:
    """Display HTML in a notebook."""
    from IPython.display import HTML, display

    display(HTML(text))


def show_table(title: str, table: pd.DataFrame, form: str = "{}") -> None:
    """Display a table below its title; a dash stands for a missing number, or for no rows at all.

    Parameters
    ----------
    title : str
        What the table is of: plain text.
    table : DataFrame
    form : str
        How a float is written.
    """
    text = table.to_html(border=0, float_format=form.format, na_rep="–") if len(table) else "–"
    show_html(f'<p>{html.escape(title)}</p><div class="table-container">{text}</div>')


def badge(verdict: str, text: str | None = None) -> str:
    """Return a verdict's badge as HTML; the word says it, symbol and colour only help."""
    other = verdict in (verdicts.QUICK, verdicts.CUSTOM)
    slug = "quick" if other else verdict.split(" by ")[0].replace(" ", "-")
    return f'<span class="verdict verdict-{slug}">{html.escape(text or verdict)}</span>'


def claim_line(claim: paper.Claim, badges: str) -> str:
    """Return a claim's line as HTML: its verdict, what it says, its place in the paper."""
    place = f'<span class="place">{html.escape(claim.place)}</span>'
    return f"<p>{badges} {html.escape(claim.sentence)} {place}</p>"


def banner(found: Iterable[Verdict]) -> None:
    """Show the verdict of each claim, with the numbers behind it and the paper's own.

    For the page of all claims the verdicts travel along, as metadata of the output.
    """
    from IPython.display import display

    judged, waiting, handed_on = [], [], []
    for verdict in found:
        claim = verdict.claim
        about = {"claim": claim.id, "verdict": verdict.verdict, "label": verdict.label}
        handed_on.append(about | {"detail": verdict.detail})
        line = claim_line(claim, badge(verdict.verdict, verdict.label))
        if verdict.verdict == verdicts.NOT_RUN:
            waiting.append(f'<div class="claim">{line}</div>')
            continue
        detail = html.escape(verdict.detail)
        if verdict.printed != verdicts.NOT_PRINTED:
            detail += f" The same rule on the printed numbers: {html.escape(verdict.printed)}."
        judged.append(f'<div class="claim">{line}<p class="detail">{detail}</p></div>')
    if waiting:
        number = "One claim" if len(waiting) == 1 else f"{len(waiting)} claims"
        judged.append(_folded(f"{number} not run at paper scale", "".join(waiting)))
    text = f'<div class="claims">{"".join(judged)}</div>'
    metadata = {"text/html": {"verdicts": handed_on}}
    display({"text/html": text}, raw=True, metadata=metadata)


def own_runs(found: Iterable[Verdict], scale: str) -> None:
    """Show what a rule says of a page's own runs, where they are not at the paper's scale."""
    if scale != "paper":
        for verdict in found:
            line = f"{badge(verdict.verdict)} This page's own runs. {html.escape(verdict.detail)}"
            show_html(f"<p>{line}</p>")


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
        f"<td>{_with_interval(gap, low, high)}</td><td>{n}</td></tr>"
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
        return f"{_mean_and_deviation(mean, sd)} ({n})" if n else "–"

    names = ("method", "verdict", "ours, % (n)", "paper, % (n)", "difference [95%]")
    head = "".join(f"<th>{name}</th>" for name in names)

    def table(rows: pd.DataFrame) -> str:
        lines = []
        for (dataset, model), group in rows.groupby(["dataset", "model"], sort=False):
            setting = html.escape(f"{paper.label(dataset)} {paper.label(model)}")
            lines.append(f'<tr><th colspan="{len(names)}" scope="rowgroup">{setting}</th></tr>')
            for row in group.itertuples():
                interval = "–"
                if pd.notna(row.low):
                    interval = _with_interval(row.difference, row.low, row.high)
                fields = [
                    html.escape(paper.label(row.method)),
                    badge(row.verdict),
                    accuracy(row.ours_mean, row.ours_sd, row.n),
                    accuracy(row.paper_mean, row.paper_sd, row.paper_n),
                    interval,
                ]
                lines.append("<tr>" + "".join(f"<td>{field}</td>" for field in fields) + "</tr>")
        start = '<div class="table-container"><table class="dataframe"><thead><tr>'
        return f"{start}{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"

    run, waiting = cells[cells["n"] > 0], cells[cells["n"] == 0]
    rest = _folded(f"{len(waiting)} cells not run", table(waiting)) if len(waiting) else ""
    show_html((table(run) if len(run) else "") + rest)


def finals_table(frame: pd.DataFrame) -> None:
    """Show how accurate each method ends: in the last epoch, and over the last ten.

    Differences are from vanilla, paired over the seeds that both have; a dash where there is no
    vanilla, or less than two such seeds. Where the last epoch and the last ten name another method
    as the most accurate one, on the seeds that all methods have, a sentence says so. Of a stage of
    fewer than ten epochs the mean is over all of them.

    Parameters
    ----------
    frame : DataFrame
        Records of one stream.
    """
    finals = verdicts.final_accuracy(frame)
    finals["late"] = finals["run"].map(verdicts.late_accuracy(frame))
    for _, rows in finals.groupby(["dataset", "model", "scale"]):
        last, late = (
            rows.pivot_table(index="seed", columns="method", values=value)
            for value in ("test_accuracy", "late")
        )
        epochs = min(verdicts.LATE, int(rows["stage_epoch"].max()))
        lines = {
            paper.label(method): _ending("last epoch", last, method)
            | _ending(f"last {epochs}", late, method)
            for method in paper.LABELS
            if method in last
        }
        table = pd.DataFrame.from_dict(lines, orient="index").to_html(border=0)
        seeds = verdicts.seed_count(rows)
        text = f"Accuracy at the end, {verdicts.setting(rows)}, "
        text += "one seed" if seeds == "1" else f"{seeds} seeds"
        if "vanilla" not in last:
            text += "; vanilla was not trained here, so there is no difference from it."
        else:
            text += "." if seeds == "1" else "; differences are paired over them."
        best, steady = (table.dropna().mean() for table in (last, late))
        if best.notna().all() and best.idxmax() != steady.idxmax():
            text += f" {paper.label(best.idxmax())} is the most accurate method in the last epoch, "
            text += f"{paper.label(steady.idxmax())} over the last {epochs}."
        for said, others in collapsed_runs(last):
            text += f" A run collapsed and counts like any other: {said} ({others})."
        show_html(f'<p>{html.escape(text)}</p><div class="table-container">{table}</div>')


def _ending(name: str, accuracy: pd.DataFrame, method: str) -> dict[str, str]:
    """Write a method's mean ± deviation in percent and its difference from vanilla."""
    own = accuracy[method]
    cells = {f"{name}, %": _mean_and_deviation(own.mean(), own.std()), f"{name} − vanilla": "–"}
    if method == "vanilla" or "vanilla" not in accuracy:
        return cells
    gap = (own - accuracy["vanilla"]).dropna()
    if len(gap) > 1:
        cells[f"{name} − vanilla"] = _with_interval(*verdicts.paired_interval(gap.to_numpy(), 0.0))
    return cells


def _mean_and_deviation(mean: float, deviation: float) -> str:
    spread = f" ± {100 * deviation:.2f}" if pd.notna(deviation) else ""
    return f"{100 * mean:.2f}{spread}"


def _with_interval(difference: float, low: float, high: float) -> str:
    return f"{100 * difference:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"


def provenance_table(frame: pd.DataFrame) -> None:
    """Show where records come from: how many runs, with what, on what, when."""
    if not len(frame):
        show_html("<p>There are no records at paper scale: <code>make paper</code> makes them.</p>")
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


def explore(draw: Callable[..., str], **controls: Any) -> None:
    """Show widgets and, below them, what ``draw`` makes of their values, anew at each change.

    Parameters
    ----------
    draw : callable
        Is given the widgets' values under their names and returns HTML.
    **controls : ipywidgets.Widget
        Each has a value. One without a description is described by its name.
    """
    import ipywidgets as widgets
    from IPython.display import display

    # Not widgets.interactive: its Output widget has the client that executes a notebook send
    # messages through the socket on which it waits for the cell's reply, and a reply that arrives
    # just then is overlooked: the client waits for ever (jupyter/nbclient issue 312).
    answer = widgets.HTML()

    def update(change: object = None) -> None:
        answer.value = draw(**{name: control.value for name, control in controls.items()})

    for name, control in controls.items():
        control.description = control.description or name
        control.observe(update, "value")
    update()
    display(widgets.VBox([*controls.values(), answer]))


def explore_methods(frame: pd.DataFrame) -> None:
    """Let a reader choose which methods a course shows; tabs of vanilla and one other elsewhere."""
    import ipywidgets as widgets

    from swrlib import figures

    present = [m for m in figures.STYLE if m in set(frame["method"])]

    def draw(methods: tuple[str, ...]) -> str:
        chosen = frame[frame["method"].isin(methods)]
        return figures.as_html(*figures.course(chosen, references=False)) if len(chosen) else ""

    choice = widgets.SelectMultiple(
        options=[(paper.label(m), m) for m in present],
        value=tuple(m for m in present if m in ("vanilla", "swr", "full-reset")),
        rows=len(present),
    )
    explore(draw, methods=choice)
    rivals = [m for m in present if m != "vanilla"]
    panels(
        {
            paper.label(m): figures.as_html(
                *figures.course(frame[frame["method"].isin(["vanilla", m])], references=False)
            )
            for m in rivals
        }
    )


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
