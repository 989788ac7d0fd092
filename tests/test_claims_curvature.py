"""Claims of the curvature paper: made-up courses of every outcome, and what counts as a record."""

import numpy as np
import pandas as pd
import pytest

from swrlib import verdicts
from swrlib.claims import curvature, curvature_tables, in_words
from swrlib.claims.curvature import (
    DISTANCE,
    EARLIER,
    FEATURES,
    HESSIAN,
    PAPER,
    SHARPNESS,
    Courses,
    judged,
)
from swrlib.verdicts import task_rule

YES, NO, OPEN = verdicts.REPRODUCED, verdicts.NOT_REPRODUCED, verdicts.UNDECIDED
RUN = "30 of 100 tasks, 5 of 30 seeds"
#: From which task on plain training loses tasks, with each activation.
ONSET = {"relu": 4, "leaky_relu": 9, "tanh": 12, "identity": 99}
METHODS = ("vanilla", "l2", "l2-init", "wasserstein", "swr")


def made_up(*, seeds=5, methods=METHODS, onset=ONSET, lost=("vanilla",), change=None, rate=1e-3):
    """Return courses in which everything is as the paper claims; `change` alters a run's."""
    random, parts = np.random.default_rng(0), []
    task = np.arange(1, 31)
    for activation, at in onset.items():
        for method in methods:
            for seed in range(seeds):
                gone = (task >= at + seed % 2) & (method in lost)
                noise = 0.01 * np.abs(random.standard_normal(30))
                slow = (task - 1) / 29
                dead = activation == "relu" and method in lost
                error = {"l2": 0.2, "l2-init": 0.08, "wasserstein": 0.0, "swr": 0.02}
                kept = activation != "identity" and method in error and task > 20
                table = {
                    "error": 0.7 * gone + noise + kept * error.get(method, 0.0),
                    "online": 0.9 - 0.2 * slow + noise,
                    HESSIAN: 800 * (1 - 0.8 * (task >= at - 1) * (method in lost)) + noise,
                    EARLIER["update norm"]: 0.03 * (1 - slow if dead else 1 + 2 * slow)
                    + noise / 99,
                    EARLIER["rank of the representation"]: 25 + 2 * slow - 20 * dead * slow + noise,
                    EARLIER["entropy of the features"]: 3.0 + slow - 2 * dead * slow + noise,
                    EARLIER["weight norm"]: 0.1 * (1 - slow / 2 if dead else 1 + slow) + noise / 99,
                    EARLIER["rank of the weights"]: 30 + 4 * slow - 12 * dead * slow + noise,
                    FEATURES: 20.0 + task % 2,
                    SHARPNESS: 5.0 + gone * {"tanh": 3, "relu": -3}.get(activation, 0),
                    DISTANCE: (9 if method == "wasserstein" else 5) + noise,
                }
                about = {"activation": activation, "method": method, "seed": seed, "lr": rate}
                about["dataset"] = "mnist"
                frame = pd.DataFrame(table).assign(task=task, **about)
                parts.append(change(frame) if change else frame)
    return pd.concat(parts, ignore_index=True)


def verdicts_on(rows, *names) -> dict[str, verdicts.Verdict]:
    chosen = [PAPER.find_claim(f"curvature-{name}") for name in names] or PAPER.claims
    return {v.claim.id.removeprefix("curvature-"): v for v in judged(rows, chosen)}


def words(rows, *names) -> dict[str, str]:
    return {name: found.verdict for name, found in verdicts_on(rows, *names).items()}


@pytest.fixture(scope="module")
def as_claimed():
    weak = made_up(methods=["wasserstein-1"], lost=("wasserstein-1",))
    return pd.concat([made_up(), weak], ignore_index=True)


