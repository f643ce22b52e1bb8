from __future__ import annotations

import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.schema import CreateTable

from serving.errors import EngineUnavailable, InvalidRequest, ServingError, StorageUnavailable
from serving.generation import Caller
from serving.jobs.groups import Groups
from serving.jobs.job import Failure, Job, NewJob, State
from serving.jobs.leases import Leases
from serving.jobs.queue import Queue
from serving.jobs.tables import groups as group_table
from serving.jobs.tables import jobs, payloads, results
from serving.storage import database
from tests.serving.jobs.conftest import Clock

ALICE, BOB = Caller("alice", "Alice"), Caller("bob", "Bob")
JOB = NewJob("task", ALICE, b"question", model="m", details={"form": "text"})
LEASE_MS = 1000


def new(**changes: object) -> NewJob:
    return replace(JOB, **{"id": str(uuid.uuid4()), **changes})  # type: ignore[arg-type]


@pytest.fixture
def leases(queue: Queue) -> Leases:
    return Leases(queue, "one", {"task": Failure.of}, lease_ms=LEASE_MS, max_attempts=3)


async def taken(leases: Leases) -> Job:
    (job,) = await leases.take(1)
    return job


async def state_of(queue: Queue, job: NewJob | Job) -> State:
    found = await queue.get(job.id)
    assert found is not None
    return found.state


async def test_a_job_from_its_submission_to_its_result(queue: Queue, leases: Leases, clock: Clock) -> None:
    await queue.submit(job := new())
    waiting = await queue.get(job.id)
    assert waiting is not None
    assert (waiting.state, waiting.submitted_at, waiting.scheduled_at) == (State.PENDING, clock.now, None)
    assert (waiting.caller, waiting.model, waiting.details) == (ALICE, "m", {"form": "text"})
    clock.now += 10
    running = await taken(leases)
    assert (running.state, running.scheduled_at, running.attempts) == (State.RUNNING, clock.now, 1)
    assert await queue.payload(running.id) == b"question"
    clock.now += 10
    assert await leases.succeed(running, b"answer")
    ended = await queue.get(job.id)
    assert ended is not None
    assert (ended.state, ended.ended_at, ended.failure) == (State.SUCCEEDED, clock.now, None)
    assert await queue.result(job.id) == b"answer"


async def test_what_failed_says_why(queue: Queue, leases: Leases) -> None:
    await queue.submit(job := new())
    assert await leases.fail(await taken(leases), InvalidRequest("too many images"))
    ended = await queue.get(job.id)
    assert ended is not None
    assert (ended.state, ended.failure) == (State.FAILED, Failure(400, "InvalidParameter", "too many images"))
    assert await queue.result(job.id) == b""


async def test_nothing_is_handed_out_twice(queue: Queue, leases: Leases) -> None:
    await queue.submit(new())
    assert await leases.due()
    assert len(await leases.take(5)) == 1
    assert not await leases.due()
    assert await leases.take(5) == []


async def test_the_urgent_first_then_the_earlier_then_by_number(queue: Queue, leases: Leases, clock: Clock) -> None:
    await queue.submit(later := new(number=2))
    await queue.submit(first := new(number=1))
    await queue.submit(background := new(priority=-10))
    clock.now += 1
    await queue.submit(last := new())
    await queue.submit(urgent := new(priority=1))
    expected = [urgent, first, later, last, background]
    assert [job.id for job in await leases.take(9)] == [job.id for job in expected]


async def test_kinds_that_nobody_does_are_left_alone(queue: Queue, leases: Leases, clock: Clock) -> None:
    await queue.submit(job := new(kind="foreign", deadline=clock.now))
    assert await leases.take(1) == []
    await leases.expire()
    assert await state_of(queue, job) is State.PENDING


async def test_a_job_is_canceled_by_its_caller_while_it_waits(queue: Queue, leases: Leases) -> None:
    await queue.submit(job := new())
    assert not await queue.cancel("task", job.id, BOB.key_id)
    assert not await queue.cancel("batch-line", job.id, ALICE.key_id)
    assert await queue.cancel("task", job.id, ALICE.key_id)
    assert not await queue.cancel("task", job.id, ALICE.key_id)
    assert await state_of(queue, job) is State.CANCELED
    assert await leases.take(1) == []
    await queue.submit(new())
    running = await taken(leases)
    assert not await queue.cancel("task", running.id, ALICE.key_id)


async def test_a_renewed_lease_lasts(queue: Queue, leases: Leases, clock: Clock) -> None:
    await queue.submit(new())
    job = await taken(leases)
    for _ in range(3):
        clock.now += LEASE_MS - 1
        assert await leases.renew([job]) == {job.id}
        await leases.recover()
    assert await leases.succeed(job, b"")


