"""Whatever happens to jobs in whatever order, each that was accepted ends once, and the counts of groups are right."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Coroutine
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import select
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import StaticPool

from serving.errors import EngineUnavailable, InvalidRequest
from serving.generation import Caller
from serving.jobs import transitions
from serving.jobs.groups import Groups
from serving.jobs.job import Failure, Job, NewJob, Progress, State
from serving.jobs.leases import Leases
from serving.jobs.queue import Queue
from serving.jobs.tables import job_of, jobs, results
from serving.storage.database import metadata
from tests.serving.jobs.conftest import Clock

T = TypeVar("T")
CALLER = Caller("alice", "Alice")
GROUPS = ("g1", "g2")
OWNERS = ("one", "two")
MAX_ATTEMPTS = 3
LEASE_MS = 100


class Jobs(RuleBasedStateMachine):
    """Two processes at work on one queue; either may die, be late, or come back under its name."""

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.Runner()
        self.clock = Clock()
        self.database = create_async_engine("sqlite+aiosqlite://", poolclass=StaticPool)
        self.queue = Queue(self.database, self.clock)
        self.groups = Groups(self.queue)
        words = {"task": Failure.of}
        self.workers = [
            Leases(self.queue, name, words, lease_ms=LEASE_MS, max_attempts=MAX_ATTEMPTS) for name in OWNERS
        ]
        self.accepted: dict[str, str | None] = {}
        self.ended: dict[str, tuple[State, bytes]] = {}
        self.handed_out: list[tuple[Leases, Job]] = []
        self.closed: set[str] = set()
        self.do(self._create())

    async def _create(self) -> None:
        async with self.database.begin() as connection:
            await connection.run_sync(metadata.create_all)
        for group in GROUPS:
            await self.groups.open(group)

    def do(self, step: Coroutine[Any, Any, T]) -> T:
        return self.loop.run(step)

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.do(self.database.dispose())
            self.loop.close()

    @rule(late=st.booleans())
    def submit(self, late: bool) -> None:
        deadline = self.clock.now + 150 if late else None
        self.do(self.queue.submit(job := NewJob("task", CALLER, b"x", deadline=deadline)))
        self.accepted[job.id] = None

    @rule(group=st.sampled_from(GROUPS), count=st.integers(0, 3))
    def add(self, group: str, count: int) -> None:
        new = [NewJob("task", CALLER, number=number, id=str(uuid.uuid4())) for number in range(count)]
        try:
            self.do(self.groups.add(group, new))
        except ValueError:
            assert group in self.closed
        else:
            assert group not in self.closed
            self.accepted |= dict.fromkeys((job.id for job in new), group)

    @rule(group=st.sampled_from(GROUPS), stop=st.booleans())
    def close(self, group: str, stop: bool) -> None:
        self.do(self.groups.stop(group) if stop else self.groups.seal(group))
        self.closed.add(group)

    @rule(number=st.integers(0, 1), count=st.integers(1, 3))
    def take(self, number: int, count: int) -> None:
        worker = self.workers[number]
        for job in self.do(worker.take(count)):
            assert job.id not in self.ended
            self.handed_out.append((worker, job))

    @precondition(lambda self: self.handed_out)
    @rule(data=st.data(), how=st.sampled_from(["succeed", "fail", "retry", "give_back", "renew"]))
    def finish(self, data: st.DataObject, how: str) -> None:
        """By a run that holds its lease, or by one that has lost it long ago."""
        worker, job = data.draw(st.sampled_from(self.handed_out))
        before = self.do(self.queue.get(job.id))
        assert before is not None
        holds = before.state is State.RUNNING and before.lease == job.lease
        steps: dict[str, Coroutine[Any, Any, object]] = {
            "succeed": worker.succeed(job, job.lease.encode() if job.lease else b""),
            "fail": worker.fail(job, InvalidRequest()),
            "retry": worker.retry(job, 50, EngineUnavailable()),
            "give_back": worker.give_back(job),
            "renew": worker.renew([job]),
        }
        done = self.do(steps.pop(how))
        for step in steps.values():
            step.close()
        assert bool(done) == holds

    @precondition(lambda self: self.accepted)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(list(self.accepted)))
        before = self.do(self.queue.get(job_id))
        assert before is not None
        assert self.do(self.queue.cancel("task", job_id, CALLER.key_id)) == (before.state is State.PENDING)

    @rule(ms=st.integers(1, 2 * LEASE_MS))
    def wait(self, ms: int) -> None:
        self.clock.now += ms

    @rule(number=st.integers(0, 1), restarted=st.booleans())
    def recover(self, number: int, restarted: bool) -> None:
        self.do(self.workers[number].recover(OWNERS[number] if restarted else None))

    @rule()
    def expire(self) -> None:
        self.do(self.workers[0].expire())

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "accepted"):
            found, progress = self.do(self._all())
            assert [job.id for job, _ in found] == list(self.accepted)
            for job, result in found:
                self._one(job, result)
            for group in GROUPS:
                self._counts(group, progress[group], [job for job, _ in found if job.group == group])

    async def _all(self) -> tuple[list[tuple[Job, bytes]], dict[str, Progress | None]]:
        statement = select(jobs, results.c.data).outerjoin(results, results.c.job_id == jobs.c.id)
        async with self.queue.reading() as connection:
            found = {row.id: (job_of(row), row.data or b"") for row in await connection.execute(statement)}
            progress = {group: await transitions.progress(connection, group) for group in GROUPS}
        return [found.pop(job_id) for job_id in self.accepted] + list(found.values()), progress

    def _one(self, job: Job, result: bytes) -> None:
        assert (job.lease is not None) == (job.state is State.RUNNING)
        assert (job.ended_at is not None) == job.state.final
        assert (job.failure is not None) == (job.state is State.FAILED)
        assert (result != b"") == (job.state is State.SUCCEEDED)
        assert 0 <= job.attempts <= MAX_ATTEMPTS
        if job.state.final:
            assert self.ended.setdefault(job.id, (job.state, result)) == (job.state, result)
        else:
            assert job.id not in self.ended

    def _counts(self, group: str, progress: Progress | None, of: list[Job]) -> None:
        assert progress is not None
        states = Counter(job.state for job in of)
        counted = (progress.total, progress.succeeded, progress.failed, progress.canceled)
        assert counted == (len(of), states[State.SUCCEEDED], states[State.FAILED], states[State.CANCELED])
        assert progress.ended == (group in self.closed and all(job.state.final for job in of))
        if progress.stopped:
            assert not states[State.PENDING]


TestInterleavings = Jobs.TestCase
TestInterleavings.settings = settings(max_examples=6, stateful_step_count=20, deadline=None)
