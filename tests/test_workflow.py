"""`make book`, with the real tools, on a project of three small chapters: what it makes again, what
it says, and what an error, a signal or a second build does to it.
"""

import ast
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
import yaml

import swrlib

ROOT = Path(__file__).resolve().parent.parent
#: Seconds after which a build of the small project hangs, also on a busy machine.
LIMIT = 400
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGKILL]


def script(name):
    """Return one of the workflow's scripts as a module."""
    if str(ROOT / "book") not in sys.path:
        sys.path.append(str(ROOT / "book"))
    return importlib.import_module(name)


def copy_project(folder: Path, *names: str) -> Path:
    ignore = shutil.ignore_patterns("__pycache__", ".*")
    for name in names:
        copy = folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy, ignore=ignore)
        else:
            shutil.copy(ROOT / name, copy)
    return folder


def write_notebook(path: Path, title: str, *code: str, parameters: str = "text = 'plain'") -> None:
    cells = [
        nbformat.v4.new_markdown_cell(f"# {title}\n\nText."),
        nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        *map(nbformat.v4.new_code_cell, code),
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
    path.parent.mkdir(exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)


def edit_yaml(path: Path, **changes) -> None:
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))


NUMBERS = """\
import json
import os
from pathlib import Path
folder = Path(os.environ["SWR_RESULTS"])
print("the number is", json.loads((folder / "numbers.json").read_text()))"""
RECORDS = """\
from swrlib import load_records
print("runs:", load_records()["run"].nunique())"""


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Build a project of two notebooks and three chapters, with a space in its path."""
    folder = tmp_path_factory.mktemp("a project")
    names = ["Makefile", "Snakefile", "_config.yml", "constraints.txt", "pyproject.toml"]
    names += ["CITATION.cff", "LICENSE", "README.md"]
    copy_project(folder, *names, "profiles", "swrlib", "book", "config/quick.yaml")
    for page in (folder / "book").glob("*.md"):
        page.unlink()
    (folder / "book/index.md").write_text("# A book\n\nIts front page.\n")
    (folder / "book/claims.md").write_text("# Claims\n\n<!-- verdicts -->\n\n<!-- trained -->\n")
    parts = [{"caption": "All", "chapters": [{"file": "notebooks/one"}, {"file": "book/claims"}]}]
    parts[0]["chapters"].append({"file": "notebooks/runs"})
    contents = {"format": "jb-book", "root": "book/index", "parts": parts}
    (folder / "_toc.yml").write_text(yaml.safe_dump(contents))
    chapters = {
        "one": {"notebook": "one", "reads": ["*.json"]},
        "again": {"notebook": "one", "title": "Again", "parameters": {"text": "again"}},
        "runs": {"notebook": "runs"},
    }
    edit_yaml(folder / "config/quick.yaml", chapters=chapters)
    paper = {"results": "results", "selection": [], "records": []}
    (folder / "config/paper.yaml").write_text(yaml.safe_dump(paper))
    # Snakemake that does not end after a signal is killed: here soon.
    job = (folder / "book/job.py").read_text()
    assert "\nGRACE = 20\n" in job
    (folder / "book/job.py").write_text(job.replace("\nGRACE = 20\n", "\nGRACE = 6\n"))
    (folder / "results").mkdir()
    (folder / "results/numbers.json").write_text("17")
    records = [p for p in sorted((ROOT / "results").rglob("*.parquet")) if "measures" not in str(p)]
    for path in records[:2]:
        copy = folder / path.relative_to(ROOT)
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(path, copy)
    write_notebook(folder / "notebooks/one.ipynb", "One", "print('edition 0', text)", NUMBERS)
    write_notebook(folder / "notebooks/runs.ipynb", "Runs", RECORDS)
    result = build(folder)
    assert result.returncode == 0, result.stdout + (folder / "build/logs/book.log").read_text()
    (folder / "first.txt").write_text(result.stdout)
    return folder


@pytest.fixture
def project(built, tmp_path) -> Path:
    """Return a copy of the built project, to be changed."""
    return shutil.copytree(built, tmp_path / "project")


def start(folder: Path) -> subprocess.Popen:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    # Where make runs the tests, a make within it would say which folder it is in.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.Popen(
        ["make", "-o", ".venv/installed", "book"],
        cwd=folder,
        env=clean | {"PATH": path, "PYTHONPATH": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # Whoever starts the tests in the background has Ctrl-C switched off.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def finish(process: subprocess.Popen) -> subprocess.CompletedProcess:
    try:
        output, _ = process.communicate(timeout=LIMIT)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(process.args, process.returncode, output)


def build(folder: Path) -> subprocess.CompletedProcess:
    return finish(start(folder))


def executed(output: str) -> set[str]:
    """Return which jobs ended well."""
    return set(re.findall(r"^(\w+): \d+ s$", output, re.M))


def recorded(folder: Path) -> int:
    return swrlib.load_records(folder / "results")["run"].nunique()


def page(folder: Path, name: str) -> str:
    return (folder / f"build/_build/html/{name}.html").read_text()


def test_a_build_says_a_line_a_job(built):
    output = (built / "first.txt").read_text()
    assert executed(output) == {"one", "again", "runs", "website"}
    assert len(output.splitlines()) == 6, output  # with make's own line and where the website is
    assert "plain" in page(built, "notebooks/one") and "again" in page(built, "notebooks/again")
    assert "the number is 17" in page(built, "notebooks/again")
    assert (built / "build/_build/html/.nojekyll").is_file()
    assert sorted(path.stem for path in (built / "build/notebooks").iterdir()) == [
        "again",
        "one",
        "runs",
    ]


def test_nothing_is_made_again_for_a_comment_a_touch_or_a_stray_file(project):
    module = project / "swrlib/records.py"
    module.write_text("# A remark.\n" + module.read_text())
    for path in [*project.glob("notebooks/*"), *project.glob("results/*"), *project.glob("book/*")]:
        os.utime(path)
    for folder in ["swrlib", "book", "results", "notebooks"]:
        (project / folder / ".DS_Store").write_bytes(b"\0")
    (project / "swrlib/.#records.py").symlink_to("nobody@nowhere")
    (project / "book/index.md~").write_text("old")
    result = build(project)
    assert result.returncode == 0 and not executed(result.stdout), result.stdout


def test_only_what_reads_a_changed_file_is_made_again(project):
    before = recorded(project)
    next((project / "results").rglob("*.parquet")).unlink()
    result = build(project)
    assert result.returncode == 0
    # "one" says that it reads other files; "again" says nothing, so it may read any.
    assert executed(result.stdout) == {"again", "runs", "website"}
    assert f"runs: {recorded(project)}" in page(project, "notebooks/runs")
    assert recorded(project) < before


def test_a_chapter_that_fails_is_named_each_time_and_the_last_site_stays(project):
    write_notebook(project / "notebooks/runs.ipynb", "Runs", "1 / 0")
    (project / "book/index.md").write_text("# A book\n\nChanged.\n")
    for _ in range(2):
        result = build(project)
        assert result.returncode != 0
        assert "runs: failed" in result.stdout and "ZeroDivisionError" in result.stdout
        assert "build/logs/runs.ipynb" in result.stdout
        assert "The website:" not in result.stdout and len(result.stdout) < 4000
        assert f"runs: {recorded(project)}" in page(project, "notebooks/runs")
        assert "Its front page" in page(project, "book/index")
    assert "1 / 0" in (project / "build/logs/runs.ipynb").read_text()
    write_notebook(project / "notebooks/runs.ipynb", "Runs", "print(6 * 7)")
    result = build(project)
    assert result.returncode == 0 and executed(result.stdout) == {"runs", "website"}
    assert "42" in page(project, "notebooks/runs") and "Changed" in page(project, "book/index")


def test_a_website_that_fails_leaves_the_last_one(project):
    (project / "book/index.md").write_text("# A book\n\n[nowhere](missing.md)\n")
    result = build(project)
    assert result.returncode != 0 and "website: failed" in result.stdout
    assert "missing.md" in result.stdout
    assert "Its front page" in page(project, "book/index")


@pytest.mark.timeout(900)  # four builds
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_build_that_is_stopped_is_carried_on_by_the_next(project, number):
    for edition, moment in enumerate([4, 12, 8]):
        code = f"import time; time.sleep(2); print('edition {edition}', text)"
        write_notebook(project / "notebooks/one.ipynb", "One", code)
        process = start(project)
        time.sleep(moment)
        os.killpg(process.pid, number)
        stopped = finish(process)
        assert stopped.returncode != 0 and len(stopped.stdout) < 1000, stopped.stdout
    result = build(project)
    assert result.returncode == 0, result.stdout
    for name in ["one", "again"]:
        assert f"edition {edition}" in page(project, f"notebooks/{name}")


def test_what_changes_during_a_build_is_not_taken_for_built(project):
    # The chapter itself changes what it is made of, as an editor might.
    change = "import pathlib; pathlib.Path('../results/numbers.json').write_text('19')"
    write_notebook(project / "notebooks/one.ipynb", "One", NUMBERS, change)
    result = build(project)
    assert result.returncode != 0
    assert "one: failed" in result.stdout and "has changed while it ran" in result.stdout
    assert "the number is 17" in page(project, "notebooks/one")
    assert build(project).returncode == 0
    assert "the number is 19" in page(project, "notebooks/one")


def test_of_two_builds_at_once_one_waits_for_the_other(project):
    write_notebook(project / "notebooks/one.ipynb", "One", "print('edition 1')")
    results = [finish(process) for process in [start(project), start(project)]]
    assert [result.returncode for result in results] == [0, 0]
    made = [executed(result.stdout) for result in results]
    assert sorted(map(len, made)) == [0, 3], made
    assert any("waiting for its end" in result.stdout for result in results)
    assert "edition 1" in page(project, "notebooks/again")


def test_a_mistake_in_the_workflow_is_shown(project):
    (project / "Snakefile").write_text("rule book:\n    inputs: 1\n")
    result = build(project)
    assert result.returncode != 0 and "inputs" in result.stdout


def test_a_kernel_that_does_not_answer_fails_its_chapter_within_the_limit(project):
    limits = {"kernel_seconds": 60, "cell_seconds": 3, "chapter_minutes": 5, "site_minutes": 5}
    edit_yaml(project / "config/quick.yaml", limits=limits | {"training_hours": 1})
    stop = "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"
    write_notebook(project / "notebooks/runs.ipynb", "Runs", stop)
    result = build(project)
    assert result.returncode != 0 and "runs: failed" in result.stdout, result.stdout
    assert "timed out" in result.stdout.lower()


def test_a_job_that_waits_for_ever_ends_with_all_it_started(tmp_path):
    kernel = "import time; time.sleep(600)"
    command = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {kernel!r}], start_new_session=True)
print(child.pid, flush=True)
time.sleep(600)"""
    log = tmp_path / "job.log"
    begun = time.monotonic()
    arguments = ["waiting", "0.05", log, sys.executable, "-c", command]
    result = subprocess.run(
        [sys.executable, ROOT / "book/job.py", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 124 and time.monotonic() - begun < 30
    assert "waiting: stopped, since it had not ended after 0.05 minutes" in result.stdout
    child = int(log.read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


# ---------------------------------------------------------------------------------------------
# What a chapter is made of: the digests of the real project, without a build


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    names = ["book", "config", "notebooks", "results", "swrlib", "_config.yml", "_toc.yml"]
    names += ["constraints.txt", "CITATION.cff", "LICENSE", "README.md", "pyproject.toml"]
    return copy_project(tmp_path_factory.mktemp("sources"), *names)


def digests(folder: Path, *path: Path) -> dict[str, str]:
    """Return the digest of each chapter, and that of the website."""
    code = """
import inputs, json
found = {name: inputs.chapter_digest(name) for name in inputs.settings()["chapters"]}
print(json.dumps(found | {"": inputs.site_digest()}))
"""
    given = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, [*path, folder / "book"]))}
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=given,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def before(sources) -> dict[str, str]:
    return digests(sources)


