"""From records to verdicts: made-up records of every outcome, and the committed ones."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from swrlib import verdicts
from swrlib.methods import METHODS
from swrlib.papers import ACCURACY_KINDS, Accuracy, Claim
from swrlib.papers import SWR as paper
from swrlib.records import COLUMNS, load_records
from swrlib.verdicts import final_accuracy, judge_claim, outcomes, table_cells
from swrlib.verdicts.first_rule import quarter_range
from swrlib.verdicts.second_rule import NO_EFFECT, SMALLER

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
            early = [(last - 10, 0.01)]
            for epoch, value in early + [(epoch, accuracy) for epoch in range(last - 9, last + 1)]:
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
                    "stage": 1,
                    "stage_epoch": epoch,
                    "epoch": epoch,
                    "test_accuracy": value,
                    "diverged": False,
                }
                rows.append(row | values)
    return pd.DataFrame(rows, columns=[*COLUMNS, *(v for v in values if v not in COLUMNS)])


def with_changes(records, drop):
    """Return the runs with two changes of data: accuracy moves by drop(method, seed) for an epoch.

    The first change moves it half as much, the second half as much again. The last epoch before
    each has a spike of 0.04 that no earlier one has.
    """
    rows = []
    ends = records.sort_values("epoch").drop_duplicates("run", keep="last")
    for last in ends.to_dict("records"):
        moved = drop(last["method"], last["seed"])
        for stage, factor in ((1, 0.0), (2, 0.5), (3, 1.5)):
            for stage_epoch in range(1, 13):
                final = last["epoch"] if (stage, stage_epoch) == (3, 12) else 0
                value = 0.5 + (factor * moved if stage_epoch == 1 else 0.0)
                value += 0.04 * (stage_epoch == 12)
                epoch = final or 12 * (stage - 1) + stage_epoch
                where = {"stage": stage, "stage_epoch": stage_epoch, "epoch": epoch}
                rows.append(last | where | {"test_accuracy": value})
    return pd.DataFrame(rows)


def seeds(mean, sd=0.0005, n=5):
    return mean + sd * SHAPE[:n]


def made_up_column(sd=0.0003, n=5, **means):
    return made_up(
        {(*MNIST, name.replace("_", "-")): seeds(mean, sd, n) for name, mean in means.items()}
    )


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
    assert set(cells["verdict"]) <= {"equal within the margin", "too noisy to say"}
    assert (cells["verdict"] == "equal within the margin").sum() > 8
    assert set(cells["first"]) <= {"agrees", "compatible"}
    within = cells["ours_mean"].between(cells["predicted_low"], cells["predicted_high"])
    assert within.all()
    assert cells["paper_mean"].tolist() == pytest.approx(cells["ours_mean"].tolist(), abs=2e-5)
    assert set(cells.columns) >= {"dataset", "model", "method", "ours_sd", "n", "paper_sd"}


@pytest.mark.parametrize("number", [1, 5])
@pytest.mark.parametrize("sd", [1e-5, None])
def test_swapped_labels_are_never_equal(number, sd):
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
            for method in (a, b):
                row = cells.loc[(*pair, method)]
                gap = abs(row["ours_mean"] - row["paper_mean"])
                assert gap < row["margin"] or row["verdict"] != "equal within the margin"
                assert row["first"] != "agrees"


def test_swapping_vanilla_and_swr_changes_verdicts():
    finals = papers_own(1, sd=2e-4)
    other = {"vanilla": "swr", "swr": "vanilla"}
    swapped = made_up(
        {(*key[:3], other.get(key[3], key[3])): value for key, value in finals.items()}
    )
    before, after = (table_cells(r, 1).set_index("method") for r in (made_up(finals), swapped))
    for method in ("vanilla", "swr"):
        assert "differs" not in set(before.loc[method, "verdict"])
        assert (after.loc[method, "verdict"] == "differs").sum() >= 4
    claim = paper.find_claim("generalization-vgg")
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


def test_only_the_papers_runs_count():
    right = {(*MNIST, "swr"): seeds(0.98)}
    records = [
        made_up(right),
        made_up({(*MNIST, "swr"): seeds(0.5)}, split="selection"),
        made_up({(*MNIST, "swr"): seeds(0.5)}, scale="quick"),
        made_up({(*MNIST, "swr"): seeds(0.5)}, lam=1e-3),
        made_up({(*MNIST, "swr"): seeds(0.5)}, variant="printed"),
        made_up({(*MNIST, "swr"): seeds(0.5)}, optimizer_state="new"),
        made_up({(*MNIST, "swr"): seeds(0.5)}, target="zero"),
        made_up({(*MNIST, "swr"): seeds(0.5)})[lambda rows: rows["epoch"] < 198].assign(
            run=lambda rows: rows["run"] + " cut"
        ),
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
    records = made_up({(*MNIST, "swr"): seeds(0.1)}, diverged=True)
    cut = records[records["epoch"] < 195]
    assert table_cells(cut, 1)["verdict"].tolist()[3] == "differs"
    assert table_cells(cut, 1)["first"].tolist()[3] == "lower"
    assert table_cells(cut.assign(diverged=False), 1)["verdict"].tolist()[3] == "not run"


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
    records = made_up(finals, scale="quick")
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
    found = [c.difference for c in verdict.comparisons]
    assert found == pytest.approx([0.01, 0.02, 0.03], abs=1e-6)
    assert verdict.printed == "not printed"
    assert judge_claim(claim, records, cells=here).verdict == "not run"
    custom = table_cells(records.assign(scale="custom"), 1, scale="custom")
    assert set(custom["verdict"]) == {"custom scale: no verdict on the paper"}
    paper_scale = made_up(finals)  # all epochs, but data that the claim does not speak of
    assert judge_claim(claim, paper_scale, cells=here).verdict == "outside the paper"


# --------------------------------------------------------------------------------------- claims


def claim(kind, methods, rivals, cells=(MNIST,), **more):
    return Claim("made-up", kind, "nowhere", "It is so.", methods, rivals, cells, **more)


SIZE = paper.sizes["mnist", "mlp"]


def wobbled(sd=0.0002, **means):
    """Every method with another order of the seeds' deviations, so that differences vary."""
    return made_up(
        {
            (*MNIST, name.replace("_", "-")): mean + sd * np.roll(SHAPE, shift)
            for shift, (name, mean) in enumerate(means.items())
        }
    )


