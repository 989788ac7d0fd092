"""What papers print, as data: set-up, λ's, tables, axes and claims, each with its place.

A paper is a file NAME.toml of this folder, in which numbers stand beside their section, table or
figure; `Paper` gives them names and types. Accuracies are fractions, not percent. `SWR` is the
paper that this book reproduces.
"""

from __future__ import annotations

import functools
import os
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Any

from swrlib.checks import check_whole, nearest

Lambda = float | tuple[float, float]
Pair = tuple[str, str]
Cell = tuple[str, str, str]
#: λ's by stream, by data set and model, by method.
Lambdas = dict[str, dict[Pair, dict[str, Lambda]]]


@dataclass(frozen=True)
class Accuracy:
    """A printed accuracy: mean ± std as a fraction, over ``seeds`` runs.

    What ± means is unsaid; it is taken as the standard deviation over seeds.
    """

    mean: float
    std: float
    seeds: int


@dataclass(frozen=True)
class Table:
    """A printed table of final test accuracies: ``accuracy[dataset, model][method]``."""

    number: int
    stream: str
    place: str
    accuracy: dict[Pair, dict[str, Accuracy]]


@dataclass(frozen=True)
class Panel:
    """One panel of a figure; ``axis`` is the range of its vertical axis, None where unknown."""

    figure: int
    cell: Cell
    measure: str
    axis: tuple[float, float] | None


#: Kind that is judged on the mean accuracy over the second half of the stages.
HALF_WAY = "half-way"
#: Kinds that are judged on the accuracy that changes of data cost.
CHANGE_KINDS = ("loses more", "loses less", "loses nothing")
#: Kinds that are judged on accuracies, final ones but for those; all others in their chapters.
ACCURACY_KINDS = ("ordering", "best", "little", "comparable", HALF_WAY, *CHANGE_KINDS)


@dataclass(frozen=True)
class Claim:
    """One claim of the paper, in our words.

    Attributes
    ----------
    id : str
        Short name, stable.
    kind : str
        What would make it true. *ordering*: every method ends above every rival; *best*: the
        same, of one method against all others; *little*: a method gains little over its rivals;
        *comparable*: it ends not below them; *loses more*, *loses less*, *loses nothing*: of test
        accuracy at the changes of data, than its rivals or at all; *half-way*: it is above them
        in the second half of the stages; *theory*: a theorem, or an
        argument about weights; *scaling*: Fig. 1; *course*: what happens during training, not at
        its end; *cost*: time and memory.
    place : str
        Section, figure, table or equation of the paper.
    sentence : str
        The claim.
    methods, rivals : tuple of str
        Who is claimed to do well, against whom. ``full-reset`` in a warm start is the network
        trained from scratch on all data for the second stage's epochs.
    cells : tuple of (dataset, model, stream)
        Where it is claimed. Empty: everywhere.
    margin : float, dict or None
        The size that matters, everywhere or by "dataset model"; None: see `Paper.sizes`.
    size : float or None
        How large the text says the difference is at least; None: as large as printed elsewhere.
    quantifier : str
        In how many of its cells it is claimed: see `swrlib.verdicts.second_rule`;
        "generally in most": the mean over methods, in most cells.
    chapter : str
        The notebook that judges it.
    remark : bool
        Whether it is ours: the paper does not claim it.
    was : str
        What the first rule said of the claim, as it then stood, in commit 4303f4f.
    changed : str
        Why the second rule says something else, or of other cells.
    """

    id: str
    kind: str
    place: str
    sentence: str
    methods: tuple[str, ...] = ()
    rivals: tuple[str, ...] = ()
    cells: tuple[Cell, ...] = ()
    margin: float | dict[str, float] | None = None
    size: float | None = None
    quantifier: str = "all"
    chapter: str = ""
    remark: bool = False
    was: str = ""
    changed: str = ""


