"""The paper's numbers, checked against relations that the paper itself prints; a second paper."""

import ast
import re

import pandas as pd
import pytest
from image_folder import make_image_folder

import swrlib
from swrlib import L2, SWR, AdamW, Vanilla, make_stream, papers
from swrlib.__main__ import main
from swrlib.engine.jobs import missing_jobs, resolve
from swrlib.engine.strengths import borrow_method, find_method
from swrlib.papers import ACCURACY_KINDS, Paper, find_paper
from swrlib.papers import SWR as paper
from swrlib.verdicts import judge_claim

VGG16 = ("tinyimagenet", "vgg16")


@pytest.mark.parametrize(
    ("method", "dataset", "model", "stream", "expected"),
    [
        ("swr", "mnist", "mlp", "warm-start", 1e-4),
        ("swr", "mnist-5k", "mlp", "full-access", 1e-4),
        ("swr", "cifar10", "cnn", "limited-access", 1e-1),
        ("swr", "cifar100", "cnn-bn", "warm-start", (1e-4, 1.0)),
        ("swr", "cifar100", "cnn-bn", "single-task", (1e-4, 1e-1)),
        ("swr", "cifar100", "cnn-bn", "limited-access", (1e-1, 1e-2)),
        ("swr", "tinyimagenet", "vgg16", "limited-access", (1e-4, 1.0)),
        ("swr-reinit", "tinyimagenet", "vgg16", "single-task-decay", (1e-2, 1e-1)),
        ("swr-reinit", "mnist", "mlp", "warm-start", None),
        ("shrink-perturb", "cifar100", "cnn", "limited-access", 0.6),
        ("shrink-perturb", "mnist", "mlp", "single-task", None),
        ("l2", "tinyimagenet", "vgg16", "full-access", 1e-4),
        ("l2-init", "tinyimagenet", "vgg16", "limited-access", 1e-3),
        ("l2", "mnist", "mlp", "single-task-decay", 1e-5),
        ("vanilla", "mnist", "mlp", "single-task", None),
        ("adamw", "mnist", "mlp", "single-task", None),
        ("swr", "cifar10", "mlp", "single-task", None),
        ("swr", "mnist", "mlp", "scaled", None),
    ],
)
def test_published_lambda(method, dataset, model, stream, expected):
    assert paper.published_lambda(method, dataset, model, stream) == expected


def test_every_published_lambda_lies_on_its_grid():
    for method, grid in paper.grids.items():
        cells = paper.published_settings(method)
        assert len(cells) == (15 if method == "shrink-perturb" else 25)
        for cell in cells:
            lam = paper.published_lambda(method, *cell)
            assert set(lam if isinstance(lam, tuple) else (lam,)) <= set(grid), (method, cell)


def test_lambda_is_split_where_there_are_normalization_layers_and_only_there():
    for dataset, model, stream in paper.published_settings("swr"):
        lam = paper.published_lambda("swr", dataset, model, stream)
        assert isinstance(lam, tuple) == (model in ("cnn-bn", "vgg16"))


def test_tables_are_whole():
    methods = {1: 4, 5: 5}
    for number, table in paper.tables.items():
        assert tuple(table.accuracy) == paper.pairs
        for (_, model), column in table.accuracy.items():
            assert len(column) == methods[number]
            for accuracy in column.values():
                assert 0 < accuracy.std < 0.03 < accuracy.mean < 1
                assert accuracy.seeds == (3 if model == "vgg16" else 5)


def test_tables_say_what_the_paper_says_of_them():
    best = {pair: max(c, key=lambda m: c[m].mean) for pair, c in paper.tables[1].accuracy.items()}
    assert [best[pair] for pair in paper.pairs] == ["swr", "swr", "swr", "l2", "swr"]
    vgg = paper.tables[1].accuracy[VGG16]
    assert vgg["swr"].mean - vgg["l2"].mean > 0.04
    vgg = paper.tables[5].accuracy[VGG16]
    assert vgg["swr-reinit"].mean - max(vgg["l2"].mean, vgg["l2-init"].mean) > 0.08
    for pair, column in paper.tables[5].accuracy.items():
        assert (column["swr-reinit"].mean > column["swr"].mean) == (pair != VGG16)
        below_l2 = pair in (("cifar10", "cnn"), ("cifar100", "cnn-bn"))
        assert (column["swr-reinit"].mean < column["l2"].mean) == below_l2


