"""How often the rule for streams of tasks says each word, where the truth is known.

Errors at tasks' ends are no normal numbers: a run that keeps its plasticity has errors near zero,
with a spike now and then, and one that loses it has large ones from some task on, a task that
differs from seed to seed. So whole courses are drawn. Run it: ``python -m
swrlib.claims.task_simulation`` prints the table of *How verdicts are made*.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pandas as pd

from swrlib.claims.simulation import as_text, estimated, estimated_mean, rates
from swrlib.statistics import NO_INTERVAL, Estimate
from swrlib.verdicts import second_rule, task_rule

DRAWS = 10_000
#: As many as a setting of our records has.
TASKS, METHODS = 30, 5


class Kind(NamedTuple):
    """How a method's courses are drawn.

    Attributes
    ----------
    onset : tuple of (float, float)
        Between which tasks plasticity goes; beyond the last task: never.
    level : tuple of (float, float)
        Between which errors a lost task ends, drawn for each.
    spikes : float
        The share of tasks that have an error of 0.2 to 0.3 all the same.
    """

    onset: tuple[float, float] = (math.inf, math.inf)
    level: tuple[float, float] = (0.2, 0.9)
    spikes: float = 0.0


KEEPS = Kind()
SPIKES = Kind(spikes=0.1)
LATE = Kind((14, 22))
EARLY = Kind((3, 9))
PARTLY = Kind((22, 40))
RARELY = Kind((22, 54))


class Question(NamedTuple):
    """What is asked of the first method, or of the first minus the second; and what is true.

    Attributes
    ----------
    name : str
        For readers.
    outcome : {"change", "late", "onset"}
    kinds : tuple of Kind
        Of the first method and, of differences, the second.
    kind : str
        What is claimed: see `swrlib.verdicts.second_rule`.
    wrong : tuple of str
        Words that are wrong.
    """

    name: str
    outcome: str
    kinds: tuple[Kind, ...]
    kind: str
    wrong: tuple[str, ...]


_HELD = (second_rule.REPRODUCED,)
_NO_DIRECTION = (second_rule.REPRODUCED, second_rule.REVERSED)
_IS_THERE = (second_rule.NO_EFFECT, second_rule.REVERSED)
_REFUTED = (second_rule.NOT_REPRODUCED,)
QUESTIONS = (
    Question("loses plasticity; it never does", "change", (KEEPS,), "above", _NO_DIRECTION),
    Question("the same; spikes alone", "change", (SPIKES,), "above", _NO_DIRECTION),
    Question("the same; all, from task 3 to 9 on", "change", (EARLY,), "above", _IS_THERE),
    Question("the same; half, from task 22 on", "change", (PARTLY,), "above", _IS_THERE),
    Question("the same; a quarter, from task 22 on", "change", (RARELY,), "above", _IS_THERE),
    Question("keeps plasticity; it does", "change", (KEEPS,), "little", _REFUTED),
    Question("the same; spikes alone", "change", (SPIKES,), "little", _REFUTED),
    Question("the same; it loses it", "change", (EARLY,), "little", _HELD),
    Question("the same; half, from task 22 on", "change", (PARTLY,), "little", _HELD),
    Question("the same; a quarter, from task 22 on", "change", (RARELY,), "little", _HELD),
    Question("ends higher; both lose alike", "late", (EARLY, EARLY), "above", _NO_DIRECTION),
    Question("the same; both have spikes", "late", (SPIKES, SPIKES), "above", _NO_DIRECTION),
    Question("the same; it loses, the other not", "late", (EARLY, KEEPS), "above", _IS_THERE),
    Question("ends no lower; both keep", "late", (KEEPS, KEEPS), "not below", _REFUTED),
    Question("loses a task later; both alike", "onset", (EARLY, EARLY), "above", _NO_DIRECTION),
    Question("the same; both late or never", "onset", (PARTLY, PARTLY), "above", _NO_DIRECTION),
    Question("the same; 14-22 against 3-9", "onset", (LATE, EARLY), "above", _IS_THERE),
    Question("the same; never against 3-9", "onset", (KEEPS, EARLY), "above", _IS_THERE),
)


def courses(kind: Kind, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """Draw errors at the ends of tasks, of the given shape and one axis more, the tasks."""
    size = (*shape, TASKS)
    number = np.arange(1, TASKS + 1)
    low, high = kind.onset
    onset = random.uniform(low, high, shape) if np.isfinite(high) else np.full(shape, np.inf)
    small = np.abs(random.normal(0, 0.005, size))
    spiked = np.where(random.random(size) < kind.spikes, random.uniform(0.2, 0.3, size), small)
    lost = random.uniform(*kind.level, size)
    return np.where(number >= np.ceil(onset)[..., None], lost, spiked)


def outcome_of(values: np.ndarray, outcome: str) -> np.ndarray:
    """Return an outcome of courses as the rule has it, over the last axis."""
    late = values[..., -math.ceil(TASKS / task_rule.SHARE) :].mean(-1)
    if outcome == "onset":
        over = values > task_rule.LOST
        return np.where(over.any(-1), over.argmax(-1) + 1, TASKS + 1).astype(float)
    return late - values[..., : task_rule.START].mean(-1) if outcome == "change" else late


def question_words(
    question: Question, seeds: int, *, seed: int = 0, draws: int = DRAWS
) -> np.ndarray:
    """Return the word in each draw, of a setting of `METHODS` methods.

    The others keep their plasticity, but for one that loses it late.

    Parameters
    ----------
    question : Question
    seeds : int
    seed, draws : int
    """
    random = np.random.default_rng(seed)
    kinds = [*question.kinds, LATE, *[KEEPS] * METHODS][:METHODS]
    drawn = [courses(kind, (draws, 1, seeds), random) for kind in kinds]
    values = [outcome_of(course, question.outcome) for course in drawn]
    estimate = _estimate(np.stack(values, 2), len(question.kinds), question.outcome == "onset")
    margin = task_rule.ONSET_MARGIN if question.outcome == "onset" else task_rule.MARGINS["error"]
    words = second_rule.words(estimate, margin, NO_INTERVAL, question.kind)[:, 0]
    flat = Estimate(*(np.asarray(part)[:, 0] for part in estimate))
    ruled_out = second_rule.by_a_bound(words, flat, question.kind)
    if question.outcome != "onset":
        return np.where(ruled_out & (seeds < task_rule.BOUND_SEEDS), second_rule.UNDECIDED, words)
    never = np.stack(values[:2], 2)[:, 0] > TASKS
    bounded = never.any((-1, -2)) | (seeds < task_rule.BOUND_SEEDS)
    return np.where((bounded & ruled_out) | never.all((-1, -2)), second_rule.UNDECIDED, words)


def _estimate(values: np.ndarray, methods: int, rounded: bool) -> Estimate:
    """Estimate the first method, or its difference from the second, [draws, 1]."""
    seeds = values.shape[-1]
    if methods == 1:
        estimate = estimated_mean(values)
    else:
        estimate = Estimate(*(np.asarray(part)[:, 0] for part in estimated(values, 1)))
    least = math.sqrt(methods * task_rule.ROUNDING / seeds) if rounded else 0.0
    return estimate._replace(error=np.maximum(estimate.error, least))


def simulated(*, draws: int = DRAWS) -> pd.DataFrame:
    """Return how often each word comes out, by question and number of seeds, and the wrong ones."""
    order = [w for w in second_rule.WORDS if w not in (second_rule.SMALLER, second_rule.MIXED)]
    rows = []
    for question in QUESTIONS:
        for seeds in (5, 3):
            shares = rates(question_words(question, seeds, draws=draws), order)
            wrong = sum(shares[word] for word in question.wrong)
            case = {"asked; true": question.name, "seeds": seeds}
            rows.append(case | shares | {"wrong": wrong})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    print(as_text(simulated()))
