"""Which measure predicts: laid out from made-up records, correlated by scipy's, judged by words."""

import itertools

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from swrlib.claims import prediction_rule as rule
from swrlib.claims import prediction_simulation as simulation
from swrlib.claims import predictors
from swrlib.claims.prediction_rule import DIFFERS, DOES_NOT, PREDICTS, TOO_FEW, UNDECIDED, Found
from swrlib.claims.predictors import (
    ACROSS,
    BEFORE,
    BEYOND,
    CLOCK,
    NAMES,
    PREDICTORS,
    TOGETHER,
    WITHIN,
)
from swrlib.statistics import holm

SRANK, DEAD, UPDATE = "Hessian: srank", "features: dead units", "update in the task before"


def draws(seed=0):
    return np.random.default_rng(seed)


# From records to a table


def records(stream="label-shuffled", stages=3, epochs=4, run="r", **more):
    """Rows as the engine writes them: one at the start, one at each stage's end."""
    rows = []
    for stage in range(stages + 1):
        rows.append(
            {"run": run, "stream": stream, "method": "swr", "lam": 1e-4, "seed": 0}
            | {"stage": max(stage, 1), "stage_epoch": epochs * (stage > 0), "epoch": epochs * stage}
            | {"train_accuracy": 0.5 + stage / 100, "task_accuracy": 1 - stage / 10}
            | {"dataset": "mnist", "model": "mlp", "epochs": epochs * stages, "lr": 1e-3}
            | {"diverged": False}
            | more
        )
    return pd.DataFrame(rows)


def values(run="r", epochs=4, stages=3):
    """What was measured: 100·(stage's number) + a number of the label, at its start or end."""
    layers = [f"linear{i}" for i in (1, 2, 3)]
    labels = {
        "hessian-start": ["srank", "effective-rank", "largest", "negative", "smallest"],
        "spectrum-start": ["epsilon-rank 0.01", "epsilon-rank 0.1", "effective-rank", "largest"],
        "features-start": [
            f"{kind}, {layer}"
            for layer in layers
            for kind in ("srank", "effective-rank", "entropy", "entropy-of-each", "dead")
        ],
        "features-end": [f"srank, {layer}" for layer in layers],
        "weights-start": ["size mean", "distance l2", "distance mean"]
        + [f"{k}, {n}" for n in [*layers, "linear4"] for k in ("srank", "deviation-from-isometry")],
        "weights-end": ["update l2", "update mean", "size mean"],
        "overlap-start": [""],
    }
    rows = [
        (run, epochs * (stage - measure.endswith("start")), 0, measure, label, 100 * stage + number)
        for stage in range(1, stages + 1)
        for measure, of in labels.items()
        for number, label in enumerate(of)
    ]
    columns = ["run", "epoch", "step", "measure", "layer", "value"]
    return pd.DataFrame(rows, columns=columns).astype({"value": "float32"})


def test_a_measure_at_a_tasks_start_stands_beside_the_tasks_end():
    table = predictors.tasks(records(), values())
    assert table["task"].tolist() == [2, 3]  # the first is left out
    assert table["trouble"].tolist() == pytest.approx([0.2, 0.3])
    assert table[BEFORE].tolist() == pytest.approx([0.1, 0.2])
    assert table[CLOCK].tolist() == [2, 3]
    assert set(table["method"]) == {"swr 0.0001"}
    assert set(table["setting"]) == {"label-shuffled, ReLU"}
    first = table.iloc[0]
    expected = {
        SRANK: 200,
        "Hessian: effective rank": 201,
        "Hessian: largest eigenvalue": 202,
        "Hessian: negative eigenvalues": 203,
        "spectrum: ε-rank, ε = 0.01": 200,
        "spectrum: ε-rank, ε = 0.1": 201,
        "spectrum: effective rank": 202,
        "spectrum: largest eigenvalue": 203,
        "features: srank": 210,  # of the third and last hidden layer
        "features: effective rank": 211,
        "features: entropy": 212,
        DEAD: 204 + 209 + 214,  # of all
        "weights: mean size": 200,
        "weights: distance from start": 201,
        "weights: srank": 207,
        "weights: non-isometry": np.mean([204, 206, 208, 210]),
        UPDATE: 100,  # of the task before
        "gradient-Hessian overlap": 200,
    }
    assert {name: first[name] for name in NAMES} == pytest.approx(expected)


