"""Methods in a user's loop are those of the engine: the same weights, step after step."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from image_folder import make_image_folder
from torch import nn
from torch.nn.functional import cross_entropy

import swrlib
from swrlib import (
    L2,
    SWR,
    AdamW,
    FullReset,
    HeadReset,
    InLoop,
    L2Init,
    Method,
    ShrinkPerturb,
    SoftWeightRescaling,
    SWRReinit,
    make_stream,
    methods,
)
from swrlib.engine import loop
from swrlib.streams import generator

SEED, BATCH = 3, 16
RATE = 1e-3


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return swrlib.load_dataset(make_image_folder(tmp_path_factory.mktemp("data") / "pictures"))


def by_the_engine(monkeypatch, tmp_path, model, data, stream, method) -> dict[str, torch.Tensor]:
    """Train, and return the weights at the end."""
    jobs = []
    with monkeypatch.context() as patched:
        write = loop.Job.train
        patched.setattr(loop.Job, "train", lambda job, bar: (jobs.append(job), write(job, bar))[1])
        swrlib.train(
            dataset=data,
            model=model,
            stream=stream,
            methods=[method],
            seeds=[SEED],
            batch_size=BATCH,
            dtype=torch.float64,
            device="cpu",
            progress=False,
            checkpoints=tmp_path,
        )
    (job,) = jobs
    return dict(job.population.stack.module(0).state_dict())


def new_model(model, data, purpose):
    torch.manual_seed(generator(SEED, purpose).initial_seed())
    return swrlib.build_model(model, data).double()


def by_hand(name, data, stream, method) -> dict[str, torch.Tensor]:
    """Train in a loop of one's own, with the method in it."""
    model = new_model(name, data, "weights")
    images = (data.train_images.double() / 255 - data.mean[0]) / data.std[0]
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    stage = 1
    attached = InLoop(
        *(method, model, optimizer),
        fresh=lambda: new_model(name, data, f"change {stage}"),
        seed=SEED,
    )
    for stage, part in enumerate(stream.stages(len(images), SEED), start=1):
        if stage > 1:
            attached.change()
        before = None
        for epoch, rate in enumerate(part.learning_rates, start=1):
            if before is not None and rate < before:
                attached.decay()
            before = optimizer.param_groups[0]["lr"] = rate
            random = generator(SEED, "order", stage, epoch)
            order = part.indices[torch.randperm(len(part.indices), generator=random)]
            for batch in order.split(BATCH):
                optimizer.zero_grad()
                cross_entropy(model(images[batch]), data.train_labels[batch]).backward()
                optimizer.step()
    return dict(model.state_dict())


@pytest.mark.parametrize("model", ["mlp", "cnn-bn"])
@pytest.mark.parametrize(
    "method",
    [
        L2(lam=0.1),
        L2Init(lam=0.1),
        AdamW(lam=0.1),
        ShrinkPerturb(lam=0.3),
        HeadReset(),
        HeadReset(to_initial=True),
        FullReset(),
        SWR(lam_features=0.05, lam_classifier=0.2),
        SWRReinit(lam=0.1, at_changes=True),
        methods.Wasserstein(lam=0.1),
        methods.SpectralRegularization(lam=0.1),
        methods.ShrinkPerturbNoise(lam=0.3),
        methods.FIRE(),
    ],
    ids=lambda method: method.name,
)
def test_a_loop_of_ones_own_does_what_the_engine_does(
    monkeypatch, tmp_path, pictures, model, method
):
    stream = make_stream("warm-start", epochs=2)
    ours = by_hand(model, pictures, stream, method)
    engine = by_the_engine(monkeypatch, tmp_path, model, pictures, stream, method)
    plain = by_hand(model, pictures, stream, Method())
    assert set(ours) == set(engine)
    for name, value in engine.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-8, atol=1e-10)
    last = list(plain)[-2]
    assert not torch.allclose(plain[last], engine[last], rtol=1e-3), "the method has acted"


