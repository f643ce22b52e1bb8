from __future__ import annotations

import hashlib
import hmac
import secrets

import orjson
from sqlalchemy import Column, LargeBinary, String, Table, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from serving.storage.database import metadata

_secrets = Table(
    "secrets",
    metadata,
    Column("name", String(50), primary_key=True),
    Column("value", LargeBinary(32), nullable=False),
)


class Signer:
    """Signs what is handed to clients and comes back. The secret is made on first use and kept in the database, so that
    what was signed before a restart, or by another server on the same database, is still valid."""

    def __init__(self, database: AsyncEngine) -> None:
        self._database = database
        self._secret: bytes | None = None

    async def sign(self, purpose: str, *fields: str) -> bytes:
        """An HMAC-SHA256 of the fields, 32 bytes. A signature for one purpose is none for another."""
        if self._secret is None:
            self._secret = await self._read() or await self._make()
        return hmac.digest(self._secret, orjson.dumps([purpose, *fields]), hashlib.sha256)

    async def valid(self, signature: bytes, purpose: str, *fields: str) -> bool:
        return hmac.compare_digest(signature, await self.sign(purpose, *fields))

    async def _read(self) -> bytes | None:
        async with self._database.connect() as connection:
            value = await connection.scalar(select(_secrets.c.value).where(_secrets.c.name == "signing"))
            return bytes(value) if value is not None else None

    async def _make(self) -> bytes:
        made = secrets.token_bytes(32)
        try:
            async with self._database.begin() as connection:
                await connection.execute(insert(_secrets).values(name="signing", value=made))
        except IntegrityError:  # another task or server was first
            made = await self._read() or made
        return made
