"""Theorem 1 and the last normalization: the verdicts of every outcome, and what is measured.

Fig. 1's verdicts have their tests in test_theory_proportionality.py.
"""

from __future__ import annotations

import copy
import math

import pandas as pd
import pytest
import torch
from oracles import small_model
from torch import nn

from swrlib import rescaling, trace_layers, verdicts
from swrlib.claims import proportionality
from swrlib.claims.proportionality import Draws

YES, NO, NOT_RUN = verdicts.REPRODUCED, verdicts.NOT_REPRODUCED, verdicts.NOT_RUN


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def normed() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5), nn.BatchNorm1d(5),
        nn.ReLU(), nn.Linear(5, 3),
    )  # fmt: skip


def gaps(*exact: float, single: float = 1e-6) -> pd.DataFrame:
    rows = [{"numbers": "float64", "gap, all factors": gap} for gap in exact]
    rows += [{"numbers": "float32", "gap, all factors": single} for _ in exact]
    return pd.DataFrame(rows, columns=["numbers", "gap, all factors"])


@pytest.mark.parametrize(
    ("exact", "word"),
    [((1e-15, 9e-13), YES), ((1e-15, 1.1e-12), NO), ((1e-15, math.nan), NO), ((), NOT_RUN)],
)
def test_one_gap_in_float64_refutes_theorem_1(exact, word):
    verdict = proportionality.theorem_verdict(gaps(*exact))
    assert verdict.claim.id == "proportionality" and verdict.verdict == word
    assert f"over {len(exact)} networks" in verdict.detail


def test_the_gap_is_rounding_and_a_dropped_bias_factor_is_not():
    table = proportionality.theorem_gaps({"one": chain()}, torch.randn(8, 4))
    assert table["numbers"].tolist() == ["float64", "float32"]
    whole, dropped = table["gap, all factors"], table["gap, one bias factor dropped"]
    assert (whole < [1e-12, 1e-5]).all() and (dropped > 1e-3).all()
    expected = math.prod(proportionality.random_factors(chain()))
    assert table["C"].tolist() == pytest.approx([expected] * 2)
    assert proportionality.theorem_verdict(table).verdict == YES


def test_a_rescaling_that_forgets_the_biases_refutes_theorem_1(monkeypatch):
    real = rescaling.membership

    def forgetful(network, variant):
        products = real(network, variant)
        return {name: {name} for name in products}

    monkeypatch.setattr(rescaling, "membership", forgetful)
    table = proportionality.theorem_gaps({"one": chain()}, torch.randn(8, 4))
    assert proportionality.theorem_verdict(table).verdict == NO


@pytest.mark.parametrize(
    ("draws", "words"),
    [
        (Draws([0.5, 0.5], [0.0, 0.0], [0.0, 9e-9]), [YES, YES]),
        (Draws([0.5, 0.25], [0.0, 0.0], [0.0, 0.0]), [NO, YES]),
        (Draws([0.5, 0.5], [0.0, 0.0], [0.0, 2e-8]), [YES, NO]),
        (Draws([], [], []), [NOT_RUN, NOT_RUN]),
    ],
)
def test_every_outcome_of_the_last_normalization(draws, words):
    found = proportionality.normalization_verdicts(draws)
    assert [v.claim.id for v in found] == ["final-normalization", "effective-rate"]
    assert [v.verdict for v in found] == words


def test_factors_before_the_last_normalization_are_forgotten():
    inputs, labels = torch.randn(32, 4), torch.randint(3, (32,))
    draws = proportionality.draws_before_normalization(normed(), inputs, labels, draws=3)
    assert draws.constants == [0.25] * 3, "those of the last normalization and the classifier"
    assert max(draws.gaps) < 1e-10 and len(draws.spread) == 3 and draws.spread[0] == 0
    assert [v.verdict for v in proportionality.normalization_verdicts(draws)] == [YES, YES]


def test_gaps_with_normalization_vanish_with_eps_where_statistics_follow():
    model = normed()
    with torch.no_grad():
        for _ in range(20):
            model(torch.randn(64, 4))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    table = proportionality.normalization_gaps(model, torch.randn(32, 4))
    assert len(table) == 12
    ours = table[table["variant"] == "proportional"].set_index(["mode", "eps"])["gap"]
    for mode in ("training", "evaluation, running statistics scaled"):
        assert ours[mode, "vanishing"] < 1e-10 < ours[mode, "as it is"]
    assert ours["evaluation, running statistics left", "vanishing"] > 1e-3
    printed = table[table["variant"] == "printed"]["gap"]
    assert (printed > 1e-3).all()
    assert model[1].eps == 1e-5, "it is left as it is"
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_step_is_proportional_where_statistics_follow():
    model = proportionality.without_eps(normed()).eval()
    inputs = torch.randn(16, 4).double()
    assert proportionality.step_gap(model, inputs, running_statistics=True) < 1e-10
    assert proportionality.step_gap(model, inputs, running_statistics=False) > 1e-3


def test_what_is_added_in_a_stage_has_one_factor():
    torchvision = pytest.importorskip("torchvision")
    residual = torchvision.models.resnet18(num_classes=10)
    factors = proportionality.agreeing_factors(residual)
    assert len(factors) == len(trace_layers(residual))
    assert factors["bn1"] == factors["layer1.0.bn2"] == factors["layer1.1.bn2"] == 0.5
    assert factors["layer3.0.bn2"] == factors["layer3.0.downsample.1"] == 1.5
    assert rescaling.rescale_(copy.deepcopy(residual), factors) > 0


def test_drawn_statistics_are_unlike_a_new_networks():
    network = proportionality.with_drawn_statistics(nn.Sequential(nn.BatchNorm2d(50)))
    (norm,) = network
    assert norm.eps == proportionality.NO_EPS
    assert (
        norm.running_mean.std() > 0.01 and norm.running_var.std() > 0.1 and norm.bias.std() > 0.01
    )


@pytest.mark.parametrize("along", [True, False])
def test_a_scaled_copy_has_its_biases_along_or_not(along):
    model = chain()
    after, constant = proportionality.scaled_copy(model, [2.0, 0.5, 3.0], along=along)
    assert constant == pytest.approx(3.0)
    for (name, new), old in zip(after.named_parameters(), model.parameters(), strict=True):
        biases = {"0": 2.0, "2": 1.0, "4": 3.0}
        share = {"0": 2.0, "2": 0.5, "4": 3.0}[name[0]]
        if new.dim() == 1:
            share = biases[name[0]] if along else 1.0
        torch.testing.assert_close(new, share * old)


def test_every_kind_of_small_model_can_be_drawn_for():
    factors = proportionality.random_factors(small_model("norms"), seed=3)
    assert all(0.1 <= factor <= 10 for factor in factors) and len(set(factors)) == len(factors)
    assert factors == proportionality.random_factors(small_model("norms"), seed=3)
