"""Every cell of the accuracy claims once more, from the records, by scipy and statsmodels alone.

Nothing of `swrlib.statistics`, `outcomes`, `second_rule` or `comparisons` is used to recompute;
what is shared is the data: the records' files and the paper's (`swr.toml`).
"""

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from swrlib import verdicts
from swrlib.papers import ACCURACY_KINDS
from swrlib.papers import SWR as paper

LENGTH = {"single-task": 200, "single-task-decay": 200, "warm-start": 200}
STAGES = {"full-access": 10, "limited-access": 10, "warm-start": 2}


@pytest.fixture(scope="module")
def records(at_paper_scale):
    return at_paper_scale


@pytest.fixture(scope="module")
def table(comparisons):
    return comparisons[comparisons["n"] >= 3]


def the_papers_runs(records):
    """Return the rows of runs with the paper's settings, λ and length."""
    rows = records[records["stream"] != "scaled"]
    rows = rows[rows["variant"].isna() | (rows["variant"] == "proportional")]
    rows = rows[rows["optimizer_state"].isna() | (rows["optimizer_state"] == "kept")]
    keep = []
    for run, part in rows.groupby("run"):
        first = part.iloc[0]
        length = LENGTH.get(first["stream"], 1000)
        lam = paper.published_lambda(
            first["method"], first["dataset"], first["model"], first["stream"]
        )
        own = (first["lam_features"], first["lam_classifier"])
        own = own if pd.isna(first["lam"]) else first["lam"]
        if part["epoch"].max() == length and (lam is None or lam == own):
            keep.append(run)
    rows = rows[rows["run"].isin(keep) & rows["method"].isin(paper.methods)]
    return rows.astype({"test_accuracy": float}).sort_values(["run", "epoch"])


def outcome(rows, kind):
    """Return a value a run: how it ends, or what changes of data cost."""
    values = {}
    for run, part in rows.groupby("run"):
        accuracy = part.set_index(["stage", "stage_epoch"])["test_accuracy"]
        if not kind.startswith("loses"):
            values[run] = np.mean(part["test_accuracy"].to_numpy()[-10:])
            continue
        costs = [
            accuracy[(stage, 1)] - np.mean([accuracy[(stage - 1, e)] for e in range(91, 101)])
            for stage in range(2, STAGES[part["stream"].iloc[0]] + 1)
        ]
        values[run] = np.mean(costs) * (-1 if kind == "loses more" else 1)
    about = rows.drop_duplicates("run").set_index("run")[["method", "seed"]]
    return about.assign(value=pd.Series(values))


def estimate(runs, methods, rival):
    """Return difference, error and degrees of the mean of methods minus a rival."""
    wide = runs.pivot(index="seed", columns="method", values="value")
    centred = wide.sub(wide.mean(axis=1), axis=0)
    alike = stats.bartlett(*(centred[m].dropna() for m in centred)).pvalue > 0.10
    if rival is None:
        (method,) = methods
        mine = wide[method].dropna()
        pooled = wide.var().mean()
        if alike and pooled > mine.var():
            return (
                mine.mean(),
                np.sqrt(pooled / len(mine)),
                wide.notna().sum().sum() - wide.shape[1],
            )
        return mine.mean(), DescrStatsW(mine).std_mean, len(mine) - 1
    sides = {**dict.fromkeys(methods, 1 / len(methods)), rival: -1.0}
    parts = {m: w**2 * wide[m].var() / wide[m].count() for m, w in sides.items()}
    own = np.sqrt(sum(parts.values()))
    degrees = wide[max(parts, key=parts.get)].count() - 1
    gap = sum(w * wide[m].mean() for m, w in sides.items())
    if alike:
        fit = smf.ols("value ~ 0 + C(method) + C(seed)", runs).fit()
        names = [f"C(method)[{m}]" for m in sides]
        vector = np.array(
            [dict(zip(names, sides.values(), strict=True)).get(p, 0.0) for p in fit.params.index]
        )
        test = fit.t_test(vector)
        if float(np.squeeze(test.sd)) > own:
            return float(np.squeeze(test.effect)), float(np.squeeze(test.sd)), fit.df_resid
    return gap, own, degrees


