"""SWR in loops as people have them: once after each step that was taken, or refused."""

from __future__ import annotations

import copy
import gc
import math
import pickle
import warnings
from types import MethodType

import pytest
import torch
from optimizers import SAM, Lookahead, NoHooks, Old, ScheduleFree, Twofold, TwoSteps
from oracles import LAYERS, difference, small_model, train, twin
from torch import nn
from torch.nn.functional import cross_entropy

from swrlib import SoftWeightRescaling, rescaling


def mlp(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    ).double()


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(16, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 3, (16,), generator=generator)


def backward(model: nn.Module, seed: int) -> torch.Tensor:
    model.zero_grad()
    x, y = batch(seed)
    loss = cross_entropy(model(x), y)
    loss.backward()
    return loss


def norm_ratios(model: nn.Module, start: nn.Module) -> list[float]:
    pairs = zip(model.parameters(), start.parameters(), strict=True)
    return [float(p.detach().norm() / q.detach().norm()) for p, q in pairs if p.dim() > 1]


def double(model: nn.Module) -> None:
    """Set every parameter to twice its value: SWR by λ takes norms to (2 − λ) n."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)


def still(model: nn.Module) -> torch.optim.Optimizer:
    """Return an optimizer whose steps change nothing."""
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return torch.optim.SGD(model.parameters(), lr=0.0)


# --- one owner a weight ----------------------------------------------------------------------


def test_a_second_object_on_the_same_weights_is_refused():
    model = mlp()
    optimizer = still(model)
    first = SoftWeightRescaling(model, 0.1)
    handle = first.attach(optimizer)
    second = SoftWeightRescaling(model, 0.1)
    with pytest.raises(ValueError, match=r"rescale them twice.*cell.*remove\(\)") as caught:
        second.attach(optimizer)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="rescale them twice"):
        second.step()
    inner = SoftWeightRescaling(model[:3], 0.1)  # some of the weights are enough
    with pytest.raises(ValueError, match="rescale them twice"):
        inner.step()
    start = twin(model)
    double(model)
    optimizer.step()
    assert norm_ratios(model, start) == pytest.approx([1.9] * 3)
    handle.remove()
    second.attach(optimizer)


def test_attached_and_called_by_hand_is_refused():
    model = mlp()
    swr = SoftWeightRescaling(model, 0.1)
    optimizer = still(model)
    handle = swr.attach(optimizer)
    with pytest.raises(ValueError, match=r"leave out step\(\), or remove the handle"):
        swr.step()
    handle.remove()
    swr.step()


def test_two_objects_called_by_hand_are_refused():
    model = mlp()
    first, second = SoftWeightRescaling(model, 0.1), SoftWeightRescaling(model, 0.1)
    first.step()
    with pytest.raises(ValueError, match=r"rescale them twice.*del"):
        second.step()
    del first
    second.step()


@pytest.mark.parametrize("scheduler", [False, True], ids=["plain", "with a scheduler"])
def test_what_is_gone_owns_nothing(scheduler):
    """A cell that makes a new optimizer may be run again; a scheduler ties it into a circle."""
    model = mlp()
    gc.collect()
    gc.disable()
    try:
        for _ in range(2):
            optimizer = still(model)
            if scheduler:
                torch.optim.lr_scheduler.StepLR(optimizer, 1)
            swr = SoftWeightRescaling(model, 0.1)
            swr.attach(optimizer)
            start = twin(model)
            double(model)
            optimizer.step()
        assert norm_ratios(model, start) == pytest.approx([1.9] * 3)
    finally:
        gc.enable()


def test_copies_own_their_own_weights():
    model = mlp()
    swr = SoftWeightRescaling(model, 0.1)
    swr.attach(optimizer := still(model))
    for other, its in (copy.deepcopy((model, swr)), pickle.loads(pickle.dumps((model, swr)))):
        its.attach(still(other)).remove()
        its.step()
    optimizer.step()


def test_weights_that_come_back_as_new_parameters_have_an_owner_still():
    model = mlp()
    swr = SoftWeightRescaling(model, 0.1)
    swr.attach(optimizer := still(model))
    model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    with pytest.warns(UserWarning, match="new Parameter, which the attached optimizer does not"):
        optimizer.step()
    with pytest.raises(ValueError, match="rescale them twice"):
        SoftWeightRescaling(model, 0.1).step()


def test_weights_that_the_attached_optimizer_no_longer_trains_are_said_once():
    model = mlp()
    swr = SoftWeightRescaling(model, 0.1)
    swr.attach(optimizer := still(model))
    optimizer.step()
    model[2].weight = nn.Parameter(torch.randn(8, 8, dtype=torch.float64))
    with pytest.warns(UserWarning, match="the weight of 2 is a new Parameter") as caught:
        optimizer.step()
        optimizer.step()
    assert len(caught) == 1


def test_a_step_that_calls_its_parents_rescales_once():
    torch.optim.Adam(mlp().parameters())  # from here on torch runs the hooks of Adam.step
    models = mlp(), mlp()
    for model, kind in zip(models, (Twofold, torch.optim.Adam), strict=True):
        optimizer = kind(model.parameters(), lr=0.1)
        SoftWeightRescaling(model, 0.1).attach(optimizer)
        for seed in range(3):
            backward(model, seed)
            optimizer.step()
    assert difference(*models) == 0


# --- steps that were taken -------------------------------------------------------------------


def sharpness_aware(model, optimizer, seed, closure=False):
    if closure:
        backward(model, seed)
        optimizer.step(lambda: backward(model, seed))
        return
    backward(model, seed)
    optimizer.first_step(zero_grad=True)
    backward(model, seed)
    optimizer.second_step(zero_grad=True)


class Copying(SAM):
    """It goes back by copying, and by no exchange of tensors."""

    @torch.no_grad()
    def second_step(self, zero_grad=False):
        for p in self.param_groups[0]["params"]:
            p.copy_(self.state[p]["old_p"])
        self.base_optimizer.step()


@pytest.mark.parametrize("kind", [SAM, Copying])
@pytest.mark.parametrize("closure", [False, True])
def test_a_sharpness_aware_optimizer_is_followed_once_a_step(closure, kind):
    model, theirs = mlp(), mlp()
    optimizer = kind(model.parameters(), torch.optim.SGD, lr=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SoftWeightRescaling(model, 0.1).attach(optimizer)
        for seed in range(12):
            sharpness_aware(model, optimizer, seed, closure)
    other = SAM(theirs.parameters(), torch.optim.SGD, lr=0.1)
    called = SoftWeightRescaling(theirs, 0.1)
    for seed in range(12):
        sharpness_aware(theirs, other, seed)
        called.step()
    assert difference(model, theirs) < 1e-12


def test_a_wrapper_without_hooks_is_attached_by_what_is_inside():
    model, theirs = mlp(), mlp()
    optimizer = Lookahead(torch.optim.SGD(model.parameters(), lr=0.1))
    SoftWeightRescaling(model, 0.1).attach(optimizer)
    inner = torch.optim.SGD(theirs.parameters(), lr=0.1)
    other, called = Lookahead(inner), SoftWeightRescaling(theirs, 0.1)
    inner.register_step_post_hook(lambda *_: called.step())
    with pytest.warns(UserWarning, match=r"Lookahead keeps weights of its own.*slow_param"):
        for seed in range(6):
            backward(model, seed)
            optimizer.step()
            backward(theirs, seed)
            other.step()
    assert difference(model, theirs) < 1e-12


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda o, m: [o], "a list is no optimizer: attach the one in it"),
        (lambda o, m: {"main": o}, "a dict is no optimizer"),
        (lambda o, m: (o, None), "a tuple is no optimizer"),
        (lambda o, m: torch.optim.lr_scheduler.StepLR(o, 1), "StepLR is no.*attach its optimizer"),
        (lambda o, m: torch.amp.GradScaler("cpu"), "GradScaler is no optimizer"),
        (lambda o, m: m, "Sequential is no optimizer"),
        (lambda o, m: None, "NoneType is no optimizer"),
        (lambda o, m: NoHooks(m.parameters(), 0.1), r"run no hooks.*rescaling\.step\(\)"),
    ],
)
def test_what_is_no_optimizer_is_refused_with_what_to_attach(given, words):
    model = mlp()
    swr = SoftWeightRescaling(model, 0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises((TypeError, ValueError), match=words) as caught:
        swr.attach(given(optimizer, model))
    assert "\n" not in str(caught.value)
    swr.attach(optimizer)


def test_two_steps_and_neither_is_step():
    model = mlp()
    with pytest.warns(UserWarning, match=r"ascent_step, descent_step.*call rescaling\.step"):
        SoftWeightRescaling(model, 0.1).attach(TwoSteps(model.parameters()))


def stepped_by_another(model, optimizer):
    return torch.optim.SGD(model.parameters(), lr=0.1).step


def stepped_by_a_fused_one(model, optimizer):
    return torch.optim.Adam(model.parameters(), lr=0.1, fused=True).step


def written_by_hand(model, optimizer):
    def step():
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad

    return step


@pytest.mark.parametrize("other", [stepped_by_another, stepped_by_a_fused_one, written_by_hand])
def test_steps_without_a_rescaling_are_said_once(other):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    SoftWeightRescaling(model, 0.1).attach(optimizer)
    step = other(model, optimizer)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for seed in range(30):
            backward(model, seed)
            step()
    assert len(caught) == 1
    assert "before each of 10 backward passes without a rescaling" in str(caught[0].message)


def a_dictionary_of_copies(model):
    copies = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(copies.values(), lr=0.1)
    return optimizer, lambda x: torch.func.functional_call(model, copies, x), lambda: None


def a_copied_model(model):
    copied = copy.deepcopy(model)
    return torch.optim.Adam(copied.parameters(), lr=0.1, fused=True), copied, lambda: None


def masters_in_another_precision(model):
    masters = [p.detach().float().requires_grad_() for p in model.parameters()]

    def write():
        with torch.no_grad():
            for parameter, master in zip(model.parameters(), masters, strict=True):
                parameter.copy_(master)

    def forward(x):
        names = [name for name, _ in model.named_parameters()]
        return torch.func.functional_call(model, dict(zip(names, masters, strict=True)), x.float())

    return torch.optim.SGD(masters, lr=0.1), forward, write


def steps_by_hand(optimizer, forward, swr, write=lambda: None, steps=25):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for seed in range(steps):
            optimizer.zero_grad()
            x, y = batch(seed)
            cross_entropy(forward(x), y).backward()
            optimizer.step()
            write()
            swr.step()
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize(
    "made", [a_dictionary_of_copies, a_copied_model, masters_in_another_precision]
)
def test_copies_that_are_trained_instead_are_said_once(made):
    model = mlp()
    swr = SoftWeightRescaling(model, 0.1)
    optimizer, forward, write = made(model)
    said = steps_by_hand(optimizer, forward, swr, write)
    assert len(said) == 1 and "trains copies of them" in said[0]


@pytest.mark.parametrize("layer", [0, 4])
def test_a_step_within_the_backward_pass_is_refused_and_by_hand_right(layer):
    """An optimizer for each parameter steps as soon as its gradient is there."""
    model, theirs = mlp(), mlp()
    each = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}
    usual = torch.optim.SGD(theirs.parameters(), lr=0.1)
    swr, reference = SoftWeightRescaling(model, 0.1), SoftWeightRescaling(theirs, 0.1)
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: each[p].step())
    for seed in range(3):
        backward(model, seed)
        swr.step()
        backward(theirs, seed)
        usual.step()
        reference.step()
    assert difference(model, theirs) < 1e-14
    swr.attach(each[model[layer].weight])
    with pytest.raises(ValueError, match=r"within the backward pass.*rescaling\.step\(\) after"):
        backward(model, 3)


def test_two_models_in_turn_and_an_idle_optimizer_are_no_copies():
    model, other, idle = mlp(), mlp(1), mlp(2)
    first, second = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (model, other))
    swr = SoftWeightRescaling(model, 0.1)

    class Both:
        def zero_grad(self):
            first.zero_grad(), second.zero_grad()

        def step(self):
            first.step(), second.step()

    assert not steps_by_hand(Both(), lambda x: model(x) + other(x), swr)
    still(idle).step()
    swr = SoftWeightRescaling(idle, 0.1)
    for _ in range(25):
        double(idle)
        swr.step()


@pytest.mark.parametrize("every", [1, 4, 40])
def test_accumulation_and_removal_are_not_said(every):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = SoftWeightRescaling(model, 0.1).attach(optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(80):
            backward(model, seed)
            if seed % every == every - 1:
                optimizer.step()
        handle.remove()
        for seed in range(30):
            backward(model, seed)
            optimizer.step()


def test_many_evaluations_of_the_loss_within_one_step_are_not_said():
    model = mlp()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=30, tolerance_change=0.0)
    rescaling_ = SoftWeightRescaling(model, 0.1)
    rescaling_.attach(optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            optimizer.step(lambda: backward(model, 0))
    assert rescaling_.factors().isfinite().all()


def test_a_compiled_step_is_followed_as_well():
    model, theirs = mlp(), mlp()
    for network, compiled in ((model, True), (theirs, False)):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        SoftWeightRescaling(network, 0.1).attach(optimizer)
        step = torch.compile(optimizer.step, backend="eager") if compiled else optimizer.step
        for seed in range(4):
            backward(network, seed)
            step()
    assert difference(model, theirs) < 1e-12


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_model_in_one_graph_is_followed_as_well(backend):
    model, theirs = mlp(), mlp()
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    for network, forward in ((model, compiled), (theirs, theirs)):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        SoftWeightRescaling(forward, 0.1).attach(optimizer)
        for seed in range(3):
            optimizer.zero_grad()
            x, y = batch(seed)
            cross_entropy(forward(x), y).backward()
            optimizer.step()
    assert difference(model, theirs) < 1e-12


def adam(model, **options):
    return torch.optim.Adam(model.parameters(), lr=0.05, **options)


def assigned_data(model):
    """Return steps that leave no trace in the tensors' versions, by no optimizer."""

    class Steps:
        def step(self):
            for parameter in model.parameters():
                parameter.data = parameter.data - 0.1 * parameter.grad

    return Steps()