async def test_a_run_that_lost_its_lease_cannot_end_the_job(queue: Queue, leases: Leases, clock: Clock) -> None:
    await queue.submit(new())
    slow = await taken(leases)
    clock.now += LEASE_MS + 1
    await leases.recover()
    second = await taken(leases)
    assert second.attempts == 2
    assert await leases.renew([slow]) == set()
    assert not await leases.succeed(slow, b"late")
    assert not await leases.fail(slow, InvalidRequest())
    assert not await leases.retry(slow, 0, EngineUnavailable())
    assert not await leases.give_back(slow)
    assert await leases.succeed(second, b"answer")
    assert await queue.result(slow.id) == b"answer"


async def test_a_retried_job_waits_and_is_failed_after_its_last_run(queue: Queue, leases: Leases, clock: Clock) -> None:
    await queue.submit(job := new())
    for _ in range(2):
        assert await leases.retry(await taken(leases), 500, EngineUnavailable())
        assert await leases.take(1) == []
        clock.now += 500
    await leases.retry(await taken(leases), 500, EngineUnavailable())
    ended = await queue.get(job.id)
    assert ended is not None
    assert (ended.state, ended.failure) == (State.FAILED, Failure.of(EngineUnavailable()))


async def test_a_run_given_back_does_not_count(queue: Queue, leases: Leases) -> None:
    await queue.submit(new())
    for _ in range(5):
        job = await taken(leases)
        assert job.attempts == 1
        assert await leases.give_back(job)


async def test_a_job_that_ends_the_server_each_time_is_given_up(queue: Queue, leases: Leases) -> None:
    await queue.submit(job := new())
    for _ in range(3):
        await taken(leases)
        await leases.recover("one")
    ended = await queue.get(job.id)
    assert ended is not None
    assert ended.state is State.FAILED
    assert ended.failure is not None
    assert ended.failure.code == "InternalError"
    assert "begun 3 times" in ended.failure.message


async def test_leases_of_others_are_left_until_they_lapse(queue: Queue, leases: Leases, clock: Clock) -> None:
    await queue.submit(new())
    job = await taken(leases)
    other = Leases(queue, "two", {"task": Failure.of}, lease_ms=LEASE_MS)
    await other.recover("two")
    assert await other.take(1) == []
    clock.now += LEASE_MS + 1
    await other.recover()
    assert (await taken(other)).id == job.id


async def test_a_lease_that_the_clock_has_left_behind_has_lapsed(queue: Queue, leases: Leases, clock: Clock) -> None:
    """The clock was set back by an hour after a process had died: its jobs do not wait for that hour."""
    await queue.submit(new())
    job = await taken(leases)
    clock.now -= 900_000
    other = Leases(queue, "two", {"task": Failure.of}, lease_ms=LEASE_MS)
    await other.recover()
    again = await taken(other)
    assert (again.id, again.attempts) == (job.id, 2)
    assert not await leases.succeed(job, b"late")


async def test_a_clock_that_was_set_back_takes_no_lease_that_is_renewed(
    queue: Queue, leases: Leases, clock: Clock
) -> None:
    await queue.submit(new())
    job = await taken(leases)
    clock.now -= 900_000
    assert await leases.renew([job]) == {job.id}
    await Leases(queue, "two", {"task": Failure.of}, lease_ms=LEASE_MS).recover()
    assert await leases.succeed(job, b"answer")


async def test_what_waits_past_its_deadline_fails(queue: Queue, leases: Leases, clock: Clock) -> None:
    await queue.submit(job := new(deadline=clock.now + 10))
    await leases.expire()
    assert await state_of(queue, job) is State.PENDING
    clock.now += 10
    await leases.expire()
    ended = await queue.get(job.id)
    assert ended is not None
    assert ended.failure is not None
    assert ended.failure.code == "InternalError.Timeout"


async def test_the_sweep_deletes_what_ended_long_ago(queue: Queue, leases: Leases, clock: Clock) -> None:
    for _ in range(3):
        await queue.submit(new())
    old, recent, _ = await leases.take(3)
    await leases.succeed(old, b"answer")
    clock.now += 100
    await leases.succeed(recent, b"answer")
    assert await queue.sweep("task", clock.now) == 1
    assert await queue.get(old.id) is None
    assert (await queue.payload(old.id), await queue.result(old.id)) == (b"", b"")
    assert await queue.result(recent.id) == b"answer"


async def test_what_was_asked_is_kept_until_the_end(queue: Queue, leases: Leases) -> None:
    for _ in range(3):
        await queue.submit(new())
    done, again, canceled = await leases.take(3)
    await leases.succeed(done, b"answer")
    for job in (again, canceled):
        await leases.give_back(job)
    await queue.cancel("task", canceled.id, ALICE.key_id)
    kept = [await queue.payload(job.id) for job in (done, again, canceled)]
    assert kept == [b"", b"question", b""]


