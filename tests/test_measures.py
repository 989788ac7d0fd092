"""What is measured in training: the numbers of Theorem 3 around a step, and of epochs."""

import copy
import itertools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_curvature import OnceModule

import swrlib
from swrlib import build_model, load_dataset, measures, models, population, theory, train
from swrlib.engine import training
from swrlib.engine.jobs import missing_jobs
from swrlib.engine.loop import Job, Stopped
from swrlib.measures import MEASURES, Norms, Snapshot
from swrlib.measures.steps import balance_change, balance_worse
from swrlib.theory import balance_, lpq_norm, spectrum
from swrlib.theory.ranks import unit_entropy

EPOCH_MEASURES = {name: m for name, m in MEASURES.items() if m.when == "epoch"}
norms = st.lists(st.floats(0.1, 10), min_size=3, max_size=3)


def balance(now: list[float], start: list[float]) -> list[float]:
    """Definition 2 for each pair, written out: the larger norm at the start stands above."""
    found = []
    for a, b in itertools.combinations(range(len(start)), 2):
        small, large = (a, b) if start[a] <= start[b] else (b, a)
        found.append(abs(now[large] / now[small] - start[large] / start[small]))
    return found


def around_one_step(start, updated, factors) -> Norms:
    rows = [start, updated, updated, [n * c for n, c in zip(updated, factors, strict=True)]]
    return Norms(*(torch.tensor([row], dtype=torch.float64) for row in rows))


@given(norms, norms, norms)
@settings(deadline=None, max_examples=100)
def test_the_change_of_balance_is_definition_2s(start, updated, factors):
    step = around_one_step(start, updated, factors)
    rescaled = step.rescaled[0].tolist()
    expected = np.subtract(balance(rescaled, start), balance(updated, start))
    np.testing.assert_allclose(balance_change(step)[0], expected, atol=1e-9)
    worse = balance_worse(step)[0].numpy()
    assert (worse[expected > 1e-2] == 1).all() and (worse[expected <= 0] == 0).all()


@given(norms, norms, st.floats(0, 1))
@settings(deadline=None, max_examples=100)
def test_theorem_3_one_lambda_never_makes_it_worse(start, updated, lam):
    factors = [(lam * n + (1 - lam) * w) / w for n, w in zip(start, updated, strict=True)]
    assert balance_worse(around_one_step(start, updated, factors)).max() == 0


def test_mutant_two_lambdas_can_make_it_worse():
    """Only the first layer is pulled back: layers that had grown alike grow apart."""
    assert balance_worse(around_one_step([1.0, 2, 3], [2.0, 4, 6], [0.5, 1, 1])).max() == 1


def test_epoch_measures_by_hand():
    data = load_dataset("mnist-5k")
    torch.manual_seed(0)
    initial = build_model("mlp", data).double()
    model = copy.deepcopy(initial)
    with torch.no_grad():
        model.linear2.weight.mul_(3)
    images = data.normalize(data.test_images[:32], torch.float64)
    snapshot = Snapshot(model, initial, images, data.test_labels[:32])
    found = {name: measure.function(snapshot) for name, measure in EPOCH_MEASURES.items()}

    balanced = copy.deepcopy(model)
    balance_(balanced)
    share = lpq_norm(balanced) / lpq_norm(model)
    assert found["lpq-balance"][""] == pytest.approx(share, rel=1e-12)
    assert found["lpq-balance"][""] <= found["lpq-balance"]["release"] < 1
    weights = [model.get_submodule(f"linear{i}").weight.detach() for i in (1, 2, 3)]
    spectral = np.prod([np.linalg.norm(w.numpy(), 2) for w in weights])
    frobenius = np.prod([np.linalg.norm(w.numpy()) for w in weights])
    assert found["lipschitz"]["spectral"] == pytest.approx(spectral, rel=1e-9)
    assert found["lipschitz"]["frobenius"] == pytest.approx(frobenius, rel=1e-9)
    assert 0 < found["lipschitz"]["lower"] <= spectral
    ratio = [float(w.norm()) for w in weights]
    start = [float(initial.get_submodule(f"linear{i}").weight.detach().norm()) for i in (1, 2, 3)]
    assert sorted(found["layer-balance"].values()) == pytest.approx(sorted(balance(ratio, start)))
    hits = (model(images).argmax(1) == data.test_labels[:32]).double().mean()
    assert found["noise-accuracy"]["0"] == float(hits)
    assert set(found["noise-accuracy"]) == {"0", "0.25", "0.5", "1"}


