"""The gap of Theorem 1 as a function, against closed forms; and the verdicts on Fig. 1."""

import copy
import math

import oracles
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import biases_at_the_scale_of_activations, inputs_for, small_model, spread_factors
from torch import nn

from swrlib import (
    make_stream,
    rescale_,
    rescaling,
    trace_layers,
    train,
    verdicts,
)
from swrlib.claims.proportionality import scaled_runs, scaling_verdicts
from swrlib.papers import SWR as paper
from swrlib.theory import output_gap, proportionality_gap
from swrlib.verdicts import second_rule

# --- the gap -----------------------------------------------------------------------------------


def two_numbers() -> nn.Module:
    """f(x) = 3·relu(2x + 1) + 5, so that f(1) = 14 and f(−1) = 5."""
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)).double()
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), (2.0, 1.0, 3.0, 5.0), strict=True):
            parameter.fill_(value)
    return model


X = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)


@given(st.floats(0.1, 10), st.floats(0.1, 10))
@settings(deadline=None, max_examples=30)
def test_no_gap_in_closed_form(a, b):
    assert proportionality_gap(two_numbers(), [a, b], X) < 1e-14


@given(st.floats(0.1, 10), st.floats(0.1, 10))
@settings(deadline=None, max_examples=30)
def test_the_gap_of_a_dropped_bias_factor_in_closed_form(a, b):
    """The last bias scaled by b instead of a·b: off by 5b|1 − a| everywhere, of 14·a·b at most."""
    model = two_numbers()
    wrong = copy.deepcopy(model)
    constant = rescale_(wrong, [a, b])
    with torch.no_grad():
        wrong[2].bias.div_(a)
    gap = output_gap(wrong, model, constant, X)
    assert gap == pytest.approx(5 * abs(1 - a) / (14 * a), rel=1e-9, abs=1e-13)


def test_the_gap_of_a_wrong_constant_is_how_wrong_it_is():
    model = two_numbers()
    assert output_gap(model, model, 2.0, X) == 0.5


def test_mutant_dropped_bias_factor_is_seen(monkeypatch):
    model, inputs = small_model("mlp"), inputs_for("mlp")
    biases_at_the_scale_of_activations(model, inputs)
    factors = spread_factors(3)
    assert proportionality_gap(model, factors, inputs) < 1e-12
    real = rescaling.membership

    def dropping(network, variant):
        members = dict(real(network, variant))
        last = network.layers[-1].name
        return members | {last: members[last] - {network.layers[0].name}}

    monkeypatch.setattr(rescaling, "membership", dropping)
    assert proportionality_gap(model, factors, inputs) > 1e-3


@pytest.mark.parametrize("training", [True, False, None])
@pytest.mark.parametrize("training_before", [True, False])
def test_nothing_of_the_callers_moves(training, training_before):
    model, inputs = small_model("cnn-bn").train(training_before), inputs_for("cnn-bn")
    state = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    proportionality_gap(model, [0.5] * 6, inputs, training=training)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(module.training == training_before for module in model.modules())
    assert torch.equal(torch.get_rng_state(), generator)


def test_modes_and_variants_with_normalization():
    """As eps vanishes only the printed variant and unscaled running statistics leave a gap."""
    model, inputs = small_model("cnn-bn"), inputs_for("cnn-bn")
    oracles.train(model, "cnn-bn", steps=10)
    for module in model.modules():
        if hasattr(module, "eps"):
            module.eps = 1e-100
    halves = [0.5] * 6
    assert proportionality_gap(model, halves, inputs, training=True) < 1e-12
    assert proportionality_gap(model, halves, inputs) < 1e-12
    assert proportionality_gap(model, halves, inputs, running_statistics=False) > 0.3
    for training in (True, False):
        assert proportionality_gap(model, halves, inputs, variant="printed", training=training) > (
            1e-3
        )
    model.train()
    unscaled = {"running_statistics": False}
    assert proportionality_gap(model, halves, inputs, training=None, **unscaled) < 1e-12


def test_random_layers_draw_the_same_for_both():
    model = nn.Sequential(nn.Linear(4, 50), nn.Dropout(0.5), nn.ReLU(), nn.Linear(50, 2)).double()
    inputs = torch.randn(8, 4, dtype=torch.float64)
    assert proportionality_gap(model, [3.0, 0.2], inputs, training=True) < 1e-12


