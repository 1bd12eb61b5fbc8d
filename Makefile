# make help lists the targets. PYTHON=... chooses the interpreter (3.11 or 3.12).
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PARTS  ?= linearity horizon rule reground label_free larger smollm2
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint format types bench study clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(READY) ## virtual environment with the tested CPU set (a cluster: see README)

$(READY): requirements/cpu.txt requirements/reasoning-gym.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found; install Python 3.11 or give PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q torch==2.13.0 setuptools==80.9.0 wheel ninja numpy==2.3.5 py-cpuinfo
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation -r requirements/cpu.txt
	@if command -v cc >/dev/null; then \
		$(BIN)/python -m pip install -q --no-deps --no-build-isolation -r requirements/reasoning-gym.txt; \
	else echo "no C compiler: the optional reasoning-gym tasks are left out"; fi
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	@touch $@

demo: setup ## train, measure, extrapolate, evaluate and report on a tiny model (minutes)
	$(BIN)/python -m pipeline +experiment=tiny

test: setup ## the quick tests (most of them), two workers, one engine at a time
	$(PYTEST) -m "not slow"

test-all: setup ## all tests: more ranks, engines, kills and Slurm jobs
	$(PYTEST)

lint: setup ## ruff: style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup ## ruff: fix style and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: setup ## mypy, strict
	$(BIN)/mypy pipeline benchmarks studies tests

bench: setup ## benchmarks at small scale; fails if a ratio to the floor is 15 % worse than saved
	$(BIN)/python benchmarks/weights.py --scale small --where "page cache" \
		$(addprefix --against ,$(wildcard benchmarks/weights.json))

study: setup ## runs behind docs/results.md (hours; an interrupted one resumes; PARTS= some of them)
	for part in $(PARTS); do $(BIN)/python -m studies.$$part || exit 1; done

clean: ## caches and builds; outputs and the environment stay
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -type d -prune -exec rm -rf {} +