@pytest.fixture(scope="module")
def again(records):
    """Return difference, error, degrees by claim, cell, methods and rival."""
    rows = the_papers_runs(records)
    found = {}
    for claim in paper.claims:
        if claim.kind not in ACCURACY_KINDS:
            continue
        for cell in claim.cells:
            here = rows[(rows[["dataset", "model", "stream"]] == [*cell]).all(axis=1)]
            if not len(here):
                continue
            runs = outcome(here, claim.kind)
            counts = runs["method"].value_counts()
            rivals = [None] if claim.kind == "loses nothing" else claim.rivals
            for rival in rivals:
                if cell[2] == "single-task" and rival in ("shrink-perturb", "head-reset"):
                    continue  # they do nothing where no data change
                there = [m for m in claim.methods if counts.get(m, 0) >= 3]
                if rival is not None and counts.get(rival, 0) < 3:
                    continue
                for method in there:
                    found[claim.id, cell, method, rival] = estimate(runs, [method], rival)
                if claim.quantifier.startswith("generally") and len(there) > 1:
                    found[claim.id, cell, " and ".join(map(paper.label, there)), rival] = estimate(
                        runs, there, rival
                    )
    return found


def test_every_difference_and_interval_agrees(table, again):
    single = table[~table["pooled"]]
    assert len(single) == len(again) >= 60
    for row in single.itertuples():
        rival = None if row.rival == "no loss" else row.rival
        gap, error, degrees = again[
            row.claim, (row.dataset, row.model, row.stream), row.method, rival
        ]
        assert row.estimate == pytest.approx(gap, abs=1e-9), row.claim
        low, high = stats.t.interval(0.95, degrees, gap, error)
        assert (row.low, row.high) == pytest.approx((low, high), abs=1e-9), row.claim
        low, high = stats.t.interval(0.90, degrees, gap, error)
        assert (row.low90, row.high90) == pytest.approx((low, high), abs=1e-9), row.claim


def printed(cell, sides):
    """Return the printed contrast and the half-width of its 95% interval, or None."""
    found = {m: paper.printed_accuracy(m, *cell) for m in sides}
    if not all(found.values()):
        return None
    parts = {m: (w * found[m].std) ** 2 / found[m].seeds for m, w in sides.items()}
    total = sum(parts.values())
    degrees = found[max(parts, key=parts.get)].seeds - 1
    gap = sum(w * found[m].mean for m, w in sides.items())
    return gap, stats.t.ppf(0.975, degrees) * np.sqrt(total)


def words_of(claim, gap, error, degrees, margins, theirs):
    """Return the words of one claim's comparisons, from p values alone.

    ``theirs`` holds the printed difference and the half-width of its interval, or None.
    """
    t = stats.t
    gap, error, degrees, margins = map(np.asarray, (gap, error, degrees, margins))

    def greater(bound):
        return t.sf((gap - bound) / error, degrees)

    def less(bound):
        return t.cdf((gap - bound) / error, degrees)

    def corrected(p):
        return multipletests(p, method="holm")[1]

    least, most = greater(-margins), less(margins)
    words = np.full(len(gap), "undecided", dtype=object)
    if claim.kind in ("comparable", "loses nothing"):
        words[corrected(less(-margins)) <= 0.025] = "not reproduced"
        words[least <= 0.05] = "reproduced"
    elif claim.kind == "little":
        words[corrected(greater(margins)) <= 0.025] = "not reproduced"
        words[most <= 0.05] = "reproduced"
    else:
        above = greater(0)
        few = claim.quantifier in ("often", "sometimes")
        words[corrected(less(0)) <= 0.025] = "reversed"
        words[(corrected(above) if few else above) <= 0.025] = "reproduced"
        for i, one in enumerate(theirs):
            half = t.ppf(0.975, degrees[i]) * error[i]
            below = one is not None and one[0] - gap[i] > np.hypot(half, one[1])
            if below and words[i] == "reproduced":
                words[i] = "reproduced but smaller than printed"
        words[corrected(np.maximum(least, most)) <= 0.05] = "no effect of a size that matters"
        if claim.kind == "loses more":
            words[words != "reproduced"] = "undecided"
    return words.tolist()


#: The sizes that matter, as a reader of the page takes them from the figures' axes.
SIZES = {("mnist", "mlp"): 0.0014, ("cifar10", "cnn"): 0.010, ("cifar100", "cnn"): 0.010}
SIZES |= {("cifar100", "cnn-bn"): 0.012, ("cifar10", "mlp"): 0.008}
#: The same of what a change of data costs: Figs. 3, 7 and 8.
COSTS = {("mnist", "mlp"): 0.009, ("cifar10", "cnn"): 0.03, ("cifar100", "cnn"): 0.04}


