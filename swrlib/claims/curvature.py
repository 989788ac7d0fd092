"""Claims of *Curvature Explains Loss of Plasticity* (Lewandowski et al.), and SWR beside them.

From a value a run and task to verdicts, by `swrlib.verdicts.task_rule`. A setting is an activation.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from swrlib.claims.settings import CHOOSING, of_setting, option
from swrlib.papers import SWR, Claim, find_paper
from swrlib.records import load_measures
from swrlib.verdicts import NOT_RUN, TOO_FEW_SEEDS, Case, Verdict, second_rule, task_rule
from swrlib.verdicts.task_rule import Scope

PAPER = find_paper("curvature")
STREAM = "label-shuffled"
RATES = PAPER.details["learning_rates"]
#: How MNIST's pixels are scaled, by data set: the paper does not say. Only the first is meant where
#: nothing is said.
PIXELS = {"mnist": "normalized", "mnist-unit": "from 0 to 1"}
NORMALIZED, UNIT = PIXELS
ACTIVATIONS = ("relu", "leaky_relu", "tanh", "identity")
NONLINEAR = ACTIVATIONS[:3]
#: Activations as readers know them, in their order.
NAMED = {activation: PAPER.label(activation) for activation in ACTIVATIONS}
REGULARIZERS = ("l2", "l2-init", "wasserstein")
#: The largest strength of the Wasserstein regularizer in the paper's grid. Of those that were tried
#: ten times as much was best, which is what is judged; this one is the method "wasserstein-1".
IN_GRID = max(PAPER.grids["wasserstein"])
HESSIAN = "hessian-start, srank"
#: Said of runs with tanh that were made, and show neither a lost task nor a fall of the rank.
NOT_SEEN = "No run with tanh lost a task, and in none the rank fell: there is nothing to compare."
#: Of the whole Hessian of the last two layers: its largest eigenvalue, the sharpness.
SHARPNESS = "hessian-start, largest"
FEATURES = "features-start, srank, linear3"
DISTANCE = "weights-end, distance l2"
#: What earlier explanations look at: name and column (layers are those of the network 128-64-32),
#: the claim that it does not explain, and the direction in which it is said to go where plasticity
#: does.
_EXPLANATIONS = (
    ("update norm", "weights-end, update mean", "update", -1),
    ("rank of the representation", "features-end, srank, linear3", "representation", -1),
    ("entropy of the features", "features-end, entropy, linear3", "dormancy", -1),
    ("weight norm", "weights-end, size mean", "weight-norm", 1),
    ("rank of the weights", "weights-end, srank, linear3", "weight-rank", -1),
)
EARLIER = {name: column for name, column, _, _ in _EXPLANATIONS}
#: What has a trend, by name.
TRENDS = EARLIER | {"Hessian's rank": HESSIAN}
#: The size of a difference of distances that matters, as ln: a tenth.
FURTHER = float(np.log(1.1))
#: What `swrlib.train` measures for this chapter.
MEASURED = tuple(
    dict.fromkeys(name.split(",")[0] for name in (HESSIAN, FEATURES, *EARLIER.values()))
)
#: The size of a rank correlation that matters.
CORRELATED = 0.3
#: What it would take where nothing else is said.
PLANNED = (
    "Planned runs, not yet recorded: a quarter of an hour of one core for each activation and seed."
)
NOWHERE = "With no activation was plasticity clearly lost, so there is nothing to explain."
NO_SETTING = "In no setting is it certain that the error at the end of a task does not rise."


def at_the_paper_s_setting(records: pd.DataFrame) -> pd.DataFrame:
    """Keep the runs whose tasks are the paper's, whatever their number, rate and pixels' scale.

    Parameters
    ----------
    records : DataFrame
        What `swrlib.load_records` returns.

    Returns
    -------
    DataFrame
        Label-shuffled MNIST, 1,280 images, batches of 16, 200 epochs a task, 128-64-32, Adam, seeds
        on which no strength was chosen; with ``activation``. The Wasserstein regularizer at
        `IN_GRID` is a method of its own, "wasserstein-1".
    """
    details = PAPER.details
    given = {"stream": STREAM, "batch_size": PAPER.batch_size}
    given |= {"images": details["stream"]["images"], "model_hidden": details["model"]["hidden"]}
    given |= {"model_initialization": "glorot"}
    chosen = of_setting(records, given, {"optimizer": None, "model_layer_norm": None})
    length = chosen.groupby("run")["stage_epoch"].transform("max")
    chosen = chosen[(length == PAPER.epochs[STREAM][0]) & (chosen["seed"] < CHOOSING)]
    chosen = chosen[chosen["dataset"].isin([*PIXELS])]
    as_printed = chosen["method"].eq("wasserstein") & chosen["lam"].eq(IN_GRID)
    method = chosen["method"].mask(as_printed, "wasserstein-1")
    return chosen.assign(activation=option(chosen, "activation", "relu"), method=method)


def with_measures(chosen: pd.DataFrame, results: str | os.PathLike[str] | None) -> pd.DataFrame:
    """Return a row a run and task, with what was measured.

    Parameters
    ----------
    chosen : DataFrame
        Records with ``activation``; there may be none.
    results : path, optional
        The folder that they are from; default: the project's own.
    """
    rows = task_rule.task_rows(chosen) if len(chosen) else chosen
    if not len(rows):
        return rows
    runs = list(rows["run"].unique())
    parts = [load_measures(results, measure=name, run=runs) for name in MEASURED]
    return task_rule.measured_by_task(pd.concat(parts), rows)


def _place(activation: str, rate: float = PAPER.learning_rate) -> str:
    """Name a setting, with the step size where it is not the usual one."""
    at = "" if rate == PAPER.learning_rate else f" with step size {rate:g}"
    return f"{NAMED[activation]}{at}"


class Courses:
    """A value a run and task in every setting, summed up where it is asked for.

    Parameters
    ----------
    rows : DataFrame
        ``dataset, activation, method, seed, task, lr, error, online`` and what was measured, a row
        a run and task: what `swrlib.verdicts.task_rule.measured_by_task` returned.
    """

    def __init__(self, rows: pd.DataFrame) -> None:
        self.all = rows
        self.rows = self._at(NORMALIZED, PAPER.learning_rate)
        self.sums = functools.cache(self._summed)

    def _at(self, dataset: str, rate: float) -> pd.DataFrame:
        at_rate = np.isclose(self.all["lr"].astype(float), rate)
        return self.all[at_rate & (self.all["dataset"] == dataset)]

    def _summed(
        self,
        value: str,
        activation: str,
        rate: float = PAPER.learning_rate,
        dataset: str = NORMALIZED,
    ) -> pd.DataFrame:
        """Return `task_rule.summarized` of one setting; nothing where it was not measured."""
        rows = self._at(dataset, rate)
        rows = rows[rows["activation"] == activation]
        rows = rows if value in rows else rows[:0].assign(**{value: 0.0})
        return task_rule.summarized(rows, value)

    def wide(self, value: str, activation: str, name: str, **rate: float) -> pd.DataFrame:
        """Return one of the sums by seed and method."""
        return task_rule.wide(self.sums(value, activation, **rate), name)

    def loss(self, activation: str, method: str = "vanilla", **rate: float) -> Case:
        """Return by how much the error at tasks' ends rises."""
        what = (
            f"{_place(activation, **rate)}, error at the end of the stream minus that at its start"
        )
        values = self.wide("error", activation, "change", **rate)
        return Case(what, values, {method: 1.0}, task_rule.MARGINS["error"])

    def trend(
        self, name: str, activation: str, sign: float, method: str = "vanilla", **rate: float
    ) -> Case:
        """Return by how much a measure grows (or falls), as a share of its start."""
        said = "growth" if sign > 0 else "fall"
        what = f"{_place(activation, **rate)}, {said} of the {name}, {task_rule.TREND}"
        values = self.wide(TRENDS[name], activation, "trend", **rate)
        return Case(what, values, {method: sign}, task_rule.TREND_MARGIN)

    def correlation(self, one: str, other: str, activation: str) -> pd.DataFrame:
        """Return Spearman's correlation of two columns over the tasks of plain training, by seed.

        Without the first task, whose network is untrained.
        """
        rows = self.rows.reindex(columns=["activation", "method", "seed", "task", one, other])
        kept = (rows["activation"] == activation) & (rows["method"] == "vanilla")
        runs = rows[kept & (rows["task"] > 1)].dropna().groupby("seed")
        by_seed = {
            seed: run[one].corr(run[other], "spearman")
            for seed, run in runs
            if (run[[one, other]].nunique() > 1).all()
        }
        return pd.DataFrame({"vanilla": pd.Series(by_seed, dtype=float)})

    @functools.cached_property
    def where_lost(self) -> list[str]:
        """Name the nonlinear activations that lose plasticity in plain training, or may.

        Those that certainly do, and those of which too few seeds were run.
        """
        words = {a: _word(self.loss(a), "above") for a in NONLINEAR}
        counted = (second_rule.REPRODUCED, TOO_FEW_SEEDS, NOT_RUN)
        return [activation for activation, word in words.items() if word in counted]

    def errors(self, worse: Iterable[str], better: Iterable[str]) -> list[Case]:
        """Compare errors at the end of the stream: each of some methods minus each of others."""
        pairs, margin = [*itertools.product(worse, better)], task_rule.MARGINS["error"]
        values = {a: self.wide("error", a, "late") for a in NONLINEAR}
        return _compared(values, pairs, "error of {} minus that of {}", margin)

    def ranks(self, methods: Iterable[str]) -> list[Case]:
        """Compare the Hessian's rank at the end of the stream with plain training's."""
        values = {a: self.wide(HESSIAN, a, "kept") for a in NONLINEAR}
        pairs = [(method, "vanilla") for method in methods]
        what = "share of the rank that {} keeps minus that of plain training"
        return _compared(values, pairs, what, task_rule.TREND_MARGIN)

    def distances(self) -> list[Case]:
        """Compare how far weights end from their start, with Wasserstein and with others."""
        values = {a: np.log(self.wide(DISTANCE, a, "late")) for a in NONLINEAR}
        pairs = [("wasserstein", rival) for rival in REGULARIZERS[:2]]
        return _compared(values, pairs, "ln of the distance with {} over that with {}", FURTHER)


