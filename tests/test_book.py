"""The website as its readers meet it: files, links to elsewhere, and every page in a browser."""

import base64
import html
import importlib
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml
from browser import WIDTHS, list_pages, open_page

from swrlib import load_records, measures, records, tables, verdicts
from swrlib.figures.forest import forest
from swrlib.overview import Overview, late_accuracies, repair, rivals
from swrlib.overview.scorecard import against, scorecard
from swrlib.papers import SWR as paper
from swrlib.papers import Paper, find_paper, known_papers

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = yaml.safe_load((ROOT / "config/quick.yaml").read_text())["chapters"]


def test_every_chapter_and_every_prose_page_is_there(site, root):
    built = {path.stem for path in list_pages(site)}
    prose = {path.stem for path in (root / "book").glob("*.md")}
    assert set(CHAPTERS) | prose <= built
    for path in list_pages(site):
        assert path.stat().st_size > 4000, f"{path.name} is nearly empty"


def test_several_chapters_of_one_notebook_have_titles_of_their_own(site):
    titles = {
        name: re.search(r"<title>(.*?)[—<]", (site / f"notebooks/{name}.html").read_text())[1]
        for name in CHAPTERS
    }
    assert len(set(titles.values())) == len(CHAPTERS), titles


def test_several_chapters_of_one_notebook_have_claims_of_their_own(tmp_path):
    """A cell that is meant for some parameters is on the pages that have them, and no others."""
    shown = {}
    for name, chapter in CHAPTERS.items():
        notebook = nbformat.read(ROOT / f"notebooks/{chapter['notebook']}.ipynb", as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.execution_count = 1
        nbformat.write(notebook, tmp_path / "chapter.ipynb")
        cells = staging().prepare_chapter(tmp_path / "chapter.ipynb", chapter).cells
        texts = "\n\n".join(c.source for c in cells if c.cell_type == "markdown")
        shown[name] = re.findall(r"^\*\*The claim\.\*\* .*", texts, re.M)
    assert {name: len(claims) for name, claims in shown.items() if len(claims) > 1} == {}
    for names in (
        ("continual_learning", "continual_learning_limited"),
        ("generalization", "generalization_decay"),
    ):
        one, other = (shown[name][0] for name in names)
        assert one != other
    assert "full access" in shown["continual_learning"][0].lower()
    assert "limited access" in shown["continual_learning_limited"][0].lower()


def test_nothing_is_loaded_from_elsewhere(site):
    outside = re.compile(
        r"""<(?:script|img|iframe|source)[^>]+\bsrc=["'](?:https?:)?//[^"']+"""
        r"""|<link[^>]+rel=["'](?:stylesheet|preload|icon)["'][^>]+href=["'](?:https?:)?//[^"']+"""
    )
    for path in list_pages(site):
        assert outside.findall(path.read_text()) == [], path.name
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//", sheet.read_text()), sheet.name


def test_every_public_name_is_in_the_reference(site):
    import swrlib

    reference = (site / "book/api.html").read_text()
    objects = [name for name in swrlib.__all__ if not name.startswith("_")]
    absent = [
        name
        for name in objects
        if callable(getattr(swrlib, name))
        and not re.search(rf'id="swrlib\.[\w.]*\b{name}"', reference)
    ]
    assert absent == []


def test_the_reference_names_every_measure_and_column():
    text = (ROOT / "book/api.md").read_text()
    names = {*measures.MEASURES, *records.COLUMNS}
    table = text[text.index("## Names and columns") :]
    assert names - set(re.findall(r"`([\w-]+)`", table)) == set()


def test_each_chapter_can_be_downloaded_as_it_was_executed(site):
    for name in CHAPTERS:
        page = (site / f"notebooks/{name}.html").read_text()
        link = re.search(r'href="([^"]+_sources/notebooks/[^"]+\.ipynb)"', page)
        assert link, f"{name} has no download button"
        offered = nbformat.read((site / "notebooks" / link[1]).resolve(), as_version=4)
        code = [cell for cell in offered.cells if cell.cell_type == "code" and cell.source.strip()]
        assert all(cell.execution_count for cell in code)
        assert any(cell.outputs for cell in code)
        assert "widgets" not in offered.metadata


def test_pictures_say_what_they_show(site):
    for path in list_pages(site):
        article = re.search(r"<article.*?</article>", path.read_text(), re.S)
        for picture in re.findall(r"<img[^>]*>", article[0] if article else ""):
            text = re.search(r'alt="([^"]*)"', picture)
            assert text and len(text[1]) > 20 and "../_images" not in text[1], (
                f"{path.name}: no alternative text in {picture[:120]}"
            )


def staging():
    """Return the script that lays out the stage, as a module."""
    if str(ROOT / "book") not in sys.path:
        sys.path.append(str(ROOT / "book"))
    return importlib.import_module("stage")


def chapter_with(title: str, *banners: list[tuple[str, str, str]]) -> nbformat.NotebookNode:
    cells = [nbformat.v4.new_markdown_cell(f"# {title}\n\nText.")]
    for banner in banners:
        found = [
            {"claim": id, "verdict": word, "label": label, "detail": f"{word} < {id}"}
            for id, word, label in banner
        ]
        output = nbformat.v4.new_output(
            "display_data",
            data={"text/html": "<p>shown</p>"},
            metadata={"text/html": {"verdicts": found}},
        )
        cells.append(nbformat.v4.new_code_cell("banner()", outputs=[output]))
    return nbformat.v4.new_notebook(cells=cells)


def test_the_page_of_claims_counts_each_claim_once():
    claims = [claim.id for claim in paper.claims[:4]]
    yes, no = verdicts.REPRODUCED, verdicts.NOT_REPRODUCED
    page = staging().claims_page(
        {
            "one": chapter_with(
                "First", [(claims[0], yes, yes), (claims[1], no, f"{no} (1 of 5 comparisons)")]
            ),
            "other": chapter_with(
                "Second",
                [(claims[2], yes, yes), (claims[3], verdicts.NOT_RUN, verdicts.NOT_RUN)],
                [(claims[2], no, no), (claims[0], yes, yes), (claims[3], yes, yes)],
            ),
            "silent": chapter_with("Third"),
        }
    )
    counts, first, second = re.split(r"^## ", page, flags=re.M)
    total = len(paper.claims)
    assert counts.startswith(f"{total} claims: ")
    expected = {yes: 2, no: 1, verdicts.MIXED: 1, verdicts.NOT_RUN: total - 4}
    for word, number in expected.items():
        part = " (1 in part)" if word == no else ""
        assert tables.badge(word, f"{number} {word}{part}") in counts
    assert first.startswith("[First](../notebooks/one.ipynb)")
    assert second.startswith("[Second](../notebooks/other.ipynb)")
    assert f"{no} (1 of 5 comparisons)" in first and paper.claims[1].sentence in first
    row = next(line for line in second.splitlines() if paper.claims[2].sentence in line)
    assert tables.badge(yes) in row and tables.badge(no) in row
    assert f"{yes} &lt; {claims[2]}<br>{no} &lt; {claims[2]}" in row


def test_claims_of_other_papers_have_a_section_of_their_own(monkeypatch, tmp_path):
    stage, yes = staging(), verdicts.REPRODUCED
    (tmp_path / "other.toml").write_text(
        'title = "Another"\nsource = "Somebody, 2026"\nbatch_size = 1\nlearning_rate = 1e-3\n'
        "[epochs]\nsingle-task = [1]\n"
        '[[claim]]\nid = "theirs"\nkind = "course"\nplace = "Section 9"\nsentence = "It works."\n'
        '[[claim]]\nid = "unseen"\nkind = "course"\nplace = "Section 8"\nsentence = "It is new."\n'
    )
    other = Paper.read(tmp_path / "other.toml")
    monkeypatch.setattr(stage, "known_papers", lambda: ["swr", "other"])
    monkeypatch.setattr(stage, "find_paper", {"swr": paper, "other": other}.get)
    ours = paper.claims[0].id
    notebooks = {
        "one": chapter_with("First", [(ours, yes, yes)]),
        "two": chapter_with("Second", [("theirs", "holds in small", "holds in small (5 tasks)")]),
    }
    page, beside = stage.claims_page(notebooks), stage.neighbours_claims(notebooks)
    assert page.startswith(f"{len(paper.claims)} claims: ") and "Second" not in page
    assert "It works." not in page and paper.claims[0].sentence not in beside
    assert "### Another\n\nSomebody, 2026.\n\n2 claims: " in beside
    assert tables.badge("holds in small", "1 holds in small") in beside
    assert tables.badge(verdicts.NOT_RUN, f"1 {verdicts.NOT_RUN}") in beside
    assert "Judged in [Second](../notebooks/two.ipynb):" in beside
    row = next(line for line in beside.splitlines() if "It works." in line)
    assert tables.badge("holds in small", "holds in small (5 tasks)") in row
    assert (ROOT / "book/claims.md").read_text().count("<!-- neighbours -->") == 1
    (tmp_path / "claims.md").write_text("<!-- neighbours -->")
    stage.fill_pages(tmp_path, notebooks, load_records(scale="paper", split="all"))
    assert (tmp_path / "claims.md").read_text() == beside


def test_no_two_papers_share_the_id_of_a_claim():
    ids = [claim.id for name in known_papers() for claim in find_paper(name).claims]
    assert len(set(ids)) == len(ids)


def front_page(begin: str = "## What came out so far") -> str:
    """Return the part of the front page on what came out, as it is stored."""
    return (ROOT / "book/index.md").read_text().split(begin)[1].split("\n## The chapters")[0]


def test_no_number_of_the_front_page_is_typed():
    marks = r"\[\[[^]]*\]\]|\(verdicts.md[^)]*\)|^:.*$"
    text = re.sub(marks, "", front_page("## At one look"), flags=re.M)
    names = r"95% interval|CIFAR-10\b|VGG-16|L2\b|Table 1|Fig\. 5|95% t interval"
    assert re.findall(r"[^ ]*\d[^ ]*", re.sub(names, "", text)) == []
    assert front_page().count("[[") > 15
    shuffled = load_records(stream="label-shuffled")
    filled = Overview(load_records(scale="paper", split="all"), shuffled).fill(front_page())
    assert "[[" not in filled
    prose = filled.split('<div class="table-container">')[0]
    assert "–" not in prose, "a number of the front page has no record"


def test_the_front_page_has_a_scorecard_and_five_sentences_for_a_user(tmp_path):
    trained = load_records(scale="paper", split="all")
    page = tmp_path / "index.md"
    page.write_text("## At one look" + front_page("## At one look"))
    staging().fill_pages(tmp_path, {}, trained)
    filled = page.read_text()
    assert "<!--" not in filled and "[[" not in filled
    look, rest = filled.split("## What it means for a user")
    assert scorecard(trained) in look
    said = re.findall(r"^- \*\*.*\?\*\* .*\.$", rest.split("\n## ")[0], re.M)
    assert len(said) == 5
    for cell, late in late_accuracies(trained).items():
        if cell[:2] in paper.pairs and (others := rivals(late)):
            found = against(late, cell, others[0])
            text = verdicts.in_points(*found.gap, unit="")
            assert f"SWR − {paper.label(found.rival).replace('&', '&amp;')}: {text}<" in look
    # What the prose around them says of the scorecard's and the sentences' making.
    assert "MNIST MLP" in said[0] and "cannot test the thesis" in said[0]


def test_the_front_page_says_what_the_records_say():
    """Its numbers are filled in; these are the words around them that say more, high or low."""
    trained = load_records(scale="paper", split="all")
    overview = Overview(trained)

    def low(stream, dataset, model, higher, lower):
        return overview.interval(stream, dataset, model, higher, lower).low

    single = ("single-task", "cifar10", "cnn")
    assert low(*single, "swr", "vanilla") > 0 and low(*single, "l2", "swr") > 0
    cells = verdicts.table_cells(trained, 1).query("dataset == 'cifar10'").set_index("method")
    assert (cells.loc[["l2", "l2-init"], "verdict"] == "differs").all()
    assert (cells.loc[["l2", "l2-init"], "low"] > 0).all()
    for method in ("vanilla", "swr"):
        assert cells.loc[method, "low"] < 0 < cells.loc[method, "high"]
    gain = overview.interval(*single, "swr", "vanilla").difference
    printed = paper.tables[1].accuracy["cifar10", "cnn"]
    assert abs(gain - (printed["swr"].mean - printed["vanilla"].mean)) < 0.01
    assert printed["l2"].mean < printed["swr"].mean

    warm = ("warm-start", "cifar10", "cnn")
    assert low(*warm, "full-reset", "vanilla") > 0
    assert low(*warm, "swr", "full-reset") > 0 and low(*warm, "l2", "full-reset") > 0
    assert low(*single, "l2", "vanilla") > 0
    assert low("warm-start", "mnist", "mlp", "full-reset", "vanilla") < 0

    rivals = [*paper.grids, "head-reset"]
    for method in rivals:
        assert low("limited-access", "mnist", "mlp", method, "vanilla") < 0
    limited = ("limited-access", "cifar10", "cnn")
    assert overview.late(*limited).mean().idxmax() == "shrink-perturb"
    assert low(*limited, "shrink-perturb", "swr") > 0
    full = overview.late("full-access", "mnist", "mlp").mean()
    assert full.max() - full.min() < 0.01
    assert "vgg16" not in set(trained["model"])
    above = {
        pair: column["swr"].mean - column["l2"].mean
        for pair, column in paper.tables[1].accuracy.items()
    }
    assert max(above, key=above.get) == ("tinyimagenet", "vgg16")


def test_the_chapter_on_a_warm_start_leads_with_harm_and_says_what_was_trained(chapters):
    text = (chapters / "warm_start.ipynb").read_text()
    harmed, spared = "CIFAR-10, CNN, paper scale", "MNIST, MLP, paper scale"
    assert 0 < text.index(harmed) < text.index(spared)
    # Its prose says so.
    trained = load_records(scale="paper", split="all", stream="warm-start")
    settings = set(trained[["dataset", "model"]].itertuples(index=False, name=None))
    assert settings == {("cifar10", "cnn"), ("mnist", "mlp")}
    assert set(trained.query("method == 'adamw'")["dataset"]) == {"mnist"}
    for _, rows in trained.groupby("dataset"):
        assert repair(rows)[0] in text


def test_the_front_page_shows_every_setting_with_swr(site):
    page = html.unescape((site / "book/index.html").read_text())
    assert "[[" not in re.search(r"<article.*?</article>", page, re.S)[0]
    trained = load_records(scale="paper", split="all", method="swr")
    settings = trained.drop_duplicates(["stream", "dataset", "model"])
    for row in settings.itertuples():
        name = f"{paper.label(row.stream)}, {paper.label(row.dataset)} {paper.label(row.model)}"
        assert f"<td>{name}</td>" in page, name


def test_every_comparison_that_was_run_is_on_the_page_of_claims(site, comparisons):
    page = html.unescape((site / "book/claims.html").read_text())
    run = comparisons[(comparisons["n"] >= verdicts.LEAST_SEEDS) & ~comparisons["pooled"]]
    for case in run.itertuples():
        text = verdicts.in_points(case.estimate, case.low, case.high, unit="")
        spoken = f"{case.setting}: {text}, margin {100 * case.margin:.2g}; "
        row = next(r for r in page.split("<li ") if spoken in r and case.word in r)
        link = re.search(r'class="to-chapter" href="([^"]+)"', row)[1]
        assert (site / "book" / link).resolve().is_file(), link


def test_the_page_of_claims_lists_what_was_trained():
    table = staging().trained_table()
    trained = load_records().drop_duplicates("run")  # all of it: also what was held out, or shorter
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    assert sum(int(line[-1]) for line in lines) == len(trained)
    found = {(line[0], line[1], line[2]) for line in lines}
    assert ("warm start", "MNIST, MLP", "200") in found
    assert ("warm start, a tenth held out", "MNIST, MLP", "200") in found
    assert ("single task", "CIFAR-10, CNN", "100") in found
    for method in trained["method"].unique():
        assert any(paper.label(method) in line[3] for line in lines), method


def test_the_page_of_claims_has_what_the_chapters_show(site, chapters):
    page = html.unescape((site / "book/claims.html").read_text())
    stage, of_all = staging(), set()
    for name in CHAPTERS:
        shown = stage.shown_verdicts(nbformat.read(chapters / f"{name}.ipynb", as_version=4))
        of_all |= set(shown)
        for id, found in shown.items():
            papers = map(find_paper, known_papers())
            claim = next(c for one in papers for c in one.claims if c.id == id)
            lines = [line for line in page.splitlines() if claim.sentence in line]
            assert lines, id
            shown_as = [tables.badge(verdict["verdict"], verdict["label"]) for verdict in found]
            badges = {html.unescape(badge) for badge in shown_as}
            assert any(all(badge in line for badge in badges) for line in lines), id
    unseen = {claim.id for claim in paper.claims} - of_all
    assert not unseen, f"no chapter shows a verdict on {unseen}"


def test_staging_refuses_a_chapter_that_failed(tmp_path, root):
    chapter = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(
                "1 / 0",
                execution_count=1,
                outputs=[
                    nbformat.v4.new_output(
                        "error", ename="ZeroDivisionError", evalue="division by zero", traceback=[]
                    )
                ],
            )
        ]
    )
    for name in CHAPTERS:
        nbformat.write(chapter, tmp_path / f"{name}.ipynb")
    stage = tmp_path / "stage"
    command = [sys.executable, root / "book/stage.py", tmp_path, stage]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode != 0
    assert "ZeroDivisionError" in result.stderr
    assert not stage.exists()


