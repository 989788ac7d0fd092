"""The front page's numbers, and those on a warm start, on made-up records."""

import math
import re
from pathlib import Path

import pytest
import scipy.stats
import yaml
from test_verdicts import made_up

from swrlib import verdicts
from swrlib.figures.forest import forest, mark
from swrlib.overview import CHAPTERS, STREAMS, Overview, repair
from swrlib.overview.advice import advice
from swrlib.overview.answers import answers
from swrlib.overview.scorecard import scorecard
from swrlib.papers import SWR as paper
from swrlib.tables import badge

ROOT = Path(__file__).resolve().parent.parent
HERE = ("warm-start", "cifar10", "cnn")


def records(**methods):
    named = {name.replace("_", "-"): accuracies for name, accuracies in methods.items()}
    return made_up({("cifar10", "cnn", "warm-start", name): a for name, a in named.items()})


@pytest.fixture
def overview():
    return Overview(
        records(vanilla=[0.60, 0.62, 0.61], swr=[0.70, 0.71, 0.72, 0.73], l2=[0.70, 0.72, 0.71])
    )


def test_places_are_filled_from_the_records(overview):
    here = " ".join(HERE)
    text = f"[[mean: {here} swr]] of [[seeds: {here} swr]], [[gap: {here} l2 vanilla]]"
    assert overview.fill(text) == "71.5% of 4, +10.00 points [+6.49, +13.51]"
    assert overview.fill(f"[[side: {here}\nl2 vanilla]] it") == "above it"
    assert overview.fill("[[collapsed:]]") == ""
    assert overview.fill("[[seeds: warm-start cifar10 cnn]]") == "3–4"
    with pytest.raises(AttributeError):
        overview.fill("[[means: warm-start cifar10 cnn swr]]")


def test_differences_are_those_of_the_second_rule(overview):
    gap = overview.interval(*HERE, "swr", "vanilla")
    values = ([0.70, 0.71, 0.72, 0.73], [0.60, 0.62, 0.61])  # of all seeds, not of the common ones
    parts = [scipy.stats.sem(side) for side in values]
    half = scipy.stats.t.ppf(0.975, len(values[0]) - 1) * math.hypot(*parts)
    assert parts[0] > parts[1]  # the degrees of freedom are those of the larger part
    assert gap == pytest.approx((0.105, 0.105 - half, 0.105 + half))
    assert overview.side(*HERE, "swr", "l2") == "not to be told from"
    assert overview.side(*HERE, "vanilla", "l2") == "below"


def test_what_was_not_trained_is_a_dash_and_two_seeds_say_nothing(overview):
    assert overview.mean(*HERE, "l2-init") == overview.gap(*HERE, "swr", "l2-init") == "–"
    assert overview.mean("full-access", "cifar10", "cnn", "swr") == "–"
    assert overview.seeds("full-access", "cifar10", "cnn") == "–"
    few = Overview(records(vanilla=[0.6, 0.6], swr=[0.7, 0.7]))
    assert few.gap(*HERE, "swr", "vanilla") == few.side(*HERE, "swr", "vanilla") == "–"
    assert few.tally("swr", "vanilla") == "above vanilla in none of 0 settings, below it in none"
    assert "warm start" not in Overview(records(swr=[0.7] * 3)).table()  # nothing beside it


def test_a_run_that_collapsed_is_named():
    said = Overview(records(vanilla=[0.60, 0.10, 0.62], swr=[0.7, 0.7, 0.4])).collapsed()
    assert "vanilla ended at 10.0% with seed 1 (warm start, CIFAR-10 CNN; the mean" in said
    assert "61.0%" in said and "SWR" not in said


def test_the_table_has_the_best_of_the_others(overview):
    cells = re.findall("<td>(.*?)</td>", overview.table())
    assert cells[:4] == ["warm start, CIFAR-10 CNN", "3–4", "61.0%", "71.5%"]
    assert cells[4].startswith("+10.50 [") and cells[5] == "L2, 71.0%" and len(cells) == 7


