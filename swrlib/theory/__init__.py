"""The paper's statements as functions: pure, on modules and tensors, nothing of the caller's moves.

One module a statement. `proportionality` has Theorem 1 (Section 3.2, Appendix A).
"""

from swrlib.theory.proportionality import output_gap, proportionality_gap

__all__ = ["output_gap", "proportionality_gap"]
