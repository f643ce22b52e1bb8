from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from serving.errors import EngineUnavailable, InvalidRequest, Overloaded, ServingError, StorageUnavailable
from serving.generation import Caller
from serving.jobs.groups import Groups
from serving.jobs.identity import Identity
from serving.jobs.job import Failure, Job, NewJob, State
from serving.jobs.leases import Leases
from serving.jobs.queue import Queue
from serving.jobs.workers import Pace, Workers
from tests.serving.jobs.conftest import Clock

CALLER = Caller("alice", "Alice")
PACE = Pace(lease=0.3, keep=0.05, poll=0.02, ready_for=0.0)


@dataclass
class Work:
    """Does jobs as it is told: `do` is called for each, `began` is set by each."""

    do: Callable[[Job], bytes | ServingError | Exception] = lambda job: b"done " + job.id.encode()
    gate: asyncio.Event | None = None
    keep_ms: int | None = None
    runs: list[str] = field(default_factory=list)
    running: int = 0
    most: int = 0
    began: asyncio.Event = field(default_factory=asyncio.Event)
    ended_groups: asyncio.Queue[str] = field(default_factory=asyncio.Queue)

    async def run(self, job: Job) -> bytes:
        self.runs.append(job.id)
        self.running += 1
        self.most = max(self.most, self.running)
        self.began.set()
        try:
            if self.gate is not None:
                await self.gate.wait()
            result = self.do(job)
            if isinstance(result, Exception):
                raise result
            return result
        finally:
            self.running -= 1

    def failure(self, error: ServingError) -> Failure:
        return Failure(error.status, f"my.{error.code}", error.message)

    async def group_ended(self, group: str) -> None:
        self.ended_groups.put_nowait(group)


@dataclass
class Engine:
    is_ready: bool = True

    async def ready(self) -> bool:
        return self.is_ready


@asynccontextmanager
async def at_work(
    queue: Queue,
    work: Work,
    folder: Path,
    *,
    concurrency: int = 4,
    engine: Engine | None = None,
    pace: Pace = PACE,
) -> AsyncGenerator[Workers, None]:
    ready = (engine or Engine()).ready
    workers = Workers(queue, {"work": work}, folder=folder, concurrency=concurrency, ready=ready, pace=pace)
    await workers.start()
    try:
        yield workers
    finally:
        await workers.aclose()


async def submit(queue: Queue, deadline: int | None = None) -> str:
    await queue.submit(job := NewJob("work", CALLER, b"x", deadline=deadline))
    return job.id


async def ended(queue: Queue, job_id: str) -> Job:
    async with asyncio.timeout(20):
        while (job := await queue.get(job_id)) is None or not job.state.final:  # noqa: ASYNC110 - a database is quiet
            await asyncio.sleep(0.01)
    return job


async def test_jobs_are_done_so_many_at_a_time(queue: Queue, tmp_path: Path) -> None:
    work = Work(gate=asyncio.Event())
    async with at_work(queue, work, tmp_path, concurrency=2):
        ids = [await submit(queue) for _ in range(6)]
        await work.began.wait()
        assert work.gate is not None
        work.gate.set()
        states = [(await ended(queue, job_id)).state for job_id in ids]
    assert states == [State.SUCCEEDED] * 6
    assert await queue.result(ids[0]) == b"done " + ids[0].encode()
    assert sorted(work.runs) == sorted(ids)
    assert 1 <= work.most <= 2


async def test_what_was_submitted_before_the_start_is_done(queue: Queue, tmp_path: Path) -> None:
    job_id = await submit(queue)
    async with at_work(queue, Work(), tmp_path):
        assert (await ended(queue, job_id)).state is State.SUCCEEDED


async def test_a_refusal_ends_the_job_in_the_words_of_its_kind(queue: Queue, tmp_path: Path) -> None:
    work = Work(do=lambda _: InvalidRequest("no picture"))
    async with at_work(queue, work, tmp_path):
        job = await ended(queue, await submit(queue))
    assert (job.state, job.failure) == (State.FAILED, Failure(400, "my.InvalidParameter", "no picture"))
    assert len(work.runs) == 1


