"""Where clients run: each in an environment of its own, made on first use and kept below `.venv/conformance`."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conformance.matrix import HERE, Client

ROOT = HERE.parents[1]
KEPT = ROOT / ".venv" / "conformance"
INSTALL_WITHIN_S = 300
NODE = 18
"""The oldest that the AI SDK runs on."""


class Missing(Exception):
    """Raised when this machine lacks what a client needs to run at all."""


def command(client: Client) -> list[str]:
    """The program that drives the client, its environment made if need be. Raises `Missing`."""
    if client.environment is None:
        return _python(Path(sys.executable), client)
    folder = KEPT / client.environment
    with _alone(folder):
        _make(client, folder)
    if client.node:
        program = shutil.copy(HERE / "clients" / client.program, folder)
        return ["node", str(program)]
    return _python(folder / "bin" / "python", client)


def environment() -> dict[str, str]:
    """This process's, without what would point a client elsewhere: proxies and DashScope's own names."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(("DASHSCOPE_", "HOMESCOPE_", "OPENAI_")) and not name.lower().endswith("_proxy")
    }
    return {**kept, "PYTHONPATH": str(ROOT), "LITELLM_LOCAL_MODEL_COST_MAP": "True", "DO_NOT_TRACK": "1"}


def _python(interpreter: Path, client: Client) -> list[str]:
    return [str(interpreter), "-m", f"tests.conformance.clients.{client.program}"]


def _make(client: Client, folder: Path) -> None:
    pins = HERE / "environments" / str(client.environment)
    lock = pins / ("package-lock.json" if client.node else "requirements.txt")
    wanted = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()
    stamp = folder / ".made-from"
    if client.node:
        _check_node()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    shutil.rmtree(folder, ignore_errors=True)
    (_npm if client.node else _uv)(pins, folder)
    stamp.write_text(wanted)


def _uv(pins: Path, folder: Path) -> None:
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if uv is None:
        raise Missing("uv is not installed")
    _run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)])
    into = ["--python", str(folder / "bin" / "python")]
    _run(
        [uv, "pip", "install", "--quiet", "--no-deps", "--require-hashes", *into, "-r", str(pins / "requirements.txt")]
    )


def _npm(pins: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(pins / name, folder)
    _run(["npm", "ci", "--silent", "--ignore-scripts", "--prefix", str(folder)])


def _check_node() -> None:
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise Missing("node and npm are not installed")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.lstrip("v").split(".")[0]) < NODE:
        raise Missing(f"node is {version.strip()}, {NODE} or newer is needed")


def _run(arguments: list[str]) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=INSTALL_WITHIN_S, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{done.stderr or done.stdout}")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time makes an environment; others wait and find it made."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
