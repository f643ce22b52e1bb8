from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import aclosing
from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Integer, String, Table, case, delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from serving.errors import FileQuotaExceeded, InvalidRequest
from serving.generation import Caller
from serving.storage.database import metadata
from serving.storage.journal import Journal
from serving.storage.objects import Objects

SCHEME = "oss://"
FAILED = "Failed to download multimodal content."
LIFETIME_S = 48 * 3600
SWEEP_BATCH = 500
QUOTA = 100 << 30
"""Bytes that one key may have lying here: as of files that are kept, so that no key takes the disk from the others."""

_uploads = Table(
    "uploads",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("key", String(1023), nullable=False, index=True),
    Column("owner", String(36), nullable=False),
    Column("model", String(200), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("object", String(200), nullable=False),
    Column("expires_at", BigInteger, nullable=False, index=True),
    sqlite_autoincrement=True,
)


@dataclass(frozen=True, slots=True)
class _Upload:
    size: int
    object: str


class Uploads:
    """Files that clients leave for a while, to refer to them as `oss://<key>`.

    A key may be uploaded to again: each upload is kept. The SDK needs that for two files of the same name in one
    call, to which it gives the same key.
    """

    def __init__(
        self,
        database: AsyncEngine,
        objects: Objects,
        *,
        lifetime: float = LIFETIME_S,
        clock: Callable[[], float] = time.time,
        quota: int = QUOTA,
        total: int = 2 * QUOTA,
    ) -> None:
        """`lifetime` in seconds; `clock` tells the seconds since the epoch; `quota` in bytes, of one owner, and `total`
        of all."""
        self._database = database
        self._objects = objects
        self._journal = Journal(database, objects, clock=clock)
        self._lifetime = lifetime
        self._quota = quota
        self._total = total
        self._coming: Counter[str] = Counter()
        """Bytes of uploads that have not ended, by owner."""
        self._clock = clock

    async def keep(self, key: str, owner: str, model: str, pieces: AsyncIterable[bytes], limit: int) -> None:
        """Stores an upload of the API key `owner`. Raises `ObjectTooLarge` beyond `limit` bytes, `FileQuotaExceeded`
        where there is no room left for the owner, and whatever `pieces` raises; then nothing is kept."""
        room = await self._room(owner)
        async with aclosing(self._counted(owner, pieces, room)) as counted:
            stored = await self._journal.put("uploads", counted, limit)
        values = {"key": key, "owner": owner, "model": model, "size": stored.size, "object": stored.name}
        expires_at = int(self._clock() + self._lifetime)
        async with self._database.begin() as connection:
            await connection.execute(insert(_uploads).values(**values, expires_at=expires_at))
            await connection.execute(self._journal.adopted(stored.name))

    async def read(self, reference: str, caller: Caller, limit: int, *, occurrence: tuple[int, int] = (0, 1)) -> bytes:
        """The bytes that an `oss://` URL refers to.

        `occurrence` is (i, n) for reference number i, from 0, of n in one request that are all this URL: it gets the
        i-th of the last n uploads under the key, or the last one where there are fewer.

        Raises `InvalidRequest` for what is expired, unknown or somebody else's, and for more than `limit` bytes.
        """
        return await self._objects.bytes((await self._usable(reference, caller, limit, occurrence)).object)

    async def pieces(
        self, reference: str, caller: Caller, limit: int, *, occurrence: tuple[int, int] = (0, 1)
    ) -> AsyncGenerator[bytes, None]:
        """As `read`, for what is too large to be held whole."""
        upload = await self._usable(reference, caller, limit, occurrence)
        async for piece in self._objects.read(upload.object):
            yield piece

    async def _usable(self, reference: str, caller: Caller, limit: int, occurrence: tuple[int, int]) -> _Upload:
        key = reference.removeprefix(SCHEME)
        # PostgreSQL takes no text with a null character, and no upload has one in its key.
        upload = None if "\0" in key else await self._find(key, caller.key_id, *occurrence)
        if upload is None:
            raise InvalidRequest(f"{FAILED} {reference[:200]!r} is no upload of this API key, or it has expired.")
        if upload.size > limit:
            raise InvalidRequest(f"Multimodal file size is too large. The limit is {limit} bytes, got {upload.size}.")
        return upload

    async def sweep(self) -> int:
        """Removes what is past its time; returns how many uploads that were."""
        query = select(_uploads.c.number, _uploads.c.object).where(_uploads.c.expires_at <= int(self._clock()))
        async with self._database.begin() as connection:
            expired = (await connection.execute(query.limit(SWEEP_BATCH))).all()
            for number, name in expired:
                await connection.execute(delete(_uploads).where(_uploads.c.number == number))
                await connection.execute(self._journal.dropped(name))
        await self._journal.sweep()
        return len(expired)

    async def _room(self, owner: str) -> int:
        """Bytes that the owner has left. Raises `FileQuotaExceeded` where there are none."""
        alive = _uploads.c.expires_at > int(self._clock())
        mine = func.sum(case((_uploads.c.owner == owner, _uploads.c.size), else_=0))
        async with self._database.connect() as connection:
            held, own = (await connection.execute(select(func.sum(_uploads.c.size), mine).where(alive))).one()
        room = min(self._quota - (own or 0), self._total - (held or 0))
        if room <= self._coming[owner]:
            raise _full(self._quota, own or 0)
        return int(room)

    async def _counted(self, owner: str, pieces: AsyncIterable[bytes], room: int) -> AsyncGenerator[bytes, None]:
        """The pieces, as long as all that comes for the owner at the same time fits into its room."""
        size = 0
        try:
            async for piece in pieces:
                size += len(piece)
                self._coming[owner] += len(piece)
                if self._coming[owner] > room:
                    raise _full(self._quota, self._quota - room)
                yield piece
        finally:
            self._coming[owner] -= size

    async def _find(self, key: str, owner: str, index: int, count: int) -> _Upload | None:
        query = (
            select(_uploads.c.size, _uploads.c.object)
            .where(_uploads.c.key == key, _uploads.c.owner == owner, _uploads.c.expires_at > int(self._clock()))
            .order_by(_uploads.c.number.desc())
            .limit(count)
        )
        async with self._database.connect() as connection:
            newest_first = (await connection.execute(query)).all()
        if not newest_first:
            return None
        chosen = newest_first[::-1][min(index, len(newest_first) - 1)]
        return _Upload(chosen.size, chosen.object)


def _full(quota: int, held: int) -> FileQuotaExceeded:
    return FileQuotaExceeded(f"Upload file capacity exceed limit. At most {quota} bytes are kept, there are {held}.")
