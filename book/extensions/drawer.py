"""Show a chapter as text, pictures and verdicts; how it was made goes into one folded section.

A notebook says by tags what goes where:

- The code of each cell goes to the end of the page, in order, unless the cell is tagged
  ``content``: then its lines are what a reader came for.
- Pictures, verdicts and tables stay where they are, each with a link to its cell. What a cell
  printed goes with its code, unless the cell is tagged ``finding``: then it becomes a paragraph.
- A cell tagged ``hide-cell`` or ``parameters`` goes with everything that it shows.
- HTML of the classes ``provenance`` and ``own-runs`` goes, too, from wherever it stands.
- The notebook's own section `TITLE`, if it has one, stands in the folded section above the code.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape

from docutils import nodes
from sphinx.application import Sphinx

TITLE = "How this page was made"
SUMMARY = "The parameters, the command, the records, and the code of every picture and table"
#: A commit as provenance names it: its first ten digits, between words or tags.
COMMIT = re.compile(r"(?<![\w/.-])(?=[0-9a-f]*\d)[0-9a-f]{10}(?![\w/.-])")
#: Tags of cells that go as a whole.
WHOLE = {"hide-cell", "parameters", "injected-parameters"}


@dataclass
class Drawer:
    """What is taken from a page: where its numbers are from, its own runs, and its cells.

    ``repository`` is the project's address, empty where it has none.
    """

    repository: str = ""
    provenance: list[nodes.Node] = field(default_factory=list)
    own_runs: list[nodes.Node] = field(default_factory=list)
    cells: list[nodes.Node] = field(default_factory=list)

    def take(self, cell: nodes.container, *, inside: bool) -> None:
        """Take a cell's code from the page, and what belongs to it.

        ``inside`` is true in the section that is folded itself: there all that is shown stays.
        """
        tags = set(cell["cell_metadata"].get("tags", []))
        parts = {part(child): child for child in cell.children}
        code, output = parts.get("cell_code_source"), parts.get("cell_code_output")
        if code is None or "content" in tags:
            return
        printed = [] if output is None else self.sort(output, tags, inside)
        number = len(self.cells) + 1
        listed = nodes.container(ids=[f"cell-{number}"], classes=["cell", "drawer-cell"])
        cell.remove(code)
        cell.attributes.pop("hide_mode", None)
        back, metadata = "", cell["cell_metadata"]
        if output is None or not output.children:
            cell.parent.remove(cell)
        else:
            cell["ids"].append(f"from-cell-{number}")
            said = made_of(metadata.get("records", []), metadata.get("own", 0))
            cell += html(f'<a class="made-by" href="#cell-{number}">{said}; cell {number}</a>')
            back = f': <a href="#from-cell-{number}">what it shows</a>'
        listed += [html(f'<p class="drawer-number">Cell {number}{back}</p>'), code]
        if records := metadata.get("records", []):
            listed += listed_records(records, self.repository)
        if printed:
            listed += nodes.container("", *printed, classes=["cell_output"])
        self.cells.append(listed)

    def sort(self, output: nodes.container, tags: set[str], inside: bool) -> list[nodes.Node]:
        """Take from a cell's output what does not stay; return what goes with the code."""
        printed = []
        for node in list(output.children):
            place = next((p for c, p in self.places.items() if has_class(node, c)), None)
            if is_printed(node) and (inside or "finding" in tags):
                output.replace(node, paragraphs(node.astext()))
            elif inside:
                continue
            elif place is not None:
                output.remove(node)
                place.append(node)
            elif is_printed(node) or tags & WHOLE:
                output.remove(node)
                printed.append(node)
        return printed

    @property
    def places(self) -> dict[str, list[nodes.Node]]:
        """Return where HTML of a class goes."""
        return {"provenance": self.provenance, "own-runs": self.own_runs}


def fold(app: Sphinx, document: nodes.document) -> None:
    """Move the code of a page made from a notebook, and what belongs to it, into the drawer."""
    cells = [node for node in document.findall(nodes.container) if part(node) == "cell_code"]
    if not cells:
        return
    repository = str(app.config.html_theme_options.get("repository_url", "")).rstrip("/")
    section, drawer = own_section(document), Drawer(repository)
    for cell in cells:
        drawer.take(cell, inside=section in ancestors(cell))
    facts = app.config.chapters.get(app.env.docname, {})
    title, *content = section.children
    section.children = []
    section += [title, html(f'<details class="drawer"><summary>{SUMMARY}</summary>')]
    section += made_from(app.env.docname, facts, repository)
    link_commits([*drawer.provenance, *content], repository)
    section += [*drawer.provenance, *content, *drawer.own_runs]
    code = new_section("The code, cell by cell")
    code += drawer.cells
    section += [code, html("</details>")]
    add_verdicts(document, facts.get("verdicts", ""))


def part(node: nodes.Node) -> str:
    """Return which part of a notebook a node is, as MyST-NB calls it."""
    return str(node.get("nb_element", "")) if isinstance(node, nodes.Element) else ""


def ancestors(node: nodes.Node) -> Iterator[nodes.Node]:
    """Go through the nodes around a node, the nearest first."""
    while node.parent is not None:
        node = node.parent
        yield node


