"""Optimizers: one small class each, with its fused implementation and its moments in the open."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from swrlib.checks import nearest


@dataclass(frozen=True)
class Optimizer:
    """An optimizer with its hyperparameters; part of a run's hash. The rate is the stream's."""

    name: ClassVar[str]

    def configuration(self) -> dict[str, Any]:
        """Return what is hashed: the name and every option, as plain values."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {"name": self.name} | {
            key: list(value) if isinstance(value, tuple) else value for key, value in values.items()
        }

    @classmethod
    def read(cls, text: str) -> Optimizer:
        """Make one from what stands behind the name."""
        raise ValueError(f"{cls.name} takes nothing behind its name")

    @property
    def moments(self) -> tuple[str, ...]:
        """The names that torch gives to what it keeps of each parameter, beside a step count."""
        raise NotImplementedError

    def make(self, parameters: Iterable[Tensor], learning_rate: Tensor) -> torch.optim.Optimizer:
        """Make torch's optimizer, which reads the rate at every step."""
        raise NotImplementedError


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam; decoupled decay is the method `adamw`."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    name: ClassVar[str] = "adam"

    def __post_init__(self) -> None:
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas of adam are two numbers from 0 to below 1, not {self.betas}")
        if not self.eps > 0:
            raise ValueError(f"eps of adam is {self.eps}: it must be more than 0")

    @property
    def moments(self) -> tuple[str, ...]:
        """Mean and mean square of the gradients."""
        return ("exp_avg", "exp_avg_sq")

    def make(self, parameters: Iterable[Tensor], learning_rate: Tensor) -> torch.optim.Optimizer:
        """Make the fused one."""
        return torch.optim.Adam(
            parameters,
            learning_rate,
            betas=self.betas,
            eps=self.eps,
            fused=True,
            capturable=learning_rate.is_cuda,
        )


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent.

    Parameters
    ----------
    momentum : float
    weight_decay : float
        λ of λ/2‖θ‖² in the loss, over all parameters.
    """

    momentum: float = 0.0
    weight_decay: float = 0.0
    name: ClassVar[str] = "sgd"

    def __post_init__(self) -> None:
        for option, top in (("momentum", 1.0), ("weight_decay", float("inf"))):
            value = getattr(self, option)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 <= value < top:
                raise ValueError(f"{option} of sgd is {value!r}: it must be a number from 0 on")
            object.__setattr__(self, option, float(value))

    @classmethod
    def read(cls, text: str) -> Optimizer:
        """Make one from momentum and weight decay."""
        return cls(*(float(value) for value in text.split(",")))

    @property
    def moments(self) -> tuple[str, ...]:
        """The running sum of gradients, where there is momentum."""
        return ("momentum_buffer",) if self.momentum else ()

    def make(self, parameters: Iterable[Tensor], learning_rate: Tensor) -> torch.optim.Optimizer:
        """Make the fused one."""
        return torch.optim.SGD(
            parameters,
            learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            fused=True,
        )


OPTIMIZERS: dict[str, type[Optimizer]] = {kind.name: kind for kind in (Adam, SGD)}


def make_optimizer(optimizer: str | Optimizer) -> Optimizer:
    """Make an optimizer by name: "adam", "sgd", "sgd:0.9" or "sgd:0.9,1e-4".

    Behind sgd stand its momentum and its weight decay.

    Raises
    ------
    ValueError
        If the name is unknown or a value senseless.
    """
    if isinstance(optimizer, Optimizer):
        return optimizer
    name, _, text = str(optimizer).partition(":")
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}: {nearest(name, OPTIMIZERS)}")
    if not text:
        return OPTIMIZERS[name]()
    try:
        return OPTIMIZERS[name].read(text)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"cannot read {optimizer!r} ({error}): write an optimizer as sgd:0.9,1e-4"
        ) from error


class Updates:
    """An optimizer at work on blocks of parameters, one tensor for all members each.

    Parameters
    ----------
    optimizer : Optimizer
    blocks : sequence of torch.Tensor
        Leaves [members, …].
    parts : sequence of slice
        Members whose steps are counted together; side by side they are all members.
    learning_rate : torch.Tensor

    Attributes
    ----------
    moments : dict of str to list of torch.Tensor
        By torch's names, like ``blocks``.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        blocks: Sequence[Tensor],
        parts: Sequence[slice],
        learning_rate: Tensor,
    ) -> None:
        self.blocks, self.parts = blocks, parts
        self.moments = {name: [torch.zeros_like(b) for b in blocks] for name in optimizer.moments}
        self._steps = torch.zeros(len(parts), len(blocks), device=learning_rate.device)
        self._parameters = [list(blocks)]
        if len(parts) > 1:
            self._parameters = [[nn.Parameter(b.detach()[p]) for b in blocks] for p in parts]
        flat = list(itertools.chain.from_iterable(self._parameters))
        self._optimizer = optimizer.make(flat, learning_rate)
        for part, parameters, steps in zip(parts, self._parameters, self._steps, strict=True):
            for i, (parameter, step) in enumerate(zip(parameters, steps, strict=True)):
                kept = {name: blocks[i][part] for name, blocks in self.moments.items()}
                self._optimizer.state[parameter] = {"step": step} | kept

    def forget_gradients(self) -> None:
        """Let the gradients go, so that backward finds their memory free and in the cache."""
        for tensor in itertools.chain(self.blocks, *self._parameters):
            tensor.grad = None

    def step_(self) -> None:
        """Take a step with the gradients of the blocks."""
        if len(self.parts) > 1:
            for part, parameters in zip(self.parts, self._parameters, strict=True):
                for parameter, block in zip(parameters, self.blocks, strict=True):
                    parameter.grad = block.grad[part]  # type: ignore[index]
        self._optimizer.step()

    def renew_(self, members: slice) -> None:
        """Begin anew for members whose steps are counted apart from those of others."""
        for part, steps in zip(self.parts, self._steps, strict=True):
            if members.start <= part.start and part.stop <= members.stop:
                steps.zero_()
                for moment in itertools.chain.from_iterable(self.moments.values()):
                    moment[part].zero_()

    @property
    def steps(self) -> Tensor:
        """How many steps each member has taken with this state: [members]."""
        lengths = [part.stop - part.start for part in self.parts]
        return torch.cat([s[:1].expand(n) for s, n in zip(self._steps, lengths, strict=True)])

    @steps.setter
    def steps(self, counts: Tensor) -> None:
        for steps, part in zip(self._steps, self.parts, strict=True):
            steps.fill_(counts[part.start])
