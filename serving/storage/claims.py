"""What clients have handed in under an Idempotency-Key, and what they were answered."""

from __future__ import annotations

import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    ColumnElement,
    Integer,
    LargeBinary,
    Row,
    String,
    Table,
    and_,
    delete,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError, InterfaceError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from serving.errors import StorageUnavailable
from serving.storage.database import metadata

log = logging.getLogger(__name__)

LEASE_S = 30.0
"""How long a claim outlives the process that holds it, and has to renew it more often."""
BATCH = 500
LARGE = 65_536
LARGE_ONES = 1 << 30
"""Bytes of answers beyond `LARGE` that are kept of one owner. A stream that repeats its text in each event has
megabytes: where it comes of the cache of answers, a key could fill the database's disk with it in minutes."""
HOUR_S = 3600

_claims = Table(
    "idempotency_keys",
    metadata,
    Column("owner", String(36), primary_key=True),
    Column("name", String(255), primary_key=True),
    Column("id", String(36), nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
    Column("lease", String(36), nullable=False),
    Column("lease_until", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False, index=True),
    Column("status", Integer, nullable=True),
    Column("content_type", String(200), nullable=True),
    Column("headers", JSON, nullable=True),
    Column("body", LargeBinary, nullable=True),
)


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to do what was asked under a name. `id` stays when another process takes the claim over: what is made
    under it can be recognised."""

    owner: str
    name: str
    id: str
    lease: str


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer; `body` is None for one that was too large to be kept."""

    status: int
    content_type: str
    headers: Mapping[str, str]
    body: bytes | None


class InFlight(Exception):
    """Raised for a name under which something is being done."""


class Reused(Exception):
    """Raised for a name under which something else was asked."""


Clock: TypeAlias = Callable[[], float]


class Claims:
    """Who does what was asked under a name, in the database that all processes share.

    Each method raises `StorageUnavailable` if the database is away.
    """

    def __init__(
        self, database: AsyncEngine, *, lifetime: float, clock: Clock = time.time, large_ones: int = LARGE_ONES
    ) -> None:
        """`lifetime` in seconds, of a name since it was first used; `large_ones` in bytes, of the large answers that
        this process keeps of one owner for so long."""
        self._database = database
        self._large_ones = large_ones
        self._kept: Counter[tuple[str, int]] = Counter()
        """Bytes of large answers, by owner and the hour in which they were kept."""
        self._lifetime = lifetime
        self._clock = clock

    async def claim(self, owner: str, name: str, digest: bytes) -> Claim | Kept:
        """The claim, or what was answered to the same request before. Raises `InFlight` and `Reused`."""
        claim = Claim(owner, name, str(uuid.uuid4()), str(uuid.uuid4()))
        with _translated():
            await self._forget(owner, name)
            if await self._insert(claim, digest):
                return claim
            row = await self._row(owner, name)
        if row is None:  # released in this moment
            raise InFlight
        if row.digest != digest:
            raise Reused
        if row.status is not None:
            return Kept(row.status, row.content_type, row.headers, row.body)
        return await self._take_over(Claim(owner, name, row.id, claim.lease), row)

    async def renew(self, claim: Claim) -> None:
        await self._update(claim, lease_until=self._now() + LEASE_S * 1e3)

    async def keep(self, claim: Claim, answer: Kept) -> None:
        """Ends the claim: from now on this is the answer, without its body where there is no room for that."""
        await self._update(
            claim,
            status=answer.status,
            content_type=answer.content_type,
            headers=dict(answer.headers),
            body=answer.body if self._has_room(claim.owner, len(answer.body or b"")) else None,
        )

    async def drop(self, claim: Claim) -> None:
        """Ends the claim as if it had never been: nothing was done under it."""
        with _translated():
            async with self._database.begin() as connection:
                await connection.execute(delete(_claims).where(_held(claim)))

    async def release(self, claim: Claim) -> None:
        """Ends the claim; the same request may be made again, under the same id, and no other."""
        await self._update(claim, lease_until=0)

    async def sweep(self) -> int:
        """Removes names whose time is over; returns how many."""
        with _translated():
            async with self._database.begin() as connection:
                old = delete(_claims).where(_claims.c.expires_at <= self._now())
                return (await connection.execute(old)).rowcount

    def _has_room(self, owner: str, size: int) -> bool:
        """Counts the answer where it has."""
        if size <= LARGE:
            return True
        hour = int(self._clock() // HOUR_S)
        oldest = hour - int(self._lifetime // HOUR_S)
        for past in [each for each in self._kept if each[1] < oldest]:
            del self._kept[past]
        if size + sum(kept for (who, _), kept in self._kept.items() if who == owner) > self._large_ones:
            return False
        self._kept[owner, hour] += size
        return True

    def _now(self) -> int:
        return int(self._clock() * 1e3)

    async def _forget(self, owner: str, name: str) -> None:
        old = (_claims.c.owner == owner, _claims.c.name == name, _claims.c.expires_at <= self._now())
        async with self._database.connect() as connection:
            found = (await connection.execute(select(_claims.c.id).where(*old))).scalar()
        if found is not None:
            async with self._database.begin() as connection:
                await connection.execute(delete(_claims).where(*old))

    async def _insert(self, claim: Claim, digest: bytes) -> bool:
        now = self._now()
        row = {
            "owner": claim.owner,
            "name": claim.name,
            "id": claim.id,
            "digest": digest,
            "lease": claim.lease,
            "lease_until": now + LEASE_S * 1e3,
            "expires_at": now + self._lifetime * 1e3,
        }
        try:
            async with self._database.begin() as connection:
                await connection.execute(insert(_claims).values(**row))
        except IntegrityError:
            return False
        return True

    async def _row(self, owner: str, name: str) -> Row[tuple[object, ...]] | None:
        query = select(_claims).where(_claims.c.owner == owner, _claims.c.name == name)
        async with self._database.connect() as connection:
            return (await connection.execute(query)).one_or_none()

    async def _take_over(self, claim: Claim, row: Row[tuple[object, ...]]) -> Claim:
        """Of two that try one succeeds."""
        mine = (_claims.c.owner == claim.owner, _claims.c.name == claim.name, _claims.c.lease == row.lease)
        now = self._now()
        # Of a lease that lasts longer than one can, the clock has been set back since; who lives renews its own.
        over = or_(_claims.c.lease_until <= now, _claims.c.lease_until > now + 3 * LEASE_S * 1e3)
        lapsed = (over, _claims.c.status.is_(None))
        taken = update(_claims).where(*mine, *lapsed).values(lease=claim.lease, lease_until=self._now() + LEASE_S * 1e3)
        with _translated():
            async with self._database.begin() as connection:
                if (await connection.execute(taken)).rowcount:
                    return claim
        raise InFlight

    async def _update(self, claim: Claim, **values: object) -> None:
        with _translated():
            async with self._database.begin() as connection:
                await connection.execute(update(_claims).where(_held(claim)).values(**values))


def _held(claim: Claim) -> ColumnElement[bool]:
    return and_(_claims.c.owner == claim.owner, _claims.c.name == claim.name, _claims.c.lease == claim.lease)


@contextmanager
def _translated() -> Generator[None, None, None]:
    try:
        yield
    except (OperationalError, InterfaceError, OSError) as error:  # a TimeoutError is an OSError, too
        log.warning("idempotency keys cannot be looked up: %s", type(error).__name__)
        raise StorageUnavailable from error