def test_printed_accuracy():
    swr = paper.printed_accuracy("swr", "mnist", "mlp", "single-task")
    assert (swr.mean, swr.std, swr.seeds) == (0.9822, 0.0024, 5)
    assert paper.printed_accuracy("swr", "mnist", "mlp", "single-task-decay").mean == 0.9796
    assert paper.printed_accuracy("swr", "mnist", "mlp", "warm-start") is None
    assert paper.printed_accuracy("swr", "mnist-5k", "mlp", "single-task") is None
    assert paper.printed_accuracy("adamw", "mnist", "mlp", "single-task") is None


def test_claims_speak_of_known_things():
    ids = [claim.id for claim in paper.claims]
    assert len(set(ids)) == len(ids)
    assert all(paper.find_claim(id).id == id for id in ids)
    for claim in paper.claims:
        assert claim.sentence.endswith(".") and claim.place
        assert set(claim.methods + claim.rivals) <= set(paper.labels)
        assert all(len(cell) == 3 and set(cell) <= set(paper.labels) for cell in claim.cells)
        if claim.kind in ACCURACY_KINDS:
            assert claim.methods and claim.rivals and claim.cells
            assert not set(claim.methods) & set(claim.rivals)
    with pytest.raises(ValueError, match="unknown claim 'nothing'"):
        paper.find_claim("nothing")


def test_claims_are_judged_where_the_figures_and_tables_that_they_cite_have_them():
    for claim in paper.claims:
        cited = " ".join(re.findall(r"Figs?\. [\d and]+", claim.place))
        figures = set(map(int, re.findall(r"\d", cited)))
        drawn = {panel.cell for panel in paper.panels if panel.figure in figures}
        if claim.kind in ACCURACY_KINDS and figures:
            assert set(claim.cells) <= drawn, claim.id
            assert figures == {p.figure for p in paper.panels if p.cell in claim.cells}, claim.id
        for number in map(int, re.findall(r"Table (\d)", claim.place)):
            assert {stream for *_, stream in claim.cells} == {paper.tables[number].stream}, claim.id


def test_claims_say_no_more_than_is_printed():
    """Scope words of the paper's that a sentence once lacked."""
    words = {
        "no-unbounded-growth": ["3.3", "Theorem 2", "fixed λ"],
        "growth-without": ["can go on growing"],
        "lipschitz-similarly": ["similarly"],
        "normalization-diverges": ["non-stationary"],
        "warm-start-harms": ["only drawn", "CIFAR-10, CIFAR-100 and Tiny ImageNet"],
        "warm-start-penalties-small": ["generally"],
        "full-access-drops": ["immediately"],
        "full-access-steady": ["relatively small models"],
        "limited-access-loss": ["on CNNs"],
        "generalization-best": ["most data and models"],
        "generalization-exception": ["as its numbers stand"],
        "reinit-over-swr": ["generally"],
        "overall-swr": ["consistently"],
        "overall-l2": ["often"],
    }
    for id, expected in words.items():
        claim = paper.find_claim(id)
        assert all(word in f"{claim.place} {claim.sentence}" for word in expected), id
    assert "Frobenius" not in paper.find_claim("lipschitz-similarly").sentence


def test_quantifiers_are_the_sentences_words():
    read = {
        "generally": "generally",
        "generally in most": "In most small models regularizers generally",
        "most": "most data and models",
        "often": "often",
        "sometimes": "occasionally",
    }
    of_claims = {claim.id: claim.quantifier for claim in paper.claims}
    for claim in paper.claims:
        words = claim.sentence.split()
        said = {"generally", "often", "occasionally", "largely", "most"} & set(words)
        said -= {"most"} if "at most" in claim.sentence else set()
        assert bool(said) == (claim.quantifier != "all"), (claim.id, said)
        if claim.quantifier in read and claim.id != "reinit-comparable":
            assert read[claim.quantifier] in claim.sentence, claim.id
    assert of_claims["reinit-comparable"] == "most"  # "largely"


def test_what_is_printed_for_vgg_alone_is_claimed_for_it_alone():
    for claim in paper.claims:
        alone = bool(claim.cells) and {cell[:2] for cell in claim.cells} == {VGG16}
        assert alone == ("On VGG-16" in claim.sentence or "on VGG-16" in claim.sentence), claim.id
    halves = {
        "full-access-swr-vgg": "from the middle on",
        "limited-access-loss-vgg": "nothing",
        "generalization-vgg": "over four points",
        "reinit-vgg": "over eight points",
        "generalization-penalties-vgg": "minimally",
        "reinit-drop-vgg": "slightly below",
    }
    for id, words in halves.items():
        assert words in paper.find_claim(id).sentence


