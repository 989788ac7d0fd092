"""Claims of *FIRE: Frobenius-Isometry Reinitialization* (Han et al.), and SWR beside it.

What it does to a weight is looked at on made-up and on trained ones; accuracies are those of SWR's
set-up, on which FIRE was trained here. So whatever holds of them holds in small.
"""

from __future__ import annotations

import copy
import timeit
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from swrlib.datasets import Dataset
from swrlib.in_loop import InLoop
from swrlib.methods import FIRE, FullReset, HeadReset, Method, ShrinkPerturb, Vanilla
from swrlib.network.layers import trace_layers
from swrlib.papers import SWR, Cell, Claim, find_paper
from swrlib.theory import deviation_from_isometry, hessian_spectrum, squared_frobenius_error
from swrlib.theory.isometry import newton_schulz, polar_factor, slices
from swrlib.verdicts import LEAST_SEEDS, NOT_RUN, Case, Verdict, judge_theorem, outcomes
from swrlib.verdicts.first_rule import LACKING
from swrlib.verdicts.task_rule import Scope, judge

PAPER = find_paper("fire")
WARM_START: tuple[Cell, ...] = (("cifar10", "cnn", "warm-start"), ("mnist", "mlp", "warm-start"))
FULL_ACCESS: Cell = ("mnist", "mlp", "full-access")
#: A network is near an isometry where this share of its deviation is left, or less.
LEFT = 0.1
#: Out × in of the matrices on which iterations are looked at.
SHAPES = ((100, 100), (64, 32), (100, 784))
#: SWR's λ in the short trainings of the chapter.
LAM = 1e-2
#: The network that is trained from scratch at the change of data.
SCRATCH = "full-reset"
ITERATIONS = (1, 2, 3, 5, 8, 10, 12, 15, 20)


# ---------------------------------------------------------------------------------------------
# What ten iterations do


def random_matrix(shape: tuple[int, int], seed: int = 0) -> Tensor:
    """Return a matrix with entries uniform in [−1, 1], in float64."""
    draw = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(shape, generator=draw, dtype=torch.float64) - 1


def after_iterations(
    shapes: Iterable[tuple[int, int]] = SHAPES,
    iterations: Iterable[int] = ITERATIONS,
    seeds: Iterable[int] = range(5),
) -> pd.DataFrame:
    """Return DfI/n of Newton-Schulz on random matrices, before the scale.

    Returns
    -------
    DataFrame
        ``shape, iterations, seed, deviation``; ``iterations`` 0 is the exact polar factor.
    """
    iterations = list(iterations)
    rows = []
    for shape in shapes:
        for seed in seeds:
            matrix = random_matrix(shape, seed)
            made = {n: newton_schulz(matrix, n) for n in iterations} | {0: polar_factor(matrix)}
            name = "×".join(map(str, shape))
            rows += [(name, n, seed, float(deviation_from_isometry(x))) for n, x in made.items()]
    return pd.DataFrame(rows, columns=["shape", "iterations", "seed", "deviation"])


def mapped(values: np.ndarray, iterations: int) -> np.ndarray:
    """Return what iterations make of singular values, as shares of ‖W‖_F: 1.5σ − 0.5σ³ each."""
    for _ in range(iterations):
        values = 1.5 * values - 0.5 * values**3
    return values


def shape_deviation(weight: Tensor, kernel_axes: int = 0) -> float:
    """Return DfI/n of a weight at the scale at which it is smallest: what no norm can mend.

    1 − (Σσ²)²/(n Σσ⁴), of kernels the mean over places; 0 for a multiple of an isometry.
    """
    matrices = weight.double().flatten(2).movedim(2, 0) if kernel_axes else weight.double()[None]
    squares = torch.linalg.svdvals(matrices).square()
    below = squares.shape[-1] * squares.square().sum(-1)
    share = squares.sum(-1).square() / below.where(below > 0, 1)
    return float((1 - share).mean())