@pytest.mark.parametrize(
    "make",
    [
        adam,
        lambda model: adam(model, fused=True),
        lambda model: Old(model.parameters(), 0.1),
        assigned_data,
    ],
    ids=["adam", "fused", "through .data", "assigned"],
)
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("loaded", [False, True])
def test_called_after_every_batch_it_acts_after_every_step(make, every, loaded):
    """As where a wrapper's step() accumulates: a call without a step does nothing."""
    if make is assigned_data and every > 1:
        pytest.skip("what leaves no trace at all cannot be told from repeated calls")
    model, theirs = mlp(), mlp()
    ours, other = make(model), make(theirs)
    swr, reference = SoftWeightRescaling(model, 0.1), SoftWeightRescaling(theirs, 0.1)
    if loaded:
        model.load_state_dict(theirs.state_dict())
    for seed in range(12):
        backward(model, seed)
        backward(theirs, seed)
        if seed % every == every - 1:
            ours.step()
            other.step()
            reference.step()
        swr.step()
    assert difference(model, theirs) < 1e-12
    assert difference(model, mlp()) > 0.1


def test_replayed_steps_are_followed_though_they_leave_no_trace_any_more():
    """As where the first steps are taken as usual, and later ones by a captured CUDA graph."""
    model, theirs = mlp(), mlp()
    swr, reference = SoftWeightRescaling(model, 0.1), SoftWeightRescaling(theirs, 0.1)
    for step in range(8):
        for network in (model, theirs):
            for parameter in network.parameters():
                changed = parameter.detach() if step < 4 or network is theirs else parameter.data
                changed.mul_(1.2)
        swr.step()
        reference.step()
    assert difference(model, theirs) < 1e-12


