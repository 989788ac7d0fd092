"""What the neighbours' chapters say in words of their own is what the committed records say.

Each sentence stands here beside what makes it true. Where records no longer bear one out, or the
page no longer has it, the test names it.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from swrlib import load_dataset, load_measures, load_records
from swrlib.claims import curvature, curvature_tables, fire, predictors
from swrlib.claims import spectral_collapse as collapse
from swrlib.claims import spectral_collapse_tables as collapse_tables
from swrlib.claims.curvature import HESSIAN
from swrlib.methods import METHODS
from swrlib.papers import find_paper
from swrlib.theory.isometry import polar_factor, reinitialized
from swrlib.verdicts import task_rule

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"


def prose(chapter: str) -> str:
    """Return the words of a chapter's text cells, with single spaces."""
    cells = json.loads((ROOT / f"notebooks/{chapter}.ipynb").read_text())["cells"]
    texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    return " ".join(" ".join(texts).split())


def holds(chapter: str, sentence: str, true: bool) -> None:
    """Fail with a sentence that stands on a page and is not true, or is true and not there."""
    assert " ".join(sentence.split()) in prose(chapter), f"{chapter} no longer says: {sentence}"
    assert true, f"the records no longer bear out what {chapter} says: {sentence}"


# ------------------------------------------------------------------------------- curvature


@pytest.fixture(scope="module")
def courses() -> curvature.Courses:
    records = load_records(RESULTS, stream=curvature.STREAM, split="all")
    rows = curvature.with_measures(curvature.at_the_paper_s_setting(records), RESULTS)
    if not len(rows) or "relu" not in set(rows["activation"]):
        pytest.skip("the chapter's trainings are not recorded yet")
    return curvature.Courses(rows)


@pytest.fixture(scope="module")
def relu(courses) -> pd.DataFrame:
    return courses.rows[courses.rows["activation"] == "relu"]


