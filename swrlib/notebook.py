"""What every chapter begins and ends with: checked parameters, provenance, verdicts, play."""

from __future__ import annotations

import ast
import html
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from swrlib import records, streams, tables, verdicts
from swrlib.checks import check_name, check_whole, nearest
from swrlib.datasets import DATASETS, Dataset
from swrlib.engine import train
from swrlib.engine.checkpoints import default_folder
from swrlib.engine.runs import stream_name
from swrlib.engine.scales import SCALES
from swrlib.engine.strengths import borrow_method
from swrlib.methods import Method
from swrlib.models import MODELS
from swrlib.papers import SWR as paper
from swrlib.papers import Paper, find_paper
from swrlib.provenance import provenance
from swrlib.swr import SoftWeightRescaling
from swrlib.verdicts.outcomes import OURS

_PLAIN = (str, int, float, bool, list, tuple, dict, type(None))
_JUPYTER = {"In", "Out"}
#: What kind of output lists the runs behind what its cell shows; a page names their records.
RUNS = "application/vnd.swrlib.runs+json"


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
    read : set of str
        Committed runs that were read since a `RunsBehind` last looked.
    """

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self.parameters = dict(parameters)
        self.dataset: str = parameters.get("dataset", "mnist-5k")
        self.model: str = parameters.get("model", "mlp")
        self.scale: str = parameters.get("scale", "quick")
        self.epochs: int | None = parameters.get("epochs")
        self.seeds = list(range(parameters.get("seeds", 1)))
        self.root = project_root()
        folder = parameters.get("results")
        self.results = Path(folder) if folder else self.root / "build" / "records"
        self.read: set[str] = set()

    def methods(self, names: Iterable[str], stream: str, of: Paper = paper) -> list[Method]:
        """Return methods with the paper's λ, or one borrowed from a near column, which is said."""
        place, chosen = (self.dataset, self.model, stream), []
        for name in names:
            method, said = borrow_method(name, *place, self.results, paper=of)
            if method is not None:
                chosen.append(method)
            if said:
                who = paper.label(name)
                print(f"{who}: {said}" if method is not None else f"{who} is left out: {said}")
        return chosen

    def train(self, stream: str | streams.Stream, methods: Iterable[str], **options: Any) -> Any:
        """Train what the chapter's records lack, and return them (see `swrlib.train`)."""
        name = stream_name(stream)
        return train(
            dataset=self.dataset,
            model=self.model,
            stream=stream,
            methods=self.methods(methods, name, find_paper(options.get("paper", paper))),
            seeds=self.seeds,
            scale=self.scale,
            epochs=self.epochs if isinstance(stream, str) else None,
            results=self.results,
            checkpoints=default_folder(self.results, self.root / ".checkpoints"),
            **options,
        )

    def paper_records(self, *streams: str, **filters: Any) -> pd.DataFrame:
        """Return the committed records at paper scale, of some streams or all; there may be none.

        The filters are those of `swrlib.load_records`; by default all training images, the paper's
        methods and AdamW, and an optimizer that is kept when the data change.
        """
        own = {"method": [*paper.methods, OURS], "optimizer_state": "kept"}
        filters = {"scale": "paper", "split": "all"} | own | filters
        if streams:
            filters["stream"] = list(streams)
        try:
            committed = records.load_records(**filters)
        except FileNotFoundError:
            return pd.DataFrame(columns=list(records.COLUMNS))
        self.read |= set(committed["run"])
        return committed


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
    identity = ["run", "dataset", "model", "stream", "method", "lam", "seed", "scale"]
    runs = frame.drop_duplicates("run")[identity]
    if not len(runs):
        return pd.DataFrame(columns=[*records.MEASURE_COLUMNS, *identity[1:]])
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
    optimizer = torch.optim.Adam(network.parameters(), paper.learning_rate)
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
    namespace at this point must be one of the chapter's parameters; an imported constant, whose
    name is in capitals, need not.

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
        if name.startswith("_") or name.isupper() or name in _JUPYTER or name in names:
            continue
        if isinstance(value, _PLAIN):
            raise ValueError(f"unknown parameter {name!r}: {nearest(name, names)}")
    parameters = {name: namespace[name] for name in names}
    for name, value in parameters.items():
        _check(name, value)
    chapter = Chapter(parameters)
    _stamp(chapter)
    _follow(RunsBehind(chapter, namespace))
    return chapter