def test_repeated_calls_without_an_optimizer_rescale_each_time():
    model = mlp()
    swr, start = SoftWeightRescaling(model, 0.1), twin(model)
    double(model)
    for _ in range(5):
        swr.step()
    assert norm_ratios(model, start) == pytest.approx([1 + 0.9**5] * 3)


def test_a_step_that_the_scaler_skips_is_none_by_hand():
    model = mlp().float()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    swr = SoftWeightRescaling(model, 0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for seed, spoil in ((0, False), (1, False), (2, True)):
        x, y = batch(seed)
        optimizer.zero_grad()
        scaler.scale(cross_entropy(model(x.float()), y)).backward()
        if spoil:
            next(model.parameters()).grad[0, 0] = math.inf
        before = twin(model)
        scaler.step(optimizer)
        scaler.update()
        swr.step()
        assert (difference(model, before) == 0) is spoil


def test_no_call_waits_for_the_device_to_see_whether_a_step_was_taken(monkeypatch):
    model = mlp()
    swr = SoftWeightRescaling(model, 0.1)
    for _ in range(2):
        double(model)
        swr.step()
    reads: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda t: reads.append(t) or True)
    swr.step()
    assert not reads


# --- weights that an optimizer keeps ---------------------------------------------------------


class Masters(torch.optim.SGD):
    """It keeps a copy in double precision, as half-precision optimizers do in single."""

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                master = self.state[p].setdefault("master", p.detach().double().flatten().clone())
                master.sub_(p.grad.double().flatten(), alpha=group["lr"])
                p.data.copy_(master.view_as(p))