def test_the_statements_are_those_of_other_databases_too() -> None:
    """Written once for all of them; what is particular to one would not compile."""
    postgres = postgresql.dialect()  # type: ignore[no-untyped-call]
    for table in (jobs, payloads, results, group_table):
        assert CreateTable(table).compile(dialect=postgres)
    taking = select(jobs.c.id).limit(1).with_for_update(skip_locked=True)
    assert "SKIP LOCKED" in str(taking.compile(dialect=postgres))
    assert "LOCKED" not in str(taking.compile(dialect=sqlite.dialect()))


async def test_pages_come_latest_first(queue: Queue, clock: Clock) -> None:
    submitted = []
    for caller in (ALICE, BOB, ALICE, ALICE):
        clock.now += 1
        await queue.submit(job := new(caller=caller))
        submitted += [job.id] if caller is ALICE else []
    mine = jobs.c.caller_id == "alice"
    total, page = await queue.page(mine, offset=1, limit=2)
    assert (total, [job.id for job in page]) == (3, submitted[1::-1])


async def test_an_id_is_taken_once(queue: Queue) -> None:
    await queue.submit(job := new())
    with pytest.raises(IntegrityError):
        await queue.submit(job)


async def test_listeners_hear_of_what_is_new(queue: Queue) -> None:
    heard: list[None] = []
    queue.on_submit(lambda: heard.append(None))
    await queue.submit(new())
    assert len(heard) == 1


async def test_a_group_counts_how_its_jobs_end(queue: Queue, groups: Groups, leases: Leases) -> None:
    await groups.open("g")
    await groups.add("g", [new(number=number) for number in range(4)])
    await queue.submit(outside := new(number=9))
    one, two, three, four, _ = await leases.take(9)
    await leases.succeed(two, b"2")
    await leases.succeed(one, b"1")
    await leases.fail(three, ServingError())
    progress = await groups.seal("g")
    assert progress is not None
    assert (progress.total, progress.succeeded, progress.failed, progress.ended) == (4, 2, 1, False)
    await leases.fail(four, ServingError())
    progress = await groups.progress("g")
    assert progress is not None
    assert progress.ended
    assert [(job.number, result) async for job, result in groups.ended("g", State.SUCCEEDED)] == [(0, b"1"), (1, b"2")]
    assert [job.number async for job, _ in groups.ended("g", State.FAILED)] == [2, 3]
    await groups.delete("g")
    assert await groups.progress("g") is None
    assert await queue.get(one.id) is None
    assert await state_of(queue, outside) is State.RUNNING


async def test_a_stopped_group_runs_out(queue: Queue, groups: Groups, leases: Leases) -> None:
    await groups.open("g")
    await groups.add("g", [new(number=number) for number in range(5)])
    ends, tries, comes_back = await leases.take(3)
    await groups.stop("g")
    await leases.succeed(ends, b"")
    await leases.retry(tries, 0, EngineUnavailable())
    await leases.give_back(comes_back)
    progress = await groups.progress("g")
    assert progress is not None
    assert (progress.succeeded, progress.canceled, progress.ended) == (1, 4, True)
    assert await state_of(queue, tries) is State.CANCELED
    assert await leases.take(9) == []


async def test_a_stopped_group_whose_runs_were_cut_off_ends_with_their_leases(
    queue: Queue, groups: Groups, leases: Leases
) -> None:
    await groups.open("g")
    await groups.add("g", [new(number=number) for number in range(2)])
    await leases.take(2)
    await groups.stop("g")
    assert await leases.recover("one") == ["g"]
    progress = await groups.progress("g")
    assert progress is not None
    assert progress.ended


@pytest.mark.parametrize("end", ["seal", "stop"])
async def test_nothing_is_added_to_a_group_after_its_end(queue: Queue, groups: Groups, end: str) -> None:
    await groups.open("g")
    await getattr(groups, end)("g")
    with pytest.raises(ValueError):
        await groups.add("g", [job := new()])
    assert await queue.get(job.id) is None


async def test_a_part_that_cannot_be_added_leaves_nothing(queue: Queue, groups: Groups) -> None:
    await groups.open("g")
    await groups.add("g", [first := new()])
    with pytest.raises(IntegrityError):
        await groups.add("g", [second := new(), first])
    assert await queue.get(second.id) is None
    progress = await groups.progress("g")
    assert progress is not None
    assert progress.total == 1


async def test_a_database_that_is_away_is_an_outage_not_a_defect(tmp_path: Path) -> None:
    away = database.at(tmp_path / "nowhere")
    queue = Queue(away)
    for step in (lambda: queue.submit(new()), lambda: queue.get("1"), lambda: queue.cancel("task", "1", "alice")):
        with pytest.raises(StorageUnavailable):
            await step()
    await database.close(away)
