"""How long a stream trains: a moment at the quick scale, or as a paper prints."""

from __future__ import annotations

import os
from typing import Any

from swrlib.checks import check_name, check_whole
from swrlib.papers import Paper, find_paper
from swrlib.streams import STREAMS, Stream

SCALES = ("quick", "paper")


def make_stream(
    name: str,
    *,
    scale: str = "quick",
    epochs: int | None = None,
    learning_rate: float | None = None,
    paper: str | os.PathLike[str] | Paper = "swr",
    **options: Any,
) -> Stream:
    """Make a stream by name.

    Parameters
    ----------
    name : {"single-task", "single-task-decay", "warm-start", "full-access", "limited-access", \
"scaled"}
        One data set throughout (4.3), the same with a decaying rate (Appendix E), a random half and
        then everything (4.1), ten growing chunks or ten chunks alone (4.2), or Fig. 1: a trained
        network whose weights are scaled and which is then fine-tuned. "scaled:0.5,norm,untouched"
        names ratio, reading and biases, too.
    scale : {"quick", "paper"}
        Whose number of epochs.
    epochs : int, optional
        Epochs of each stage instead of the scale's.
    learning_rate : float, optional
        The optimizer's, which a stream may let fall. Default: the paper's.
    paper : str, path or Paper
        See `swrlib.papers.find_paper`.
    **options
        Those of ``scaled``: ``ratio``, which is needed, ``reading`` and ``biases`` (see
        `swrlib.theory.scale_`).

    Raises
    ------
    ValueError
        If a name is unknown or a value senseless.
    """
    name, colon, text = name.partition(":")
    check_name("stream", name, STREAMS)
    check_name("scale", scale, SCALES)
    kind, paper = STREAMS[name], find_paper(paper)
    lengths = _published_epochs(kind, paper) if scale == "paper" else kind.quick
    if epochs is not None:
        check_whole("epochs", epochs)
        lengths = (epochs,) * len(lengths)
    rate = paper.learning_rate if learning_rate is None else learning_rate
    return kind(lengths, rate, **kind.checked_options(text if colon else None, options))


def _published_epochs(kind: type[Stream], paper: Paper) -> tuple[int, ...]:
    if kind.name not in paper.epochs:
        raise ValueError(
            f"{paper.source} has no stream {kind.name!r} (it has {', '.join(paper.epochs)}), so "
            "that the scale 'paper' says nothing of its epochs"
        )
    return paper.epochs[kind.name]


def scale_of(stream: Stream, paper: Paper) -> str:
    """Return the scale whose epochs and rate these are: "paper", "quick" or "custom"."""
    for scale, epochs in (("paper", paper.epochs.get(stream.name)), ("quick", stream.quick)):
        if stream.epochs == epochs and stream.learning_rate == paper.learning_rate:
            return scale
    return "custom"