@pytest.mark.parametrize(
    ("make", "state"),
    [
        (lambda m: ScheduleFree(m.parameters()), "z"),
        (lambda m: torch.optim.ASGD(m.parameters(), lr=0.01), "ax"),
        (lambda m: Masters(m.parameters(), lr=0.01), "master"),
    ],
)
def test_weights_of_an_optimizers_own_are_named(make, state):
    model = mlp()
    optimizer = make(model)
    SoftWeightRescaling(model, 0.1).attach(optimizer)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for seed in range(5):
            backward(model, seed)
            optimizer.step()
    (warning,) = caught
    assert f"keeps weights of its own (its state {state})" in str(warning.message)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
        lambda p: torch.optim.RMSprop(p, momentum=0.9, centered=True),
        torch.optim.Adagrad,
        torch.optim.Adadelta,
        torch.optim.Rprop,
        torch.optim.RAdam,
        torch.optim.NAdam,
        torch.optim.Adamax,
        torch.optim.Adafactor,
    ],
)
def test_moments_are_not_taken_for_weights(make):
    model = mlp()
    optimizer = make(model.parameters())
    SoftWeightRescaling(model, 0.01).attach(optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(5):
            backward(model, seed)
            optimizer.step()


def test_the_limit_an_average_beside_the_optimizer_is_left_as_it_is():
    """What is documented: SWR sees the model, and no average of it."""
    model = mlp()
    average = torch.optim.swa_utils.AveragedModel(model)
    optimizer = still(model)
    SoftWeightRescaling(model, 0.5).attach(optimizer)
    before = twin(average)
    double(model)
    optimizer.step()
    assert difference(average, before) == 0


# --- models that change ----------------------------------------------------------------------


def with_norm() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU()),
        nn.Flatten(),
        nn.Linear(64, 3),
    )


def convert(model):
    nn.SyncBatchNorm.convert_sync_batchnorm(model)


def new_head(model):
    model[2] = nn.Linear(64, 5)


def longer(model):
    model.append(nn.Linear(3, 3))


def without_norm(model):
    model[0][1] = nn.Identity()


def wrapped_into_another(model):
    model[2] = nn.Sequential(model[2], nn.Linear(3, 2))


def other_activation(model):
    model[0][2] = nn.Tanh()