@dataclass(frozen=True, eq=False)
class Paper:
    """What a paper prints.

    Attributes
    ----------
    title, source : str
        Its name; who wrote it, and where it stands.
    batch_size : int
    learning_rate : float
        At the start of each stage.
    epochs : dict of str to tuple of int
        Epochs of each stage, by stream. ``scaled``: before and after the scaling.
    optimizer : str
        As `swrlib.train` takes it.
    pairs : tuple of (dataset, model)
        The columns of the tables.
    grids : dict of str to tuple of float
        From which λ was chosen, by method.
    labels : dict of str to str
        How names are written for readers.
    lambdas : dict
        The chosen λ's, by stream, by (dataset, model), by method.
    tables : dict of int to Table
        Final test accuracies, by the table's number.
    panels : tuple of Panel
    claims : tuple of Claim
    details : dict
        What no other paper has, as it stands in the file.
    """

    title: str
    source: str
    batch_size: int
    learning_rate: float
    epochs: dict[str, tuple[int, ...]]
    optimizer: str = "adam"
    pairs: tuple[Pair, ...] = ()
    grids: dict[str, tuple[float, ...]] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    lambdas: Lambdas = field(default_factory=dict)
    tables: dict[int, Table] = field(default_factory=dict)
    panels: tuple[Panel, ...] = ()
    claims: tuple[Claim, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Paper:
        """Read a paper's file.

        ``title``, ``source``, ``batch_size``, ``learning_rate`` and ``[epochs]`` are needed; see
        ``swr.toml`` for an example of everything else.

        Raises
        ------
        ValueError
            If it is no TOML, lacks something, or has what nobody knows; the sentence names both.
        FileNotFoundError
            If there is no such file.
        """
        path = Path(path)
        try:
            return cls(**_read(tomllib.loads(path.read_text("utf-8"))))
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            raise ValueError(f"cannot read the paper {os.fspath(path)!r}: {error}") from error

    def label(self, name: str) -> str:
        """Write a dataset's, model's, stream's or method's name as readers know it."""
        return self.labels.get(name, name)

    def published_lambda(self, method: str, dataset: str, model: str, stream: str) -> Lambda | None:
        """Return the λ that the paper chose.

        Parameters
        ----------
        method, dataset, model, stream : str
            Names as they stand in the records.

        Returns
        -------
        float or (float, float) or None
            λ; or λ of the features and of the classifier; or None where the paper prints none:
            methods without a λ, combinations that it did not run, and what it does not have.
        """
        return self.lambdas.get(stream, {}).get((dataset, model), {}).get(method)

    def published_settings(self, method: str) -> list[Cell]:
        """List the (dataset, model, stream) for which the paper prints a λ of this method."""
        cells = [(*pair, at) for at, rows in self.lambdas.items() for pair in self.pairs or rows]
        return [cell for cell in cells if self.published_lambda(method, *cell) is not None]

    def printed_accuracy(
        self, method: str, dataset: str, model: str, stream: str
    ) -> Accuracy | None:
        """Return a printed final accuracy, None where there is none."""
        for table in self.tables.values():
            if table.stream == stream:
                return table.accuracy.get((dataset, model), {}).get(method)
        return None

    @functools.cached_property
    def sizes(self) -> dict[Pair, float]:
        """The size of a difference of final accuracies that matters, by data set and model.

        A tenth of the axis of test accuracy in the figures that ``details.size_figures`` names.
        """
        return {
            panel.cell[:2]: round((panel.axis[1] - panel.axis[0]) / 10, 6)
            for panel in self.panels
            if panel.axis
            and panel.measure == "test_accuracy"
            and panel.figure in self.details.get("size_figures", ())
        }

    @functools.cached_property
    def methods(self) -> tuple[str, ...]:
        """The methods that it compares: those that its claims name."""
        named = (name for claim in self.claims for name in (*claim.methods, *claim.rivals))
        return tuple(dict.fromkeys(named))

    def compared(self, rival: str, cell: Cell) -> bool:
        """Return whether a rival is there in a cell: where a table stands, it has to be in it."""
        columns = [t.accuracy.get(cell[:2]) for t in self.tables.values() if t.stream == cell[2]]
        return all(rival in column for column in columns if column)

    def size_that_matters(self, claim: Claim | None, cell: Cell) -> float:
        """Return the margin of a claim in a cell, or of a number; NaN where there is none."""
        margin = claim.margin if claim else None
        if isinstance(margin, dict):
            margin = margin.get(" ".join(cell[:2]))
        return self.sizes.get(cell[:2], float("nan")) if margin is None else margin

    def find_claim(self, id: str) -> Claim:
        """Return a claim by its id.

        Raises
        ------
        ValueError
            If there is no such claim.
        """
        for claim in self.claims:
            if claim.id == id:
                return claim
        raise ValueError(f"unknown claim {id!r}; there are: {', '.join(c.id for c in self.claims)}")


# ---------------------------------------------------------------------------------------------
# The file


def _read(file: dict[str, Any]) -> dict[str, Any]:
    """Return a paper's attributes from what stands in its file."""
    further = ("seeds", "same_lambda", "lambda", "table", "figures", "claim")
    derived = ("lambdas", "tables", "panels", "claims")
    known = {f.name for f in fields(Paper)} - {*derived} | {*further}
    needed = [f.name for f in fields(Paper) if f.default is f.default_factory is MISSING]
    _check_keys("it", file, needed, known)
    own = {key: value for key, value in file.items() if key not in further}
    check_whole("batch_size", file["batch_size"])
    pairs = tuple(_pair(pair) for pair in file.get("pairs", ()))
    return own | {
        "epochs": {stream: _epochs(stream, given) for stream, given in file["epochs"].items()},
        "grids": {method: tuple(grid) for method, grid in file.get("grids", {}).items()},
        "pairs": pairs,
        "lambdas": _lambdas(file.get("lambda", {}), file.get("same_lambda", {})),
        "tables": {
            int(number): _table(int(number), table, pairs, file.get("seeds", {}))
            for number, table in file.get("table", {}).items()
        },
        "panels": tuple(_panel(panel) for panel in file.get("figures", {}).get("panels", ())),
        "claims": tuple(_claim(claim, pairs) for claim in file.get("claim", ())),
    }


def _check_keys(
    what: str, table: Mapping[str, Any], needed: Collection[str], known: Collection[str]
) -> None:
    for key in needed:
        if key not in table:
            raise ValueError(f"{what} lacks {key!r}")
    for key in table:
        if key not in known:
            raise ValueError(f"{what} has an unknown {key!r}: {nearest(key, known)}")


def _pair(text: str) -> Pair:
    if len(words := text.split()) != 2:
        raise ValueError(f"{text!r} must be a data set and a model, as in 'mnist mlp'")
    return words[0], words[1]


def _epochs(stream: str, given: Any) -> tuple[int, ...]:
    if not isinstance(given, list):
        raise ValueError(f"the epochs of {stream!r} must be a list, one for each stage")
    for epochs in given:
        check_whole(f"epochs of {stream!r}", epochs)
    return tuple(given)


def _lambda(given: Any) -> Lambda:
    numbers = given if isinstance(given, list) else [given]
    if not all(isinstance(number, int | float) for number in numbers) or len(numbers) > 2:
        raise ValueError(f"λ is {given!r}: it must be a number, or two for features and classifier")
    return (numbers[0], numbers[1]) if len(numbers) == 2 else numbers[0]


def _lambdas(printed: Mapping[str, Any], same: Mapping[str, Any]) -> Lambdas:
    """Return the chosen λ's, and those of whatever takes the λ of something else."""
    _check_keys("[same_lambda]", same, (), ("datasets", "streams", "methods"))
    found: Lambdas = {}
    for stream, columns in printed.items():
        rows = found.setdefault(stream, {})
        for pair, chosen in columns.items():
            rows[_pair(pair)] = {method: _lambda(lam) for method, lam in chosen.items()}
    for stream in (*same.get("methods", {}), *same.get("streams", {}).values()):
        if stream not in found:
            raise ValueError(f"there is no λ for the stream {stream!r} that others could take")
    for stream, methods in same.get("methods", {}).items():
        for chosen in found[stream].values():
            chosen |= {other: chosen[own] for other, own in methods.items() if own in chosen}
    for other, own in same.get("datasets", {}).items():
        for rows in found.values():
            rows |= {(other, pair[1]): chosen for pair, chosen in rows.items() if pair[0] == own}
    return found | {other: found[own] for other, own in same.get("streams", {}).items()}


def _table(
    number: int, table: Mapping[str, Any], pairs: tuple[Pair, ...], seeds: Mapping[str, int]
) -> Table:
    keys = ("stream", "place", "accuracy")
    _check_keys(f"table {number}", table, keys, keys)
    columns: dict[Pair, dict[str, Accuracy]] = {pair: {} for pair in pairs}
    for _, model in pairs:
        if model not in seeds:
            raise ValueError(f"table {number} needs the number of seeds, which lacks {model!r}")
    for method, row in table["accuracy"].items():
        if len(row) != len(pairs):
            raise ValueError(f"table {number}: {method} has {len(row)} of {len(pairs)} columns")
        for (pair, column), (mean, std) in zip(columns.items(), row, strict=True):
            column[method] = Accuracy(mean, std, seeds[pair[1]])
    return Table(number, table["stream"], table["place"], columns)


def _panel(panel: Mapping[str, Any]) -> Panel:
    _check_keys("a panel", panel, ("figure", "cell", "measure"), [f.name for f in fields(Panel)])
    *pair, stream = panel["cell"].split()
    dataset, model = _pair(" ".join(pair))
    axis = tuple(panel["axis"]) if "axis" in panel else None
    return Panel(panel["figure"], (dataset, model, stream), panel["measure"], axis)


def _claim(claim: Mapping[str, Any], pairs: tuple[Pair, ...]) -> Claim:
    """Return a claim; its cells are its ``pairs`` (without them: all) in its ``streams``."""
    known = [f.name for f in fields(Claim) if f.name != "cells"]
    needed = ("id", "kind", "place", "sentence")
    _check_keys(f"the claim {claim.get('id')!r}", claim, needed, [*known, "pairs", "streams"])
    own: dict[str, Any] = {k: v for k, v in claim.items() if k in known}
    own |= {k: tuple(v) for k, v in own.items() if isinstance(v, list)}
    chosen = [_pair(pair) for pair in claim["pairs"]] if "pairs" in claim else pairs
    cells = product(claim.get("streams", ()), chosen)
    return Claim(**own, cells=tuple((*pair, stream) for stream, pair in cells))


# ---------------------------------------------------------------------------------------------
# Papers by name

FOLDER = Path(__file__).parent


@functools.cache
def _read_once(path: Path) -> Paper:
    return Paper.read(path)


def known_papers() -> list[str]:
    """Return the names of the papers in this folder."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def find_paper(given: str | os.PathLike[str] | Paper) -> Paper:
    """Return a paper by the name of its file in this folder, or by the path of one elsewhere.

    Raises
    ------
    ValueError
        If there is no such paper, or its file cannot be read.
    """
    if isinstance(given, Paper):
        return given
    if given in (names := known_papers()):
        return _read_once(FOLDER / f"{given}.toml")
    if Path(given).suffix == ".toml":
        return Paper.read(given)
    raise ValueError(f"unknown paper {os.fspath(given)!r}: {nearest(os.fspath(given), names)}")


SWR = find_paper("swr")
