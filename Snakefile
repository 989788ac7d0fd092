"""The workflow: record jobs, chapters, staging, the website. See `make help` for the usual ways in.

    snakemake --profile profiles/local book        the website, from the records that exist
    snakemake --profile profiles/slurm records     the trainings at paper scale, on a cluster
"""

import os
import re
from itertools import product
from pathlib import Path


configfile: "config/quick.yaml"
configfile: "config/paper.yaml"


os.environ["OMP_NUM_THREADS"] = "1"
# Feature maps are large, and come and go with every step: freed memory is kept, in large pages.
os.environ["MALLOC_TRIM_THRESHOLD_"] = os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**32)
os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"

LIBRARY = sorted(str(path) for path in Path("swrlib").rglob("*") if path.suffix in (".py", ".toml"))
RECORDS = sorted(str(path) for path in Path(config["results"]).glob("*.parquet"))
PAGES = sorted(str(path) for path in Path("book").rglob("*") if path.is_file())
CHAPTERS = config["chapters"]


wildcard_constraints:
    chapter="[a-z0-9_]+",


localrules:
    book,
    selection,
    records,
    stage,


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
            parts = [stream, job["dataset"], job["model"], job["split"]]
            parts += [str(job["epochs"])] if "epochs" in job else []
            parts += [str(methods[0])] if separate else []
            jobs[re.sub(r"[^\w.-]+", "-", "_".join([*parts, f"seed{seed}"]))] = job
    return jobs


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
    return " ".join(
        f"--{key.replace('_', '-')} {' '.join(map(str, value))}" for key, value in words.items()
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
    shell:
        "python -m swrlib train {params.arguments} 2>&1 | tee {log}"


# --- Chapters ---------------------------------------------------------------------------------


def parameters(wildcards):
    given = CHAPTERS[wildcards.chapter].get("parameters", {})
    return " ".join(f"-p {name} {value}" for name, value in given.items())


rule chapter:
    # Into the log first: papermill would overwrite a good chapter with a failed one.
    input:
        notebook=lambda wildcards: f"notebooks/{CHAPTERS[wildcards.chapter]['notebook']}.ipynb",
        library=LIBRARY,
        records=RECORDS,
    output:
        "build/notebooks/{chapter}.ipynb",
    log:
        "build/logs/{chapter}.ipynb",
    params:
        given=parameters,
    # Now and then, on a busy machine, a kernel's answer is lost and papermill waits for ever.
    retries: 1
    shell:
        "SWR_PROGRESS=off papermill {input.notebook} {log} --cwd notebooks --no-progress-bar"
        " --execution-timeout 600 {params.given} && cp {log} {output}"


# --- The website ------------------------------------------------------------------------------


rule stage:
    input:
        "_config.yml",
        "_toc.yml",
        "config/quick.yaml",
        PAGES,
        RECORDS,
        chapters=expand("build/notebooks/{chapter}.ipynb", chapter=CHAPTERS),
    output:
        "build/stage/_config.yml",
    shell:
        "python book/stage.py build/notebooks build/stage"


rule book:
    input:
        "build/_build/html/index.html",


rule site:
    input:
        "build/stage/_config.yml",
        LIBRARY,
    output:
        "build/_build/html/index.html",
    log:
        "build/logs/site.log",
    shell:
        "rm -rf build/_build && jupyter-book build build/stage --path-output build"
        " --all -W -n --keep-going 2>&1 | tee {log}"