def _compared(
    values: Mapping[str, pd.DataFrame], pairs: Sequence[tuple[str, str]], what: str, margin: float
) -> list[Case]:
    """Compare the first method of each pair with the second, by activation."""
    cases = []
    for (activation, by_seed), (higher, lower) in itertools.product(values.items(), pairs):
        text = f"{NAMED[activation]}, {what.format(SWR.label(higher), SWR.label(lower))}"
        cases.append(Case(text, by_seed, {higher: 1.0, lower: -1.0}, margin))
    return cases


def _word(case: Case, kind: str) -> str:
    """Return the word on a single case."""
    return task_rule.judge(PAPER.claims[0], [case], Scope(1, 1, 1), kind=kind).verdict


# ---------------------------------------------------------------------------------------------
# What each claim is about: cases, and what is claimed of each


Cases = Sequence[Case | None]
_PLAIN = {"vanilla": 1.0}


@dataclass(frozen=True)
class Reading:
    """How a claim is read.

    Attributes
    ----------
    cases : callable
        cases(courses) → the cases.
    kind : str
        What is claimed of each: see `swrlib.verdicts.second_rule`.
    nothing : str
        What is said where there is no case, though there are records.
    """

    cases: Callable[[Courses], Cases]
    kind: str = "above"
    nothing: str = ""


