"""The Hessian over the parameters of the last two linear layers, exactly and in closed form."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from swrlib.theory.copies import copied, run
from swrlib.theory.curvature import (
    NOT_TWICE,
    check_finite,
    check_labels,
    check_outputs,
    check_twice,
    differentiated,
)

#: Up to how many parameters a Hessian is written down: 200 MB, seconds for its eigenvalues.
LARGEST = 5000
#: How many entries an intermediate result may have.
_ENTRIES = 2**23


def last_layers_hessian(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the exact Hessian over the parameters of the last two linear layers.

    The mean cross-entropy's, in closed form: sums of Kronecker products over images, whatever
    stands between the two layers. A single layer's block would not see the labels in piecewise
    linear networks (curvature paper, Section 4).

    Parameters
    ----------
    model : torch.nn.Module
        Its outputs are those of its last linear layer, [N, classes].
    images : torch.Tensor
        [N, …].
    labels : torch.Tensor
        int64 [N].

    Returns
    -------
    torch.Tensor
        float64 [P, P]; the order is weight and bias of the second-last layer, then of the last.

    Raises
    ------
    ValueError
        If there are more than `LARGEST` parameters, what stands between the layers cannot be
        differentiated twice, a number is not finite, or the model or the labels are of another
        form.
    """
    network = copied(model).eval().requires_grad_(False).double()
    images = images.double()
    check_labels(images, labels)
    check_finite(network, images)
    first, last = _last_two(network, images[:1])
    probe = _between(network, first, last, images[:1])
    check_labels(images, labels, classes=probe.outputs.shape[1])
    check_twice(network, images, labels, _own(first, last))
    _check_apart(network, images)
    (units, inputs), (classes, features) = first.weight.shape, last.weight.shape
    into, out_of = inputs + 1, features + 1  # with the 1 of a bias
    widest = max(into * max(into, out_of, classes), out_of * max(units, out_of), units**2)
    size = max(1, _ENTRIES // widest)
    sums: list[Tensor] = []
    for part, answers in zip(images.split(size), labels.split(size), strict=True):
        own = _sums(_between(network, first, last, part), answers, first, last)
        sums = [one + more for one, more in zip(sums, own, strict=True)] if sums else own
    upper, lower, by_outputs, by_errors = sums
    (u, a), (c, f) = _places(first), _places(last)
    of = a.unsqueeze(1), u.unsqueeze(1)
    mixed = by_outputs[of[0], f, c, of[1]] + by_errors[of[0], c, f, of[1]]
    blocks = (_block(upper, u, a), mixed), (mixed.T, _block(lower, c, f))
    hessian = torch.cat([torch.cat(line, 1) for line in blocks])
    return hessian.div_(len(images))


def last_parameters(model: nn.Module, images: Tensor) -> list[str]:
    """Return the names of the parameters that `last_layers_hessian` is over, in its order.

    Raises
    ------
    ValueError
        As `last_layers_hessian`, if there are no such layers, or too large ones.
    """
    network = copied(model).eval().requires_grad_(False)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return [names[id(parameter)] for parameter in _own(*_last_two(network, images[:1]))]


@dataclass(frozen=True)
class _Between:
    """What happens to images around the last two layers; u units between, f features, c classes.

    ``inputs`` [N, …] of the first layer, ``units`` [N, u] that it gives, ``features`` [N, f] that
    the last one takes, ``outputs`` [N, c]. ``features`` are a function of ``units``.
    """

    inputs: Tensor
    units: Tensor
    features: Tensor
    outputs: Tensor

    def jacobian(self) -> Tensor:
        """Return ∂features/∂units, [N, f, u]."""
        return self._rows(self.features, 1)

    def second(self, coefficients: Tensor) -> Tensor:
        """Return the Hessian of Σ_f coefficients·features over the units, [N, u, u]."""
        gradient = self._gradient(self.features, coefficients, create_graph=True)
        if not gradient.requires_grad:  # linear
            return gradient.new_zeros(*gradient.shape, gradient.shape[1])
        return self._rows(gradient, 2)

    def _rows(self, values: Tensor, axis: int) -> Tensor:
        """Return the gradients of every column of values [N, k], stacked along an axis."""
        one = torch.eye(values.shape[1], dtype=values.dtype, device=values.device)
        return torch.stack([self._gradient(values, row.expand_as(values)) for row in one], axis)

    def _gradient(self, values: Tensor, along: Tensor, *, create_graph: bool = False) -> Tensor:
        options = {"retain_graph": True, "create_graph": create_graph}
        return differentiated(values, [self.units], along, **options).view_as(self.units)


def _last_two(network: nn.Module, image: Tensor) -> tuple[nn.Linear, nn.Linear]:
    """Return the last two linear layers; refuse them where they are too large, or shared."""
    called: list[nn.Linear] = []
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    with ExitStack() as hooks, torch.no_grad():
        for module in linear:
            hook = module.register_forward_pre_hook(lambda layer, inputs: called.append(layer))
            hooks.callback(hook.remove)
        run(network, image)
    if len(called) < 2:
        raise ValueError(
            f"{type(network).__name__} has no two linear layers: take the whole network's spectrum"
        )
    first, last = called[-2:]
    if called.count(first) > 1 or called.count(last) > 1 or first.weight is last.weight:
        raise ValueError(
            "one of the last two linear layers is used twice: it has no block of its own"
        )
    entries = sum(parameter.numel() for parameter in _own(first, last))
    if entries > LARGEST:
        raise ValueError(
            f"the last two layers have {entries} parameters, and their Hessian "
            f"{8 * entries**2:.2g} bytes: up to {LARGEST} are taken; make them narrower, or take "
            "the whole network's spectrum, which needs no matrix"
        )
    return first, last


def _own(*layers: nn.Module) -> list[nn.Parameter]:
    return [parameter for layer in layers for parameter in layer.parameters(recurse=False)]


@torch.enable_grad()
def _between(network: nn.Module, first: nn.Linear, last: nn.Linear, images: Tensor) -> _Between:
    """Run a network, and let it be differentiated between its last two layers."""
    seen: dict[str, Tensor] = {}

    def enter(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        seen["inputs"], seen["units"] = inputs[0].detach(), output.detach().requires_grad_()
        return seen["units"].clone()  # an activation may work in place

    def leave(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        seen["features"], seen["outputs"] = inputs[0], output

    with ExitStack() as hooks:
        hooks.callback(first.register_forward_hook(enter).remove)
        hooks.callback(last.register_forward_hook(leave).remove)
        outputs = run(network, images)
    if isinstance(outputs, Tensor):
        check_outputs(outputs)
    if not isinstance(outputs, Tensor) or not torch.equal(outputs, seen["outputs"]):
        raise ValueError("the model's outputs are not those of its last linear layer: return them")
    between = _Between(**seen)
    if between.units.dim() != 2 or between.outputs.dim() != 2:
        raise ValueError("the last two linear layers do not work on rows [N, units]")
    if not between.features.requires_grad:
        raise ValueError(f"{NOT_TWICE}: the last layer is cut off from the one before it")
    return between


def _sums(between: _Between, labels: Tensor, first: nn.Linear, last: nn.Linear) -> list[Tensor]:
    """Return sums over images, of products with as few entries an image as may be.

    Both layers' own blocks as `_pairs` gives them; and of the block between them the part by the
    outputs' curvature [inputs, features, c, u] and that by their errors [inputs, c, features, u].
    Inputs and features are followed by a 1 where there is a bias.
    """
    jacobian = between.jacobian()
    features, outputs = between.features.detach(), between.outputs.detach()
    shares = outputs.softmax(1)
    error = shares.clone()
    error[torch.arange(len(labels)), labels] -= 1
    curved = torch.diag_embed(shares) - shares.unsqueeze(2) * shares.unsqueeze(1)  # [N, c, c]
    through = last.weight @ jacobian  # [N, c, u]: how the outputs move with the units
    back = curved @ through
    second = between.second(error @ last.weight).detach()
    inputs, last_inputs = _with_one(between.inputs, first), _with_one(features, last)
    if last.bias is not None:  # the 1 moves with no unit
        jacobian = nn.functional.pad(jacobian, (0, 0, 0, 1))
    return [
        _pairs(through.mT @ back + second, inputs),
        _pairs(curved, last_inputs),
        _products(inputs, last_inputs, back),
        _products(inputs, error, jacobian),
    ]


def _with_one(rows: Tensor, layer: nn.Linear) -> Tensor:
    return torch.cat([rows, rows.new_ones(len(rows), 1)], 1) if layer.bias is not None else rows


def _products(rows: Tensor, columns: Tensor, matrices: Tensor) -> Tensor:
    """Return Σ_n rows_n[a]·columns_n[b]·matrices_n[i, j], [a, b, i, j]."""
    outer = (rows.unsqueeze(2) * columns.unsqueeze(1)).flatten(1)
    shape = rows.shape[1], columns.shape[1], *matrices.shape[1:]
    return (outer.T @ matrices.flatten(1)).view(shape)


def _pairs(outer: Tensor, rows: Tensor) -> Tensor:
    """Return Σ_n outer_n[i, j]·rows_n[a]·rows_n[b] for i ≤ j and a ≤ b; outer is symmetric."""
    (i, j), (a, b) = (torch.triu_indices(size, size) for size in (outer.shape[1], rows.shape[1]))
    return outer[:, i, j].T @ (rows[:, a] * rows[:, b])


def _block(sums: Tensor, units: Tensor, columns: Tensor) -> Tensor:
    """Return what `_pairs` gives as a matrix over parameters, each of a unit and a column."""
    places = []
    for of in (units, columns):
        size = int(of.max()) + 1
        i, j = torch.triu_indices(size, size)
        place = torch.empty(size, size, dtype=torch.long)
        place[i, j] = place[j, i] = torch.arange(len(i))
        places.append(place[of.unsqueeze(1), of])
    return sums[places[0], places[1]]


def _places(layer: nn.Linear) -> tuple[Tensor, Tensor]:
    """Return of which unit and which column every parameter is: a weight's input, a bias's 1."""
    units, inputs = layer.weight.shape
    unit, column = torch.arange(units), torch.arange(inputs)
    places = unit.repeat_interleave(inputs), column.repeat(units)
    if layer.bias is None:
        return places
    return torch.cat([places[0], unit]), torch.cat([places[1], torch.full((units,), inputs)])


@torch.no_grad()
def _check_apart(network: nn.Module, images: Tensor) -> None:
    """Refuse a network that answers one image in the light of others."""
    pair = images[:2]
    together = run(network, pair)
    alone = torch.cat([run(network, image) for image in pair.split(1)])
    if not torch.allclose(together, alone, rtol=1e-8, atol=1e-10):
        raise ValueError(
            f"the outputs of {type(network).__name__} for an image depend on the others of its "
            "batch: the Hessian is no sum over images"
        )
