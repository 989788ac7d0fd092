"""The methods of the engine in a training loop of one's own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn

from swrlib.methods import SWR, Method, stacked_values
from swrlib.methods.watching import hidden_layers
from swrlib.network.layers import trace, unwrap
from swrlib.population import Members, Population
from swrlib.swr.attachment import find_optimizer
from swrlib.swr.cautions import Cautions
from swrlib.swr.steps import claim, parameters_of


class _One:
    """A population of one: a user's model and optimizer, as methods see them.

    Tensors are views [1, *shape] of the model's own. Frozen parameters are copies, which nobody
    reads again. What is in half precision is a copy in float32, which `acting` fills and reads:
    sums in half precision are coarse, and torch has no decompositions in it.
    """

    runs = 1

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        fresh: Callable[[], nn.Module] | None,
        seed: int,
        **tracing: Any,
    ) -> None:
        self.seeds = (seed,)
        self.model, self.optimizer, self._fresh = unwrap(model), optimizer, fresh
        self.network = trace(model, **tracing)
        self._parameters = list(self.model.parameters())
        self._places = [p.data_ptr() if p.requires_grad else 0 for p in self._parameters]
        blocks = {
            name: _exact(p if p.requires_grad else p.clone()).unsqueeze(0)
            for name, p in self.model.named_parameters()
        }
        first = next(iter(blocks.values()))
        self.device, self.dtype = first.device, first.dtype
        self.stack = SimpleNamespace(parameters=blocks, buffers=dict(self.model.named_buffers()))
        self.updates = SimpleNamespace(moments={})
        self.initial = [block.clone()[None] for block in blocks.values()]
        self._gradients: list[Tensor] = []
        self.learning_rate = torch.zeros((), dtype=torch.float64, device=self.device)

    def __getattr__(self, name: str) -> Any:
        raise ValueError(
            f"the method asks for the {name} of a population, which a loop of one's own does not "
            "have: train it with swrlib.train"
        )

    @property
    def blocks(self) -> list[Any]:
        """What has the gradients, zero where the loss gave none: [1, *shape] each."""
        if not self._gradients:
            for parameter in self._parameters:
                if parameter.grad is None and parameter.requires_grad:
                    parameter.grad = torch.zeros_like(parameter)
            self._gradients = [
                _exact(torch.zeros_like(p) if p.grad is None else p.grad) for p in self._parameters
            ]
        return [SimpleNamespace(grad=gradient.unsqueeze(0)) for gradient in self._gradients]

    @contextlib.contextmanager
    def acting(self) -> Iterator[None]:
        """Let a method act: float32 copies take the model's values first, and give them back."""
        pairs = list(zip(self._parameters, self.stack.parameters.values(), strict=True))
        coarse = [(p, b[0]) for p, b in pairs if p.requires_grad and p.dtype != b.dtype]
        for parameter, block in coarse:
            block.copy_(parameter)
        try:
            yield
            for parameter, block in coarse:
                parameter.copy_(block)
            for parameter, gradient in zip(self._parameters, self._gradients, strict=False):
                if parameter.grad is not None and parameter.grad.dtype != gradient.dtype:
                    parameter.grad.copy_(gradient)
        finally:
            self._gradients = []

    def by_seed(self, tensor: Tensor) -> Tensor:
        """Show a tensor [1, …] as [1, 1, …]."""
        return tensor.unsqueeze(0)

    def keep_features(self, steps: Iterable[str]) -> list[Any]:
        """Keep what the layers that these steps feed are given in training; return the hooks.

        Raises
        ------
        ValueError
            If a step feeds no layer.
        """
        features: dict[str, Tensor] = {}
        self.batch = SimpleNamespace(features=features)
        fed = {step: layer for layer, step in hidden_layers(self.network)}
        hooks = []
        for step in steps:
            if step not in fed:
                raise ValueError(f"the features of {step} feed no layer: train with swrlib.train")

            def keep(module: nn.Module, inputs: tuple[Any, ...], step: str = step) -> None:
                if torch.is_grad_enabled():  # not where a loop only looks at its network
                    features[step] = _exact(inputs[0])[None, None]

            hooks.append(fed[step].module.register_forward_pre_hook(keep))
        return hooks

    def look(self) -> None:
        """Take the learning rate, and refuse a model that was moved.

        Raises
        ------
        ValueError
            If the parameters lie elsewhere, or there are several rates.
        """
        for parameter, place in zip(self._parameters, self._places, strict=True):
            if parameter.requires_grad and parameter.data_ptr() != place:
                raise ValueError(
                    "a parameter lies elsewhere than at the start: move, cast and freeze the model "
                    "first, then construct InLoop"
                )
        rates = {float(group["lr"]) for group in self.optimizer.param_groups}
        if len(rates) > 1:
            raise ValueError(f"InLoop takes one learning rate for all parameters, not {rates}")
        self.learning_rate.fill_(rates.pop())

    def _new(self) -> nn.Module:
        if self._fresh is None:
            raise ValueError(
                "the method draws new weights: give InLoop(…, fresh=) a function that returns a "
                "new model"
            )
        return unwrap(self._fresh())

    def fresh(self, purpose: str) -> list[Tensor]:
        """Return the parameters of a new model, [1, 1, *shape] each."""
        new = self._new().parameters()
        return [p.detach().to(self.device, self.dtype)[None, None] for p in new]

    def reinitialize_(self, runs: slice, purpose: str) -> None:
        """Take parameters and buffers of a new model, and a new optimizer."""
        new = self._new()
        for block, drawn in zip(self.stack.parameters.values(), new.parameters(), strict=True):
            block[0].copy_(drawn)
        for buffer, value in zip(self.model.buffers(), new.buffers(), strict=True):
            buffer.copy_(value)
        self.renew_optimizer_(runs)

    def renew_optimizer_(self, runs: slice) -> None:
        """Let the optimizer forget what it keeps."""
        self.optimizer.state.clear()


