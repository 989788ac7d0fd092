"""How a processor computes in training: numbers too small for their exponent count as zero."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

import swrlib
from swrlib import measures, train
from swrlib.engine.loop import Stopped
from swrlib.streams import LabelShuffled

TINY = torch.finfo(torch.float32).tiny


def flushes():
    """Return whether numbers below the smallest normal one are taken as zero here and now."""
    return float(torch.tensor(TINY) / 2) == 0


@pytest.fixture(params=[False, True])
def flag(request):
    before = flushes()
    torch.set_flush_denormal(request.param)
    yield request.param
    torch.set_flush_denormal(before)


def note_flag(noted):
    def function(snapshot):
        noted.append(flushes())
        return {"": 0.0}

    return measures.Measure("flushes", function)


OPTIONS = {
    "dataset": "mnist-5k",
    "model": "mlp",
    "options": {"hidden": (8, 4)},
    "stream": swrlib.make_stream("label-shuffled:2,32", epochs=1),
    "methods": ["vanilla", "swr:1e-3"],
    "progress": False,
}


@pytest.mark.parametrize("way", ["to its end", "stopped", "failed"])
def test_the_flag_is_as_it_was_afterwards(way, flag, tmp_path):
    noted = []
    watch = [note_flag(noted)]
    options = {"measure": watch, "results": tmp_path / "r", "checkpoints": tmp_path / "c"}
    if way == "to its end":
        train(**OPTIONS, **options)
    elif way == "stopped":
        with pytest.raises(Stopped):
            train(**OPTIONS, **options, stop=lambda: True)
    else:
        broken = measures.Measure("broken", lambda snapshot: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(**OPTIONS, **options | {"measure": [*watch, broken]})
    assert noted and all(noted)
    assert flushes() == flag


@dataclass(frozen=True)
class Dying(swrlib.SWR):
    """Some units die at a change of data, so that their moments decay from then on."""

    name: ClassVar[str] = "dying"

    def change_(self, members, stage):
        bias = members.parameters[1]
        bias[..., :5] = -100.0


def small_moments(snapshot):
    """Return how many entries of Adam's first moments are too small for their exponent."""
    values = torch.cat([m.flatten() for m in snapshot.moments["exp_avg"].values()])
    bits = values.numpy().view(np.uint32) & 0x7FFFFFFF  # arithmetic might flush them, too
    return {"": float(((bits > 0) & (bits < 0x00800000)).sum())}


def trained(folder):
    """Return rows, and how many moments were small at most after an epoch, by method."""
    rows = train(
        **OPTIONS
        | {
            "stream": LabelShuffled((3, 120), images=32),
            "methods": ["vanilla", Dying(lam=1e-4), "l2:1e-2"],
            "batch_size": 4,
        },
        measure=[measures.Measure("small", small_moments)],
        results=folder / "r",
        checkpoints=folder / "c",
    )
    table = swrlib.load_measures(folder / "r").merge(rows[["run", "method"]].drop_duplicates())
    return rows, table.groupby("method")["value"].max()


def test_flushing_changes_no_row_beyond_rounding(tmp_path, monkeypatch):
    rows, small = trained(tmp_path / "flushed")
    assert (small == 0).all()
    monkeypatch.setattr(torch, "set_flush_denormal", lambda on: True)
    kept, small = trained(tmp_path / "kept")
    assert small["dying"] > 100  # there was something to flush
    assert len(rows) == len(kept) == 3 * 3
    for name in ("train_loss", "task_loss", "train_accuracy", "task_accuracy"):
        np.testing.assert_allclose(rows[name], kept[name], rtol=1e-6, err_msg=name)
    norms = [np.stack(table["weight_norms"].dropna()) for table in (rows, kept)]
    np.testing.assert_allclose(*norms, rtol=1e-6)


def test_a_number_below_the_smallest_normal_one_names_a_run_of_its_own():
    """In training such a λ is zero, but the runs' names and what is recorded keep them apart."""
    smallest = 5e-324
    frame = train(
        dataset="mnist-5k",
        model="mlp",
        options={"hidden": (8, 4)},
        stream=swrlib.make_stream("label-shuffled:1,32", epochs=1),
        methods=[swrlib.SWR(lam=0.0), swrlib.SWR(lam=smallest)],
        progress=False,
    )
    assert frame.groupby("lam")["run"].nunique().to_dict() == {0.0: 1, smallest: 1}
    assert frame["run"].nunique() == 2
