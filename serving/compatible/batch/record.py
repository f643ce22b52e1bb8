from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Integer,
    Row,
    Select,
    String,
    Table,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from serving.errors import Alias, InvalidRequest
from serving.generation import Caller
from serving.jobs import notices, transitions
from serving.jobs.notices import Hook
from serving.storage.database import metadata

Hooks: TypeAlias = Callable[[str, str | None], Sequence[Hook]]

MOMENTS = (
    "in_progress_at",
    "expires_at",
    "finalizing_at",
    "completed_at",
    "failed_at",
    "expired_at",
    "cancelling_at",
    "cancelled_at",
)

_batches = Table(
    "batches",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("owner", String(36), nullable=False, index=True),
    Column("owner_name", String(200), nullable=False),
    Column("endpoint", String(64), nullable=False),
    Column("input_file_id", String(80), nullable=False),
    Column("completion_window", String(16), nullable=False),
    Column("extra", JSON, nullable=True),
    Column("status", String(16), nullable=False, index=True),
    Column("errors", JSON, nullable=True),
    Column("output_file_id", String(80), nullable=True),
    Column("error_file_id", String(80), nullable=True),
    Column("created_at", BigInteger, nullable=False, index=True),
    *(Column(moment, BigInteger, nullable=True) for moment in MOMENTS),
    Column("total", Integer, nullable=False),
    Column("completed", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("cleared", Boolean, nullable=False),
    Column("leader", String(36), nullable=True),
    Column("led_until", BigInteger, nullable=True),
)


class Status(StrEnum):
    """validating -> in_progress -> finalizing -> completed or expired, with cancelling -> cancelled from the first two,
    and failed or expired from validating."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


CALLBACK = "ds_batch_finish_callback"
"""Where the metadata of a batch name a URL that is told of its end."""
LEASE = 30
"""Seconds for which a process leads a batch that it has claimed."""
ACTIVE = (Status.VALIDATING, Status.IN_PROGRESS, Status.FINALIZING, Status.CANCELLING)


class BatchMissing(InvalidRequest):
    """Raised for the id of no batch, or of another key's."""

    alias = Alias("not_found", status=404)

    def __init__(self, id: str) -> None:  # noqa: A002
        super().__init__(f"No batch found with id '{id[:80]}'.", param="batch_id")


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as it stands. Times in epoch seconds; `errors` say why the input is none, `extra` is the client's own.

    The counts of an active batch are those of its group of jobs; `cleared` when nothing is left of that.
    """

    number: int
    id: str
    owner: str
    owner_name: str
    endpoint: str
    input_file_id: str
    completion_window: str
    extra: dict[str, str] | None
    status: Status
    errors: list[dict[str, Any]] | None
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    total: int
    completed: int
    failed: int
    cleared: bool

    @property
    def caller(self) -> Caller:
        return Caller(self.owner, self.owner_name)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which batches of an owner to list; None and nothing do not restrict. Times in epoch seconds, inclusive."""

    status: str | None = None
    name: str | None = None
    inputs: tuple[str, ...] = ()
    since: int | None = None
    until: int | None = None


class Records:
    """The batches in the database."""

    def __init__(
        self, database: AsyncEngine, clock: Callable[[], float] = time.time, hooks: Hooks = lambda owner, url: ()
    ) -> None:
        """`hooks` says who is told of the end of a batch, by its owner and the URL that it names."""
        self._database = database
        self._hooks = hooks
        self._clock = clock

    def now(self) -> int:
        return int(self._clock())

    async def create(
        self,
        caller: Caller,
        *,
        endpoint: str,
        input_file_id: str,
        window: tuple[str, int],
        extra: dict[str, str] | None,
        claim: str | None = None,
    ) -> Batch:
        """`window` as the client wrote it, and in seconds. Under a `claim` one batch is made, however often."""
        now = self.now()
        values = {
            "id": f"batch_{claim or uuid.uuid4()}",
            "owner": caller.key_id,
            "owner_name": caller.name,
            "endpoint": endpoint,
            "input_file_id": input_file_id,
            "completion_window": window[0],
            "extra": extra,
            "status": Status.VALIDATING,
            "created_at": now,
            "expires_at": now + window[1],
            "total": 0,
            "completed": 0,
            "failed": 0,
            "cleared": False,
        }
        try:
            async with self._database.begin() as connection:
                return _batch((await connection.execute(insert(_batches).values(**values).returning(_batches))).one())
        except IntegrityError:
            return await self.get(str(values["id"]), caller.key_id)

    async def get(self, id: str, owner: str) -> Batch:  # noqa: A002
        """Raises `BatchMissing`, for another owner's batch as for none."""
        batch = await self.find(id)
        if batch is None or batch.owner != owner:
            raise BatchMissing(id)
        return batch

    async def find(self, id: str) -> Batch | None:  # noqa: A002
        found = await self._all(select(_batches).where(_batches.c.id == id))
        return found[0] if found else None

    async def page(self, owner: str, after: str | None, limit: int, wanted: Wanted) -> tuple[list[Batch], bool]:
        """Up to `limit` batches that come after the one with this id, the newest first, and whether there are more."""
        query = _restricted(select(_batches).where(_batches.c.owner == owner), wanted)
        if after is not None:
            query = query.where(_batches.c.number < (await self.get(after, owner)).number)
        found = await self._all(query.order_by(_batches.c.number.desc()).limit(limit + 1))
        return found[:limit], len(found) > limit

    async def active(self, owner: str) -> int:
        """How many of the owner's have not ended."""
        query = select(func.count()).where(_batches.c.owner == owner, _batches.c.status.in_(ACTIVE))
        async with self._database.connect() as connection:
            return await connection.scalar(query) or 0

    async def unfinished(self, leader: str) -> list[tuple[str, Status]]:
        """Ids and statuses of those that something is left to do for, and that this leader leads or may lead."""
        mine = (~_batches.c.cleared, self._free(leader))
        query = select(_batches.c.id, _batches.c.status).where(*mine).order_by(_batches.c.number)
        async with self._database.connect() as connection:
            return [(row.id, Status(row.status)) for row in await connection.execute(query)]

    async def claim(self, ids: Collection[str], leader: str) -> set[str]:
        """Which of the batches the leader leads from now on, for `LEASE` seconds unless it claims them again."""
        mine = update(_batches).where(_batches.c.id.in_(ids), self._free(leader)).returning(_batches.c.id)
        async with self._database.begin() as connection:
            led = await connection.execute(mine.values(leader=leader, led_until=self.now() + LEASE))
            return set(led.scalars())

    async def release(self, leader: str) -> None:
        """Others need not wait for the leader's leases to lapse."""
        async with self._database.begin() as connection:
            await connection.execute(update(_batches).where(_batches.c.leader == leader).values(leader=None))

    def _free(self, leader: str) -> ColumnElement[bool]:
        """Of a lease that lasts longer than one can, the clock has been set back since."""
        now = self.now()
        lapsed = or_(_batches.c.led_until < now, _batches.c.led_until > now + 3 * LEASE)
        return or_(_batches.c.leader.is_(None), _batches.c.leader == leader, lapsed)

    async def move(self, id: str, before: Collection[Status], after: Status, **values: object) -> Batch | None:  # noqa: A002
        """Gives the batch another status, and notes when, if it has one of those `before`; else None."""
        values = {"status": after, **({} if after is Status.VALIDATING else {f"{after}_at": self.now()}), **values}
        statement = update(_batches).where(_batches.c.id == id, _batches.c.status.in_(before))
        async with self._database.begin() as connection:
            row = (await connection.execute(statement.values(**values).returning(_batches))).one_or_none()
            if row is None:
                return None
            batch = _batch(row)
            if after not in ACTIVE:
                await self._tell(connection, batch)
        return batch

    async def note(self, id: str, errors: list[dict[str, Any]]) -> None:  # noqa: A002
        await self._update(update(_batches).where(_batches.c.id == id).values(errors=errors).returning(_batches))

    async def clear(self, id: str) -> None:  # noqa: A002
        """Notes that nothing is left to do."""
        await self._update(update(_batches).where(_batches.c.id == id).values(cleared=True).returning(_batches))

    async def _update(self, statement: Any) -> Batch | None:
        async with self._database.begin() as connection:
            row = (await connection.execute(statement)).one_or_none()
            return None if row is None else _batch(row)

    async def _tell(self, connection: AsyncConnection, batch: Batch) -> None:
        """In the transaction that ends the batch: it is told, or the batch has not ended."""
        hooks = self._hooks(batch.owner, (batch.extra or {}).get(CALLBACK))
        now = int(self._clock() * 1e3)
        told = notices.of(f"batch.{batch.status}", _summary(batch), hooks, batch.caller, now)
        await transitions.insert_jobs(connection, told, None, now)

    async def _all(self, query: Select[Any]) -> list[Batch]:
        async with self._database.connect() as connection:
            return [_batch(row) for row in await connection.execute(query)]


def _summary(batch: Batch) -> dict[str, Any]:
    """What is told of a batch that has ended."""
    return {
        "id": batch.id,
        "object": "batch",
        "status": batch.status,
        "input_file_id": batch.input_file_id,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "metadata": batch.extra,
    }


def _restricted(query: Select[Any], wanted: Wanted) -> Select[Any]:
    if wanted.status is not None:
        query = query.where(_batches.c.status == wanted.status)
    if wanted.name is not None:
        query = query.where(_batches.c.extra["ds_name"].as_string() == wanted.name)
    if wanted.inputs:
        query = query.where(_batches.c.input_file_id.in_(wanted.inputs))
    if wanted.since is not None:
        query = query.where(_batches.c.created_at >= wanted.since)
    if wanted.until is not None:
        query = query.where(_batches.c.created_at <= wanted.until)
    return query


def _batch(row: Row[Any]) -> Batch:
    values = dict(row._mapping)
    del values["leader"], values["led_until"]
    return Batch(**values | {"status": Status(values["status"])})
