"""Statistics against SciPy; the rules on made-up records of every outcome."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from swrlib import verdicts
from swrlib.methods import METHODS
from swrlib.papers import ACCURACY_KINDS, Accuracy, Claim
from swrlib.papers import SWR as paper
from swrlib.records import COLUMNS, load_records
from swrlib.verdicts import (
    cell_verdict,
    comparable_verdict,
    final_accuracy,
    judge_claim,
    ordering_verdict,
    paired_interval,
    quarter_range,
    same_verdict,
    table_cells,
    welch_interval,
)

MNIST = ("mnist", "mlp", "single-task")
# Five seeds with mean 0 and sample standard deviation 1.
SHAPE = np.array([-1.0, 0.5, 0.0, -0.75, 1.25])
SHAPE = SHAPE / SHAPE.std(ddof=1)


def made_up(finals, *, scale="paper", **values):
    """Make records: {(dataset, model, stream, method): final accuracy per seed}."""
    rows = []
    for (dataset, model, stream, method), accuracies in finals.items():
        lam = paper.published_lambda(method, dataset, model, stream)
        features, classifier = lam if isinstance(lam, tuple) else (lam, lam)
        last = sum(paper.epochs[stream])
        for seed, accuracy in enumerate(accuracies):
            for epoch, value in ((last - 1, 0.01), (last, accuracy)):
                who = (dataset, model, stream, method, seed, scale, *sorted(values.items()))
                row = dict.fromkeys(COLUMNS)
                row |= {
                    "run": str(who),
                    "dataset": dataset,
                    "model": model,
                    "stream": stream,
                    "method": method,
                    "seed": seed,
                    "lam": None if isinstance(lam, tuple) else lam,
                    "lam_features": features,
                    "lam_classifier": classifier,
                    "split": "all",
                    "scale": scale,
                    "epoch": epoch,
                    "test_accuracy": value,
                    "diverged": False,
                }
                rows.append(row | values)
    return pd.DataFrame(rows, columns=[*COLUMNS, *(v for v in values if v not in COLUMNS)])


def with_changes(records, drop):
    """Add two changes of data: each run's accuracy moves by drop(method, seed) at once."""
    rows = []
    for last in records[
        records["epoch"] == records.groupby("run")["epoch"].transform("max")
    ].to_dict("records"):
        moved = drop(last["method"], last["seed"])
        for stage, factor in ((2, 0.5), (3, 1.5)):
            epoch = 10 * (stage - 1)
            before = {"stage": stage - 1, "stage_epoch": 10, "epoch": epoch}
            after = {"stage": stage, "stage_epoch": 1, "epoch": epoch + 1}
            rows.append(last | before | {"test_accuracy": 0.5})
            rows.append(last | after | {"test_accuracy": 0.5 + factor * moved})
    return pd.concat([records, pd.DataFrame(rows)], ignore_index=True)


def seeds(mean, sd=0.0005, n=5):
    return mean + sd * SHAPE[:n]


def made_up_column(sd=0.0003, n=5, **means):
    return made_up(
        {(*MNIST, name.replace("_", "-")): seeds(mean, sd, n) for name, mean in means.items()}
    )


# ------------------------------------------------------------------------------------ intervals

moments = st.tuples(st.floats(0, 1), st.floats(1e-5, 0.1), st.integers(2, 20))


@given(moments, moments)
def test_welch_equals_scipy(a, b):
    def sample(mean, sd, n):
        values = np.linspace(-1, 1, n)
        return mean + sd * values / values.std(ddof=1)

    expected = stats.ttest_ind(sample(*a), sample(*b), equal_var=False).confidence_interval(0.95)
    interval = welch_interval(*a, *b)
    assert interval.low == pytest.approx(expected.low, abs=1e-10)
    assert interval.high == pytest.approx(expected.high, abs=1e-10)
    assert interval.difference == pytest.approx(a[0] - b[0])


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=10))
def test_paired_equals_scipy(pairs):
    a, b = np.array(pairs).T
    assume((a - b).std() > 1e-6)
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    interval = paired_interval(a, b)
    assert interval.low == pytest.approx(expected.low, abs=1e-10)
    assert interval.high == pytest.approx(expected.high, abs=1e-10)


