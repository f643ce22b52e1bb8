"""The life of a batch with a clock of its own, and lines that are answered when the test says so."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from serving.compatible.batch import life, lines, results
from serving.compatible.batch.life import Lives
from serving.compatible.batch.lines import Check
from serving.compatible.batch.record import Batch, Records, Status
from serving.compatible.batch.work import KIND
from serving.errors import FileMissing, FileQuotaExceeded
from serving.generation import Caller
from serving.jobs.groups import Groups
from serving.jobs.leases import Leases
from serving.jobs.queue import Queue
from serving.storage import database, objects
from serving.storage.files import Files, Quota
from tests.serving.compatible.wire import chat

ENDPOINT = "/v1/chat/completions"
CALLER = Caller("key-1", "test")


@dataclass
class World:
    """Everything of a batch but the workers."""

    records: AsyncEngine
    files_of: Callable[[Quota], Files]
    files: Files
    groups: Groups
    leases: Leases
    batches: Records
    time: list[float] = field(default_factory=lambda: [1_000_000.0])

    def lives(self) -> Lives:
        return Lives(self.batches, self.files, self.groups, ("qwen3-vl-30b",))

    async def create(self, count: int) -> Batch:
        async def pieces() -> AsyncIterator[bytes]:
            for number in range(count):
                line = {"custom_id": f"q{number}", "method": "POST", "url": ENDPOINT, "body": chat()}
                yield json.dumps(line).encode() + b"\n"

        stored = await self.files.receive(pieces())
        file = await self.files.add(stored, owner=CALLER.key_id, name="in.jsonl", purpose="batch")
        return await self.batches.create(
            CALLER, endpoint=ENDPOINT, input_file_id=file.id, window=("24h", 86_400), extra=None
        )

    async def reach(self, batch: Batch, *wanted: Status) -> Batch:
        async with asyncio.timeout(20):
            while (now := await self.batches.get(batch.id, CALLER.key_id)).status not in wanted:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return now

    async def fed(self, batch: Batch) -> None:
        async with asyncio.timeout(20):
            while (progress := await self.groups.progress(batch.id)) is None or not progress.sealed:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def answer(self, count: int) -> None:
        for job in await self.leases.take(count):
            await self.leases.succeed(job, results.answered(job, b"{}"))

    async def content(self, file_id: str | None) -> list[str]:
        assert file_id is not None
        file = await self.files.get(file_id, CALLER.key_id)
        data = b"".join([piece async for piece in self.files.read(file)])
        return [json.loads(line)["custom_id"] for line in data.splitlines()]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncGenerator[World, None]:
    records = database.at(tmp_path)
    await database.create_tables(records, tmp_path)
    store = objects.at(None, tmp_path)
    await store.start()
    queue = Queue(records)
    time = [1_000_000.0]
    yield World(
        records,
        lambda quota: Files(records, store, quota=quota),
        Files(records, store),
        Groups(queue),
        Leases(queue, "test", {KIND: results.failure}),
        Records(records, lambda: time[0]),
        time,
    )
    await store.aclose()
    await database.close(records)


async def test_a_batch_expires_with_what_it_has(world: World) -> None:
    batch = await world.create(4)
    lives = world.lives()
    lives.lead(batch.id)
    await world.fed(batch)
    await world.answer(2)
    world.time[0] += 86_400
    lives.tell(batch.id)
    ended = await world.reach(batch, Status.EXPIRED)
    await lives.aclose()
    assert (ended.completed, ended.failed, ended.expired_at) == (2, 0, 1_086_400)
    assert await world.content(ended.output_file_id) == ["q0", "q1"]
    assert await world.content(ended.error_file_id) == ["q2", "q3"]


async def test_one_that_waited_too_long_is_not_begun(world: World) -> None:
    batch = await world.create(1)
    world.time[0] += 86_401
    lives = world.lives()
    await lives.start()
    assert (await world.reach(batch, Status.EXPIRED)).output_file_id is None
    await lives.aclose()


@pytest.mark.parametrize("status", [Status.VALIDATING, Status.IN_PROGRESS, Status.FINALIZING])
async def test_another_process_goes_on(world: World, status: Status) -> None:
    """One that was cut off at each of the stations: before a line is a job, with some, or with its lines answered."""
    batch = await world.create(3)
    if status is not Status.VALIDATING:
        before = world.lives()
        before.lead(batch.id)
        await world.fed(batch)
        await world.answer(1 if status is Status.IN_PROGRESS else 3)
        await before.aclose()
    after = world.lives()
    await after.start()
    await world.fed(batch)
    await world.answer(3)
    after.tell(batch.id)
    ended = await world.reach(batch, Status.COMPLETED)
    await after.aclose()
    assert await world.content(ended.output_file_id) == ["q0", "q1", "q2"]
    assert ended.total == ended.completed == 3


async def test_jobs_that_were_made_before_the_end_are_not_made_again(world: World) -> None:
    """A process is cut off between two of the steps that make jobs of a file of many lines."""
    batch = await world.create(life.ADD_AT_ONCE + 50)
    before = world.lives()
    before.lead(batch.id)
    async with asyncio.timeout(20):
        while (progress := await world.groups.progress(batch.id)) is None or not progress.total:  # noqa: ASYNC110
            await asyncio.sleep(0)
    await before.aclose()
    after = world.lives()
    await after.start()
    await world.fed(batch)
    progress = await world.groups.progress(batch.id)
    await after.aclose()
    assert progress is not None
    assert progress.total == life.ADD_AT_ONCE + 50


async def test_an_input_that_is_deleted_while_it_waits(world: World) -> None:
    batch = await world.create(1)
    await world.files.delete(batch.input_file_id, CALLER.key_id)
    lives = world.lives()
    await lives.start()
    ended = await world.reach(batch, Status.FAILED)
    await lives.aclose()
    assert ended.errors is not None
    assert ended.errors[0]["code"] == "file_not_found"


async def test_a_batch_without_room_for_its_output_waits_for_it(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    batch = await world.create(1)
    full = replace(world, files=world.files_of(Quota(files=1)))
    lives = full.lives()
    lives.lead(batch.id)
    await world.fed(batch)
    await world.answer(1)
    lives.tell(batch.id)
    await world.reach(batch, Status.FINALIZING)
    while FileQuotaExceeded.message not in caplog.text:  # noqa: ASYNC110 - the log has no event
        await asyncio.sleep(0.01)
    await lives.aclose()
    await world.files.delete(batch.input_file_id, CALLER.key_id)
    await (again := world.lives()).start()
    ended = await world.reach(batch, Status.COMPLETED)
    await again.aclose()
    assert await world.content(ended.output_file_id) == ["q0"]
    with pytest.raises(FileMissing):
        await world.files.get(ended.output_file_id or "", "another key")


async def test_too_many_lines_are_told() -> None:
    check = Check(ENDPOINT, ("qwen3-vl-30b",))

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(lines.MAX_LINES + 1):
            yield b'{"custom_id":"%d","method":"POST","url":"%s","body":{"model":"qwen3-vl-30b"}}\n' % (
                number,
                ENDPOINT.encode(),
            )

    await check.read(pieces())
    assert [problem.code for problem in check.problems] == ["too_many_lines"]


async def test_lines_are_found_wherever_the_pieces_end() -> None:
    data = b"a\n\nbb\r\nccc"

    async def pieces(size: int) -> AsyncIterator[bytes]:
        for start in range(0, len(data), size):
            yield data[start : start + size]

    for size in range(1, len(data) + 1):
        found = [line async for line in lines.split(pieces(size))]
        assert [(line.number, line.data.strip()) for line in found] == [(1, b"a"), (3, b"bb"), (4, b"ccc")]
        assert all(data[line.start : line.end] == line.data for line in found)