@pytest.mark.parametrize("width", WIDTHS.values())
def test_comparisons_are_sorted_by_a_click_or_a_key(browser, tmp_path, width, comparisons):
    found = comparisons[comparisons["stream"] == "warm-start"]
    style = (ROOT / "book/style/book.css").read_text()
    text = forest(found, {"warm_start": "Warm start"})
    page_file = tmp_path / "page.html"
    page_file.write_text(
        f'<!doctype html><html lang="en"><meta name="viewport" content="width=device-width">'
        f"<style>{style}</style><div class='bd-article'>{text}</div></html>"
    )
    with open_page(browser, page_file, width=width) as (page, faults):

        def ranks(by):
            rows = page.locator(".forest li").all()
            return [int(row.get_attribute(f"data-{by}")) for row in rows]

        assert ranks("chapter") == sorted(ranks("chapter"))
        for by, key in (("difference", None), ("word", "Enter"), ("chapter", "Space")):
            button = page.locator(f'.sorting button[data-by="{by}"]')
            button.click() if key is None else button.press(key)
            assert ranks(by) == sorted(ranks(by))
            assert page.locator('.sorting [aria-pressed="true"]').all_inner_texts() == [
                button.inner_text()
            ]
        box = page.locator(".forest li svg").first.bounding_box()
        assert box["width"] > 100 and box["x"] + box["width"] <= width
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert not faults


