"""The Hessian of a network's training loss, by products with vectors, and what is read off it.

Lewandowski et al., *Curvature Explains Loss of Plasticity* (2023), measure the Hessian over the
parameters of the last two layers (`swrlib.theory.last_layers`); Prakash, He, Guo et al., *Spectral
Collapse Drives Loss of Plasticity* (2026), that of the whole network (`swrlib.theory.spectrum`).
The loss is the mean cross-entropy; networks are looked at in evaluation mode.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from swrlib.checks import check_name, first_line, listed
from swrlib.theory.copies import copied, run
from swrlib.theory.ranks import effective_rank, srank


def spectrum_summary(eigenvalues: Tensor) -> dict[str, float]:
    """Return what is said of a symmetric matrix by its eigenvalues [k].

    Returns
    -------
    dict of str to float
        "srank" and "effective-rank" as in `swrlib.theory.ranks`; "largest" and "smallest"
        eigenvalue; "sharpness", the largest absolute value; "negative", how many are below zero by
        more than rounding.
    """
    sharpness = float(eigenvalues.abs().max())
    rounding = len(eigenvalues) * torch.finfo(eigenvalues.dtype).eps * sharpness
    return {
        "srank": float(srank(eigenvalues)),
        "effective-rank": float(effective_rank(eigenvalues)),
        "largest": float(eigenvalues.max()),
        "smallest": float(eigenvalues.min()),
        "sharpness": sharpness,
        "negative": float((eigenvalues < -rounding).sum()),
    }


def symmetric_eigenvalues(matrix: Tensor) -> Tensor:
    """Return the eigenvalues [k] of a symmetric matrix [k, k], ascending.

    Zero rows, as dead units leave in a Hessian, have the eigenvalue 0 and cost nothing.
    """
    kept = (matrix != 0).any(0)
    eigenvalues = matrix.new_zeros(len(matrix))
    eigenvalues[: int(kept.sum())] = torch.linalg.eigvalsh(matrix[kept][:, kept])
    return eigenvalues.sort().values


class LossHessian:
    """The Hessian of the mean cross-entropy, as products v ↦ Hv: no matrix is written down.

    A product is a second backward pass through the gradient's graph, which is kept.

    Parameters
    ----------
    model : torch.nn.Module
    images : torch.Tensor
        [N, …].
    labels : torch.Tensor
        int64 [N].
    parameters : sequence of str, optional
        The names of those that count, in this order; default: all. Those that are frozen count,
        too; where the graph is cut off from them their rows are zero.

    Raises
    ------
    ValueError
        If the model cannot be differentiated twice, or a number is not finite, or a name unknown;
        if parameters that require gradients act on the outputs and get none, as where something
        after them is detached.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        parameters: Sequence[str] | None = None,
    ) -> None:
        network = copied(model).eval()
        frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
        known = dict(network.requires_grad_(False).named_parameters())
        for name in parameters or ():
            check_name("parameter", name, known, "there is no")
        check_labels(images, labels)
        check_finite(network, images)
        own = {name: known[name] for name in parameters or known}
        self._own = list(own.values())
        check_twice(network, images, labels, self._own)
        _check_reached(network, images[:1], own, frozen)
        self._gradient = _gradient(network, images, labels, self._own)

    @property
    def gradient(self) -> Tensor:
        """The loss's gradient, [P]."""
        return self._gradient.detach()

    def __len__(self) -> int:
        return self._gradient.numel()

    def __matmul__(self, vector: Tensor) -> Tensor:
        """Return Hv, [P]."""
        return differentiated(self._gradient, self._own, vector, retain_graph=True)


def overlap(gradient: Tensor, product: Tensor) -> float:
    """Return gᵀHg/(‖g‖‖Hg‖) of a gradient g and the product Hg, [P] each.

    1 where the gradient lies in an eigenspace of a positive eigenvalue. 0, by definition, where g
    or Hg vanishes.
    """
    sizes = float(gradient.double().norm() * product.double().norm())
    return float(gradient.double() @ product.double()) / sizes if sizes else 0.0


def gradient_hessian_overlap(
    model: nn.Module, images: Tensor, labels: Tensor, parameters: Sequence[str] | None = None
) -> float:
    """Return the overlap of the loss's gradient with its Hessian (curvature paper, Section 6.2).

    The paper does not say over which parameters: all by default, or those of the last two layers
    (`swrlib.theory.last_layers.last_parameters`). Parameters and errors are those of `LossHessian`.
    """
    hessian = LossHessian(model, images, labels, parameters)
    return overlap(hessian.gradient, hessian @ hessian.gradient)


#: Up to which share of their size products that should be symmetric may differ.
_ROUNDING = 1e-6
#: How a refusal begins.
NOT_TWICE = (
    "the network cannot be differentiated twice, so that it has no Hessian here (replace that "
    "operation by one that can, or measure the features' ranks)"
)


@torch.enable_grad()
def _gradient(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    own: Sequence[nn.Parameter],
    scaled: bool = False,
) -> Tensor:
    """Return the loss's gradient over these parameters, [P], which can be differentiated.

    Where it is ``scaled``, logits are at most 1.
    """
    for parameter in own:
        parameter.requires_grad_()
    outputs = run(network, images)
    if not isinstance(outputs, Tensor) or outputs.dim() != 2:
        raise ValueError("the model must give logits [N, classes], and nothing else")
    check_labels(images, labels, classes=outputs.shape[1])
    check_outputs(outputs)
    if not outputs.requires_grad:
        raise ValueError(f"{NOT_TWICE}: its outputs are cut off from its parameters")
    if scaled:
        outputs = outputs / outputs.detach().abs().max().clamp(min=1)
    gradient = differentiated(cross_entropy(outputs, labels), own, None, create_graph=True)
    if not gradient.requires_grad:
        raise ValueError(f"{NOT_TWICE}: its gradient is cut off from its parameters")
    return gradient


