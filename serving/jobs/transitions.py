"""The steps between the states of jobs, each inside a transaction of the caller's.

Every step is one conditional update, and whether it took place is told by what it returns: so it stays right however
many processes work on one database. Rows are locked in the order jobs before groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from serving.jobs import notices
from serving.jobs.job import Failure, Job, NewJob, Progress, State
from serving.jobs.notices import Hook
from serving.jobs.tables import groups, job_of, jobs, payloads, results

AT_ONCE = 500
"""Ids in one statement; databases limit how many values it may have."""
NO_LEASE = {"lease": None, "lease_owner": None, "lease_until": None}


def held(job: Job) -> ColumnElement[bool]:
    """Whether the run that `job` was handed out for still has its lease."""
    return and_(jobs.c.id == job.id, jobs.c.state == State.RUNNING, jobs.c.lease == job.lease)


def waiting_of(group: str) -> ColumnElement[bool]:
    return and_(jobs.c.group_id == group, jobs.c.state == State.PENDING)


async def end(
    connection: AsyncConnection,
    where: ColumnElement[bool],
    state: State,
    now: int,
    failure: Failure | None = None,
) -> list[Row[Any]]:
    """Gives the jobs that match their final state, counts them in their groups, and forgets what they were to do, which
    is the most of what is kept of them. Returns their ids and groups."""
    values: dict[str, Any] = {"state": state, "ended_at": now, **NO_LEASE}
    if failure is not None:
        values |= {
            "failure_status": failure.status,
            "failure_code": failure.code,
            "failure_message": failure.message,
        }
    statement = update(jobs).where(where).values(values).returning(jobs.c.id, jobs.c.group_id, jobs.c.hooks)
    ended = list(await connection.execute(statement))
    await _tell(connection, [row for row in ended if row.hooks], now)
    for start in range(0, len(ended), AT_ONCE):
        ids = [row.id for row in ended[start : start + AT_ONCE]]
        await connection.execute(delete(payloads).where(payloads.c.job_id.in_(ids)))
    column = groups.c[state.lower()]
    for group in groups_of(ended):
        more = {column: column + sum(row.group_id == group for row in ended)}
        await connection.execute(update(groups).where(groups.c.id == group).values(more))
    return ended


async def _tell(connection: AsyncConnection, ended: Sequence[Row[Any]], now: int) -> None:
    """Has those told who asked for it; with the end itself, or not at all."""
    for row in ended:
        job = job_of((await connection.execute(select(jobs).where(jobs.c.id == row.id))).one())
        await insert_jobs(connection, notices.of_job(job, (Hook(*hook) for hook in row.hooks), now), None, now)


async def insert_jobs(connection: AsyncConnection, new: Sequence[NewJob], group: str | None, now: int) -> None:
    if not new:
        return
    await connection.execute(insert(jobs), [_row(job, group, now) for job in new])
    contents = [{"job_id": job.id, "data": job.payload} for job in new if job.payload]
    if contents:
        await connection.execute(insert(payloads), contents)


def _row(job: NewJob, group: str | None, now: int) -> dict[str, Any]:
    return {
        "id": job.id,
        "kind": job.kind,
        "caller_id": job.caller.key_id,
        "caller_name": job.caller.name,
        "model": job.model,
        "details": dict(job.details),
        "group_id": group,
        "number": job.number,
        "state": State.PENDING,
        "priority": job.priority,
        "attempts": 0,
        "submitted_at": now,
        "not_before": 0,  # at once, whatever becomes of the clock
        "deadline": job.deadline,
        "hooks": [list(hook) for hook in job.hooks] or None,
    }


async def succeed(connection: AsyncConnection, job: Job, result: bytes, now: int) -> bool:
    """False, and nothing is kept of the result, when the run has lost its lease."""
    if not await end(connection, held(job), State.SUCCEEDED, now):
        return False
    await connection.execute(insert(results).values(job_id=job.id, data=result))
    return True


async def put_back(connection: AsyncConnection, where: ColumnElement[bool], now: int, **values: Any) -> list[Row[Any]]:
    """Makes running jobs that match wait again; those of stopped groups are canceled. Returns their ids and groups."""
    statement = update(jobs).where(where, jobs.c.state == State.RUNNING).returning(jobs.c.id, jobs.c.group_id)
    back = list(await connection.execute(statement.values(state=State.PENDING, **NO_LEASE, **values)))
    for group in groups_of(back):
        # The lock waits for a `stop` that has not seen these jobs waiting, so that one of the two cancels them.
        found = await connection.execute(select(groups.c.stopped).where(groups.c.id == group).with_for_update())
        if found.scalar():
            await end(connection, waiting_of(group), State.CANCELED, now)
    return back


def groups_of(rows: Iterable[Row[Any]]) -> list[str]:
    """In one order for all, so that no two transactions wait for each other."""
    return sorted({row.group_id for row in rows if row.group_id is not None})


async def progress(connection: AsyncConnection, group: str) -> Progress | None:
    row = (await connection.execute(select(groups).where(groups.c.id == group))).one_or_none()
    if row is None:
        return None
    return Progress(row.total, row.succeeded, row.failed, row.canceled, row.sealed, row.stopped)