def times(shapes: Iterable[tuple[int, int]], iterations: int = 10) -> pd.DataFrame:
    """Time Newton-Schulz and the exact polar factor by SVD, in float32: the best of some.

    Returns
    -------
    DataFrame
        By shape: ``Newton-Schulz, ms``, ``SVD, ms``.
    """
    rows = {}
    for shape in shapes:
        matrix = random_matrix(shape).float()
        ways = {"Newton-Schulz, ms": partial(newton_schulz, matrix, iterations)}
        ways["SVD, ms"] = partial(polar_factor, matrix)
        rows["×".join(map(str, shape))] = {
            name: 1000 * min(timeit.repeat(way, number=1, repeat=4)) for name, way in ways.items()
        }
    return pd.DataFrame.from_dict(rows, orient="index")


# ---------------------------------------------------------------------------------------------
# What it does to a network


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """Return the weights that FIRE replaces, by layer: of linear and convolution layers."""
    layers = {layer.name: layer.module for layer in trace_layers(network)}
    weights: dict[str, Any] = {n: getattr(module, "weight", None) for n, module in layers.items()}
    return {name: w.detach() for name, w in weights.items() if w is not None and w.dim() > 1}


def singular_values(network: nn.Module, layer: str) -> np.ndarray:
    """Return the singular values of a layer's weight, kernels as [out, in·places]."""
    return torch.linalg.svdvals(weights_of(network)[layer].double().flatten(1)).numpy()


def norms(initial: nn.Module) -> pd.DataFrame:
    """Return each layer's norm at the start and after FIRE, which depends on its shape alone.

    Returns
    -------
    DataFrame
        By layer: ``out, in``; ``initial`` (SWR pulls towards it); ``FIRE``, √min(in, out)·√(out/in)
        over the root of the number of a kernel's places, for exact polar factors of full rank;
        ``FIRE / initial``.
    """
    rows = {}
    for name, weight in weights_of(initial).items():
        outputs, inputs = weight.shape[:2]
        isometry = (min(outputs, inputs) * outputs / inputs / weight.shape[2:].numel()) ** 0.5
        rows[name] = {"out": outputs, "in": inputs, "initial": float(weight.norm())}
        rows[name]["FIRE"] = isometry
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table.assign(**{"FIRE / initial": table["FIRE"] / table["initial"]})


def sharpness(network: nn.Module, data: Dataset) -> float:
    """Return the largest eigenvalue of the loss's Hessian on the first 300 training images."""
    images, labels = data.normalize(data.train_images[:300]), data.train_labels[:300]
    return float(hessian_spectrum(network, images, labels, order=12).nodes.max())


#: What is compared at a change of data. What SWR did, it did before.
CHANGES: Mapping[str, Method] = {
    "vanilla": Vanilla(),
    "shrink-perturb": ShrinkPerturb(lam=0.8),
    "head-reset": HeadReset(),
    "full-reset": FullReset(),
    "fire": FIRE(),
    "fire, exact": FIRE(iterations=None),
    "fire, present norm": FIRE(norm="present"),
}


#: Returns a new network.
Fresh = Callable[[], nn.Module]


def changed(method: Method, initial: nn.Module, trained: nn.Module, fresh: Fresh) -> nn.Module:
    """Return what a method makes of a trained network at a change of data; all are left alone."""
    network = copy.deepcopy(initial)
    optimizer = torch.optim.Adam(network.parameters())
    loop = InLoop(method, network, optimizer, fresh=fresh)
    network.load_state_dict(trained.state_dict())
    loop.change()
    loop.remove()
    return network


def at_a_change(before: nn.Module, after: nn.Module, initial: nn.Module) -> pd.Series:
    """Sum up what a change did to the weights of a network.

    Returns
    -------
    Series
        ``SFE`` as a share of ‖W‖² over all layers; means over layers: ``DfI/n``, ``DfI/n at the
        best scale``, ``norm / initial``.
    """
    old, new, start = map(weights_of, (before, after, initial))
    moved = sum(squared_frobenius_error(old[name], weight)[0] for name, weight in new.items())
    size = sum(float(weight.double().square().sum()) for weight in old.values())
    of_layers = []
    for name, weight in new.items():
        places, ratio = weight.dim() - 2, float(weight.norm() / start[name].norm())
        deviation = float(deviation_from_isometry(weight, places))
        of_layers.append((deviation, shape_deviation(weight, places), ratio))
    columns = ["SFE", "DfI/n", "DfI/n at the best scale", "norm / initial"]
    return pd.Series([moved / size, *np.mean(of_layers, axis=0)], columns)


