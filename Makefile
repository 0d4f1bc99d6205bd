# `make repro` and `make test` set up everything they need by themselves.

PYTHON ?= python3.11
CHECKPOINT ?= data/raw/base
VENV := .venv
READY := $(VENV)/ready
TEST_READY := $(VENV)/ready-test
INSTALL := $(VENV)/bin/pip install -q --disable-pip-version-check -c constraints.txt
# stages are run by DVC as `python -m stages.…`: that must be this environment's python
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# progress bars: once a second is enough for the eye and short in a log
export TQDM_MININTERVAL := 1

.PHONY: help setup repro reruns test lint check bench format clean
.DEFAULT_GOAL := help

help:  ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## the environment of the stages; repro makes it too

repro: $(READY)  ## run the stages whose inputs have changed
	@python -m stages.tools.check_params
	@dvc repro

reruns: $(READY)  ## say which stages would run, and why
	@python -m stages.tools.reruns

test: $(TEST_READY)  ## the tests
	@OMP_NUM_THREADS=1 pytest -n 2 --dist worksteal

bench: $(TEST_READY)  ## the measurements, after make repro; CHECKPOINT=folder: a causal model to start from
	@python -m tests.benchmarks.data_scale
	@python -m tests.benchmarks.data_cost
	@python -m tests.benchmarks.data_speed
	@python -m tests.benchmarks.stage_growth
	@python -m tests.benchmarks.near_duplicates
	@python -m tests.benchmarks.json_lists
	@python -m tests.benchmarks.start_up
	@python -m tests.benchmarks.resampling
	@python -m tests.benchmarks.planted_slots
	@python -m tests.benchmarks.copying
	@python -m tests.benchmarks.pretrained_start $(CHECKPOINT) 0.001
	@python -m tests.benchmarks.kills
	@$(INSTALL) -e ".[bench]"
	@python -m tests.benchmarks.training_speed

lint: $(TEST_READY)  ## style, formatting and types
	@ruff check . && ruff format --check . && mypy

check: lint test  ## all that has to pass before a commit

format: $(TEST_READY)  ## put the code into shape
	@ruff check --fix . && ruff format .

clean:  ## remove the environment and the state of unfinished work
	@rm -rf $(VENV) .scratch

$(READY): pyproject.toml constraints.txt
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (about a minute with a warm package cache)"
	@$(INSTALL) -e .
	@touch $@

$(TEST_READY): $(READY)
	@echo "installing what the tests need too"
	@$(INSTALL) -e ".[test]"
	@touch $@