def test_only_runs_of_the_papers_setting_count():
    # A run in another arithmetic is an experiment beside the paper's.
    half = made_up({("cifar10", "cnn", "warm-start", "swr"): [0.9] * 3}, dtype="bfloat16")
    assert not Overview(half).accuracy
    printed = Overview(made_up({("cifar10", "cnn", "single-task", "l2"): [0.7219] * 3}))
    assert printed.beyond("single-task", "cifar10", "cnn", "l2") == "+1.0 points"
    assert printed.printed("single-task", "cifar10", "cnn", "swr", "l2") == "+0.4 points"


def test_a_warm_start_that_harms_is_told_from_one_that_does_not():
    harmed = {"vanilla": [0.60, 0.61, 0.62], "full-reset": [0.65, 0.66, 0.66], "swr": [0.7] * 3}

    def finals(**methods):
        return records(**methods)

    sentence, table = repair(finals(**harmed))
    assert sentence.startswith("From scratch 65.7%, after the warm start 61.0%, +4.67 points [")
    assert sentence.endswith("the warm start did harm.")
    assert list(table.index) == ["SWR"] and table.loc["SWR", "ends at, %"] == "70.0"
    assert table.loc["SWR", "minus from scratch"].startswith("+4.33 [")
    same = harmed | {"vanilla": [0.65, 0.66, 0.67]}
    assert repair(finals(**same))[0].endswith("no harm is seen, so none to repair.")
    sentence, table = repair(finals(vanilla=[0.6] * 3, swr=[0.7] * 3))
    assert sentence == "" and table.loc["SWR", "minus from scratch"] == "–"


def test_a_chapters_answer_has_the_front_pages_numbers():
    """And what SWR recovers where plain training loses; elsewhere that nothing can be recovered."""
    ends = {"vanilla": [0.60, 0.62, 0.61], "swr": [0.70, 0.71, 0.72], "l2": [0.74, 0.73, 0.75]}
    changed = records(**ends)
    (said,) = answers(changed)
    overview = Overview(changed)
    here = ("warm-start", "cifar10", "cnn")
    assert said.startswith("CIFAR-10, CNN (3 seeds): plain training ends at 61.0%, SWR at 71.0% (")
    assert f"({overview.gap(*here, 'swr', 'vanilla')})" in said
    assert f"L2, at 74.0% (SWR minus it: {overview.gap(*here, 'swr', 'l2')})." in said
    alone = {
        ("cifar10", "cnn", "single-task", name): [0.02 + gain + x for x in accuracies]
        for (name, accuracies), gain in zip(ends.items(), (0.03, 0, 0), strict=True)
    }
    (said,) = answers(changed, made_up(alone))
    assert "SWR lost 2.00 points, plain training 5.00: the difference, which is what" in said
    assert "+3.00 points [" in said
    same = {key: [x - 0.05 for x in accuracies] for key, accuracies in alone.items()}
    (said,) = answers(changed, made_up(same))
    assert said.endswith("is seen here, so none can be recovered.")
    assert not answers(records(vanilla=[0.6] * 3, l2=[0.7] * 3))
    (said,) = answers(records(vanilla=[0.60, 0.61, 0.62], swr=[0.7, 0.71, 0.72]))
    assert "other method" not in said


# ---------------------------------------------------------------------------------- the scorecard


def cells_of(card):
    """Return the scorecard's cells by setting, without tags."""
    rows = re.findall(r"<tr>(<th scope=\"row\">.*?)</tr>", card)
    found = {}
    for row in rows:
        stream = re.sub("<.*?>", "", row.split("</th>")[0])
        for state, head, text in re.findall(r'<td class="(\w+)" data-head="(.*?)">(.*?)</td>', row):
            found[stream, head] = (state, re.sub("(<.*?>)+", "|", text).strip("|"))
    return found


