"""What config/paper.yaml lists, as trainings; and all of them in one process, for a GPU.

Usage: python book/trainings.py GROUP [MINUTES]

An entry's methods and seeds train at once, as many as fit; entries come in the order of the file.
What is recorded is left out. When the time is up, the same command carries on: also on another
machine, to which results/ and .checkpoints/ were copied.
"""

import re
import sys
from collections.abc import Iterable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import yaml

Jobs = dict[str, dict[str, Any]]


def jobs_of(entries: Iterable[Mapping[str, Any]], results: str, *, together: bool = False) -> Jobs:
    """Return trainings by name, as the keywords of `swrlib.train`.

    One is a stream's of an entry, with all seeds, if they train ``together``; else one seed's, or
    one run's where the entry says ``separate``.
    """
    jobs: Jobs = {}
    for entry in entries:
        job = {"split": "all", "scale": "paper", "results": results, **entry}
        apart = job.pop("separate", False) and not together
        streams = [job["stream"]] if isinstance(job["stream"], str) else job["stream"]
        seeds = [job["seeds"]] if together else [[seed] for seed in job["seeds"]]
        methods = [[method] for method in job["methods"]] if apart else [job["methods"]]
        for stream, some, named in product(streams, seeds, methods):
            one = job | {"stream": stream, "methods": list(map(str, named)), "seeds": some}
            name = _name(one, named if apart else [])
            jobs[name if name not in jobs else _name(one, named)] = one
    return jobs


def _name(job: Mapping[str, Any], methods: Iterable[str]) -> str:
    """Return a name for a training, by all that it is asked for but what is measured."""
    known = ("stream", "dataset", "model", "split")
    apart = (*known, "scale", "results", "methods", "seeds", "measure")
    parts = [job[key] for key in known] + [job[key] for key in job if key not in apart]
    seeds = "-".join(map(str, job["seeds"]))
    return re.sub(r"[^\w.-]+", "-", "_".join(map(str, [*parts, *methods, f"seed{seeds}"])))


def main(group: str, minutes: float | None = None) -> int:
    """Train what is missing; return 1 if something failed, which does not keep the rest waiting."""
    import torch

    from swrlib import train
    from swrlib.__main__ import USER_ERRORS, stopping
    from swrlib.engine import Stopped
    from swrlib.engine.jobs import missing_jobs

    listed = yaml.safe_load(Path("config/paper.yaml").read_text())
    jobs = jobs_of(listed[group], listed["results"], together=True)
    names, failed = missing_jobs(jobs), []
    with stopping(minutes) as stop:
        for number, name in enumerate(names):
            print(f"{number + 1} of {len(names)}: {name}", flush=True)
            try:
                train(**jobs[name], stop=stop)
            except Stopped:
                print(f"Stopped with {len(names) - number} to do: the same command carries on.")
                break
            except (*USER_ERRORS, torch.cuda.OutOfMemoryError) as error:
                print(f"{name}: {error}", file=sys.stderr)
                failed.append(name)
    if failed:
        print(f"Not trained: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], *map(float, sys.argv[2:3])))