def test_a_measure_of_every_so_many_tasks_counts_where_it_was_taken():
    every = values()
    spectrum = every["measure"] == "spectrum-start"
    every.loc[spectrum, "measure"] = "spectrum-start:2"
    every = every[~spectrum | (every["epoch"] == 8)]  # of the third task alone
    table = predictors.tasks(records(), every)
    found = table["spectrum: ε-rank, ε = 0.01"]
    assert np.isnan(found[0]) and found[1] == 300


def test_each_stream_has_its_outcome_and_others_are_passed_over():
    frames = [records(), records("pixel-permuted", run="p"), records("warm-start", run="w")]
    frames += [records(run="chosen", seed=100), records(run="unmeasured", dataset="mnist-unit")]
    frames += [records("pixel-permuted", run="n", lam=np.nan, method="l2", model_layer_norm=True)]
    frames[1]["model_activation"] = frames[-1]["model_activation"] = "tanh"
    frames[-1]["lr"] = 0.2
    measured = pd.concat([values(run) for run in "rpwn"])
    table = predictors.tasks(pd.concat(frames), measured).set_index("run")
    assert set(table.index) == {"r", "p", "n"}
    assert table.loc["p", "trouble"].tolist() == pytest.approx([1 - 0.52, 1 - 0.53])
    assert set(table.loc["r", "setting"]) == {"label-shuffled, ReLU"}
    assert set(table.loc["p", "setting"]) == {"pixel-permuted, tanh, MNIST, rate 0.001"}
    assert set(table.loc["n", "setting"]) == {"pixel-permuted, tanh, MNIST, rate 0.2"}
    assert set(table.loc["n", "method"]) == {"layer-norm-l2"}


def test_a_setting_with_one_method_alone_is_left_out_and_named():
    """One with other data or another rate leaves the others' short name alone, and their runs."""
    runs = {"a": {}, "b": {"method": "l2"}}
    runs |= {"unit": {"dataset": "mnist-unit"}, "fast": {"lr": 0.01}, "unseen": {"lr": 0.5}}
    frame = pd.concat(records(run=run, **more) for run, more in runs.items())
    table = predictors.tasks(frame, pd.concat(values(run) for run in runs if run != "unseen"))
    table, alone = predictors.of_several_methods(table)
    assert set(table["run"]) == {"a", "b"} and set(table["setting"]) == {"label-shuffled, ReLU"}
    assert alone == [
        "label-shuffled, ReLU, MNIST, pixels from 0 to 1, rate 0.001",
        "label-shuffled, ReLU, MNIST, rate 0.01",
    ]
    both = pd.concat([frame, records(run="c", lr=0.01, method="l2")])
    table = predictors.tasks(both, pd.concat(values(run) for run in ("a", "b", "fast", "c")))
    table, alone = predictors.of_several_methods(table)
    names = ["label-shuffled, ReLU, MNIST, rate 0.001", "label-shuffled, ReLU, MNIST, rate 0.01"]
    assert not alone and sorted(table["setting"].unique()) == names
    nothing, alone = predictors.of_several_methods(predictors.tasks(frame[:0], values()[:0]))
    assert not len(nothing) and not alone


def test_the_table_says_by_how_much_the_error_rises():
    """From the first fifth of the tasks to the last; what lies between does not count."""
    table = made_up({}, methods=2, count=11)  # tasks 2 to 11, of which two are a fifth
    middle = table["task"].between(4, 9)
    table["trouble"] = np.where(middle, 7.0, np.where(table["task"] > 9, 0.3, 0.1))
    table.loc[table["method"] == "m1", "trouble"] *= -1
    assert predictors.coverage(table)["rise of the error"].tolist() == ["-0.20 to +0.20"]


