"""The paper's statements as functions: pure, on modules and tensors, nothing of the caller's moves.

One module a statement: `proportionality` has Theorem 1 (Section 3.2, Appendix A), `boundedness`
Theorem 2 (Section 3.3, Appendix B), `lipschitz`, `convolutions` and `ascent` Corollary 2.1,
`balancedness` Definition 2, Theorem 3 and Fig. 5's balance, `scaling` Fig. 1's scaling.
"""

from swrlib.theory.ascent import lipschitz_lower_bound
from swrlib.theory.balancedness import balance_, layer_balance, lpq_norm
from swrlib.theory.boundedness import adam_norm_bound, norm_bound
from swrlib.theory.convolutions import conv_spectral_norm
from swrlib.theory.lipschitz import lipschitz_bound
from swrlib.theory.proportionality import output_gap, proportionality_gap
from swrlib.theory.scaling import scale_

__all__ = [
    "adam_norm_bound",
    "balance_",
    "conv_spectral_norm",
    "layer_balance",
    "lipschitz_bound",
    "lipschitz_lower_bound",
    "lpq_norm",
    "norm_bound",
    "output_gap",
    "proportionality_gap",
    "scale_",
]
