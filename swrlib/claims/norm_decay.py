"""SWR as decoupled norm decay: growth under a falling rate, and the verdict on it (Appendix E)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from swrlib import verdicts
from swrlib.claims.norms import weight_norms
from swrlib.datasets import Dataset
from swrlib.network.layers import trace_layers
from swrlib.papers import SWR as paper
from swrlib.statistics import mean_and_interval
from swrlib.streams import generator
from swrlib.swr import SoftWeightRescaling
from swrlib.theory.norm_decay import adamw_pair

# ---------------------------------------------------------------------------------------------
# The claim


def rate_ends(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the last moment of each learning rate: ``epoch, step, lr``, the training's end last.

    Parameters
    ----------
    frame : DataFrame
        Records of runs with the same rates: the first one's are read.
    """
    one = frame[(frame["run"] == frame["run"].iloc[0]) & (frame["epoch"] > 0)].sort_values("epoch")
    falls = one["lr"].shift(-1) < one["lr"]
    ends = one[falls | (one["epoch"] == one["epoch"].max())]
    return ends[["epoch", "step", "lr"]].to_dict("records")


def fall(norms: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """Return SWR's norm at the first decay, at the end, and what SWR alone would leave.

    Parameters
    ----------
    norms : DataFrame
        What `swrlib.claims.norms.norms_by_layer` made of the records.
    frame : DataFrame
        The records, of one setting, with at least one decay of the rate.

    Returns
    -------
    DataFrame
        By layer and seed: ``norm`` (at the first decay), ``start, lam, end``, ``left`` (the share
        of the excess that SWR alone leaves) and ``pull alone`` (the norm it leaves).
    """
    first, *_, last = rate_ends(frame)
    soft = norms[norms["method"] == "swr"].set_index(["layer", "seed"])
    at_decay, end = (soft[soft["epoch"] == moment["epoch"]] for moment in (first, last))
    falls = at_decay[["norm", "start", "lam"]].join(end["norm"].rename("end"))
    falls["left"] = (1 - falls["lam"]) ** (last["step"] - first["step"])
    falls["pull alone"] = falls["start"] + (falls["norm"] - falls["start"]) * falls["left"]
    return falls


def fall_verdict(norms: pd.DataFrame, frame: pd.DataFrame, scale: str) -> verdicts.Verdict:
    """Judge Appendix E's drop: in all layers the norm is larger at the first decay than at the end.

    Half of the fall that SWR alone would cause is the size that matters.

    Parameters
    ----------
    norms, frame : DataFrame
        See `fall`.
    scale : str
        Of the records; any but ``"paper"`` carries no verdict on the paper.

    Returns
    -------
    Verdict
        *Not run* without records, without SWR among them, or without a decay of the rate.
    """
    cases = []
    if len(norms) and len(rate_ends(frame)) > 1:
        falls = fall(norms, frame)
        for layer in falls.index.unique("layer"):
            part = falls.loc[layer]
            margin = (part["norm"] - part["pull alone"]).mean() / 2
            what = f"{layer}: norm at the first decay minus at the end"
            cases.append(verdicts.of_two(what, part["norm"], part["end"], margin, paired=True))
    return verdicts.judge_cases(paper.find_claim("decay-pull"), cases, scale=scale)


# ---------------------------------------------------------------------------------------------
# The balance of growth and shrinkage


def growth_by_rate(norms: pd.DataFrame, frame: pd.DataFrame, method: str) -> pd.DataFrame:
    """Return the mean growth g of the norm in a step, by layer, seed and learning rate.

    Parameters
    ----------
    norms, frame : DataFrame
        See `fall`.
    method : {"swr", "swr-reinit"}
        Re-initialization takes the norm at a decay as the target from then on.

    Returns
    -------
    DataFrame
        ``layer, seed, lr, growth`` and ``settles at``, the norm at which g balances the shrinkage.
    """
    soft = norms[norms["method"] == method].set_index(["layer", "seed", "epoch"])
    epochs, begin, parts = sorted(soft.index.unique("epoch")), None, []
    for moment in rate_ends(frame):
        # The first rate's window is its second half: before it the norm is still far from settled.
        first = begin or {"epoch": min(epochs, key=lambda e: abs(e - moment["epoch"] / 2))}
        old, new = (soft.xs(m["epoch"], level="epoch") for m in (first, moment))
        target = old["norm"] if begin and method == "swr-reinit" else new["start"]
        left = (1 - new["lam"]) ** (new["step"] - old["step"])
        excess = (new["norm"] - target - left * (old["norm"] - target)) / (1 - left)
        g = excess * new["lam"] / (1 - new["lam"])
        values = {"lr": moment["lr"], "growth": g, "settles at": target + excess}
        parts.append(pd.DataFrame(values).reset_index())
        begin = moment
    return pd.concat(parts)


def growth_powers(growths: pd.DataFrame) -> pd.DataFrame:
    """Fit g ∝ lr^power between neighbouring rates.

    Parameters
    ----------
    growths : DataFrame
        What `growth_by_rate` returned.

    Returns
    -------
    DataFrame
        By ``layer, rate`` ("1e-3 → 1e-4"): ``power``, the mean over seeds, and ``±``, the
        half-width of its 95% t interval. Seeds whose norm did not grow are left out.
    """
    wide = growths.pivot_table(index=["layer", "seed"], columns="lr", values="growth")
    wide = wide.where(wide > 0)[sorted(wide.columns, reverse=True)]
    rows = []
    for high, low in zip(wide.columns[:-1], wide.columns[1:], strict=True):
        power = (np.log(wide[high] / wide[low]) / math.log(high / low)).dropna()
        for layer, values in power.groupby("layer"):
            mean, half = mean_and_interval(values.to_numpy())
            change = f"{high:.0e} → {low:.0e}".replace("e-0", "e-")
            rows.append({"layer": layer, "rate": change, "power": mean, "±": half})
    columns = ["layer", "rate", "power", "±"]
    return pd.DataFrame(rows, columns=columns).set_index(["layer", "rate"])


# ---------------------------------------------------------------------------------------------
# SWR toward zero, beside AdamW


def train_toward_zero(lam: float, lr: float, steps: int) -> list[Tensor]:
    """Train a small network with SWR on a target of (nearly) zero, biases untouched.

    Parameters
    ----------
    lam, lr : float
        λ, and the rate of the Adam that SWR follows.
    steps : int
        How many, of batches of 32; network and batches are the same at each call.

    Returns
    -------
    list of Tensor
        The parameters, in float64.
    """
    network, batches = _small_task(steps)
    soft = SoftWeightRescaling(network, lam=lam)
    state = soft.state_dict()
    soft.load_state_dict(state | {"initial_norms": dict.fromkeys(state["initial_norms"], 1e-300)})
    biases = [layer.bias for layer in trace_layers(network) if layer.bias is not None]

    @torch.no_grad()
    def rescale() -> None:
        kept = [bias.clone() for bias in biases]
        soft.step()
        for bias, value in zip(biases, kept, strict=True):
            bias.copy_(value)

    return _fit(network, batches, torch.optim.Adam(network.parameters(), lr), rescale)


def train_adamw(lr: float, decay: float, steps: int, *, bias_lr: float) -> list[Tensor]:
    """Train the network of `train_toward_zero` with torch's AdamW on the weights.

    Parameters
    ----------
    lr, decay : float
        The weights' rate and weight decay.
    steps : int
        How many.
    bias_lr : float
        The rate of the biases, which do not decay.
    """
    network, batches = _small_task(steps)
    layers = trace_layers(network)
    groups = [{"params": [x.weight for x in layers], "lr": lr, "weight_decay": decay}]
    groups += [{"params": [x.bias for x in layers], "lr": bias_lr, "weight_decay": 0.0}]
    return _fit(network, batches, torch.optim.AdamW(groups))


def adamw_gaps(lam: float, lr: float, steps: int) -> tuple[float, float]:
    """Return how far `train_toward_zero` ends from AdamW, by the largest difference of a parameter.

    Parameters
    ----------
    lam, lr : float
    steps : int

    Returns
    -------
    (float, float)
        From AdamW with the pair of `swrlib.theory.norm_decay.adamw_pair`, and with (lr, λ/lr).
    """
    swr, gaps = train_toward_zero(lam, lr, steps), []
    for rate, decay in (adamw_pair(lam, lr), (lr, lam / lr)):
        adamw = train_adamw(rate, decay, steps, bias_lr=lr)
        gaps.append(max(float((a - b).abs().max()) for a, b in zip(swr, adamw, strict=True)))
    return gaps[0], gaps[1]


def _small_task(steps: int) -> tuple[nn.Sequential, list[tuple[Tensor, Tensor]]]:
    """Return a network and batches that it can learn; the same at each call."""
    torch.manual_seed(0)
    layers = [nn.Linear(10, 30), nn.ReLU(), nn.Linear(30, 3)]
    inputs = torch.randn(steps, 32, 10).double()
    labels = (inputs @ torch.randn(10, 3).double()).argmax(2)
    return nn.Sequential(*layers).double(), list(zip(inputs, labels, strict=True))


def _fit(
    network: nn.Module,
    batches: Sequence[tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    after_step: Callable[[], None] = lambda: None,
) -> list[Tensor]:
    for inputs, labels in batches:
        optimizer.zero_grad()
        cross_entropy(network(inputs), labels).backward()
        optimizer.step()
        after_step()
    return [parameter.detach() for parameter in network.parameters()]


# ---------------------------------------------------------------------------------------------
# λ that follows the rate

#: What happens to SWR when the rate falls: is given the object, λ, and the rate over the first one.
WAYS: dict[str, Callable[[SoftWeightRescaling, float, float], None]] = {
    "λ fixed": lambda soft, lam, share: None,
    "re-init": lambda soft, lam, share: soft.retarget(),
    "λ ∝ rate": lambda soft, lam, share: setattr(soft, "lam", lam * share),
    "λ ∝ rate²": lambda soft, lam, share: setattr(soft, "lam", lam * share**2),
}


def train_on_schedule(
    network: nn.Module, data: Dataset, rates: Sequence[float], lam: float, seed: int
) -> pd.DataFrame:
    """Train with SWR to the first fall of the rate, and from there on in each of `WAYS`.

    All ways share images and order.

    Parameters
    ----------
    network : nn.Module
        As it starts; is trained in place to the first fall.
    data : Dataset
    rates : sequence of float
        A learning rate an epoch.
    lam : float
    seed : int
        Of the order.

    Returns
    -------
    DataFrame
        ``way`` ("all" before the first fall), ``seed, epoch``, ``ratio`` (norm over its start,
        mean over layers) and ``accuracy`` (test, of the last epoch).
    """
    optimizer = torch.optim.Adam(network.parameters(), paper.learning_rate)
    soft = SoftWeightRescaling(network, lam=lam)
    soft.attach(optimizer)
    first = next((i for i, rate in enumerate(rates) if rate < rates[0]), len(rates))
    start = weight_norms(network)
    rows: list[dict[str, Any]] = []

    def note(trained: nn.Module, way: str, number: int) -> None:
        row = {"way": way, "seed": seed, "epoch": number}
        rows.append(row | {"ratio": np.divide(weight_norms(trained), start).mean()})
        if number == len(rates):
            rows[-1]["accuracy"] = _test_accuracy(trained, data)

    note(network, "all", 0)
    for number in range(first):
        _train_epoch(network, optimizer, data, seed, number)
        note(network, "all", number + 1)
    for way, act in WAYS.items():
        copied, adam, rescaling = copy.deepcopy((network, optimizer, soft))
        rescaling.attach(adam)  # what is attached is not copied
        for number in range(first, len(rates)):
            if rates[number] < rates[number - 1]:
                act(rescaling, lam, rates[number] / rates[0])
            adam.param_groups[0]["lr"] = rates[number]
            _train_epoch(copied, adam, data, seed, number)
            note(copied, way, number + 1)
    return pd.DataFrame(rows)


@torch.no_grad()
def _test_accuracy(network: nn.Module, data: Dataset) -> float:
    network.eval()
    parts = [data.normalize(part) for part in data.test_images.split(1000)]
    answers = torch.cat([network(part).argmax(1) for part in parts])
    return (answers == data.test_labels).float().mean().item()


def _train_epoch(
    network: nn.Module, optimizer: torch.optim.Optimizer, data: Dataset, seed: int, number: int
) -> None:
    order = torch.randperm(len(data.train_images), generator=generator(seed, "order", number))
    for chosen in order.split(paper.batch_size):
        optimizer.zero_grad()
        images = data.normalize(data.train_images[chosen])
        cross_entropy(network(images), data.train_labels[chosen]).backward()
        optimizer.step()


def scheduled_ends(ways: pd.DataFrame) -> pd.DataFrame:
    """Compare the ways at the end with λ fixed, paired over seeds.

    Parameters
    ----------
    ways : DataFrame
        What `train_on_schedule` returned, of several seeds.

    Returns
    -------
    DataFrame
        A row a way: ``norm`` (in starts), ``accuracy`` (percent), ``− fixed`` and ``± 95%``
        (points). No rows where the rate never falls.
    """
    last = ways[ways["epoch"] == ways["epoch"].max()]
    last = last.pivot(index="seed", columns="way", values=["accuracy", "ratio"])
    rows = []
    for way in (way for way in WAYS if way in last["accuracy"]):
        accuracy = 100 * last["accuracy"][way]
        row = {"way": way, "norm": last["ratio"][way].mean(), "accuracy": accuracy.mean()}
        gaps = (accuracy - 100 * last["accuracy"]["λ fixed"]).to_numpy()
        gap, half = mean_and_interval(gaps)
        rows.append(row | {"− fixed": gap, "± 95%": half})
    return pd.DataFrame(rows)
