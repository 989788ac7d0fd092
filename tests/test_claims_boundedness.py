"""Theorem 2 on records: the verdicts on made-up ones, crossed or not; the constructed updates."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from swrlib import build_model, verdicts
from swrlib.claims import boundedness, norms
from swrlib.theory import norm_bound
from swrlib.theory.boundedness import largest_adam_step, scalar_courses, unbounded_norm

YES, NO, NOT_RUN = verdicts.REPRODUCED, verdicts.NOT_REPRODUCED, verdicts.NOT_RUN
PLACE = ("mnist", "mlp")
NETWORKS = {PLACE: build_model("mlp", SimpleNamespace(shape=(1, 28, 28), classes=range(10)))}
LAYERS = [layer.name for layer in boundedness.weighted_layers(NETWORKS[PLACE])]
NO_ERRORS = {PLACE: dict.fromkeys(LAYERS, 0.0)}
LAM, GROWTH, STEPS = 0.1, 0.5, 10


def made_up(
    method: str = "swr", seeds: int = 2, scale: str = "paper", epochs: int = 20
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return records and measures of norms that start at 2 and whose square grows by `GROWTH`."""
    lam = LAM if method == "swr" else 0.0
    before, _ = scalar_courses(2.0, lam, GROWTH, STEPS * epochs)
    records, measures = [], []
    for seed in range(seeds):
        about = {"run": f"{method}{seed}", "dataset": "mnist", "model": "mlp", "scale": scale}
        about |= {"method": method, "seed": seed, "diverged": False}
        about |= dict.fromkeys(("lam", "lam_features", "lam_classifier"), lam or math.nan)
        for epoch in range(epochs + 1):
            moment = {"epoch": epoch, "step": STEPS * epoch}
            last = before[moment["step"] - 1] if epoch else 2.0
            after = lam * 2.0 + (1 - lam) * last
            records.append(about | moment | {"weight_norms": [after] * 3, "bias_norms": [0.0] * 3})
            if epoch:
                values = {boundedness.GROWTH: GROWTH, boundedness.FACTOR: after / last}
                values |= {boundedness.BEFORE: last, boundedness.LAST: last}
                measures += [
                    about | moment | {"measure": name, "layer": layer, "value": value}
                    for name, value in values.items()
                    for layer in LAYERS
                ]
    return pd.DataFrame(records), pd.DataFrame(measures)


def with_bounds(records, measures, **options) -> pd.DataFrame:
    table = norms.norms_by_layer(records, measures)
    return boundedness.beside_bounds(table, measures, NETWORKS, NO_ERRORS, **options)


def raised(measures: pd.DataFrame, name: str, factor: float) -> pd.DataFrame:
    """Multiply one layer's measure of one seed at one epoch."""
    here = (measures["measure"] == name) & (measures["layer"] == "linear2")
    here &= (measures["seed"] == 1) & (measures["epoch"] == 20)
    assert here.sum() == 1
    return measures.assign(value=measures["value"].where(~here, factor * measures["value"]))


# Theorem 2


@pytest.mark.parametrize(("factor", "word"), [(1.0, YES), (1.001, NO)])
def test_one_norm_above_the_bound_refutes_the_theorem(factor, word):
    """The made-up norms come so near the bound that a thousandth more is too much."""
    records, measures = made_up()
    measures = raised(measures, boundedness.BEFORE, factor)
    bounds = with_bounds(records, measures)
    after = boundedness.crossings_after(records, bounds)
    verdict = boundedness.theorem_verdict(bounds, [after, (0, 0)])
    assert verdict.claim.id == "no-unbounded-growth" and verdict.verdict == word
    assert f"{len(bounds)} norms before a rescaling, {len(bounds)} of them" in verdict.detail
    assert f"; {int(word == NO)} crossed." in verdict.detail


def test_one_norm_above_the_bound_after_a_rescaling_refutes_it_too():
    records, measures = made_up()
    bounds = with_bounds(records, measures)
    last = (records["epoch"] == 20) & (records["seed"] == 0)
    records.loc[last, "weight_norms"] = pd.Series([[2.0, 2.0, 9.0]], records.index[last])
    after = boundedness.crossings_after(records, bounds)
    assert after == (1, 2 * 20 * 3)
    assert boundedness.theorem_verdict(bounds, [after]).verdict == NO


