from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

log = logging.getLogger(__name__)

ENTRY_BYTES = 200
"""What an entry in memory takes beside its value, about."""
PATIENCE = 0.25
"""Seconds to wait for a store. Answering takes longer than that, but not by so much that it would be worth more."""
PAUSE = 5.0
"""Seconds for which a store that failed is left alone."""


class Store(Protocol):
    """Keeps values by key for a time that it was made for, and may forget each at any time."""

    async def start(self) -> None: ...

    async def get(self, key: bytes) -> bytes | None: ...

    async def set(self, key: bytes, value: bytes) -> None: ...

    async def aclose(self) -> None: ...


class Memory:
    """The values used last, up to `max_bytes` of them, each for `seconds`."""

    def __init__(self, max_bytes: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.bytes = 0
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._clock = clock
        self._kept: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()

    async def start(self) -> None:
        pass

    async def get(self, key: bytes) -> bytes | None:
        if key not in self._kept:
            return None
        expires, value = self._kept[key]
        if self._clock() >= expires:
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return value

    async def set(self, key: bytes, value: bytes) -> None:
        if key in self._kept:
            self._drop(key)
        self._kept[key] = (self._clock() + self._seconds, value)
        self.bytes += len(value) + ENTRY_BYTES
        while self.bytes > self._max_bytes:
            self._drop(next(iter(self._kept)))

    async def aclose(self) -> None:
        self._kept.clear()
        self.bytes = 0

    def _drop(self, key: bytes) -> None:
        self.bytes -= len(self._kept.pop(key)[1]) + ENTRY_BYTES


class Optional:
    """A store whose absence costs nothing but its hits: what it fails at is skipped, and then it is left alone for a
    while."""

    def __init__(self, store: Store, *, patience: float = PATIENCE, pause: float = PAUSE) -> None:
        """Both in seconds."""
        self._store = store
        self.patience = patience
        self._pause = pause
        self._away_until = 0.0
        self._away = False

    @property
    def away(self) -> bool:
        return self._away

    async def start(self) -> None:
        await self._store.start()

    async def get(self, key: bytes) -> bytes | None:
        if time.monotonic() < self._away_until:
            return None
        try:
            async with asyncio.timeout(self.patience):
                value = await self._store.get(key)
        except Exception as error:  # clients of stores raise what they like, TimeoutError and OSError among it
            self._failed(error)
            return None
        self._answered()
        return value

    async def set(self, key: bytes, value: bytes) -> None:
        if time.monotonic() < self._away_until:
            return
        try:
            async with asyncio.timeout(self.patience):
                await self._store.set(key, value)
        except Exception as error:
            self._failed(error)
        else:
            self._answered()

    async def aclose(self) -> None:
        await self._store.aclose()

    def _failed(self, error: Exception) -> None:
        if not self._away:
            # Not the error itself: that of a client names the address with its password.
            log.warning("the answer cache is away (%s); requests are answered without it", type(error).__name__)
        self._away = True
        self._away_until = time.monotonic() + self._pause

    def _answered(self) -> None:
        if self._away:
            log.warning("the answer cache is back")
        self._away = False
