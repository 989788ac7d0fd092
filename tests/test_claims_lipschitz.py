"""Corollary 2.1: the verdicts on made-up records of every outcome, and the built networks."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from swrlib import build_model, trace_layers, verdicts
from swrlib.claims import lipschitz, norms
from swrlib.theory import adam_norm_bound, norm_bound

YES, NO, NOT_RUN = verdicts.REPRODUCED, verdicts.NOT_REPRODUCED, verdicts.NOT_RUN
DIGITS = norms.IMAGES["mnist"]
IMAGES = {("mnist", "mlp"): DIGITS}
LAYERS = ("linear1", "linear2", "linear3")
NUMBERS = {"lower": 2.0, "spectral": 5.0, "frobenius": 20.0}


def made_up(
    seeds: int = 3, scale: str = "paper", growth: float | None = 0.1, **gains: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return records and measures; SWR's numbers are vanilla's times what is given (0.5)."""
    records, measures = [], []
    for method in ("vanilla", "swr"):
        for seed in range(seeds):
            lam = 0.01 if method == "swr" else math.nan
            about = {"run": f"{method}{seed}", "dataset": "mnist", "model": "mlp", "scale": scale}
            about |= {"method": method, "seed": seed, "lam": lam}
            for epoch in (0, 10):
                moment = about | {"epoch": epoch, "step": 5 * epoch}
                records.append(moment | {"lr": 1e-3, "weight_norms": [3.0, 2.0, 1.5]})
                for kind, value in NUMBERS.items():
                    gain = gains.get(kind, 0.5) if epoch and method == "swr" else 1.0
                    noise = 1 + 0.01 * seed * (1 if method == "swr" else -1)
                    row = {"measure": "lipschitz", "layer": kind, "value": gain * noise * value}
                    measures.append(moment | row)
                for noise in ("0.0", "0.25", "1.0"):
                    value = 0.9 - 0.2 * float(noise) + 0.01 * seed
                    value += 0.05 * float(noise) * (method == "swr")
                    row = {"measure": "noise-accuracy", "layer": noise, "value": value}
                    measures.append(moment | row)
                if epoch and growth is not None:
                    row = {"measure": "growth:max", "value": growth}
                    measures += [moment | row | {"layer": layer} for layer in LAYERS]
    return pd.DataFrame(records), pd.DataFrame(measures)


def judged(records: pd.DataFrame, measures: pd.DataFrame) -> verdicts.Verdict:
    found = lipschitz.constants(measures)
    return lipschitz.bound_verdict(found, lipschitz.ceilings(records, measures, IMAGES))


def test_the_corollary_holds_on_records_that_keep_to_it():
    verdict = judged(*made_up())
    assert verdict.claim.id == "lipschitz-bound" and verdict.verdict == YES
    assert verdict.detail.startswith("In order in 12 records of 6 runs: yes.")
    assert "in 6 of 6 comparisons of 3 runs with SWR" in verdict.detail


@pytest.mark.parametrize("kind", ["lower", "spectral", "frobenius"])
@pytest.mark.parametrize("row", [0, 5, 11])
def test_one_record_out_of_order_refutes_it(kind, row):
    records, measures = made_up()
    here = measures[(measures["measure"] == "lipschitz") & (measures["layer"] == kind)].index[row]
    run, epoch = measures.loc[here, ["run", "epoch"]]
    same = (measures["run"] == run) & (measures["epoch"] == epoch)
    other = measures[same & (measures["measure"] == "lipschitz")].set_index("layer")["value"]
    value = other["frobenius" if kind == "spectral" else "spectral"]
    step = -1 if kind == "frobenius" else 1
    measures.loc[here, "value"] = value * (1 + step * 1e-3)
    assert judged(records, measures).verdict == NO
    measures.loc[here, "value"] = value * (1 + step * 1e-5)
    assert judged(records, measures).verdict == YES, "rounding is allowed for"


