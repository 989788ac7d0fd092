"""Chapters and tables on made-up records that lack something: a dash or words, never a number."""

from __future__ import annotations

from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from swrlib import verdicts
from swrlib.claims import lipschitz

ROOT = Path(__file__).resolve().parent.parent


def cell(chapter: str, text: str) -> str:
    """Return the source of the one cell of a chapter that has this in it."""
    notebook = nbformat.read(ROOT / f"notebooks/{chapter}.ipynb", as_version=4)
    (found,) = (c.source for c in notebook.cells if c.cell_type == "code" and text in c.source)
    return found


SETTING = {"scale": "paper", "dataset": "mnist", "model": "mlp", "epoch": 1}


def test_a_run_without_its_growth_counts_as_no_bound_that_holds():
    found = pd.DataFrame([SETTING | {"run": "a", "lower": 1.0, "spectral": 2.0, "frobenius": 3.0}])
    held = pd.DataFrame(
        {"Frobenius product": [2.0, 2.0, 9.0], "Theorem 2": [4.0, np.nan, np.inf], "any Adam": 5.0}
    )
    detail = lipschitz.bound_verdict(found, held).detail
    assert "in 3 of 4 comparisons of 3 runs" in detail, "one is not known, one is not finite"


def test_lipschitz_ratios_need_both_methods():
    kinds = lipschitz.KINDS
    rows = pd.DataFrame([SETTING | {"method": "swr", "seed": seed} for seed in (0, 1)])
    rows[list(kinds)] = 2.0
    table, words = lipschitz.paired_ratios(rows)
    assert table[[*kinds.values()]].to_numpy().tolist() == [["–"] * len(kinds)] and not words
    both = pd.concat([rows, rows.iloc[:1].assign(method="vanilla", lower=4.0)])
    table, _ = lipschitz.paired_ratios(both)
    assert table[[*kinds.values()]].to_numpy().tolist() == [["0.50", "1.00", "1.00"]]


def test_gains_under_noise_need_both_methods():
    row = SETTING | {"run": "a", "measure": "noise-accuracy", "layer": "0", "value": 0.9}
    rows = pd.DataFrame([row | {"method": "swr", "seed": seed} for seed in (0, 1)])
    assert lipschitz.paired_noise(rows).to_numpy().tolist() == [["–"]]
    both = pd.concat([rows, rows.iloc[:1].assign(method="vanilla", value=0.8)])
    assert lipschitz.paired_noise(both).to_numpy().tolist() == [["+10.00"]]


@pytest.mark.parametrize(("lacking", "expected"), [(1.0, "–"), (0.0, "+1.00 points, n = 1")])
def test_a_gain_over_ratio_1_needs_ratio_1(lacking, expected):
    rows = [
        {"biases": biases, "seed": 0, "ratio": ratio, "best_after": 0.6 + 0.02 * (1 - ratio)}
        for biases in ("proportional", "untouched")
        for ratio in (1.0, 0.5, 0.0)
    ]
    rows = pd.DataFrame(rows)
    rows = rows[(rows["ratio"] != lacking) | (rows["biases"] == "proportional")]
    space = {"rows_shown": rows, "verdicts": verdicts, "pd": pd, "where": "here"}
    exec(cell("proportionality", "fine-tuned minus fine-tuned"), space)
    assert space["table"].loc["0.5", "biases untouched"] == expected
    space["rows_shown"] = rows[rows["ratio"] < 1]
    exec(cell("proportionality", "fine-tuned minus fine-tuned"), space)
    assert (space["table"] == "–").all(axis=None)


@pytest.mark.parametrize("seeds", [1, 2])
def test_one_seed_says_nothing_of_chance(capsys, seeds):
    held_out = pd.DataFrame({"mean": [0.9, 0.8], "min": [0.9, 0.8], "max": [0.9, 0.8]})
    exec(
        cell("quickstart", "more accurate on held-out images than the worst"),
        {"held_out": held_out, "seeds": seeds},
    )
    said = capsys.readouterr().out
    assert ("one seed cannot say" in said) == (seeds == 1)
    assert ("points apart on average" in said) == (seeds > 1)
