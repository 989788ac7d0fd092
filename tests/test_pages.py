"""Every page in a browser without a network: whole, within its width, and open to everyone."""

import json
from itertools import product
from pathlib import Path

import pytest
import yaml
from browser import WIDTHS, list_pages, open_page

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = yaml.safe_load((ROOT / "config/quick.yaml").read_text())["chapters"]
PAGES = [
    *sorted(f"book/{path.stem}.html" for path in ROOT.glob("book/*.md")),
    *(f"notebooks/{name}.html" for name in CHAPTERS),
    *("genindex.html", "search.html"),
]
LEVEL_AA = {
    "type": "tag",
    "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"],
}
#: Contrast is by far the slowest rule, so it looks at two texts of each look: colour, size,
#: weight, and the grounds behind them up to one that nothing shines through.
SAMPLES = """() => {
    const styles = new Map(), seen = {};
    const style = e => styles.get(e) || styles.set(e, getComputedStyle(e)).get(e);
    for (const e of document.querySelectorAll("[data-sample]")) delete e.dataset.sample;
    for (const e of document.querySelectorAll("body *")) {
        const written = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
        if (!written || !e.checkVisibility()) continue;
        const look = ["color", "fontSize", "fontWeight"].map(name => style(e)[name]);
        for (let at = e; at; at = at.parentElement) {
            const ground = style(at).backgroundColor;
            if (ground !== "rgba(0, 0, 0, 0)") look.push(ground);
            if (style(at).opacity !== "1") look.push(style(at).opacity);
            if (ground.startsWith("rgb(")) break;
        }
        seen[look] = (seen[look] || 0) + 1;
        if (seen[look] <= 2) e.dataset.sample = "";
    }
}"""
OPEN = "document.querySelectorAll('details').forEach(fold => { fold.open = true; })"
THEME = "theme => Object.assign(document.documentElement.dataset, {theme, mode: theme})"
SETTLED = "() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))"
SAMPLED = {"rules": [{"id": "color-contrast", "selector": "[data-sample]"}]}


#: What tables name first in a line, a number, where it is not seen without scrolling sideways.
NUMBERS_OUT_OF_SIGHT = r"""() => {
    const folded = document.querySelectorAll("article details");
    for (const details of folded) details.open = true;
    const out = [];
    for (const row of document.querySelectorAll("article tbody tr")) {
        const number = [...row.querySelectorAll("td")].find(
            (cell) => /^[^a-z]{0,3}\d/i.test(cell.textContent.trim())
        );
        if (!number || !number.offsetParent) continue;
        let edge = window.innerWidth;
        for (let frame = row.parentElement; frame; frame = frame.parentElement)
            if (getComputedStyle(frame).overflowX != "visible")
                edge = Math.min(edge, frame.getBoundingClientRect().right);
        if (number.getBoundingClientRect().right > edge + 1) out.push(row.textContent);
    }
    for (const details of folded) details.open = false;
    return out.map((text) => text.replace(/\s+/g, " ")).slice(0, 3);
}"""

#: What stands on a page's first screen, and which bars and code precede its first picture.
FIRST_SCREEN = """() => {
    const article = document.querySelector("article");
    const box = (node) => node.getBoundingClientRect();
    const whole = (node) => box(node).height > 0 && box(node).bottom <= window.innerHeight;
    const pictures = [...article.querySelectorAll("img, svg")].filter((i) => box(i).height > 50);
    const first = pictures[0];
    const before = (node) =>
        first && node.compareDocumentPosition(first) & Node.DOCUMENT_POSITION_FOLLOWING;
    const claims = [...article.querySelectorAll("p")];
    const claim = claims.find((p) => /^The claim\\b/.test(p.textContent)) || claims[0];
    return {
        claim: whole(claim),
        shown:
            pictures.some((i) => box(i).top + Math.min(box(i).height, 200) <= window.innerHeight) ||
            [...article.querySelectorAll(".verdict")].some(whole),
        bars: [...article.querySelectorAll("summary")].filter(before).map((s) => s.textContent),
        code: [...article.querySelectorAll(".cell_input")].filter(before).length,
    };
}"""


def violations(page) -> list[str]:
    """Return what axe finds on the page as it stands: the rule and the element."""
    page.evaluate(SAMPLES)
    # Preloading asks for style sheets where there are none, and no rule of the level needs it.
    options = {"runOnly": LEVEL_AA, "resultTypes": ["violations"], "preload": False}
    found = page.evaluate("options => axe.run(document, options)", options)["violations"]
    return [
        f"{rule['id']}: {' '.join(map(str, node['target']))}: {node['html'][:120]}"
        for rule in found
        for node in rule["nodes"]
    ]


def barriers(page, theme: str) -> list[str]:
    """Return what axe finds on an open page in a theme, with all folds open."""
    from axe_playwright_python.sync_playwright import Axe

    page.evaluate(OPEN)
    page.add_style_tag(content="* { transition: none !important }")
    page.evaluate(Axe().axe_script)
    page.evaluate(f"axe.configure({json.dumps(SAMPLED)})")
    page.evaluate(THEME, theme)
    page.evaluate(SETTLED)
    return violations(page)