def test_the_outcome_is_the_mean_of_the_last_ten_epochs():
    records = wobbled(swr=0.98, vanilla=0.97)
    plain = judge_claim(claim("ordering", ("swr",), ("vanilla",)), records).comparisons[0]
    spiked = records.copy()
    epochs = spiked["epoch"]
    for epoch, spike in ((200, -0.30), (199, 0.02), (190, 0.5)):
        spiked.loc[(spiked["method"] == "swr") & (epochs == epoch), "test_accuracy"] += spike
    found = judge_claim(claim("ordering", ("swr",), ("vanilla",)), spiked).comparisons[0]
    # Epoch 190 is the eleventh from the end.
    assert found.difference == pytest.approx(plain.difference - 0.028)
    assert found.last.difference == pytest.approx(plain.difference - 0.30)
    cells = table_cells(spiked, 1).set_index(["dataset", "model", "method"])
    assert cells.loc[("mnist", "mlp", "swr"), "ours_mean"] == pytest.approx(0.98 - 0.028)
    assert cells.loc[("mnist", "mlp", "swr"), "last_mean"] == pytest.approx(0.98 - 0.30)


def test_a_comparison_is_estimated_by_all_methods_of_its_setting():
    paper_s = {"swr": 0.982, "vanilla": 0.980, "l2": 0.981, "l2_init": 0.979}
    records = wobbled(sd=0.001, **paper_s, adamw=0.99, fire=0.95)
    (found,) = judge_claim(claim("ordering", ("swr",), ("vanilla",)), records).comparisons
    assert (found.way, found.methods, found.n) == ("pooled", 4, 5)
    assert found.estimate.degrees == 12  # AdamW stays out, and another paper's method
    alone = records[records["method"].isin(["swr", "vanilla"])]
    (pair,) = judge_claim(claim("ordering", ("swr",), ("vanilla",)), alone).comparisons
    assert pair.difference == pytest.approx(found.difference) and pair.estimate.degrees < 9