@pytest.mark.parametrize("when", ["step", "attached", "attach"])
@pytest.mark.parametrize(
    "change", [convert, new_head, longer, without_norm, wrapped_into_another, other_activation]
)
def test_a_model_that_changes_is_noticed(change, when):
    model = with_norm()
    swr = SoftWeightRescaling(model, 0.1, running_statistics=True)
    if when == "step":
        swr.step()
        act = swr.step
    elif when == "attached":
        swr.attach(optimizer := still(model))
        optimizer.step()
        act = optimizer.step
    else:
        act = lambda: swr.attach(still(model))  # noqa: E731
    change(model)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(
        ValueError, match=r"module '.*construct SoftWeightRescaling again"
    ) as caught:
        act()
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Growing(nn.Module):
    """A model with places that are empty at first: for further heads, a block, a shift."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.heads, self.scales = mlp(), nn.ModuleDict(), nn.ParameterList()
        self.block = Room()

    def forward(self, x):
        x = self.body(self.block(x))
        for scale in self.scales:
            x = x * scale
        return self.heads["new"](x) if self.heads else x


class Room(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = self.shift = None

    def forward(self, x):
        x = x if self.inner is None else self.inner(x)
        return x if self.shift is None else x + self.shift


@pytest.mark.parametrize(
    ("grow", "what"),
    [
        (lambda m: m.heads.update({"new": nn.Linear(3, 3)}), "module 'heads.new'"),
        (lambda m: setattr(m.block, "inner", nn.Linear(6, 6)), "module 'block.inner'"),
        (lambda m: setattr(m.block, "shift", nn.Parameter(torch.ones(6))), "'shift' of block"),
        (lambda m: m.scales.append(nn.Parameter(torch.ones(3))), "parameter '0' of scales"),
        (lambda m: m.register_parameter("own", nn.Parameter(torch.ones(3))), "'own' of the model"),
    ],
)
def test_what_grows_where_there_was_nothing_is_noticed(grow, what):
    model = Growing()
    swr = SoftWeightRescaling(model, 0.1)
    swr.attach(optimizer := still(model))
    optimizer.step()
    model.eval().float()
    optimizer.step()
    grow(model)
    with pytest.raises(ValueError, match=rf"{what}.* put into the model: .*again") as caught:
        optimizer.step()
    assert "\n" not in str(caught.value)


def test_what_changes_nothing_is_no_change():
    model = with_norm()
    swr = SoftWeightRescaling(model, 0.1)
    swr.step()
    model.criterion = nn.CrossEntropyLoss()
    model[0] = torch.compile(model[0], backend="eager")  # the same layers in a wrapper
    swr.step()
    model.eval().double()
    swr.step()


def doubled(module):
    kind = type(module)
    return lambda x: 2 * kind.forward(module, x) + 1


@pytest.mark.parametrize("name", ["", "0", "0.2", "2"])
def test_a_forward_that_is_assigned_afterwards_is_said_once(name):
    model = with_norm()
    swr = SoftWeightRescaling(model, 0.1, running_statistics=True)
    swr.step()
    assert set(swr.summary()["proportional"]) == {"yes"}
    module = model.get_submodule(name)
    module.forward = doubled(module)
    with pytest.warns(UserWarning, match=f"^{name or 'the model'} was given another forward"):
        swr.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        swr.step()
    assert all(end.startswith("no: ") for end in swr.summary()["proportional"])


def test_a_forward_that_wraps_the_one_of_its_class_is_the_same():
    """As accelerate's is in mixed precision."""
    model = with_norm()
    swr = SoftWeightRescaling(model, 0.1, running_statistics=True)
    wrapped = torch.autocast("cpu", torch.bfloat16)(type(model).forward)
    model.forward = MethodType(wrapped, model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        swr.step()
    assert set(swr.summary()["proportional"]) == {"yes"}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"0": 0.1, "*": 0.2}, {"[0]": 0.1, "*": 0.2}),
        ({"0": 0.1, "*": 0.2}, {"*": 0.2}),
        ({"*": 0.2}, {"0": 0.1, "*": 0.2}),
        ({"*": 0.2}, 0.1),
        (0.1, {"*": 0.2}),
    ],
)
def test_a_state_with_lambdas_of_other_patterns_is_refused(theirs, ours):
    state = SoftWeightRescaling(mlp(), theirs).state_dict()
    swr = SoftWeightRescaling(mlp(), ours)
    before = swr.state_dict()
    with pytest.raises(ValueError, match=r"^the state dict has λ for .*, and here .*'.*: constr"):
        swr.load_state_dict(state)
    assert swr.state_dict() == before


def test_two_models_that_share_weights_may_each_rescale_a_part():
    trunk, one, two = nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(4, 3)
    actor, critic = nn.Sequential(trunk, nn.ReLU(), one), nn.Sequential(trunk, nn.ReLU(), two)
    kept = SoftWeightRescaling(actor, 0.1)
    kept.step()
    with pytest.raises(ValueError, match="or exclude= them from one"):
        SoftWeightRescaling(critic, 0.1).step()
    SoftWeightRescaling(critic, 0.1, exclude="0").step()


def test_parameters_that_only_the_optimizer_has_are_said():
    model, head = mlp(), nn.Linear(3, 2)
    optimizer = torch.optim.SGD([*model.parameters(), *head.parameters()], lr=0.1)
    with pytest.warns(UserWarning, match=r"not in the model.*\[2, 3\]"):
        SoftWeightRescaling(model, 0.1).attach(optimizer)


# --- factors have a limit --------------------------------------------------------------------


@pytest.mark.parametrize("lam", [1e-4, 1.0])
def test_a_norm_that_has_all_but_vanished_multiplies_by_ten_and_no_more(lam):
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), nn.Conv2d(1, 2, 1))
    swr = SoftWeightRescaling(model, lam)
    with torch.no_grad():
        model[1].weight.fill_(1e-8)
        model[1].bias.fill_(0.5)
        model[2].bias.fill_(0.5)
    with pytest.warns(UserWarning, match="norm of 1 is so much smaller") as caught:
        swr.step()
    assert len(caught) == 1
    assert model[1].bias.item() == pytest.approx(5.0)
    assert model[1].weight.item() == pytest.approx(1e-7)
    assert swr.factors().max() == 10


@pytest.mark.parametrize("name", sorted(LAYERS))
def test_no_factor_of_the_papers_models_reaches_the_limit(name):
    model = small_model(name)
    swr = SoftWeightRescaling(model, 1.0)
    largest = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, name, steps=50, after_step=lambda: (swr.step(), largest.append(swr.factors())))
    assert torch.stack(largest).max() < 2 < rescaling.LARGEST_FACTOR


# --- which layers, how strongly --------------------------------------------------------------


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()),
        nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3)),
    )


