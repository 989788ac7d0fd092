"""Many copies of a network that train as one: every parameter carries a leading axis of replicas.

A `Stack` walks through the graph of a model with operations that treat all replicas at once
(`swrlib.walks`). With one replica these are the ordinary operations. No replica sees another's
numbers, so one that diverges leaves the others as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from swrlib.checks import check_name, check_whole
from swrlib.network import graph
from swrlib.walks import Walk
from swrlib.wide import Setting, Unstackable, refuse

#: Up to how many entries a model counts as small: then its replicas train in one stack on a GPU.
SMALL = 2_000_000
#: Images in a batch when nothing is learned from them, at least.
EVALUATED = 256
#: Replicas in one stack by default: more of them leave the processor's cache, or the GPU is full.
LARGEST_STACK = {"cpu": 20, "cuda": 100}


class Stack:
    """Replicas of a model.

    Parameters
    ----------
    model : torch.nn.Module
        What all replicas start as. Linear and convolution layers, batch, layer, group and instance
        normalization, and between them activations, pooling, sums and joins of branches; one
        replica may be any model.
    replicas : int
    device : torch.device
    dtype : torch.dtype
        float32, float64, or bfloat16: then products of matrices and convolutions are in bfloat16,
        parameters and everything else in float32.
    seeds : int
        How many parts of the replicas, one after another, may have images of their own.

    Attributes
    ----------
    parameters : dict of str to torch.Tensor
        By name, leaves [replicas, …]; those of convolutions lie in memory channels last.
    buffers : dict of str to torch.Tensor
        By name, [replicas, …].

    Raises
    ------
    TypeError
        If several replicas of the model cannot be computed at once; what hinders is named.
    ValueError
        If the replicas are no multiple of the seeds.
    """

    def __init__(
        self,
        model: nn.Module,
        replicas: int,
        device: torch.device,
        dtype: torch.dtype,
        *,
        seeds: int = 1,
    ) -> None:
        check_whole("seeds", seeds)
        if replicas % seeds:
            raise ValueError(f"{replicas} replicas are no multiple of {seeds} seeds")
        self.replicas, self.seeds = replicas, seeds
        self.dtype = torch.float32 if dtype == torch.bfloat16 else dtype
        self._model = outline(model)
        self.parameters = {
            name: self._block(parameter, device).requires_grad_()
            for name, parameter in model.named_parameters()
        }
        self.buffers = {name: self._block(buffer, device) for name, buffer in model.named_buffers()}
        convolutional = any(isinstance(module, nn.Conv2d) for module in model.modules())
        self.blocked = convolutional and _computes_blocked(device, dtype)
        channels_last = convolutional and not self.blocked
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        setting = Setting(
            replicas, self.parameters, self.buffers, dtype, self.blocked, self.memory_format
        )
        self._walks: dict[int, Walk | _Alone] = {}  # by the number of different inputs
        try:
            steps = _trace(outline(model))
            self._walks = {inputs: Walk(steps, setting, inputs) for inputs in {1, seeds}}
        except Unstackable:
            if replicas > 1:
                raise
            self._walks = {1: _Alone(outline(model), setting)}

    def _block(self, tensor: Tensor, device: torch.device) -> Tensor:
        dtype = self.dtype if tensor.is_floating_point() else tensor.dtype
        tensor = tensor.detach().to(device, dtype)
        if tensor.dim() == 4:  # a kernel: the input's channels last
            tensor = tensor.permute(0, 2, 3, 1)
        contiguous = torch.contiguous_format
        block = tensor.expand(self.replicas, *tensor.shape).clone(memory_format=contiguous)
        return block.permute(0, 1, 4, 2, 3) if tensor.dim() == 4 else block

    def __call__(self, images: Tensor, *, training: bool) -> Tensor:
        """Return the logits [replicas, classes, N] of normalized images.

        Images are [N, C, H, W], which all replicas see, or with several seeds [seeds, N, C, H, W].
        """
        return self.forward(images, training=training)[0]

    def forward(
        self, images: Tensor, *, training: bool, features: Collection[str] = ()
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the logits, as in a call, and what layers or other steps give on the way.

        Parameters
        ----------
        images : torch.Tensor
        training : bool
        features : collection of str
            Names of layers, or of other steps of the graph.

        Returns
        -------
        torch.Tensor
        dict of str to torch.Tensor
            By name, [replicas, N, …].

        Raises
        ------
        ValueError
            If there is no step of a name.
        """
        own = self.seeds > 1 and images.dim() in (3, 5)
        walk = self._walks[self.seeds if own else 1]
        logits, kept = walk(images, training=training, features=features)
        return logits.to(self.dtype), kept

    def views(self, replica: int) -> dict[str, Tensor]:
        """Return one replica's parameters and buffers by name, sharing their memory."""
        blocks = self.parameters | self.buffers
        return {name: block.detach()[replica] for name, block in blocks.items()}

    def module(self, replica: int) -> nn.Module:
        """Return one replica as a model of its own: a copy, as it is now."""
        views = self.views(replica).items()
        contiguous = torch.contiguous_format
        own = {name: view.clone(memory_format=contiguous) for name, view in views}
        return _with_tensors(self._model, own)

    @torch.no_grad()
    def load(self, replica: int, model: nn.Module) -> None:
        """Take a replica's parameters and buffers from a model."""
        views = self.views(replica)
        for name, tensor in _tensors(model).items():
            views[name].copy_(tensor)


