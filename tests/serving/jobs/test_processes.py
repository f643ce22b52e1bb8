"""Several processes on one database, on each database that there may be: nothing but the database is shared."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from sqlalchemy import select

from serving.errors import EngineUnavailable, InvalidRequest
from serving.generation import Caller
from serving.jobs.groups import Groups
from serving.jobs.job import Failure, NewJob, State
from serving.jobs.leases import Leases
from serving.jobs.queue import Queue
from serving.jobs.tables import jobs
from serving.storage import database
from tests.serving.jobs.conftest import Clock
from tests.serving.storage.conftest import postgres
from tests.serving.storage.postgres import fresh_database

__all__ = ["postgres"]

CALLER = Caller("alice", "Alice")
PROCESSES = 3


@pytest.fixture(params=["sqlite", "postgresql"])
async def queues(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> AsyncGenerator[list[Queue], None]:
    url = None
    if request.param == "postgresql":
        url = await fresh_database(request.getfixturevalue("postgres"))
    async with AsyncExitStack() as stack:
        engines = [database.at(tmp_path, url) for _ in range(PROCESSES)]
        for engine in engines:
            stack.push_async_callback(engine.dispose)
        await database.create_tables(engines[0], tmp_path)
        yield [Queue(engine, clock) for engine in engines]


async def work(leases: Leases, begun: Counter[str], ended: Counter[str]) -> None:
    """Takes what there is and ends it in one way or another, until there is nothing left."""
    while taken := await leases.take(3):
        begun.update(job.id for job in taken)
        for job in taken:
            match random.randrange(4):
                case 0:
                    done = await leases.fail(job, InvalidRequest())
                case 1:  # the last run ends the job, too
                    await leases.retry(job, 0, EngineUnavailable())
                    continue
                case _:
                    done = await leases.succeed(job, job.id.encode())
            ended[job.id] += done


async def test_every_job_is_ended_once_and_counted(queues: list[Queue]) -> None:
    groups = Groups(queues[0])
    for group in ("g1", "g2"):
        await groups.open(group)
        await groups.add(group, [NewJob("task", CALLER, b"x", number=number) for number in range(20)])
        await groups.seal(group)
    begun: Counter[str] = Counter()
    ended: Counter[str] = Counter()
    workers = [Leases(queue, str(number), {"task": Failure.of}) for number, queue in enumerate(queues)]
    await asyncio.gather(*(work(leases, begun, ended) for leases in workers))
    await work(workers[0], begun, ended)
    assert set(ended.values()) == {1}
    for group in ("g1", "g2"):
        progress = await groups.progress(group)
        assert progress is not None
        assert progress.ended
        assert progress.succeeded == len([job async for job in groups.ended(group, State.SUCCEEDED)])


async def test_a_stop_between_retries_leaves_nothing_waiting(queues: list[Queue]) -> None:
    groups = Groups(queues[0])
    workers = [Leases(queue, str(number), {"task": Failure.of}, max_attempts=99) for number, queue in enumerate(queues)]
    await groups.open("g")
    await groups.add("g", [NewJob("task", CALLER, number=number) for number in range(30)])

    async def retry(leases: Leases) -> None:
        while taken := await leases.take(2):
            for job in taken:
                await leases.retry(job, 0, EngineUnavailable())

    async def stop() -> None:
        await asyncio.sleep(0.1)
        await Groups(queues[1]).stop("g")

    await asyncio.gather(stop(), *(retry(leases) for leases in workers))
    progress = await groups.progress("g")
    assert progress is not None
    assert (progress.canceled, progress.ended) == (30, True)
    async with queues[2].reading() as connection:
        states = set((await connection.execute(select(jobs.c.state))).scalars())
    assert states == {"CANCELED"}


async def test_what_waits_is_counted(queues: list[Queue]) -> None:
    await queues[0].submit(NewJob("task", CALLER, b"x"))
    counted = await queues[1].backlog()
    assert (counted.waiting, counted.running) == (1, 0)
