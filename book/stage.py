"""Lay out what the website is built from: prose, executed chapters, records, the two settings.

Usage: python book/stage.py EXECUTED STAGE

The stage has the same layout as the repository, so that a link between pages holds in both. Some
things differ: a notebook that the site shows several times has one file a chapter, the page of all
claims and the front page get what comes from chapters and records, and nothing is executed (Jupyter
Book would publish a traceback without complaint, so errors are refused here). If the repository has
an address, every chapter begins with a cell that the page does not show: whoever opens the file
where the project is not installed, on Colab say, gets it.
"""

import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from html import escape
from pathlib import Path

import inputs
import nbformat
import pandas as pd
import play
import yaml
from library import ARCHIVE, write_library

from swrlib import load_records, verdicts
from swrlib.cost import BENCHMARKS
from swrlib.figures.forest import forest
from swrlib.notebook import RUNS
from swrlib.overview import Overview
from swrlib.overview.advice import advice
from swrlib.overview.scorecard import scorecard
from swrlib.papers import SWR as paper
from swrlib.papers import Claim, Paper, find_paper, known_papers
from swrlib.records import load_provenance
from swrlib.tables import badge, claim_line

WIDGET = "application/vnd.jupyter.widget-view+json"
LABEL = re.compile(r"^(?:\(|:(?:name|label): *)([\w-]+)(?:\)=)?$", re.M)


def prepare_chapter(path: Path, chapter: dict) -> nbformat.NotebookNode:
    """Read an executed chapter for the website.

    Errors are refused. Widgets go, since they need a kernel. A picture's alternative text moves
    from the output to the cell, where MyST-NB looks for it. A cell whose metadata say ``only`` is
    there in the chapters that have these parameters.
    """
    notebook = nbformat.read(path, as_version=4)
    given = chapter.get("parameters", {}).items()
    notebook.cells = [c for c in notebook.cells if c.metadata.get("only", {}).items() <= given]
    notebook.metadata.pop("widgets", None)
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        for output in cell.outputs:
            if output.output_type == "error":
                raise SystemExit(f"{path}: cell {number} ended in {output.ename}: {output.evalue}")
        cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
        for output in cell.outputs:
            for kind, details in output.get("metadata", {}).items():
                if kind.startswith("image/") and "alt" in details:
                    image = cell.metadata.setdefault("mystnb", {}).setdefault("image", {})
                    image.setdefault("alt", details["alt"])
        if cell.execution_count is None and cell.source.strip():
            raise SystemExit(f"{path}: cell {number} was not executed.")
    if (title := chapter.get("title")) is not None:
        heading = find_heading(notebook)
        heading.source = "\n".join([f"# {title}", *heading.source.splitlines()[1:]])
    return notebook


def name_records(notebook: nbformat.NotebookNode, known: pd.DataFrame) -> None:
    """Write into each cell's metadata which records are behind what it shows.

    ``records`` are one entry a commit (``commit``, with `` with changes`` where there were some,
    ``runs`` and ``files``); ``own`` is how many runs the page trained itself. A file of times
    stands for itself, and counts as no run.
    """
    changed = known["dirty"].eq(True).map({True: " with changes", False: ""})
    known = known.assign(commit=known["commit"].fillna("unknown").str[:10] + changed)
    measurements = known["run"].eq(known["job"])
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        found = [output["data"][RUNS] for output in cell.outputs if RUNS in output.get("data", {})]
        cell.outputs = [output for output in cell.outputs if RUNS not in output.get("data", {})]
        runs = {run for listed in found for run in listed}
        rows = known[known["run"].isin(runs)]
        cell.metadata["own"] = len(runs) - rows["run"].nunique()
        cell.metadata["records"] = [
            {
                "commit": commit,
                "runs": of.loc[~measurements[of.index], "run"].nunique(),
                "files": sorted(set(of["job"])),
            }
            for commit, of in rows.groupby("commit")
        ]


def measurements() -> pd.DataFrame:
    """Return the commits of the files of times: a row a part, as `load_provenance` has a run."""
    folder = inputs.results_folder()
    rows = []
    for path in sorted(folder.glob(f"{BENCHMARKS}/*.json")):
        content, name = json.loads(path.read_text("utf-8")), path.relative_to(folder).as_posix()
        machines = [part.get("machine") for part in content.values() if isinstance(part, dict)]
        for about in filter(None, [content.get("machine"), *machines]):
            rows.append({"run": name, "job": name} | {k: about.get(k) for k in ("commit", "dirty")})
    return pd.DataFrame(rows, columns=["run", "job", "commit", "dirty"]).drop_duplicates()


