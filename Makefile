# Each target sets up what it needs, then does its one job. Interrupted at any point, it can simply be run again.
#   PROFILE=cifar10      quick (default), cifar10 or paper: see book/profiles
#   JOBS=2               chapters at a time (default: one a core)
#   PYTHON=python3.12    the Python of .venv, 3.11 or newer
#   TORCH=system         use the torch and torchvision that PYTHON already has
.DEFAULT_GOAL := help
.PHONY: help setup book test lab bench lock clean

VENV := .venv/bin
PYTHON ?= $(shell $(VENV)/python -c "" 2>/dev/null && echo $(VENV)/python || echo python3)
PROFILE ?= quick
export PROFILE JOBS TORCH

help: ## Say what there is
	@sed -n 's/^#   /  /p' $(MAKEFILE_LIST); echo
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST)

setup: ## Make .venv with the locked dependencies (5 GB)
	@$(PYTHON) ci/setup.py

book: setup ## Execute the chapters, build the site into _build/html
	@$(VENV)/python ci/book.py build

test: setup ## Lint, unit tests, the chapters and the site, the browser test
	$(VENV)/ruff check
	$(VENV)/ruff format --check
	$(VENV)/nbstripout --keep-id --verify book/*.ipynb
	$(VENV)/python -m pytest --ignore tests/browser
	$(VENV)/python ci/book.py build
	$(VENV)/python -m pytest tests/browser

lab: setup ## Open JupyterLab on the book (LAB=... adds options)
	$(VENV)/jupyter lab --LabApp.default_url=/lab/tree/book $(LAB)

bench: setup ## Race snnkit against its peers (BENCH=--quick: 3 minutes; BENCH="--only W1 --device cuda")
	$(VENV)/python -m ci.bench $(BENCH)

lock: setup ## Resolve requirements.lock again from pyproject.toml (LOCK=--upgrade for newer versions)
	$(VENV)/python -m pip install --quiet uv
	$(VENV)/uv pip compile --universal --all-extras pyproject.toml -o requirements.lock $(LOCK)

clean: ## Remove what was built; .venv and the data stay
	rm -rf _build .pytest_cache .ruff_cache .hypothesis
