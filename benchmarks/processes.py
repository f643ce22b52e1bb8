"""Servers that a benchmark starts, and what their whole process tree takes."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil

START_WITHIN_S = 300


class NotReady(Exception):
    """Raised when a server that was started does not answer; the message ends with its last words."""


@dataclass(frozen=True)
class Tree:
    """A process and all that it started."""

    root: psutil.Process

    def cpu_s(self) -> float:
        """User and system time so far."""
        return float(sum(times.user + times.system for times in self._each(psutil.Process.cpu_times)))

    def rss_mb(self) -> float:
        return float(sum(info.rss for info in self._each(psutil.Process.memory_info))) / 1e6

    def _each(self, measure: Callable[[psutil.Process], Any]) -> Iterator[Any]:
        for process in [self.root, *self.root.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                yield measure(process)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def started(command: Sequence[str], env: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that writes to `log`, and is stopped in the end with all that it started."""
    with log.open("wb") as out, subprocess.Popen(command, env=os.environ | env, stdout=out, stderr=out) as process:
        try:
            yield process
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    with suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        _, alive = psutil.wait_procs([psutil.Process(process.pid), *children], timeout=15)
        for each in alive:
            with suppress(psutil.NoSuchProcess):
                each.kill()
    process.wait()


async def until_ready(url: str, process: subprocess.Popen[bytes], log: Path, within: float = START_WITHIN_S) -> None:
    """Raises NotReady: the process ended, or is not ready within so many seconds."""
    deadline = time.monotonic() + within
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(5)) as session:
        while time.monotonic() < deadline and process.poll() is None:
            with suppress(aiohttp.ClientError, TimeoutError):
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.1)
    raise NotReady(f"{url} is not ready: {_last_words(log)}")


def _last_words(log: Path) -> str:
    return " | ".join(log.read_text(errors="replace").strip().splitlines()[-5:])


@asynccontextmanager
async def mock_engine(*arguments: str, port: int = 0) -> AsyncGenerator[tuple[str, Tree], None]:
    """A mock engine in a process of its own, and its address. Port 0 takes a free one."""
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "benchmarks.mock_engine", "--port", str(port), *arguments]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "mock.log"
        with started(command, {}, log) as process:
            await until_ready(f"{url}/v1/models", process, log)
            yield url, Tree(psutil.Process(process.pid))


@asynccontextmanager
async def homescope(engine_url: str | None, **settings: str) -> AsyncGenerator[tuple[str, str, Tree], None]:
    """A server before the engine at `engine_url`, or with the embedded one: its address, a key, its processes."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    engine = () if engine_url is None else ("--engine-url", engine_url)
    command = [sys.executable, "-m", "serving", "run", "--port", str(port), *engine]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        with started(command, {"HOMESCOPE_DATA": folder, **settings}, log) as process:
            await until_ready(f"{url}/readyz", process, log)
            line = next(line for line in log.read_text().splitlines() if "API key" in line)
            yield url, line.split()[-1], Tree(psutil.Process(process.pid))


async def turn(url: str, **knobs: object) -> None:
    """Changes a running mock engine."""
    async with aiohttp.ClientSession() as session, session.put(f"{url}/mock", json=knobs) as response:
        if response.status != 200:
            raise ValueError(await response.text())


async def state(url: str) -> dict[str, int]:
    """What a running mock engine says of itself."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/mock") as response:
        found: dict[str, int] = await response.json()
        return found
