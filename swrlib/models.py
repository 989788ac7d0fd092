"""Architectures for any size and number of channels of the images: the paper's, and neighbours'.

All are sequences of named modules: what `torch.fx` traces, a reader can read. The paper's weights
are drawn with PyTorch's default initialization from torch's global generator (the paper does not
say which; its release does the same), unless another is asked for; ResNet-18's as torchvision
draws them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from swrlib.checks import check_name, check_whole, nearest
from swrlib.datasets import Dataset


class CReLU(nn.Module):
    """Concatenated ReLU (Shang et al., 2016): twice as many units, of x and of −x."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return both, one behind the other along the units or channels."""
        return torch.cat([nn.functional.relu(inputs), nn.functional.relu(-inputs)], 1)


# Max pooling stands before the activation below: a function that never falls commutes with the
# maximum exactly, and has a quarter of the work. Only of those that fall somewhere, of CReLU, it
# stands behind.
_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "identity": nn.Identity,
    "crelu": CReLU,
}


# What draws a weight; biases are zero then. PyTorch's default draws both.
_INITIALIZATIONS: dict[str, Callable[[Tensor], Tensor] | None] = {
    "pytorch": None,
    "glorot": nn.init.xavier_uniform_,
    "he": partial(nn.init.kaiming_uniform_, nonlinearity="relu"),
}