def test_courses_as_the_paper_has_them_reproduce_every_claim(as_claimed):
    found = verdicts_on(as_claimed)
    assert len(found) == len(PAPER.claims)
    needs = {id.removeprefix("curvature-") for id in PAPER.details["needs"]}
    trained = {id.removeprefix("curvature-") for id in curvature.READINGS}
    for name, verdict in found.items():
        if verdict.claim.remark:
            assert verdict.verdict == verdicts.second_rule.REMARK, name
        elif name in trained:
            assert verdict.verdict == YES, (name, verdict)
            assert "30 of 100 tasks" in verdict.label
        else:
            assert (verdict.verdict, name in needs) == (verdicts.NOT_RUN, True), name
            assert verdict.detail == PAPER.details["needs"][f"curvature-{name}"]
    assert found["loss"].label == f"{YES} ({RUN})"
    assert found["regularizers-help"].label == f"{YES} (30 of 100 tasks, 5 of 10 seeds)"
    assert found["leaky-rates"].label == f"{YES} (1 of 3 cases, {RUN})"
    assert "leaky ReLU" in found["loss"].detail and "n = 5" in found["loss"].detail
    assert "0.05" not in found["relu-first"].detail and "in tasks" in found["relu-first"].detail


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"onset": ONSET | {"tanh": 99}}, {"loss": "mixed", "before": verdicts.NOT_RUN}),
        ({"onset": dict.fromkeys(ONSET, 99)}, {"loss": verdicts.second_rule.NO_EFFECT}),
        ({"onset": ONSET | {"relu": 14}}, {"relu-first": verdicts.REVERSED}),
        ({"onset": ONSET | {"relu": 9}}, {"relu-first": "mixed"}),
        ({"onset": ONSET | {"identity": 10}}, {"linear": NO, "constant": NO}),
        ({"lost": ()}, {"loss": verdicts.second_rule.NO_EFFECT, "falls": verdicts.NOT_RUN}),
        (
            {"lost": METHODS},
            {"regularizers-help": NO, "regularizers-keep": verdicts.second_rule.NO_EFFECT},
        ),
        ({"seeds": 2}, {"loss": verdicts.TOO_FEW_SEEDS, "falls": verdicts.TOO_FEW_SEEDS}),
        ({"seeds": 3}, {"loss": YES, "linear": OPEN, "constant": OPEN, "not-update": YES}),
    ],
)
def test_what_is_otherwise_gets_another_word(changed, expected):
    assert words(made_up(**changed), *expected) == expected


def test_a_rank_that_falls_with_the_error_or_after_it_is_not_before_it():
    def later(frame):
        fall = (frame["error"] > 0.3).shift(2, fill_value=False)
        return frame.assign(**{HESSIAN: 800 - 700 * fall})

    def together(frame):
        return frame.assign(**{HESSIAN: 800 - 700 * (frame["error"] > 0.3)})

    def never(frame):
        return frame.assign(**{HESSIAN: 800 + frame["task"]})

    assert words(made_up(change=later), "before")["before"] == verdicts.REVERSED
    assert words(made_up(change=together), "before")["before"] == verdicts.second_rule.NO_EFFECT
    found = words(made_up(change=never), "before", "falls")
    assert found["before"] == verdicts.REVERSED and found["falls"] == verdicts.second_rule.NO_EFFECT


def test_an_explanation_that_fits_every_activation_is_not_refuted():
    def all_fall(frame):
        column = EARLIER["update norm"]
        return frame.assign(**{column: 0.03 - 0.02 * frame["task"] / 30})

    assert words(made_up(change=all_fall), "not-update")["not-update"] == NO
    found = verdicts_on(made_up(lost=()), "not-update")["not-update"]
    assert (found.verdict, found.detail) == (verdicts.NOT_RUN, curvature.NOWHERE)


def test_the_online_error_misleads_only_where_the_error_at_the_end_stays():
    def falls_with_it(frame):
        return frame.assign(error=0.02 * frame["task"])

    found = verdicts_on(made_up(change=falls_with_it), "online")["online"]
    assert (found.verdict, found.detail) == (verdicts.NOT_RUN, curvature.NO_SETTING)
    steady = made_up(change=lambda frame: frame.assign(online=0.9 + 1e-4 * frame["seed"]))
    assert words(steady, "online")["online"] == verdicts.second_rule.NO_EFFECT


def test_missing_methods_and_activations_leave_claims_open_or_not_run(as_claimed):
    some = as_claimed[as_claimed["method"] != "wasserstein"]
    found = verdicts_on(some, "wasserstein-lowest", "regularizers-help")
    assert found["wasserstein-lowest"].verdict == verdicts.NOT_RUN
    assert "25 minutes of one core" in found["wasserstein-lowest"].detail
    assert "6 of 9 cases" in found["regularizers-help"].label
    relu = words(some[some["activation"] == "relu"], "linear", "before", "relu-first", "loss")
    assert relu["linear"] == relu["before"] == relu["relu-first"] == verdicts.NOT_RUN
    assert relu["loss"] == YES
    some_activation = verdicts_on(some[some["activation"] == "relu"], "not-update", "falls")
    assert some_activation["not-update"].verdict == OPEN  # another activation may refute it
    assert "1 of 3 cases" in some_activation["falls"].label
    nothing = verdicts_on(as_claimed[:0])
    assert {found.verdict for found in nothing.values()} == {verdicts.NOT_RUN}
    assert all(found.detail for found in nothing.values())
    unmeasured = as_claimed.drop(columns=[HESSIAN, *EARLIER.values(), DISTANCE])
    found = words(unmeasured, "loss", "falls", "before")
    assert found["loss"] == YES and found["falls"] == found["before"] == verdicts.NOT_RUN


