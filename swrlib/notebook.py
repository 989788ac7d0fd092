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
            epochs=self.epochs,
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
    if name in ("seeds", "epochs") and not (name == "epochs" and value is None):
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
    slug = "quick" if verdict == verdicts.QUICK else verdict.split(" by ")[0].replace(" ", "-")
    return f'<span class="verdict verdict-{slug}">{html.escape(text or verdict)}</span>'


def banner(found: Iterable[Verdict]) -> None:
    """Show the verdict of each claim, with the numbers behind it and the paper's own."""
    parts = []
    for verdict in found:
        claim = verdict.claim
        printed = ""
        if verdict.printed != verdicts.NOT_PRINTED:
            printed = f" The same rule on the printed numbers: {html.escape(verdict.printed)}."
        parts.append(
            f'<div class="claim"><p>{badge(verdict.verdict, verdict.label)} '
            f"{html.escape(claim.sentence)} "
            f'<span class="place">{html.escape(claim.place)}</span></p>'
            f'<p class="detail">{html.escape(verdict.detail)}{printed}</p></div>'
        )
    show_html('<div class="claims">' + "".join(parts) + "</div>")


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
    stream_names = {cell[2] for claim in chosen for cell in claim.cells}
    committed = [chapter.paper_records(name) for name in sorted(stream_names)]
    at_paper_scale = pd.concat(committed) if committed else pd.DataFrame()
    found = [verdicts.judge_claim(claim, at_paper_scale) for claim in chosen]
    banner(found)
    if quick is not None and len(quick):
        first = quick.iloc[0]
        cell = (first["dataset"], first["model"], first["stream"])
        rows = [
            comparison
            for claim in chosen
            for comparison in verdicts.judge_claim(
                claim, quick, cells=[cell], scale=first["scale"]
            ).comparisons
        ]
        lines = "".join(
            f"<li>{html.escape(str(row).rsplit(': ', 1)[0])}</li>" for row in dict.fromkeys(rows)
        )
        show_html(
            f"<p>{badge(verdicts.QUICK)} This page's own runs, on {paper.label(cell[0])}:</p>"
            f'<ul class="comparisons">{lines}</ul>'
        )
    return found


def cells_table(cells: pd.DataFrame) -> None:
    """Show ours beside the paper's: mean ± standard deviation (n), difference and verdict."""

    def accuracy(mean: float, sd: float, n: int) -> str:
        if not n:
            return "–"
        return f"{100 * mean:.2f} ± {100 * sd:.2f} ({n})" if n > 1 else f"{100 * mean:.2f} (1)"

    rows = []
    for row in cells.itertuples():
        setting = f"{paper.label(row.dataset)} {paper.label(row.model)}"
        interval = "–"
        if pd.notna(row.low):
            interval = f"{100 * row.difference:+.2f} [{100 * row.low:+.2f}, {100 * row.high:+.2f}]"
        rows.append(
            "<tr>"
            f"<td>{html.escape(setting)}</td><td>{html.escape(paper.label(row.method))}</td>"
            f"<td>{accuracy(row.ours_mean, row.ours_sd, row.n)}</td>"
            f"<td>{accuracy(row.paper_mean, row.paper_sd, row.paper_n)}</td>"
            f"<td>{interval}</td><td>{badge(row.verdict)}</td></tr>"
        )
    head = (
        "setting",
        "method",
        "ours, % (n)",
        "paper, % (n)",
        "difference, points [95%]",
        "verdict",
    )
    show_html(
        '<div class="table-container"><table class="dataframe cells"><thead><tr>'
        + "".join(f"<th>{name}</th>" for name in head)
        + "</tr></thead><tbody>"
        + "".join(rows)
        + "</tbody></table></div>"
    )


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
