"""Checkpoints in two generations, and locks between processes that are really killed."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import pickle
import resource
import signal
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch

from swrlib.engine.checkpoints import Checkpoint, default_folder, locked
from swrlib.files import replacing

CPU = torch.device("cpu")
IDENTITY = {"runs": ["a", "b"], "measures": []}

# A server that has loaded the library, so that each process is there at once.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(
    ["pytest", "hypothesis", "torchvision.datasets", "swrlib.__main__"]
)


def state(epoch: int) -> dict:
    blocks = [torch.full((2, 3), float(epoch)), torch.arange(5) + epoch]
    rows = [{"epoch": epoch, "lr": 1e-3, "norms": [0.5, float("nan")], "diverged": False}]
    return {"blocks": blocks, "rows": rows, "measured": [("a", epoch, "factor:max", 0.5)]}


def epoch_of(loaded: dict) -> int:
    """Return the epoch of a state that is whole."""
    epoch = loaded["rows"][0]["epoch"]
    expected = state(epoch)
    assert [b.dtype for b in loaded["blocks"]] == [torch.float32, torch.int64]
    assert all(map(torch.equal, loaded["blocks"], expected["blocks"]))
    assert str(loaded["rows"]) == str(expected["rows"])  # NaN is not equal to itself
    assert [tuple(m) for m in loaded["measured"]] == expected["measured"]
    return epoch


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoints" / "0123456789abcdef.pt"


@pytest.fixture
def kept(path):
    """Return a checkpoint with two generations: the epochs 2 and 1."""
    checkpoint = Checkpoint(path, IDENTITY)
    checkpoint.save(state(1))
    checkpoint.save(state(2))
    return checkpoint


def load_quietly(checkpoint: Checkpoint) -> dict:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return checkpoint.load(CPU)


def altered(path: Path, **changes) -> None:
    """Change the identity that stands in a checkpoint."""
    found = torch.load(path, weights_only=True)
    torch.save(found | {"identity": found["identity"] | changes}, path)


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.iterdir()}


# Generations


def test_without_a_checkpoint_there_is_nothing_to_load(path):
    assert Checkpoint(path, IDENTITY).load(CPU) is None
    assert not path.parent.exists()


def test_the_newest_is_loaded_and_the_one_before_it_kept(path):
    checkpoint = Checkpoint(path, IDENTITY)
    for epoch in (1, 2, 3):
        checkpoint.save(state(epoch))
        assert epoch_of(load_quietly(Checkpoint(path, IDENTITY))) == epoch
        names = [path.name, "0123456789abcdef.before.pt"][: min(epoch, 2)]
        assert sorted(p.name for p in path.parent.iterdir()) == sorted(names)
    path.unlink()
    assert epoch_of(load_quietly(checkpoint)) == 2


def test_removing_leaves_nothing(kept, path):
    kept.remove()
    assert not list(path.parent.iterdir())
    assert kept.load(CPU) is None
    kept.remove()


def truncated(keep: float):
    def cut(path):
        whole = path.read_bytes()
        path.write_bytes(whole[: int(keep) if keep >= 1 else int(len(whole) * keep)])

    return cut


def strange(value):
    return lambda path: torch.save(value, path)


BROKEN = {
    "empty": (truncated(0), "cannot be read"),
    "truncated-at-10": (truncated(10), "cannot be read"),
    "truncated-in-the-middle": (truncated(0.5), "cannot be read"),
    "truncated-near-the-end": (truncated(0.97), "cannot be read"),
    "no-checkpoint": (lambda path: path.write_text("not a checkpoint\n"), "cannot be read"),
    "other-runs": (lambda path: altered(path, runs=["a", "c"]), "another configuration"),
    "other-measures": (lambda path: altered(path, measures=["x"]), "another configuration"),
    "no-identity": (strange({"blocks": []}), "another configuration"),
    "no-state": (strange([1, 2]), "another configuration"),
    "other-torch": (lambda path: altered(path, torch="1.0.0"), r"another torch \(1.0.0\)"),
    "other-form": (lambda path: altered(path, form=-1), "another version of swrlib"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_where_the_newest_is_unusable_the_one_before_is_used_with_a_warning(broken, kept, path):
    spoil, words = BROKEN[broken]
    spoil(path)
    before = contents(path.parent)
    with pytest.warns(UserWarning, match=words) as caught:
        loaded = kept.load(CPU)
    assert epoch_of(loaded) == 1
    (warning,) = caught
    message = str(warning.message)
    assert str(path) in message and "the one before it is used" in message
    assert "\n" not in message and ". " not in message
    assert contents(path.parent) == before
    # The job goes on from there.
    kept.save(state(2))
    assert epoch_of(load_quietly(kept)) == 2


@pytest.mark.parametrize("broken", BROKEN)
def test_where_none_is_usable_it_is_said_and_nothing_is_touched(broken, kept, path):
    spoil, words = BROKEN[broken]
    spoil(path)
    spoil(kept.before)
    before = contents(path.parent)
    with pytest.raises(ValueError, match=words) as caught:
        load_quietly(kept)
    message = str(caught.value)
    assert str(path) in message and "delete it" in message
    assert "\n" not in message and ". " not in message
    assert contents(path.parent) == before
    assert len(before) == 2
    # What the sentence says helps.
    for file in path.parent.iterdir():
        file.unlink()
    assert kept.load(CPU) is None


def test_a_single_broken_checkpoint_is_refused(path):
    checkpoint = Checkpoint(path, IDENTITY)
    checkpoint.save(state(1))
    truncated(0.5)(path)
    with pytest.raises(ValueError, match="cannot be read") as caught:
        load_quietly(checkpoint)
    assert str(path) in str(caught.value)


class Code:
    """Makes a folder where it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("form", ["torch", "torch-old", "pickle", "in-a-state"])