def test_other_rates_are_cases_of_their_own(as_claimed):
    slow = made_up(methods=["vanilla"], onset={"leaky_relu": 5}, rate=1e-4)
    both = pd.concat([as_claimed, slow])
    found = verdicts_on(both, "leaky-rates", "loss")
    assert "2 of 3 cases" in found["leaky-rates"].label
    assert found["loss"] == verdicts_on(as_claimed, "loss")["loss"]


# ------------------------------------------------------------------------- what is a record


def record(**changed):
    own = {
        "run": "r",
        "dataset": "mnist",
        "stream": "label-shuffled",
        "method": "vanilla",
        "lam": np.nan,
        "seed": 0,
        "images": 1280,
        "batch_size": 16,
        "model_hidden": (128, 64, 32),
        "model_initialization": "glorot",
        "model_activation": "tanh",
        "stage_epoch": 200,
    }
    return own | changed


def test_what_is_related_and_what_changes_its_sign():
    def related(frame):
        """Features follow the Hessian's rank; sharpness rises with the error everywhere."""
        return frame.assign(**{FEATURES: frame[HESSIAN] / 40, SHARPNESS: frame["error"]})

    assert words(made_up(change=related), "features", "sharpness") == {
        "features": NO,
        "sharpness": verdicts.REVERSED,
    }
    found = Courses(made_up(change=related)).correlation(HESSIAN, FEATURES, "tanh")
    np.testing.assert_allclose(found["vanilla"], 1)
    flat = Courses(made_up(change=lambda frame: frame.assign(**{SHARPNESS: 5.0})))
    assert not len(flat.correlation(SHARPNESS, "error", "tanh"))
    assert words(flat.all, "sharpness") == {"sharpness": verdicts.NOT_RUN}


def test_leads_by_threshold_count_events_as_they_are_named():
    task = np.arange(1, 31)
    error = np.select([task == 4, task >= 10, task == 8], [0.2, 0.5, 0.2], 0.0)
    rank = np.interp(task, [1, 2, 12, 30], [100, 100, 0, 0])  # 10 less a task
    about = {"activation": "tanh", "method": "vanilla", "lr": 1e-3, "task": task}
    about["dataset"] = "mnist"
    rows = [pd.DataFrame({"error": error, HESSIAN: rank, "seed": s, **about}) for s in range(3)]
    table = curvature_tables.leads_by_threshold(pd.concat(rows, ignore_index=True))
    assert table.columns[0].startswith("rank below 50%")
    # Below 50% from task 8 on, below 60% from 7, below 75% from 5.
    assert set(table.index.get_level_values("pixels")) == {"normalized"}
    assert table.to_numpy().tolist() == [[4 - 8, 4 - 7, 4 - 5], [2, 3, 5], [2, 3, 5]]
    assert curvature_tables.leads_by_threshold(rows[0].assign(error=0.0)).isna().all(axis=None)
    assert not len(curvature_tables.leads_by_threshold(rows[0], "relu"))
    assert not len(curvature_tables.leads_by_threshold(rows[0].drop(columns=HESSIAN)))


def test_only_the_paper_s_tasks_count():
    right = [record(), record(run="a", model_activation=None)]
    wrong = [
        record(run="b", seed=100),
        record(run="c", images=320),
        record(run="d", batch_size=64),
        record(run="e", model_hidden=(64, 32)),
        record(run="f", model_initialization=None),
        record(run="g", stream="pixel-permuted"),
        record(run="h", dataset="mnist-5k"),
        record(run="i", stage_epoch=50),
        record(run="j", optimizer="sgd"),
        record(run="k", model_hidden=None),
    ]
    found = curvature.at_the_paper_s_setting(pd.DataFrame([*right, *wrong]))
    assert found["run"].tolist() == ["r", "a"]
    assert found["activation"].tolist() == ["tanh", "relu"]
    sorted_ = [record(method="wasserstein", lam=lam) for lam in (1.0, 10.0)]
    methods = curvature.at_the_paper_s_setting(pd.DataFrame(sorted_))["method"].tolist()
    assert methods == ["wasserstein-1", "wasserstein"], "the largest strength of the paper's grid"
    plain = pd.DataFrame([record()])
    assert len(curvature.at_the_paper_s_setting(plain)) == 1
    assert not len(curvature.at_the_paper_s_setting(plain.drop(columns="model_hidden")))
    assert "activation" in curvature.at_the_paper_s_setting(plain[:0])


