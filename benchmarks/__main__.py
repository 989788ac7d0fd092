"""Measure what training costs, in one interleaved run: `python -m benchmarks`, or `make bench`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import CORES, measure, ways, write
from swrlib.provenance import provenance


def machine() -> dict[str, Any]:
    """Return what the numbers depend on."""
    return provenance() | {
        "cores": CORES,
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
    }


def main() -> int:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="a few steps of each, for a test")
    parser.add_argument(
        "--only", nargs="*", help="measure these tables only; others are kept as they are"
    )
    parser.add_argument("--output", type=Path, default=Path("results/_benchmarks/cost.json"))
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error(f"repeats is {arguments.repeats}: it must be at least 1")
    chosen = [
        way for way in ways(arguments.quick) if not arguments.only or way.table in arguments.only
    ]
    if not chosen:
        parser.error("no such table: known are steps, throughput, stack, products and measures")
    if os.getloadavg()[0] > 0.5:
        print("the machine is busy: the ratios will be noisy", file=sys.stderr)
    content = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    for table in dict.fromkeys(way.table for way in chosen):
        started = time.monotonic()
        rows = measure([way for way in chosen if way.table == table], arguments.repeats)
        minutes = round((time.monotonic() - started) / 60, 1)
        content[table] = {"machine": machine() | {"minutes": minutes}, "rows": rows}
        write(content, arguments.output)
    print(f"written: {arguments.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
