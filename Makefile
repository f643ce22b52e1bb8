# The commands of homescope. Everything sets itself up: `make demo` and `make test` work on a fresh machine.
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast check fmt serve bench lock clean
export PYTHON TORCH_INDEX_URL
BIN := .venv/bin

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## environment only (.venv), safe to repeat
	@sh scripts/setup.sh

demo: setup ## charts in, answers out: starts the whole stack, answers a folder of charts, writes a page, stops
	@$(BIN)/python -m serving.demo

serve: setup ## the gateway on http://127.0.0.1:8000 with the embedded engine
	@$(BIN)/homescope-server run

test: setup ## every test that needs no GPU, real engine included
	@$(BIN)/python -m pytest

test-fast: setup ## the same without the real engine and the clients that install something
	@$(BIN)/python -m pytest -m 'not engine and not conformance'

check: setup ## format, lint, types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

fmt: setup ## rewrite files to the format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: setup ## what the gateway costs: CPU and memory, images per second against the bare engine
	@$(BIN)/python -m benchmarks.gateway_overhead cpu --out benchmarks/results/gateway_cpu.json
	@$(BIN)/python -m benchmarks.gateway_overhead ratio --out benchmarks/results/gateway_ratio.json

lock: setup ## write locks/ anew from pyproject.toml
	@sh scripts/lock.sh

clean: ## remove .venv and everything the demo wrote
	rm -rf .venv demo-out .mypy_cache .ruff_cache .pytest_cache
