"""Optimizers: one small class each, with its fused implementation and its moments in the open."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from swrlib.checks import check_name, make_numbers


@dataclass(frozen=True)
class Part:
    """Members whose steps are counted together.

    Attributes
    ----------
    members : slice
    parameters : list of torch.Tensor
    moments : list of lists of torch.Tensor
        Like ``parameters`` each, in the order of `Optimizer.moments`.
    step : torch.Tensor
        How many steps they have taken; no dimensions.
    """

    members: slice
    parameters: list[Tensor]
    moments: list[list[Tensor]]
    step: Tensor


@dataclass(frozen=True)
class Optimizer:
    """An optimizer with its hyperparameters; part of a run's hash. The rate is the stream's."""

    name: ClassVar[str]

    def configuration(self) -> dict[str, Any]:
        """Return what is hashed: the name and every option, as plain values."""
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return {"name": self.name} | values

    @classmethod
    def read(cls, text: str) -> Optimizer:
        """Make one from what stands behind the name."""
        raise ValueError(f"{cls.name} takes nothing behind its name")

    @property
    def moments(self) -> tuple[str, ...]:
        """The names that torch gives to what it keeps of each parameter, beside a step count."""
        raise NotImplementedError

    def update_(self, part: Part, gradients: list[Tensor], learning_rate: Tensor) -> None:
        """Update parameters and moments in place by torch's fused implementation.

        It is called without `torch.optim`, whose bookkeeping takes a small network as long as the
        arithmetic. The step is counted already.
        """
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

    def update_(self, part: Part, gradients: list[Tensor], learning_rate: Tensor) -> None:
        """Take a step of Adam."""
        beta1, beta2 = self.betas
        means, squares = part.moments
        torch._fused_adam_(
            part.parameters,
            gradients,
            means,
            squares,
            [],
            [part.step] * len(gradients),
            lr=learning_rate,
            beta1=beta1,
            beta2=beta2,
            weight_decay=0.0,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
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
        make_numbers(self, "momentum", below=1.0)
        make_numbers(self, "weight_decay")

    @classmethod
    def read(cls, text: str) -> Optimizer:
        """Make one from momentum and weight decay."""
        return cls(*(float(value) for value in text.split(",")))

    @property
    def moments(self) -> tuple[str, ...]:
        """The running sum of gradients, where there is momentum."""
        return ("momentum_buffer",) if self.momentum else ()

    def update_(self, part: Part, gradients: list[Tensor], learning_rate: Tensor) -> None:
        """Take a step of gradient descent, from running sums that begin with zero."""
        torch._fused_sgd_(
            part.parameters,
            gradients,
            part.moments[0] if part.moments else [],
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            lr=learning_rate,
            dampening=0.0,
            nesterov=False,
            maximize=False,
            is_first_step=False,
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
    check_name("optimizer", name, OPTIMIZERS)
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
        self.optimizer, self.blocks = optimizer, blocks
        self.learning_rate = learning_rate
        self.moments = {name: [torch.zeros_like(b) for b in blocks] for name in optimizer.moments}
        self._steps = torch.zeros(len(parts), device=learning_rate.device)
        tensors = [[block.detach() for block in blocks], *self.moments.values()]
        self._parts = []
        for members, step in zip(parts, self._steps, strict=True):
            parameters, *moments = [[tensor[members] for tensor in alike] for alike in tensors]
            self._parts.append(Part(members, parameters, moments, step))

    def forget_gradients(self) -> None:
        """Let the gradients go, so that backward finds their memory free and in the cache."""
        for block in self.blocks:
            block.grad = None

    def step_(self) -> None:
        """Take a step with the gradients of the blocks."""
        self._steps.add_(1)
        gradients: list[Any] = [block.grad for block in self.blocks]
        for part in self._parts:
            own = gradients if len(self._parts) == 1 else [g[part.members] for g in gradients]
            self.optimizer.update_(part, own, self.learning_rate)

    def renew_(self, members: slice) -> None:
        """Begin anew for members whose steps are counted apart from those of others."""
        for part in self._parts:
            if members.start <= part.members.start and part.members.stop <= members.stop:
                for tensor in itertools.chain([part.step], *part.moments):
                    tensor.zero_()

    @property
    def steps(self) -> Tensor:
        """How many steps each member has taken with this state: [members]."""
        lengths = [part.members.stop - part.members.start for part in self._parts]
        return self._steps.repeat_interleave(torch.tensor(lengths, device=self._steps.device))

    @steps.setter
    def steps(self, counts: Tensor) -> None:
        self._steps.copy_(counts[[part.members.start for part in self._parts]])
