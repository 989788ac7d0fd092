"""The paper's statements as functions: pure, on modules and tensors, nothing of the caller's moves.

One module a statement: `proportionality` has Theorem 1 (Section 3.2, Appendix A), `boundedness`
Theorem 2 (Section 3.3, Appendix B), `lipschitz`, `convolutions` and `ascent` Corollary 2.1,
`balancedness` Definition 2, Theorem 3 and Fig. 5's balance, `scaling` Fig. 1's scaling. Of other
papers on the loss of plasticity: `ranks` (ranks, activity of units, distances), `isometry` (FIRE),
`curvature`, `last_layers` and `spectrum` (the Hessian by products, of the last two layers, by
Lanczos' method).
"""

from swrlib.theory.ascent import lipschitz_lower_bound
from swrlib.theory.balancedness import balance_, layer_balance, lpq_norm
from swrlib.theory.boundedness import adam_norm_bound, norm_bound
from swrlib.theory.convolutions import conv_spectral_norm
from swrlib.theory.curvature import LossHessian, gradient_hessian_overlap, spectrum_summary
from swrlib.theory.isometry import deviation_from_isometry, squared_frobenius_error
from swrlib.theory.last_layers import last_layers_hessian
from swrlib.theory.lipschitz import lipschitz_bound
from swrlib.theory.proportionality import output_gap, proportionality_gap
from swrlib.theory.ranks import effective_rank, srank, stable_rank
from swrlib.theory.scaling import scale_
from swrlib.theory.spectrum import Spectrum, hessian_spectrum

__all__ = [
    "LossHessian",
    "Spectrum",
    "adam_norm_bound",
    "balance_",
    "conv_spectral_norm",
    "deviation_from_isometry",
    "effective_rank",
    "gradient_hessian_overlap",
    "hessian_spectrum",
    "last_layers_hessian",
    "layer_balance",
    "lipschitz_bound",
    "lipschitz_lower_bound",
    "lpq_norm",
    "norm_bound",
    "output_gap",
    "proportionality_gap",
    "scale_",
    "spectrum_summary",
    "squared_frobenius_error",
    "srank",
    "stable_rank",
]