def test_the_last_hidden_layer_is_each_networks_own():
    """The head of a shallow network has the name of a deeper one's last hidden layer."""
    shallow = values("s")
    layers = shallow["layer"].str
    shallow = shallow[~(layers.endswith("linear4") | (layers.contains("linear3")))]
    head = values("s")[lambda rows: rows["layer"] == "srank, linear3"]
    shallow = pd.concat([shallow, head[head["measure"] == "weights-start"]])
    table = predictors.tasks(
        pd.concat([records(), records(run="s", seed=1)]), pd.concat([values(), shallow])
    ).set_index("run")
    assert table.loc["r", "features: srank"].iloc[0] == 210
    assert table.loc["s", "features: srank"].iloc[0] == 205
    assert table.loc["s", "weights: srank"].iloc[0] == 205
    assert table.loc["r", "weights: srank"].iloc[0] == 207


def test_what_is_missing_is_missing():
    lost = records()
    lost.loc[2:, ["task_accuracy", "diverged"]] = np.nan, True
    lost = lost[:3]  # nothing is written of it any more
    some = values()
    some = some[(some["measure"] != "spectrum-start") & ~some["layer"].str.startswith("dead")]
    table = predictors.tasks(pd.concat([lost, records(run="q", seed=1)]), some)
    assert table.groupby("run")["trouble"].agg(list)["r"] == [1, 1]  # it learns nothing more
    table = table[table["run"] == "r"]
    absent = [name for name in NAMES if table[name].isna().all()]
    assert absent == [p.name for p in PREDICTORS if "spectrum-start" in p.measure or p.name == DEAD]
    assert predictors.coverage(table).iloc[0].to_dict() == {
        "methods": 1,
        "seeds": 1,
        "tasks": "3",
        "rise of the error": "+0.00 to +0.00",
        "not measured": f"spectrum, {DEAD}",
    }
    for frame, measured in ((lost, values()[:0]), (lost[:0], values()[:0])):
        nothing = predictors.tasks(frame, measured)
        assert nothing[list(NAMES)].isna().all().all()
        judged = rule.judged(nothing)
        assert not len(judged[judged["seeds"] > 0])
        for view in predictors.VIEWS:
            assert "nothing to say" in rule.said(judged, view)
        assert rule.said_of_methods(judged) and rule.said_of_baselines(judged)
    assert not len(predictors.coverage(nothing))
    whole = predictors.missing(nothing)
    assert whole.startswith(
        "Not recorded yet with several methods: label-shuffled, ReLU; label-shuffled, leaky ReLU; "
    )
    said = predictors.missing(table)
    assert said.startswith(
        "Not recorded yet with several methods: label-shuffled, leaky ReLU; label-shuffled, tanh; "
    )
    assert "With fewer than 3 seeds: label-shuffled, ReLU. With fewer than 5 methods, too " in said


# Correlations


@pytest.mark.parametrize("ties", [False, True])
def test_correlations_are_scipys(ties):
    x, y, by = draws(1).normal(size=(3, 20))
    if ties:
        x, y, by = x.round(), y.round(), by.round()
    expected = scipy.stats.spearmanr(x, y).statistic
    assert predictors.spearman(x, y) == pytest.approx(expected, abs=1e-12)
    ranks = [scipy.stats.rankdata(values) for values in (x, y, by)]
    design = np.column_stack([np.ones(20), ranks[2]])
    rest = [v - design @ np.linalg.lstsq(design, v, rcond=None)[0] for v in ranks[:2]]
    expected = np.corrcoef(*rest)[0, 1]  # of what a line through the third leaves
    assert predictors.partial(x, y, by) == pytest.approx(expected, abs=1e-12)
    assert np.isnan(predictors.spearman(x, np.ones(20)))
    assert np.isnan(predictors.partial(x, by, by))


