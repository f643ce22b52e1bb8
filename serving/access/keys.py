from __future__ import annotations

import hashlib
import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import JSON, Column, DateTime, LargeBinary, Row, String, Table, insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from serving.access.grant import ORDINARY, Grant
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
    Column("expires_at", DateTime, nullable=True),
    Column("granted", JSON, nullable=True),
    Column("former_prefix", String(PREFIX_CHARS), nullable=True),
    Column("former_hash", LargeBinary(32), nullable=True),
    Column("former_until", DateTime, nullable=True),
)


class AmbiguousKey(Exception):
    """Raised for a prefix that several active keys have; `ids` are theirs."""

    def __init__(self, ids: tuple[str, ...]) -> None:
        self.ids = ids
        super().__init__(f"{len(ids)} keys")


@dataclass(frozen=True, slots=True)
class Secret:
    """What is kept to know a secret again. Until `until`, or for as long as the key lives."""

    prefix: str
    hash: bytes
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is kept of a key: never the key. Times are UTC without a zone.

    The id stays when the secret is rotated, and with it the key's files and tasks. `former` is the secret before the
    last rotation, which is accepted until its own time.
    """

    id: str
    name: str
    secret: Secret
    grant: Grant
    created_at: datetime
    revoked_at: datetime | None = None
    expires_at: datetime | None = None
    former: Secret | None = None

    @property
    def prefix(self) -> str:
        return self.secret.prefix

    def active(self, now: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, slots=True)
class Issued:
    """A key with its secret: the only time that this can be seen."""

    key: ApiKey
    secret: str


def hashed(secret: str) -> bytes:
    """SHA-256: a key has 256 random bits, so there is nothing for a slow hash to protect from guessing."""
    return hashlib.sha256(secret.encode()).digest()


def utc_now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


class KeyStore:
    """The API keys in the database."""

    def __init__(self, database: AsyncEngine, *, clock: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._clock = clock

    async def create(self, name: str, grant: Grant = ORDINARY, *, expires_at: datetime | None = None) -> str:
        """The new key. This is the only time that it can be seen."""
        secret = _new_secret()
        row: dict[str, Any] = {
            "id": str(uuid.uuid4()),
            "name": name,
            "prefix": secret[:PREFIX_CHARS],
            "hash": hashed(secret),
        }
        row |= {"created_at": self._clock(), "expires_at": expires_at, "granted": msgspec.to_builtins(grant)}
        async with self._database.begin() as connection:
            await connection.execute(insert(_keys).values(**row))
        return secret

    async def all(self) -> list[ApiKey]:
        """The oldest first."""
        async with self._database.connect() as connection:
            rows = await connection.execute(select(_keys).order_by(_keys.c.created_at))
            return [_key(row) for row in rows]

    async def revoke(self, id_or_prefix: str) -> list[ApiKey]:
        """Revokes the key with this id, or the one with this prefix, and returns it; empty if there is none.

        Raises `AmbiguousKey`.
        """
        return await self._change(id_or_prefix, lambda _: {"revoked_at": self._clock()})

    async def rotate(self, id_or_prefix: str, grace: timedelta = timedelta(0)) -> Issued | None:
        """Gives the key a new secret; the old one is accepted for `grace` more. None if there is no such key.

        Raises `AmbiguousKey`.
        """
        secret, until = _new_secret(), self._clock() + grace

        def rotated(key: ApiKey) -> dict[str, Any]:
            former = {"former_prefix": key.prefix, "former_hash": key.secret.hash, "former_until": until}
            return {"prefix": secret[:PREFIX_CHARS], "hash": hashed(secret)} | former

        changed = await self._change(id_or_prefix, rotated)
        return Issued(changed[0], secret) if changed else None

    async def _change(self, id_or_prefix: str, values: Callable[[ApiKey], dict[str, Any]]) -> list[ApiKey]:
        now = self._clock()
        chosen = [key for key in await self.all() if id_or_prefix in (key.id, key.prefix) and key.active(now)]
        if len(chosen) > 1:
            raise AmbiguousKey(tuple(key.id for key in chosen))
        async with self._database.begin() as connection:
            for key in chosen:
                await connection.execute(update(_keys).where(_keys.c.id == key.id).values(**values(key)))
        return chosen


def _new_secret() -> str:
    return "sk-" + secrets.token_urlsafe(32)


def _key(row: Row[Any]) -> ApiKey:
    former = None
    if row.former_hash is not None:
        former = Secret(row.former_prefix, row.former_hash, row.former_until)
    return ApiKey(
        id=row.id,
        name=row.name,
        secret=Secret(row.prefix, row.hash),
        grant=ORDINARY if row.granted is None else msgspec.convert(row.granted, Grant),
        created_at=row.created_at,
        revoked_at=row.revoked_at,
        expires_at=row.expires_at,
        former=former,
    )