@pytest.mark.parametrize(
    "swr, state, who",
    [
        (0.74, "best", "SWR is best"),
        (0.66, "behind", "L2 is best"),
        (0.7101, "level", "SWR and L2 level"),
    ],
)
def test_a_cell_of_the_scorecard_says_who_is_best(swr, state, who):
    spread = [-0.001, 0.0, 0.001]
    card = scorecard(
        records(
            vanilla=[0.61 + x for x in spread],
            l2=[0.71 + x for x in spread],
            swr=[swr + x for x in reversed(spread)],
            adamw=[0.9] * 3,  # ours: no rival
            full_reset=[0.9] * 3,  # from scratch: no rival either
        )
    )
    found = cells_of(card)
    assert len(found) == len(STREAMS) * len(paper.pairs) == 25
    said = found.pop(("warm start", "CIFAR-10 CNN"))
    assert said[0] == state and said[1].startswith(f"{who}|SWR − L2: {100 * (swr - 0.71):+.2f} [")
    assert said[1].endswith("|2 rivals, 3 seeds")
    assert set(found.values()) == {("none", "not run")}


def test_an_open_cell_few_seeds_and_a_missing_rival():
    noisy = scorecard(records(vanilla=[0.68, 0.72, 0.76], swr=[0.67, 0.73, 0.75]))
    assert cells_of(noisy)["warm start", "CIFAR-10 CNN"][1].startswith("open: SWR or vanilla|")
    few = scorecard(records(vanilla=[0.6, 0.6], swr=[0.7, 0.7]))
    assert cells_of(few)["warm start", "CIFAR-10 CNN"] == ("none", "too few seeds")
    alone = scorecard(records(vanilla=[0.6, 0.6, 0.61], l2=[0.7] * 3))
    assert cells_of(alone)["warm start", "CIFAR-10 CNN"] == ("none", "not run")


def test_the_scorecard_has_the_numbers_of_the_claims():
    """The same difference and interval as the comparison that a claim makes there."""
    late = records(
        vanilla=[0.60, 0.62, 0.61, 0.63],
        l2=[0.70, 0.72, 0.71, 0.70],
        swr=[0.75, 0.74, 0.76, 0.73],
        adamw=[0.60, 0.60, 0.65, 0.59],  # ours: its spread does not enter
    )
    claim = paper.find_claim("warm-start-swr")
    cell = ("cifar10", "cnn", "warm-start")
    compared = verdicts.judge_claim(claim, late, cells=[cell]).comparisons
    (one,) = (case for case in compared if case.rival == "l2")
    text = verdicts.in_points(one.difference, one.low, one.high, unit="")
    assert f"SWR − L2: {text}|" in cells_of(scorecard(late))["warm start", "CIFAR-10 CNN"][1]


def test_every_cell_of_the_scorecard_leads_to_its_chapter():
    chapters = yaml.safe_load((ROOT / "config/quick.yaml").read_text())["chapters"]
    assert set(CHAPTERS.values()) <= set(chapters)
    assert set(CHAPTERS) == set(STREAMS)
    given = {name: chapters[page].get("parameters", {}) for name, page in CHAPTERS.items()}
    assert given["full-access"] == {"access": "full"}
    assert given["limited-access"] == {"access": "limited"}
    assert given["single-task"] == {"decay": False}
    assert given["single-task-decay"] == {"decay": True}
    card = scorecard(records(swr=[0.7] * 3))
    for page in CHAPTERS.values():
        assert card.count(f'<a href="../notebooks/{page}.html">') == 1 + len(paper.pairs)


# --------------------------------------------------------------------- what it means for a user

SPREAD = (-0.001, 0.0, 0.001, 0.002)


def tried(**settings):
    """Make records of mean accuracies: {dataset}_{stream} = {method: mean}."""
    models = {"mnist": "mlp", "cifar10": "cnn"}
    finals = {}
    for name, means in settings.items():
        dataset, _, stream = name.partition("_")
        for method, mean in means.items():
            key = (dataset, models[dataset], stream.replace("_", "-"), method.replace("_", "-"))
            finals[key] = [mean + x for x in SPREAD]
    return made_up(finals)


def sentences(records):
    return list(advice(records).values())


