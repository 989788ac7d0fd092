"""The front page's numbers, and those on a warm start, on made-up records."""

import re

import pytest
from test_verdicts import made_up

from swrlib.overview import Overview, repair
from swrlib.verdicts import final_accuracy

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
    assert overview.fill(text) == "71.5% of 4, +10.00 points [+10.00, +10.00]"
    assert overview.fill(f"[[side: {here}\nl2 vanilla]] it") == "above it"
    assert overview.fill("[[collapsed:]]") == ""
    assert overview.fill("[[seeds: warm-start cifar10 cnn]]") == "3–4"
    with pytest.raises(AttributeError):
        overview.fill("[[means: warm-start cifar10 cnn swr]]")


def test_differences_are_paired_over_common_seeds(overview):
    assert overview.interval(*HERE, "swr", "vanilla").difference == pytest.approx(0.1)
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
    assert cells[4].startswith("+10.00 [") and cells[5] == "L2, 71.0%" and len(cells) == 7


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
        return final_accuracy(records(**methods))

    sentence, table = repair(finals(**harmed))
    assert sentence.startswith("From scratch 65.7%, after the warm start 61.0%, +4.67 points [")
    assert sentence.endswith("the warm start did harm.")
    assert list(table.index) == ["SWR"] and table.loc["SWR", "ends at, %"] == "70.0"
    assert table.loc["SWR", "minus from scratch"].startswith("+4.33 [")
    same = harmed | {"vanilla": [0.65, 0.66, 0.67]}
    assert repair(finals(**same))[0].endswith("no harm is seen, so none to repair.")
    sentence, table = repair(finals(vanilla=[0.6] * 3, swr=[0.7] * 3))
    assert sentence == "" and table.loc["SWR", "minus from scratch"] == "–"
