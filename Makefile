# `make help` lists the targets. Variables may be overridden: make test WORKERS=1 PYTHON=python3.12

PYTHON ?= python3
WORKERS ?= 2
# Threads of each test worker; two workers of one thread suit two cores.
THREADS ?= 1
# What soak's second half draws from, to show that results do not hang on make test's draws.
SEED ?= $(shell date +%s)
DEMO ?= runs/digits_flow
# TFDS_DATA_DIR, if set, is where data sets are looked up.
export TF_CPP_MIN_LOG_LEVEL ?= 2

VENV := .venv
BIN := $(VENV)/bin
PYTEST = TF_NUM_INTRAOP_THREADS=$(THREADS) TF_NUM_INTEROP_THREADS=$(THREADS) \
	OMP_NUM_THREADS=$(THREADS) OPENBLAS_NUM_THREADS=$(THREADS) \
	$(BIN)/python -m pytest -q -n $(WORKERS)
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv demo test quick lint soak bench clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */\1\t/' | expand -t 10

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
	  echo "tf_iresnet needs Python 3.11, 3.12 or 3.13; '$(PYTHON)' is" \
	       "$$($(PYTHON) --version 2>/dev/null || echo missing). Name another: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/train.stamp: setup.py constraints.txt | $(VENV)/pyvenv.cfg
	$(INSTALL) -e '.[train]'
	@touch $@

$(VENV)/test.stamp: $(VENV)/train.stamp
	$(INSTALL) -e '.[test]'
	@touch $@

# PyPI's torch for Linux brings CUDA; PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu avoids it.
$(VENV)/bench.stamp: $(VENV)/train.stamp
	$(INSTALL) -e '.[bench]'
	@touch $@

venv: $(VENV)/train.stamp  ## build .venv with what the library and the experiments need

demo: venv  ## train digits_flow; print bits/dim; write samples, reconstructions and a SavedModel
	$(BIN)/python -m training train digits_flow --out $(DEMO)
	$(BIN)/python -m training evaluate $(DEMO)
	$(BIN)/python -m training sample $(DEMO) --n 64 --seed 0 --out $(DEMO)/samples.png
	$(BIN)/python -m training reconstruct $(DEMO) --out $(DEMO)/reconstructions.png
	rm -rf $(DEMO)/saved_model
	$(BIN)/python -m training export $(DEMO) --out $(DEMO)/saved_model/digits_flow/1
	@$(BIN)/python -c 'import json, sys; m = json.load(open(sys.argv[1])); \
	  print("digits_flow: {bits_per_dim:.4f} +- {standard_error:.4f} bits/dim on {images} images".format(**m))' \
	  $(DEMO)/metrics.json
	@echo "pictures and SavedModel: $(DEMO)/samples.png $(DEMO)/reconstructions.png $(DEMO)/saved_model/digits_flow/1"

test: $(VENV)/test.stamp  ## run the test suite; it ends with the rooms that failed
	$(PYTEST) --dist worksteal --durations 25

quick: $(VENV)/test.stamp  ## run a choice of the tests, within 90 seconds
	$(PYTEST) --dist worksteal -m quick

lint: $(VENV)/test.stamp  ## check style, formatting and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache

soak: $(VENV)/test.stamp  ## run the tests that take too long for every run, and the others backwards
	TEST_GRAPPLER=1 $(BIN)/python -m pytest -q -m soak
	TEST_GRAPPLER=1 TEST_SEED=$(SEED) $(PYTEST) --dist loadfile --reverse

bench: $(VENV)/bench.stamp  ## compare with peers; writes benchmarks/results.json
	$(BIN)/python -m benchmarks

clean:  ## remove the environment, builds and caches, but no runs
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