def made_up(strengths, *, seeds=3, methods=5, count=20, streams=("label-shuffled",), noise=0.1):
    """A table as `tasks` returns it; a measure is its strength · trouble, and noise of its own."""
    random, rows = draws(3), []
    for stream, seed, method in itertools.product(streams, range(seeds), range(methods)):
        trouble = method + np.cumsum(random.normal(size=count))
        about = {"setting": stream, "method": f"m{method}", "seed": seed}
        for task in range(1, count):
            row = about | {"run": f"{stream}{seed}{method}", "task": task + 1}
            row |= {"trouble": trouble[task], CLOCK: task + 1.0, BEFORE: trouble[task - 1]}
            for name in NAMES:
                given = strengths.get(name, 0.0)
                strength = given.get(stream, 0.0) if isinstance(given, dict) else given
                own = random.normal() * (noise if strength else 1)
                row[name] = strength * trouble[task] + own
            rows.append(row)
    return pd.DataFrame(rows)


def test_runs_are_correlated_one_by_one():
    table = made_up({SRANK: -1.0})
    table.loc[table.index[::3], DEAD] = np.nan
    table.loc[table["run"] == "label-shuffled00", UPDATE] = 7.0
    table.loc[(table["run"] == "label-shuffled01") & (table["task"] > 5), UPDATE] = np.nan
    found = predictors.of_runs(table).set_index(["method", "seed", "measure"])
    for (method, seed), run in table.groupby(["method", "seed"]):
        for name in (SRANK, DEAD):
            known = run.dropna(subset=[name])
            expected = scipy.stats.spearmanr(known[name], known["trouble"]).statistic
            assert found.loc[(method, seed, name), "rho"] == pytest.approx(expected, abs=1e-12)
            beyond = predictors.partial(known[name], known["trouble"], known["task"])
            assert found.loc[(method, seed, name), "beyond"] == pytest.approx(float(beyond))
    assert found.loc[[("m0", 0, UPDATE), ("m1", 0, UPDATE)], "rho"].isna().all()
    signs = predictors.signs(found.reset_index())
    assert signs.loc[SRANK, ["with", "against"]].tolist() == [0, 15]
    own = found.xs(DEAD, level="measure")["rho"]
    assert signs.loc[DEAD].tolist() == [(own > 0).sum(), (own < 0).sum(), own.min(), own.max()]


def test_views_by_hand():
    table = made_up({SRANK: -1.0})
    views = {view: look(table)[SRANK] for view, look in predictors.VIEWS.items()}
    for seed, part in table.groupby("seed"):
        together = scipy.stats.spearmanr(part[SRANK], part["trouble"]).statistic
        assert views[TOGETHER][seed] == pytest.approx(together, abs=1e-12)
        means = part.groupby("method")[[SRANK, "trouble"]].mean()
        across = scipy.stats.spearmanr(means[SRANK], means["trouble"]).statistic
        assert views[ACROSS][seed] == pytest.approx(across, abs=1e-12)
        runs = [
            scipy.stats.spearmanr(run[SRANK], run["trouble"]).statistic
            for _, run in part.groupby("method")
        ]
        assert views[WITHIN][seed] == pytest.approx(np.mean(runs), abs=1e-12)
    fewer = table[table["method"] != "m4"]
    assert not predictors.VIEWS[ACROSS](fewer)[SRANK].count()


# Words


def test_an_interval_is_students_over_seeds_of_fishers_z():
    rho = np.array([0.5, 0.7, 0.65])
    found = rule.over_seeds(rho)
    z = scipy.stats.ttest_1samp(np.arctanh(rho), 0)
    low, high = z.confidence_interval(0.95)
    assert found[:4] == pytest.approx(
        (np.tanh(np.arctanh(rho).mean()), *np.tanh([low, high]), z.pvalue)
    )
    above, below = (
        scipy.stats.ttest_1samp(np.arctanh(rho), bound, alternative=side).pvalue
        for bound, side in ((-np.arctanh(0.3), "greater"), (np.arctanh(0.3), "less"))
    )
    assert found.little == pytest.approx(max(above, below))
    assert rule.over_seeds(rho, permuted=0.9).p == 0.9
    perfect = rule.over_seeds(np.array([1.0, 1.0, 1.0]))
    assert perfect.rho == pytest.approx(0.999) and rule.word(perfect) == PREDICTS
    assert rule.word(rule.over_seeds(np.zeros(3))) == DOES_NOT