def _first(courses: Courses) -> Cases:
    rows = courses.rows[courses.rows["method"] == "vanilla"]
    sums = task_rule.summarized(rows.assign(method=rows["activation"]), "error")
    said = "onset with {} minus that with {}, in tasks"
    texts = {other: said.format(*map(PAPER.label, (other, "relu"))) for other in NONLINEAR[1:]}
    return [task_rule.onset_case(text, sums, other, "relu") for other, text in texts.items()]


def events_of(courses: Courses, activation: str, dataset: str = NORMALIZED) -> pd.DataFrame:
    """Return when the error rises and when the rank falls, by method and seed."""
    error, rank = (courses.sums(value, activation, dataset=dataset) for value in ("error", HESSIAN))
    return error[["onset", "censored", "tasks"]].join(rank[["fallen", "never"]])


def lead_of(courses: Courses, activation: str, method: str, dataset: str = NORMALIZED) -> Case:
    """Return by how many tasks the Hessian's rank falls before the error rises, by seed."""
    both = events_of(courses, activation, dataset).dropna(subset=["onset", "fallen"])
    own = both[both.index.get_level_values("method") == method].droplevel("method")
    what = f"{NAMED[activation]}, pixels {PIXELS[dataset]}, onset of the error minus fall of the "
    what += "rank, in tasks"
    return task_rule.lead_case(what, own["fallen"], own["onset"], own["never"], own["censored"])


