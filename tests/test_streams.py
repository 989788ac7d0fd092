"""Streams: which images, for how many epochs, at which rate; and Fig. 1's scaled networks."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from image_folder import make_image_folder
from torch.nn.functional import cross_entropy

import swrlib
from swrlib import make_stream
from swrlib.datasets import Dataset
from swrlib.engine.jobs import plan
from swrlib.engine.runs import resolve
from swrlib.engine.scales import scale_of
from swrlib.models import build_model
from swrlib.papers import SWR
from swrlib.streams import (
    STREAMS,
    LimitedAccess,
    SingleTaskDecay,
    Stage,
    Stream,
    generator,
    held_out,
)

sizes = st.integers(min_value=10, max_value=400)
seeds = st.integers(min_value=0, max_value=2**31 - 1)
quick = settings(max_examples=40, deadline=None)
CHUNKED = ("full-access", "limited-access")


def numbers(stage):
    return stage.indices.tolist()


# The tenth that is held out


def images(count):
    pixels = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 3, 3)
    labels = torch.arange(count) % 2
    return Dataset("few", pixels, labels, pixels, labels, ("a", "b"), (0.5,), (0.5,))


@pytest.mark.parametrize("count", [10, 11, 19, 57])
def test_a_tenth_is_held_out_and_the_rest_trains(count):
    data = held_out(images(count))
    held, rest = data.test_images[:, 0, 0, 0].tolist(), data.train_images[:, 0, 0, 0].tolist()
    assert len(held) == count // 10
    assert sorted(held + rest) == list(range(count))


@pytest.mark.parametrize("count", [1, 9])
def test_too_few_images_for_a_tenth_are_refused_with_the_number_needed(count):
    with pytest.raises(ValueError) as caught:
        held_out(images(count))
    message = str(caught.value)
    assert f"few has {count}: at least 10 are needed" in message
    assert "\n" not in message and ". " not in message


# The sets of images


def check_chunks(stages: list[Stage], images: int) -> None:
    """Equal chunks without overlap that leave out a remainder alone."""
    chunks = [set(numbers(stage)) for stage in stages]
    size = images // len(stages)
    assert [len(stage.indices) for stage in stages] == [size] * len(stages)
    union = set().union(*chunks)
    assert len(union) == size * len(stages)  # hence disjoint, and nothing twice in a chunk
    assert union <= set(range(images))


@quick
@given(sizes, seeds, st.sampled_from([1, 3]))
def test_limited_access_cuts_ten_equal_disjoint_chunks(images, seed, epochs):
    stages = make_stream("limited-access", epochs=epochs).stages(images, seed)
    assert len(stages) == 10
    check_chunks(stages, images)


@quick
@given(sizes, seeds)
def test_full_access_grows_by_a_chunk_at_each_stage(images, seed):
    stages = make_stream("full-access").stages(images, seed)
    size = images // 10
    assert [len(stage.indices) for stage in stages] == [size * k for k in range(1, 11)]
    for earlier, later in itertools.pairwise(stages):
        assert set(numbers(earlier)) < set(numbers(later))
    assert len(set(numbers(stages[-1]))) == 10 * size
    grown = [numbers(stages[0])] + [
        sorted(set(numbers(b)) - set(numbers(a))) for a, b in itertools.pairwise(stages)
    ]
    check_chunks([Stage(torch.tensor(chunk), (1e-3,)) for chunk in grown], images)


@quick
@given(sizes, seeds)
def test_a_warm_start_takes_a_half_and_then_everything(images, seed):
    half, everything = make_stream("warm-start").stages(images, seed)
    assert len(set(numbers(half))) == len(half.indices) == images // 2
    assert sorted(numbers(everything)) == list(range(images))  # an odd image is not dropped


@quick
@given(sizes, seeds, st.sampled_from(["single-task", "single-task-decay"]))
def test_a_single_task_trains_on_everything(images, seed, name):
    (stage,) = make_stream(name).stages(images, seed)
    assert numbers(stage) == list(range(images))


@quick
@given(st.sampled_from(["warm-start", *CHUNKED]), seeds)
def test_the_draw_depends_on_the_seed_alone(name, seed):
    stream = make_stream(name)
    first = [numbers(stage) for stage in stream.stages(200, seed)]
    torch.rand(3)  # the global generator has no part in it
    assert first == [numbers(stage) for stage in stream.stages(200, seed)]
    assert first[0] != numbers(stream.stages(200, seed + 1)[0])
    assert first[0] != sorted(first[0])


def test_both_kinds_of_access_and_the_half_are_random_over_all_images():
    """Chunks in the order of the files would hold the first images only."""
    for name in ("warm-start", *CHUNKED):
        first = make_stream(name).stages(1000, 0)[0].indices
        expected = 499.5
        spread = 289 / math.sqrt(len(first))
        assert abs(first.double().mean() - expected) < 4 * spread


@quick
@given(seeds, st.text(max_size=5))
def test_a_generator_belongs_to_its_seed_and_purpose(seed, purpose):
    def draw(*key):
        return torch.rand(4, generator=generator(*key)).tolist()

    assert draw(seed, purpose) == draw(seed, purpose)
    assert draw(seed, purpose) != draw(seed + 1, purpose)
    assert draw(seed, purpose) != draw(seed, purpose, 1)
    assert draw(seed, 1, 2) != draw(seed, 12) != draw(seed, 2, 1)


@pytest.mark.parametrize("name", CHUNKED)
def test_fewer_images_than_chunks_are_refused(name):
    with pytest.raises(ValueError, match="9 images cannot be cut into 10 chunks"):
        make_stream(name).stages(9, 0)


class Overlapping(LimitedAccess):
    """A mutant: every chunk begins one image too early."""

    def stages(self, images, seed, labels=None):
        size = images // 10
        order = torch.randperm(images, generator=generator(seed))
        starts = [max(0, k * size - 1) for k in range(10)]
        return [Stage(order[start : start + size], (1e-3,)) for start in starts]


class Uneven(LimitedAccess):
    """A mutant: the remainder is shared out."""

    def stages(self, images, seed, labels=None):
        return [Stage(part, (1e-3,)) for part in torch.arange(images).tensor_split(10)]


@pytest.mark.parametrize("mutant", [Overlapping, Uneven])
def test_chunks_that_overlap_or_differ_in_size_are_caught(mutant):
    stages = mutant((1,) * 10).stages(103, 0)
    with pytest.raises(AssertionError):
        check_chunks(stages, 103)


# Epochs and rates

#: Streams of the paper; others have tests of their own.
PAPERS = [name for name in STREAMS if name in SWR.epochs]


def test_the_papers_epochs():
    """Section 4, Appendix E and Fig. 1."""
    epochs = {
        name: make_stream(name, scale="paper", ratio=None) for name in PAPERS if name != "scaled"
    }
    found = {name: [s.epochs for s in stream.stages(60, 0)] for name, stream in epochs.items()}
    assert found == {
        "single-task": [200],
        "single-task-decay": [200],
        "warm-start": [100, 100],
        "full-access": [100] * 10,
        "limited-access": [100] * 10,
    }
    scaled = make_stream("scaled", scale="paper", ratio=0.5)
    assert scaled.epochs == (100, 50)
    assert [stage.epochs for stage in scaled.stages(60, 0)] == [50]
    assert [stage.epochs for stage in scaled.parent.stages(60, 0)] == [100]


@pytest.mark.parametrize("name", PAPERS)
def test_scales_and_their_names(name):
    ratio = 0.5 if name == "scaled" else None

    def named(**options):
        return scale_of(make_stream(name, ratio=ratio, **options), SWR)

    quick, paper = (make_stream(name, scale=scale, ratio=ratio) for scale in ("quick", "paper"))
    assert quick.epochs == STREAMS[name].quick
    assert sum(quick.epochs) < sum(paper.epochs) / 5
    assert paper.epochs == SWR.epochs[name]
    assert (named(), named(scale="paper")) == ("quick", "paper")
    assert named(scale="paper", epochs=7) == "custom"
    assert named(scale="paper", learning_rate=0.1) == "custom"
    assert make_stream(name, ratio=ratio) == quick  # quick by default
    asked = make_stream(name, epochs=7, ratio=ratio)
    assert asked.epochs == (7,) * len(quick.epochs)


@pytest.mark.parametrize("name", [n for n in PAPERS if n != "single-task-decay"])
def test_the_rate_is_constant_without_decay(name):
    ratio = 0.5 if name == "scaled" else None
    stages = make_stream(name, epochs=5, ratio=ratio).stages(20, 0)
    assert {rate for stage in stages for rate in stage.learning_rates} == {1e-3}


def test_the_papers_decay():
    """After 100 and 150 of 200 epochs."""
    (stage,) = make_stream("single-task-decay", scale="paper").stages(10, 0)
    expected = [1e-3] * 100 + [1e-4] * 50 + [1e-5] * 50
    assert stage.learning_rates == pytest.approx(expected)
    printed = SWR.details["decay"]
    assert SingleTaskDecay.factor == printed["factor"]
    assert list(SingleTaskDecay.shares) == printed["at"]


@quick
@given(st.integers(1, 50), st.floats(1e-5, 1))
def test_the_rate_decays_after_a_half_and_after_three_quarters(quarter, rate):
    stream = make_stream("single-task-decay", epochs=4 * quarter, learning_rate=rate)
    (stage,) = stream.stages(10, 0)
    expected = [rate] * (2 * quarter) + [rate / 10] * quarter + [rate / 100] * quarter
    assert stage.learning_rates == pytest.approx(expected)


@quick
@given(st.integers(1, 9))
def test_a_short_decay_begins_with_the_full_rate(epochs):
    (stage,) = make_stream("single-task-decay", epochs=epochs).stages(10, 0)
    assert stage.learning_rates[0] == 1e-3
    assert list(stage.learning_rates) == sorted(stage.learning_rates, reverse=True)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"name": "warmstart"}, "'warm-start'"),
        ({"name": "single-task", "scale": "papper"}, "'paper'"),
        ({"name": "single-task", "epochs": 0}, "epochs is 0: it must be a whole number"),
        ({"name": "single-task", "epochs": 2.5}, "2.5"),
        ({"name": "single-task", "epochs": True}, "True"),
        ({"name": "single-task", "learning_rate": 0}, "positive"),
        ({"name": "single-task", "learning_rate": math.nan}, "nan"),
        ({"name": "single-task", "learning_rate": math.inf}, "inf"),
        ({"name": "single-task", "learning_rate": "fast"}, "'fast'"),
        ({"name": "single-task", "ratio": 0.5}, "'scaled'"),
        ({"name": "scaled"}, "ratio in"),
        ({"name": "scaled", "ratio": 1.5}, "1.5"),
        ({"name": "scaled", "ratio": math.nan}, "nan"),
        ({"name": "scaled", "ratio": "half"}, "'half'"),
        ({"name": "scaled", "ratio": 0.5, "reading": "norms"}, "'norm'"),
        ({"name": "scaled", "ratio": 0.5, "biases": "own_factor"}, "'own-factor'"),
    ],
)
def test_a_senseless_stream_is_refused_in_one_sentence(wrong, words):
    with pytest.raises(ValueError, match=words) as caught:
        make_stream(**wrong)
    message = str(caught.value)
    assert "\n" not in message and ". " not in message


@dataclass(frozen=True)
class Toy(Stream):
    """A stream of one's own with a whole number and another as options."""

    parts: int = 2
    share: float = 0.5
    name: ClassVar[str] = "toy"
    quick: ClassVar[tuple[int, ...]] = (1,)


