# `make help` lists what there is. Needed beforehand: make, git and any Python from 3.11 on.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

BIN := .venv/bin
SITE := build/_build/html
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# One thread a process, as many processes as cores: twice as fast here as one process on all cores.
export OMP_NUM_THREADS := 1

book: .venv/installed  ## run the chapters at quick scale and build the website
	python book/build.py book
	@echo "The website: $(SITE)/index.html"

test: .venv/installed  ## style, types, the book, every test: all that has to hold
	ruff check .
	ruff format --check .
	mypy
	python book/build.py book
	pytest -n $${TEST_PROCESSES:-auto} --dist worksteal --durations 30 --durations-min 5

coverage: .venv/installed  ## every test, and which lines of swrlib they reach; a third slower
	pytest -n $${TEST_PROCESSES:-auto} --dist worksteal --cov --cov-report=term:skip-covered

lab: .venv/installed  ## open the notebooks in JupyterLab
	jupyter lab notebooks

paper: .venv/installed  ## train what config/paper.yaml lists and results/ lacks (hours), then the book
	python book/build.py selection
	python book/build.py records
	python book/build.py book

bench: .venv/installed  ## time every way of training, on a machine that does nothing else
	python -m benchmarks

screenshots: .venv/installed  ## pictures of every page, wide and narrow, light and dark
	python book/build.py book
	python tests/browser.py $(SITE) build/screenshots

pdf: .venv/installed  ## the whole book as build/book.pdf, to be read on paper (needs Chromium)
	python book/build.py book
	python book/pdf.py build/book.pdf

archive: .venv/installed  ## build/archive, to deposit: site, executed notebooks, records, environment
	python book/build.py book
	python book/archive.py build/archive

clean:  ## remove what was built; the records in results/ stay
	rm -rf build _build .snakemake

help:  ## this list
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:[^#]*##/:/' | column -t -s:

# Any Python that fits; a name that only exists as a shim fails when it is called, so call it.
.venv/installed: pyproject.toml constraints.txt
	if [ ! -x $(BIN)/python ]; then \
	    for name in python3.13 python3.12 python3.11 python3 python; do \
	        if $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$name; break; fi; \
	    done; \
	    if [ -z "$${found:-}" ]; then echo "No Python from 3.11 on was found: install one." >&2; exit 1; fi; \
	    $$found -m venv .venv; \
	fi
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[pictures,book,test,frameworks]'
	touch $@

.PHONY: book test lab paper bench screenshots pdf archive clean help
