# Every verb does its own set-up, once: uv, the environment in .venv, the database engine in .local/bin.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

# Tests wait for processes and for backoff more than they compute.
JOBS ?= 2

PYTHON_VERSION := 3.13
UV_VERSION := 0.13.9

# A uv on PATH counts only if it runs: a shim of a version manager may stand there for another Python.
UV := $(shell uv --version >/dev/null 2>&1 && echo uv || echo .local/uv/bin/uv)
OWN_UV := $(filter .local/%,$(UV))
# The handlers and the layer are on the path as they are in Lambda.
RUN := env PYTHONPATH=functions:shared .venv/bin/python
READY := .venv/ready .local/bin/ready

.PHONY: help run test lint check docs replay verify bench bench-sweep bench-ring prove-verify prove-linearizability mutants model model-store fuzz lock clean

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-21s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(READY) ## serve the API at http://127.0.0.1:8000 (PORT=…), data kept in .local
	@exec $(RUN) -m tools.local --with-parent

test: $(READY) ## run every test, in JOBS=2 processes (ARGS="…" go to pytest)
	@$(RUN) -m pytest -n $(JOBS) $(ARGS)

lint: .venv/ready ## ruff and mypy
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

check: lint validate ## lint, the template, drift of the OpenAPI document and of the program's schema
	@$(RUN) -m tools.openapi --check

docs: .venv/ready ## write the OpenAPI document and the program's schema anew
	@$(RUN) -m tools.openapi

replay: .venv/ready ## post 6,919 real purchases to the running service
	@$(RUN) -m tools.replay

verify: .venv/ready ## hold every law of the ledger against the running service's tables
	@$(RUN) -m tools.verify

bench: $(READY) ## measure costs, growth, load and decisions, and write docs/benchmarks.md
	@$(RUN) -m tools.bench --write
	@$(RUN) -m tools.bench_costs --write
	@$(RUN) -m tools.bench_load --write
	@$(RUN) -m tools.bench_cpu --write
	@$(RUN) -m tools.bench_postgres --write

mutants: $(READY) ## try the mutants of the domain that are new (hours for all), and write the score into docs/proof.md
	@$(RUN) -m tools.mutate --write

bench-sweep: $(READY) ## measure the sweep over a million accounts (5 minutes), and write that table
	@$(RUN) -m tools.bench_sweep --write

bench-ring: $(READY) ## send 200,000 transfers at once around a ring (an hour), and write that table
	@$(RUN) -m tools.ring --write

fuzz: $(READY) ## send 200,000 requests that nobody sends by mistake (5 minutes), and write what came of it
	@$(RUN) -m tools.fuzz --cases $(CASES) --write
	@$(RUN) -m tools.generated --cases $$(($(CASES) / 19)) --write
# Bent samples; one in twenty of all requests is generated from the OpenAPI document on top.
CASES ?= 191000

prove-verify: $(READY) ## 1,000 mutations that the verification has to find, and write the report (10 minutes)
	@$(RUN) -m tests.mutations --write

prove-linearizability: $(READY) ## 1,000 histories of 16 clients at once, and write the report
	@$(RUN) -m tests.linearizability --write

model: .venv/ready ## play a million commands beside the reference model (14 minutes), and write what came of it
	@$(RUN) -m tests.differential --ops 1000000 --jobs $(JOBS) --write

model-store: $(READY) ## the same through the store, with faults and clients at once (100,000 commands, 16 minutes)
	@$(RUN) -m tests.differential --store --ops 102000 --jobs $(JOBS) --write

# build, deploy, validate: what SAM does
-include tools/sam.mk

lock: $(OWN_UV) ## pin the newest dependencies that pyproject.toml allows
	@rm -f shared/requirements.txt requirements-dev.txt
	$(LOCK) -o shared/requirements.txt
	$(LOCK) --group dev -c shared/requirements.txt -o requirements-dev.txt

# One lock for every platform, with hashes and without the address of any index.
LOCK = $(UV) pip compile --quiet --universal --python-version $(PYTHON_VERSION) --generate-hashes \
	--no-emit-index-url --no-annotate --custom-compile-command "make lock" pyproject.toml

clean: ## remove everything that can be made again (the service's data in .local stays)
	rm -rf .venv .aws-sam .local/uv .local/bin .local/tools .local/sam .local/cloud .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/ready: requirements-dev.txt | $(OWN_UV)
	@echo "Setting up .venv ..."
	@$(UV) venv --quiet --allow-existing --python $(PYTHON_VERSION) .venv
	@$(UV) pip sync --quiet --require-hashes --compile-bytecode --python .venv/bin/python requirements-dev.txt
	@touch $@

.local/bin/ready: tools/engine.py | .venv/ready
	@.venv/bin/python -m tools.engine
	@mkdir -p $(@D) && touch $@

.local/uv/bin/uv:
	@echo "Bringing uv $(UV_VERSION) along ..."
	@for python in python$(PYTHON_VERSION) python3 python; do \
		if $$python -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != "$(PYTHON_VERSION)")' 2>/dev/null; then \
			$$python -m venv --clear .local/uv && .local/uv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION); exit; \
		fi; \
	done; echo "Neither uv nor Python $(PYTHON_VERSION) found: install one of them." >&2; exit 1