def test_a_link_to_a_cell_opens_the_drawer(site, browser):
    with open_page(browser, site / "notebooks/warm_start.html", width=390) as (page, faults):
        link = page.locator("a.made-by").first
        cell = page.locator(link.get_attribute("href"))
        assert not cell.is_visible()
        link.press("Enter")
        cell.wait_for(state="visible")
        assert 0 <= cell.bounding_box()["y"] < 900
        assert not faults


def test_the_site_has_what_its_pages_load_and_is_light(site):
    weight = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
    assert weight < 25 * 2**20, f"{weight / 2**20:.1f} MiB"


def test_a_cell_s_runs_become_the_files_and_commits_of_their_records():
    stage = staging()
    known = pd.DataFrame(
        {
            "run": ["a", "b", "c", "z"],
            "job": ["1.parquet", "1.parquet", "2.parquet", "3.parquet"],
            "commit": ["0123456789ab", "0123456789ab", None, "ffff456789ab"],
            "dirty": [False, False, None, True],
        }
    )
    runs = nbformat.v4.new_output("display_data", {stage.RUNS: ["a", "b", "c", "own"]})
    table = nbformat.v4.new_output("display_data", {"text/html": "<p>one</p>"})
    cells = [nbformat.v4.new_code_cell("show()", outputs=given) for given in ([table, runs], [])]
    stage.name_records(nbformat.v4.new_notebook(cells=cells), known)
    assert cells[0].outputs == [table] and cells[0].metadata["own"] == 1
    assert cells[0].metadata["records"] == [
        {"commit": "0123456789", "runs": 2, "files": ["1.parquet"]},
        {"commit": "unknown", "runs": 1, "files": ["2.parquet"]},
    ]
    assert cells[1].metadata == {"own": 0, "records": []}
    times = nbformat.v4.new_output("display_data", {stage.RUNS: ["_benchmarks/cost.json"]})
    cell = nbformat.v4.new_code_cell("show()", outputs=[times])
    stage.name_records(nbformat.v4.new_notebook(cells=[cell]), stage.measurements())
    assert all(of["runs"] == 0 and len(of["commit"]) == 10 for of in cell.metadata["records"])
    assert {name for of in cell.metadata["records"] for name in of["files"]} == {
        "_benchmarks/cost.json"
    }


