"""The words on what predicts: *predicts*, *does not predict*, *differs by setting*, *undecided*.

`swrlib.claims.predictors` has the correlations; how often each word is wrong,
`swrlib.claims.prediction_simulation`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from swrlib.claims import predictors
from swrlib.claims.predictors import (
    ACROSS,
    BASELINES,
    BEYOND,
    LEAST_TASKS,
    NAMES,
    SIZE,
    VIEWS,
    WITHIN,
)
from swrlib.statistics import Estimate, holm
from swrlib.verdicts import LEAST_SEEDS

PREDICTS, DOES_NOT, DIFFERS = "predicts", "does not predict", "differs by setting"
UNDECIDED, TOO_FEW = "undecided", "too few seeds"
WORDS = (PREDICTS, DOES_NOT, DIFFERS, UNDECIDED)
LEVEL = 0.05
#: Orders of the methods that stand for all of them, where there are more.
ORDERS = 2000
#: Perfect correlations have no Fisher z; three seeds that all have one should not have no error.
_MOST = 0.999


class Found(NamedTuple):
    """A correlation over seeds, or arrays of them.

    Attributes
    ----------
    rho, low, high : float
        The mean (of Fisher's z, transformed back) and its t interval at 95%.
    p : float
        Two-sided, of no correlation; across methods the larger of that and of the permutations'.
    little : float
        The p value of a correlation of `SIZE` or more.
    seeds : int
    """

    rho: Any
    low: Any
    high: Any
    p: Any
    little: Any
    seeds: Any


def fisher(rho: Any) -> np.ndarray:
    """Return Fisher's z; a perfect correlation counts as one of 0.999."""
    return np.arctanh(np.clip(np.asarray(rho, dtype=float), -_MOST, _MOST))


def over_seeds(rho: Any, permuted: Any = 0.0) -> Found:
    """Estimate a correlation from one value a seed.

    Student's t over seeds, of Fisher's z. No bootstrap: of three seeds it has ten different
    samples, and none reaches beyond the three values, all of which lie on one side of the truth in
    a quarter of cases.

    Parameters
    ----------
    rho : array, shape [..., seeds]
        Each in [-1, 1].
    permuted : array, shape [...]
        The p value of a permutation of the methods, if there is one.
    """
    z = fisher(rho)
    n = z.shape[-1]
    if n < 2:
        mean = float(np.tanh(z[0])) if n else np.nan
        return Found(mean, np.nan, np.nan, np.nan, np.nan, n)
    error = np.maximum(z.std(-1, ddof=1) / np.sqrt(n), 1e-9)
    estimate = Estimate(z.mean(-1), error, n - 1.0)
    p = np.maximum(2 * np.minimum(estimate.above(), estimate.below()), permuted)
    little = estimate.within(np.arctanh(SIZE))
    rho, low, high = np.tanh(estimate.interval())
    return Found(rho, low, high, p, little, np.full(z.shape[:-1], n))


def word(correlation: Found, p: Any = None) -> np.ndarray:
    """Return the word on correlations.

    Parameters
    ----------
    correlation : Found
        [...].
    p : array, shape [...], optional
        Corrected for the number of comparisons, instead of their own.
    """
    p = correlation.p if p is None else p
    predicts = np.less_equal(p, LEVEL) & np.greater_equal(np.abs(correlation.rho), SIZE)
    few, little = np.less(correlation.seeds, LEAST_SEEDS), np.less_equal(correlation.little, LEVEL)
    return np.select([few, predicts, little], [TOO_FEW, PREDICTS, DOES_NOT], UNDECIDED)


def verdict(settings: Found, overall: Found, p: Any = None) -> np.ndarray:
    """Return the word on a measure over all settings.

    Parameters
    ----------
    settings : Found
        [..., settings], each of enough seeds. Their p values are corrected for their number.
    overall : Found
        [...], of each seed's mean over settings.
    p : array, shape [...], optional
        That of ``overall``, corrected for the number of measures.
    """
    words = word(settings, holm(settings.p))
    up, down = ((words == PREDICTS) & (sign * settings.rho > 0) for sign in (1, -1))
    some = up.any(-1) | down.any(-1)
    differs = (up.any(-1) & down.any(-1)) | (some & (words == DOES_NOT).any(-1))
    return np.where(differs, DIFFERS, word(overall, p))


# ---------------------------------------------------------------------------------------------
# Permutations of the methods


def permutation(pairs: list[tuple[pd.DataFrame, pd.DataFrame]]) -> float:
    """Return the p value of the mean correlation over methods, where methods are exchanged.

    An interval over seeds says that *these* methods come out in this order again; whether a
    handful of methods says something of methods depends on their number.

    Parameters
    ----------
    pairs : list of (DataFrame, DataFrame)
        Of each setting, what `swrlib.claims.predictors.method_means` returned. A method is the same
        one in all settings, so that all are exchanged alike.

    Returns
    -------
    float
        Two-sided; over all orders of the methods, or `ORDERS` drawn ones where there are more.
    """
    names = sorted({name for x, _ in pairs for name in x})
    if not names:
        return np.nan
    if len(names) <= 6:
        orders = np.array(list(itertools.permutations(range(len(names)))))
    else:
        draws = np.random.default_rng(0)
        drawn = [draws.permutation(len(names)) for _ in range(ORDERS - 1)]
        orders = np.array([np.arange(len(names)), *drawn])
    total = np.zeros(len(orders))
    for x, y in pairs:
        present = np.isin(names, x.columns)
        places = np.cumsum(present) - 1  # of a name among those of the setting
        own = places[orders[present[orders]].reshape(len(orders), -1)]
        total += exchanged(x.sort_index(axis=1), y.sort_index(axis=1), own)
    return float(extreme(total))


def exchanged(x: Any, y: Any, orders: np.ndarray) -> np.ndarray:
    """Return the mean correlation over seeds where one side's methods are put in other orders.

    Parameters
    ----------
    x, y : array, shape [..., seeds, methods]
    orders : array of int, shape [orders, methods]

    Returns
    -------
    array, shape [..., orders]
    """
    a, b = predictors.centred(x), predictors.centred(y)
    return np.nanmean((a[..., None, :] * b[..., orders]).sum(-1), -2)


def extreme(totals: np.ndarray) -> np.ndarray:
    """Return the share of orders that are as far from 0 as the first, [...] of [..., orders]."""
    return (np.abs(totals) >= np.abs(totals[..., :1]) - 1e-9).mean(-1)


# ---------------------------------------------------------------------------------------------
# All of it


def judged(table: pd.DataFrame) -> pd.DataFrame:
    """Judge every measure in every view, by setting and over all settings.

    Parameters
    ----------
    table : DataFrame
        What `swrlib.claims.predictors.tasks` returned.

    Returns
    -------
    DataFrame
        A row a view, measure and setting (``setting`` "all" over all of them): ``view, measure,
        setting, rho, low, high, p, little, seeds, word``.
    """
    groups, rows = dict(list(table.groupby("setting"))), []
    for view, look in VIEWS.items():
        seeds = {setting: look(part) for setting, part in groups.items()}
        names = dict.fromkeys(name for of in seeds.values() for name in of)
        rows += _rows(view, {name: _of_measure(view, name, groups, seeds) for name in names})
    columns = ["view", "measure", "setting", *Found._fields, "word"]
    return pd.DataFrame(rows, columns=columns)


def _of_measure(
    view: str, name: str, groups: dict[str, pd.DataFrame], seeds: dict[str, pd.DataFrame]
) -> dict[str, Found]:
    """Return a measure's correlation by setting, and over those of enough seeds ("all")."""
    known = {setting: of[name].dropna() for setting, of in seeds.items() if of[name].count()}
    across = [*known] if view == ACROSS else []
    pairs = {setting: predictors.method_means(groups[setting], name) for setting in across}
    alone = {setting: permutation([pairs[setting]]) for setting in across}
    settings = {setting: over_seeds(rho, alone.get(setting, 0.0)) for setting, rho in known.items()}
    enough = {setting: rho for setting, rho in known.items() if len(rho) >= LEAST_SEEDS}
    z = pd.DataFrame({setting: rho.map(fisher) for setting, rho in enough.items()}).dropna()
    permuted = permutation([pairs[setting] for setting in enough]) if pairs else 0.0
    return settings | {"all": over_seeds(np.tanh(z.mean(axis=1)), permuted)}


def _rows(view: str, measures: dict[str, dict[str, Found]]) -> list[dict[str, Any]]:
    """Write all of a view; p values are corrected for the number of measures where that can be."""
    tried = [n for n in NAMES if n in measures and measures[n]["all"].seeds >= LEAST_SEEDS]
    own = {name: of["all"].p for name, of in measures.items()}
    if view != ACROSS and tried:
        own |= dict(zip(tried, holm([own[name] for name in tried]), strict=True))
    rows = []
    for name, of in measures.items():
        known = [f for s, f in of.items() if s != "all" and f.seeds >= LEAST_SEEDS]
        said = word(of["all"])
        if known:
            said = verdict(Found(*map(np.array, zip(*known, strict=True))), of["all"], own[name])
        for setting, one in of.items():
            spoken = str(said if setting == "all" else word(one))
            which = {"view": view, "measure": name, "setting": setting}
            rows.append(which | one._asdict() | {"word": spoken})
    return rows


# ---------------------------------------------------------------------------------------------
# Sentences


#: The words in a sentence, of one and of several.
_VERBS = {
    PREDICTS: ("predicts", "predict"),
    DOES_NOT: ("does not predict", "do not predict"),
    DIFFERS: ("differs by setting", "differ by setting"),
    UNDECIDED: ("is undecided", "are undecided"),
    TOO_FEW: ("has too few seeds", "have too few seeds"),
}
#: What predicts within runs with one sign, and across methods with the other.
_OTHERWISE = ("predicts with the other sign", "predict with the other sign")
#: What predicts within runs, and has no correlation across methods.
_UNASKED = ("has no setting of enough methods", "have no setting of enough methods")


def _counted(number: int, which: str) -> str:
    verbs = _VERBS | {verb[0]: verb for verb in (_OTHERWISE, _UNASKED)}
    return f"{number} {verbs[which][number > 1]}"


def _listed(rows: pd.DataFrame) -> str:
    rows = rows.sort_values("rho", key=np.abs, ascending=False)
    return ", ".join(f"{row.measure} ({row.rho:+.2f})" for row in rows.itertuples())


def said(judged: pd.DataFrame, view: str) -> str:
    """Say of a view which measures predict over all settings, which not, and which differ.

    Parameters
    ----------
    judged : DataFrame
        What `judged` returned.
    view : str
        Of `swrlib.claims.predictors.VIEWS`.
    """
    rows = judged[(judged["view"] == view) & judged["measure"].isin(NAMES)]
    rows = rows[(rows["setting"] == "all") & rows["seeds"].gt(0)]
    if not len(rows):
        return f"{view.capitalize()}: nothing to say, since no setting has enough records."
    parts = []
    for which in _VERBS:
        of = rows[rows["word"] == which]
        if len(of):
            listed = f": {_listed(of)}" if which in (PREDICTS, DIFFERS) else ""
            parts.append(_counted(len(of), which) + listed)
    return f"{view.capitalize()}, of {len(rows)} measures {'; '.join(parts)}."


def said_of_methods(judged: pd.DataFrame) -> str:
    """Say whether what predicts across tasks (within runs) also predicts across methods."""
    rows = judged[(judged["setting"] == "all") & judged["seeds"].gt(0)].set_index("measure")
    within, across = (rows[rows["view"] == view] for view in (WITHIN, ACROSS))
    chosen = within[(within["word"] == PREDICTS) & within.index.isin(NAMES)]
    if not len(chosen):
        return "No measure predicts within runs, so none is left to be asked across methods."
    other = across.reindex(chosen.index)
    verbs = other["word"].fillna(_UNASKED[0])
    turned = (verbs == PREDICTS) & (other["rho"] * chosen["rho"] < 0)
    verbs = verbs.mask(turned, _OTHERWISE[0])
    groups = verbs.groupby(verbs, sort=False)
    parts = [f"{_counted(len(of), str(verb))} ({', '.join(of.index)})" for verb, of in groups]
    number = _counted(len(chosen), PREDICTS)
    return f"Within runs {number}; of these, across methods {'; '.join(parts)}."


def said_of_baselines(judged: pd.DataFrame) -> str:
    """Say how many measures have a smaller correlation within runs than the two baselines.

    Each beside a baseline in the same settings: those in which the measure was taken.
    """
    rows = judged[(judged["setting"] != "all") & (judged["view"] == WITHIN)]
    rows = rows[rows["seeds"] >= LEAST_SEEDS]
    z = rows.assign(z=fisher(rows["rho"])).pivot(index="setting", columns="measure", values="z")
    own = z[[name for name in NAMES if name in z]]
    parts = []
    for name in BASELINES:
        if name in z:
            beside = own.notna().mul(z[name], axis=0).where(own.notna()).mean()
            smaller = (own.mean().abs() < beside.abs()).sum()
            rho = f"ρ = {np.tanh(z[name].mean()):+.2f}"
            more = f"where they were taken {smaller} of {own.shape[1]} measures have less, by size"
            parts.append(f"the {name} has {rho}; {more}")
    return f"Within runs {', and '.join(parts)}." if parts else "There are no baselines yet."


def rests_on(table: pd.DataFrame, judged: pd.DataFrame, view: str) -> str:
    """Say on which settings, tasks, runs and seeds the words over all settings rest.

    Parameters
    ----------
    table : DataFrame
        What `swrlib.claims.predictors.tasks` returned.
    judged : DataFrame
        What `judged` returned of it.
    view : str
        Of `swrlib.claims.predictors.VIEWS`.
    """
    rows = judged[(judged["view"] == view) & judged["measure"].isin(NAMES)]
    rows = rows[(rows["setting"] != "all") & rows["seeds"].ge(LEAST_SEEDS)]
    if not len(rows):
        return f"{view.capitalize()} rests on no setting yet."
    settings = rows.groupby("measure", sort=False)["setting"].agg(frozenset)
    groups = [(of, [n for n, its in settings.items() if its == of]) for of in {*settings}]
    groups.sort(key=lambda group: (-len(group[1]), NAMES.index(group[1][0])))
    most, *others = [(_basis(table, view, *group), group[1]) for group in groups]
    said = "".join(f"; {', '.join(names)} on {basis}" for basis, names in others)
    return f"{view.capitalize()} rests on {most[0]}{said}."


def _basis(table: pd.DataFrame, view: str, settings: Iterable[str], names: list[str]) -> str:
    rows = table[table["setting"].isin(settings) & table[names].notna().any(axis=1)]
    if view in (WITHIN, BEYOND):
        rows = rows[rows.groupby("run")["task"].transform("size") >= LEAST_TASKS]
    if view == ACROSS:  # a seed without one of the methods does not count
        parts = (part for _, part in rows.groupby("setting"))
        complete = [(part, predictors.method_means(part, names[0])[0].index) for part in parts]
        rows = pd.concat([part[part["seed"].isin(seeds)] for part, seeds in complete])
    counts = pd.Series(sorted(settings)).str.split(", ").str[0].value_counts(sort=False)
    which = " and ".join(f"{count} {stream}" for stream, count in counts.items())
    several = "s" if counts.sum() > 1 else ""
    runs, seeds = rows["run"].nunique(), rows["seed"].nunique()
    return f"{which} setting{several} ({len(rows):,} tasks of {runs} runs, {seeds} seeds)"


def in_words(judged: pd.DataFrame) -> pd.DataFrame:
    """Return the word and the correlation over all settings: a row a measure, a column a view."""
    rows = judged[(judged["setting"] == "all") & judged["seeds"].gt(0)]
    written = rows["word"] + " (" + rows["rho"].map("{:+.2f}".format) + ")"
    table = rows.assign(written=written).pivot(index="measure", columns="view", values="written")
    order = [name for name in (*NAMES, *BASELINES) if name in table.index]
    views = [view for view in VIEWS if view in table]
    return table.loc[order, views].rename_axis(index=None, columns=None)
