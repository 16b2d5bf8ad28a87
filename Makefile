# Compiled modules are kept: every test that runs the command line would compile them anew.
unexport PYTHONDONTWRITEBYTECODE

# `make demo` and `make test` need nothing before them but Python 3.11+ and make: they install what they need into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTEST := $(BIN)/python -m pytest
STALE := { echo "a generated page is out of date: make docs" >&2; exit 1; }

.DEFAULT_GOAL := help
.PHONY: help demo test variants check faults chaos model bench lock docs clean

help: ## Show the targets
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/^([a-z]+):.*## /  make \1	/'

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Tenure needs Python 3.11 or newer; this is `$(PYTHON) --version`. Say which: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing into $(VENV) (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(READY)

demo: $(READY) ## Restore a damaged tenant and move three under load on real servers, roll one back, print the evidence
	@$(BIN)/tenure demo $(ARGS)

# Tests wait for servers more than they compute: more workers than processors, each with servers of its own.
WORKERS ?= 4

test: $(READY) ## The whole test suite
	@$(PYTEST) -n $(WORKERS) --dist loadfile $(ARGS)

variants: $(READY) ## The tests of stores with every other engine and arrangement of each kind, and the longest scenarios
	@$(PYTEST) -n $(WORKERS) --dist load -m variant $(ARGS)

check: $(READY) ## Lint, types, import contracts, generated docs
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m tenure.estate.reference | diff -u docs/reference/configuration.md - || $(STALE)
	@$(BIN)/python -m tenure.cli.reference | diff -u docs/reference/commands.md - || $(STALE)

faults: $(READY) ## Kill at every named point of every operation, then resume and cancel
	@$(PYTEST) tests/faults --every-point $(ARGS)

chaos: $(READY) ## Ten minutes of random moves, kills and outages under load, by a seed (ARGS="--seconds 600 --seed 1"), then the checker
	@PYTHONPATH=examples:. $(BIN)/python -m bench.chaos $(ARGS)

model: ## Check the model of the switch with crashes at every step (needs spin and a C compiler)
	@$(PYTHON) model/check.py $(ARGS)

bench: $(READY) ## Copies, comparison and fence beside everybody's tools; the engine's own cost; 50 switches under load
	@PYTHONPATH=examples:. $(BIN)/python -m bench.postgres
	@PYTHONPATH=examples:. $(BIN)/python -m bench.redis
	@PYTHONPATH=examples:. $(BIN)/python -m bench.objects
	@PYTHONPATH=examples:. $(BIN)/python -m bench.scan
	@PYTHONPATH=examples:. $(BIN)/python -m bench.erase
	@PYTHONPATH=examples:. $(BIN)/python -m bench.backup
	@PYTHONPATH=examples:. $(BIN)/python -m bench.backup_tools
	@PYTHONPATH=examples:. $(BIN)/python -m bench.analytics
	@PYTHONPATH=examples:. $(BIN)/python -m bench.engine
	@PYTHONPATH=examples:. $(BIN)/python -m bench.celery_cost
	@PYTHONPATH=examples:. $(BIN)/python -m bench.pinecone
	@PYTHONPATH=examples:. $(BIN)/python -m bench.switch $(ARGS)

docs: $(READY) ## Write the generated pages again
	@$(BIN)/python -m tenure.estate.reference > $(READY).page && mv $(READY).page docs/reference/configuration.md
	@$(BIN)/python -m tenure.cli.reference > $(READY).page && mv $(READY).page docs/reference/commands.md

lock: ## Pin the dependencies again (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate \
	  --extra clickhouse --extra local --extra dev pyproject.toml -o requirements.lock

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
