from __future__ import annotations

import asyncio
import hmac
import time
from collections import defaultdict

from serving.access.keys import PREFIX_CHARS, ApiKey, KeyStore, hashed
from serving.errors import Unauthorized
from serving.generation import Caller

FRESH_FOR = 2.0
"""Seconds. A key made or revoked by the command line counts this much later; a query per request would cost more CPU
than relaying the request does."""


class Keyring:
    """Knows callers by their `Authorization` header."""

    def __init__(self, store: KeyStore, *, fresh_for: float = FRESH_FOR) -> None:
        self._store = store
        self._fresh_for = fresh_for
        self._read_at = float("-inf")
        self._by_prefix: dict[str, list[ApiKey]] = {}
        self._reading = asyncio.Lock()

    async def caller(self, authorization: str) -> Caller:
        """Raises `Unauthorized`, for a missing key as for a wrong or a revoked one."""
        scheme, _, secret = authorization.partition(" ")
        secret = secret.strip()
        if scheme.lower() != "bearer" or not secret:
            raise Unauthorized
        if self._is_stale():
            await self._read()
        given = hashed(secret)
        for key in self._by_prefix.get(secret[:PREFIX_CHARS], ()):
            if hmac.compare_digest(key.hash, given):
                return Caller(key.id, key.name)
        raise Unauthorized

    def _is_stale(self) -> bool:
        return time.monotonic() - self._read_at > self._fresh_for

    async def _read(self) -> None:
        async with self._reading:
            if not self._is_stale():
                return
            by_prefix: dict[str, list[ApiKey]] = defaultdict(list)
            for key in await self._store.all():
                if key.revoked_at is None:
                    by_prefix[key.prefix].append(key)
            self._by_prefix = dict(by_prefix)
            self._read_at = time.monotonic()