def test_intervals_take_arrays_and_no_variance():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 7, 5))
    many = paired_interval(a, b)
    one = paired_interval(a[3], b[3])
    assert (many.low[3], many.high[3]) == pytest.approx((one.low, one.high))
    assert welch_interval(0.5, 0.0, 5, 0.25, 0.0, 3) == (0.25, 0.25, 0.25)
    assert paired_interval(np.full(3, 0.5), np.full(3, 0.25)) == (0.25, 0.25, 0.25)


def test_the_printed_numbers_give_the_known_t_values():
    # What the paper's own Table 1 can carry: SWR − L2 is significant for VGG-16 alone.
    expected = dict(zip(paper.pairs, (2.0, 1.2, 0.75, -1.8, 6.8), strict=True))
    for pair, column in paper.tables[1].accuracy.items():
        a, b = column["swr"], column["l2"]
        t = stats.ttest_ind_from_stats(
            a.mean, a.std, a.seeds, b.mean, b.std, b.seeds, equal_var=False
        ).statistic
        assert t == pytest.approx(expected[pair], abs=0.05)
        low = welch_interval(a.mean, a.std, a.seeds, b.mean, b.std, b.seeds).low
        assert (low > 0) == (pair == ("tinyimagenet", "vgg16"))


# ---------------------------------------------------------------------------------------- cells

Q = 0.004


@pytest.mark.parametrize(
    ("difference", "sd", "n", "printed_sd", "verdict"),
    [
        (0.001, 0.001, 5, 0.001, "agrees"),
        (-0.001, 0.001, 5, 0.001, "agrees"),
        (0.001, 0.001, 5, 0.009, "compatible"),
        (0.001, 0.009, 5, 0.001, "undecided"),
        (0.001, 0.009, 5, 0.009, "undecided"),
        (0.020, 0.001, 5, 0.001, "higher"),
        (0.003, 0.001, 5, 0.001, "slightly higher"),
        (-0.020, 0.001, 5, 0.001, "lower"),
        (-0.003, 0.001, 5, 0.001, "slightly lower"),
        (0.001, 0.001, 3, 0.001, "agrees"),
        (0.001, 0.001, 2, 0.001, "too few seeds"),
        (0.001, np.nan, 1, 0.001, "too few seeds"),
        (np.nan, np.nan, 0, 0.001, "not run"),
    ],
)
def test_every_verdict_on_a_cell(difference, sd, n, printed_sd, verdict):
    printed = Accuracy(0.9, printed_sd, 5)
    assert cell_verdict(0.9 + difference, sd, n, printed, Q) == verdict


@given(
    st.floats(0.2, 0.8),
    st.floats(1e-6, 0.1),
    st.integers(3, 10),
    st.floats(0.2, 0.8),
    st.floats(0.2, 0.8),
    st.floats(1e-6, 0.1),
    st.floats(1e-6, 0.1),
    st.floats(1e-4, 0.2),
)
def test_no_number_agrees_with_two_printed_ones_more_than_2q_apart(
    mean, sd, n, first, second, first_sd, second_sd, q
):
    assume(abs(first - second) > 2 * q)
    found = [
        cell_verdict(mean, sd, n, Accuracy(m, s, 5), q)
        for m, s in ((first, first_sd), (second, second_sd))
    ]
    assert found != ["agrees", "agrees"]


def test_quarter_range():
    assert quarter_range(*MNIST) == pytest.approx((0.9822 - 0.9789) / 4)
    assert quarter_range("mnist", "mlp", "warm-start") == quarter_range(*MNIST)
    assert quarter_range("cifar10", "cnn", "single-task-decay") == pytest.approx(
        (0.7304 - 0.6571) / 4
    )
    assert quarter_range("mnist-5k", "mlp", "single-task") is None


