"""Balance: the verdicts on made-up records of every outcome, and the constructed networks."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from swrlib import verdicts
from swrlib.claims import balancedness
from swrlib.papers import SWR as paper
from swrlib.theory import layer_balance
from swrlib.verdicts.second_rule import NO_EFFECT

NO_BALANCE, DECAY = (paper.find_claim(id) for id in ("lpq-balance", "decay-does-not-balance"))


def around(mean: float, noise: float = 0.001) -> list[float]:
    return [mean + noise * x for x in (-1.0, 1.0, -0.5, 0.5)]


def made_up(
    ratios: dict[str, list[float]], dataset: str = "cifar10", scale: str = "paper"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return records and measures: the ratio of each method at the last epoch, by seed."""
    records, measures = [], []
    for method, by_seed in ratios.items():
        for seed, last in enumerate(by_seed):
            run = f"{method}{seed}"
            about = {"run": run, "dataset": dataset, "scale": scale, "method": method}
            for epoch, value in ((0, 0.5), (100, 1 - last), (200, last)):
                records.append(about | {"seed": seed, "epoch": epoch, "step": 16 * epoch})
                moment = {"run": run, "epoch": epoch, "measure": "lpq-balance"}
                measures += [moment | {"layer": "", "value": value}]
                measures += [moment | {"layer": "release", "value": value + 0.01}]
                measures += [moment | {"measure": "layer-balance", "layer": "", "value": 9.0}]
    return pd.DataFrame(records), pd.DataFrame(measures)


def judged(swr: list[float], vanilla: list[float], l2: list[float], **options) -> list[str]:
    curves = balancedness.with_balance(
        *made_up({"swr": swr, "vanilla": vanilla, "l2": l2}, **options)
    )
    found = balancedness.course_verdicts(curves)
    assert [verdict.claim for verdict in found] == [NO_BALANCE, DECAY]
    return [verdict.verdict for verdict in found]


YES, NO, BACK = verdicts.REPRODUCED, verdicts.NOT_REPRODUCED, verdicts.REVERSED
OPEN, FEW, NOT_RUN = verdicts.UNDECIDED, verdicts.TOO_FEW_SEEDS, verdicts.NOT_RUN


@pytest.mark.parametrize(
    ("swr", "vanilla", "l2", "expected"),
    [
        (0.8, 0.6, 0.5, [YES, YES]),
        (0.6, 0.6, 0.6, [NO_EFFECT, YES]),
        (0.4, 0.6, 0.6, [BACK, YES]),
        (0.8, 0.6, 0.9, [YES, NO]),
    ],
)
def test_every_outcome_of_fig_5(swr, vanilla, l2, expected):
    l2_values = around(l2)[::-1]
    assert judged(around(swr, 0.002), around(vanilla), l2_values) == expected


def test_noise_leaves_both_undecided():
    margin = NO_BALANCE.margin
    assert margin == DECAY.margin
    noisy = around(0.6 + margin, 10 * margin)
    assert judged(noisy, around(0.6), noisy) == [OPEN, OPEN]


def test_vanilla_may_lie_below_decay_by_the_margin():
    for share, word in ((0.9, YES), (1.1, NO)):
        vanilla = around(0.6, 1e-6)
        assert judged(vanilla, vanilla, around(0.6 + share * DECAY.margin, 2e-6))[1] == word


def test_decay_is_judged_by_definition_2_too_pair_by_pair():
    """Whichever layer of a pair was the larger one at the start, and is named first."""
    ratios = {"vanilla": around(0.6), "l2": around(0.6, -0.001)}
    records, measures = made_up(ratios)
    curves = balancedness.with_balance(records, measures)

    def found(**balances):
        rows = [
            {"run": f"{method}{seed}", "epoch": epoch, "measure": "layer-balance"}
            | {"layer": pair if seed % 2 else ", ".join(pair.split(", ")[::-1]), "value": value}
            for method, pairs in balances.items()
            for pair, last in pairs.items()
            for seed in range(4)
            for epoch, value in ((0, 0.0), (200, last + 0.001 * seed))
        ]
        return balancedness.course_verdicts(curves, pd.DataFrame(rows))[1]

    plain = {"a, b": 2.0, "b, c": 1.0}
    assert found(vanilla=plain, l2={"a, b": 1.85, "b, c": 1.5}).verdict == YES
    mixed = found(vanilla=plain, l2={"a, b": 1.7, "b, c": 1.5})
    assert mixed.verdict == verdicts.MIXED
    assert "not reproduced: L2 minus vanilla, Definition 2's balance of a and b: -0.3 " in (
        mixed.detail
    )


