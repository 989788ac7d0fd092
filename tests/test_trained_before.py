"""What was trained stays trained: names of committed runs, and numbers that an engine once gave.

`python tests/test_trained_before.py` writes the numbers anew, where they are meant to change.
"""

import functools
import json
import tempfile
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from swrlib import make_stream, records, streams
from swrlib.datasets import Dataset
from swrlib.engine.jobs import resolve
from swrlib.engine.training import train
from swrlib.methods import METHODS
from swrlib.papers import SWR
from swrlib.population import OPTIMIZERS

NUMBERS = Path(__file__).with_name("trained_before.json")
RESULTS = Path(__file__).parent.parent / "results"
MODELS = ("mlp", "cnn", "cnn-bn")
STREAMS = (
    "single-task",
    "single-task-decay",
    "warm-start",
    "full-access",
    "limited-access",
    "scaled:0.5,norm,proportional",
    "scaled:0.3,factor,untouched",
)
METHODS_TRAINED = (
    "vanilla",
    "l2:1e-2",
    "l2-init:1e-2",
    "shrink-perturb:0.4",
    "head-reset",
    "swr:1e-1",
    "swr:1e-2,1e-1",
    "swr-reinit:1e-1",
    "swr-except-normalization:1e-1",
    "full-reset",
    "adamw:1e-1",
)


@functools.cache
def committed() -> dict[str, dict]:
    """Return the configuration of every committed run, by its name."""
    texts = [pq.read_metadata(path).metadata[b"swrlib"] for path in RESULTS.glob("*.parquet")]
    return {
        name: configuration
        for text in texts
        for name, configuration in json.loads(text)["configuration_json"].items()
    }


def asked_for(configuration: dict) -> dict:
    """Write a configuration as somebody would ask for it."""
    stream, method = dict(configuration["stream"]), dict(configuration["method"])
    model = dict(configuration["model"])
    options = [str(stream[key]) for key in streams.STREAMS[stream["name"]].option_names()]
    name = ":".join([stream["name"], ",".join(options)]) if options else stream["name"]
    epochs = stream["epochs"]
    length = {"scale": "paper"}
    of_paper = stream["name"] in SWR.epochs
    if not of_paper or epochs != list(make_stream(name, scale="paper").epochs):
        length = {"epochs": epochs[0]}
        assert set(epochs) == {epochs[0]}
    kind = METHODS[method.pop("name")]
    optimizer = dict(configuration["optimizer"])
    optimizer = OPTIMIZERS[optimizer.pop("name")](
        **{k: tuple(v) if isinstance(v, list) else v for k, v in optimizer.items()}
    )
    if method.get("lam") is not None:  # one λ for both
        method = {k: v for k, v in method.items() if k not in ("lam_features", "lam_classifier")}
    return {
        "dataset": configuration["dataset"],
        "split": configuration["split"],
        "model": model.pop("name"),
        "options": model,
        "stream": name,
        "learning_rate": stream["learning_rate"],
        "optimizer": optimizer,
        "methods": [kind(**method)],
        "seeds": [configuration["seed"]],
        "batch_size": configuration["batch_size"],
        "optimizer_state": configuration["optimizer_state"],
        "dtype": getattr(torch, configuration["dtype"]),
        "tf32": configuration["tf32"],
        **length,
    }


def test_every_committed_run_keeps_its_name():
    assert len(committed()) >= 382
    for name, configuration in committed().items():
        (run,) = resolve(**asked_for(configuration))
        assert run.hash == name, configuration
        assert (run.parent.hash if run.parent else None) == configuration["parent"]


def test_a_configuration_is_written_down_as_it_is_named():
    for name, configuration in committed().items():
        assert records.run_hash(configuration) == name
        parent = configuration["parent"]
        assert parent is None or parent in committed(), "a branch without the run it starts from"


def noise() -> Dataset:
    """Return images that a network can tell apart, from a generator of their own."""
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (60, 1, 10, 10), generator=generator, dtype=torch.uint8)
    labels = torch.arange(60) % 4
    classes = tuple("abcd")
    return Dataset(
        "noise", images[:40], labels[:40], images[40:], labels[40:], classes, (0.5,), (0.25,)
    )


def trained(model: str, stream: str, stack: int, monkeypatch: pytest.MonkeyPatch) -> dict:
    """Train all methods and return how each ended, in float64 as the engine hands it over."""
    handed: list[pd.DataFrame] = []
    write = records.write_job

    def keep(folder, epochs, *arguments, **keywords):
        handed.append(epochs)
        return write(folder, epochs, *arguments, **keywords)

    monkeypatch.setattr(records, "write_job", keep)
    with tempfile.TemporaryDirectory() as folder:
        train(
            dataset=noise(),
            model=model,
            stream=stream,
            methods=METHODS_TRAINED,
            seeds=[3],
            epochs=4 if "decay" in stream else 1,
            dtype=torch.float64,
            batch_size=16,
            options={"hidden": [12]},
            results=folder,
            checkpoints=Path(folder, "checkpoints"),
            stack=stack,
            device="cpu",
            progress=False,
        )
    rows = pd.concat(handed)
    rows = rows[rows["stream"] == stream.partition(":")[0]]  # not a branch's own parent
    ends = rows.sort_values("epoch").groupby("run").last()
    assert len(ends) == len(METHODS_TRAINED) and not ends["diverged"].any()
    numbers = ["train_loss", "test_loss", "weight_norms", "bias_norms"]
    settings = ["method", "lam", "lam_features", "lam_classifier"]
    return {
        " ".join(str(end[name]) for name in settings if pd.notna(end[name])): [
            end[name] for name in numbers
        ]
        for _, end in ends.iterrows()
    }


@pytest.mark.parametrize("stack", [1, len(METHODS_TRAINED)])
@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("model", MODELS)
def test_trainings_end_as_they_did(model, stream, stack, monkeypatch):
    expected = json.loads(NUMBERS.read_text())[f"{model} {stream}"]
    found = trained(model, stream, stack, monkeypatch)
    assert found.keys() == expected.keys()
    for method, numbers in found.items():
        for value, before in zip(numbers, expected[method], strict=True):
            assert value == pytest.approx(before, rel=1e-10, abs=1e-10), method


if __name__ == "__main__":
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        found = {
            f"{model} {stream}": trained(model, stream, 1, patch)
            for model in MODELS
            for stream in STREAMS
        }
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in found.items()]
    NUMBERS.write_text("{\n" + ",\n".join(lines) + "\n}\n")
