"""The same worker on RabbitMQ, which is real, and on Kafka's protocol, which librdkafka imitates."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import Producer

from client import ConfigurationError, ConnectionFailed
from client.pipeline.brokers import queue
from client.pipeline.worker import Settings, Worker
from tests.client import server as replies
from tests.client.pipeline import servers
from tests.client.pipeline.conftest import Documents, beaten, put, session, totals, worked
from tests.client.server import Scripted
from tests.ports import free_port


@pytest.fixture(scope="module")
def rabbit() -> Iterator[servers.Rabbit]:
    try:
        yield from servers.rabbit()
    except servers.NoRabbit as reason:
        pytest.skip(str(reason))


@pytest.mark.timeout(240)
async def test_rabbitmq(rabbit: servers.Rabbit, server: Scripted, settings: Settings, documents: Documents) -> None:
    settings = replace(settings, broker=rabbit.url, tries=2)
    server.script = [replies.refusal(500, "InternalError", "boom")] * 2
    await put(settings, documents(4, 20))
    await worked(settings, server, concurrency=3)
    async with settings.store() as store:
        found = await totals(store)
        assert found["done"] + found.get("dead", 0) == 24
    assert max(Counter(call.digest for call in server.calls).values()) <= 2
    looking = queue(rabbit.url, patience=5)
    await looking.start()
    assert await looking.depth() == (0, found.get("dead", 0))
    await looking.bury(b"{", "a test")
    assert await looking.depth() == (0, found.get("dead", 0) + 1)
    await looking.stop()


@pytest.mark.timeout(300)
async def test_rabbitmq_killed_and_started_again_loses_nothing(
    rabbit: servers.Rabbit, server: Scripted, settings: Settings, documents: Documents
) -> None:
    settings = replace(settings, broker=rabbit.url)
    await put(settings, documents(8))
    server.gate.clear()
    async with session(server) as asking, asyncio.TaskGroup() as group:
        running = group.create_task(Worker(settings, asking, 2).run(until_empty=True))
        for _ in range(2):
            await asyncio.to_thread(server.arrived.acquire, timeout=20)
        await asyncio.to_thread(rabbit.kill)
        server.gate.set()
        await asyncio.to_thread(rabbit.start)
        await running
    async with settings.store() as store:
        assert await totals(store) == {"done": 8}
    assert len(server.calls) == 8


@pytest.mark.timeout(300)
async def test_the_heart_stops_while_the_broker_is_away_and_beats_again(
    rabbit: servers.Rabbit, server: Scripted, settings: Settings, tmp_path: Path
) -> None:
    heartbeat = tmp_path / "heartbeat"
    async with session(server) as asking:
        worker = Worker(replace(settings, broker=rabbit.url), asking, heartbeat=heartbeat)
        working = asyncio.create_task(worker.run())
        await asyncio.to_thread(beaten, heartbeat)
        await asyncio.to_thread(rabbit.kill)
        killed = time.time()
        await asyncio.sleep(4)  # four rounds
        assert beaten(heartbeat) < killed + 1
        await asyncio.to_thread(rabbit.start)
        await asyncio.to_thread(beaten, heartbeat, time.time())
        worker.stop()
        await working


@pytest.fixture
def kafka() -> Iterator[str]:
    """The address of a cluster inside librdkafka: its protocol without its persistence."""
    cluster = Producer({"bootstrap.servers": "nobody", "test.mock.num.brokers": 1})
    (broker,) = cluster.list_topics(timeout=10).brokers.values()
    yield f"kafka://{broker.host}:{broker.port}"
    cluster.flush(1)


@pytest.mark.timeout(60)
async def test_a_kafka_that_went_away_is_noticed(settings: Settings) -> None:
    cluster = Producer({"bootstrap.servers": "nobody", "test.mock.num.brokers": 1})
    (broker,) = cluster.list_topics(timeout=10).brokers.values()
    looking = queue(f"kafka://{broker.host}:{broker.port}", patience=5)
    await looking.start()
    assert await looking.depth() is None
    del cluster
    with pytest.raises(ConnectionFailed):
        await looking.depth()
    await looking.stop()


@pytest.mark.timeout(120)
async def test_kafkas_protocol(kafka: str, server: Scripted, settings: Settings, documents: Documents) -> None:
    settings = replace(settings, broker=kafka)
    await put(settings, documents(2, 4))
    await worked(settings, server, concurrency=2)
    async with settings.store() as store:
        assert await totals(store) == {"done": 6}
    assert len(server.calls) == 6


@pytest.mark.ring3
@pytest.mark.timeout(60)
@pytest.mark.parametrize("scheme", ["nats", "amqp"])
async def test_a_broker_that_is_not_there_is_one_line(scheme: str) -> None:
    nobody = queue(f"{scheme}://127.0.0.1:{free_port()}", patience=1)
    with pytest.raises(ConfigurationError, match="the broker cannot be reached"):
        await nobody.start()
    await nobody.stop()
