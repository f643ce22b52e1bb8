"""What webhooks are signed with: a secret for each API key, and one of the server's own."""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, LargeBinary, String, Table, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from serving.storage.database import metadata

SERVER = "*"
"""Whose secret signs what the operator's own URL is told."""
PREFIX = "whsec_"
BYTES = 32

_secrets = Table(
    "webhook_secrets",
    metadata,
    Column("owner", String(36), primary_key=True),
    Column("value", LargeBinary(BYTES), nullable=False),
    Column("former", LargeBinary(BYTES), nullable=True),
    Column("former_until", BigInteger, nullable=True),
)


@dataclass(frozen=True, slots=True)
class Secrets:
    """The secret of an owner, and the one before it for as long as that signs, too."""

    value: bytes
    former: bytes | None = None

    @property
    def all(self) -> tuple[bytes, ...]:
        return (self.value,) if self.former is None else (self.value, self.former)


def shown(secret: bytes) -> str:
    """As libraries for Standard Webhooks take it."""
    return PREFIX + base64.b64encode(secret).decode()


class SecretStore:
    """The secrets in the database; each is made when it is first asked for."""

    def __init__(self, database: AsyncEngine, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self.clock = clock

    async def of(self, owner: str) -> Secrets:
        """`owner` is the id of an API key, or `SERVER`."""
        return await self._read(owner) or await self._make(owner)

    async def rotate(self, owner: str, grace: float) -> Secrets:
        """A new secret; the one that it replaces signs beside it for `grace` seconds more."""
        before = await self.of(owner)
        until = int(self.clock() + grace)
        values = {"value": secrets.token_bytes(BYTES), "former": before.value, "former_until": until}
        async with self._database.begin() as connection:
            await connection.execute(update(_secrets).where(_secrets.c.owner == owner).values(values))
        return await self.of(owner)

    async def _read(self, owner: str) -> Secrets | None:
        async with self._database.connect() as connection:
            row = (await connection.execute(select(_secrets).where(_secrets.c.owner == owner))).one_or_none()
        if row is None:
            return None
        valid = row.former is not None and row.former_until > self.clock()
        return Secrets(bytes(row.value), bytes(row.former) if valid else None)

    async def _make(self, owner: str) -> Secrets:
        made = secrets.token_bytes(BYTES)
        try:
            async with self._database.begin() as connection:
                await connection.execute(insert(_secrets).values(owner=owner, value=made))
        except IntegrityError:  # another process was first
            return await self._read(owner) or Secrets(made)
        return Secrets(made)
