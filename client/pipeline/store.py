"""The database behind a pipeline: one row for every item, one for every answer. SQLite, or PostgreSQL by URL."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sql
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from client.errors import ConfigurationError
from client.idempotency import Keys
from client.models import Record, from_json, state, to_json
from client.pipeline.models import ENDED, Counts, Work
from client.sqlite import write_ahead

_metadata = sql.MetaData()
_work = sql.Table(
    "pipeline_work",
    _metadata,
    sql.Column("id", sql.String(64), primary_key=True),
    sql.Column("key", sql.String(64), nullable=False, index=True),
    sql.Column("document", sql.Text, nullable=False),
    sql.Column("position", sql.Integer, nullable=False),
    sql.Column("body", sql.LargeBinary, nullable=False),
    sql.Column("state", sql.String(8), nullable=False),
    sql.Column("tries", sql.Integer, nullable=False, default=0),
    sql.Column("released", sql.Float, nullable=False, default=0.0),
    sql.Column("published", sql.Boolean, nullable=False, default=False),
    sql.Column("worker", sql.Text, nullable=False, default=""),
    sql.Column("until", sql.Float, nullable=False, default=0.0),
    sql.Column("reason", sql.Text, nullable=False, default=""),
    sql.Index("pipeline_work_by_document", "document", "state", "position"),
)
_answers = sql.Table(
    "pipeline_answers",
    _metadata,
    sql.Column("key", sql.String(64), primary_key=True),
    sql.Column("record", sql.Text, nullable=False),
    sql.Column("at", sql.Float, nullable=False),
)
_keys = Keys(_metadata, "pipeline_")

_MAKING = 0x70697065
"""The advisory lock of who makes the tables."""
RELEASE_AGAIN = 60.0
"""Seconds after which a row that was handed to a publisher and not reported as published is handed out again."""


class Claim(Enum):
    """What became of the wish to work on an item. `BUSY`: another worker has it, or the same question elsewhere."""

    MINE = "mine"
    BUSY = "busy"
    ENDED = "ended"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Row:
    """An item as it is in the database."""

    work: Work
    state: str
    tries: int
    reason: str
    record: Record | None


class Store:
    """Rows and answers of a pipeline.

    Times are this machine's clock: those of several machines have to agree to a few seconds.

    Args:
        url: `postgresql://...`, or the path of an SQLite file.

    Raises:
        ConfigurationError: it cannot be opened, or the extra is missing.
    """

    def __init__(self, url: str | Path) -> None:
        self._engine = _engine(url)

    async def __aenter__(self) -> Self:
        try:
            async with self._engine.begin() as connection:
                await _make(connection)
        except (SQLAlchemyError, OSError) as error:
            await self._engine.dispose()
            raise ConfigurationError(f"the database of the pipeline cannot be opened: {_cause(error)}") from error
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._engine.dispose()

    async def add(self, items: Sequence[Work]) -> int:
        """Rows for what is new, all or none; returns how many were."""
        rows = [
            {"id": item.id, "key": item.key, "document": item.document, "position": item.position,
             "body": item.to_json(), "state": "waiting"}
            for item in items
        ]  # fmt: skip
        if not rows:
            return 0
        known = sql.select(_work.c.id).where(_work.c.id.in_([row["id"] for row in rows]))
        async with self._engine.begin() as connection:
            old = set((await connection.execute(known)).scalars())
            fresh = {row["id"]: row for row in rows if row["id"] not in old}
            if fresh:
                await connection.execute(self._insert(_work).on_conflict_do_nothing(), list(fresh.values()))
        return len(fresh)

    async def release(self, document: str, window: int) -> list[tuple[str, bytes]]:
        """The next items of a document for the broker, up to `window` of it underway: id and message of each."""
        now = time.time()
        c = _work.c
        lost = (c.state == "queued") & c.published.is_(False) & (c.released < now - RELEASE_AGAIN)
        underway = (c.document == document) & c.state.in_(("queued", "running")) & ~lost
        async with self._engine.begin() as connection:
            busy = (await connection.execute(sql.select(sql.func.count()).where(underway))).scalar_one()
            if busy >= window:
                return []
            ready = (c.document == document) & ((c.state == "waiting") | lost)
            chosen = sql.select(c.id).where(ready).order_by(c.position, c.id).limit(window - busy)
            if self._engine.dialect.name == "postgresql":
                chosen = chosen.with_for_update(skip_locked=True)
            update = sql.update(_work).where(c.id.in_(chosen.scalar_subquery()), (c.state == "waiting") | lost)
            values = {"state": "queued", "released": now, "published": False}
            rows = (await connection.execute(update.values(values).returning(c.id, c.body, c.position))).all()
        return [(row.id, bytes(row.body)) for row in sorted(rows, key=lambda row: row.position)]

    async def published(self, ids: Sequence[str]) -> None:
        """The broker has confirmed these."""
        await self._change(_work.c.id.in_(ids), published=True)

    async def unpublished(self, ids: Sequence[str]) -> None:
        """The broker did not take these: they wait again."""
        await self._change(_work.c.id.in_(ids) & (_work.c.state == "queued"), state="waiting")

    async def unfinished(self) -> list[str]:
        """Documents that have something left for the broker."""
        c = _work.c
        lost = (c.state == "queued") & c.published.is_(False) & (c.released < time.time() - RELEASE_AGAIN)
        query = sql.select(c.document).where((c.state == "waiting") | lost).distinct()
        async with self._engine.connect() as connection:
            return list((await connection.execute(query)).scalars())

    async def forgotten(self, seconds: float) -> int:
        """Items that the broker should have and that nobody has touched for so long wait again; returns how many.

        For when the broker says that it has nothing left: its messages are gone, or an acknowledgement outlived a
        commit that a loss of power took back.
        """
        then, c = time.time() - seconds, _work.c
        idle = (c.state == "queued") & c.published.is_(True) & (c.released < then)
        return await self._change(idle | ((c.state == "running") & (c.until < then)), state="waiting", published=False)

    async def claim(self, item: Work, worker: str, seconds: float) -> tuple[Claim, int]:
        """Takes an item for so long; with `MINE` comes which try this is, from 1."""
        now, c, other = time.time(), _work.c, _work.alias()
        same = sql.exists().where(
            other.c.key == item.key, other.c.id != item.id, other.c.state == "running", other.c.until > now
        )
        free = (c.state.in_(("waiting", "queued"))) | ((c.state == "running") & (c.until <= now))
        taken = (
            sql.update(_work)
            .where(c.id == item.id, free, ~same)
            .values(state="running", worker=worker, until=now + seconds, tries=c.tries + 1)
            .returning(c.tries)
        )
        async with self._engine.begin() as connection:
            tries = (await connection.execute(taken)).scalar_one_or_none()
            if tries is not None:
                return Claim.MINE, tries
            found = (await connection.execute(sql.select(c.state).where(c.id == item.id))).scalar_one_or_none()
        if found is None:
            return Claim.UNKNOWN, 0
        return (Claim.ENDED if found in ENDED else Claim.BUSY), 0

    async def renew(self, item: Work, worker: str, seconds: float) -> None:
        """Keeps an item for longer."""
        mine = (_work.c.id == item.id) & (_work.c.worker == worker) & (_work.c.state == "running")
        await self._change(mine, until=time.time() + seconds)

    async def give_back(self, item: Work, worker: str, *, reason: str = "", counted: bool = True) -> None:
        """Lets go of an item that was not answered. `counted`: the try was one, and its end is `reason`."""
        mine = (_work.c.id == item.id) & (_work.c.worker == worker) & (_work.c.state == "running")
        changes: dict[str, Any] = {"state": "queued", "until": 0.0, "reason": reason}
        if not counted:
            changes["tries"] = _work.c.tries - 1
        await self._change(mine, **changes)

    async def answer(self, key: str) -> Record | None:
        """What is stored under a key; None when it was never answered."""
        query = sql.select(_answers.c.record).where(_answers.c.key == key)
        async with self._engine.connect() as connection:
            line = (await connection.execute(query)).scalar_one_or_none()
        return None if line is None else from_json(line)

    async def idempotency_key(self, key: str) -> str:
        """Under which the question of a key is sent: the same after a crash, another one after an unfit answer."""
        async with self._engine.connect() as connection:
            return await _keys.of(connection, key)

    async def count_unfit(self, key: str) -> None:
        """The answer to the question of a key did not fit: it is asked anew, under another name."""
        async with self._engine.begin() as connection:
            await _keys.count_unfit(connection, key)

    async def address(self, name: str) -> str | None:
        """The address of an upload, as `client.uploads.Kept`."""
        with suppress(SQLAlchemyError, OSError):
            async with self._engine.connect() as connection:
                return await _keys.address(connection, name)
        return None

    async def keep_address(self, name: str, address: str, seconds: float) -> None:
        """Where it cannot be kept the image is uploaded again after a crash."""
        with suppress(SQLAlchemyError, OSError):
            async with self._engine.begin() as connection:
                await _keys.keep_address(connection, name, address, seconds)

    async def forget_address(self, name: str) -> None:
        with suppress(SQLAlchemyError, OSError):
            async with self._engine.begin() as connection:
                await _keys.forget_address(connection, name)

    async def finish(self, item: Work, record: Record) -> None:
        """Stores an answer, the first one under its key, and ends the row with it: both or neither."""
        insert = self._insert(_answers).values(key=item.key, record=to_json(record), at=time.time())
        reason = "" if state(record) == "done" else getattr(record, "reason", "")
        async with self._engine.begin() as connection:
            if state(record) == "done":
                await connection.execute(insert.on_conflict_do_nothing())
            changes = {"state": state(record), "until": 0.0, "reason": reason}
            alive = _work.c.state.not_in(ENDED)
            await connection.execute(sql.update(_work).where(_work.c.id == item.id, alive).values(changes))

    async def bury(self, item: Work, reason: str) -> None:
        """Ends a row that was tried too often."""
        await self._change(
            (_work.c.id == item.id) & _work.c.state.not_in(ENDED), state="dead", until=0.0, reason=reason
        )

    async def revive(self) -> int:
        """What failed or died waits again, as if it had never been tried; returns how many."""
        changes = {"state": "waiting", "tries": 0, "reason": "", "published": False}
        return await self._change(_work.c.state.in_(("failed", "dead")), **changes)

    async def counts(self) -> list[Counts]:
        """The states of every document, in the order of their names."""
        query = sql.select(_work.c.document, _work.c.state, sql.func.count()).group_by(_work.c.document, _work.c.state)
        found: dict[str, dict[str, int]] = {}
        async with self._engine.connect() as connection:
            for document, name, count in (await connection.execute(query)).all():
                found.setdefault(document, {})[name] = count
        return [Counts(document, **found[document]) for document in sorted(found)]

    async def rows(self) -> AsyncIterator[Row]:
        """Every item with its answer, document by document, in order."""
        query = (
            sql.select(_work.c.body, _work.c.state, _work.c.tries, _work.c.reason, _answers.c.record)
            .join_from(_work, _answers, _work.c.key == _answers.c.key, isouter=True)
            .order_by(_work.c.document, _work.c.position, _work.c.id)
        )
        async with self._engine.connect() as connection:
            async for body, name, tries, reason, line in await connection.stream(query):
                record = from_json(line) if line is not None and name == "done" else None
                yield Row(Work.from_json(bytes(body)), name, tries, reason, record)

    async def _change(self, where: Any, **values: Any) -> int:
        async with self._engine.begin() as connection:
            return (await connection.execute(sql.update(_work).where(where).values(**values))).rowcount

    def _insert(self, table: sql.Table) -> Any:
        from sqlalchemy.dialects import postgresql, sqlite

        return (postgresql if self._engine.dialect.name == "postgresql" else sqlite).insert(table)


def _engine(url: str | Path) -> AsyncEngine:
    if isinstance(url, Path):
        engine = create_async_engine(f"sqlite+aiosqlite:///{url}", connect_args={"timeout": 30})
        sql.event.listen(engine.sync_engine, "connect", _configure)
        return engine
    if not url.startswith(("postgresql://", "postgres://")):
        raise ConfigurationError(f"the database {url.partition('://')[0][:40]!r} is not known: postgresql://...")
    try:
        return create_async_engine("postgresql+asyncpg://" + url.partition("://")[2], pool_pre_ping=True)
    except ImportError as error:
        raise ConfigurationError("PostgreSQL needs pip install 'homescope[scale]'") from error
    except SQLAlchemyError as error:
        raise ConfigurationError("the address of the database cannot be used: postgresql://user@host/name") from error


async def _make(connection: AsyncConnection) -> None:
    """Makes what is not there yet. Workers that are started together wait for each other: a table is made only once."""
    if connection.dialect.name == "postgresql":
        await connection.execute(sql.select(sql.func.pg_advisory_xact_lock(_MAKING)))
    else:
        await connection.exec_driver_sql("BEGIN IMMEDIATE")
    await connection.run_sync(_metadata.create_all)
    await _keys.begin(connection)


def _configure(connection: Any, _: Any) -> None:
    """A kill loses nothing that was committed; a loss of power may lose the last answers, which are asked for again."""
    cursor = connection.cursor()
    write_ahead(cursor, within=30)
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.close()


def _cause(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error).splitlines()[0][:200]
