"""Progress of long work: a bar where someone watches, a line now and then elsewhere."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import TracebackType

#: Seconds between the lines that are printed where there is no terminal and no notebook.
LINE_EVERY = 30.0


def _where() -> str:
    """Return "bar" in a terminal or a notebook, "none" in a batch of notebooks, else "lines"."""
    if "ipykernel" in sys.modules:
        parent = Path(f"/proc/{os.getppid()}/cmdline")
        batch = parent.read_bytes() if parent.exists() else b""
        quiet = any(name in batch for name in (b"papermill", b"nbval", b"pytest", b"jupyter-book"))
        return "none" if quiet or os.environ.get("SWR_PROGRESS") == "off" else "bar"
    if os.environ.get("SWR_PROGRESS") == "off":
        return "none"
    return "bar" if sys.stderr.isatty() else "lines"


class Progress:
    """Counts run-epochs: one tqdm bar, or throttled lines with rate and remaining time."""

    def __init__(self, total: int, what: str, shown: bool = True) -> None:
        self.total, self.what, self.done, self.resumed = total, what, 0, 0
        self.kind = _where() if shown else "none"
        self.started = self.said = time.monotonic()
        self.bar = None
        if self.kind == "bar":
            try:
                from tqdm.auto import tqdm
            except ImportError:
                self.kind = "lines"
            else:
                self.bar = tqdm(total=total, desc=what, unit="run-epoch")

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.close()

    def silent(self) -> Progress:
        """Return one that shows nothing, for work that was not counted in the total."""
        return Progress(0, self.what, shown=False)

    def resume(self, count: int) -> None:
        """Count run-epochs that an earlier call trained: they say nothing about the rate."""
        self.done += count
        self.resumed += count
        if self.bar is not None:
            self.bar.n = self.bar.last_print_n = self.done
            self.bar.initial = self.resumed
            self.bar.refresh()

    def update(self, count: int) -> None:
        """Count some run-epochs as done."""
        self.done += count
        if self.bar is not None:
            self.bar.update(count)
        now = time.monotonic()
        if self.kind == "lines" and now - self.said > LINE_EVERY:
            self.said = now
            rate = (self.done - self.resumed) / (now - self.started) * 60
            left = (self.total - self.done) / rate if rate else float("nan")
            print(
                f"{self.what}: {self.done} of {self.total} run-epochs, {rate:,.1f} a minute, "
                f"{left:.0f} min left",
                file=sys.stderr,
                flush=True,
            )
