"""The command line: ``python -m swrlib train …`` trains what the records lack."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch

from swrlib.datasets import DATASETS
from swrlib.engine import Stopped, train
from swrlib.engine.runs import DTYPES
from swrlib.engine.scales import SCALES
from swrlib.methods import METHODS
from swrlib.models import MODELS
from swrlib.papers import known_papers
from swrlib.population import OPTIMIZERS
from swrlib.streams import STREAMS


def _option(text: str) -> tuple[str, Any]:
    """Read NAME=VALUE: the value is JSON, what is none is a word."""
    name, sign, value = text.partition("=")
    if not sign:
        raise argparse.ArgumentTypeError(f"cannot read {text!r}: write it as initialization=he")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


#: Options of ``train``. Where one without a default is not asked for, that of `swrlib.train` holds.
OPTIONS: dict[str, dict[str, Any]] = {
    "dataset": {"required": True, "help": f"one of {', '.join(DATASETS)}, or a folder of images"},
    "model": {"required": True, "help": f"one of {', '.join(MODELS)}"},
    "stream": {
        "required": True,
        "help": f"one of {', '.join(STREAMS)}; with options as scaled:0.5,norm,untouched",
    },
    "methods": {
        "nargs": "+",
        "default": ["vanilla", "swr"],
        "help": f"of {', '.join(METHODS)}; with λ as swr:1e-3 or swr:1e-4,1e-1 (λ_f, λ_c), without "
        "it the paper's; with options as fire:norm=present",
    },
    "seeds": {"nargs": "+", "type": int, "default": [0], "help": "a run each"},
    "scale": {"default": "quick", "help": f"{' or '.join(SCALES)}: how many epochs"},
    "epochs": {"type": int, "help": "of each stage, instead of the scale's"},
    "learning-rate": {"type": float, "help": "default: the paper's"},
    "paper": {
        "default": "swr",
        "help": "whose λ's, epochs, rate, batch size and optimizer hold where nothing else is "
        f"said: {' or '.join(known_papers())}, or a paper's TOML file",
    },
    "options": {
        "nargs": "+",
        "type": _option,
        "help": "the model's, as in hidden=[100,100,100] initialization=he",
    },
    "split": {"default": "all", "help": "all, or selection: a tenth held out"},
    "measure": {
        "nargs": "*",
        "default": [],
        "help": "what else to measure; spectrum-start:10 in every tenth stage alone",
    },
    "results": {"default": "results", "help": "folder of records, read and written"},
    "checkpoints": {
        "help": "folder of checkpoints; default: .checkpoints here or, where nothing can be "
        "written, in that of the records"
    },
    "batch-size": {"type": int, "help": "default: the paper's"},
    "optimizer": {
        "help": f"{' or '.join(OPTIMIZERS)}; momentum and weight decay as sgd:0.9,1e-4; default: "
        "the paper's"
    },
    "optimizer-state": {"default": "kept", "help": "kept or new, at a change of data"},
    "device": {"help": "cpu or cuda; default: what there is"},
    "dtype": {
        "default": "float32",
        "choices": DTYPES,
        "help": "bfloat16: products in it, all else in float32",
    },
    "tf32": {"action": "store_true", "help": "TensorFloat-32 on a CUDA device"},
    "stack": {"type": int, "help": "most runs at once; default: what is fastest"},
    "no-graphs": {
        "dest": "graphs",
        "action": "store_false",
        "help": "capture no step on a CUDA device",
    },
    "minutes": {
        "type": float,
        "help": "stop at the next checkpoint after so many; SIGTERM asks for it, too",
    },
    "threads": {"type": int, "default": 1, "help": "threads of this job"},
}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    whole = argparse.ArgumentParser(prog="python -m swrlib", description=__doc__)
    commands = whole.add_subparsers(dest="command", required=True)
    train = commands.add_parser(
        "train",
        help="train what a folder of records lacks",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    for name, settings in OPTIONS.items():
        train.add_argument(f"--{name}", **settings)
    return whole


#: What a user can mend: one sentence, no traceback.
USER_ERRORS = (ValueError, TypeError, OSError, ImportError, MemoryError)


@contextmanager
def stopping(minutes: float | None) -> Iterator[Callable[[], bool]]:
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
    threads, minutes = given.pop("threads"), given.pop("minutes", None)
    given["options"] = dict(given.pop("options", ()))
    try:
        if threads < 1:
            raise ValueError(f"threads is {threads}: a job needs at least 1")
        if minutes is not None and not minutes > 0:
            raise ValueError(f"minutes is {minutes}: it must be more than 0")
        torch.set_num_threads(threads)
        with stopping(minutes) as stop:
            frame = train(**given, stop=stop)
    except USER_ERRORS as error:
        print(f"swrlib: {error}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(f"swrlib: {stopped}", file=sys.stderr)
        return 3
    final = frame.sort_values("epoch").groupby("run").last()
    settings = ["method", "lam", "lam_features", "lam_classifier"]
    options = {f.name for name in set(final["method"]) & {*METHODS} for f in fields(METHODS[name])}
    options &= {*final} - {*settings}
    different = final.groupby("method")[sorted(options)].nunique(dropna=False) > 1
    settings += [option for option in different if different[option].any()]
    outcome = "test_accuracy"
    if final[outcome].isna().all() and "task_accuracy" in final:  # of a stream with no test
        outcome = "task_accuracy"
    summary = final.groupby(settings, dropna=False)[outcome]
    print(summary.agg(["mean", "std", "count"]).to_string())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
