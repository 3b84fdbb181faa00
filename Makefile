# Everything a developer runs. `make` alone explains.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint types sim sim-mutants bench proto reference images clean

python := .venv/bin/python
rooms := client/magnetar metadata ledger bookie tenants broker server
installed := .venv/.installed

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(installed) ## Make .venv with everything this tree needs (Python 3.11 or newer)

$(installed): pyproject.toml client/pyproject.toml constraints.txt scripts/setup
	@PYTHON="$(PYTHON)" scripts/setup

demo: $(installed) ## Send a table of flights through a cluster, kill a bookie and a broker, compare
	@$(python) -m demo

test: $(installed) lint types ## What every change must pass: style, types, architecture, tests
	@scripts/system-packages
	@$(python) -m pytest -n 2 --dist loadfile -m "not slow"

test-all: $(installed) lint types ## All tests, the slow ones too
	@scripts/system-packages
	@$(python) -m pytest -n 2 --dist loadfile

lint: $(installed) ## Style, and who may import whom
	@$(python) -m ruff check .
	@.venv/bin/lint-imports --no-logo --no-cache

types: $(installed) ## mypy --strict over all rooms
	@$(python) -m mypy $(rooms)

SEEDS ?= 200
SEED ?= 1
sim: $(installed) ## Run the simulator over SEEDS seeds from SEED on (make sim SEEDS=2000 SEED=1)
	@PYTHONHASHSEED=0 $(python) -m tests.sim.run --seeds $(SEEDS) --seed $(SEED) --jobs 2

sim-mutants: $(installed) ## Put historic defects back into a copy: the simulator must find each
	@PYTHONHASHSEED=0 $(python) -m tests.sim.mutants --jobs 2

bench: $(installed) ## Measure beside the bare data path on the same disk
	@$(python) -m bench

proto: $(installed) ## Generate the committed code of proto/ anew
	@PYTHON="$(CURDIR)/$(python)" proto/generate.sh

reference: $(installed) ## Write docs/reference anew, from the code
	@$(python) scripts/write_reference.py

images: $(installed) ## Build the container images
	@deploy/build-images.sh

clean: ## Remove the virtual environment and every cache
	rm -rf .venv build dist *.egg-info client/*.egg-info client/build \
		.mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