def by_task(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    return rows.pivot_table(index="task", columns="method", values=value)


def test_curvature_says_how_relu_loses(relu):
    error = by_task(relu, "error")
    plain = relu[relu["method"] == "vanilla"].pivot(index="task", columns="seed", values="error")
    third = (plain.loc[3] > 0.1).all() and plain.loc[:2].max(axis=None) < 0.1
    dead = third and plain.loc[6:].min(axis=None) > 0.8
    holds("curvature", "plain training loses its third task, and soon learns nothing more", dead)
    low = error["swr"].loc[:10].mean() < 0.05 and error["swr"].loc[:11].max() < 0.1
    holds("curvature", "SWR keeps the error low for some ten tasks", low)
    late = error.loc[25:].mean()
    above = late[["l2", "l2-init"]].max() < late["swr"] < late["vanilla"]
    holds("curvature", "in the mean ends above that of L2 and L2 Init", above)


def test_curvature_says_what_the_rank_does_with_relu(courses, relu):
    rank, lead = by_task(relu, HESSIAN), curvature.lead_of(courses, "relu", "vanilla").differences()
    quarter = 0.7 < rank["swr"].loc[25:].mean() / rank["swr"].loc[:2].mean() < 0.8
    said = "the rank of the Hessian under SWR falls by a quarter in the mean"
    holds("curvature", said, quarter)
    never = curvature.events(relu).groupby("method")["never"].agg(list)
    most = sum(never["swr"]) > len(never["swr"]) / 2
    holds("curvature", "in most runs never below half of its start", most)
    silent = (lead < 0).all() and rank["vanilla"].loc[3] > 0.9 * rank["vanilla"].loc[2]
    holds("curvature", "In plain training with ReLU the rank gives no warning", silent)
    plain = relu[relu["method"] == "vanilla"].pivot(index="task", columns="seed", values=HESSIAN)
    gone = (plain.loc[5] < 30).mean() > 0.5
    holds("curvature", "two tasks later most networks are dead, and so is their Hessian", gone)
    nine = (plain.loc[6:] == 9).all().mean() > 0.5
    holds("curvature", "which leaves a rank of 9", nine)
    one = sum(never["swr"]) == len(never["swr"]) - 1 and all(never["l2-init"])
    holds("curvature", "in no run of L2 Init and in one of SWR", one)
    falls, ends = not any(never["l2"]), by_task(relu, "error")["l2"]
    recovers = falls and ends.loc[25:].mean() < ends.max() - 0.1
    holds("curvature", "under L2 it falls, and yet the network recovers", recovers)


def test_curvature_says_what_the_lead_depends_on(courses):
    page, leads = "curvature", curvature_tables.leads_by_threshold(courses.all)
    if set(leads.index.unique("pixels")) != {*curvature.PIXELS.values()}:
        pytest.skip("tanh is not recorded with both scales yet")
    wide, narrow = (leads.loc[pixels] for pixels in curvature.PIXELS.values())
    holds(page, "By the rule the rank is therefore late", wide.iloc[0, 0] < -1)
    early = (wide.iloc[:, -1] > 1).all() and (wide.loc["above 0.3"] > 1).all()
    holds(page, "counted from a fall by a quarter on, or to errors above 0.3, it is early", early)
    said = "on the mean the rank falls first by every count"
    holds(page, said, (narrow > 1).all(axis=None))
    tanh = courses.all[(courses.all["activation"] == "tanh") & (courses.all["method"] == "vanilla")]
    early = tanh[(tanh["dataset"] == curvature.UNIT) & (tanh["task"] <= 8)]
    good = early["error"].max() < 0.1 and tanh["task"].max() == 30
    holds(page, "With pixels from 0 to 1 no early task goes wrong", good)


def test_curvature_says_that_the_ranks_go_together(courses):
    if "features-start, srank, linear3" not in courses.rows:
        pytest.skip("features at the start are not recorded yet")
    related = [courses.correlation(HESSIAN, curvature.FEATURES, a) for a in curvature.NONLINEAR]
    together = all((rho["vanilla"] > 0.3).all() for rho in related if len(rho))
    said = "the two ranks, both at the start of a task, rise and fall together"
    holds("curvature", said, together)
    rows = courses.rows[(courses.rows["method"] == "vanilla") & (courses.rows["task"] <= 2)]
    names = ("features-end, entropy, linear3", "features-end, entropy-of-each, linear3")
    mean, single = (rows.groupby("activation")[name].mean() for name in names)
    holds(
        "curvature", "averaged, is lower at the start with every activation", (single < mean).all()
    )


def test_curvature_says_what_is_learnt_late_with_relu(relu):
    online, error = by_task(relu, "online"), by_task(relu, "error")
    late = online["swr"].loc[10] < 0.7 and error["swr"].loc[10] < 0.1
    late &= (online["l2-init"].loc[5:] < 0.6).mean() > 0.8
    holds("curvature", "what SWR's first tasks look like, and most of L2 Init's", late)


def test_curvature_says_what_the_other_activations_lose(courses):
    means = (
        courses.rows[courses.rows["task"] >= 25].groupby(["activation", "method"])["error"].mean()
    )
    error = means.unstack("method")
    if not {"leaky_relu", "tanh", "identity"} <= set(error.index):
        pytest.skip("not every activation is recorded yet")
    two = error.loc[["leaky_relu", "tanh"]]
    said = "With leaky ReLU and tanh plain training comes to fail on more than half of the images"
    holds("curvature", said, (two["vanilla"] > 0.5).all())
    low = (two[["swr", "l2-init"]] < 0.04).all(axis=None) and (two["l2"] < 0.06).all()
    said = "while under SWR and L2 Init the mean error ends below 0.04, and under L2 below 0.06"
    holds("curvature", said, low)
    linear = courses.rows[courses.rows["activation"] == "identity"]
    course = by_task(linear, "error")
    holds("curvature", "The linear network cannot fit these labels", course.mean().min() > 0.1)
    lower = (course.loc[25:].mean() < course.loc[:2].mean()).all()
    holds("curvature", "is not seen to lose anything over the tasks", lower)
    linear = linear.groupby(["method", "seed", "task"])["error"].mean()
    ratio = linear["swr"].groupby("seed").mean() / linear["vanilla"].groupby("seed").mean()
    holds("curvature", "SWR only doubles the error", ratio.between(1.8, 2.2).all())


def test_curvature_says_what_the_scale_of_the_pixels_changes(courses):
    table = curvature_tables.by_pixels(load_records(RESULTS, stream=curvature.STREAM, split="all"))
    if not len(table):
        pytest.skip("pixels from 0 to 1 are not recorded yet")
    plain = table.loc["vanilla"]
    said = "With pixels from 0 to 1 plain training loses its first task one task later"
    first = [plain[f"first lost task, {pixels}"] for pixels in ("normalized", "from 0 to 1")]
    holds("curvature", said, first == ["3, 3, 3", "4, 4, 4"])
    rows = load_records(RESULTS, stream=curvature.STREAM, split="all", method=["vanilla"])
    rows = curvature.at_the_paper_s_setting(rows)
    rows = rows[(rows["dataset"] == curvature.UNIT) & (rows["activation"] == "relu")]
    dead = 1 - rows.loc[rows["stage"] >= 5, "task_accuracy"].min() > 0.8
    dead &= rows.loc[rows["stage"] >= 5, "task_accuracy"].max() < 0.2
    holds("curvature", "from the next on it learns nothing more either", dead)
    constants = [load_dataset(name, root=None).std for name in ("mnist-5k", "mnist-5k-unit")]
    wide = 2.5 < constants[1][0] / constants[0][0] < 3.5
    holds("curvature", "a range about three times as wide as pixels from 0 to 1", wide)


def test_curvature_says_what_trials_of_the_wasserstein_regularizer_show():
    trials = load_records(RESULTS, stream=curvature.STREAM, split="all", seed=curvature.CHOOSING)
    rows = task_rule.task_rows(trials[trials["tasks"] == 6])
    ends = rows.pivot(index="task", columns=["method", "lam"], values="error")
    if "wasserstein" not in ends:
        pytest.skip("the trials are not recorded yet")
    tried = ends["wasserstein"]
    if 10 not in tried:
        pytest.skip("strengths beyond the paper's grid are not recorded")
    in_grid = tried.loc[:, tried.columns <= curvature.IN_GRID]
    lost, dead = (in_grid > 0.1).idxmax(), ends.loc[4:].min() > 0.5
    fourth = lost[1.0] == 4 and (lost.drop(1.0) < 4).all() and dead["wasserstein"][lost.index].all()
    said = "the largest strength of the paper's grid, 1, loses the fourth task"
    holds("curvature", said, fourth and curvature.IN_GRID == 1)
    smaller = sorted(lost.index) == [0.001, 0.01, 0.1, 1.0]
    holds("curvature", "each smaller one that was tried (0.1, 0.01 and 0.001)", smaller)
    holds(
        "curvature", "10, no task is lost, and every image is learnt in each", tried[10].max() == 0
    )
    most = tried[[100, 1000]].max(axis=None)
    holds("curvature", "with 100 and 1,000 errors of up to 0.14 remain", round(most, 2) == 0.14)
    best = tried.mean().idxmin() == 10
    holds("curvature", "10 is judged, by the rule by which all strengths were chosen", best)
    several = (ends > 0.5).sum() > 1
    least = several["l2-init"].idxmax() == several["l2-init"].index.min()
    only = not several["l2"].any() and least and several["l2-init"].sum() == 1
    holds("curvature", "No strength of L2 and only the least of L2 Init does so there", only)


def test_curvature_says_how_long_the_wasserstein_regularizer_takes(relu):
    times = relu.groupby("method")["seconds"].mean()
    if "wasserstein" not in times:
        pytest.skip("the Wasserstein regularizer is not recorded yet")
    sorting = times.index.str.startswith("wasserstein")
    ratio = times[sorting].mean() / times[~sorting].mean()
    holds("curvature", "took ten times as long as the other methods", 9 < ratio < 12)


def test_curvature_says_what_thirty_tasks_of_the_wasserstein_regularizer_show(relu):
    own = relu[relu["method"] == "wasserstein"]
    if own["seed"].nunique() < 5:
        pytest.skip("the Wasserstein regularizer is not recorded with five seeds yet")
    error = own.pivot(index="task", columns="seed", values="error")
    dead = error.loc[30] > 0.8
    holds("curvature", "loses two of its five runs", dead.sum() == 2 and len(dead) == 5)
    from_there = {s: error[s][error[s] > 0.8] for s in error.columns[dead]}
    when = sorted(run.index[0] for run in from_there.values())
    said = "one is lost at its tenth task and one at its 29th, and neither learns anything after"
    stays = all(len(run) == 31 - run.index[0] for run in from_there.values())
    holds("curvature", said, when == [10, 29] and stays)
    most = error.loc[:, ~dead].max(axis=None)
    said = "the other three never err on more than a sixth of the images"
    holds("curvature", said, most <= 1 / 6)
    nearly = error.loc[:, ~dead].mean(axis=None) < 0.01
    holds("curvature", "and learns nearly every image in the others", nearly)


# ------------------------------------------------------------------------ spectral collapse


def test_spectral_collapse_says_how_small_it_is():
    stream, model = collapse.PAPER.details["stream"], collapse.PAPER.details["model"]
    page = "spectral_collapse"
    holds(page, "network is ten times as wide", model["hidden"] == [1000] * 3)
    small = collapse.IN_SMALL
    assert small["batch_size"] == 10 and collapse.PAPER.batch_size == 1
    six = round(stream["images"] / small["images"]) == 6
    holds(page, "sees six times as many images a task, one at a time", six)
    judged = collapse.in_small(load_records(RESULTS, stream=collapse.STREAM, split="all"))
    if len(judged):
        tasks = judged["tasks"].max()
        holds(page, "twenty times as many tasks", stream["tasks"] == 20 * tasks)
        given = judged.groupby("method")["lam"].first()
        printed = collapse.PAPER.published_lambda("spectral", "mnist-unit", "mlp", collapse.STREAM)
        holds(
            page, "Spectral regularization has the paper's strength", given["spectral"] == printed
        )


def test_spectral_collapse_says_what_the_figures_have():
    features = pd.DataFrame(collapse.PAPER.details["features"]).T
    levels = pd.DataFrame(collapse.PAPER.details["levels"]).T[1]
    own = "layer-norm-l2"
    least = features["rank"].idxmin() == own and features["dead"].idxmax() == own
    said = "layer norm with L2, which has the lowest rank and the most dead units and"
    holds("spectral_collapse", said, least and levels[own] > levels["vanilla"])
    not_best = features["rank"].idxmax() == "spectral" != levels.idxmax()
    said = "spectral regularization, which has the highest rank and"
    holds("spectral_collapse", said, not_best)
    said = "has the highest accuracy of the paper's permuted MNIST"
    holds("spectral_collapse", said, levels.idxmax() == "l2-er")
    others = collapse.PAPER.details["elsewhere"]
    images, cifar = others["continual-imagenet"], others["incremental-cifar"]
    low = images["l2-er"] == 0.77 and images["spectral"] == images[own] == 0.89
    said = "it ends at 0.77, spectral regularization and layer norm with L2 at 0.89"
    holds("spectral_collapse", said, low)
    holds("spectral_collapse", "L2 is level with it", cifar["l2-er"] == cifar[own])


def test_spectral_collapse_says_what_its_numbers_carry():
    records = load_records(RESULTS, stream=collapse.STREAM, split="all")
    rows = collapse.with_measures(collapse.in_small(records), RESULTS)
    if not len(rows) or "full-reset" not in set(rows["method"]):
        pytest.skip("permuted MNIST is not recorded yet")
    spectra = collapse.spectra(rows)
    drawn = collapse.r_squared_by_epsilon(spectra).set_index("epsilon")["epsilon-rank"]
    by_seed = collapse.at_epsilon(spectra).groupby("seed")
    own = by_seed.apply(lambda at: collapse.explained(at["epsilon-rank"], at["online"]))
    said = "where single points scatter more and R² is lower"
    holds("spectral_collapse", said, (own < drawn[collapse.EPSILON]).all())
    kept = collapse.Courses(rows).rank_sums().xs("full-reset", level="method")["kept"]
    holds("spectral_collapse", "a new network in each task, seems to gain", kept.mean() > 1)
    table = collapse_tables.features(rows)
    most = table["dead"].idxmax() == "SWR"
    above = table.at["SWR", "online accuracy"] > table.at["vanilla", "online accuracy"]
    said = "SWR has the most of all, and ends above plain training"
    holds("spectral_collapse", said, most and above)


def test_spectral_collapse_says_what_l2_er_looks_at():
    own, batch = METHODS["l2-er"](lam=0.0), collapse.IN_SMALL["batch_size"]
    seen = collapse.EVERY * batch == own.watched == 100
    holds("spectral_collapse", "every hundred images and looks at these, as in the release", seen)
    holds("spectral_collapse", "there a hundred minibatches, here ten", own.every == 100)
    records = load_records(RESULTS, stream=collapse.STREAM, split="all")
    levels = collapse_tables.other_settings(records)["online accuracy"]
    rows = collapse.by_task(collapse.in_small(records), load_measures(RESULTS, run=[]))
    seldom = f"{collapse.LABELS['l2-er']}{collapse_tables.SELDOM}"
    if ("0.2", 40, seldom) not in levels:
        pytest.skip("L2-ER is not recorded with a step every hundred minibatches")
    judged = collapse_tables.levels(rows).at[collapse.LABELS["l2-er"], "ours"]
    lower = float(judged[-5:]) - float(levels["0.2", 40, seldom][-5:])
    holds("spectral_collapse", "it ends lower by three hundredths", 0.025 < lower < 0.035)


# ------------------------------------------------------------------------------------- FIRE


def test_fire_says_what_a_warm_start_on_mnist_costs():
    records = load_records(RESULTS, scale="paper", split="all", stream="warm-start")
    mnist = records[(records["dataset"] == "mnist") & (records["model"] == "mlp")]
    if "fire" not in set(mnist["method"]):
        pytest.skip("FIRE is not recorded on MNIST yet")
    table = fire.ends(mnist).loc["mnist", "mlp"]
    nothing = table.at["vanilla", "minus scratch"] > -0.1
    holds("fire", "On MNIST no loss of plain training by a warm start is seen", nothing)
    change = table["at the change"]
    less = change["fire"] < min(-0.5, 2 * change["vanilla"])
    holds("fire", "is less accurate", less)
    mild = change["fire"] < 3 * change["fire, present norm"]
    holds("fire", "much less is lost", mild)


def test_fire_says_what_it_recovers_on_cifar10():
    records = load_records(RESULTS, scale="paper", split="all", stream="warm-start")
    table = fire.ends(records[records["model"] == "cnn"])
    if ("cifar10", "cnn", "fire") not in table.index:
        pytest.skip("FIRE is not recorded on CIFAR-10 yet")
    table = table.loc["cifar10", "cnn"]
    above, change = table["minus scratch"], table["at the change"]
    harmed = round(above["vanilla"]) == -2 and round(above["fire"]) == 1
    holds("fire", "a warm start costs plain training two points", harmed)
    holds("fire", "FIRE ends a point above training from scratch", harmed)
    drop = 9.5 < -change["fire"] < 11
    holds("fire", "it is ten points below where it was", drop and table.at["fire", "seeds"] == 3)
    others = above[["swr", "l2-init", "l2"]] - above["fire"]
    holds("fire", "end four to six points above FIRE", others.round().between(4, 6).all())
    own = records[records["dataset"].eq("cifar10") & records["model"].eq("cnn")]
    on_cpu = own["device"].eq("cpu").groupby(own["method"]).mean()
    where = on_cpu["fire"] == 1 and on_cpu.drop("fire").mean() < 0.5
    holds("fire", "on a processor, most of the other methods' on a GPU", where)


def test_fire_says_what_its_figures_have():
    levels = find_paper("fire").details["levels"]["a"]
    panels = [panel for panel in levels.values() if isinstance(panel, dict)]
    in_none = len(panels) == 3 and all(panel["fire"] < panel["full-reset"] for panel in panels)
    holds("fire", "training from scratch in any panel of its warm start", in_none)
    sizes = [round(100 * size, 1) for size in fire.DEEP.values()]
    holds("fire", "4.7, 2.7 or 3.6 points, by panel", sizes == [4.7, 2.7, 3.6])


def test_fire_says_what_its_factor_makes_of_the_isometry():
    weight = fire.random_matrix((9, 4))
    made, nearest = reinitialized(weight, iterations=None), polar_factor(weight)
    exact = torch.allclose(made, nearest * (9 / 4) ** 0.5)
    holds("fire", "then multiplies it by $\\sqrt{d_\\mathrm{out}/d_\\mathrm{in}}$", exact)
    best = nearest * torch.linalg.svdvals(weight).mean()
    farther = (made - weight).norm() > (best - weight).norm()
    holds("fire", "neither an isometry nor the multiple nearest to $W$", bool(farther))


# ------------------------------------------------------------------------------- predictors

HESSIANS = [name for name in predictors.NAMES if name.startswith("Hessian")]


def test_predictors_says_how_many_measures_there_are():
    eighteen = len(predictors.PREDICTORS) == 18
    holds("predictors", "corrected for eighteen measures", eighteen)
    holds("predictors", "with eighteen measures and a few seeds", eighteen)


@pytest.fixture(scope="module")
def foretold() -> tuple[pd.DataFrame, pd.DataFrame]:
    """What the page's tables are made of."""
    runs = load_records(RESULTS, stream=[*predictors.TROUBLES])
    if not len(runs):
        pytest.skip("no stream of tasks is recorded yet")
    measured = load_measures(RESULTS, run=list(runs["run"].unique()))
    table, _ = predictors.of_several_methods(predictors.tasks(runs, measured))
    return table, predictors.coverage(table)


def test_predictors_says_where_methods_are_few(foretold):
    table, coverage = foretold
    methods = coverage["methods"]
    few = methods[methods.index.str.startswith("label-shuffled")].max() == 6
    elsewhere = table.loc[table["setting"].str.startswith("pixel-permuted"), HESSIANS]
    sentence = "there are at most six methods, and the Hessian was measured nowhere else"
    holds("predictors", sentence, few and not elsewhere.notna().any(axis=None))
    relu = table[table["setting"].eq("label-shuffled, ReLU") & table["task"].gt(24)]
    dead = relu.groupby("method")["trouble"].min() > 0.8
    said = (
        "two of the six, plain training and the Wasserstein regularizer at strength 1, end as dead"
    )
    holds("predictors", said, set(dead.index[dead]) == {"vanilla", "wasserstein 1"})


def test_predictors_says_under_whom_the_error_rises(foretold):
    rises = foretold[1]["rise of the error"].str.split(" to ", expand=True).astype(float)
    least, most = rises[0], rises[1]
    linear = rises.index.str.contains("linear")
    holds("predictors", "In the linear network the error does not rise", (most[linear] <= 0).all())
    some = (most[~linear] > 0.1).all() and (least < 0.03).all()
    holds("predictors", "under some methods the error rises, under others hardly or not", some)


def test_predictors_says_where_measures_are_few(foretold):
    table, _ = foretold
    permuted = table[table["setting"].str.startswith("pixel-permuted")]
    taken = permuted.groupby("run")[[*predictors.NAMES]].count().max()
    most = (taken < permuted.groupby("run").size().min() / 2).sum() > len(taken) / 2
    holds("predictors", "most measures were taken at some tasks alone", bool(most))
    holds("predictors", "have 11,110 parameters", 100 * 101 + 10 * 101 == 11_110)
    holds("predictors", "only from five on", predictors.LEAST_TASKS == 5)
    holds("predictors", "with fewer than five methods", predictors.LEAST_METHODS == 5)
