# The same four commands for everybody: make format check test repro
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TOOLS := $(VENV)/.installed-tools
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: setup tools repro test slow check format docs clean

repro: $(STAMP)
	dvc repro

test: $(TOOLS)
	pytest -n 2 --dist loadfile

slow: $(TOOLS)
	pytest -m slow

check: $(TOOLS)
	ruff check
	ruff format --check
	mypy

format: $(TOOLS)
	ruff check --fix
	ruff format

docs: $(TOOLS)
	mkdocs build --strict

# What an experiment needs; `tools` adds what tests, checks and documentation need.
setup: $(STAMP)

tools: $(TOOLS)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[pipeline]'
	touch $@

$(TOOLS): $(STAMP)
	$(PIP) --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