# --------------------------------------------------------------------------------------- tables


def papers_own(number, sd=None):
    table = paper.tables[number]
    return {
        (*pair, table.stream, method): seeds(a.mean, a.std if sd is None else sd, a.seeds)
        for pair, column in table.accuracy.items()
        for method, a in column.items()
    }


@pytest.mark.parametrize("number", [1, 5])
def test_the_papers_own_numbers_agree_with_it(number):
    cells = table_cells(made_up(papers_own(number, sd=1e-5)), number)
    assert len(cells) == (20 if number == 1 else 25)
    assert set(cells["verdict"]) <= {"agrees", "compatible"}
    assert (cells["verdict"] == "agrees").sum() > 8
    assert cells["paper_mean"].tolist() == pytest.approx(cells["ours_mean"].tolist(), abs=2e-5)
    assert set(cells.columns) >= {"dataset", "model", "method", "ours_sd", "n", "paper_sd"}


@pytest.mark.parametrize("number", [1, 5])
@pytest.mark.parametrize("sd", [1e-5, None])
def test_swapped_labels_never_agree(number, sd):
    """Two methods more than 2q apart in print, exchanged in the records."""
    table = paper.tables[number]
    swaps = [
        [
            (pair, a, b)
            for a, b in itertools.combinations(column, 2)
            if abs(column[a].mean - column[b].mean) > 2 * quarter_range(*pair, table.stream)
        ]
        for pair, column in table.accuracy.items()
    ]
    assert sum(map(len, swaps)) >= 15
    for together in itertools.zip_longest(*swaps):  # one swap in each column at a time
        finals = papers_own(number, sd)
        together = [swap for swap in together if swap]
        for pair, a, b in together:
            a, b = (*pair, table.stream, a), (*pair, table.stream, b)
            finals[a], finals[b] = finals[b], finals[a]
        cells = table_cells(made_up(finals), number).set_index(["dataset", "model", "method"])
        for pair, a, b in together:
            assert cells.loc[(*pair, a), "verdict"] != "agrees"
            assert cells.loc[(*pair, b), "verdict"] != "agrees"


def test_swapping_vanilla_and_swr_changes_verdicts():
    finals = papers_own(1, sd=2e-4)
    other = {"vanilla": "swr", "swr": "vanilla"}
    swapped = made_up(
        {(*key[:3], other.get(key[3], key[3])): value for key, value in finals.items()}
    )
    before, after = (table_cells(r, 1).set_index("method") for r in (made_up(finals), swapped))
    for method in ("vanilla", "swr"):
        assert before.loc[method, "verdict"].isin(["agrees", "compatible"]).all()
        assert after.loc[method, "verdict"].isin(["agrees", "compatible"]).sum() == 0
    claim = paper.find_claim("generalization-best")
    assert judge_claim(claim, made_up(finals)).verdict == "reproduced"
    assert judge_claim(claim, swapped).verdict == "reversed"
    # The column alone renamed: what is now called SWR has no λ and is not taken for the paper's.
    records = made_up(finals)
    renamed = records.assign(method=records["method"].replace(other))
    assert set(table_cells(renamed, 1).set_index("method").loc["swr", "verdict"]) == {"not run"}


def test_two_noisy_seeds_decide_nothing():
    records = made_up({key: values[:2] for key, values in papers_own(1, sd=0.02).items()})
    assert set(table_cells(records, 1)["verdict"]) == {"too few seeds"}
    claim = paper.find_claim("generalization-best")
    assert judge_claim(claim, records).verdict == "too few seeds"
    one = table_cells(records[records["seed"] == 0], 1)
    assert set(one["verdict"]) == {"too few seeds"} and one["low"].isna().all()


def test_an_empty_table():
    cells = table_cells(made_up({}), 1)
    assert len(cells) == 20 and set(cells["verdict"]) == {"not run"}
    assert judge_claim(paper.find_claim("generalization-best"), made_up({})).verdict == "not run"


