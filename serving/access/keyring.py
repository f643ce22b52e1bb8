from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy.exc import SQLAlchemyError

from serving.access.grant import EVERYTHING, ORDINARY
from serving.access.keys import PREFIX_CHARS, ApiKey, KeyStore, Secret, hashed
from serving.errors import StorageUnavailable, Unauthorized
from serving.generation import Caller

log = logging.getLogger(__name__)

FRESH_FOR = 2.0
"""Seconds. A key made or revoked by the command line counts this much later; a query per request would cost more CPU
than relaying the request does."""
TRUSTED_FOR = 300.0
"""Seconds that keys once read are believed while the database cannot be asked. It is down more often than a key is
revoked; after that the answer is 503."""
READ_WITHIN = 5.0
ANYBODY = Caller("anybody", "anybody", EVERYTHING)


@dataclass(frozen=True, slots=True)
class _Known:
    """A secret that is accepted until `until`, seconds since the epoch, and whose it is."""

    hash: bytes
    until: float
    caller: Caller


class Keyring:
    """Knows callers by their `Authorization` header."""

    def __init__(
        self,
        store: KeyStore,
        *,
        fresh_for: float = FRESH_FOR,
        trusted_for: float = TRUSTED_FOR,
        monotonic: Callable[[], float] = time.monotonic,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` tells seconds since the epoch, for what expires."""
        self._store = store
        self._fresh_for = fresh_for
        self._trusted_for = trusted_for
        self._monotonic = monotonic
        self._clock = clock
        self._asked_at = self._read_at = float("-inf")
        self._by_prefix: dict[str, list[_Known]] = {}
        self._by_id: dict[str, Caller] = {}
        self._reading = asyncio.Lock()

    async def caller(self, authorization: str) -> Caller:
        """Raises `Unauthorized`, for a missing key as for a wrong, an expired or a revoked one; `StorageUnavailable`
        when the keys cannot be read."""
        scheme, _, secret = authorization.partition(" ")
        secret = secret.strip()
        if scheme.lower() != "bearer" or not secret:
            raise Unauthorized
        await self._freshen()
        given = hashed(secret)
        for known in self._by_prefix.get(secret[:PREFIX_CHARS], ()):
            if hmac.compare_digest(known.hash, given) and self._clock() < known.until:
                return known.caller
        raise Unauthorized

    async def now(self, caller: Caller) -> Caller:
        """The caller with what its key is granted today: for work that was handed in under the key earlier. One whose
        key has been revoked since keeps its grant, because what was accepted is finished, within the same bounds."""
        await self._freshen()
        return self._by_id.get(caller.key_id) or Caller(caller.key_id, caller.name, ORDINARY)

    def _is_stale(self) -> bool:
        return self._monotonic() - self._asked_at > self._fresh_for

    async def _freshen(self) -> None:
        if self._is_stale():
            async with self._reading:
                if self._is_stale():
                    await self._read()
        if self._monotonic() - self._read_at > self._trusted_for:
            raise StorageUnavailable

    async def _read(self) -> None:
        try:
            async with asyncio.timeout(READ_WITHIN):
                keys = await self._store.all()
        except (SQLAlchemyError, OSError) as error:  # a TimeoutError is an OSError, too
            age = self._monotonic() - self._read_at
            log.error("the API keys cannot be read: %s; those known are %.0f s old", type(error).__name__, age)
        else:
            self._learn(keys)
            self._read_at = self._monotonic()
        self._asked_at = self._monotonic()

    def _learn(self, keys: list[ApiKey]) -> None:
        by_prefix: dict[str, list[_Known]] = defaultdict(list)
        self._by_id = {}
        for key in keys:
            caller = self._by_id[key.id] = Caller(key.id, key.name, key.grant)
            if key.revoked_at is not None:
                continue
            for secret in filter(None, (key.secret, key.former)):
                by_prefix[secret.prefix].append(_Known(secret.hash, _end(key, secret), caller))
        self._by_prefix = dict(by_prefix)


class OpenDoor(Keyring):
    """A keyring without keys, to which everybody is the same caller who may do anything."""

    def __init__(self) -> None:
        pass

    async def caller(self, authorization: str) -> Caller:
        return ANYBODY

    async def now(self, caller: Caller) -> Caller:
        return caller


def _end(key: ApiKey, secret: Secret) -> float:
    """Seconds since the epoch."""
    ends = [_epoch(at) for at in (key.expires_at, secret.until) if at is not None]
    return min(ends, default=float("inf"))


def _epoch(at: datetime) -> float:
    return at.replace(tzinfo=UTC).timestamp()
