"""Soft Weight Rescaling, reproduced: the method, its theory as checks, and the engine."""

from swrlib.datasets import Dataset, load_dataset
from swrlib.engine import make_stream, train
from swrlib.in_loop import InLoop
from swrlib.methods import (
    L2,
    SWR,
    AdamW,
    FullReset,
    HeadReset,
    L2Init,
    Method,
    ShrinkPerturb,
    SWRExceptNormalization,
    SWRReinit,
    Vanilla,
)
from swrlib.models import build_model
from swrlib.network.layers import Layer, trace_layers
from swrlib.records import load_measures, load_records
from swrlib.rescaling import rescale_
from swrlib.streams import ClassIncremental, LabelShuffled, PixelPermuted
from swrlib.swr import SoftWeightRescaling

__all__ = [
    "L2",
    "SWR",
    "AdamW",
    "ClassIncremental",
    "Dataset",
    "FullReset",
    "HeadReset",
    "InLoop",
    "L2Init",
    "LabelShuffled",
    "Layer",
    "Method",
    "PixelPermuted",
    "SWRExceptNormalization",
    "SWRReinit",
    "ShrinkPerturb",
    "SoftWeightRescaling",
    "Vanilla",
    "build_model",
    "load_dataset",
    "load_measures",
    "load_records",
    "make_stream",
    "rescale_",
    "trace_layers",
    "train",
]