def _check(name: str, value: Any) -> None:
    choices: dict[str, Iterable[str]] = {"model": MODELS, "scale": SCALES}
    choices |= {"access": ("full", "limited"), "stream": streams.STREAMS}
    if name in choices:
        check_name(name, value, choices[name])
    if name == "dataset" and value not in DATASETS and not Path(str(value)).is_dir():
        raise ValueError(f"unknown dataset {value!r}: {nearest(value, DATASETS)}, or a folder")
    if name in ("seeds", "epochs", "steps") and not (name == "epochs" and value is None):
        check_whole(name, value)
    if name == "decay" and not isinstance(value, bool):
        raise ValueError(f"decay is {value!r}: it must be true or false")
    if name == "results" and not isinstance(value, str | os.PathLike | None):
        raise ValueError(f"results is {value!r}: it must name a folder")


def _stamp(chapter: Chapter) -> None:
    facts = provenance()
    named = ", ".join(f"{k} = {v}" for k, v in chapter.parameters.items() if v is not None)
    commit = (facts["commit"] or "unknown")[:10] + (" with changes" if facts["dirty"] else "")
    tables.show_html(
        f'<p class="provenance">This page ran{html.escape(named and f" with {named}")}; '
        f"commit {commit}, Python {facts['python']}, torch {facts['torch']}, "
        f"{html.escape(str(facts['processor']))}, {facts['date'][:10]}.</p>"
    )


class RunsBehind:
    """The runs behind what each cell shows, found in the names that its code reads.

    A DataFrame with a column ``run`` has its own. Another name has those of the names from which
    it was assigned, in an earlier cell or in this one. What the chapter reads from the committed
    records while a cell runs belongs to that cell as well.

    Parameters
    ----------
    chapter : Chapter
    namespace : mapping
        The notebook's.
    """

    def __init__(self, chapter: Chapter, namespace: Mapping[str, Any]) -> None:
        self.chapter, self.namespace = chapter, namespace
        self.assigned: dict[str, set[str]] = {}

    def of(self, name: str) -> set[str]:
        """Return the runs behind a name, or the file of times that was read for it."""
        value = self.namespace.get(name)
        if isinstance(value, pd.DataFrame) and "run" in value:
            return set(value["run"])
        attrs = getattr(value, "attrs", None)
        if isinstance(attrs, dict) and "file" in attrs:
            return {attrs["file"]}
        return self.assigned.get(name, set())

    def of_cell(self, source: str) -> set[str]:
        """Return the runs behind what a cell shows, once it has run.

        What only assigns shows nothing; ``_`` takes the value of a call that shows something.
        """
        shown, self.chapter.read = self.chapter.read, set()
        for statement in ast.parse(source).body:
            names = [node for node in ast.walk(statement) if isinstance(node, ast.Name)]
            stored = {node.id for node in names if isinstance(node.ctx, ast.Store)}
            read = {node.id for node in names if isinstance(node.ctx, ast.Load)}
            if isinstance(statement, ast.FunctionDef):
                stored.add(statement.name)
            if isinstance(statement, ast.AugAssign):
                read |= stored
            behind = set().union(*map(self.of, read))
            self.assigned |= dict.fromkeys(stored, behind)
            for name in set(_filled(statement)) - stored:
                if isinstance(self.namespace.get(name), list | dict | set | pd.DataFrame):
                    self.assigned[name] = self.assigned.get(name, set()) | behind
            if stored == {"_"} or not isinstance(statement, _ASSIGNING):
                shown = shown | behind
        return shown

    def __call__(self, result: Any) -> None:
        """Add the runs to a cell's outputs: IPython calls this when a cell has run."""
        from IPython.display import display

        if result.success and (runs := self.of_cell(result.info.raw_cell)):
            display({RUNS: sorted(runs)}, raw=True)


def _filled(statement: ast.stmt) -> Iterator[str]:
    """Go through the names whose value a statement adds to: by a method, or at a place in it."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            node = node.value.func
        elif not isinstance(getattr(node, "ctx", None), ast.Store):
            continue
        if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.value, ast.Name):
            yield node.value.id


_ASSIGNING = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.FunctionDef, ast.Import, ast.ImportFrom)


def _follow(behind: RunsBehind) -> None:
    """Call it after each cell from now on, in place of an earlier one; outside IPython never."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None:
        return
    for known in list(shell.events.callbacks["post_run_cell"]):
        if isinstance(known, RunsBehind):
            shell.events.unregister("post_run_cell", known)
    shell.events.register("post_run_cell", behind)