@pytest.mark.parametrize("error", [EngineUnavailable(), Overloaded(), ZeroDivisionError("by nought")])
async def test_what_may_succeed_later_is_done_later(
    queue: Queue, clock: Clock, tmp_path: Path, error: Exception
) -> None:
    results: list[bytes | Exception] = [error, b"done"]
    work = Work(do=lambda _: results.pop(0))
    async with at_work(queue, work, tmp_path):
        job_id = await submit(queue)
        async with asyncio.timeout(20):
            while len(work.runs) < 2:
                clock.now += 1_000
                await asyncio.sleep(0.02)
        assert (await ended(queue, job_id)).state is State.SUCCEEDED
    found = await queue.get(job_id)
    assert found is not None
    assert found.attempts == (1 if isinstance(error, Overloaded) else 2)


async def test_what_a_store_is_away_for_waits_until_it_is_back(queue: Queue, clock: Clock, tmp_path: Path) -> None:
    """However often that is: it is no fault of the job, and the client was told that it is accepted."""
    results: list[bytes | ServingError] = [*(StorageUnavailable() for _ in range(9)), b"done"]
    work = Work(do=lambda _: results.pop(0))
    async with at_work(queue, work, tmp_path, pace=replace(PACE, lease=3600.0)):
        job_id = await submit(queue)
        async with asyncio.timeout(20):
            while (job := await queue.get(job_id)) is not None and not job.state.final:
                clock.now += 60_000 if job.state is State.PENDING else 0
                await asyncio.sleep(0.01)
    assert job is not None
    assert (job.state, job.attempts, len(work.runs)) == (State.SUCCEEDED, 1, 10)


async def test_what_never_succeeds_is_given_up(queue: Queue, clock: Clock, tmp_path: Path) -> None:
    work = Work(do=lambda _: EngineUnavailable())
    # The job may have been taken since it was looked at, and the clock may leap meanwhile: leases outlast its leaps.
    async with at_work(queue, work, tmp_path, pace=replace(PACE, lease=3600.0)):
        job_id = await submit(queue)
        async with asyncio.timeout(20):
            while (job := await queue.get(job_id)) is not None and not job.state.final:
                clock.now += 120_000 if job.state is State.PENDING else 0
                await asyncio.sleep(0.01)
    assert job is not None
    assert job.failure is not None
    assert job.failure.code == "my.ModelUnavailable"
    assert len(work.runs) == 5


async def test_nothing_is_begun_while_the_engine_is_away(queue: Queue, tmp_path: Path) -> None:
    work, engine = Work(), Engine(is_ready=False)
    async with at_work(queue, work, tmp_path, engine=engine):
        job_id = await submit(queue)
        await asyncio.sleep(PACE.poll * 3)
        assert work.runs == []
        engine.is_ready = True
        assert (await ended(queue, job_id)).attempts == 1


async def test_a_stop_gives_back_what_runs(queue: Queue, tmp_path: Path) -> None:
    work = Work(gate=asyncio.Event())
    async with at_work(queue, work, tmp_path):
        job_id = await submit(queue)
        await work.began.wait()
    job = await queue.get(job_id)
    assert job is not None
    assert (job.state, job.attempts, work.running) == (State.PENDING, 0, 0)
    async with at_work(queue, Work(), tmp_path):
        assert (await ended(queue, job_id)).state is State.SUCCEEDED


async def test_a_run_past_the_deadline_is_stopped(queue: Queue, clock: Clock, tmp_path: Path) -> None:
    work = Work(gate=asyncio.Event())
    async with at_work(queue, work, tmp_path):
        job = await ended(queue, await submit(queue, deadline=clock.now + 100))
    assert job.failure is not None
    assert job.failure.code == "my.InternalError.Timeout"
    assert work.running == 0


async def test_a_run_that_lost_its_lease_is_stopped_and_done_again(queue: Queue, clock: Clock, tmp_path: Path) -> None:
    """As after a machine was suspended: another process has taken the job over in between."""
    work = Work(gate=asyncio.Event())
    async with at_work(queue, work, tmp_path) as workers:
        job_id = await submit(queue)
        await work.began.wait()
        work.began.clear()
        clock.now += 400
        await workers._leases.recover()
        await work.began.wait()
        assert work.gate is not None
        work.gate.set()
        job = await ended(queue, job_id)
    assert (job.attempts, work.runs) == (2, [job_id, job_id])


