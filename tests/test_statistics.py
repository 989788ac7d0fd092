"""Statistics against SciPy, statsmodels and closed forms."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from swrlib.papers import SWR as paper
from swrlib.statistics import (
    Estimate,
    alike,
    combined,
    contrast,
    holm,
    mean_of,
    of_mean,
    paired_interval,
    prediction_interval,
)

moments = st.tuples(st.floats(0, 1), st.floats(1e-5, 0.1), st.integers(2, 20))


def sample(mean, sd, n):
    values = np.linspace(-1, 1, n)
    return mean + sd * values / values.std(ddof=1)


def block(*, methods=4, seeds=5, noise=(1.0,), shift=0.0, seed=0):
    """Return made-up values: methods a, b, … differ by one each; seeds shift all of them."""
    random = np.random.default_rng(seed)
    names = [chr(97 + i) for i in range(methods)]
    spreads = np.resize(noise, methods)
    values = spreads * random.normal(size=(seeds, methods)) + np.arange(methods)
    return pd.DataFrame(values + shift * random.normal(size=(seeds, 1)), columns=names)


@given(moments, moments)
def test_welch_equals_scipy(a, b):
    expected = stats.ttest_ind(sample(*a), sample(*b), equal_var=False).confidence_interval(0.95)
    interval = combined([of_mean(*a), of_mean(*b)], (1, -1), welch=True).interval()
    assert interval.low == pytest.approx(expected.low, abs=1e-10)
    assert interval.high == pytest.approx(expected.high, abs=1e-10)
    assert interval.difference == pytest.approx(a[0] - b[0])
    parts = [Estimate(mean, sd / np.sqrt(n), n - 1) for mean, sd, n in (a, b)]
    found = combined(parts, (1, -1), welch=True)
    larger = max((a, b), key=lambda side: (side[1] ** 2 / side[2], -side[2]))
    assert combined(parts, (1, -1)) == (*found[:2], larger[2] - 1)
    assert combined(parts, (1, -1)).degrees <= found.degrees + 1e-9 or a[2] != b[2]


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=10))
def test_paired_equals_scipy(pairs):
    a, b = np.array(pairs).T
    assume((a - b).std() > 1e-6)
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    interval = paired_interval(a, b)
    assert interval.low == pytest.approx(expected.low, abs=1e-10)
    assert interval.high == pytest.approx(expected.high, abs=1e-10)
    gaps = pd.Series(a - b)
    estimate = of_mean(gaps.mean(), gaps.std(), len(gaps))
    assert estimate.interval() == pytest.approx(interval, abs=1e-10)


def test_intervals_take_arrays_and_no_variance():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 7, 5))
    many = paired_interval(a, b)
    one = paired_interval(a[3], b[3])
    assert (many.low[3], many.high[3]) == pytest.approx((one.low, one.high))
    still = [of_mean(0.5, 0.0, 5), of_mean(0.25, 0.0, 3)]
    assert combined(still, (1, -1), welch=True).interval() == (0.25, 0.25, 0.25)
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
        gap = combined([of_mean(*a), of_mean(*b)], (1, -1), welch=True).interval()
        assert (gap.low > 0) == (pair == ("tinyimagenet", "vgg16"))


# ---------------------------------------------------------------------------------- p values


@pytest.mark.parametrize("bound", [-0.3, 0.0, 0.2])
def test_one_sided_tests_equal_scipys(bound):
    values = sample(0.1, 0.4, 6)
    estimate = Estimate(values.mean(), values.std(ddof=1) / np.sqrt(6), 5)
    above = stats.ttest_1samp(values, bound, alternative="greater").pvalue
    assert estimate.above(bound) == pytest.approx(above)
    assert estimate.below(bound) == pytest.approx(1 - above)
    low, high = estimate.interval(0.9)[1:]
    assert (estimate.above(bound) <= 0.05) == (low >= bound)
    assert (estimate.below(bound) <= 0.05) == (high <= bound)


def test_equivalence_is_the_narrower_interval_within_the_margin():
    estimate = Estimate(np.array([0.0, 0.3, -0.3, 0.0]), np.array([0.1, 0.1, 0.1, 0.9]), 8)
    low, high = estimate.interval(0.9)[1:]
    for margin in (0.1, 0.2, 0.45, 0.5, 2.0):
        inside = (low > -margin) & (high < margin)
        assert ((estimate.within(margin) <= 0.05) == inside).all()


def test_no_error_is_certainty_and_nothing_at_all_is_none():
    assert Estimate(1.0, 0.0, 4).above() == 0 and Estimate(1.0, 0.0, 4).below() == 1
    assert Estimate(0.0, 0.0, 4).above() == Estimate(0.0, 0.0, 4).below() == 0.5
    assert Estimate(0.0, 0.0, 4).within(0.1) == 0


@settings(max_examples=25)  # statsmodels takes its time
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_equals_statsmodels(p):
    np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1], atol=1e-12)
    np.testing.assert_allclose(holm([p, p[::-1]])[1], holm(p[::-1]))


def test_a_faithful_repetition_falls_into_the_prediction_interval_in_95_percent():
    random = np.random.default_rng(0)
    original, again = random.normal(size=(2, 40_000, 5))
    low, high = prediction_interval(original.mean(-1), original.std(-1, ddof=1), 5, 3)
    inside = (low <= again[:, :3].mean(-1)) & (again[:, :3].mean(-1) <= high)
    assert inside.mean() == pytest.approx(0.95, abs=0.004)
    half = stats.t.ppf(0.975, 4) * 0.01 * np.sqrt(1 / 5 + 1 / 3)
    assert prediction_interval(0.5, 0.01, 5, 3) == pytest.approx((0.5 - half, 0.5 + half))


# ------------------------------------------------------------------------------ block design


@pytest.mark.parametrize("missing", [0, 2])
def test_the_block_design_equals_another_parametrization_of_statsmodels(missing):
    values = block(shift=0.5, noise=[1.0], seed=3)
    values.iloc[range(missing), range(missing)] = np.nan
    estimate, way = contrast(values, {"a": 1.0, "c": -1.0})
    assert way == "pooled" and alike(values)
    long = values.rename_axis("seed").reset_index().melt("seed", var_name="m").dropna()
    fit = smf.ols("value ~ C(m, Treatment('c')) + C(seed)", long).fit()
    name = "C(m, Treatment('c'))[T.a]"
    assert estimate == pytest.approx((fit.params[name], fit.bse[name], fit.df_resid))
    assert estimate.interval()[1:] == pytest.approx(fit.conf_int().loc[name].tolist())


def test_with_all_runs_the_error_is_that_of_pencil_and_paper():
    values = block(shift=0.5, noise=[1.0], seed=3)
    rest = values - values.mean() - values.mean(axis=1).to_numpy()[:, None] + values.stack().mean()
    error = np.sqrt(2 * (rest**2).sum().sum() / 12 / 5)
    estimate, _ = contrast(values, {"a": 1.0, "c": -1.0})
    assert estimate == pytest.approx((values["a"].mean() - values["c"].mean(), error, 12))
    half, _ = contrast(values, {"a": 0.5, "b": 0.5, "c": -1.0})
    assert half.error == pytest.approx(error * np.sqrt(1.5 / 2))


def test_of_two_methods_the_block_design_is_the_pairs():
    values = block(methods=2, noise=[1.0], seed=5)
    values["b"] += 2 * (values["a"].mean() - values["a"])  # opposite: pairs are the wider ones
    estimate, way = contrast(values, {"a": 1.0, "b": -1.0})
    assert way == "pooled"
    assert estimate.interval() == pytest.approx(paired_interval(values["a"], values["b"].array))


@pytest.mark.parametrize("noise", [[8.0, 1, 1, 1], [1, 1, 1, 8.0]])
def test_spreads_that_differ_get_welchs_interval(noise):
    values = block(noise=noise, seed=1)
    assert not alike(values)
    estimate, way = contrast(values, {"a": 1.0, "b": -1.0})
    gap, error = values["a"].mean() - values["b"].mean(), np.hypot(*values[["a", "b"]].sem())
    assert way == "Welch" and estimate == pytest.approx((gap, error, len(values) - 1))
    assert gap / error == pytest.approx(
        stats.ttest_ind(values["a"], values["b"], equal_var=False).statistic
    )


def test_the_pooled_error_is_never_narrower_than_the_methods_own():
    for seed in range(40):
        values = block(seed=seed)
        own = stats.ttest_ind(values["a"], values["b"], equal_var=False)
        estimate, way = contrast(values, {"a": 1.0, "b": -1.0})
        least = (values["a"].mean() - values["b"].mean()) / own.statistic
        assert estimate.error >= least - 1e-12
        if alike(values):
            assert (way == "Welch") == (estimate.error == pytest.approx(least))


def test_alike_is_bartletts_test_without_the_seeds_means():
    for seed in range(20):
        values = block(shift=3.0, noise=[1, 1, 1, 2.5], seed=seed)
        rest = values.sub(values.mean(axis=1), axis=0)
        p = stats.bartlett(*(rest[name] for name in rest)).pvalue
        assert alike(values) == (p > 0.10)
        assert alike(values) == alike(values.add(np.arange(5.0) ** 2, axis=0))


def test_a_mean_has_all_methods_spread_unless_its_own_is_wider():
    for seed in range(20):
        values = block(seed=seed)
        pooled, own = values.var().mean(), values["a"].var()
        wide = alike(values) and pooled > own
        expected = (np.sqrt((pooled if wide else own) / 5), 16 if wide else 4)
        assert mean_of(values, "a")[1:] == pytest.approx(expected)
    values = block(noise=[1, 1, 1, 30.0])
    assert mean_of(values, "a")[1:] == pytest.approx((values["a"].std() / np.sqrt(5), 4))


def test_one_value_is_no_estimate():
    values = block()
    values.loc[1:, "a"] = np.nan
    assert np.isnan(contrast(values, {"a": 1.0, "b": -1.0})[0].difference)
    assert np.isnan(contrast(values, {"z": 1.0, "b": -1.0})[0].difference)
