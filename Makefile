# braid. `make` alone lists the targets.
PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 2
LOCK = $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-emit-find-links
ROOMS := batch braid features infra models monitoring orchestration serving speed store

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long lint check audit lock clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Make .venv from the hash-locked requirements, and fetch the JARs; done once.
	@$(PYTHON) infra/setup.py

demo: setup ## Start everything on the fraud example, prove it, and stay up until Ctrl-C.
	@$(BIN)/braid demo fraud

test: setup ## Run the tests, on real embedded services: some 20 minutes on two cores.
	@$(BIN)/python -m pytest tests -n $(WORKERS) --durations=20 --session-timeout=4800

test-long: setup ## Run the long tests: fifty kills of the speed layer, and the other storms.
	@$(BIN)/python -m pytest tests -m long --durations=20 --session-timeout=7200

lint: setup ## Check style, format, types, and for what is unsafe.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/bandit -q -c pyproject.toml -r $(ROOMS)

check: lint test ## Lint and test: what CI runs.

audit: setup ## Look up each locked package's known vulnerabilities; needs the index's advisories.
	$(BIN)/pip-audit -r requirements.lock --disable-pip

lock: setup ## Resolve the requirements of braid, of Flink and of the benchmarks' peers into their locks anew.
	$(LOCK) --extra dev pyproject.toml -o requirements.lock
	$(LOCK) infra/flink/requirements.in -o infra/flink/requirements.lock
	$(LOCK) benchmarks/peers/requirements.in -o benchmarks/peers/requirements.lock

clean: ## End this folder's services and delete their state; .venv and the cache of JARs stay.
	@if [ -x $(BIN)/braid ]; then $(BIN)/braid down; fi
	rm -rf .braid .hypothesis .mypy_cache .pytest_cache .ruff_cache build *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
