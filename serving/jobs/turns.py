"""Whose turn it is. Of the callers that wait, the one with the fewest running jobs is next, then the one that was
served longest ago: so a batch of 50,000 lines and one line of another key share the places, whoever came first."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import CTE, Select, Subquery, bindparam, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from serving.jobs.job import State
from serving.jobs.tables import jobs, turns

COUNT = ""
"""The row that counts the turns of all callers."""


async def reserve(connection: AsyncConnection, count: int) -> range:
    """The next `count` turns. Until the transaction ends, whoever else would serve a caller waits: processes that look
    at the same moment would all serve the same one."""
    more = update(turns).where(turns.c.caller_id == COUNT).values(turn=turns.c.turn + count).returning(turns.c.turn)
    last = (await connection.execute(more)).scalar()
    if last is None:  # the first turn of all, which two processes may take at once
        await connection.execute(_insert(connection, COUNT, 0).on_conflict_do_nothing())
        last = (await connection.execute(more)).scalar_one()
    return range(last - count + 1, last + 1)


async def note(connection: AsyncConnection, caller_id: str, turn: int) -> None:
    """That the caller was served in this turn."""
    row = _insert(connection, caller_id, turn)
    await connection.execute(row.on_conflict_do_update(index_elements=[turns.c.caller_id], set_={"turn": turn}))


def _insert(connection: AsyncConnection, caller_id: str, turn: int) -> sqlite.Insert | postgresql.Insert:
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    return insert(turns).values(caller_id=caller_id, turn=turn)


def next_job(kinds: Collection[str]) -> Select[tuple[str]]:
    """The id of the most urgent job that is due at `now`, a parameter, of the caller whose turn it is; urgency goes
    before turns."""
    heads, running = _heads(kinds), _running(kinds)
    return (
        select(jobs.c.id)
        .select_from(heads)
        .join(jobs, jobs.c.id == heads.c.job_id)
        .outerjoin(running, running.c.caller_id == heads.c.caller_id)
        .outerjoin(turns, turns.c.caller_id == heads.c.caller_id)
        .order_by(
            jobs.c.priority.desc(),
            func.coalesce(running.c.places, 0),
            func.coalesce(turns.c.turn, 0),
            jobs.c.submitted_at,
            jobs.c.number,
        )
        .limit(1)
    )


def _heads(kinds: Collection[str]) -> Subquery:
    """For each caller that waits the first of its jobs that is due. One step of the index for each, however much waits:
    with 50,000 lines of one key, `GROUP BY` reads all of them."""
    callers = _waiting()
    first = (
        select(jobs.c.id)
        .where(jobs.c.state == State.PENDING, jobs.c.caller_id == callers.c.caller_id)
        .where(jobs.c.kind.in_(kinds), jobs.c.not_before <= bindparam("now"))
        .order_by(jobs.c.priority.desc(), jobs.c.submitted_at, jobs.c.number)
        .limit(1)
        .correlate(callers)
        .scalar_subquery()
    )
    return select(callers.c.caller_id, first.label("job_id")).where(callers.c.caller_id.is_not(None)).subquery("heads")


def _waiting() -> CTE:
    """The callers with jobs that wait, and a null."""
    callers = select(jobs.c.caller_id).where(jobs.c.state == State.PENDING).order_by(jobs.c.caller_id).limit(1)
    found = select(callers.scalar_subquery().label("caller_id")).cte("waiting", recursive=True)
    following = callers.where(jobs.c.caller_id > found.c.caller_id).correlate(found).scalar_subquery()
    return found.union_all(select(following).where(found.c.caller_id.is_not(None)))


def _running(kinds: Collection[str]) -> Subquery:
    return (
        select(jobs.c.caller_id, func.count().label("places"))
        .where(jobs.c.state == State.RUNNING, jobs.c.kind.in_(kinds))
        .group_by(jobs.c.caller_id)
        .subquery("running")
    )
