"""The pictures: what they show is what the records hold, and they say it in words too."""

import base64
import io
import itertools
import math
import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import nbformat
import numpy as np
import pandas as pd
import PIL.Image
import pytest
from browser import open_page
from IPython.utils.capture import capture_output
from matplotlib.container import ErrorbarContainer
from scipy import stats
from test_verdicts import made_up

from swrlib import figures, make_stream, tables, train, verdicts
from swrlib.claims.norms import norms_by_layer
from swrlib.claims.proportionality import scaled_runs, scaling_verdicts
from swrlib.figures import accuracies, differences, layers, tasks
from swrlib.figures.accuracies import LAST_EPOCH, SMOOTHED, who_ends_where
from swrlib.figures.layers import spread
from swrlib.figures.rendering import DARK_GROUND, contrast, darkened, rendered
from swrlib.methods import METHODS as METHODS_KNOWN
from swrlib.papers import SWR as paper
from swrlib.statistics import mean_and_interval

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.usefixtures("shell")
METHODS = ["vanilla", "swr", "l2", "full-reset", "adamw:1e-2"]


@pytest.fixture(autouse=True)
def every_picture_closed():
    yield
    matplotlib.pyplot.close("all")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def records(kept):
    return train(
        dataset="mnist-5k",
        model="mlp",
        stream="warm-start",
        methods=METHODS,
        seeds=[0, 1],
        epochs=1,
        results=kept / "records",
        checkpoints=kept / "checkpoints",
        progress=False,
    )


def lines(axes) -> dict[str, np.ndarray]:
    return {line.get_label(): line.get_ydata() for line in axes.get_lines()}


def test_every_method_has_its_own_colour_and_marker():
    assert len({marker for _, marker in figures.STYLE.values()}) == len(figures.STYLE)
    assert len({tuple(color) for color, _ in figures.STYLE.values()}) == len(figures.STYLE)


def test_intervals_are_students():
    values = np.random.default_rng(0).normal(size=(5, 3))
    mean, half = mean_and_interval(values)
    for column in range(3):
        low, high = stats.ttest_1samp(values[:, column], 0).confidence_interval()
        assert (mean - half)[column] == pytest.approx(low)
        assert (mean + half)[column] == pytest.approx(high)
        assert figures.interval(pd.Series(values[:, column])) == pytest.approx((low, high))
    assert np.isnan(mean_and_interval(values[:1])[1]).all()


def test_bands_are_students_intervals_and_lines_end_where_a_seed_does():
    """By scipy; an epoch that one seed of a method did not reach is left out for that method."""
    accuracy = np.random.default_rng(1).normal(size=(4, 3))
    rows = [
        {"method": method, "seed": seed, "epoch": epoch, "value": value + (method == "swr")}
        for method in ("swr", "vanilla")
        for (seed, epoch), value in np.ndenumerate(accuracy)
    ]
    rows = pd.DataFrame(rows)
    rows = rows[(rows["method"] == "vanilla") | (rows["seed"] != 2) | (rows["epoch"] < 2)]
    ax = matplotlib.figure.Figure().subplots()
    figures.method_lines(ax, rows, "value", label="what")
    assert [line.get_label() for line in ax.get_lines()] == ["vanilla", "SWR"]
    assert [len(line.get_xdata()) for line in ax.get_lines()] == [3, 2]
    for line, band, method in zip(ax.get_lines(), ax.collections, ("vanilla", "swr"), strict=True):
        color, marker = figures.STYLE[method]
        assert matplotlib.colors.same_color(line.get_color(), color)
        assert line.get_marker() == marker
        for epoch, mean in zip(line.get_xdata(), line.get_ydata(), strict=True):
            seeds = rows[(rows["method"] == method) & (rows["epoch"] == epoch)]["value"]
            edges = band.get_paths()[0].vertices
            drawn = edges[edges[:, 0] == epoch][:, 1]
            expected = stats.ttest_1samp(seeds, 0).confidence_interval()
            assert (drawn.min(), drawn.max()) == pytest.approx(tuple(expected))
            assert mean == pytest.approx(seeds.mean())
    assert ax.get_ylabel() == "what"
    # A single seed has a line, and no interval.
    alone = matplotlib.figure.Figure().subplots()
    figures.method_lines(alone, rows[rows["seed"] == 0], "value")
    assert [len(line.get_xdata()) for line in alone.get_lines()] == [3, 3]
    assert not any(
        np.isfinite(path.vertices).any() for c in alone.collections for path in c.get_paths()
    )


