# Everything a fresh machine with Python needs. PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: help serve test compatibility fuzz lint types docs docs-check package released bench clean

help:
	@echo "make serve       install, fetch the default model once, serve it on http://127.0.0.1:8080   (ARGS=... for flags)"
	@echo "make test        install with test extras, run the whole suite                             (ARGS=... for pytest)"
	@echo "make compatibility  write docs/compatibility.md from the marks of the tests"
	@echo "make fuzz        invent requests for every operation until something breaks                (ARGS='--max-time 3600')"
	@echo "make lint        ruff and mypy"
	@echo "make docs        write the pages made by scripts: docs/cli.md, gallery.md, json-schema.md, pictures"
	@echo "make docs-check  run what the documentation shows"
	@echo "make released    keep the API document of a release, which later ones are compared with"
	@echo "make package     build sdist and wheel, install the wheel in a fresh environment"
	@echo "make bench       side by side with llama.cpp (builds it once; takes long)"

serve: $(VENV)/.installed
	$(BIN)/llamafw serve $(ARGS)

test: $(VENV)/.test
	$(BIN)/python -m pytest $(ARGS)

compatibility: $(VENV)/.test
	$(BIN)/python -m pytest --collect-only --quiet --quiet --compatibility=docs/compatibility.md

fuzz: $(VENV)/.test
	$(BIN)/llamafw contract-test --backend numba --max-examples 1000 --seed $(shell date +%s) $(ARGS)

lint: $(VENV)/.lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy examples/*/llamafw_*

docs: $(VENV)/.test
	$(BIN)/python -m llamafw.cli.reference > docs/cli.md
	$(BIN)/python tests/support/gallery.py > docs/gallery.md
	$(BIN)/python docs/pictures/sampling.py
	$(BIN)/python tests/support/json_schema.py > docs/json-schema.md

docs-check: $(VENV)/.test
	$(BIN)/python -m pytest tests/house tests/docs $(ARGS)

released: $(VENV)/.installed
	$(BIN)/llamafw spec > tests/contract/released.yaml

package: $(VENV)/.lint
	$(BIN)/python tests/package.py

bench: $(VENV)/.test
	$(BIN)/python benchmarks/peer.py build
	$(BIN)/python benchmarks/passes.py
	$(BIN)/python benchmarks/serving.py

clean:
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.test: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.lint: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --editable '.[test,lint]'
	@touch $@
