"""What the paper prints, as data: set-up, tables, λ's, axes and claims, each with its place.

The paper: Oh, Park, Han, Kim, *Recovering Plasticity of Neural Networks via Soft Weight
Rescaling*, arXiv 2507.04683. Accuracies are fractions, not percent. Nothing here is computed and
nothing here is ours, except the wording of the claims and where "unsaid" says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Lambda = float | tuple[float, float]
Pair = tuple[str, str]
Cell = tuple[str, str, str]

# ---------------------------------------------------------------------------------------------
# Set-up (Section 4, Appendix D)

BATCH_SIZE = 256
LEARNING_RATE = 1e-3
#: Decay of the learning rate (Appendix E): times 1/10 after a half and after three quarters.
DECAY_FACTOR = 0.1
DECAY_AT = (0.5, 0.75)
#: Epochs of each stage. ``scaled`` is Fig. 1: before and after the scaling.
EPOCHS = MappingProxyType(
    {
        "single-task": (200,),
        "single-task-decay": (200,),
        "warm-start": (100, 100),
        "full-access": (100,) * 10,
        "limited-access": (100,) * 10,
        "scaled": (100, 50),
    }
)
#: Fig. 5 names neither epochs nor λ nor p, q: these are the authors' released code's.
FIGURE_5_RELEASE = MappingProxyType({"epochs": 200, "lam": 1e-3, "p": 2, "q": 2})
#: Grids from which λ was chosen, on test accuracy (SWR's is printed with 0.001 twice).
GRIDS = MappingProxyType(
    {
        "l2": (1e-1, 1e-2, 1e-3, 1e-4, 1e-5),
        "l2-init": (1e-1, 1e-2, 1e-3, 1e-4, 1e-5),
        "shrink-perturb": (0.2, 0.4, 0.6, 0.8),
        "swr": (1.0, 1e-1, 1e-2, 1e-3, 1e-4),
    }
)
#: Ours, for the method that the paper lacks: chosen on held-out training data.
ADAMW_GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)

MNIST_MLP: Pair = ("mnist", "mlp")
CIFAR10_CNN: Pair = ("cifar10", "cnn")
CIFAR100_CNN: Pair = ("cifar100", "cnn")
CIFAR100_CNN_BN: Pair = ("cifar100", "cnn-bn")
TINY_VGG16: Pair = ("tinyimagenet", "vgg16")
#: The paper's "relatively small" models, and the columns of its tables in their order.
SMALL_PAIRS = (MNIST_MLP, CIFAR10_CNN, CIFAR100_CNN, CIFAR100_CNN_BN)
PAIRS = (*SMALL_PAIRS, TINY_VGG16)

#: How names are written for readers.
LABELS = MappingProxyType(
    {
        "mnist-5k": "MNIST (5,000 digits)",
        "mnist": "MNIST",
        "cifar10": "CIFAR-10",
        "cifar100": "CIFAR-100",
        "tinyimagenet": "Tiny ImageNet",
        "tinyimagenet-part": "Tiny ImageNet (part)",
        "mlp": "MLP",
        "cnn": "CNN",
        "cnn-bn": "CNN-BN",
        "vgg16": "VGG-16",
        "single-task": "single task",
        "single-task-decay": "single task with decay",
        "warm-start": "warm start",
        "full-access": "full access",
        "limited-access": "limited access",
        "scaled": "scaled",
        "vanilla": "vanilla",
        "l2": "L2",
        "l2-init": "L2 Init",
        "shrink-perturb": "S&P",
        "head-reset": "head reset",
        "swr": "SWR",
        "swr-reinit": "SWR + re-init",
        "full-reset": "full reset",
        "adamw": "AdamW (our addition)",
    }
)


def label(name: str) -> str:
    """Write a dataset's, model's, stream's or method's name as readers know it."""
    return LABELS.get(name, name)


def seeds_of(model: str) -> int:
    """Return how many seeds the paper ran: 3 for VGG-16, else 5 (Section 4)."""
    return 3 if model == "vgg16" else 5


# ---------------------------------------------------------------------------------------------
# Tables 2-4: the chosen λ

_TUNED = ("shrink-perturb", "l2", "l2-init", "swr")
# One row a pair; in the order of _TUNED; (λ_f, λ_c) where the paper splits λ.
_CHOSEN: dict[str, dict[Pair, tuple[Lambda | None, ...]]] = {
    "warm-start": {
        MNIST_MLP: (0.4, 1e-5, 1e-5, 1e-4),
        CIFAR10_CNN: (0.8, 1e-2, 1e-2, 1e-3),
        CIFAR100_CNN: (0.8, 1e-2, 1e-2, 1e-3),
        CIFAR100_CNN_BN: (0.8, 1e-2, 1e-2, (1e-4, 1.0)),
        TINY_VGG16: (0.8, 1e-5, 1e-5, (1e-2, 1e-1)),
    },
    "full-access": {
        MNIST_MLP: (0.6, 1e-4, 1e-4, 1e-4),
        CIFAR10_CNN: (0.8, 1e-2, 1e-2, 1e-3),
        CIFAR100_CNN: (0.8, 1e-2, 1e-2, 1e-3),
        CIFAR100_CNN_BN: (0.8, 1e-2, 1e-2, (1e-4, 1e-1)),
        TINY_VGG16: (0.8, 1e-4, 1e-4, (1e-2, 1e-2)),
    },
    "limited-access": {
        MNIST_MLP: (0.2, 1e-5, 1e-5, 1e-4),
        CIFAR10_CNN: (0.4, 1e-2, 1e-2, 1e-1),
        CIFAR100_CNN: (0.6, 1e-2, 1e-2, 1e-1),
        CIFAR100_CNN_BN: (0.4, 1e-2, 1e-2, (1e-1, 1e-2)),
        TINY_VGG16: (0.4, 1e-4, 1e-3, (1e-4, 1.0)),
    },
    "single-task": {
        MNIST_MLP: (None, 1e-5, 1e-5, 1e-4),
        CIFAR10_CNN: (None, 1e-2, 1e-2, 1e-3),
        CIFAR100_CNN: (None, 1e-2, 1e-2, 1e-3),
        CIFAR100_CNN_BN: (None, 1e-2, 1e-2, (1e-4, 1e-1)),
        TINY_VGG16: (None, 1e-5, 1e-5, (1e-2, 1e-1)),
    },
}
# "The rest of the configuration was kept unchanged" (Appendix E).
_CHOSEN["single-task-decay"] = _CHOSEN["single-task"]


def published_lambda(method: str, dataset: str, model: str, stream: str) -> Lambda | None:
    """Return the λ that the paper chose (Tables 2-4).

    Parameters
    ----------
    method, dataset, model, stream : str
        Names as they stand in the records. ``mnist-5k`` takes MNIST's λ. ``swr-reinit`` takes
        SWR's of Table 4, in the single task with and without decay (Appendix E).

    Returns
    -------
    float or (float, float) or None
        λ; or λ of the features and of the classifier; or None where the paper prints none:
        methods without a λ, combinations that it did not run, and AdamW, our own addition.
    """
    if method == "swr-reinit":
        if not stream.startswith("single-task"):
            return None
        method = "swr"
    row = _CHOSEN.get(stream, {}).get(("mnist" if dataset == "mnist-5k" else dataset, model))
    return row[_TUNED.index(method)] if row and method in _TUNED else None


def published_settings(method: str) -> list[Cell]:
    """List the (dataset, model, stream) for which the paper prints a λ of this method."""
    cells = [(*pair, stream) for stream, rows in _CHOSEN.items() for pair in rows]
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


def _table(number: int, stream: str, place: str, rows: dict[str, str]) -> Table:
    columns: dict[Pair, dict[str, Accuracy]] = {pair: {} for pair in PAIRS}
    for method, row in rows.items():
        for pair, entry in zip(PAIRS, row.split("|"), strict=True):
            mean, std = map(float, entry.split("±"))
            columns[pair][method] = Accuracy(mean, std, seeds_of(pair[1]))
    return Table(number, stream, place, columns)


TABLE_1 = _table(
    1,
    "single-task",
    "Section 4.3, Table 1",
    {
        "vanilla": ".9789±.0009 | .6500±.0083 | .3283±.0067 | .3234±.0053 | .3912±.0142",
        "l2": ".9795±.0019 | .7119±.0037 | .3882±.0064 | .4222±.0043 | .3915±.0108",
        "l2-init": ".9793±.0016 | .7041±.0125 | .3881±.0050 | .4030±.0105 | .3870±.0143",
        "swr": ".9822±.0024 | .7158±.0063 | .3914±.0070 | .4129±.0105 | .4348±.0025",
    },
)
TABLE_5 = _table(
    5,
    "single-task-decay",
    "Appendix E, Table 5",
    {
        "vanilla": ".9798±.0005 | .6571±.0057 | .3490±.0021 | .3483±.0043 | .4126±.0236",
        "l2": ".9811±.0007 | .7304±.0039 | .3949±.0091 | .4532±.0040 | .4080±.0124",
        "l2-init": ".9811±.0007 | .7286±.0023 | .4048±.0019 | .4341±.0019 | .4199±.0048",
        "swr": ".9796±.0009 | .6925±.0078 | .3599±.0054 | .4240±.0015 | .5221±.0123",
        "swr-reinit": ".9829±.0002 | .7269±.0027 | .4133±.0058 | .4451±.0028 | .5165±.0070",
    },
)
TABLES = MappingProxyType({1: TABLE_1, 5: TABLE_5})


def printed_accuracy(method: str, dataset: str, model: str, stream: str) -> Accuracy | None:
    """Return a printed final accuracy (Tables 1 and 5), None where there is none."""
    for table in TABLES.values():
        if table.stream == stream:
            return table.accuracy.get((dataset, model), {}).get(method)
    return None


# ---------------------------------------------------------------------------------------------
# Figures 1-8: what stands on them, and the range of their vertical axes


@dataclass(frozen=True)
class Panel:
    """One panel of a figure; ``axis`` is the range of its vertical axis, None where unknown."""

    figure: int
    dataset: str
    model: str
    stream: str
    measure: str
    axis: tuple[float, float] | None


def _panels(figure: int, stream: str, axes: dict[Pair, tuple[float, float] | None]) -> list[Panel]:
    return [Panel(figure, *pair, stream, "test_accuracy", axis) for pair, axis in axes.items()]


PANELS = (
    # Fig. 1 does not say its model: the CNN, as elsewhere for CIFAR-10.
    Panel(1, *CIFAR10_CNN, "scaled", "fine-tuned accuracy", (0.60, 0.74)),
    Panel(1, *CIFAR10_CNN, "scaled", "accuracy after scaling", (0.1, 0.8)),
    *_panels(
        2,
        "warm-start",
        {CIFAR10_CNN: (0.62, 0.72), CIFAR100_CNN: (0.30, 0.40), TINY_VGG16: (0.28, 0.42)},
    ),
    *_panels(
        3, "full-access", {CIFAR10_CNN: (0.40, 0.70), CIFAR100_CNN: (0, 0.40), TINY_VGG16: (0, 0.4)}
    ),
    *_panels(4, "limited-access", {CIFAR10_CNN: None, CIFAR100_CNN: None, TINY_VGG16: None}),
    Panel(5, "cifar10", "mlp", "single-task", "balancedness", (0.45, 0.75)),
    Panel(5, "cifar10", "mlp", "single-task", "test_accuracy", (0.46, 0.54)),
    *_panels(6, "warm-start", {MNIST_MLP: (0.970, 0.984), CIFAR100_CNN_BN: (0.30, 0.42)}),
    *_panels(7, "full-access", {MNIST_MLP: (0.90, 0.99), CIFAR100_CNN_BN: (0.10, 0.40)}),
    *_panels(8, "limited-access", {MNIST_MLP: (0.89, 0.97), CIFAR100_CNN_BN: (0, 0.30)}),
)


def find_panel(
    dataset: str, model: str, stream: str, measure: str = "test_accuracy"
) -> Panel | None:
    """Return the paper's panel that shows this, None where it has none."""
    wanted = (dataset, model, stream, measure)
    return next((p for p in PANELS if (p.dataset, p.model, p.stream, p.measure) == wanted), None)