def _before(courses: Courses) -> Cases:
    """Return the leads with tanh; no case where it was run and neither event was seen."""
    leads = [lead_of(courses, "tanh", "vanilla", dataset) for dataset in PIXELS]
    if any(len(lead.values) for lead in leads) and not any(lead.n for lead in leads):
        return []
    return [lead for lead in leads if lead.n or not len(lead.values)]


def _explained(name: str, sign: float) -> Reading:
    """Ask where an earlier explanation's measure does not go the way that it should."""
    return Reading(lambda c: [c.trend(name, a, sign) for a in c.where_lost], "little", NOWHERE)


def _features(courses: Courses) -> Cases:
    what = "{}, correlation of the Hessian's rank with the features' over the tasks of a run"
    return [
        Case(what.format(NAMED[a]), courses.correlation(HESSIAN, FEATURES, a), _PLAIN, CORRELATED)
        for a in ACTIVATIONS
    ]


def _sharpness(courses: Courses) -> Cases:
    """Ask for two activations with which the sharpness goes with the error, and against it."""
    rho = {a: courses.correlation(SHARPNESS, "error", a) for a in courses.where_lost}
    what = "{} and {}, the smaller of two correlations of sharpness with the error, above 0 where "
    what += "their signs differ"
    return [
        Case(
            what.format(NAMED[one], NAMED[other]),
            -np.sign(rho[one] * rho[other]) * np.minimum(rho[one].abs(), rho[other].abs()),
            _PLAIN,
            CORRELATED,
        )
        for one, other in itertools.combinations(rho, 2)
    ]


def _online(courses: Courses) -> Cases:
    cases, margin = [], task_rule.MARGINS["online"]
    for activation in ACTIVATIONS:
        values = courses.wide("online", activation, "change")
        for method in values:
            if _word(courses.loss(activation, method), "little") == second_rule.REPRODUCED:
                what = f"{NAMED[activation]}, {SWR.label(method)}: fall of the average online"
                cases.append(Case(f"{what} accuracy", values, {method: -1.0}, margin))
    return cases