def differentiated(
    value: Tensor, own: Sequence[Tensor], along: Tensor | None, **options: bool
) -> Tensor:
    """Return the derivative of a value by tensors, all entries in a row; refuse what has none.

    Also one that is not finite.
    """
    try:
        parts = torch.autograd.grad(
            value, own, along, allow_unused=True, materialize_grads=True, **options
        )
    except RuntimeError as error:
        raise ValueError(f"{NOT_TWICE}: {first_line(error)}") from error
    derivative = torch.cat([part.reshape(-1) for part in parts])
    if not bool(derivative.isfinite().all()):
        raise ValueError(
            "a derivative of the loss is not finite: the network has no Hessian here (where it is "
            "only too large, float64 helps)"
        )
    return derivative


def check_twice(
    network: nn.Module, images: Tensor, labels: Tensor, own: Sequence[nn.Parameter]
) -> None:
    """Refuse, on one image, what has no second derivatives.

    A function of one's own with a single derivative is not noticed by autograd, which cuts the
    gradient off there in silence; but then products are no longer symmetric. Logits of a sure
    answer are scaled down, since its second derivatives are all rounding.
    """
    twins: dict[int, Any] = {}
    twin = copy.deepcopy(network, twins).double()
    chosen = [twins[id(parameter)] for parameter in own]
    gradient = _gradient(twin, images[:1].double(), labels[:1], chosen, scaled=True)
    draws = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, len(gradient), generator=draws, dtype=torch.float64).to(gradient)
    products = [
        differentiated(gradient, chosen, vector, retain_graph=True) for vector in (first, second)
    ]
    size = float(products[0].norm() * second.norm() + products[1].norm() * first.norm())
    difference = abs(float(products[0] @ second - products[1] @ first))
    if difference > _ROUNDING * size:
        raise ValueError(
            f"{NOT_TWICE}: its second derivatives are not symmetric, by {difference / size:.1g} of "
            f"their size, of which {_ROUNDING:g} may be rounding, as where a backward pass written "
            "by hand is not its function's derivative"
        )


@torch.enable_grad()
def _check_reached(
    network: nn.Module, image: Tensor, own: Mapping[str, nn.Parameter], frozen: Collection[str]
) -> None:
    """Refuse a network that is cut in the middle: parameters act on the outputs without a gradient.

    Autograd takes them for constants, so that their rows of the Hessian would be zero.
    """
    for parameter in own.values():
        parameter.requires_grad_()
    outputs = run(network, image)
    found = torch.autograd.grad(outputs.sum(), [*own.values()], allow_unused=True)
    cut = [
        name
        for (name, parameter), gradient in zip(own.items(), found, strict=True)
        if gradient is None and name not in frozen and _acts(network, image, parameter)
    ]
    if cut:
        raise ValueError(
            f"{NOT_TWICE}: {listed(cut)} act on its outputs and get no gradient, since something "
            "after them cuts the graph (detach, no_grad, numpy); where that is meant, freeze them "
            "by requires_grad_(False)"
        )


@torch.no_grad()
def _acts(network: nn.Module, image: Tensor, parameter: nn.Parameter) -> bool:
    """Return whether the outputs are others with other values of a parameter."""
    kept, outputs = parameter.clone(), []
    with torch.random.fork_rng(devices=[]):
        for share in (0.0, 1.0):
            torch.manual_seed(0)
            parameter.add_(
                torch.randn_like(parameter), alpha=share * (1 + float(kept.std(correction=0)))
            )
            outputs.append(run(network, image))
    parameter.copy_(kept)
    return not torch.equal(*outputs)


# ---------------------------------------------------------------------------------------------
# What is given


def check_finite(network: nn.Module, images: Tensor) -> None:
    """Refuse a network that has diverged, and images that are not finite."""
    numbers = {"images": images} | dict(network.named_parameters())
    if spoiled := [name for name, values in numbers.items() if not values.isfinite().all()]:
        raise ValueError(f"not all numbers are finite in {listed(spoiled)}: there is no Hessian")


def check_outputs(outputs: Tensor) -> None:
    """Refuse outputs that are not finite."""
    if not outputs.isfinite().all():
        raise ValueError(
            "the network's outputs are not finite, though its parameters are: there is no Hessian "
            "(where they are only too large, float64 helps)"
        )


def check_labels(images: Tensor, labels: Tensor, classes: int | None = None) -> None:
    """Refuse labels that are no classes [N] of the images."""
    if labels.dim() != 1 or len(labels) != len(images) or not len(labels):
        raise ValueError(
            f"labels of the shape {tuple(labels.shape)} for {len(images)} images: one of each is "
            "needed, and one image at least"
        )
    if labels.dtype != torch.int64:
        raise ValueError(f"labels are {labels.dtype}: int64 classes are needed")
    if classes is not None and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(
            f"labels go from {int(labels.min())} to {int(labels.max())}: there are "
            f"{classes} classes"
        )
