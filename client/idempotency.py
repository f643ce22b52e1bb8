from __future__ import annotations

import hashlib
import time
import uuid
from typing import Any

import sqlalchemy as sql
from sqlalchemy.ext.asyncio import AsyncConnection


class Keys:
    """The `Idempotency-Key`s of a database's questions, as those of a ledger: the same after a crash.

    So are the addresses of uploads: under one key there is one request, and it names the upload.

    An answer that did not fit makes it another one, since a server that remembers the question would repeat the answer.
    Other databases have other ones: who begins anew wants new answers.

    Args:
        metadata: gets the tables.
        prefix: of their names.
    """

    def __init__(self, metadata: sql.MetaData, prefix: str) -> None:
        self._identity = sql.Table(
            f"{prefix}identity",
            metadata,
            sql.Column("number", sql.Integer, primary_key=True, autoincrement=False),
            sql.Column("id", sql.String(32), nullable=False),
        )
        self._unfit = sql.Table(
            f"{prefix}unfit",
            metadata,
            sql.Column("key", sql.String(64), primary_key=True),
            sql.Column("answers", sql.Integer, nullable=False),
        )
        self._uploads = sql.Table(
            f"{prefix}uploads",
            metadata,
            sql.Column("name", sql.String(64), primary_key=True),
            sql.Column("address", sql.Text, nullable=False),
            sql.Column("until", sql.Float, nullable=False),
        )

    async def begin(self, db: AsyncConnection) -> None:
        """Gives a new database its identity; whoever comes second finds that of the first."""
        if await db.scalar(sql.select(self._identity.c.id)) is None:
            values = {"number": 1, "id": uuid.uuid4().hex}
            await db.execute(_insert(db, self._identity).values(values).on_conflict_do_nothing())

    async def of(self, db: AsyncConnection, key: str) -> str:
        """Under which the question of a key is sent now."""
        unfit = sql.select(self._unfit.c.answers).where(self._unfit.c.key == key).scalar_subquery()
        identity, answers = (await db.execute(sql.select(self._identity.c.id, unfit))).one()
        return hashlib.sha256(f"{identity}:{key}:{answers or 0}".encode()).hexdigest()

    async def count_unfit(self, db: AsyncConnection, key: str) -> None:
        """An answer came and did not fit."""
        first = _insert(db, self._unfit).values(key=key, answers=1)
        further = {"answers": self._unfit.c.answers + 1}
        await db.execute(first.on_conflict_do_update(index_elements=["key"], set_=further))

    async def address(self, db: AsyncConnection, name: str) -> str | None:
        """Of an upload, as `client.uploads.Kept`."""
        c = self._uploads.c
        found: str | None = await db.scalar(sql.select(c.address).where(c.name == name, c.until > time.time()))
        return found

    async def keep_address(self, db: AsyncConnection, name: str, address: str, seconds: float) -> None:
        """In place of an earlier one; those that have expired go."""
        await db.execute(sql.delete(self._uploads).where(self._uploads.c.until <= time.time()))
        values = {"address": address, "until": time.time() + seconds}
        insert = _insert(db, self._uploads).values(name=name, **values)
        await db.execute(insert.on_conflict_do_update(index_elements=["name"], set_=values))

    async def forget_address(self, db: AsyncConnection, name: str) -> None:
        await db.execute(sql.delete(self._uploads).where(self._uploads.c.name == name))


def _insert(db: AsyncConnection, table: sql.Table) -> Any:
    from sqlalchemy.dialects import postgresql, sqlite

    return (postgresql if db.dialect.name == "postgresql" else sqlite).insert(table)