@pytest.mark.parametrize(
    ("difference", "sd", "verdict"),
    [
        (0.0033, 0.0003, "reproduced"),  # as printed: .9822 against .9789
        (0.0016, 0.0002, SMALLER),
        (-0.0033, 0.0003, "reversed"),
        (0.0001, 0.0003, NO_EFFECT),
        (0.0010, 0.0030, "undecided"),
    ],
)
def test_every_verdict_on_an_ordering(difference, sd, verdict, monkeypatch):
    # The paper's own spread would hide that a difference is smaller than printed.
    printed = {m: Accuracy(mean, 1e-4, 5) for m, mean in (("swr", 0.9822), ("vanilla", 0.9789))}
    monkeypatch.setattr(
        type(paper), "printed_accuracy", lambda self, method, *cell: printed.get(method)
    )
    records = wobbled(sd, swr=0.98 + difference, vanilla=0.98, l2=0.98)
    found = judge_claim(claim("ordering", ("swr",), ("vanilla",)), records)
    assert found.verdict == found.label == verdict
    assert found.printed == "reproduced"
    (comparison,) = found.comparisons
    assert comparison.printed.difference == pytest.approx(0.0033)
    assert f"{100 * difference:+.2f} points" in found.detail
    assert ("would decide" in found.detail) == (verdict == "undecided")


def test_the_first_rule_stands_beside_from_the_last_epoch_and_pairs():
    shift = 0.01 * SHAPE
    wobble = 0.0002 * SHAPE[[3, 0, 4, 1, 2]]
    records = made_up({(*MNIST, "swr"): 0.981 + shift + wobble, (*MNIST, "vanilla"): 0.980 + shift})
    verdict = judge_claim(claim("ordering", ("swr",), ("vanilla",)), records)
    (comparison,) = verdict.comparisons
    assert verdict.first == comparison.first == "reproduced"
    finals = final_accuracy(records).pivot_table("test_accuracy", "seed", "method")
    low, high = stats.ttest_rel(finals["swr"], finals["vanilla"]).confidence_interval(0.95)
    assert comparison.last[1:] == pytest.approx((low, high))
    shuffled = records.copy()
    swr = shuffled["method"] == "swr"
    shuffled.loc[swr, "seed"] = (shuffled.loc[swr, "seed"] + 1) % 5
    judged = judge_claim(claim("ordering", ("swr",), ("vanilla",)), shuffled)
    assert (judged.first, judged.verdict) == ("undecided", "undecided")


def test_best_takes_the_worst_rivals_verdict():
    best = claim("best", ("swr",), ("vanilla", "l2", "l2-init"))
    good = {"swr": 0.985, "vanilla": 0.979, "l2_init": 0.980}
    for l2, verdict in ((0.980, "reproduced"), (0.9849, NO_EFFECT), (0.988, "reversed")):
        found = judge_claim(best, wobbled(l2=l2, **good))
        assert found.verdict == verdict
        assert len(found.comparisons) == 3
        assert "SWR against L2," in found.detail or verdict == "reproduced"
    assert judge_claim(best, wobbled(**good)).verdict == "not run"  # a rival is missing
    known = wobbled(swr=0.97, vanilla=0.979)
    assert judge_claim(best, known).verdict == "reversed"  # which no missing rival can mend


