from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from serving.errors import StorageUnavailable
from serving.storage.objects import Objects
from serving.storage.records.record import Record
from serving.storage.records.spool import Spool, orphans
from serving.storage.records.tables import pictures, records

log = logging.getLogger(__name__)

TOGETHER_S = 0.2
"""Records that come within this time are written to the database in one transaction."""
PAUSES_S = (1.0, 5.0, 30.0)
SWEEP_EVERY_S = 3600.0
SWEEP = 500
STOP_WITHIN_S = 5.0
REJECTED = "rejected.txt"


class Recorder:
    """Keeps records: first in a file of this process, at once, then in the database, soon.

    A record that `add` has returned for survives the death of the process at any moment: what is not in the database
    yet is found in the file by the next server on this data folder. While the database is away the file grows.
    """

    def __init__(
        self,
        database: AsyncEngine,
        objects: Objects | None,
        folder: Path,
        *,
        days: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`objects` keeps originals, None keeps none; records are swept when they are `days` old."""
        self.objects = objects
        self.clock = clock
        self._database = database
        self._folder = folder
        self._days = days
        self._spool: Spool | None = None
        self._came = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._spool = Spool.new(self._folder)
        self._tasks = [asyncio.create_task(self._drain_for_ever()), asyncio.create_task(self._tidy_for_ever())]

    async def aclose(self) -> None:
        """Tries for a moment to get everything into the database; the rest waits in the file."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._spool is not None:
            with suppress(SQLAlchemyError, OSError, TimeoutError):
                async with asyncio.timeout(STOP_WITHIN_S):
                    await self.drain(self._spool)
            self._spool.close()
            self._spool = None

    def add(self, record: Record) -> None:
        """Raises `StorageUnavailable` if the record cannot be kept."""
        try:
            if self._spool is None:
                raise OSError("the server is not running")
            self._spool.append(msgspec.json.encode(record))
        except OSError as error:
            log.error("the record of request %s is lost: %s", record.request_id, error.strerror or error)
            raise StorageUnavailable from error
        self._came.set()

    async def drain(self, spool: Spool) -> None:
        """Everything that waits goes to the database. Raises `SQLAlchemyError` and `OSError`; nothing is taken out
        then that has not arrived."""
        while spool.waiting:
            lines, size = spool.peek()
            if not size:
                return
            await self._store(lines)
            spool.take(size)

    async def sweep(self) -> int:
        """Deletes what is too old, originals first; returns how many records that were."""
        before = (datetime.fromtimestamp(self.clock(), UTC) - timedelta(days=self._days)).date()
        await self._sweep_originals(before)
        swept = 0
        while True:
            async with self._database.begin() as connection:
                old = select(records.c.id).where(records.c.day < before).limit(SWEEP)
                ids = list((await connection.execute(old)).scalars())
                await connection.execute(delete(pictures).where(pictures.c.record_id.in_(ids)))
                await connection.execute(delete(records).where(records.c.id.in_(ids)))
            swept += len(ids)
            if len(ids) < SWEEP:
                return swept

    async def _sweep_originals(self, before: Any) -> None:
        """Their names have the day: no younger record can mean the same object."""
        if self.objects is None:
            return
        old = select(pictures.c.object).distinct().where(pictures.c.day < before, pictures.c.object.is_not(None))
        async with self._database.connect() as connection:
            names = list((await connection.execute(old)).scalars())
        for name in names:
            await self.objects.delete(name)

    async def adopt(self) -> None:
        """Takes over what servers that were killed have left in their files."""
        for spool in orphans(self._folder):
            try:
                await self.drain(spool)
            finally:
                spool.close()

    async def _drain_for_ever(self) -> None:
        assert self._spool is not None
        failures = 0
        while True:
            await self._came.wait()
            await asyncio.sleep(TOGETHER_S if not failures else PAUSES_S[min(failures, len(PAUSES_S)) - 1])
            self._came.clear()
            try:
                await self.drain(self._spool)
                failures = 0
            except (SQLAlchemyError, OSError) as error:
                failures += 1
                waiting = self._spool.waiting
                log.error("records wait in a file, %d bytes: the database: %s", waiting, type(error).__name__)
                self._came.set()

    async def _tidy_for_ever(self) -> None:
        while True:
            try:
                await self.adopt()
                await self.sweep()
            except (SQLAlchemyError, OSError, StorageUnavailable) as error:
                log.error("old records could not be tidied up: %s", type(error).__name__)
            await asyncio.sleep(SWEEP_EVERY_S)

    async def _store(self, lines: list[bytes]) -> None:
        found = [record for line in lines if (record := self._decoded(line)) is not None]
        try:
            async with self._database.begin() as connection:
                await self._insert(connection, found)
        except (DataError, IntegrityError):
            for record in found:
                await self._store_alone(record)

    async def _store_alone(self, record: Record) -> None:
        try:
            async with self._database.begin() as connection:
                await self._insert(connection, [record])
        except (DataError, IntegrityError) as error:
            self._reject(msgspec.json.encode(record), type(error).__name__)

    async def _insert(self, connection: AsyncConnection, found: list[Record]) -> None:
        """A record may come twice, when a process died between the database and its file."""
        insert: Any = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
        if found:
            await connection.execute(insert(records).on_conflict_do_nothing(), [each.row() for each in found])
        if rows := [row for each in found for row in each.picture_rows()]:
            await connection.execute(insert(pictures).on_conflict_do_nothing(), rows)

    def _decoded(self, line: bytes) -> Record | None:
        try:
            return msgspec.json.decode(line, type=Record)
        except msgspec.MsgspecError as error:
            self._reject(line, type(error).__name__)
            return None

    def _reject(self, line: bytes, reason: str) -> None:
        log.error("a record cannot be stored (%s); it lies in %s", reason, self._folder / REJECTED)
        with (self._folder / REJECTED).open("ab") as file:
            file.write(line + b"\n")


async def export(database: AsyncEngine, since_ms: int, until_ms: int) -> AsyncGenerator[dict[str, Any], None]:
    """The records that were received in this span, the oldest first, with their images."""
    span = (records.c.received_at >= since_ms, records.c.received_at < until_ms)
    query = select(records).where(*span).order_by(records.c.received_at, records.c.id)
    async with database.connect() as connection, database.connect() as second:
        rows = await connection.stream(query)
        async for row in rows:
            found = {str(name): value for name, value in row._mapping.items() if name != "day"}
            shown = select(pictures).where(pictures.c.record_id == row.id).order_by(pictures.c.number)
            images = [dict(each._mapping) for each in await second.execute(shown)]
            yield found | {"pictures": [{name: each[name] for name in PICTURE} for each in images]}


PICTURE = ("digest", "format", "width", "height", "bytes", "object")