def test_what_is_due_is_measured_and_disturbs_nothing(tmp_path):
    options = {"dataset": "mnist-5k", "model": "mlp", "stream": "single-task", "epochs": 2}
    options |= {"methods": ["vanilla", "swr:1e-2,1e-1"], "progress": False}
    plain = train(**options)
    names = ["balance-worse", *EPOCH_MEASURES]
    measured = train(**options, measure=names, results=tmp_path, checkpoints=tmp_path / "c")
    assert measured["test_loss"].tolist() == plain["test_loss"].tolist()
    table = swrlib.load_measures(tmp_path)
    epochs = table.groupby("measure")["epoch"].agg(lambda e: sorted(set(e)))
    assert epochs["lpq-balance"] == epochs["layer-balance"] == [0, 1, 2]
    assert epochs["lipschitz"] == epochs["noise-accuracy"] == [0, 2]  # the first and the last
    assert epochs["balance-worse:mean"] == [1, 2]
    first = table[(table["epoch"] == 0) & (table["measure"] == "layer-balance")]
    assert (first["value"] == 0).all() and len(first) == 2 * 3
    pairs = set(table[table["measure"] == "balance-worse:max"]["layer"])
    assert pairs == {"linear1, linear2", "linear1, linear3", "linear2, linear3"}


def test_an_unknown_measure_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="'lipschitz'"):
        measures.checked_measures(("lipshitz",))


STAGE_MEASURES = [name for name, measure in MEASURES.items() if measure.when in ("start", "end")]


