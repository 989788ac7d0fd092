"""What every chapter begins and ends with: parameters refused or resolved, verdicts, play."""

from pathlib import Path
from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest
import torch
from image_folder import make_image_folder
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from swrlib import build_model, cost, load_dataset, notebook, tables, trace_layers, train
from swrlib.methods import SWR, Vanilla
from swrlib.papers import SWR as paper

pytestmark = pytest.mark.usefixtures("shell")
GOOD = {"dataset": "mnist-5k", "model": "mlp", "scale": "quick", "seeds": 2, "epochs": 1}


def shown(function, *arguments, **options) -> str:
    with capture_output() as captured:
        function(*arguments, **options)
    return " ".join(output.data.get("text/html", "") for output in captured.outputs)


@pytest.fixture(scope="module")
def chapter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    chapter = notebook.Chapter(GOOD | {"results": str(folder)})
    chapter.root = folder
    return chapter


@pytest.fixture(scope="module")
def records(chapter):
    return chapter.train("single-task", ["vanilla", "swr", "l2", "adamw"])


def test_parameters_are_resolved_and_stamped():
    imported = {"pd": pd, "_x": 1, "IMAGES": {"mnist": "a constant"}}
    text = shown(notebook.begin, GOOD | imported, *GOOD)
    assert "dataset = mnist-5k" in text and "torch" in text
    with capture_output():
        chapter = notebook.begin(GOOD, *GOOD)
    assert chapter.seeds == [0, 1] and chapter.epochs == 1
    assert chapter.results.name == "records"


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"datset": "mnist"}, ["datset", "dataset"]),
        ({"dataset": "mnist-5kk"}, ["mnist-5kk", "'mnist-5k'"]),
        ({"model": "cnn_bn"}, ["cnn_bn", "'cnn-bn'"]),
        ({"scale": "papr"}, ["papr", "'paper'"]),
        ({"seeds": 0}, ["seeds is 0"]),
        ({"seeds": True}, ["seeds is True"]),
        ({"epochs": 1.5}, ["epochs is 1.5"]),
    ],
)
def test_a_wrong_parameter_is_refused_in_a_sentence(wrong, words):
    with pytest.raises(ValueError) as caught:
        notebook.begin(GOOD | wrong, *GOOD)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name, value", [("access", "ful"), ("decay", "yes"), ("results", 3), ("stream", "warm")]
)
def test_a_chapters_own_parameters_are_checked_too(name, value):
    with pytest.raises(ValueError, match=str(value)):
        notebook.begin(GOOD | {name: value}, *GOOD, name)


def test_a_lambda_that_is_borrowed_is_said(capsys):
    chapter = notebook.Chapter({"dataset": "cifar10", "model": "mlp"})
    assert chapter.methods(["vanilla", "swr"], "warm-start") == [Vanilla(), SWR(lam=0.0001)]
    assert "the paper's for MNIST" in capsys.readouterr().out
    chapter = notebook.Chapter({"dataset": "mnist-5k", "model": "mlp"})
    assert chapter.methods(["swr"], "warm-start") == [SWR(lam=0.0001)]
    assert capsys.readouterr().out == ""
    chapter = notebook.Chapter({"dataset": "cifar10", "model": "cnn-bn"})
    assert chapter.methods(["swr"], "single-task") == [SWR(lam_features=1e-4, lam_classifier=0.1)]
    assert "SWR: λ = 0.0001,0.1, the paper's for CIFAR-100" in capsys.readouterr().out
    assert chapter.methods(["shrink-perturb"], "single-task") == []
    assert capsys.readouterr().out == "S&P is left out: the paper has no λ for it\n"


