#!/bin/sh
# Writes every lock in locks/ from pyproject.toml: exact versions and hashes.
# Run it after a dependency changed, read the difference, then commit both.
set -eu
cd "$(dirname "$0")/.."
uv=${UV:-.venv/bin/uv}

lock() {
    out=locks/$1.txt
    shift
    "$uv" pip compile pyproject.toml "$@" --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
        --quiet --output-file "$out"
    echo "$out: $(grep -c '==' "$out") packages"
}

lock client
lock documents --extra data --extra documents --extra pipeline
lock serving --extra serving --extra scale --extra traces
# torch comes before the lock (scripts/setup.sh): its CPU build is not what a plain install would choose.
lock dev --extra serving --extra scale --extra traces --extra engine-cpu --extra demo --extra train --extra data --extra documents --extra pipeline --extra benchmarks --group dev --no-emit-package torch
lock engine-cpu --extra serving --extra scale --extra traces --extra engine-cpu --no-emit-package torch
# A GPU machine wants torch's published build with all it asks for: none of the CPU overrides of pyproject.toml.
lock engine-gpu --extra serving --extra scale --extra traces --extra engine-gpu --no-config
