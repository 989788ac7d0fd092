"""End each page with the paper, its authors' code, and how to cite."""

from sphinx.application import Sphinx

PAPER = "https://arxiv.org/abs/2507.04683"
RELEASE = "https://github.com/CILAB-RL-TEAM/soft-weight-rescaling"


def add_links(app: Sphinx, page: str, template: str, context: dict, doctree: object) -> None:
    """Write the theme's extra footer; the link within the site depends on the page."""
    pathto = context["pathto"]
    front = pathto("book/index").rstrip("#")  # which is all that it is on the front page itself
    context["theme_extra_footer"] = (
        f'<p class="sources"><a href="{PAPER}">The paper</a> · '
        f'<a href="{RELEASE}">its authors\' code</a> · '
        f'<a href="{pathto("book/bibliography")}">all papers</a> · '
        f'<a href="{front}#how-to-cite">how to cite</a></p>'
    )


def setup(app: Sphinx) -> dict:
    """Act on every page."""
    app.connect("html-page-context", add_links)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