def small() -> tuple[nn.Sequential, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def test_frozen_parameters_are_never_written_and_unused_ones_are_pulled():
    model, optimizer = small()
    model[0].requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    method = InLoop(L2(lam=0.5), model, optimizer)
    shrink = InLoop(ShrinkPerturb(lam=0.5), model, optimizer)
    optimizer.step()  # no loss at all
    assert torch.equal(model[0].weight, before["0.weight"]) and model[0].weight.grad is None
    torch.testing.assert_close(model[2].weight, 0.95 * before["2.weight"])
    method.remove()
    optimizer.zero_grad()
    optimizer.step()
    torch.testing.assert_close(model[2].weight, 0.95 * before["2.weight"])
    shrink.change()
    torch.testing.assert_close(model[2].weight, 0.975 * before["2.weight"])
    assert torch.equal(model[0].weight, before["0.weight"])


@dataclass(frozen=True)
class Looks(Method):
    name: ClassVar[str] = "looks"
    features: ClassVar[tuple[str, ...]] = ("0",)


@dataclass(frozen=True)
class Asks(Method):
    name: ClassVar[str] = "asks"

    def start(self, members):
        _ = members.population.blueprint


def test_what_a_loop_cannot_give_is_refused():
    model, optimizer = small()
    for method in (Looks(), Asks()):
        with pytest.raises(ValueError, match=r"swrlib\.train"):
            InLoop(method, model, optimizer)
    for method in (methods.ReDo(), methods.L2EffectiveRank(lam=0.1)):  # they look at images
        with pytest.raises(ValueError, match=r"the method asks for the blueprint.*swrlib\.train"):
            InLoop(method, model, optimizer)
    with pytest.raises(ValueError, match="none of the model's weights"):
        InLoop(L2(lam=0.1), model, small()[1])
    with pytest.raises(TypeError, match="a list is no optimizer"):
        InLoop(L2(lam=0.1), model, [optimizer])
    reset = InLoop(HeadReset(), model, optimizer)
    with pytest.raises(ValueError, match="fresh="):
        reset.change()
    decay = InLoop(AdamW(lam=0.1), model, optimizer)
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "lr": 3.0})
    with pytest.raises(ValueError, match="one learning rate"):
        optimizer.step()
    decay.remove()
    reset.remove()
    model, optimizer = small()
    InLoop(L2Init(lam=0.1), model, optimizer)
    model.double()
    with pytest.raises(ValueError, match="lies elsewhere"):
        optimizer.step()


def test_a_weight_has_one_owner_here_too():
    model, optimizer = small()
    inside = InLoop(SWR(lam=0.1), model, optimizer)
    with pytest.raises(ValueError, match=r"rescale them twice.*call remove\(\)"):
        SoftWeightRescaling(model, 0.1).step()
    inside.remove()
    SoftWeightRescaling(model, 0.1).attach(optimizer)
    with pytest.raises(ValueError, match="rescale them twice"):
        InLoop(SWR(lam=0.1), model, optimizer)


@pytest.mark.parametrize("method", [L2(lam=0.1), L2Init(lam=0.1), HeadReset()])
def test_a_method_acts_once_on_a_weight(method):
    model, optimizer = small()
    inside = InLoop(method, model, optimizer)
    for again in (optimizer, torch.optim.SGD(model.parameters(), lr=0.1)):
        with pytest.raises(ValueError, match=rf"applies {method.name} .*twice.*call remove\(\)"):
            InLoop(method, model, again)
    InLoop(ShrinkPerturb(lam=0.1), model, optimizer, fresh=lambda: small()[0])  # another one may
    inside.remove()
    InLoop(method, model, optimizer)


def test_what_is_refused_leaves_no_hook_behind():
    model, optimizer = small()
    SoftWeightRescaling(model, 0.1).attach(optimizer)
    hooks = len(optimizer._optimizer_step_post_hooks)
    with pytest.raises(ValueError, match="rescale them twice"):
        InLoop(SWR(lam=0.1), model, optimizer)
    assert len(optimizer._optimizer_step_post_hooks) == hooks


