"""The command line: ``python -m swrlib train …`` trains what the records lack."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from swrlib import paper, runs, streams, training
from swrlib.datasets import DATASETS
from swrlib.methods import METHODS
from swrlib.models import MODELS


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    whole = argparse.ArgumentParser(prog="python -m swrlib", description=__doc__)
    commands = whole.add_subparsers(dest="command", required=True)
    train = commands.add_parser(
        "train",
        help="train what a folder of records lacks",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    train.add_argument(
        "--dataset", required=True, help=f"one of {', '.join(DATASETS)}, or a folder of images"
    )
    train.add_argument("--model", required=True, help=f"one of {', '.join(MODELS)}")
    train.add_argument(
        "--stream",
        required=True,
        help=f"one of {', '.join(streams.STREAMS)}; the last as scaled:0.5,norm,untouched",
    )
    train.add_argument(
        "--methods",
        nargs="+",
        default=["vanilla", "swr"],
        help=f"of {', '.join(METHODS)}; with λ as swr:1e-3 or swr:1e-4,1e-1 (λ_f, λ_c), without it "
        "the paper's",
    )
    train.add_argument("--seeds", nargs="+", type=int, default=[0])
    train.add_argument("--scale", default="quick", help="quick or paper: how many epochs")
    train.add_argument("--epochs", type=int, help="of each stage, instead of the scale's")
    train.add_argument("--split", default="all", help="all, or selection: a tenth held out")
    train.add_argument("--measure", nargs="*", default=[], help="what else to measure")
    train.add_argument("--results", default="results", help="folder of records, read and written")
    train.add_argument(
        "--checkpoints",
        help="folder of checkpoints; default: .checkpoints here or, where nothing can be written, "
        "in that of the records",
    )
    train.add_argument("--batch-size", type=int, default=paper.BATCH_SIZE)
    train.add_argument("--optimizer-state", default="kept", help="kept or new, at a change of data")
    train.add_argument("--device", help="cpu or cuda; default: what there is")
    train.add_argument(
        "--dtype",
        default="float32",
        choices=[str(dtype).removeprefix("torch.") for dtype in runs.DTYPES],
        help="bfloat16: products in it, all else in float32",
    )
    train.add_argument("--tf32", action="store_true", help="TensorFloat-32 on a CUDA device")
    train.add_argument("--stack", type=int, help="most runs at once; default: what is fastest")
    train.add_argument(
        "--no-graphs", dest="graphs", action="store_false", help="capture no step on a CUDA device"
    )
    train.add_argument(
        "--minutes",
        type=float,
        help="stop at the next checkpoint after so many; SIGTERM asks for it, too",
    )
    train.add_argument("--threads", type=int, default=1, help="threads of this job")
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
            frame = training.train(**given, stop=stop)
    except (ValueError, TypeError, OSError, ImportError, MemoryError) as error:
        print(f"swrlib: {error}", file=sys.stderr)
        return 2
    except training.Stopped as stopped:
        print(f"swrlib: {stopped}", file=sys.stderr)
        return 3
    final = frame.sort_values("epoch").groupby("run").last()
    settings = ["method", "lam", "lam_features", "lam_classifier"]
    summary = final.groupby(settings, dropna=False)["test_accuracy"]
    print(summary.agg(["mean", "std", "count"]).to_string())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
