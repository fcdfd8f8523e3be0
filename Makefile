VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin
OLDEST ?= 3.11
NEWEST ?= 3.13
TESTS ?=
PARALLEL ?=

# What depends most on versions of Python and of packages.
OF_VERSIONS = tests/audio tests/data tests/whole/test_app.py tests/whole/test_wheel.py

.PHONY: help venv demo test test-all test-oldest test-newest test-pre test-windows test-versions $(OF_VERSIONS) pytest lint types types-linux types-win32 types-darwin docs vendor bench bench-gpu clean

help:  ## list these targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet -e .
	touch $@

$(VENV)/installed-dev: $(BIN)/python pyproject.toml $(CONSTRAINTS)
	$(BIN)/python -m pip install --quiet $(PRE) -e '.[dev,docs]' $(addprefix --constraint ,$(CONSTRAINTS))
	touch $@ $(VENV)/installed

venv: $(VENV)/installed-dev  ## a virtual environment with everything for development

demo: $(VENV)/installed  ## install, then extract features of the package's own clips
	$(BIN)/python -m extract dataset=demo

test: lint types pytest  ## lint, types and the tests

test-all:  ## as test, with every fault on every layout
	$(MAKE) test TESTS="$(TESTS) --all-layouts"

test-oldest:  ## the tests on the oldest Python, with the oldest version of every dependency
	$(MAKE) pytest VENV=$(VENV)-oldest PYTHON="$$(./.ci/python $(OLDEST))" CONSTRAINTS=constraints-oldest.txt

test-newest:  ## the tests on the newest Python, with the newest version of every dependency
	$(MAKE) pytest VENV=$(VENV)-newest PYTHON="$$(./.ci/python $(NEWEST))"

test-pre:  ## as test-newest, with pre-releases too, of what pyproject.toml admits
	$(MAKE) pytest VENV=$(VENV)-pre PYTHON="$$(./.ci/python $(NEWEST))" PRE=--pre

# Loading and faults; each worker takes seconds to start there.
WINDOWS = tests/data tests/store tests/run/test_signals.py tests/test_systems.py $(addprefix tests/whole/test_,faults.py damage.py each_layout.py)

test-windows: venv  ## loading and faults where the package sees no more of the system than Windows has
	PYTHONPATH=tests $(BIN)/python -m support.windows --timeout 900 $(WINDOWS) $(TESTS)

test-versions: $(OF_VERSIONS)  ## the tests that depend most on versions, each part by a pytest of its own

$(OF_VERSIONS): venv
	$(BIN)/python -m pytest $@

pytest: venv
	$(BIN)/python -m pytest $(PARALLEL) $(TESTS)

lint: venv  ## ruff: rules and format; import-linter: which module may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: types-linux types-win32 types-darwin  ## mypy, strict; for Windows and macOS too: no call there that only Linux has

types-linux types-win32 types-darwin: types-%: venv
	$(BIN)/mypy --platform $* --cache-dir .mypy_cache/$*

vendor: venv  ## fetch the JavaScript that pages hold again, from npm: extract/report/vendor/
	$(BIN)/python tests/support/vendored.py

docs: venv  ## the pages of docs/ as a site in site/; a warning is an error
	$(BIN)/zensical build --strict

bench: venv  ## the speed of everything on the CPU, in one table
	$(BIN)/python -m benchmarks

bench-gpu: venv  ## checks and speed on a GPU
	$(BIN)/python benchmarks/gpu.py

clean:  ## remove all that these targets made, except outputs/
	rm -rf $(VENV) $(VENV)-oldest $(VENV)-newest $(VENV)-pre build dist site .cache *.egg-info .pytest_cache .mypy_cache .import_linter_cache .ruff_cache .hypothesis