def html(text: str) -> nodes.raw:
    """Return HTML as a node."""
    return nodes.raw("", text, format="html")


def has_class(node: nodes.Node, name: str) -> bool:
    """Return whether a node holds HTML of a class."""
    return any(f'class="{name}"' in raw.astext() for raw in node.findall(nodes.raw))


def new_section(title: str) -> nodes.section:
    """Return an empty section with a title and a place to link to."""
    return nodes.section("", nodes.title(title, title), ids=[nodes.make_id(title)])


def own_section(document: nodes.document) -> nodes.section:
    """Return the page's section of that title, at the page's end; a new one where it has none."""
    found = (s for s in document.findall(nodes.section) if s[0].astext() == TITLE)
    section = next(found, None)
    if section is None:
        section = new_section(TITLE)
    else:
        section.parent.remove(section)
    next(document.findall(nodes.section)).append(section)
    return section


def is_printed(node: nodes.Node) -> bool:
    """Return whether an output was printed, or is a value that has no form but text."""
    if part(node) == "mime_bundle":
        return {child["mime_type"] for child in node.children} == {"text/plain"}
    return isinstance(node, nodes.literal_block)


def paragraphs(text: str) -> list[nodes.Node]:
    """Return printed lines as paragraphs: a line that is indented goes on with the one before."""
    joined: list[str] = []
    for line in filter(str.strip, text.splitlines()):
        if joined and line[0].isspace():
            joined[-1] += f" {line.strip()}"
        else:
            joined.append(line.strip())
    return [nodes.paragraph(line, line, classes=["finding"]) for line in joined]


def made_from(page: str, facts: dict, repository: str) -> nodes.raw:
    """Return what a page was made from: its notebook, the records, and the command."""
    notebook = f"{facts.get('notebook', page)}.ipynb"
    words = [".venv/bin/papermill", notebook, "out.ipynb", "--cwd", "notebooks"]
    for name, value in facts.get("parameters", {}).items():
        words += ["-p", name, str(value)]
    here = f"{'../' * page.count('/')}_sources/{page}.ipynb"
    source, records = f"<code>{notebook}</code>", "<code>results/</code>"
    if repository:
        source = f'<a href="{repository}/blob/HEAD/{notebook}">{source}</a>'
        records = f'<a href="{repository}/tree/HEAD/results">{records}</a>'
    return html(
        f'<p>Made from {source} of the repository: <a href="{here}" download>the notebook as it '
        f"was executed, without its pictures</a>. What is said to be at paper scale comes from the"
        f" records in {records}."
        f" To run it again, in a clone: <code>{escape(shlex.join(words))}</code></p>"
    )


def made_of(records: list[dict], own: int) -> str:
    """Say what is behind the output of a cell: records and their commit, or this page's runs."""
    if not records:
        return "from this page's own runs" if own else "how it was made"
    runs, commits = sum(of["runs"] for of in records), [of["commit"] for of in records]
    where = f"commit {commits[0]}" if len(commits) == 1 else f"{len(commits)} commits"
    what = f"{runs} recorded run{'s' * (runs > 1)}" if runs else "recorded times"
    return f"from {what}, {where}"


def listed_records(records: list[dict], repository: str) -> nodes.raw:
    """Return the files of records behind the output of a cell, commit by commit, folded."""
    lines = []
    for of in records:
        commit, files = escape(of["commit"]), of["files"]
        if repository:
            commit = COMMIT.sub(rf'<a href="{repository}/commit/\g<0>">\g<0></a>', commit)
            place = f"{repository}/blob/HEAD/results"
            files = [f'<a href="{place}/{name}">{name}</a>' for name in files]
        runs = f", {of['runs']} run{'s' * (of['runs'] > 1)}" * (of["runs"] > 0)
        lines.append(f"<li>commit {commit}{runs}: {', '.join(files)}</li>")
    summary = "The records in <code>results/</code>, by commit"
    return html(f"<details><summary>{summary}</summary><ul>{''.join(lines)}</ul></details>")


def link_commits(found: list[nodes.Node], repository: str) -> None:
    """Link the commits that provenance names, where the repository has an address."""
    for raw in (raw for node in found for raw in list(node.findall(nodes.raw))):
        if repository and 'class="provenance"' in raw.astext():
            text = COMMIT.sub(rf'<a href="{repository}/commit/\g<0>">\g<0></a>', raw.astext())
            raw.parent.replace(raw, html(text))


def add_verdicts(document: nodes.document, badges: str) -> None:
    """Put a chapter's verdicts below its title, unless the first it shows are no claims'."""
    shown = (raw for raw in document.findall(nodes.raw) if 'class="verdict ' in raw.astext())
    first = next(shown, None)
    if first is None or not badges or not has_class(first.parent, "claims"):
        return
    cell = next(node for node in ancestors(first) if part(node) == "cell_code")
    line = f'<p class="at-one-look">{badges} <a href="#{cell["ids"][0]}">claim by claim</a></p>'
    next(document.findall(nodes.section)).insert(1, html(line))


def setup(app: Sphinx) -> dict:
    """Act on every page before its contents are listed."""
    app.add_config_value("chapters", {}, "env", dict)
    app.connect("doctree-read", fold, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