def test_a_site_is_lightened_without_a_loss(tmp_path):
    staging()  # whose folder is on the path from then on
    publish = importlib.import_module("publish")
    path = '<path transform="scale(0.123)" d="M 1.2345 -0.009L3 4.56"/>\n'
    path += '<use x="1.2345" y="3e-05" transform="translate(1.2345 2)"/>'
    picture = f'<svg xmlns="http://www.w3.org/2000/svg">{path}</svg>'
    embedded = publish.EMBEDDED + base64.b64encode(picture.encode()).decode()
    files = {
        "_static/mathjax/tex-chtml.js": "used",
        "_static/mathjax/output/chtml/fonts/a.woff": "used",
        "_static/mathjax/sre/mathmaps/en.json": "used",
        "_static/mathjax/tex-svg.js": "spare",
        "_static/mathjax/sre/mathmaps/fr.json": "spare",
        "_static/a.js": "used",
        "_static/a.js.map": "spare",
        "_static/font.woff2": "used",
        "_static/font.ttf": "spare",  # for browsers that know no woff2
        "_static/locales/fr/LC_MESSAGES/booktheme.mo": "spare",
        "notebooks/one.html": f'<img alt="a" src="{embedded}"><img src="{embedded}">',
        "index.html": f'<img src="{embedded}">',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    outputs = [
        nbformat.v4.new_output("display_data", {"text/html": text})
        for text in (
            '<div class="panels">tabs</div>',
            f'<b>kept</b><img src="{embedded}" alt="both">',
        )
    ]
    both = {"image/svg+xml": picture, "text/plain": "what it shows"}
    outputs.append(nbformat.v4.new_output("display_data", both))
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("a = 1\nb", outputs=outputs, execution_count=1)]
    )
    offered = tmp_path / "_sources/notebooks/one.ipynb"
    offered.parent.mkdir(parents=True)
    nbformat.write(notebook, offered)
    publish.lighten(tmp_path)
    for name, text in files.items():
        assert (tmp_path / name).exists() == (text != "spare"), name
    (image,) = (tmp_path / "_images").iterdir()
    small = picture.replace("1.2345", "1.23").replace("-0.009", "-0.00")
    assert image.read_text() == small
    page = (tmp_path / "notebooks/one.html").read_text()
    assert page == f'<img alt="a" src="../_images/{image.name}"><img src="../_images/{image.name}">'
    assert (tmp_path / "index.html").read_text() == f'<img src="_images/{image.name}">'
    read = nbformat.read(offered, as_version=4)
    nbformat.validate(read)
    assert read.cells[0].source == "a = 1\nb"
    kept, drawn = read.cells[0].outputs
    assert kept.data["text/html"] == "<b>kept</b><p>both</p>"
    assert drawn.data == {"text/plain": "what it shows"}


