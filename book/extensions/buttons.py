"""Let the buttons of a chapter lead to files that exist.

The theme takes a page's name for its file's. Several chapters may be made from one notebook: to
edit them, or to run them on Binder, is to open that notebook. On Colab, which gets one file without
the repository around it, the copy opens that this site offers for download.
"""

from collections.abc import Iterator

from sphinx.application import Sphinx

PUBLISHED = "gh-pages"


def lead_to_files(app: Sphinx, page: str, template: str, context: dict, doctree: object) -> None:
    """Correct the addresses of a page's buttons."""
    if page not in app.config.chapters:
        return
    notebook = app.config.chapters[page]["notebook"]
    branch = app.config.html_theme_options.get("repository_branch", "main")
    for button in links(context["header_buttons"]):
        url = button["url"]
        if button["text"] == "Colab":
            place = f"/blob/{branch}/{page}.ipynb"
            button["url"] = url.replace(place, f"/blob/{PUBLISHED}/_sources/{page}.ipynb")
        else:
            button["url"] = url.replace(f"/{page}.ipynb", f"/{notebook}.ipynb")


def links(buttons: list[dict]) -> Iterator[dict]:
    """Go through the buttons that lead somewhere, and those of groups."""
    for button in buttons:
        if button["type"] == "link":
            yield button
        yield from links(button.get("buttons", []))


def setup(app: Sphinx) -> dict:
    """Act on every page, after the theme has made its buttons."""
    app.setup_extension("drawer")  # which has the setting `chapters`
    app.connect("html-page-context", lead_to_files, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
