"""When the rules behind the verdicts were made: what the book says of it is what git says."""

from __future__ import annotations

import html
import importlib
import io
import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from swrlib import load_records
from swrlib.papers import ACCURACY_KINDS
from swrlib.papers import SWR as paper
from swrlib.records import load_provenance, read_provenance
from swrlib.streams import STREAMS
from swrlib.verdicts import judge_claim

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "book/verdicts.md").read_text()
COMMIT = re.compile(r"`([0-9a-f]{7})` (\d{4}-\d\d-\d\d \d\d:\d\d)")
KNOWN = re.compile(r"(\d+) seeds? \(([^,()]+), ([^,()]+), ([^()]+)\)")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.partition("## When each rule was made")[2].splitlines()
    if COMMIT.search(line)
]


def git(*arguments: str) -> bytes:
    command = ["git", "-C", str(ROOT), *arguments]
    result = subprocess.run(command, capture_output=True, timeout=60)
    if result.returncode:
        raise LookupError(result.stderr.decode())
    return result.stdout


@pytest.fixture(scope="module")
def history() -> None:
    try:
        shallow = git("rev-parse", "--is-shallow-repository").strip() == b"true"
    except (LookupError, FileNotFoundError):
        pytest.skip("no history: this is not a clone")
    if shallow:
        pytest.skip("no history: a shallow clone")


@cache
def settings_of(blob: str) -> frozenset[tuple[str, str, str, str, int]]:
    """Return what a file of records holds: data set, model, stream, split and seed of its runs."""
    columns = ["dataset", "model", "stream", "split", "seed"]
    try:
        frame = pd.read_parquet(io.BytesIO(git("cat-file", "blob", blob)), columns=columns)
    except Exception:  # a file of measures, which has other columns
        return frozenset()
    return frozenset(frame.drop_duplicates().itertuples(index=False, name=None))


def seeds_recorded(commit: str, dataset: str, model: str, stream: str) -> int:
    """Count the seeds of a setting in the records of a commit."""
    tree = git("ls-tree", commit, "results/").decode().splitlines()
    blobs = [line.split()[2] for line in tree if line.endswith(".parquet")]
    found = frozenset().union(*map(settings_of, blobs))
    wanted = (dataset, model, stream, "all")
    return len({seed for *setting, seed in found if tuple(setting) == wanted})


def test_there_is_a_row_for_every_rule():
    assert len(ROWS) >= 20
    assert all(len(COMMIT.findall(made)) == 1 for _, made, _ in ROWS)
    assert sum(len(KNOWN.findall(known)) for *_, known in ROWS) >= 15


@pytest.mark.parametrize("row", ROWS, ids=[f"{made[1:8]} {rule[:30]}" for rule, made, _ in ROWS])
def test_a_rule_was_made_when_the_page_says(history, row):
    _, made, known = row
    ((commit, time),) = COMMIT.findall(made)
    date = git("show", "-s", "--format=%ad", "--date=format-local:%Y-%m-%d %H:%M", commit)
    assert date.decode().strip() == time
    names = {label: name for name, label in paper.labels.items()}
    for number, *setting in KNOWN.findall(known):
        dataset, model, stream = (names[label] for label in setting)
        assert int(number) == seeds_recorded(commit, dataset, model, stream), setting


def test_the_first_training_of_all_began_after_the_rule_on_accuracies(history, tmp_path):
    """Its file was replaced later, by one with more measures; the history has it."""
    (tmp_path / "first.parquet").write_bytes(
        git("show", "b920311:results/887d940434a534dc.parquet")
    )
    assert read_provenance(tmp_path / "first.parquet")["date"].startswith("2026-11-21T13:17")
    assert "first training at paper scale began at 13:17" in PAGE


def test_what_began_soon_after_a_rule():
    """The times of first trainings that the page names, by the records' own provenance."""
    runs = load_records().drop_duplicates("run")
    began = load_provenance().set_index("run")["date"]

    def first(**setting):
        here = runs.loc[(runs[list(setting)] == pd.Series(setting)).all(axis=1), "run"]
        return began[here].min()[:19]

    assert first(dataset="cifar10", model="mlp") == "2026-11-21T19:06:03"
    assert first(dataset="cifar100", model="cnn-bn") > "2026-11-25T18:12"
    assert first(stream="scaled") > "2026-11-25"
    assert not load_records()["diverged"].any()


