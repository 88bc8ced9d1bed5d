# Two commands do everything: `make demo` and `make test`. Both install what they need into .venv first.
SHELL := /bin/sh
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv/bin
NAME ?=
ARGS ?=

# Real test data and real peers, where they lie beside the checkout; without them the tests concerned skip with a reason.
ONCOFLOW_TEST_DATA ?= $(wildcard $(abspath ../shared/data))
ONCOFLOW_TEST_PEERS ?= $(wildcard $(abspath ../shared/bin))
export ONCOFLOW_TEST_DATA ONCOFLOW_TEST_PEERS

.PHONY: demo run test test-fast lint types imports check bench setup setup-dev lock clean

setup:
	@test -n "$(PYTHON)" || { echo "oncoflow: Python 3.11 was not found on PATH; install it and try again." >&2; exit 1; }
	@$(PYTHON) deploy/bootstrap.py

setup-dev:
	@test -n "$(PYTHON)" || { echo "oncoflow: Python 3.11 was not found on PATH; install it and try again." >&2; exit 1; }
	@$(PYTHON) deploy/bootstrap.py --dev

demo: setup
	@$(VENV)/python -m oncoflow_site.demo $(ARGS)

run: setup
	@$(VENV)/python manage.py run

test: setup-dev
	@$(VENV)/python -m tests.run $(ARGS)

test-fast: setup-dev
	@$(VENV)/python -m tests.run -m "not slow" $(ARGS)

lint: setup-dev
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/python -m tests.rules

types: setup-dev
	$(VENV)/mypy

imports: setup-dev
	$(VENV)/lint-imports

check: lint types imports

bench: setup-dev
	@test -n "$(NAME)" || { echo "usage: make bench NAME=x [ARGS=...]"; ls tests/benchmarks | sed -n 's/^bench_\(.*\)\.py/  \1/p'; exit 2; }
	@$(VENV)/python -m tests.benchmarks.bench_$(NAME) $(ARGS)

lock: setup-dev
	@sh deploy/lock.sh

clean:
	rm -rf .venv .cache var
