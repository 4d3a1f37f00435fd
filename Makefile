# Each target sets up what it needs: `make demo` works on a machine that has only Python and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test test-long lint format docs notebook clean

help:  ## say what there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 18

demo: $(INSTALLED)  ## adapt and label on embedded data: nothing is downloaded
	$(BIN)/python -m experiments run demo

# One process a core, one thread each: most tests are too small to share.
test: $(INSTALLED)  ## all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 8 --dist loadfile

test-long: $(INSTALLED)  ## the tests that take minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m long -n auto --maxprocesses 8 --dist loadfile --junitxml=runs/long.xml

lint: $(INSTALLED)  ## style, types, direction of the imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy dan active experiments
	$(BIN)/lint-imports --no-cache

format: $(INSTALLED)  ## rewrite the files in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(INSTALLED)  ## the pages and the API as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

notebook: $(INSTALLED)  ## run the notebook again
	OMP_NUM_THREADS=1 $(BIN)/jupyter execute --inplace notebooks/two_folders_to_labels.ipynb

clean:  ## remove caches; the environment, runs and results stay
	rm -rf build dist site *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache
	find dan active experiments tests -type d -name __pycache__ -prune -exec rm -rf {} +

# The stamp is written last, so that an interrupted installation is taken up again. An environment without pip is a
# broken one (Debian's python3 without python3-venv leaves it so): it is made anew.
$(INSTALLED): setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "active-dan needs Python 3.10 or newer: try make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install -e ".[dev]"
	@touch $@