def test_each_paper_has_a_link_and_each_page_the_papers(site):
    bibliography = (site / "book/bibliography.html").read_text()
    entries = (ROOT / "book/references.bib").read_text().split("\n@")
    for entry in entries:
        assert (link := re.search(r"(?:url|doi) = \{([^}]+)\}", entry)), entry
        assert html.escape(link[1]) in bibliography
    for path in list_pages(site):
        page = path.read_text()
        footer = re.search(r'<p class="sources">.*?</p>', page, re.S)[0]
        assert "https://arxiv.org/abs/2507.04683" in footer
        cite = re.search(r'href="([^"]*)#how-to-cite"', footer)[1]
        place = (path.parent / cite).resolve() if cite else path
        assert 'id="how-to-cite"' in place.read_text()


def test_how_to_cite_is_what_the_citation_file_says():
    said = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    box = staging().how_to_cite()
    article = said["preferred-citation"]
    for author in article["authors"]:
        assert f"{author['family-names']}, {author['given-names']}" in box
    for value in (article["title"], str(article["year"]), article["url"], said["title"]):
        assert f"{{{value}}}" in box
    assert box.count("@") == 2 and box.count("{") == box.count("}")


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_page_shows_no_code_no_printed_lines_and_no_quick_verdicts(site, name):
    page = (site / f"notebooks/{name}.html").read_text()
    front, drawer = re.search(r"<article.*?</article>", page, re.S)[0].split('class="drawer"')
    assert "parameters" in drawer and "cell_input" in drawer
    cells = re.split(r'<div class="cell ', front)[1:]
    cells = [cell for cell in cells if "tag_content" not in cell.split(">")[0]]
    assert not [cell[:200] for cell in cells if "cell_input" in cell or "output stream" in cell]
    assert "verdict-quick" not in front and 'class="provenance"' not in front
