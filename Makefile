# `make` alone lists what there is to do. Every target makes ready what it needs.

PYTHON ?= python3
export PYTHON
VENV := .venv/bin
# ENGINE=NAME: the tests run on that engine alone, one of `scripts/engine list`
export BOT_BOTTLE_TEST_ENGINE := $(ENGINE)
WITH_ENGINE := scripts/engine run $(addprefix --engine ,$(filter docker-%,$(ENGINE))) --
PYTEST := $(VENV)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help demo test unit engine vm bench test-slow lint format check clean setup-venv setup-test setup-slow

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## boot examples/hello in a microVM and compare it with this machine
	@scripts/demo

test: setup-test ## all tiers: unit, engine (docker, podman), vm (smolvm)
	@$(WITH_ENGINE) scripts/test

unit: setup-venv ## the unit tests; those marked root run for root only
	@scripts/test unit

engine: setup-test ## the tests with real container engines; on one alone: ENGINE=docker-28-containerd
	@$(WITH_ENGINE) scripts/test engine

vm: setup-test ## the tests that boot real microVMs
	@$(WITH_ENGINE) scripts/test vm

bench: setup-slow ## measure what is claimed of speed and size: about half an hour
	@$(WITH_ENGINE) $(VENV)/python -m benchmarks

test-slow: setup-slow ## what takes minutes: a 1 GB agent image, all engines, thousands of made-up examples
	@code=0; \
	$(PYTEST) -q -n 2 --hypothesis-profile=many tests/unit/smolmachine/test_format.py || code=$$?; \
	$(WITH_ENGINE) scripts/test --slow || code=$$?; \
	exit $$code

lint: setup-venv ## ruff, mypy, the layers, the words and the documents
	@$(VENV)/ruff check . scripts/engine
	@$(VENV)/ruff format --check . scripts/engine
	@$(VENV)/mypy --scripts-are-modules src tests benchmarks scripts scripts/engine
	@$(PYTEST) -q tests/unit/test_architecture.py tests/unit/test_words.py tests/unit/test_docs.py \
	  tests/unit/test_reference.py
	@NO_MKDOCS_2_WARNING=1 $(VENV)/mkdocs build --strict --quiet

format: setup-venv ## let ruff put the sources in shape
	@$(VENV)/ruff check --fix --quiet . scripts/engine
	@$(VENV)/ruff format . scripts/engine

check: lint unit ## lint and the unit tests: for one's own loop

clean: ## remove all that these targets made here: the environment, caches, the private engine
	@scripts/clean

setup-venv:
	@scripts/setup venv
setup-test:
	@scripts/setup test
setup-slow:
	@scripts/setup slow