def test_remarks_are_ours_and_every_claim_has_a_chapter(root):
    for claim in paper.claims:
        assert claim.remark == claim.place.startswith("ours"), claim.id
        assert (root / f"notebooks/{claim.chapter}.ipynb").exists(), claim.id


def test_the_size_that_matters_is_a_tenth_of_the_axis_of_a_warm_start():
    assert paper.sizes == {
        ("mnist", "mlp"): 0.0014,
        ("cifar10", "cnn"): 0.01,
        ("cifar100", "cnn"): 0.01,
        ("cifar100", "cnn-bn"): 0.012,
        VGG16: 0.014,
        ("cifar10", "mlp"): 0.008,
    }
    for claim in paper.claims:
        for cell in claim.cells:
            if claim.kind in ACCURACY_KINDS:
                assert 0 < paper.size_that_matters(claim, cell) < 0.1
    steady = paper.find_claim("full-access-steady")
    axes = {p.cell: p.axis for p in paper.panels if p.cell[2] == "full-access"}
    for cell in steady.cells:
        tenth = (axes[cell][1] - axes[cell][0]) / 10
        assert paper.size_that_matters(steady, cell) == pytest.approx(tenth)
    assert paper.size_that_matters(None, ("mnist-5k", "mlp", "single-task")) != 0


def test_panels_lie_in_their_streams():
    assert {panel.figure for panel in paper.panels} == set(range(1, 9))
    for panel in paper.panels:
        assert panel.cell[2] in paper.epochs and set(panel.cell) <= set(paper.labels)
        assert panel.axis is None or 0 <= panel.axis[0] < panel.axis[1] < 1
    (panel,) = (p for p in paper.panels if p.cell == ("mnist", "mlp", "warm-start"))
    assert (panel.figure, panel.axis) == (6, (0.970, 0.984))


# A second paper: a file, and nothing else


SECOND = """
title = "Another paper"
source = "Somebody, Section 2"
batch_size = 7
learning_rate = 2e-2
optimizer = "sgd:0.9"
pairs = ["mnist mlp", "cifar10 cnn"]
seeds = { mlp = 2, cnn = 3 }

[details]
tasks = 800

[epochs]
single-task = [3]
limited-access = [2, 2, 2, 2]

[grids]
l2 = [0.00123456789, 0.5]

[labels]
mlp = "perceptron"

[same_lambda]
datasets = { mnist-5k = "mnist" }
streams = { full-access = "limited-access" }
methods.limited-access = { swr-reinit = "swr" }

[lambda.single-task]
"mnist mlp" = { l2 = 0.00123456789 }

[lambda.limited-access]
"mnist mlp" = { swr = [0.25, 0.00123456789] }

[table.4]
stream = "single-task"
place = "Table 4"
accuracy.l2 = [[0.5, 0.01], [0.25, 0.02]]

[figures]
panels = [
    { figure = 2, cell = "mnist mlp single-task", measure = "test_accuracy", axis = [0.1, 0.9] },
]

[[claim]]
id = "better"
kind = "ordering"
place = "Section 3"
sentence = "L2 is better."
methods = ["l2"]
rivals = ["vanilla"]
streams = ["single-task"]
"""


@pytest.fixture
def second(tmp_path):
    """Return the file of a second paper."""
    path = tmp_path / "second.toml"
    path.write_text(SECOND)
    return path


def test_a_second_paper_is_read_from_its_file(second):
    other = Paper.read(second)
    assert (other.title, other.batch_size, other.optimizer) == ("Another paper", 7, "sgd:0.9")
    assert other.epochs == {"single-task": (3,), "limited-access": (2, 2, 2, 2)}
    assert other.published_lambda("l2", "mnist", "mlp", "single-task") == 0.00123456789
    assert other.published_lambda("l2", "mnist-5k", "mlp", "single-task") == 0.00123456789
    pair = (0.25, 0.00123456789)
    assert other.published_lambda("swr-reinit", "mnist", "mlp", "full-access") == pair
    assert other.published_lambda("swr-reinit", "cifar10", "cnn", "full-access") is None
    assert other.published_settings("l2") == [("mnist", "mlp", "single-task")]
    accuracy = other.printed_accuracy("l2", "cifar10", "cnn", "single-task")
    assert (accuracy.mean, accuracy.std, accuracy.seeds) == (0.25, 0.02, 3)
    claim = other.find_claim("better")
    assert claim.cells == (("mnist", "mlp", "single-task"), ("cifar10", "cnn", "single-task"))
    assert other.panels[0].axis == (0.1, 0.9)
    assert (other.label("mlp"), other.label("cnn"), paper.label("mlp")) == (
        "perceptron",
        "cnn",
        "MLP",
    )
    assert other.details == {"tasks": 800}


