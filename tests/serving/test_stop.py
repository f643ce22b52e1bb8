"""How a server stops: it says so, takes no more, and lets what runs end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import pytest

from serving.cli import serve
from serving.server import listen, url_of
from serving.settings import Settings
from tests.fakes import FakeEngine
from tests.serving.conftest import PATH
from tests.serving.wire import chat

pytestmark = pytest.mark.ring3


@pytest.fixture(autouse=True)
def _signal_handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@dataclass
class Running:
    url: str
    operators: str
    ended: asyncio.Task[int]


@asynccontextmanager
async def served(settings: Settings, engine: FakeEngine) -> AsyncGenerator[Running, None]:
    """Until a signal; both ports are open before anything is."""
    with listen("127.0.0.1", 0) as listener, listen("127.0.0.1", 0) as operators:
        urls = url_of(listener), url_of(operators)
        ended = asyncio.create_task(serve(settings, listener, operators, lambda *_: engine))
        async with httpx.AsyncClient() as client:
            assert (await client.get(urls[0] + "/readyz")).status_code == 200
        try:
            yield Running(*urls, ended)
        finally:
            signal.raise_signal(signal.SIGINT)
            await ended


async def readiness(client: httpx.AsyncClient, url: str) -> int:
    return (await client.get(url + "/readyz")).status_code


async def test_a_stopping_server_is_not_ready_and_ends_what_runs(
    settings: Settings, engine: FakeEngine, key: str
) -> None:
    gate = asyncio.Event()
    engine.enqueue("done", gate=gate, gated_from=1)
    headers = {"authorization": f"Bearer {key}"}
    async with served(settings, engine) as server, httpx.AsyncClient(headers=headers) as client:
        answer = asyncio.create_task(client.post(server.url + PATH, json=chat()))
        await engine.began.wait()
        signal.raise_signal(signal.SIGTERM)
        assert await readiness(client, server.operators) == 503
        gate.set()
        assert (await answer).status_code == 200
        assert await server.ended == 0


async def test_requests_are_taken_while_others_learn_of_the_stop(
    settings: Settings, engine: FakeEngine, key: str
) -> None:
    patient = settings.model_copy(update={"stop_delay": 60.0})
    headers = {"authorization": f"Bearer {key}"}
    async with served(patient, engine) as server, httpx.AsyncClient(headers=headers) as client:
        signal.raise_signal(signal.SIGTERM)
        assert await readiness(client, server.url) == await readiness(client, server.operators) == 503
        assert (await client.get(server.url + "/livez")).status_code == 200
        assert (await client.post(server.url + PATH, json=chat())).status_code == 200
        signal.raise_signal(signal.SIGTERM)
        assert await server.ended == 0  # the second signal waits for nobody


async def test_the_port_closes_after_the_delay(settings: Settings, engine: FakeEngine, key: str) -> None:
    async with served(settings.model_copy(update={"stop_delay": 0.2}), engine) as server:
        signal.raise_signal(signal.SIGTERM)
        assert await asyncio.wait_for(server.ended, 10) == 0
