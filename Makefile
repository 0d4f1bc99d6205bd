# `make repro` and `make test` set up everything they need by themselves.

PYTHON ?= python3.11
CHECKPOINT ?= data/raw/base
VENV := .venv
# packages for remotes and what else is optional in pyproject.toml, such as EXTRAS=s3,ssh; noted for later installations
EXTRAS ?= $(shell cat $(VENV)/extras 2> /dev/null)
READY := $(VENV)/ready
TEST_READY := $(VENV)/ready-test
INSTALL := $(VENV)/bin/pip install -q --disable-pip-version-check -c constraints.txt
# stages are run by DVC as `python -m stages.…`: that must be this environment's python
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# progress bars: once a second is enough for the eye and short in a log
export TQDM_MININTERVAL := 1
# without tasks in tasks/, DVC takes dvc.yaml of the top folder
TASKS = $(wildcard tasks/*/dvc.yaml)

.PHONY: help setup repro reruns experiments remote pull share verify repair gc test lint check bench format clean
.DEFAULT_GOAL := help

help:  ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## the environment of the stages; repro makes it too; EXTRAS=s3,ssh: with these remotes

repro: $(READY)  ## run the stages whose inputs have changed; PULL=--pull: or fetch what others have shared
	@$(if $(TASKS),python -m stages.tools.tasks)
	@python -m stages.tools.check_params
	@dvc repro $(PULL) $(TASKS)

reruns: $(READY)  ## say which stages would run, and why
	@$(if $(TASKS),python -m stages.tools.tasks)
	@python -m stages.tools.reruns

experiments: $(READY)  ## the scores of this commit's experiments, and what they change
	@python -m stages.tools.experiments

remote: $(READY)  ## name the team's remote; URL=s3://bucket/folder: or of ssh, gs, azure, https, or a folder
	@dvc remote add --default team $(or $(URL),$(error URL= of the remote is missing))
	@dvc remote modify team verify true

pull: $(READY)  ## download data, models and run cache, so that no stage has to run
	@python -m stages.tools.pull

share: $(READY)  ## upload what the workspace, your branches and tags need, with the run cache
	@python -m stages.tools.share

verify: $(READY)  ## read cache and remote again, and name what is damaged or missing
	@python -m stages.tools.verify

repair: $(READY)  ## verify, and put good copies in place
	@python -m stages.tools.verify --repair

gc: $(READY)  ## say what nobody needs in the cache, and how to delete it
	@python -m stages.tools.gc

test: $(TEST_READY)  ## the tests
	@OMP_NUM_THREADS=1 pytest -n 2 --dist worksteal

bench: $(TEST_READY)  ## the measurements, after make repro; CHECKPOINT=folder: a causal model to start from
	@python -m tests.benchmarks.data_scale
	@python -m tests.benchmarks.data_cost
	@python -m tests.benchmarks.data_speed
	@python -m tests.benchmarks.uploaded_bytes
	@python -m tests.benchmarks.stage_growth
	@python -m tests.benchmarks.near_duplicates
	@python -m tests.benchmarks.json_lists
	@python -m tests.benchmarks.start_up
	@python -m tests.benchmarks.resampling
	@python -m tests.benchmarks.planted_slots
	@python -m tests.benchmarks.copying
	@python -m tests.benchmarks.decoding_speed
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

$(READY): pyproject.toml constraints.txt $(VENV)/extras
	@echo "installing into $(VENV) (about a minute with a warm package cache)"
	@$(INSTALL) -e .$(if $(EXTRAS),[$(EXTRAS)])
	@touch $@

$(TEST_READY): $(READY)
	@echo "installing what the tests need too"
	@$(INSTALL) -e ".[test]"
	@touch $@

# written only if they are others, so that make installs only then
$(VENV)/extras: FORCE
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@echo "$(EXTRAS)" | cmp -s - $@ || echo "$(EXTRAS)" > $@

FORCE:
