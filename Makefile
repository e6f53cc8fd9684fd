# Everything a fresh machine needs is set up by the first target that needs it.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BENCH_READY := $(VENV)/.bench-ready
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test check chaos audit bench bench-pages bench-parties outage fuzz format lock clean

help: ## This list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(READY) ## Every platform's reward from webhook to closing call, live (ARGS=--exit ends by itself)
	@$(BIN)/reward-relay demo $(ARGS)

test: $(READY) ## All tests, on real PostgreSQL (ARGS="-k walk" for some)
	@$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

check: $(READY) ## Lint, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

audit: $(READY) ## Known vulnerabilities of the locked packages (asks a public database, so it is no part of check)
	@$(BIN)/uv tool run pip-audit --strict --progress-spinner off --require-hashes --disable-pip -r requirements.lock $(ARGS)

chaos: $(READY) ## Kill everything again and again under a far side that misbehaves, and count (ARGS=--help)
	@PYTHONPATH=tests $(BIN)/python -m chaos $(ARGS)

bench: $(BENCH_READY) ## Row-as-job beside two queues, in one run (ARGS=--help)
	@$(BIN)/python -m bench.engines $(ARGS)

bench-pages: $(READY) ## Every page and list call over 100,000 orders: p50, p95, max (ARGS=--help)
	@$(BIN)/python -m bench.pages $(ARGS)

bench-parties: $(READY) ## A vendor in trouble beside others, and a backlog that drains (ARGS=--help)
	@$(BIN)/python -m bench.parties $(ARGS)

outage: $(READY) ## PostgreSQL away for a minute under 50 webhooks a second: killed, then hanging (ARGS="--seconds 10")
	@$(BIN)/python -m bench.outage --how kill $(ARGS)
	@$(BIN)/python -m bench.outage --how hang $(ARGS)

fuzz: $(READY) ## Hostile requests over sockets: answers, memory, slowest (ARGS="--requests 100000 --seed 1")
	@PYTHONPATH=tests $(BIN)/python -m fuzz.run $(ARGS)

format: $(READY) ## Format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lock: $(READY) ## Resolve the dependencies again into requirements.lock and bench/requirements.lock
	@$(BIN)/uv pip compile pyproject.toml --group dev --extra otel --universal --python-version 3.11 --generate-hashes --upgrade \
		--no-emit-index-url --no-header -q -o requirements.lock
	@$(BIN)/uv pip compile pyproject.toml --group bench -c requirements.lock --universal --python-version 3.11 \
		--generate-hashes --upgrade --no-emit-index-url --no-header -q -o bench/requirements.lock

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version) if sys.version_info < (3, 11) else None'
	@echo "Setting up $(VENV) (once) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(BENCH_READY): $(READY) bench/requirements.lock
	@$(BIN)/python -m pip install --quiet --require-hashes -r bench/requirements.lock
	@touch $@
