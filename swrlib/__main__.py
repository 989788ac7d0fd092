"""The command line: ``python -m swrlib train …`` trains what the records lack."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from swrlib.datasets import DATASETS
from swrlib.engine import Stopped, train
from swrlib.engine.jobs import DTYPES
from swrlib.methods import METHODS
from swrlib.models import MODELS
from swrlib.papers import SWR as paper
from swrlib.population import OPTIMIZERS
from swrlib.streams import STREAMS


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    whole = argparse.ArgumentParser(prog="python -m swrlib", description=__doc__)
    commands = whole.add_subparsers(dest="command", required=True)
    add = commands.add_parser(
        "train",
        help="train what a folder of records lacks",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add.add_argument(
        "--dataset", required=True, help=f"one of {', '.join(DATASETS)}, or a folder of images"
    )
    add.add_argument("--model", required=True, help=f"one of {', '.join(MODELS)}")
    add.add_argument(
        "--stream",
        required=True,
        help=f"one of {', '.join(STREAMS)}; the last as scaled:0.5,norm,untouched",
    )
    add.add_argument(
        "--methods",
        nargs="+",
        default=["vanilla", "swr"],
        help=f"of {', '.join(METHODS)}; with λ as swr:1e-3 or swr:1e-4,1e-1 (λ_f, λ_c), without it "
        "the paper's",
    )
    add.add_argument("--seeds", nargs="+", type=int, default=[0])
    add.add_argument("--scale", default="quick", help="quick or paper: how many epochs")
    add.add_argument("--epochs", type=int, help="of each stage, instead of the scale's")
    add.add_argument("--split", default="all", help="all, or selection: a tenth held out")
    add.add_argument("--measure", nargs="*", default=[], help="what else to measure")
    add.add_argument("--results", default="results", help="folder of records, read and written")
    add.add_argument(
        "--checkpoints",
        help="folder of checkpoints; default: .checkpoints here or, where nothing can be written, "
        "in that of the records",
    )
    add.add_argument("--batch-size", type=int, default=paper.batch_size)
    add.add_argument(
        "--optimizer",
        default="adam",
        help=f"{' or '.join(OPTIMIZERS)}; momentum and weight decay as sgd:0.9,1e-4",
    )
    add.add_argument("--optimizer-state", default="kept", help="kept or new, at a change of data")
    add.add_argument("--device", help="cpu or cuda; default: what there is")
    add.add_argument(
        "--dtype",
        default="float32",
        choices=[str(dtype).removeprefix("torch.") for dtype in DTYPES],
        help="bfloat16: products in it, all else in float32",
    )
    add.add_argument("--tf32", action="store_true", help="TensorFloat-32 on a CUDA device")
    add.add_argument("--stack", type=int, help="most runs at once; default: what is fastest")
    add.add_argument(
        "--no-graphs", dest="graphs", action="store_false", help="capture no step on a CUDA device"
    )
    add.add_argument(
        "--minutes",
        type=float,
        help="stop at the next checkpoint after so many; SIGTERM asks for it, too",
    )
    add.add_argument("--threads", type=int, default=1, help="threads of this job")
    return whole


@contextmanager
def _stop(minutes: float | None) -> Iterator[Callable[[], bool]]:
    """Give what tells the training to stop: when the time is up, or SIGTERM has come."""
    asked: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    end = float("inf") if minutes is None else time.monotonic() + 60 * minutes
    try:
        yield lambda: bool(asked) or time.monotonic() > end
    finally:
        signal.signal(signal.SIGTERM, before)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; errors of the user are one sentence and the exit status 2.

    The exit status is 3 where the training was asked to stop and did, at a checkpoint.
    """
    given = vars(parser().parse_args(arguments))
    given.pop("command")
    threads, minutes = given.pop("threads"), given.pop("minutes")
    try:
        if threads < 1:
            raise ValueError(f"threads is {threads}: a job needs at least 1")
        if minutes is not None and not minutes > 0:
            raise ValueError(f"minutes is {minutes}: it must be more than 0")
        torch.set_num_threads(threads)
        given["dtype"] = getattr(torch, given["dtype"])
        with _stop(minutes) as stop:
            frame = train(**given, stop=stop)
    except (ValueError, TypeError, OSError, ImportError, MemoryError) as error:
        print(f"swrlib: {error}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(f"swrlib: {stopped}", file=sys.stderr)
        return 3
    final = frame.sort_values("epoch").groupby("run").last()
    settings = ["method", "lam", "lam_features", "lam_classifier"]
    summary = final.groupby(settings, dropna=False)["test_accuracy"]
    print(summary.agg(["mean", "std", "count"]).to_string())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
