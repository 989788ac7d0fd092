"""Whether the Gram matrix of a linearized network has the spectrum of its Gauss-Newton matrix."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian, jacobian
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from swrlib.papers import Claim
from swrlib.verdicts import Verdict, judge_theorem

#: Images: fewer outputs than the network's 79 parameters, and more.
IMAGES = (8, 40)
#: The largest difference of eigenvalues that is rounding, as a share of the largest of them.
ROUNDING = 1e-9


def root_of_weights(logits: Tensor) -> Tensor:
    """Return a square root of the loss's Hessian by the logits [N, K]: [N·K, N·K], symmetric.

    Of the mean cross-entropy it is block-diagonal, with blocks (diag(p) − ppᵀ)/N.
    """
    shares = logits.softmax(1)
    blocks = torch.diag_embed(shares) - shares[:, :, None] * shares[:, None]
    values, vectors = torch.linalg.eigh(blocks / len(logits))
    roots = (vectors * values.clamp(min=0).sqrt()[:, None]) @ vectors.mT
    return torch.block_diag(*roots)


def spectra(images: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues of both matrices, of a small ReLU network on made-up images.

    Returns
    -------
    Tensor, Tensor
        Of the weighted Gram matrix of the outputs' derivatives, and of the Hessian of the
        linearized network's loss, which automatic differentiation finds: that is the generalized
        Gauss-Newton matrix. Descending; the shorter one has zeros behind it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)
        ).double()
        x, labels = torch.randn(images, 5).double(), torch.randint(3, (images,))
    start = nn.utils.parameters_to_vector(network.parameters()).detach()
    names = {name: p.shape for name, p in network.named_parameters()}

    def outputs(flat: Tensor) -> Tensor:
        parts = flat.split([shape.numel() for shape in names.values()])
        given = {n: part.view(names[n]) for n, part in zip(names, parts, strict=True)}
        return functional_call(network, given, x)

    here, derivatives = outputs(start), jacobian(outputs, start)

    def loss(step: Tensor) -> Tensor:
        return cross_entropy(here + derivatives @ step, labels)

    weighted = root_of_weights(here) @ derivatives.flatten(0, 1)
    found = [weighted @ weighted.mT, hessian(loss, torch.zeros_like(start))]
    size = max(map(len, found))
    gram, gauss_newton = (
        torch.cat([torch.linalg.eigvalsh(matrix).flip(0), start.new_zeros(size - len(matrix))])
        for matrix in found
    )
    return gram.sort(descending=True).values, gauss_newton.sort(descending=True).values


def same_spectrum(claim: Claim, seeds: Iterable[int] = range(3)) -> Verdict:
    """Judge whether both matrices have the same eigenvalues but for zeros, up to rounding."""
    worst = [0.0]
    for seed, images in ((seed, images) for seed in seeds for images in IMAGES):
        gram, gauss_newton = spectra(images, seed)
        worst.append(float((gram - gauss_newton).abs().max() / gauss_newton.max()))
    cases, largest = len(worst) - 1, max(worst)
    detail = f"{cases} networks of 79 parameters, in double precision: the eigenvalues differ by "
    detail += f"{largest:.1g} of the largest at most."
    return judge_theorem(claim, largest < ROUNDING, detail, cases=cases)
