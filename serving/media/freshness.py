"""A small shared cache of fetched bytes, by the rules of RFC 9111 for what may be kept and for how long."""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime

DIRECTIVE = re.compile(r'([a-z-]+)(?:\s*=\s*"?([^",]*)"?)?', re.IGNORECASE)
MAX_AGE = 86_400
"""Seconds. Longer promises are not taken: the bytes are checked again once a day."""


@dataclass(frozen=True, slots=True)
class Kept:
    """`fresh_until` in seconds of the cache's clock; after it the source is asked whether `body` still stands."""

    body: bytes
    fresh_until: float
    etag: str = ""
    modified: str = ""

    @property
    def validators(self) -> dict[str, str]:
        given = {"if-none-match": self.etag, "if-modified-since": self.modified}
        return {name: value for name, value in given.items() if value}


class Cache:
    """Answers by URL, the least recently used given up first, never more than `limit` bytes of them."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self.size = 0

    def get(self, url: str) -> Kept | None:
        kept = self._kept.get(url)
        if kept is not None:
            self._kept.move_to_end(url)
        return kept

    def fresh(self, kept: Kept) -> bool:
        return self._clock() < kept.fresh_until

    def keep(self, url: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Keeps an answer if its headers allow that to a shared cache."""
        self._forget(url)
        seconds = lifetime(headers)
        etag, modified = headers.get("ETag", ""), headers.get("Last-Modified", "")
        if seconds is None or not (seconds or etag or modified) or len(body) > self._limit // 4:
            return
        self._kept[url] = Kept(body, self._clock() + seconds, etag, modified)
        self.size += len(body)
        while self.size > self._limit:
            self._forget(next(iter(self._kept)))

    def confirm(self, url: str, kept: Kept, headers: Mapping[str, str]) -> None:
        """The source says that `kept` still stands."""
        if url in self._kept and (seconds := lifetime(headers)) is not None:
            self._kept[url] = replace(kept, fresh_until=self._clock() + seconds)

    def _forget(self, url: str) -> None:
        kept = self._kept.pop(url, None)
        if kept is not None:
            self.size -= len(kept.body)


def lifetime(headers: Mapping[str, str]) -> float | None:
    """Seconds for which an answer is fresh; 0 has to be asked about each time, None must not be kept."""
    said = {name.lower(): value for name, value in DIRECTIVE.findall(headers.get("Cache-Control", ""))}
    varies = {name.strip().lower() for name in headers.get("Vary", "").split(",")} - {"", "accept-encoding", "origin"}
    if varies or said.keys() & {"no-store", "private"}:
        return None
    if "no-cache" in said:
        return 0
    promised = said.get("s-maxage") or said.get("max-age")
    if promised is None:
        return max(0.0, min(MAX_AGE, _expires_in(headers)))
    return max(0, min(MAX_AGE, _seconds(promised) - _seconds(headers.get("Age", ""))))


def _seconds(text: str) -> int:
    """0 for what is no number; one too long to be read is a day too many in any case."""
    if not (text.isascii() and text.isdecimal()):
        return 0
    return int(text) if len(text) < 12 else 10**12


def _expires_in(headers: Mapping[str, str]) -> float:
    try:
        expires, date = (parsedate_to_datetime(headers[name]) for name in ("Expires", "Date"))
        return (expires - date).total_seconds()
    except (KeyError, ValueError, TypeError, OverflowError, IndexError):
        return 0


class SingleFlight:
    """Callers that want the same thing at the same time share one attempt; it ends when the last of them has left."""

    def __init__(self) -> None:
        self._flights: dict[str, tuple[asyncio.Task[bytes], list[None]]] = {}

    async def do(self, key: str, attempt: Callable[[], Awaitable[bytes]]) -> bytes:
        task, passengers = self._flights.get(key) or self._begin(key, attempt)
        passengers.append(None)
        try:
            return await asyncio.shield(task)
        finally:
            passengers.pop()
            if not passengers:
                self._land(key, task)
                task.cancel()

    def _begin(self, key: str, attempt: Callable[[], Awaitable[bytes]]) -> tuple[asyncio.Task[bytes], list[None]]:
        async def fly() -> bytes:
            return await attempt()

        task = asyncio.create_task(fly())
        self._flights[key] = (task, [])
        task.add_done_callback(lambda ended: self._land(key, ended))
        return self._flights[key]

    def _land(self, key: str, flight: asyncio.Task[bytes]) -> None:
        if self._flights.get(key, (None,))[0] is flight:
            del self._flights[key]
        if flight.done() and not flight.cancelled():
            flight.exception()
