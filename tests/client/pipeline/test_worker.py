"""A worker on a NATS server of its own: submit, work, look."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from client import ConfigurationError, Session, Unauthorized
from client.pipeline.brokers import queue
from client.pipeline.embedded import EmbeddedBroker
from client.pipeline.worker import Settings, Worker
from tests.client import server as replies
from tests.client.conftest import png
from tests.client.pipeline.conftest import QUESTION, Documents, beaten, put, session, totals, worked
from tests.client.server import Call, Scripted
from tests.ports import free_port


async def test_everything_submitted_is_answered_once(
    server: Scripted, settings: Settings, documents: Documents
) -> None:
    folders = documents(3, 20)
    told = await put(settings, folders)
    assert (told.items, told.new, told.documents) == (23, 23, 2)
    assert await worked(settings, server) == 23
    assert len(server.calls) == 23
    async with settings.store() as store:
        assert await totals(store) == {"done": 23}
        rows = [row async for row in store.rows()]
    assert [row.work.position for row in rows] == [*range(3), *range(20)]
    assert all(row.record is not None and row.tries == 1 for row in rows)


async def test_submitting_again_adds_nothing_and_asks_nothing(
    server: Scripted, settings: Settings, documents: Documents
) -> None:
    folders = documents(2)
    await put(settings, folders)
    await worked(settings, server)
    assert (await put(settings, folders)).new == 0
    assert await worked(settings, server) == 0
    assert len(server.calls) == 2
    assert (await put(settings, folders, replace(QUESTION, prompt="another?"))).new == 2


async def test_equal_images_are_asked_about_once(server: Scripted, settings: Settings, documents: Documents) -> None:
    first, second = documents(3, 0)
    for page in range(3):
        (settings.data.parent / "document-1" / f"copy-{page}.png").write_bytes(png(page))
    await put(settings, [first, second])
    await worked(settings, server, concurrency=1)
    async with settings.store() as store:
        assert await totals(store) == {"done": 6}
    assert len(server.calls) == 3


async def test_a_small_document_does_not_wait_for_a_large_one(
    server: Scripted, settings: Settings, documents: Documents
) -> None:
    settings = replace(settings, window=4)
    large, small = documents(30, 3)
    await put(settings, [large])
    await put(settings, [small])
    await worked(settings, server, concurrency=1)
    asked = [int(call.image in {png(1000 + page) for page in range(3)}) for call in server.calls]
    assert sum(asked) == 3
    assert max(at for at, small in enumerate(asked) if small) < 15


async def test_a_refused_item_fails_with_its_reason(server: Scripted, settings: Settings, documents: Documents) -> None:
    server.script = [replies.refusal(400, "DataInspectionFailed", "it is not allowed")]
    await put(settings, documents(3))
    await worked(settings, server, concurrency=1)
    async with settings.store() as store:
        assert await totals(store) == {"done": 2, "failed": 1}
        assert [row.reason async for row in store.rows() if row.state == "failed"] == ["it is not allowed"]


async def test_an_item_that_fails_again_and_again_becomes_a_dead_letter_and_can_be_retried(
    server: Scripted, settings: Settings, documents: Documents
) -> None:
    settings = replace(settings, tries=2)
    server.script = [replies.refusal(500, "InternalError", "boom")] * 2
    await put(settings, documents(1))
    await worked(settings, server)
    async with settings.store() as store:
        (row,) = [row async for row in store.rows()]
        assert (row.state, row.tries) == ("dead", 2)
        assert row.reason == "boom (try 2 of 2)"
        async with EmbeddedBroker(settings.data / "broker") as broker:
            looking = queue(broker.url, patience=2)
            await looking.start()
            assert await looking.depth() == (0, 1)
            await looking.stop()
        assert await store.revive() == 1
    await worked(settings, server)
    async with settings.store() as store:
        assert await totals(store) == {"done": 1}


async def test_a_question_has_one_idempotency_key_until_its_answer_does_not_fit(
    server: Scripted, settings: Settings, documents: Documents
) -> None:
    folders, question = documents(1), replace(QUESTION, schema={"type": "object"})
    server.script = [
        replies.refusal(500, "InternalError", "boom"), replies.refusal(409, "IdempotencyKey.InFlight", "later"),
        replies.answer("no JSON"), replies.answer("its repair, no JSON either"), replies.answer("{}"),
    ]  # fmt: skip
    await put(settings, folders, question)
    await worked(settings, server)
    async with settings.store() as store:
        (row,) = [row async for row in store.rows()]
    assert (row.state, row.tries) == ("done", 3), "the one in flight was no try of this worker"
    other = replace(settings, data=settings.data.with_name("other"))
    server.script = [replies.answer("{}")]
    await put(other, folders, question)
    await worked(other, server)
    failed, waited, unfit, repair, fit, elsewhere = (call.headers["idempotency-key"] for call in server.calls)
    assert failed == waited == unfit
    assert len({unfit, repair, fit, elsewhere}) == 4


@pytest.mark.parametrize("body", [b"\xff", b"[1]", b"{}", b'{"document": 1}', b'{"no such": 1}'])
async def test_a_message_that_is_none_is_buried_at_once(server: Scripted, settings: Settings, body: bytes) -> None:
    async with EmbeddedBroker(settings.data / "broker") as broker:
        there = replace(settings, broker=broker.url)
        outside = queue(broker.url, patience=2)
        await outside.start()
        await outside.publish(body)
        async with session(server) as asking, asyncio.TaskGroup() as group:
            worker = Worker(there, asking)
            group.create_task(worker.run())
            async with asyncio.timeout(20):
                while await outside.depth() != (0, 1):  # noqa: ASYNC110 -- a broker tells nobody
                    await asyncio.sleep(0.05)
            worker.stop()
        await outside.stop()
    assert not server.calls


async def test_a_wrong_key_stops_the_worker_and_loses_nothing(
    server: Scripted, settings: Settings, documents: Documents
) -> None:
    server.script = [replies.refusal(401, "InvalidApiKey", "wrong key")] * 4
    await put(settings, documents(5))
    with pytest.raises(Unauthorized):
        await worked(settings, server)
    server.script = []
    await worked(settings, server)
    async with settings.store() as store:
        assert await totals(store) == {"done": 5}
        assert {row.tries async for row in store.rows()} == {1}


async def test_a_stop_finishes_what_is_asked_and_leaves_the_rest(
    server: Scripted, settings: Settings, documents: Documents
) -> None:
    await put(settings, documents(6))
    server.gate.clear()
    async with session(server) as asking, asyncio.TaskGroup() as group:
        worker = Worker(settings, asking, 2)
        running = group.create_task(worker.run())
        for _ in range(2):
            await asyncio.to_thread(server.arrived.acquire, timeout=20)
        worker.stop()
        await asyncio.sleep(0)
        server.gate.set()
        ended = await running
    assert ended == len(server.calls) == 2
    async with settings.store() as store:
        assert (await totals(store))["done"] == 2
    await worked(settings, server)
    assert max(Counter(call.digest for call in server.calls).values()) == 1
    assert len(server.calls) == 6


async def test_two_workers_share_the_work_and_the_broker(
    server: Scripted, settings: Settings, documents: Documents
) -> None:
    await put(settings, documents(20))

    def slowly(call: Call) -> replies.Reply:
        return replies.answer("seen")

    server.default = slowly
    async with asyncio.TaskGroup() as group:
        both = [group.create_task(worked(settings, server)) for _ in range(2)]
    assert sum(task.result() for task in both) == 20
    assert max(Counter(call.digest for call in server.calls).values()) == 1


@pytest.mark.ring3
async def test_a_stop_after_the_broker_has_ended(settings: Settings) -> None:
    """As for a worker whose broker was another's, which was done first."""
    async with EmbeddedBroker(settings.data / "broker") as broker:
        left = queue(broker.url, patience=2)
        await left.start()
        connection = left._broker._connection  # type: ignore[attr-defined]
    async with asyncio.timeout(10):
        while not connection.is_reconnecting:  # noqa: ASYNC110 -- its callback is the queue's own
            await asyncio.sleep(0.01)
    await left.stop()
    assert connection.is_closed


