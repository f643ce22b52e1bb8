from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, delete, func, select, update
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from serving.errors import StorageUnavailable
from serving.jobs import notices, transitions
from serving.jobs.job import Clock, Job, NewJob, State, wall_clock
from serving.jobs.tables import job_of, jobs, payloads, results

log = logging.getLogger(__name__)

SWEEP = 500
"""Jobs deleted in one transaction: the others that write wait for it."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """How many jobs there are to do; `oldest` in seconds since the one that waits longest was submitted, 0 for none.
    `notices` are webhooks that wait, which the others do not count."""

    waiting: int = 0
    running: int = 0
    oldest: float = 0.0
    notices: int = 0


class Queue:
    """Jobs in the database, as those see it who hand them in and ask for them.

    What a method did is committed when it returns. It then survives the death of the process at any moment and, as far
    as the disk keeps what it has confirmed, of the machine. Each raises `StorageUnavailable` if the database is away.
    """

    def __init__(self, database: AsyncEngine, clock: Clock = wall_clock) -> None:
        self.clock = clock
        self._database = database
        self._writing = asyncio.Lock()
        self._listeners: list[Callable[[], None]] = []

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[AsyncConnection, None]:
        """One at a time: SQLite has one writer, and those that it keeps waiting it serves in no order."""
        async with self._writing:
            with _translated():
                async with self._database.begin() as connection:
                    yield connection

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[AsyncConnection, None]:
        with _translated():
            async with self._database.connect() as connection:
                yield connection

    def on_submit(self, listener: Callable[[], None]) -> None:
        """`listener` is called, in this process only, when there is something new to do."""
        self._listeners.append(listener)

    def announce(self) -> None:
        for listener in self._listeners:
            listener()

    async def submit(self, job: NewJob) -> int:
        """Accepts a job. Returns when, in epoch ms."""
        now = self.clock()
        async with self.transaction() as connection:
            await transitions.insert_jobs(connection, [job], None, now)
        self.announce()
        return now

    async def get(self, job_id: str) -> Job | None:
        async with self.reading() as connection:
            row = (await connection.execute(select(jobs).where(jobs.c.id == job_id))).one_or_none()
        return None if row is None else job_of(row)

    async def payload(self, job_id: str) -> bytes:
        return await self._data(payloads.c.data, payloads.c.job_id, job_id)

    async def result(self, job_id: str) -> bytes:
        """What a job that succeeded answered; empty for others."""
        return await self._data(results.c.data, results.c.job_id, job_id)

    async def _data(self, data: ColumnElement[bytes], of: ColumnElement[str], job_id: str) -> bytes:
        async with self.reading() as connection:
            return (await connection.execute(select(data).where(of == job_id))).scalar() or b""

    async def cancel(self, kind: str, job_id: str, caller_id: str) -> bool:
        """Cancels the caller's job unless it runs or has ended."""
        mine = and_(
            jobs.c.id == job_id, jobs.c.kind == kind, jobs.c.caller_id == caller_id, jobs.c.state == State.PENDING
        )
        async with self.transaction() as connection:
            return bool(await transitions.end(connection, mine, State.CANCELED, self.clock()))

    async def waiting(self, kind: str, caller_id: str, limit: int) -> int:
        """How many jobs of the caller's wait; no more than `limit` are counted."""
        mine = (jobs.c.kind == kind, jobs.c.caller_id == caller_id, jobs.c.state == State.PENDING)
        found = select(jobs.c.id).where(*mine).limit(limit).subquery()
        async with self.reading() as connection:
            return (await connection.execute(select(func.count()).select_from(found))).scalar_one()

    async def waiting_bytes(self, kind: str, caller_id: str) -> int:
        """Of what the caller's jobs that wait have been handed in with. Neither database reads the contents for it."""
        mine = (jobs.c.kind == kind, jobs.c.caller_id == caller_id, jobs.c.state == State.PENDING)
        length = func.coalesce(func.sum(func.length(payloads.c.data)), 0)
        statement = select(length).join(jobs, jobs.c.id == payloads.c.job_id).where(*mine)
        async with self.reading() as connection:
            return int((await connection.execute(statement)).scalar_one())

    async def backlog(self) -> Backlog:
        """Of all kinds and callers."""
        # By name: written out twice it has two parameters, which PostgreSQL takes for two expressions.
        notice = (jobs.c.kind == notices.KIND).label("notice")
        statement = (
            select(jobs.c.state, notice, func.count(), func.min(jobs.c.submitted_at))
            .where(jobs.c.state.in_((State.PENDING, State.RUNNING)))
            .group_by(jobs.c.state, "notice")
        )
        async with self.reading() as connection:
            rows = await connection.execute(statement)
            found = {(state, bool(told)): (count, since) for state, told, count, since in rows}
        none: tuple[int, int | None] = (0, None)
        waiting, since = found.get((State.PENDING, False), none)
        oldest = 0.0 if since is None else max(0.0, (self.clock() - since) / 1e3)
        running, _ = found.get((State.RUNNING, False), none)
        return Backlog(waiting, running, oldest, found.get((State.PENDING, True), none)[0])

    async def page(self, *where: ColumnElement[bool], offset: int, limit: int) -> tuple[int, list[Job]]:
        """How many jobs match, and a page of them, the latest first."""
        async with self.reading() as connection:
            total = (await connection.execute(select(func.count()).select_from(jobs).where(*where))).scalar_one()
            statement = select(jobs).where(*where).order_by(jobs.c.submitted_at.desc(), jobs.c.id)
            rows = await connection.execute(statement.offset(offset).limit(limit))
            return total, [job_of(row) for row in rows]

    async def again(self, *where: ColumnElement[bool]) -> list[str]:
        """Has jobs that failed done anew, as if they had just been submitted. Returns their ids."""
        fresh = {"state": State.PENDING, "attempts": 0, "not_before": self.clock(), "ended_at": None}
        no_failure = {"failure_status": None, "failure_code": None, "failure_message": None}
        statement = update(jobs).where(*where, jobs.c.state == State.FAILED, jobs.c.group_id.is_(None))
        async with self.transaction() as connection:
            again = await connection.execute(statement.values(fresh | no_failure).returning(jobs.c.id))
            ids = list(again.scalars())
        self.announce()
        return ids

    async def sweep(self, kind: str, ended_before: int) -> int:
        """Deletes the jobs of the kind that ended before then (epoch ms) and are of no group."""
        old = and_(jobs.c.kind == kind, jobs.c.group_id.is_(None), jobs.c.ended_at < ended_before)
        return await self.delete(old)

    async def delete(self, where: ColumnElement[bool]) -> int:
        """Deletes jobs with all that is kept of them, a few at a time."""
        deleted = 0
        while True:
            async with self.transaction() as connection:
                found = await connection.execute(select(jobs.c.id).where(where).limit(SWEEP))
                ids = list(found.scalars())
                for column in (payloads.c.job_id, results.c.job_id, jobs.c.id):
                    await connection.execute(delete(column.table).where(column.in_(ids)))
            deleted += len(ids)
            if len(ids) < SWEEP:
                return deleted


@contextmanager
def _translated() -> Generator[None, None, None]:
    try:
        yield
    except (OperationalError, InterfaceError, OSError) as error:  # a TimeoutError is an OSError, too
        log.warning("the queue's database cannot be worked on: %s", type(error).__name__)
        raise StorageUnavailable from error
