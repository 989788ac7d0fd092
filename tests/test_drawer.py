"""What a chapter's page shows and what is folded at its end, on notebooks made up for it."""

import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = f"""\
import sys
sys.path.insert(0, {str(ROOT / "book/extensions")!r})
extensions = ["myst_nb", "sphinx_design", "drawer"]
nb_execution_mode = "off"
chapters = {{"notebooks/chapter": {{
    "notebook": "notebooks/several", "parameters": {{"access": "a b"}}, "verdicts": "<b>2 so</b>"
}}}}
"""
PICTURE = "<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'></svg>"
BANNER = '<div class="claims"><span class="verdict verdict-mixed">mixed</span></div>'


def output(**data: str) -> nbformat.NotebookNode:
    kinds = {"svg": "image/svg+xml", "html": "text/html", "plain": "text/plain"}
    return nbformat.v4.new_output("display_data", {kinds[key]: text for key, text in data.items()})


def printed(text: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_output("stream", name="stdout", text=text)


def code(source: str, *tags: str, outputs=()) -> nbformat.NotebookNode:
    return nbformat.v4.new_code_cell(
        source, execution_count=1, outputs=list(outputs), metadata={"tags": list(tags)}
    )


def drawn(records: list[dict], own: int) -> nbformat.NotebookNode:
    cell = code("draw()", "hide-input", outputs=[output(svg=PICTURE, plain="a picture")])
    cell.metadata |= {"records": records, "own": own}
    return cell


def text(source: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_markdown_cell(source)


def page_of(folder: Path, *cells: nbformat.NotebookNode, name: str = "chapter") -> str:
    """Return what Sphinx makes of a notebook of these cells: the article as HTML."""
    (folder / "notebooks").mkdir()
    (folder / "conf.py").write_text(SETTINGS)
    (folder / "index.md").write_text(f"# Book\n\n```{{toctree}}\nnotebooks/{name}\n```\n")
    kernel = {
        "kernelspec": {"name": "python3", "display_name": "Python 3"},
        "language_info": {"name": "python"},
    }
    notebook = nbformat.v4.new_notebook(cells=list(cells), metadata=kernel)
    nbformat.write(notebook, folder / f"notebooks/{name}.ipynb")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", folder, folder / "site"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    page = (folder / f"site/notebooks/{name}.html").read_text()
    return page[page.index("<h1>") : page.index('<div class="sphinxsidebar"')]


@pytest.fixture(scope="module")
def halves(tmp_path_factory) -> tuple[str, str]:
    """Return a page in front of its drawer, and the drawer, without the highlighting of code."""
    page = page_of(
        tmp_path_factory.mktemp("book"),
        text("# A chapter\n\nThe claim."),
        code("import this", "hide-cell", outputs=[printed("on import"), output(html="<i>odd</i>")]),
        code("seeds = 2", "parameters"),
        code("begin()", "hide-cell", outputs=[output(html='<p class="provenance">ran at</p>')]),
        drawn(
            [{"commit": "be2d8e7b02", "runs": 3, "files": ["one.parquet", "two.parquet"]}],
            own=2,
        ),
        code(
            "judge()",
            outputs=[
                output(html=BANNER),
                output(html='<div class="own-runs">quick [−1, 1]</div>'),
                printed("seeds: yes\n"),
            ],
        ),
        code("find()", "finding", outputs=[printed("It is so:\n  never.\nAnd that.\n")]),
        code("value", "hide-input", outputs=[output(plain="0.123")]),
        text("## How this page was made\n\n### Checks\n\nThree."),
        code("check()", outputs=[printed("All hold.\n"), output(html="<em>own table</em>")]),
        text("## Left open\n\nNothing."),
        code("copy_me()", "content", outputs=[printed("copied")]),
    )
    plain = unescape(re.sub(r"</?span(?! class=\"verdict)[^>]*>", "", page))
    front, drawer = plain.split('<details class="drawer">')
    return front, drawer


@pytest.mark.parametrize(
    "kept", ["The claim.", "mixed", "<svg", "Left open", "copy_me()", "copied", "2 so"]
)
def test_the_page_keeps_what_a_reader_came_for(halves, kept):
    kept = kept.replace("<svg", "_images/")
    assert kept in halves[0] and kept not in halves[1]


@pytest.mark.parametrize(
    "gone",
    [
        *("import this", "seeds = 2", "begin()", "draw()", "judge()", "find()", "check()"),
        *("on import", "odd", "ran at", "quick [−1, 1]", "seeds: yes", "0.123"),
        *("Checks", "All hold.", "own table", "-p access 'a b'", "notebooks/several.ipynb"),
    ],
)
def test_the_drawer_has_the_rest(halves, gone):
    assert gone not in halves[0] and gone in halves[1]


def test_the_drawer_is_in_order_at_the_end_of_the_page(halves):
    front, drawer = halves
    assert front.rindex("How this page was made") > front.index("Left open")
    order = ["several.ipynb", "ran at", "Checks", "quick [", "import this", "seeds = 2", "check()"]
    places = [drawer.index(word) for word in order]
    assert places == sorted(places)
    assert drawer.count("</details>") == 2  # and the records of a cell


def test_what_was_found_is_paragraphs_and_nothing_is_a_bar(halves):
    front, _ = halves
    assert '<p class="finding">It is so: never.</p>' in front
    assert '<p class="finding">And that.</p>' in front
    assert "<details" not in front and "Show code" not in front


def test_what_is_shown_leads_to_its_cell_and_back(halves):
    front, drawer = halves
    for number in re.findall(r'href="#cell-(\d+)"', front):
        assert f'id="from-cell-{number}"' in front
        assert f'id="cell-{number}"' in drawer and f'href="#from-cell-{number}"' in drawer
    assert re.findall(r'href="#cell-(\d+)"', front) == ["4", "5", "6"]
    assert '<p class="at-one-look"><b>2 so</b> <a href="#from-cell-5">' in front


def test_a_picture_names_its_records_and_its_cell(halves):
    """Under it a few words; which files, commit by commit, beside the cell's code."""
    front, drawer = halves
    said = re.findall(r'<a class="made-by" href="#cell-\d+">([^<]*)</a>', front)
    assert said == [
        "from 3 recorded runs, commit be2d8e7b02; cell 4",
        "how it was made; cell 5",
        "how it was made; cell 6",
    ]
    assert "<li>commit be2d8e7b02, 3 runs: one.parquet, two.parquet</li>" in drawer
    assert "one.parquet" not in front


def test_records_are_linked_where_the_repository_has_an_address(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "book/extensions"))
    import drawer

    of = [
        {"commit": "be2d8e7b02 with changes", "runs": 1, "files": ["a.parquet"]},
        {"commit": "unknown", "runs": 2, "files": ["b.parquet"]},
    ]
    assert drawer.made_of(of, own=4) == "from 3 recorded runs, 2 commits"
    assert drawer.made_of([], own=4) == "from this page's own runs"
    times = [{"commit": "be2d8e7b02", "runs": 0, "files": ["_benchmarks/cost.json"]}]
    assert drawer.made_of(times, own=0) == "from recorded times, commit be2d8e7b02"
    assert "<li>commit be2d8e7b02: _bench" in drawer.listed_records(times, "").astext()
    listed = drawer.listed_records(of, "https://a.org/b").astext()
    for link in ("commit/be2d8e7b02", "blob/HEAD/results/a.parquet", "blob/HEAD/results/b.parquet"):
        assert f'<a href="https://a.org/b/{link}">' in listed
    assert "</a> with changes, 1 run: " in listed and "commit unknown, 2 runs" in listed


def test_a_notebook_without_such_a_section_gets_one(tmp_path):
    other = output(html='<p class="verdict verdict-mixed">no claim</p>')
    cells = [text("# Bare"), code("alone()", outputs=[other]), text("## End\n\nLast.")]
    page = page_of(tmp_path, *cells, name="bare")
    front, drawer = page.split('<details class="drawer">')
    assert front.index("Last.") < front.index("How this page was made")
    assert "alone" in drawer and "alone" not in front
    assert "notebooks/bare.ipynb" in drawer
    assert "at-one-look" not in front


def test_commits_of_provenance_are_linked_where_the_repository_has_an_address(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "book/extensions"))
    import drawer

    said = '<p class="provenance">commit be2d8e7b02, 2026-11-27 0123456789abcdef deadbeefed</p>'
    for address, expected in (
        ("", said),
        ("https://a.org/b", said.replace("be2d8e7b02", '<a href="{0}">{1}</a>')),
    ):
        around = drawer.nodes.container("", drawer.html(said))
        drawer.link_commits([around], address)
        link = ("https://a.org/b/commit/be2d8e7b02", "be2d8e7b02")
        assert around.astext() == expected.format(*link)