def test_of_rivals_with_the_same_word_the_one_with_the_lowest_interval_is_named():
    """Not the one whose interval ends lowest: L2's is wide and reaches down further."""
    values = {"swr": 0.985 + 0.0001 * SHAPE, "l2": 0.9816 + 0.002 * SHAPE, "vanilla": [0.982] * 5}
    values["vanilla"] = 0.982 + 0.0001 * np.roll(SHAPE, 2)
    records = made_up({(*MNIST, name): value for name, value in values.items()})
    found = judge_claim(claim("best", ("swr",), ("vanilla", "l2")), records)
    by_rival = {c.rival: c for c in found.comparisons}
    assert by_rival["l2"].low < by_rival["vanilla"].low
    assert by_rival["l2"].high > by_rival["vanilla"].high
    assert {c.verdict for c in found.comparisons} == {"reproduced"}
    assert "against L2" in found.detail and "against vanilla" not in found.detail


def test_little_and_comparable_claims():
    for kind, difference, verdict in [
        ("little", 0.0, "reproduced"),
        ("little", -5 * SIZE, "reproduced"),
        ("little", 5 * SIZE, "not reproduced"),
        ("little", SIZE, "undecided"),
        ("comparable", 5 * SIZE, "reproduced"),
        ("comparable", -5 * SIZE, "not reproduced"),
        ("comparable", -SIZE, "undecided"),
    ]:
        records = wobbled(swr=0.98 + difference, l2=0.98)
        assert judge_claim(claim(kind, ("swr",), ("l2",)), records).verdict == verdict, kind


def test_a_margin_of_its_own_or_by_setting():
    records = wobbled(swr=0.98, l2=0.98 + 2 * SIZE)
    for margin in (3 * SIZE, {"mnist mlp": 3 * SIZE}):
        judged = judge_claim(claim("comparable", ("swr",), ("l2",), margin=margin), records)
        assert judged.verdict == "reproduced"
        assert judged.comparisons[0].margin == 3 * SIZE
    other = claim("comparable", ("swr",), ("l2",), margin={"cifar10 cnn": 0.1})
    assert judge_claim(other, records).comparisons[0].margin == SIZE


THREE = (MNIST, ("cifar10", "cnn", "single-task"), ("cifar100", "cnn", "single-task"))


def in_cells(*signs, cells=THREE):
    finals = {}
    for cell, sign in zip(cells, signs, strict=False):
        finals[(*cell, "swr")] = 0.5 + 0.1 * sign + 0.0003 * SHAPE
        finals[(*cell, "vanilla")] = 0.5 + 0.0003 * np.roll(SHAPE, 1)
    return made_up(finals)


def test_over_several_cells():
    ordering = claim("ordering", ("swr",), ("vanilla",), THREE)
    assert judge_claim(ordering, in_cells(1, 1, 1)).label == "reproduced"
    mixed = judge_claim(ordering, in_cells(1, -1, 1))
    assert mixed.verdict == mixed.label == "mixed"
    assert "reversed: SWR against vanilla, CIFAR-10 CNN" in mixed.detail
    assert (
        "reproduced: SWR against vanilla, MNIST MLP, single task: +10.00 points [" in mixed.detail
    )
    assert ", n = 5 · SWR against vanilla, CIFAR-100 CNN" in mixed.detail
    part = judge_claim(ordering, in_cells(1))
    assert (part.verdict, part.label) == ("reproduced", "reproduced (1 of 3 comparisons)")
    assert judge_claim(ordering, in_cells(1), cells=THREE[:1]).label == "reproduced"
    assert [c.verdict for c in mixed.comparisons] == ["reproduced", "reversed", "reproduced"]