def test_a_product_above_the_norms_bounds_refutes_it():
    verdict = judged(*made_up(frobenius=50.0))
    assert verdict.verdict == NO
    assert "12 records of 6 runs: yes" in verdict.detail and "in 3 of 6" in verdict.detail


def test_without_growth_the_bound_on_adams_steps_is_left():
    verdict = judged(*made_up(growth=None))
    assert verdict.verdict == YES and "in 3 of 3 comparisons" in verdict.detail


def test_without_swr_or_records_it_is_not_run():
    records, measures = made_up()
    found = lipschitz.constants(measures)
    nothing = lipschitz.ceilings(records, measures, IMAGES).iloc[:0]
    assert lipschitz.bound_verdict(found, nothing).verdict == NOT_RUN
    held = lipschitz.ceilings(records, measures, IMAGES)
    assert lipschitz.bound_verdict(found[:0], held).verdict == NOT_RUN


def test_ceilings_are_products_of_the_norms_bounds():
    records, measures = made_up(frobenius=0.5)
    held = lipschitz.ceilings(records, measures, IMAGES)
    starts, sizes = (3.0, 2.0, 1.5), (784 * 100, 100 * 100, 100 * 10)
    theorem = math.prod(norm_bound(start, 0.01, 0.1) for start in starts)
    adam = math.prod(
        adam_norm_bound(start, 0.01, lr=1e-3, entries=size)
        for start, size in zip(starts, sizes, strict=True)
    )
    np.testing.assert_allclose(held["Theorem 2"], theorem, rtol=1e-5)
    np.testing.assert_allclose(held["any Adam"], adam, rtol=1e-5)
    np.testing.assert_allclose(held["Frobenius product"], [20.0, 20.2, 20.4])


def test_a_normalization_layer_has_no_variance_at_worst():
    network = build_model("cnn-bn", DIGITS)
    before = [p.clone() for p in network.parameters()]
    layers = [layer for layer in trace_layers(network) if layer.weight is not None]
    norms = [1.0] * len(layers)
    factor = {"convolution": 5.0, "normalization": 1 / math.sqrt(1e-5), "linear": 1.0}
    expected = math.prod(factor[layer.kind] for layer in layers)
    assert lipschitz.ceiling(network, (1, 28, 28), norms) == pytest.approx(expected, rel=1e-4)
    after = network.parameters()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True)), "left as it is"


# "Similarly"


def products(**changes: float) -> pd.DataFrame:
    row = {"plain product": 1.0, "lower": 2.0, "spectral": 3.0, "frobenius": 4.0}
    names = ("one", "two")
    return pd.DataFrame([row | {"network": names[0]}, row | changes | {"network": names[1]}])


@pytest.mark.parametrize(
    ("changes", "word"),
    [({}, YES), ({"lower": 3.1}, NO), ({"spectral": 4.1}, NO), ({"frobenius": math.inf}, NO)],
)
def test_one_network_out_of_order_refutes_similarly(changes, word):
    verdict, _ = lipschitz.similarly_verdicts(products(**changes))
    assert verdict.claim.id == "lipschitz-similarly" and verdict.verdict == word
    assert f"all 2 networks built below: {'yes' if word == YES else 'no'}" in verdict.detail


def test_similarly_without_networks_is_not_run():
    (verdict,) = lipschitz.similarly_verdicts(products()[:0])
    assert verdict.verdict == NOT_RUN


def test_networks_that_stretch_more_than_the_plain_product_are_named():
    table = products(**{"plain product": 1.99})
    assert lipschitz.stretching(table) == ["one"]
    remark = lipschitz.similarly_verdicts(table)[1]
    assert (remark.claim.id, remark.verdict) == (
        "lipschitz-plain-product",
        verdicts.second_rule.REMARK,
    )
    assert remark.detail == f"1 of {len(table)} networks stretch more than it."


