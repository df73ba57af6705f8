# The daily loop is `make fix && make check`. Everything here goes through .venv, which `make setup` builds.
PYTHON ?= $(or $(LLAVA_VENV),.venv)/bin/python
export OMP_NUM_THREADS ?= 1

.PHONY: help setup fix check test smoke docs lock

help:   ## list these targets
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed -E 's/: .*## */\t/' | expand -t 10

setup:  ## create .venv and install the locked versions
	bash -c 'source scripts/lib.sh && setup_environment'

fix:    ## format, sort imports, apply safe lint fixes, rewrite README's file list
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .
	$(PYTHON) -m tests.smoke.layout --write

check:  ## lint, types and the fast tests
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) -m pytest -m "not slow"

test:   ## all tests
	$(PYTHON) -m pytest

smoke:  ## scripts, configs, README commands, import rules
	$(PYTHON) -m pytest tests/smoke tests/architecture

docs:   ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict

lock:   ## resolve requirements/lock.txt anew (keeps the pins that still fit; needs uv)
	uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --override requirements/overrides.txt \
	  --no-annotate --custom-compile-command "make lock" --output-file requirements/lock.txt
