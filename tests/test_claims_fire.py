"""FIRE's statements as checks that can fail, and its claims on made-up records of every outcome."""

import copy

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.linalg
import torch
from test_verdicts import made_up

import swrlib
from swrlib.claims import fire
from swrlib.figures import isometry
from swrlib.methods import FIRE, HeadReset, ShrinkPerturb, Vanilla
from swrlib.papers import SWR
from swrlib.records import load_records
from swrlib.theory.isometry import newton_schulz, polar_factor

CIFAR, MNIST = fire.WARM_START
SHAPE = np.array([-1.0, 0.2, 0.8])


def records(cell=CIFAR, sd=0.002, **means):
    """Make records that end at these accuracies: three seeds, or five where sd has five values."""
    noise = SHAPE if np.ndim(sd) == 0 else np.asarray(sd)
    size = sd if np.ndim(sd) == 0 else 1.0
    return made_up(
        {
            (*cell, name.replace("_", "-")): mean + size * np.roll(noise, shift)
            for shift, (name, mean) in enumerate(means.items())
        }
    )


def word(rows, id):
    return {v.claim.id: v for v in fire.accuracy_verdicts(rows)}[id]


# Statements


def test_the_factor_is_nearest_and_a_wrong_one_is_found_out(monkeypatch):
    found = fire.nearest(range(2), rivals=60)
    assert found.verdict == "reproduced" and "360 other isometries" in found.detail

    def turned(matrix):
        u, _ = scipy.linalg.polar(matrix.numpy())
        draw = np.random.default_rng(0).standard_normal((len(u), len(u)))
        return torch.from_numpy(scipy.linalg.expm(0.05 * (draw - draw.T)) @ u)

    monkeypatch.setattr(fire, "polar_factor", turned)
    assert fire.nearest(range(2), rivals=60).verdict == "not reproduced"
    assert fire.nearest((), rivals=60).verdict == "not run"


def test_ten_iterations_do_not_suffice_for_a_square_and_twenty_do():
    found = fire.after_iterations([(100, 100), (64, 32)], [10, 20], range(2))
    assert set(found["shape"]) == {"100×100", "64×32"}
    left = found[found["iterations"] == 10].groupby("shape")["deviation"].min()
    assert left["64×32"] < 1e-8 < 0.01 < left["100×100"]
    assert found[(found["iterations"] == 20)]["deviation"].max() < 0.01
    exact = found[found["iterations"] == 0]["deviation"]
    assert len(exact) == 4 and exact.max() < 1e-24


def test_ten_iterations_bring_a_network_near_isometries_and_three_do_not(networks):
    weights = fire.weights_of(networks[0])
    found = fire.after_iterations([(100, 100), (64, 32)], [3, 10], range(2))
    near = fire.approximates([weights, weights], found)
    assert near.verdict == "reproduced" and "of 2 networks at most" in near.detail
    worst = found[(found["shape"] == "100×100") & (found["iterations"] == 10)]["deviation"].max()
    assert f"100×100 {worst:.2g}" in near.detail
    assert fire.approximates([weights], found, 3).verdict == "not reproduced"
    assert fire.approximates([], found).verdict == "not run"
    square = {"square": fire.random_matrix((100, 100))}
    assert fire.approximates([weights, square], found, 5).verdict == "not reproduced"


def test_what_iterations_leave_is_the_measure_written_out():
    weight, kernel = fire.random_matrix((9, 5)), fire.random_matrix((4, 6 * 3)).view(4, 6, 3, 1)

    def deviation(matrix):
        gram = matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T
        return ((gram - np.eye(len(gram))) ** 2).sum()

    def after(matrix):
        x = matrix / np.linalg.norm(matrix)
        for _ in range(2):
            x = 1.5 * x - 0.5 * x @ x.T @ x
        return x

    matrices = [weight.numpy(), *(kernel[:, :, place, 0].numpy() for place in range(3))]
    expected = sum(deviation(after(m)) for m in matrices) / sum(map(deviation, matrices))
    assert fire.deviation_left({"a": weight, "b": kernel}, 2) == pytest.approx(expected)


@pytest.mark.parametrize("iterations", [1, 5, 10])
def test_singular_values_are_mapped_one_by_one(iterations):
    matrix = fire.random_matrix((12, 7), 3)
    before = torch.linalg.svdvals(matrix).numpy() / float(matrix.norm())
    after = torch.linalg.svdvals(newton_schulz(matrix, iterations)).numpy()
    np.testing.assert_allclose(np.sort(fire.mapped(before, iterations)), np.sort(after), atol=1e-12)
    small = fire.mapped(np.array([0.001, 0.01, 0.03]), 10)
    np.testing.assert_allclose(small, [0.06, 0.53, 0.97], atol=0.006)  # as the release maps them


