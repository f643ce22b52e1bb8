"""Programs that no wheel of .venv has: found, or told how to get, and the environments that need one of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

BIN = Path(sys.executable).parent
TOOLS = Path(sys.prefix) / "tools"
"""Where scripts/deploy-tools.sh puts what Debian's release does not have."""


def program(name: str) -> str:
    """Its path, from the tools of these tests, a wheel or the machine; the test ends where it is missing."""
    found = shutil.which(name, path=f"{TOOLS / 'bin'}:{BIN}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        missing(name)
    return found


def missing(name: str) -> NoReturn:
    """Ends the test: as one that is left out, or that failed where all there is to be had has to be there."""
    text = f"there is no {name} on this machine: `sh scripts/deploy-tools.sh` installs it (Debian, as root)"
    if required() and name not in not_to_be_had():
        pytest.fail(text)
    pytest.skip(text)


def required() -> bool:
    return bool(os.environ.get("CI")) or os.environ.get("HOMESCOPE_REQUIRE_TOOLS") == "1"


def not_to_be_had() -> list[str]:
    """What scripts/deploy-tools.sh looked for in vain."""
    listed = TOOLS / "missing"
    return listed.read_text().split() if listed.exists() else []


def environment(name: str, requirement: str) -> Path:
    """A virtual environment with a package whose dependencies are not ours; made on first use, kept beside our own."""
    folder = Path(sys.prefix) / name
    stamp = folder / "installed"
    if not stamp.exists() or stamp.read_text() != requirement:
        if folder.is_symlink():
            folder.unlink()
        shutil.rmtree(folder, ignore_errors=True)
        _run(sys.executable, "-m", "venv", "--without-pip", folder)
        _run(
            *(BIN / "uv", "pip", "install", "--quiet", "--only-binary", ":all:"),
            *("--python", folder / "bin" / "python", requirement),
        )
        stamp.write_text(requirement)
    return folder


def _run(*command: str | Path) -> None:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
