"""Claims of *Spectral Collapse*: made-up records of every outcome, and which records count."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from swrlib import build_model, load_dataset, notebook, verdicts
from swrlib.claims import continual_backprop, gauss_newton, in_words, spectral_collapse_tables
from swrlib.claims import spectral_collapse as collapse
from swrlib.claims.spectral_collapse import FORMS, PAPER
from swrlib.figures import STYLE
from swrlib.figures import spectra as pictures

HOLDS, NOT, OPEN = "holds in small", "does not hold in small", "undecided in small"
MIXED, BACK = "mixed in small", "reversed in small"
METHODS = ("vanilla", "swr", "l2", "l2-er", "spectral", "layer-norm-l2")
MEASURED = (1, 11, 21, 31, 40)
#: What online accuracy ends at, what of the ε-rank is left, what the features' ranks are.
ENDS = {
    "vanilla": (0.70, 0.2, 20.0),
    "swr": (0.78, 0.5, 30.0),
    "l2": (0.75, 0.4, 25.0),
    "l2-er": (0.85, 0.95, 60.0),
    "spectral": (0.81, 0.8, 45.0),
    "layer-norm-l2": (0.76, 0.45, 26.0),
}
START = 0.82


def made_up(seeds=5, ends=ENDS, released=None, weights=None):
    """Return rows a run and task in which everything is as the paper claims."""
    random = np.random.default_rng(0)
    parts = []
    for (method, (end, rank, features)), seed in itertools.product(ends.items(), range(seeds)):
        task = np.arange(1, 41)
        passed = (task - 1) / 39
        noise = 0.001 * random.standard_normal(40)
        kept = 1 - (1 - rank) * passed + noise
        start = max(START, end) if method == "l2-er" else START
        seen = np.isin(task, MEASURED)
        columns = {
            "online": start + (end - start) * passed + noise,
            "spectrum-start, largest": 10 * (1 + 9 * passed * abs(1 - rank)),
            "spectrum-start, smallest": -1.0 + noise,
            "features": features * (1 + noise),
            "dead": 10.0 + noise,
            "weights": (20 + 20 * passed * abs(1 - rank)) * (1 + noise),
        }
        of_method = columns | ({"weights": weights(method, task)} if weights else {})
        for epsilon, form in itertools.product(("0.001", "0.01", "0.1"), FORMS):
            values = kept if form == "epsilon-rank" or released is None else released(kept, task)
            of_method[f"spectrum-start, {form} {epsilon}"] = values
        rows = pd.DataFrame(of_method)
        ranks = [name for name in rows if name.startswith("spectrum") or name == "features"]
        rows.loc[~seen, ranks] = np.nan
        about = {"run": f"{method}-{seed}", "method": method, "seed": seed, "task": task}
        parts.append(rows.assign(**about, lam=1e-3))
    return pd.concat(parts, ignore_index=True)


def words(rows, **given) -> dict[str, str]:
    return {v.claim.id.removeprefix("collapse-"): v.verdict for v in collapse.judged(rows, **given)}


def detail(rows, name, **given) -> str:
    found = {v.claim.id: v.detail for v in collapse.judged(rows, **given)}
    return found[f"collapse-{name}"]


CLAIMED = ("loss", "l2-er-keeps", "l2-er-best", "precedes", "keepers", "predicts", "features")


def test_records_as_the_paper_has_them_hold_in_small_and_are_never_reproduced():
    found = collapse.judged(made_up())
    said = {v.claim.id.removeprefix("collapse-"): v for v in found}
    assert [said[name].verdict for name in CLAIMED] == [HOLDS] * len(CLAIMED)
    assert "40 of 800 tasks" in said["loss"].label and collapse.SMALL in said["loss"].label
    assert {v.claim.id for v in found if "reproduced" in v.verdict} == {"collapse-gram"}


def test_every_claim_has_cases_or_says_what_it_would_take():
    ids = {claim.id for claim in PAPER.claims}
    needs = set(PAPER.details["needs"])
    elsewhere = {"collapse-utility", "collapse-gram"}
    assert set(collapse.READINGS) | needs | elsewhere == ids and not needs & elsewhere
    for verdict in collapse.judged(made_up()[:0]):
        assert verdict.claim.id in elsewhere or verdict.verdict == verdicts.NOT_RUN
        if verdict.claim.id in needs:
            assert verdict.detail == PAPER.details["needs"][verdict.claim.id]


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ({"vanilla": (0.82, 0.2, 20.0)}, {"loss": "no effect in small"}),
        (
            {"vanilla": (0.90, 0.2, 20.0)},
            {"loss": BACK, "l2-er-best": MIXED},
        ),
        ({"l2-er": (0.72, 0.95, 60.0)}, {"l2-er-keeps": NOT, "l2-er-best": MIXED}),
        (
            {"vanilla": (0.70, 1.6, 20.0)},
            {"precedes": BACK, "keepers": BACK},
        ),
        ({"vanilla": (0.70, 0.97, 20.0)}, {"precedes": "no effect in small"}),
        ({"l2-er": (0.85, 0.95, 10.0)}, {"features": MIXED}),
    ],
)
def test_what_comes_out_otherwise_is_said(ends, expected):
    found = words(made_up(ends=ENDS | ends))
    assert {name: found[name] for name in expected} == expected


def test_three_seeds_decide_what_is_seen_and_rule_nothing_out():
    found = words(made_up(seeds=3))
    assert found["loss"] == HOLDS and found["l2-er-keeps"] == OPEN
    assert words(made_up(seeds=2))["loss"] == verdicts.TOO_FEW_SEEDS


def test_a_released_rank_that_says_nothing_predicts_nothing():
    random = np.random.default_rng(1)
    rows = made_up(released=lambda kept, task: random.standard_normal(len(kept)))
    found = words(rows)
    assert found["predicts"] == NOT, "its R² is below a half for certain"
    assert "-0.5" in detail(rows, "predicts").replace("−", "-")


def test_a_rank_that_falls_as_accuracy_rises_counts_against_it():
    rows = made_up(released=lambda kept, task: -kept)
    assert words(rows)["predicts"] == NOT
    rising = made_up(released=lambda kept, task: 2 - kept)
    assert words(rising)["precedes"] == HOLDS
    assert float(detail(rising, "released-falls").split(": ")[-1].split(" ")[0]) < -0.5
    share = collapse.explained(pd.Series([1.0, 2.0, 3.0]), pd.Series([3.0, 2.0, 1.0]))
    assert share == pytest.approx(-1)
    assert np.isnan(collapse.explained(pd.Series([1.0, 1.0, 1.0]), pd.Series([3.0, 2.0, 1.0])))


def test_r_squared_is_that_of_a_straight_line_over_means_of_seeds_without_the_first_task():
    of_spectra = collapse.spectra(made_up())
    assert set(of_spectra["task"]) == set(MEASURED)
    assert sorted(of_spectra["epsilon"].unique()) == [0.001, 0.01, 0.1]
    table = collapse.r_squared_by_epsilon(of_spectra).set_index("epsilon")
    rows = of_spectra[(of_spectra["epsilon"] == 0.1) & (of_spectra["task"] > 1)]
    means = rows.groupby(["method", "task"])[["epsilon-rank", "online"]].mean()
    x, y = means.to_numpy().T
    line = np.polyval(np.polyfit(x, y, 1), x)
    expected = 1 - ((y - line) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    assert table.at[0.1, "epsilon-rank"] == pytest.approx(expected)
    assert len(means) == len(METHODS) * (len(MEASURED) - 1)


def test_the_released_rank_may_follow_the_width():
    by_weight = detail(made_up(), "width")
    follows = made_up(released=lambda kept, task: 0.1 * np.log(10 * (1 + 9 * (1 - kept)) + 1))
    assert float(by_weight.split(": ")[-1].split(" ")[0]) < 0
    assert float(detail(follows, "width").split(": ")[-1].split(" ")[0]) > 0.0


def test_larger_weights_count_against_the_claim_of_small_ones():
    rows = made_up(weights=lambda method, task: (40.0 if method == "l2-er" else 20.0) + task / 999)
    assert words(rows)["features"] == MIXED


def test_l2_er_is_judged_against_every_method_of_the_figure_and_the_label_says_who_lacks():
    claim = PAPER.find_claim("collapse-l2-er-best")
    assert {*claim.rivals, "l2-er"} == set(PAPER.details["levels"])
    few = {v.claim.id: v for v in collapse.judged(made_up())}[claim.id]
    assert few.verdict == HOLDS and "4 of 6 cases" in few.label
    assert few.detail.endswith(PAPER.details["needs"][claim.id])
    level = ENDS | {"continual-backprop": (0.8495, 0.9, 50.0), "er": (0.70, 0.2, 22.0)}
    both = {v.claim.id: v for v in collapse.judged(made_up(ends=level))}
    assert " cases" not in both[claim.id].label and "recorded" not in both[claim.id].detail
    assert "continual backprop" in both[claim.id].detail and both[claim.id].verdict != HOLDS
    assert both["collapse-er-alone"].verdict == HOLDS
    better = made_up(ends=level | {"er": (0.78, 0.2, 22.0)})
    assert words(better)["er-alone"] == NOT and words(made_up())["er-alone"] == verdicts.NOT_RUN


@pytest.mark.parametrize(("end", "said"), [(0.80, HOLDS), (0.90, BACK)])
def test_version_3_s_own_measure_of_plasticity_is_a_reset_network(end, said):
    assert words(made_up(ends=ENDS | {"full-reset": (end, 1.0, 70.0)}))["above-reset"] == said
    assert words(made_up())["above-reset"] == verdicts.NOT_RUN


def test_every_method_that_keeps_its_accuracy_has_to_keep_the_rank():
    low = {"fire": (0.82, 0.05, 30.0), "full-reset": (0.83, 0.9, 70.0)}
    low["spectral"] = (0.79, 0.8, 45.0)
    rows = made_up(ends=ENDS | low)
    assert set(collapse.Courses(rows).keepers()) == {"l2-er", "fire", "full-reset"}
    assert words(rows)["keepers"] == MIXED and "FIRE minus vanilla" in detail(rows, "keepers")
    said = in_words.keepers(rows)
    first, others = said.split("All others, ")
    assert "FIRE 0.06" in first and "vanilla 0.2" in others and "spectral" in others
    assert said.endswith("Above full reset, by their means: L2-ER.")
    losing = collapse.Courses(made_up(ends=ENDS | {"fire": (0.70, 0.05, 30.0)}))
    assert "fire" not in losing.keepers(), "of a method that loses accuracy nothing is claimed"
    none = made_up(ends=ENDS | {"l2-er": (0.70, 0.95, 60.0), "swr": (0.60, 0.5, 30.0)}, seeds=3)
    assert words(none)["keepers"] == verdicts.NOT_RUN
    assert detail(none, "keepers") == PAPER.details["needs"]["collapse-keepers"]
    assert in_words.keepers(rows[:0]) == ""


def test_the_gram_matrix_has_the_gauss_newton_spectrum_and_other_weights_are_found_out(monkeypatch):
    claim = PAPER.find_claim("collapse-gram")
    assert gauss_newton.same_spectrum(claim, range(2)).verdict == "reproduced"
    right = gauss_newton.root_of_weights
    monkeypatch.setattr(gauss_newton, "root_of_weights", lambda x: right(x).diag().diag())
    assert gauss_newton.same_spectrum(claim, range(2)).verdict == "not reproduced"
    assert gauss_newton.same_spectrum(claim, ()).verdict == verdicts.NOT_RUN


def test_the_weights_of_the_loss_are_its_hessian():
    logits = torch.randn(4, 3, dtype=torch.float64)
    labels = torch.tensor([0, 2, 1, 1])

    def loss(flat):
        return nn.functional.cross_entropy(flat.view(4, 3), labels)

    root = gauss_newton.root_of_weights(logits)
    dense = torch.autograd.functional.hessian(loss, logits.flatten())
    torch.testing.assert_close(root @ root, dense)
    network = next(iter(gauss_newton.spectra(8, 0)))
    assert 0 < (network > 1e-12).sum() <= 16, "two directions of three outputs, of 8 images"


# --- records ---------------------------------------------------------------------------------


def records(**changed):
    """Return records of three tasks as `load_records` has them."""
    row = {"dataset": "mnist-unit", "model": "mlp", "stream": "pixel-permuted", "epochs": 3}
    row |= {"run": "a", "method": "l2", "lam": 1e-3, "seed": 0, "tasks": 3, "images": 10_000}
    row |= {"lr": 0.2, "model_hidden": [100, 100, 100], "model_initialization": "he"}
    row |= {"batch_size": 10.0, "optimizer": "sgd", "diverged": False, "task_accuracy": 0.9}
    row |= {"model_layer_norm": np.nan, "weight_norms": [3.0, 4.0]} | changed
    parts = [row | {"stage": k, "epoch": k, "train_accuracy": 0.8 + k / 100} for k in (1, 2, 3)]
    return pd.DataFrame(parts)


def test_only_runs_in_small_are_judged():
    kept = records()
    others = [
        records(run="b", dataset="mnist"),
        records(run="c", images=1280),
        records(run="d", batch_size=256.0),
        records(run="e", optimizer=None),
        records(run="f", seed=100),
        records(run="g", tasks=2),
        records(run="h", stream="label-shuffled"),
        records(run="i", model_activation="tanh"),
        records(run="j", lr=0.1),
        records(run="k", model_hidden=[1000, 1000, 1000]),
        records(run="l", optimizer_momentum=0.9),
        records(run="m", norm="present"),
        records(run="n", model_initialization=None),
    ]
    assert set(collapse.in_small(pd.concat([kept, *others]))["run"]) == {"a"}
    chosen = collapse.in_small(pd.concat([kept, *others]), choosing=True)
    assert set(chosen["run"]) == {"f"}
    assert not len(collapse.in_small(kept[:0])) and not len(
        collapse.in_small(kept[["run", "seed"]])
    )


def test_layer_norm_with_l2_is_a_method_of_its_own():
    both = pd.concat([records(), records(run="b", model_layer_norm=True)])
    found = collapse.in_small(both).groupby("run")["method"].first()
    assert found.to_dict() == {"a": "l2", "b": "layer-norm-l2"}


def test_l2_er_without_its_l2_is_er_alone():
    often = {"method": "l2-er", "every": 10.0}
    both = pd.concat([records(**often), records(run="b", lam=0.0, **often)])
    found = collapse.in_small(both).groupby("run")["method"].first()
    assert found.to_dict() == {"a": "l2-er", "b": "er"}
    assert collapse.LABELS["er"] == "ER alone"


def test_l2_er_whose_step_comes_less_often_than_the_paper_s_is_shown_and_not_judged():
    often = records(run="b", method="l2-er", every=10.0)
    seldom = records(run="c", method="l2-er", train_accuracy=0.7)
    slow = [records(run=f"d{seed}", lr=0.1, seed=seed) for seed in range(2)]
    others = [records(run="e", lr=0.1, seed=100), records(run="f", method="redo", every=20.0)]
    everything = pd.concat([records(), often, seldom, *slow, *others])
    assert set(collapse.in_small(everything)["run"]) == {"a", "b", "f"}
    assert set(collapse.in_small(pd.concat([records(), seldom]))["run"]) == {"a"}
    table = spectral_collapse_tables.other_settings(everything)
    levels = {index: tuple(row) for index, row in table.iterrows()}
    assert levels == {
        ("0.2", 3, "L2-ER, its step every 1,000 images"): (1, "0.815 → 0.830"),
        ("0.1", 3, "L2"): (2, "0.815 → 0.830"),
    }
    for none in (everything[:0], everything.drop(columns="tasks"), records()):
        assert not len(spectral_collapse_tables.other_settings(none))


def test_measures_stand_in_their_task_s_row_under_the_name_without_how_often():
    table = pd.DataFrame(
        [
            ("a", 0, 0, "spectrum-start:2", "largest", 5.0),
            ("a", 2, 20, "spectrum-start:2", "largest", 7.0),
            ("a", 1, 10, "features-end:2", "effective-rank, linear1", 2.0),
            ("a", 1, 10, "features-end:2", "effective-rank, linear2", 3.0),
            ("a", 1, 10, "features-end:2", "dead, linear2", 4.0),
        ],
        columns=["run", "epoch", "step", "measure", "layer", "value"],
    )
    rows = collapse.by_task(records(), table).set_index("task")
    largest = rows["spectrum-start, largest"]
    assert (largest[1], largest[3]) == (5.0, 7.0) and np.isnan(largest[2])
    assert (rows.at[1, "features"], rows.at[1, "dead"]) == (5.0, 4.0)
    assert np.isnan(rows.at[2, "features"]) and (rows["weights"] == 5.0).all()
    none = collapse.by_task(records(), table[:0])
    assert none["features"].isna().all() and not len(collapse.spectra(none))


def test_strengths_are_listed_with_those_that_were_used():
    tried = pd.concat([records(run=r, lam=lam, seed=100) for r, lam in (("x", 1e-3), ("y", 1e-2))])
    table = spectral_collapse_tables.strengths(tried, records())
    assert table.set_index("λ")["used"].to_dict() == {1e-3: "used", 1e-2: ""}
    assert table["online accuracy"].to_numpy() == pytest.approx(0.82)
    assert not len(spectral_collapse_tables.strengths(tried[:0], records()))
    said = in_words.strengths(tried, records())
    assert "3 tasks of seed 100" in said and "the highest online accuracy of L2." in said
    better = tried.assign(train_accuracy=tried["train_accuracy"] + (tried["lam"] == 1e-2) / 10)
    assert "Another one was higher of L2 (0.01, by 0.1000)" in in_words.strengths(better, records())
    assert "not among the committed ones yet" in in_words.strengths(tried[:0], records())


def test_tables_set_ours_beside_what_is_printed():
    rows = made_up()
    levels = spectral_collapse_tables.levels(rows)
    assert levels.at["continual backprop", "ours"] == "–" and levels.at["SWR", "printed"] == "–"
    assert levels.at["vanilla", "printed"] == "0.944 → 0.876"
    first, last = (float(part) for part in levels.at["vanilla", "ours"].split(" → "))
    assert first == pytest.approx(0.82, abs=0.01) and last == pytest.approx(0.70, abs=0.02)
    ends = spectral_collapse_tables.features(rows)
    assert ends.index[0] == "L2-ER" and ends.at["vanilla", "printed rank"] == 400
    assert ends.at["L2-ER", "rank"] == pytest.approx(60, rel=1e-3)
    assert not len(spectral_collapse_tables.features(rows[:0]))
    assert (spectral_collapse_tables.levels(rows[:0])["ours"] == "–").all()


def test_plain_training_and_swr_stand_in_every_panel():
    panels = collapse.in_panels(made_up(seeds=1)).groupby("acts")["method"].agg(set)
    assert all({"vanilla", "swr"} <= methods for methods in panels)
    assert set.union(*panels) == set(METHODS)
    known = {m for methods in collapse.ACTS.values() for m in methods} | {"vanilla", "swr"}
    assert known <= set(STYLE)


# --- continual backprop ----------------------------------------------------------------------


def trained(seed: int) -> tuple[nn.Module, object]:
    data = load_dataset("mnist-5k")
    torch.manual_seed(seed)
    return notebook.train_briefly(build_model("mlp", data), data, steps=60), data


def test_the_units_of_highest_utility_are_those_that_a_network_needs():
    pairs = [trained(seed) for seed in range(3)]
    data = pairs[0][1]
    images, labels = data.normalize(data.test_images[:500]), data.test_labels[:500]
    found = continual_backprop.replaced_units([network for network, _ in pairs], images, labels)
    assert (found["before"] > 0.8).all() and (found["lowest"] > found["highest"]).all()
    verdict = {v.claim.id: v for v in collapse.judged(made_up()[:0], replaced=found)}
    assert "n = 3" in verdict["collapse-utility"].detail


def test_what_is_replaced_is_a_tenth_of_each_layer_by_the_utility_written_out():
    torch.manual_seed(0)
    network = nn.Sequential()
    network.add_module("flatten", nn.Flatten())
    network.add_module("linear1", nn.Linear(4, 10))
    network.add_module("activation1", nn.ReLU())
    network.add_module("linear2", nn.Linear(10, 3))
    images, labels = torch.rand(200, 1, 2, 2), torch.arange(200) % 3
    features = network[2](network[1](images.flatten(1))).detach()
    utility = features.mean(0).abs() * network[3].weight.detach().abs().mean(0)
    for which, unit in (("highest", utility.argmax()), ("lowest", utility.argmin())):
        weight = network[3].weight.detach().clone()
        weight[:, unit] = 0
        answers = features @ weight.T + network[3].bias.detach()
        expected = float((answers.argmax(1) == labels).double().mean())
        found = continual_backprop.replaced_units([network], images, labels)
        assert found.at[0, which] == pytest.approx(expected)


# --- pictures --------------------------------------------------------------------------------


def test_pictures_show_what_the_numbers_say():
    of_spectra = collapse.spectra(made_up(seeds=2))
    figure, said = pictures.by_epsilon(of_spectra)
    labels = [line.get_label() for line in figure.axes[0].lines]
    assert "SWR" in labels and "SWR 0.5 with" in said and "task 40" in said
    figure, said = pictures.against_accuracy(of_spectra)
    share = collapse.r_squared_by_epsilon(of_spectra).set_index("epsilon").loc[0.01]
    assert f"share of the weight {share['epsilon-rank']:.2f}" in said and "printed 0.771" in said
    assert len(figure.axes[0].collections) == len(METHODS)


def test_the_released_rank_of_made_up_spectra_follows_the_width_alone():
    figure, said = pictures.widening()
    weight, released = (line.get_ydata() for line in figure.axes[0].lines)
    assert weight == pytest.approx(0.02), "one eigenvalue in a hundred grows, no other moves"
    assert released[0] < 0.2 and released[-1] > 0.8 and "stays at 0.02" in said
