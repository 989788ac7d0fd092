"""Progress of long work: what is counted, and what the rate and the remaining time are made of."""

from __future__ import annotations

import re

import pytest

from swrlib.engine import progress


@pytest.fixture(autouse=True)
def shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SWR_PROGRESS", raising=False)


def test_lines_leave_resumed_epochs_out_of_the_rate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    with progress.Progress(200, "training") as bar:
        bar.resume(150)
        bar.bar.start_t -= 120
        bar.bar.last_print_t -= 120
        bar.update(10)
    (line,) = re.findall(r"training: 160.*", capsys.readouterr().err)
    # Ten in two minutes, forty to go.
    assert re.fullmatch(
        r"training: 160 of 200 run-epochs, 1[12]\.\d+s/run-epoch, 0[78]:\d\d left *", line
    )


def test_between_the_lines_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.Progress(200, "training") as bar:
        for _ in range(100):
            bar.update(1)
    assert capsys.readouterr().err.strip() == ""


def test_a_bar_counts_on_from_what_was_resumed() -> None:
    with progress.Progress(200, "training") as bar:
        bar.resume(150)
        assert (bar.bar.n, bar.bar.initial) == (150, 150)
        bar.update(10)
        assert (bar.bar.n, bar.bar.initial) == (160, 150)
        bar.resume(20)  # of the next job
        assert (bar.bar.n, bar.bar.initial) == (180, 170)


@pytest.mark.parametrize("how", ["silent", "asked", "configured"])
def test_what_is_to_be_quiet_shows_nothing(
    how: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    if how == "configured":  # as the workflow does for the chapters
        monkeypatch.setenv("SWR_PROGRESS", "off")
    with progress.Progress(10, "training", shown=how != "asked") as bar:
        if how == "silent":
            bar = bar.silent()
            capsys.readouterr()
        bar.update(3)
        assert capsys.readouterr().err == ""