def test_final_means_the_last_epoch_and_only_the_papers_runs_count():
    right = {(*MNIST, "swr"): seeds(0.98)}
    records = [
        made_up(right),
        made_up({(*MNIST, "swr"): seeds(0.5)}, split="selection"),
        made_up({(*MNIST, "swr"): seeds(0.5)}, scale="quick"),
        made_up({(*MNIST, "swr"): seeds(0.5)}, lam=1e-3),
        made_up({(*MNIST, "swr"): seeds(0.5)}, variant="printed"),
        made_up({(*MNIST, "swr"): seeds(0.5)}, optimizer_state="new"),
        made_up({(*MNIST, "swr"): seeds(0.5)}, target="zero"),
        made_up({(*MNIST, "swr"): seeds(0.5)}, epoch=20),
        made_up({(*MNIST, "adamw"): seeds(0.97)}, lam=0.1),
    ]
    cells = table_cells(pd.concat(records), 1).set_index(["dataset", "model", "method"])
    row = cells.loc[("mnist", "mlp", "swr")]
    assert (row["n"], row["ours_mean"]) == (5, pytest.approx(0.98))
    assert cells.loc[("mnist", "mlp", "adamw"), "verdict"] == "outside the paper"
    assert cells.loc[("mnist", "mlp", "adamw"), "ours_mean"] == pytest.approx(0.97)
    assert len(final_accuracy(pd.concat(records))) == 45
    assert 0.01 not in final_accuracy(pd.concat(records))["test_accuracy"].to_numpy()
    # Settings written out instead of left empty are the paper's all the same.
    explicit = {"variant": "proportional", "optimizer_state": "kept", "dtype": "float32"}
    assert table_cells(made_up(right, **explicit), 1)["n"].max() == 5


def test_a_pair_of_lambdas_must_be_the_papers():
    cell = ("cifar100", "cnn-bn", "single-task", "swr")
    assert table_cells(made_up({cell: seeds(0.41)}), 1)["n"].sum() == 5
    assert table_cells(made_up({cell: seeds(0.41)}, lam_classifier=1.0), 1)["n"].sum() == 0
    exchanged = made_up({cell: seeds(0.41)}, lam_features=0.1, lam_classifier=1e-4)
    assert table_cells(exchanged, 1)["n"].sum() == 0


def test_a_diverged_run_counts():
    records = made_up({(*MNIST, "swr"): seeds(0.1)}, epoch=3, diverged=True)
    assert table_cells(records, 1)["verdict"].tolist()[3] == "lower"


def test_two_runs_of_one_seed_are_named():
    cell = {(*MNIST, "adamw"): seeds(0.98)}
    records = pd.concat([made_up(cell, lam=0.1), made_up(cell, lam=0.01)])
    with pytest.raises(ValueError, match="several runs of 'adamw' with one seed in mnist mlp"):
        table_cells(records, 1)


def test_quick_records_get_numbers_and_no_verdict_on_the_paper():
    finals = {
        ("mnist-5k", "mlp", "single-task", method): seeds(mean)
        for method, mean in (("swr", 0.93), ("vanilla", 0.92), ("l2", 0.91), ("l2-init", 0.90))
    }
    records = made_up(finals, scale="quick", epoch=20)
    cells = table_cells(records, 1, scale="quick")
    assert cells["n"].tolist() == [5] * 4
    assert cells["method"].tolist() == ["vanilla", "l2", "l2-init", "swr"]  # the tables' order
    assert set(cells["verdict"]) == {verdicts.QUICK}
    assert cells["paper_mean"].isna().all()
    assert set(table_cells(records, 1)["verdict"]) == {"not run"}
    claim = paper.find_claim("generalization-best")
    here = (("mnist-5k", "mlp", "single-task"),)
    verdict = judge_claim(claim, records, cells=here, scale="quick")
    assert verdict.verdict == verdict.label == verdicts.QUICK
    assert [c.difference for c in verdict.comparisons] == pytest.approx([0.01, 0.02, 0.03])
    assert verdict.printed == "not printed"
    assert judge_claim(claim, records, cells=here).verdict == "not run"
    custom = table_cells(records.assign(scale="custom"), 1, scale="custom")
    assert set(custom["verdict"]) == {"custom scale: no verdict on the paper"}
    paper_scale = made_up(finals)  # all epochs, but data that the claim does not speak of
    assert judge_claim(claim, paper_scale, cells=here).verdict == "outside the paper"


