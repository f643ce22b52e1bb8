"""Load: open (the schedule decides when, whatever the server does) or closed (users who each wait for their answer).

An open load with a limit of requests in flight holds requests back when the server is slow. Their latency from the
intended start counts that wait; the latency from the send does not, which is how slow servers look fast.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import itertools
import math
import random
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.connection import Broken, Links, Response
from benchmarks.dialects import Dialect
from benchmarks.events import Events
from benchmarks.record import OK, Record
from benchmarks.workload import Ask

_PROBE_S = 0.005
_TOGETHER = 16
"""Parts of a stream that are read in one go, once its first text is known: a fifth less CPU than one by one."""


@dataclass(frozen=True)
class Target:
    """A server and how to speak to it. `extra` are further parameters of each request."""

    url: str
    dialect: Dialect
    model: str
    key: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    def links(self) -> Links:
        return Links(self.url, {"authorization": f"Bearer {self.key}"} if self.key else {})


@dataclass(frozen=True)
class Plan:
    """How a load is run.

    Attributes:
        limit: requests in flight at most; None for no bound.
        timeout: seconds from the send after which a request is given up as `TimedOut`.
        hang_up: share of the streams that are left after their first piece, as clients that go away do.
        leaving: seconds from the start between which that is so, by when requests are due.
        score: of an answer's text for a request whose answer is known.
        seed: of who hangs up.
    """

    limit: int | None = None
    timeout: float = 300.0
    hang_up: float = 0.0
    leaving: tuple[float, float] = (0.0, math.inf)
    score: Callable[[Ask, str], float | None] = lambda ask, text: None
    seed: int = 0


@dataclass(slots=True)
class Health:
    """Of the generator itself: how late its loop ran (milliseconds, sampled), and the CPU it took."""

    delays_ms: list[float] = field(default_factory=list)
    cpu_share: float = 0.0

    @property
    def delay_p99_ms(self) -> float:
        return float(np.percentile(self.delays_ms, 99)) if self.delays_ms else 0.0


class _Listener:
    """Puts an answer together while it arrives. `spoke` is set at the first piece of text."""

    def __init__(self, dialect: Dialect) -> None:
        self.texts: list[str] = []
        self.times: list[int] = []
        self.input_tokens = self.output_tokens = self.image_tokens = 0
        self.finished = False
        self.error = ""
        self.spoke = asyncio.Event()
        self._delta = dialect.delta
        self._events = Events()
        self._parts: list[tuple[bytes, int]] = []
        self.response = Response(self._on_body)

    def _on_body(self, body: bytes, now: int) -> None:
        self._parts.append((body, now))
        if self.response.streamed and (not self.texts or len(self._parts) == _TOGETHER):
            self._read()

    def _read(self) -> None:
        for body, now in self._parts:
            for data in self._events.feed(body):
                if data != b"[DONE]":
                    self._take(data, now)
        self._parts.clear()

    def close(self) -> None:
        """The answer is complete."""
        if self.response.streamed:
            self._read()
        elif self._parts:
            self._take(b"".join(body for body, _ in self._parts), 0)
        if not self.error and not self.finished:
            self.error = "CutOff"
        if self.response.status != 200 and self.error in ("", "BadResponse", "CutOff"):
            self.error = f"HTTP {self.response.status}"

    def _take(self, data: bytes, now: int) -> None:
        try:
            delta = self._delta(data)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            self.error = self.error or "BadResponse"
            return
        if delta.error:
            self.error = self.error or delta.error
        if delta.finished:
            self.finished = True
        self.input_tokens = delta.input_tokens or self.input_tokens
        self.output_tokens = delta.output_tokens or self.output_tokens
        self.image_tokens = delta.image_tokens or self.image_tokens
        if delta.text:
            if not self.texts:
                self.spoke.set()
            self.texts.append(delta.text)
            if now:
                self.times.append(now)

    def digest(self) -> str:
        return hashlib.sha256("".join(self.texts).encode()).hexdigest() if self.texts else ""


class Generator:
    """Sends requests to one target and gives `take` a record of each, in the order in which they end.

    async with running(target, plan, records.append) as generator:
        await generator.open(workload.asks(), poisson(5, 60))
    """

    def __init__(self, target: Target, plan: Plan, take: Callable[[Record], None], links: Links) -> None:
        self.health = Health()
        self._target, self._plan, self._take, self._links = target, plan, take, links
        self._slots = asyncio.Semaphore(plan.limit) if plan.limit else None
        self._random = random.Random(plan.seed)
        self.start = time.perf_counter_ns()
        """What the times of records count from."""

    async def open(self, asks: Iterable[Ask], dues: Iterable[float]) -> None:
        """One request at each of the times, in seconds from now; returns when all have ended.

        Requests in a list are sent again and again, an iterator's once; the shorter of both ends the load.
        """
        prepared = self._prepared(asks)
        ready = next(prepared, None)
        self.start = time.perf_counter_ns()
        async with asyncio.TaskGroup() as group:
            for number, due in enumerate(dues):
                if ready is None:
                    return
                intended = round(due * 1e9)
                # uvloop's timers have whole milliseconds and may end early; nothing is sent before it is due.
                while (early := intended - self._now()) > 0:  # noqa: ASYNC110 -- a time and no event
                    await asyncio.sleep(early / 1e9)
                group.create_task(self._held(number, intended, *ready))
                # The next one is built while there is time, and is ready when it is due.
                await asyncio.sleep(0)
                ready = next(prepared, None)

    async def closed(self, asks: Iterable[Ask], users: int, seconds: float) -> None:
        """So many users, each asking again once it is answered, until the time is over."""
        prepared, numbers = self._prepared(asks), itertools.count()
        self.start = time.perf_counter_ns()

        async def user() -> None:
            while self._now() < seconds * 1e9 and (ready := next(prepared, None)) is not None:
                now = self._now()
                await self._one(next(numbers), now, now, 0, *ready)

        async with asyncio.TaskGroup() as group:
            for _ in range(users):
                group.create_task(user())

    def _now(self) -> int:
        return time.perf_counter_ns() - self.start

    def _prepared(self, asks: Iterable[Ask]) -> Iterator[tuple[Ask, bytes, bytes]]:
        """Each request with the bytes to send; a list of them again and again."""
        target, links = self._target, self._links
        for ask in itertools.cycle(asks) if isinstance(asks, Sequence) else asks:
            body = target.dialect.body(ask, target.model, target.extra)
            yield ask, links.head(target.dialect.path, target.dialect.headers(), len(body)), body

    async def _held(self, number: int, intended: int, ask: Ask, head: bytes, body: bytes) -> None:
        if self._slots is None:
            await self._one(number, intended, self._now(), 0, ask, head, body)
            return
        waiting = self._now()
        async with self._slots:
            sent = self._now()
            await self._one(number, intended, sent, sent - waiting, ask, head, body)

    async def _one(self, number: int, intended: int, sent: int, held: int, ask: Ask, head: bytes, body: bytes) -> None:
        listener = _Listener(self._target.dialect)
        broke = await self._exchange(listener, head, body, self._leaves(intended))
        listener.close()
        record = Record(number, ask.name or self._target.dialect.name, intended, sent, self._now(), held)
        self._describe(record, listener, ask, len(body))
        record.outcome = broke or listener.error or OK
        if record.ok:
            record.score = self._plan.score(ask, "".join(listener.texts))
        self._take(record)

    def _leaves(self, intended: int) -> bool:
        first, last = self._plan.leaving
        return first <= intended / 1e9 < last and self._random.random() < self._plan.hang_up

    async def _exchange(self, listener: _Listener, head: bytes, body: bytes, leaving: bool) -> str:
        """What broke, empty when nothing did."""
        sending = self._links.send(head, body, listener.response)
        try:
            async with asyncio.timeout(self._plan.timeout):
                await (self._until_spoken(sending, listener) if leaving else sending)
        except Broken as error:
            return str(error)
        except TimeoutError:
            return "TimedOut"
        return "HungUp" if leaving else ""

    async def _until_spoken(self, sending: Coroutine[Any, Any, None], listener: _Listener) -> None:
        """Goes away after the first piece, as a client does whose user has seen enough."""
        task = asyncio.create_task(sending)
        spoken = asyncio.create_task(listener.spoke.wait())
        try:
            await asyncio.wait({task, spoken}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            spoken.cancel()
            task.cancel()
            await asyncio.gather(task, spoken, return_exceptions=True)

    def _describe(self, record: Record, listener: _Listener, ask: Ask, length: int) -> None:
        response, times = listener.response, listener.times
        record.uploaded = None if response.uploaded is None else response.uploaded - self.start
        record.first = times[0] - self.start if times else None
        record.gaps = [round((after - before) / 1e3) for before, after in itertools.pairwise(times)]
        record.status, record.cache = response.status, response.headers.get("x-homescope-cache", "")
        record.bytes_sent, record.bytes_received, record.port = length, response.received, response.port
        record.images, record.pixels = len(ask.images), sum(picture.pixels for picture in ask.images)
        record.digest = listener.digest()
        record.input_tokens, record.output_tokens = listener.input_tokens, listener.output_tokens
        record.image_tokens = listener.image_tokens


@asynccontextmanager
async def running(target: Target, plan: Plan, take: Callable[[Record], None]) -> AsyncGenerator[Generator, None]:
    """A generator with its connections; watches its own event loop, and its CPU, until it is left."""
    async with target.links() as links:
        generator = Generator(target, plan, take, links)
        probe = asyncio.create_task(_probe(generator.health))
        cpu, began = time.process_time(), time.perf_counter()
        # A collection of garbage in the midst of a run would be a delay of every stream.
        gc.collect()
        gc.freeze()
        try:
            yield generator
        finally:
            generator.health.cpu_share = (time.process_time() - cpu) / (time.perf_counter() - began)
            gc.unfreeze()
            probe.cancel()


async def _probe(health: Health) -> None:
    while True:
        due = time.perf_counter() + _PROBE_S
        await asyncio.sleep(_PROBE_S)
        health.delays_ms.append(max(0.0, time.perf_counter() - due) * 1e3)