@pytest.fixture
def changed(sources, before, tmp_path):
    """Return what tells which digests a change alters: names of chapters, "" for the website."""
    folder = shutil.copytree(sources, tmp_path / "sources")

    def names(change) -> set[str]:
        change(folder)
        after = digests(folder)
        return {name for name in before if after[name] != before[name]}

    return names


CHAPTERS = set(yaml.safe_load((ROOT / "config/quick.yaml").read_text())["chapters"])


def append(name: str, text: str):
    return lambda folder: (folder / name).write_text((folder / name).read_text() + text)


def test_a_comment_alters_nothing(changed):
    assert changed(append("swrlib/engine/training.py", "\n# A remark.\n")) == set()


def test_code_that_every_chapter_imports_alters_them_all(changed):
    assert changed(append("swrlib/engine/training.py", "\n\ndef new():\n    pass\n")) == {
        "",
        *CHAPTERS,
    }


def test_a_changed_docstring_alters_the_reference_alone(changed):
    def change(folder):
        path = folder / "swrlib/engine/training.py"
        first = ast.get_docstring(ast.parse(path.read_text()), clean=False)
        path.write_text(path.read_text().replace(first, "Something else.", 1))

    assert changed(change) == {""}


def test_code_alters_the_chapters_that_import_it(changed):
    importing = {"cost", "engine", "predictors"}
    assert changed(append("swrlib/cost.py", "\nSMALL = 0.06\n")) == {"", *importing}


