# Two commands, `make lab` and `make test`, on a fresh clone with Python >= 3.11. The other targets serve these two.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
LAB_ARGS ?=  # more for JupyterLab: make lab LAB_ARGS="--no-browser --port=9000"
NOTEBOOKS ?= $(wildcard notebooks/*.ipynb)

# JupyterLab refuses to start as root unless told; in a container one often is.
AS_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)

.NOTPARALLEL:
.PHONY: help venv lab test test-units test-notebooks test-browser bench notebooks teachers lint

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1: \2/p' Makefile

venv: $(INSTALLED)  ## the environment alone: .venv with the package, JupyterLab and what the tests need

# Redone only when what it installs has changed; an install that was cut short leaves no mark and is taken up again.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "fsc needs Python 3.11 or newer; found: $(PYTHON) = $$($(PYTHON) --version 2>&1)" >&2; \
	  echo "  Name another one, for example: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[lab,test]'
	@touch $@

lab: venv  ## JupyterLab, open at the first notebook
	$(RUN) -m jupyterlab $(AS_ROOT) --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb $(LAB_ARGS)

test: test-units test-notebooks test-browser  ## everything: unit tests, notebooks, panels in a browser

test-units: venv
	OMP_NUM_THREADS=1 $(RUN) -m pytest tests -m "not browser" -n 2

# loadscope: all cells of a notebook in one kernel.
test-notebooks: venv
	OMP_NUM_THREADS=1 FSC_BUDGET=quick $(RUN) -m pytest notebooks -n 2 --dist loadscope --nbval-lax \
	  --nbval-current-env --nbval-cell-timeout=300 --nbval-sanitize-with=tests/helpers/nbval_sanitize.cfg

# Alone, after the rest: it looks at reaction times. Skipped, with the reason, where there is no Chromium.
test-browser: venv
	$(RUN) -m pytest tests -m browser

bench: venv  ## the numbers the project set itself, measured here as ratios
	$(RUN) tests/helpers/bench.py

notebooks: venv  ## run all notebooks in place, quick budget on the CPU, and store their outputs
	$(RUN) tests/helpers/store_outputs.py $(NOTEBOOKS)

teachers: venv  ## train the teachers in data/teachers again
	$(RUN) data/scripts/train_teachers.py

lint: venv  ## ruff
	$(RUN) -m ruff check .
