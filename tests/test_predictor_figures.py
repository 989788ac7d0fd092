"""Pictures of what predicts: a line a measure, a number a setting, a point a run."""

import itertools

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest

from swrlib.claims.predictors import ACROSS, BASELINES, NAMES, WITHIN, of_methods, turned
from swrlib.figures import predictors


def judged_measures():
    """Correlations of two views, of all measures but one, over two settings and in each."""
    rows = [
        {"view": view, "measure": name, "setting": setting, "seeds": 3, "word": "undecided"}
        | {"rho": place / 30 - 0.3, "low": place / 30 - 0.4, "high": place / 30 - 0.2}
        for view in (WITHIN, ACROSS)
        for place, name in enumerate(NAMES[1:])
        for setting in ("all", "label-shuffled, tanh", "pixel-permuted, ReLU")
    ]
    return pd.DataFrame(rows)


def test_each_measure_has_its_line_with_an_interval_in_each_view():
    figure = predictors.dots(judged_measures())
    (ax,) = figure.axes
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert names == [*NAMES, *BASELINES]
    drawn = {line.get_label(): line for line in ax.lines if line.get_label() in (WITHIN, ACROSS)}
    assert set(drawn) == {WITHIN, ACROSS}
    for line in drawn.values():
        places = np.round(line.get_ydata()).astype(int)
        assert [names[place] for place in places] == list(NAMES[1:])
        assert line.get_xdata() == pytest.approx(np.arange(len(NAMES) - 1) / 30 - 0.3)
    bars = [c for c in ax.collections if hasattr(c, "get_segments") and len(c.get_segments())]
    widths = {round(float(end[0] - start[0]), 9) for c in bars for start, end in c.get_segments()}
    assert widths == {0.2}
    assert figure.get_figwidth() < 5  # letters of 10 points are read on a phone
    matplotlib.pyplot.close(figure)


def test_a_heat_map_says_each_number():
    figure = predictors.by_setting(judged_measures(), WITHIN)
    (ax,) = figure.axes
    assert len([text for text in ax.texts if text.get_text()]) == 2 * (len(NAMES) - 1)
    assert ax.texts[0].get_text() == "-.30"
    heads = [text.get_text() for text in ax.get_xticklabels()]
    assert heads == ["label-shuffled\ntanh", "pixel-permuted\nReLU"]
    matplotlib.pyplot.close(figure)


def test_a_heat_map_of_methods_has_means_in_the_methods_order():
    runs = pd.DataFrame(
        {
            "setting": "s",
            "method": method,
            "seed": seed,
            "measure": NAMES[2],
            "rho": rho + seed / 10,
        }
        for method, rho in {"swr 0.0003": 0.1, "l2 0.01": -0.3, "vanilla": 0.5}.items()
        for seed in range(3)
    )
    figure = predictors.by_method(runs)
    (ax,) = figure.axes
    assert [text.get_text() for text in ax.get_xticklabels()] == [
        "vanilla",
        "L2 0.01",
        "SWR 0.0003",
    ]
    assert [text.get_text() for text in ax.texts if text.get_text()] == ["+.60", "-.20", "+.20"]
    best = of_methods(runs)
    assert best["rho"].to_dict() == pytest.approx(
        {"swr 0.0003": 0.2, "l2 0.01": -0.2, "vanilla": 0.6}
    )
    assert set(best["measure"]) == {NAMES[2]}
    assert turned(runs, "method") == [] == turned(runs[:0], "method")
    assert turned(runs.assign(rho=runs["rho"] - 0.2), "method") == [NAMES[2]]
    matplotlib.pyplot.close(figure)


def test_single_runs_and_single_tasks_are_points():
    runs = pd.DataFrame(
        {"setting": "label-shuffled, tanh", "method": "swr 0.001", "seed": seed}
        | {"measure": NAMES[0], "rho": seed / 10}
        for seed in range(5)
    )
    figure = predictors.of_single_runs(runs)
    points = np.concatenate([c.get_offsets() for c in figure.axes[0].collections])
    assert sorted(points[:, 0]) == pytest.approx(np.arange(5) / 10)
    again = predictors.of_single_runs(runs)
    same = np.concatenate([c.get_offsets() for c in again.axes[0].collections])
    assert (points == same).all(), "the picture changes by itself"
    matplotlib.pyplot.close("all")
    table = pd.DataFrame({"setting": "s", "method": "swr 0.001", NAMES[0]: [1.0, 2, 3]})
    table["trouble"] = [0.3, 0.2, 0.1]
    figure, said = predictors.scatter(table, NAMES[0], "s")
    assert "3 tasks" in said and said.endswith("ρ = -1.00.")
    matplotlib.pyplot.close(figure)
    table[NAMES[1]] = np.nan
    figure, said = predictors.scatter(table, NAMES[1], "s")
    assert said == f"s: {NAMES[1]} was not measured."
    matplotlib.pyplot.close(figure)


@pytest.mark.parametrize("methods", [4, 18])
def test_numbers_of_a_heat_map_do_not_overlap(methods):
    rows = itertools.product(NAMES, range(methods))
    runs = pd.DataFrame(rows, columns=["measure", "method"]).assign(rho=-0.25)
    figure = predictors.by_method(runs.assign(method=runs["method"].map("swr 0.{:02}".format)))
    figure.canvas.draw()
    boxes = [t.get_window_extent() for t in figure.axes[0].texts if t.get_text()]
    assert len(boxes) == len(NAMES) * methods
    assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))
    columns = [boxes[i::methods] for i in range(methods)]
    assert not any(a.overlaps(b) for of in columns for a, b in itertools.pairwise(of))
    matplotlib.pyplot.close(figure)
