"""The workflow: record jobs, chapters, the website. See `make help` for the usual ways in.

    python book/build.py book                      the website, from the records that exist
    snakemake --profile profiles/slurm records     the trainings at paper scale, on a cluster
    snakemake --profile profiles/gpu records       the same in one process, on a GPU

No file time decides what is made again: a record is there or not, and chapters and the website
have in their names what they were made from (book/inputs.py).
"""

import json
import os
import shlex
import sys
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir, "book")))
import inputs
import trainings


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
    """All trainings of a group of config/paper.yaml by name, as the keywords of `swrlib.train`."""
    return trainings.jobs_of(config[group], config["results"])


JOBS = jobs_of("selection") | jobs_of("records")


def missing(group):
    """The marks of those jobs of which a run has no record: by hash alone, never by file times."""
    from swrlib.engine.jobs import missing_jobs

    marks = [Path("build/jobs", name) for name in missing_jobs(jobs_of(group))]
    for mark in marks:
        mark.unlink(missing_ok=True)  # of a record that is no longer there
    together = Path("build/on-gpu", group)
    together.unlink(missing_ok=True)
    return [together] if marks and config.get("gpu") else marks


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


rule train_on_gpu:
    output:
        touch("build/on-gpu/{group}"),
    log:
        "build/logs/{group}-on-gpu.log",
    params:
        limit=60 * LIMITS["training_hours"],
        minutes=os.environ.get("MINUTES", ""),
    shell:
        "python book/job.py {wildcards.group} {params.limit} -"
        " python book/trainings.py {wildcards.group} {params.minutes} 2>&1 | tee {log}"


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
