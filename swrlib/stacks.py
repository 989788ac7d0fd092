"""Many copies of a network that train as one: every parameter carries a leading axis of replicas.

A `Stack` walks through the layers of a model with operations that treat all replicas at once. Until
the first layer the replicas share their input, so that this layer is one wide product; convolutions
become grouped, batch normalization treats each replica's channels by themselves. With one replica
these are the ordinary operations. No replica sees another's numbers, so one that diverges leaves
the others as they are.

Feature maps are [N, replicas·C, H, W]; what fully connected layers see is [replicas, units, N],
with the images last, where softmax and sums over classes are fastest on a processor. There, float32
feature maps lie in oneDNN's own layout for as long as it knows the modules that follow.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv2d

#: Up to how many entries a model counts as small: then its replicas train in one stack on a GPU.
SMALL = 2_000_000
#: Images in a batch when nothing is learned from them, at least.
EVALUATED = 256
#: Replicas in one stack by default: more of them leave the processor's cache, or the GPU is full.
LARGEST_STACK = {"cpu": 20, "cuda": 100}
#: Modules that oneDNN computes in its own layout: blocks of channels that fill a vector register.
BLOCKED = (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.ReLU)


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return a bᵀ of matrices [m, k] and [n, k].

    On a processor PyTorch takes its float32 products from MKL, which uses half of an AMD
    processor's vector width, and its convolutions from oneDNN, which uses all of it: where PyTorch
    has oneDNN's product, which is not a public function, it is taken.
    """
    if a.device.type == "cpu" and a.dtype == torch.float32 and _ONEDNN is not None:
        result: Tensor = _ONEDNN(a, b, None, "none", [], "")
        return result
    return a @ b.T


def _onednn() -> Callable[..., Tensor] | None:
    """Return oneDNN's product where this PyTorch has it and it works, else None."""
    try:
        function: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise
        function(torch.ones(1, 1), torch.ones(1, 1), None, "none", [], "")
    except (AttributeError, RuntimeError, TypeError):
        return None
    return function


_ONEDNN = _onednn()


