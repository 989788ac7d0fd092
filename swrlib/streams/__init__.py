"""What a network is trained on, and when: streams of stages, one small class a stream.

`base` has what a stage and a stream are, and the streams of the paper that this book reproduces;
`tasks` and `incremental` have its neighbours'.
"""

from __future__ import annotations

from swrlib.streams.base import (
    STREAMS,
    FullAccess,
    LimitedAccess,
    Scaled,
    SingleTask,
    SingleTaskDecay,
    Stage,
    Stream,
    WarmStart,
    generator,
    held_out,
)
from swrlib.streams.incremental import ClassIncremental
from swrlib.streams.tasks import LabelShuffled, PixelPermuted

STREAMS |= {stream.name: stream for stream in (LabelShuffled, PixelPermuted, ClassIncremental)}