def changes(networks: Iterable[tuple[nn.Module, ...]], fresh: Fresh) -> pd.DataFrame:
    """Return `at_a_change` for each method and seed, of SWR for the network trained with it.

    Parameters
    ----------
    networks : iterable of (initial, trained plainly, trained with SWR)
        One triple a seed.
    fresh : callable
        Returns a new network.
    """
    rows = []
    for seed, (initial, plain, soft) in enumerate(networks):
        after = {name: changed(m, initial, plain, fresh) for name, m in CHANGES.items()}
        sums = {name: at_a_change(plain, network, initial) for name, network in after.items()}
        sums["swr"] = at_a_change(soft, soft, initial)
        rows += [{"method": name, "seed": seed} | dict(row) for name, row in sums.items()]
    return pd.DataFrame(rows)


# ---------------------------------------------------------------------------------------------
# Statements that must hold


def nearest(seeds: Iterable[int] = range(3), rivals: int = 100) -> Verdict:
    """Judge by brute force whether any isometry is nearer than the polar factor.

    Half of the rivals are random isometries, half the polar factor turned by a little, from 1e-3
    on: near it a wrong factor would be found out.
    """
    least, cases = np.inf, 0
    for seed, shape in ((seed, shape) for seed in seeds for shape in ((6, 6), (9, 4), (4, 9))):
        matrix, draw = random_matrix(shape, seed), torch.Generator().manual_seed(seed + 1000)
        factor = polar_factor(matrix)
        best = squared_frobenius_error(matrix, factor)[0]
        for number in range(rivals):
            size = (*shape,) if number % 2 else (shape[0], shape[0])
            noise = torch.randn(size, generator=draw, dtype=torch.float64)
            other = polar_factor(noise)
            if not number % 2:
                turn = (noise - noise.mT) * 10 ** (-3 * number / rivals)
                other = torch.linalg.matrix_exp(turn) @ factor
            least = min(least, squared_frobenius_error(matrix, other)[0] - best)
            cases += 1
    detail = f"{cases} other isometries: the nearest one is further away by {least:.2g}."
    claim = PAPER.find_claim("fire-nearest")
    return judge_theorem(claim, bool(least > -1e-9), detail, cases=cases)


def deviation_left(weights: Mapping[str, Tensor], iterations: int = 10) -> float:
    """Return DfI after so many iterations as a share of DfI before, of all layers together.

    DfI is FIRE's own measure, ‖WᵀW − I‖_F² with the smaller Gram matrix, not divided by its size;
    that of a kernel [out, in, places…] is the sum over its places. Afterwards means before the
    factor √(out/in), which makes a multiple of the isometry.
    """
    before, after = 0.0, 0.0
    for weight in weights.values():
        matrices = slices(weight.double(), weight.dim() - 2)
        size = min(matrices.shape[-2:])
        before += size * float(deviation_from_isometry(matrices).sum())
        after += size * float(deviation_from_isometry(newton_schulz(matrices, iterations)).sum())
    return after / before


def approximates(
    networks: Iterable[Mapping[str, Tensor]], deviations: pd.DataFrame, iterations: int = 10
) -> Verdict:
    """Judge whether so many iterations bring networks near isometries, and say what they leave.

    Parameters
    ----------
    networks : iterable of mappings
        The weights of each, as `weights_of` returns them.
    deviations : DataFrame
        What `after_iterations` returned: said beside it, single matrices.
    iterations : int
    """
    left = [deviation_left(weights, iterations) for weights in networks]
    rows = deviations[deviations["iterations"] == iterations]
    worst = rows.groupby("shape", sort=False)["deviation"].max()
    said = ", ".join(f"{shape} {value:.2g}" for shape, value in worst.items())
    detail = f"{iterations} iterations leave {100 * max(left, default=0):.2g}% of the deviation of "
    detail += f"{len(left)} networks at most. What remains is in square weights: DfI/n of random "
    detail += f"ones, the largest of each shape: {said}."
    claim, near = PAPER.find_claim("fire-newton-schulz"), max(left, default=0) <= LEFT
    return judge_theorem(claim, near, detail, cases=len(left))


