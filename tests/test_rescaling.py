"""SWR in a training loop: equal to Algorithm 1, whatever the loop, and refusing what is wrong."""

from __future__ import annotations

import copy
import json
import math
import multiprocessing
import pickle
import warnings
from itertools import pairwise

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import LAYERS, Oracle, difference, small_model, train, twin
from torch import nn
from torch.nn.utils import prune
from torch.utils._python_dispatch import TorchDispatchMode

from swrlib import SoftWeightRescaling, rescale_, rescaling, trace_layers
from swrlib.swr.plan import Plan
from swrlib.swr.rescaler import Rescaler

VARIANTS = ("proportional", "printed")


def mlp(*widths: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    modules: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(pairwise(widths)):
        modules += [nn.ReLU()] * (i > 0) + [nn.Linear(inputs, outputs, dtype=dtype)]
    return nn.Sequential(*modules)


def drift(model: nn.Module, seed: int = 5) -> None:
    """Change every parameter, as an optimizer would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(noise.to(parameter), alpha=0.3)


def factor_of(after: nn.Module, before: nn.Module, layer: str) -> float:
    """Return by how much a layer's weight was scaled."""
    new, old = (model.get_submodule(layer).weight.detach().norm() for model in (after, before))
    return float(new / old)


# --- Algorithm 1 -----------------------------------------------------------------------------


def check_algorithm(name: str, lam: float | tuple[float, float], variant: str, steps: int) -> None:
    """Train two copies, one with the library and one with the transcription: they stay equal."""
    ours, theirs = small_model(name), small_model(name)
    keywords = {"lam_features": lam[0], "lam_classifier": lam[1]} if isinstance(lam, tuple) else {}
    single = None if isinstance(lam, tuple) else lam
    swr = SoftWeightRescaling(ours, single, variant=variant, **keywords)
    oracle = Oracle(theirs, LAYERS[name], lam, variant)
    start = twin(ours)
    train(ours, name, steps=steps, after_step=swr.step)
    train(theirs, name, steps=steps, after_step=oracle.step)
    assert difference(ours, start) > 0.01 * min(steps, 10), "nothing was learned"
    assert difference(ours, theirs) < 1e-12


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("lam", [0.01, (1e-3, 0.3)], ids=["one", "pair"])
@pytest.mark.parametrize("name", ["mlp", "cnn", "cnn-bn", "norms"])
def test_equals_algorithm_1_over_100_adam_steps(name, lam, variant):
    check_algorithm(name, lam, variant, steps=100)


def test_the_two_variants_part_where_there_is_a_normalization():
    """Otherwise the comparison above could not tell them apart."""
    for name, same in (("mlp", True), ("cnn", True), ("cnn-bn", False), ("norms", False)):
        models = [small_model(name) for _ in VARIANTS]
        for model, variant in zip(models, VARIANTS, strict=True):
            swr = SoftWeightRescaling(model, 0.1, variant=variant)
            train(model, name, steps=5, after_step=swr.step)
        assert (difference(*models) < 1e-13) is same, name


@pytest.mark.filterwarnings("ignore:the norm of")  # that a factor was limited
@settings(max_examples=30, deadline=None)
@given(
    widths=st.lists(st.integers(1, 6), min_size=2, max_size=6),
    lam=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_a_step_moves_each_norm_the_fraction_lambda_towards_its_start(widths, lam, seed):
    """The norm's closed form: ‖W‖ ← (1 − λ)‖W‖ + λ n_l, and the direction is kept.

    A tiny norm grows tenfold at most.
    """
    model = mlp(*widths, seed=seed)
    weights = [m.weight for m in model if isinstance(m, nn.Linear)]
    starts = [float(w.detach().norm()) for w in weights]
    swr = SoftWeightRescaling(model, lam)
    drift(model, seed)
    before = [w.detach().clone() for w in weights]
    swr.step()
    for w, old, start in zip(weights, before, starts, strict=True):
        wanted = (1 - lam) * float(old.norm()) + lam * start
        limited = min(wanted, rescaling.LARGEST_FACTOR * float(old.norm()))
        assert math.isclose(float(w.detach().norm()), limited, rel_tol=1e-12)
        torch.testing.assert_close(w.detach() / w.detach().norm(), old / old.norm())


def test_lambda_zero_changes_no_bit_and_one_restores_the_norms():
    model = mlp(4, 5, 3)
    start = {n: float(p.detach().norm()) for n, p in model.named_parameters() if "weight" in n}
    off, fixed = SoftWeightRescaling(model, 0), SoftWeightRescaling(model, 1)
    drift(model)
    before = copy.deepcopy(model.state_dict())
    off.step()
    for name, value in model.state_dict().items():
        assert torch.allclose(value, before[name], rtol=1e-15, atol=0)
    del off  # the other one is to rescale now
    fixed.step()
    for name, norm in start.items():
        assert math.isclose(float(model.get_parameter(name).detach().norm()), norm, rel_tol=1e-14)


def test_running_statistics_follow_the_scale_of_what_enters_them():
    """Mean by the product of the factors since the last normalization, variance by its square."""
    model = small_model("cnn-bn")
    plain = twin(model)
    scaling = SoftWeightRescaling(model, 0.3, running_statistics=True)
    leaving = SoftWeightRescaling(plain, 0.3)
    train(model, "cnn-bn", steps=2)
    plain.load_state_dict(model.state_dict())
    before = twin(model)
    scaling.step()
    leaving.step()
    for conv, norm in (("conv1", "norm1"), ("conv2", "norm2")):
        c = factor_of(model, before, conv)
        # What enters norm2 has passed norm1's own factor and conv2's.
        if norm == "norm2":
            c *= factor_of(model, before, "norm1")
        new, old = model.get_submodule(norm), before.get_submodule(norm)
        torch.testing.assert_close(new.running_mean, c * old.running_mean, rtol=1e-12, atol=0)
        torch.testing.assert_close(new.running_var, c**2 * old.running_var, rtol=1e-12, atol=0)
        untouched = plain.get_submodule(norm)
        assert torch.equal(untouched.running_mean, old.running_mean)
        assert torch.equal(untouched.running_var, old.running_var)


# --- inside any training loop ----------------------------------------------------------------


def test_attach_equals_calling_step_and_remove_detaches():
    attached, called = small_model("mlp"), small_model("mlp")
    optimizer = torch.optim.Adam(attached.parameters(), lr=1e-2)
    handle = SoftWeightRescaling(attached, 0.05).attach(optimizer)
    swr = SoftWeightRescaling(called, 0.05)
    other = torch.optim.Adam(called.parameters(), lr=1e-2)
    train(attached, "mlp", steps=5, optimizer=optimizer)
    train(called, "mlp", steps=5, after_step=swr.step, optimizer=other)
    assert difference(attached, called) == 0
    handle.remove()
    train(attached, "mlp", steps=3, optimizer=optimizer)
    train(called, "mlp", steps=3, optimizer=other)
    assert difference(attached, called) == 0


def test_gradient_accumulation_rescales_once_a_step():
    model, theirs = small_model("mlp"), small_model("mlp")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    SoftWeightRescaling(model, 0.1).attach(optimizer)
    reference = torch.optim.Adam(theirs.parameters(), lr=1e-2)
    oracle = Oracle(theirs, LAYERS["mlp"], 0.1)
    data = list(oracles.batches("mlp", steps=6))
    for i, (x, y) in enumerate(data):
        (nn.functional.cross_entropy(model(x), y) / 3).backward()
        if i % 3 == 2:
            optimizer.step()
            optimizer.zero_grad()
    for i in (0, 3):
        reference.zero_grad()
        losses = [nn.functional.cross_entropy(theirs(x), y) for x, y in data[i : i + 3]]
        (sum(losses) / 3).backward()
        reference.step()
        oracle.step()
    assert difference(model, theirs) < 1e-12


@pytest.mark.parametrize("fused", [False, True], ids=["ordinary", "fused"])
def test_a_step_that_mixed_precision_skips_scales_nothing(fused):
    model = small_model("mlp", dtype=torch.float32)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, fused=fused)
    assert getattr(optimizer, "_step_supports_amp_scaling", False) is fused
    swr = SoftWeightRescaling(model, 0.5)
    swr.attach(optimizer)
    hooks = []
    optimizer.register_step_post_hook(lambda *_: hooks.append(1))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    x, y = next(oracles.batches("mlp", steps=1))
    x = x.float()

    def step(spoil: bool) -> None:
        optimizer.zero_grad()
        scaler.scale(nn.functional.cross_entropy(model(x), y)).backward()
        if spoil:
            next(model.parameters()).grad[0, 0] = math.inf
        scaler.step(optimizer)
        scaler.update()

    drift(model)  # away from the initial norms, so that a rescaling would show
    before = twin(model)
    step(spoil=True)
    assert bool(hooks) is fused, "a fused optimizer fires its hooks on skipped steps too"
    assert difference(model, before) == 0
    if fused:
        assert (swr.summary()["factor"] == 1).all()

    plain = twin(model)
    step(spoil=False)
    reference = torch.optim.Adam(plain.parameters(), lr=1e-2)
    nn.functional.cross_entropy(plain(x), y).backward()
    reference.step()
    assert difference(model, plain) > 0.01, "a step that was taken is followed by a rescaling"
    assert not (swr.summary()["factor"] == 1).any()


def test_a_skipped_step_leaves_running_statistics_alone():
    model = small_model("cnn-bn")
    swr = SoftWeightRescaling(model, 0.5, running_statistics=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    swr.attach(optimizer)
    train(model, "cnn-bn", steps=1, optimizer=optimizer)
    optimizer.zero_grad()
    drift(model)
    before = copy.deepcopy(model.state_dict())
    optimizer.found_inf = torch.ones(1)  # as GradScaler leaves it for optimizers that handle it
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    optimizer.found_inf.zero_()
    optimizer.step()
    assert not torch.equal(model.norm1.running_var, before["norm1.running_var"])


def test_parameter_groups_change_nothing():
    models = [small_model("cnn") for _ in range(2)]
    for model, split in zip(models, (False, True), strict=True):
        parameters = list(model.parameters())
        groups = [{"params": parameters[::2]}, {"params": parameters[1::2]}]
        optimizer = torch.optim.Adam(groups if split else parameters, lr=1e-2)
        SoftWeightRescaling(model, 0.1).attach(optimizer)
        train(model, "cnn", steps=3, optimizer=optimizer)
    assert difference(*models) == 0


def test_several_optimizers_attach_to_the_one_that_steps_last():
    model, theirs = small_model("mlp"), small_model("mlp")
    first = torch.optim.SGD(model.linear1.parameters(), lr=0.1)
    last = torch.optim.Adam([*model.linear2.parameters(), *model.linear3.parameters()], lr=1e-2)
    SoftWeightRescaling(model, 0.1).attach(last)
    others = (
        torch.optim.SGD(theirs.linear1.parameters(), lr=0.1),
        torch.optim.Adam([*theirs.linear2.parameters(), *theirs.linear3.parameters()], lr=1e-2),
    )
    oracle = Oracle(theirs, LAYERS["mlp"], 0.1)
    for x, y in oracles.batches("mlp", steps=4):
        for network, optimizers in ((model, (first, last)), (theirs, others)):
            network.zero_grad()
            nn.functional.cross_entropy(network(x), y).backward()
            for optimizer in optimizers:
                optimizer.step()
        oracle.step()
    assert difference(model, theirs) < 1e-12


def test_a_frozen_layer_is_never_written_and_the_summary_says_where_proportionality_ends():
    model = mlp(4, 5, 6, 3)
    model[2].requires_grad_(False)
    frozen = copy.deepcopy(model[2].state_dict())
    swr = SoftWeightRescaling(model, 0.5)
    drift(model[0])
    drift(model[4])
    before = twin(model)
    swr.step()
    assert all(torch.equal(value, frozen[name]) for name, value in model[2].state_dict().items())
    c = [factor_of(model, before, name) for name in ("0", "4")]
    torch.testing.assert_close(model[4].bias, c[0] * c[1] * before[4].bias)
    column = swr.summary()["proportional"]
    assert column["0"] == "yes"
    assert "bias of 2 is frozen" in column["2"] and "bias of 2 is frozen" in column["4"]

    model[0].weight.requires_grad_(False)  # frozen later, or not at all: the next step sees it
    model[2].requires_grad_(True)
    kept = model[0].weight.clone()
    swr.step()
    assert torch.equal(model[0].weight, kept)
    assert (swr.summary()["proportional"] == "yes").all()


def test_all_weights_frozen_later_is_no_error():
    model = mlp(4, 5, 3)
    swr = SoftWeightRescaling(model, 0.5)
    drift(model)
    swr.step()
    model.requires_grad_(False)
    before = twin(model)
    swr.step()
    assert difference(model, before) == 0
    assert swr.summary()["factor"].isna().all()


def test_a_compiled_model():
    model, plain = small_model("mlp"), small_model("mlp")
    compiled = torch.compile(model, backend="eager")
    swr, reference = SoftWeightRescaling(compiled, 0.1), SoftWeightRescaling(plain, 0.1)
    train(compiled, "mlp", steps=3, after_step=swr.step)
    train(plain, "mlp", steps=3, after_step=reference.step)
    assert difference(model, plain) < 1e-14
    assert list(swr.summary().index) == ["linear1", "linear2", "linear3"]


@pytest.mark.filterwarnings("ignore:weights are torch")  # half precision
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_weights_cast_after_construction(dtype):
    model = small_model("cnn-bn", dtype=torch.float32)
    swr = SoftWeightRescaling(model, 0.4, running_statistics=True)
    swr.step()
    reference = small_model("cnn-bn", dtype=torch.float32)
    oracle = Oracle(reference, LAYERS["cnn-bn"], 0.4)
    model.to(dtype)
    drift(model)
    reference.double().load_state_dict(model.state_dict())
    before = twin(model)
    swr.step()
    oracle.step()
    assert next(model.parameters()).dtype == dtype
    assert difference(twin(model).double(), reference) < {2: 1e-2, 8: 1e-6}[dtype.itemsize]
    assert not torch.equal(model.norm1.running_var, before.norm1.running_var)


def test_half_precision_loses_soft_factors_and_a_warning_says_so():
    model = mlp(4, 8, 8, 3, dtype=torch.bfloat16)
    swr = SoftWeightRescaling(model, 1e-3)
    drift(model)
    before = twin(model)
    with pytest.warns(UserWarning, match=r"weights are torch\.bfloat16.*autocast") as caught:
        for _ in range(50):
            swr.step()
    assert len(caught) == 1
    assert difference(model, before) == 0  # what it warns of


def prune_weight(model: nn.Sequential) -> None:
    prune.identity(model[0], "weight")


def prune_all(model: nn.Sequential) -> None:
    for layer in model[::2]:
        prune.identity(layer, "weight")


def shard(model: nn.Sequential) -> None:
    model[0].weight.data = model[0].weight.data.flatten()[:9]


def tie(model: nn.Sequential) -> None:
    model[4].weight = model[2].weight


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (prune_weight, r"weight of 0 was of shape \[8, 8\] at the start and is computed"),
        (prune_all, r"weight of 0 was of shape"),
        (lambda model: nn.utils.parametrizations.weight_norm(model[2]), "weight of 2 was of shape"),
        (shard, r"weight of 0 was of shape \[8, 8\] at the start and is of shape \[9\]"),
        (tie, "share one weight"),
    ],
)
@pytest.mark.parametrize("started", [False, True])
def test_weights_that_became_others_are_refused_at_the_next_step(change, words, started):
    model = mlp(8, 8, 8, 8)
    swr = SoftWeightRescaling(model, 0.5)
    if started:
        swr.step()
    change(model)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=words) as caught:
        swr.step()
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert list(swr.state_dict()["initial_norms"]) == list(swr.summary().index)