def test_what_an_import_imports_counts(changed):
    # No chapter names swrlib.engine.progress: swrlib.engine.training imports it.
    assert changed(append("swrlib/engine/progress.py", "\nNEW = 1\n")) == {"", *CHAPTERS}


def test_data_beside_a_module_count_but_not_their_comments(changed):
    (name, *_) = sorted(path.relative_to(ROOT) for path in (ROOT / "swrlib").rglob("*.toml"))
    assert changed(append(str(name), "\n# A remark.\n")) == set()
    assert changed(append(str(name), "\n[new]\nvalue = 1\n")) == {"", *CHAPTERS}


def test_files_that_tools_leave_alter_nothing(changed):
    def leave(folder):
        for place in ["swrlib", "swrlib/theory", "book", "book/style", "results", "notebooks"]:
            (folder / place / ".DS_Store").write_bytes(b"\0")
            (folder / place / ".records.py.swp").write_bytes(b"\0")
            (folder / place / ".#records.py").symlink_to("nobody@nowhere")
            (folder / place / "__pycache__").mkdir()
            (folder / place / "__pycache__/records.pyc").write_bytes(b"\0")
        for name in ["swrlib/records.py~", "swrlib/records (copy).py", "book/#index.md#"]:
            (folder / name).write_text("import nothing\n")

    assert changed(leave) == set()


