"""The command line: what it trains, what it says, and one sentence where it cannot."""

from __future__ import annotations

import inspect
import resource
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pandas as pd
import pytest
import torch
from image_folder import make_image_folder

import swrlib
from swrlib.__main__ import OPTIONS, main, parser
from swrlib.datasets import DATASETS
from swrlib.engine.scales import SCALES
from swrlib.methods import METHODS
from swrlib.models import MODELS
from swrlib.streams import STREAMS, SingleTask


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return make_image_folder(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture
def arguments(pictures, tmp_path, monkeypatch):
    """Return arguments that train in a moment, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SWR_RESULTS", raising=False)

    def made(**options):
        given = {
            "dataset": str(pictures),
            "model": "mlp",
            "stream": "warm-start",
            "methods": "vanilla",
            "epochs": "1",
        } | options
        words = ["train"]
        for name, value in given.items():
            if value is not None:
                words += [f"--{name.replace('_', '-')}", *value.split()]
        return words

    return made


def refused(arguments, capsys) -> str:
    """Run what must be refused; return its one sentence."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("swrlib: ")
    sentence = err.removeprefix("swrlib: ").rstrip("\n")
    assert "\n" not in sentence and ". " not in sentence and "Traceback" not in sentence
    return sentence


def test_it_trains_records_and_sums_up(arguments, tmp_path, capsys):
    methods = "vanilla swr:1e-3 swr:1e-4,1e-1 l2:0.5"
    assert main(arguments(methods=methods, seeds="0 2", batch_size="16")) == 0
    out, _ = capsys.readouterr()
    frame = swrlib.load_records(tmp_path / "results")
    runs = frame.drop_duplicates("run")
    assert sorted(set(runs["seed"])) == [0, 2]
    assert len(runs) == 8
    of = dict(list(runs[runs["seed"] == 0].groupby("method")))
    assert of["l2"]["lam"].tolist() == [0.5]
    pairs = of["swr"].sort_values("lam_features")[["lam_features", "lam_classifier"]]
    assert pairs.to_numpy().tolist() == [[1e-4, 1e-1], [1e-3, 1e-3]]
    assert set(frame["step"]) == {0, 2, 5}
    final = frame[(frame["epoch"] == 2) & (frame["method"] == "vanilla")]["test_accuracy"]
    (line,) = (line for line in out.splitlines() if line.startswith("vanilla"))
    assert float(line.split()[-3]) == pytest.approx(final.mean(), abs=1e-6)
    assert line.split()[-1] == "2"


@pytest.mark.parametrize("methods", ["swr:1e-4,1e-1 swr:1,1e-2", "fire fire:norm=present"])
def test_the_summary_tells_lambdas_and_options_apart(methods, arguments, capsys):
    assert main(arguments(methods=methods)) == 0
    out, _ = capsys.readouterr()
    assert [line.split()[-1] for line in out.splitlines()[2:]] == ["1", "1"]  # runs of each


@dataclass(frozen=True)
class Untested(SingleTask):
    """A stream that is evaluated on what it trains on alone."""

    name: ClassVar[str] = "untested"

    def stages(self, images, seed, labels=None):
        stages = super().stages(images, seed, labels)
        return [replace(stage, evaluated=("task",)) for stage in stages]


def test_the_summary_is_of_what_was_evaluated(arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(STREAMS, "untested", Untested)
    assert main(arguments(stream="untested", seeds="0 1")) == 0
    frame = swrlib.load_records(tmp_path / "results", epoch=1)
    assert frame["test_accuracy"].isna().all()
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("vanilla"))
    assert float(line.split()[-3]) == pytest.approx(frame["task_accuracy"].mean(), abs=1e-6)


def test_the_same_command_trains_nothing_twice(arguments, tmp_path, capsys, monkeypatch):
    assert main(arguments()) == 0
    first = capsys.readouterr().out
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: pytest.fail("trained again"))
    assert main(arguments()) == 0
    assert capsys.readouterr().out == first


