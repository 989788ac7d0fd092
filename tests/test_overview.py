"""The front page's numbers, on made-up records."""

import pytest
from test_verdicts import made_up

from swrlib.overview import Overview

HERE = ("warm-start", "cifar10", "cnn")


def records(**methods):
    return made_up({("cifar10", "cnn", "warm-start", name): a for name, a in methods.items()})


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
    assert Overview(records(swr=[0.7] * 3)).table().count("\n") == 1  # nothing beside it


def test_the_table_has_the_best_of_the_others(overview):
    (line,) = overview.table().splitlines()[2:]
    assert line.startswith("| warm start, CIFAR-10 CNN | 3–4 | 61.0% | 71.5% | +10.00 [")
    assert "| L2, 71.0% |" in line


def test_only_runs_of_the_papers_setting_count():
    # A run in another arithmetic is an experiment beside the paper's.
    half = made_up({("cifar10", "cnn", "warm-start", "swr"): [0.9] * 3}, dtype="bfloat16")
    assert not Overview(half).accuracy
    printed = Overview(made_up({("cifar10", "cnn", "single-task", "l2"): [0.7219] * 3}))
    assert printed.beyond("single-task", "cifar10", "cnn", "l2") == "+1.0 points"
    assert printed.printed("single-task", "cifar10", "cnn", "swr", "l2") == "+0.4 points"