@pytest.mark.parametrize(
    ("rho", "expected"),
    [
        ([0.7, 0.75, 0.8], PREDICTS),
        ([-0.7, -0.75, -0.8], PREDICTS),
        ([0.2, 0.21, 0.22], DOES_NOT),  # away from 0, but of no size that matters
        ([0.05, -0.05, 0.0], DOES_NOT),
        ([0.1, 0.6, 0.8], UNDECIDED),
        ([0.28, 0.31, 0.29], UNDECIDED),
        ([0.9, 0.9], TOO_FEW),
        ([0.9], TOO_FEW),
        ([], TOO_FEW),
    ],
)
def test_words(rho, expected):
    assert rule.word(rule.over_seeds(np.array(rho))) == expected


def test_a_correction_takes_a_word_away():
    found = rule.over_seeds(np.array([0.5, 0.7, 0.65]))
    assert rule.word(found) == PREDICTS
    assert rule.word(found, 0.06) == UNDECIDED


UP, DOWN, NONE, OPEN = [0.8, 0.81, 0.82], [-0.8, -0.81, -0.82], [0.0, 0.02, -0.02], [0.1, 0.6, 0.8]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ([UP, UP], PREDICTS),
        ([UP, DOWN], DIFFERS),
        ([UP, NONE], DIFFERS),
        ([UP, OPEN], PREDICTS),
        ([NONE, NONE], DOES_NOT),
        ([OPEN, NONE], UNDECIDED),
    ],
)
def test_the_word_over_settings(settings, expected):
    each = [rule.over_seeds(np.array(rho)) for rho in settings]
    overall = rule.over_seeds(np.tanh(rule.fisher(settings).mean(0)))
    if expected == PREDICTS and OPEN in settings:
        overall = Found(0.6, 0.4, 0.8, 0.01, 0.9, 3)
    found = rule.verdict(Found(*map(np.array, zip(*each, strict=True))), overall)
    assert found == expected


def frames(*ranks):
    return [pd.DataFrame([row], columns=list("abcdefgh")[: len(row)]) for row in ranks]


def test_a_permutation_exchanges_methods():
    x, y = frames([1, 2, 3, 4, 5], [1, 2, 3, 4, 5])
    assert rule.permutation([(x, y)]) == pytest.approx(2 / 120)  # the same and the reverse order
    middle = frames([2, 1, 4, 3, 5])[0]
    own = scipy.stats.spearmanr(x.loc[0], middle.loc[0]).statistic
    others = [
        abs(scipy.stats.spearmanr(x.loc[0], order).statistic)
        for order in itertools.permutations(range(5))
    ]
    expected = np.mean(np.array(others) >= abs(own) - 1e-9)
    assert rule.permutation([(x, middle)]) == pytest.approx(expected)
    # Two settings with the same five methods are no ten methods.
    assert rule.permutation([(x, y), (x, y)]) == pytest.approx(2 / 120)
    assert rule.permutation([(x, y[list("edcba")]), (x, y)]) == pytest.approx(2 / 120)  # by name
    # Of many methods orders are drawn; another setting may have some of them alone.
    many, few = frames([1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4])
    assert rule.permutation([(many, many)]) == pytest.approx(1 / rule.ORDERS)
    found = rule.permutation([(many, many), (few, few)])
    assert found == pytest.approx(1 / rule.ORDERS)
    assert rule.permutation([(few, few)]) == pytest.approx(2 / 24)
    # Why four are too few: where the order differs by seed, the best of all is alone.
    turns = pd.DataFrame([[1, 2, 3, 4], [1, 2, 4, 3]], columns=list("abcd"))
    assert rule.permutation([(turns, turns)]) == pytest.approx(1 / 24)
    assert np.isnan(rule.permutation([]))


