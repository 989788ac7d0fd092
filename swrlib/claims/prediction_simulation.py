"""How often the rule on what predicts says each word, where the truth is known.

Run it: ``python -m swrlib.claims.prediction_simulation`` prints the table of *How verdicts are
made*.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from swrlib.claims.prediction_rule import WORDS, exchanged, extreme, fisher, over_seeds, verdict
from swrlib.claims.predictors import ACROSS, BEYOND, LEAST_METHODS, WITHIN, partial, spearman
from swrlib.claims.simulation import as_text
from swrlib.statistics import holm


class Truth(NamedTuple):
    """A made-up measure.

    Attributes
    ----------
    name : str
        For readers.
    own : float
        The share of the trouble in it, from 0 to 1.
    drift : float
        How far it moves with the number of the task, in standard deviations; of a useless measure
        in a direction of each run's own.
    steady : bool
        Whether that direction is the same in all runs.
    turned : bool
        Whether the sign is another one in the first setting.
    """

    name: str
    own: float
    drift: float
    steady: bool = True
    turned: bool = False


TRUTHS = (
    Truth("useless", 0.0, 2.0, steady=False),
    Truth("steady drift", 0.0, 2.0),
    Truth("weak", 0.35, 0.0),
    Truth("strong", 0.8, 0.0),
    Truth("strong, turned in one setting", 0.8, 0.0, turned=True),
)
#: How many of the measures are of each kind.
COUNTS = (8, 3, 3, 2, 2)
SETTINGS, METHODS, TASKS, PERSISTENCE = 4, LEAST_METHODS, 29, 0.8


def _wandering(shape: tuple[int, ...], draws: np.random.Generator) -> np.ndarray:
    """Draw series of variance 1 that forget a fifth of themselves from task to task."""
    steps = draws.standard_normal(shape)
    steps[..., 1:] *= np.sqrt(1 - PERSISTENCE**2)
    for task in range(1, shape[-1]):
        steps[..., task] += PERSISTENCE * steps[..., task - 1]
    return steps


def _drawn(seeds: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw the trouble and the measures: [(measures,) settings, seeds, methods, tasks]."""
    shape = (SETTINGS, seeds, METHODS, TASKS)
    clock = np.linspace(-1, 1, TASKS)

    def levels() -> np.ndarray:  # of methods, much the same with every seed
        of_method = random.standard_normal((SETTINGS, 1, METHODS, 1))
        return of_method + 0.3 * random.standard_normal((SETTINGS, seeds, METHODS, 1))

    trouble = levels() + _wandering(shape, random) + clock
    measures = []
    for truth in np.repeat(np.arange(len(TRUTHS)), COUNTS):
        _, own, drift, steady, turned = TRUTHS[truth]
        rest = levels() + _wandering(shape, random)
        sign = 1.0 if steady else random.choice([-1.0, 1.0], (*shape[:3], 1))
        values = own * trouble + np.sqrt(1 - own**2) * rest + drift / 2 * sign * clock
        values[0] *= -1 if turned else 1
        measures.append(values)
    return trouble, np.stack(measures)


def _simulated_view(view: str, trouble: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the word on each of the measures of one experiment."""
    permuted: Any = 0.0
    together: Any = 0.0
    if view == ACROSS:
        orders = np.array(list(itertools.permutations(range(METHODS))))
        x, y = values.mean(-1), trouble.mean(-1)
        rho, others = spearman(x, y), exchanged(x, y, orders)
        permuted, together = extreme(others), extreme(others.sum(-2))
    else:
        clock = np.broadcast_to(np.arange(TASKS), trouble.shape)
        of_run = spearman(values, trouble) if view == WITHIN else partial(values, trouble, clock)
        rho = of_run.mean(-1)
    overall = over_seeds(np.tanh(fisher(rho).mean(-2)), together)
    p = overall.p if view == ACROSS else holm(overall.p)
    return verdict(over_seeds(rho, permuted), overall, p)


def simulated(*, experiments: int = 100, seed: int = 0) -> pd.DataFrame:
    """Return how often each word comes out, by view, seeds and what is true.

    An experiment has eighteen measures in four settings, of five methods and thirty tasks.

    Parameters
    ----------
    experiments : int
    seed : int

    Returns
    -------
    DataFrame
        ``view, seeds, measure``, and the share of each word.
    """
    random, rows = np.random.default_rng(seed), []
    kinds = np.repeat([truth.name for truth in TRUTHS], COUNTS)
    for seeds in (3, 5):
        drawn = [_drawn(seeds, random) for _ in range(experiments)]
        for view in (WITHIN, BEYOND, ACROSS):
            words = np.array([_simulated_view(view, *one) for one in drawn])
            for truth in TRUTHS:
                of = words[:, kinds == truth.name]
                shares = {said: float((of == said).mean()) for said in WORDS}
                rows.append({"view": view, "seeds": seeds, "measure": truth.name} | shares)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    print(as_text(simulated()))