# ---------------------------------------------------------------------------------------------
# Claims

#: Kinds that are judged on final accuracies; all others are judged in their chapters.
ACCURACY_KINDS = ("ordering", "best", "same", "comparable")
Kind = Literal[
    "ordering",  # every method ends above every rival
    "best",  # the same, of one method against all others
    "same",  # a method ends where its rivals end
    "comparable",  # a method ends not below its rivals
    "theory",  # a theorem, or an argument about weights
    "scaling",  # Fig. 1
    "course",  # what happens during training, not at its end
    "cost",  # time and memory
]


@dataclass(frozen=True)
class Claim:
    """One claim of the paper, in our words.

    Attributes
    ----------
    id : str
        Short name, stable.
    kind : str
        What would make it true; see `Kind`.
    place : str
        Section, figure, table or equation of the paper.
    sentence : str
        The claim.
    methods, rivals : tuple of str
        Who is claimed to do well, against whom. ``full-reset`` in a warm start is the network
        trained from scratch on all data for the second stage's epochs.
    cells : tuple of (dataset, model, stream)
        Where it is claimed. Empty: everywhere.
    margin : float or None
        Takes the place of half the printed difference where none is printed; None: a quarter of
        the range of Table 1's means for the same dataset and model.
    """

    id: str
    kind: Kind
    place: str
    sentence: str
    methods: tuple[str, ...] = ()
    rivals: tuple[str, ...] = ()
    cells: tuple[Cell, ...] = ()
    margin: float | None = None


