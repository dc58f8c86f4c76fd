# Two commands, `make lab` and `make test`. They run on a fresh clone and need only Python >= 3.11.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
LAB_ARGS ?=  # further options of JupyterLab: make lab LAB_ARGS="--no-browser --port=9000"
NOTEBOOKS ?= $(wildcard notebooks/*.ipynb)

# JupyterLab does not start as root without this option. In a container the user often is root.
AS_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)

.NOTPARALLEL:
.PHONY: help venv lab test test-units test-notebooks test-browser bench notebooks teachers lint

help:  ## prints this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1: \2/p' Makefile

venv: $(INSTALLED)  ## makes the environment .venv: the package, JupyterLab and what the tests need

# It runs again only after these two files have changed. An install that was interrupted leaves no mark: it runs again.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "fsc needs Python 3.11 or newer; found: $(PYTHON) = $$($(PYTHON) --version 2>&1)" >&2; \
	  echo "  Name another one, for example: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[lab,test]'
	@touch $@

lab: venv  ## opens JupyterLab at the first notebook
	$(RUN) -m jupyterlab $(AS_ROOT) --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb $(LAB_ARGS)

test: test-units test-notebooks test-browser  ## runs everything: unit tests, notebooks, panels in a browser

test-units: venv
	OMP_NUM_THREADS=1 $(RUN) -m pytest tests -m "not browser" -n 2

# loadscope: all cells of one notebook run in the same process.
test-notebooks: venv
	OMP_NUM_THREADS=1 FSC_BUDGET=quick $(RUN) -m pytest notebooks -n 2 --dist loadscope --nbval-lax \
	  --nbval-current-env --nbval-cell-timeout=300 --nbval-sanitize-with=tests/helpers/nbval_sanitize.cfg

# These run alone and last, because they measure reaction times. Without Chromium they are skipped, with the reason.
test-browser: venv
	$(RUN) -m pytest tests -m browser

bench: venv  ## measures, as ratios, the numbers that the project has set itself
	$(RUN) tests/helpers/bench.py

notebooks: venv  ## runs all notebooks (quick budget, CPU) and stores their outputs
	$(RUN) tests/helpers/store_outputs.py $(NOTEBOOKS)

teachers: venv  ## trains the teachers in data/teachers again
	$(RUN) data/scripts/train_teachers.py

lint: venv  ## runs ruff
	$(RUN) -m ruff check .
