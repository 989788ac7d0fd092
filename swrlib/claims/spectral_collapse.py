"""Claims of *Spectral Collapse* (Prakash, He, Guo et al.), and SWR beside them.

From a value a run and task to verdicts, by `swrlib.verdicts.task_rule`. Everything is *in small*:
a narrower network, larger batches, fewer images and tasks than the paper's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from swrlib.claims.continual_backprop import ON_DIGITS, utility_case
from swrlib.claims.gauss_newton import same_spectrum
from swrlib.claims.settings import CHOOSING, of_setting
from swrlib.papers import SWR, find_paper
from swrlib.records import load_measures
from swrlib.verdicts import Case, Verdict, second_rule, task_rule
from swrlib.verdicts.task_rule import Scope

PAPER = find_paper("spectral_collapse")
STREAM = "pixel-permuted"
#: Methods as readers know them, in their order.
LABELS = SWR.labels | PAPER.labels
#: Layer norm before the activations with L2, which the paper counts as a method.
LAYER_NORM = "layer-norm-l2"
#: ε of the paper's figures of permuted MNIST, as it stands in the measures' labels.
EPSILON = PAPER.details["epsilons"]["permuted-mnist"]
#: The ε-rank's two forms, by what they are called in the measures.
FORMS = {"epsilon-rank": "share of the weight", "smoothed-epsilon-rank": "as released"}
#: A measure explains the accuracy where its R² is not below this; the size that matters of an R².
EXPLAINS, R2_MARGIN = 0.5, 0.1
#: The size of a ratio that matters, as ln: a tenth.
LARGER = float(np.log(1.1))
#: Methods by when they act, for pictures.
ACTS = {
    "at every step": ("l2", "l2-init", "l2-er", "er", "spectral", LAYER_NORM, "continual-backprop"),
    "at intervals": ("redo", "fire", "shrink-perturb", "shrink-perturb-noise", "full-reset"),
}
#: What runs in small have in common, and what they leave as it is: another activation, say, is
#: another setting.
IN_SMALL = {"dataset": "mnist-unit", "model": "mlp", "stream": STREAM, "images": 10_000}
IN_SMALL |= {"batch_size": 10, "optimizer": "sgd", "lr": 0.2, "model_initialization": "he"}
IN_SMALL |= {"model_hidden": [100, 100, 100]}
DEFAULTS = {"model_activation": "relu", "optimizer_momentum": 0, "optimizer_weight_decay": 0}
DEFAULTS |= {"optimizer_state": "kept", "norm": "isometry"}
#: The paper's step up the effective rank comes every hundred images: here, every ten minibatches.
EVERY = 10
SMALL = "100 units a layer, batches of 10, 10,000 images a task"

Cases = Sequence[Case]


def in_small(records: pd.DataFrame, *, choosing: bool = False) -> pd.DataFrame:
    """Keep the runs of permuted MNIST in small, of the longest stream that there is.

    Parameters
    ----------
    records : DataFrame
        What `swrlib.load_records` returns.
    choosing : bool
        Those on which strengths were chosen, instead of those that are judged.

    Returns
    -------
    DataFrame
        Layer norm with L2 is the method `LAYER_NORM`, L2-ER with λ = 0 the method "er".
    """
    if "tasks" not in records:
        return records[:0]
    chosen = of_setting(records, IN_SMALL, DEFAULTS)
    chosen = chosen[((chosen["seed"] >= CHOOSING) == choosing) & ~rare(chosen)]
    return named(chosen[chosen["tasks"] == chosen["tasks"].max()])


def rare(records: pd.DataFrame) -> pd.Series:
    """Tell L2-ER's runs whose step comes less often than the paper's, counted in images."""
    every = records.reindex(columns=["every"])["every"]  # missing: a hundred minibatches
    return records["method"].eq("l2-er") & every.ne(EVERY)


def named(records: pd.DataFrame) -> pd.DataFrame:
    """Give layer norm with L2, and L2-ER without its L2, methods' names of their own."""
    method = records["method"]
    method = method.mask(method.eq("l2-er") & records["lam"].eq(0), "er")
    if "model_layer_norm" in records:
        normalized = records["model_layer_norm"].eq(True) & method.eq("l2")
        method = method.mask(normalized, LAYER_NORM)
    return records.assign(method=method)