def _cells(pairs: tuple[Pair, ...], *streams: str) -> tuple[Cell, ...]:
    return tuple((*pair, stream) for stream in streams for pair in pairs)


_VGG = (TINY_VGG16,)
_PENALTIES = ("l2", "l2-init")
_RESETS = ("shrink-perturb", "head-reset")

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "overhead",
        "cost",
        "Section 1",
        "A step with SWR costs hardly more than a plain one, and less than one with a term in "
        "the loss, whose gradient has to be computed.",
        ("swr",),
        _PENALTIES,
    ),
    Claim(
        "no-unbounded-growth",
        "theory",
        "Sections 1 and 3.4, Theorem 2, (11)-(12), Appendix B",
        "If every gradient update changes the squared norm of a weight matrix by at most B, SWR "
        "keeps the norm below √B/λ plus the initial norm.",
        ("swr",),
    ),
    Claim(
        "growth-without",
        "theory",
        "Appendix B",
        "Without SWR norms can grow without bound, under the same premise at most like √t.",
        ("vanilla",),
    ),
    Claim(
        "proportionality",
        "theory",
        "Section 3.2, Theorem 1, Appendix A",
        "Scaling each weight by its factor and each bias by the product of the factors so far "
        "multiplies a homogeneous network's output by the product of all factors.",
        ("swr",),
    ),
    Claim(
        "lipschitz-bound",
        "theory",
        "Corollary 2.1, (13)-(15)",
        "So the Lipschitz constant of a multilayer perceptron with 1-Lipschitz activations stays "
        "bounded too, and similarly with convolution and normalization layers.",
        ("swr",),
    ),
    Claim(
        "scaling-keeps-accuracy",
        "scaling",
        "Section 3.2, Fig. 1",
        "Scaled proportionally, a trained network keeps its accuracy at every ratio.",
        cells=_cells((CIFAR10_CNN,), "scaled"),
    ),
    Claim(
        "scaling-without-biases",
        "scaling",
        "Section 3.2, Fig. 1",
        "Scaled without proportionality, its accuracy declines.",
        cells=_cells((CIFAR10_CNN,), "scaled"),
    ),
    Claim(
        "scaling-then-training",
        "scaling",
        "Section 3.2, Fig. 1",
        "Scaled and trained on, every network gets beyond the best accuracy before the scaling.",
        cells=_cells((CIFAR10_CNN,), "scaled"),
    ),
    Claim(
        "normalization-diverges",
        "theory",
        "Section 3.3",
        "Weights of several models diverge where scale and shift of normalization layers are "
        "left alone.",
        ("swr",),
    ),
    Claim(
        "final-normalization",
        "theory",
        "Section 3.3",
        "Proportionality hangs on the last normalization layer alone; the scale of the layers "
        "before it sets their effective learning rate.",
        ("swr",),
    ),
    Claim(
        "balance",
        "theory",
        "Section 3.4, Definition 2, Theorem 3, (19), Appendix C",
        "A rescaling never takes the ratio of two layers' norms further from its initial value; "
        "weight decay cannot balance layers.",
        ("swr",),
        ("l2",),
    ),
    Claim(
        "lpq-balance",
        "course",
        "Section 3.4, Appendix C, Fig. 5",
        "During training SWR brings the ℓp,q norm nearer to the least one that a network with "
        "the same function can have.",
        ("swr",),
        ("vanilla",),
        (("cifar10", "mlp", "single-task"),),
    ),
    Claim(
        "balance-accuracy",
        "ordering",
        "Appendix C, Fig. 5",
        "The better balanced network, with SWR, is also the more accurate one.",
        ("swr",),
        ("vanilla",),
        (("cifar10", "mlp", "single-task"),),
        margin=0.01,  # an eighth of the figure's axis: Table 1 has no such column
    ),
    Claim(
        "warm-start-harms",
        "ordering",
        "Section 4.1, Figs. 2 and 6 (dashed lines)",
        "A plain network ends lower after a warm start than trained from scratch on all data.",
        ("full-reset",),
        ("vanilla",),
        _cells(PAIRS, "warm-start"),
    ),
    Claim(
        "warm-start-penalties-small",
        "ordering",
        "Section 4.1, Figs. 2 and 6",
        "In most small models regularizers end above training from scratch, in spite of the "
        "warm start.",
        _PENALTIES,
        ("full-reset",),
        _cells(SMALL_PAIRS, "warm-start"),
    ),
    Claim(
        "warm-start-penalties-vgg",
        "same",
        "Section 4.1, Fig. 2",
        "On VGG-16 L2 and L2 Init do not help after a warm start.",
        _PENALTIES,
        ("vanilla",),
        _cells(_VGG, "warm-start"),
    ),
    Claim(
        "warm-start-resets-vgg",
        "ordering",
        "Section 4.1, Fig. 2",
        "On VGG-16 S&P and head reset sometimes end above training from scratch.",
        _RESETS,
        ("full-reset",),
        _cells(_VGG, "warm-start"),
    ),
    Claim(
        "warm-start-best-rival-vgg",
        "best",
        "Section 4.1, Fig. 2",
        "On VGG-16 S&P is the best of SWR's rivals.",
        ("shrink-perturb",),
        (*_PENALTIES, "head-reset", "vanilla"),
        _cells(_VGG, "warm-start"),
    ),
    Claim(
        "warm-start-resets-small",
        "same",
        "Section 4.1, Figs. 2 and 6",
        "On small networks S&P and head reset gain little.",
        _RESETS,
        ("vanilla",),
        _cells(SMALL_PAIRS, "warm-start"),
    ),
    Claim(
        "warm-start-swr",
        "comparable",
        "Section 4.1, Figs. 2 and 6",
        "After a warm start SWR is comparable to every other method or better.",
        ("swr",),
        ("vanilla", *_PENALTIES, *_RESETS),
        _cells(PAIRS, "warm-start"),
    ),
    Claim(
        "warm-start-swr-vgg",
        "ordering",
        "Section 4.1, Fig. 2",
        "On VGG-16 SWR ends above S&P.",
        ("swr",),
        ("shrink-perturb",),
        _cells(_VGG, "warm-start"),
    ),
    Claim(
        "full-access-resets",
        "ordering",
        "Section 4.2, Figs. 3 and 7",
        "With full access S&P and head reset end above the plain network.",
        _RESETS,
        ("vanilla",),
        _cells(PAIRS, "full-access"),
    ),
    Claim(
        "full-access-drops",
        "course",
        "Section 4.2, Figs. 3 and 7",
        "They lose accuracy at each change of data.",
        _RESETS,
        ("vanilla",),
        _cells(PAIRS, "full-access"),
    ),
    Claim(
        "full-access-steady",
        "course",
        "Section 4.2, Figs. 3 and 7",
        "Regularizers improve steadily, for relatively small models.",
        (*_PENALTIES, "swr"),
        ("vanilla",),
        _cells(SMALL_PAIRS, "full-access"),
    ),
    Claim(
        "full-access-resets-vgg",
        "ordering",
        "Section 4.2, Fig. 3",
        "On VGG-16 re-initializing ends above regularizing.",
        _RESETS,
        _PENALTIES,
        _cells(_VGG, "full-access"),
    ),
    Claim(
        "full-access-swr-vgg",
        "ordering",
        "Section 4.2, Fig. 3",
        "On VGG-16 SWR overtakes S&P half-way and ends above it.",
        ("swr",),
        ("shrink-perturb",),
        _cells(_VGG, "full-access"),
    ),
    Claim(
        "full-access-swr-steady-vgg",
        "course",
        "Section 4.2, Fig. 3",
        "On VGG-16 SWR does not lose accuracy when data are added.",
        ("swr",),
        _RESETS,
        _cells(_VGG, "full-access"),
    ),
    Claim(
        "limited-access-loss",
        "course",
        "Section 4.2, Figs. 4 and 8",
        "With limited access SWR loses less than the other regularizers at each change of data, "
        "and nothing on VGG-16.",
        ("swr",),
        _PENALTIES,
        _cells((CIFAR10_CNN, CIFAR100_CNN, CIFAR100_CNN_BN, TINY_VGG16), "limited-access"),
    ),
    Claim(
        "limited-access-shrink-perturb",
        "comparable",
        "Section 4.2, Figs. 4 and 8",
        "With limited access S&P keeps up with L2 and L2 Init.",
        ("shrink-perturb",),
        _PENALTIES,
        _cells(PAIRS, "limited-access"),
    ),
    Claim(
        "generalization-best",
        "best",
        "Section 4.3, Table 1",
        "In a single task SWR is the most accurate method, except on CNN-BN.",
        ("swr",),
        ("vanilla", *_PENALTIES),
        _cells((MNIST_MLP, CIFAR10_CNN, CIFAR100_CNN, TINY_VGG16), "single-task"),
    ),
    Claim(
        "generalization-exception",
        "ordering",
        "Section 4.3, Table 1",
        "On CNN-BN L2 is more accurate than SWR.",
        ("l2",),
        ("swr",),
        _cells((CIFAR100_CNN_BN,), "single-task"),
    ),
    Claim(
        "generalization-vgg",
        "best",
        "Section 4.3, Table 1",
        "On VGG-16 SWR is the most accurate (in print by more than four points).",
        ("swr",),
        ("vanilla", *_PENALTIES),
        _cells(_VGG, "single-task"),
    ),
    Claim(
        "decay-pull",
        "theory",
        "Appendix E",
        "When the learning rate decays SWR's pull becomes relatively stronger, and the norm "
        "falls toward its initial value.",
        ("swr",),
    ),
    Claim(
        "reinit-comparable",
        "comparable",
        "Appendix E, Table 5",
        "With decay, SWR + re-init is largely comparable to the other methods.",
        ("swr-reinit",),
        ("vanilla", *_PENALTIES),
        _cells(PAIRS, "single-task-decay"),
    ),
    Claim(
        "reinit-vgg",
        "ordering",
        "Appendix E, Table 5",
        "On VGG-16 SWR + re-init is better than L2 and L2 Init (in print by more than eight "
        "points).",
        ("swr-reinit",),
        _PENALTIES,
        _cells(_VGG, "single-task-decay"),
    ),
    Claim(
        "reinit-over-swr",
        "ordering",
        "Appendix E, Table 5 (as its numbers stand)",
        "With decay, SWR + re-init is better than SWR, except on VGG-16.",
        ("swr-reinit",),
        ("swr",),
        _cells(SMALL_PAIRS, "single-task-decay"),
    ),
    Claim(
        "overall-swr",
        "best",
        "Section 5",
        "Wherever the data change, SWR outperforms regularizers and re-initializers alike (for "
        "the single task see Table 1).",
        ("swr",),
        (*_PENALTIES, *_RESETS),
        _cells(PAIRS, "warm-start", "full-access", "limited-access"),
    ),
    Claim(
        "overall-l2",
        "ordering",
        "Section 5",
        "L2 often performs better than SWR (printed beside the claim that SWR outperforms it).",
        ("l2",),
        ("swr",),
        _cells(
            PAIRS,
            "warm-start",
            "full-access",
            "limited-access",
            "single-task",
            "single-task-decay",
        ),
    ),
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
