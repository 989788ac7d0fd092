"""The engine does what a plain loop does: every method, written down once more with torch alone.

The loop below knows nothing of the engine but how random numbers are keyed (`streams.generator`):
one model, `torch.optim`, penalties as terms of the loss through autograd, and the user's object
`SoftWeightRescaling`. What the engine hands to the records, before they round it to float32, must
be the loop's to 1e-10 in float64.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from image_folder import make_image_folder
from torch.nn.functional import cross_entropy

import swrlib
from swrlib import (
    L2,
    SWR,
    AdamW,
    FullReset,
    HeadReset,
    L2Init,
    ShrinkPerturb,
    SoftWeightRescaling,
    SWRExceptNormalization,
    SWRReinit,
    Vanilla,
    make_stream,
    records,
)
from swrlib.methods import METHODS, make_method
from swrlib.streams import generator

SEED = 3
BATCH = 16  # 45 images: two batches and a short one of 13; half of them: 16 and 6


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return make_image_folder(tmp_path_factory.mktemp("data") / "pictures")


@dataclass
class Plain:
    """What the plain loop does for a method; each entry stands for one sentence of the paper."""

    penalty: object = None  # penalty(parameters, initial parameters) → term of the loss
    optimizer: object = torch.optim.Adam
    weight_decay: float = 0.0
    rescaling: dict | None = None
    change: object = None  # change(model, initial model, new model)
    new_adam: bool = False
    retarget: bool = False  # at each decay
    retarget_at_changes: bool = False
    left_alone: bool = False  # normalization layers, by the rescaling


def squared(parameters):
    return sum(p.square().sum() for p in parameters)


def shrink_and_perturb(lam):
    def change(model, initial, new):
        for p, p0 in zip(model.parameters(), initial.parameters(), strict=True):
            p.copy_((1 - lam) * p + lam * p0)

    return change


def copy_linear(source, last_only):
    def change(model, initial, new):
        linear = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
        for name in linear[-1:] if last_only else linear:
            origin = (initial if source == "initial" else new).get_submodule(name)
            model.get_submodule(name).load_state_dict(origin.state_dict())

    return change


def start_over(model, initial, new):
    model.load_state_dict(new.state_dict())


def normalizations(model):
    return [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]


def new_model(model, data, purpose):
    torch.manual_seed(generator(SEED, purpose).initial_seed())
    return swrlib.build_model(model, data).double()


def plain_loop(model_name, data, stream, plain, *, optimizer_state="kept"):
    """Train as a reader of the paper would; return per epoch (train loss, test loss, accuracy)
    and the final norms."""
    initial = new_model(model_name, data, "weights")
    model = copy.deepcopy(initial)
    images, test_images = (
        (x.double() / 255 - data.mean[0]) / data.std[0]
        for x in (data.train_images, data.test_images)
    )

    def new_optimizer():
        return plain.optimizer(model.parameters(), lr=1e-3, weight_decay=plain.weight_decay)

    optimizer = new_optimizer()
    swr = SoftWeightRescaling(model, **plain.rescaling) if plain.rescaling else None
    table = []
    for number, stage in enumerate(stream.stages(len(images), SEED), start=1):
        if number > 1:
            with torch.no_grad():
                if plain.change:
                    plain.change(model, initial, new_model(model_name, data, f"change {number}"))
            if plain.retarget_at_changes:
                swr.retarget()
            if plain.new_adam or optimizer_state == "new":
                optimizer = new_optimizer()
        before = None
        for epoch, rate in enumerate(stage.learning_rates, start=1):
            if plain.retarget and before is not None and rate < before:
                swr.retarget()
            before = rate
            optimizer.param_groups[0]["lr"] = rate
            random = generator(SEED, "order", number, epoch)
            order = stage.indices[torch.randperm(len(stage.indices), generator=random)]
            model.train()
            losses = []
            for start in range(0, len(order), BATCH):
                batch = order[start : start + BATCH]
                loss = cross_entropy(model(images[batch]), data.train_labels[batch])
                losses.append(loss.item())
                if plain.penalty:
                    loss = loss + plain.penalty(
                        list(model.parameters()), [p.detach() for p in initial.parameters()]
                    )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if swr:  # which writes no frozen tensor
                    held = [norm for norm in normalizations(model) if plain.left_alone]
                    for norm in held:
                        norm.requires_grad_(False)
                    swr.step()
                    for norm in held:
                        norm.requires_grad_()
            model.eval()
            with torch.no_grad():
                logits = model(test_images)
            hits = (logits.argmax(1) == data.test_labels).double().mean().item()
            test_loss = cross_entropy(logits, data.test_labels).item()
            table.append((sum(losses) / len(losses), test_loss, hits))
    weights = [p.norm().item() for n, p in model.named_parameters() if n.endswith("weight")]
    biases = [p.norm().item() for n, p in model.named_parameters() if n.endswith("bias")]
    return table, weights, biases


def engine(monkeypatch, pictures, **options):
    """Train with the library; return what it hands to the records in float64, by epoch."""
    handed = []
    write_job = records.write_job
    with monkeypatch.context() as patched:
        patched.setattr(
            records,
            "write_job",
            lambda folder, epochs, *rest, **more: (
                handed.append(epochs),
                write_job(folder, epochs, *rest, **more),
            )[1],
        )
        swrlib.train(
            dataset=pictures,
            seeds=[SEED],
            dtype=torch.float64,
            batch_size=BATCH,
            device="cpu",
            checkpoints=pictures.parent / "checkpoints",
            progress=False,
            **options,
        )
    (frame,) = handed
    return frame


def assert_equal(frame, expected):
    table, weights, biases = expected
    trained = frame[frame["epoch"] > 0]
    last = trained.iloc[-1]
    losses, accuracies = trained[["train_loss", "test_loss"]], trained["test_accuracy"]
    np.testing.assert_allclose(losses, [row[:2] for row in table], rtol=0, atol=1e-10)
    np.testing.assert_allclose(accuracies, [row[2] for row in table], rtol=1e-6)  # a float32
    np.testing.assert_allclose(last["weight_norms"], weights, rtol=0, atol=1e-10)
    np.testing.assert_allclose(last["bias_norms"], biases, rtol=0, atol=1e-10)


def l2(lam):
    return Plain(penalty=lambda theta, initial: lam / 2 * squared(theta))


def l2_init(lam):
    return Plain(
        penalty=lambda theta, initial: (
            lam / 2 * squared([p - p0 for p, p0 in zip(theta, initial, strict=True)])
        )
    )


# (the library's method, ours, streams): large λ, so that a mistake shows in a few steps.
PAIRS = {
    "vanilla": (Vanilla(), Plain()),
    "swr": (SWR(lam=0.05), Plain(rescaling={"lam": 0.05})),
    "swr-pair": (
        SWR(lam_features=0.02, lam_classifier=0.3),
        Plain(rescaling={"lam_features": 0.02, "lam_classifier": 0.3}),
    ),
    "swr-printed": (
        SWR(lam=0.1, variant="printed"),
        Plain(rescaling={"lam": 0.1, "variant": "printed"}),
    ),
    "swr-reinit-at-changes": (
        SWRReinit(lam=0.05, at_changes=True),
        Plain(rescaling={"lam": 0.05}, retarget_at_changes=True),
    ),
    **{
        f"swr-except-normalization-{variant}": (
            SWRExceptNormalization(lam=0.1, variant=variant),
            Plain(rescaling={"lam": 0.1, "variant": variant}, left_alone=True),
        )
        for variant in ("proportional", "printed")
    },
    "l2": (L2(lam=0.1), l2(0.1)),
    "l2-init": (L2Init(lam=0.1), l2_init(0.1)),
    "adamw": (AdamW(lam=3.0), Plain(optimizer=torch.optim.AdamW, weight_decay=3.0)),
    "shrink-perturb": (ShrinkPerturb(lam=0.4), Plain(change=shrink_and_perturb(0.4))),
    "full-reset": (FullReset(), Plain(change=start_over, new_adam=True)),
}


@pytest.mark.parametrize("model", ["mlp", "cnn", "cnn-bn"])
@pytest.mark.parametrize("name", PAIRS)
def test_the_engine_equals_a_plain_loop(name, model, pictures, monkeypatch):
    method, plain = PAIRS[name]
    stream = make_stream("warm-start", epochs=2)
    frame = engine(monkeypatch, pictures, model=model, stream=stream, methods=method)
    assert frame["step"].tolist() == [0, 2, 4, 7, 10]  # the short batches are kept
    assert_equal(frame, plain_loop(model, swrlib.load_dataset(pictures), stream, plain))


@pytest.mark.parametrize("model", ["mlp", "cnn-bn"])
@pytest.mark.parametrize("to_initial", [False, True])
def test_a_head_reset_equals_a_plain_loop(to_initial, model, pictures, monkeypatch):
    stream = make_stream("limited-access", epochs=1)
    method = HeadReset(to_initial=to_initial)
    frame = engine(monkeypatch, pictures, model=model, stream=stream, methods=method)
    assert_equal(frame, plain_head_reset(model, pictures, stream, to_initial))


def plain_head_reset(model, pictures, stream, to_initial):
    source = "initial" if to_initial else "new"
    plain = Plain(change=copy_linear(source, last_only=model == "mlp"))
    return plain_loop(model, swrlib.load_dataset(pictures), stream, plain)


@pytest.mark.parametrize("model", ["mlp", "cnn-bn"])
def test_swr_with_new_references_at_each_decay_equals_a_plain_loop(model, pictures, monkeypatch):
    stream = make_stream("single-task-decay", epochs=4, learning_rate=1e-2)
    frame = engine(monkeypatch, pictures, model=model, stream=stream, methods=SWRReinit(lam=0.2))
    plain = Plain(rescaling={"lam": 0.2}, retarget=True)
    assert_equal(frame, plain_loop(model, swrlib.load_dataset(pictures), stream, plain))
    without = plain_loop(
        model, swrlib.load_dataset(pictures), stream, Plain(rescaling={"lam": 0.2})
    )
    with pytest.raises(AssertionError):
        assert_equal(frame, without)


@pytest.mark.parametrize("name", ["vanilla", "swr", "adamw"])
def test_a_new_optimizer_state_at_each_change_equals_a_plain_loop(name, pictures, monkeypatch):
    method, plain = PAIRS[name]
    stream = make_stream("warm-start", epochs=2)
    options = {"model": "mlp", "stream": stream, "methods": method}
    data = swrlib.load_dataset(pictures)
    frame = engine(monkeypatch, pictures, optimizer_state="new", **options)
    assert_equal(frame, plain_loop("mlp", data, stream, plain, optimizer_state="new"))
    with pytest.raises(AssertionError):
        assert_equal(frame, plain_loop("mlp", data, stream, plain))


def test_real_digits_equal_a_plain_loop(monkeypatch, tmp_path):
    stream = make_stream("full-access", epochs=1)
    whole = swrlib.load_dataset("mnist-5k")
    digits = small_digits(whole, tmp_path / "digits")
    frame = engine(monkeypatch, digits, model="mlp", stream=stream, methods=SWR(lam=0.01))
    plain = Plain(rescaling={"lam": 0.01})
    assert_equal(frame, plain_loop("mlp", swrlib.load_dataset(digits), stream, plain))


def small_digits(whole, folder):
    from PIL import Image

    for split, images, labels in (
        ("train", whole.train_images[:200], whole.train_labels),
        ("test", whole.test_images[:50], whole.test_labels),
    ):
        for index, image in enumerate(images):
            place = folder / split / str(int(labels[index]))
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).save(place / f"{index:03}.png")
    return folder


# Mutants: the comparison above sees them.


class L2InitOnTheLastParameterOnly(L2Init):
    def gradients_(self, members):
        parameter, initial = members.parameters[-1], members.initial[-1]
        members.gradients[-1].add_((parameter - initial) * members.lam()[-1])


class L2WithoutTheHalf(L2):
    def gradients_(self, members):
        super().gradients_(members)
        super().gradients_(members)


class HeadResetOfTheFeatures(HeadReset):
    def change_(self, members, stage):
        members.in_classifier[:] = [not belongs for belongs in members.in_classifier]
        super().change_(members, stage)


class HeadResetOfEverything(HeadReset):
    def change_(self, members, stage):
        members.in_classifier[:] = [True] * len(members.in_classifier)
        super().change_(members, stage)


class SWRTowardsLargerNorms(SWR):
    def after_step_(self, members):
        members.memory["pull"].mul_(1.01)
        super().after_step_(members)


class SWRThatForgetsTheBiases(SWR):
    def after_step_(self, members):
        before = [tensor.clone() for tensor in members.tensors]
        super().after_step_(members)
        for tensor, old, (_, bias) in zip(members.tensors, before, members.owners, strict=True):
            if bias:
                tensor.copy_(old)


class SWRThatSkipsShiftsAlone(SWR):
    def _entering(self, members):
        kinds = {layer.name: layer.kind for layer in members.network.layers}
        pairs = zip(super()._entering(members), members.owners, strict=True)
        return [
            set() if bias and kinds[name] == "normalization" else layers
            for layers, (name, bias) in pairs
        ]


@pytest.mark.parametrize(
    ("mutant", "right"),
    [
        (L2InitOnTheLastParameterOnly(lam=0.1), "l2-init"),
        (L2WithoutTheHalf(lam=0.1), "l2"),
        (SWRTowardsLargerNorms(lam=0.05), "swr"),
        (SWRThatForgetsTheBiases(lam=0.05), "swr"),
        (SWR(lam=0.05, variant="printed"), "swr-bn"),
        (SWRThatSkipsShiftsAlone(lam=0.1), "swr-except-normalization-proportional-bn"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, swrlib.Method) else value,
)
def test_a_wrong_method_is_caught(mutant, right, pictures, monkeypatch):
    model = "cnn-bn" if right.endswith("-bn") else "mlp"
    stream = make_stream("warm-start", epochs=2)
    frame = engine(monkeypatch, pictures, model=model, stream=stream, methods=mutant)
    plain = PAIRS[right.removesuffix("-bn")][1]
    with pytest.raises(AssertionError):
        assert_equal(frame, plain_loop(model, swrlib.load_dataset(pictures), stream, plain))


@pytest.mark.parametrize("mutant", [HeadResetOfTheFeatures(), HeadResetOfEverything()])
@pytest.mark.parametrize("model", ["mlp", "cnn-bn"])
def test_a_reset_of_the_wrong_layers_is_caught(mutant, model, pictures, monkeypatch):
    stream = make_stream("limited-access", epochs=1)
    frame = engine(monkeypatch, pictures, model=model, stream=stream, methods=mutant)
    with pytest.raises(AssertionError):
        assert_equal(frame, plain_head_reset(model, pictures, stream, to_initial=False))


# Making methods, and what is refused


def test_every_name_has_its_class():
    assert all(kind.name == name for name, kind in METHODS.items())
    assert [METHODS[name] for name in METHODS][:10] == [
        Vanilla,
        L2,
        L2Init,
        ShrinkPerturb,
        HeadReset,
        SWR,
        SWRReinit,
        SWRExceptNormalization,
        FullReset,
        AdamW,
    ]


@dataclass(frozen=True)
class Toy(swrlib.Method):
    """A method of one's own with an option."""

    kappa: float = 2.0
    name: ClassVar[str] = "toy"