def test_options_reach_the_run(arguments, tmp_path):
    options = {
        "stream": "single-task",
        "epochs": "3",
        "split": "selection",
        "optimizer_state": "new",
        "batch_size": "11",
        "measure": "factor growth",
        "results": "kept here",
        "checkpoints": "ck",
        "device": "cpu",
        "methods": "swr:0.5",
    }
    words = arguments(**(options | {"results": None, "measure": None}))
    words += ["--results", "kept here", "--measure", "factor", "growth"]
    assert main(words) == 0
    frame = swrlib.load_records(tmp_path / "kept here")
    assert frame["epoch"].max() == 3
    assert set(frame["split"]) == {"selection"}
    assert set(frame["optimizer_state"]) == {"new"}
    assert set(frame["batch_size"]) == {11}
    assert len(swrlib.load_measures(tmp_path / "kept here", measure="growth:max"))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"dataset": "mnist5k"}, "'mnist-5k'"),
        ({"dataset": "/no/such/folder"}, "/no/such/folder"),
        ({"model": "cnn-nb"}, "'cnn-bn'"),
        ({"stream": "fullaccess"}, "'full-access'"),
        ({"methods": "vanila"}, "'vanilla'"),
        ({"methods": "shrink-and-perturb:0.4"}, "'shrink-perturb'"),
        ({"methods": "swr:a-lot"}, "swr:1e-3"),
        ({"methods": "swr:1.5"}, "[0, 1]"),
        ({"methods": "swr:nan"}, "nan"),
        ({"methods": "swr:1e-3,1e-2,1e-1"}, "one λ"),
        ({"methods": "l2:1e-3,1e-2"}, "one λ"),
        ({"methods": "l2:-1"}, "-1"),
        ({"methods": "head-reset:0.1"}, "takes no λ"),
        ({"methods": "swr"}, "'swr:1e-3'"),
        ({"scale": "papr"}, "'paper'"),
        ({"paper": "swrr"}, "'swr'"),
        ({"paper": "nowhere.toml"}, "nowhere.toml"),
        ({"epochs": "0"}, "whole number"),
        ({"split": "selected"}, "'selection'"),
        ({"optimizer_state": "knew"}, "'new'"),
        ({"measure": "grwth"}, "'growth'"),
        ({"batch_size": "0"}, "batch_size"),
        ({"device": "gpu"}, "device"),
        ({"threads": "0"}, "threads"),
        ({"stack": "0"}, "stack"),
        ({"stack": "-3"}, "stack"),
        ({"minutes": "0"}, "minutes"),
        ({"minutes": "-1"}, "minutes"),
        ({"minutes": "nan"}, "minutes"),
        ({"tf32": "", "device": "cpu"}, "TensorFloat-32"),
    ],
    ids=lambda value: "-".join(next(iter(value.items()))) if isinstance(value, dict) else "",
)
def test_errors_are_one_sentence_and_status_2(wrong, words, arguments, tmp_path, capsys):
    assert words in refused(arguments(**wrong), capsys)
    assert not list(tmp_path.rglob("*"))  # nothing half-written


def test_adamw_by_name_names_the_command_that_selects_its_lambda(arguments, capsys):
    sentence = refused(arguments(dataset="mnist-5k", stream="single-task", methods="adamw"), capsys)
    _, _, command = sentence.partition("python -m swrlib ")
    words = command.split()
    assert words[0] == "train"
    parsed = parser().parse_args(words)  # it is a command that works
    assert (parsed.dataset, parsed.model, parsed.stream) == ("mnist", "mlp", "single-task")
    assert (parsed.split, parsed.scale, parsed.seeds) == ("selection", "paper", [0, 1])
    names, values = zip(*(method.split(":") for method in parsed.methods), strict=True)
    assert set(names) == {"adamw"}
    assert [float(value) for value in values] == [1e-4, 1e-3, 1e-2, 0.1, 1]


@pytest.mark.parametrize("results", [None, "my results"])
def test_the_command_that_selects_lambda_knows_a_folder_of_images(
    results, arguments, pictures, capsys
):
    words = arguments(stream="single-task", methods="adamw")
    words += ["--results", results] if results else []
    sentence = refused(words, capsys)
    command = shlex.split(sentence.partition("python -m swrlib ")[2])
    parsed = parser().parse_args(command)
    assert (parsed.dataset, parsed.results) == (str(pictures), results or "results")
    assert parsed.methods[0] == "adamw:0.0001"


