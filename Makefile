# `make` lists the targets. Each one sets up what it needs in $(VENV), so a machine with Python ≥ 3.11 is enough.
#   make book ARGS="--profile smoke"     arguments for the command behind the target
#   make test PYTHON=python3.12          another Python
#   make book PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"    the small CPU build of torch

PYTHON   ?= python3
VENV     ?= .venv
ARGS     ?=
PIP_ARGS ?=
BIN      := $(VENV)/bin
STAMPS   := $(VENV)/.stamps

.DEFAULT_GOAL := help
.PHONY: help book pdf test check bench lint format doctor lab clean distclean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

book: $(STAMPS)/book ## run the chapters and build the site into _build/html
	@$(BIN)/lpft fetch
	$(BIN)/lpft book $(ARGS)

pdf: $(STAMPS)/pdf ## print what `make book` ran as one PDF, _build/book.pdf (needs Chromium or Chrome)
	$(BIN)/lpft pdf

test: $(STAMPS)/test ## run the tests (units, chapters, site) but the slow ones
	@$(BIN)/lpft fetch || echo 'the tests of the rated snippets will skip' >&2
	@$(BIN)/python -m pytest -m 'not slow' $(ARGS)

check: lint ## what continuous integration runs: lint, and every test
	@$(BIN)/lpft fetch || echo 'the tests of the rated snippets will skip' >&2
	@$(BIN)/python -m pytest $(ARGS)

bench: $(STAMPS)/test ## run the benchmarks, each ends with lines "name: ratio"
	@for script in benchmarks/[!_]*.py; do echo "== $$script"; $(BIN)/python $$script $(ARGS) || exit 1; done

lint: $(STAMPS)/test ## check style, formatting, types, spelling, the order of imports between rooms, and that notebooks hold no outputs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-cache
	$(BIN)/codespell
	$(BIN)/nbstripout --keep-id --verify book/*.ipynb

format: $(STAMPS)/test ## format the code and strip the notebooks
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/nbstripout --keep-id book/*.ipynb

doctor: $(STAMPS)/book ## say what this machine has and what to do about the rest
	$(BIN)/lpft doctor

lab: $(STAMPS)/book ## open the chapters in JupyterLab
	@$(BIN)/lpft fetch
	$(BIN)/jupyter lab book

clean: ## remove what was built (stored runs and .venv stay)
	rm -rf _build .pytest_cache .ruff_cache .hypothesis
	find lpft_utils tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## remove .venv and the stored runs as well
	rm -rf $(VENV) _runs lpft_utils.egg-info

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or later is needed; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.11 …" >&2; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "python -m venv failed (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }

$(STAMPS)/book: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_ARGS) -e '.[book]'
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/pdf: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_ARGS) -e '.[book,pdf]'
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/test: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_ARGS) -e '.[book,test]'
	@mkdir -p $(STAMPS) && touch $@