def test_events_and_levels_are_those_of_the_rule(as_claimed):
    found = curvature.events(as_claimed).set_index(["activation", "method", "seed"])
    for seed in range(5):
        row = found.loc[("tanh", "vanilla", seed)]
        assert row["onset"] == ONSET["tanh"] + seed % 2 and not row["censored"]
        assert row["fallen"] == ONSET["tanh"] - 1 and not row["never"]
    assert found.loc[("identity", "swr", 0), "censored"]
    table = curvature_tables.levels(as_claimed)
    line = table[(table["measure"] == "update norm") & (table["activation"] == "ReLU")].iloc[0]
    sums = task_rule.summarized(
        as_claimed[(as_claimed["activation"] == "relu") & (as_claimed["method"] == "vanilla")],
        EARLIER["update norm"],
    )
    assert line["ours"] == f"{sums['start'].mean():.3g} → {sums['late'].mean():.3g}"
    assert line["printed"] == "0.025 → 0" and line["seeds"] == 5
    lead = curvature.lead_of(Courses(as_claimed), "tanh", "vanilla")
    assert lead.differences().tolist() == [1, 2, 1, 2, 1]
    assert curvature.lead_of(Courses(as_claimed), "tanh", "nobody").n == 0


def test_a_sentence_an_activation_says_what_came_first(as_claimed):
    said = in_words.leads(as_claimed)
    both = "(where both were seen, 1.4 tasks earlier on average)"
    assert f"tanh: of 5 runs the rank fell before it in 5 {both}." in said
    none = "identity (linear): of 5 runs the rank did not fall, and no task was lost, in 5."
    assert none in said
    after = made_up(
        onset={"relu": 4}, change=lambda f: f.assign(**{HESSIAN: 800 - 700 * (f["task"] > 9)})
    )
    said = in_words.leads(after)
    assert "ReLU: of 5 runs the rank fell after it in 5" in said and "tasks later" in said
    assert "tanh" not in said, "an activation that was not run is not spoken of"
    never = made_up(onset={"identity": 1}, change=lambda f: f.assign(**{HESSIAN: 800.0}))
    said = in_words.leads(never[never["seed"] % 2 == 0])
    assert "of 3 runs the rank never fell in 3; the first task is counted as lost already" in said
    assert in_words.leads(as_claimed[:0]) == ""


def test_runs_in_which_neither_event_was_seen_are_not_called_planned(as_claimed):
    found = verdicts_on(made_up(onset=ONSET | {"tanh": 99}), "before")["before"]
    assert (found.verdict, found.detail) == (verdicts.NOT_RUN, curvature.NOT_SEEN)
    relu = as_claimed[as_claimed["activation"] == "relu"]
    assert verdicts_on(relu, "before")["before"].detail == curvature.PLANNED


def test_readings_needs_and_claims_are_each_other_s():
    claims = {claim.id for claim in PAPER.claims}
    assert set(curvature.READINGS) <= claims and set(PAPER.details["needs"]) <= claims
    assert claims == set(curvature.READINGS) | set(PAPER.details["needs"])
    assert sum(name.startswith("curvature-not-") for name in curvature.READINGS) == len(EARLIER)
    for claim in PAPER.claims:
        assert claim.remark == (claim.place == "ours")
        assert claim.chapter == "curvature" and claim.sentence.endswith(".")


def test_pixels_are_compared_on_the_tasks_and_seeds_of_both():
    given = {"stream": curvature.STREAM, "batch_size": 16, "images": 1280, "stage_epoch": 200}
    given |= {"model_hidden": [[128, 64, 32]] * 12, "model_initialization": "glorot"}
    parts = []
    for dataset, seeds, tasks, lost in (("mnist", (0, 1, 2), 4, 2), (curvature.UNIT, (0, 1), 3, 3)):
        rows = pd.DataFrame([(s, t) for s in seeds for t in range(1, tasks + 1)])
        rows = rows.set_axis(["seed", "stage"], axis=1)
        accuracy = np.where((rows["stage"] >= lost) & (rows["seed"] < 1), 0.4, 1.0)
        units = given | {"model_hidden": given["model_hidden"][: len(rows)]}
        rows = rows.assign(**units, dataset=dataset, method="vanilla", task_accuracy=accuracy)
        rows = rows.assign(
            train_accuracy=0.5,
            lr=1e-3,
            lam=np.nan,
            diverged=False,
            model="mlp",
            epochs=6,
            run=dataset + rows["seed"].astype(str),
        )
        parts.append(rows.assign(epoch=200 * rows["stage"]))
    table = curvature_tables.by_pixels(pd.concat(parts, ignore_index=True))
    assert table.loc["vanilla"].to_dict() == {
        "mean error, normalized": "0.200",  # 0.6 in tasks 2 and 3 of one seed of two
        "mean error, from 0 to 1": "0.100",
        "first lost task, normalized": "2, –",
        "first lost task, from 0 to 1": "3, –",
    }
    assert not len(curvature_tables.by_pixels(parts[0]))