@pytest.mark.parametrize("before", [True, False])
def test_a_pruned_bias_is_left_alone_and_said_so(before):
    model = mlp(8, 8, 8)
    if before:
        prune.random_unstructured(model[0], "bias", 0.25)
        with pytest.warns(UserWarning, match=r"leaves alone the parameters.*0\.bias_orig"):
            swr = SoftWeightRescaling(model, 0.5)
    else:
        swr = SoftWeightRescaling(model, 0.5)
        prune.random_unstructured(model[0], "bias", 0.25)
    drift(model)
    kept, norm = model[0].bias_orig.clone(), model[0].weight.norm()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            swr.step()
    assert [str(w.message).split(" ")[0] for w in caught] == ["0.bias"] * (not before)
    assert torch.equal(model[0].bias_orig, kept) and not torch.equal(model[0].weight.norm(), norm)
    assert all("bias of '0' is no parameter" in why for why in swr.summary()["proportional"])


def test_without_any_weight_there_is_no_new_target():
    model = mlp(8, 8, 8)
    swr = SoftWeightRescaling(model, 0.5)
    for layer in model[::2]:
        prune.identity(layer, "weight")
    with pytest.raises(ValueError, match="there is no norm to take"):
        swr.retarget()


def test_a_state_may_come_back_in_another_order():
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(11)))
    swr = SoftWeightRescaling(model, 0.5)
    state = json.loads(json.dumps(swr.state_dict(), sort_keys=True))  # "10" before "2"
    other = SoftWeightRescaling(nn.Sequential(*(nn.Linear(4, 4) for _ in range(11))), 0.1)
    other.load_state_dict(state)
    assert other.state_dict() == swr.state_dict()