READINGS: dict[str, Reading] = {
    "curvature-loss": Reading(lambda c: [c.loss(a) for a in NONLINEAR]),
    "curvature-relu-first": Reading(_first, nothing="No task was lost."),
    "curvature-linear": Reading(lambda c: [c.loss("identity")], "little"),
    **{f"curvature-not-{of}": _explained(name, sign) for name, _, of, sign in _EXPLANATIONS},
    "curvature-falls": Reading(
        lambda c: [c.trend("Hessian's rank", a, -1) for a in c.where_lost], nothing=NOWHERE
    ),
    "curvature-before": Reading(_before, nothing=NOT_SEEN),
    "curvature-constant": Reading(lambda c: [c.trend("Hessian's rank", "identity", -1)], "same"),
    "curvature-leaky-rates": Reading(lambda c: [c.loss("leaky_relu", rate=r) for r in RATES]),
    "curvature-leaky-update": Reading(
        lambda c: [c.trend("update norm", "leaky_relu", 1, rate=r) for r in RATES]
    ),
    "curvature-regularizers-help": Reading(lambda c: c.errors(["vanilla"], REGULARIZERS)),
    "curvature-l2-least": Reading(lambda c: c.errors(["l2"], REGULARIZERS[1:])),
    "curvature-wasserstein-lowest": Reading(lambda c: c.errors(REGULARIZERS[:2], ["wasserstein"])),
    "curvature-wasserstein-moves": Reading(lambda c: c.distances()),
    "curvature-regularizers-keep": Reading(lambda c: c.ranks(REGULARIZERS)),
    "curvature-features": Reading(_features, "same"),
    "curvature-sharpness": Reading(_sharpness, nothing=NOWHERE),
    "curvature-online": Reading(_online, nothing=NO_SETTING),
    "curvature-wasserstein-1": Reading(lambda c: [c.loss("relu", "wasserstein-1")]),
    "curvature-swr-lower": Reading(lambda c: c.errors(["vanilla"], ["swr"])),
    "curvature-swr-best": Reading(lambda c: c.errors(REGULARIZERS, ["swr"])),
    "curvature-swr-keeps": Reading(lambda c: c.ranks(["swr"])),
    "curvature-swr-loses": Reading(lambda c: [c.loss(a, "swr") for a in NONLINEAR]),
    "curvature-swr-rank": Reading(
        lambda c: [c.trend("Hessian's rank", a, -1, "swr") for a in NONLINEAR], "little"
    ),
}


def judged(rows: pd.DataFrame, claims: Sequence[Claim] = PAPER.claims) -> list[Verdict]:
    """Judge claims of the paper; *not run*, and what it would take, where records are missing.

    Parameters
    ----------
    rows : DataFrame
        As for `Courses`; there may be none.
    claims : sequence of Claim
        Default: all.
    """
    courses = Courses(rows) if len(rows) else None
    stream, needs, verdicts = PAPER.details["stream"], PAPER.details["needs"], []
    for claim in claims:
        reading = READINGS.get(claim.id, Reading(lambda _: []))
        cases = [case for case in reading.cases(courses) if case] if courses else []
        nothing = reading.nothing if courses and not cases else ""
        lacking = needs.get(claim.id) or nothing or PLANNED
        of_seeds = stream["seeds" if claim.methods == ("vanilla",) else "seeds_of_regularizers"]
        tasks = int(rows["task"].max()) if courses else 0
        scope = Scope(tasks, stream["tasks"], of_seeds)
        verdicts.append(task_rule.judge(claim, cases, scope, kind=reading.kind, lacking=lacking))
    return verdicts


# ---------------------------------------------------------------------------------------------
# For readers


def events(rows: pd.DataFrame) -> pd.DataFrame:
    """Return when the error rises and when the Hessian's rank falls, a row a run.

    Parameters
    ----------
    rows : DataFrame
        As for `Courses`.

    Returns
    -------
    DataFrame
        ``activation, method, seed, onset, censored, fallen, never, tasks``; NaN where the rank was
        not measured.
    """
    courses = Courses(rows)
    events = {name: events_of(courses, name) for name in rows["activation"].unique()}
    return pd.concat(events, names=["activation"]).reset_index()