def test_a_paper_in_the_folder_goes_by_its_name(second, monkeypatch):
    monkeypatch.setattr(papers, "FOLDER", second.parent)
    assert papers.known_papers() == ["second"]
    assert find_paper("second").title == "Another paper"
    assert make_stream("single-task", scale="paper", paper="second").epochs == (3,)
    with pytest.raises(ValueError, match="did you mean 'second'"):
        find_paper("secnd")


def test_papers_stand_side_by_side(second):
    """Each has its own set-up and λ's; what is said in the call goes before both."""
    asked = {"dataset": "mnist", "model": "mlp", "stream": "limited-access", "methods": "swr"}
    (ours,), (theirs,) = (resolve(**asked, paper=p, scale="paper") for p in ("swr", second))
    assert (ours.batch_size, ours.stream.learning_rate, ours.stream.epochs) == (
        256,
        1e-3,
        (100,) * 10,
    )
    assert (theirs.batch_size, theirs.stream.learning_rate) == (7, 2e-2)
    assert theirs.stream.epochs == (2,) * 4 and theirs.optimizer.momentum == 0.9
    assert ours.method == SWR(lam=1e-4)
    assert theirs.method == SWR(lam_features=0.25, lam_classifier=0.00123456789)
    assert ours.columns("cpu")["scale"] == theirs.columns("cpu")["scale"] == "paper"
    said = {"batch_size": 9, "optimizer": "adam", "epochs": 6}
    (run,) = resolve(**asked, **said, paper=second)
    assert (run.batch_size, run.optimizer.name, run.stream.epochs) == (9, "adam", (6,) * 10)
    assert run.columns("cpu")["scale"] == "custom"
    # The run is its configuration, whatever paper it was asked for by.
    plain = {"dataset": "mnist", "model": "mlp", "methods": "vanilla", "batch_size": 16}
    plain |= {"stream": make_stream("single-task", epochs=3, learning_rate=2e-2)}
    (one,), (same,) = (resolve(**plain, optimizer="adam", paper=p) for p in ("swr", second))
    assert one == same and one.hash == same.hash
    assert (one.columns("cpu")["scale"], same.columns("cpu")["scale"]) == ("custom", "paper")


@pytest.mark.parametrize("way", ["path", "object", "command line"])
def test_a_second_paper_trains(way, second, tmp_path, monkeypatch):
    pictures = make_image_folder(tmp_path / "pictures")
    results = tmp_path / "results"
    asked = {"dataset": str(pictures), "model": "mlp", "stream": "single-task", "scale": "paper"}
    asked |= {"methods": ["vanilla"], "results": str(results)}
    asked |= {"paper": Paper.read(second) if way == "object" else str(second)}
    if way == "command line":
        assert missing_jobs({"it": asked}) == ["it"]
        words = [word for key, value in asked.items() for word in (f"--{key}", "".join(value))]
        monkeypatch.chdir(tmp_path)
        assert main(["train", *words]) == 0
        assert missing_jobs({"it": asked}) == []
    else:
        swrlib.train(**asked, checkpoints=tmp_path / "checkpoints", progress=False)
    rows = swrlib.load_records(results)
    assert set(rows["scale"]) == {"paper"} and rows["epoch"].max() == 3
    assert set(rows["lr"].dropna()) == {2e-2} and set(rows["batch_size"]) == {7}
    assert set(rows["optimizer"]) == {"sgd"} and set(rows["optimizer_momentum"]) == {0.9}


def test_records_of_another_papers_streams_are_passed_over(root):
    """A folder may hold both papers' runs: each claim is judged on its own."""
    try:
        frame = swrlib.load_records(root / "results", dataset="mnist", stream="single-task")
    except FileNotFoundError:
        pytest.skip("results/ holds no records yet")
    other = frame.assign(stream="permuted-pixels", run=frame["run"].str[::-1])
    claim = paper.find_claim("generalization-best")
    alone, both = (judge_claim(claim, rows) for rows in (frame, pd.concat([frame, other])))
    assert (alone.label, alone.detail) == (both.label, both.detail)


