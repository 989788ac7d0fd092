"""The workflow: record jobs, chapters, the website. See `make help` for the usual ways in.

    python book/build.py book                      the website, from the records that exist
    snakemake --profile profiles/slurm records     the trainings at paper scale, on a cluster

No file time decides what is made again: a record is there or not, and chapters and the website
have in their names what they were made from (book/inputs.py).
"""

import json
import os
import re
import shlex
import sys
from functools import cache
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir, "book")))
import inputs


configfile: "config/quick.yaml"
configfile: "config/paper.yaml"


os.environ["OMP_NUM_THREADS"] = "1"
# Feature maps are large, and come and go with every step: freed memory is kept, in large pages.
os.environ["MALLOC_TRIM_THRESHOLD_"] = os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**32)
os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"

CHAPTERS, LIMITS = config["chapters"], config["limits"]

# Once in a build: what is edited meanwhile belongs to the next.
executed_chapter, site_mark = cache(inputs.executed_chapter), cache(inputs.site_mark)


wildcard_constraints:
    chapter="[a-z0-9_]+",
    digest="[0-9a-f]{16}",


localrules:
    book,
    selection,
    records,


# --- Records at paper scale -------------------------------------------------------------------


def jobs_of(group):
    """All jobs of a group of config/paper.yaml by name, as the keywords of `swrlib.train`."""
    jobs = {}
    for entry in config[group]:
        entry = {"split": "all", "scale": "paper", "results": config["results"]} | entry
        separate = entry.pop("separate", False)
        streams = [entry["stream"]] if isinstance(entry["stream"], str) else entry["stream"]
        together = [[m] for m in entry["methods"]] if separate else [entry["methods"]]
        for stream, seed, methods in product(streams, entry["seeds"], together):
            given = {"stream": stream, "methods": list(map(str, methods)), "seeds": [seed]}
            job = entry | given
            name = _name(job, methods if separate else [])
            jobs[name if name not in jobs else _name(job, methods)] = job
    return jobs


def _name(job, methods):
    """A name for a job, by all that it is asked for but what is measured."""
    known = ("stream", "dataset", "model", "split")
    apart = (*known, "scale", "results", "methods", "seeds", "measure")
    parts = [job[key] for key in known] + [job[key] for key in job if key not in apart]
    return re.sub(r"[^\w.-]+", "-", "_".join(map(str, [*parts, *methods, f"seed{job['seeds'][0]}"])))


JOBS = jobs_of("selection") | jobs_of("records")


def missing(group):
    """The marks of those jobs of which a run has no record: by hash alone, never by file times."""
    from swrlib.engine.jobs import missing_jobs

    marks = [Path("build/jobs", name) for name in missing_jobs(jobs_of(group))]
    for mark in marks:
        mark.unlink(missing_ok=True)  # of a record that is no longer there
    return marks


def command_line(wildcards):
    job = JOBS[wildcards.job]
    words = {key: value if isinstance(value, list) else [value] for key, value in job.items()}
    if "options" in job:
        words["options"] = [f"{key}={json.dumps(v)}" for key, v in job["options"].items()]
    return " ".join(
        f"--{key.replace('_', '-')} {shlex.join(map(str, value))}" for key, value in words.items()
    )


rule selection:
    input:
        lambda wildcards: missing("selection"),


rule records:
    input:
        lambda wildcards: missing("records"),


rule train:
    # No input: a fresh clone's file times must not train everything again.
    output:
        touch("build/jobs/{job}"),
    log:
        "build/logs/{job}.log",
    params:
        arguments=command_line,
        minutes=60 * LIMITS["training_hours"],
    shell:
        "python book/job.py {wildcards.job} {params.minutes} -"
        " python -m swrlib train {params.arguments} 2>&1 | tee {log}"


# --- Chapters ---------------------------------------------------------------------------------


rule chapter:
    output:
        f"{inputs.EXECUTED}/{{chapter}}-{{digest}}.ipynb",
    params:
        minutes=LIMITS["chapter_minutes"],
    shell:
        "python book/job.py {wildcards.chapter} {params.minutes} build/logs/{wildcards.chapter}.log"
        " python book/execute.py {wildcards.chapter} {output}"


# --- The website ------------------------------------------------------------------------------


rule book:
    input:
        lambda wildcards: site_mark(),


rule site:
    input:
        lambda wildcards: map(executed_chapter, CHAPTERS),
    output:
        f"{inputs.SITE}/.made-from-{{digest}}",
    params:
        minutes=LIMITS["site_minutes"],
    shell:
        "python book/job.py website {params.minutes} build/logs/website.log"
        " python book/publish.py {output}"
