"""Theorem 2 on records and on constructed updates, and what it leaves out (Section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from swrlib import verdicts
from swrlib.claims.norms import norms_by_layer
from swrlib.network.layers import Layer, trace, trace_layers
from swrlib.papers import SWR as paper
from swrlib.rescaling import membership, multi_tensor_norms
from swrlib.statistics import mean_and_interval
from swrlib.swr import SoftWeightRescaling
from swrlib.theory import adam_norm_bound, norm_bound

#: A data set and a model.
Place = tuple[str, str]

GROWTH, FACTOR = "growth:max", "factor:mean"
BEFORE, LAST = "norm-before-rescaling:max", "norm-before-rescaling:last"
#: What the functions below read of the measures.
MEASURES = (GROWTH, FACTOR, BEFORE, LAST)
#: What `swrlib.train` measures for them.
MEASURED = ("growth", "norm-before-rescaling", "factor")
#: float32 rounds a number by this share of itself at most.
UNIT = 2.0**-24


def weighted_layers(network: nn.Module) -> list[Layer]:
    """Return the layers of a network that have a weight, in the order of the records."""
    return [layer for layer in trace_layers(network) if layer.weight is not None]


# ---------------------------------------------------------------------------------------------
# Theorem 2 on records


def norm_error(weight: Tensor) -> float:
    """Return twice the largest share by which float32 norms of random tensors are off.

    Of up to 200 tensors with ten million entries in all; never fewer than four.

    Parameters
    ----------
    weight : Tensor
        Whose shape they have.
    """
    generator = torch.Generator().manual_seed(0)
    count = max(4, min(200, 10**7 // weight.numel()))
    drawn = [torch.randn(weight.shape, generator=generator) for _ in range(count)]
    exact = torch.stack([tensor.double().norm() for tensor in drawn])
    alone = torch.cat([multi_tensor_norms([tensor]) for tensor in drawn])
    at_once = multi_tensor_norms([torch.stack(drawn)], stacked=True)[:, 0]  # as trained in stacks
    return 2 * max(float((norms / exact - 1).abs().max()) for norms in (alone, at_once))


def beside_bounds(
    norms: pd.DataFrame,
    measures: pd.DataFrame,
    networks: Mapping[Place, nn.Module],
    errors: Mapping[Place, Mapping[str, float]],
    *,
    bound: Callable[..., float] = norm_bound,
) -> pd.DataFrame:
    """Set SWR's norms beside the bounds, with the largest growth of a step so far as B.

    Parameters
    ----------
    norms : DataFrame
        What `swrlib.claims.norms.norms_by_layer` returned.
    measures : DataFrame
        What `swrlib.notebook.measured` returned of `MEASURES`.
    networks : mapping
        A network of each data set and model, for its layers' groups and sizes.
    errors : mapping
        `norm_error` by data set and model, and by layer.
    bound : callable
        `norm_bound`, or a wrong one in its place.

    Returns
    -------
    DataFrame
        By run, layer and epoch: ``norm`` (the epoch's largest before a rescaling), ``start, B,
        sharp, printed, Adam``, ``sharp, rounded`` and ``after`` (the sharp bound with rounding,
        before and after the rescaling), ``pull`` (λ), and what tells the runs apart.
    """
    rows = _with_largest_growth(norms, measures, "swr", BEFORE)
    parts = {(p, x.name): x for p, network in networks.items() for x in weighted_layers(network)}
    limits = []
    for row in rows.to_dict("records"):
        place = (row["dataset"], row["model"])
        layer = parts[place, row["layer"]]
        lam, n = row[f"lam_{layer.group}"], row["start"]
        rounding = 2 * errors[place][layer.name] + 8 * UNIT
        entries = 1 if layer.weight is None else layer.weight.numel()
        adam = adam_norm_bound(n, lam, lr=paper.learning_rate, entries=entries, when="before")
        sharp = bound(n, lam, row["B"], when="before")
        printed = norm_bound(n, lam, row["B"], kind="printed")
        rounded = [bound(n, lam, row["B"], when=w, rounding=rounding) for w in ("before", "after")]
        limits.append([sharp, printed, adam, *rounded, lam])
    columns = ["sharp", "printed", "Adam", "sharp, rounded", "after", "pull"]
    rows = rows.drop(columns="norm").rename(columns={BEFORE: "norm"})
    return pd.concat([rows, pd.DataFrame(limits, columns=columns)], axis=1)


def _with_largest_growth(
    norms: pd.DataFrame, measures: pd.DataFrame, method: str, value: str
) -> pd.DataFrame:
    """Return a method's measures by run, layer and epoch, with B so far and the run's start."""
    wide = measures[measures["method"] == method].pivot_table(
        index=["run", "layer", "epoch", "step"], columns="measure", values="value"
    )
    wide = wide.reindex(columns=[GROWTH, value]).astype(float).dropna()
    wide["B"] = wide.groupby(["run", "layer"])[GROWTH].cummax().clip(lower=0)
    start = norms[norms["epoch"] == 0].drop(columns=["epoch", "step"])
    return wide.reset_index().merge(start, on=["run", "layer"])


def crossings(bounds: pd.DataFrame) -> int:
    """Count the norms before a rescaling that lie above the sharp bound, rounding allowed for."""
    return int((bounds["norm"] > bounds["sharp, rounded"]).sum())


def crossings_after(frame: pd.DataFrame, bounds: pd.DataFrame) -> tuple[int, int]:
    """Count the recorded norms after a rescaling: those above their bound, and all.

    Parameters
    ----------
    frame : DataFrame
        Records.
    bounds : DataFrame
        What `beside_bounds` made of them.
    """
    recorded = norms_by_layer(frame).merge(bounds[["run", "layer", "epoch", "after"]])
    return int((recorded["norm"] > recorded["after"]).sum()), len(recorded)


def theorem_verdict(bounds: pd.DataFrame, after: Iterable[tuple[int, int]]) -> verdicts.Verdict:
    """Judge Theorem 2: no norm of any layer, run and epoch lies above the sharp bound.

    Parameters
    ----------
    bounds : DataFrame
        What `beside_bounds` returned.
    after : iterable of (int, int)
        What `crossings_after` returned, for each folder of records.

    Returns
    -------
    Verdict
        *Not run* without norms.
    """
    crossed, checked = map(sum, zip(*after, strict=True))
    crossed += crossings(bounds)
    final = bounds.sort_values("epoch").groupby(["run", "layer"]).tail(1)
    nearest = (final["norm"] / final["sharp"]).max()
    detail = (
        f"{len(bounds)} norms before a rescaling, {(bounds['scale'] == 'paper').sum()} of them "
        f"from trainings of the paper's length, and {checked} after one; {crossed} crossed. "
        f"At the end the nearest is at {100 * nearest:.0f}% of the sharp bound."
    )
    claim = paper.find_claim("no-unbounded-growth")
    return verdicts.judge_theorem(claim, crossed == 0, detail, cases=len(bounds))


def above_the_root(norms: pd.DataFrame, measures: pd.DataFrame) -> tuple[int, int]:
    """Count plain norms above √(n_0² + tB), B being the largest growth of a step so far; and all.

    Parameters
    ----------
    norms, measures : DataFrame
        See `beside_bounds`.
    """
    rows = _with_largest_growth(norms, measures, "vanilla", LAST)
    # A growth is the difference of two rounded squares, itself rounded: off by 4 units of ‖W‖².
    largest = rows["B"] + 4 * UNIT * rows[LAST] ** 2
    most = np.sqrt(rows["start"] ** 2 + rows["step"].astype(float) * largest)
    return int((rows[LAST] > most).sum()), len(rows)


def root_verdict(counts: Iterable[tuple[int, int]], attained: float) -> verdicts.Verdict:
    """Judge growth without SWR: no norm of a plain training lies above √(n_0² + tB).

    Parameters
    ----------
    counts : iterable of (int, int)
        What `above_the_root` returned, for each folder of records.
    attained : float
        By which share of it constructed updates miss that root at most.

    Returns
    -------
    Verdict
        *Not run* without norms.
    """
    above, checked = map(sum, zip(*counts, strict=True))
    detail = f"{checked} norms of plain trainings, {above} above √(n_0² + tB); "
    detail += f"updates orthogonal to the weight attain it, to {attained:.0e}."
    claim = paper.find_claim("growth-without")
    return verdicts.judge_theorem(claim, above == 0, detail, cases=checked)


@torch.no_grad()
def downward_verdict() -> verdicts.Verdict:
    """Judge that SWR scales down alone, by a weight whose norm was halved, and one rescaling."""
    network = torch.nn.Linear(3, 2)
    weight = network.weight
    rescaling = SoftWeightRescaling(network, lam=0.1)
    weight.mul_(0.5)
    before = weight.norm()
    rescaling.step()
    factor = float(weight.norm() / before)
    detail = "By Algorithm 1 as printed a norm at half of its initial value is multiplied by "
    detail += f"{factor:.3g} at λ = 0.1: it scales up, too."
    claim = paper.find_claim("scales-down-alone")
    return verdicts.judge_theorem(claim, factor <= 1, detail, cases=1)


# ---------------------------------------------------------------------------------------------
# Growth in plain training


def growth_exponents(norms: pd.DataFrame) -> pd.DataFrame:
    """Fit ‖W‖² − n_0² = k t^p to every run and layer of the plain trainings.

    Parameters
    ----------
    norms : DataFrame
        What `swrlib.claims.norms.norms_by_layer` returned.

    Returns
    -------
    DataFrame
        ``dataset, model, layer, seed, p, k``; NaN with fewer than three norms above the start.
    """
    plain = norms[norms["method"] == "vanilla"]
    groups = plain.groupby(["dataset", "model", "layer", "seed"])
    return groups[["norm", "start", "step"]].apply(_power_law).reset_index()


def _power_law(group: pd.DataFrame) -> pd.Series:
    from scipy.stats import linregress

    excess = group["norm"] ** 2 - group["start"] ** 2
    kept = (group["step"] > 0) & (excess > 0)
    if kept.sum() < 3:
        return pd.Series({"p": math.nan, "k": math.nan})
    line = linregress(np.log(group["step"][kept].astype(float)), np.log(excess[kept]))
    return pd.Series({"p": line.slope, "k": math.exp(line.intercept)})


def mean_exponents(fits: pd.DataFrame) -> pd.DataFrame:
    """Return the mean exponent of the norm, a = p/2, with its 95% t interval over seeds.

    Parameters
    ----------
    fits : DataFrame
        What `growth_exponents` returned.

    Returns
    -------
    DataFrame
        ``data, layer, a, ± 95%, n``.
    """
    rows = []
    for (name, layer), group in fits.groupby(["dataset", "layer"], sort=False):
        mean, half = mean_and_interval(group["p"].to_numpy() / 2)
        rows.append({"data": name, "layer": layer, "a": mean, "± 95%": half, "n": len(group)})
    return pd.DataFrame(rows)


# ---------------------------------------------------------------------------------------------
# What enters the biases


def factor_products(measures: pd.DataFrame, networks: Mapping[Place, nn.Module]) -> pd.DataFrame:
    """Return the product of all factors that entered each bias in SWR's trainings.

    Parameters
    ----------
    measures : DataFrame
        See `beside_bounds`.
    networks : mapping
        See `beside_bounds`.

    Returns
    -------
    DataFrame
        ``data, λ``, ``bias of`` (a layer) and ``left``, the mean over seeds.
    """
    factors = measures[(measures["method"] == "swr") & (measures["measure"] == FACTOR)].copy()
    first = factors.groupby(["run", "layer"])["step"].shift(fill_value=0)
    factors["log"] = (factors["value"].astype(float) - 1) * (factors["step"] - first)
    rows = []
    for _, part in factors.groupby(["dataset", "model", "lam", "run"], dropna=False):
        network = networks[tuple(part.iloc[0][["dataset", "model"]])]
        products = membership(trace(network), "proportional")
        by_name = part.groupby("layer")["log"].sum()
        for layer in weighted_layers(network):
            if layer.bias is not None:
                entered = by_name[[n for n in by_name.index if n in products[layer.name]]]
                left = math.exp(entered.sum())
                rows.append([verdicts.setting(part), part["lam"].iloc[0], layer.name, left])
    columns = ["data", "λ", "bias of", "left"]
    table = pd.DataFrame(rows, columns=columns)
    return table.groupby(columns[:3], sort=False, dropna=False)["left"].mean().reset_index()


# ---------------------------------------------------------------------------------------------
# Constructed updates


def follow_adversary(
    n_0: float, lam: float, growth: float, steps: int
) -> tuple[float, list[float]]:
    """Follow a real weight whose every update adds the same to ‖W‖², orthogonal to it.

    Updates are drawn from torch's global generator.

    Parameters
    ----------
    n_0 : float
        The norm at the start.
    lam : float
        With 0 nothing is rescaled.
    growth : float
        B.
    steps : int
        How many.

    Returns
    -------
    (float, list of float)
        The norm at the start as it is, and those before each rescaling.
    """
    layer = nn.Linear(6, 5, bias=False).double()
    with torch.no_grad():
        layer.weight.mul_(n_0 / layer.weight.norm())
        n_0 = layer.weight.norm().item()
        soft = SoftWeightRescaling(layer, lam=lam)
        norms = []
        for _ in range(steps):
            update = torch.randn_like(layer.weight)
            update -= (update * layer.weight).sum() / layer.weight.norm() ** 2 * layer.weight
            layer.weight.add_(update * math.sqrt(growth) / update.norm())
            norms.append(layer.weight.norm().item())
            soft.step()
    return n_0, norms


def follow_biases(
    update: float, *, lam: float = 0.02, steps: int = 600, retarget_every: int | None = None
) -> pd.DataFrame:
    """Follow two layers under SWR whose weights are multiplied by a number in each step.

    Parameters
    ----------
    update : float
        The number; the biases are left to SWR.
    lam : float
    steps : int
    retarget_every : int, optional
        After how many steps the present norms become the targets.

    Returns
    -------
    DataFrame
        ``W1, b1, W2, b2``: norms over their start; a row a step, the first before any.
    """
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).double()
    weights = [p for p in network.parameters() if p.dim() == 2]
    soft = SoftWeightRescaling(network, lam=lam)
    rows = []
    with torch.no_grad():
        for step in range(steps + 1):
            rows.append([p.norm().item() for p in network.parameters()])
            for weight in weights:
                weight.mul_(update)
            soft.step()
            if retarget_every and step % retarget_every == retarget_every - 1:
                soft.retarget()
    return pd.DataFrame(rows, columns=["W1", "b1", "W2", "b2"]) / rows[0]


def last_adam_step(gradients: Sequence[float]) -> float:
    """Return the length of torch's last step of Adam, in learning rates, for these gradients."""
    entry = nn.Parameter(torch.zeros(1).double())
    optimizer = torch.optim.Adam([entry], lr=1.0, eps=1e-200)
    last = 0.0
    for gradient in gradients:
        last = entry.item()
        entry.grad = torch.tensor([gradient]).double()
        optimizer.step()
    return abs(entry.item() - last)


def worst_gradients(steps: int) -> list[float]:
    """Return gradients that grow by β2/β1 a step, up to 1: Adam's last step is then the longest."""
    return [(0.9 / 0.999) ** (steps - i) for i in range(1, steps + 1)]


def follow_adam(steps: int = 1000, lr: float = 1e-3) -> tuple[list[float], list[float]]:
    """Follow a weight of 400 entries and norm 1 under Adam with a constant gradient, without SWR.

    Parameters
    ----------
    steps : int
    lr : float

    Returns
    -------
    (list of float, list of float)
        By step: the norm, and by how much the step grew its square.
    """
    weight = nn.Parameter(torch.full((20, 20), 1 / 20, dtype=torch.float64))
    optimizer = torch.optim.Adam([weight], lr=lr)
    norms, growths = [1.0], []
    for _ in range(steps):
        weight.grad = torch.full_like(weight, -1.0)
        optimizer.step()
        norms.append(weight.detach().norm().item())
        growths.append(norms[-1] ** 2 - norms[-2] ** 2)
    return norms[1:], growths
