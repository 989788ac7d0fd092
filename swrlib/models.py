"""The four architectures of the paper, for any size and number of channels of the images.

All are flat sequences of named modules: what `torch.fx` traces, a reader can read. Weights are
drawn with PyTorch's default initialization from torch's global generator (the paper does not say
which; its release does the same).
"""

from __future__ import annotations

import difflib
import inspect
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from swrlib.datasets import Dataset

# Max pooling stands before the activation below: a function that never falls commutes with the
# maximum exactly, and has a quarter of the work. So every activation here must be non-decreasing.
_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
}

# Configuration D of Simonyan and Zisserman (2015): channels of each convolution, by block.
_VGG16_BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def _nearest(kind: str, name: object, known: Sequence[str]) -> ValueError:
    nearest = difflib.get_close_matches(str(name), known, n=1, cutoff=0)
    guess = f", did you mean {nearest[0]!r}?" if nearest else ":"
    return ValueError(f"there is no {kind} {name!r}{guess} Known: {', '.join(known) or 'none'}")


def _activation(name: str) -> type[nn.Module]:
    if name not in _ACTIVATIONS:
        raise _nearest("activation", name, list(_ACTIVATIONS))
    return _ACTIVATIONS[name]


def _mlp(
    shape: tuple[int, int, int],
    classes: int,
    *,
    hidden: Sequence[int] = (100, 100),
    activation: str = "relu",
) -> nn.Sequential:
    """Fully connected layers."""
    if isinstance(hidden, (str, int)) or not all(
        type(width) is int and width > 0 for width in hidden
    ):
        raise ValueError(
            f"hidden must be positive whole numbers such as (100, 100), not {hidden!r}"
        )
    nonlinearity = _activation(activation)
    channels, height, width = shape
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    units = [channels * height * width, *hidden, classes]
    for index in range(1, len(units)):
        layers[f"linear{index}"] = nn.Linear(units[index - 1], units[index])
        if index < len(units) - 1:
            layers[f"activation{index}"] = nonlinearity()
    return nn.Sequential(layers)


def _two_convolutions(
    shape: tuple[int, int, int], classes: int, activation: str, normalization: bool
) -> nn.Sequential:
    nonlinearity = _activation(activation)
    channels, height, width = shape
    if min(height, width) < 10:
        raise ValueError(
            f"the CNN needs images of at least 10x10 pixels, not {height}x{width}: enlarge them "
            "or take the model 'mlp'"
        )
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for index in (1, 2):
        # Batch norm would subtract a bias again, so there is none (paper, Section 3.3).
        layers[f"conv{index}"] = nn.Conv2d(channels, 16, 5, padding=1, bias=not normalization)
        if normalization:
            layers[f"norm{index}"] = nn.BatchNorm2d(16)
        layers[f"pool{index}"] = nn.MaxPool2d(2)
        layers[f"activation{index}"] = nonlinearity()
        channels, height, width = 16, (height - 2) // 2, (width - 2) // 2
    layers["flatten"] = nn.Flatten()
    layers["linear1"] = nn.Linear(channels * height * width, 100)
    layers["activation3"] = nonlinearity()
    layers["linear2"] = nn.Linear(100, classes)
    return nn.Sequential(layers)


def _cnn(shape: tuple[int, int, int], classes: int, *, activation: str = "relu") -> nn.Sequential:
    """Two 5x5 convolutions of 16 channels, 100 hidden units; padding 1, each pooled by 2."""
    return _two_convolutions(shape, classes, activation, normalization=False)


def _cnn_bn(
    shape: tuple[int, int, int], classes: int, *, activation: str = "relu"
) -> nn.Sequential:
    """`_cnn` with batch norm after each convolution."""
    return _two_convolutions(shape, classes, activation, normalization=True)


def _vgg16(
    shape: tuple[int, int, int],
    classes: int,
    *,
    normalization: bool = True,
    convolution_bias: bool = True,
    activation: str = "relu",
) -> nn.Sequential:
    """Thirteen 3x3 convolutions in five pooled blocks, then 4096-4096 without dropout."""
    for option, value in (("normalization", normalization), ("convolution_bias", convolution_bias)):
        if not isinstance(value, bool):
            raise TypeError(f"{option} must be True or False, not {value!r}")
    nonlinearity = _activation(activation)
    channels, height, width = shape
    if min(height, width) < 32:
        raise ValueError(
            f"VGG-16 halves its input five times and needs images of at least 32x32 pixels, not "
            f"{height}x{width}: enlarge them or take the model 'cnn-bn'"
        )
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for block, widths in enumerate(_VGG16_BLOCKS, start=1):
        for index, outputs in enumerate(widths, start=1):
            layers[f"conv{block}_{index}"] = nn.Conv2d(
                channels, outputs, 3, padding=1, bias=convolution_bias
            )
            if normalization:
                layers[f"norm{block}_{index}"] = nn.BatchNorm2d(outputs)
            if index == len(widths):
                layers[f"pool{block}"] = nn.MaxPool2d(2)
            layers[f"activation{block}_{index}"] = nonlinearity()
            channels = outputs
    layers["flatten"] = nn.Flatten()
    units = (channels * (height // 32) * (width // 32), 4096, 4096, classes)
    for index in (1, 2, 3):
        layers[f"linear{index}"] = nn.Linear(units[index - 1], units[index])
        if index < 3:
            layers[f"activation{5 + index}"] = nonlinearity()
    return nn.Sequential(layers)


_BUILDERS: dict[str, Callable[..., nn.Sequential]] = {
    "mlp": _mlp,
    "cnn": _cnn,
    "cnn-bn": _cnn_bn,
    "vgg16": _vgg16,
}
MODELS = tuple(_BUILDERS)


def build_model(name: str, dataset: Dataset, **options: Any) -> nn.Module:
    """Build a model for the images and classes of a data set.

    Sizes are the paper's (Section 4, Appendix D); where it is silent, its authors' partial release
    decided: padding 1 and pooling by 2 in the CNNs, no adaptive pooling in VGG-16, whose batch
    norm is implied by its two λ's.

    Parameters
    ----------
    name
        - `mlp`: inputs, 100, 100, classes. Options: `hidden=(100, 100)`, `activation`.
        - `cnn`: two 5x5 convolutions of 16 channels, 100 hidden units. Option: `activation`.
        - `cnn-bn`: the same with batch norm, its convolutions without bias. Option: `activation`.
        - `vgg16`: 13 convolutions, 4096, 4096, classes; images from 32 pixels on. Options:
          `normalization=True` (False: no batch norm), `convolution_bias=True` (False: as the
          paper's Section 3.3 suggests before batch norm), `activation`.
    dataset
        Gives the shape of the images and the number of classes.
    **options
        As listed; `activation` is `relu`, `leaky_relu` or `tanh`.

    Returns
    -------
    nn.Module
        Maps normalized images [N, C, H, W] to logits [N, classes].

    Raises
    ------
    ValueError
        If a name, an option or its value is unknown, or the images are too small.
    TypeError
        If a switch is neither True nor False.
    """
    if name not in _BUILDERS:
        raise _nearest("model", name, MODELS)
    builder = _BUILDERS[name]
    known = [
        parameter.name
        for parameter in inspect.signature(builder).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    ]
    for option in options:
        if option not in known:
            raise _nearest(f"option of {name}", option, known)
    return builder(dataset.shape, len(dataset.classes), **options)
