"""Give the entries of the bibliography a role that readers' programs still know.

Docutils writes doc-biblioentry, which ARIA has given up, for items of a list.
"""

from sphinx.application import Sphinx


def replace_roles(app: Sphinx, page: str, template: str, context: dict, doctree: object) -> None:
    """Make an entry of the bibliography an item of its list."""
    if "body" in context:
        context["body"] = context["body"].replace('role="doc-biblioentry"', 'role="listitem"')


def setup(app: Sphinx) -> dict:
    """Act on every page."""
    app.connect("html-page-context", replace_roles)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