def test_curves_are_the_means_over_seeds(records):
    figure = accuracies.curves(records)
    shown = lines(figure.axes[0])
    for method in ("vanilla", "swr"):
        mean = records[records["method"] == method].groupby("epoch")["test_accuracy"].mean()
        assert shown[paper.labels[method]] == pytest.approx(mean.to_numpy())


def test_long_curves_are_averaged_within_stages(records):
    one = records[(records["method"] == "swr") & (records["seed"] == 0)].iloc[:1]
    epochs = np.arange(1, 81)
    accuracy = np.random.default_rng(0).normal(size=80)
    rows = pd.concat([one] * 80).assign(epoch=epochs, stage=np.where(epochs > 40, 2, 1))
    figure = accuracies.curves(rows.assign(test_accuracy=accuracy, stage_epoch=0))
    (ax,) = figure.axes
    drawn = lines(ax)[paper.labels["swr"]]
    stages = pd.Series(accuracy).groupby(epochs > 40)
    expected = stages.rolling(SMOOTHED, min_periods=1).mean()
    assert drawn == pytest.approx(expected.to_numpy())
    assert "5-epoch mean" in ax.get_ylabel()
    # The point at the end is the last epoch's own, as tables have it, and the picture says so.
    (end,) = (line for line in ax.get_lines() if len(line.get_xdata()) == 1)
    assert end.get_xydata().tolist() == [[80, pytest.approx(accuracy[-1])]]
    assert abs(accuracy[-1] - drawn[-1]) > 0.1, "smoothing would hide it"
    assert LAST_EPOCH in ax.get_legend_handles_labels()[1]


def test_every_end_of_a_course_lies_within_its_axis(records):
    rows = records[records["seed"] == 0]
    last = rows["epoch"] == rows["epoch"].max()
    rows = rows.assign(test_accuracy=0.9 + 0.01 * rows["epoch"])
    rows.loc[last & (rows["method"] == "swr"), "test_accuracy"] = 0.1
    figure, _ = accuracies.course(rows)
    assert figure.axes[0].get_ylim()[0] < 0.1


def test_short_curves_have_no_point_of_their_own(records):
    assert LAST_EPOCH not in lines(accuracies.curves(records).axes[0])


def test_the_course_says_who_ended_where(records):
    figure, sentence = accuracies.course(records)
    ends = verdicts.late_by_seed(records).mean()
    assert f"{paper.labels[ends.idxmax()]} ends highest with {100 * ends.max():.1f}%" in sentence
    assert "quick scale" not in sentence and "custom" in figure.axes[0].get_title()


def test_of_methods_that_end_alike_not_one_is_highest_and_lowest(records):
    alike = records[records["method"].isin(["swr", "vanilla"])].assign(test_accuracy=0.5)
    said = who_ends_where(alike, "{} {:.0%} above {} {:.0%}")
    assert set(re.findall(r"SWR|vanilla", said)) == {"SWR", "vanilla"}
    alone = who_ends_where(alike[alike["method"] == "swr"], "{} {:.0%} above {} {:.0%}")
    assert alone.endswith("SWR 50% above SWR 50%.")


def test_final_accuracies_and_their_differences(records):
    finals = verdicts.late_by_seed(records)
    points = np.concatenate([line.get_xdata() for line in accuracies.finals(records).axes[0].lines])
    assert set(finals.to_numpy().ravel().round(6)) <= set(np.round(points.astype(float), 6))
    twice = pd.concat([records, records.assign(dataset="mnist", run=records["run"] + "x")])
    figure, sentence = accuracies.differences_at_the_end(twice)
    gaps = 100 * (finals["swr"] - finals["vanilla"].mean())
    assert len(figure.axes) == 2
    for ax in figure.axes:
        points = np.concatenate([line.get_xdata() for line in ax.lines])
        assert set(gaps.round(6)) <= set(np.round(points.astype(float), 6))
    assert sentence.count(f"SWR {gaps.mean():+.2f}") == 2


