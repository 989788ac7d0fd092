"""What *Quickstart* and the front page tell a reader to copy: it runs as printed, and is true."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import warnings
from collections import Counter
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
import torch
from execution import run_cells
from image_folder import make_image_folder
from IPython.utils.capture import capture_output
from nbformat.v4 import new_code_cell, new_notebook
from torch import nn
from torch.nn.functional import cross_entropy

import swrlib
from swrlib import SoftWeightRescaling, claims, load_records, papers, tables
from swrlib.__main__ import main
from swrlib.figures import accuracies
from swrlib.methods import METHODS
from swrlib.overview import late_accuracies
from swrlib.papers import SWR as paper
from swrlib.streams import STREAMS
from swrlib.verdicts import difference

ROOT = Path(__file__).resolve().parent.parent
CELLS = nbformat.read(ROOT / "notebooks/quickstart.ipynb", as_version=4).cells
QUICKSTART = "\n\n".join(cell.source for cell in CELLS if cell.cell_type == "markdown")
BUILT = (ROOT / "book/built.md").read_text("utf-8")
FRONT = (ROOT / "book/index.md").read_text("utf-8")
#: Characters of a line of code that a page of 1280 pixels shows without scrolling.
WIDTH = 78


def blocks(text: str, language: str = "python") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def block(text: str, words: str, language: str = "python") -> str:
    (found,) = (code for code in blocks(text, language) if words in code)
    return found


def mlp(*first: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*first, *(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)))


def test_code_fits_into_a_page_and_can_be_read():
    shown = [cell.source for cell in CELLS if "content" in cell.metadata.get("tags", [])]
    shown += blocks(QUICKSTART) + blocks(FRONT) + blocks(FRONT, "bash") + blocks(BUILT)
    assert len(shown) > 10
    long = [line for code in shown for line in code.splitlines() if len(line) > WIDTH]
    assert long == []
    for code in [*blocks(QUICKSTART), *blocks(FRONT)]:
        compile(code, "a block", "exec")


def test_the_shown_cells_name_nothing_that_is_not_shown():
    """A reader who copies the cells in their order has every name."""
    shown = [cell.source for cell in CELLS if "content" in cell.metadata.get("tags", [])]
    names: dict = {}
    for code in shown:
        code = re.sub(r"^(seeds|epochs|steps) = \d+", r"\1 = 1", code, flags=re.M)
        exec(code.replace("256", "1024"), names)
    assert 0.1 < names["held_out_accuracy"](1e-3, seed=0) <= 1
    assert names["rescaling"].state_dict() == names["swr"].state_dict()


def test_the_step_on_the_front_page_is_taken_in_a_loop():
    model = mlp()
    batches = [(torch.randn(4, 6), torch.tensor([0, 1, 2, 0]))] * 3
    names = {
        "model": model,
        "batches": batches,
        "loss_function": cross_entropy,
        "optimizer": torch.optim.Adam(model.parameters()),
    }
    exec(block(FRONT, "SoftWeightRescaling"), names)
    assert names["rescaling"].lam == 1e-3 and (names["rescaling"].factors() < 1).any()


def test_beside_adamw_what_is_scaled_does_not_decay_and_the_rest_does():
    for model in (mlp(), mlp(nn.Embedding(5, 6), nn.Flatten(0, 1))):
        names = {"torch": torch, "SoftWeightRescaling": SoftWeightRescaling, "model": model}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", "SWR leaves alone")
            exec(block(QUICKSTART, "AdamW"), names)
        optimizer = names["optimizer"]
        decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
        found = {name: decays[id(p)] for name, p in model.named_parameters()}
        embedding = {"0.weight"} if isinstance(model[0], nn.Embedding) else set()
        assert {name for name, decay in found.items() if decay} == embedding
        assert len(found) == len(decays) == 4 + len(embedding)


def test_training_again_each_week_returns_to_the_first_norms(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, later = block(QUICKSTART, "first_week.pt").split("# Each later week")
    model = mlp()
    names = {"torch": torch, "SoftWeightRescaling": SoftWeightRescaling, "model": model}
    exec(first, names)
    start = names["swr"].state_dict()["initial_norms"]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    exec(f"#{later}", names)
    assert names["swr"].state_dict()["initial_norms"] == start
    swr = SoftWeightRescaling(model, lam=1e-3)
    assert all(norm > 2 * start[name] for name, norm in swr.state_dict()["initial_norms"].items())


@pytest.fixture(scope="module")
def folder_of_images(tmp_path_factory) -> Path:
    return make_image_folder(tmp_path_factory.mktemp("images"))


def test_a_choice_with_the_engine_on_a_folder_of_images(folder_of_images, capsys):
    code = block(QUICKSTART, "split=")
    for was, now in {"my/folder": str(folder_of_images), "epochs=20": "epochs=1"}.items():
        assert was in code
        code = code.replace(was, now)
    exec(code.replace("range(3)", "range(1)").replace('"cnn"', '"mlp"'), {})
    said = capsys.readouterr().out
    assert {"vanilla", "swr", "0.0001", "0.0010", "0.0100"} <= {*said.split()}


@pytest.mark.parametrize("text", [FRONT, QUICKSTART], ids=["front page", "quickstart"])
def test_the_command_line_on_a_folder_of_images(text, folder_of_images, tmp_path, monkeypatch):
    (command,) = re.findall(r"python -m swrlib (train(?:\\\n|[^`\n])*)", text)
    command = command.replace("\\\n", " ").replace("my/folder", str(folder_of_images))
    words = shlex.split(command)
    words[words.index("--epochs") + 1] = "1"
    words[words.index("--model") + 1] = "mlp"
    monkeypatch.chdir(tmp_path)
    assert not main(words)
    records = load_records("results")
    assert {"vanilla", "swr"} <= {*records["method"]} and set(records["lam"].dropna()) >= {1e-3}


def test_the_lambda_to_begin_with_is_the_commonest_of_the_papers():
    streams = ("single-task", "warm-start", "full-access", "limited-access")
    found = [paper.published_lambda("swr", *pair, s) for pair in paper.pairs for s in streams]
    pairs = [lam for lam in found if isinstance(lam, tuple)]
    one = Counter(lam for lam in found if not isinstance(lam, tuple))
    assert one.most_common(1) == [(1e-3, 6)] and one.total() == 12
    assert Counter(first for first, _ in pairs).most_common(1) == [(1e-4, 4)]
    assert Counter(second for _, second in pairs).most_common(1) == [(1e-1, 4)] and len(pairs) == 8
    assert "6 of 12 without" in QUICKSTART and "4 of 8 each" in QUICKSTART
    for text in (QUICKSTART, FRONT):
        assert "**Begin with λ = 0.001" in text and "lam_features=1e-4, lam_classifier=1e-1" in text


def test_what_is_said_of_our_records_is_so():
    cnn = load_records(scale="paper", split="all", dataset="cifar10", model="cnn")
    limited = cnn[(cnn["stream"] == "limited-access") & (cnn["stage_epoch"] == 100)]
    ends = limited.groupby(["method", "stage"])["train_accuracy"].mean()
    assert round(ends["swr"].mean(), 2) == 0.79 and (ends["vanilla"][:3] > 0.995).all()
    streams = late_accuracies(cnn)
    beside = {cell[2]: difference(late, "l2", "swr") for cell, late in streams.items()}
    assert all(beside[stream].interval().low > 0 for stream in ("warm-start", "single-task"))
    assert beside["limited-access"].interval().low < 0 < beside["limited-access"].interval().high


def test_the_reference_has_what_a_user_needs_first():
    text = (ROOT / "book/api.md").read_text("utf-8")
    first, inside = text.split("## Inside the book")
    rooms = r"swrlib\.(verdicts|claims|statistics|stacks|population|cost)\b"
    assert not re.search(rooms, first) and "SoftWeightRescaling" in first[:800]
    named = {name.rpartition(".")[2] for name in re.findall(r"^\.\. auto\w+:: (.*)$", first, re.M)}
    assert {*swrlib.__all__} - named == {"Method"} and "swrlib.Method" in inside
    assert {kind.__name__ for kind in METHODS.values()} <= named
    by_name = {kind for kind in STREAMS.values() if f'"{kind.name}"' in swrlib.make_stream.__doc__}
    assert {kind.__name__ for kind in {*STREAMS.values()} - by_name} <= named


# How it is built: what one copies to add a method, a stream, a paper


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """Stand in an empty folder, with records of one's own alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SWR_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("SWR_PROGRESS", "off")
    return tmp_path