def test_the_bound_holds_and_a_broken_one_is_caught(monkeypatch):
    weights = [fire.random_matrix((9, 5), seed) * 3 for seed in range(4)] + [torch.eye(3)]
    found = fire.stretches(weights)
    assert found.verdict == "reproduced" and found.detail.startswith("5 weights")
    monkeypatch.setattr(fire, "deviation_from_isometry", lambda weight: 0.0)
    assert fire.stretches(weights).verdict == "not reproduced"
    assert fire.stretches([]).verdict == "not run"


def test_the_shape_s_deviation_knows_no_scale():
    weight = fire.random_matrix((8, 5), 1)
    values = torch.linalg.svdvals(weight).numpy() ** 2
    scales = np.linspace(0, 2, 200001)
    best = min(((np.outer(scales[i : i + 9999], values) - 1) ** 2).mean(1).min()
               for i in range(0, 200001, 9999))  # fmt: skip
    assert fire.shape_deviation(weight) == pytest.approx(best, abs=1e-6)
    assert fire.shape_deviation(7 * weight) == pytest.approx(best, abs=1e-6)
    assert fire.shape_deviation(0.3 * polar_factor(weight)) == pytest.approx(0, abs=1e-12)
    kernel = torch.stack([weight, 2 * polar_factor(weight)], -1).unsqueeze(-1)
    assert fire.shape_deviation(kernel, 2) == pytest.approx(best / 2, abs=1e-6)


# A network


@pytest.fixture(scope="module")
def networks():
    data = swrlib.load_dataset("mnist-5k")
    torch.manual_seed(0)
    initial = swrlib.build_model("mlp", data)
    trained = copy.deepcopy(initial)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return initial, trained, lambda: swrlib.build_model("mlp", data)


def test_fire_also_sets_the_norms(networks):
    initial, trained, fresh = networks
    table = fire.norms(initial)
    assert table["FIRE"].round(2).tolist() == [3.57, 10.0, 1.0]
    assert table["initial"].tolist() == pytest.approx([5.77, 5.77, 1.83], rel=0.05)
    after = fire.weights_of(fire.changed(FIRE(iterations=None), initial, trained, fresh))
    found = [float(weight.norm()) for weight in after.values()]
    assert found == pytest.approx(table["FIRE"].tolist(), rel=1e-5)


def test_a_convolution_s_norm_too():
    images = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
    labels = torch.arange(8) % 4
    data = swrlib.Dataset(
        "n", images, labels, images, labels, tuple("abcd"), (0.5,) * 3, (0.2,) * 3
    )
    network = swrlib.build_model("cnn", data)
    table = fire.norms(network)
    after = fire.changed(FIRE(iterations=None), network, network, lambda: network)
    found = {name: float(w.norm()) for name, w in fire.weights_of(after).items()}
    assert found == pytest.approx(table["FIRE"].to_dict(), rel=1e-4)
    summed = fire.at_a_change(network, after, network)
    assert summed["DfI/n at the best scale"] < 1e-6 < summed["SFE"]


def test_what_changes_do_to_a_network(networks):
    initial, trained, fresh = networks

    def after(method):
        return fire.at_a_change(trained, fire.changed(method, initial, trained, fresh), initial)

    kept, shrunk, head, fired = map(
        after, (Vanilla(), ShrinkPerturb(lam=0.8), HeadReset(), FIRE(iterations=None))
    )
    assert kept["SFE"] == 0 < head["SFE"] < shrunk["SFE"]
    weights = [fire.weights_of(network) for network in (initial, trained)]
    moved = sum(
        float((0.8 * (a - b)).square().sum())
        for a, b in zip(*(w.values() for w in weights), strict=True)
    )
    size = sum(float(weight.square().sum()) for weight in weights[1].values())
    assert shrunk["SFE"] == pytest.approx(moved / size, rel=1e-4)
    assert fired["DfI/n at the best scale"] < 1e-9 < shrunk["DfI/n at the best scale"]
    same = after(FIRE(norm="present"))
    assert same["norm / initial"] == pytest.approx(kept["norm / initial"], rel=1e-5)


def test_changes_are_listed_with_swr_beside_them(networks):
    initial, trained, fresh = networks
    found = fire.changes([(initial, trained, trained)], fresh).set_index("method")
    assert set(found.index) == {*fire.CHANGES, "swr"}
    assert found.at["swr", "SFE"] == 0 and (found["DfI/n at the best scale"] >= 0).all()
    figure, said = isometry.moved(found)
    (ax,) = figure.axes
    looks = {(line.get_marker(), line.get_fillstyle(), line.get_color()) for line in ax.lines}
    assert len(looks) == len(found) == len(ax.get_legend_handles_labels()[1])
    assert "SWR 0.00" in said and "FIRE, exact" in said
    plt.close(figure)


