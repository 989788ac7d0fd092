"""Progress of long work: what is counted, and what the rate and the remaining time are made of."""

from __future__ import annotations

import pytest

from swrlib.engine import progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that the test turns: its only element is the time in seconds."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_leave_resumed_epochs_out_of_the_rate(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_where", lambda: "lines")
    with progress.Progress(200, "training") as bar:
        bar.resume(150)
        clock[0] += progress.LINE_EVERY / 2
        bar.update(1)
        assert capsys.readouterr().err == "", "no line before its time"
        clock[0] += progress.LINE_EVERY / 2 + 90
        bar.update(9)
    said = capsys.readouterr().err
    # Ten in two minutes, forty to go.
    assert said == "training: 160 of 200 run-epochs, 5.0 a minute, 8 min left\n"


def test_a_bar_leaves_resumed_epochs_out_of_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_where", lambda: "bar")
    with progress.Progress(200, "training") as bar:
        assert bar.bar is not None
        bar.resume(150)
        shown = bar.bar.format_dict
        assert (shown["n"], shown["initial"], shown["rate"]) == (150, 150, None)
        bar.update(10)
        assert (bar.bar.n, bar.bar.initial) == (160, 150)
        bar.resume(20)  # of the next job
        assert (bar.bar.n, bar.bar.initial) == (180, 170)


def test_work_that_was_not_counted_shows_nothing(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_where", lambda: "lines")
    silent = progress.Progress(10, "training").silent()
    clock[0] += 10 * progress.LINE_EVERY
    silent.update(3)
    assert capsys.readouterr().err == ""
