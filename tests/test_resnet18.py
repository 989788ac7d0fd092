"""ResNet-18: torchvision's in a plain loop, and here alone, stacked and in the engine."""

from __future__ import annotations

import copy

import pandas as pd
import pytest
import torch
from oracles import dataset
from torch import nn
from torch.nn.functional import cross_entropy

from swrlib import SoftWeightRescaling, build_model, trace_layers, train
from swrlib.datasets import Dataset
from swrlib.stacks import Stack

torchvision = pytest.importorskip("torchvision")
CPU = torch.device("cpu")
DATA = dataset(shape=(3, 8, 8), classes=4)


class Narrow(torchvision.models.ResNet):
    """torchvision's, an eighth as wide, with a stem for small images."""

    def __init__(self) -> None:
        block = torchvision.models.resnet.BasicBlock
        super().__init__(block, [2, 2, 2, 2], num_classes=4)
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1, self.maxpool, self.fc = nn.BatchNorm2d(8), nn.Identity(), nn.Linear(64, 4)

    def _make_layer(self, block, planes, *arguments, **options):
        if planes == 64:
            self.inplanes = 8
        return super()._make_layer(block, planes // 8, *arguments, **options)


def narrow(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Narrow().double()


def ours() -> nn.Module:
    return build_model("resnet18", DATA, width=8).double()


def batches(steps: int = 5):
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        images = torch.randn(6, 3, 8, 8, generator=generator, dtype=torch.float64)
        yield images, torch.randint(0, 4, (6,), generator=generator)


def test_it_is_torchvisions():
    with torch.random.fork_rng():
        theirs = torchvision.models.resnet18(num_classes=4)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    model = build_model("resnet18", DATA)
    model.load_state_dict(theirs.state_dict())
    images = next(batches())[0].float()
    assert torch.equal(model(images), theirs(images))
    assert torch.equal(model.eval()(images), theirs.eval()(images))


def test_its_weights_are_drawn_as_torchvision_draws_them():
    torch.manual_seed(0)
    model = build_model("resnet18", DATA)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 4:
            spread = (2 / (len(parameter) * parameter[0, 0].numel())) ** 0.5
            assert float(parameter.std()) == pytest.approx(spread, rel=0.1), name
        elif "bn" in name:
            assert set(parameter.tolist()) == {1.0 if name.endswith("weight") else 0.0}


@pytest.mark.parametrize("source", ["torchvision", "ours"])
@pytest.mark.parametrize("replicas", [1, 2])
def test_a_stack_trains_as_torchvisions_module_in_a_plain_loop(replicas, source):
    alone = [narrow(seed) for seed in range(replicas)]
    stack = Stack(narrow(0) if source == "torchvision" else ours(), replicas, CPU, torch.float64)
    for replica, model in enumerate(alone):
        stack.load(replica, model)
    kernel = stack.parameters["layer1.0.conv1.weight"].detach()[0]
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    together = torch.optim.Adam(stack.parameters.values(), 1e-3)
    optimizers = [torch.optim.Adam(model.parameters(), 1e-3) for model in alone]
    for images, labels in batches():
        logits = stack(images, training=True)
        together.zero_grad()
        losses = cross_entropy(logits, labels.expand(replicas, -1), reduction="none").mean(1)
        losses.sum().backward()
        together.step()
        for replica, (model, optimizer) in enumerate(zip(alone, optimizers, strict=True)):
            outputs = model.train()(images)
            torch.testing.assert_close(logits[replica], outputs.T, rtol=1e-8, atol=1e-8)
            optimizer.zero_grad()
            cross_entropy(outputs, labels).backward()
            optimizer.step()
    images = next(batches())[0]
    evaluated = stack(images, training=False)
    for replica, model in enumerate(alone):
        for name, tensor in model.state_dict().items():
            found = stack.views(replica)[name]
            torch.testing.assert_close(found, tensor, rtol=1e-8, atol=1e-8, msg=name)
        expected = model.eval()(images).T
        torch.testing.assert_close(evaluated[replica], expected, rtol=1e-8, atol=1e-8)


def test_in_float32_its_maps_stay_in_the_layout_of_onednn(monkeypatch):
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this PyTorch has no oneDNN")
    model = ours().float()
    stack = Stack(model, 1, CPU, torch.float32)
    calls = []
    for name in ("to_mkldnn", "to_dense"):
        real = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda x, n=name, real=real: (calls.append(n), real(x))[1]
        )
    images = torch.randn(6, 3, 8, 8)
    found = stack(images, training=True)
    assert calls == ["to_mkldnn", "to_dense"]
    torch.testing.assert_close(found[0], model.train()(images).T, rtol=1e-4, atol=1e-4)


def test_summary_says_where_proportionality_ends():
    model = ours()
    where = SoftWeightRescaling(model, 1e-3).summary()["proportional"]
    layers = [layer.name for layer in trace_layers(model)]
    ends = layers.index("layer1.1.conv1")  # what follows the first sum of branches
    assert set(where[:ends]) == {"yes"}
    assert all("adds branches of different scale" in reason for reason in where[ends:])


def noise() -> Dataset:
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (36, 3, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(36) % 4
    constants = (0.5,) * 3, (0.25,) * 3
    return Dataset(
        "noise", images[:24], labels[:24], images[24:], labels[24:], tuple("abcd"), *constants
    )


def trained(stack: int, **options) -> pd.DataFrame:
    frame = train(
        dataset=noise(),
        model="resnet18",
        stream="warm-start",
        methods=["vanilla", "swr:1e-2", "full-reset"],
        seeds=[0],
        epochs=1,
        dtype=torch.float64,
        batch_size=8,
        options={"width": 2} | options,
        stack=stack,
        device="cpu",
        progress=False,
    )
    return frame.sort_values(["method", "epoch"]).reset_index(drop=True)


def test_it_trains_in_the_engine_alone_and_stacked():
    alone, stacked = trained(1), trained(3)
    assert len(alone) == 3 * 3 and not alone["diverged"].any()
    numbers = ["train_loss", "test_loss", "train_accuracy", "test_accuracy"]
    pd.testing.assert_frame_equal(alone[numbers], stacked[numbers], rtol=1e-6)
    assert list(alone["run"]) == list(stacked["run"])
    assert set(trained(3, width=3)["run"]).isdisjoint(alone["run"])
    ends = alone.groupby("method")["test_loss"].last()
    assert ends.nunique() == 3


def test_a_copy_of_torchvisions_module_is_left_alone():
    model = narrow(0)
    before = copy.deepcopy(model.state_dict())
    stack = Stack(model, 2, CPU, torch.float64)
    stack(next(batches())[0], training=True)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.relu.inplace and stack.module(1).relu.inplace