def test_no_difference_is_drawn_where_the_rival_is_missing(records):
    """Where it was not trained; where no seed has both there are two means and no interval."""
    bare = records[records["method"] != "vanilla"].assign(dataset="cifar100")
    bare["run"] += "x"
    figure, sentence = accuracies.differences_at_the_end(pd.concat([records, bare]))
    (empty,) = (ax for ax in figure.axes if "CIFAR-100" in ax.get_title())
    assert not empty.lines and "vanilla was not trained here" in empty.texts[0].get_text()
    assert "CIFAR-100, MLP, custom scale: vanilla was not trained here" in sentence
    apart = records[(records["method"] != "swr") | (records["seed"] == 0)]
    apart = apart[(apart["method"] != "vanilla") | (apart["seed"] == 1)]
    figure, sentence = accuracies.differences_at_the_end(apart)
    names = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert {"L2", "SWR"} <= set(names)
    assert "nan" not in sentence and "1–2 seeds" in figure.axes[0].get_title()


def test_a_difference_at_the_end_is_the_second_rules(records):
    """As the front page has it: the block design's interval, from three seeds on."""
    noise = {"vanilla": [0, 2, 1, 4, 3], "swr": [3, 1, 4, 0, 2], "l2": [1, 4, 0, 2, 3]}
    cell = ("mnist", "mlp", "warm-start")
    drawn = made_up({(*cell, m): 0.9 + 0.002 * np.array(e) for m, e in noise.items()})
    figure, sentence = accuracies.differences_at_the_end(drawn)
    late = verdicts.late_by_seed(drawn)
    expected = verdicts.difference(late, "swr", "vanilla").interval()
    bars = [c for c in figure.axes[0].containers if isinstance(c, ErrorbarContainer)]
    spans = [bar[2][0].get_segments()[0][:, 0] for bar in bars]
    assert any(span == pytest.approx([100 * x for x in expected[1:]]) for span in spans)
    assert f"SWR {100 * expected.difference:+.2f}" in sentence
    _, titles = differences.against_vanilla(drawn)
    assert f"SWR {100 * expected.difference:+.2f}" in titles
    with capture_output() as output:
        tables.finals(drawn)
    assert verdicts.in_points(*expected, unit="") in output.outputs[0].data["text/html"]


def captions(chapter: str) -> dict[str, str]:
    cells = nbformat.read(ROOT / f"notebooks/{chapter}.ipynb", as_version=4).cells
    found = [cell.metadata.get("mystnb", {}).get("figure", {}) for cell in cells]
    return {figure["name"]: figure["caption"] for figure in found if figure}


def test_means_stand_above_their_points_and_captions_say_so(records):
    ax = accuracies.finals(records).axes[0]
    assert ax.yaxis_inverted()
    points, means = (
        [line.get_ydata()[0] for line in ax.lines if (len(line.get_xdata()) > 1) == several]
        for several in (True, False)
    )
    assert all(mean < point for mean, point in zip(sorted(means), sorted(points), strict=False))
    caption = captions("generalization")["fig-generalization"]
    assert "one point per seed, above them the mean" in caption


def test_captions_of_long_curves_say_what_is_averaged():
    for chapter, name in (
        ("warm_start", "fig-warm-start"),
        ("generalization", "fig-generalization-course"),
        ("continual_learning", "fig-continual"),
    ):
        assert (
            "Running means over a fortieth of the epochs within a stage" in captions(chapter)[name]
        )
    caption = captions("balancedness")["fig-balance"]
    assert "averaged with the four before it" in caption and "the last epoch alone" in caption


def test_drops_compare_the_first_epoch_of_a_stage_with_the_last_before(records):
    changes = verdicts.changes_of_data(records)
    one = records[(records["method"] == "full-reset") & (records["seed"] == 0)]
    accuracy = one.set_index("epoch")["test_accuracy"]
    row = changes[(changes["method"] == "full-reset") & (changes["seed"] == 0)].iloc[0]
    assert row["drop"] == pytest.approx(accuracy[1] - accuracy[2])
    assert row["train_accuracy"] == pytest.approx(one["train_accuracy"].iloc[-1])
    means = 100 * changes.groupby(["method", "stage"])["drop"].mean()
    alike = changes.assign(dataset="tinyimagenet", drop=1.0, train_accuracy=1.0)
    figure, sentence = accuracies.changes(pd.concat([changes, alike]))
    left, right, other, empty = figure.axes
    points = np.concatenate([line.get_xdata() for line in left.lines]).astype(float)
    assert set(means.round(6)) <= set(points.round(6))
    assert left.axison and right.axison and other.axison and not empty.axison
    assert f"SWR {means['swr'].mean():+.1f}" in sentence and "SWR +100.0" in sentence


