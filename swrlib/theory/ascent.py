"""Corollary 2.1: how much a network stretches a change of its input at least, by ascent."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from swrlib.checks import first_line
from swrlib.theory.copies import evaluated, refuse_inputs, refuse_mixing, run

#: Of a move, over the input's own norm.
_LENGTH = 0.05


@torch.inference_mode(False)
def lipschitz_lower_bound(
    model: nn.Module, inputs: Tensor, *, steps: int = 20, iterations: int = 10
) -> float:
    """Find how much a network stretches a change of its input at least, by ascent from real inputs.

    At each input the greatest singular value of the Jacobian is found by power iteration; then the
    input moves along its direction, to the side on which the output changes more.

    Parameters
    ----------
    model : torch.nn.Module
        Evaluated in evaluation mode, each input by itself; left as it is.
    inputs : torch.Tensor
        [batch, …].
    steps, iterations : int
        Moves of each input, and rounds of the power iteration at each place.

    Returns
    -------
    float
        The greatest value that was met, in float64 if the model runs in it. The Lipschitz constant
        is no smaller, where the network is differentiable at the inputs it met, as a network with
        ReLU is nearly everywhere. Not finite where the network is not.

    Raises
    ------
    ValueError
        If inputs or weights are not real, the output is not one tensor that follows the input
        smoothly, or the network is random or mixes the inputs of a batch.
    """
    refuse_inputs(inputs)
    # In less than float64 a difference of outputs may be rounding alone.
    try:
        network, x = evaluated(model).double(), inputs.detach().double()
        run(network, x)
    except (TypeError, ValueError):  # it insists on a type of its own, or its device does
        network, x = evaluated(model), inputs.detach()
    try:
        return _ascend(network, x, steps, iterations)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ValueError(
            f"{type(model).__name__} cannot be differentiated twice: {first_line(error)}"
        ) from error


def _ascend(network: nn.Module, x: Tensor, steps: int, iterations: int) -> float:
    name = type(network).__name__
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)

    def lengths(t: Tensor) -> Tensor:
        return t.reshape(len(t), -1).norm(dim=1)

    def per_input(values: Tensor) -> Tensor:
        return values.view(-1, *(1,) * (x.dim() - 1))

    greatest = 0.0
    for step in range(steps + 1):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            here = run(network, x)
            rows = here.shape[:1] if isinstance(here, Tensor) and here.requires_grad else ()
            if rows != x.shape[:1]:
                raise ValueError(
                    f"{name} does not return one tensor that follows its input smoothly, a row for "
                    "each input"
                )
            if step == 0 and not torch.allclose(here, run(network, x), equal_nan=True):
                raise ValueError(f"{name} is random in evaluation mode, too")
            if step == 0:
                with torch.no_grad():
                    refuse_mixing(network, x[:1], run(network, x[:1]))
            # J·v as the derivative of u ↦ Jᵀ·u, which is linear (the sum's 0 keeps a Jacobian of
            # zeros in it).
            row = torch.zeros_like(here, requires_grad=True)
            options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
            (pulled,) = torch.autograd.grad(here, x, row, create_graph=True, **options)
            pulled = pulled + 0 * row.sum()
            for _ in range(iterations):
                direction = direction / per_input(lengths(direction).clamp_min(1e-30))
                (change,) = torch.autograd.grad(pulled, row, direction, **options)
                (following,) = torch.autograd.grad(here, x, change, **options)
                largest = float(lengths(change).max())
                if not math.isfinite(largest):
                    return largest
                greatest = max(greatest, largest)
                direction = torch.where(per_input(lengths(following) == 0), direction, following)
        with torch.no_grad():
            direction = direction / per_input(lengths(direction).clamp_min(1e-30))
            size = lengths(x)
            move = per_input(_LENGTH * torch.where(size > 0, size, 1)) * direction
            changes = [lengths(run(network, x + sign * move) - here) for sign in (1, -1)]
            for change in changes:
                # Less than this may be rounding.
                clear = change > torch.finfo(x.dtype).eps ** 0.5 * lengths(here)
                if clear.any():
                    greatest = max(greatest, float((change / lengths(move))[clear].max()))
            side = torch.where(changes[0] >= changes[1], 1.0, -1.0).to(x)
            x = x + per_input(side) * move
    return greatest
