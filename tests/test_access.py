"""Every page by axe-core's rules at level AA, in both themes and at both widths."""

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
#: Contrast is by far the slowest rule, so it looks at two texts of each look: colour, size and
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
DARK = """Object.assign(document.documentElement.dataset, {theme: "dark", mode: "dark"})"""


@pytest.fixture(scope="module")
def browser():
    if find_chromium() is None:
        pytest.skip("no Chromium on this machine")
    with open_browser() as browser:
        yield browser


def violations(page) -> list[str]:
    """Return what axe finds on the page as it stands: the rule and the element."""
    rest = {"runOnly": LEVEL_AA, "rules": {"color-contrast": {"enabled": False}}}
    return [*run_axe(page, None, rest), *faint(page)]


def faint(page) -> list[str]:
    """Return the texts whose contrast is too small."""
    page.evaluate(SAMPLES)
    return run_axe(page, "[data-sample]", {"runOnly": ["color-contrast"]})


def run_axe(page, where: str | None, options: dict) -> list[str]:
    found = page.evaluate(
        "([where, options]) => axe.run(where || document, options)",
        [where, {**options, "resultTypes": ["violations"]}],
    )["violations"]
    return [
        f"{rule['id']}: {' '.join(map(str, node['target']))}: {node['html'][:120]}"
        for rule in found
        for node in rule["nodes"]
    ]


def faults_of(page) -> dict[str, list[str]]:
    """Look at a page that was opened wide and light: so, dark, and narrow, with all folds open.

    A theme changes colours alone.
    """
    page.evaluate(OPEN)
    page.add_style_tag(content="* { transition: none !important }")
    page.evaluate(Axe().axe_script)
    found = {"wide, light": violations(page)}
    page.evaluate(DARK)
    found["wide, dark"] = faint(page)
    page.set_viewport_size({"width": WIDTHS["narrow"], "height": 900})
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")
    found["narrow, dark"] = violations(page)
    return {where: faults for where, faults in found.items() if faults}


@pytest.mark.timeout(600)
def test_every_page_passes_the_rules_of_level_aa(site, browser):
    found = {}
    for path in list_pages(site):
        with open_page(browser, path, width=WIDTHS["wide"]) as (page, _):
            if faults := faults_of(page):
                found[path.name] = faults
    assert not found, json.dumps(found, indent=1)


def test_axe_sees_what_is_wrong(browser, tmp_path):
    """A text too faint in either theme, a picture without words, a narrow frame out of reach."""
    page_file = tmp_path / "page.html"
    page_file.write_text(
        "<!doctype html><html lang='en' data-theme='light'><title>A page</title><style>"
        "p { background: white; color: #333 } [data-theme=dark] p { color: #aaa }"
        "div { overflow-x: auto; white-space: nowrap }</style>"
        "<main><h1>A page</h1><p>Text</p><details><summary>More</summary><img src='data:,'>"
        f"</details><div>{'as wide as a table ' * 5}</div></main></html>"
    )
    with open_page(browser, page_file, width=WIDTHS["wide"]) as (page, _):
        found = faults_of(page)
    rules = {where: {fault.split(":")[0] for fault in faults} for where, faults in found.items()}
    assert rules == {
        "wide, light": {"image-alt"},
        "wide, dark": {"color-contrast"},
        "narrow, dark": {"image-alt", "color-contrast", "scrollable-region-focusable"},
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