@pytest.mark.parametrize(
    ("exclude", "names"),
    [
        ("1", {"1"}),
        (["4"], {"4.0", "4.2"}),
        ("4.*", {"4.0", "4.2"}),
        (nn.BatchNorm2d, {"1"}),
        ([nn.Conv2d, "4.2"], {"0", "4.2"}),
        (lambda name, module: module.weight.dim() < 2, {"1"}),
    ],
)
def test_excluded_layers_are_left_alone(exclude, names):
    model = network()
    swr = SoftWeightRescaling(model, 0.5, exclude=exclude)
    start = copy.deepcopy(model.state_dict())
    double(model)
    before = copy.deepcopy(model.state_dict())
    swr.step()
    table = swr.summary()
    assert set(table.index[table["lam"].isna()]) == names
    for name in table.index:
        now, was = model.get_submodule(name), before[f"{name}.weight"]
        if name in names:
            assert torch.equal(now.weight, was) and torch.equal(now.bias, before[f"{name}.bias"])
        else:
            ratio = now.weight.norm() / start[f"{name}.weight"].norm()
            assert ratio.item() == pytest.approx(1.5)


def test_an_excluded_bias_ends_proportionality_and_an_excluded_weight_counts_as_one():
    model = mlp()
    swr = SoftWeightRescaling(model, 0.5, exclude="2")
    double(model)
    before = twin(model)
    swr.step()
    c = swr.factors()
    assert c[[0, 2]].tolist() == pytest.approx([0.75, 0.75]) and c[1].isnan()
    torch.testing.assert_close(model[4].bias, 0.75 * 0.75 * before[4].bias)
    column = swr.summary()["proportional"]
    assert column["0"] == "yes" and "the bias of 2 is excluded" in column["2"]
    assert "the bias of 2 is excluded" in column["4"]
    whole = twin(model)
    only = SoftWeightRescaling(whole, {"2": 0.0, "*": 0.5})  # λ = 0 leaves but the weight
    assert (only.summary()["proportional"] == "yes").all()


def test_a_strength_for_each_pattern():
    model = network()
    swr = SoftWeightRescaling(model, {"4": 0.5, "1": 0.0, "*": 0.25})
    start = twin(model)
    double(model)
    swr.step()
    table = swr.summary()
    assert table["lam"].to_dict() == {"0": 0.25, "1": 0.0, "4.0": 0.5, "4.2": 0.5}
    for name, lam in table["lam"].items():
        norms = [m.get_submodule(name).weight.norm().item() for m in (model, start)]
        assert norms[0] / norms[1] == pytest.approx(2 - lam)
    swr.lam = {"4": 0.1}
    assert swr.lam == {"4": 0.1, "1": 0.0, "*": 0.25}
    resumed = SoftWeightRescaling(model, {"4": 0.9, "1": 0.9, "*": 0.9})
    resumed.load_state_dict(swr.state_dict())
    assert resumed.lam == swr.lam and resumed.state_dict() == swr.state_dict()
    swr.lam = 0.3
    assert set(swr.lam.values()) == {0.3}
    with pytest.raises(ValueError, match="given by pattern"):
        swr.lam_features = 0.1


def test_one_strength_by_pattern_is_the_same_as_one():
    models = [small_model("cnn-bn") for _ in range(3)]
    pair = {"lam_features": 0.1, "lam_classifier": 0.3}
    arguments = [
        pair,
        {"lam": {"linear*": 0.3, "*": 0.1}},
        {"lam": {"conv?": 0.1, "norm?": 0.1, "linear?": 0.3}},
    ]
    for model, given in zip(models, arguments, strict=True):
        swr = SoftWeightRescaling(model, **given)
        train(model, "cnn-bn", steps=3, after_step=swr.step)
    assert difference(models[0], models[1]) == 0 == difference(models[0], models[2])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"lam": {"4": 0.1}}, r"no pattern of lam fits 0, 1: add '\*'"),
        ({"lam": {"*": 0.1, "4": 0.2}}, "'4' of lam applies to no layer"),
        ({"lam": {"*": 0.1, "fc": 0.2}}, "'fc' of lam applies to no layer"),
        ({"lam": {"*": 2}}, r"λ of '\*' is 2.0"),
        ({"lam": {}}, "no pattern of lam fits"),
        ({"lam": 0.1, "exclude": "head"}, "exclude: 'head' fits nothing"),
        ({"lam": 0.1, "exclude": [nn.Conv3d]}, "exclude: Conv3d fits nothing"),
        ({"lam": 0.1, "exclude": 3}, "exclude takes names"),
        ({"lam": 0.1, "exclude": "*"}, "no trainable weight"),
        ({"lam": 0.1, "include": "4"}, "include: '4' fits nothing: all parameters bel"),
        ({"lam": 0.1, "exclude": lambda name: True}, "exclude: a function is called with a name a"),
        ({"lam": 0.1, "exclude": [lambda: True]}, "exclude: a function is called with a name and"),
    ],
)
def test_choices_that_fit_nothing_are_refused(arguments, words):
    with pytest.raises((ValueError, TypeError), match=words) as caught:
        SoftWeightRescaling(network(), **arguments)
    assert "\n" not in str(caught.value)


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.head = nn.Embedding(9, 4), nn.Linear(4, 2)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.memory = nn.LSTM(4, 4, batch_first=True)
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x):
        x = self.tokens(x)
        x = self.attention(x, x, x, need_weights=False)[0]
        return self.head(self.memory(x)[0] * self.scale)