def test_the_built_networks_compute_what_they_are_built_for():
    networks = lipschitz.built_networks(DIGITS)
    ones = torch.ones(1, 1, 28, 28)
    for network in networks.values():
        assert not network.training
        # 5×5 ones, pooled, 5×5 ones, pooled; what is left of the channel, 4×4, and the classifier.
        assert network(ones).flatten()[0].item() > 0
    first, second = (networks[name](ones) for name in ("CNN-BN, ones", "CNN-BN, shrunk"))
    torch.testing.assert_close(first, second, rtol=0.1, atol=0)
    old, new = (lipschitz.plain_product(networks[f"CNN-BN, {x}"]) for x in ("ones", "shrunk"))
    assert new == pytest.approx(0.01 * old)
    weights = [x.weight.detach().norm().item() for x in trace_layers(networks["CNN, ones"])]
    assert lipschitz.plain_product(networks["CNN, ones"]) == pytest.approx(math.prod(weights))


# Beside it


def test_what_was_found_stands_beside_what_is_promised():
    records, measures = made_up()
    held = lipschitz.ceilings(records, measures, IMAGES)
    table = lipschitz.looseness(lipschitz.constants(measures), held)
    assert (
        table.index.tolist() == [("MNIST MLP", "vanilla"), ("MNIST MLP", "SWR")] or len(table) == 2
    )
    plain, soft = (row for _, row in table.iterrows())
    assert plain["lower"] == pytest.approx(2 * (0.99 * 0.98) ** (1 / 3))
    assert soft["Frobenius"] == pytest.approx(10 * (1.01 * 1.02) ** (1 / 3))
    assert soft["ratio"] == pytest.approx(10) and soft["any Adam"] > soft["Theorem 2"]
    assert np.isnan(plain["any Adam"])


@pytest.mark.parametrize(
    ("gains", "outcome", "sure"),
    [
        ({"lower": 0.5, "spectral": 0.3}, "is below 1", True),
        ({"lower": 0.5, "spectral": 0.5}, "is below 1", False),
        ({"lower": 2.0}, "is above 1", False),
        ({"lower": 0.99}, "cannot be distinguished from 1", False),
    ],
)
def test_ratios_are_paired_over_seeds(gains, outcome, sure):
    table, words = lipschitz.paired_ratios(lipschitz.constants(made_up(**gains)[1]))
    assert words[0].endswith(f"the ratio of lower bounds {outcome};")
    order = "in the same order" if sure else "not ordered by these bounds"
    assert words[1] == f"  the true constants are {order}."
    mean = gains["lower"] * math.prod((1 + x) / (1 - x) for x in (0.01, 0.02)) ** (1 / 3)
    (row,) = table.to_dict("records")
    assert row["lower bound"].startswith(f"{mean:.2f} [") and row["seeds"] == 3


def test_one_seed_has_ratios_and_no_interval():
    table, words = lipschitz.paired_ratios(lipschitz.constants(made_up(seeds=1)[1]))
    assert words == [] and table["lower bound"].tolist() == ["0.50"]
    _, measures = made_up(seeds=1)
    alone = measures[measures["method"] == "vanilla"]
    table, words = lipschitz.paired_ratios(lipschitz.constants(alone))
    assert words == [] and table["lower bound"].tolist() == ["–"]


def test_noise_is_compared_within_seeds_at_the_end():
    _, measures = made_up()
    measures.loc[measures["epoch"] == 0, "value"] = 0.0
    noise = lipschitz.noise_accuracy(measures)
    assert len(noise) == 6 * 3 and noise["noise"].max() == 1 and (noise["epoch"] == 10).all()
    table = lipschitz.paired_noise(measures)
    assert list(table) == ["noise 0", "noise 1"]
    assert table.iloc[0].tolist() == ["+0.0 [+0.0, +0.0]", "+5.0 [+5.0, +5.0]"]
    few = lipschitz.paired_noise(measures[measures["seed"] == 0])
    assert few.iloc[0].tolist() == ["+0.00", "+5.00"]


def test_settings_are_named_with_their_scale():
    assert lipschitz.place_name("mnist", "mlp", "paper") == "MNIST MLP, paper scale"