def stretches(weights: Sequence[Tensor]) -> Verdict:
    """Judge whether σ² ≤ 1 + √DfI holds of every weight [out, in], and how close it comes."""
    shares = []
    for weight in weights:
        n = min(weight.shape)
        bound = 1 + (n * float(deviation_from_isometry(weight))) ** 0.5
        shares.append(float(torch.linalg.matrix_norm(weight.double(), 2)) ** 2 / bound)
    detail = f"{len(shares)} weights; "
    detail += f"the largest squared singular value is {max(shares, default=0):.3f} of its bound."
    holds = all(share <= 1 + 1e-9 for share in shares)
    return judge_theorem(PAPER.find_claim("fire-lipschitz"), holds, detail, cases=len(shares))


# ---------------------------------------------------------------------------------------------
# Accuracies


def by_cell(records: pd.DataFrame, cell: Cell) -> pd.DataFrame:
    """Return what is judged in a setting, by seed (rows) and method: SWR's paper's and FIRE.

    Parameters
    ----------
    records : DataFrame
        What `swrlib.load_records` returns.
    cell : (dataset, model, stream)
    """
    here = records[(records[["dataset", "model", "stream"]] == [*cell]).all(axis=1)]
    finals = outcomes.judged(here, "paper", also=["fire"])
    return outcomes.by_seed(finals, cell, "late").drop(columns=outcomes.OURS, errors="ignore")


def comparisons(records: pd.DataFrame, claim: Claim, cells: Iterable[Cell]) -> list[Case]:
    """Compare a claim's method with its rivals in some settings."""
    method, cases = claim.methods[0], []
    for cell in cells:
        values, margin = 100 * by_cell(records, cell), 100 * SWR.size_that_matters(None, cell)
        where = f"{SWR.label(*cell[:2])}, in points: {SWR.label(method)} minus "
        for rival in claim.rivals:
            weights = {method: 1.0, rival: -1.0}
            cases.append(Case(where + SWR.label(rival), values, weights, margin))
    return cases


#: What a deep drop is at least, by panel of Fig. 2b: a tenth of its axis.
DEEP = {
    panel.cell[:2]: (panel.axis[1] - panel.axis[0]) / 10
    for panel in PAPER.panels
    if panel.cell[2] == "full-access" and panel.axis
}


def drops(records: pd.DataFrame, claim: Claim) -> list[Case]:
    """Compare what most changes of data with full access do to FIRE: the median of a run's.

    Returns
    -------
    list of Case
        FIRE's gain minus full reset's, the claim's core, first; then FIRE's own gain plus what a
        deep drop is in each panel: above 0, fewer than half of the changes are deep drops.
    """
    here = records[(records[["dataset", "model", "stream"]] == [*FULL_ACCESS]).all(axis=1)]
    medians = outcomes.changes_of_data(here).groupby("run")["late_drop"].median()
    finals = outcomes.counting(here, "paper", also=["fire"])
    finals = finals.assign(late=-100 * finals["run"].map(medians).astype(float))
    values = outcomes.by_seed(finals, FULL_ACCESS, "late")
    values = values.drop(columns=outcomes.OURS, errors="ignore")
    where, at = f"{SWR.label(*FULL_ACCESS[:2])}, in points:", "at the median change of data"
    (rival,), margin = claim.rivals, 100 * SWR.size_that_matters(claim, FULL_ACCESS)
    beside = f"{where} gain {at}, FIRE minus {SWR.label(rival)}"
    cases = [Case(beside, values, {"fire": 1.0, rival: -1.0}, margin)]
    own = values.reindex(columns=["fire"])
    for pair, deep in DEEP.items():
        panel = f"{100 * deep:.1f} points, deep for {SWR.label(pair[0])}"
        text = f"{where} by how much FIRE's drop {at} stays below {panel}"
        cases.append(Case(text, own + 100 * deep, {"fire": 1.0}, 0.0))
    return cases