def test_embeddings_attention_and_recurrent_weights_on_request():
    torch.manual_seed(0)
    model = Reader()
    options = {
        "layers": ["head"],
        "include": [nn.Embedding, nn.MultiheadAttention, "memory", "scale"],
    }
    with pytest.warns(UserWarning, match=r"leaves alone.*attention\.in_proj_bias") as caught:
        swr = SoftWeightRescaling(model, {"tokens": 0.25, "*": 0.5}, **options)
    assert "tokens.weight" not in str(caught[0].message)
    start = copy.deepcopy(model.state_dict())
    double(model)
    swr.step()
    table = swr.summary()
    kinds = table["kind"].to_dict()
    assert kinds["tokens.weight"] == "embedding" and kinds["memory.weight_hh_l0"] == "recurrent"
    assert kinds["attention.in_proj_weight"] == "attention" and kinds["scale"] == "other"
    assert table["proportional"].str.startswith("no: ").all()
    ratios = {
        name: (value.norm() / start[name].norm()).item()
        for name, value in model.state_dict().items()
    }
    assert ratios["tokens.weight"] == pytest.approx(1.75)
    assert ratios["memory.weight_ih_l0"] == pytest.approx(1.5) == ratios["scale"]
    assert ratios["memory.bias_ih_l0"] == 2


LEFT_ALONE = {
    "a class": ([nn.Embedding, nn.MultiheadAttention, nn.LSTM], ["scale"]),
    "names": (["tokens", "attention", "memory", "scale"], []),
    "parameters": (["tokens.weight", "attention.*", "memory.*"], ["scale"]),
    "a function of modules": (
        lambda name, module: not isinstance(module, nn.Linear | Reader),
        ["scale"],
    ),
    "a function of names": (
        lambda name, module: name == "attention",
        ["memory", "scale", "tokens"],
    ),
    "what only layers have": (
        lambda name, module: len(module.weight) == 9,
        ["attention", "memory", "scale"],
    ),
    "an iterator": (iter(["tokens", "attention"]), ["memory", "scale"]),
    "everything but one": ("[!h]*", []),
}


@pytest.mark.parametrize("kind", LEFT_ALONE)
def test_what_is_left_alone_anyway_may_be_excluded_and_no_warning_speaks_of_it(kind):
    exclude, warned = LEFT_ALONE[kind]
    model = Reader()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        swr = SoftWeightRescaling(model, 0.5, layers=["head"], exclude=exclude)
    words = " ".join(str(one.message) for one in caught)
    names = {name.partition(".")[0] for name, _ in model.named_parameters()}
    assert sorted(name for name in names - {"head"} if name in words) == warned
    before = copy.deepcopy(model.state_dict())
    double(model)
    swr.step()
    for name, value in model.state_dict().items():
        factor = 1.5 if name.startswith("head") else 2
        torch.testing.assert_close(value, factor * before[name])


class WithParts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.BatchNorm1d(4, affine=False))
        self.head, self.rest = nn.Linear(4, 2), nn.Dropout()

    def forward(self, x):
        return self.head(self.rest(self.body(x)))


def test_exclude_takes_whatever_is_in_the_model_and_refuses_what_is_not():
    for there in ("body.1", "rest", nn.Dropout, nn.BatchNorm1d, ["body.2", nn.ReLU]):
        table = SoftWeightRescaling(WithParts(), 0.5, exclude=there).summary()
        assert (table["lam"].dropna() == 0.5).all() and table["lam"].count() == 2
    for typo, words in {
        "boddy": "did you mean 'body.",
        "rset": "did you mean 'rest'",
        "tokens": "exclude: 'tokens' fits nothing",
    }.items():
        with pytest.raises(ValueError, match=words):
            SoftWeightRescaling(WithParts(), 0.5, exclude=["head", typo])
    for part in ("head.weight", "*.bias", "body.0.b*"):
        with pytest.raises(ValueError, match="a layer is left alone as a whole: name '"):
            SoftWeightRescaling(WithParts(), 0.5, exclude=part)
    tokens = "tokens.weight"
    with pytest.raises(ValueError, match=r"did you mean 'tokens\.weight'"):
        SoftWeightRescaling(Reader(), 0.5, layers=["head"], exclude="tokens.wieght")
    rows = {"layers": ["head"], "include": ["tokens", "scale"], "exclude": nn.Embedding}
    with pytest.warns(UserWarning, match="leaves alone"):
        table = SoftWeightRescaling(Reader(), 0.5, **rows).summary()
    assert table["lam"].isna().to_dict() == {"head": False, "scale": False, tokens: True}


