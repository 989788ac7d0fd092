"""The engine: trains the runs that the records lack, and keeps their records."""

from swrlib.engine.training import Stopped, train

__all__ = ["Stopped", "train"]