def accuracy_verdicts(records: pd.DataFrame) -> list[Verdict]:
    """Judge every claim on accuracies; those that were not run say what it would take.

    The label says that all is on SWR's set-up. Three seeds rule a size out, as accuracies' do.
    How deep drops are is no verdict without full reset, whose drops they are compared with.

    Parameters
    ----------
    records : DataFrame
        What `swrlib.load_records` returns, of scale "paper".
    """
    cells = {"fire-warm-start": WARM_START[:1], "fire-swr": WARM_START[:1]}
    cells |= {"fire-scratch": WARM_START, "fire-continual": (FULL_ACCESS,)}
    claims = {id: PAPER.find_claim(id) for id in (*cells, "fire-no-drop")}
    scope = Scope(1, 1, PAPER.details["seeds"], "on SWR's set-up and networks")
    verdicts = []
    for id, claim in claims.items():
        cases = comparisons(records, claim, cells[id]) if id in cells else drops(records, claim)
        how: dict[str, Any] = {"lacking": PAPER.details["needs"][id], "bound_seeds": LEAST_SEEDS}
        verdict = judge(claim, cases, scope, **how)
        core = id in cells or cases[0].n >= LEAST_SEEDS
        if not core and verdict.verdict not in LACKING:
            detail = f"{how['lacking']} So far: {judge(claim, cases[1:], scope).detail}"
            verdict = replace(verdict, verdict=NOT_RUN, label=NOT_RUN, detail=detail)
        verdicts.append(verdict)
    return verdicts


def not_run(judged: Iterable[Verdict]) -> list[Verdict]:
    """Return a line for every claim that nothing judged: what it would take."""
    done, needs = {verdict.claim.id for verdict in judged}, PAPER.details["needs"]
    left = [claim for claim in PAPER.claims if claim.id not in done]
    return [Verdict(claim, NOT_RUN, NOT_RUN, needs.get(claim.id, "")) for claim in left]


def with_ablations(records: pd.DataFrame) -> pd.DataFrame:
    """Name FIRE's ablation and vanilla's new optimizer as methods of their own, for tables."""
    present = records["norm"] if "norm" in records else pd.Series(None, index=records.index)
    renamed = records["method"].where(present.isna(), records["method"] + ", present norm")
    new = records["optimizer_state"] == "new"
    return records.assign(method=renamed.where(~new, renamed + ", new optimizer"))


def with_fire(records: pd.DataFrame) -> pd.DataFrame:
    """Keep the default runs of those data sets and models on which FIRE was trained.

    FIRE's own ablations and a new optimizer beside other methods are left out.
    """
    if "norm" in records:
        records = records[records["norm"].isna()]
    records = records[records["optimizer_state"] == "kept"]
    fired = records.loc[records["method"] == "fire", ["dataset", "model", "stream"]]
    return records.merge(fired.drop_duplicates(), on=["dataset", "model", "stream"])


def ends(records: pd.DataFrame) -> pd.DataFrame:
    """Return how accurate each method ends, and what the change of data cost it, in percent.

    Returns
    -------
    DataFrame
        A row a data set, model and method: ``mean, sd`` of the last ten epochs and ``seeds``;
        ``minus scratch``, the mean minus that of full reset; ``at the change``, the accuracy after
        the first epoch of a stage minus the mean of the last ten before it.
    """
    named = with_ablations(records)
    runs = named.drop_duplicates("run")[["run", "dataset", "model", "method"]]
    drops = outcomes.changes_of_data(named).groupby("run")["late_drop"].mean()
    late = 100 * runs["run"].map(outcomes.late_accuracy(named))
    runs = runs.assign(late=late, change=-100 * runs["run"].map(drops))
    groups = runs.groupby(["dataset", "model", "method"])
    table = groups["late"].agg(mean="mean", sd="std", seeds="count")
    means = table["mean"].unstack("method")
    scratch = means.reindex(columns=[SCRATCH])[SCRATCH].reindex(table.index.droplevel("method"))
    beside = table["mean"] - scratch.to_numpy()
    return table.assign(**{"minus scratch": beside, "at the change": groups["change"].mean()})
