from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from sqlalchemy import ColumnElement, Row, and_, bindparam, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from serving.errors import InternalError, ServingError, TaskTimeout
from serving.jobs import transitions, turns
from serving.jobs.job import Failure, Job, State
from serving.jobs.queue import Queue
from serving.jobs.tables import job_of, jobs

Words: TypeAlias = Callable[[ServingError], Failure]
"""How a kind of job tells a failure."""
GIVEN_UP = "The task was given up: it was begun {} times, and the server ended each time before it did."


class Leases:
    """Jobs as those see it who do them. A lease is the right of one run to end a job, and lapses if not renewed.

    Runs may happen more than once, when a process died or lost its lease; only the one with the lease can end the job.
    """

    def __init__(
        self, queue: Queue, owner: str, kinds: Mapping[str, Words], *, lease_ms: int = 60_000, max_attempts: int = 5
    ) -> None:
        """`owner` tells apart the processes that work on one database, dead ones included. Jobs of other `kinds` are
        left alone."""
        self._queue = queue
        self._owner = owner
        self._kinds = kinds
        self._next = turns.next_job(kinds)
        waiting = (jobs.c.state == State.PENDING, jobs.c.not_before <= bindparam("now"), jobs.c.kind.in_(kinds))
        self._due = select(jobs.c.id).where(*waiting).limit(1)  # asked each second: made once
        self._lease_ms = lease_ms
        self._max_attempts = max_attempts

    async def take(self, count: int) -> list[Job]:
        """Up to `count` jobs that are due, most urgent first and the callers in turn, each under a lease of its own."""
        now = self._queue.clock()
        taken: list[Job] = []
        async with self._queue.transaction() as connection:
            for turn in await turns.reserve(connection, count):
                if (job := await self._take(connection, now)) is None:
                    break
                await turns.note(connection, job.caller.key_id, turn)
                taken.append(job)
        return taken

    async def _take(self, connection: AsyncConnection, now: int) -> Job | None:
        """None also for a job that is being cancelled: it is not waited for, others would wait as well."""
        found = (await connection.execute(self._next, {"now": now})).scalar()
        free = select(jobs.c.id).where(jobs.c.id == found).with_for_update(skip_locked=True).scalar_subquery()
        statement = update(jobs).where(jobs.c.id == free, jobs.c.state == State.PENDING).returning(*jobs.c)
        row = (await connection.execute(statement.values(self._leased(now)))).one_or_none()
        return None if row is None else job_of(row)

    async def due(self) -> bool:
        """Whether there may be something to take."""
        async with self._queue.reading() as connection:
            return (await connection.execute(self._due, {"now": self._queue.clock()})).scalar() is not None

    def _leased(self, now: int) -> dict[str, object]:
        return {
            "state": State.RUNNING,
            "attempts": jobs.c.attempts + 1,
            "scheduled_at": now,
            "lease": str(uuid.uuid4()),
            "lease_owner": self._owner,
            "lease_until": now + self._lease_ms,
        }

    async def renew(self, held: Sequence[Job]) -> set[str]:
        """Prolongs the leases of these jobs. Returns the ids of those that are still held."""
        leases = [job.lease for job in held]
        statement = update(jobs).where(jobs.c.state == State.RUNNING, jobs.c.lease.in_(leases)).returning(jobs.c.id)
        async with self._queue.transaction() as connection:
            rows = await connection.execute(statement.values(lease_until=self._queue.clock() + self._lease_ms))
            return set(rows.scalars())

    async def succeed(self, job: Job, result: bytes) -> bool:
        """False if the lease was lost: then the job has ended, or will end, by another run."""
        async with self._queue.transaction() as connection:
            return await transitions.succeed(connection, job, result, self._queue.clock())

    async def fail(self, job: Job, error: ServingError) -> bool:
        """As `succeed`."""
        return bool(await self._fail(transitions.held(job), error))

    async def retry(self, job: Job, after_ms: int, error: ServingError) -> bool:
        """Lets the job wait that long before its next run, or fails it if this was the last one. As `succeed`."""
        if job.attempts >= self._max_attempts:
            return await self.fail(job, error)
        return await self._put_back(job, not_before=self._queue.clock() + after_ms)

    async def give_back(self, job: Job, after_ms: int = 0) -> bool:
        """Ends the run as if it had never begun, for it was stopped through no fault of the job. As `succeed`."""
        not_before = self._queue.clock() + after_ms
        return await self._put_back(job, attempts=jobs.c.attempts - 1, not_before=not_before)

    async def _put_back(self, job: Job, **values: object) -> bool:
        async with self._queue.transaction() as connection:
            now = self._queue.clock()
            return bool(await transitions.put_back(connection, transitions.held(job), now, **values))

    async def recover(self, dead: str | None = None) -> list[str]:
        """Lets the jobs wait again whose lease has lapsed, and those of a `dead` owner.

        Those that were begun too often fail. Returns the groups that they are of.
        """
        now = self._queue.clock()
        # Of a lease that lasts longer than one can, the clock has been set back since; a live run renews its own.
        lapsed = or_(jobs.c.lease_until < now, jobs.c.lease_until > now + 3 * self._lease_ms)
        if dead is not None:
            lapsed = or_(lapsed, jobs.c.lease_owner == dead)
        lost = and_(jobs.c.state == State.RUNNING, lapsed)
        failed = await self._fail(and_(lost, jobs.c.attempts >= self._max_attempts), self._given_up)
        async with self._queue.transaction() as connection:
            waiting = await transitions.put_back(
                connection, and_(lost, jobs.c.kind.in_(self._kinds)), now, not_before=0
            )
        return transitions.groups_of([*failed, *waiting])

    async def expire(self) -> list[str]:
        """Fails the jobs that still wait after their deadline. Returns the groups that they are of."""
        late = and_(jobs.c.state == State.PENDING, jobs.c.deadline <= self._queue.clock())
        return transitions.groups_of(await self._fail(late, TaskTimeout()))

    @property
    def _given_up(self) -> InternalError:
        return InternalError(GIVEN_UP.format(self._max_attempts))

    async def _fail(self, where: ColumnElement[bool], error: ServingError) -> list[Row[Any]]:
        failed: list[Row[Any]] = []
        async with self._queue.transaction() as connection:
            for kind, words in self._kinds.items():
                of_kind = and_(where, jobs.c.kind == kind)
                now = self._queue.clock()
                failed += await transitions.end(connection, of_kind, State.FAILED, now, words(error))
        return failed