def test_the_banner_judges_and_folds_what_was_not_run(chapter, records):
    text = shown(notebook.judge, chapter, "generalization", "single-task", quick=records)
    claim = paper.find_claim("generalization-best")
    assert claim.place in text
    decayed = paper.find_claim("reinit-comparable")
    assert decayed.sentence not in text, "of the other stream"
    assert decayed.sentence in shown(notebook.judge, chapter, "generalization")
    with pytest.raises(ValueError, match=r"unknown chapter 'generalisation'.*generalization"):
        notebook.judge(chapter, "generalisation")
    assert "not run at paper scale" in text and "no verdict on the paper" in text
    assert "verdict-reproduced" not in text.split("This page's own runs")[1]


def test_tabs_need_no_program():
    text = shown(notebook.panels, {"a <b>": "first", "c": "second"})
    assert text.count('type="radio"') == 2 and text.count(" checked") == 1
    assert "a &lt;b&gt;" in text and "<script" not in text


def test_methods_can_be_explored(records):
    import ipywidgets as widgets

    made = []
    widgets.Widget.on_widget_constructed(made.append)
    try:
        with capture_output():
            notebook.explore_methods(records)
    finally:
        widgets.Widget.on_widget_constructed(None)
    (choice,) = (widget for widget in made if isinstance(widget, widgets.SelectMultiple))
    (answer,) = (widget for widget in made if isinstance(widget, widgets.HTML))
    assert {m for _, m in choice.options} == set(records["method"]) and "<img" in answer.value
    choice.value = []
    assert answer.value == ""


def test_the_place_of_a_picture_of_the_website_says_what_is_missing_elsewhere():
    text = shown(notebook.offer_curves, "a <stream>")
    assert 'data-play="curves" data-stream="a &lt;stream&gt;"' in text
    assert "<script" not in text and "On the website" in text


def test_what_is_explored_follows_the_widgets_without_an_output_widget():
    """An Output widget makes the client that executes a notebook overlook replies."""
    import ipywidgets as widgets

    level, loud = widgets.IntSlider(value=2, max=5), widgets.Checkbox(description="shout")
    made = []
    widgets.Widget.on_widget_constructed(made.append)
    try:
        with capture_output() as captured:
            notebook.explore(
                lambda level, loud: f"<b>{level}{'!' * loud}</b>", level=level, loud=loud
            )
    finally:
        widgets.Widget.on_widget_constructed(None)
    (box,) = captured.outputs
    assert "application/vnd.jupyter.widget-view+json" in box.data
    assert not any(isinstance(widget, widgets.Output) for widget in made)
    (answer,) = (widget for widget in made if isinstance(widget, widgets.HTML))
    assert (level.description, loud.description) == ("level", "shout")
    assert answer.value == "<b>2</b>"
    level.value, loud.value = 4, True
    assert answer.value == "<b>4!</b>"


def test_records_at_paper_scale_are_of_one_stream_of_several_or_of_all(chapter, monkeypatch):
    streams = {name: chapter.paper_records(name) for name in ("single-task", "warm-start")}
    both = chapter.paper_records(*streams)
    assert len(both) == sum(map(len, streams.values())) > 0
    assert set(both["stream"]) == set(streams) < set(chapter.paper_records()["stream"])
    assert set(both["split"]) == {"all"} and set(both["scale"]) == {"paper"}
    assert set(chapter.paper_records(split="selection")["split"]) == {"selection"}
    monkeypatch.setenv("SWR_RESULTS", str(chapter.root / "nowhere"))
    assert not len(chapter.paper_records()) and "method" in chapter.paper_records("single-task")


def test_chapters_keep_their_records(chapter, records):
    again = train(
        dataset="mnist-5k",
        model="mlp",
        stream="single-task",
        methods="swr",
        seeds=[0, 1],
        epochs=1,
        results=chapter.results,
        progress=False,
    )
    assert set(again["run"]) <= set(records["run"])
    assert len(list(chapter.results.glob("*.parquet"))) == 2


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder nobody can write to")
def test_a_chapter_of_a_checkout_that_cannot_be_written_trains(tmp_path, monkeypatch):
    monkeypatch.chdir("/proc")
    folder = make_image_folder(tmp_path / "pictures")
    given = GOOD | {"dataset": str(folder), "seeds": 1, "results": str(tmp_path / "records")}
    frame = notebook.Chapter(given).train("single-task", ["vanilla"], progress=False)
    assert frame["epoch"].tolist() == [0, 1]
    assert (tmp_path / "records" / ".checkpoints").is_dir()


