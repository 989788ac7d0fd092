"""Print the built website as one PDF, with Chromium: its pages in the order of the contents.

Usage: python book/pdf.py OUTPUT
"""

import re
import shutil
import sys
from pathlib import Path

import inputs
import stage

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
#: Seconds that the browser may take for all pages.
LIMIT = 300
#: On paper nothing opens or scrolls, and buttons do nothing.
STYLE = """
.drawer, .made-by, .sorting, .headerlink, .copybtn, section:has(> .drawer) { display: none; }
article:not(:first-of-type) { break-before: page; }
article { max-width: 44rem; margin: auto; }
article * { overflow: visible !important; }
figure, table, .claim, img { break-inside: avoid; }
"""
READY = "() => MathJax.startup.promise.then(() => { window.isTypeset = true; }) && true"


def main(output: Path, site: Path = inputs.ROOT / inputs.SITE) -> None:
    """Write all pages into one, and print that."""
    chapters = inputs.settings()["chapters"]
    contents = stage.site_contents(inputs.ROOT, chapters)
    pages = [contents["root"]]
    pages += [entry["file"] for part in contents["parts"] for entry in part["chapters"]]
    whole = site / "whole-book.html"  # within the site, so that its addresses hold
    try:
        whole.write_text(one_page(site, pages), "utf-8")
        print_page(whole, output)
    finally:
        whole.unlink(missing_ok=True)


def one_page(site: Path, pages: list[str]) -> str:
    """Return the articles of pages, one after the other, below the head of the first."""
    texts = {page: (site / f"{page}.html").read_text("utf-8") for page in pages}
    head = from_root(re.search(r"<head>.*?</head>", texts[pages[0]], re.S)[0], pages[0])
    articles = [
        within(re.search(r"<article.*?</article>", text, re.S)[0], page, pages)
        for page, text in texts.items()
    ]
    head = head.replace("</head>", f"<style>{STYLE}</style></head>")
    body = "\n".join(articles)
    return f'<!doctype html><html lang="en" data-theme="light">{head}<body>{body}</body></html>'


def from_root(text: str, page: str) -> str:
    """Return HTML of a page with the addresses of files as they are from the site's root."""
    folder = Path(page).parent

    def moved(match: re.Match[str]) -> str:
        if re.match(r"[a-z]+:|#|//", match[2]):
            return match[0]
        parts: list[str] = []
        for part in (folder / match[2]).as_posix().split("/"):
            parts = parts[:-1] if part == ".." else [*parts, part]
        return f'{match[1]}="{"/".join(parts)}"'

    return re.sub(r'(src|href)="([^"]+)"', moved, text)


def within(article: str, page: str, pages: list[str]) -> str:
    """Return an article whose places have the page's name, so that links lead to the right one."""
    named = page.replace("/", "-")
    text = re.sub(r'\b(id|for|name)="([^"]+)"', rf'\1="{named}--\2"', article)
    text = re.sub(r'href="#([^"]*)"', rf'href="#{named}--\1"', text)
    text = from_root(text, page)
    for other in pages:
        place = other.replace("/", "-")
        text = re.sub(rf'href="{other}\.html#([^"]+)"', rf'href="#{place}--\1"', text)
        text = text.replace(f'href="{other}.html"', f'href="#{place}"')
    return f'<a id="{named}"></a>{text}'


def print_page(page_file: Path, output: Path) -> None:
    """Print a page of the site once its mathematics is typeset and its pictures are there."""
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise SystemExit("No Chromium was found: install the package chromium.")
    output.parent.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--allow-file-access-from-files"]
        browser = playwright.chromium.launch(executable_path=found, args=arguments)
        page = browser.new_page()
        page.set_default_timeout(1000 * LIMIT)
        page.goto(page_file.resolve().as_uri())
        page.evaluate("for (const image of document.images) image.loading = 'eager'")
        page.evaluate(READY)
        page.wait_for_function(
            "() => window.isTypeset && [...document.images].every((image) => image.complete)"
        )
        margin = dict.fromkeys(("top", "bottom", "left", "right"), "15mm")
        page.pdf(path=output, format="A4", margin=margin, outline=True, tagged=True)
        browser.close()
    print(f"{output}: {output.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
