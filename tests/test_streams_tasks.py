"""Streams of tasks: what a task's labels and pixels are, and the engine on them as a plain loop."""

import warnings
from collections import OrderedDict

import numpy as np
import pytest
import torch
from test_neighbour_methods import (
    OPTIMIZERS,
    PAIRS,
    RATE,
    SEEDS,
    Loop,
    assert_same,
    engine,
    noise,  # noqa: F401
    tolerance,
)

import swrlib
from swrlib.datasets import Dataset
from swrlib.population import population
from swrlib.streams import Stage, generator
from swrlib.streams.tasks import LabelShuffled, PixelPermuted

LABELS = torch.arange(500) % 7 // 2  # classes of different sizes


def stages(stream, seed=3, labels=LABELS):
    return stream.stages(len(labels), seed, labels)


@pytest.mark.parametrize("kind", [LabelShuffled, PixelPermuted])
def test_thirty_tasks_are_the_first_of_a_hundred(kind):
    few, many = stages(kind((2,) * 30, images=64)), stages(kind((2,) * 100, images=64))
    assert (len(few), len(many)) == (30, 100)
    for one, other in zip(few, many, strict=False):
        assert torch.equal(one.indices, other.indices)
        for name in ("labels", "pixels"):
            a, b = getattr(one, name), getattr(other, name)
            assert (a is None and b is None) or torch.equal(a, b)
    again = stages(kind((2,), tasks=30, images=64))
    assert [s.epochs for s in again] == [s.epochs for s in few]


@pytest.mark.parametrize("kind", [LabelShuffled, PixelPermuted])
def test_images_are_drawn_once_and_everything_depends_on_the_seed(kind):
    first, other = stages(kind((1,) * 3, images=64)), stages(kind((1,) * 3, images=64), seed=4)
    assert len(set(first[0].indices.tolist())) == 64
    assert all(torch.equal(stage.indices, first[0].indices) for stage in first)
    assert not torch.equal(first[0].indices, other[0].indices)
    drawn = [stage.labels if stage.labels is not None else stage.pixels for stage in first]
    assert not torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[1], drawn[2])
    theirs = other[0].labels if other[0].labels is not None else other[0].pixels
    assert not torch.equal(drawn[0], theirs)


def test_class_counts_survive_a_shuffle_and_labels_do_not():
    for stage in stages(LabelShuffled((1,) * 20, images=64)):
        own = LABELS[stage.indices]
        assert torch.equal(stage.labels.bincount(), own.bincount())
        assert 0.05 < (stage.labels == own).double().mean() < 0.6
        assert (stage.rows, stage.evaluated) == ("stage", ("task",))


def test_pixels_are_permuted():
    for stage in stages(PixelPermuted((1,) * 5, images=64, pixels=9)):
        assert sorted(stage.pixels.tolist()) == list(range(9))
        assert stage.labels is None


