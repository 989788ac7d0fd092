"""Norms of layers along trainings: laid out as recorded, and judged by their rules alone."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from swrlib import notebook, records, train, verdicts
from swrlib.claims.norms import (
    LEFT_ALONE,
    divergence_verdicts,
    late_growth,
    norms_by_layer,
    prevention_verdicts,
)
from swrlib.verdicts.second_rule import NO_EFFECT

SEEDS = range(4)
LAYERS = {"mlp": 3, "cnn-bn": 6}


def short_training(folder: Path, methods: list[str], **options) -> pd.DataFrame:
    setting = {"dataset": "mnist-5k", "model": "mlp", "stream": "single-task", "epochs": 1}
    setting |= {"methods": methods, "seeds": [0, 1], "results": folder, "progress": False}
    return train(**setting, **options)


# What is recorded


def test_norms_are_laid_out_by_layer(tmp_path):
    trained = short_training(tmp_path, ["vanilla", "swr", "l2:1e-5", "adamw:1e-2"])
    table = norms_by_layer(trained)
    recorded = trained[trained["weight_norms"].notna()]
    assert len(table) == 3 * len(recorded) and table["scale"].unique().tolist() == ["custom"]
    for row in table.itertuples():
        norms = recorded[recorded["run"] == row.run].set_index("epoch")["weight_norms"]
        place = ["linear1", "linear2", "linear3"].index(row.layer)
        assert (row.norm, row.start) == (norms[row.epoch][place], norms[0][place])
    biases = norms_by_layer(trained, of="bias")
    np.testing.assert_array_equal(biases["norm"], np.concatenate([*recorded["bias_norms"]]))
    assert not len(norms_by_layer(trained[:0])) and "start" in table
    deeper = trained.assign(weight_norms=[[1.0] * 4] * len(trained))
    assert not len(norms_by_layer(deeper)), "a model of other layers"


def test_norms_of_every_epoch_replace_those_of_some_where_all_runs_have_them(tmp_path):
    name = "norm-before-rescaling:last"
    methods = ["vanilla", "swr:1e-2"]
    trained = short_training(tmp_path, methods, measure=["norm-before-rescaling"])
    measures = notebook.measured(trained, name, results=tmp_path)
    table = norms_by_layer(trained, measures)
    last = table[table["epoch"] == 1].set_index(["run", "layer"])["norm"]
    expected = measures.set_index(["run", "layer"])["value"]
    np.testing.assert_array_equal(last.sort_index(), expected.sort_index())
    one = measures[measures["run"] == trained["run"].iloc[0]]
    pd.testing.assert_frame_equal(norms_by_layer(trained, one), norms_by_layer(trained))


# Made-up records of every outcome


def made_up(
    growths: dict[str, list[list[float]]],
    *,
    model: str = "mlp",
    scale: str = "paper",
    stream: str = "warm-start",
    lost=(),
    halves: bool = True,
) -> pd.DataFrame:
    """Return records in which ln ‖W‖ grows late by what is given: of a method, by layer and seed.

    With `halves` every norm doubles in the first half, else it stays; of the methods in `lost`, the
    last seed diverges half-way.
    """
    rows = []
    for method, by_layer in growths.items():
        assert len(by_layer) == LAYERS[model]
        for seed, late in zip(SEEDS, zip(*by_layer, strict=True), strict=True):
            about = {"run": f"{method}{seed}", "dataset": "cifar100", "model": model, "seed": seed}
            about |= {"scale": scale, "method": method, "step": 0, "diverged": False}
            about |= {"stream": stream, "stage": 1, "test_accuracy": 0.4 + 0.01 * len(method)}
            first = 2.0 if halves else 1.0
            norms = [[1.0] * len(late), [first] * len(late), [first * math.exp(x) for x in late]]
            if method in lost and seed == SEEDS[-1]:
                rows += [about | {"epoch": 0, "weight_norms": norms[0]}]
                rows += [about | {"epoch": 7, "weight_norms": None, "diverged": True}]
                continue
            rows += [
                about | {"epoch": epoch, "weight_norms": norm}
                for epoch, norm in zip((0, 100, 200), norms, strict=True)
            ]
    return pd.DataFrame(rows).reindex(columns=list(records.COLUMNS))


def around(mean: float, noise: float = 0.01) -> list[float]:
    """Return one number a seed about a mean."""
    return [mean + noise * x for x in (-1.0, 1.0, -0.5, 0.5)]


def test_late_growth_is_that_of_the_second_half():
    norms = norms_by_layer(made_up({"vanilla": [around(0.3), around(0.0), around(-0.2)]}))
    found = late_growth(norms)
    for layer, mean in (("linear1", 0.3), ("linear2", 0.0), ("linear3", -0.2)):
        np.testing.assert_allclose(found.loc[layer].sort_index(), around(mean), atol=1e-6)


@pytest.mark.parametrize(
    ("plain", "soft", "expected"),
    [
        ([0.5, 0.5, 0.5], [0.0, 0.1, 0.0], verdicts.REPRODUCED),
        # One layer that SWR does not hold back is enough, whatever it does to the others.
        ([0.5, 0.5, 0.5], [0.0, 0.0, 0.5], verdicts.MIXED),
        ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5], NO_EFFECT),
        ([0.5, 0.5, 0.5], [0.9, 0.9, 0.9], verdicts.REVERSED),
        # Where plain training hardly grows there is nothing to prevent.
        ([0.5, 0.2, 0.5], [0.0, 0.7, 0.1], verdicts.REPRODUCED),
    ],
)
def test_growth_that_is_prevented(plain, soft, expected):
    growths = {"vanilla": [*map(around, plain)], "swr": [around(x, 0.02) for x in soft]}
    (verdict,) = prevention_verdicts(norms_by_layer(made_up(growths, halves=False)))
    assert verdict.verdict == expected
    assert ("linear2" in verdict.detail) == (plain[1] > 0.22)
    assert f"({math.exp(0.5):.1f} times)" in verdict.detail


def test_growth_from_the_start_counts_not_late_growth_alone():
    growths = {"vanilla": [around(0.0)] * 3, "swr": [around(0.0)] * 3}
    frames = [made_up(growths, halves=method == "vanilla") for method in ("vanilla", "swr")]
    frame = pd.concat(
        part[part["method"] == method]
        for method, part in zip(("vanilla", "swr"), frames, strict=True)
    )
    (verdict,) = prevention_verdicts(norms_by_layer(frame))
    assert verdict.verdict == verdicts.REPRODUCED and "(2.0 times)" in verdict.detail


def test_growth_that_noise_hides_is_undecided():
    growths = {"vanilla": [around(0.5, 0.6)] * 3, "swr": [around(0.3, -0.6)] * 3}
    (verdict,) = prevention_verdicts(norms_by_layer(made_up(growths, halves=False)))
    assert verdict.verdict == verdicts.UNDECIDED


@pytest.mark.parametrize("missing", ["vanilla", "swr"])
def test_growth_is_not_judged_without_a_rival(missing):
    growths = {"vanilla": [around(0.3)] * 3, "swr": [around(0.0)] * 3}
    frame = made_up(growths)
    assert prevention_verdicts(norms_by_layer(frame[frame["method"] != missing])) == []
    assert prevention_verdicts(norms_by_layer(frame[:0])) == []


@pytest.mark.parametrize("judge", [prevention_verdicts, divergence_verdicts])
def test_other_scales_and_few_seeds_carry_no_verdict(judge):
    names = ("vanilla", "swr") if judge is prevention_verdicts else (LEFT_ALONE, "swr")
    growths = {names[0]: [around(1.3)] * 6, names[1]: [around(0.0)] * 6}

    def judged(frame):
        return judge(norms_by_layer(frame) if judge is prevention_verdicts else frame)[0].verdict

    assert judged(made_up(growths, model="cnn-bn", scale="quick")) == verdicts.QUICK
    frame = made_up(growths, model="cnn-bn")
    assert judged(frame) == verdicts.REPRODUCED
    assert judged(frame[frame["seed"] < 2]) == verdicts.TOO_FEW_SEEDS


LITTLE = around(0.1)


@pytest.mark.parametrize(
    ("largest", "expected"),
    [
        (around(1.0), verdicts.REPRODUCED),
        (around(0.4), verdicts.REVERSED),
        (around(math.log(2)), NO_EFFECT),
        (around(math.log(2), 0.6), verdicts.UNDECIDED),
    ],
)
@pytest.mark.parametrize("place", range(6))
def test_divergence_is_judged_by_the_layer_that_grows_most(largest, expected, place):
    layers = [LITTLE] * 6
    layers[place] = largest
    growths = {LEFT_ALONE: layers, "swr": [LITTLE] * 6}
    (verdict,) = divergence_verdicts(made_up(growths, model="cnn-bn"))
    assert verdict.verdict == expected
    assert f"({np.mean(largest):.3f}; 0.100 where all are rescaled)" in verdict.detail


def test_the_layer_that_grows_most_is_that_of_each_seed():
    layers = np.full((6, len(SEEDS)), 0.1)
    layers[range(len(SEEDS)), SEEDS] = around(1.0)
    growths = {LEFT_ALONE: layers.tolist(), "swr": [LITTLE] * 6}
    (verdict,) = divergence_verdicts(made_up(growths, model="cnn-bn"))
    assert verdict.verdict == verdicts.REPRODUCED and "(1.000; 0.100" in verdict.detail


def test_a_training_that_is_lost_counts_as_a_hundredfold():
    growths = {LEFT_ALONE: [around(0.7)] * 6, "swr": [LITTLE] * 6}
    (verdict,) = divergence_verdicts(made_up(growths, model="cnn-bn", lost=[LEFT_ALONE]))
    mean = (sum(around(0.7)[:-1]) + math.log(100)) / len(SEEDS)
    assert f"({mean:.3f}; 0.100" in verdict.detail and f"n = {len(SEEDS)}" in verdict.detail
    frame = made_up(growths, model="cnn-bn", lost=[LEFT_ALONE])
    lost = [frame[frame["seed"] == SEEDS[-1]].assign(seed=seed) for seed in SEEDS]
    lost = pd.concat([part.assign(run=part["run"] + str(i)) for i, part in enumerate(lost)])
    (verdict,) = divergence_verdicts(lost)
    assert verdict.verdict == verdicts.REPRODUCED and f"({math.log(100):.3f}" in verdict.detail


def test_no_norms_of_the_other_method_are_no_number_beside_it():
    growths = {LEFT_ALONE: [LITTLE] * 6, "swr": [LITTLE] * 6}
    frame = made_up(growths, model="cnn-bn")
    frame.loc[frame["method"] == "swr", "weight_norms"] = None
    (verdict,) = divergence_verdicts(frame)
    assert "where all are rescaled" not in verdict.detail and "nan" not in verdict.detail
    assert verdict.verdict == verdicts.REVERSED


def test_a_single_task_is_another_case_and_gets_a_remark():
    growths = {LEFT_ALONE: [LITTLE] * 5 + [around(1.5)], "swr": [LITTLE] * 6}
    frame = made_up(growths, model="cnn-bn", stream="single-task")
    claim, remark = divergence_verdicts(frame)
    assert (claim.claim.id, claim.verdict) == ("normalization-diverges", verdicts.NOT_RUN)
    assert (remark.claim.id, remark.verdict) == (
        "normalization-single",
        verdicts.second_rule.REMARK,
    )
    assert f"ends at {2 * np.mean(np.exp(around(1.5))):.1f} times its start" in remark.detail
    assert f"at {2 * np.mean(np.exp(LITTLE)):.1f} where it is not" in remark.detail
    assert "accuracy 64.0% against 43.0%" in remark.detail
    (alone,) = divergence_verdicts(frame[frame["method"] == LEFT_ALONE])
    assert alone.verdict == verdicts.NOT_RUN


def test_divergence_that_was_not_trained_is_not_run():
    (verdict,) = divergence_verdicts(made_up({"swr": [LITTLE] * 6}, model="cnn-bn"))
    assert verdict.verdict == verdicts.NOT_RUN
    (verdict,) = divergence_verdicts(made_up({"swr": [LITTLE] * 6}, model="cnn-bn")[:0])
    assert verdict.verdict == verdicts.NOT_RUN
