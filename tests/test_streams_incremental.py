"""Classes that come one group after the other: the stages, and the engine as a plain loop."""

import numpy as np
import pytest
import torch
from test_neighbour_methods import OPTIMIZERS, RATE, SEEDS, engine, noise  # noqa: F401
from torch.nn.functional import cross_entropy

import swrlib
from swrlib.streams import ClassIncremental, generator

LABELS = torch.arange(600) % 12 // 2  # 6 classes of 100 images
UNEVEN = torch.arange(500) % 7 // 2  # 4 classes: 144, 143, 142 and 71 images


def stages(stream, seed=3, labels=LABELS):
    return stream.stages(len(labels), seed, labels)


def classes_of(stage, labels=LABELS):
    return set(labels[stage.indices].tolist())


@pytest.mark.parametrize("outputs", ["all", "so-far"])
def test_each_stage_adds_classes_beside_all_images_so_far(outputs):
    found = stages(ClassIncremental((1,) * 3, added=2, outputs=outputs))
    assert [len(stage.indices) for stage in found] == [200, 400, 600]
    for number, stage in enumerate(found, start=1):
        there = classes_of(stage)
        assert len(there) == 2 * number and len(stage.indices.unique()) == len(stage.indices)
        assert stage.labels is None and stage.evaluated == ("test",)
        assert stage.classes is None if outputs == "all" else set(stage.classes) == there
        if number > 1:
            assert classes_of(found[number - 2]) < there


def test_fewer_stages_are_the_first_ones_and_a_seed_has_its_own_order():
    whole, few = (stages(ClassIncremental((1,) * n, added=1)) for n in (6, 3))
    assert all(torch.equal(a.indices, b.indices) for a, b in zip(few, whole, strict=False))
    orders = {tuple(map(frozenset, map(classes_of, stages(ClassIncremental((1,) * 6, added=1), s))))
              for s in range(8)}  # fmt: skip
    assert len(orders) > 5
    masked = stages(ClassIncremental((1,) * 3, added=1, outputs="so-far"))
    assert all(torch.equal(a.indices, b.indices) for a, b in zip(few, masked, strict=True))


def test_classes_of_different_sizes_give_as_many_images_as_the_smallest():
    for seed in range(3):
        found = stages(ClassIncremental((1, 1), added=2), seed, UNEVEN)
        assert [len(stage.indices) for stage in found] == [142, 284]
        assert set(UNEVEN[found[1].indices].bincount().tolist()) == {71}
    one, other = (stages(ClassIncremental((1, 1), added=2), seed, UNEVEN) for seed in (0, 1))
    assert set(one[1].indices.tolist()) != set(other[1].indices.tolist())  # drawn


def test_names_and_options():
    stream = swrlib.make_stream("class-incremental:2,so-far", epochs=3, learning_rate=1e-2)
    assert stream == ClassIncremental((3, 3), 1e-2, added=2, outputs="so-far")
    assert stream.options() == {"added": 2, "outputs": "so-far"}
    assert swrlib.make_stream("class-incremental").added == 5


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: stages(ClassIncremental((1,) * 3)), "need 15 classes, .* have 6: take 1 stages"),
        (lambda: stages(ClassIncremental((1,), added=9)), "have 6: take added=3 or fewer"),
        (lambda: ClassIncremental((1,)).stages(600, 0), "needs the label"),
        (lambda: ClassIncremental((1,)).stages(500, 0, LABELS), "needs the label"),
        (lambda: ClassIncremental((1,), added=0), "added is 0"),
        (lambda: ClassIncremental((1,), added=1.5), "added is 1.5"),
        (lambda: ClassIncremental((1,), added=True), "added is True"),
        (lambda: ClassIncremental((1,), outputs="so far"), "did you mean 'so-far'"),
        (lambda: swrlib.make_stream("class-incremental:5"), r"2 values .*\(added, outputs\)"),
        (lambda: swrlib.make_stream("class-incremental", add=2), "no option 'add'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(make, words):
    with pytest.raises(ValueError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value) and ". " not in str(caught.value)


def plain_loop(data, seed, stream, make, masked):
    """Train on images of the classes so far; masked: their logits alone, cut out of the others.

    The order of classes is drawn here again; of images only the set is the stream's.
    """
    torch.manual_seed(generator(seed, "weights").initial_seed())
    model = swrlib.build_model("mlp", data).double()
    optimizer = make(model.parameters())
    order = torch.randperm(4, generator=generator(seed, "class-incremental", "classes"))
    train, test = ((x.double() / 255 - 0.5) / 0.25 for x in (data.train_images, data.test_images))

    def outputs(images, labels, classes):
        logits = model(images)
        if not masked:
            return logits, labels
        return logits[:, classes], (labels[:, None] == classes).int().argmax(1)

    rows = []
    for number, stage in enumerate(stages(stream, seed, data.train_labels), start=1):
        classes = order[: stream.added * number]
        wanted = torch.nonzero(torch.isin(data.train_labels, classes))[:, 0]
        assert set(stage.indices.tolist()) == set(wanted.tolist())
        for epoch in range(1, stage.epochs + 1):
            draw = generator(seed, "order", number, epoch)
            images = stage.indices[torch.randperm(len(stage.indices), generator=draw)]
            losses = []
            for batch in images.split(7):
                loss = cross_entropy(*outputs(train[batch], data.train_labels[batch], classes))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            seen = torch.isin(data.test_labels, classes) if masked else torch.ones(20).bool()
            with torch.no_grad():
                logits, labels = outputs(test[seen], data.test_labels[seen], classes)
            hits = (logits.argmax(1) == labels).double().mean().item()
            rows.append((np.mean(losses), cross_entropy(logits, labels).item(), hits))
    return rows


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("outputs", ["all", "so-far"])
def test_the_engine_equals_a_plain_loop(outputs, optimizer, noise, tmp_path, monkeypatch):  # noqa: F811
    stream = ClassIncremental((2, 1, 2), RATE, added=1, outputs=outputs)
    theirs, make = OPTIMIZERS[optimizer]
    options = {"stream": stream, "optimizer": theirs}
    rows, _ = engine(monkeypatch, tmp_path, noise, swrlib.Vanilla(), **options)
    names = ["train_loss", "test_loss", "test_accuracy"]
    for seed in SEEDS:
        found = rows[(rows["seed"] == seed) & (rows["epoch"] > 0)].sort_values("epoch")[names]
        expected = plain_loop(noise, seed, stream, make, outputs == "so-far")
        away = np.abs(found.to_numpy() - expected)
        assert away[:, :2].max() < 1e-12 and away[:, 2].max() < 1e-7  # hits are counted in float32
        other = plain_loop(noise, seed, stream, make, outputs != "so-far")
        assert not np.allclose(found.to_numpy(), other, rtol=0, atol=1e-2)


def test_all_test_images_count_with_all_outputs(noise, tmp_path, monkeypatch):  # noqa: F811
    """With one class of four a network that knows it has a quarter right, or all."""
    for outputs, accuracy in (("all", 0.25), ("so-far", 1.0)):
        stream = ClassIncremental((30,), RATE, added=1, outputs=outputs)
        folder = tmp_path / outputs
        rows, _ = engine(monkeypatch, folder, noise, swrlib.Vanilla(), stream=stream)
        assert (rows[rows["epoch"] == 30]["test_accuracy"] == accuracy).all()