def judge(
    chapter: Chapter, name: str, stream: str | None = None, *, quick: pd.DataFrame | None = None
) -> None:
    """Judge a chapter's claims on the committed records at paper scale and show the banner.

    Parameters
    ----------
    chapter : Chapter
    name : str
        The chapter, as the claims name it.
    stream : str, optional
        Only those that speak of it: of a chapter that has a page a stream.
    quick : DataFrame, optional
        The chapter's own records: shown below, with the same statistics and no verdict on the
        paper.
    """
    check_name("chapter", name, {claim.chapter for claim in paper.claims})
    own = [claim for claim in paper.claims if claim.chapter == name]
    chosen = [c for c in own if stream is None or stream in {cell[2] for cell in c.cells}]
    at_paper_scale = chapter.paper_records(*{cell[2] for claim in chosen for cell in claim.cells})
    tables.banner(verdicts.judge_claim(claim, at_paper_scale) for claim in chosen)
    if quick is not None and len(quick):
        tables.own_comparisons(chosen, quick)


#: HTML, or a picture and its alternative text.
Piece = str | tuple[Any, str]


def as_html(piece: Piece) -> str:
    """Return a piece as HTML."""
    from swrlib import figures

    return piece if isinstance(piece, str) else figures.as_html(*piece)


def panels(items: Mapping[str, Piece]) -> None:
    """Show pieces as tabs that need no program: what a slider shows, rendered beforehand.

    Parameters
    ----------
    items : mapping of str to Piece
        The label and the content of each tab.
    """
    import uuid

    name = f"tabs-{uuid.uuid4().hex[:8]}"
    parts = [
        f'<input type="radio" name="{name}" id="{name}-{number}"{"" if number else " checked"}>'
        f'<label for="{name}-{number}">{html.escape(label)}</label>'
        f'<div class="panel">{as_html(content)}</div>'
        for number, (label, content) in enumerate(items.items())
    ]
    tables.show_html(f'<div class="panels">{"".join(parts)}</div>')


def explore(draw: Callable[..., Piece], **controls: Any) -> None:
    """Show widgets and, below them, what ``draw`` makes of their values, anew at each change.

    Parameters
    ----------
    draw : callable
        Is given the widgets' values under their names.
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
        values = {name: control.value for name, control in controls.items()}
        answer.value = as_html(draw(**values))

    for name, control in controls.items():
        control.description = control.description or name
        control.observe(update, "value")
    update()
    display(widgets.VBox([*controls.values(), answer]))


def choose(what: str, pieces: Mapping[str, Piece]) -> None:
    """Let a reader choose one of several pieces, in a running notebook and as tabs.

    Parameters
    ----------
    what : str
        What is chosen: the description of the widget.
    pieces : mapping of str to Piece
        The name and the content of each.
    """
    import ipywidgets as widgets

    pieces = {name: as_html(piece) for name, piece in pieces.items()}
    choice = widgets.Dropdown(options=[*pieces], description=what)
    explore(lambda choice: pieces[choice], choice=choice)
    panels(pieces)


def offer_curves(stream: str) -> None:
    """Mark the place where the website lets a reader choose methods of the records of a stream."""
    tables.show_html(
        f'<div class="play" data-play="curves" data-stream="{html.escape(stream)}"><p>On the '
        "website, boxes choose which methods a picture shows here.</p></div>"
    )


def explore_methods(frame: pd.DataFrame) -> None:
    """Let a reader choose which methods a course shows, in a running notebook."""
    import ipywidgets as widgets

    from swrlib import figures
    from swrlib.figures import accuracies

    def draw(methods: Iterable[str]) -> Piece:
        chosen = frame[frame["method"].isin(methods)]
        return accuracies.course(chosen, references=False) if len(chosen) else ""

    present = figures.in_order(frame)
    options = [(paper.label(m), m) for m in present]
    first = [m for m in present if m in ("vanilla", "swr", "full-reset")]
    explore(draw, methods=widgets.SelectMultiple(options=options, value=first, rows=len(present)))