def margin_of(claim, cell):
    return (COSTS if claim.kind.startswith("loses") else SIZES)[cell[:2]]


def claimed(claim, keys):
    """Return what each comparison is to be as large as."""
    if claim.size is not None:
        return [(claim.size, 0.0)] * len(keys)
    return [printed(cell, {m: 1.0, rival: -1.0}) for _, cell, m, rival in keys]


def expected_words(claim, keys, again):
    gap, error, degrees = np.array([again[key] for key in keys]).T
    margins = [margin_of(claim, cell) for _, cell, _, _ in keys]
    return words_of(claim, gap, error, degrees, margins, claimed(claim, keys))


ORDER = ["reversed", "not reproduced", "no effect of a size that matters", "undecided"]
ORDER += ["reproduced but smaller than printed", "reproduced"]


def units(claim, keys, words):
    """Return a word a method and cell; None where a rival that was not run could decide it."""
    rivals = {
        cell: [None] if claim.kind == "loses nothing" else claim.rivals for cell in claim.cells
    }
    found = []
    for cell in claim.cells:
        needed = [
            r
            for r in rivals[cell]
            if cell[2] != "single-task" or r not in ("shrink-perturb", "head-reset")
        ]
        for method in claim.methods:
            said = [
                w for (_, c, m, _), w in zip(keys, words, strict=True) if (c, m) == (cell, method)
            ]
            worst = min(said, key=ORDER.index, default=None)
            whole = len(said) == len(needed) or worst in ORDER[:3]
            found.append(worst if whole else None)
    return found


