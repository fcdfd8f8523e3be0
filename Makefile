VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin

.PHONY: help venv demo test lint types bench bench-gpu clean

help:  ## what there is to make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet -e .
	touch $@

$(VENV)/installed-dev: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@ $(VENV)/installed

venv: $(VENV)/installed-dev  ## a virtual environment with everything for development

demo: $(VENV)/installed  ## install, and run on the clips that come with it
	$(BIN)/python -m extract dataset=demo

test: lint types  ## lint, types and the tests
	$(BIN)/python -m pytest

lint: venv  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: venv  ## mypy, strict
	$(BIN)/mypy

bench: venv  ## the speed of everything on the CPU, in one table
	$(BIN)/python -m benchmarks

bench-gpu: venv  ## checks and speed on a GPU
	$(BIN)/python benchmarks/gpu.py

clean:  ## all that was made here but outputs/
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