def test_short_trainings_count_but_are_not_of_the_papers_length():
    bounds = with_bounds(*made_up(scale="quick"))
    detail = boundedness.theorem_verdict(bounds, [(0, 7)]).detail
    assert "120 norms before a rescaling, 0 of them" in detail and "and 7 after one" in detail


def test_without_swr_theorem_2_is_not_run():
    bounds = with_bounds(*made_up("vanilla"))
    assert not len(bounds)
    assert boundedness.theorem_verdict(bounds, [(0, 0)]).verdict == NOT_RUN


def test_the_bounds_are_those_of_each_run_and_of_the_growth_so_far():
    records, measures = made_up()
    measures.loc[
        (measures["measure"] == boundedness.GROWTH) & (measures["epoch"] < 3), "value"
    ] /= 4
    bounds = with_bounds(records, measures).sort_values("epoch")
    first, last = (bounds.iloc[place] for place in (0, -1))
    for row, growth in ((first, GROWTH / 4), (last, GROWTH)):
        assert (row["B"], row["pull"], row["start"]) == (growth, LAM, 2.0)
        assert row["sharp"] == norm_bound(2.0, LAM, growth, when="before")
        assert row["printed"] == norm_bound(2.0, LAM, growth, kind="printed")
        assert row["sharp"] < row["sharp, rounded"] < row["sharp"] * (1 + 1e-4)
        assert row["after"] < row["sharp"] < row["printed"]
    longest = 1e-3 * largest_adam_step() * math.sqrt(784 * 100)
    of_first = bounds[bounds["layer"] == "linear1"]["Adam"]
    np.testing.assert_allclose(of_first, 2 + longest / LAM)
    np.testing.assert_allclose(last["norm"], last["sharp"], rtol=1e-4)


def test_a_wrong_bound_is_crossed():
    def one_step_only(n, lam, growth, when="after", rounding=0.0):
        return math.sqrt(n**2 + growth)

    assert boundedness.crossings(with_bounds(*made_up(), bound=one_step_only)) > 100


def test_rounding_is_measured_on_tensors_of_the_weights_shape():
    errors = [boundedness.norm_error(torch.zeros(shape)) for shape in ((10, 10), (100, 784))]
    assert all(0 < error < 1e-4 for error in errors)


# Growth without SWR


def test_plain_norms_stay_below_the_root_or_do_not():
    records, measures = made_up("vanilla")
    for factor, above in ((1.0, 0), (1.01, 1)):
        changed = raised(measures, boundedness.LAST, factor)
        table = norms.norms_by_layer(records, changed)
        counts = boundedness.above_the_root(table, changed)
        assert counts == (above, 2 * 20 * 3)
        verdict = boundedness.root_verdict([counts, (0, 0)], 1e-12)
        assert verdict.claim.id == "growth-without"
        assert verdict.verdict == (NO if above else YES)
        assert f"120 norms of plain trainings, {above} above" in verdict.detail
        assert "attain it, to 1e-12" in verdict.detail
    assert boundedness.root_verdict([(0, 0)], 0.0).verdict == NOT_RUN


def test_swapped_methods_are_noticed():
    """Plain norms beside SWR's bound cross it."""
    records, measures = (part.assign(method="swr", lam=LAM) for part in made_up("vanilla"))
    lams = dict.fromkeys(("lam_features", "lam_classifier"), LAM)
    bounds = with_bounds(records.assign(**lams), measures.assign(**lams))
    assert boundedness.theorem_verdict(bounds, [(0, 0)]).verdict == NO