def test_a_short_training_learns_and_swr_holds_its_norms():
    data = load_dataset("mnist-5k")
    images, labels = data.normalize(data.test_images), data.test_labels
    for lam in (0.0, 1.0):
        torch.manual_seed(0)
        network = build_model("mlp", data)
        before = [layer.weight.norm().item() for layer in trace_layers(network)]
        assert notebook.train_briefly(network, data, lam=lam) is network and not network.training
        assert (network(images).argmax(1) == labels).float().mean() > 0.6
        after = [layer.weight.norm().item() for layer in trace_layers(network)]
        assert np.allclose(before, after, rtol=1e-5) == (lam == 1.0)


def test_the_runs_behind_a_cell_are_those_of_the_names_that_it_reads():
    """Frames have their own; other names those they were made from, through earlier cells."""
    frames = {name: pd.DataFrame({"run": [f"{name}1", f"{name}1", f"{name}2"]}) for name in "ab"}
    chapter = notebook.Chapter(GOOD)
    behind = notebook.RunsBehind(chapter, frames | {"c": pd.DataFrame({"x": [1]})})
    assert behind.of_cell("means = summed(a)\ntext = 'no frame'") == set()
    assert behind.of_cell("import math\nfigure, said = draw(means)\nshow(figure, said)") == {
        "a1",
        "a2",
    }
    assert behind.of_cell("show(text, c)") == set()
    assert behind.of_cell("def draw(n):\n    return picture(b, n)") == set()
    assert behind.of_cell("panels({n: draw(n) for n in (1, 2)})") == {"b1", "b2"}
    assert behind.of_cell("said = 'x'\nsaid += word(b)\nif said:\n    show(said)") == {"b1", "b2"}
    assert behind.of_cell("_ = judge(a)") == {"a1", "a2"}
    behind.namespace |= {"parts": [], "rows": {}, "tables": tables}
    source = "parts, rows = [], {}\nfor x in a:\n    parts.append(x)\nrows['b'] = b\ntables.show(a)"
    behind.of_cell(source)
    assert behind.of_cell("print(parts)") == {"a1", "a2"}
    assert behind.of_cell("print(rows)") == {"b1", "b2"} and behind.of("tables") == set()
    behind.namespace |= {"times": cost.load_cost()[0], "gpu": cost.load_gpu()}
    files = {"_benchmarks/cost.json", "_benchmarks/gpu.json"}
    assert (
        behind.of_cell("part = times[times['table'] == 'steps']\nshow(part, gpu.stacks)") == files
    )


def test_what_a_chapter_reads_while_a_cell_runs_belongs_to_the_cell(monkeypatch, shell):
    frame = pd.DataFrame({"run": ["r"], "epoch": [1]})
    monkeypatch.setattr(notebook.records, "load_records", lambda **filters: frame)
    names = {"read": None}
    with capture_output():
        chapter = notebook.begin(GOOD, *GOOD)
        notebook.begin(GOOD, *GOOD)  # as where a cell is run twice: one listener remains
    known = shell_listeners()
    assert len(known) == 1
    behind = notebook.RunsBehind(chapter, names)
    chapter.paper_records("warm-start")
    assert behind.of_cell("_ = judge(chapter)") == {"r"}
    assert behind.of_cell("_ = judge(chapter)") == set()
    result = SimpleNamespace(success=True, info=SimpleNamespace(raw_cell="show(read)"))
    names["read"] = frame
    with capture_output() as captured:
        behind(result)
    assert [output.data for output in captured.outputs] == [{notebook.RUNS: ["r"]}]


def shell_listeners() -> list[notebook.RunsBehind]:
    known = InteractiveShell.instance().events.callbacks["post_run_cell"]
    return [one for one in known if isinstance(one, notebook.RunsBehind)]