def test_pruning_that_is_made_permanent_goes_on():
    model = mlp(8, 8, 8)
    swr = SoftWeightRescaling(model, 1.0)
    prune.l1_unstructured(model[0], "weight", 0.5)
    prune.remove(model[0], "weight")
    swr.step()
    assert (swr.summary()["norm"] / swr.summary()["initial_norm"]).tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: nn.Linear(2, 2, device="meta"), "has no values yet"),
        (lambda: nn.Linear(2, 2).apply(lambda m: m.weight.data.fill_(math.nan)), "is nan"),
        (lambda: nn.Linear(2, 2).apply(lambda m: m.weight.data.fill_(1e30)), "is inf"),
    ],
)
def test_without_a_norm_there_is_nothing_to_return_to(build, words):
    with pytest.raises(ValueError, match=words):
        SoftWeightRescaling(build(), 0.1)


def test_an_optimizer_is_attached_once_and_a_second_one_with_a_warning():
    model = mlp(4, 4, 2)
    swr = SoftWeightRescaling(model, 0.5)
    first = torch.optim.SGD(model.parameters(), lr=0.0)
    handle = swr.attach(first)
    with pytest.raises(ValueError, match="attached already"):
        swr.attach(first)
    second = torch.optim.SGD(model.parameters(), lr=0.0)
    with pytest.warns(UserWarning, match="another optimizer is attached"):
        swr.attach(second).remove()
    handle.remove()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        swr.attach(first)
        del first  # as where each stage has a new optimizer
        swr.attach(second)
        model, swr = copy.deepcopy((model, swr))
        swr.attach(torch.optim.SGD(model.parameters(), lr=0.0))