def with_measures(chosen: pd.DataFrame, results: str | os.PathLike[str] | None) -> pd.DataFrame:
    """Return what `by_task` makes of records and what is measured beside them.

    Parameters
    ----------
    chosen : DataFrame
        Records; there may be none.
    results : path, optional
        The folder that they are from; default: the project's own.
    """
    if not len(chosen):
        return chosen.assign(task=0, online=0.0)
    return by_task(chosen, load_measures(results, run=list(chosen["run"].unique())))


def in_panels(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows with ``acts``, a panel of `ACTS`; plain training and SWR are in every panel."""
    both = ("vanilla", "swr")
    parts = [rows[rows["method"].isin([*both, *own])].assign(acts=a) for a, own in ACTS.items()]
    return pd.concat(parts, ignore_index=True)


def by_task(records: pd.DataFrame, measures: pd.DataFrame) -> pd.DataFrame:
    """Return a row a run and task, with what was measured at the task's start and end.

    Parameters
    ----------
    records : DataFrame
        See `in_small`.
    measures : DataFrame
        What `swrlib.load_measures` returns.

    Returns
    -------
    DataFrame
        What `task_rule.measured_by_task` returns, and ``weights``, the norm of all weights at the
        task's end; ``features`` and ``dead``, the sums over the hidden layers of the features'
        effective rank and of dead units, at a task's end.
    """
    rows = task_rule.measured_by_task(measures, task_rule.task_rows(records))
    norms = [np.linalg.norm(np.asarray(values, dtype=float)) for values in rows["weight_norms"]]
    sums = {}
    for short, name in (("features", "effective-rank"), ("dead", "dead")):
        of_layers = rows.filter(like=f"features-end, {name}, ").to_numpy(dtype=float)
        sums[short] = of_layers.sum(axis=1) if of_layers.shape[1] else np.nan
    return rows.assign(weights=norms, **sums)


def spectra(rows: pd.DataFrame) -> pd.DataFrame:
    """Lay the ε-ranks at tasks' starts out, a row a run, task and ε.

    Parameters
    ----------
    rows : DataFrame
        What `by_task` returned.

    Returns
    -------
    DataFrame
        ``run, method, seed, task, online, largest, smallest, width, epsilon``, and a column for
        each of `FORMS`.
    """
    kept = ["run", "method", "seed", "task", "online"]
    extremes = {name: f"spectrum-start, {name}" for name in ("largest", "smallest")}
    columns = [*kept, *extremes, "width", "epsilon", *FORMS]
    if extremes["largest"] not in rows:
        return pd.DataFrame(columns=columns)
    there = rows.dropna(subset=[extremes["largest"]])
    start = "spectrum-start, epsilon-rank "
    parts = []
    for text in (name.removeprefix(start) for name in there if name.startswith(start)):
        ranks = {form: there[f"spectrum-start, {form} {text}"] for form in FORMS}
        values = {name: there[column] for name, column in extremes.items()} | ranks
        parts.append(there[kept].assign(epsilon=float(text), **values))
    ranks = pd.concat(parts, ignore_index=True)
    return ranks.assign(width=ranks["largest"] - ranks["smallest"])[columns]


def explained(x: pd.Series, y: pd.Series) -> float:
    """Return R² of a straight line, below 0 where the line falls; NaN where nothing varies."""
    both = pd.concat([x, y], axis=1).dropna().to_numpy(dtype=float)
    if len(both) < 3 or np.ptp(both[:, 0]) == 0 or np.ptp(both[:, 1]) == 0:
        return np.nan
    correlation = float(np.corrcoef(both.T)[0, 1])
    return correlation * abs(correlation)


def at_epsilon(of_spectra: pd.DataFrame, epsilon: float = EPSILON) -> pd.DataFrame:
    """Keep one ε, and leave the first task out, as the paper's scatter plots do."""
    here = np.isclose(of_spectra["epsilon"].astype(float), epsilon)
    return of_spectra[here & (of_spectra["task"] > 1)]


def r_squared_by_epsilon(of_spectra: pd.DataFrame) -> pd.DataFrame:
    """Return R² of accuracy by ε-rank for each ε, a point a method and task, means over seeds.

    Parameters
    ----------
    of_spectra : DataFrame
        What `spectra` returned.

    Returns
    -------
    DataFrame
        ``epsilon``, and a column for each of `FORMS`.
    """
    rows = []
    for epsilon in sorted(of_spectra["epsilon"].unique()):
        points = at_epsilon(of_spectra, epsilon).groupby(["method", "task"])
        means = points[["online", *FORMS]].mean()
        rows.append([epsilon, *(explained(means[form], means["online"]) for form in FORMS)])
    return pd.DataFrame(rows, columns=["epsilon", *FORMS])


def _by_seed(what: str, rows: pd.DataFrame, function: Callable[[pd.DataFrame], float]) -> Cases:
    """Return a case of one number a seed, of the methods that all seeds have."""
    seeds = rows.groupby("method")["seed"].transform("nunique")
    complete = rows[seeds == seeds.max()]
    numbers = {seed: function(part) for seed, part in complete.groupby("seed")}
    values = pd.DataFrame({"all": pd.Series(numbers, dtype=float).dropna()})
    return [Case(what, values, {"all": 1.0}, R2_MARGIN)]


# ---------------------------------------------------------------------------------------------
# What each claim is about


class Courses:
    """What claims ask of rows: numbers a method and seed.

    Parameters
    ----------
    rows : DataFrame
        What `by_task` returned.
    """

    def __init__(self, rows: pd.DataFrame) -> None:
        self.rows, self.spectra = rows, spectra(rows)
        self.sums = task_rule.summarized(rows, "online")

    def loss(self, method: str) -> Case:
        """Return by how much a method's online accuracy falls over the tasks."""
        what = f"{LABELS[method]}, online accuracy at the start of the stream minus that at its end"
        values, margin = task_rule.wide(self.sums, "change"), task_rule.MARGINS["online"]
        return Case(what, values, {method: -1.0}, margin)

    def keepers(self) -> list[str]:
        """Return the methods of which the rule says that they lose no accuracy over the tasks."""
        claim, printed = PAPER.find_claim("collapse-l2-er-keeps"), Scope(1, 1, 1)
        there = [method for method in LABELS if method in set(self.rows["method"])]
        words = {m: task_rule.judge(claim, [self.loss(m)], printed, kind="little") for m in there}
        return [method for method, word in words.items() if word.verdict in second_rule.HOLDS]

    def above(self, method: str, rivals: Sequence[str]) -> Cases:
        """Return by how much a method's accuracy at the end lies above others'."""
        values, margin = task_rule.wide(self.sums, "late"), task_rule.MARGINS["online"]
        what = f"online accuracy at the end, {LABELS[method]} minus "
        return [Case(what + LABELS[r], values, {method: 1.0, r: -1.0}, margin) for r in rivals]

    def rank_sums(self, form: str = "epsilon-rank") -> pd.DataFrame:
        """Return the sums of the ε-rank at tasks' starts."""
        rows = self.spectra[np.isclose(self.spectra["epsilon"].astype(float), EPSILON)]
        return task_rule.summarized(rows.astype({form: float}), form)

    def fall(self, form: str = "epsilon-rank") -> Cases:
        """Return by how much plain training's ε-rank falls."""
        what = f"vanilla, fall of the ε-rank ({FORMS[form]}), {task_rule.TREND}"
        values = task_rule.wide(self.rank_sums(form), "trend")
        return [Case(what, values, {"vanilla": -1.0}, task_rule.TREND_MARGIN)]

    def kept(self, methods: Sequence[str]) -> Cases:
        """Return how much more of the ε-rank methods keep than plain training."""
        values, margin = task_rule.wide(self.rank_sums(), "kept"), task_rule.TREND_MARGIN
        what = "share of the ε-rank that is kept, {} minus vanilla".format
        return [Case(what(LABELS[m]), values, {m: 1.0, "vanilla": -1.0}, margin) for m in methods]

    def ratio(self, value: str, what: str, over: str, under: str) -> Case:
        """Return ln of a ratio of two methods' values at the end of the stream."""
        late = np.log(task_rule.wide(task_rule.summarized(self.rows, value), "late"))
        text = f"ln of the {what}, {LABELS[over]} over {LABELS[under]}"
        return Case(text, late, {over: 1.0, under: -1.0}, LARGER)

    def explains(self, form: str) -> Cases:
        """Return R² of accuracy by the ε-rank, over methods and tasks, minus what is asked for."""
        what = f"R² of accuracy by the ε-rank ({FORMS[form]}, ε = {EPSILON:g}) minus {EXPLAINS:g}"
        rows = at_epsilon(self.spectra)
        return _by_seed(what, rows, lambda rows: explained(rows[form], rows["online"]) - EXPLAINS)

    def ordered(self) -> Cases:
        """Return R² between methods of accuracy by the features' rank, both at the end."""
        named = ("features", "online")
        late = {name: task_rule.summarized(self.rows, name)["late"] for name in named}
        what = f"R² between methods of accuracy by the features' rank minus {EXPLAINS:g}"
        ends = pd.DataFrame(late).reset_index()
        return _by_seed(what, ends, lambda at: explained(at["features"], at["online"]) - EXPLAINS)

    def follows_width(self) -> Cases:
        """Compare whom the released ε-rank follows, by R² over methods and tasks."""

        def closer(rows: pd.DataFrame) -> float:
            released, width = rows["smoothed-epsilon-rank"], np.log(rows["width"].astype(float))
            return abs(explained(width, released)) - abs(explained(rows["epsilon-rank"], released))

        what = "R² of the released ε-rank by the ln of the width minus that by the share of weight"
        return _by_seed(what, at_epsilon(self.spectra), closer)


_RIVALS = PAPER.find_claim("collapse-l2-er-best").rivals
#: By claim: its cases, and what is claimed of each.
READINGS: dict[str, tuple[Callable[[Courses], Cases], str]] = {
    "collapse-loss": (lambda c: [c.loss("vanilla")], "above"),
    "collapse-l2-er-keeps": (lambda c: [c.loss("l2-er")], "little"),
    "collapse-l2-er-best": (lambda c: c.above("l2-er", _RIVALS), "above"),
    "collapse-precedes": (lambda c: c.fall(), "above"),
    "collapse-er-alone": (lambda c: c.above("er", ["vanilla"]), "same"),
    "collapse-above-reset": (lambda c: c.above("l2-er", ["full-reset"]), "above"),
    "collapse-keepers": (lambda c: c.kept(c.keepers()), "above"),
    "collapse-predicts": (lambda c: c.explains("smoothed-epsilon-rank"), "not below"),
    "collapse-features": (
        lambda c: [
            c.ratio("features", "effective rank of the features", "l2-er", "vanilla"),
            c.ratio("weights", "norm of the weights", "vanilla", "l2-er"),
        ],
        "above",
    ),
    "collapse-rank-orders": (lambda c: c.ordered(), "not below"),
    "collapse-unsmoothed": (lambda c: c.explains("epsilon-rank"), "not below"),
    "collapse-released-falls": (lambda c: c.fall("smoothed-epsilon-rank"), "above"),
    "collapse-width": (lambda c: c.follows_width(), "above"),
    "collapse-swr-above": (lambda c: c.above("swr", ["vanilla"]), "above"),
    "collapse-swr-keeps": (lambda c: [c.loss("swr")], "little"),
    "collapse-swr-spectrum": (lambda c: c.kept(["swr"]), "above"),
}


def judged(rows: pd.DataFrame, replaced: pd.DataFrame | None = None) -> list[Verdict]:
    """Judge every claim of the paper; *not run*, and what it would take, where records are missing.

    Parameters
    ----------
    rows : DataFrame
        What `by_task` returned; there may be none.
    replaced : DataFrame, optional
        What `swrlib.claims.continual_backprop.replaced_units` returned: it alone judges the remark
        on the utility.
    """
    courses = Courses(rows) if len(rows) else None
    stream, needs, verdicts = PAPER.details["stream"], PAPER.details["needs"], []
    tasks = int(rows["task"].max()) if courses else 0
    for claim in PAPER.claims:
        cases_of, kind = READINGS.get(claim.id, (lambda c: [], "above"))
        cases = cases_of(courses) if courses else []
        scope = Scope(tasks, stream["tasks"], stream["seeds"], SMALL)
        if claim.id == "collapse-utility" and replaced is not None:
            cases, scope = [utility_case(replaced)], Scope(0, 0, 0, ON_DIGITS)
        if claim.id == "collapse-gram":
            verdicts.append(same_spectrum(claim))
            continue
        lacking = needs.get(claim.id, "")
        verdicts.append(task_rule.judge(claim, cases, scope, kind=kind, lacking=lacking))
    return verdicts