async def test_the_leases_of_a_dead_process_are_taken_over_at_once(queue: Queue, tmp_path: Path) -> None:
    """The clock stands still: no lease lapses. The lock on the folder's name says that its holder is gone."""
    job_id = await submit(queue)
    dead, work = Identity(tmp_path), Work()
    assert await Leases(queue, dead.name, {"work": work.failure}).take(1)
    dead.close()
    async with at_work(queue, work, tmp_path):
        assert (await ended(queue, job_id)).attempts == 2
    assert work.runs == [job_id]


async def test_what_lies_in_a_copied_folder_gives_no_right_to_leases(queue: Queue, tmp_path: Path) -> None:
    """Two servers on one database, of which the second one began as a copy of the first one's data folder: whether
    both run, or the first one is started again, no run of either is taken from it."""
    folder, copy = tmp_path / "data", tmp_path / "copy"
    folder.mkdir()
    first, second = Work(gate=asyncio.Event()), Work()
    async with at_work(queue, first, folder, concurrency=1):
        job_id = await submit(queue)
        await first.began.wait()
        shutil.copytree(folder, copy)
        async with at_work(queue, second, copy):
            other = await submit(queue)
            assert (await ended(queue, other)).state is State.SUCCEEDED
        assert first.gate is not None
        first.gate.set()
        assert (await ended(queue, job_id)).attempts == 1
    assert (first.runs, second.runs) == ([job_id], [other])


def test_a_name_is_used_once_and_its_heir_knows_that_its_bearer_is_dead(tmp_path: Path) -> None:
    boot = tmp_path / "boot_id"
    boot.write_text("one\n")
    first = Identity(tmp_path, boot=boot)
    beside = Identity(tmp_path, boot=boot)
    assert (first.first, beside.first, beside.former) == (True, False, None)
    first.close()
    heir = Identity(tmp_path, boot=boot)
    assert heir.former == first.name
    assert len({first.name, beside.name, heir.name}) == 3
    heir.close()
    boot.write_text("another start, or another machine\n")  # there the name may be that of a server that is well
    assert Identity(tmp_path, boot=boot).former is None
    assert Identity(tmp_path, boot=tmp_path / "nowhere").former is None


async def test_a_second_process_on_the_folder_leaves_the_first_one_alone(queue: Queue, tmp_path: Path) -> None:
    first, second = Work(gate=asyncio.Event()), Work()
    async with at_work(queue, first, tmp_path, concurrency=1):
        job_id = await submit(queue)
        await first.began.wait()
        async with at_work(queue, second, tmp_path):
            other = await submit(queue)
            assert (await ended(queue, other)).state is State.SUCCEEDED
            assert first.gate is not None
            first.gate.set()
            assert (await ended(queue, job_id)).attempts == 1


async def test_the_end_of_a_group_is_told(queue: Queue, groups: Groups, tmp_path: Path) -> None:
    work = Work(do=lambda job: b"" if job.number else InvalidRequest(), gate=asyncio.Event())
    async with at_work(queue, work, tmp_path):
        await groups.open("g")
        await groups.add("g", [NewJob("work", CALLER, number=number) for number in range(3)])
        await groups.seal("g")
        assert work.gate is not None
        work.gate.set()
        assert await asyncio.wait_for(work.ended_groups.get(), 10) == "g"
        progress = await groups.progress("g")
    assert progress is not None
    assert (progress.succeeded, progress.failed) == (2, 1)


async def test_ended_jobs_are_kept_for_their_time(queue: Queue, clock: Clock, tmp_path: Path) -> None:
    async with at_work(queue, Work(keep_ms=100), tmp_path):
        job_id = await submit(queue)
        await ended(queue, job_id)
        clock.now += 50
        await asyncio.sleep(PACE.keep * 2)
        assert await queue.get(job_id) is not None
        clock.now += 51
        async with asyncio.timeout(20):
            while await queue.get(job_id) is not None:  # noqa: ASYNC110 - a database tells nobody what has changed
                await asyncio.sleep(0.01)
