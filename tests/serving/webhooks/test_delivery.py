from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from sqlalchemy.ext.asyncio import AsyncEngine

from serving.generation import Caller
from serving.jobs import notices
from serving.jobs.job import Job, State
from serving.jobs.notices import KIND, Hook
from serving.jobs.queue import Queue
from serving.jobs.tables import jobs
from serving.jobs.workers import Pace
from serving.media.addresses import Guard
from serving.settings import Settings
from serving.storage import database
from serving.webhooks.delivery import Deliveries, Gone
from serving.webhooks.secrets import SecretStore, shown
from serving.webhooks.service import Webhooks
from tests.serving.webhooks.receiver import receiving, verified

pytestmark = pytest.mark.ring3

ALICE = Caller("key-1", "alice")
PACE = Pace(poll=0.02, keep=0.05, back_off=(0.02,) * 4)


@pytest.fixture
async def records(tmp_path: Path) -> AsyncGenerator[AsyncEngine, None]:
    records = database.at(tmp_path)
    await database.create_tables(records, tmp_path)
    yield records
    await database.close(records)


@asynccontextmanager
async def delivering(records: AsyncEngine, folder: Path, *, timeout: float = 5) -> AsyncGenerator[Webhooks, None]:  # noqa: ASYNC109
    settings = Settings(data=folder, webhook_allow=("127.0.0.1",), webhook_timeout=timeout)
    webhooks = Webhooks(Queue(records), SecretStore(records), settings, PACE)
    await webhooks.start()
    try:
        yield webhooks
    finally:
        await webhooks.aclose()


async def submit(records: AsyncEngine, url: str) -> str:
    (notice,) = notices.of("task.succeeded", {"task_id": "t"}, [Hook(url, ALICE.key_id)], ALICE, 1_700_000_000_123)
    await Queue(records).submit(notice)
    return notice.id


async def settled(records: AsyncEngine, job_id: str) -> Job:
    async with asyncio.timeout(20):
        while (job := await Queue(records).get(job_id)) is None or not job.state.final:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return job


async def test_a_notice_is_signed_as_the_standard_says(records: AsyncEngine, tmp_path: Path) -> None:
    async with receiving() as receiver, delivering(records, tmp_path):
        job_id = await submit(records, receiver.url)
        body = await receiver.until(204)
        headers, raw = receiver.received[0]
    assert body == {"type": "task.succeeded", "timestamp": "2023-11-14T22:13:20.123Z", "data": {"task_id": "t"}}
    assert headers["webhook-id"] == job_id
    secret = shown((await SecretStore(records).of(ALICE.key_id)).value)
    assert verified(headers, raw, secret)
    assert not verified(headers, raw + b" ", secret)
    assert not verified(headers | {"webhook-timestamp": "1"}, raw, secret)
    assert headers["content-type"] == "application/json"


async def test_a_receiver_that_fails_redirects_and_stalls_gets_it_in_the_end(
    records: AsyncEngine, tmp_path: Path
) -> None:
    async with receiving(500, 302, 0) as receiver, delivering(records, tmp_path, timeout=1) as webhooks:
        job = await submit(records, receiver.url)
        await receiver.until(204)
        assert (await settled(records, job)).state is State.SUCCEEDED
    assert len({headers["webhook-id"] for headers, _ in receiver.received}) == 1
    assert len({body for _, body in receiver.received}) == 1
    assert webhooks.deliveries.counts == {"failed": 3, "delivered": 1}


async def test_what_never_arrives_is_kept_and_can_be_sent_again(records: AsyncEngine, tmp_path: Path) -> None:
    async with receiving(*[503] * 5) as receiver, delivering(records, tmp_path):
        job_id = await submit(records, receiver.url)
        dead = await settled(records, job_id)
        assert (dead.state, dead.attempts) == (State.FAILED, 5)
        assert dead.failure is not None
        assert "answered 503" in dead.failure.message
        assert await Queue(records).again(jobs.c.kind == KIND) == [job_id]
        await receiver.until(204)


async def test_a_receiver_that_is_gone_is_not_asked_again(records: AsyncEngine, tmp_path: Path) -> None:
    async with receiving(410) as receiver, delivering(records, tmp_path) as webhooks:
        assert (await settled(records, await submit(records, receiver.url))).attempts == 1
    assert webhooks.deliveries.counts == {"gone": 1}


async def test_a_stopped_server_goes_on_later(records: AsyncEngine, tmp_path: Path) -> None:
    async with receiving(0) as receiver:
        async with delivering(records, tmp_path, timeout=60):
            await submit(records, receiver.url)
            await receiver.until(0)
        async with delivering(records, tmp_path):
            await receiver.until(204)


async def test_while_a_secret_is_replaced_both_sign(records: AsyncEngine, tmp_path: Path) -> None:
    store = SecretStore(records)
    before = shown((await store.of(ALICE.key_id)).value)
    after = shown((await store.rotate(ALICE.key_id, 3600)).value)
    async with receiving() as receiver, delivering(records, tmp_path):
        await submit(records, receiver.url)
        await receiver.until(204)
    headers, raw = receiver.received[0]
    assert before != after
    assert verified(headers, raw, before)
    assert verified(headers, raw, after)
    assert len((await SecretStore(records, clock=lambda: 1e12).of(ALICE.key_id)).all) == 1


class Rebinding(AbstractResolver):
    """A name that leads inside."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [ResolveResult(hostname=host, host="127.0.0.1", port=port, family=family, proto=0, flags=0)]

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}/hook", "http://hooks.example.com:{port}/hook"])
async def test_nothing_inside_is_called(records: AsyncEngine, url: str) -> None:
    async with receiving() as receiver:
        deliveries = Deliveries(SecretStore(records), Guard(), timeout=5, resolver=Rebinding())
        inside = url.format(port=receiver.url.split(":")[2].partition("/")[0])
        job = await Queue(records).get(await submit(records, inside))
        assert job is not None
        with pytest.raises(Gone, match="not on the public Internet"):
            await deliveries.run(job)
        await deliveries.aclose()
    assert receiver.received == []