def test_five_sentences_follow_the_numbers():
    first, recovered, gained, decay, unknown = sentences(
        tried(
            mnist_single_task={"vanilla": 0.98, "swr": 0.98, "l2": 0.98, "adamw": 0.99},
            mnist_warm_start={"vanilla": 0.98, "swr": 0.98, "l2": 0.98, "adamw": 0.99},
            cifar10_single_task={"vanilla": 0.65, "swr": 0.71, "l2": 0.73},
            cifar10_warm_start={"vanilla": 0.62, "swr": 0.70, "l2": 0.73},
        )
    )
    assert "is not seen to on MNIST MLP (warm start: 0.00 points [" in first
    assert "which therefore cannot test the thesis; it does lose on CIFAR-10 CNN (warm" in first
    assert first.count("MNIST MLP") == first.count("CIFAR-10 CNN") == 1
    assert "on CIFAR-10 CNN, warm start, it loses 1.00 points [" in recovered
    assert "(L2 loses 0.00 points [" in recovered
    assert "plain training's loss minus that is +2.00 points [" in recovered
    assert "so it recovers some" in recovered
    assert "above plain training in 2 of 4 settings, below it in none" in gained
    assert gained.endswith("its mean differs by +6.0 to +8.0 points on CIFAR-10 CNN.")
    below = "CIFAR-10 CNN warm start, -3.00; CIFAR-10 CNN single task, -2.00"
    assert f"above L2 with the paper's λ in none of 4 settings, below it in 2 ({below})" in decay
    assert "AdamW with a λ chosen on held-out images (tried on MNIST MLP alone) in none" in decay
    assert "so try weight decay before SWR." in decay
    assert decay.endswith(
        "Where plain training loses (CIFAR-10 CNN warm start), SWR ends below L2."
    )
    assert unknown.startswith("21 of the paper's 25 settings")
    assert "all with CIFAR-100 CNN and CIFAR-100 CNN-BN and Tiny ImageNet VGG-16" in unknown


def test_the_sentences_turn_with_the_numbers():
    first, recovered, gained, decay, _ = sentences(
        tried(
            cifar10_single_task={"vanilla": 0.65, "swr": 0.71, "l2": 0.64},
            cifar10_warm_start={"vanilla": 0.62, "swr": 0.61, "l2": 0.55},
        )
    )
    assert first.startswith("When data change, plain training loses accuracy on CIFAR-10 CNN (")
    assert "it loses 10.00 points" in recovered and "so it recovers none" in recovered
    assert "above plain training in 1 of 2 settings and below it in 1," in gained
    assert "untried against AdamW with a λ chosen on held-out images; so try SWR before" in decay
    assert decay.endswith("(CIFAR-10 CNN warm start), SWR ends above L2.")
    level = {"vanilla": 0.65, "swr": 0.651, "l2": 0.651}
    first, recovered, gained, decay, _ = sentences(
        tried(cifar10_single_task=level, cifar10_warm_start=level)
    )
    assert first.endswith("nothing else was measured.") and "cannot test" in first
    assert recovered == "That is not known, since SWR was tried on no such loss."
    assert "equal within the size that matters in 2" in gained
    assert decay.endswith("so over all settings neither leads.")


def test_a_loss_or_a_recovery_within_its_error_is_not_seen():
    warm, scratch = ("cifar10", "cnn", "warm-start"), ("cifar10", "cnn", "single-task")
    plain = {(*scratch, "vanilla"): [0.65, 0.651, 0.652], (*warm, "vanilla"): [0.61, 0.66, 0.64]}
    first, recovered, *_ = sentences(made_up(plain | {(*warm, "swr"): [0.7] * 3}))
    assert "is not seen to on CIFAR-10 CNN (warm start: 1.43 points [" in first
    assert recovered == "That is not known, since SWR was tried on no such loss."
    lost = plain | {(*warm, "vanilla"): [0.60, 0.602, 0.601]}
    swr = {(*scratch, "swr"): [0.70, 0.71, 0.72], (*warm, "swr"): [0.66, 0.67, 0.68]}
    first, recovered, *_ = sentences(made_up(lost | swr))
    assert "loses accuracy on CIFAR-10 CNN" in first
    assert "that is +1.00 points [-" in recovered and "so whether it recovers is open" in recovered