def test_pictures_say_what_they_show():
    found = fire.after_iterations([(30, 30), (8, 30)], [1, 10, 20], range(2))
    figure, said = isometry.by_iterations(found, {"swr": 0.4, "vanilla": 0.5})
    (ax,) = figure.axes
    ten = found[found["iterations"] == 10].groupby("shape")["deviation"].mean()
    assert f"30×30 {ten['30×30']:.2g}" in said
    drawn = {line.get_label(): line.get_ydata() for line in ax.lines}
    np.testing.assert_allclose(drawn["FIRE, 30×30"][1], ten["30×30"])
    assert list(drawn["SWR, best scale"]) == [0.4, 0.4]
    values = {"swr": np.array([2.0, 0.5]), "fire, exact": np.array([1.0, 1.0])}
    other, said = isometry.singular_values(values)
    assert "SWR 2 to 0.5" in said and "FIRE, exact 1 to 1" in said
    plt.close(figure)
    plt.close(other)


def test_sharpness_is_the_largest_eigenvalue():
    draws = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (30, 1, 3, 3), generator=draws, dtype=torch.uint8)
    labels = torch.arange(30) % 3
    data = swrlib.Dataset("n", images, labels, images, labels, tuple("abc"), (0.5,), (0.3,))
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(9, 3))

    def loss(weight):
        shown = data.normalize(images).double().flatten(1)
        answers = shown @ weight.view(3, 10)[:, :9].T + weight.view(3, 10)[:, 9]
        return torch.nn.functional.cross_entropy(answers, labels)

    flat = torch.cat([network[1].weight, network[1].bias[:, None]], 1).detach().flatten()
    dense = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, flat.double()))
    assert fire.sharpness(network, data) == pytest.approx(float(dense[-1]), rel=1e-6)


def test_times_are_of_both():
    table = fire.times([(8, 4)])
    assert (table > 0).all(axis=None) and list(table.index) == ["8×4"]


# Claims on made-up records


@pytest.mark.parametrize(
    ("fired", "said"),
    [
        (0.70, "holds in small"),
        (0.62, "reversed in small"),
        (0.6645, "undecided in small"),
        (0.665, "mixed in small"),
    ],
)
def test_fire_after_a_warm_start(fired, said):
    others = {"vanilla": 0.65, "shrink_perturb": 0.66, "l2_init": 0.655}
    if said == "mixed in small":
        others["l2_init"] = 0.71
    sd = 0.01 if said == "undecided in small" else 0.002
    found = word(records(sd=sd, fire=fired, **others), "fire-warm-start")
    assert found.verdict == said and "on SWR's set-up and networks" in found.label


def test_no_effect_is_said_with_three_seeds_too():
    rows = records(sd=0.0003, fire=0.65, vanilla=0.65, shrink_perturb=0.6505, l2_init=0.6496)
    assert word(rows, "fire-warm-start").verdict == "no effect in small"


def test_fewer_seeds_stand_in_the_label_and_two_are_too_few():
    rows = records(fire=0.70, vanilla=0.65, shrink_perturb=0.66, l2_init=0.655)
    few = rows[(rows["method"] != "fire") | (rows["seed"] < 2)]
    found = word(few, "fire-warm-start")
    assert found.verdict == "too few seeds" and "n = 2" in found.detail
    none = word(rows[rows["method"] != "fire"], "fire-warm-start")
    assert none.verdict == "not run" and "an hour of one core" in none.detail


def test_remarks_are_remarks_and_speak_of_both_data_sets():
    others = {"full_reset": 0.66, "swr": 0.70, "head_reset": 0.64}
    rows = pd.concat([records(fire=0.65, **others), records(MNIST, fire=0.65, **others)])
    found = word(rows, "fire-scratch")
    assert found.verdict == "remark"
    assert "CIFAR-10" in found.detail and "MNIST" in found.detail
    assert "FIRE minus SWR" in word(rows, "fire-swr").detail


def test_ablations_and_other_optimizers_do_not_count():
    means = {"fire": 0.70, "vanilla": 0.65, "shrink_perturb": 0.66, "l2_init": 0.655}
    rows = records(**means)
    other = records(fire=0.1).assign(norm="present")
    other["run"] += " present"
    new = records(vanilla=0.1).assign(optimizer_state="new")
    new["run"] += " new"
    both = pd.concat([rows, other, new], ignore_index=True)
    assert word(both, "fire-warm-start") == word(rows, "fire-warm-start")
    named = set(fire.with_ablations(both)["method"])
    assert {"fire, present norm", "vanilla, new optimizer", "fire"} <= named


