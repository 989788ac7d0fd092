"""Link the first use of each term on a page to the glossary, and show what it means on hovering.

A term is found as it is written in the glossary, at the start of a sentence and in the plural, too;
in running text only: not in titles, code, links, mathematics or what cells show.
"""

import re
from collections.abc import Iterator

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

GLOSSARY = "book/glossary"
#: Words that are verbs as well, and mean this only after an article.
AFTER_ARTICLE = {"drop"}
#: Within these a word is no running text.
NO_TEXT = (nodes.reference, nodes.literal, nodes.math, nodes.title, nodes.table, nodes.raw)


def link_terms(app: Sphinx, document: nodes.document, page: str) -> None:
    """Link the first use of each term."""
    if page == GLOSSARY or GLOSSARY not in app.env.found_docs:
        return
    waiting = read_glossary(app.env)
    for parent, text in list(running_texts(document)):
        parts: list[nodes.Node] = []
        rest = text.astext()
        while found := find_first(rest, waiting):
            term, (begin, end) = found
            place, meaning = waiting.pop(term)
            word = nodes.inline("", rest[begin:end])
            link = make_refnode(app.builder, page, GLOSSARY, place, word, meaning)
            link["classes"].append("term")
            parts += [nodes.Text(rest[:begin]), link]
            rest = rest[end:]
        if parts:
            parent.replace(text, [*parts, nodes.Text(rest)])


def read_glossary(env: BuildEnvironment) -> dict[str, tuple[str, str]]:
    """Return the place and the meaning of each term, the longest term first."""
    terms = {}
    for item in env.get_doctree(GLOSSARY).findall(nodes.definition_list_item):
        (meaning,) = (part.astext() for part in item if isinstance(part, nodes.definition))
        for term in item.findall(nodes.term):
            terms[term.astext()] = (term["ids"][0], meaning)
    return dict(sorted(terms.items(), key=lambda item: -len(item[0])))


def running_texts(
    node: nodes.Element, *, inside: bool = False
) -> Iterator[tuple[nodes.Element, nodes.Text]]:
    """Go through the text of paragraphs that is no link, code or mathematics, with its parent."""
    for child in node.children:
        if isinstance(child, nodes.Text):
            if inside:
                yield node, child
        elif not isinstance(child, NO_TEXT):
            yield from running_texts(child, inside=inside or isinstance(child, nodes.paragraph))


def find_first(text: str, terms: dict[str, object]) -> tuple[str, tuple[int, int]] | None:
    """Return the term that is used first in a text, and where; of several there, the longest."""
    found = [(term, match.span(1)) for term in terms if (match := pattern(term).search(text))]
    return min(found, key=lambda item: item[1][0], default=None)


def pattern(term: str) -> re.Pattern[str]:
    """Return what a term looks like in a text."""
    first = f"[{term[0].upper()}{term[0]}]"
    before = r"(?<=\b[Tt]he )" if term in AFTER_ARTICLE else r"(?<![\w-])"
    return re.compile(rf"{before}({first}{re.escape(term[1:])}s?)(?![\w-])")


def setup(app: Sphinx) -> dict:
    """Act on each page after its links are resolved."""
    app.connect("doctree-resolved", link_terms)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