def test_what_a_paper_lacks_is_said(second):
    other = find_paper(second)
    with pytest.raises(ValueError, match="has no stream 'warm-start'") as caught:
        make_stream("warm-start", scale="paper", paper=other)
    assert "it has single-task, limited-access" in str(caught.value)
    with pytest.raises(ValueError, match=r"published: mnist mlp single-task"):
        find_method("l2", "cifar10", "cnn", "single-task", None, paper=other)


def test_a_lambda_is_borrowed_without_losing_a_digit(second):
    other = Paper.read(second)
    method, said = borrow_method("l2", "cifar10", "mlp", "single-task", None, paper=other)
    assert method == L2(lam=0.00123456789)
    assert said == "λ = 0.00123457, the paper's for mnist (none for cifar10)"
    method, said = borrow_method("swr", "cifar10", "mlp", "full-access", None, paper=other)
    assert method == SWR(lam_features=0.25, lam_classifier=0.00123456789)
    for name, own in (("vanilla", Vanilla()), ("swr:0.00123456789", SWR(lam=0.00123456789))):
        found = borrow_method(name, "mnist", "mlp", "single-task", None, paper=paper)
        assert found == (own, "")
    nothing = borrow_method("shrink-perturb", "mnist", "mlp", "single-task", None, paper=paper)
    assert nothing == (None, "the paper has no λ for it")
    method, said = borrow_method("adamw", "cifar10", "mlp", "single-task", None, paper=paper)
    assert isinstance(method, AdamW) and "held-out images of MNIST MLP single task" in said
    with pytest.raises(ValueError, match="'vanilla'"):
        borrow_method("vanila", "mnist", "mlp", "single-task", None, paper=paper)


@pytest.mark.parametrize(
    ("wrong", "right", "words"),
    [
        ("batch_size = 7", "", "it lacks 'batch_size'"),
        ("title", "titel", "it lacks 'title'"),
        ("optimizer", "optimiser", "unknown 'optimiser': did you mean 'optimizer'"),
        ("streams = [", "stream = [", "the claim 'better' has an unknown 'stream'"),
        ('place = "Section 3"', "", "the claim 'better' lacks 'place'"),
        ('place = "Table 4"', "", "table 4 lacks 'place'"),
        ("[[0.5, 0.01], [0.25, 0.02]]", "[[0.5, 0.01]]", "table 4: l2 has 1 of 2 columns"),
        ("cnn = 3", "vgg16 = 3", "the number of seeds, which lacks 'cnn'"),
        ("figure = 2, ", "", "a panel lacks 'figure'"),
        ('cell = "mnist mlp single-task"', 'cell = "mnist mlp"', "'mnist' must be"),
        ('["mnist mlp", "cifar10 cnn"]', '["mnist-mlp"]', "'mnist-mlp' must be"),
        ("methods.limited", "methods.unlimited", "no λ for the stream 'unlimited-access'"),
        ('full-access = "limited', 'full-access = "unlimited', "for the stream 'unlimited-access'"),
        ("single-task = [3]", "single-task = 3", "epochs of 'single-task' must be a list"),
        ("single-task = [3]", "single-task = [3.5]", "epochs of 'single-task' is 3.5"),
        ("batch_size = 7", "batch_size = '7'", "batch_size is '7'"),
        ("l2 = 0.00123456789 }", "l2 = 'some' }", "λ is 'some': it must be a number"),
        ("[details]", "details = 3\n[more]", "unknown 'more'"),
        ("[epochs]", "[epochs", "line"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(wrong, right, words, second):
    assert wrong in SECOND
    second.write_text(SECOND.replace(wrong, right, 1))
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        find_paper(second)
    message = str(caught.value)
    assert "second.toml" in message and "\n" not in message and ". " not in message


def test_a_paper_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"third\.toml"):
        find_paper(tmp_path / "third.toml")
    with pytest.raises(ValueError, match="unknown paper 'swrr': did you mean 'swr'"):
        resolve(dataset="mnist", model="mlp", stream="single-task", methods="l2", paper="swrr")


def test_streams_and_the_loop_know_no_paper(root):
    """Only what resolves a request asks a paper: λ's in one file, epochs in another."""
    asking = {
        path.name
        for room in ("streams", "engine")
        for path in (root / "swrlib" / room).glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and "papers" in f"{node.module} {node.names[0].name}"
    }
    assert asking == {"strengths.py", "scales.py", "runs.py"}
