from __future__ import annotations

import hashlib
import secrets
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Column, DateTime, LargeBinary, String, Table, insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from serving.storage.database import metadata

PREFIX_CHARS = 11
"""Characters of a key that are kept to recognise it: `sk-` and eight of 43 random ones."""

_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("prefix", String(PREFIX_CHARS), nullable=False, index=True),
    Column("hash", LargeBinary(32), nullable=False),
    Column("created_at", DateTime, nullable=False),
    Column("revoked_at", DateTime, nullable=True),
)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is kept of a key: never the key. Times are UTC without a zone."""

    id: str
    name: str
    prefix: str
    hash: bytes
    created_at: datetime
    revoked_at: datetime | None


def hashed(secret: str) -> bytes:
    """SHA-256: a key has 256 random bits, so there is nothing for a slow hash to protect from guessing."""
    return hashlib.sha256(secret.encode()).digest()


class KeyStore:
    """The API keys in the database."""

    def __init__(self, database: AsyncEngine) -> None:
        self._database = database

    async def create(self, name: str) -> str:
        """The new key. This is the only time that it can be seen."""
        secret = "sk-" + secrets.token_urlsafe(32)
        row = {"id": str(uuid.uuid4()), "name": name, "prefix": secret[:PREFIX_CHARS], "hash": hashed(secret)}
        async with self._database.begin() as connection:
            await connection.execute(insert(_keys).values(**row, created_at=_now()))
        return secret

    async def all(self) -> list[ApiKey]:
        async with self._database.connect() as connection:
            rows = await connection.execute(select(_keys).order_by(_keys.c.created_at))
            return [ApiKey(**row._mapping) for row in rows]

    async def revoke(self, id_or_prefix: str) -> list[ApiKey]:
        """Revokes the key with this id, or the one with this prefix, and returns it; empty if there is none."""
        chosen = [key for key in await self.all() if id_or_prefix in (key.id, key.prefix) and not key.revoked_at]
        async with self._database.begin() as connection:
            for key in chosen:
                await connection.execute(update(_keys).where(_keys.c.id == key.id).values(revoked_at=_now()))
        return chosen


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)
