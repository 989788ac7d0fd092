"""Where a λ comes from: as given, published, selected on held-out images, or borrowed nearby."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from typing import Any

import pandas as pd

from swrlib import records
from swrlib.datasets import DATASETS
from swrlib.methods import METHODS, Method, make_method
from swrlib.papers import Lambda, Paper

#: Methods whose λ no paper prints, with the grid from which it is selected.
SELECTION_GRIDS = {"adamw": (1e-4, 1e-3, 1e-2, 1e-1, 1.0)}
#: Where a λ for a part of a data set is selected: on the whole.
SELECTED_ON = {"mnist-5k": "mnist"}
#: The seeds of a selection; any others do, if there are as many.
SELECTION_SEEDS = (0, 1)


def find_method(
    given: str | Method,
    dataset: str,
    model: str,
    stream: str,
    results: str | os.PathLike[str] | None,
    *,
    paper: Paper,
    path: str | None = None,
) -> Method:
    """Return a method by its name, with its λ and its options.

    What stands behind a colon is λ, or λ_f,λ_c, and options by name: "swr:1e-3,variant=printed",
    "fire:iterations=none". `dataset` is a fingerprint; the command line knows a folder of images by
    its `path`.

    Raises
    ------
    ValueError
        If the name or an option is unknown, or its λ is neither written, published nor selected.
    """
    if isinstance(given, Method):
        return given
    name, _, text = given.partition(":")
    lam, options = _written(given, text.split(",") if text else [])
    if lam is None and _takes_lambda(name):
        if name in SELECTION_GRIDS:
            lam = selected_lambda(name, dataset, model, stream, results, path=path)
        else:
            lam = paper.published_lambda(name, dataset, model, stream)
        if lam is None:
            listed = ", ".join(" ".join(cell) for cell in paper.published_settings(name))
            raise ValueError(
                f"the paper prints no λ of {name} for {dataset} {model} {stream}: give one as "
                f"'{name}:1e-3' (published: {listed or 'nothing'})"
            )
    return make_method(name, lam, **options)


def _written(given: str, parts: Sequence[str]) -> tuple[Lambda | None, dict[str, Any]]:
    """Read λ, or λ_f and λ_c, and options from what stands behind a method's name."""
    options = dict(part.split("=", 1) for part in parts if "=" in part)
    try:
        lam = tuple(float(part) for part in parts if "=" not in part)
    except ValueError as error:
        name = given.partition(":")[0]
        raise ValueError(f"cannot read λ in {given!r}: write it as {name}:1e-3") from error
    values = {key: _value(text) for key, text in options.items()}
    return (lam[0] if len(lam) == 1 else lam or None), values  # type: ignore[return-value]


def _value(text: str) -> int | float | str | None:
    """Read an option's value: a number, none, or a word."""
    if text == "none":
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def borrow_method(
    name: str,
    dataset: str,
    model: str,
    stream: str,
    results: str | os.PathLike[str] | None,
    *,
    paper: Paper,
) -> tuple[Method | None, str]:
    """Return a method with its λ or, where there is none, one from nearby, and what to say of it.

    Nearby is another data set with this model or, for what is selected, another stream and then the
    smallest setting of all.

    Returns
    -------
    Method or None
        None where there is no λ nearby either.
    str
        Which λ was taken from where, or why none; empty where the method has none, or its own.
    """
    if not _takes_lambda(name):
        return find_method(name, dataset, model, stream, results, paper=paper), ""
    if name in SELECTION_GRIDS:
        here = [(dataset, model, stream), (dataset, model, "single-task")]
        for place in (*here, ("mnist", "mlp", "single-task")):
            try:
                lam = selected_lambda(name, *place, results)
            except ValueError:
                continue
            place = (SELECTED_ON.get(place[0], place[0]), *place[1:])
            where = f"the best on held-out images of {' '.join(map(paper.label, place))}"
            return make_method(name, lam), f"λ = {lam:g}, {where}, paper scale"
        return None, "its λ has not been selected on held-out images"
    own = paper.published_lambda(name, dataset, model, stream)
    if own is not None:
        return make_method(name, own), ""
    for other, kind in paper.pairs:
        near = paper.published_lambda(name, other, kind, stream)
        if kind == model and near is not None:
            text = ",".join(f"{value:g}" for value in (near if isinstance(near, tuple) else [near]))
            where = f"the paper's for {paper.label(other)} (none for {dataset})"
            return make_method(name, near), f"λ = {text}, {where}"
    return None, "the paper has no λ for it"


def _takes_lambda(name: str) -> bool:
    return name in METHODS and "lam" in METHODS[name].__dataclass_fields__


def selected_lambda(
    method: str,
    dataset: str,
    model: str,
    stream: str,
    results: str | os.PathLike[str] | None = None,
    *,
    path: str | None = None,
) -> float:
    """Return the λ that was best on held-out training images, from the records of the selection.

    The whole grid has to be there, with two seeds that all of it shares; what is there beyond it,
    with the same seeds, takes part. `dataset` and `path` as for `find_method`.

    Raises
    ------
    ValueError
        If there are no such records, or not all; those that lack and the command that makes them
        are named.
    """
    measured, grid = SELECTED_ON.get(dataset, dataset), SELECTION_GRIDS[method]
    wanted = {
        "split": "selection",
        "method": method,
        "dataset": measured,
        "model": model,
        "stream": stream,
    }
    lacking = ""
    for folder in (results, None):  # a folder of one's own first, then the project's records
        try:
            found = records.load_records(folder, **wanted)
        except FileNotFoundError:
            continue
        for table in final_accuracies(found):
            if (best := best_of(table, grid)) is not None:
                return best
            lacking = lacking or _lacking(table, grid)
    named = measured if measured in DATASETS else path or "FOLDER"
    kept = f" --results {shlex.quote(os.fspath(results))}" if results else ""
    texts = " ".join(f"{method}:{lam}" for lam in grid)
    seeds = " ".join(map(str, SELECTION_SEEDS))
    raise ValueError(
        f"λ of {method} for {measured} {model} {stream} has not been selected yet{lacking}; make "
        f"the records: python -m swrlib train --dataset {shlex.quote(named)} --model {model} "
        f"--stream {stream} --split selection --seeds {seeds} --scale paper{kept} --methods {texts}"
    )


def final_accuracies(found: pd.DataFrame) -> list[pd.DataFrame]:
    """Return final accuracies, λ × seed, a table for each length of the training, longest first."""
    ends = found.sort_values("epoch").groupby("run").last()
    ends["test_accuracy"] = ends["test_accuracy"].where(~ends["diverged"].astype(bool), 0.0)
    groups = sorted(ends.groupby("epochs"), key=lambda group: group[0], reverse=True)
    return [part.pivot_table("test_accuracy", "lam", "seed", aggfunc="last") for _, part in groups]


def best_of(table: pd.DataFrame, grid: Sequence[float]) -> float | None:
    """Return the λ with the highest mean over the seeds that the whole grid has, if it has two."""
    shared = table.reindex(grid).notna().all()
    if shared.sum() < len(SELECTION_SEEDS):
        return None
    return float(table.loc[:, shared].dropna().mean(axis=1).idxmax())


def _lacking(table: pd.DataFrame, grid: Sequence[float]) -> str:
    """Name what of the grid has no record, by seed."""
    there = table.reindex(index=grid, columns=SELECTION_SEEDS).notna()
    missing = [(f"{lam:g}", seed) for lam in grid for seed in there if not there.at[lam, seed]]
    return " (no record of " + ", ".join(f"λ = {lam} with seed {s}" for lam, s in missing) + ")"