@pytest.fixture(autouse=True)
def utc(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")


def test_quick_runs_are_as_short_as_the_page_says():
    most = max(sum(STREAMS[name].quick) for name in paper.epochs)
    assert f"for {most} epochs in all at most" in PAGE


def test_no_page_says_of_all_rules_that_they_came_first():
    pages = {path.name: path.read_text() for path in (ROOT / "book").glob("*.md")}
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        pages[path.name] = "\n".join(cell.source for cell in cells)
    del pages["index.md"]  # of another hand
    said = re.compile(r"(?<!\[were )(?:fixed|written|made) before (?:the|any of the) numbers")
    assert not {name for name, text in pages.items() if said.search(text)}
    assert "written when the verdicts of the first were known" in pages["claims.md"]


# --- Both rules side by side -----------------------------------------------------------------


def stage():
    """Return the script that lays out the site, as a module."""
    if str(ROOT / "book") not in sys.path:
        sys.path.append(str(ROOT / "book"))
    return importlib.import_module("stage")


def test_every_claim_stands_on_the_page_with_both_words():
    assert PAGE.count("<!-- both rules -->") == 1
    first = paper.claims[0]
    shown = {"claim": first.id, "verdict": "mixed", "label": "mixed (1 of 2 comparisons)"}
    output = nbformat.v4.new_output(
        "display_data",
        data={"text/html": ""},
        metadata={"text/html": {"verdicts": [shown | {"detail": ""}]}},
    )
    chapter = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(outputs=[output])])
    lines = stage().both_rules({"one": chapter}).splitlines()[2:]
    assert len(lines) == len(paper.claims)
    for claim, line in zip(paper.claims, lines, strict=True):
        assert line.count(" | ") == 3 and html.escape(claim.sentence) in line
        assert html.escape(claim.changed) in line
        assert claim.was in line
    assert ">mixed (1 of 2 comparisons)</span>" in lines[0]


def test_every_verdict_that_changed_has_its_reason(root):
    records = load_records(root / "results", scale="paper", split="all")
    for claim in paper.claims:
        if claim.kind in ACCURACY_KINDS:
            now = judge_claim(claim, records).verdict
            assert now == claim.was.split(" (")[0] or claim.changed, (claim.id, claim.was, now)
        assert claim.was or claim.changed, claim.id


WHAT_IT_SAID = """
import json
from swrlib import load_records
from swrlib.paper import CLAIMS
from swrlib.verdicts import judge_claim
records = load_records("results", scale="paper", split="all")
print(json.dumps({claim.id: judge_claim(claim, records).label for claim in CLAIMS}))
"""


def test_what_the_first_rule_said_is_what_its_own_code_says_of_its_own_records(history, tmp_path):
    """Of all claims on accuracies; the other claims' chapters take minutes."""
    archive = git("archive", "4303f4f", "swrlib", "results")
    subprocess.run(["tar", "-x"], cwd=tmp_path, input=archive, check=True, timeout=60)
    run = subprocess.run(
        [sys.executable, "-c", WHAT_IT_SAID],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert not run.returncode, run.stderr
    said = json.loads(run.stdout)
    judged = {id: word for id, word in said.items() if word != "judged in its chapter"}
    here = {claim.id: claim.was for claim in paper.claims}
    assert len(judged) >= 25 and judged == {id: here[id] for id in judged}
    for id, was in here.items():  # a claim that has a word was there, or was a part of one that was
        assert not was or id in said or paper.find_claim(id).changed.startswith("Was "), id


def test_on_the_same_cells_the_first_rule_says_what_it_said(root):
    """Claims whose cells, kind and quantifier are as they were."""
    records = load_records(root / "results", scale="paper", split="all")
    for id in ("warm-start-harms", "full-access-steady", "full-access-resets", "overall-swr"):
        claim = paper.find_claim(id)
        assert judge_claim(claim, records).first == claim.was.split(" (")[0], id


def test_a_result_that_is_new_is_said_to_be_new():
    """Reasons do not speak of what is not there: every changed claim was listed, or is new."""
    for claim in paper.claims:
        if not claim.was:
            assert claim.changed.startswith(("Was ", "The caption")), claim.id
