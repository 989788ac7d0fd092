"""Leave out the scripts of Thebe, which Jupyter Book adds to every page whether used or not.

They name an address elsewhere, and they are added twice, which browsers report as an error.
"""

from sphinx.application import Sphinx


def drop_thebe(app: Sphinx, page: str, template: str, context: dict, doctree: object) -> None:
    """Keep all scripts of a page but Thebe's."""
    context["script_files"] = [
        script
        for script in context.get("script_files", [])
        if "thebe" not in f"{script} {getattr(script, 'attributes', {}).get('body', '')}".lower()
    ]


def setup(app: Sphinx) -> dict:
    """Act on every page, after all other extensions."""
    app.connect("html-page-context", drop_thebe, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