def test_finals_beside_the_paper_draw_its_bands_at_paper_scale_alone(records):
    records = records[records["stage"] == 1].assign(stream="single-task")
    own, _ = accuracies.finals_beside_paper(records, 1)
    theirs, sentence = accuracies.finals_beside_paper(
        records.assign(scale="paper", dataset="mnist"), 1
    )
    assert not own.axes[0].patches and len(theirs.axes[0].patches) == 3
    assert "MNIST, MLP, paper scale: " in sentence


def test_courses_of_the_layers_and_their_sentence(records):
    norms = norms_by_layer(records)
    twice = pd.concat([norms, norms.assign(dataset="cifar10", lam=norms["lam"] * 2)])
    figure, panels = layers.panels(twice, "‖W‖")
    for ax, rows in panels:
        layers.method_courses(ax, rows)
    layers.legend_below(figure)
    names = ["linear1", "linear2", "linear3"]
    assert [axes.get_title(loc="left").split("\n")[-1] for axes in figure.axes] == names * 2
    assert panels[0][0].get_label().startswith("CIFAR-10, MLP, ")
    ax, rows = panels[3]
    drawn = {line.get_label(): line.get_ydata() for line in ax.get_lines()}
    swr = rows[rows["method"] == "swr"].groupby("epoch")["norm"].mean()
    np.testing.assert_allclose(drawn[paper.labels["swr"]], swr)
    (legend,) = figure.legends
    assert len({text.get_text() for text in legend.get_texts()}) == len(legend.get_texts()) > 1
    known = records[records["weight_norms"].notna() & (records["method"] == "swr")]
    ratio = known.groupby("run")["weight_norms"].agg(lambda n: n.iloc[-1][0] / n.iloc[0][0]).mean()
    assert f"at {ratio:.2f} times its initial value with SWR" in layers.growth_sentence(norms)


def test_two_coefficients_of_a_method_are_told_apart():
    rows = pd.DataFrame({"method": "swr", "lam": [0.1, 0.1, np.nan, np.nan], "epoch": [0, 1] * 2})
    rows["lam_features"], rows["lam_classifier"] = [0.1, 0.1, 0.2, 0.2], [0.1, 0.1, 0.3, 0.3]
    ax = matplotlib.figure.Figure().subplots()
    layers.method_courses(ax, rows.assign(norm=[1.0, 2.0, 1.0, 3.0]))
    lines = {x.get_label(): x for x in ax.get_lines() if not x.get_label().startswith("_")}
    assert {n: (line.get_linestyle(), line.get_ydata()[1]) for n, line in lines.items()} == {
        "SWR, λ = 0.1": ("-", 2.0),
        "SWR, λ = 0.2, 0.3": ("--", 3.0),
    }
    assert (
        verdicts.coefficient(rows.assign(lam=np.nan, lam_features=np.nan, lam_classifier=np.nan))
        == ""
    )


def test_layers_of_a_deep_network_are_spread_from_the_first_to_the_last():
    assert spread(list("abcdefg")) == ["a", "d", "g"]
    assert spread(["a", "b"]) == ["a", "b"] and spread(["a"]) == ["a"]


def test_figure_1_is_drawn_and_judged_from_scaled_runs(kept):
    for ratio in (1.0, 0.0):
        for biases in ("proportional", "untouched"):
            rows = train(
                dataset="mnist-5k",
                model="mlp",
                methods="vanilla",
                seeds=[0, 1, 2],
                stream=make_stream("scaled", ratio=ratio, biases=biases, epochs=1),
                results=kept / "scaled",
                checkpoints=kept / "checkpoints",
                progress=False,
            )
    from swrlib import load_records

    rows = scaled_runs(load_records(kept / "scaled", stream="scaled"), kept / "scaled")
    assert len(rows) == 12
    along = rows[rows["biases"] == "proportional"]
    assert along["after"].to_numpy() == pytest.approx(along["trained"].to_numpy(), abs=0.002)
    figure, sentence = accuracies.scaling(rows)
    assert len(figure.axes) == 4 and "Proportional, right after the scaling" in sentence
    assert len(scaling_verdicts(rows)) == 3


