"""Every page by axe-core's rules at level AA, in both themes and at both widths."""

import itertools
import json
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from browser import WIDTHS, find_chromium, list_pages, open_browser, open_page

ROOT = Path(__file__).resolve().parent.parent
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


@pytest.fixture(scope="module")
def browser():
    if find_chromium() is None:
        pytest.skip("no Chromium on this machine")
    with open_browser() as browser:
        yield browser


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


def faults_of(page, themes: tuple[str, str]) -> dict[str, list[str]]:
    """Look at an open page wide in one theme and narrow in the other, with all folds open."""
    page.evaluate(OPEN)
    page.add_style_tag(content="* { transition: none !important }")
    page.evaluate(Axe().axe_script)
    page.evaluate(f"axe.configure({json.dumps(SAMPLED)})")
    found = {}
    for (shape, width), theme in zip(WIDTHS.items(), themes, strict=True):
        page.evaluate(THEME, theme)
        page.set_viewport_size({"width": width, "height": 900})
        page.evaluate(
            "() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))"
        )
        if faults := violations(page):
            found[f"{shape}, {theme}"] = faults
    return found


@pytest.mark.timeout(600)
def test_every_page_passes_the_rules_of_level_aa(site, browser):
    """Pages take turns in which width is light: what all of them have is seen in all four ways."""
    found = {}
    turns = itertools.cycle([("light", "dark"), ("dark", "light")])
    for path, themes in zip(list_pages(site), turns, strict=False):
        with open_page(browser, path, width=WIDTHS["wide"]) as (page, _):
            if faults := faults_of(page, themes):
                found[path.name] = faults
    assert not found, json.dumps(found, indent=1)


@pytest.mark.parametrize("themes", [("light", "dark"), ("dark", "light")])
def test_axe_sees_what_is_wrong(browser, tmp_path, themes):
    """A text too faint in the dark, a picture without words, a narrow frame out of reach."""
    page_file = tmp_path / "page.html"
    page_file.write_text(
        "<!doctype html><html lang='en' data-theme='light'><title>A page</title><style>"
        "p { background: white; color: #333 } [data-theme=dark] p { color: #aaa }"
        "div { overflow-x: auto; white-space: nowrap }</style>"
        "<main><h1>A page</h1><p>Text</p><details><summary>More</summary><img src='data:,'>"
        f"</details><div>{'as wide as a table ' * 5}</div></main></html>"
    )
    with open_page(browser, page_file, width=WIDTHS["wide"]) as (page, _):
        found = faults_of(page, themes)
    rules = {where: {fault.split(":")[0] for fault in faults} for where, faults in found.items()}
    faint = {"light": set(), "dark": {"color-contrast"}}
    assert rules == {
        f"wide, {themes[0]}": {"image-alt", *faint[themes[0]]},
        f"narrow, {themes[1]}": {"image-alt", "scrollable-region-focusable", *faint[themes[1]]},
    }


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