# Blocks of convolutions (channels of each; every block ends with a pooling by 2, or all of its
# convolutions have a stride), the size of their kernels, and the hidden units of the fully
# connected layers. Whatever stands here may be given as an option, but for _FIXED.
_FIXED = ("blocks", "kernel", "stride")
_FULLY_CONNECTED: dict[str, Any] = {
    "activation": "relu",
    "initialization": "pytorch",
    "layer_norm": False,
}
_CONVOLUTIONAL = _FULLY_CONNECTED | {"normalization": False, "convolution_bias": True}
_CNN = {**_CONVOLUTIONAL, "blocks": ((16,), (16,)), "kernel": 5, "hidden": (100,)}
_ARCHITECTURES: dict[str, dict[str, Any]] = {
    "mlp": {**_FULLY_CONNECTED, "hidden": (100, 100)},
    "cnn": _CNN,
    # Batch norm would subtract a bias again, so there is none (paper, Section 3.3).
    "cnn-bn": {**_CNN, "normalization": True, "convolution_bias": False},
    # The curvature paper's for CIFAR-10, which does not say how large kernels and padding are.
    "cnn-strided": {
        **_CONVOLUTIONAL,
        "blocks": ((16,), (32,), (64,)),
        "kernel": 3,
        "stride": 2,
        "hidden": (64, 32),
    },
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
        - `cnn-strided`: three 3x3 convolutions of stride 2 with 16, 32, 64 channels, then 64, 32,
          classes (Lewandowski et al., *Curvature Explains Loss of Plasticity*, for CIFAR-10).
        - `vgg16`: 13 convolutions, 4096, 4096, classes; images from 32 pixels on.
        - `resnet18`: torchvision's, with a 3x3 convolution of stride 1 and no pooling in front, as
          is usual for small images; from 8 pixels on.
    dataset
        Gives the shape of the images and the number of classes.
    **options
        `activation`: `relu`, `leaky_relu` (of slope 0.01), `tanh`, `identity` or `crelu`. `hidden`:
        units of the hidden fully connected layers. `layer_norm`: whether layer norm stands before
        their activations. `initialization`: `pytorch`, or uniform and with zero biases `glorot`
        (Glorot and Bengio, 2010) and `he` (He et al., 2015). With convolutions also
        `normalization`: whether batch norm follows each of them, and `convolution_bias`: whether
        they have a bias (VGG-16: True; False as the paper's Section 3.3 suggests before batch
        norm). ResNet-18 has one option, `width`: the channels of its first blocks, 64; those of the
        last are eight times as many.

    Returns
    -------
    nn.Module
        Maps normalized images [N, C, H, W] to logits [N, classes].

    Raises
    ------
    ValueError
        If a name or option is unknown, or the images are too small.
    """
    settings = _settings(name, options)
    if name == "resnet18":
        return _resnet18(dataset, **settings)
    plain: dict[str, Any] = {"blocks": (), "kernel": 3, "stride": 1}
    settings = plain | settings
    _check_size(name, dataset, settings)
    network = nn.Sequential()
    units = _add_convolutions(network, dataset, settings)
    network.add_module("flatten", nn.Flatten())
    _add_linear(network, (units, *settings["hidden"], len(dataset.classes)), settings)
    if draw := _INITIALIZATIONS[settings["initialization"]]:
        for module in network:
            if isinstance(module, nn.Linear | nn.Conv2d):
                draw(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
    return network


def _settings(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return all settings of an architecture; refuse a name that is unknown."""
    check_name("model", name, MODELS, "there is no")
    settings = _ARCHITECTURES[name]
    known = [option for option in settings if option not in _FIXED]
    for option in options:
        if option not in known:
            raise ValueError(f"there is no option {option!r} of {name}: {nearest(option, known)}")
    settings = settings | options
    for option, values in (("activation", _ACTIVATIONS), ("initialization", _INITIALIZATIONS)):
        if settings.get(option) is not None:
            check_name(option, settings[option], values, "there is no")
    return settings


def _check_size(name: str, dataset: Dataset, settings: dict[str, Any]) -> None:
    """Refuse images that are too small to be pooled once for each block."""
    if settings["stride"] > 1:
        return  # nothing is pooled, and a padded 3x3 kernel fits on any image
    _, height, width = dataset.shape
    blocks, kernel = settings["blocks"], settings["kernel"]
    least = 1  # with padding 1, a convolution takes kernel - 3 pixels away
    for block in blocks:
        least = 2 * least + (kernel - 3) * len(block)
    if min(height, width) < least:
        raise ValueError(
            f"{name} pools its input {len(blocks)} times and needs images of at least "
            f"{least}x{least} pixels, not {height}x{width}: enlarge them or take another model"
        )


def _add_convolutions(network: nn.Sequential, dataset: Dataset, settings: dict[str, Any]) -> int:
    """Add blocks of convolutions, and return how many entries their maps have."""
    channels, height, width = dataset.shape
    blocks, kernel, stride = settings["blocks"], settings["kernel"], settings["stride"]
    activation, bias = _ACTIVATIONS[settings["activation"]], settings.get("convolution_bias", True)
    count = 0
    for number, block in enumerate(blocks, start=1):
        for position, outputs in enumerate(block, start=1):
            count += 1
            convolution = nn.Conv2d(channels, outputs, kernel, stride, padding=1, bias=bias)
            parts: dict[str, nn.Module] = {f"conv{count}": convolution}
            if settings["normalization"]:
                parts[f"norm{count}"] = nn.BatchNorm2d(outputs)
            height, width = ((size + 2 - kernel) // stride + 1 for size in (height, width))
            last: dict[str, nn.Module] = {f"activation{count}": activation()}
            if position == len(block) and stride == 1:
                pool = {f"pool{number}": nn.MaxPool2d(2)}
                last = last | pool if activation is CReLU else pool | last
                height, width = height // 2, width // 2
            for key, module in (parts | last).items():
                network.add_module(key, module)
            channels = _factor(activation) * outputs
    return channels * height * width


def _add_linear(network: nn.Sequential, units: tuple[int, ...], settings: dict[str, Any]) -> None:
    """Add fully connected layers; layer norm and activation behind all but the last."""
    activation = _ACTIVATIONS[settings["activation"]]
    before = sum(isinstance(module, nn.Conv2d) for module in network)
    inputs = units[0]
    for number, outputs in enumerate(units[1:], start=1):
        network.add_module(f"linear{number}", nn.Linear(inputs, outputs))
        if number < len(units) - 1:
            if settings["layer_norm"]:
                network.add_module(f"norm{before + number}", nn.LayerNorm(outputs))
            network.add_module(f"activation{before + number}", activation())
        inputs = _factor(activation) * outputs


def _factor(activation: type[nn.Module]) -> int:
    """Return how many features an activation makes of a unit."""
    return 2 if activation is CReLU else 1


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