def test_options_are_fixed_or_act_at_once():
    model = small_model("cnn-bn")
    swr = SoftWeightRescaling(model, lam_features=0.1, lam_classifier=0.2)
    with pytest.raises(AttributeError):
        swr.variant = "printed"
    swr.lam = swr.lam
    assert swr.lam == (0.1, 0.2)
    swr.lam = 0.3
    assert (swr.lam_features, swr.lam_classifier) == (0.3, 0.3)
    swr.step()
    drift(model)
    before = model.norm1.running_var.clone()
    swr.step()
    assert torch.equal(before, model.norm1.running_var)
    drift(model)
    swr.running_statistics = True
    before = model.norm1.running_var.clone()
    swr.step()
    assert not torch.equal(before, model.norm1.running_var)


def test_the_summary_says_where_running_statistics_lag():
    model = small_model("cnn-bn")
    assert (SoftWeightRescaling(model, 0.1).summary()["proportional"] == "yes").all()
    model.eval()
    lagging = SoftWeightRescaling(model, 0.1).summary()["proportional"]
    assert lagging["conv1"] == "yes" and "statistics lag" in lagging["norm1"]
    first = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)).eval()  # nothing before it is scaled
    assert (SoftWeightRescaling(first, 0.1).summary()["proportional"] == "yes").all()
    along = SoftWeightRescaling(model, 0.1, running_statistics=True)
    assert (along.summary()["proportional"] == "yes").all()


def test_the_summarys_norms_are_those_that_a_step_goes_by():
    torch.manual_seed(0)
    summary = SoftWeightRescaling(nn.Linear(1500, 1500), 0.1).summary()
    assert summary["norm"].tolist() == summary["initial_norm"].tolist()


def test_an_example_traces_what_follows_values():
    swr = SoftWeightRescaling(Positive(), 0.1, example=torch.ones(1, 3))
    assert [layer.name for layer in swr.layers] == ["first", "second"]