def test_stage_measures_look_at_what_the_stage_trains_on(tmp_path):
    """Each equals the function that it names, on the network as it was then."""
    kept = []

    def keep(snapshot):
        kept.append(copy.deepcopy(snapshot))
        return {"": float(len(snapshot.stage_images))}

    watch = [measures.Measure(f"kept-{when}", keep, when) for when in ("start", "end")]
    train(
        dataset="mnist-5k",
        model="mlp",
        stream="warm-start",
        epochs=1,
        methods="swr:1e-2",
        seeds=[1],
        options={"hidden": (12, 8)},
        measure=[*STAGE_MEASURES, *watch],
        results=tmp_path,
        checkpoints=tmp_path / "c",
        progress=False,
    )
    table = swrlib.load_measures(tmp_path).set_index(["epoch", "measure", "layer"])["value"]
    moments = [(0, "start"), (1, "end"), (1, "start"), (2, "end")]
    assert len(kept) == len(moments)
    for (epoch, when), shot in zip(moments, kept, strict=True):

        def stored(name, layer, epoch=epoch, when=when):
            return table[epoch, f"{name}-{when}", layer]

        images, labels = shot.stage_images, shot.stage_labels
        assert len(images) == 2000
        model = shot.model.eval()
        with torch.no_grad():
            first = model.activation1(model.linear1(images.flatten(1)))
            second = model.activation2(model.linear2(first))
        for layer, values in (("linear1", first), ("linear2", second)):
            singular = torch.linalg.svdvals(values.double())
            rank = float(theory.effective_rank(singular))
            assert stored("features", f"effective-rank, {layer}") == pytest.approx(rank, rel=1e-5)
            dead = int((values == 0).all(0).sum())
            assert stored("features", f"dead, {layer}") == dead
            assert stored("features", f"srank, {layer}") == float(theory.srank(singular))
            entropy = stored("features", f"entropy, {layer}")
            assert entropy == pytest.approx(unit_entropy(values), rel=1e-5)
            entropy = stored("features", f"entropy-of-each, {layer}")
            assert entropy == pytest.approx(unit_entropy(values, of_each=True), rel=1e-5)
        hessian = theory.last_layers_hessian(model, images, labels)
        values = torch.linalg.eigvalsh(hessian)
        assert stored("hessian", "srank") == float(theory.srank(values))
        assert stored("hessian", "largest") == pytest.approx(float(values.max()), rel=1e-5)
        found = theory.hessian_spectrum(model, images[:1000], labels[:1000])
        assert stored("spectrum", "largest") == pytest.approx(float(found.nodes.max()), rel=1e-5)
        rank = found.epsilon_rank(torch.tensor(0.01, dtype=torch.float64))
        assert stored("spectrum", "epsilon-rank 0.01") == pytest.approx(float(rank), rel=1e-5)
        smoothed = found.smoothed_epsilon_rank(torch.tensor([0.01], dtype=torch.float64))
        kept_smoothed = stored("spectrum", "smoothed-epsilon-rank 0.01")
        assert kept_smoothed == pytest.approx(float(smoothed), rel=1e-5)
        overlap = theory.gradient_hessian_overlap(model, images, labels)
        assert stored("overlap", "") == pytest.approx(overlap, rel=1e-5)
        pairs = zip(model.parameters(), shot.initial.parameters(), strict=True)
        moved = sum(float((p - q).double().square().sum()) for p, q in pairs) ** 0.5
        assert stored("weights", "distance l2") == pytest.approx(moved, rel=1e-5, abs=1e-12)
        sizes = torch.cat([p.detach().double().abs().flatten() for p in model.parameters()])
        assert stored("weights", "size mean") == pytest.approx(float(sizes.mean()), rel=1e-5)
        singular = torch.linalg.svdvals(model.linear2.weight.detach().double())
        assert stored("weights", "srank, linear2") == float(theory.srank(singular))
        assert stored("hessian", "negative") == float((values < -1e-12 * values.abs().max()).sum())
        gram = (model.linear3.weight @ model.linear3.weight.T).double()
        other = (model.linear3.weight.T @ model.linear3.weight).double()
        small = min((gram, other), key=len)
        deviation = float((small - torch.eye(len(small))).square().sum()) / len(small)
        kept_deviation = stored("weights", "deviation-from-isometry, linear3")
        assert kept_deviation == pytest.approx(deviation, rel=1e-5)
    assert table[0, "weights-start", "distance l2"] == 0


def test_a_measure_of_stages_may_be_taken_in_every_so_many(tmp_path):
    """In the first, every so many later, and in the last; under a name of its own."""
    asked = {"dataset": "mnist-5k", "model": "mlp", "methods": "vanilla", "seeds": [1]}
    asked |= {"stream": "pixel-permuted:6,64,784", "epochs": 1, "options": {"hidden": (8,)}}
    asked |= {"results": tmp_path, "checkpoints": tmp_path / "c", "progress": False}
    names = ["features-start:2", "features-end:4", "weights-end:9", "layer-balance:3"]
    train(**asked, measure=names)
    table = swrlib.load_measures(tmp_path)
    epochs = table.groupby("measure")["epoch"].agg(lambda e: sorted(set(e)))
    assert epochs["features-start:2"] == [0, 2, 4, 5], "before tasks 1, 3, 5 and 6"
    assert epochs["features-end:4"] == [1, 5, 6], "after tasks 1, 5 and 6"
    assert epochs["weights-end:9"] == [1, 6]
    assert epochs["layer-balance:3"] == [0, 3, 6]
    (job,) = [asked | {"measure": names, "epochs": 1}]
    job = {k: v for k, v in job.items() if k not in ("checkpoints", "progress")}
    assert not missing_jobs({"there": job}), "what was asked for in these words is there"
    assert missing_jobs({"all": job | {"measure": ["features-start"]}}) == ["all"]


@pytest.mark.parametrize("name", ["growth:2", "spectrum-start:0", "lipschitz:x", "weights-end:"])
def test_how_often_a_measure_is_taken_is_checked(name):
    with pytest.raises(ValueError, match=r"as in spectrum-start:10"):
        measures.checked_measures(name)