def test_what_cannot_be_measured_is_refused():
    model = two_numbers()
    with pytest.raises(ValueError, match="positive factors"):
        proportionality_gap(model, [-1.0, 1.0], X)
    with pytest.raises(ValueError, match="zero on all of these inputs"):
        zero = nn.Linear(1, 1).double()
        nn.init.zeros_(zero.weight)
        nn.init.zeros_(zero.bias)
        proportionality_gap(zero, [2.0], X)
    with pytest.raises(ValueError, match="not finite"):
        output_gap(model, model, math.inf, X)
    with pytest.raises(ValueError, match="not finite"):
        output_gap(model, model, 1.0, X * math.nan)


class Keeping(nn.Module):
    """Holds on to an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 2).double()

    def forward(self, x):
        self.hidden = self.layer(x)
        return self.hidden


class Pair(Keeping):
    def forward(self, x):
        return self.layer(x), self.layer.weight


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)).double()
    model[1].weight.data = model[0].weight.data
    return model


def run_before() -> nn.Module:
    model = Keeping()
    model(X)
    return model


@pytest.mark.parametrize(
    ("build", "inputs", "words"),
    [
        (tied, X, "share one weight"),
        (run_before, X, r"cannot be copied: hidden was computed with gradients"),
        (lambda: nn.Sequential(nn.LazyLinear(1)), X, "has no shape yet"),
        (Keeping, torch.zeros(2, 3).double(), "fails on an input of shape"),
        (Keeping, X.float(), "fails on an input of shape"),
        (Keeping, X[:0], "one tensor with numbers"),
    ],
)
def test_what_cannot_be_copied_or_run_is_refused_in_one_sentence(build, inputs, words):
    with pytest.raises(ValueError, match=words) as caught:
        proportionality_gap(build(), [2.0] * len(list(build().children())), inputs)
    assert "\n" not in str(caught.value)


def test_two_outputs_have_no_gap():
    with pytest.raises(ValueError, match="one tensor"):
        output_gap(Pair(), Pair(), 1.0, X)


def test_it_works_on_torchvisions_vgg16_bn():
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.vgg16_bn(num_classes=10)
    model.classifier = nn.Sequential(nn.Linear(25088, 16), nn.ReLU(), nn.Linear(16, 10))
    for module in model.double().modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-100
            nn.init.normal_(module.bias)
    layers = trace_layers(model)
    inputs = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert proportionality_gap(model, spread_factors(len(layers)), inputs) < 1e-10


# --- Fig. 1 ------------------------------------------------------------------------------------


def made_up(scale="paper", seeds=5, *, fall=0.3, drift=0.0, gain=0.02, readings=("norm",)):
    """Return rows as of `scaled_runs` in which everything is known.

    Accuracy falls by ``fall`` with untouched biases at ratio 0, by ``drift`` with proportional
    ones, and ends ``gain`` above the best before; seeds differ by a little, evenly.
    """
    rows = [
        {
            **{"dataset": "cifar10", "model": "cnn", "scale": scale},
            **{"seed": seed, "ratio": ratio, "reading": reading, "biases": biases},
            **{"trained": 0.65, "best_before": 0.66},
            "after": 0.65
            - (fall if biases == "untouched" else drift) * (1 - ratio)
            + 1e-4 * (seed - 2),
            "best_after": 0.66 + gain + 1e-3 * (seed - 2),
        }
        for seed in range(seeds)
        for reading in readings
        for biases in ("untouched", "proportional")
        for ratio in (1.0, 0.5, 0.0)
    ]
    return pd.DataFrame(rows)


def found(rows: pd.DataFrame) -> list[str]:
    return [verdict.verdict for verdict in scaling_verdicts(rows)]


YES, NO, BACK = verdicts.REPRODUCED, verdicts.NOT_REPRODUCED, verdicts.REVERSED
NONE = second_rule.NO_EFFECT


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ({}, [YES, YES, YES]),
        ({"drift": 0.2}, [NO, YES, YES]),
        ({"drift": -0.2}, [NO, YES, YES]),
        ({"fall": 0.0}, [YES, NONE, YES]),
        ({"fall": -0.1}, [YES, BACK, YES]),
        ({"gain": 0.0}, [YES, YES, NONE]),
        ({"gain": -0.05}, [YES, YES, BACK]),
        ({"seeds": 2}, [verdicts.TOO_FEW_SEEDS] * 3),
        ({"scale": "quick"}, [verdicts.QUICK] * 3),
        ({"scale": "custom"}, [verdicts.CUSTOM] * 3),
    ],
)
def test_verdicts_on_made_up_records(what, expected):
    assert found(made_up(**what)) == expected


def test_noisy_seeds_decide_nothing():
    rows = made_up()
    rows["best_after"] = rows["best_before"] + 0.05 * (rows["seed"] - 1.9)
    assert found(rows)[2] == verdicts.UNDECIDED


def test_readings_that_differ_are_mixed_and_one_bad_ratio_is_enough():
    rows = pd.concat([made_up(), made_up(fall=0.0).assign(reading="factor")])
    assert found(rows) == [YES, verdicts.MIXED, YES]
    rows = made_up()
    rows.loc[(rows["ratio"] == 0.5) & (rows["biases"] == "proportional"), "after"] -= 0.3
    assert found(rows)[0] == verdicts.MIXED
    text = scaling_verdicts(rows)[0].detail
    assert "not reproduced: ratio 0.5, biases proportional, points: -30" in text
    rows.loc[(rows["ratio"] == 0.5) & (rows["biases"] == "untouched"), "best_after"] -= 0.04
    third = scaling_verdicts(rows)[2]
    assert third.verdict == verdicts.MIXED
    assert "reversed: ratio 0.5, biases untouched, points: -2 [" in third.detail


def test_ratios_that_were_not_run_are_counted():
    def labels(rows):
        return [verdict.label for verdict in scaling_verdicts(rows)]

    whole = pd.concat(
        [
            made_up()[lambda rows: rows["ratio"] == 0].assign(ratio=r)
            for r in paper.details["figure_1_ratios"]
        ]
    )
    assert labels(whole) == [YES] * 3
    few = made_up()  # ratios 0.5 and 0
    assert labels(few) == [f"{YES} (2 of 10 comparisons)", YES, f"{YES} (4 of 20 comparisons)"]
    # Another ratio does not stand in for the least one.
    assert labels(few[few["ratio"] > 0])[1] == verdicts.NOT_RUN
    assert labels(made_up("quick")) == [verdicts.QUICK] * 3


def test_swapped_sides_are_noticed():
    rows = made_up()
    rows["biases"] = rows["biases"].map({"untouched": "proportional", "proportional": "untouched"})
    assert found(rows) == [NO, NONE, YES]


def test_other_data_get_no_verdict_on_the_paper():
    assert found(made_up().assign(dataset="mnist", model="mlp")) == [verdicts.OUTSIDE] * 3
    assert found(scaled_runs(pd.DataFrame())) == [verdicts.NOT_RUN] * 3


def test_what_fig_1_is_made_of(tmp_path):
    def run(ratio, biases, reading="factor"):
        stream = make_stream("scaled", epochs=1, ratio=ratio, biases=biases, reading=reading)
        return train(
            dataset="mnist-5k",
            model="mlp",
            stream=stream,
            methods=["vanilla"],
            results=tmp_path,
            checkpoints=tmp_path / "checkpoints",
            device="cpu",
            progress=False,
        )

    frame = pd.concat([run(1.0, "proportional"), run(0.0, "untouched"), run(0.0, "proportional")])
    rows = scaled_runs(frame, tmp_path).set_index(["ratio", "biases"])
    assert rows["trained"].nunique() == rows["best_before"].nunique() == 1
    trained = rows["trained"].iloc[0]
    assert trained > 0.5
    assert rows.loc[(1.0, "proportional"), "after"] == trained
    assert rows.loc[(0.0, "proportional"), "after"] == pytest.approx(trained, abs=2e-3)
    assert rows.loc[(0.0, "untouched"), "after"] < 0.3
    assert (rows["best_after"] != rows["after"]).all()
    with pytest.raises(ValueError, match="lack runs that were scaled"):
        scaled_runs(frame.assign(parent="0" * 16), tmp_path)
    for claim in scaling_verdicts(rows.reset_index()):
        assert claim.verdict == verdicts.TOO_FEW_SEEDS
        assert claim.claim in paper.claims
