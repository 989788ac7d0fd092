"""The second rule: every word, its simulation, and what its page says of both."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from swrlib import verdicts
from swrlib.claims import simulation
from swrlib.statistics import NO_INTERVAL, Estimate, Interval, combined, contrast, mean_of
from swrlib.verdicts import second_rule

YES, SMALLER, NONE = second_rule.REPRODUCED, second_rule.SMALLER, second_rule.NO_EFFECT
BACK, NO, OPEN = second_rule.REVERSED, second_rule.NOT_REPRODUCED, second_rule.UNDECIDED
MIXED = second_rule.MIXED
NARROW = 1 / stats.t.ppf(0.975, 20)  # an error whose half-width at 95% is 1
WIDE = stats.t.ppf(0.95, 20) * NARROW  # the half-width at 90%


def one(difference, *, margin=1.0, kind="above", printed=NO_INTERVAL, halves=1.0):
    """Return the word on one difference with 20 degrees of freedom."""
    estimate = Estimate(np.array([difference]), np.array([halves * NARROW]), 20)
    return second_rule.words(estimate, margin, printed, kind)[0]


@pytest.mark.parametrize(
    ("difference", "margin", "word"),
    [
        (1.01, 1.0, YES),
        (0.99, 1.0, OPEN),
        (-0.99, 1.0, OPEN),
        (-1.01, 1.0, BACK),
        (0.0, WIDE + 0.01, NONE),
        (0.0, WIDE - 0.01, OPEN),
        (0.5, WIDE + 0.51, NONE),
        (0.5, WIDE + 0.49, OPEN),
        (1.01, 3.0, NONE),  # certain, and of no size that matters
        (-1.01, 3.0, NONE),
    ],
)
def test_every_word_on_above(difference, margin, word):
    assert one(difference, margin=margin) == word


@pytest.mark.parametrize(
    ("gap", "word"), [(0.0, YES), (np.hypot(1, 2) - 0.01, YES), (np.hypot(1, 2) + 0.01, SMALLER)]
)
def test_smaller_than_printed(gap, word):
    printed = Interval(4.0 + gap, 2.0 + gap, 6.0 + gap)
    assert one(4.0, printed=printed) == word
    assert one(-4.0, printed=printed) == BACK


@pytest.mark.parametrize(
    ("kind", "difference", "word"),
    [
        ("not below", WIDE - 0.99, YES),
        ("not below", WIDE - 1.01, OPEN),
        ("not below", -1.99, OPEN),
        ("not below", -2.01, NO),
        ("little", 0.99 - WIDE, YES),
        ("little", 1.01 - WIDE, OPEN),
        ("little", 1.99, OPEN),
        ("little", 2.01, NO),
        ("little", -5.0, YES),
        ("same", 2.01, NO),
        ("same", -2.01, NO),
        ("same", 0.0, YES),
        ("same", 0.5, OPEN),
    ],
)
def test_every_word_on_bounds(kind, difference, word):
    assert one(difference, kind=kind) == word


def test_the_same_is_within_the_margin():
    assert one(0.0, kind="same", margin=WIDE + 0.01) == YES
    assert one(0.2, kind="same", margin=WIDE + 0.19) == OPEN


def test_what_speaks_against_a_claim_is_corrected_and_what_speaks_for_it_only_for_sometimes():
    for k, sign in itertools.product((1, 5), (1, -1)):
        limit = stats.t.ppf(1 - 0.025 / k, 20) / stats.t.ppf(0.975, 20)
        for factor in (0.99, 1.01):
            differences = np.array([sign * factor * limit, *[0.0] * (k - 1)])
            estimate = Estimate(differences, np.full(k, NARROW), 20)
            found = {
                q: second_rule.words(estimate, 1.0, NO_INTERVAL, "above", q)[0]
                for q in ("all", "most", "generally", "often", "sometimes")
            }
            corrected = (YES if sign > 0 else BACK) if factor > 1 else OPEN
            plain = YES if sign > 0 and (k > 1 or factor > 1) else corrected
            assert found == {
                "all": plain,
                "most": plain,
                "generally": plain,
                "often": corrected,
                "sometimes": corrected,
            }
    # Equivalence speaks against an ordering.
    for k in (1, 4):
        reach = stats.t.ppf(1 - 0.05 / k, 20) * NARROW
        for factor, word in ((1.01, NONE), (0.99, OPEN)):
            estimate = Estimate(np.array([0.0, *[0.9] * (k - 1)]), np.full(k, NARROW), 20)
            assert second_rule.words(estimate, factor * reach, NO_INTERVAL, "above")[0] == word


@pytest.mark.parametrize(
    ("difference", "word"),
    [
        (0.0, second_rule.TOO_NOISY),
        (0.99, second_rule.TOO_NOISY),
        (1.01, second_rule.DIFFERS),
        (-1.01, second_rule.DIFFERS),
    ],
)
def test_every_word_on_a_number(difference, word):
    assert second_rule.number_word(Estimate(difference, NARROW, 20), 0.5) == word
    wide = abs(difference) + WIDE + 0.01
    same = second_rule.number_word(Estimate(difference, NARROW, 20), wide)
    assert same == second_rule.EQUAL


@pytest.mark.parametrize(
    ("quantifier", "found", "number", "word"),
    [
        ("all", [YES, YES], None, YES),
        ("all", [YES, SMALLER], None, SMALLER),
        ("all", [YES, OPEN], None, OPEN),
        ("all", [YES, NONE], None, MIXED),
        ("all", [BACK, BACK], None, BACK),
        ("all", [NONE, NONE], 4, NONE),
        ("all", [BACK, NONE], None, NO),
        ("all", [BACK, OPEN], None, NO),
        ("all", [NO, NO], None, NO),
        ("most", [YES, YES, NONE], None, YES),
        ("most", [YES, SMALLER, NONE], None, SMALLER),
        ("most", [YES, YES, SMALLER, BACK, BACK], None, SMALLER),
        ("most", [YES, NONE], None, MIXED),
        ("most", [YES, NONE], 4, OPEN),  # two were not run and could hold
        ("most", [BACK, OPEN], 5, OPEN),
        ("most", [BACK, BACK, BACK], 5, BACK),
        ("most", [YES], 5, YES),
        ("often", [YES, *[NONE] * 2], None, YES),
        ("often", [YES, *[NONE] * 3], None, MIXED),
        ("sometimes", [YES, BACK, BACK], None, YES),
        ("sometimes", [BACK, BACK], 3, OPEN),
        ("sometimes", [BACK, BACK], 2, BACK),
        ("generally", [SMALLER], 1, SMALLER),
        ("generally in most", [YES, NONE], 4, OPEN),
        ("generally in most", [YES, YES, NONE], 4, YES),
    ],
)
def test_every_word_on_a_claim(quantifier, found, number, word):
    assert second_rule.verdict(found, quantifier, number) == word


def test_against_several_rivals_the_first_word_of_the_list_counts():
    order = [BACK, NO, NONE, OPEN, SMALLER, YES]
    for first, second in itertools.combinations(range(6), 2):
        assert second_rule.worst([order[second], order[first], order[second]]) == order[first]


@pytest.mark.parametrize("comparisons", [1, 4])
@pytest.mark.parametrize("difference", [0.0, 0.4, -0.7, 1.5])
def test_the_seeds_that_would_decide_do_and_one_fewer_would_not(difference, comparisons):
    found = second_rule.seeds_to_decide(
        Estimate(difference, 1.0, 8), 1.0, "above", 3, 5, comparisons
    )

    def word(n):
        error = np.sqrt(3 / n)
        tiled = Estimate(np.full(comparisons, difference), np.full(comparisons, error), 4 * (n - 1))
        return second_rule.words(tiled, 1.0, NO_INTERVAL, "above")[0]

    assert found is not None and word(found) != OPEN == word(found - 1)
    border = second_rule.seeds_to_decide(Estimate(1.0, 1.0, 8), 1.0, "little", 3, 5)
    assert border is None  # at the margin itself no number of seeds is enough


def test_a_difference_that_is_not_seen_says_nothing():
    for difference, margin in ((-5.0, 1.0), (0.0, 100.0), (1.01, 100.0), (0.99, 0.1)):
        assert one(difference, kind="seen", margin=margin) == OPEN
    assert one(1.01, kind="seen", margin=0.1) == YES
    seeds = [
        second_rule.seeds_to_decide(Estimate(difference, 1.0, 8), margin, "seen", 3, 5)
        for difference, margin in ((0.4, 0.1), (-0.4, 0.1), (0.4, 2.0))
    ]
    # Against the claim, or within the margin, nothing would be seen with any number of seeds.
    assert seeds[0] is not None and seeds[1:] == [None, None]


# -------------------------------------------------------------------------------- simulation


@pytest.fixture(scope="module")
def simulated():
    return simulation.simulated()


def test_no_word_is_wrong_in_more_than_5_percent_of_draws(simulated):
    truths = simulated["truth"].map(simulation.TRUTHS)
    designs = {d: d for d in simulation.DESIGNS}
    rows = iter(range(len(simulated)))
    for design in designs:
        for share in simulation.TRUTHS.values():
            row = simulated.iloc[next(rows)]
            bad = simulation.wrong(design, share * design.printed)
            assert all(row[word] <= 0.05 for word in bad), row
    assert simulated["wrong"].max() <= 0.05  # all together, too, with one noisy method as well
    assert (simulated.loc[truths == 1, "reproduced"] > 0).sum() >= 10
    numbers = simulation.simulated_numbers()
    assert numbers["wrong"].max() <= 0.05


def test_the_page_shows_the_simulation(simulated, root):
    page = (root / "book/verdicts.md").read_text()
    shown = page.partition("<!-- simulation, begin -->")[2].partition("<!-- simulation, end -->")[0]
    again = (
        simulation.as_text(simulated) + "\n\n" + simulation.as_text(simulation.simulated_numbers())
    )
    assert shown.strip() == again, "python -m swrlib.claims.simulation"


def test_numbers_are_drawn_as_records_are_judged():
    for louder in (1.0, 4.0):
        random = np.random.default_rng(5)
        ours, theirs = (
            0.5 * random.standard_normal((40, 4, 3)),
            0.5 * random.standard_normal((40, 5)),
        )
        ours[:, 0] *= louder
        expected = []
        for mine, printed in zip(ours, theirs, strict=True):
            block = pd.DataFrame(mine.T, columns=list("abcd"))
            part = Estimate(printed.mean(), printed.std(ddof=1) / 5**0.5, 4)
            shifted = mean_of(block.assign(a=block["a"] + 1.0), "a")
            expected.append(second_rule.number_word(combined([shifted, part], (1, -1)), 1.0))
        found = simulation.number_words(1.0, seeds=3, noise=0.5, louder=louder, seed=5, draws=40)
        assert found.tolist() == expected


@pytest.mark.parametrize("design", simulation.DESIGNS[:4])
def test_what_is_drawn_is_judged_as_records_are(design):
    """The simulation's closed form is the library's fit, draw by draw."""
    draws = 12
    found = simulation.drawn_estimates(design, 1.0, np.random.default_rng(5), draws)
    random = np.random.default_rng(5)
    values = design.noise * random.standard_normal((draws, 1, design.methods, design.seeds))
    values[:, :, 0] = design.louder * values[:, :, 0] + 1.0
    for draw in range(draws):
        table = pd.DataFrame(values[draw, 0].T, columns=[f"m{i}" for i in range(design.methods)])
        estimate, _ = contrast(table, {"m0": 1.0, "m1": -1.0})
        drawn = [np.asarray(part)[draw, 0, 0] for part in found]
        assert drawn == pytest.approx(list(estimate))


# ------------------------------------------------------------------------ the worked example


def test_the_example_on_the_page_is_right(root):
    page = (root / "book/verdicts.md").read_text()
    part = page.partition("### An example")[2].partition("### ")[0]
    lines = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("|")]
    values = pd.DataFrame(
        [list(map(float, line[1:4])) for line in lines[2:6]], columns=lines[0][1:4]
    )
    assert [f"{x:.2f}" for x in values.mean()] == lines[6][1:4]
    assert [f"{x:.2f}" for x in values.mean(axis=1)] == [line[4] for line in lines[2:6]]
    printed = {"SWR": (71.58, 0.63), "L2": (71.19, 0.37), "vanilla": (65.00, 0.83)}
    for name, (mean, sd) in printed.items():
        assert f"{mean:.2f} ± {sd} for {name}" in part
    found = {}
    for rival in ("L2", "vanilla"):
        estimate, way = contrast(values, {"SWR": 1.0, rival: -1.0})
        parts = [Estimate(m, sd / 5**0.5, 4) for m, sd in (printed["SWR"], printed[rival])]
        theirs = combined(parts, (1, -1)).interval()
        one = Estimate(*(np.array([x]) for x in estimate))
        found[rival] = str(second_rule.words(one, 1.0, theirs, "above")[0])
        assert way == "pooled" and f"{estimate.error:.3f}" == "0.242"
        if rival == "L2":
            assert f"[{estimate.interval(0.9).low:.2f}, {estimate.interval(0.9).high:.2f}]" in part
            assert f"[{estimate.interval().low:.2f}, {estimate.interval().high:.2f}]" in part
        else:
            half = theirs.high - theirs.difference
            assert f"half-width {half:.2f}" in part and f"= {np.hypot(0.59, half):.2f}" in part
    assert found == {"L2": YES, "vanilla": SMALLER}
    assert second_rule.worst([*found.values()]) == SMALLER
    rest = values.sub(values.mean(axis=1), axis=0)
    v, m, n = rest.var(), 3, 4
    chi2 = (n - 1) * (m * np.log(v.mean()) - np.log(v).sum()) / (1 + (m + 1) / (3 * m * (n - 1)))
    assert chi2 == pytest.approx(stats.bartlett(*(rest[name] for name in rest)).statistic)
    assert f"= {chi2:.2f}$ with two degrees of freedom, $p = {stats.chi2.sf(chi2, 2):.2f}$" in part
    assert f"{v['SWR']:.3f}, {v['L2']:.3f} and {v['vanilla']:.3f}, with mean {v.mean():.3f}" in part
    assert f"{values['SWR'].var():.3f}, {values['L2'].var():.3f} and" in part


def test_the_page_says_the_margins_and_every_word(root):
    from swrlib.papers import SWR as paper

    page = (root / "book/verdicts.md").read_text()
    line = page.partition("| MNIST MLP | CIFAR-10 CNN |")[2].splitlines()[2]
    shown = [float(cell.split()[0]) for cell in line.strip("| ").split(" | ")]
    order = [*paper.pairs, ("cifar10", "mlp")]
    assert shown == pytest.approx([100 * paper.sizes[pair] for pair in order])
    words = (YES, SMALLER, NONE, BACK, NO, OPEN, MIXED, second_rule.EQUAL, second_rule.DIFFERS)
    for word in (*words, second_rule.TOO_NOISY, verdicts.second_rule.REMARK):
        assert f">{word}</span>" in page, word
