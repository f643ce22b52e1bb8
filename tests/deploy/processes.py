"""What the containers run, as processes on loopback, each by its own command."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.deploy.tools import BIN

ROOT = Path(__file__).parents[2]
START_WITHIN_S = 120.0
# The gateway of the image: its entry point, and its command.
GATEWAY = ("/bin/sh", str(ROOT / "docker/scripts/with-secrets.sh"), str(BIN / "homescope-server"), "run")


class Running:
    """A process that was started, and where it writes."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self.log = log

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    async def stop(self, within: float = 60.0) -> int:
        """Its exit code after SIGTERM."""
        if self.process.returncode is None:
            self.process.terminate()
        try:
            return await asyncio.wait_for(self.process.wait(), within)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
            raise


async def start(log: Path, *command: str | Path, environment: Mapping[str, str] | None = None) -> Running:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HOMESCOPE_", "AWS_"))}
    with log.open("ab") as out:
        process = await asyncio.create_subprocess_exec(
            *map(str, command), env={**inherited, **(environment or {})}, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT
        )
    return Running(process, log)


@asynccontextmanager
async def running(
    log: Path, *command: str | Path, environment: Mapping[str, str] | None = None
) -> AsyncGenerator[Running, None]:
    started = await start(log, *command, environment=environment)
    try:
        yield started
    finally:
        await started.stop()


async def answers(url: str, process: Running | None = None, status: int = 200) -> None:
    """Returns when a GET of the URL does with this status; fails with what the process said when it never will."""
    async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
        deadline = asyncio.get_running_loop().time() + START_WITHIN_S
        while asyncio.get_running_loop().time() < deadline:
            if process is not None and process.process.returncode is not None:
                break
            try:
                if (await client.get(url)).status_code == status:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.1)
    pytest.fail(f"{url} does not answer: {process.said()[-3000:] if process is not None else ''}")
