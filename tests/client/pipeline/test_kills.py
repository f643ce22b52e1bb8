"""kill -9 of workers and of the broker: nothing is lost, and what is stored is never asked again."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from client.pipeline.embedded import EmbeddedBroker
from client.pipeline.worker import Settings, Worker
from tests.client.pipeline.conftest import Documents, put, session, totals
from tests.client.server import Scripted

ROOT = Path(__file__).parents[3]
ITEMS = 16


def stored(settings: Settings) -> set[str]:
    """Digests of the images whose answers are in the database."""
    query = "SELECT w.body FROM pipeline_work w JOIN pipeline_answers a ON w.key = a.key"
    with closing(sqlite3.connect(settings.data / "pipeline.db")) as database:
        bodies = [body.decode() for (body,) in database.execute(query)]
    return {body.split('"digest": "')[1][:64] for body in bodies}


async def start(settings: Settings, server: Scripted) -> asyncio.subprocess.Process:
    named = {"DASHSCOPE_HTTP_BASE_URL": server.url, "DASHSCOPE_API_KEY": "sk-test", "PYTHONPATH": str(ROOT)}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "client", "pipeline", "work", "--data", str(settings.data), "--until-empty",
        "--lease", "4", "--tries", "50", "--concurrency", "2",
        env=os.environ | named, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.timeout(480)
async def test_workers_killed_at_any_moment_with_their_broker(
    server: Scripted, settings: Settings, documents: Documents
) -> None:
    await put(settings, documents(ITEMS))
    dice = random.Random()
    asked_before: list[str] = []
    for _ in range(3):
        worker = await start(settings, server)
        for _ in range(dice.randint(1, 4)):
            if not await asyncio.to_thread(server.arrived.acquire, timeout=120):
                worker.kill()
                pytest.fail(f"no request came; the worker said: {await worker.communicate()}")
        await asyncio.sleep(dice.random() / 10)
        worker.send_signal(signal.SIGKILL)
        await worker.communicate()
        known = stored(settings)
        again = [call.digest for call in server.calls[len(asked_before) :]]
        asked_before += again
        assert not known - set(asked_before)
    before, known = len(server.calls), stored(settings)
    last = await start(settings, server)
    _, words = await last.communicate()
    assert last.returncode == 0, words.decode()
    assert not known & {call.digest for call in server.calls[before:]}
    async with settings.store() as store:
        assert await totals(store) == {"done": ITEMS}
    assert len({(call.digest, call.headers["idempotency-key"]) for call in server.calls}) == ITEMS


@pytest.mark.timeout(120)
async def test_the_broker_killed_under_a_worker(server: Scripted, settings: Settings, documents: Documents) -> None:
    await put(settings, documents(8))
    server.gate.clear()
    async with (
        EmbeddedBroker(settings.data / "broker") as broker,
        session(server) as asking,
        asyncio.TaskGroup() as group,
    ):
        worker = Worker(replace(settings, broker=broker.url), asking, 2)
        running = group.create_task(worker.run(until_empty=True))
        for _ in range(2):
            await asyncio.to_thread(server.arrived.acquire, timeout=20)
        assert broker.pid is not None
        os.kill(broker.pid, signal.SIGKILL)
        server.gate.set()
        await running
    async with settings.store() as store:
        assert await totals(store) == {"done": 8}
    assert len(server.calls) == 8


@pytest.mark.timeout(120)
async def test_a_broker_that_forgot_everything(server: Scripted, settings: Settings, documents: Documents) -> None:
    settings = replace(settings, lease=1.0)
    await put(settings, documents(3))
    async with settings.store() as store:
        released = await store.release((await store.unfinished())[0], 16)
        await store.published([key for key, _ in released])
    async with session(server) as asking:
        await Worker(settings, asking).run(until_empty=True)
    assert len(server.calls) == 3
