# The same four commands for everybody: make format check test repro
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: setup repro test slow check format docs clean

repro: $(STAMP)
	dvc repro

test: $(STAMP)
	pytest -n 2 --dist loadfile

slow: $(STAMP)
	pytest -m slow

check: $(STAMP)
	ruff check
	ruff format --check
	mypy

format: $(STAMP)
	ruff check --fix
	ruff format

docs: $(STAMP)
	mkdocs build --strict

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
