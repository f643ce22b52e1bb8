from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Integer,
    LargeBinary,
    Row,
    Select,
    String,
    Table,
    Text,
    case,
    delete,
    func,
    insert,
    select,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from serving.errors import FileMissing, FileQuotaExceeded
from serving.storage.database import metadata
from serving.storage.journal import Journal
from serving.storage.objects import Objects, Stored

NAME_CHARS = 255
SWEEP_BATCH = 200

_files = Table(
    "files",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("id", String(80), nullable=False, unique=True),
    Column("owner", String(36), nullable=False, index=True),
    Column("name", String(NAME_CHARS), nullable=False),
    Column("purpose", String(64), nullable=False),
    Column("description", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("md5", LargeBinary(16), nullable=False),
    Column("object", String(200), nullable=False),
    Column("created_at", DateTime, nullable=False),
    Column("expires_at", DateTime, nullable=True, index=True),
    sqlite_autoincrement=True,  # the number of a deleted file is not given to another one
)


@dataclass(frozen=True, slots=True)
class File:
    """One file that is kept whole. `owner` is the id of an API key, `size` in bytes, `md5` 16 bytes; times are UTC
    without a zone. `object` is for the store alone."""

    number: int
    id: str
    owner: str
    name: str
    purpose: str
    description: str
    size: int
    md5: bytes
    object: str
    created_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Quota:
    """What one owner may keep: so many files, and so many bytes in them. `total` are the bytes of all owners."""

    files: int = 10_000
    bytes: int = 100 << 30
    total: int = 200 << 30


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which files of an owner to list: of a purpose, created at `since` or later and at `until` or earlier (UTC without
    a zone); None does not restrict. The newest come first unless `ascending`."""

    purpose: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    ascending: bool = False


class Files:
    """Files that clients keep on the server, free of any protocol. An owner sees only what is its own.

    Rows are in the database and bytes in the object store; see `Journal` for what a crash between them leaves.
    """

    def __init__(
        self,
        database: AsyncEngine,
        objects: Objects,
        quota: Quota | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._objects = objects
        self._journal = Journal(database, objects, clock=clock)
        self._quota = quota or Quota()
        self._clock = clock
        self._coming: Counter[str] = Counter()
        """Bytes of files to be, by owner."""
        self._received: dict[str, tuple[str, int]] = {}
        """Owner and bytes of those that have come, by the name of their object."""

    async def receive(
        self, pieces: AsyncIterable[bytes], limit: int | None = None, *, owner: str | None = None
    ) -> Stored:
        """Stores the bytes of a file to be; it can be added or discarded, and is swept if neither happens.

        Raises `ObjectTooLarge` beyond `limit` bytes, `FileQuotaExceeded` as soon as there is no room left for the
        `owner`, and whatever `pieces` raises. Without an owner, the bytes are the server's own, of work that was done.
        """
        if owner is None:
            return await self._journal.put("files", pieces, limit)
        own, held = await self._held(owner)
        async with aclosing(self._counted(owner, pieces, own, held)) as counted:
            stored = await self._journal.put("files", counted, limit)
        self._coming[owner] += stored.size
        self._received[stored.name] = owner, stored.size
        return stored

    async def add(
        self,
        stored: Stored,
        *,
        owner: str,
        name: str,
        purpose: str,
        id: str | None = None,  # noqa: A002
        description: str = "",
        expires_at: datetime | None = None,
    ) -> File:
        """Makes a file of what was received. Raises `FileQuotaExceeded`; then nothing is kept.

        An `id` that exists already keeps the file it has, which is returned: work that is repeated after a crash adds
        its file once.
        """
        try:
            return await self._add(stored, owner, name, purpose, id or str(uuid.uuid4()), description, expires_at)
        finally:
            self._settle(stored)

    async def _add(
        self,
        stored: Stored,
        owner: str,
        name: str,
        purpose: str,
        id: str,  # noqa: A002
        description: str,
        expires_at: datetime | None,
    ) -> File:
        values = {
            "id": id,
            "owner": owner,
            "name": _kept_name(name),
            "purpose": purpose,
            "description": description,
            "size": stored.size,
            "md5": stored.md5,
            "object": stored.name,
            "created_at": self._now(),
            "expires_at": expires_at,
        }
        try:
            return await self._insert(values)
        except IntegrityError:
            await self.discard(stored)
            return await self.get(id, owner)
        except FileQuotaExceeded:
            await self.discard(stored)
            raise

    async def discard(self, stored: Stored) -> None:
        """Forgets what was received."""
        self._settle(stored)
        await self._journal.discard(stored)

    async def get(self, id: str, owner: str) -> File:  # noqa: A002
        """Raises `FileMissing`, for another owner's file as for none."""
        query = self._of(owner).where(_files.c.id == id)
        async with self._database.connect() as connection:
            row = (await connection.execute(query)).one_or_none()
        if row is None:
            raise FileMissing
        return _file(row)

    async def page(self, owner: str, number: int, size: int) -> tuple[int, list[File]]:
        """How many files there are, and those of page `number` (from 1), the newest first."""
        query = self._of(owner)
        listed = query.order_by(_files.c.number.desc()).limit(size).offset((number - 1) * size)
        async with self._database.connect() as connection:
            total = await connection.scalar(select(func.count()).select_from(query.subquery()))
            return int(total or 0), [_file(row) for row in await connection.execute(listed)]

    async def after(
        self,
        owner: str,
        id: str | None,  # noqa: A002
        limit: int,
        wanted: Wanted | None = None,
    ) -> tuple[list[File], bool]:
        """Up to `limit` files that come after the one with this id, and whether there are more. Raises `FileMissing`
        for an id that is none."""
        wanted = wanted or Wanted()
        query = _restricted(self._of(owner), wanted)
        if id is not None:
            last = (await self.get(id, owner)).number
            query = query.where(_files.c.number > last if wanted.ascending else _files.c.number < last)
        order = _files.c.number.asc() if wanted.ascending else _files.c.number.desc()
        async with self._database.connect() as connection:
            rows = (await connection.execute(query.order_by(order).limit(limit + 1))).all()
        return [_file(row) for row in rows[:limit]], len(rows) > limit

    async def read(self, file: File, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` up to `end`, which is exclusive, in pieces."""
        async for piece in self._objects.read(file.object, start, end):
            yield piece

    async def delete(self, id: str, owner: str) -> None:  # noqa: A002
        """Raises `FileMissing`, for another owner's file as for none."""
        file = await self.get(id, owner)
        await self._delete(file)
        await self._journal.sweep()

    async def sweep(self) -> None:
        """Removes files past their time, and the bytes that nothing refers to."""
        query = select(_files).where(_files.c.expires_at <= self._now()).limit(SWEEP_BATCH)
        async with self._database.connect() as connection:
            expired = [_file(row) for row in await connection.execute(query)]
        for file in expired:
            await self._delete(file)
        await self._journal.sweep()

    async def _held(self, owner: str) -> tuple[int, int]:
        """Bytes that are kept, of the owner and of all."""
        mine = func.sum(case((_files.c.owner == owner, _files.c.size), else_=0))
        async with self._database.connect() as connection:
            held, own = (await connection.execute(select(func.sum(_files.c.size), mine))).one()
        return int(own or 0), int(held or 0)

    async def _counted(
        self, owner: str, pieces: AsyncIterable[bytes], own: int, held: int
    ) -> AsyncGenerator[bytes, None]:
        """The pieces, as long as all that comes at the same time fits beside what is kept."""
        size = 0
        try:
            async for piece in pieces:
                size += len(piece)
                self._coming[owner] += len(piece)
                if own + self._coming[owner] > self._quota.bytes or held + self._coming.total() > self._quota.total:
                    raise FileQuotaExceeded(
                        f"Upload file capacity exceed limit. At most {self._quota.bytes} bytes are kept, there are "
                        f"{own}, and what is being sent."
                    )
                yield piece
        finally:
            self._free(owner, size)

    def _settle(self, stored: Stored) -> None:
        self._free(*self._received.pop(stored.name, ("", 0)))

    def _free(self, owner: str, size: int) -> None:
        self._coming[owner] -= size
        if not self._coming[owner]:
            del self._coming[owner]

    async def _insert(self, values: dict[str, Any]) -> File:
        async with self._database.begin() as connection:
            added = await connection.execute(insert(_files).values(**values).returning(_files))
            row = added.one()
            held = await connection.execute(
                select(func.count(), func.sum(_files.c.size)).where(_files.c.owner == values["owner"])
            )
            count, size = held.one()
            if count > self._quota.files:
                raise FileQuotaExceeded(f"Upload file number exceed limit. At most {self._quota.files} files are kept.")
            if size > self._quota.bytes:
                raise FileQuotaExceeded(
                    f"Upload file capacity exceed limit. At most {self._quota.bytes} bytes are kept, with this file "
                    f"there would be {size}."
                )
            await connection.execute(self._journal.adopted(values["object"]))
            return _file(row)

    async def _delete(self, file: File) -> None:
        async with self._database.begin() as connection:
            gone = await connection.execute(delete(_files).where(_files.c.number == file.number))
            if gone.rowcount:
                await connection.execute(self._journal.dropped(file.object))

    def _of(self, owner: str) -> Select[Any]:
        alive = (_files.c.expires_at.is_(None)) | (_files.c.expires_at > self._now())
        return select(_files).where(_files.c.owner == owner, alive)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC).replace(tzinfo=None)


def _restricted(query: Select[Any], wanted: Wanted) -> Select[Any]:
    if wanted.purpose is not None:
        query = query.where(_files.c.purpose == wanted.purpose)
    if wanted.since is not None:
        query = query.where(_files.c.created_at >= wanted.since)
    if wanted.until is not None:
        query = query.where(_files.c.created_at <= wanted.until)
    return query


def _kept_name(name: str) -> str:
    """The base name alone, as it may be shown again: no folders, no control characters, not too long."""
    base = name.replace("\\", "/").rpartition("/")[2]
    return "".join(letter for letter in base if letter.isprintable())[-NAME_CHARS:] or "file"


def _file(row: Row[Any]) -> File:
    return File(**row._mapping)
