# The commands of homescope. Everything sets itself up: `make demo` and `make test` work on a fresh machine.
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast test-deploy check fmt serve bench bench-gateway bench-peers bench-client lock clean
export PYTHON TORCH_INDEX_URL
BIN := .venv/bin

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## environment only (.venv), safe to repeat
	@sh scripts/setup.sh

demo: setup ## charts in, answers out: starts the whole stack, answers a folder of charts, writes a page, stops
	@$(BIN)/python -m serving.demo

serve: setup ## the gateway on http://127.0.0.1:8000 with the embedded engine
	@$(BIN)/homescope-server run

test: setup ## every test that needs no GPU, real engine included
	@$(BIN)/python -m pytest --rings 3 -n auto --dist loadfile --no-loadscope-reorder
	@$(BIN)/python -m pytest -m '(engine or conformance) and not deploy'

test-fast: setup ## what listens on no socket and starts no process: about two minutes
	@$(BIN)/python -m pytest --rings 2 -n auto --dist loadfile --no-loadscope-reorder

test-deploy: setup ## images, manifests, and every container's process together; wants tools of Debian, which it installs as root
	@sh scripts/deploy-tools.sh
	@$(BIN)/python -m pytest -m deploy tests/deploy

check: setup ## format, lint, types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

fmt: setup ## rewrite files to the format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: setup ## a short load on the embedded engine: Locust, a report in the terminal and as bench.html
	@$(BIN)/python -m benchmarks.short --page bench.html

bench-gateway: setup ## what the gateway costs: CPU and memory, images per second against the bare engine
	@$(BIN)/python -m benchmarks.gateway_overhead cpu --out benchmarks/results/gateway_cpu.json
	@$(BIN)/python -m benchmarks.gateway_overhead ratio --out benchmarks/results/gateway_ratio.json

bench-peers: setup ## beside other gateways, installed for it
	@$(BIN)/python -m benchmarks.peers --out benchmarks/results/peers.json

bench-client: setup ## the client: rate, CPU and memory, kills; a million rows alone take half an hour
	@$(BIN)/python -m benchmarks.client_rate --seconds 20 --out benchmarks/results/client_rate.json
	@$(BIN)/python -m benchmarks.client_memory --out benchmarks/results/client_memory.json
	@$(BIN)/python -m benchmarks.client_kills --out benchmarks/results/client_kills.json

lock: setup ## write locks/ anew from pyproject.toml
	@sh scripts/lock.sh

clean: ## remove .venv and everything the demo wrote
	rm -rf .venv demo-out .mypy_cache .ruff_cache .pytest_cache