def test_a_tenth_of_a_handful_of_images_is_refused(arguments, tmp_path, capsys):
    few = make_image_folder(tmp_path / "few images", train=3)
    words = arguments(split="selection", stream="single-task")
    words[words.index("--dataset") + 1] = str(few)
    assert "has 9: at least 10 are needed" in refused(words, capsys)


def test_the_help_names_everything_that_can_be_asked_for(capsys):
    with pytest.raises(SystemExit) as done:
        main(["train", "--help"])
    assert done.value.code == 0
    text = capsys.readouterr().out
    flat = " ".join(text.split()).replace("- ", "-")
    for name in (*DATASETS, *MODELS, *STREAMS, *METHODS, *SCALES, "swr:1e-3", "swr:1e-4,1e-1"):
        assert name in flat
    assert "default: None" not in flat


def test_what_is_not_asked_for_is_as_in_the_library():
    """The options are the parameters of `train`, but for those that no text can give."""
    given = vars(parser().parse_args(["train", "--dataset", "d", "--model", "m", "--stream", "s"]))
    parameters = inspect.signature(swrlib.train).parameters
    offered = {name.replace("-", "_").replace("no_", "") for name in OPTIONS}
    assert set(parameters) - offered == {"root", "stop", "progress"}
    assert offered - set(parameters) == {"minutes", "threads"}
    for name in given.keys() - {"command", "threads", "dataset", "model", "stream", "results"}:
        default = parameters[name].default
        if name == "dtype":
            assert f"torch.{given[name]}" == str(default)
        else:
            assert given[name] == (list(default) if isinstance(default, tuple) else default), name


def test_a_run_that_the_memory_does_not_hold_is_refused(arguments, capsys, monkeypatch):
    monkeypatch.setattr("swrlib.engine.jobs.free_memory", lambda device: 2**10)
    assert "0 MiB of memory are free" in refused(arguments(device="cpu"), capsys)


@pytest.mark.parametrize("dtype", ["bfloat16", "float64", None])
def test_the_type_reaches_the_run(dtype, arguments, tmp_path):
    assert main(arguments(dtype=dtype, device="cpu")) == 0
    frame = swrlib.load_records(tmp_path / "results")
    assert set(frame["dtype"]) == {dtype or "float32"}


def test_rate_and_options_of_the_model_reach_the_run(arguments, tmp_path):
    options = "hidden=[5,4] initialization=he layer_norm=true activation=tanh"
    assert main(arguments(options=options, learning_rate="0.25", device="cpu")) == 0
    frame = swrlib.load_records(tmp_path / "results")
    (run,) = frame.drop_duplicates("run").itertuples()
    assert list(run.model_hidden) == [5, 4] and run.model_layer_norm
    assert (run.model_initialization, run.model_activation) == ("he", "tanh")
    assert set(frame["lr"].dropna()) == {0.25}


def test_an_option_without_a_value_is_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        main(arguments(options="hidden"))
    assert "write it as initialization=he" in capsys.readouterr().err


@pytest.mark.parametrize(("stack", "jobs"), [("2", 3), ("1", 5), ("5", 1), (None, 1)])
def test_the_stack_says_how_many_runs_train_at_once(stack, jobs, arguments, tmp_path):
    methods = "vanilla swr:0.1 swr:0.2 l2:0.1 adamw:0.1"
    assert main(arguments(methods=methods, stack=stack, device="cpu")) == 0
    files = [pd.read_parquet(path) for path in (tmp_path / "results").glob("*.parquet")]
    assert len(files) == jobs
    assert sum(file["run"].nunique() for file in files) == 5


# Places that cannot be written


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder nobody can write to")
def test_it_trains_from_a_folder_that_cannot_be_written(arguments, tmp_path, monkeypatch):
    """As from a checkout that is mounted read-only, with the results elsewhere."""
    monkeypatch.chdir("/proc")
    results = tmp_path / "results"
    assert main([*arguments(), "--results", str(results)]) == 0
    assert len(swrlib.load_records(results)) == 3
    assert (results / ".checkpoints" / "locks").is_dir()
    assert len(pd.read_parquet(results)) == 3  # which the checkpoints do not disturb


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder nobody can write to")
def test_results_that_cannot_be_written_are_told_before_the_training(
    arguments, capsys, monkeypatch
):
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: pytest.fail("it trains"))
    sentence = refused([*arguments(), "--results", "/proc/results"], capsys)
    assert "/proc/results cannot be written" in sentence


