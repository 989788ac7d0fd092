"""What the paper prints, as data: set-up, λ's, tables, axes and claims, each with its place.

The paper: Oh, Park, Han, Kim, *Recovering Plasticity of Neural Networks via Soft Weight
Rescaling*, arXiv 2507.04683. The data stand in ``paper.toml``, each beside its section, table or
figure; this module gives them names and types. Accuracies are fractions, not percent.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from itertools import product
from pathlib import Path

Lambda = float | tuple[float, float]
Pair = tuple[str, str]
Cell = tuple[str, str, str]

_PRINTED = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))

# ---------------------------------------------------------------------------------------------
# Set-up (Section 4, Appendix D)

BATCH_SIZE: int = _PRINTED["batch_size"]
LEARNING_RATE: float = _PRINTED["learning_rate"]
#: The learning rate is multiplied by the factor after these shares of the epochs (Appendix E).
DECAY_FACTOR: float = _PRINTED["decay"]["factor"]
DECAY_AT: tuple[float, ...] = tuple(_PRINTED["decay"]["at"])
#: Epochs of each stage. ``scaled`` is Fig. 1: before and after the scaling.
EPOCHS: dict[str, tuple[int, ...]] = {k: tuple(v) for k, v in _PRINTED["epochs"].items()}
#: Fig. 1's horizontal axis; 1 scales nothing.
FIGURE_1_RATIOS: tuple[float, ...] = tuple(_PRINTED["figure_1_ratios"])
#: Fig. 5's settings, which the paper leaves out, as the authors' released code has them.
FIGURE_5_RELEASE: dict[str, float] = _PRINTED["figure_5_release"]
#: Grids from which λ was chosen, on test accuracy.
GRIDS: dict[str, tuple[float, ...]] = {k: tuple(v) for k, v in _PRINTED["grids"].items()}
#: Ours, for the method that the paper lacks: chosen on held-out training data.
ADAMW_GRID: tuple[float, ...] = tuple(_PRINTED["adamw_grid"])
#: Data set and model of each column of the tables.
PAIRS: tuple[Pair, ...] = tuple((d, m) for d, m in map(str.split, _PRINTED["pairs"]))
#: How names are written for readers.
LABELS: dict[str, str] = _PRINTED["labels"]


def label(name: str) -> str:
    """Write a dataset's, model's, stream's or method's name as readers know it."""
    return LABELS.get(name, name)


# ---------------------------------------------------------------------------------------------
# Tables 2-4: the chosen λ

_CHOSEN: dict[str, dict[str, dict[str, float | list[float]]]] = _PRINTED["lambda"]
# "The rest of the configuration was kept unchanged" (Appendix E).
_CHOSEN["single-task-decay"] = _CHOSEN["single-task"]


#: Methods besides SWR that take its λ.
WITH_SWRS_LAMBDA = ("swr-reinit", "swr-except-normalization")


def published_lambda(method: str, dataset: str, model: str, stream: str) -> Lambda | None:
    """Return the λ that the paper chose (Tables 2-4).

    Parameters
    ----------
    method, dataset, model, stream : str
        Names as they stand in the records. ``mnist-5k`` takes MNIST's λ. ``swr-reinit`` and
        ``swr-except-normalization`` take SWR's of Table 4, in the single task with and without
        decay (Appendix E).

    Returns
    -------
    float or (float, float) or None
        λ; or λ of the features and of the classifier; or None where the paper prints none:
        methods without a λ, combinations that it did not run, and AdamW, our own addition.
    """
    if method in WITH_SWRS_LAMBDA and stream.startswith("single-task"):
        method = "swr"
    pair = f"{'mnist' if dataset == 'mnist-5k' else dataset} {model}"
    lam = _CHOSEN.get(stream, {}).get(pair, {}).get(method)
    return (lam[0], lam[1]) if isinstance(lam, list) else lam


def published_settings(method: str) -> list[Cell]:
    """List the (dataset, model, stream) for which the paper prints a λ of this method."""
    cells = [(*pair, stream) for stream in _CHOSEN for pair in PAIRS]
    return [cell for cell in cells if published_lambda(method, *cell) is not None]


# ---------------------------------------------------------------------------------------------
# Tables 1 and 5: final test accuracy


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


TABLES: dict[int, Table] = {
    int(number): Table(
        int(number),
        table["stream"],
        table["place"],
        {
            pair: {
                method: Accuracy(row[column][0], row[column][1], _PRINTED["seeds"][pair[1]])
                for method, row in table["accuracy"].items()
            }
            for column, pair in enumerate(PAIRS)
        },
    )
    for number, table in _PRINTED["table"].items()
}


def printed_accuracy(method: str, dataset: str, model: str, stream: str) -> Accuracy | None:
    """Return a printed final accuracy (Tables 1 and 5), None where there is none."""
    for table in TABLES.values():
        if table.stream == stream:
            return table.accuracy.get((dataset, model), {}).get(method)
    return None


# ---------------------------------------------------------------------------------------------
# Figures 1-8: what stands on them


@dataclass(frozen=True)
class Panel:
    """One panel of a figure; ``axis`` is the range of its vertical axis, None where unknown."""

    figure: int
    cell: Cell
    measure: str
    axis: tuple[float, float] | None


PANELS = tuple(
    Panel(
        panel["figure"],
        tuple(panel["cell"].split()),
        panel["measure"],
        tuple(panel["axis"]) if "axis" in panel else None,
    )
    for panel in _PRINTED["figures"]["panels"]
)


# ---------------------------------------------------------------------------------------------
# Claims

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
        The size that matters, everywhere or by "dataset model"; None: see `SIZES`.
    quantifier : str
        In how many of its cells it is claimed: see `swrlib.second_rule`; "generally in most": the
        mean over methods, in most cells.
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
    quantifier: str = "all"
    chapter: str = ""
    remark: bool = False
    was: str = ""
    changed: str = ""


#: The size of a difference of final accuracies that matters: a tenth of the axis on which the paper
#: draws the ends of a warm start (Figs. 2 and 6); for the MLP on CIFAR-10 Fig. 5's.
SIZES: dict[Pair, float] = {
    panel.cell[:2]: round((panel.axis[1] - panel.axis[0]) / 10, 6)
    for panel in PANELS
    if panel.axis and panel.measure == "test_accuracy" and panel.figure in (2, 5, 6)
}


def size_that_matters(claim: Claim | None, cell: Cell) -> float:
    """Return the margin of a claim in a cell, or of a number; NaN where there is none."""
    margin = claim.margin if claim else None
    if isinstance(margin, dict):
        margin = margin.get(" ".join(cell[:2]))
    return SIZES.get(cell[:2], float("nan")) if margin is None else margin


CLAIMS = tuple(
    Claim(
        claim["id"],
        claim["kind"],
        claim["place"],
        claim["sentence"],
        tuple(claim.get("methods", ())),
        tuple(claim.get("rivals", ())),
        tuple(
            (*pair.split(), stream)
            for stream, pair in product(
                claim.get("streams", ()), claim.get("pairs", _PRINTED["pairs"])
            )
        ),
        claim.get("margin"),
        claim.get("quantifier", "all"),
        claim.get("chapter", ""),
        claim.get("remark", False),
        claim.get("was", ""),
        claim.get("changed", ""),
    )
    for claim in _PRINTED["claim"]
)


def find_claim(id: str) -> Claim:
    """Return a claim by its id.

    Raises
    ------
    ValueError
        If there is no such claim.
    """
    for claim in CLAIMS:
        if claim.id == id:
            return claim
    raise ValueError(f"unknown claim {id!r}; there are: {', '.join(c.id for c in CLAIMS)}")