def test_norm_courses_and_lambdas():
    norms = pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": [2.0, 2.0, 2.0]})
    figure, sentence = layers.norm_courses(norms, norms / 2 + 0.5, 1e-2)
    assert "3.00" in sentence and "λ = 0.01" in sentence
    assert figure.axes[0].get_lines()[0].get_ydata() == pytest.approx([1, 2, 3])


@pytest.mark.parametrize("cloud", [False, True])
def test_pictures_carry_their_alternative_text_and_do_not_change(records, cloud):
    kind = "image/svg+xml"
    pictures = []
    figures.use_style()
    for _ in range(2):
        with capture_output() as shown:
            figures.show(accuracies.curves(records), "what it says", cloud=cloud)
        (output,) = shown.outputs
        assert output.metadata[kind]["alt"] == "what it says"
        pictures.append(output.data[kind])
    assert pictures[0] == pictures[1]
    assert ("data:image/png" in pictures[0]) == cloud


def test_a_picture_as_html_escapes_its_text(records):
    image = figures.as_html(accuracies.curves(records), 'a "quoted" <word>')
    assert "a &quot;quoted&quot; &lt;word&gt;" in image
    data = re.search(r"base64,([^\"]+)", image).group(1)
    assert b"<svg" in base64.b64decode(data)


def four_panels():
    """Draw two settings of two panels each, which share axes and labels, with one legend."""
    figure, axes = matplotlib.pyplot.subplots(
        2, 2, figsize=(2 * figures.PANEL_WIDTH, 5), sharex=True, sharey="row"
    )
    for number, ax in enumerate(axes.flat):
        ax.plot([0, 1], [0, number + 1], color="#d55e00", label="method")
        ax.set_title(f"panel {number}")
    for line, name in zip(axes, ("first", "second"), strict=True):
        line[0].set(ylabel=f"height, {name}")
        line[0].set_label(name)
        line[1].yaxis.label.set_visible(False)  # as pandas has it
    axes[1][0].set_xlabel("epoch")
    figures.legend_below(figure)
    return figure


def size(svg: bytes) -> tuple[float, float]:
    """Return an image's own width and height in CSS pixels."""
    width, height = re.search(rb'width="([\d.]+)pt" height="([\d.]+)pt"', svg).groups()
    return float(width) / 0.75, float(height) / 0.75


def test_panels_are_images_of_one_size_that_fit_a_phone():
    figures.use_style()
    figure = four_panels()
    legend, *panels = rendered(figure)
    assert (legend.title, [p.title for p in panels]) == ("legend", [f"panel {n}" for n in range(4)])
    assert [panel.heading for panel in panels] == ["first", "", "second", ""]
    assert len({size(panel.svg) for panel in panels}) == 1
    assert max(size(piece.svg)[0] for piece in (legend, *panels)) <= 350
    for number, panel in enumerate(panels):
        text = panel.svg.decode()
        assert re.findall(r'id="(axes|legend)_(\d)"', text) == [("axes", "1")]
        # Shared axes have their numbers and names in every panel, since each may stand alone.
        assert "xtick_1" in text and "ytick_1" in text
        assert f"<!-- height, {'first' if number < 2 else 'second'} -->" in text
        assert "<!-- epoch -->" in text
    assert not matplotlib.pyplot.fignum_exists(figure.number), "it is closed"


def test_several_panels_are_shown_as_html_and_say_what_they_are():
    with capture_output() as shown:
        figures.show(four_panels(), "all & everything")
    text = shown.outputs[0].data["text/html"]
    alts = re.findall(r'alt="([^"]*)"', text)
    assert len(alts) == 5 and alts[0] == "all &amp; everything" and "panel 3" in alts[-1]
    assert all(len(alt) > 10 for alt in alts)
    assert re.findall(r'class="heading">(\w+)<', text) == ["first", "second"]