@pytest.mark.parametrize(
    ("quantifier", "signs", "verdict"),
    [
        ("all", (1, 1, -1), "mixed"),
        ("most", (1, 1, -1), "reproduced"),
        ("most", (1, -1, -1), "mixed"),
        ("most", (-1, -1), "reversed"),
        ("most", (-1,), "undecided"),  # the two that were not run could hold
        ("sometimes", (-1, 1, -1), "reproduced"),
        ("often", (-1, 1, -1), "reproduced"),
        ("generally", (1, 1, -1), "undecided"),
        ("generally", (1, 1, 1), "reproduced"),
        ("generally", (0, 0, 0), NO_EFFECT),
        ("generally", (0,), "undecided"),  # the two that were not run could make it hold
        ("generally", (1,), "reproduced"),
    ],
)
def test_quantifiers(quantifier, signs, verdict):
    judged = claim("ordering", ("swr",), ("vanilla",), THREE, quantifier=quantifier)
    found = judge_claim(judged, in_cells(*signs))
    if quantifier == "generally":
        pooled = found.comparisons[0]
        sizes = [paper.sizes[cell[:2]] for cell in THREE]
        expected = np.mean([0.1 * sign / size for sign, size in zip(signs, sizes, strict=False)])
        assert pooled.difference == pytest.approx(expected, abs=0.2)
        assert pooled.margin == 1 and len(found.comparisons) == 4
        run = [c for c in found.comparisons[1:] if c.n]
        errors = [c.estimate.error / c.margin / len(run) for c in run]
        assert pooled.estimate.error == pytest.approx(np.linalg.norm(errors))
        if signs == (1, 1, -1):  # +71, +10 and −10 margins
            verdict = "reproduced"
    assert found.verdict == verdict


def test_generally_in_most_pools_the_methods_of_a_model():
    warm = tuple((*cell[:2], "warm-start") for cell in THREE)
    judged = claim(
        "ordering", ("l2", "l2-init"), ("vanilla",), warm, quantifier="generally in most"
    )
    finals = {}
    for cell, (a, b) in zip(warm, ((0.03, -0.01), (0.04, 0.02), (-0.05, 0.01)), strict=True):
        for shift, (method, gap) in enumerate({"l2": a, "l2-init": b, "vanilla": 0}.items()):
            finals[(*cell, method)] = 0.5 + gap + 0.0003 * np.roll(SHAPE, shift)
    found = judge_claim(judged, made_up(finals))
    assert found.verdict == "reproduced"  # +1, +3 and −2 points: in two models of three
    assert [c.difference for c in found.comparisons[:3]] == pytest.approx([0.01, 0.03, -0.02])
    assert len(found.comparisons) == 9
    few = judge_claim(judged, made_up({k: v for k, v in finals.items() if k[:3] != warm[1]}))
    assert few.label == "undecided (4 of 6 comparisons)"  # one holds, one fails, one was not run


def test_a_remark_is_no_verdict():
    found = judge_claim(claim("ordering", ("swr",), ("vanilla",), THREE, remark=True), in_cells(1))
    assert (found.verdict, found.label) == ("remark", "remark: holds (1 of 3 comparisons)")
    assert "reproduced" in found.detail
    back = judge_claim(claim("ordering", ("vanilla",), ("swr",), THREE, remark=True), in_cells(1))
    assert (back.verdict, back.label) == (
        "remark",
        "remark: the reverse holds (1 of 3 comparisons)",
    )
    none = judge_claim(claim("ordering", ("swr",), ("vanilla",), THREE, remark=True), made_up({}))
    assert none.verdict == "not run"


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
            assert verdict.label.split(":")[0] == verdict.verdict
            assert {c.n for c in verdict.comparisons} == {5}
            assert (verdict.verdict == "remark") == one.remark
        else:
            assert verdict.verdict == "judged in its chapter"
    # What the paper's own numbers can carry, by the same rule.
    assert printed["generalization-vgg"] == "reproduced"
    assert printed["generalization-exception"] == "undecided"
    assert printed["generalization-best"] == "undecided"
    assert printed["reinit-vgg"] == "reproduced"
    assert printed["reinit-over-swr"] == "reproduced"
    assert printed["warm-start-harms"] == "not printed"


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
        # An epoch may have made good what was lost at once.
        ("full-access-drops", {"vanilla": -0.03, "*": 0.01}, verdicts.UNDECIDED),
        ("full-access-drops", {"vanilla": 0.0, "*": 0.0}, verdicts.UNDECIDED),
        ("full-access-steady", {"*": 0.02}, verdicts.REPRODUCED),
        ("full-access-steady", {"*": -0.05}, verdicts.NOT_REPRODUCED),
        ("full-access-steady", {"*": 0.02, "l2": -0.05}, verdicts.MIXED),
        ("limited-access-loss", {"swr": -0.01, "*": -0.05}, verdicts.REPRODUCED),
        ("limited-access-loss", {"swr": -0.05, "*": -0.01}, verdicts.REVERSED),
        ("limited-access-loss", {"swr": -0.04, "*": -0.09, "l2": 0.0}, verdicts.REVERSED),
        ("limited-access-loss", {"swr": -0.01, "*": -0.01}, NO_EFFECT),
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