def test_times_and_outputs_alter_nothing(changed):
    def change(folder):
        path = folder / "notebooks/errata.ipynb"
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = [nbformat.v4.new_output("stream", text="by hand")]
                cell.execution_count = 1
        nbformat.write(notebook, path)
        for file in folder.rglob("*"):
            os.utime(file, (4e9, 4e9))

    assert changed(change) == set()


def test_a_record_alters_the_chapters_that_may_read_it(changed):
    def remove(folder):
        next((folder / "results").rglob("*.parquet")).unlink()

    assert changed(remove) == {"", *CHAPTERS} - {"quickstart"}


def test_measured_times_alter_their_chapter(changed):
    def change(folder):
        path = next((folder / "results").rglob("*cost.json"))
        path.write_text(json.dumps(json.loads(path.read_text()) | {"more": 1}))

    names = changed(change)
    assert {"", "cost", "engine"} <= names and "quickstart" not in names


def test_parameters_and_text_alter_their_chapter(changed):
    def change(folder):
        settings = yaml.safe_load((folder / "config/quick.yaml").read_text())
        settings["chapters"]["warm_start"]["parameters"] = {"seeds": 1}
        (folder / "config/quick.yaml").write_text(yaml.safe_dump(settings))
        path = folder / "notebooks/lipschitz.ipynb"
        path.write_text(path.read_text().replace("Lipschitz", "LIPSCHITZ", 1))

    assert changed(change) == {"", "warm_start", "lipschitz"}


def test_another_version_of_a_package_alters_every_chapter(sources, before, tmp_path):
    about = tmp_path / "torch-99.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 99.0\n")
    after = digests(sources, tmp_path)
    assert all(before[name] != after[name] for name in before)


def test_a_file_that_cannot_be_read_is_the_chapters_affair(changed):
    def change(folder):
        (folder / "notebooks/errata.ipynb").write_text("{")
        (folder / "swrlib/cost.py").write_text("def (")

    assert changed(change) == {"", "errata", "cost", "engine", "predictors"}


# ---------------------------------------------------------------------------------------------
# A repository with an address


@pytest.fixture(scope="module")
def with_address(built, tmp_path_factory) -> Path:
    folder = shutil.copytree(built, tmp_path_factory.mktemp("address") / "project")
    repository = {"url": "https://github.com/someone/something", "branch": "trunk"}
    edit_yaml(folder / "_config.yml", repository=repository)
    result = build(folder)
    assert result.returncode == 0 and executed(result.stdout) == {"website"}, result.stdout
    return folder


