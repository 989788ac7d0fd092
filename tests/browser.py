"""Open the built website in Chromium without a network: for the browser test and for screenshots.

Usage: python tests/browser.py SITE SCREENSHOTS
"""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WIDTHS = {"wide": 1280, "narrow": 390}
#: Seconds that anything may take that a browser does.
LIMIT = 120.0


def find_chromium() -> str | None:
    names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
    return next(filter(None, map(shutil.which, names)), None)


def list_pages(site: Path) -> list[Path]:
    """Return the pages a reader can come to: all but the redirect and what the search needs."""
    pages = [*site.glob("book/*.html"), *site.glob("notebooks/*.html")]
    return sorted([*pages, site / "genindex.html", site / "search.html"])


@contextmanager
def open_browser() -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--allow-file-access-from-files"]
        browser = playwright.chromium.launch(
            executable_path=find_chromium(), args=arguments, timeout=1000 * LIMIT
        )
        yield browser
        browser.close()


@contextmanager
def open_page(
    browser, path: Path, *, width: int, theme: str = "light", limit: float = LIMIT
) -> Iterator:
    """Yield the page, loaded and typeset, and the list of everything that went wrong on it."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=theme, offline=True
    )
    context.set_default_timeout(1000 * limit)
    faults: list[str] = []
    page = context.new_page()
    page.on("console", lambda m: faults.append(f"console: {m.text}") if m.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(f"script: {error}"))
    page.on("requestfailed", lambda request: faults.append(f"not loaded: {request.url}"))
    page.on(
        "request",
        lambda request: (
            faults.append(f"from elsewhere: {request.url}")
            if not request.url.startswith(("file:", "data:", "blob:"))
            else None
        ),
    )
    page.add_init_script(f"localStorage.setItem('mode', '{theme}')")
    page.goto(path.resolve().as_uri())
    # Pictures below the fold load late, and mathematics is typeset after loading. What a script
    # waits for has no limit, what a page is waited for has.
    page.evaluate(
        """() => {
            for (const image of document.images) image.loading = "eager";
            const typeset = window.MathJax && MathJax.startup && MathJax.startup.promise;
            Promise.resolve(typeset).then(() => { window.isTypeset = true; });
        }"""
    )
    page.wait_for_function(
        "() => window.isTypeset && [...document.images].every((image) => image.complete)"
    )
    yield page, faults
    context.close()


def take_screenshots(site: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with open_browser() as browser:
        for path in list_pages(site):
            for shape, width in WIDTHS.items():
                for theme in ["light", "dark"]:
                    with open_page(browser, path, width=width, theme=theme) as (page, _):
                        name = f"{path.stem}-{shape}-{theme}.png"
                        page.screenshot(path=folder / name, full_page=True)
                        print(folder / name, flush=True)


if __name__ == "__main__":
    if find_chromium() is None:
        raise SystemExit("No Chromium was found: install the package chromium.")
    take_screenshots(Path(sys.argv[1]), Path(sys.argv[2]))
