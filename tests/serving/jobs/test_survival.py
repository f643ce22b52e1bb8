"""The server as a process of its own, killed at any moment: what it has accepted ends, once."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from serving.settings import Settings
from tests.ports import free_port
from tests.serving.conftest import PATH, listening
from tests.serving.engine.fake_vllm import DONE, FakeVLLM, event, final
from tests.serving.wire import chat, user

pytestmark = pytest.mark.ring3

ROOT = Path(__file__).parents[3]
KILLS = 4
KILLING_S = 12.0
"""Seconds after which a slow machine has seen kills enough."""
ASYNC = {"x-dashscope-async": "enable"}


class Echo(FakeVLLM):
    """Answers with the question, after a moment."""

    async def _chat(self, request: Request) -> Response:
        question = (await request.json())["messages"][-1]["content"]
        text = question if isinstance(question, str) else question[-1]["text"]
        self.asked.append({"text": text})
        await asyncio.sleep(random.uniform(0, 0.1))
        return StreamingResponse(iter([event(text), event("", "stop"), final(), DONE]), media_type="text/event-stream")


@dataclass
class Cloud:
    """A server that is started again whenever it was killed, and a client of it that never rests."""

    command: list[str]
    env: dict[str, str]
    client: httpx.AsyncClient
    process: Process | None = None
    accepted: dict[str, str] = field(default_factory=dict)
    unanswered: int = 0
    ended: dict[str, Any] = field(default_factory=dict)

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(*self.command, env=self.env, stdout=DEVNULL, stderr=DEVNULL)
        async with asyncio.timeout(60):
            while True:
                assert self.process.returncode is None
                with suppress(httpx.TransportError):
                    if (await self.client.get("/readyz")).status_code == 200:
                        return
                await asyncio.sleep(0.02)

    async def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    async def submit_for_ever(self) -> None:
        number = 0
        while True:
            number += 1
            text = f"question {number}"
            try:
                response = await self.client.post(PATH, json=chat(user(text)), headers=ASYNC)
            except httpx.TransportError:
                self.unanswered += 1
                await asyncio.sleep(0.02)
            else:
                assert response.status_code == 200, response.text
                self.accepted[response.json()["output"]["task_id"]] = text

    async def look_for_ever(self) -> None:
        """What a task has ended as once, it is for ever."""
        while True:
            for task_id in list(self.accepted):
                with suppress(httpx.TransportError):
                    await self.look(task_id)
            await asyncio.sleep(0.01)

    async def look(self, task_id: str) -> bool:
        told = (await self.client.get(f"/api/v1/tasks/{task_id}")).json()
        output = told["output"]
        assert output["task_status"] in ("PENDING", "RUNNING", "SUCCEEDED"), output
        if output["task_status"] == "SUCCEEDED":
            assert output["text"] == self.accepted[task_id]
            assert self.ended.setdefault(task_id, output) == output
        else:
            assert task_id not in self.ended
        return task_id in self.ended


@pytest.mark.timeout(180)
async def test_kill_at_any_moment(settings: Settings, key: str) -> None:
    port = free_port()
    named = {"HOMESCOPE_DATA": str(settings.data), "HOMESCOPE_ASYNC_TASKS": "true", "PYTHONPATH": str(ROOT)}
    client = httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", headers={"authorization": f"Bearer {key}"}, trust_env=False, timeout=20
    )
    echo = Echo()
    async with listening(echo.app) as engine_url, client:
        command = [sys.executable, "-m", "serving", "run", "--port", str(port), "--engine-url", engine_url]
        cloud = Cloud(command, os.environ | named, client)
        try:
            await cloud.start()
            async with asyncio.TaskGroup() as group:
                clients = [group.create_task(each) for each in (cloud.submit_for_ever(), cloud.look_for_ever())]
                began, kills = time.monotonic(), 0
                while kills < KILLS and time.monotonic() - began < KILLING_S:
                    await asyncio.sleep(random.uniform(0.05, 0.6))
                    await cloud.kill()
                    await cloud.start()
                    kills += 1
                for each in clients:
                    each.cancel()
            async with asyncio.timeout(60):
                for task_id in cloud.accepted:
                    while not await cloud.look(task_id):  # noqa: ASYNC110 - nothing but asking tells
                        await asyncio.sleep(0.02)
        finally:
            await cloud.kill()
    assert cloud.accepted
    assert_each_ended_once(settings.data / "homescope.db", cloud)


def assert_each_ended_once(database: Path, cloud: Cloud) -> None:
    """Those that nobody was told of may be there too: the server was killed between the disk and the answer."""
    with closing(sqlite3.connect(database)) as connection:
        kept = dict(connection.execute("SELECT id, state FROM jobs"))
        results = Counter(job_id for (job_id,) in connection.execute("SELECT job_id FROM job_results"))
    assert kept.keys() >= cloud.accepted.keys()
    assert len(kept) - len(cloud.accepted) <= cloud.unanswered
    assert {kept[task_id] for task_id in cloud.accepted} == {"SUCCEEDED"}
    assert all(results[task_id] == 1 for task_id in cloud.accepted)