@pytest.mark.parametrize("url", ["redis://here", "here", ""])
def test_a_broker_that_is_not_known(url: str) -> None:
    with pytest.raises(ConfigurationError, match="nats://, amqp://"):
        queue(url, patience=1)


@pytest.mark.timeout(60)
async def test_the_heart_beats_while_the_worker_can_work(server: Scripted, settings: Settings, tmp_path: Path) -> None:
    heartbeat = tmp_path / "heartbeat"
    async with session(server) as asking:
        worker = Worker(settings, asking, heartbeat=heartbeat)
        working = asyncio.create_task(worker.run())
        first = await asyncio.to_thread(beaten, heartbeat)
        assert await asyncio.to_thread(beaten, heartbeat, first) - first < 20
        worker.stop()
        await working


@pytest.mark.ring3
async def test_what_a_worker_before_left_is_no_heartbeat(settings: Settings, tmp_path: Path) -> None:
    heartbeat = tmp_path / "heartbeat"
    heartbeat.touch()
    async with Session("http://127.0.0.1:9/api/v1", "sk-test") as asking:
        nobody = replace(settings, broker=f"amqp://127.0.0.1:{free_port()}")
        with pytest.raises(ConfigurationError, match="the broker cannot be reached"):
            await Worker(nobody, asking, heartbeat=heartbeat).run()
    assert not heartbeat.exists()


async def test_a_heartbeat_that_cannot_be_written_is_said_at_once(
    server: Scripted, settings: Settings, tmp_path: Path
) -> None:
    async with session(server) as asking:
        with pytest.raises(ConfigurationError, match=r"--heartbeat .*nowhere/beat cannot be written: No such file"):
            await Worker(settings, asking, heartbeat=tmp_path / "nowhere" / "beat").run()