class Positive(nn.Module):
    """Loops as often as its input has rows, which torch.fx cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x):
        x = self.first(x)
        for _ in range(len(x)):
            x = torch.relu(x)
        return self.second(x)


def test_weights_replaced_after_construction():
    """`load_state_dict(assign=True)` puts new tensors, running statistics too, in the modules."""
    model = small_model("cnn-bn")
    swr = SoftWeightRescaling(model, 0.4, running_statistics=True)
    train(model, "cnn-bn", steps=1, after_step=swr.step)
    drift(model)
    model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    swr.attach(optimizer)
    optimizer.step()
    unchanged = [n for n, v in model.state_dict().items() if torch.equal(v, before[n])]
    assert unchanged == ["norm1.num_batches_tracked", "norm2.num_batches_tracked"]


def test_lambda_follows_a_schedule():
    model, theirs = small_model("cnn"), small_model("cnn")
    swr = SoftWeightRescaling(model, lam_features=0.1, lam_classifier=0.2)
    oracle = Oracle(theirs, LAYERS["cnn"], (0.1, 0.2))
    rounds = iter(range(1, 5))

    def scheduled() -> None:
        swr.step()
        swr.lam_features = swr.lam_features / 2
        swr.lam_classifier = 0.2 + 0.1 * next(rounds)

    rounds_of_oracle = iter(range(1, 5))

    def scheduled_oracle() -> None:
        oracle.step()
        oracle.lam["features"] /= 2
        oracle.lam["classifier"] = 0.2 + 0.1 * next(rounds_of_oracle)

    train(model, "cnn", steps=4, after_step=scheduled)
    train(theirs, "cnn", steps=4, after_step=scheduled_oracle)
    assert difference(model, theirs) < 1e-12
    assert swr.lam == (swr.lam_features, swr.lam_classifier)
    swr.lam = 0.25
    assert (swr.lam, swr.lam_features, swr.lam_classifier) == (0.25, 0.25, 0.25)
    for name in ("lam", "lam_features", "lam_classifier"):
        with pytest.raises(ValueError, match="lies in"):
            setattr(swr, name, 2)
    assert swr.lam == 0.25


def test_retarget_takes_the_present_norms():
    model = mlp(4, 5, 3)
    swr = SoftWeightRescaling(model, 1.0)
    drift(model)
    swr.retarget()
    before = twin(model)
    swr.step()
    assert difference(model, before) < 1e-15
    drift(model, seed=6)
    swr.step()
    for i in (0, 2):
        torch.testing.assert_close(model[i].weight.norm(), before[i].weight.norm())


def _two_layers() -> nn.Sequential:
    return mlp(4, 6, 3)


def _worker(rank: int, folder: str) -> None:
    """Train on this process's half of each batch; leave the weights in the folder."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    model = _two_layers()
    parallel = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.Adam(parallel.parameters(), lr=1e-2)
    SoftWeightRescaling(parallel, 0.1).attach(optimizer)
    generator = torch.Generator().manual_seed(rank)
    for _ in range(5):
        optimizer.zero_grad()
        inputs = torch.randn(8, 4, generator=generator, dtype=torch.float64)
        parallel(inputs).square().mean().backward()
        optimizer.step()
    torch.save(model.state_dict(), f"{folder}/weights{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_agree_under_distributed_data_parallel(tmp_path):
    # Both are forked from a fresh process that has imported everything once: a fork of this one
    # could not use autograd, whose threads may run already.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch._dynamo", "swrlib"])
    workers = [context.Process(target=_worker, args=(rank, str(tmp_path))) for rank in range(2)]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(90)
        assert [worker.exitcode for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
    first, second = (torch.load(tmp_path / f"weights{rank}.pt") for rank in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())

    # One process with both halves of each batch takes the same steps.
    model = _two_layers()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    SoftWeightRescaling(model, 0.1).attach(optimizer)
    generators = [torch.Generator().manual_seed(rank) for rank in range(2)]
    for _ in range(5):
        optimizer.zero_grad()
        halves = [torch.randn(8, 4, generator=g, dtype=torch.float64) for g in generators]
        model(torch.cat(halves)).square().mean().backward()
        optimizer.step()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, first[name], rtol=1e-9, atol=1e-12)


def test_every_entry_of_a_state_dict_comes_back():
    model = small_model("cnn")
    swr = SoftWeightRescaling(model, lam_features=0.1, lam_classifier=0.3)
    drift(model)
    resumed = twin(model)
    again = SoftWeightRescaling(resumed, 0.9)  # n_l: the drifted norms, until the state is loaded
    again.load_state_dict(copy.deepcopy(swr.state_dict()))
    assert again.state_dict() == swr.state_dict()
    for each in (swr, again):
        each.step()
    assert difference(model, resumed) == 0
    assert again.lam == (0.1, 0.3)


# --- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"lam": -0.1}, ValueError, r"λ is -0.1.*\[0, 1\]"),
        ({"lam": 1.5}, ValueError, r"λ is 1.5"),
        ({"lam": math.nan}, ValueError, "nan"),
        ({"lam": math.inf}, ValueError, "inf"),
        ({"lam": "0.1"}, TypeError, "'0.1'"),
        ({"lam": True}, TypeError, "True"),
        ({}, ValueError, "λ is missing"),
        ({"lam_features": 0.1}, ValueError, "both lam_features and lam_classifier"),
        ({"lam_classifier": 0.1}, ValueError, "both lam_features and lam_classifier"),
        ({"lam_features": 0.1, "lam_classifier": 2}, ValueError, "is 2.0"),
        ({"lam": 0.1, "lam_features": 0.1}, ValueError, "not both"),
        ({"lam": 0.1, "lam_features": 0.1, "lam_classifier": 0.1}, ValueError, "not both"),
        ({"lam": 0.1, "variant": "proportionl"}, ValueError, "did you mean 'proportional'"),
        ({"lam": 0.1, "classifier": ["4", "5"]}, ValueError, "no module '5'"),
        ({"lam": 0.1, "classifier": "4"}, TypeError, r"list of module names: \['4'\]"),
        ({"lam": 0.1, "layers": "0"}, TypeError, r"list of module names: \['0'\]"),
        ({"lam": 0.1, "layers": ["0", "1"]}, ValueError, "'1' is a ReLU.*leave it out"),
        ({"lam": 0.1, "layers": ["0", "two"]}, ValueError, "no module 'two'"),
        ({"lam": 0.1, "layers": ["0", "0"]}, ValueError, "used twice"),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(arguments, error, message):
    model = mlp(3, 4, 5, 2)
    before = twin(model)
    with pytest.raises(error, match=message) as caught:
        SoftWeightRescaling(model, **arguments)
    assert "\n" not in str(caught.value)
    assert difference(model, before) == 0


def test_numbers_of_numpy_and_the_ends_of_the_interval_are_welcome():
    model = mlp(3, 4, 2)
    for value in (0, 1, np.float32(0.5), np.float64(1e-3)):
        assert SoftWeightRescaling(model, value).lam == float(value)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, x):
        return self.inner(torch.relu(self.inner(x)))