@pytest.mark.parametrize("moved", [0.02, -0.03])
def test_a_change_costs_the_mean_over_all_changes_and_gains_count(moved):
    cell = ("mnist", "mlp", "full-access")
    records = with_changes(made_up({(*cell, "l2"): seeds(0.5)}), lambda m, seed: moved)
    table = outcomes.changes_of_data(records)
    assert sorted(table["stage"]) == [2] * 5 + [3] * 5
    spike = 0.04
    for stage, factor in ((2, 0.5), (3, 1.5)):
        here = table[table["stage"] == stage]
        # The last epoch before the change has a spike, a tenth of it is in the mean of ten.
        assert here["drop"].to_numpy() == pytest.approx(spike - factor * moved)
        assert here["late_drop"].to_numpy() == pytest.approx(spike / 10 - factor * moved)
    judged = judge_claim(paper.find_claim("full-access-steady"), records, cells=[cell])
    (found,) = (c for c in judged.comparisons if c.method == "l2")
    assert found.difference == pytest.approx(moved - spike / 10)
    assert found.last.difference == pytest.approx(moved - spike)


def test_half_way_means_every_epoch_of_the_second_half_of_the_stages():
    judged = paper.find_claim("full-access-swr-vgg")
    (cell,) = judged.cells
    records = made_up({(*cell, m): seeds(0.3) for m in ("swr", "shrink-perturb")})
    parts = [
        records.assign(stage=stage, epoch=records["epoch"] - 11 * (10 - stage))
        for stage in range(1, 11)
    ]
    records = pd.concat(parts)
    late = records["stage"] > 5
    records.loc[(records["method"] == "swr") & late, "test_accuracy"] += 0.05
    records.loc[(records["method"] == "swr") & ~late, "test_accuracy"] -= 0.20
    verdict = judge_claim(judged, records)
    assert verdict.verdict == "reproduced"
    assert verdict.comparisons[0].difference == pytest.approx(0.05)
    # The mean and not the median: one stage of five moves it.
    records.loc[(records["method"] == "swr") & (records["stage"] == 10), "test_accuracy"] += 0.10
    assert judge_claim(judged, records).comparisons[0].difference == pytest.approx(0.07)


@pytest.mark.parametrize(("gain", "word"), [(0.0405, "reproduced"), (0.0300, SMALLER)])
def test_a_size_in_the_text_takes_the_place_of_the_printed_difference(gain, word):
    cell = ("tinyimagenet", "vgg16", "single-task-decay")
    others = {
        (*cell, m): 0.40 + 0.0003 * np.roll(SHAPE, i) for i, m in enumerate(("l2", "l2-init"))
    }
    ours = {(*cell, "swr-reinit"): 0.40 + 2 * gain + 0.0003 * np.roll(SHAPE, 2)}
    judged = paper.find_claim("reinit-vgg")  # over eight points; by the table 9.7 and 10.9
    assert judged.size == 2 * paper.find_claim("generalization-vgg").size == 0.08
    assert judge_claim(judged, made_up(others | ours)).verdict == word


