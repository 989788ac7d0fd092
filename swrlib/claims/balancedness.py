"""Balance: the verdicts on Theorem 3 and Fig. 5, and networks built to try them on."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from swrlib.papers import SWR as paper
from swrlib.swr import SoftWeightRescaling
from swrlib.theory import balance_, layer_balance, lpq_norm
from swrlib.verdicts import Case, Verdict, judge_cases, judge_theorem, of_two

# ---------------------------------------------------------------------------------------------
# The claims


def with_balance(frame: pd.DataFrame, measures: pd.DataFrame, kind: str = "") -> pd.DataFrame:
    """Add Fig. 5's ratio, the least norm over the present one, as a column of records.

    Parameters
    ----------
    frame : DataFrame
        Records.
    measures : DataFrame
        Their "lpq-balance", as `swrlib.notebook.measured` returns it.
    kind : {"", "release"}
        The algorithm run to convergence, or stopped as the release stops it.

    Returns
    -------
    DataFrame
        The records with ``ratio``, NaN where it was not measured.
    """
    table = measures[measures["measure"] == "lpq-balance"]
    table = table[table["layer"] == kind].set_index(["run", "epoch"])["value"]
    return frame.join(table.rename("ratio"), on=["run", "epoch"])


def course_verdicts(curves: pd.DataFrame, balances: pd.DataFrame | None = None) -> list[Verdict]:
    """Judge two claims on balance: on CIFAR-10 at the paper's scale, last epoch.

    - lpq-balance: SWR's ratio exceeds vanilla's.
    - decay-does-not-balance: L2's ratio does not exceed vanilla's, and of no pair of layers is its
      balance (Definition 2, 0 being balanced) below vanilla's, by more than a tenth of the latter.

    Parameters
    ----------
    curves : DataFrame
        What `with_balance` returned; other data and scales in it are passed over.
    balances : DataFrame, optional
        Their "layer-balance", as `swrlib.notebook.measured` returns it.
    """
    rows = curves[(curves["dataset"] == "cifar10") & (curves["scale"] == "paper")]
    last = rows[rows["epoch"] == rows["epoch"].max()].astype({"ratio": float})
    ratios = last.pivot(index="seed", columns="method", values="ratio")
    ratios = ratios.reindex(columns=["swr", "vanilla", "l2"])
    least, decay = map(paper.find_claim, ("lpq-balance", "decay-does-not-balance"))
    assert isinstance(least.margin, float) and isinstance(decay.margin, float)
    gap = "SWR minus vanilla, balance at the last epoch"
    ahead = of_two(gap, ratios["swr"], ratios["vanilla"], least.margin)
    below = "vanilla minus L2, Fig. 5's ratio"
    cases = [of_two(below, ratios["vanilla"], ratios["l2"], decay.margin)]
    if balances is not None:
        cases += _pairs_of_layers(balances, last)
    judged = judge_cases(least, [ahead], scale="paper")
    return [judged, judge_cases(decay, cases, scale="paper", kind="not below")]


def _pairs_of_layers(balances: pd.DataFrame, last: pd.DataFrame) -> list[Case]:
    """Set L2's balance of each pair of layers beside vanilla's, whichever layer is named first."""
    values = balances[balances["measure"] == "layer-balance"][["run", "epoch", "layer", "value"]]
    values = values.merge(last[["run", "epoch", "method", "seed"]].drop_duplicates())
    pairs = values["layer"].map(lambda pair: " and ".join(sorted(pair.split(", "))))
    cases = []
    for pair, rows in values.groupby(pairs):
        wide = rows.astype({"value": float}).pivot_table("value", "seed", "method")
        if {"vanilla", "l2"} <= set(wide):
            what = f"L2 minus vanilla, Definition 2's balance of {pair}"
            cases.append(of_two(what, wide["l2"], wide["vanilla"], wide["vanilla"].mean() / 10))
    return cases


def theorem_verdict(frame: pd.DataFrame, worse: pd.DataFrame) -> Verdict:
    """Judge Theorem 3: no rescaling of any run takes a pair of layers further off.

    Parameters
    ----------
    frame : DataFrame
        Records of runs with one λ.
    worse : DataFrame
        Their "balance-worse:max", as `swrlib.notebook.measured` returns it.

    Returns
    -------
    Verdict
        *Not run* where nothing was measured.
    """
    steps = int(frame.groupby("run")["step"].max().sum())
    detail = (
        f"With one λ, in {steps} rescalings of {frame['run'].nunique()} runs of this page no pair "
        "of layers was taken further off by more than rounding. The claim is about a rescaling, "
        "not about training."
    )
    holds = bool((worse["value"] == 0).all())
    return judge_theorem(paper.find_claim("balance"), holds, detail, cases=len(worse))


def shares_worse(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the share of steps in which the rescaling takes a pair further off.

    Parameters
    ----------
    tables : mapping of str to DataFrame
        By a name for the runs: their "balance-worse:mean", as `swrlib.notebook.measured` returns
        it.

    Returns
    -------
    DataFrame
        A row a pair of layers, a column a name; means over runs and epochs, in [0, 1].
    """
    shares = {name: table.groupby("layer")["value"].mean() for name, table in tables.items()}
    return pd.DataFrame(shares).rename_axis(index="layers", columns="rescaling with")


# ---------------------------------------------------------------------------------------------
# Constructed cases


