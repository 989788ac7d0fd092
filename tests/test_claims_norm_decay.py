"""The norm's fall after a decay of the rate, on made-up records of every outcome."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from swrlib import SoftWeightRescaling, build_model, load_dataset, verdicts
from swrlib.claims import norm_decay
from swrlib.statistics import paired_interval
from swrlib.theory.norm_decay import scalar_norms
from swrlib.verdicts.second_rule import NO_EFFECT

LAM, STEPS = 1e-3, 10
RATES = [1e-3] * 10 + [1e-4] * 5 + [1e-5] * 5
LAYERS = ("linear1", "linear2")
#: Norms start at 1 and stand at 3 at the first decay; the pull alone then leaves this.
PULL_ALONE = 1 + 2 * (1 - LAM) ** (10 * STEPS)


def made_up(
    falls: dict[str, list[float]], method: str = "swr"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return norms that fall after the first decay by what is given, by layer and seed; records."""
    norms, records = [], []
    for seed in range(len(falls[LAYERS[0]])):
        for epoch in range(len(RATES) + 1):
            moment = {"run": f"{method}{seed}", "seed": seed, "epoch": epoch, "step": STEPS * epoch}
            records.append(moment | {"lr": RATES[epoch - 1] if epoch else math.nan})
            for layer, by_seed in falls.items():
                norm = 1 + min(epoch, 10) / 5 - by_seed[seed] * max(epoch - 10, 0) / 10
                row = {"layer": layer, "norm": norm, "start": 1.0, "lam": LAM, "method": method}
                norms.append(moment | row)
    return pd.DataFrame(norms), pd.DataFrame(records)


def around(mean: float, noise: float = 0.001) -> list[float]:
    return [mean + noise * x for x in (-1.0, 1.0, -0.5, 0.5)]


def judged(second: list[float], *, scale: str = "paper", **options) -> verdicts.Verdict:
    falls = {"linear1": around(0.15)[: len(second)], "linear2": second}
    return norm_decay.fall_verdict(*made_up(falls, **options), scale)


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        (around(0.1), verdicts.REPRODUCED),
        (around(0.0, 0.01), verdicts.MIXED),
        (around(-0.1), verdicts.MIXED),
        (around(0.1, 0.5), verdicts.UNDECIDED),
        (around(0.1)[:2], verdicts.TOO_FEW_SEEDS),
    ],
)
def test_every_outcome_of_one_of_two_layers(second, expected):
    verdict = judged(second)
    assert verdict.claim.id == "decay-pull" and verdict.verdict == expected
    assert "linear2: norm at the first decay minus at the end" in verdict.detail


@pytest.mark.parametrize(
    ("fall", "expected"), [(around(0.0, 0.01), NO_EFFECT), (around(-0.1), verdicts.REVERSED)]
)
def test_every_outcome_of_both_layers(fall, expected):
    both = dict.fromkeys(LAYERS, fall)
    assert norm_decay.fall_verdict(*made_up(both), "paper").verdict == expected


def test_norms_of_one_run_are_paired():
    """Seeds whose norms differ by much, and fall by the same."""
    norms, records = made_up({layer: around(0.15) for layer in LAYERS})
    norms[["norm", "start"]] += norms[["seed"]].to_numpy()
    assert norm_decay.fall_verdict(norms, records, "paper").verdict == verdicts.REPRODUCED


def test_the_margin_is_half_of_what_the_pull_alone_would_cause():
    margin = (3 - PULL_ALONE) / 2
    noise = around(0.0, 0.04)
    both = np.array(paired_interval(noise, 0.0)[1:])
    half = both[1] * stats.t.ppf(0.95, 3) / stats.t.ppf(0.975, 3)
    for mean, word in (
        # Of two layers, after Holm the first needs 2.5% a side: the interval at 95%.
        (margin - both[1] - 0.001, NO_EFFECT),
        (margin - half + 0.001, verdicts.UNDECIDED),
    ):
        falls = {layer: [mean + x for x in noise] for layer in LAYERS}
        assert norm_decay.fall_verdict(*made_up(falls), "paper").verdict == word


@pytest.mark.parametrize(
    ("scale", "word"), [("quick", verdicts.QUICK), ("custom", verdicts.CUSTOM)]
)
def test_other_scales_carry_no_verdict(scale, word):
    assert judged(around(0.1), scale=scale).verdict == word


def test_without_swr_records_or_a_decay_it_is_not_run():
    assert judged(around(0.1), method="vanilla").verdict == verdicts.NOT_RUN
    norms, records = made_up({layer: around(0.1) for layer in LAYERS})
    assert norm_decay.fall_verdict(norms[:0], records[:0], "paper").verdict == verdicts.NOT_RUN
    constant = records.assign(lr=1e-3)
    assert norm_decay.fall_verdict(norms, constant, "paper").verdict == verdicts.NOT_RUN


def test_what_the_pull_alone_leaves():
    falls = norm_decay.fall(*made_up({layer: around(0.1) for layer in LAYERS}))
    assert len(falls) == 8 and falls["norm"].tolist() == [3.0] * 8
    np.testing.assert_allclose(falls["pull alone"], PULL_ALONE)
    assert [m["epoch"] for m in norm_decay.rate_ends(made_up({"linear1": [0.1]})[1])] == [
        10,
        15,
        20,
    ]


# The growth of a step