def test_numbers_take_the_type_of_their_default(monkeypatch):
    monkeypatch.setitem(STREAMS, "toy", Toy)
    same = [Toy((1,), parts=3.0, share=1), Toy((1,), parts=3, share=1.0), make_stream("toy:3,1")]
    assert len({swrlib.records.run_hash(stream.configuration()) for stream in same}) == 1
    assert [type(getattr(same[2], name)) for name in ("parts", "share")] == [int, float]
    for text, words in {
        "1.5,1": "parts is 1.5: it must be a whole number",
        "a,1": "parts is 'a': it must be a whole number",
        "2,nan": "share is nan: it must be a number",
        "inf,1": "parts is inf",
        "2": r"takes 2 values behind its name \(parts, share\), and 'toy:2' gives 1 value",
    }.items():
        with pytest.raises(ValueError, match=words):
            make_stream(f"toy:{text}")
    with pytest.raises(ValueError, match="parts is True"):
        Toy((1,), parts=True)


def test_each_part_of_a_stream_is_hashed():
    base = {"name": "scaled", "ratio": 0.5}
    variants = [
        base,
        base | {"ratio": 0.4},
        base | {"epochs": 3},
        base | {"learning_rate": 2e-3},
        base | {"reading": "factor"},
        base | {"biases": "untouched"},
        {"name": "single-task"},
        {"name": "single-task-decay"},
        {"name": "full-access"},
        {"name": "limited-access"},
    ]
    hashes = {swrlib.records.run_hash(make_stream(**v).configuration()) for v in variants}
    assert len(hashes) == len(variants)