# --------------------------------------------------------------------------------------- claims


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.001, 0.002, "reproduced"),
        (-0.002, -0.001, "reversed"),
        (-0.001, 0.001, "not reproduced"),
        (-0.001, 0.003, "undecided"),
        (0.0, 0.001, "not reproduced"),
        (np.nan, np.nan, "undecided"),
    ],
)
def test_ordering(low, high, verdict):
    assert ordering_verdict(low, high, 0.002) == verdict


@pytest.mark.parametrize(
    ("low", "high", "same", "comparable"),
    [
        (-0.001, 0.001, "reproduced", "reproduced"),
        (-0.003, 0.001, "undecided", "undecided"),
        (-0.001, 0.003, "undecided", "reproduced"),
        (0.003, 0.004, "not reproduced", "reproduced"),
        (-0.004, -0.003, "not reproduced", "not reproduced"),
        (np.nan, np.nan, "undecided", "undecided"),
    ],
)
def test_same_and_comparable(low, high, same, comparable):
    assert same_verdict(low, high, 0.002) == same
    assert comparable_verdict(low, high, 0.002) == comparable


def claim(kind, methods, rivals, cells=(MNIST,), margin=None):
    return Claim("made-up", kind, "nowhere", "It is so.", methods, rivals, cells, margin)


def test_an_ordering_is_judged_on_paired_differences():
    """Seeds shift both methods together: the pairs see what the single means cannot."""
    shift = 0.01 * SHAPE
    wobble = 0.0002 * SHAPE[[3, 0, 4, 1, 2]]
    records = made_up({(*MNIST, "swr"): 0.981 + shift + wobble, (*MNIST, "vanilla"): 0.980 + shift})
    verdict = judge_claim(claim("ordering", ("swr",), ("vanilla",)), records)
    assert (verdict.verdict, verdict.comparisons[0].n) == ("reproduced", 5)
    shuffled = records.copy()
    swr = shuffled["method"] == "swr"
    shuffled.loc[swr, "seed"] = (shuffled.loc[swr, "seed"] + 1) % 5
    assert judge_claim(claim("ordering", ("swr",), ("vanilla",)), shuffled).verdict == "undecided"


@pytest.mark.parametrize(
    ("difference", "spread", "verdict"),
    [
        (0.0033, 0.0003, "reproduced"),  # as printed: .9822 against .9789
        (-0.0033, 0.0003, "reversed"),
        (0.0001, 0.0003, "not reproduced"),
        (0.0010, 0.0030, "undecided"),
        (0.0006, 0.0013, "undecided"),  # ends above half the printed difference, below all of it
    ],
)
def test_every_verdict_on_an_ordering(difference, spread, verdict):
    records = made_up(
        {(*MNIST, "swr"): 0.98 + difference + spread * SHAPE, (*MNIST, "vanilla"): [0.98] * 5}
    )
    found = judge_claim(claim("ordering", ("swr",), ("vanilla",)), records)
    assert found.verdict == found.label == verdict
    assert found.printed == "reproduced"
    (comparison,) = found.comparisons
    assert comparison.printed.difference == pytest.approx(0.0033)
    low, high = stats.ttest_rel(
        *(records_of(records, m) for m in ("swr", "vanilla"))
    ).confidence_interval(0.95)
    assert (comparison.low, comparison.high) == pytest.approx((low, high))
    assert f"{100 * difference:+.2f} points" in found.detail


def records_of(records, method):
    finals = final_accuracy(records)
    return finals[finals["method"] == method]["test_accuracy"].to_numpy()