def test_without_records_the_sentences_promise_nothing():
    first, recovered, gained, decay, unknown = sentences(tried(cifar10_limited_access={"l2": 0.6}))
    assert "not measured" in first and "not known" in recovered
    assert gained == "Against plain training SWR was not tried."
    assert decay == "Against weight decay SWR was not tried."
    assert unknown.startswith("25 of the paper's 25 settings")


def test_noisy_comparisons_are_counted_as_unknown():
    noisy = made_up(
        {
            ("cifar10", "cnn", "single-task", "vanilla"): [0.60, 0.66, 0.72],
            ("cifar10", "cnn", "single-task", "swr"): [0.61, 0.70, 0.67],
            ("cifar10", "cnn", "single-task", "l2"): [0.70, 0.62, 0.66],
        }
    )
    *_, gained, decay, unknown = sentences(noisy)
    assert "not to be told from it in 1" in gained and "not to be told from it in 1" in decay
    assert "2 of these 2 comparisons, for which the seeds are too few" in unknown


# ---------------------------------------------------------------------------- every comparison

TITLES = {page: page.replace("_", " ") for page in [*CHAPTERS.values(), "errata", "balancedness"]}


def test_every_comparison_has_a_row_with_interval_margin_words_and_link():
    late = records(
        vanilla=[0.60, 0.62, 0.61, 0.63],
        l2=[0.70, 0.72, 0.71, 0.70],
        swr=[0.75, 0.74, 0.76, 0.73],
        head_reset=[0.7, 0.7],  # too few seeds for a row
    )
    table = verdicts.all_comparisons(late)
    page = forest(table, TITLES)
    rows = re.findall(r"<li data-chapter.*?</li>", page)
    run = table[table["n"] > 2]
    assert len(rows) == len(run.drop_duplicates(["setting", "method", "rival", "estimate"])) > 2
    for case in run.itertuples():
        text = verdicts.in_points(case.estimate, case.low, case.high, unit="")
        (row,) = (r for r in rows if f"<b>{case.comparison}</b>" in r)
        assert text in row and f"margin {100 * case.margin:g}" in row
        assert badge(case.word) in row and 'href="../notebooks/warm_start.html"' in row
        assert f'aria-label="{case.comparison}, {case.setting}: {text}' in row
    for order in ("chapter", "difference", "word"):
        ranks = [int(re.search(rf'data-{order}="(\d+)"', row)[1]) for row in rows]
        assert sorted(ranks) == list(range(len(rows)))
        assert f'data-by="{order}"' in page
    assert "<b>SWR − vanilla</b>" in by_difference(page)[0]
    waiting = table[table["n"] < 3].drop_duplicates(["setting", "method", "rival"])
    assert f"{len(waiting)} further comparisons were not run" in page


def by_difference(page):
    rows = re.findall(r"<li data-chapter.*?</li>", page)
    return sorted(rows, key=lambda row: int(re.search(r'data-difference="(\d+)"', row)[1]))


def test_differences_are_sorted_by_what_matters_in_their_setting():
    both = {"vanilla": 0.60, "swr": 0.62}
    trained = tried(cifar10_warm_start=both, mnist_warm_start={"vanilla": 0.97, "swr": 0.98})
    rows = by_difference(forest(verdicts.all_comparisons(trained), TITLES))
    assert "MNIST MLP" in rows[0] and "+1.00 [" in rows[0] and "+2.00 [" in rows[1]


def test_a_mark_is_drawn_in_margins_and_cut_with_an_arrow():
    drawn = mark(0.02, 0.01, 0.03, margin=0.01)
    assert 'class="interval" d="M1.00 0H3.00"' in drawn and 'class="point" d="M2.00 0h0"' in drawn
    assert '<rect class="band" x="-1" y="-1" width="2"' in drawn and "beyond" not in drawn
    far = mark(-0.2, -0.3, 0.01, margin=0.01)
    assert 'd="M-8.00 0H1.00"' in far and far.count("beyond") == 1 and "point" not in far
    assert "L-8 0L" in far