class Apart(NamedTuple):
    """What `squares_apart` saw.

    Attributes
    ----------
    left : float
        ‖w‖² − ‖v‖² at the end over that at the start, norms over all hidden units.
    gap : float
        Largest |⟨w, ∂L/∂w⟩ + b ∂L/∂b − ⟨v, ∂L/∂v⟩| of a step over the step's largest ⟨v, ∂L/∂v⟩.
    gap_without_bias : float
        The smallest of the same over all steps, b left out.
    """

    left: float
    gap: float
    gap_without_bias: float


def squares_apart(decay: float, *, steps: int = 2000, rate: float = 0.01) -> Apart:
    """Train a small network by gradient descent, and follow each hidden unit's ‖w‖² − ‖v‖².

    w are the weights into a unit with its bias, v those out of it.

    Parameters
    ----------
    decay : float
        The penalty is ``decay/2 ‖θ‖²``.
    steps : int
        How many.
    rate : float
        The learning rate.
    """
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)).double()
    inputs, labels = torch.randn(60, 5).double(), torch.randint(3, (60,))
    w, b, v, _ = parameters = list(network.parameters())

    def apart() -> torch.Tensor:
        return ((w**2).sum(1) + b**2 - (v**2).sum(0)).detach()

    start, gaps, without = apart(), [], []
    for _ in range(steps):
        gradients = torch.autograd.grad(cross_entropy(network(inputs), labels), parameters)
        with torch.no_grad():
            into, out = (w * gradients[0]).sum(1), (v * gradients[2]).sum(0)
            gaps.append(float((into + b * gradients[1] - out).abs().max() / out.abs().max()))
            without.append(float((into - out).abs().max() / out.abs().max()))
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.sub_(rate * (gradient + decay * parameter))
    return Apart(float(apart().norm() / start.norm()), max(gaps), min(without))


def random_network(
    generator: np.random.Generator, least: float = -1.0, most: float = 2.0
) -> tuple[nn.Sequential, nn.Sequential]:
    """Return a small linear network and a copy whose layers grew or shrank, in float64.

    Parameters
    ----------
    generator : numpy.random.Generator
    least, most : float
        A layer is multiplied by e to a power between these.
    """
    torch.manual_seed(int(generator.integers(2**31)))
    sizes = generator.integers(2, 9, 5)
    start = nn.Sequential(*(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))).double()
    grown = copy.deepcopy(start)
    with torch.no_grad():
        for weight in (p for p in grown.parameters() if p.dim() == 2):
            weight.mul_(float(np.exp(generator.uniform(least, most))))
    return start, grown


def rescaled(start: nn.Module, grown: nn.Module, **lam: Any) -> nn.Module:
    """Return a copy of the grown network after one soft rescaling toward the norms at the start.

    Parameters
    ----------
    start, grown : nn.Module
        Of one architecture.
    **lam : float
        ``lam``, or ``lam_features`` and ``lam_classifier``.
    """
    model = copy.deepcopy(start)
    rescaling = SoftWeightRescaling(model, **lam)
    model.load_state_dict(grown.state_dict())
    rescaling.step()
    return model


def predicted_balance(start: nn.Sequential, grown: nn.Sequential, lam: float) -> pd.Series:
    """Return (1 − μ)b, Definition 2's balance after a rescaling with one λ, by pair of layers.

    μ = λn / (λn + (1 − λ)w), with n and w the initial and present norm of the pair's layer that
    started with the smaller norm.

    Parameters
    ----------
    start, grown : nn.Sequential
        Of linear layers.
    lam : float
    """
    first, present = (
        {name: float(p.norm()) for name, p in network.state_dict().items() if p.dim() == 2}
        for network in (start, grown)
    )
    mu = {n: lam * first[n] / (lam * first[n] + (1 - lam) * present[n]) for n in first}
    balance = layer_balance(grown, start)
    return balance * [1 - mu[f"{small}.weight"] for small, _ in balance.index]


def least_over_present(network: nn.Module, **stopping: Any) -> float:
    """Return Fig. 5's ratio: the least ℓ2,2 norm that rescaling can reach over the present one.

    Parameters
    ----------
    network : nn.Module
        Is left as it is.
    **stopping
        ``tolerance``, ``iterations`` of `swrlib.theory.balance_`.
    """
    balanced = copy.deepcopy(network).double()
    history = balance_(balanced, **stopping)
    return float(history.iloc[-1] / history.iloc[0])


def layer_shares(network: nn.Module, p: float, q: float) -> tuple[pd.DataFrame, float]:
    """Return each layer's share of the network's ℓp,q norm, before and after balancing.

    Parameters
    ----------
    network : nn.Module
        A chain; is left as it is.
    p, q : float

    Returns
    -------
    (DataFrame, float)
        By layer: ``before`` and ``after``, norms over the whole network's before; and the least
        norm over the present one.
    """
    balanced = copy.deepcopy(network)
    history = balance_(balanced, p, q, tolerance=1e-6)
    rows = {
        name: [lpq_norm(nn.Sequential(layer), p, q) / history.iloc[0] for layer in (old, new)]
        for (name, old), new in zip(network.named_children(), balanced.children(), strict=True)
        if hasattr(old, "weight")
    }
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["before", "after"])
    return table, float(history.iloc[-1] / history.iloc[0])