def test_the_dark_look_can_be_read():
    """Contrast as WCAG defines it, on its own examples; every colour of a method is seen."""
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    assert darkened("#ffffff") == DARK_GROUND
    shades = [contrast(darkened(str(grey / 10))) for grey in range(10)]
    assert shades == sorted(shades, reverse=True) and min(shades[:7]) >= 4.5
    assert 1.05 < contrast(darkened("0.9")) < 2, "a grid stays faint"
    for color, _ in figures.STYLE.values():
        assert contrast(darkened(matplotlib.colors.to_hex(color))) >= 4.5


def test_a_picture_follows_the_theme_of_its_page(browser, tmp_path):
    figures.use_style()
    page = tmp_path / "page.html"
    for theme, ground in (("light", (255, 255, 255)), ("dark", (18, 18, 18))):
        image = figures.as_html(four_panels(), "a picture of four panels")
        page.write_text(f'<html style="color-scheme:{theme}"><body>{image}</body></html>')
        other = "dark" if theme == "light" else "light"  # what the reader's system prefers
        with open_page(browser, page, width=390, theme=other) as (opened, faults):
            shot = opened.locator("img").nth(1).screenshot()
            boxes = [image.bounding_box() for image in opened.locator("img").all()]
        pixels = PIL.Image.open(io.BytesIO(shot)).convert("RGB")
        assert pixels.getpixel((1, 1)) == ground and not faults
        # One below the other on a phone, in their own size.
        assert [box["y"] for box in boxes] == sorted({box["y"] for box in boxes})
        assert max(box["x"] + box["width"] for box in boxes) <= 390


