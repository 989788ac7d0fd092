"""Progress of long work: a bar where someone watches, a line now and then elsewhere."""

from __future__ import annotations

import os
import sys
from typing import Any

#: Seconds between the lines where there is no terminal and no notebook.
LINE_EVERY = 30.0


class Progress:
    """Counts run-epochs with tqdm. Without it, or where SWR_PROGRESS is "off", shows nothing."""

    def __init__(self, total: int, what: str, shown: bool = True) -> None:
        quiet = not shown or os.environ.get("SWR_PROGRESS") == "off"
        self.bar = None if quiet else _bar(total, what)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def silent(self) -> Progress:
        """Return one that shows nothing, for work that was not counted in the total."""
        return Progress(0, "", shown=False)

    def resume(self, count: int) -> None:
        """Count run-epochs that an earlier call trained: they say nothing about the rate."""
        if self.bar is not None:
            self.bar.initial += count
            self.bar.n += count
            self.bar.last_print_n = self.bar.n

    def update(self, count: int) -> None:
        """Count some run-epochs as done."""
        if self.bar is not None:
            self.bar.update(count)


def _bar(total: int, what: str) -> Any:
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    lines: dict[str, Any] = {
        "mininterval": LINE_EVERY,
        "delay": LINE_EVERY,
        "miniters": 1,
        "leave": False,
        "bar_format": "{desc}: {n_fmt} of {total_fmt} run-epochs, {rate_fmt}, {remaining} left\n",
    }
    notebook = type(sys.stderr).__module__.startswith("ipykernel")
    watched = notebook or sys.stderr.isatty()
    return tqdm(total=total, desc=what, unit="run-epoch", **({} if watched else lines))