def test_where_a_table_stands_methods_are_compared_with_those_in_it():
    consistently = paper.find_claim("overall-swr")
    cells = [(*MNIST[:2], stream) for stream in ("single-task", "warm-start")]
    single, warm = (judge_claim(consistently, made_up({}), cells=[cell]) for cell in cells)
    assert [case.rival for case in single.comparisons] == ["l2", "l2-init"]
    assert [case.rival for case in warm.comparisons] == [*consistently.rivals]


# --- Anything measured ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("higher", "lower", "verdict"),
    [
        ([1.0, 1.1, 1.2], [0.5, 0.4, 0.6], verdicts.REPRODUCED),
        ([0.5, 0.4, 0.6], [1.0, 1.1, 1.2], verdicts.REVERSED),
        ([1.0, 1.01, 1.02], [1.01, 1.0, 1.02], NO_EFFECT),
        ([0.0, 3.0, 1.0], [2.0, 0.0, 0.5], verdicts.UNDECIDED),
        ([1.0, 1.1], [0.5, 0.6], verdicts.TOO_FEW_SEEDS),
    ],
)
def test_numbers_of_any_kind_are_judged(higher, lower, verdict):
    claim = paper.find_claim("lpq-balance")
    # In another order, and with a seed that only one side has.
    a = pd.Series(higher, index=range(len(higher)))
    b = pd.Series([*lower, 9.0], index=range(len(lower) + 1))[::-1]
    case = verdicts.of_two("the gap", a, b, 0.1)
    judged = verdicts.judge_cases(claim, [case], scale="paper")
    assert judged.verdict == verdict
    assert f"n = {len(higher)}" in judged.detail
    quick = verdicts.judge_cases(claim, [case], scale="quick")
    assert quick.verdict in (verdicts.QUICK, verdicts.TOO_FEW_SEEDS)


def test_a_theorem_is_reproduced_or_not():
    claim = paper.find_claim("balance")
    assert verdicts.judge_theorem(claim, True, "", cases=3).verdict == verdicts.REPRODUCED
    assert verdicts.judge_theorem(claim, False, "", cases=3).verdict == verdicts.NOT_REPRODUCED
    assert verdicts.judge_theorem(claim, True, "", cases=0).verdict == verdicts.NOT_RUN


def test_cases_of_one_run_are_paired_and_several_make_one_verdict():
    claim = paper.find_claim("lpq-balance")
    before = pd.Series([1.0, 5.0, 9.0])
    after = before.add([0.50, 0.51, 0.49])
    case = verdicts.of_two("up", after, before, 0.1)
    assert verdicts.judge_cases(claim, [case], scale="paper").verdict == verdicts.UNDECIDED
    same = replace(case, paired=True)
    assert verdicts.judge_cases(claim, [same], scale="paper").verdict == verdicts.REPRODUCED
    still = verdicts.of_two("still", before, before, 0.1, paired=True)
    both = verdicts.judge_cases(claim, [same, still], scale="paper")
    assert both.verdict == verdicts.MIXED
    assert both.detail.startswith("reproduced: up: +0.5 [")
    assert f"{NO_EFFECT}: still: +0 [+0, +0], n = 3." in both.detail
    assert verdicts.judge_cases(claim, [same, still], scale="custom").verdict == verdicts.CUSTOM
    assert verdicts.judge_cases(claim, [], scale="paper").verdict == verdicts.NOT_RUN


# ------------------------------------------------------------------------------------ one table


def test_all_comparisons_stand_in_one_table(comparisons):
    table = comparisons
    accuracy = [c for c in paper.claims if c.kind in ACCURACY_KINDS]
    assert set(table["claim"]) == {c.id for c in accuracy}
    assert (table["chapter"] != "").all() and table["word"].notna().all()
    run = table[table["n"] >= 3]
    assert run[["estimate", "low", "high", "margin"]].notna().all().all()
    assert (run["low"] <= run["estimate"]).all() and (run["low90"] >= run["low"]).all()
    assert (table.loc[table["n"] == 0, "word"] == "not run").all()
    assert (table.loc[table["model"] == "vgg16", "word"] == "not run").all()
