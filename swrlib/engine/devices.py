"""Where training happens: which device, how it computes, a captured step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from swrlib.memory import keeping_freed


def find_device(device: str | torch.device | None, tf32: bool = False) -> torch.device:
    """Return the device that was asked for; by default a CUDA device where there is one.

    Raises
    ------
    ValueError
        If there is no such device, or TensorFloat-32 is asked for on a processor.
    """
    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ValueError(f"unknown device {device!r}: give 'cpu' or 'cuda'") from error
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"there is no CUDA device here, so {device!r} cannot be used: give 'cpu'")
    if tf32 and place.type != "cuda":
        raise ValueError("TensorFloat-32 is of CUDA devices: leave tf32 out on a processor")
    return place


@contextmanager
def arithmetic(device: torch.device, tf32: bool) -> Iterator[None]:
    """Train on a device as it is fastest, with or without TensorFloat-32.

    A GPU trains in a stream of its own, as a capture needs it.
    """
    if device.type != "cuda":
        with keeping_freed():
            yield
        return
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = tf32
    torch.cuda.synchronize(device)
    try:
        with torch.cuda.stream(torch.cuda.Stream(device)):
            yield
    except torch.OutOfMemoryError as error:
        raise MemoryError(
            "the GPU's memory is full: train fewer runs at once (stack) or take smaller batches "
            "(batch size)"
        ) from error
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


@contextmanager
def flushing_denormals() -> Iterator[None]:
    """Take numbers too small for their exponent as zero on a processor, as a GPU does.

    The moments of units that died decay into that range, where each product takes many times as
    long. Python's own numbers are flushed, too: names and texts are made outside of it.
    """
    tiny = torch.finfo(torch.float32).tiny
    kept = float(torch.tensor(tiny) / 2) > 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(not kept)


class CapturedStep:
    """A training step captured once as a CUDA graph: its kernels are replayed without the host."""

    def __init__(self, step: Callable[[Tensor], Any], positions: Tensor) -> None:
        self.positions = positions.clone()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=torch.cuda.current_stream()):
            self.result = step(self.positions)

    def __call__(self, positions: Tensor) -> Any:
        """Take the step on as many images; what it returns lies where it did at the capture."""
        self.positions.copy_(positions)
        self.graph.replay()
        return self.result