@pytest.mark.parametrize("fused", [False, True])
def test_with_a_scaler_the_penalty_is_added_to_unscaled_gradients(fused):
    model, _ = small()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, fused=fused)
    InLoop(L2(lam=0.5), model, optimizer)
    theirs = copy.deepcopy(model)
    reference = torch.optim.Adam(theirs.parameters(), lr=0.1, weight_decay=0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    x = torch.ones(2, 4)
    scaler.scale(model(x).sum()).backward()
    theirs(x).sum().backward()
    reference.step()
    if fused:
        with pytest.raises(ValueError, match="unscale_"):
            scaler.step(optimizer)
        del optimizer.grad_scale, optimizer.found_inf  # which torch leaves behind
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    for p, q in zip(model.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize("method", [L2Init, "l2"])
def test_what_is_no_method_is_refused(method):
    model = torch.nn.Linear(2, 2)
    with pytest.raises(TypeError, match="InLoop takes a method as "):
        InLoop(method, model, torch.optim.SGD(model.parameters(), lr=0.1))


# Half precision


def small_convolutions(dtype, seed=0):
    """Return a network with weights that half precision holds exactly, no matrix of them square."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 7), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(7, 3)).to(torch.bfloat16).half().to(dtype)


def acted(method, dtype):
    """Return gradients and parameters at a step that is the method's alone, and after a change.

    Weights and gradients before are the same in every precision.
    """
    model, other = small_convolutions(dtype), small_convolutions(dtype, seed=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    loop = InLoop(method, model, optimizer, fresh=lambda: small_convolutions(dtype, seed=2))
    model.load_state_dict(other.state_dict())
    model(torch.ones(2, 1, 4, 4, dtype=dtype))
    for parameter, gradient in zip(model.parameters(), other.parameters(), strict=True):
        parameter.grad = gradient.detach().flip(0)
    gradients = []

    def keep(*given):
        gradients.extend(parameter.grad.clone() for parameter in model.parameters())
        optimizer.zero_grad()

    optimizer.register_step_pre_hook(keep)
    optimizer.step()
    stepped = [parameter.detach().clone() for parameter in model.parameters()]
    model.load_state_dict(other.state_dict())  # nothing that was rounded once already
    loop.change()
    return [*gradients, *stepped, *(parameter.detach() for parameter in model.parameters())]


@pytest.mark.filterwarnings("ignore:weights are torch")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "method",
    [
        L2(lam=0.1),
        L2Init(lam=0.1),
        AdamW(lam=0.1),
        ShrinkPerturb(lam=0.3),
        HeadReset(),
        FullReset(),
        SWR(lam=0.4),
        SWRReinit(lam=0.4, at_changes=True),
        methods.Wasserstein(lam=0.1),
        methods.SpectralRegularization(lam=0.1),
        methods.ShrinkPerturbNoise(lam=0.3),
        methods.FIRE(),
        methods.FIRE(iterations=None, norm="present"),
        methods.ContinualBackprop(rate=0.99, maturity=0),  # all units start anew but one
    ],
    ids=repr,
)
def test_half_precision_is_what_float32_gives_rounded_once(method, dtype):
    plain = acted(Method(), dtype)
    found, exact = acted(method, dtype), acted(method, torch.float32)
    for value, expected in zip(found, exact, strict=True):
        assert value.dtype == dtype and torch.equal(value, expected.to(dtype))
    assert not all(map(torch.equal, found, plain)), "the method has acted"


def test_swr_in_half_precision_is_warned_of_here_too():
    model, optimizer = small()
    with pytest.warns(UserWarning, match=r"weights are torch\.bfloat16.*autocast"):
        InLoop(SWR(lam=0.1), model.bfloat16(), optimizer)


def test_each_parameter_has_a_precision_of_its_own():
    model, optimizer = small()
    model[2].bfloat16()
    before = copy.deepcopy(model.state_dict())
    InLoop(methods.ShrinkPerturbNoise(lam=0.5, deviation=0.0), model, optimizer).change()
    for name, value in model.state_dict().items():
        assert value.dtype == before[name].dtype and torch.equal(value, before[name] / 2)
    model.float()
    with pytest.raises(ValueError, match="lies elsewhere"):
        optimizer.step()


def test_what_was_frozen_at_the_start_stays_so():
    model, optimizer = small()
    model[0].requires_grad_(False)
    InLoop(L2(lam=0.5), model, optimizer)
    model[0].requires_grad_(True)
    with pytest.raises(ValueError, match="freeze the model first"):
        optimizer.step()
