"""Which units continual backprop replaces: those of lowest utility, or those of highest.

Dohare et al. replace the units of lowest utility. The release of *Spectral Collapse* (Prakash, He,
Guo et al.) takes the highest. What that costs a trained network can be tried without training one
by it.
"""

from __future__ import annotations

import copy

import pandas as pd
import torch
from torch import Tensor, nn

from swrlib.verdicts import Case, task_rule

#: On what it is judged, for readers.
ON_DIGITS = "networks of 100 units on 4,000 digits"
#: The share of a layer's units that is replaced.
REPLACED = 0.1


@torch.no_grad()
def replaced_units(networks: list[nn.Sequential], images: Tensor, labels: Tensor) -> pd.DataFrame:
    """Replace units of highest or of lowest utility, and see what that costs.

    A unit's utility is abs(mean activation) · mean abs(outgoing weights). The outgoing weights of
    those that are replaced become zero, as Dohare et al. have it; the release draws them anew.

    Parameters
    ----------
    networks : list of torch.nn.Sequential
        Trained; with modules ``linear1, linear2, …``, activations behind all but the last.
    images : torch.Tensor
        [N, C, H, W].
    labels : torch.Tensor
        [N].

    Returns
    -------
    DataFrame
        By network (``seed``), accuracies: ``before``, and after `REPLACED` of each hidden layer's
        units, ``highest`` or ``lowest``, were replaced.
    """
    accuracies = []
    for trained in networks:
        accuracy = {"before": _accuracy(trained, images, labels)}
        for which in ("highest", "lowest"):
            network = copy.deepcopy(trained).eval()
            values, hidden = images, False
            for module in network:
                if isinstance(module, nn.Linear):
                    if hidden:  # the values are a hidden layer's units, behind their activation
                        utility = values.mean(0).abs() * module.weight.abs().mean(0)
                        order = utility.argsort(descending=which == "highest")
                        module.weight[:, order[: max(1, round(REPLACED * len(order)))]] = 0
                    hidden = True
                values = module(values)
            accuracy[which] = _accuracy(network, images, labels)
        accuracies.append(accuracy)
    return pd.DataFrame(accuracies).rename_axis("seed")


def _accuracy(network: nn.Sequential, images: Tensor, labels: Tensor) -> float:
    return float((network(images).argmax(1) == labels).double().mean())


def utility_case(replaced: pd.DataFrame) -> Case:
    """Compare what is left of the accuracy, from what `replaced_units` returned."""
    what = "accuracy after replacing the units of lowest utility minus that of the highest"
    values, margin = replaced[["lowest", "highest"]], task_rule.MARGINS["online"]
    return Case(what, values, {"lowest": 1.0, "highest": -1.0}, margin)