@pytest.mark.parametrize(("method", "rival"), [("vanilla", "swr"), ("swr", "shrink-perturb")])
@pytest.mark.parametrize(
    ("mean", "half", "verdict"), [(0.2, 0.6, "not reproduced"), (0.6, 0.7, "undecided")]
)
def test_the_margin_is_q_where_print_gives_no_difference_or_the_other_sign(
    method, rival, mean, half, verdict
):
    q = quarter_range(*MNIST)  # all in units of q: the interval ends below it, or above
    sd = half * np.sqrt(5) / stats.t.ppf(0.975, 4)
    values = {(*MNIST, method): 0.98 + q * (mean + sd * SHAPE), (*MNIST, rival): [0.98] * 5}
    records = made_up(values)
    found = judge_claim(claim("ordering", (method,), (rival,)), records)
    assert found.verdict == verdict
    assert found.comparisons[0].high == pytest.approx((mean + half) * q)
    stored = claim("ordering", (method,), (rival,), margin=2 * q)
    assert judge_claim(stored, records).verdict == "not reproduced"


def test_best_takes_the_worst_rivals_verdict():
    best = claim("best", ("swr",), ("vanilla", "l2", "l2-init"))
    good = {"swr": 0.984, "vanilla": 0.979, "l2_init": 0.980}
    for l2, verdict in ((0.980, "reproduced"), (0.9839, "not reproduced"), (0.986, "reversed")):
        found = judge_claim(best, wobbled(l2=l2, **good))
        assert found.verdict == verdict
        assert len(found.comparisons) == 3
        assert "SWR against L2," in found.detail or verdict == "reproduced"
    assert judge_claim(best, wobbled(**good)).verdict == "not run"  # a rival is missing
    known = wobbled(swr=0.97, vanilla=0.979)
    assert judge_claim(best, known).verdict == "reversed"  # which no missing rival can mend


def wobbled(**means):
    """Every method with another order of the seeds' deviations, so that differences vary."""
    return made_up(
        {
            (*MNIST, name.replace("_", "-")): mean + 0.0002 * np.roll(SHAPE, shift)
            for shift, (name, mean) in enumerate(means.items())
        }
    )


def test_same_and_comparable_claims():
    q = quarter_range(*MNIST)
    for kind, difference, verdict in [
        ("same", 0.0, "reproduced"),
        ("same", 5 * q, "not reproduced"),
        ("same", q, "undecided"),
        ("comparable", 5 * q, "reproduced"),
        ("comparable", -5 * q, "not reproduced"),
        ("comparable", -q, "undecided"),
    ]:
        records = wobbled(swr=0.98 + difference, l2=0.98)
        assert judge_claim(claim(kind, ("swr",), ("l2",)), records).verdict == verdict, kind


def test_over_several_cells():
    cells = (MNIST, ("cifar10", "cnn", "single-task"), ("cifar100", "cnn", "single-task"))
    ordering = claim("ordering", ("swr",), ("vanilla",), cells)

    def records(*signs):
        finals = {}
        for cell, sign in zip(cells, signs, strict=False):
            finals[(*cell, "swr")] = 0.5 + 0.1 * sign + 0.001 * SHAPE
            finals[(*cell, "vanilla")] = seeds(0.5, 0.0001)
        return made_up(finals)

    assert judge_claim(ordering, records(1, 1, 1)).label == "reproduced"
    mixed = judge_claim(ordering, records(1, -1, 1))
    assert mixed.verdict == mixed.label == "mixed"
    assert "reversed: SWR on CIFAR-10 CNN" in mixed.detail
    assert "reproduced: SWR on MNIST MLP, single task (+10.00 points [" in mixed.detail
    assert "against vanilla, n = 5) · SWR on CIFAR-100 CNN" in mixed.detail
    part = judge_claim(ordering, records(1))
    assert (part.verdict, part.label) == ("reproduced", "reproduced (1 of 3 comparisons)")
    assert judge_claim(ordering, records(1), cells=cells[:1]).label == "reproduced"
    assert pd.DataFrame(mixed.comparisons)["verdict"].tolist() == [
        "reproduced",
        "reversed",
        "reproduced",
    ]


