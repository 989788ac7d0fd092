"""What a change of data costs each method, against its own training from the start."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from swrlib import load_records
from swrlib.claims.plasticity import own_gaps, written


def course(stream, stages, **methods):
    """Make records: {method: [accuracy of each seed]}, one value for all epochs of a stage."""
    rows = []
    for method, seeds in methods.items():
        for seed, values in enumerate(seeds):
            epoch = 0
            for stage, (epochs, value) in enumerate(zip(stages, values, strict=True), 1):
                for stage_epoch in range(1, epochs + 1):
                    epoch += 1
                    about = {"dataset": "cifar10", "model": "cnn", "stream": stream}
                    about |= {"method": method, "seed": seed, "run": f"{method} {seed}"}
                    where = {"stage": stage, "stage_epoch": stage_epoch, "epoch": epoch}
                    rows.append(about | where | {"test_accuracy": value})
    return pd.DataFrame(rows)


def ends(values):
    """Return the two stages of a warm start that ends at each value, by seed."""
    return [(0.1, value) for value in values]


def test_a_method_is_compared_with_itself_without_a_change():
    """Not with its end: with where it was after as many epochs as the last stage has."""
    warm = course("warm-start", (15, 15), swr=[(0.1, 0.70), (0.1, 0.71)], l2=[(0.1, 0.6)])
    single = course(
        "single-task", (15, 15), swr=[(0.72, 0.9), (0.75, 0.9), (0.1, 0.1)], vanilla=[(0.5, 0.5)]
    )
    single = single[single["seed"] < 2]
    (row,) = own_gaps(warm, single).itertuples()
    assert (row.method, row.seeds) == ("swr", 2)
    assert (row.start, row.end) == (pytest.approx(0.735), pytest.approx(0.705))
    assert row.gap == pytest.approx(0.03) and row.low < 0.03 < row.high
    other = single.assign(dataset="cifar100")
    assert not len(own_gaps(warm, other)) and not len(own_gaps(warm[:0], single))
    (one,) = own_gaps(warm, single[single["seed"] == 0]).itertuples()
    assert one.seeds == 1 and one.low != one.low and one.word == "–"
    assert written(own_gaps(warm, single[single["seed"] == 0])).loc["SWR", "lost"] == "–"


def test_the_ten_last_epochs_count_on_both_sides_and_the_last_stage_of_several():
    stream = course("full-access", (3, 3, 12), swr=[(0.1, 0.2, 0.70)] * 3)
    single = course("single-task", (12, 9), swr=[(0.75, 0.9)] * 3)
    for frame in (stream, single):
        frame["test_accuracy"] += 0.001 * frame["seed"]
    stream.loc[stream["epoch"] == 8, "test_accuracy"] = 0.0  # the eleventh from the end
    stream.loc[stream["epoch"] == 18, "test_accuracy"] += 0.1
    single.loc[single["epoch"] == 2, "test_accuracy"] = 0.0
    (row,) = own_gaps(stream, single).itertuples()
    assert row.end == pytest.approx(0.711) and row.start == pytest.approx(0.751)


@pytest.mark.parametrize(
    ("lost", "spread", "word"),
    [
        (0.03, 0.001, "differs"),
        (0.0, 0.001, "equal within the margin"),
        (0.01, 0.02, "too noisy to say"),
    ],
)
def test_every_word_and_what_is_recovered(lost, spread, word):
    noise = spread * np.array([-1.0, 0.2, 1.0, -0.2])
    warm = course(
        "warm-start",
        (12, 12),
        vanilla=ends(0.60 + np.roll(noise, 1)),
        swr=ends(0.70 - lost + noise),
    )
    single = course(
        "single-task",
        (12,),
        vanilla=[(x,) for x in 0.65 + np.roll(noise, 2)],
        swr=[(x,) for x in 0.70 + np.roll(noise, 3)],
    )
    table = own_gaps(warm, single).set_index("method")
    assert table.loc["swr", "word"] == word
    assert table.loc["swr", "gap"] == pytest.approx(lost)
    assert table.loc["swr", "recovered"] == pytest.approx(0.05 - lost)
    assert np.isnan(table.loc["vanilla", "recovered"])
    text = written(own_gaps(warm, single))
    assert text.loc["SWR", "lost"].startswith(f"{100 * lost:+.2f} [")
    assert text.loc["vanilla", "less than vanilla by"] == "–"


def test_the_committed_gaps_against_scipy(root):
    records = load_records(root / "results", scale="paper", split="all")
    single = records[records["stream"] == "single-task"]
    warm = records[records["stream"] == "warm-start"]
    table = own_gaps(warm, single).set_index(["dataset", "method"])

    def late(rows, epoch):
        rows = rows[rows["epoch"].between(epoch - 9, epoch)]
        return rows.astype({"test_accuracy": float}).groupby("seed")["test_accuracy"].mean()

    for dataset, method in (("cifar10", "vanilla"), ("cifar10", "l2"), ("mnist", "vanilla")):
        chosen = {"dataset": dataset, "method": method}
        chosen["model"] = "cnn" if dataset == "cifar10" else "mlp"
        start, end = (
            late(frame[(frame[list(chosen)] == pd.Series(chosen)).all(axis=1)], epoch)
            for frame, epoch in ((single, 100), (warm, 200))
        )
        row = table.loc[(dataset, method)]
        expected = stats.ttest_ind(start, end, equal_var=False).confidence_interval(0.95)
        assert row["gap"] == pytest.approx(start.mean() - end.mean())
        assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high))
    # Plain training loses plasticity on CIFAR-10; on MNIST there is none to lose.
    assert table.loc[("cifar10", "vanilla"), "low"] > 0.005
    assert abs(table.loc[("mnist", "vanilla"), "gap"]) < 0.0015