NOT_TWICE = r"cannot be differentiated twice"
ONCE = {"activation": "once", "hidden": (8, 8)}
UNFIT = {
    "a wide network, at the end": ("mlp", {}, "hessian-end", r"11110 param.*whole network's spec"),
    "convolutions": ("cnn", {}, "hessian-start", r"parameters.*whole network's spectrum"),
    "one layer": ("mlp", {"hidden": ()}, "hessian-start", r"no two linear layers.*spectrum"),
    "Hessian, not twice": (
        "mlp",
        {"activation": "once", "hidden": (8, 8)},
        "hessian-end",
        NOT_TWICE,
    ),
    "spectrum, not twice": ("mlp", {"activation": "once"}, "spectrum-end", NOT_TWICE),
    "overlap, not twice": ("mlp", {"activation": "once"}, "overlap-start", NOT_TWICE),
    "no memory": ("mlp", {}, "spectrum-end", r"60 steps with 89610 parameters.*lower order"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_measure_that_does_not_fit_is_refused_before_training(case, tmp_path, monkeypatch):
    model, options, measure, words = UNFIT[case]
    monkeypatch.setitem(models._ACTIVATIONS, "once", OnceModule)
    monkeypatch.setattr(Job, "train", lambda *given: pytest.fail("trained"))
    if case == "no memory":
        monkeypatch.setattr(spectrum, "free_memory", lambda device: 2**20)
    with pytest.raises((ValueError, MemoryError), match=words) as caught:
        train(
            dataset="mnist-5k",
            model=model,
            options=options,
            stream="warm-start",
            epochs=1,
            methods="vanilla",
            measure=["features-start", measure],
            results=tmp_path / "results",
            checkpoints=tmp_path / "c",
            progress=False,
        )
    assert "\n" not in str(caught.value) and ". " not in str(caught.value)
    assert not list(tmp_path.rglob("*.*"))


# A measure that fails


def trained_with(tmp_path, *given):
    """Return records and measures of two runs of four tasks, which some measures look at."""
    rows = train(
        dataset="mnist-5k",
        model="mlp",
        options={"hidden": (6, 5)},
        stream=swrlib.make_stream("label-shuffled:4,64", epochs=2),
        methods=["vanilla", "swr:1e-2"],
        measure=["weights-end", *given],
        results=tmp_path / "results",
        checkpoints=tmp_path / "c",
        progress=False,
    )
    return rows, swrlib.load_measures(tmp_path / "results")


FAILURES = {
    "raises": lambda call: 1 / (call != 3),
    "says no number": lambda call: "?" if call == 3 else 0.0,
    "no memory": lambda call: np.empty(10**18)[0] if call == 3 else 0.0,
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_measure_that_fails_in_mid_training_is_missing_and_said_once(case, tmp_path):
    calls = itertools.count()

    def function(snapshot):
        return {"a": 1.0, "b": FAILURES[case](next(calls) // 2)}  # in the fourth task, of both runs

    own = measures.Measure("own", function, "start")
    with pytest.warns(UserWarning, match="the measure own failed after 6 steps") as said:
        rows, table = trained_with(tmp_path, own)
    assert len([w for w in said if "own failed" in str(w.message)]) == 1
    assert rows["stage"].max() == 4 and not rows["diverged"].any()
    counts = table.groupby(["measure", "layer"]).size()
    assert counts["own", "a"] == counts["own", "b"] == 2 * 3, "all of the fourth task, or nothing"
    assert table[table["measure"] == "weights-end"]["epoch"].nunique() == 4
    _, again = trained_with(tmp_path, own)  # it counts as measured
    assert next(calls) == 8 and len(again) == len(table)


def test_a_measure_that_fails_before_the_first_step_ends_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr(Job, "step_", lambda *given: pytest.fail("trained"))
    with pytest.raises(KeyError, match="nothing"):
        trained_with(tmp_path, measures.Measure("own", lambda snapshot: {}["nothing"], "start"))


def test_a_measure_of_steps_that_fails_has_no_values_in_that_epoch(tmp_path):
    calls = itertools.count()

    def function(norms):
        if next(calls) == 5:  # there is one step an epoch
            raise ValueError("odd")
        return norms.updated

    with pytest.warns(UserWarning, match="the measure own failed after 5 steps.*ValueError: odd"):
        _, table = trained_with(tmp_path, measures.Measure("own", function, "step"), "growth")
    own = table[table["measure"] == "own:max"]
    assert sorted(own["epoch"].unique()) == [1, 2, 3, 4, 5, 7, 8]
    assert table[table["measure"] == "growth:max"]["epoch"].nunique() == 8


def test_the_network_is_drawn_once_to_see_what_fits(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(training, "Job", lambda *given: drawn.append("job") or pytest.skip())
    right = population.Blueprint.draw
    monkeypatch.setattr(
        population.Blueprint, "draw", lambda *given: drawn.append("drawn") or right(*given)
    )
    with pytest.raises(pytest.skip.Exception):
        trained_with(tmp_path, "spectrum-start")
    assert drawn == ["drawn", "job"]


# The update of a stage


@dataclass(frozen=True)
class Exploding(swrlib.Vanilla):
    """A run that is lost in the second stage: the population is laid out anew without it."""

    name: ClassVar[str] = "exploding"

    def change_(self, members, stage):
        for parameter in members.parameters:
            parameter.fill_(torch.inf)


UPDATED = {
    "dataset": "mnist-5k",
    "model": "mlp",
    "options": {"hidden": (6, 5)},
    "stream": swrlib.make_stream("label-shuffled:3,64", epochs=3),
    "methods": [Exploding(), "vanilla", "swr:1e-2"],
    "seeds": [0, 1],
    "measure": ["weights-end"],
    "progress": False,
}


def plain_updates(tmp_path):
    """Return the entries' differences of each stage, by run and epoch, from copies kept aside."""
    shots = {"start": [], "end": []}

    def keep(when):
        def function(snapshot):
            shots[when].append([p.detach().double().clone() for p in snapshot.model.parameters()])
            return {"": float(len(shots[when]) - 1)}

        return function

    kept = [measures.Measure(f"kept-{when}", keep(when), when) for when in shots]
    train(**UPDATED | {"measure": kept}, results=tmp_path, checkpoints=tmp_path / "c")
    table = swrlib.load_measures(tmp_path)
    places = {
        when: table[table["measure"] == f"kept-{when}"].set_index(["run", "epoch"])["value"]
        for when in shots
    }
    found = {}
    for (run, epoch), end in places["end"].items():
        start = places["start"][run, epoch - 3]
        pairs = zip(shots["end"][int(end)], shots["start"][int(start)], strict=True)
        found[run, epoch] = np.concatenate([(p - q).numpy().ravel() for p, q in pairs])
    return found


@pytest.mark.parametrize("stops_after", [None, (2,), (4,), (5, 8)])
def test_the_update_is_the_distance_from_the_stages_start(stops_after, tmp_path):
    expected = plain_updates(tmp_path / "plain")
    folders = {"results": tmp_path / "r", "checkpoints": tmp_path / "c"}
    for epoch in stops_after or ():  # in the middle of a stage
        asked = itertools.count(1 + sum(e for e in stops_after if e < epoch))
        last = epoch
        with pytest.raises(Stopped):
            train(**UPDATED, **folders, stop=lambda last=last, asked=asked: next(asked) == last)
    rows = train(**UPDATED, **folders)
    table = swrlib.load_measures(folders["results"])
    ends = table[table["measure"] == "weights-end"].set_index(["run", "epoch", "layer"])["value"]
    assert set(rows[rows["diverged"]]["method"]) == {"exploding"}
    # The first stage of six runs, two more of four.
    assert len(expected) == 6 + 2 * 4 == ends.index.droplevel(2).nunique()
    for (run, epoch), difference in expected.items():
        by_hand = {
            "sum": np.abs(difference).sum(),
            "mean": np.abs(difference).mean(),
            "l2": np.linalg.norm(difference),
        }
        for kind, value in by_hand.items():
            assert ends[run, epoch, f"update {kind}"] == pytest.approx(value, rel=1e-5)