def test_names_and_options():
    stream = swrlib.make_stream("label-shuffled", epochs=3, tasks=5, images=64, learning_rate=1e-2)
    assert stream == LabelShuffled((3,) * 5, 1e-2, images=64)
    assert swrlib.make_stream("label-shuffled:5,64", epochs=3, learning_rate=1e-2) == stream
    assert swrlib.make_stream("pixel-permuted:5,64,100", epochs=3).options() == {
        "tasks": 5,
        "images": 64,
        "pixels": 100,
    }
    assert swrlib.make_stream("label-shuffled").epochs == (50,) * 8
    assert stream.configuration()["epochs"] == [3] * 5


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: stages(LabelShuffled((1,))), "draws 1280 images and there are 500.*images=500"),
        (lambda: LabelShuffled((1,)).stages(2000, 0), "needs the label"),
        (lambda: LabelShuffled((1, 2), tasks=3), "tasks is 3"),
        (lambda: LabelShuffled((1,), tasks=0), "tasks is 0"),
        (lambda: LabelShuffled((1,), images=1.5), "images is 1.5"),
        (lambda: PixelPermuted((1,), pixels=0), "pixels is 0"),
        (lambda: swrlib.make_stream("label-shufled"), "'label-shuffled'"),
        (
            lambda: swrlib.make_stream("pixel-permuted:2,64"),
            r"3 values .*\(tasks, images, pixels\), and .* gives 2 values$",
        ),
        (lambda: swrlib.make_stream("label-shuffled:3"), r"2 values .*images\).* gives 1 value$"),
        (lambda: swrlib.make_stream("label-shuffled:3,64,9"), "2 values .* gives 3 values$"),
        (lambda: swrlib.make_stream("label-shuffled:"), "gives no values$"),
        (lambda: swrlib.make_stream("label-shuffled:a,64"), "tasks is 'a'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(make, words):
    with pytest.raises(ValueError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value) and ". " not in str(caught.value)


@pytest.mark.parametrize("pixels", [81, 121])
def test_a_permutation_of_other_images_is_refused(pixels, noise, tmp_path, monkeypatch):  # noqa: F811
    stream = PixelPermuted((1,), images=30, pixels=pixels)
    with pytest.raises(ValueError, match=rf"permutes {pixels} pixels.*pixels=100") as caught:
        engine(monkeypatch, tmp_path, noise, swrlib.Vanilla(), stream=stream)
    assert "\n" not in str(caught.value) and ". " not in str(caught.value)


# Permuted pixels and convolutions


def said_of_neighbours(model, stream, data, tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        swrlib.train(
            dataset=data,
            model=model,
            stream=stream,
            methods=["vanilla", "l2:1e-3"],
            seeds=SEEDS,
            stack=1,  # several jobs, one sentence
            results=tmp_path / "results",
            checkpoints=tmp_path / "c",
            progress=False,
        )
    return [w for w in caught if "neighbouring pixels" in str(w.message)]


@pytest.mark.parametrize("model", ["cnn", "cnn-bn", "cnn-strided"])
def test_convolutions_on_permuted_pixels_are_warned_of_once(model, noise, tmp_path):  # noqa: F811
    (said,) = said_of_neighbours(model, STREAMS["pixels"], noise, tmp_path)
    words = str(said.message)
    assert f"the model {model} has convolutions (conv1" in words and "fully connected" in words
    assert "\n" not in words and ". " not in words and said.filename == __file__


class OwnPermutation(swrlib.streams.Stream):
    """A stream of one's own that permutes pixels in its second stage."""

    name = "own"

    def stages(self, images, seed, labels=None):
        rates = self.constant_rates()
        return [
            Stage(torch.arange(30), rates[0]),
            Stage(torch.arange(30), rates[1], pixels=torch.randperm(100)),
        ]


class OwnNetwork(torch.nn.Sequential):
    """A module of one's own, whose convolutions see single pixels or their neighbours."""

    def __init__(self, kernel):
        parts = {"look": torch.nn.Conv2d(1, 2, kernel), "flatten": torch.nn.Flatten()}
        size = 2 * (11 - kernel) ** 2
        super().__init__(OrderedDict(parts | {"answer": torch.nn.Linear(size, 4)}))


def test_whatever_permutes_and_whatever_convolves_counts(noise, tmp_path, monkeypatch):  # noqa: F811
    pixels, own = STREAMS["pixels"], OwnPermutation((1, 1))
    assert len(said_of_neighbours("cnn", own, noise, tmp_path / "own")) == 1
    assert not said_of_neighbours("cnn", STREAMS["labels"], noise, tmp_path / "labels")
    assert not said_of_neighbours("mlp", pixels, noise, tmp_path / "mlp")
    for kernel in (3, 1):
        monkeypatch.setattr(population, "build_model", lambda *_, size=kernel: OwnNetwork(size))
        said = said_of_neighbours("mlp", pixels, noise, tmp_path / f"{kernel}")
        assert ["(look)" in str(w.message) for w in said] == [True] * (kernel > 1)


# The engine


STREAMS = {
    "labels": LabelShuffled((2,) * 3, RATE, images=30),
    "pixels": PixelPermuted((2,) * 3, RATE, images=30, pixels=100),
}


def expected(data, seed, stream, plain, optimizer, model="mlp"):
    return Loop(seed, data, model, OPTIMIZERS[optimizer][1]).run(stream, plain)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("stream", STREAMS)
def test_the_engine_equals_a_plain_loop(stream, name, optimizer, noise, tmp_path, monkeypatch):  # noqa: F811
    method, plain = PAIRS[name]
    stream = STREAMS[stream]
    options = {"stream": stream, "optimizer": OPTIMIZERS[optimizer][0]}
    found = engine(monkeypatch, tmp_path, noise, method, **options)
    assert sorted(set(found[0]["epoch"])) == [0, 2, 4, 6]  # a row is a task's
    for seed in SEEDS:
        table = expected(noise, seed, stream, plain, optimizer)
        assert_same(found, seed, method, table, tolerance(name, optimizer), stream)


@pytest.mark.parametrize("model", ["cnn", "cnn-bn"])
@pytest.mark.parametrize("stream", STREAMS)
def test_convolutions_too(stream, model, noise, tmp_path, monkeypatch):  # noqa: F811
    method, plain = PAIRS["swr"]
    options = {"stream": STREAMS[stream], "optimizer": OPTIMIZERS["sgd"][0], "model": model}
    found = engine(monkeypatch, tmp_path, noise, method, **options)
    for seed in SEEDS:
        table = expected(noise, seed, STREAMS[stream], plain, "sgd", model)
        assert_same(found, seed, method, table, 1e-9, STREAMS[stream])


class OldLabels(LabelShuffled):
    """A mutant: the second task has the first one's labels still."""

    name = "label-shuffled"

    def stages(self, images, seed, labels=None):
        first, _, *rest = super().stages(images, seed, labels)
        return [first, first, *rest]


class ShuffledOnce(LabelShuffled):
    """A mutant: each task shuffles labels that keep no count."""

    name = "label-shuffled"

    def task(self, labels, draw):
        drawn = labels[torch.randint(len(labels), (len(labels),), generator=draw)]
        return super().task(labels, draw) | {"labels": drawn}


@pytest.mark.parametrize("mutant", [OldLabels, ShuffledOnce])
def test_wrong_labels_are_caught(mutant, noise, tmp_path, monkeypatch):  # noqa: F811
    method, plain = PAIRS["vanilla"]
    stream = mutant((2,) * 3, RATE, images=30)
    options = {"stream": stream, "optimizer": OPTIMIZERS["sgd"][0]}
    found = engine(monkeypatch, tmp_path, noise, method, **options)
    table = expected(noise, SEEDS[0], STREAMS["labels"], plain, "sgd")
    with pytest.raises(AssertionError):
        assert_same(found, SEEDS[0], method, table, 1e-6, STREAMS["labels"])


def test_a_stage_without_gradients_is_caught(noise, tmp_path, monkeypatch):  # noqa: F811
    class Frozen(swrlib.Vanilla):
        """A mutant: nothing is learned in the second task."""

        def change_(self, members, stage):
            members.memory["still"].fill_(stage == 2)

        def start(self, members):
            members.memory["still"] = torch.zeros(len(SEEDS), 1, dtype=torch.bool)

        def gradients_(self, members):
            for gradient in members.gradients:
                gradient.mul_(~members.memory["still"][0, 0])

    stream = STREAMS["labels"]
    options = {"stream": stream, "optimizer": OPTIMIZERS["sgd"][0]}
    found = engine(monkeypatch, tmp_path, noise, Frozen(), **options)
    table = expected(noise, SEEDS[0], stream, PAIRS["vanilla"][1], "sgd")
    with pytest.raises(AssertionError):
        assert_same(found, SEEDS[0], Frozen(), table, 1e-6, stream)


def test_a_row_holds_the_error_at_the_end_of_its_task(noise, tmp_path, monkeypatch):  # noqa: F811
    stream = STREAMS["labels"]
    rows, _ = engine(monkeypatch, tmp_path, noise, swrlib.Vanilla(), stream=stream)
    loop = Loop(SEEDS[0], noise, "mlp", OPTIMIZERS["adam"][1])
    loop.run(stream, PAIRS["vanilla"][1])
    last = rows[(rows["seed"] == SEEDS[0]) & (rows["epoch"] == 6)].iloc[0]
    final = stream.stages(40, SEEDS[0], noise.train_labels)[-1]
    images = (noise.train_images.double() / 255 - 0.5) / 0.25
    other = make_adam_end(noise, stream)
    with torch.no_grad():
        logits = other.model(images[final.indices])
    accuracy = float((logits.argmax(1) == final.labels).double().mean())
    assert last["task_accuracy"] == pytest.approx(accuracy, rel=1e-6)
    loss = float(torch.nn.functional.cross_entropy(logits, final.labels))
    assert last["task_loss"] == pytest.approx(loss, rel=1e-6)
    assert np.isnan(last["test_accuracy"])


def make_adam_end(data, stream):
    def make(parameters):
        return torch.optim.Adam(parameters, lr=stream.learning_rate)

    loop = Loop(SEEDS[0], data, "mlp", make)
    loop.run(stream, PAIRS["vanilla"][1])
    return loop


def test_the_embedded_digits_hold_the_paper_s_tasks():
    data = swrlib.load_dataset("mnist-5k")
    assert isinstance(data, Dataset)
    found = LabelShuffled((1, 1)).stages(len(data.train_labels), 0, data.train_labels)
    assert len(found[0].indices) == 1280
    draw = torch.randperm(1280, generator=generator(0, "label-shuffled", 2))
    assert torch.equal(found[1].labels, data.train_labels[found[1].indices][draw])