def claim_word(cases, number, quantifier):
    """Judge a claim by the words of its cases, of which None were not run."""
    share = {"all": lambda n: n, "most": lambda n: n // 2 + 1, "sometimes": lambda n: 1}
    share |= {"often": lambda n: -(-n // 3), "generally": lambda n: n}
    enough = share[quantifier.removeprefix("generally in ")]
    run = [word for word in cases if word]
    if not run:
        return "not run"
    good = [word for word in run if word in ORDER[4:]]
    bad = [word for word in run if word in ORDER[:3]]
    if run.count("reproduced") >= enough(len(run)):
        return "reproduced"
    if len(good) >= enough(len(run)):
        return ORDER[4]
    if number - len(bad) >= enough(number):
        return "undecided"
    if good:
        return "mixed"
    return run[0] if len(set(run)) == 1 else "not reproduced"


def pooled_word(claim, again):
    """Judge a claim that speaks of what is so generally."""
    alone = {key: e for key, e in again.items() if key[0] == claim.id and " and " not in key[2]}
    if claim.quantifier == "generally in most":
        cells = list(dict.fromkeys(cell for _, cell, _, _ in alone))
        (rival,) = claim.rivals
        both = " and ".join(map(paper.label, claim.methods))
        estimates = np.array([again[claim.id, cell, both, rival] for cell in cells])
        weights = dict.fromkeys(claim.methods, 1 / len(claim.methods)) | {rival: -1.0}
        theirs = [printed(cell, weights) for cell in cells]
        margins = [margin_of(claim, cell) for cell in cells]
        words = words_of(claim, *estimates.T, margins, theirs)
        return claim_word(words, len(claim.cells), claim.quantifier)
    k = len(alone)
    scaled = [(g, e, d, k * margin_of(claim, key[1])) for key, (g, e, d) in alone.items()]
    gap = sum(g / m for g, _, _, m in scaled)
    error = np.sqrt(sum((e / m) ** 2 for _, e, _, m in scaled))
    degrees = max((e / m, d) for _, e, d, m in scaled)[1]
    theirs = [printed(cell, {m: 1.0, rival: -1.0}) for _, cell, m, rival in alone]
    if any(one is None for one in theirs):
        half = None
    else:
        assert k == 1, "the half-width of several is not theirs over k"
        half = (theirs[0][0] / scaled[0][3], theirs[0][1] / scaled[0][3])
    word = claim_word(words_of(claim, [gap], [error], [degrees], [1.0], [half]), 1, "all")
    lacking = k < len(claim.cells) * len(claim.methods)  # which could still make it hold
    return "undecided" if lacking and word in ORDER[:3] else word


def test_every_claims_word_agrees(records, again):
    """The words of whole claims, with quantifiers, pooled ones and what was not run."""
    seen = {}
    for claim in paper.claims:
        if claim.kind not in ACCURACY_KINDS:
            continue
        keys = [key for key in again if key[0] == claim.id and " and " not in key[2]]
        if not keys:
            word = "not run"
        elif claim.quantifier.startswith("generally"):
            word = pooled_word(claim, again)
        else:
            cases = units(claim, keys, expected_words(claim, keys, again))
            word = claim_word(cases, len(cases), claim.quantifier)
        if claim.remark and word != "not run":
            word = "remark"
        assert verdicts.judge_claim(claim, records).verdict == word, claim.id
        seen[claim.id] = word
    assert len(seen) >= 25
    assert {"reproduced", "mixed", "undecided", "not reproduced", "not run"} <= {*seen.values()}


def test_every_word_agrees(table, again):
    compared = 0
    for claim in paper.claims:
        rows = table[(table["claim"] == claim.id)]
        if claim.quantifier.startswith("generally"):
            pooled = rows["pooled"] | rows["method"].str.contains(" and ")
            rows = rows[~pooled]
        if len(rows):
            keys = [
                (c, (d, m, s), method, None if rival == "no loss" else rival)
                for c, d, m, s, method, rival in rows[
                    ["claim", "dataset", "model", "stream", "method", "rival"]
                ].itertuples(index=False)
            ]
            assert rows["word"].tolist() == expected_words(claim, keys, again), claim.id
            margins = [margin_of(claim, cell) for _, cell, _, _ in keys]
            assert rows["margin"].tolist() == pytest.approx(margins), claim.id
            compared += len(rows)
    assert compared >= 55


def test_every_pooled_word_agrees(table, again):
    rows = table[table["claim"] == "warm-start-penalties-small"]
    rows = rows[rows["method"].str.contains(" and ")]
    words, p_none = [], []
    for row in rows.itertuples():
        key = (row.claim, (row.dataset, row.model, row.stream), row.method, row.rival)
        gap, error, degrees = again[key]
        p_none.append(
            max(
                stats.t.sf((gap + row.margin) / error, degrees),
                stats.t.cdf((gap - row.margin) / error, degrees),
            )
        )
        words.append("reproduced" if stats.t.sf(gap / error, degrees) <= 0.025 else "undecided")
    for i, p in enumerate(multipletests(p_none, method="holm")[1]):
        words[i] = "no effect of a size that matters" if p <= 0.05 else words[i]
    assert rows["word"].tolist() == words and len(words) == 2

    (row,) = table[table["pooled"]].itertuples()
    single = table[(table["claim"] == row.claim) & ~table["pooled"]]
    gap = np.mean(single["estimate"] / single["margin"])
    assert row.estimate == pytest.approx(gap) and row.margin == 1


def test_every_number_of_the_tables_agrees(records):
    rows = the_papers_runs(records)
    compared = 0
    for number, stream in ((1, "single-task"), (5, "single-task-decay")):
        cells = verdicts.table_cells(records, number)
        for row in cells[(cells["n"] >= 3) & (cells["paper_n"] > 0)].itertuples():
            cell = (row.dataset, row.model, stream)
            here = rows[(rows[["dataset", "model", "stream"]] == [*cell]).all(axis=1)]
            gap, error, degrees = estimate(outcome(here, "ordering"), [row.method], None)
            b = row.paper_sd**2 / row.paper_n
            total = error**2 + b
            df = degrees if error**2 > b else row.paper_n - 1
            low, high = stats.t.interval(0.95, df, gap - row.paper_mean, np.sqrt(total))
            assert (row.low, row.high) == pytest.approx((low, high), abs=1e-9)
            narrow = stats.t.interval(0.90, df, gap - row.paper_mean, np.sqrt(total))
            word = "too noisy to say"
            if low > 0 or high < 0:
                word = "differs"
            if max(map(abs, narrow)) < row.margin:
                word = "equal within the margin"
            assert row.verdict == word, (number, row.method)
            s = row.paper_sd * np.sqrt(1 / row.paper_n + 1 / row.n)
            theirs = stats.t.interval(0.95, row.paper_n - 1, row.paper_mean, s)
            assert (row.predicted_low, row.predicted_high) == pytest.approx(theirs)
            compared += 1
    assert compared >= 15