def test_drops_with_full_access():
    from test_verdicts import with_changes

    rows = records(fire.FULL_ACCESS, fire=0.97, vanilla=0.97, shrink_perturb=0.98, l2_init=0.96)
    alone = with_changes(rows, lambda method, seed: 0.0003 * seed)
    assert word(alone, "fire-no-drop").verdict == "not run", (
        "full reset is what it is compared with"
    )
    told = word(alone, "fire-no-drop").detail
    assert told.startswith(fire.PAPER.details["needs"]["fire-no-drop"]) and "4.7 points" in told
    both = pd.concat([rows, records(fire.FULL_ACCESS, full_reset=0.97)])
    for own, reset, said in (
        (0.0, -0.3, "holds in small"),
        (-0.3, -0.6, "mixed in small"),  # less than full reset, and deep all the same
        (-0.03, -0.3, "mixed in small"),  # not deep on two axes of three
        (-0.3, -0.2, "reversed in small"),
        (0.0, 0.02, "mixed in small"),
    ):
        drops = {"fire": own, "full-reset": reset}
        changed = with_changes(both, lambda m, seed, drops=drops: drops.get(m, 0) + 0.0003 * seed)
        assert word(changed, "fire-no-drop").verdict == said, (own, reset)
    assert word(rows, "fire-continual").verdict == "mixed in small"


def test_one_deep_drop_of_many_is_none_at_most_changes():
    from test_verdicts import with_changes

    rows = records(fire.FULL_ACCESS, fire=0.97, full_reset=0.97)
    course = with_changes(rows, lambda method, seed: -0.2 * (method == "full-reset") + 1e-4 * seed)
    third = course[course["stage"] == 3].assign(stage=4)
    early = third["stage_epoch"] < 12
    third.loc[early, "epoch"] += 12
    course["epoch"] = course["epoch"].mask(
        course["stage"].eq(3) & ~course["stage_epoch"].lt(12), 36
    )
    many = pd.concat([course, third], ignore_index=True)
    first = many["method"].eq("fire") & many["stage"].eq(2) & many["stage_epoch"].eq(1)
    many.loc[first, "test_accuracy"] -= 0.4
    values = fire.drops(many, fire.PAPER.find_claim("fire-no-drop"))[0].values
    assert values["fire"].to_numpy() == pytest.approx(0, abs=1)  # points
    assert values["full-reset"].max() < -0.2


def test_what_is_deep_is_a_tenth_of_the_axes_that_are_printed():
    sizes = {pair[0]: round(100 * size, 2) for pair, size in fire.DEEP.items()}
    assert sizes == {"cifar10": 4.7, "cifar100": 2.7, "tinyimagenet": 3.6}


def test_every_claim_has_a_verdict_or_says_what_it_would_take():
    judged = [fire.nearest(range(1), 4), *fire.accuracy_verdicts(made_up({}))]
    rest = fire.not_run(judged)
    there = {verdict.claim.id for verdict in [*judged, *rest]}
    assert there == {claim.id for claim in fire.PAPER.claims}
    theory = {"fire-newton-schulz", "fire-lipschitz"}
    assert all(v.detail for v in [*judged, *rest] if v.claim.id not in theory)


def test_how_methods_end_beside_scratch():
    from test_verdicts import with_changes

    means = {"fire": 0.65, "full_reset": 0.66, "swr": 0.70}
    table = fire.ends(records(**means)).loc["cifar10", "cnn"]
    assert table.at["fire", "minus scratch"] == pytest.approx(-1.0, abs=1e-6)
    assert table["seeds"].tolist() == [3, 3, 3]
    moved = with_changes(records(**means), lambda method, seed: -0.1 * (method == "fire"))
    table = fire.ends(moved).loc["cifar10", "cnn"]
    gap = table.at["fire", "at the change"] - table.at["swr", "at the change"]
    assert gap == pytest.approx(-10, abs=1e-6)  # half of it at the first change, 1.5 at the second


def test_a_setting_without_training_from_scratch_has_a_table_too():
    table = fire.ends(records(fire=0.65, swr=0.70)).loc["cifar10", "cnn"]
    assert table["minus scratch"].isna().all() and table["seeds"].tolist() == [3, 3]


def test_the_committed_records_can_be_judged(root):
    rows = load_records(root / "results", scale="paper", split="all")
    found = fire.accuracy_verdicts(rows)
    assert len(found) == 5
    assert SWR.sizes[MNIST[:2]] == pytest.approx(0.0014)