def test_a_full_disk_is_one_sentence_with_the_path(arguments, tmp_path, capsys):
    """No file can grow, so neither a checkpoint nor the record can be written."""
    words = arguments(methods="vanilla", device="cpu")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    for more, place in ((["--minutes", "1e-9"], ".checkpoints/"), ([], "results/")):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
        try:
            status = main([*words, *more])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        err = capsys.readouterr().err.splitlines()[-1]
        assert status == 2
        assert err.startswith(f"swrlib: {place}") and "make room there" in err
        left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
        assert all(name.endswith(".lock") for name in left)
    assert main(words) == 0


# Stops


def stopped(err: str) -> int:
    """Return after which epoch it says to have stopped, in its one sentence."""
    assert err.startswith("swrlib: stopped after epoch ")
    assert err.endswith(": the same call carries on\n")
    assert err.count("\n") == 1
    return int(err.split()[4].rstrip(":"))


def test_when_its_minutes_are_over_it_stops_and_carries_on(
    arguments, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("SWR_PROGRESS", "off")
    words = arguments(methods="vanilla swr:0.1", seeds="0 1", epochs="2", batch_size="16")
    handler = signal.getsignal(signal.SIGTERM)
    assert main([*words, "--minutes", "1e-9"]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert stopped(err) == 1
    assert signal.getsignal(signal.SIGTERM) is handler
    assert not list((tmp_path / "results").glob("*"))
    assert main([*words, "--minutes", "1e-9"]) == 3
    assert stopped(capsys.readouterr().err) == 2
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert "vanilla" in out and "stopped" not in err
    undisturbed = [*words, "--results", "other", "--checkpoints", "elsewhere"]
    assert main(undisturbed) == 0
    frames = [swrlib.load_records(tmp_path / name) for name in ("results", "other")]
    frames = [frame.drop(columns="seconds") for frame in frames]
    order = ["run", "epoch"]
    pd.testing.assert_frame_equal(
        *(frame.sort_values(order, ignore_index=True) for frame in frames), check_exact=True
    )


def test_enough_minutes_are_as_good_as_none(arguments, tmp_path):
    assert main(arguments(minutes="60")) == 0
    assert swrlib.load_records(tmp_path / "results")["epoch"].max() == 2


@pytest.mark.timeout(600)
def test_a_process_that_is_asked_to_end_stops_and_carries_on(arguments, tmp_path, capsys):
    epochs = 400
    words = arguments(epochs=str(epochs), device="cpu")
    process = subprocess.Popen(
        [sys.executable, "-m", "swrlib", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        end = time.monotonic() + 240
        while not list(Path(".checkpoints").glob("locks/*")):  # it has begun
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 3
    assert out == ""
    epoch = stopped(err)
    assert 1 <= epoch < 2 * epochs
    assert not list((tmp_path / "results").glob("*"))
    torch.set_num_threads(1)
    assert main(words) == 0
    frame = swrlib.load_records(tmp_path / "results")
    assert frame["epoch"].tolist() == list(range(2 * epochs + 1))
    assert frame["step"].is_monotonic_increasing
    assert "vanilla" in capsys.readouterr().out


@pytest.mark.parametrize("dtype", ["float16", "int64", "double"])
def test_another_type_is_refused_and_the_right_ones_are_named(dtype, arguments, capsys, tmp_path):
    with pytest.raises(SystemExit) as done:
        main(arguments(dtype=dtype))
    assert done.value.code == 2
    err = capsys.readouterr().err
    assert all(name in err for name in (dtype, "float32", "float64", "bfloat16"))
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize("words", [[], ["trian"], ["train"], ["train", "--model"]])
def test_a_command_that_is_none_ends_with_status_2(words, capsys):
    with pytest.raises(SystemExit) as done:
        main(words)
    assert done.value.code == 2
    assert "usage: python -m swrlib" in capsys.readouterr().err


def test_it_is_a_module_to_run(arguments, tmp_path):
    command = [sys.executable, "-m", "swrlib", *arguments(model="mpl")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("swrlib: ") and done.stderr.count("\n") == 1
    assert "'mlp'" in done.stderr