def test_the_exponent_of_growth_is_found_again():
    records, measures = made_up("vanilla", seeds=3)
    fits = boundedness.growth_exponents(norms.norms_by_layer(records, measures))
    assert len(fits) == 9
    np.testing.assert_allclose(fits["p"], 1, rtol=1e-9)
    np.testing.assert_allclose(fits["k"], GROWTH, rtol=1e-9)
    means = boundedness.mean_exponents(fits)
    np.testing.assert_allclose(means["a"], 0.5)
    assert means["n"].tolist() == [3] * 3 and (means["± 95%"] < 1e-6).all()
    flat = norms.norms_by_layer(records.assign(weight_norms=[[2.0] * 3] * len(records)))
    assert boundedness.growth_exponents(flat)["p"].isna().all()


# The biases


def test_a_bias_has_the_factors_of_all_layers_up_to_its_own():
    _, measures = made_up(seeds=1, epochs=1)
    log = (measures[measures["measure"] == boundedness.FACTOR]["value"].iloc[0] - 1) * STEPS
    table = boundedness.factor_products(measures, NETWORKS)
    assert table["bias of"].tolist() == LAYERS and table["λ"].tolist() == [LAM] * 3
    np.testing.assert_allclose(table["left"], np.exp(log * np.array([1, 2, 3])))


def test_biases_grow_where_weights_are_shrunk_and_vanish_where_they_are_enlarged():
    options = {"lam": 0.1, "steps": 50}
    grown, shrunk = (boundedness.follow_biases(1 + a, **options) for a in (0.01, -0.01))
    assert len(grown) == 51 and (grown.iloc[0] == 1).all()
    assert grown["b2"].iloc[-1] < grown["b1"].iloc[-1] < 1
    assert shrunk["b2"].iloc[-1] > shrunk["b1"].iloc[-1] > 1
    # The bias is the product of the factors: the norm over all that the updates did to it.
    np.testing.assert_allclose(shrunk["b1"], shrunk["W1"] / 0.99 ** np.arange(51), rtol=1e-9)
    renewed = boundedness.follow_biases(0.99, retarget_every=10, **options)
    assert renewed["b2"].iloc[-1] < shrunk["b2"].iloc[-1]


# Constructed updates


def test_the_adversary_attains_what_it_must():
    torch.manual_seed(0)
    start, plain = boundedness.follow_adversary(1.0, 0.0, 0.1, 100)
    assert plain[-1] == pytest.approx(unbounded_norm(start, 0.1, 100), rel=1e-12)
    start, held = boundedness.follow_adversary(3.0, 0.1, 0.5, 200)
    sharp = norm_bound(start, 0.1, 0.5, when="before")
    assert max(held) <= sharp * (1 + 1e-12) and held[-1] == pytest.approx(sharp, rel=1e-6)


def test_scalar_courses_approach_the_two_bounds():
    angle, along = scalar_courses(2.0, 0.1, 0.5, 300)
    assert angle[0] == math.sqrt(4.5) and along[0] == 2 + math.sqrt(0.5)
    assert angle[-1] == pytest.approx(norm_bound(2.0, 0.1, 0.5, when="before"))
    assert along[-1] == pytest.approx(norm_bound(2.0, 0.1, 0.5, kind="printed"))
    assert scalar_courses(2.0, 1.0, 0.25, 2) == ([math.sqrt(4.25)] * 2, [2.5] * 2)


@pytest.mark.parametrize("t", [1, 7, 50])
def test_adams_longest_step_is_met_by_growing_gradients(t):
    worst = boundedness.last_adam_step(boundedness.worst_gradients(t))
    assert worst == pytest.approx(largest_adam_step(step=t), rel=1e-9)
    assert boundedness.last_adam_step([1.0] * t) == pytest.approx(1)


def test_adam_with_one_gradient_grows_like_the_number_of_steps():
    drift, growths = boundedness.follow_adam(steps=10, lr=0.01)
    np.testing.assert_allclose(drift, 1 + 0.01 * 20 * np.arange(1, 11), rtol=1e-6)
    assert growths[0] == pytest.approx(1.2**2 - 1) and growths[-1] > growths[0]


def test_swr_scales_up_too():
    verdict = boundedness.downward_verdict()
    assert verdict.claim.id == "scales-down-alone" and verdict.verdict == verdicts.NOT_REPRODUCED
    assert "multiplied by 1.1 at" in verdict.detail  # (0.1 · 2 + 0.9 · 1) / 1
