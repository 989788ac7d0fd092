"""Run and time what the engine does on a CUDA device: `python -m benchmarks.gpu`.

With ``--device cpu --quick`` the same steps run on a processor, as far as they can; captured steps,
TensorFloat-32 and the watch for synchronizations are of CUDA devices alone. A data set that is not
at hand is replaced by random images of its size, and says so.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import swrlib
from benchmarks.loops import random_images
from benchmarks.measure import write
from swrlib import make_stream
from swrlib.datasets import Dataset
from swrlib.engine import loop
from swrlib.methods import make_method
from swrlib.papers import SWR as paper
from swrlib.provenance import provenance

#: Table 1 without VGG-16: data set and model of each column.
COLUMNS = (("mnist", "mlp"), ("cifar10", "cnn"), ("cifar100", "cnn"), ("cifar100", "cnn-bn"))
IMAGES = {"mnist": 60_000, "cifar10": 50_000, "cifar100": 50_000}
METHODS_OF_TABLE_1 = ("vanilla", "l2", "l2-init", "swr")


def data_of(name: str, model: str, quick: bool) -> tuple[Dataset, str]:
    """Return a data set, or random images in its place; and which of the two."""
    if not quick:
        try:
            return swrlib.load_dataset(name), "real"
        except (FileNotFoundError, ValueError, ImportError):
            pass
    steps = 1 if quick else IMAGES[name] // 256
    return random_images(model, steps, 32 if quick else 256), "random images"


@contextmanager
def no_waiting(device: torch.device) -> Iterator[None]:
    """Make every synchronization within an epoch an error."""
    if device.type != "cuda":
        yield
        return
    train_epoch = loop.Job.epoch_

    def watched(job: loop.Job, order: torch.Tensor, rate: float) -> Any:
        torch.cuda.set_sync_debug_mode("error")
        try:
            return train_epoch(job, order, rate)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    loop.Job.epoch_ = watched  # type: ignore[method-assign]
    try:
        yield
    finally:
        loop.Job.epoch_ = train_epoch  # type: ignore[method-assign]


def timed(device: torch.device, action: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that an action takes, the device's work among them, and its result."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    result = action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started, result


def equality(device: torch.device, quick: bool) -> dict[str, Any]:
    """Train a little in float64 on the device and on a processor: the largest difference."""
    measured = {}
    for model in ("mlp", "cnn", "cnn-bn"):
        data = random_images(model, 3, 16 if quick else 256)
        losses = []
        for place in ("cpu", str(device)):
            frame = swrlib.train(
                dataset=data,
                model=model,
                stream=make_stream("warm-start", epochs=2 if quick else 4),
                methods=["vanilla", "l2:1e-2", "l2-init:1e-2", "swr:1e-2", "head-reset"],
                device=place,
                dtype=torch.float64,
                stack=5,
                progress=False,
            )
            losses.append(frame.set_index(["method", "epoch"])["train_loss"].sort_index())
        measured[model] = float((losses[0] - losses[1]).abs().max())
    return measured


def table_1(device: torch.device, quick: bool) -> dict[str, Any]:
    """Train Table 1 without VGG-16, no step of it waiting for the device: seconds by column."""
    measured: dict[str, Any] = {}
    for name, model in COLUMNS:
        data, kind = data_of(name, model, quick)
        lams = {
            method: paper.published_lambda(method, name, model, "single-task")
            for method in METHODS_OF_TABLE_1
        }
        methods = [
            "vanilla" if lam is None else make_method(method, lam) for method, lam in lams.items()
        ]

        def column(data: Dataset = data, model: str = model, methods: Any = methods) -> Any:
            return swrlib.train(
                dataset=data,
                model=model,
                stream=make_stream("single-task", epochs=2 if quick else 200),
                methods=methods,
                seeds=range(2 if quick else 5),
                device=device,
                progress=not quick,
            )

        with no_waiting(device):
            seconds, frame = timed(device, column)
        final = frame[frame["epoch"] == frame["epoch"].max()].groupby("method")["test_accuracy"]
        measured[f"{name} {model}"] = {
            "seconds": seconds,
            "images": kind,
            "accuracy": {key: round(float(value), 4) for key, value in final.mean().items()},
        }
    measured["minutes"] = sum(value["seconds"] for value in measured.values()) / 60
    return measured


def matrix_rate(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Return the rate of a large matrix product in operations a second."""
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    (a @ b).sum()
    seconds, _ = timed(device, lambda: [a @ b for _ in range(20)])
    return 20 * 2 * size**3 / seconds


