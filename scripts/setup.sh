#!/bin/sh
# Makes .venv with everything that the demo and the tests need. Safe to run again: it stops early when nothing changed.
set -eu
cd "$(dirname "$0")/.."
venv=.venv
stamp=$venv/.homescope-setup
need_mb=5500 # .venv measured at 3.9 GB, and the package cache beside it while packages unpack

say() { printf '%s\n' "$*" >&2; }
fail() { say "setup: $1"; shift; for line; do say "       $line"; done; exit 1; }

sum=$(cat pyproject.toml locks/dev.txt scripts/setup.sh | cksum)
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$sum" ] && exit 0

[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] ||
    fail "the embedded engine needs Linux on x86-64, this is $(uname -s) on $(uname -m)." \
        "The client alone installs anywhere: pip install ."

python=${PYTHON:-}
for candidate in $python python3.11 python3.12 python3.13 python3; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
        python=$candidate
        break
    fi
    [ -z "${PYTHON:-}" ] || fail "PYTHON=$PYTHON is not Python 3.11, 3.12 or 3.13."
done
[ -n "$python" ] || fail "no Python 3.11, 3.12 or 3.13 found." "Install one, or name it: make setup PYTHON=/path/to/python3.12"

free_mb=$(df -Pm . | awk 'NR == 2 {print $4}')
[ -x "$venv/bin/uv" ] || [ "$free_mb" -ge "$need_mb" ] ||
    fail "only $free_mb MB free in $(pwd), $need_mb MB are needed for .venv." "Free some space, or clone to a larger disk."

if ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
    say "setup: creating $venv with $("$python" --version)"
    "$python" -m venv --clear "$venv" ||
        fail "$python cannot create virtual environments." "On Debian and Ubuntu: apt-get install python3-venv"
fi

say "setup: installing PyTorch (CPU) and $(grep -c '==' locks/dev.txt) pinned packages"
"$venv/bin/python" -m pip install --quiet --no-deps ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} torch==2.13.0 uv==0.13.9 ||
    fail "pip could not install torch 2.13.0 and uv." "Check that pip reaches its package index (pip config list)."
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --no-deps --require-hashes -r locks/dev.txt ||
    fail "uv could not install the packages of locks/dev.txt." "The lines above say which; the same command may be tried again: make setup"
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --no-deps --editable . ||
    fail "homescope itself could not be installed."

"$venv/bin/python" -c 'import torch, sys; sys.exit(torch.version.cuda is not None)' 2>/dev/null ||
    fail "pip chose PyTorch's CUDA build, the embedded engine needs the CPU build." \
        "Name the index with PyTorch's CPU wheels (pytorch.org, Get Started, Compute Platform: CPU) and try again:" \
        "rm -r .venv && make setup TORCH_INDEX_URL=<that index>"

printf '%s' "$sum" >"$stamp"
say "setup: done, $(du -sh "$venv" | cut -f1) in $venv"