def _exact(tensor: Tensor) -> Tensor:
    """Return a tensor's values in float32 at least: in its own memory, where they are so."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))


class InLoop:
    """A method of the book in any training loop: the same class that `swrlib.train` runs.

    For SWR alone take `SoftWeightRescaling`, which does more.

    Parameters
    ----------
    method : Method
        ``L2(lam=…)``, ``L2Init(lam=…)``, ``ShrinkPerturb(lam=…)``, ``HeadReset()``, … Penalties are
        added to the gradients before each step, and not to the loss.
    model : torch.nn.Module
        On its device and in its precision; its parameters now are θ_0. What is in half precision
        is computed in float32 and rounded.
    optimizer : torch.optim.Optimizer
        A wrapped one is looked into.
    fresh : callable, optional
        fresh() → a new model: for methods that draw new weights.
    seed : int
        Of what a method draws itself.
    classifier, layers, example : optional
        As for `SoftWeightRescaling`.

    Raises
    ------
    TypeError, ValueError
        If the optimizer is none; if the model cannot be traced; if the method needs more of a
        population than a loop has; if the same method acts on the same weights already.

    Examples
    --------
    >>> import torch
    >>> from swrlib import L2Init
    >>> model = torch.nn.Linear(2, 3)
    >>> optimizer = torch.optim.Adam(model.parameters())
    >>> method = InLoop(L2Init(lam=1e-2), model, optimizer)
    """

    @torch.no_grad()
    def __init__(
        self,
        method: Method,
        model: nn.Module,
        optimizer: Any,
        *,
        fresh: Callable[[], nn.Module] | None = None,
        seed: int = 0,
        classifier: Any = None,
        layers: Any = None,
        example: Any = None,
    ) -> None:
        if not isinstance(method, Method):
            raise TypeError(f"InLoop takes a method as L2Init(lam=1e-2) makes one, not {method!r}")
        inner = find_optimizer(optimizer)
        tracing = {"classifier": classifier, "layers": layers, "example": example}
        self._one = _One(model, inner, fresh, seed, **tracing)
        ours = {id(p) for p in model.parameters()}
        if ours.isdisjoint(map(id, parameters_of(inner))):
            raise ValueError("the optimizer holds none of the model's weights")
        one = cast(Population, self._one)
        self._members = Members(one, slice(0, 1), stacked_values([method]))
        self._method, self._stage, self._steps = method, 1, 0
        self._hooks: list[Any] = []
        free = [p for p in model.parameters() if p.requires_grad]
        name = getattr(method, "name", type(method).__name__)
        claim(free, self, "" if isinstance(method, SWR) else name)
        if isinstance(method, SWR):
            Cautions().of_half_precision(free)
        with self._one.acting():
            method.start(self._members)
        self._hooks = self._one.keep_features(method.looks_at(self._members))
        self._hooks += [
            inner.register_step_pre_hook(self._before),
            inner.register_step_post_hook(self._after),
        ]

    def owns(self) -> str:
        """Say how to end it; empty where it has ended."""
        return "call remove() of the InLoop that does" if self._hooks else ""

    @torch.no_grad()
    def _before(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if getattr(optimizer, "grad_scale", None) is not None:
            raise ValueError(
                "gradients are scaled within this fused optimizer: call scaler.unscale_(optimizer) "
                "before the step"
            )
        self._one.look()
        with self._one.acting():
            self._method.gradients_(self._members)
            self._method.before_step_(self._members)

    @torch.no_grad()
    def _after(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self._steps += 1
        every = self._method.acts_every()
        with self._one.acting():
            self._method.after_step_(self._members)
            if every and self._steps % every == 0:
                self._method.regularly_(self._members)

    @torch.no_grad()
    def change(self) -> None:
        """Say that the data change: resets, shrinking and perturbing act now."""
        self._stage += 1
        with self._one.acting():
            self._method.change_(self._members, self._stage)

    @torch.no_grad()
    def decay(self) -> None:
        """Say that the learning rate has fallen (for SWR + re-init)."""
        with self._one.acting():
            self._method.decay_(self._members)

    def remove(self) -> None:
        """End it."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