def operations(model: str, data: Dataset) -> int:
    """Return the operations of a training step for one image: three times the forward's."""
    from torch.utils.flop_counter import FlopCounterMode

    network = swrlib.build_model(model, data)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.zeros(1, *data.shape))
    return 3 * int(counter.get_total_flops())


def vgg16(device: torch.device, quick: bool) -> dict[str, Any]:
    """Time VGG-16 on 64x64 images: the share of the device's rate, and what SWR adds."""
    batch, steps, epochs = (2, 1, 1) if quick else (256, 40, 3)
    data = random_images("vgg16", steps, batch)
    measured: dict[str, Any] = {"batch": batch}
    for dtype in (torch.bfloat16,) if quick else (torch.bfloat16, torch.float32):
        seconds = {}
        for method in ("vanilla", "swr:1e-2,1e-1"):
            frame = swrlib.train(
                dataset=data,
                model="vgg16",
                stream=make_stream("single-task", epochs=1 + epochs),
                methods=method,
                dtype=dtype,
                batch_size=batch,
                device=device,
                progress=False,
            )
            # The first epochs set up and capture.
            later = frame.loc[frame["epoch"] == 1 + epochs, "seconds"]
            seconds[method.partition(":")[0]] = float(later.min())
        name = str(dtype).removeprefix("torch.")
        rate = operations("vgg16", data) * len(data.train_images) / seconds["vanilla"]
        ceiling = matrix_rate(device, dtype, 512 if quick else 8192)
        measured[name] = {
            "images a second": len(data.train_images) / seconds["vanilla"],
            "teraflops": rate / 1e12,
            "share of the measured matrix rate": rate / ceiling,
            "SWR over vanilla": seconds["swr"] / seconds["vanilla"],
        }
    return measured


def milliseconds(
    device: torch.device, model: str, size: int, quick: bool, **options: Any
) -> dict[str, float]:
    """Time the steps of so many runs of a small model at once."""
    data = random_images(model, 1, 16) if quick else random_images(model, 40)
    frame = swrlib.train(
        dataset=data,
        model=model,
        stream=make_stream("single-task", epochs=3),
        methods=[swrlib.SWR(lam=1e-4 * (1 + i / 1000)) for i in range(size)],
        device=device,
        stack=size,
        progress=False,
        **options,
    )
    # The first epochs set up and capture.
    seconds = float(frame.loc[frame["epoch"] == 3, "seconds"].mean())
    return {"ms per step per run": 1e3 * seconds / -(-len(data.train_images) // 256)}


def stacks(device: torch.device, quick: bool) -> dict[str, Any]:
    """Time the small models by how many runs train at once, with and without captured steps."""
    return {
        f"{model}, {size} at once, {'captured' if graphs else 'not captured'}": milliseconds(
            device, model, size, quick, graphs=graphs
        )
        for model in ("mlp", "cnn", "cnn-bn")
        for size in ((1, 4) if quick else (1, 5, 20, 50, 100))
        for graphs in (True, False)
    }


def precision(device: torch.device, quick: bool) -> dict[str, Any]:
    """Time the small models, 20 runs at once, by the arithmetic of their products."""
    kinds: dict[str, dict[str, Any]] = {
        "float32": {},
        "TensorFloat-32": {"tf32": True},
        "bfloat16": {"dtype": torch.bfloat16},
    }
    if device.type != "cuda":
        del kinds["TensorFloat-32"]
    return {
        f"{model}, {kind}": milliseconds(device, model, 2 if quick else 20, quick, **options)
        for model in ("mlp", "cnn", "cnn-bn")
        for kind, options in kinds.items()
    }


PARTS: dict[str, Callable[[torch.device, bool], dict[str, Any]]] = {
    "equality": equality,
    "stacks": stacks,
    "precision": precision,
    "vgg16": vgg16,
    "table 1": table_1,
}


def main() -> int:
    """Run the parts, each written as soon as it is done; others in the file are kept."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="a few steps of each, for a test")
    parser.add_argument("--only", nargs="*", choices=list(PARTS), help="these parts only")
    parser.add_argument("--output", type=Path, default=Path("results/_benchmarks/gpu.json"))
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; --device cpu --quick runs the parts without")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    content = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    for part in arguments.only or PARTS:
        about = provenance(device=name)
        seconds, measured = timed(device, lambda part=part: PARTS[part](device, arguments.quick))
        content[part] = {"machine": about | {"seconds": round(seconds, 1)}} | measured
        print(json.dumps({part: measured}, indent=1), flush=True)
        write(content, arguments.output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