class _Alone:
    """The forward pass of a single replica: the model's own."""

    def __init__(self, model: nn.Module, setting: Setting) -> None:
        for name, module in model.named_modules():
            if "forward" in vars(module):  # it may belong to the model that this is a copy of
                raise TypeError(
                    f"{name or type(module).__name__} was given another forward, which a copy may "
                    "not take along: write a class with it"
                )
        self.model, self.setting = model, setting

    def __call__(
        self, images: Tensor, *, training: bool, features: Collection[str] = ()
    ) -> tuple[Tensor, dict[str, Tensor]]:
        modules = dict(self.model.named_modules())
        kept: dict[str, Tensor] = {}
        hooks = []
        for name in features:
            check_name("module", name, modules, "the model has no")

            def keep(module: nn.Module, inputs: object, output: Tensor, name: str = name) -> None:
                kept[name] = output.unsqueeze(0)

            hooks.append(modules[name].register_forward_hook(keep))
        blocks = {**self.setting.parameters, **self.setting.buffers}
        tensors = {name: block[0] for name, block in blocks.items()}
        half = self.setting.products == torch.bfloat16
        try:
            with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
                self.model.train(training)
                outputs = torch.func.functional_call(self.model, tensors, (images,))
        finally:
            for hook in hooks:
                hook.remove()
        return outputs.transpose(0, 1).unsqueeze(0), kept


def _trace(model: nn.Module) -> graph.Graph:
    try:
        if "forward" in vars(model):
            refuse(f"{type(model).__name__} was given another forward")
        return graph.trace(model)
    except ValueError as error:
        raise Unstackable(
            f"{error}, so that several runs cannot train at once: train it alone (stack=1)"
        ) from error


def outline(model: nn.Module) -> nn.Module:
    """Return a copy of a model whose parameters and buffers have no memory (device "meta")."""
    return _with_tensors(model, {name: t.to("meta") for name, t in _tensors(model).items()})


def _with_tensors(model: nn.Module, tensors: dict[str, Tensor]) -> nn.Module:
    """Return a copy of a model with these parameters and buffers, without copying its own."""
    instead: dict[int, Any] = {}
    for name, tensor in _tensors(model).items():
        own = tensors[name].detach()
        parameter = isinstance(tensor, nn.Parameter)
        instead[id(tensor)] = nn.Parameter(own, tensor.requires_grad) if parameter else own
    return copy.deepcopy(model, instead)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _computes_blocked(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether feature maps stay in oneDNN's layout, from a convolution on.

    Pooling, and convolutions of few channels, take less time there than in PyTorch's layouts.
    PyTorch offers it for float32 alone.
    """
    onednn = torch.backends.mkldnn
    here = bool(onednn.is_available() and onednn.enabled)
    return device.type == "cpu" and dtype == torch.float32 and here


def default_size(model: nn.Module, device: torch.device) -> int:
    """Return how many replicas train at once by default; see `swrlib.train`."""
    entries = sum(parameter.numel() for parameter in model.parameters())
    convolutional = any(isinstance(module, nn.Conv2d) for module in model.modules())
    if device.type == "cpu":
        return 1 if convolutional else LARGEST_STACK["cpu"]
    return LARGEST_STACK["cuda"] if entries <= SMALL else 1


def needed_memory(model: nn.Module, images: tuple[int, ...], dtype: torch.dtype) -> int:
    """Return about how many bytes the training of one replica takes.

    Parameters
    ----------
    model : torch.nn.Module
    images : tuple of int
        Shape [N, C, H, W] of a batch.
    dtype : torch.dtype
    """
    outputs: list[int] = []
    copied = outline(model)
    for module in copied.modules():
        if not any(True for _ in module.children()):
            module.register_forward_hook(
                lambda module, inputs, output: outputs.append(output.numel())
            )
    with torch.no_grad():
        copied(torch.empty(images, device="meta"))
    entries = sum(parameter.numel() for parameter in model.parameters())
    # Parameters, gradients, two moments, a copy of the parameters and one to compute with; what
    # every layer outputs, and its gradient, or what it outputs in an evaluation.
    maps = max(2 * sum(outputs), sum(outputs) * EVALUATED // images[0])
    return (6 * entries + maps) * max(4, dtype.itemsize)
