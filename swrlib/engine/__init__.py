"""The engine: trains the runs that the records lack, and keeps their records."""

from swrlib.engine.loop import Stopped
from swrlib.engine.scales import make_stream
from swrlib.engine.training import train
