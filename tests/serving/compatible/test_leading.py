"""Machines on one database, each with a data folder of its own: a batch is led by one of them at a time."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from serving.compatible.batch import results
from serving.compatible.batch.leader import Leader
from serving.compatible.batch.life import Lives
from serving.compatible.batch.record import LEASE, Batch, Records, Status
from serving.compatible.batch.work import KIND
from serving.generation import Caller
from serving.jobs.groups import Groups
from serving.jobs.leases import Leases
from serving.jobs.queue import Queue
from serving.storage import database, objects
from serving.storage.files import Files
from tests.serving.compatible.wire import chat
from tests.serving.storage.postgres import fresh_database

pytestmark = pytest.mark.timeout(120)
CALLER = Caller("key-1", "test")
ENDPOINT = "/v1/chat/completions"


class Opened(Groups):
    """Notes who makes jobs of a batch."""

    def __init__(self, queue: Queue, by: list[str]) -> None:
        super().__init__(queue)
        self.by = by

    async def open(self, group: str) -> None:
        self.by.append(group)
        await super().open(group)


@dataclass
class Machine:
    records: AsyncEngine
    files: Files
    folder: Path
    opened: list[str]
    time: list[float]
    batches: Records = field(init=False)

    def __post_init__(self) -> None:
        self.batches = Records(self.records, lambda: self.time[0])

    def lives(self) -> Lives:
        return Lives(self.batches, self.files, Opened(Queue(self.records), self.opened), ("qwen3-vl-30b",), self.folder)

    async def create(self) -> Batch:
        async def pieces() -> AsyncIterator[bytes]:
            for number in range(3):
                line = {"custom_id": f"q{number}", "method": "POST", "url": ENDPOINT, "body": chat()}
                yield json.dumps(line).encode() + b"\n"

        stored = await self.files.receive(pieces())
        file = await self.files.add(stored, owner=CALLER.key_id, name="in.jsonl", purpose="batch")
        return await self.batches.create(
            CALLER, endpoint=ENDPOINT, input_file_id=file.id, window=("24h", 86_400), extra=None
        )

    async def status(self, batch: Batch) -> Status:
        return (await self.batches.get(batch.id, CALLER.key_id)).status

    async def answered(self, batch: Batch) -> Batch:
        """Once all its lines have been answered."""
        leases = Leases(Queue(self.records), "test", {KIND: results.failure})
        async with asyncio.timeout(40):
            while await self.status(batch) is not Status.COMPLETED:
                for job in await leases.take(3):
                    await leases.succeed(job, results.answered(job, b"{}"))
                await asyncio.sleep(0.01)
        return await self.batches.get(batch.id, CALLER.key_id)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.ring3)])
async def machines(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[list[Machine], None]:
    url = None
    if request.param == "postgresql":
        url = await fresh_database(request.getfixturevalue("postgres"))
    opened: list[str] = []
    time = [1_000_000.0]
    async with AsyncExitStack() as stack:
        found = []
        for name in ("one", "two"):
            folder = tmp_path / name
            records = database.at(tmp_path, url)
            stack.push_async_callback(database.close, records)
            await database.create_tables(records, tmp_path)
            folder.mkdir()
            store = objects.at(str(tmp_path / "shared"), folder)
            await store.start()
            stack.push_async_callback(store.aclose)
            found.append(Machine(records, Files(records, store), folder, opened, time))
        yield found


async def test_a_batch_is_led_once(machines: list[Machine]) -> None:
    batches = [await machines[number % 2].create() for number in range(4)]
    lives = [machine.lives() for machine in machines]
    await asyncio.gather(*(each.start() for each in lives))
    for batch in batches:
        for each in lives:  # the last line of a batch may be answered on either machine
            each.tell(batch.id)
        ended = await machines[0].answered(batch)
        assert (ended.total, ended.completed, ended.failed) == (3, 3, 0)
    await asyncio.gather(*(each.aclose() for each in lives))
    assert sorted(machines[0].opened) == sorted(batch.id for batch in batches)


async def test_what_a_dead_machine_led_goes_on_when_its_lease_has_lapsed(machines: list[Machine]) -> None:
    dead, alive = machines
    batch = await dead.create()
    assert await dead.batches.claim([batch.id], "dead") == {batch.id}
    assert await alive.batches.claim([batch.id], "alive") == set()
    lives = alive.lives()
    await lives.start()
    await lives.aclose()
    assert (await alive.status(batch), alive.opened) == (Status.VALIDATING, [])
    alive.time[0] += LEASE + 1
    lives = alive.lives()
    await lives.start()
    await alive.answered(batch)
    await lives.aclose()


async def test_a_server_that_is_started_again_goes_on_at_once(machines: list[Machine]) -> None:
    machine = machines[0]
    batch = await machine.create()
    killed = Leader(machine.folder)
    assert killed.leads()
    await machine.batches.claim([batch.id], killed.name)
    killed.close()  # as the kernel does it
    lives = machine.lives()
    await lives.start()
    await machine.answered(batch)
    await lives.aclose()


async def test_a_server_on_a_copied_folder_leaves_what_the_original_leads(machines: list[Machine]) -> None:
    original = machines[0]
    batch = await original.create()
    leader = Leader(original.folder)
    assert leader.leads()
    assert await original.batches.claim([batch.id], leader.name) == {batch.id}
    copy = replace(machines[1], folder=original.folder.with_name("copy"))
    shutil.copytree(original.folder, copy.folder)
    lives = copy.lives()
    await lives.start()
    await lives.aclose()
    assert (await original.batches.claim([batch.id], "third"), copy.opened) == (set(), [])
    leader.close()


async def test_a_lease_that_the_clock_has_left_behind_holds_nobody_up(machines: list[Machine]) -> None:
    """It was written before the clock was set back by an hour."""
    machine = machines[0]
    batch = await machine.create()
    await machine.batches.claim([batch.id], "dead")
    machine.time[0] -= 3600
    assert await machine.batches.claim([batch.id], "alive") == {batch.id}


async def test_who_was_away_for_too_long_leaves_the_batch(
    machines: list[Machine], caplog: pytest.LogCaptureFixture
) -> None:
    slow, other = machines
    batch = await slow.create()
    lives = slow.lives()
    await lives.start()
    async with asyncio.timeout(40):
        while batch.id not in slow.opened:  # noqa: ASYNC110 - nothing but looking tells
            await asyncio.sleep(0.01)
    later = Records(other.records, lambda: other.time[0] + LEASE + 1)
    assert await later.claim([batch.id], "other") == {batch.id}
    slow.time[0] += LEASE / 2
    async with asyncio.timeout(40):
        while "led by another machine" not in caplog.text:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.05)
    await lives.aclose()
    assert await slow.batches.claim([batch.id], "slow") == set()