def test_measures_are_judged_in_every_view():
    both = ("label-shuffled", "pixel-permuted")
    strengths = {SRANK: -1.0, UPDATE: {"label-shuffled": 1.0, "pixel-permuted": -1.0}}
    table = made_up(strengths, streams=both)
    judged = rule.judged(table)
    words = judged[judged["setting"] == "all"].set_index(["view", "measure"])["word"]
    for view in (TOGETHER, WITHIN, BEYOND):
        assert words[view, SRANK] == PREDICTS
        assert words[view, UPDATE] == DIFFERS
        assert words[view, "features: srank"] in (DOES_NOT, UNDECIDED)
    rho = judged.set_index(["view", "measure", "setting"])["rho"]
    assert rho[WITHIN, UPDATE, "label-shuffled"] > 0.9
    assert rho[WITHIN, UPDATE, "pixel-permuted"] < -0.9
    # A measure's p value is corrected for the number of measures, a baseline's is not.
    chosen = judged[(judged["view"] == WITHIN) & (judged["setting"] == "all")]
    chosen = chosen.set_index("measure")
    corrected = dict(zip(NAMES, holm(chosen.loc[list(NAMES), "p"]), strict=True))
    undecided = chosen.loc["features: entropy"]
    assert corrected["features: entropy"] >= undecided["p"]
    assert chosen.loc[BEFORE, "word"] == PREDICTS
    # Sentences.
    text = rule.said(judged, WITHIN)
    assert text.startswith("Within runs, of 18 measures 1 predicts: Hessian: srank (-0.9")
    assert "1 differs by setting: update in the task before" in text
    assert rule.said_of_methods(judged).startswith(
        "Within runs 1 predicts; of these, across methods"
    )
    assert "the error of the task before has ρ = +0." in rule.said_of_baselines(judged)


def test_settings_with_few_methods_have_no_word_across_methods():
    """Within runs they count; "all settings" across methods is the other setting alone."""
    table = made_up({SRANK: -1.0}, streams=("label-shuffled, ReLU", "pixel-permuted, ReLU"))
    few = table[(table["setting"] != "label-shuffled, ReLU") | (table["method"] != "m4")]
    few = few.assign(**{DEAD: few[DEAD].where(few["setting"] == "label-shuffled, ReLU")})
    judged = rule.judged(few).set_index(["view", "measure", "setting"])
    across = judged.loc[(ACROSS, SRANK)]
    assert set(across.index[across["seeds"] > 0]) == {"all", "pixel-permuted, ReLU"}
    for number in ("rho", "p", "seeds"):
        assert across.at["all", number] == pytest.approx(across.at["pixel-permuted, ReLU", number])
    assert judged.loc[(WITHIN, SRANK, "label-shuffled, ReLU"), "seeds"] == 3
    judged = judged.reset_index()
    assert rule.rests_on(few, judged, WITHIN) == (
        "Within runs rests on 1 label-shuffled and 1 pixel-permuted settings (513 tasks of 27 runs,"
        " 3 seeds); features: dead units on 1 label-shuffled setting (228 tasks of 12 runs, 3"
        " seeds)."
    )
    said = rule.rests_on(few, judged, ACROSS)
    assert said == (
        "Across methods rests on 1 pixel-permuted setting (285 tasks of 15 runs, 3 seeds)."
    )
    only = few[few["setting"] == "label-shuffled, ReLU"]
    judged = rule.judged(only)
    assert "nothing to say" in rule.said(judged, ACROSS)
    assert rule.rests_on(only, judged, ACROSS) == "Across methods rests on no setting yet."
    asked = rule.said_of_methods(judged)
    assert asked.endswith("across methods 1 has no setting of enough methods (Hessian: srank).")