def test_few_seeds_other_data_and_no_records_carry_no_verdict():
    values = [around(x)[:2] for x in (0.8, 0.6, 0.5)]
    assert judged(*values) == [FEW, FEW]
    values = [around(0.8, 0.002), around(0.6), around(0.5)]
    assert judged(*values, dataset="mnist") == judged(*values, scale="quick") == [NOT_RUN] * 2
    assert judged(values[0], values[1], []) == [YES, NOT_RUN]
    records, measures = made_up({"swr": values[0]})
    empty = balancedness.with_balance(records[:0], measures)
    assert [v.verdict for v in balancedness.course_verdicts(empty)] == [NOT_RUN] * 2


def test_swapped_methods_are_noticed():
    assert judged(around(0.6, 0.002), around(0.8), around(0.5)) == [BACK, YES]


def test_the_ratio_is_that_of_its_run_and_kind():
    records, measures = made_up({"swr": [0.8, 0.7]})
    whole = balancedness.with_balance(records, measures)
    last = whole[whole["epoch"] == 200].set_index("seed")["ratio"]
    assert last.to_dict() == {0: 0.8, 1: 0.7}
    release = balancedness.with_balance(records, measures, "release")["ratio"]
    np.testing.assert_allclose(release - whole["ratio"], 0.01)


# Theorem 3


@pytest.mark.parametrize(("values", "word"), [([0, 0], YES), ([0, 1], NO), ([], NOT_RUN)])
def test_one_pair_further_off_refutes_the_theorem(values, word):
    records, _ = made_up({"swr": [0.8, 0.7]})
    verdict = balancedness.theorem_verdict(records, pd.DataFrame({"value": values}, dtype=float))
    assert verdict.verdict == word
    assert f"in {2 * 16 * 200} rescalings of 2 runs" in verdict.detail


def test_shares_of_steps_are_means_over_runs_and_epochs():
    table = pd.DataFrame({"layer": ["a", "a", "b", "b"], "value": [0.0, 0.5, 1.0, 1.0]})
    shares = balancedness.shares_worse({"one": table, "two": table.assign(value=0.0)})
    assert shares.loc["a"].tolist() == [0.25, 0.0] and shares.loc["b", "one"] == 1


def test_a_rescaling_takes_the_predicted_share_of_the_balance():
    draw = np.random.default_rng(1)
    for lam in (0.0, 0.01, 0.4, 1.0):
        start, grown = balancedness.random_network(draw)
        old = {name: p.clone() for name, p in grown.state_dict().items()}
        after = layer_balance(balancedness.rescaled(start, grown, lam=lam), start)
        expected = balancedness.predicted_balance(start, grown, lam)
        np.testing.assert_allclose(after, expected, atol=1e-12)
        assert all(torch.equal(p, old[name]) for name, p in grown.state_dict().items())
    assert (expected.abs() < 1e-12).all(), "with λ = 1 nothing is left"


# What weight decay does


def test_decay_balances_the_units_and_plain_descent_keeps_their_distance():
    for decay in (0.0, 0.3):
        found = balancedness.squares_apart(decay, steps=300)
        assert found.left == pytest.approx(math.exp(-2 * decay * 3), rel=0.02)
        assert found.gap < 1e-9 < 1e-3 < found.gap_without_bias


# Fig. 5's measure


def two_layers(first: float, second: float) -> torch.nn.Sequential:
    network = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.ReLU(), torch.nn.Linear(1, 1))
    with torch.no_grad():
        for layer, value in ((network[0], first), (network[2], second)):
            layer.weight.fill_(value)
            layer.bias.zero_()
    return network.double()


def test_the_least_norm_of_a_network_of_one_unit():
    """Weights a and b: the least of (ta)² + (b/t)² is 2ab."""
    network = two_layers(1.0, 4.0)
    ratio = math.sqrt(8 / 17)
    assert balancedness.least_over_present(network) == pytest.approx(ratio)
    table, least = balancedness.layer_shares(network, 2, 2)
    assert least == pytest.approx(ratio, rel=1e-5) and table.index.tolist() == ["0", "2"]
    np.testing.assert_allclose(table["before"], np.array([1, 4]) / math.sqrt(17))
    np.testing.assert_allclose(table["after"], 2 / math.sqrt(17), rtol=1e-5)
    assert network[2].weight.item() == 4, "it is left as it is"