def test_every_claim_of_the_paper_can_be_judged():
    streams = ("single-task", "single-task-decay", "warm-start", "full-access", "limited-access")
    methods = [method for method in METHODS if method != "adamw"]
    pairs = (*paper.pairs, ("cifar10", "mlp"))
    rng = np.random.default_rng(0)
    records = made_up(
        {
            (*pair, stream, method): 0.5 + 0.01 * rng.normal(size=5)
            for pair in pairs
            for stream in streams
            for method in methods
        }
    )
    records = with_changes(records, lambda method, seed: 0.01 * rng.normal())
    printed = {}
    for one in paper.claims:
        verdict = judge_claim(one, records)
        printed[one.id] = verdict.printed
        if one.kind in ACCURACY_KINDS:
            assert verdict.verdict not in ("not run", "too few seeds"), one.id
            assert verdict.label == verdict.verdict
            assert {c.n for c in verdict.comparisons} == {5}
        else:
            assert verdict.verdict == "judged in its chapter"
    # What the paper's own numbers can carry, by the same rule.
    assert printed["generalization-vgg"] == "reproduced"
    assert printed["generalization-exception"] == "undecided"
    assert printed["generalization-best"] == "mixed"
    assert printed["reinit-vgg"] == "reproduced"
    assert printed["warm-start-harms"] == "not printed"


# ----------------------------------------------------------------------------------- simulation


@pytest.mark.parametrize("n", [3, 5])
def test_a_true_printed_difference_is_hardly_ever_called_not_reproduced(n):
    """At most 1% of draws, whatever the noise between seeds."""
    draws, true = 40_000, 0.01
    normal = np.random.default_rng(1).normal(size=(draws, n))
    rates = []
    for ratio in (0.1, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0, 4.0):
        interval = paired_interval(true + ratio * true * normal, 0.0)
        found = np.array(
            [ordering_verdict(*bounds, true / 2) for bounds in zip(*interval[1:], strict=True)]
        )
        rates.append((found == "not reproduced").mean())
    assert max(rates) <= 0.01
    assert max(rates) > 0  # and the rule does say it: the simulation reaches the case


def test_no_difference_is_called_one_in_five_percent_of_draws():
    normal = np.random.default_rng(2).normal(size=(40_000, 5))
    interval = paired_interval(normal, 0.0)
    found = [ordering_verdict(*bounds, 0.5) for bounds in zip(*interval[1:], strict=True)]
    wrong = np.isin(found, ["reproduced", "reversed"]).mean()
    assert wrong == pytest.approx(0.05, abs=0.004)


def test_swapping_vanilla_and_swr_in_the_committed_records_changes_verdicts(root):
    records = load_records(root / "results", scale="paper", split="all")
    vanilla, swr = records["method"] == "vanilla", records["method"] == "swr"
    swapped = records.copy()
    swapped.loc[vanilla, "method"], swapped.loc[swr, "method"] = "swr", "vanilla"
    # λ goes with the label, else the runs would not count as the paper's.
    swapped.loc[vanilla, ["lam", "lam_features", "lam_classifier"]] = 1e-4
    swapped.loc[swr, ["lam", "lam_features", "lam_classifier"]] = np.nan

    def labels(frame):
        return {claim.id: judge_claim(claim, frame).label for claim in paper.claims}

    before, after = labels(records), labels(swapped)
    assert any(before[claim] != after[claim] for claim in before), before