def find_heading(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return the cell that begins with the chapter's title."""
    texts = (cell for cell in notebook.cells if cell.cell_type == "markdown")
    return next(cell for cell in texts if cell.source.startswith("# "))


def title_of(notebook: nbformat.NotebookNode) -> str:
    """Return a chapter's title."""
    return find_heading(notebook).source.splitlines()[0].removeprefix("# ")


def rename_labels(notebook: nbformat.NotebookNode, suffix: str) -> None:
    """Make the labels of a further chapter of the same notebook its own: labels are book-wide."""
    figures = [
        cell.metadata.mystnb.figure
        for cell in notebook.cells
        if "name" in cell.metadata.get("mystnb", {}).get("figure", {})
    ]
    texts = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    labels = {figure["name"] for figure in figures}
    for cell in texts:
        labels |= set(LABEL.findall(cell.source))
    for figure in figures:
        figure["name"] += suffix
    if labels:
        own = re.compile(rf"(?<![\w-])({'|'.join(map(re.escape, labels))})(?![\w-])")
        for cell in texts:
            cell.source = own.sub(rf"\1{suffix}", cell.source)


def installing_cell(url: str, branch: str) -> nbformat.NotebookNode:
    """Return the cell that fetches and installs the project where it is not installed.

    It leaves no name behind but modules: a chapter takes other values for parameters.
    """
    code = f"""\
# Where the project is not installed, on Colab say: fetch and install it. Elsewhere nothing happens.
import importlib.util
import os
import subprocess
import sys

if importlib.util.find_spec("swrlib") is None:
    subprocess.run(
        ["git", "clone", "--quiet", "--depth", "1", "--branch", {branch!r}, {url!r}, "project"],
        check=True,
    )
    packages = ["./project[pictures]", "ipywidgets", "mlxtend", "pillow", "torchvision", "tqdm"]
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *packages], check=True)
    del packages
    importlib.invalidate_caches()
    os.chdir("project/notebooks")"""
    return nbformat.v4.new_code_cell(code, metadata={"tags": ["remove-cell", "install"]})


def site_settings(root: Path, chapters: dict, notebooks: dict[str, nbformat.NotebookNode]) -> dict:
    """Return the settings: nothing executed, facts of each chapter, buttons if there's an address.

    Extensions read the facts: a page's notebook, its parameters, and its verdicts.
    """
    settings = yaml.safe_load((root / "_config.yml").read_text())
    settings["execute"] = {"execute_notebooks": "off"}
    settings["sphinx"]["config"]["html_extra_path"] = [ARCHIVE]
    settings["sphinx"]["config"]["chapters"] = {
        f"notebooks/{name}": {
            "notebook": f"notebooks/{chapter['notebook']}",
            "parameters": chapter.get("parameters", {}),
            "verdicts": counted_verdicts(notebooks[name]),
        }
        for name, chapter in chapters.items()
    }
    if settings["repository"]["url"]:
        settings["html"] |= dict.fromkeys(
            ["use_repository_button", "use_edit_page_button", "use_issues_button"], True
        )
        settings["launch_buttons"] = {
            "notebook_interface": "jupyterlab",
            "binderhub_url": "https://mybinder.org",
            "colab_url": "https://colab.research.google.com",
        }
    return settings


def site_contents(root: Path, chapters: dict) -> dict:
    """Return the table of contents with every chapter of a notebook where the notebook stands."""
    contents = yaml.safe_load((root / "_toc.yml").read_text())
    for part in contents["parts"]:
        part["chapters"] = [
            {"file": f"{folder}/{chapter}"}
            for folder, name in (entry["file"].split("/") for entry in part["chapters"])
            for chapter in (
                [key for key, value in chapters.items() if value["notebook"] == name]
                if folder == "notebooks"
                else [name]
            )
        ]
    return contents


def shown_verdicts(notebook: nbformat.NotebookNode) -> dict[str, list[dict[str, str]]]:
    """Return what a chapter's banners say, by the id of the claim."""
    found: dict[str, list[dict[str, str]]] = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            about = output.get("metadata", {}).get("text/html", {})
            for verdict in about.get("verdicts", []):
                found.setdefault(verdict["claim"], []).append(verdict)
    return found


def counted_verdicts(notebook: nbformat.NotebookNode) -> str:
    """Return how many of a chapter's claims have which verdict, as badges; empty without claims."""
    words = Counter(
        verdicts.first_rule.combined({verdict["verdict"] for verdict in found})
        for found in shown_verdicts(notebook).values()
    )
    last = words.pop(verdicts.NOT_RUN, 0)
    counts = [*words.most_common(), *([(verdicts.NOT_RUN, last)] if last else [])]
    return " ".join(badge(word, f"{n} {word}") for word, n in counts)


def claims_page(notebooks: dict[str, nbformat.NotebookNode]) -> str:
    """Write the verdicts of all chapters as Markdown: how many of each, then chapter by chapter."""
    parts = chapters_of(paper, notebooks)
    return "\n\n".join(
        [
            counted(paper, notebooks),
            *(f"## {chapter}\n\n{lines}" for chapter, lines in parts.items()),
        ]
    )


def neighbours_claims(notebooks: dict[str, nbformat.NotebookNode]) -> str:
    """Write the same of the other papers, which count by themselves: a part each, with its name."""
    parts = []
    for other in (find_paper(name) for name in known_papers()):
        if other is paper or not other.claims:
            continue
        parts.append(f"### {escape(other.title)}\n\n{escape(other.source)}.")
        parts.append(counted(other, notebooks))
        for chapter, lines in chapters_of(other, notebooks).items():
            parts += [f"Judged in {chapter}:", lines]
    return "\n\n".join(parts)


def counted(of: Paper, notebooks: dict[str, nbformat.NotebookNode]) -> str:
    """Write how many claims of a paper have which word; several words of one are combined."""
    words: dict[str, set[str]] = {claim.id: set() for claim in of.claims}
    partly = set()
    for notebook in notebooks.values():
        for id, found in shown_verdicts(notebook).items():
            if id in words:
                words[id] |= {verdict["verdict"] for verdict in found}
                partly |= {id for verdict in found if " comparisons)" in verdict["label"]}
    combined = {id: verdicts.first_rule.combined(found) for id, found in words.items()}
    overall, of_these = Counter(combined.values()), Counter(combined[id] for id in partly)
    counts = " ".join(
        badge(word, f"{n} {word}" + (f" ({of_these[word]} in part)" if of_these[word] else ""))
        for word, n in overall.most_common()
    )
    return f"{len(words)} claims: {counts}"


def chapters_of(of: Paper, notebooks: dict[str, nbformat.NotebookNode]) -> dict[str, str]:
    """Write the lines of a paper's claims, by the link to the chapter that shows a verdict."""
    parts = {}
    for name, notebook in notebooks.items():
        shown = shown_verdicts(notebook)
        lines = [
            f'<div class="claim">{line_of(claim, shown[claim.id])}</div>'
            for claim in of.claims
            if claim.id in shown
        ]
        if lines:
            listed = "\n".join(['<div class="claims">', *lines, "</div>"])
            parts[f"[{title_of(notebook)}](../notebooks/{name}.ipynb)"] = listed
    return parts


def line_of(claim: Claim, shown: list[dict[str, str]]) -> str:
    """Write a claim with its verdicts in one chapter, and the numbers behind them."""
    badges = dict.fromkeys(badge(verdict["verdict"], verdict["label"]) for verdict in shown)
    line = claim_line(claim, " ".join(badges))
    details = dict.fromkeys(escape(v["detail"]) for v in shown if v["detail"])
    if details:
        line += f"<details><summary>the numbers</summary>{'<br>'.join(details)}</details>"
    return line


def both_rules(notebooks: dict[str, nbformat.NotebookNode]) -> str:
    """Write as Markdown what the first rule said of each claim, what the second says, and why."""
    labels: dict[str, list[str]] = {}
    for notebook in notebooks.values():
        for claim, found in shown_verdicts(notebook).items():
            labels.setdefault(claim, []).extend(badge(v["verdict"], v["label"]) for v in found)
    lines = ["| claim | first rule | second rule | why |", "|---|---|---|---|"]
    for claim in paper.claims:
        now = " ".join(dict.fromkeys(labels.get(claim.id, [badge(verdicts.NOT_RUN)])))
        was = badge(claim.was.split(" (")[0], claim.was) if claim.was else "–"
        lines.append(f"| {escape(claim.sentence)} | {was} | {now} | {escape(claim.changed)} |")
    return "\n".join(lines)


def trained_table() -> str:
    """Write as Markdown what the records hold: a line for each setting, none left out."""
    records = load_records(inputs.results_folder()).drop_duplicates("run")
    lines = [
        "| stream | data, model | epochs | methods | seeds | runs |",
        "|---|---|---|---|---|---|",
    ]
    setting = ["stream", "dataset", "model", "split", "epochs"]
    for (stream, dataset, model, split, epochs), rows in records.groupby(setting):
        variants = rows.groupby(["method", "seed"]).size().groupby("method").max()
        methods = "; ".join(
            paper.label(method) + (f" (×{variants[method]})" if variants[method] > 1 else "")
            for method in paper.labels
            if method in variants
        )
        where = f"{paper.label(dataset)}, {paper.label(model)}"
        name = paper.label(stream) + (", a tenth held out" if split == "selection" else "")
        seeds, runs = verdicts.seed_count(rows), rows["run"].nunique()
        lines.append(f"| {name} | {where} | {epochs} | {methods} | {seeds} | {runs} |")
    return "\n".join(lines)


def fill_pages(
    folder: Path, notebooks: dict[str, nbformat.NotebookNode], records: pd.DataFrame
) -> None:
    """Put what the records and the chapters say into the pages, where marks ask for it."""
    titles = {name: title_of(notebook) for name, notebook in notebooks.items()}
    fillings: dict[str, Callable[[], str]] = {
        "<!-- verdicts -->": lambda: claims_page(notebooks),
        "<!-- neighbours -->": lambda: neighbours_claims(notebooks),
        "<!-- comparisons -->": lambda: forest(verdicts.all_comparisons(records), titles),
        "<!-- trained -->": trained_table,
        "<!-- both rules -->": lambda: both_rules(notebooks),
        "<!-- scorecard -->": lambda: scorecard(records),
        "<!-- for a user -->": lambda: sentences_for_a_user(records),
        "<!-- how to cite -->": how_to_cite,
        "<!-- how to clone -->": how_to_clone,
    }
    for page in folder.glob("*.md"):
        text = page.read_text()
        for mark, filling in fillings.items():
            if mark in text:
                text = text.replace(mark, filling())
        if page.stem == "index":
            shuffled = load_records(inputs.results_folder(), stream="label-shuffled")
            text = Overview(records, shuffled).fill(text)
        page.write_text(text)


def sentences_for_a_user(records: pd.DataFrame) -> str:
    """Return the advice as a list."""
    return "\n".join(f"- **{question}** {said}" for question, said in advice(records).items())


def how_to_clone() -> str:
    """Return the commands that clone the repository; nothing where it has no address."""
    url = inputs.read_yaml("_config.yml")["repository"]["url"].rstrip("/")
    name = url.rpartition("/")[2].removesuffix(".git")
    return f"```bash\ngit clone {url}\ncd {name}\n```" if url else ""


def how_to_cite() -> str:
    """Return CITATION.cff as BibTeX: the paper for its method, this project for what it found."""
    project = inputs.read_yaml("CITATION.cff")
    article = project["preferred-citation"]
    names = (f"{one['family-names']}, {one['given-names']}" for one in article["authors"])
    number = article["identifiers"][0]["value"]
    entries = {
        "article{oh2025swr": {
            "title": article["title"],
            "author": " and ".join(names),
            "journal": f"{article['journal']} {number}",
            "year": article["year"],
            "url": article["url"],
        },
        "software{swrlib": {
            "title": project["title"],
            "author": f"{{{project['authors'][0]['name']}}}",
            "version": project["version"],
            "url": inputs.read_yaml("_config.yml")["repository"]["url"],
        },
    }
    written = []
    for head, entry in entries.items():
        fields = [f"  {name} = {{{value}}}" for name, value in entry.items() if value]
        written.append(",\n".join([f"@{head}", *fields]) + "\n}")
    return "\n".join(["```bibtex", "\n\n".join(written), "```"])


def main(executed: Path, stage: Path) -> None:
    """Check every chapter first, then lay out the stage anew."""
    root = Path(__file__).resolve().parent.parent
    chapters = yaml.safe_load((root / "config/quick.yaml").read_text())["chapters"]
    notebooks = {
        name: prepare_chapter(executed / f"{name}.ipynb", chapter)
        for name, chapter in chapters.items()
    }
    for name, notebook in notebooks.items():
        if name != chapters[name]["notebook"]:
            rename_labels(notebook, f"-{name.replace('_', '-')}")
    known = pd.concat([load_provenance(inputs.results_folder()), measurements()], ignore_index=True)
    for notebook in notebooks.values():
        name_records(notebook, known)
    shutil.rmtree(stage, ignore_errors=True)
    for path in [*inputs.pages(), *inputs.readable_results({})]:
        copy = stage / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    records = load_records(inputs.results_folder(), scale="paper", split="all")
    fill_pages(stage / "book", notebooks, records)
    play.write_curves(stage / "book/style/curves.js", records)
    write_library(stage / ARCHIVE)
    settings = site_settings(root, chapters, notebooks)
    repository = settings["repository"]
    (stage / "notebooks").mkdir()
    for name, notebook in notebooks.items():
        if repository["url"]:
            notebook.cells.insert(0, installing_cell(repository["url"], repository["branch"]))
        nbformat.write(notebook, stage / "notebooks" / f"{name}.ipynb")
    (stage / "_toc.yml").write_text(yaml.safe_dump(site_contents(root, chapters), sort_keys=False))
    (stage / "_config.yml").write_text(yaml.safe_dump(settings, sort_keys=False))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
