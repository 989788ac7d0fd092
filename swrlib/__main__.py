"""The command line: ``python -m swrlib train …`` trains what the records lack."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch

from swrlib import paper, streams, training
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
    train.add_argument("--stream", required=True, help=f"one of {', '.join(streams.STREAMS)}")
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
    train.add_argument("--checkpoints", default=".checkpoints", help="folder of checkpoints")
    train.add_argument("--batch-size", type=int, default=paper.BATCH_SIZE)
    train.add_argument("--optimizer-state", default="kept", help="kept or new, at a change of data")
    train.add_argument("--device", help="cpu or cuda; default: what there is")
    train.add_argument("--threads", type=int, default=1, help="threads of this job")
    return whole


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; errors of the user are one sentence and the exit status 2."""
    given = vars(parser().parse_args(arguments))
    given.pop("command")
    threads = given.pop("threads")
    try:
        if threads < 1:
            raise ValueError(f"threads is {threads}: a job needs at least 1")
        torch.set_num_threads(threads)
        frame = training.train(**given)
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"swrlib: {error}", file=sys.stderr)
        return 2
    final = frame.sort_values("epoch").groupby("run").last()
    settings = ["method", "lam", "lam_features", "lam_classifier"]
    summary = final.groupby(settings, dropna=False)["test_accuracy"]
    print(summary.agg(["mean", "std", "count"]).to_string())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