# What a stage of one's own may say: its batch size, the classes so far


def faces() -> Dataset:
    """Return images of six classes, unequally many of each."""
    draws = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (84, 1, 6, 6), generator=draws, dtype=torch.uint8)
    labels = torch.tensor([0, 1, 2, 3, 4, 5, 5]).repeat(12)
    return Dataset(
        "faces", images[:56], labels[:56], images[56:], labels[56:], tuple("abcdef"), (0.5,), (0.3,)
    )


@dataclass(frozen=True)
class Batched(Stream):
    """Two stages, the second in batches of another size."""

    second: int = 4
    name: ClassVar[str] = "batched"

    def stages(self, images, seed, labels=None):
        first, second = self.constant_rates()
        everything = torch.arange(images)
        return [Stage(everything, first), Stage(everything, second, batch_size=self.second)]


@pytest.mark.parametrize(
    ("batch_size", "second", "jobs"), [(16, 8, 1), (16, 128, 2), (128, 8, 2), (64, 64, 1)]
)
def test_seeds_lie_side_by_side_by_the_batches_of_the_stages(batch_size, second, jobs):
    """Where all are small: a stage's own size counts, not the run's alone."""
    data, stream = faces(), Batched((1, 1), second=second)
    asked = {"dataset": data, "model": "mlp", "stream": stream, "methods": ["vanilla"]}
    runs = resolve(**asked, seeds=[0, 1], batch_size=batch_size)
    planned = plan(runs, build_model("mlp", data), data, torch.device("cpu"), 4)
    assert [len(job) for job in planned] == [2 // jobs] * jobs


def test_the_largest_batch_of_a_stage_has_to_fit(monkeypatch):
    data = faces()
    sizes = []

    def noted(model, batch, dtype):
        sizes.append(batch[0])
        return 1

    monkeypatch.setattr("swrlib.engine.jobs.needed_memory", noted)
    for second in (40, 8, 1000):
        stream = Batched((1, 1), second=second)
        asked = {"dataset": data, "model": "mlp", "stream": stream, "methods": ["vanilla"]}
        runs = resolve(**asked, seeds=[0], batch_size=16)
        plan(runs, build_model("mlp", data), data, torch.device("cpu"), 4)
    assert sizes == [40, 16, 56]  # of 56 images


@dataclass(frozen=True)
class Incremental(Stream):
    """Two classes more in each stage, in an order of the seed's, those before left out."""

    name: ClassVar[str] = "incremental"

    def stages(self, images, seed, labels=None):
        order = torch.randperm(6, generator=generator(seed, self.name)).tolist()
        return [
            Stage(
                torch.isin(labels, torch.tensor(order[2 * k : 2 * k + 2])).nonzero()[:14, 0],
                rates,
                classes=tuple(order[: 2 * k + 2]),
                evaluated=("test", "task"),
            )
            for k, rates in enumerate(self.constant_rates())
        ]


def incremental_loop(data, stream, seed, batch_size) -> list[tuple[float, ...]]:
    """Return losses and accuracies after each epoch: the logits that take part are picked out."""
    torch.manual_seed(generator(seed, "weights").initial_seed())
    model = swrlib.build_model("mlp", data).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=stream.learning_rate)
    train, test = (
        (images.double() / 255 - data.mean[0]) / data.std[0]
        for images in (data.train_images, data.test_images)
    )
    found = []
    for number, stage in enumerate(stream.stages(len(train), seed, data.train_labels), start=1):
        so_far = torch.tensor(sorted(stage.classes))

        def judged(images, labels, so_far=so_far):
            """Return the mean loss and accuracy on images of the classes so far."""
            known = torch.isin(labels, so_far)
            logits = model(images[known])[:, so_far]
            targets = torch.searchsorted(so_far, labels[known])
            return cross_entropy(logits, targets), (logits.argmax(1) == targets).double().mean()

        own = train[stage.indices], data.train_labels[stage.indices]
        for epoch in range(1, stage.epochs + 1):
            draw = generator(seed, "order", number, epoch)
            losses = []
            for batch in torch.randperm(len(own[0]), generator=draw).split(batch_size):
                loss, _ = judged(own[0][batch], own[1][batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            ends = *judged(test, data.test_labels), *judged(*own)
            found.append((sum(losses) / len(losses), *(end.item() for end in ends)))
    return found


@pytest.fixture
def handed(monkeypatch):
    """Return the rows as the engine hands them over, which the records round."""
    frames, write = [], swrlib.records.write_job

    def keep(folder, rows, *arguments, **keywords):
        frames.append(rows)
        return write(folder, rows, *arguments, **keywords)

    monkeypatch.setattr(swrlib.records, "write_job", keep)
    return frames


@pytest.mark.parametrize("stack", [1, 4])
def test_classes_so_far_train_as_a_loop_that_picks_their_logits_out(stack, handed, tmp_path):
    data, stream = faces(), Incremental((2, 2, 2), learning_rate=1e-2)
    swrlib.train(
        dataset=data,
        model="mlp",
        stream=stream,
        methods=["vanilla", "swr:0.1"],
        seeds=[3, 8],
        batch_size=5,
        measure="noise-accuracy",
        dtype=torch.float64,
        device="cpu",
        stack=stack,
        results=tmp_path,
        checkpoints=tmp_path,
        progress=False,
    )
    rows = pd.concat(handed)
    assert not rows["diverged"].any()
    losses, accuracies = (
        ["train_loss", "test_loss", "task_loss"],
        ["test_accuracy", "task_accuracy"],
    )
    for seed in (3, 8):
        chosen = rows[(rows["seed"] == seed) & (rows["method"] == "vanilla") & (rows["epoch"] > 0)]
        expected = np.array(incremental_loop(data, stream, seed, 5))
        found = chosen[[*losses, *accuracies]].astype(float)
        np.testing.assert_allclose(found[losses], expected[:, [0, 1, 3]], rtol=0, atol=1e-10)
        np.testing.assert_allclose(found[accuracies], expected[:, [2, 4]], rtol=0, atol=1e-6)
        # A measure looks at the same test images as the accuracy: those of the classes so far.
        measured = swrlib.load_measures(tmp_path, measure="noise-accuracy", layer="0")
        value = measured[measured["run"] == chosen["run"].iloc[0]].set_index("epoch")["value"]
        assert value.loc[6] == pytest.approx(chosen["test_accuracy"].iloc[-1])


def test_images_of_classes_that_are_not_so_far_are_refused(tmp_path):
    @dataclass(frozen=True)
    class Wrong(Incremental):
        def stages(self, images, seed, labels=None):
            stages = super().stages(images, seed, labels)
            return [replace(stage, classes=stage.classes[1:]) for stage in stages]

    with pytest.raises(ValueError, match="not among its classes") as caught:
        swrlib.train(
            dataset=faces(),
            model="mlp",
            stream=Wrong((1, 1, 1)),
            device="cpu",
            progress=False,
            methods="vanilla",
        )
    assert "\n" not in str(caught.value) and ". " not in str(caught.value)


# Fig. 1: a trained network, scaled, then fine-tuned


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return make_image_folder(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture
def train(pictures, tmp_path):
    def trained(stream, **options):
        return swrlib.train(
            **{"model": "cnn-bn", "batch_size": 16, "dtype": torch.float64, "device": "cpu"}
            | {"dataset": pictures, "methods": "vanilla", "results": tmp_path / "results"}
            | options,
            stream=stream,
            checkpoints=tmp_path / "checkpoints",
            progress=False,
        )

    return trained


def scaled(ratio, **options):
    return make_stream("scaled", epochs=6, learning_rate=1e-2, ratio=ratio, **options)


def only(frame, **values):
    for name, value in values.items():
        frame = frame[frame[name] == value]
    (row,) = frame.to_dict("records")
    return row


@pytest.mark.parametrize("reading", ["norm", "factor"])
def test_the_ratio_one_leaves_the_parent_as_it_was(train, reading, tmp_path):
    stream = scaled(1.0, reading=reading)
    branch = train(stream)
    parent = swrlib.load_records(tmp_path / "results", stream="single-task")
    assert branch["epoch"].tolist() == list(range(7))
    assert set(branch["parent"]) == set(parent["run"])
    assert len(parent) == 7
    last, after = only(parent, epoch=6), only(branch, epoch=0)
    assert after["test_accuracy"] == last["test_accuracy"]
    assert after["test_loss"] == pytest.approx(last["test_loss"], rel=1e-6)
    assert only(branch, epoch=6)["test_loss"] != last["test_loss"]
    assert list(only(branch, epoch=0)["weight_norms"]) == pytest.approx(
        list(last["weight_norms"]), rel=1e-6
    )


@pytest.mark.parametrize(
    ("reading", "expected"),
    [
        ("norm", lambda norms, initial: 0.3 * norms + 0.7 * initial),
        ("factor", lambda norms, initial: 0.3 * norms),
    ],
)
def test_the_row_of_epoch_0_is_the_scaled_network(train, reading, expected, tmp_path):
    branch = train(scaled(0.3, reading=reading))
    parent = swrlib.load_records(tmp_path / "results", stream="single-task")
    initial, last = (np.array(only(parent, epoch=e)["weight_norms"]) for e in (0, 6))
    after = np.array(only(branch, epoch=0)["weight_norms"])
    np.testing.assert_allclose(after, expected(last, initial), rtol=1e-5)


@pytest.mark.parametrize("model", ["mlp", "cnn", "cnn-bn"])
def test_proportional_biases_keep_the_accuracy_and_others_do_not(train, model, tmp_path):
    frames = {
        biases: train(scaled(0.2, reading="factor", biases=biases), model=model)
        for biases in ("proportional", "own-factor", "untouched")
    }
    parent = swrlib.load_records(tmp_path / "results", stream="single-task")
    assert parent["run"].nunique() == 1  # one parent for all branches
    accuracy = only(parent, epoch=6)["test_accuracy"]
    assert accuracy > 0.4  # of three classes
    after = {biases: only(frame, epoch=0) for biases, frame in frames.items()}
    assert after["proportional"]["test_accuracy"] == pytest.approx(accuracy, abs=0.07)
    if model != "cnn-bn":
        assert after["proportional"]["test_accuracy"] == accuracy
    losses = {round(row["test_loss"], 6) for row in after.values()}
    assert len(losses) == 3  # three different networks
    biases = {tuple(np.round(row["bias_norms"], 6)) for row in after.values()}
    assert len(biases) == 3


def test_a_lost_parent_is_trained_again_to_the_same_end(train, tmp_path):
    stream = scaled(0.5)
    first = train(stream)
    states = list((tmp_path / "checkpoints").glob("*.final.pt"))
    assert len(states) == 1
    states[0].unlink()
    other = train(scaled(0.4))
    assert len(list((tmp_path / "checkpoints").glob("*.final.pt"))) == 1
    assert set(other["parent"]) == set(first["parent"])
    files = (tmp_path / "results").glob("*.parquet")
    runs = [run for file in files for run in set(pd.read_parquet(file)["run"])]
    assert len(runs) == len(set(runs)) == 3  # the parent is recorded once
    again = train(stream, results=tmp_path / "elsewhere")
    columns = ["epoch", "train_loss", "test_loss", "test_accuracy"]
    assert first[columns].equals(again[columns])


def test_every_method_may_fine_tune_and_all_start_from_one_state(train):
    frame = train(scaled(0.5), methods=["vanilla", "swr:0.1", "l2:1.0"], model="mlp")
    start = frame[frame["epoch"] == 0]
    assert len(start) == 3
    assert start["test_loss"].nunique() == 1
    assert frame[frame["epoch"] == 6]["test_loss"].nunique() == 3
    assert frame["parent"].nunique() == 1


def test_a_scaled_stream_goes_by_a_name_of_its_own():
    named = make_stream("scaled:0.5,factor,untouched", scale="paper")
    options = {"ratio": 0.5, "reading": "factor", "biases": "untouched"}
    assert named == make_stream("scaled", scale="paper", **options)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("scaled:0.5", r"3 values .*ratio, reading, biases\), and 'scaled:0\.5' gives 1 value$"),
        ("scaled:", r"3 values .*, and 'scaled:' gives no values$"),
        ("scaled:half,norm,untouched", "'half'"),
        ("scaled:0.5,norms,untouched", "'norm'"),
        ("scaled:1.5,norm,untouched", "1.5"),
        ("warm-start:0.5,norm", "'warm-start' takes no values behind .* gives 2 values$"),
    ],
)
def test_a_wrong_name_of_a_scaled_stream_is_refused(name, text):
    with pytest.raises(ValueError, match=text) as caught:
        make_stream(name)
    assert "\n" not in str(caught.value) and ". " not in str(caught.value)