def test_a_method_of_ones_own_acts_in_the_engine_and_in_a_loop(alone, shell):
    names: dict = {}
    exec(block(BUILT, "class ShrunkHead"), names)
    records = names["records"].assign(share=lambda table: table["share"].fillna(0.5))
    first, second = (records[records["stage"] == stage] for stage in (1, 2))
    assert first["train_loss"].nunique() == 1, "before a change all runs are one"
    assert second.groupby(["method", "share"])["train_loss"].last().nunique() == 3
    plain = names["records"][names["records"]["share"].isna()]
    figure, _ = accuracies.course(plain)
    assert "shrunk-head" in {line.get_label() for line in figure.axes[0].lines}
    with capture_output() as captured:
        tables.finals(plain)
    assert "shrunk-head" in captured.outputs[0].data["text/html"]
    exec(block(BUILT, "InLoop").replace("method.change()", "..."), names)
    before = [parameter.clone() for parameter in names["model"].parameters()]
    names["method"].change()
    for number, (old, new) in enumerate(zip(before, names["model"].parameters(), strict=True)):
        assert torch.equal(new, old * (0.5 if number > 1 else 1.0))


def test_a_stream_of_ones_own_trains(alone):
    names: dict = {}
    exec(block(BUILT, "class EvenFirst"), names)
    ends = names["records"].groupby("stage")["test_accuracy"].max()
    assert ends[1] < 0.55 < ends[2], "there are as many odd digits"