class Depends(nn.Module):
    """Its forward pass looks at values."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(4, 2)

    def forward(self, x):
        x = self.first(x)
        if x.sum() > 0:
            x = torch.relu(x)
        return self.second(x)


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    return model


def tied_by_memory() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    model[2].weight.data = model[0].weight.data
    return model


def transposed() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3))
    model[2].weight = nn.Parameter(model[0].weight.t())
    return model


def overlapping() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    entries = torch.randn(12)
    model[0].weight = nn.Parameter(entries[:9].view(3, 3))
    model[2].weight = nn.Parameter(entries[3:].view(3, 3))
    return model


def same_module() -> nn.Module:
    layer = nn.Linear(3, 3)
    return nn.Sequential(layer, nn.ReLU(), layer)


def tied_embedding() -> nn.Module:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5))
    model[1].weight = model[0].weight
    return model


@pytest.mark.parametrize(
    "build",
    [tied, tied_by_memory, transposed, overlapping, same_module, Twice, tied_embedding],
)
def test_shared_weights_are_refused(build):
    with pytest.raises(ValueError, match=r"(used twice|share one weight).*one norm to return to"):
        SoftWeightRescaling(build(), 0.1)


@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
@pytest.mark.parametrize("width", [4, 400], ids=["small", "large"])
def test_complex_and_real_weights_are_pulled_by_their_norms(width):
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(width, width, dtype=torch.complex64)
            self.outer = nn.Linear(width, 2)

        def forward(self, x):
            return self.outer(self.inner(x).real)

    model = Mixed()
    start = [layer.weight.norm().item() for layer in (model.inner, model.outer)]
    swr = SoftWeightRescaling(model, 0.25)
    with torch.no_grad():
        for layer in (model.inner, model.outer):
            layer.weight.mul_(3)
    swr.step()
    for layer, norm in zip((model.inner, model.outer), start, strict=True):
        assert layer.weight.norm().item() == pytest.approx(2.5 * norm, rel=1e-4)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_neighbours_in_one_buffer_are_not_shared(device):
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.ReLU(), nn.Linear(3, 3, bias=False))
    entries = torch.randn(18, device=device)
    model[0].weight = nn.Parameter(entries[:9].view(3, 3))
    model[2].weight = nn.Parameter(entries[9:].view(3, 3))
    assert [layer.name for layer in trace_layers(model)] == ["0", "2"]


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Sequential(nn.ReLU()),
        lambda: mlp(3, 4, 2).requires_grad_(False),
        lambda: nn.Sequential(nn.BatchNorm1d(3, affine=False)),
    ],
    ids=["no layers", "frozen", "without scale"],
)
def test_a_model_without_trainable_weights_is_refused(build):
    with pytest.raises(ValueError, match="no trainable weight"):
        SoftWeightRescaling(build(), 0.1)


def test_a_model_that_cannot_be_traced_says_how_to_name_its_layers_and_that_works():
    torch.manual_seed(0)
    model = Depends().double()
    with pytest.raises(ValueError, match=r"cannot be traced.*layers=\[") as caught:
        SoftWeightRescaling(model, 0.1)
    assert "\n" not in str(caught.value)
    swr = SoftWeightRescaling(model, 0.1, layers=["first", "second"])
    table = (
        oracles.NamedLayer("first", "linear", "features"),
        oracles.NamedLayer("second", "linear", "classifier"),
    )
    theirs = twin(model)
    oracle = Oracle(theirs, table, 0.1)
    for network in (model, theirs):
        drift(network)
    swr.step()
    oracle.step()
    assert difference(model, theirs) < 1e-14


def test_the_state_dict_of_another_model_is_refused_and_nothing_changes():
    model = mlp(3, 4, 2)
    swr = SoftWeightRescaling(model, 0.1)
    good = swr.state_dict()
    named = nn.Sequential(*model, nn.Linear(2, 2, dtype=torch.float64))
    others = {
        "another depth": SoftWeightRescaling(named, 0.2).state_dict(),
        "another width": SoftWeightRescaling(mlp(3, 5, 2), 0.2).state_dict(),
        "another variant": {**good, "variant": "printed"},
        "other statistics": {**good, "running_statistics": True},
        "no lambda": {k: v for k, v in good.items() if k != "lam_features"},
        "bad lambda": {**good, "lam_features": 0.7, "lam_classifier": 7.0},
        "bad norm": {**good, "lam_features": 0.7, "initial_norms": {"0": math.nan, "2": 1.0}},
        "empty": {},
    }
    for label, state in others.items():
        with pytest.raises(ValueError):
            swr.load_state_dict(state)
        assert swr.state_dict() == good, label


def test_an_optimizer_of_another_model_is_refused():
    swr = SoftWeightRescaling(mlp(3, 4, 2), 0.1)
    with pytest.raises(ValueError, match="none of the model's weights"):
        swr.attach(torch.optim.SGD(mlp(3, 4, 2).parameters(), lr=0.1))


@pytest.mark.parametrize("when", ["at the start", "later"])
def test_a_zero_norm_gives_factor_one_and_exactly_one_warning(when):
    model = mlp(3, 4, 4, 2)
    if when == "at the start":
        nn.init.zeros_(model[2].weight)
        swr = SoftWeightRescaling(model, 0.5)
        drift(model)
    else:
        swr = SoftWeightRescaling(model, 0.5)
        drift(model)
        nn.init.zeros_(model[2].weight)
    before = twin(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(4):
            swr.step()
    assert len(caught) == 1 and "norm of 2 is zero" in str(caught[0].message)
    assert torch.equal(model[2].weight, before[2].weight), "factor 1"
    c = factor_of(model, before, "0")
    torch.testing.assert_close(model[2].bias, c * before[2].bias)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert swr.summary().loc["2", "factor"] == 1
    assert swr.summary().loc["0", "factor"] != 1


@pytest.mark.parametrize("start", [1e-2, 1e-4, 1e-12])
def test_a_norm_that_is_small_and_not_zero_is_returned_to(start):
    model = mlp(3, 4, 2).double()
    with torch.no_grad():
        model[0].weight.mul_(start / model[0].weight.norm())
    swr = SoftWeightRescaling(model, 0.5)
    with torch.no_grad():
        model[0].weight.mul_(3.0)
    swr.step()
    assert math.isclose(float(model[0].weight.detach().norm()), 2 * start, rel_tol=1e-9)


class WithParameter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.scale = nn.Parameter(torch.ones(4))
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        x = self.layer(x) * self.scale
        return self.attention(x, x, x)[0]


def test_parameters_outside_layers_are_named_in_one_warning_and_left_alone():
    model = WithParameter()
    with pytest.warns(UserWarning, match=r"scale, attention\.in_proj_weight") as caught:
        swr = SoftWeightRescaling(model, 0.5)
    assert len(caught) == 1
    drift(model)
    before = copy.deepcopy(model.state_dict())
    swr.step()
    changed = [n for n, value in model.state_dict().items() if not torch.equal(value, before[n])]
    assert changed == ["layer.weight", "layer.bias"]


def test_a_weight_that_is_computed_afresh_is_left_alone():
    """Weight norm: scaling its product in place would be lost, and the bias scaled for nothing."""
    model = mlp(3, 4, 4, 2)
    nn.utils.parametrizations.weight_norm(model[2])
    with pytest.warns(UserWarning, match="parametrizations"):
        swr = SoftWeightRescaling(model, 0.5)
    drift(model)
    before = twin(model)
    swr.step()
    assert torch.equal(model[2].weight, before[2].weight)
    c = factor_of(model, before, "0")
    torch.testing.assert_close(model[2].bias, c * before[2].bias)


def test_the_summary_says_where_the_printed_algorithm_and_branches_end_proportionality():
    printed = SoftWeightRescaling(small_model("norms"), 0.1, variant="printed").summary()
    # b's input is scaled by the group norm's factor, yet its bias by c_l alone; all behind suffers.
    assert printed["proportional"].eq("yes").tolist() == [True] * 2 + [False] * 5
    assert "misscales the bias of b" in printed.loc["e", "proportional"]
    ours = SoftWeightRescaling(small_model("norms"), 0.1).summary()
    assert (ours["proportional"] == "yes").all()
    assert ours.columns.tolist() == [
        *("kind", "group", "lam", "initial_norm", "norm", "factor", "proportional")
    ]

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x):
            return self.head((x + self.inner(x)) + x)

    summary = SoftWeightRescaling(Residual(), 0.1).summary()
    assert summary.loc["inner", "proportional"] == "yes"
    assert summary.loc["head", "proportional"] == "no: 'add' adds branches of different scale"


# --- the cost of a step ----------------------------------------------------------------------


class Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.operations.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("attached", [False, True], ids=["step", "attached, mixed precision"])
def test_the_number_of_operations_does_not_grow_with_depth(attached):
    counts = []
    for depth in (3, 30):
        model = mlp(*[4] * (depth + 1))
        swr = SoftWeightRescaling(model, 0.1)
        swr.step()  # lays out its plan
        swr._rescaler._plan._rescale._in_place = False  # as on a GPU; here each tensor has a call
        drift(model)
        skipped = torch.zeros(1) if attached else None
        with Counting() as counting, torch.no_grad():
            swr._rescaler.step(skipped)
        counts.append(sorted(counting.operations))
    assert counts[0] == counts[1]
    assert 3 < len(counts[0]) < 40
    # What would wait for a device.
    assert not [o for o in counts[1] if "_local_scalar" in o or "nonzero" in o or "equal" in o]


def test_the_only_read_is_that_of_the_norms_copy_on_the_processor(monkeypatch):
    model = mlp(4, 4, 4)
    swr = SoftWeightRescaling(model, 0.1)
    swr.step()
    read: list[torch.Tensor] = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda t: (read.append(t), tolist(t))[1])
    swr.step()
    (values,) = read
    assert values.is_cpu and values.shape == (2,)


# --- mutants: each must fail a check that the real code passes ---------------------------------


@pytest.fixture
def mutate(monkeypatch):
    def replace(name, make):
        monkeypatch.setattr(rescaling, name, make(getattr(rescaling, name)))

    return replace


def caught_by(check, *arguments) -> bool:
    try:
        check(*arguments)
    except AssertionError:
        return True
    return False


def swapped_variants(real):
    swap = {"proportional": "printed", "printed": "proportional"}
    return lambda network, variant: real(network, swap[variant])


def dropped_bias_factor(real):
    def membership(network, variant):
        members = dict(real(network, variant))
        last = network.layers[-1].name
        members[last] = members[last] - {network.layers[0].name, network.layers[-2].name}
        return members

    return membership


def away_from_the_initial_norm(real):
    return lambda norms, pull, rest: real(norms, -pull, 2 - rest)


@pytest.mark.parametrize("variant", VARIANTS)
def test_mutant_wrong_variant_is_caught(mutate, variant):
    mutate("membership", swapped_variants)
    for name in ("cnn-bn", "norms"):
        assert caught_by(check_algorithm, name, 0.1, variant, 3)


@pytest.mark.parametrize("name", ["mlp", "cnn", "cnn-bn", "norms"])
def test_mutant_dropped_bias_factor_is_caught(mutate, name):
    check_algorithm(name, 0.1, "proportional", 3)
    mutate("membership", dropped_bias_factor)
    assert caught_by(check_algorithm, name, 0.1, "proportional", 3)


def test_mutant_sign_of_lambda_is_caught(mutate):
    check_algorithm("mlp", 0.1, "proportional", 3)
    mutate("soft_factors", away_from_the_initial_norm)
    assert caught_by(check_algorithm, "mlp", 0.1, "proportional", 3)


def test_mutant_forgotten_running_statistics_are_caught(monkeypatch):
    test_running_statistics_follow_the_scale_of_what_enters_them()
    real = Plan.__init__

    def forgetful(self, *arguments):
        real(self, *arguments)
        self._statistics = []

    monkeypatch.setattr(Plan, "__init__", forgetful)
    assert caught_by(test_running_statistics_follow_the_scale_of_what_enters_them)


def test_mutant_swapped_groups_are_caught(monkeypatch):
    real = Rescaler.step

    def swapped(self, *arguments):
        features, classifier = self.strengths.lam
        self.strengths.lam = classifier, features
        real(self, *arguments)
        self.strengths.lam = features, classifier

    monkeypatch.setattr(Rescaler, "step", swapped)
    assert caught_by(check_algorithm, "cnn", (1e-3, 0.3), "proportional", 3)


def test_rescale_factors_are_checked():
    model = mlp(3, 4, 2)
    before = twin(model)
    for factors, error, message in (
        ([1.0], ValueError, "1 factors for 2 layers: 0, 2"),
        ([1.0, 2.0, 3.0], ValueError, "3 factors for 2 layers"),
        ([1.0, 0.0], ValueError, "factor of layer '2' is 0.0"),
        ([-1.0, 1.0], ValueError, "positive"),
        ([math.nan, 1.0], ValueError, "positive"),
        ([1.0, math.inf], ValueError, "positive"),
        ({"0": 1.0}, ValueError, "1 factors for 2 layers"),
        ({"0": 1.0, "two": 1.0}, ValueError, "no layer 'two'"),
        (2.0, TypeError, "one number per layer"),
        ("22", TypeError, "one number per layer"),
    ):
        with pytest.raises(error, match=message):
            rescale_(model, factors)
    with pytest.raises(ValueError, match="unknown variant 'print': did you mean 'printed'"):
        rescale_(model, [1.0, 2.0], variant="print")
    assert difference(model, before) == 0
    assert rescale_(model, {"2": 3.0, "0": 2.0}) == 6.0


@pytest.mark.parametrize("shape", [(4096, 4096), (512, 512, 3, 3), (100, 3072), (300_000,)])
def test_norms_of_large_tensors_are_exact_to_float32(shape):
    """A single float32 sum of 17 million squares is off by 6e-4, which is more than λ = 1e-4."""
    torch.manual_seed(0)
    tensor = torch.empty(shape).uniform_(-0.03, 0.03)
    form = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    exact = float(tensor.double().norm())
    for laid_out in (tensor, tensor.to(memory_format=form)):
        (norm,) = rescaling.multi_tensor_norms([laid_out]).tolist()
        assert norm == pytest.approx(exact, rel=3e-6)
        two = torch.stack([laid_out, 2 * laid_out])
        norms = rescaling.multi_tensor_norms([two], stacked=True)
        assert norms.tolist() == [[pytest.approx(f * exact, rel=3e-6)] for f in (1, 2)]


def test_a_pickled_copy_goes_on_as_the_original():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
    soft = SoftWeightRescaling(model, lam=0.3)
    soft.step()
    other, its_soft = pickle.loads(pickle.dumps((model, soft)))
    for _ in range(3):
        for network, rescaling_of_it in ((model, soft), (other, its_soft)):
            with torch.no_grad():
                for p in network.parameters():
                    p.mul_(1.5)
            rescaling_of_it.step()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_first_step_in_inference_mode_changes_nothing_for_later_ones():
    model = torch.nn.Linear(8, 6)
    soft, norm = SoftWeightRescaling(model, lam=0.5), float(model.weight.detach().norm())
    for mode in (True, False):
        with torch.no_grad():
            model.weight.mul_(2 * norm / model.weight.norm())
        with torch.inference_mode(mode):
            soft.step()
        assert float(model.weight.detach().norm()) == pytest.approx(1.5 * norm)


def test_weights_made_in_inference_mode_are_refused():
    with torch.inference_mode():
        model = mlp(3, 4, 2)
        SoftWeightRescaling(model, 0.1).step()
    with pytest.raises(ValueError, match=r"the weight of 0 was made in inference mode") as caught:
        SoftWeightRescaling(model, 0.1)
    assert "\n" not in str(caught.value)