# --- Changes of data -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("id", "drops", "expected"),
    [
        # A fifth of a point a seed apart; vanilla gains a point, the resets lose three.
        ("full-access-drops", {"vanilla": 0.01, "*": -0.03}, verdicts.REPRODUCED),
        ("full-access-drops", {"vanilla": -0.03, "*": 0.01}, verdicts.REVERSED),
        ("full-access-drops", {"vanilla": 0.0, "*": 0.0}, verdicts.NOT_REPRODUCED),
        ("full-access-steady", {"*": 0.01}, verdicts.REPRODUCED),
        ("full-access-steady", {"*": -0.05}, verdicts.NOT_REPRODUCED),
        ("full-access-steady", {"*": 0.01, "l2": -0.05}, verdicts.MIXED),
        ("limited-access-loss", {"swr": -0.01, "*": -0.05}, verdicts.REPRODUCED),
        ("limited-access-loss", {"swr": -0.05, "*": -0.01}, verdicts.REVERSED),
        ("limited-access-loss", {"swr": -0.01, "*": -0.05, "l2": 0.0}, verdicts.REVERSED),
    ],
)
def test_claims_on_changes_of_data_are_judged_by_what_a_change_costs(id, drops, expected):
    judged = paper.find_claim(id)
    cell = judged.cells[0]
    methods = ("vanilla", *paper.grids, "head-reset")
    finals = {(*cell, method): seeds(0.5) for method in methods}
    signs = [1, -1, 1, -1, 0]  # the same sum for every method, so that no noise has a side
    records = with_changes(
        made_up(finals),
        lambda m, seed: drops.get(m, drops["*"]) + 1e-4 * signs[(seed + methods.index(m)) % 5],
    )
    assert judge_claim(judged, records, cells=[cell]).verdict == expected
    assert judge_claim(judged, made_up(finals), cells=[cell]).verdict == verdicts.NOT_RUN


# --- Anything measured ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("higher", "lower", "verdict"),
    [
        ([1.0, 1.1, 1.2], [0.5, 0.6, 0.8], verdicts.REPRODUCED),
        ([0.5, 0.6, 0.8], [1.0, 1.1, 1.2], verdicts.REVERSED),
        ([1.0, 1.01, 1.02], [1.01, 1.0, 1.02], verdicts.NOT_REPRODUCED),
        ([0.0, 3.0, 1.0], [2.0, 0.0, 0.5], verdicts.UNDECIDED),
        ([1.0, 1.1], [0.5, 0.6], verdicts.TOO_FEW_SEEDS),
    ],
)
def test_numbers_of_any_kind_are_judged_paired_over_seeds(higher, lower, verdict):
    claim = paper.find_claim("lpq-balance")
    # In another order, and with a seed that only one side has.
    a = pd.Series(higher, index=range(len(higher)))
    b = pd.Series([*lower, 9.0], index=range(len(lower) + 1))[::-1]
    judged = verdicts.judge_paired(claim, a, b, 0.1, what="the gap", scale="paper")
    assert judged.verdict == verdict
    assert f"n = {len(higher)}" in judged.detail
    quick = verdicts.judge_paired(claim, a, b, 0.1, what="the gap", scale="quick")
    assert quick.verdict in (verdicts.QUICK, verdicts.TOO_FEW_SEEDS)


def test_a_theorem_is_reproduced_or_not():
    claim = paper.find_claim("balance")
    assert verdicts.judge_theorem(claim, True, "", cases=3).verdict == verdicts.REPRODUCED
    assert verdicts.judge_theorem(claim, False, "", cases=3).verdict == verdicts.NOT_REPRODUCED
    assert verdicts.judge_theorem(claim, True, "", cases=0).verdict == verdicts.NOT_RUN


@pytest.mark.parametrize(
    ("several", "one"),
    [
        ([], verdicts.NOT_RUN),
        ([verdicts.NOT_RUN, verdicts.TOO_FEW_SEEDS], verdicts.TOO_FEW_SEEDS),
        ([verdicts.NOT_RUN, verdicts.REVERSED, verdicts.TOO_FEW_SEEDS], verdicts.REVERSED),
        ([verdicts.UNDECIDED, verdicts.UNDECIDED], verdicts.UNDECIDED),
        ([verdicts.REPRODUCED, verdicts.UNDECIDED], verdicts.MIXED),
        ([verdicts.NOT_PRINTED], verdicts.NOT_PRINTED),
    ],
)
def test_several_verdicts_make_one(several, one):
    assert verdicts.combined(several) == one
