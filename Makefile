# make demo | up | test | check | bench | test-slow: each creates .venv with the pinned set first.
PYTHON ?= python3
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
PIP_INDEX := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
THREADS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 PYTHONWARNINGS=ignore::FutureWarning TOKENIZERS_PARALLELISM=false DO_NOT_TRACK=1

.PHONY: demo up test test-slow check bench install clean

demo: $(VENV)/installed
	$(BIN)/rsgrpo demo $(ARGS)

up: $(VENV)/installed
	$(BIN)/rsgrpo up $(ARGS)

test: $(VENV)/installed-dev
	$(THREADS) $(BIN)/python -m pytest -q -m "not slow and not gpu" $(ARGS)

test-slow: $(VENV)/installed-dev
	$(THREADS) $(BIN)/python -m pytest -q -m "slow and not gpu" $(ARGS)

check: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/installed-dev
	$(THREADS) $(BIN)/python -m bench $(ARGS)

install: $(VENV)/installed

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info < (3, 14); sys.exit(0 if ok else "rsgrpo needs Python 3.11 to 3.13: set PYTHON=/path/to/one")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python constraints.txt pyproject.toml
	$(BIN)/python -m pip install -q -c constraints.txt $(PIP_INDEX) -e '.[train,track,orchestrate,sweep,dashboards]'
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install -q -c constraints.txt $(PIP_INDEX) -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
