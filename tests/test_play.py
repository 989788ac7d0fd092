"""Pictures that move without a kernel: their arithmetic, their data, their controls."""

import importlib
import json
import math
import re
import sys
from itertools import product
from pathlib import Path

import nbformat
import pytest
from browser import WIDTHS, list_pages, open_page

from swrlib import load_records, notebook, records
from swrlib.overview import CHAPTERS
from swrlib.papers import SWR as paper
from swrlib.theory.boundedness import adam_norm_bound, norm_bound, scalar_courses, unbounded_norm
from swrlib.theory.norm_decay import scalar_norms

ROOT = Path(__file__).resolve().parent.parent
STYLE = ROOT / "book/style"
STREAMS = ("warm-start", "full-access", "limited-access", "single-task", "single-task-decay")


def play():
    if str(ROOT / "book") not in sys.path:
        sys.path.append(str(ROOT / "book"))
    return importlib.import_module("play")


def marks() -> list[str]:
    """Return every place of a movable picture that pages and chapters have, as HTML."""
    texts = [(ROOT / "book/index.md").read_text()]
    for path in sorted(ROOT.glob("notebooks/*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        texts += [cell.source for cell in cells if cell.cell_type == "markdown"]
    place = re.compile(r'<div class="play".*?</div>', re.S)
    places = [found for text in texts for found in place.findall(text)]
    return [*places, *map(curves_mark, STREAMS)]


def curves_mark(stream: str) -> str:
    return html_of(notebook.offer_curves, stream)


def html_of(show, *given) -> str:
    from IPython.utils.capture import capture_output

    with capture_output() as captured:
        show(*given)
    return captured.outputs[0].data["text/html"]


@pytest.fixture(scope="module")
def trained():
    return load_records(scale="paper", split="all")


@pytest.fixture(scope="module")
def page_file(tmp_path_factory, shell, trained) -> Path:
    """Write a page with every movable picture, as the website has them."""
    folder = tmp_path_factory.mktemp("play")
    play().write_curves(folder / "curves.js", trained)
    for name in ("play.js", "play.css"):
        (folder / name).write_text((STYLE / name).read_text())
    path = folder / "page.html"
    path.write_text(
        '<!doctype html><html lang="en"><title>Play</title>'
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        '<link rel="stylesheet" href="play.css"><script src="play.js"></script>'
        "<style>:root { --pst-color-text-base: #323232 } "  # the theme's
        "[data-theme=dark] { --pst-color-text-base: #ced6dd }</style>"
        f"<body><main class='bd-article'>{''.join(marks())}</main></html>"
    )
    return path


def calls() -> list[tuple[str, list, object]]:
    """Return what to call in the browser with what arguments, and what the library says."""
    found: list[tuple[str, list, object]] = []
    for lam, length, decay, along, power in product(
        (0.0, 3e-4, 0.02, 1.0), (1e-3, 0.3), (0, 40, 99), (False, True), (0, 1, 2)
    ):
        options = {"along": along, "power": power, "steps": 99}
        given = {"lam": lam, "length": length, "decay": decay, **options}
        found.append(("norms.after", [given], scalar_norms(lam, length, decay, **options)))
    for start, lam, growth in product((0.5, 1, 20), (1e-4, 0.1, 1.0), (1e-4, 0.1, 10)):
        common = {"start": start, "lam": lam}
        given = {**common, "length": math.sqrt(growth), "steps": 300}
        for course, along in zip(
            scalar_courses(start, lam, growth, 300), (False, True), strict=True
        ):
            found.append(("norms.before", [{**given, "along": along}], course))
        for kind, when in product(("sharp", "printed"), ("after", "before")):
            options = {"kind": kind, "when": when}
            expected = norm_bound(start, lam, growth, **options)
            found.append(("bound", [{**common, "growth": growth, **options}], expected))
        for when in ("after", "before"):  # as Adam's, whose largest step is of √2 rates
            expected = adam_norm_bound(
                start, lam, lr=math.sqrt(growth / 2), entries=1, betas=(0.0, 0.5), when=when
            )
            options = {"kind": "along", "when": when}
            found.append(("bound", [{**common, "growth": growth, **options}], expected))
        free = [unbounded_norm(start, growth, steps) for steps in range(1, 301)]
        found.append(("norms.after", [{**given, "lam": 0}], free))
    for lam in (1e-6, 1e-3, 0.5):
        half = math.log(0.5) / math.log1p(-lam)
        found += [("halfLife", [lam], half), ("lamOf", [half], lam)]
    return [*found, ("halfLife", [1], 0), ("lamOf", [0], 1)]


def test_the_browser_computes_what_the_library_does(browser, page_file):
    asked = calls()
    with open_page(browser, page_file, width=1280) as (page, faults):
        answers = page.evaluate(
            """asked => asked.map(([name, given]) => {
                const [of, part] = name.split(".");
                const found = swrPlay[of](...given);
                return part ? found[part] : found;
            })""",
            [[name, given] for name, given, _ in asked],
        )
        assert not faults
    for (name, given, expected), found in zip(asked, answers, strict=True):
        pair = (found, expected) if isinstance(expected, list) else ([found], [expected])
        assert all(math.isclose(a, b, rel_tol=1e-9) for a, b in zip(*pair, strict=True)), (
            name,
            given,
        )


def test_the_curves_are_those_of_the_records(trained, tmp_path):
    curves = play().curves(trained)
    assert set(curves) == set(STREAMS)
    play().write_curves(tmp_path / "curves.js", trained)
    assert (tmp_path / "curves.js").stat().st_size < 200_000
    for stream, settings in curves.items():
        for setting in settings:
            name = re.fullmatch(r"(.+), (.+)", setting["name"])
            rows = trained[
                (trained["stream"] == stream)
                & (trained["dataset"].map(paper.label) == name[1])
                & (trained["model"].map(paper.label) == name[2])
            ]
            assert setting["epochs"][-1] == rows["epoch"].max()
            for method in setting["methods"]:
                own = rows[rows["method"] == method["id"]]
                for place in {0, 1, len(setting["epochs"]) // 2, len(setting["epochs"]) - 1}:
                    epoch = setting["epochs"][place]
                    stage = own[own["epoch"] == epoch]["stage"].iloc[0]
                    window = own[own["epoch"].between(epoch - 4, epoch) & (own["stage"] == stage)]
                    mean = window[window["epoch"] > 0]["test_accuracy"].mean()
                    assert math.isclose(method["mean"][place], mean, abs_tol=6e-5)
                ends = [method["mean"][-1], method.get("printed", method["mean"][-1])]
                assert all(setting["low"] < end < setting["high"] for end in ends)
    cell = next(s for s in curves["single-task"] if s["name"] == "CIFAR-10, CNN")
    printed = {method["id"]: method.get("printed") for method in cell["methods"]}
    assert printed == {m: paper.tables[1].accuracy["cifar10", "cnn"][m].mean for m in printed}
    assert not any("printed" in m for s in curves["warm-start"] for m in s["methods"])


def test_without_records_there_are_no_curves():
    import pandas as pd

    assert play().curves(pd.DataFrame(columns=list(records.COLUMNS))) == {}


SHOWN = """place => [
    place.querySelector(".play-picture").innerHTML, place.querySelector("output").value
]"""


@pytest.mark.parametrize(("shape", "theme"), [("wide", "light"), ("narrow", "dark")])
def test_every_control_is_moved_by_mouse_and_by_keyboard(browser, page_file, shape, theme):
    """Each has a name, and each changes the picture or the numbers; the page stays in its width."""
    width = WIDTHS[shape]
    with open_page(browser, page_file, width=width, theme=theme) as (page, faults):
        places = page.locator("[data-play]").all()
        page.wait_for_function("() => !document.querySelector('[data-play]:not(.play-ready)')")
        kinds = [place.get_attribute("data-play") for place in places]
        assert set(kinds) == {"norm", "bound", "decay", "half-life", "curves"}
        for place in places:
            controls = place.locator("input, select").all()
            assert controls
            for control in controls:
                name = control.evaluate("c => c.labels[0].textContent.trim()")
                assert name
                kind = control.get_attribute("type") or "select"
                for move in (by_mouse, by_keyboard):
                    before = place.evaluate(SHOWN)
                    move(control, kind)
                    assert place.evaluate(SHOWN) != before, (width, name, move.__name__)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert not faults


def by_mouse(control, kind: str) -> None:
    if kind == "range":
        box = control.bounding_box()
        now, low, high = (
            float(control.evaluate(f"c => c.{name}")) for name in ("value", "min", "max")
        )
        share = 0.3 if (now - low) / (high - low) > 0.5 else 0.7
        control.click(position={"x": share * box["width"], "y": box["height"] / 2})
    elif kind == "number":
        control.click(click_count=3)
        control.page.keyboard.type("1234")
    elif kind == "select":  # the list of a native one is drawn by the system, out of reach
        control.select_option(index=1)
    else:
        control.click()


def by_keyboard(control, kind: str) -> None:
    control.focus()
    keys = {"checkbox": "Space", "number": "ArrowUp", "select": "ArrowUp"}
    control.press(keys.get(kind, "ArrowLeft"))


@pytest.mark.parametrize("width", WIDTHS.values())
def test_tabs_are_changed_by_mouse_and_by_keyboard(browser, shell, tmp_path, width):
    tabs = html_of(notebook.panels, {name: f"<p>panel {name}</p>" for name in "abc"})
    path = tmp_path / "page.html"
    style = (STYLE / "book.css").read_text()
    path.write_text(f"<!doctype html><html lang='en'><style>{style}</style>{tabs}</html>")
    with open_page(browser, path, width=width) as (page, faults):

        def shown():
            return [p.inner_text() for p in page.locator(".panel").all() if p.is_visible()]

        assert shown() == ["panel a"]
        page.get_by_text("b", exact=True).click()
        assert shown() == ["panel b"]
        page.keyboard.press("ArrowRight")
        assert shown() == ["panel c"]
        assert not faults


#: The contrast of every line that is drawn with the theme's ground.
CONTRASTS = """ground => {
    const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const luminance = color => {
        canvas.fillStyle = color;
        canvas.fillRect(0, 0, 1, 1);
        const parts = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map(part => part / 255);
        const linear = parts.map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
    };
    return [...document.querySelectorAll(".play svg .line")].map(line => {
        const pair = [ground, getComputedStyle(line).stroke].map(luminance).sort((a, b) => b - a);
        return (pair[0] + 0.05) / (pair[1] + 0.05);
    });
}"""


@pytest.mark.parametrize(("theme", "ground"), [("light", "#ffffff"), ("dark", "#121212")])
def test_lines_stand_out_from_the_ground(browser, page_file, theme, ground):
    """Three to one is what the guidelines ask of graphics: swatches have every method's colour."""
    with open_page(browser, page_file, width=WIDTHS["wide"], theme=theme) as (page, _):
        page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
        page.wait_for_function("() => !document.querySelector('[data-play]:not(.play-ready)')")
        found = page.evaluate(CONTRASTS, ground)
    assert len(found) > 50 and min(found) > 3


def test_sliders_and_pictures_speak(browser, page_file):
    """What is seen is also said: values as text, the numbers in an output that is announced."""
    with open_page(browser, page_file, width=1280) as (page, faults):
        place = page.locator('[data-play="norm"]')
        slider = place.get_by_role("slider", name="pulls back")
        assert slider.get_attribute("aria-valuetext") == "0.01"
        slider.press("End")
        assert slider.get_attribute("aria-valuetext") == "1"
        said = place.get_by_role("status")
        assert said.get_attribute("aria-live") == "polite"
        assert "1 × with it" in said.inner_text()
        picture = place.get_by_role("img")
        assert picture.get_attribute("aria-describedby") == said.get_attribute("id")
        # λ and its half-life follow each other.
        place = page.locator('[data-play="half-life"]')
        lam, half = place.get_by_role("slider").all()
        assert "693 steps" in place.get_by_role("status").inner_text()
        lam.press("End")
        assert "λ = 1 " in place.get_by_role("status").inner_text()
        half.press("Home")
        half.press("End")
        assert lam.get_attribute("aria-valuetext") == "0.000001"
        axes = page.locator("[data-play] svg text").all_text_contents()
        assert {"0", "0%"} <= {*axes} and not [words for words in axes if words.startswith("-0")]
        assert not faults


def test_without_a_script_a_sentence_says_what_one_would_see(shell):
    for mark in marks():
        words = re.sub(r"<[^>]*>|!\[.*?\]\(.*?\)", "", mark).strip()
        assert len(words) > 60, mark


def test_the_first_screen_holds_the_idea_and_a_picture_that_moves(site, browser):
    with open_page(browser, site / "book/index.html", width=WIDTHS["wide"]) as (page, faults):
        page.set_viewport_size({"width": WIDTHS["wide"], "height": 800})
        page.wait_for_selector(".play-ready")
        first = page.locator("article p").first
        assert "plasticity" in first.inner_text() and "Soft Weight Rescaling" in first.inner_text()
        for part in (first, *page.locator(".play input").all()):
            box = part.bounding_box()
            assert box["y"] > 0 and box["y"] + box["height"] <= 800
        assert not faults


def test_each_place_of_the_website_is_filled(site):
    """Chapters have theirs from the notebooks, and what they load is there."""
    places = {
        path.stem: re.findall(r'data-play="([^"]+)"(?: data-stream="([^"]+)")?', path.read_text())
        for path in list_pages(site)
    }
    expected = {
        "index": [("norm", "")],
        "quickstart": [("half-life", "")],
        "boundedness": [("bound", "")],
        "norm_decay": [("decay", "")],
        **{CHAPTERS[stream]: [("curves", stream)] for stream in STREAMS},
    }
    assert {page: found for page, found in places.items() if found} == expected
    text = (site / "_static/curves.js").read_text()
    curves = json.loads(text.removeprefix("window.swrCurves=").removesuffix(";\n"))
    assert all(curves[stream] for stream in STREAMS)
    for page in expected:
        assert "_static/play.js" in next(site.glob(f"*/{page}.html")).read_text()
