# Installs what each target needs into .venv. PYTHON chooses the interpreter, 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
# Processes among which the tests are divided. Each needs up to 5 GiB.
WORKERS ?= 2
NPM_FLAGS := --no-audit --no-fund --fetch-retries=1 --fetch-timeout=30000
WEBUI := plugins/llamafw_plugins/webui/source

.PHONY: help serve quick test node webui coverage lint docs site screenshots docs-check compatibility checkpoints fuzz package released bench clean

help:
	@echo "make serve          download the default model once and serve it on http://127.0.0.1:8080 (ARGS=... for flags)"
	@echo "make quick          run the quick tests (ARGS=... for pytest)"
	@echo "make test           run all tests (ARGS=... for pytest)"
	@echo "make node           install the packages for Node that some tests and the chat page need (needs Node 22.13 or newer, npm)"
	@echo "make webui          build the chat page from its sources (needs Node 22.13 or newer, npm)"
	@echo "make coverage       run all tests and print how much of each file they reach"
	@echo "make lint           check layout, code and types with ruff and mypy"
	@echo "make docs           write the generated pages and pictures in docs/"
	@echo "make site           build the documentation as a site with a search, in build/site"
	@echo "make screenshots    take the pictures of the web pages (needs Chromium)"
	@echo "make docs-check     test the documentation"
	@echo "make compatibility  write docs/compatibility.md and docs/client-calls.md from the marks of the tests"
	@echo "make checkpoints    compute the tests' logits with transformers again and compare them (installs torch)"
	@echo "make fuzz           send generated requests to every operation (ARGS='--max-time 3600')"
	@echo "make package        build sdist and wheel, and try the wheel in a fresh environment"
	@echo "make released       save the API document of a release, with which later ones are compared"
	@echo "make bench          compare the speed with llama.cpp, which is built once (takes long)"
	@echo "make clean          remove .venv and all caches"

serve: $(VENV)/.installed
	$(BIN)/llamafw serve $(ARGS)

quick: $(VENV)/.test
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow" $(ARGS)

test: $(VENV)/.test
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

node:
	cd tests/clients && npm install --no-package-lock $(NPM_FLAGS)
	cd $(WEBUI) && npm ci $(NPM_FLAGS)

webui: node
	cd $(WEBUI) && npm run check && npm run build

coverage: $(VENV)/.lint
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered $(ARGS)

compatibility: $(VENV)/.test
	$(BIN)/python -m pytest --collect-only --quiet --quiet --write-pages

checkpoints: $(VENV)-torch/.installed
	cd tests && OMP_NUM_THREADS=1 $(abspath $(VENV)-torch)/bin/python -m checkpoints.make --check $(ARGS)

fuzz: $(VENV)/.test
	$(BIN)/llamafw contract-test --backend numba --max-examples 1000 --seed $(shell date +%s) $(ARGS)

lint: $(VENV)/.lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy tests benchmarks
	$(BIN)/mypy examples/*/llamafw_*

docs: $(VENV)/.test
	$(BIN)/python -m llamafw.cli.cli_page > docs/cli.md
	$(BIN)/python tests/support/gallery.py > docs/gallery.md
	$(BIN)/python docs/site/reference_pages.py
	$(BIN)/python docs/pictures/sampling.py
	$(BIN)/python docs/pictures/ratios.py
	$(BIN)/python tests/support/json_schema.py > docs/json-schema.md

site: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --conf-dir docs/site . build/site
	@echo "build/site/docs/index.html"

screenshots: $(VENV)/.test
	$(BIN)/python docs/pictures/webui.py
	$(BIN)/python docs/pictures/api_page.py

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
	rm -rf $(VENV) $(VENV)-torch dist .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)-torch/.installed:
	$(PYTHON) -m venv $(VENV)-torch
	$(VENV)-torch/bin/python -m pip install --quiet --extra-index-url https://download.pytorch.org/whl/cpu \
		numpy "torch>=2.8" "transformers==5.24.*" --editable .
	@touch $@

$(VENV)/.test: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.lint: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --editable '.[test,lint]'
	@touch $@