def test_heat_maps_keep_their_colours_in_the_dark(browser, tmp_path):
    """A dark word on a light cell would become a light one."""
    figures.use_style()
    figure, ax = matplotlib.pyplot.subplots(figsize=(2, 2))
    ax.pcolormesh([[0.5]], cmap="Greys", vmin=0, vmax=10)
    ax.text(0.5, 0.5, "███", color="0.15", ha="center", va="center", fontsize=30)
    ax.set(title="████████", xticks=[], yticks=[])
    page = tmp_path / "page.html"
    image = figures.as_html(figure, "a heat map")
    page.write_text(f'<html style="color-scheme:dark"><body>{image}</body></html>')
    with open_page(browser, page, width=390) as (opened, _):
        shot = opened.locator("img").screenshot()
    pixels = np.asarray(PIL.Image.open(io.BytesIO(shot)).convert("L"), int)
    height, width = pixels.shape
    assert pixels[int(0.55 * height), width // 2] < 60, "the word is dark"
    assert pixels[int(0.8 * height), width // 2] > 230, "the cell is light"
    assert pixels[: height // 5].max() > 180, "what is around it is light on dark"


def test_differences_from_vanilla_are_paired_and_averaged_within_stages():
    """Against a plain loop: 80 epochs in two stages, so two epochs are averaged."""
    draw = np.random.default_rng(3)
    methods = ["vanilla", "l2", "swr", "full-reset"]
    rows = []
    for seed, method in itertools.product(range(3), methods):
        run = {"run": f"{method} {seed}", "seed": seed, "method": method, "dataset": "mnist"}
        run |= {"model": "mlp", "scale": "paper", "stream": "warm-start"}
        for epoch in range(81):
            stage = 1 if epoch <= 40 else 2
            place = {"stage": stage, "epoch": epoch, "stage_epoch": epoch - 40 * (stage - 1)}
            rows.append(run | place | {"test_accuracy": 0.97 + 0.01 * draw.random()})
    records = pd.DataFrame(rows)
    table = records.pivot(index=["method", "seed"], columns="epoch", values="test_accuracy")
    figure, sentence = differences.against_vanilla(records)
    panels = [ax for ax in figure.axes if ax.axison]
    assert [ax.get_title().split(":")[0] for ax in panels] == ["vanilla", "L2", "SWR", "full reset"]
    for ax, method in zip(panels, methods, strict=True):
        gaps = [100 * table.loc[(method, s)] for s in range(3)]
        if method != "vanilla":
            gaps = [gap - 100 * table.loc[("vanilla", s)] for s, gap in enumerate(gaps)]
        (line,) = (x for x in ax.lines if x.get_color() == figures.STYLE[method][0])
        for epoch, drawn in zip(line.get_xdata(), line.get_ydata(), strict=True):
            first = epoch if epoch in (1, 41) else epoch - 1
            assert drawn == pytest.approx(np.mean([gap.loc[first:epoch].mean() for gap in gaps]))
        assert line.get_xdata()[-1] == 80
        end = np.mean([gap.loc[71:80].mean() for gap in gaps])
        said = f"{end:.1f}%" if method == "vanilla" else f"{end:+.2f}"
        assert ax.get_title().endswith(said.replace("-", "−"))
        assert method == "vanilla" or f"{paper.label(method)} {said}" in sentence
        others = [x for x in ax.lines if x.get_color() == "0.75"]
        assert len(others) == (0 if method == "vanilla" else 2)
    # What is too small to matter has a band, the same in all panels of differences.
    size = 100 * paper.size_that_matters(None, ("mnist", "mlp", "warm-start"))
    (band,) = panels[2].patches
    assert (band.get_y(), band.get_height()) == pytest.approx((-size, 2 * size))
    assert panels[1].get_ylim() == panels[2].get_ylim() and panels[1].get_ylim()[1] > size
    with_printed = panels[0].patches[0]
    assert with_printed.get_y() == pytest.approx(97) and panels[0].get_label()


def test_a_setting_without_vanilla_has_no_differences_from_it(records):
    bare = records[records["method"] != "vanilla"].assign(dataset="cifar100")
    bare["run"] += "x"
    figure, sentence = differences.against_vanilla(pd.concat([records, bare]))
    assert [ax.get_label() for ax in figure.axes if ax.get_label()] == [
        "MNIST (5,000 digits), MLP, custom scale, 2 seeds"
    ]
    assert "CIFAR-100, MLP, custom scale: vanilla was not trained here" in sentence
    figure, sentence = differences.against_vanilla(bare)
    assert not any(ax.axison for ax in figure.axes) and len(rendered(figure)) == 1


def test_norms_and_accuracies_have_a_point_a_run(records):
    figure, sentence = layers.norms_and_accuracies(records)
    (ax,) = figure.axes
    expected = []
    for _, run in records.groupby("run"):
        first, last = (np.concatenate([run["weight_norms"].iloc[k]]) for k in (0, -1))
        ratio = math.sqrt((last**2).sum() / (first**2).sum())
        late = run[(run["stage"] == run["stage"].max()) & (run["epoch"] > 0)].tail(10)
        expected.append((ratio, 100 * late["test_accuracy"].mean()))
    drawn = np.concatenate([line.get_xydata() for line in ax.lines]).astype(float)
    np.testing.assert_allclose(sorted(map(tuple, drawn)), sorted(expected), rtol=1e-6)
    rank = stats.spearmanr(*zip(*expected, strict=True)).statistic
    assert f"rank correlation {rank:+.2f} over {len(expected)} runs" in sentence


def test_accuracy_by_lambda_has_a_panel_for_each_grid():
    grid = [1e-3, 1e-2, 1e-1]
    rows = [
        {"stream": stream, "dataset": "mnist", "model": "mlp", "method": method, "lam": lam}
        | {"seed": seed, "test_accuracy": 0.9 + 0.01 * place + 0.001 * seed}
        for stream, method in (("warm-start", "swr"), ("full-access", "adamw"))
        for place, lam in enumerate(grid)
        for seed in (0, 1)
    ]
    figure, sentence = accuracies.by_lambda(pd.DataFrame(rows))
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["MNIST, MLP, full access", "MNIST, MLP, warm start"]
    for ax, method in zip(figure.axes, ("adamw", "swr"), strict=True):
        points, mean = ax.lines
        assert len(points.get_xdata()) == 6 and ax.get_xscale() == "log"
        assert mean.get_xdata().tolist() == grid
        assert mean.get_ydata() == pytest.approx([90.05, 91.05, 92.05])
        assert points.get_marker() == figures.STYLE[method][1]
    assert "best at λ = 0.1 with 92.0%" in sentence or "best at λ = 0.1 with 92.1%" in sentence


# --- Streams of tasks ---------------------------------------------------------------------------

PANELS = {"relu": "relu", "tanh": "tanh"}


def task_by_task(methods, *, seeds=3, tasks=10, activation="relu"):
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {"method": method, "seed": seed, "task": task, "activation": activation}
        | {"error": random.random()}
        for method in methods
        for seed in range(seeds)
        for task in range(1, tasks + 1)
    )


def test_tasks_are_drawn_as_they_are_with_swr_in_front():
    rows = pd.concat([task_by_task(["vanilla", "swr", "wasserstein", "shrink-perturb-noise"])])
    figure, said = tasks.by_task(rows, "error", "e", panel="activation", panels=PANELS, level=0.1)
    low, high = rows["error"].min(), rows["error"].max()
    assert figure.axes[0].get_ylim() == pytest.approx((low, high), abs=0.06)
    (drawn,) = figure.axes
    assert "tanh: not run." in said
    assert "3 seeds" in drawn.get_title(loc="left")
    found = lines(drawn)
    for method in ("vanilla", "swr", "wasserstein"):
        mean = rows[rows["method"] == method].groupby("task")["error"].mean()
        assert found[paper.label(method)] == pytest.approx(mean.to_numpy())
        own = rows[rows["method"] == method].groupby("task")["error"].mean()
        assert f"{paper.label(method)} {own[:2].mean():.3g} → {own[-2:].mean():.3g}" in said
    front = [line for line in drawn.lines if line.get_label() == paper.label("swr")]
    assert all(front[0].zorder > line.zorder for line in drawn.lines if line is not front[0])
    bands = sorted(drawn.collections, key=lambda band: band.zorder)
    assert bands[-1].get_facecolor()[0][:3] == pytest.approx(figures.STYLE["swr"][0])
    assert bands[-1].zorder > bands[-2].zorder
    matplotlib.pyplot.close(figure)


def test_methods_of_the_neighbours_have_a_label_and_a_line_of_their_own():
    for method in METHODS_KNOWN:
        assert method in figures.STYLE and paper.label(method) != "", method
        assert method in paper.labels, method


def test_a_grid_of_outcomes_says_where_each_starts_and_ends():
    rows = task_by_task(["vanilla", "swr"]).assign(rank=lambda table: table["task"])
    figure, said = tasks.grid(
        rows, {"error": "error", "rank": "rank"}, panel="activation", panels=PANELS
    )
    assert all(ax.lines for ax in figure.axes)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["relu", "relu"]
    assert [ax.get_label() for ax in figure.axes] == ["error", "rank"]
    assert [ax.get_xlabel() for ax in figure.axes] == ["", "task"]
    assert "rank: relu: vanilla 1.5 → 9.5, SWR 1.5 → 9.5. tanh: not run." in said
    _, said = tasks.grid(rows, {"x": "unmeasured"}, panel="activation", panels={"relu": "relu"})
    assert said == "x: relu: not run."
    matplotlib.pyplot.close("all")


def test_what_came_first_counts_runs():
    events = pd.DataFrame(
        [("vanilla", 5, 3), ("vanilla", 5, 5), ("swr", 4, 9), ("swr", 11, 11), ("l2", 11, 6)],
        columns=["method", "onset", "fallen"],
    ).assign(seed=0, tasks=10, activation="relu")
    events = events.assign(censored=events["onset"] > 10, never=events["fallen"] > 10)
    figure, said = tasks.what_came_first(events, panel="activation", panels=PANELS)
    assert (
        "relu: of 5 runs the rank fell before the error rose in 2, in the same task in 1, " in said
    )
    assert "later or not at all in 1; in 1 neither was seen." in said and "tanh: not run." in said
    (ax,) = figure.axes
    assert ax.get_xlim() == ax.get_ylim() == (0, 13)
    front = max(ax.collections, key=lambda points: points.zorder)
    assert tuple(front.get_edgecolor()[0][:3]) == pytest.approx(figures.STYLE["swr"][0])
    hollow = [points for points in ax.collections if not len(points.get_facecolor())]
    assert len(hollow) == 2  # one that lost no task, one without either event
    matplotlib.pyplot.close("all")
