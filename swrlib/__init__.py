"""Soft Weight Rescaling, reproduced."""

from swrlib.layers import Layer, trace_layers
from swrlib.rescaling import SoftWeightRescaling, rescale_

__all__ = ["Layer", "SoftWeightRescaling", "rescale_", "trace_layers"]