def test_buttons_lead_to_files_that_exist(with_address):
    at = r"https://github\.com/someone/something"
    for name, notebook in {"one": "one", "again": "one", "runs": "runs"}.items():
        text = page(with_address, f"notebooks/{name}")
        (edit,) = set(re.findall(rf'href="{at}/edit/trunk/([^"]+)"', text))
        binder = r'href="https://mybinder\.org/v2/gh/someone/something/trunk\?urlpath=lab/tree/'
        (launched,) = set(re.findall(rf'{binder}([^"]+)"', text))
        assert edit == launched == f"notebooks/{notebook}.ipynb"
        assert (with_address / edit).is_file()
        colab = r'href="https://colab\.research\.google\.com/github/someone/something/blob/'
        (copy,) = set(re.findall(rf'{colab}gh-pages/([^"]+)"', text))
        assert copy == f"_sources/notebooks/{name}.ipynb"
        assert (with_address / "build/_build/html" / copy).is_file()
        linked = set(re.findall(rf'href="{at}/(?:blob|tree)/HEAD/([^"]+)"', text))
        assert linked == {f"notebooks/{notebook}.ipynb", "results"}
    text = page(with_address, "book/claims")
    assert set(re.findall(rf'href="{at}/edit/trunk/([^"]+)"', text)) == {"book/claims.md"}
    assert "mybinder" not in text and "https://mybinder.org" in page(with_address, "notebooks/one")


def test_the_real_settings_keep_the_themes_options(root):
    settings = yaml.safe_load((root / "_config.yml").read_text())
    assert settings["sphinx"]["recursive_update"] is True
    assert "buttons" in settings["sphinx"]["local_extensions"]


def test_without_an_address_there_is_no_button_and_no_cell(built):
    text = page(built, "notebooks/one")
    assert "mybinder" not in text and "colab" not in text and "/edit/" not in text
    offered = (built / "build/_build/html/_sources/notebooks/one.ipynb").read_text()
    assert "find_spec" not in offered


def test_the_offered_copy_begins_with_a_cell_that_the_page_does_not_show(with_address):
    assert "find_spec" not in page(with_address, "notebooks/one")
    copy = with_address / "build/_build/html/_sources/notebooks/again.ipynb"
    first, *others = nbformat.read(copy, as_version=4).cells
    assert "someone/something" in first.source and "trunk" in first.source
    assert "text = 'again'" in "\n".join(cell.source.replace('"', "'") for cell in others)
    names: dict = {}
    before = Path.cwd()
    exec(first.source, names)  # the project is installed here
    assert Path.cwd() == before
    plain = {key for key in names if not key.startswith("__")}
    assert plain == {"importlib", "os", "subprocess", "sys"}


def test_the_first_cell_installs_the_project_where_it_is_not(tmp_path):
    """In a bare environment, and without what the project needs: that takes minutes."""
    source = tmp_path / "source"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    if listed.returncode:
        pytest.skip("this is no clone")
    copy_project(source, "swrlib", "notebooks", "pyproject.toml", "README.md", "LICENSE")
    commit = ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "all"]
    for arguments in [["init", "-q", "-b", "trunk"], ["add", "."], commit]:
        subprocess.run(["git", *arguments], cwd=source, check=True, timeout=60)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "bare"], check=True, timeout=120)
    cell = script("stage").installing_cell(str(source), "trunk").source
    code = f"{cell}\nprint(os.getcwd())\nprint(importlib.util.find_spec('swrlib').origin)"
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PIP_NO_DEPS": "1"}
    code = code.replace('"./project[pictures]", "ipywidgets", "mlxtend"', '"./project"')
    code = code.replace('"pillow", "torchvision", "tqdm"', "")
    result = subprocess.run(
        [tmp_path / "bare/bin/python", "-c", code],
        cwd=tmp_path,
        env=clean,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    place, origin = result.stdout.split()[-2:]
    assert Path(place) == tmp_path / "project/notebooks"
    assert Path(origin).is_relative_to(tmp_path / "bare")


def test_scripts_run_in_a_clone_made_for_other_line_ends(tmp_path):
    source, clone = tmp_path / "source", tmp_path / "clone"
    copy_project(source, ".ci/run", "Makefile", ".gitattributes")
    commit = ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "all"]
    for arguments in [["init", "-q"], ["add", "-A"], commit]:
        subprocess.run(["git", *arguments], cwd=source, check=True, timeout=60)
    crlf = ["-c", "core.autocrlf=true", "-c", "core.eol=crlf"]
    subprocess.run(["git", *crlf, "clone", "-q", source, clone], check=True, timeout=60)
    for name in [".ci/run", "Makefile"]:
        assert b"\r" not in (clone / name).read_bytes()


def test_what_does_not_end_after_a_signal_is_killed():
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(90)"
    code = (
        "import os, signal, sys, threading, job\n"
        "job.GRACE = 1\n"
        "threading.Timer(2, os.kill, (os.getpid(), signal.SIGTERM)).start()\n"
        f"print('status', job.run([sys.executable, '-c', {deaf!r}], None))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "book", capture_output=True, text=True, timeout=60
    )
    assert done.stdout == f"status {-signal.SIGTERM}\n", done.stderr
