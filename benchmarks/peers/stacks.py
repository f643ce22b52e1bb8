"""Who is compared: how each is installed, started and asked."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from benchmarks.dialects import NATIVE_PATH
from benchmarks.processes import Tree, free_port, homescope, started, until_ready

ENVIRONMENTS = Path(__file__).resolve().parents[2] / ".venv" / "peers"
MODEL = "mock"
_KEY = "sk-comparison"


class CannotInstall(Exception):
    """Raised when an environment cannot be made; the message says why."""


@dataclass(frozen=True)
class Peer:
    """A running gateway. `tree` is None for the engine itself."""

    name: str
    url: str
    key: str
    model: str
    tree: Tree | None
    native: bool = False

    @property
    def path(self) -> str:
        return NATIVE_PATH if self.native else "/v1/chat/completions"


Start = Callable[[str, Path], AbstractAsyncContextManager[Peer]]


@dataclass(frozen=True)
class Stack:
    """One of the compared: `packages` go into an environment of its own, `start` begins it before an engine."""

    name: str
    start: Start
    packages: tuple[str, ...] = ()
    note: str = ""


def install(stack: Stack) -> Path:
    """Its environment, made on first use. Raises CannotInstall."""
    folder = ENVIRONMENTS / stack.name
    stamp, wanted = folder / ".made-from", "\n".join((*stack.packages, sys.version))
    if stamp.exists() and stamp.read_text() == wanted:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    commands = [
        [uv, "venv", "--quiet", "--python", sys.executable, str(folder)],
        [uv, "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), *stack.packages],
    ]
    for command in commands:
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            reason = getattr(error, "stderr", "") or str(error)
            raise CannotInstall(f"{stack.name}: {reason.strip().splitlines()[-1]}") from error
    stamp.write_text(wanted)
    return folder


@asynccontextmanager
async def _direct(engine: str, folder: Path) -> AsyncGenerator[Peer, None]:
    yield Peer("direct", engine, "", MODEL, None)


_FULL = {
    "HOMESCOPE_LIMIT_RPM": "100000000",
    "HOMESCOPE_LIMIT_TPM": "100000000000",
    "HOMESCOPE_LIMIT_IPM": "100000000",
    "HOMESCOPE_LIMIT_CONCURRENCY": "100000",
}
"""Limits that count and never refuse; keys, cache and records are on by default."""


def _homescope(name: str, native: bool = False, **settings: str) -> Start:
    @asynccontextmanager
    async def start(engine: str, folder: Path) -> AsyncGenerator[Peer, None]:
        async with homescope(engine, **{**_FULL, **settings}) as (url, key, tree):
            yield Peer(name, url, key, "qwen3-vl-30b", tree, native)

    return start


@asynccontextmanager
async def _running(
    name: str, command: list[str], port: int, ready: str, folder: Path, key: str, **env: str
) -> AsyncGenerator[Peer, None]:
    log = folder / f"{name}.log"
    with started(command, {"NO_COLOR": "1", **env}, log) as process:
        url = f"http://127.0.0.1:{port}"
        await until_ready(url + ready, process, log)
        yield Peer(name, url, key, MODEL, Tree(psutil.Process(process.pid)))


def _program(name: str, program: str) -> str:
    return str(ENVIRONMENTS / name / "bin" / program)


@asynccontextmanager
async def _vllm_router(engine: str, folder: Path) -> AsyncGenerator[Peer, None]:
    port = free_port()
    where = ["--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(free_port())]
    options = ["--worker-urls", engine, "--policy", "round_robin", "--log-level", "warning"]
    command = [_program("vllm-router", "vllm-router"), *where, *options]
    async with _running("vllm-router", command, port, "/health", folder, "") as peer:
        yield peer


@asynccontextmanager
async def _sglang_router(engine: str, folder: Path) -> AsyncGenerator[Peer, None]:
    port = free_port()
    where = ["--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(free_port())]
    options = ["--worker-urls", engine, "--policy", "round_robin", "--log-level", "warn"]
    command = [_program("sglang-router", "sglang-router"), "launch", *where, *options]
    async with _running("sglang-router", command, port, "/readiness", folder, "") as peer:
        yield peer


@asynccontextmanager
async def _relay(engine: str, folder: Path) -> AsyncGenerator[Peer, None]:
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.peers.relay", "--port", str(port), "--engine", engine]
    async with _running("relay", command, port, "/", folder, "") as peer:
        yield replace(peer, native=True)


@asynccontextmanager
async def _litellm(engine: str, folder: Path) -> AsyncGenerator[Peer, None]:
    port = free_port()
    upstream = {"model": f"openai/{MODEL}", "api_base": f"{engine}/v1", "api_key": "none"}
    config = {
        "model_list": [{"model_name": MODEL, "litellm_params": upstream}],
        "general_settings": {"master_key": _KEY},
        "litellm_settings": {"set_verbose": False},
    }
    (folder / "litellm.yaml").write_text(json.dumps(config))  # JSON is YAML
    where = ["--host", "127.0.0.1", "--port", str(port), "--config", str(folder / "litellm.yaml")]
    command = [_program("litellm", "litellm"), *where, "--num_workers", "1"]
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "DO_NOT_TRACK": "1"}
    async with _running("litellm", command, port, "/health/liveliness", folder, _KEY, **quiet) as peer:
        yield peer


STACKS: dict[str, Stack] = {
    each.name: each
    for each in (
        Stack("direct", _direct, note="the mock engine itself"),
        Stack("relay", _relay, note="the least that Python can do for an event; one fixed question, no keys"),
        Stack("homescope", _homescope("homescope"), note="OpenAI form; keys, limits, cache (miss), records"),
        Stack(
            "homescope-native", _homescope("homescope-native", native=True), note="DashScope's own protocol, the same"
        ),
        Stack("vllm-router", _vllm_router, ("vllm-router==0.1.17",), "round robin, no keys"),
        Stack("sglang-router", _sglang_router, ("sglang-router==0.3.2",), "round robin, no keys"),
        Stack("litellm", _litellm, ("litellm[proxy]==1.106.2",), "one worker, a master key, no database"),
    )
}