def test_a_baseline_stands_beside_a_measure_in_the_measures_own_settings():
    """In one stream alone the number of the task says less than the measure taken there."""
    table = made_up({SRANK: -1.0}, streams=("label-shuffled, ReLU", "pixel-permuted, ReLU"))
    first = table["setting"] == "label-shuffled, ReLU"
    table["trouble"] = np.where(first, table["trouble"], table["task"])
    table[list(NAMES[1:])] = np.nan
    table[SRANK] = table[SRANK].where(first)
    said = rule.said_of_baselines(rule.judged(table))
    assert "; where they were taken 0 of 1 measures have less, by size" in said
    assert said.startswith("Within runs the number of the task has ρ = +0.9")


def test_seeds_that_all_settings_have_count_over_all():
    table = made_up({SRANK: -1.0}, seeds=5, streams=("label-shuffled", "pixel-permuted"))
    table = table[(table["setting"] == "label-shuffled") | (table["seed"] < 4)]
    judged = rule.judged(table).set_index(["view", "measure", "setting"])
    assert judged.loc[(WITHIN, SRANK, "label-shuffled"), "seeds"] == 5
    assert judged.loc[(WITHIN, SRANK, "all"), "seeds"] == 4
    young = table[(table["setting"] == "label-shuffled") | (table["seed"] < 1)]
    judged = rule.judged(young).set_index(["view", "measure", "setting"])
    assert judged.loc[(WITHIN, SRANK, "pixel-permuted"), "word"] == TOO_FEW
    assert judged.loc[(WITHIN, SRANK, "all"), "seeds"] == 5  # a setting of one seed waits


# How often words are wrong


@pytest.fixture(scope="module")
def simulated():
    return simulation.simulated()


def test_words_are_rarely_wrong(simulated):
    share = simulated.set_index(["view", "seeds", "measure"])
    for seeds in (3, 5):
        for view in (WITHIN, BEYOND, ACROSS):
            assert share.loc[(view, seeds, "useless"), [PREDICTS, DIFFERS]].sum() <= 0.05
            assert share.loc[(view, seeds, "strong"), DOES_NOT] <= 0.05
        assert share.loc[(BEYOND, seeds, "steady drift"), PREDICTS] <= 0.05
        assert share.loc[(WITHIN, seeds, "strong, turned in one setting"), PREDICTS] <= 0.05
    assert share.loc[(WITHIN, 5, "strong"), PREDICTS] > 0.95
    assert share.loc[(WITHIN, 5, "strong, turned in one setting"), DIFFERS] > 0.95


def test_the_page_shows_the_simulation(simulated, root):
    page = (root / "book/verdicts.md").read_text()
    _, _, rest = page.partition("<!-- simulation of what predicts, begin -->")
    shown, _, _ = rest.partition("<!-- simulation of what predicts, end -->")
    again = simulation.as_text(simulated)
    assert shown.strip() == again, "python -m swrlib.claims.prediction_simulation"


def test_what_is_drawn_is_judged_as_records_are():
    """The simulation's own arithmetic is the library's, on a table made of one experiment."""
    trouble, measures = simulation._drawn(3, draws(8))
    measures = measures[[0, 8, 11, 14, 16]]
    rows = []
    for place in itertools.product(*map(range, trouble.shape)):
        setting, seed, method, task = place
        row = {"setting": f"s{setting}", "method": f"m{method}", "seed": seed}
        row |= {"run": str(place[:3]), "task": task + 2, "trouble": trouble[place]}
        row |= {CLOCK: float(task), BEFORE: np.nan} | dict.fromkeys(NAMES, np.nan)
        rows.append(row | {NAMES[k]: values[place] for k, values in enumerate(measures)})
    judged = rule.judged(pd.DataFrame(rows))
    words = judged[judged["setting"] == "all"].set_index(["view", "measure"])["word"]
    for view in (WITHIN, BEYOND, ACROSS):
        found = simulation._simulated_view(view, trouble, measures)
        assert found.tolist() == [words[view, name] for name in NAMES[:5]]