def test_an_option_takes_the_type_of_its_default(monkeypatch):
    assert type(Toy(kappa=1).configuration()["kappa"]) is float
    monkeypatch.setitem(METHODS, "toy", Toy)
    with pytest.raises(ValueError, match="kappa is 'much': it must be a number"):
        make_method("toy", kappa="much")


def test_one_lambda_and_an_equal_pair_are_the_same_method():
    assert SWR(lam=0.1) == SWR(lam_features=0.1, lam_classifier=0.1)
    assert SWR(lam=1) == SWR(lam=1.0)
    assert make_method("swr", 0.1) == SWR(lam=0.1)
    assert make_method("swr", (0.1, 0.2)) == SWR(lam_features=0.1, lam_classifier=0.2)
    assert make_method("swr-reinit", 0.1) != make_method("swr", 0.1)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: SWR(), ValueError, "missing"),
        (lambda: SWR(lam_features=0.1), ValueError, "missing"),
        (lambda: SWR(lam=0.1, lam_features=0.2), ValueError, "not both"),
        (lambda: SWR(lam=1.5), ValueError, "1.5"),
        (lambda: SWR(lam=-0.1), ValueError, "-0.1"),
        (lambda: SWR(lam=float("nan")), ValueError, "nan"),
        (lambda: SWR(lam="much"), TypeError, "'much'"),
        (lambda: ShrinkPerturb(lam=2), ValueError, "shrink-perturb"),
        (lambda: L2(lam=-1), ValueError, "-1"),
        (lambda: L2(lam=float("nan")), ValueError, "nan"),
        (lambda: L2Init(lam=True), ValueError, "True"),
        (lambda: AdamW(lam=None), ValueError, "adamw"),
        (lambda: make_method("srw"), ValueError, "'swr'"),
        (lambda: make_method("l2-int", 0.1), ValueError, "'l2-init'"),
        (lambda: make_method("l2"), ValueError, r"L2\(lam="),
        (lambda: make_method("vanilla", 0.1), ValueError, "takes no λ"),
        (lambda: make_method("l2", (0.1, 0.2)), ValueError, "one λ"),
        (lambda: make_method("swr", (0.1, 0.2, 0.3)), ValueError, "one λ"),
    ],
)
def test_a_senseless_method_is_refused_in_one_sentence(make, error, words):
    with pytest.raises(error, match=words) as caught:
        make()
    message = str(caught.value)
    assert "\n" not in message and ". " not in message


@pytest.mark.parametrize("model", ["mlp", "cnn-bn"])
def test_a_variant_is_checked_where_it_matters(model, pictures, tmp_path):
    with pytest.raises(ValueError, match="'printed'"):
        swrlib.train(
            dataset=pictures,
            model=model,
            stream="single-task",
            epochs=1,
            methods=SWR(lam=0.1, variant="print"),
            results=tmp_path / "results",
            checkpoints=tmp_path,
            progress=False,
        )
    assert not (tmp_path / "results").exists()
