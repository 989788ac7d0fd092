"""The first rule: every word, from intervals and thresholds alone."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from swrlib import verdicts
from swrlib.papers import Accuracy, Claim
from swrlib.statistics import NO_INTERVAL, Interval, paired_interval
from swrlib.verdicts import first_rule
from swrlib.verdicts.first_rule import (
    cell_verdict,
    comparable_verdict,
    ordering_verdict,
    quarter_range,
    same_verdict,
)

Q = 0.004
MNIST = ("mnist", "mlp", "single-task")


@pytest.mark.parametrize(
    ("difference", "sd", "n", "printed_sd", "verdict"),
    [
        (0.001, 0.001, 5, 0.001, "agrees"),
        (-0.001, 0.001, 5, 0.001, "agrees"),
        (0.001, 0.001, 5, 0.009, "compatible"),
        # Our own part reaches further than q, and less far than 2q.
        (0.001, 0.0045, 5, 0.009, "undecided"),
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


@pytest.mark.parametrize(
    ("kind", "printed", "margin", "threshold"),
    [
        ("ordering", Interval(0.01, 0.0, 0.02), None, 0.005),
        ("best", Interval(-0.01, 0.0, 0.02), None, quarter_range(*MNIST)),
        ("loses less", NO_INTERVAL, None, quarter_range(*MNIST)),
        ("ordering", NO_INTERVAL, 0.02, 0.02),
    ],
)
def test_the_threshold_is_half_the_printed_difference_or_q(kind, printed, margin, threshold):
    claim = Claim("made-up", kind, "nowhere", "It is so.", margin=margin)
    for high, word in ((0.99 * threshold, "not reproduced"), (1.01 * threshold, "undecided")):
        interval = Interval(0.0, -threshold, high)
        assert first_rule.comparison_word(claim, MNIST, interval, printed) == word


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
    assert first_rule.combined(several) == one
