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
from tests.serving.storage.postgres import fresh_database

CALLER = Caller("alice", "Alice")
PROCESSES = 3


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.ring3)])
async def queues(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> AsyncGenerator[list[Queue], None]:
    url = None
    if request.param == "postgresql":
        url = await fresh_database(request.getfixturevalue("postgres"))
    async with AsyncExitStack() as stack:
        engines = [database.at(tmp_path, url) for _ in range(PROCESSES)]
        for engine in engines:
            stack.push_async_callback(database.close, engine)
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


async def test_callers_take_turns(queues: list[Queue]) -> None:
    """Whoever came first, and however much of it there is: the second caller waits for one job of the first."""
    groups = Groups(queues[0])
    await groups.open("g")
    await groups.add("g", [NewJob("task", CALLER, number=number) for number in range(30)])
    first = [Leases(queue, str(number), {"task": Failure.of}) for number, queue in enumerate(queues)]
    assert len(await first[0].take(4)) == 4
    for name in ("bob", "carol"):
        for _ in range(3):
            await queues[1].submit(NewJob("task", Caller(name, name)))
    served = [job.caller.key_id for leases in (first * 2) for job in await leases.take(1)]
    assert sorted(served) == ["bob"] * 3 + ["carol"] * 3
    assert served[0::2] in (["bob"] * 3, ["carol"] * 3)


async def test_who_was_served_longest_ago_is_next(queues: list[Queue]) -> None:
    """With one place no caller has a job running when the next one is chosen."""
    for name in ("alice", "bob", "carol"):
        for _ in range(4):
            await queues[0].submit(NewJob("task", Caller(name, name)))
    served = []
    for number in range(12):
        leases = Leases(queues[number % PROCESSES], str(number), {"task": Failure.of})
        (job,) = await leases.take(1)
        served.append(job.caller.key_id)
        await leases.succeed(job, b"")
    assert [len(set(served[start : start + 3])) for start in range(0, 12, 3)] == [3] * 4


async def test_processes_that_look_at_once_serve_the_callers_alike(queues: list[Queue]) -> None:
    for number in range(6):
        await queues[0].submit(NewJob("task", CALLER, number=number))
    for name in ("bob", "carol"):
        await queues[0].submit(NewJob("task", Caller(name, name)))
    workers = [Leases(queue, str(number), {"task": Failure.of}) for number, queue in enumerate(queues)]
    taken = await asyncio.gather(*(leases.take(1) for leases in workers))
    assert sorted(job.caller.key_id for jobs_of_one in taken for job in jobs_of_one) == ["alice", "bob", "carol"]


async def test_urgency_goes_before_turns_and_a_share_is_no_reserve(queues: list[Queue], clock: Clock) -> None:
    leases = Leases(queues[0], "one", {"task": Failure.of})
    await queues[0].submit(NewJob("task", Caller("bob", "Bob"), priority=-10))
    for _ in range(3):
        await queues[0].submit(NewJob("task", CALLER))
    await queues[0].submit(NewJob("foreign", Caller("carol", "Carol")))
    assert [job.caller.key_id for job in await leases.take(3)] == ["alice"] * 3
    (last,) = await leases.take(9)
    assert last.caller.key_id == "bob"
    await leases.retry(last, 500, EngineUnavailable())
    assert await leases.take(9) == []
    clock.now += 500
    assert len(await leases.take(9)) == 1
