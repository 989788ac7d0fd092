"""Where a λ comes from: as given, published, or selected on held-out training images."""

from __future__ import annotations

import os
import shlex

from swrlib import records
from swrlib.datasets import DATASETS
from swrlib.methods import METHODS, Method, make_method
from swrlib.papers import SWR as paper

#: Where a λ for a part of a data set is selected: on the whole.
SELECTED_ON = {"mnist-5k": "mnist"}
#: From which the λ of AdamW is selected, which no paper has.
ADAMW_GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def find_method(
    given: str | Method,
    dataset: str,
    model: str,
    stream: str,
    results: str | os.PathLike[str] | None,
    *,
    path: str | None = None,
) -> Method:
    """Return a method by its name, with its λ; what stands behind a colon is λ, or λ_f,λ_c.

    `dataset` is a fingerprint; the command line knows a folder of images by its `path`.
    """
    if isinstance(given, Method):
        return given
    name, _, values = given.partition(":")
    if values:
        try:
            numbers = tuple(float(value) for value in values.split(","))
        except ValueError as error:
            raise ValueError(f"cannot read λ in {given!r}: write it as {name}:1e-3") from error
        return make_method(name, numbers[0] if len(numbers) == 1 else numbers)  # type: ignore[arg-type]
    if name not in METHODS or "lam" not in METHODS[name].__dataclass_fields__:
        return make_method(name)
    if name == "adamw":
        selected = selected_lambda(name, dataset, model, stream, results, path=path)
        return make_method(name, selected)
    lam = paper.published_lambda(name, dataset, model, stream)
    if lam is None:
        listed = ", ".join(" ".join(cell) for cell in paper.published_settings(name)) or "nothing"
        raise ValueError(
            f"the paper prints no λ of {name} for {dataset} {model} {stream}: give one as "
            f"'{name}:1e-3' (published: {listed})"
        )
    return make_method(name, lam)


def selected_lambda(
    method: str,
    dataset: str,
    model: str,
    stream: str,
    results: str | os.PathLike[str] | None = None,
    *,
    path: str | None = None,
) -> float:
    """Return the λ that was best on held-out training data, from the records of the selection.

    `dataset` and `path` as for `find_method`.

    Raises
    ------
    ValueError
        If there are no such records; the command that makes them is named.
    """
    measured = SELECTED_ON.get(dataset, dataset)
    wanted = {
        "split": "selection",
        "method": method,
        "dataset": measured,
        "model": model,
        "stream": stream,
    }
    for folder in (results, None):  # a folder of one's own first, then the project's records
        try:
            found = records.load_records(folder, **wanted)
        except FileNotFoundError:
            continue
        final = found.sort_values("epoch").groupby(["lam", "seed"])["test_accuracy"].last()
        over_seeds = final.groupby("lam").agg(["mean", "count"])
        over_seeds = over_seeds[over_seeds["count"] > 1]
        if len(over_seeds):
            return float(over_seeds["mean"].idxmax())
    named = measured if measured in DATASETS else path or "FOLDER"
    kept = f" --results {shlex.quote(os.fspath(results))}" if results else ""
    grid = " ".join(f"{method}:{lam}" for lam in ADAMW_GRID)
    raise ValueError(
        f"λ of {method} for {measured} {model} {stream} has not been selected yet; make the "
        f"records: python -m swrlib train --dataset {shlex.quote(named)} --model {model} --stream "
        f"{stream} --split selection --seeds 0 1 --scale paper{kept} --methods {grid}"
    )