class StackedLinear(torch.autograd.Function):
    """y_r = W_r x_r + b_r for all replicas r, with gradients in the layout of the weights.

    Shapes: weight [replicas, out, in], bias [replicas, out], input [replicas, in, N], or [N, in]
    where all replicas share it; output [replicas, out, N]. PyTorch's own batched product would
    write the gradient of the weights transposed, and a shared input once per replica.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return the outputs."""
        ctx.save_for_backward(inputs, weight)
        if inputs.dim() == 2:
            return product(weight.flatten(0, 1), inputs).view(*bias.shape, -1).add_(bias[..., None])
        return torch.baddbmm(bias.unsqueeze(2), weight, inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        """Return the gradients of inputs, weight and bias."""
        inputs, weight = ctx.saved_tensors
        bias = gradient.sum(2)
        if inputs.dim() == 2:
            flat = gradient.flatten(0, 1)
            shared = product(flat.T, weight.flatten(0, 1).T) if ctx.needs_input_grad[0] else None
            return shared, product(flat, inputs.T).view_as(weight), bias
        return torch.bmm(weight.mT, gradient), torch.bmm(gradient, inputs.mT), bias


class Stack:
    """Replicas of a model: a sequence of linear, convolution, batch norm and other plain modules.

    Parameters
    ----------
    model : torch.nn.Sequential
        What all replicas start as.
    replicas : int
        All of them.
    device : torch.device
    dtype : torch.dtype
        float32, float64, or bfloat16: then products of matrices and convolutions are in bfloat16,
        parameters and everything else in float32.
    seeds : int
        How many batches there are side by side: replicas are numbered seed by seed, and those of
        a seed share its images.

    Attributes
    ----------
    parameters : dict of str to torch.Tensor
        By name, leaves [replicas, …]; those of convolutions lie in memory channels last.
    buffers : dict of str to torch.Tensor
        By name, [replicas, …].
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
        self.replicas, self.seeds = replicas, seeds
        self.products = dtype
        self.dtype = torch.float32 if dtype == torch.bfloat16 else dtype
        self._model = copy.deepcopy(model)
        self._modules = list(self._model.named_children())
        for position, (name, module) in enumerate(self._modules):
            if not _stackable(module, first=position == 0):
                raise TypeError(f"{name} is a {module}, which cannot be stacked")
        convolutional = any(isinstance(module, nn.Conv2d) for _, module in self._modules)
        self.blocked = convolutional and _computes_blocked(device, dtype)
        channels_last = convolutional and not self.blocked
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.parameters = {
            name: self._block(parameter, device).requires_grad_()
            for name, parameter in model.named_parameters()
        }
        self.buffers = {name: self._block(buffer, device) for name, buffer in model.named_buffers()}

    def _block(self, tensor: Tensor, device: torch.device) -> Tensor:
        dtype = self.dtype if tensor.is_floating_point() else tensor.dtype
        tensor = tensor.detach().to(device, dtype)
        if tensor.dim() == 4:  # a kernel: the input's channels last
            tensor = tensor.permute(0, 2, 3, 1)
        block = tensor.expand(self.replicas, *tensor.shape).clone(
            memory_format=torch.contiguous_format
        )
        return block.permute(0, 1, 4, 2, 3) if tensor.dim() == 4 else block

    def __call__(self, images: Tensor, *, training: bool) -> Tensor:
        """Return the logits [replicas, classes, N] of normalized images.

        They are [N, C, H, W], which all replicas see, or with several seeds [seeds, N, C, H, W].
        """
        return self.forward(images, training=training)[0]

    def forward(
        self, images: Tensor, *, training: bool, features: Collection[str] = ()
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the logits, as in a call, and what modules give on the way.

        Parameters
        ----------
        images : torch.Tensor
        training : bool
        features : collection of str
            Names of modules.

        Returns
        -------
        torch.Tensor
        dict of str to torch.Tensor
            By name, [replicas, N, …].
        """
        batches = self.seeds if images.dim() == 5 else 1
        if images.dim() == 5:  # the seeds' channels side by side
            images = images.transpose(0, 1).flatten(1, 2)
        x, shared = images.contiguous(memory_format=self.memory_format), batches
        found: dict[str, Tensor] = {}
        for name, module in self._modules:
            if self.blocked and isinstance(module, nn.Conv2d) and not x.is_mkldnn:
                x = x.to_mkldnn()
            elif x.is_mkldnn and not isinstance(module, BLOCKED):
                x = x.to_dense()
            if isinstance(module, nn.Conv2d):
                x, shared = self._convolution(name, module, x, shared or self.replicas), 0
            elif isinstance(module, nn.BatchNorm2d):
                x = self._batch_norm(name, module, x, training)
            elif isinstance(module, nn.Linear):
                x, shared = self._linear(name, x), 0
            elif isinstance(module, nn.Flatten) and shared == 1:
                x = x.flatten(1)
            elif isinstance(module, nn.Flatten):
                x = x.unflatten(1, (shared or self.replicas, -1)).flatten(2).permute(1, 2, 0)
            else:
                x = module(x)
            if name in features:
                dense = x.to_dense() if x.is_mkldnn else x
                maps = dense.dim() == 4
                found[name] = (
                    dense.unflatten(1, (self.replicas, -1)).transpose(0, 1) if maps else dense.mT
                )
        return x.to(self.dtype), found

    def _convolution(self, name: str, module: nn.Conv2d, x: Tensor, groups: int) -> Tensor:
        bias = self.parameters.get(f"{name}.bias")
        return conv2d(
            x.to(self.products),
            self.parameters[f"{name}.weight"].flatten(0, 1).to(self.products),
            None if bias is None else bias.flatten().to(self.products),
            stride=module.stride,
            padding=module.padding,
            dilation=module.dilation,
            groups=module.groups * groups,
        )

    def _batch_norm(self, name: str, module: nn.BatchNorm2d, x: Tensor, training: bool) -> Tensor:
        if training:
            self.buffers[f"{name}.num_batches_tracked"] += 1
        return batch_norm(
            x,
            self.buffers[f"{name}.running_mean"].view(-1),
            self.buffers[f"{name}.running_var"].view(-1),
            self.parameters[f"{name}.weight"].flatten(),
            self.parameters[f"{name}.bias"].flatten(),
            training,
            module.momentum or 0.0,
            module.eps,
        )

    def _linear(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.parameters[f"{name}.weight"], self.parameters[f"{name}.bias"]
        if self.replicas == 1 and x.dim() == 3:
            x = x[0].T  # shared by all, then
        elif x.dim() == 3 and len(x) < self.replicas:  # one batch a seed
            wide = weight.unflatten(0, (self.seeds, -1)).flatten(1, 2).to(self.products)
            wide = wide @ x.to(self.products)
            return wide.view(*bias.shape, -1) + bias.unsqueeze(2).to(self.products)
        return StackedLinear.apply(*(tensor.to(self.products) for tensor in (x, weight, bias)))

    def views(self, replica: int) -> dict[str, Tensor]:
        """Return one replica's parameters and buffers by name, sharing their memory."""
        blocks = self.parameters | self.buffers
        return {name: block.detach()[replica] for name, block in blocks.items()}

    def module(self, replica: int) -> nn.Module:
        """Return one replica as a model of its own: a copy, as it is now."""
        model = copy.deepcopy(self._model).to(self.dtype)
        model.load_state_dict(self.views(replica))
        return model.to(next(iter(self.parameters.values())).device)

    @torch.no_grad()
    def load(self, replica: int, model: nn.Module) -> None:
        """Take a replica's parameters and buffers from a model."""
        state = model.state_dict()
        for name, view in self.views(replica).items():
            view.copy_(state[name])


def _computes_blocked(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether feature maps stay in oneDNN's layout, from a convolution on.

    Pooling, and convolutions of few channels, take less time there than in PyTorch's layouts.
    PyTorch offers it for float32 alone.
    """
    onednn = torch.backends.mkldnn
    here = bool(onednn.is_available() and onednn.enabled)
    return device.type == "cpu" and dtype == torch.float32 and here


def _stackable(module: nn.Module, first: bool) -> bool:
    """Tell whether a stack does what the module does."""
    if isinstance(module, nn.Linear):
        return module.bias is not None
    if isinstance(module, nn.Conv2d):
        # Groups of an input that the replicas share would mix with the groups of replicas.
        return module.padding_mode == "zeros" and not (first and module.groups > 1)
    if isinstance(module, nn.BatchNorm2d):
        plain = module.affine and module.track_running_stats and module.momentum is not None
        return plain and not first  # its replicas would share an input and not their statistics
    return not any(True for _ in module.parameters())


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
    copied = copy.deepcopy(model).to("meta")
    for module in copied.children():
        module.register_forward_hook(lambda module, given, output: outputs.append(output.numel()))
    with torch.no_grad():
        copied(torch.empty(images, device="meta"))
    entries = sum(parameter.numel() for parameter in model.parameters())
    # Parameters, gradients, two moments, a copy of the parameters and one to compute with; what
    # every layer outputs, and its gradient, or what it outputs in an evaluation.
    maps = max(2 * sum(outputs), sum(outputs) * EVALUATED // images[0])
    return (6 * entries + maps) * max(4, dtype.itemsize)