def followed(growth: Callable[[float], float], method: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return norms of two seeds whose every step grows by a function of the rate."""
    norms, records = made_up({"linear1": [0.0, 0.0]}, method)
    n = target = 1.0
    course = [n]
    for epoch, rate in enumerate(RATES):
        if method == "swr-reinit" and epoch and rate < RATES[epoch - 1]:
            target = n
        for _ in range(STEPS):
            n = LAM * target + (1 - LAM) * (n + growth(rate))
        course.append(n)
    return norms.assign(norm=norms["epoch"].map(dict(enumerate(course)))), records


@pytest.mark.parametrize("method", ["swr", "swr-reinit"])
@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_the_growth_is_found_again_and_its_power(method, power):
    made = followed(lambda rate: 0.003 * (rate / 1e-3) ** power, method)
    growths = norm_decay.growth_by_rate(*made, method)
    np.testing.assert_allclose(
        growths["growth"], 0.003 * (growths["lr"] / 1e-3) ** power, rtol=1e-6
    )
    fitted = norm_decay.growth_powers(growths)
    assert fitted.index.tolist() == [("linear1", "1e-3 → 1e-4"), ("linear1", "1e-4 → 1e-5")]
    np.testing.assert_allclose(fitted["power"], power, atol=1e-5)
    if method == "swr":
        settled = 1 + (1 - LAM) * growths["growth"] / LAM
        np.testing.assert_allclose(growths["settles at"], settled, rtol=1e-6)


def test_norms_that_do_not_grow_have_no_power():
    growths = norm_decay.growth_by_rate(*followed(lambda rate: -rate, "swr"), "swr")
    assert not len(norm_decay.growth_powers(growths))


# Beside AdamW; λ that follows the rate


def test_adamw_with_the_wrong_pair_is_another_training():
    soft = norm_decay.train_toward_zero(0.1, 1e-3, 20)
    right, wrong = (norm_decay.train_adamw(lr, 0.1 / lr, 20, bias_lr=1e-3) for lr in (0.9e-3, 1e-3))
    assert all(torch.allclose(a, b, atol=1e-12, rtol=0) for a, b in zip(soft, right, strict=True))
    assert not torch.allclose(soft[0], wrong[0], atol=1e-5, rtol=0)


def test_ways_part_at_the_first_fall_of_the_rate():
    data = load_dataset("mnist-5k")
    rates = [1e-3, 1e-4]
    torch.manual_seed(0)
    network = build_model("mlp", data)
    ways = norm_decay.train_on_schedule(network, data, rates, 0.01, 0)
    assert ways["way"].tolist() == ["all", "all", *norm_decay.WAYS]
    assert ways["ratio"][0] == 1 and ways["accuracy"].notna().sum() == len(norm_decay.WAYS)
    end = ways.set_index("way").loc[[*norm_decay.WAYS], "ratio"]
    assert end["λ fixed"] < end["λ ∝ rate"] < end["λ ∝ rate²"]
    assert len(norm_decay.scheduled_ends(ways)) == 4
    torch.manual_seed(0)
    never = norm_decay.train_on_schedule(build_model("mlp", data), data, rates[:1], 0.01, 0)
    assert never["way"].tolist() == ["all", "all"] and not len(norm_decay.scheduled_ends(never))


def test_what_each_way_does_to_swr():
    for way, (lam, target) in {
        "λ fixed": (0.2, 1.0),
        "re-init": (0.2, 3.0),
        "λ ∝ rate": (0.02, 1.0),
        "λ ∝ rate²": (0.002, 1.0),
    }.items():
        layer = torch.nn.Linear(4, 4)
        soft = SoftWeightRescaling(layer, lam=0.2)
        norm = layer.weight.detach().norm().item()
        with torch.no_grad():
            layer.weight.mul_(3)
        norm_decay.WAYS[way](soft, 0.2, 0.1)
        (start,) = soft.summary()["initial_norm"]
        assert soft.lam == pytest.approx(lam) and start == pytest.approx(target * norm)


def test_accuracies_are_compared_within_seeds():
    rows = [
        {"way": way, "seed": seed, "epoch": 2, "ratio": 1.0 + number, "accuracy": base + gain}
        for seed, base in enumerate((0.1, 0.5, 0.9))
        for number, (way, gain) in enumerate({"λ fixed": 0.0, "re-init": 0.02}.items())
    ]
    ends = norm_decay.scheduled_ends(pd.DataFrame(rows)).set_index("way")
    assert ends.loc["re-init", "− fixed"] == pytest.approx(2) and ends.loc["re-init", "norm"] == 2
    assert ends.loc["re-init", "± 95%"] == pytest.approx(0, abs=1e-9)


def test_the_scalar_model_settles_where_growth_and_pull_balance():
    along = scalar_norms(0.01, 0.02, 4000, along=True, power=0)
    assert along[-1] - 1 == pytest.approx(0.99 * 0.02 / 0.01)
    angle = scalar_norms(0.001, 0.01, 20_000, along=False, power=0, steps=20_000)
    assert angle[-1] * (angle[-1] - 1) == pytest.approx(0.01**2 / 0.002, rel=0.01)
    kept, falling = (scalar_norms(0.01, 0.02, 1500, along=True, power=p)[-1] for p in (0, 1))
    assert kept == pytest.approx(1.198) and falling == pytest.approx(along[-1], rel=0.01)