def test_a_paper_of_ones_own_has_its_strengths_claim_and_chapter(alone, shell, monkeypatch):
    (alone / "example.toml").write_text(block(BUILT, "An example", "toml"))
    names: dict = {}
    exec(block(BUILT, 'find_paper("example.toml")'), names)
    assert set(names["records"]["lam"]) == {1e-3} and names["records"]["epoch"].max() == 2
    for path in papers.FOLDER.glob("*.toml"):
        shutil.copy(path, alone)
    monkeypatch.setattr(papers, "FOLDER", alone)
    rules = ModuleType("swrlib.claims.example")
    exec(block(BUILT, "judge_cases"), vars(rules))
    monkeypatch.setitem(sys.modules, rules.__name__, rules)
    monkeypatch.setattr(claims, "example", rules, raising=False)
    cells = re.split(r"^# %% .*\n", block(BUILT, "# %%"), flags=re.M)[1:]
    notebook = new_notebook(cells=[new_code_cell(source.strip()) for source in cells])
    nbformat.write(notebook, alone / "example.ipynb")
    shown = [cell.outputs for cell in run_cells(shell, alone / "example.ipynb").cells]
    said = " ".join(str(output.data) for outputs in shown for output in outputs)
    assert "SWR ends above plain training." in said and "verdict-not-run" in said
    assert "n = 3" in said and "<svg" not in said and "image/svg+xml" in said
    records = shell.user_ns["own"]
    assert set(records["lam"].dropna()) == {1e-3} and set(records["lr"].dropna()) == {5e-4}
