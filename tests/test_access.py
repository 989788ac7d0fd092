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
OPEN = "document.querySelectorAll('details').forEach(fold => { fold.open = true; })"
DARK = """Object.assign(document.documentElement.dataset, {theme: "dark", mode: "dark"})"""


@pytest.fixture(scope="module")
def browser():
    if find_chromium() is None:
        pytest.skip("no Chromium on this machine")
    with open_browser() as browser:
        yield browser


def violations(page, **rules: bool) -> list[str]:
    """Return what axe finds on the page as it stands: the rule and the element."""
    chosen = {name.replace("_", "-"): {"enabled": on} for name, on in rules.items()}
    options = {"runOnly": LEVEL_AA, "resultTypes": ["violations"], "rules": chosen}
    if all(rules.values()) and rules:
        options["runOnly"] = {"type": "rule", "values": list(chosen)}
    found = page.evaluate("options => axe.run(document, options)", options)["violations"]
    return [
        f"{rule['id']}: {' '.join(map(str, node['target']))}: {node['html'][:120]}"
        for rule in found
        for node in rule["nodes"]
    ]


def faults_of(page) -> dict[str, list[str]]:
    """Look at a page that was opened wide and light: so, dark, and narrow, with all folds open.

    A theme changes colours alone, and a width everything but them.
    """
    page.evaluate(OPEN)
    page.evaluate(Axe().axe_script)
    found = {"wide, light": violations(page)}
    page.evaluate(DARK)
    found["wide, dark"] = violations(page, color_contrast=True)
    page.set_viewport_size({"width": WIDTHS["narrow"], "height": 900})
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")
    found["narrow"] = violations(page, color_contrast=False)
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
        "narrow": {"image-alt", "scrollable-region-focusable"},
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