def test_a_strength_that_applies_to_nothing_is_said():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.Flatten())
    with pytest.warns(UserWarning, match="lam_classifier applies to nothing"):
        SoftWeightRescaling(model, lam_features=0.1, lam_classifier=0.3)
    with pytest.warns(UserWarning, match="lam_features applies to nothing"):
        SoftWeightRescaling(nn.Linear(3, 2), lam_features=0.1, lam_classifier=0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SoftWeightRescaling(model, lam=0.1)
        SoftWeightRescaling(mlp(), lam_features=0.1, lam_classifier=0.3)


# --- what a log needs ------------------------------------------------------------------------


def test_norms_and_factors_are_in_the_order_of_the_summary():
    model = network()
    model[4][0].weight.requires_grad_(False)
    swr = SoftWeightRescaling(model, 0.5, exclude="1")
    assert swr.factors().isnan().all()
    double(model)
    swr.step()
    table = swr.summary()
    assert swr.norms().tolist() == table["norm"].tolist()
    torch.testing.assert_close(
        swr.factors(), torch.tensor(table["factor"].tolist()), equal_nan=True
    )
    assert swr.factors().isnan().tolist() == [False, True, True, False]
    kept = swr.factors()
    double(model)
    swr.step()
    assert not torch.equal(kept.nan_to_num(), swr.factors().nan_to_num())  # no view of what changes


def test_a_log_waits_for_nothing(monkeypatch):
    swr = SoftWeightRescaling(network(), 0.5, exclude="1")
    swr.step()
    for name in ("tolist", "item", "__bool__", "__float__", "numpy", "cpu"):
        monkeypatch.setattr(torch.Tensor, name, None)
    swr.norms(), swr.factors()


def test_an_optimizer_that_decays_the_same_weights_is_said():
    model = mlp()
    decaying = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    swr = SoftWeightRescaling(model, 0.1)
    with pytest.warns(UserWarning, match=r"weight_decay=0\.01, of 0, 2, 4.*settle between"):
        swr.attach(decaying).remove()
    some = [
        {"params": [p for p in model.parameters() if p.dim() > 1][:1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() < 2]},
    ]
    with pytest.warns(UserWarning, match=r"weight_decay=0\.1, of 0\)"):
        swr.attach(torch.optim.SGD(some, lr=0.1)).remove()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        swr.attach(torch.optim.SGD(model.parameters(), lr=0.1))


def test_decay_and_rescaling_settle_between():
    """A step by SGD with decay μ and no gradient, then SWR: ρ = λ / (1 − (1 − λ)(1 − lr·μ))."""
    model = nn.Sequential(nn.Linear(4, 4, bias=False)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, weight_decay=0.2)
    start = twin(model)
    with pytest.warns(UserWarning, match="settle between"):
        SoftWeightRescaling(model, 0.1).attach(optimizer)
    for _ in range(400):
        model[0].weight.grad = torch.zeros_like(model[0].weight)
        optimizer.step()
    assert norm_ratios(model, start) == pytest.approx([0.1 / (1 - 0.9 * 0.9)])


# --- wrappers and composites -----------------------------------------------------------------


def test_an_averaged_model_is_looked_into_and_no_optimizer_holds_its_weights():
    model = mlp()
    average = torch.optim.swa_utils.AveragedModel(model)
    swr = SoftWeightRescaling(average, 0.1)
    assert [layer.name for layer in swr.layers] == ["0", "2", "4"]
    with pytest.raises(ValueError, match="holds none of the model's weights"):
        swr.attach(still(model))


def test_a_sharded_model_is_refused_by_name():
    sharded = type("FullyShardedDataParallel", (nn.Sequential,), {})(mlp())
    with pytest.raises(ValueError, match="spreads each weight over processes"):
        SoftWeightRescaling(sharded, 0.1)


def test_what_an_example_would_reach_is_listed():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    model = nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))
    head = nn.Sequential(model, nn.Linear(8, 2))
    with pytest.warns(UserWarning, match=r"0\.0\.layers\.0\.linear1.* reached with example="):
        SoftWeightRescaling(head, 0.1)
    with pytest.warns(UserWarning, match="leaves alone") as caught:
        swr = SoftWeightRescaling(head, 0.1, example=torch.ones(1, 3, 8))
    assert "example=" not in str(caught[0].message)
    assert "0.0.layers.1.linear2" in [layer.name for layer in swr.layers]


class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, one, other):
        return self.head(torch.relu(self.body(one)) - torch.relu(self.body(other)))


def test_a_module_that_is_used_twice_is_said_to_be_named_once():
    with pytest.raises(ValueError, match=r"used twice.*layers="):
        SoftWeightRescaling(Siamese(), 0.1)
    swr = SoftWeightRescaling(Siamese(), 0.1, layers=["body", "head"])
    assert [layer.name for layer in swr.layers] == ["body", "head"]


# --- what is no choice, no order, no optimizer ------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"exclude": nn.Linear(2, 2)}, "names, classes or functions, not a Linear"),
        ({"exclude": nn.Sequential(nn.ReLU())}, "names, classes or functions, not a Sequential"),
        ({"include": torch.ones(3)}, "names, classes or functions, not a Tensor"),
        ({"lam": {nn.Linear: 0.1}}, "given for patterns of names"),
        ({"layers": {"0", "2", "4"}}, "layers is a set, without order"),
        ({"layers": [nn.Linear(2, 2)]}, "layers takes names of modules"),
        ({"layers": [[["0", "2"]]]}, "layers takes names of modules"),
    ],
)
def test_what_is_no_choice_and_no_order_is_refused(options, words):
    with pytest.raises(TypeError, match=words):
        SoftWeightRescaling(mlp(), **{"lam": 0.1} | options)


def test_a_class_of_optimizers_is_refused_as_one():
    with pytest.raises(TypeError, match="SGD is a class: attach the optimizer that it makes"):
        SoftWeightRescaling(mlp(), 0.1).attach(torch.optim.SGD)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_scripted_model_is_refused_with_what_to_take():
    model = torch.jit.script(mlp())
    for options in ({}, {"example": batch(0)[0]}, {"layers": ["0", "2", "4"]}):
        with pytest.raises(ValueError, match=r"is scripted .*: take the module that it was made"):
            SoftWeightRescaling(model, 0.1, **options)
