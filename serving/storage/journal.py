from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterable, Callable

from sqlalchemy import BigInteger, Column, Delete, Insert, String, Table, delete, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from serving.storage.database import metadata
from serving.storage.objects import Objects, Stored

ADOPTED_WITHIN_S = 6 * 3600
"""How long an object may be written, and then lie, before a row refers to it. SDKs send for an hour at most."""
BATCH = 500

_loose = Table(
    "loose_objects",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("due", BigInteger, nullable=False, index=True),
)


class Journal:
    """The objects that no row refers to: not yet, or no more.

    A name is entered before the first byte of its object is written, and taken out in the transaction that makes the
    row which refers to it. So a row never lacks its bytes, and bytes that a crash has left behind are found again.
    """

    def __init__(self, database: AsyncEngine, objects: Objects, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._objects = objects
        self._clock = clock

    async def put(self, kind: str, pieces: AsyncIterable[bytes], limit: int | None) -> Stored:
        """Stores the pieces under a new name of this kind. Raises as `Objects.put` does; nothing is left then."""
        name = f"{kind}/{uuid.uuid4().hex}"
        async with self._database.begin() as connection:
            await connection.execute(self.dropped(name, ADOPTED_WITHIN_S))
        return await self._objects.put(name, pieces, limit=limit)

    def adopted(self, name: str) -> Delete:
        """To be executed with the insertion of the row that refers to the object."""
        return delete(_loose).where(_loose.c.name == name)

    def dropped(self, name: str, after: float = 0) -> Insert:
        """To be executed with the deletion of the row that refers to the object."""
        return insert(_loose).values(name=name, due=int(self._clock() + after))

    async def discard(self, stored: Stored) -> None:
        """Removes an object that no row was made for."""
        await self._remove(stored.name)

    async def sweep(self) -> int:
        """Removes what is due; returns how many objects that were."""
        names = await self._due()
        for name in names:
            await self._remove(name)
        return len(names)

    async def _due(self) -> list[str]:
        query = select(_loose.c.name).where(_loose.c.due <= int(self._clock())).order_by(_loose.c.due).limit(BATCH)
        async with self._database.connect() as connection:
            return list(await connection.scalars(query))

    async def _remove(self, name: str) -> None:
        await self._objects.delete(name)
        async with self._database.begin() as connection:
            await connection.execute(self.adopted(name))