def whole(page, faults: list[str]) -> dict[str, object]:
    """Return what is missing or too wide on a page as it was loaded."""
    return {
        "faults": list(faults),
        "broken pictures": page.evaluate(
            "[...document.images].filter((i) => !i.naturalWidth).map((i) => i.src)"
        ),
        "mathematics not rendered": page.evaluate(
            """[...document.querySelectorAll(".math")].filter(
                   (m) => !m.querySelector("mjx-container") || m.querySelector("mjx-merror")
               ).map((m) => m.textContent)"""
        ),
        "pictures that do not move": page.locator("[data-play]:not(.play-ready)").all_inner_texts(),
        "wider than the window by": max(
            page.evaluate("document.documentElement.scrollWidth - window.innerWidth"), 0
        ),
        "first numbers of a table out of sight": page.evaluate(NUMBERS_OUT_OF_SIGHT),
    }


def first_screen(page, chapter: str) -> dict[str, object]:
    """Return what is wrong with the first screen of a chapter."""
    page.set_viewport_size({"width": WIDTHS["wide"], "height": 800})
    screen = page.evaluate(FIRST_SCREEN)
    of_code = chapter == "quickstart"  # whose code is what a reader comes for
    return {
        "code before the first picture": 0 if of_code else screen["code"],
        "bars before the first picture": screen["bars"],
        "no claim on the first screen": not screen["claim"],
        "nothing shown on the first screen": not (of_code or screen["shown"]),
    }


def test_no_page_is_left_out(site):
    assert {path.relative_to(site).as_posix() for path in list_pages(site)} == set(PAGES)


@pytest.mark.parametrize(("name", "shape"), product(PAGES, WIDTHS))
def test_a_page_is_whole_and_passes_the_rules_of_level_aa(site, browser, name, shape):
    """Pages take turns in which width is light: what all of them have is seen in all four ways."""
    theme = ["light", "dark"][(PAGES.index(name) + [*WIDTHS].index(shape)) % 2]
    with open_page(browser, site / name, width=WIDTHS[shape]) as (page, faults):
        found = whole(page, faults)
        if name.startswith("notebooks/") and shape == "wide":
            found |= first_screen(page, Path(name).stem)
        problems = {key: value for key, value in found.items() if value}
        assert not problems, json.dumps(problems, indent=2)
        closed = barriers(page, theme)
        assert not closed, json.dumps([theme, *closed], indent=2)


def test_a_page_that_is_never_done_is_given_up(browser, tmp_path):
    from playwright.sync_api import TimeoutError

    page_file = tmp_path / "page.html"
    page_file.write_text("<script>MathJax = {startup: {promise: new Promise(() => {})}}</script>")
    opened = open_page(browser, page_file, width=390, limit=2)
    with pytest.raises(TimeoutError, match="2000ms"), opened:
        pass


def test_the_browser_test_sees_what_is_wrong(browser, tmp_path):
    page_file = tmp_path / "page.html"
    page_file.write_text(
        "<!doctype html><div style='width: 2000px'>wide</div><img src='missing.png'>"
        "<script>undefinedName</script><script src='https://example.org/a.js'></script>"
    )
    with open_page(browser, page_file, width=390) as (page, faults):
        said = "\n".join(faults)
        assert page.evaluate("document.documentElement.scrollWidth") > 390
    assert "undefinedName" in said
    assert "from elsewhere: https://example.org/a.js" in said
    assert "missing.png" in said


@pytest.mark.parametrize(("shape", "theme"), product(WIDTHS, ("light", "dark")))
def test_axe_sees_what_is_wrong(browser, tmp_path, shape, theme):
    """A text too faint in the dark, a picture without words, a narrow frame out of reach."""
    page_file = tmp_path / "page.html"
    page_file.write_text(
        "<!doctype html><html lang='en' data-theme='light'><title>A page</title><style>"
        "p { background: white; color: #333 } [data-theme=dark] p { color: #aaa }"
        "div { overflow-x: auto; white-space: nowrap }</style>"
        "<main><h1>A page</h1><p>Text</p><details><summary>More</summary><img src='data:,'>"
        f"</details><div>{'as wide as a table ' * 5}</div></main></html>"
    )
    with open_page(browser, page_file, width=WIDTHS[shape]) as (page, _):
        found = {fault.split(":")[0] for fault in barriers(page, theme)}
    expected = {"image-alt"}
    expected |= {"scrollable-region-focusable"} if shape == "narrow" else set()
    assert found == expected | ({"color-contrast"} if theme == "dark" else set())


def test_a_frame_that_scrolls_is_reached_from_the_keyboard(browser, tmp_path):
    script = (ROOT / "book/style/access.js").read_text()
    page_file = tmp_path / "page.html"
    page_file.write_text(
        "<!doctype html><html lang='en'><title>A page</title>"
        "<style>div { overflow-x: auto } table { width: 600px }</style>"
        f"<script>{script}</script>"
        "<div class='table-container'><table><tr><td>wide</table></div>"
        "<div class='table-container'>narrow</div></html>"
    )
    with open_page(browser, page_file, width=WIDTHS["narrow"]) as (page, faults):
        reached = "[...document.querySelectorAll('.table-container')].map(d => d.tabIndex)"
        assert page.evaluate(reached) == [0, -1]
        page.keyboard.press("Tab")
        page.keyboard.press("ArrowRight")
        page.wait_for_function("document.querySelector('.table-container').scrollLeft > 0")
        page.set_viewport_size({"width": WIDTHS["wide"], "height": 900})
        page.wait_for_function("document.querySelector('.table-container').tabIndex === -1")
        assert not faults
