"""The first use of a term on a page leads to the glossary and says what the term means."""

import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = f"""\
import sys
sys.path.insert(0, {str(ROOT / "book/extensions")!r})
extensions = ["myst_parser", "terms"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
"""
PAGE = """\
# Vanilla and S&P

`vanilla` or $vanilla$ or [vanilla](index.md): no. Norms drop, and head resets are not L2.
The *drop* is none of L2-regularized, L2 Init or SL2. Vanilla is vanilla. L2 and L2 Init again.

| table | S&P |
|---|---|
| S&P | full reset |

- S&P in a list.
"""


@pytest.fixture(scope="module")
def links(tmp_path_factory) -> list[tuple[str, str, str]]:
    """Return place, meaning and text of each link of a page to the project's glossary."""
    folder = tmp_path_factory.mktemp("book")
    (folder / "book").mkdir()
    (folder / "conf.py").write_text(SETTINGS)
    (folder / "index.md").write_text("# Book\n\n```{toctree}\nbook/glossary\npage\n```\n")
    (folder / "book/glossary.md").write_text((ROOT / "book/glossary.md").read_text())
    (folder / "page.md").write_text(PAGE)
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", folder, folder / "site"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    glossary = (folder / "site/book/glossary.html").read_text()
    assert 'internal term"' not in glossary
    page = (folder / "site/page.html").read_text()
    tags = re.findall(r'<a class="([^"]*)" href="([^"]*)" title="([^"]*)">(.*?)</a>', page)
    found = []
    for _, place, meaning, text in (tag for tag in tags if "term" in tag[0].split()):
        assert place.startswith("book/glossary.html#") and f'id="{place.split("#")[1]}"' in glossary
        found.append((place.split("#")[1], meaning, unescape(re.sub("<[^>]*>", "", text))))
    return found


def test_the_first_use_of_each_term_is_linked_and_no_other(links):
    assert [text for *_, text in links] == ["head resets", "L2", "L2 Init", "Vanilla", "S&P"]


def test_a_link_says_what_its_term_means(links):
    meanings = {text: meaning for _, meaning, text in links}
    assert "Adam, and nothing else" in meanings["Vanilla"]
    assert "initial values" in meanings["L2 Init"] and "initial" not in meanings["L2"]


def test_the_glossary_is_in_the_book_and_has_the_words_that_chapters_use():
    listed = yaml.safe_load((ROOT / "_toc.yml").read_text())["parts"][-1]["chapters"]
    assert {"file": "book/glossary"} in listed
    terms = re.findall(r"^(\S.*)\n  \S", (ROOT / "book/glossary.md").read_text(), re.M)
    wanted = ["vanilla", "L2", "L2 Init", "S&P", "head reset", "full reset", "stream", "stage"]
    assert {*wanted, "block design", "drop", "late mean", "plasticity"} <= set(terms)
