"""The paper's numbers, checked against relations that the paper itself prints."""

import re

import pytest

from swrlib import paper

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
    for method, grid in paper.GRIDS.items():
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
    for number, table in paper.TABLES.items():
        assert tuple(table.accuracy) == paper.PAIRS
        for (_, model), column in table.accuracy.items():
            assert len(column) == methods[number]
            for accuracy in column.values():
                assert 0 < accuracy.std < 0.03 < accuracy.mean < 1
                assert accuracy.seeds == (3 if model == "vgg16" else 5)


def test_tables_say_what_the_paper_says_of_them():
    best = {pair: max(c, key=lambda m: c[m].mean) for pair, c in paper.TABLES[1].accuracy.items()}
    assert [best[pair] for pair in paper.PAIRS] == ["swr", "swr", "swr", "l2", "swr"]
    vgg = paper.TABLES[1].accuracy[VGG16]
    assert vgg["swr"].mean - vgg["l2"].mean > 0.04
    vgg = paper.TABLES[5].accuracy[VGG16]
    assert vgg["swr-reinit"].mean - max(vgg["l2"].mean, vgg["l2-init"].mean) > 0.08
    for pair, column in paper.TABLES[5].accuracy.items():
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
    ids = [claim.id for claim in paper.CLAIMS]
    assert len(set(ids)) == len(ids)
    assert all(paper.find_claim(id).id == id for id in ids)
    for claim in paper.CLAIMS:
        assert claim.sentence.endswith(".") and claim.place
        assert set(claim.methods + claim.rivals) <= set(paper.LABELS)
        assert all(len(cell) == 3 and set(cell) <= set(paper.LABELS) for cell in claim.cells)
        if claim.kind in paper.ACCURACY_KINDS:
            assert claim.methods and claim.rivals and claim.cells
            assert not set(claim.methods) & set(claim.rivals)
    with pytest.raises(ValueError, match="unknown claim 'nothing'"):
        paper.find_claim("nothing")


def test_claims_are_judged_where_the_figures_and_tables_that_they_cite_have_them():
    for claim in paper.CLAIMS:
        cited = " ".join(re.findall(r"Figs?\. [\d and]+", claim.place))
        figures = set(map(int, re.findall(r"\d", cited)))
        drawn = {panel.cell for panel in paper.PANELS if panel.figure in figures}
        if claim.kind in paper.ACCURACY_KINDS and figures:
            assert set(claim.cells) <= drawn, claim.id
            assert figures == {p.figure for p in paper.PANELS if p.cell in claim.cells}, claim.id
        for number in map(int, re.findall(r"Table (\d)", claim.place)):
            assert {stream for *_, stream in claim.cells} == {paper.TABLES[number].stream}, claim.id


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
    of_claims = {claim.id: claim.quantifier for claim in paper.CLAIMS}
    for claim in paper.CLAIMS:
        words = claim.sentence.split()
        said = {"generally", "often", "occasionally", "largely", "most"} & set(words)
        said -= {"most"} if "at most" in claim.sentence else set()
        assert bool(said) == (claim.quantifier != "all"), (claim.id, said)
        if claim.quantifier in read and claim.id != "reinit-comparable":
            assert read[claim.quantifier] in claim.sentence, claim.id
    assert of_claims["reinit-comparable"] == "most"  # "largely"


def test_what_is_printed_for_vgg_alone_is_claimed_for_it_alone():
    for claim in paper.CLAIMS:
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
    for claim in paper.CLAIMS:
        assert claim.remark == claim.place.startswith("ours"), claim.id
        assert (root / f"notebooks/{claim.chapter}.ipynb").exists(), claim.id


def test_the_size_that_matters_is_a_tenth_of_the_axis_of_a_warm_start():
    assert paper.SIZES == {
        ("mnist", "mlp"): 0.0014,
        ("cifar10", "cnn"): 0.01,
        ("cifar100", "cnn"): 0.01,
        ("cifar100", "cnn-bn"): 0.012,
        VGG16: 0.014,
        ("cifar10", "mlp"): 0.008,
    }
    for claim in paper.CLAIMS:
        for cell in claim.cells:
            if claim.kind in paper.ACCURACY_KINDS:
                assert 0 < paper.size_that_matters(claim, cell) < 0.1
    steady = paper.find_claim("full-access-steady")
    axes = {p.cell: p.axis for p in paper.PANELS if p.cell[2] == "full-access"}
    for cell in steady.cells:
        tenth = (axes[cell][1] - axes[cell][0]) / 10
        assert paper.size_that_matters(steady, cell) == pytest.approx(tenth)
    assert paper.size_that_matters(None, ("mnist-5k", "mlp", "single-task")) != 0


def test_panels_lie_in_their_streams():
    assert {panel.figure for panel in paper.PANELS} == set(range(1, 9))
    for panel in paper.PANELS:
        assert panel.cell[2] in paper.EPOCHS and set(panel.cell) <= set(paper.LABELS)
        assert panel.axis is None or 0 <= panel.axis[0] < panel.axis[1] < 1
    (panel,) = (p for p in paper.PANELS if p.cell == ("mnist", "mlp", "warm-start"))
    assert (panel.figure, panel.axis) == (6, (0.970, 0.984))
