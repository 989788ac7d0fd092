"""Run one job of the workflow: its output in a log, one line when it ends, an end when time is up.

Usage: python book/job.py NAME MINUTES LOG COMMAND...

Without a log ("-") the command's output goes where this one's goes. The exit status is the
command's; 124 if its time was up.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

LINES = 12
#: Seconds that a command has to end by itself after a signal. Snakemake sometimes never does, when
#: a job of its ends at that moment.
GRACE = 20


def main(name: str, minutes: float, log: str, command: list[str]) -> int:
    """Run the command and report."""
    begun = time.monotonic()
    if log == "-":
        status = run(command, minutes)
    else:
        Path(log).parent.mkdir(parents=True, exist_ok=True)
        with open(log, "wb") as output:
            status = run(command, minutes, stdout=output, stderr=subprocess.STDOUT)
    seconds = time.monotonic() - begun
    if status == 0:
        text = f"{name}: {seconds:.0f} s\n"
    elif status < 0:
        text = f"{name}: stopped by {signal.Signals(-status).name}\n"
    elif status == 124:
        text = f"{name}: stopped, since it had not ended after {minutes:g} minutes\n"
    else:
        text = f"{name}: failed\n"
    if status > 0:
        text += last_lines(log)
    sys.stdout.write(text)  # at once: other jobs write, too
    sys.stdout.flush()
    return status if status >= 0 else 128 - status


def run(command: list[str], minutes: float | None, **options: Any) -> int:
    """Run a command within a limit, and return its status.

    It is 124 if the time was up, and below 0 if a signal stopped the command. Ctrl-C reaches the
    whole process group, so the command as well; other signals, which may be meant for this process
    alone, are passed on. What has not ended `GRACE` seconds later is killed. The options are
    those of `subprocess.Popen`.
    """
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, **options)
    received: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.alarm(GRACE)
        if number != signal.SIGINT:
            process.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, pass_on)
    signal.signal(signal.SIGALRM, lambda number, frame: kill(process))
    try:
        status = process.wait(timeout=None if minutes is None else 60 * minutes)
        return -received[0] if status and received else status
    except subprocess.TimeoutExpired:
        kill(process)
        process.wait()
        return 124
    finally:
        signal.alarm(0)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and all below it; a kernel has a session of its own, so no group reaches it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    process.kill()


def last_lines(log: str) -> str:
    """Return the end of a log, without colours, and where the whole of it is."""
    if log == "-":
        return ""
    text = re.sub(r"\x1b\[[0-9;]*m", "", Path(log).read_text("utf-8", "replace"))
    lines = [line for line in text.splitlines() if line.strip()][-LINES:]
    notebook = Path(log).with_suffix(".ipynb")
    where = [log, os.fspath(notebook)] if notebook.exists() else [log]
    return "".join(f"    {line}\n" for line in [*lines, f"the whole of it: {', '.join(where)}"])


if __name__ == "__main__":
    name, minutes, log, *command = sys.argv[1:]
    raise SystemExit(main(name, float(minutes), log, command))
