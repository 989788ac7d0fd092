"""Architectures for any size and number of channels of the images: the paper's four, and ResNet-18.

All are sequences of named modules: what `torch.fx` traces, a reader can read. The paper's weights
are drawn with PyTorch's default initialization from torch's global generator (the paper does not
say which; its release does the same), ResNet-18's as torchvision draws them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import nn

from swrlib.checks import check_whole, nearest
from swrlib.datasets import Dataset

# Max pooling stands before the activation below: a function that never falls commutes with the
# maximum exactly, and has a quarter of the work. So every activation here must be non-decreasing.
_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
}

# Blocks of convolutions (channels of each; every block ends with a pooling by 2), the size of
# their kernels, and the hidden units of the fully connected layers. Whatever stands here may be
# given as an option, but for blocks and kernels.
_FULLY_CONNECTED: dict[str, Any] = {"activation": "relu"}
_CONVOLUTIONAL: dict[str, Any] = {
    **_FULLY_CONNECTED,
    "normalization": False,
    "convolution_bias": True,
}
_CNN = {**_CONVOLUTIONAL, "blocks": ((16,), (16,)), "kernel": 5, "hidden": (100,)}
_ARCHITECTURES: dict[str, dict[str, Any]] = {
    "mlp": {**_FULLY_CONNECTED, "hidden": (100, 100)},
    "cnn": _CNN,
    # Batch norm would subtract a bias again, so there is none (paper, Section 3.3).
    "cnn-bn": {**_CNN, "normalization": True, "convolution_bias": False},
    # Configuration D of Simonyan and Zisserman (2015), without dropout.
    "vgg16": {
        **_CONVOLUTIONAL,
        "blocks": ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3),
        "kernel": 3,
        "hidden": (4096, 4096),
        "normalization": True,
    },
    "resnet18": {"width": 64},
}
MODELS = tuple(_ARCHITECTURES)


def build_model(name: str, dataset: Dataset, **options: Any) -> nn.Module:
    """Build a model for the images and classes of a data set.

    Sizes are the paper's (Section 4, Appendix D); where it is silent, its authors' partial release
    decided: padding 1 and pooling by 2 in the CNNs, no adaptive pooling in VGG-16, whose batch
    norm is implied by its two λ's.

    Parameters
    ----------
    name
        - `mlp`: inputs, 100, 100, classes.
        - `cnn`: two 5x5 convolutions of 16 channels, 100 hidden units.
        - `cnn-bn`: the same with batch norm, its convolutions without bias.
        - `vgg16`: 13 convolutions, 4096, 4096, classes; images from 32 pixels on.
        - `resnet18`: torchvision's, with a 3x3 convolution of stride 1 and no pooling in front, as
          is usual for small images; from 8 pixels on.
    dataset
        Gives the shape of the images and the number of classes.
    **options
        `activation`: `relu`, `leaky_relu` or `tanh`. `hidden`: units of the hidden fully connected
        layers. With convolutions also `normalization`: whether batch norm follows each of them,
        and `convolution_bias`: whether they have a bias (VGG-16: True; False as the paper's
        Section 3.3 suggests before batch norm). ResNet-18 has one option, `width`: the channels
        of its first blocks, 64; those of the last are eight times as many.

    Returns
    -------
    nn.Module
        Maps normalized images [N, C, H, W] to logits [N, classes].

    Raises
    ------
    ValueError
        If a name or option is unknown, or the images are too small.
    """
    if name not in _ARCHITECTURES:
        raise ValueError(f"there is no model {name!r}: {nearest(name, MODELS)}")
    settings = _ARCHITECTURES[name]
    known = [option for option in settings if option not in ("blocks", "kernel")]
    for option in options:
        if option not in known:
            raise ValueError(f"there is no option {option!r} of {name}: {nearest(option, known)}")
    settings = settings | options
    if name == "resnet18":
        return _resnet18(dataset, **settings)
    activation = settings["activation"]
    if activation not in _ACTIVATIONS:
        raise ValueError(
            f"there is no activation {activation!r}: {nearest(activation, _ACTIVATIONS)}"
        )
    return _sequence(name, dataset, **settings)


def _sequence(
    name: str,
    dataset: Dataset,
    *,
    hidden: Sequence[int],
    activation: str,
    blocks: Sequence[Sequence[int]] = (),
    kernel: int = 3,
    normalization: bool = False,
    convolution_bias: bool = True,
) -> nn.Module:
    """Build blocks of convolutions, if any, and fully connected layers behind them."""
    channels, height, width = dataset.shape
    least = 1  # with padding 1, a convolution takes kernel - 3 pixels away
    for block in blocks:
        least = 2 * least + (kernel - 3) * len(block)
    if min(height, width) < least:
        raise ValueError(
            f"{name} pools its input {len(blocks)} times and needs images of at least "
            f"{least}x{least} pixels, not {height}x{width}: enlarge them or take another model"
        )
    network = nn.Sequential()
    number = 0  # of the layer with an activation
    for place, block in enumerate(blocks, start=1):
        for position, outputs in enumerate(block, start=1):
            number += 1
            convolution = nn.Conv2d(channels, outputs, kernel, padding=1, bias=convolution_bias)
            network.add_module(f"conv{number}", convolution)
            if normalization:
                network.add_module(f"norm{number}", nn.BatchNorm2d(outputs))
            channels, height, width = outputs, height + 3 - kernel, width + 3 - kernel
            if position == len(block):
                network.add_module(f"pool{place}", nn.MaxPool2d(2))
                height, width = height // 2, width // 2
            network.add_module(f"activation{number}", _ACTIVATIONS[activation]())
    network.add_module("flatten", nn.Flatten())
    units = (channels * height * width, *hidden, len(dataset.classes))
    for place, (inputs, outputs) in enumerate(pairwise(units), start=1):
        network.add_module(f"linear{place}", nn.Linear(inputs, outputs))
        if place < len(units) - 1:
            network.add_module(f"activation{number + place}", _ACTIVATIONS[activation]())
    return network


def _resnet18(dataset: Dataset, width: int) -> nn.Module:
    """Build ResNet-18 of torchvision's blocks; its parameters have the names that they have there.

    He, Zhang, Ren and Sun (2016).
    """
    from torchvision.models.resnet import BasicBlock  # takes a second to import

    check_whole("width", width)
    channels, height, width_of_images = dataset.shape
    if min(height, width_of_images) < 8:
        raise ValueError(
            "resnet18 halves its maps three times and needs images of at least 8x8 pixels, not "
            f"{height}x{width_of_images}: enlarge them or take another model"
        )
    network = nn.Sequential()
    network.add_module("conv1", nn.Conv2d(channels, width, 3, padding=1, bias=False))
    network.add_module("bn1", nn.BatchNorm2d(width))
    network.add_module("relu", nn.ReLU(inplace=True))
    inputs = width
    for number in range(1, 5):
        outputs = width * 2 ** (number - 1)
        shortcut = None
        if outputs != inputs:
            convolution = nn.Conv2d(inputs, outputs, 1, stride=2, bias=False)
            shortcut = nn.Sequential(convolution, nn.BatchNorm2d(outputs))
        first = BasicBlock(inputs, outputs, 1 if number == 1 else 2, shortcut)
        network.add_module(f"layer{number}", nn.Sequential(first, BasicBlock(outputs, outputs)))
        inputs = outputs
    network.add_module("avgpool", nn.AdaptiveAvgPool2d(1))
    network.add_module("flatten", nn.Flatten())
    network.add_module("fc", nn.Linear(inputs, len(dataset.classes)))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network
