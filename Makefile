# Every target makes its environment first; nothing else needs to be installed but Python >= 3.11.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help demo benchmark test test-fast lint format clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(READY) ## edit a face with every released method; then train one method, and compare it with the baselines
	$(BIN)/python scripts/demo.py

benchmark: $(READY) ## train and measure every method; QUICK=1: shortened to ten minutes; SEEDS="0 1 2": more seeds
	$(BIN)/python scripts/benchmark_all.py $(if $(QUICK),--quick) $(if $(SEEDS),--seeds $(SEEDS))

test: $(READY) ## ruff and all tests (ten minutes on two cores)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-fast: $(READY) ## all tests but the slow ones
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

lint: $(READY) ## style and types, without changing anything
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(READY) ## fix the style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the environment (runs/ and packs stay)
	rm -rf .venv build *.egg-info

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: $(PYTHON) is older than 3.11; run make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@