def test_code_in_a_checkpoint_does_not_run(form, kept, path, tmp_path):
    made = tmp_path / "made"
    code = Code(made)
    if form == "torch":
        torch.save(code, path)
    elif form == "torch-old":
        torch.save(code, path, _use_new_zipfile_serialization=False)
    elif form == "pickle":
        path.write_bytes(pickle.dumps(code, protocol=2))
    else:
        found = torch.load(path, weights_only=True)
        torch.save(found | {"rows": [code]}, path)
    with pytest.warns(UserWarning, match="cannot be read"):
        assert epoch_of(kept.load(CPU)) == 1
    path.replace(kept.before)
    with pytest.raises(ValueError, match="cannot be read"):
        load_quietly(kept)
    assert not made.exists()
    if form != "pickle":
        torch.load(kept.before, weights_only=False)
        assert made.exists()  # it would have


# Places that cannot be written


@contextlib.contextmanager
def files_of_at_most(size: int):
    """No file of this process may grow larger, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def one_sentence(caught, *words) -> None:
    message = str(caught.value)
    assert "\n" not in message and ". " not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("size", [10, 1000, 30_000, 4_000_000])
def test_a_full_disk_is_told_and_leaves_what_was_there(size, kept, path):
    before = contents(path.parent)
    large = state(3) | {"blocks": [torch.zeros(2_000_000)]}
    with files_of_at_most(size), pytest.raises(OSError) as caught:
        kept.save(large)
    one_sentence(caught, str(path.parent), "make room there or choose another folder")
    assert contents(path.parent) == before
    assert epoch_of(load_quietly(kept)) == 2
    kept.save(state(3))  # there is room again
    assert epoch_of(load_quietly(kept)) == 3


def test_an_error_that_has_nothing_to_do_with_the_disk_stays_what_it_is(path):
    with pytest.raises(RuntimeError, match="not of the disk"), replacing(path):
        raise RuntimeError("not of the disk")
    assert not list(path.parent.iterdir())


def test_a_place_where_nothing_can_be_made(tmp_path):
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "checkpoints"
    with pytest.raises(OSError) as caught, locked(["a"], folder):
        pass
    one_sentence(caught, str(folder), "choose another folder")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder nobody can write to")
def test_checkpoints_go_to_the_records_where_the_usual_place_cannot_be_written(
    tmp_path, monkeypatch
):
    monkeypatch.chdir("/proc")
    assert default_folder(tmp_path) == tmp_path / ".checkpoints"
    monkeypatch.chdir(tmp_path)
    assert default_folder(tmp_path / "results") == Path(".checkpoints")
    assert default_folder(tmp_path, tmp_path / "other") == tmp_path / "other"


# Kills


def test_a_leftover_of_a_save_that_was_killed_is_ignored(kept, path):
    leftover = path.with_suffix(".new.pt")
    torch.save(state(3), leftover)
    truncated(0.5)(leftover)
    assert epoch_of(load_quietly(kept)) == 2
    kept.save(state(3))
    assert epoch_of(load_quietly(kept)) == 3
    assert not leftover.exists()


def test_a_leftover_alone_is_none(path):
    path.parent.mkdir()
    torch.save(state(1), path.with_suffix(".new.pt"))
    assert Checkpoint(path, IDENTITY).load(CPU) is None


def test_between_the_two_renames_the_one_before_is_used(kept, path):
    """The newest has been moved away, what is to replace it has not come yet."""
    torch.save(state(3), path.with_suffix(".new.pt"))
    path.replace(kept.before)
    assert epoch_of(load_quietly(kept)) == 2
    kept.save(state(3))
    assert epoch_of(load_quietly(kept)) == 3


def save_and_die_at_a_rename(path: Path, number: int) -> None:
    rename, renames = os.replace, 0

    def killing(source, target):
        nonlocal renames
        renames += 1
        if renames == number:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target)

    os.replace = killing
    Checkpoint(path, IDENTITY).save(state(3))


def run(target, *arguments, seconds: float = 20.0) -> int:
    """Return how a process ends that runs this."""
    process = processes.Process(target=target, args=arguments)
    process.start()
    process.join(seconds)
    assert not process.is_alive(), "it hangs"
    return process.exitcode


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("spoiled", [False, True], ids=["whole", "newest-truncated"])
def test_killed_at_any_rename_a_usable_state_stays(number, spoiled, kept, path):
    if spoiled:
        truncated(0.5)(path)
    # What is broken is not kept as the one before: a rename less, and the save succeeds.
    saved = spoiled and number == 3
    assert run(save_and_die_at_a_rename, path, number) == (0 if saved else -signal.SIGKILL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = kept.load(CPU)
    assert epoch_of(loaded) == (3 if saved else 1 if spoiled else 2)


def save_and_die_while_writing(path: Path) -> None:
    write = torch.save

    def killing(state, beside):
        write(state, beside)
        os.kill(os.getpid(), signal.SIGKILL)

    torch.save = killing
    Checkpoint(path, IDENTITY).save(state(3))


def test_what_a_killed_save_had_written_goes_with_the_others(kept, path):
    """It is as large as the state, and there may be one for each kill."""
    for _ in range(2):
        assert run(save_and_die_while_writing, path) == -signal.SIGKILL
        assert epoch_of(load_quietly(kept)) == 2
    kept.save(state(3))
    kept.remove()
    assert not list(path.parent.iterdir())


# Locks


def hold(folder: Path, names: list[str], said: Path, held: Path) -> None:
    """Take the locks and stay; what is said goes to a file."""
    sys.stderr = said.open("w")
    with locked(names, folder):
        held.touch()
        time.sleep(60)


def take(folder: Path, names: list[str], said: Path, held: Path) -> None:
    """Take the locks and go."""
    sys.stderr = said.open("w")
    with locked(names, folder):
        held.touch()


def wait_for(condition, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


@pytest.fixture
def started():
    """Start processes; none outlives the test."""
    running = []

    def start(target, *arguments):
        process = processes.Process(target=target, args=arguments)
        process.start()
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.join(20)


def test_another_process_waits_and_says_so_and_goes_on(started, tmp_path):
    said, held = tmp_path / "said", tmp_path / "held"
    with locked(["run-b", "run-a"], tmp_path):
        process = started(take, tmp_path, ["run-c", "run-b"], said, held)
        wait_for(lambda: said.exists() and said.read_text())
        time.sleep(0.2)
        assert process.is_alive() and not held.exists()
    process.join(20)
    assert process.exitcode == 0
    assert held.exists()
    (line,) = said.read_text().splitlines()  # once, however long it waits
    assert line.startswith("swrlib: ") and "run-b" in line and "waiting" in line


def test_other_names_do_not_wait(tmp_path):
    said, held = tmp_path / "said", tmp_path / "held"
    with locked(["a", "b"], tmp_path):
        assert run(take, tmp_path, ["c", "d"], said, held) == 0
        assert run(take, tmp_path / "elsewhere", ["a", "b"], said, held) == 0
    assert held.exists() and said.read_text() == ""


def test_an_error_gives_the_locks_back(tmp_path):
    said, held = tmp_path / "said", tmp_path / "held"
    with pytest.raises(KeyError), locked(["a", "b"], tmp_path):
        raise KeyError
    assert run(take, tmp_path, ["b", "a"], said, held) == 0
    assert said.read_text() == ""


def test_a_killed_process_holds_no_lock(started, tmp_path):
    said, held = tmp_path / "said", tmp_path / "held"
    holder = started(hold, tmp_path, ["a", "b"], said, held)
    wait_for(held.exists)
    waiting, taken = tmp_path / "waiting", tmp_path / "taken"
    process = started(take, tmp_path, ["b"], waiting, taken)
    wait_for(lambda: waiting.exists() and waiting.read_text())
    os.kill(holder.pid, signal.SIGKILL)
    process.join(20)
    assert process.exitcode == 0 and taken.exists()
    # And whoever comes later does not even wait.
    assert run(take, tmp_path, ["a"], waiting, taken) == 0
    assert waiting.read_text() == ""


def take_often(folder: Path, names: list[str], barrier) -> None:
    sys.stderr = io.StringIO()
    barrier.wait(20)
    for _ in range(3):
        with locked(names, folder):
            pass


def test_overlapping_names_in_opposite_order_do_not_wait_for_each_other(started, tmp_path):
    names = [f"{number:02}" for number in range(60)]  # so many that the two meet midway
    barrier = processes.Barrier(2)
    one = started(take_often, tmp_path, names[:50], barrier)
    other = started(take_often, tmp_path, names[:9:-1], barrier)
    for process in (one, other):
        process.join(20)
        assert process.exitcode == 0
