from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from sqlalchemy import and_, delete, insert, select, update

from serving.jobs import transitions
from serving.jobs.job import Job, NewJob, Progress, State
from serving.jobs.queue import Queue
from serving.jobs.tables import groups, job_of, jobs, results

PAGE = 100
"""Jobs read at a time, each with its result: 500 held the event loop for 45 ms."""
CANCELED_AT_ONCE = 500


class Groups:
    """Jobs that belong together, such as the lines of a batch. Their counts are kept with every step of a job."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    async def open(self, group: str) -> None:
        """A new group without jobs. Raises `sqlalchemy.exc.IntegrityError` if there is one of the name."""
        row = {"id": group, "total": 0, "succeeded": 0, "failed": 0, "canceled": 0, "sealed": False, "stopped": False}
        async with self._queue.transaction() as connection:
            await connection.execute(insert(groups).values(row))

    async def add(self, group: str, new: Sequence[NewJob]) -> None:
        """Adds all of the jobs or, if it fails, none; they may run at once.

        A thousand at a time are a good measure. Who was interrupted while adding goes on after `Progress.total` jobs.
        """
        async with self._queue.transaction() as connection:
            await transitions.insert_jobs(connection, new, group, self._queue.clock())
            more = update(groups).where(groups.c.id == group, ~groups.c.sealed, ~groups.c.stopped)
            if not (await connection.execute(more.values(total=groups.c.total + len(new)))).rowcount:
                raise ValueError(f"nothing can be added to the group {group}")
        self._queue.announce()

    async def seal(self, group: str) -> Progress | None:
        """Nothing more will be added. If the group has ended by this, only the returned progress tells."""
        async with self._queue.transaction() as connection:
            await connection.execute(update(groups).where(groups.c.id == group).values(sealed=True))
            return await transitions.progress(connection, group)

    async def stop(self, group: str) -> Progress | None:
        """Seals the group and cancels what waits of it, some at a time; as `seal`. What runs comes to its end, but not
        back. One that was cut off leaves a group that is not stopped."""
        async with self._queue.transaction() as connection:
            await connection.execute(update(groups).where(groups.c.id == group).values(sealed=True))
        while await self._cancel_some(group):
            pass
        async with self._queue.transaction() as connection:
            await connection.execute(update(groups).where(groups.c.id == group).values(stopped=True))
            await transitions.end(connection, transitions.waiting_of(group), State.CANCELED, self._queue.clock())
            return await transitions.progress(connection, group)

    async def _cancel_some(self, group: str) -> bool:
        """Whether there may be more: 50,000 in one transaction kept every other writer waiting for seconds."""
        async with self._queue.transaction() as connection:
            waiting = select(jobs.c.id).where(transitions.waiting_of(group)).limit(CANCELED_AT_ONCE)
            ids = list((await connection.execute(waiting)).scalars())
            these = and_(jobs.c.id.in_(ids), transitions.waiting_of(group))
            await transitions.end(connection, these, State.CANCELED, self._queue.clock())
        return len(ids) == CANCELED_AT_ONCE

    async def progress(self, group: str) -> Progress | None:
        """One row is read for it, however many jobs there are. None if there is no such group."""
        async with self._queue.reading() as connection:
            return await transitions.progress(connection, group)

    async def ended(self, group: str, state: State) -> AsyncGenerator[tuple[Job, bytes], None]:
        """The jobs that ended so, by number, each with its result; empty for those that did not succeed."""
        after = -1
        while True:
            statement = (
                select(jobs, results.c.data)
                .outerjoin(results, results.c.job_id == jobs.c.id)
                .where(jobs.c.group_id == group, jobs.c.state == state, jobs.c.number > after)
                .order_by(jobs.c.number)
                .limit(PAGE)
            )
            async with self._queue.reading() as connection:
                rows = list(await connection.execute(statement))
            for row in rows:
                yield job_of(row), row.data or b""
            if len(rows) < PAGE:
                return
            after = rows[-1].number

    async def delete(self, group: str) -> None:
        """Deletes the group and its jobs; results of runs that still go on are dropped."""
        await self.stop(group)
        await self._queue.delete(jobs.c.group_id == group)
        async with self._queue.transaction() as connection:
            await connection.execute(delete(groups).where(groups.c.id == group))
