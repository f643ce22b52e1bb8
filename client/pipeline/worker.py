from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from client.errors import ConfigurationError
from client.pipeline.brokers import Queue, queue
from client.pipeline.embedded import EmbeddedBroker
from client.pipeline.feed import WINDOW, Feed
from client.pipeline.handler import Handler
from client.pipeline.images import Images
from client.pipeline.store import Store
from client.session import Session

_LOG = logging.getLogger("homescope.pipeline")
_ROUND = 1.0
"""Seconds between two looks at what waits in the database."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Where a pipeline keeps what it needs. Processes with equal settings work together.

    Attributes:
        data: the folder of all that is not named below.
        broker: `nats://`, `amqp://` or `kafka://`; empty: a NATS server of one's own, with its files in `data`.
        database: `postgresql://`; empty: an SQLite file in `data`.
        images: `s3://bucket/prefix`; empty: a folder in `data`.
        lease: seconds for which a silent worker keeps an item before another may take it.
        tries: after so many an item is buried.
        window: items of one document underway.
    """

    data: Path
    broker: str = ""
    database: str = ""
    images: str = ""
    lease: float = 60.0
    tries: int = 5
    window: int = WINDOW

    def store(self) -> Store:
        """The database, to be entered."""
        self.data.mkdir(parents=True, exist_ok=True)
        return Store(self.database or self.data / "pipeline.db")

    def image_store(self) -> Images:
        """The image store."""
        return Images(self.images or self.data / "images")

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Queue]:
        """The broker's queue, not started; one's own broker runs meanwhile."""
        if self.broker:
            yield queue(self.broker, patience=self.lease)
            return
        async with EmbeddedBroker(self.data / "broker") as own:
            yield queue(own.url, patience=self.lease)


class Worker:
    """Takes work from the broker until it is told to stop.

    Args:
        settings: of the pipeline.
        session: the server that answers.
        concurrency: items at a time.
        heartbeat: a file that is touched about once a second while the worker takes work: its loop runs, and broker
            and database answer. Its age is what a probe asks for.

    Attributes:
        handler: what it does with a message, and how many it has ended.
    """

    def __init__(
        self, settings: Settings, session: Session, concurrency: int = 4, heartbeat: Path | None = None
    ) -> None:  # fmt: skip
        self._settings, self._session, self._concurrency = settings, session, concurrency
        self._heartbeat = heartbeat
        self._stop = asyncio.Event()
        self.handler: Handler | None = None
        self.name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"

    def stop(self) -> None:
        """No new items; those in work are finished. May be called from a signal handler."""
        self._stop.set()
        if self.handler is not None:
            self.handler.stopping.set()

    async def run(self, *, until_empty: bool = False) -> int:
        """Works; returns how many items have ended here. `until_empty`: return when nothing is left in the database.

        Raises:
            HomescopeError: what awaits every item, such as a wrong key. Nothing is lost.
        """
        settings = self._settings
        if self._heartbeat is not None:
            await asyncio.to_thread(_begin, self._heartbeat)
        async with settings.store() as store, settings.connected() as broker:
            feed = Feed(store, broker, settings.window)
            handler = self.handler = Handler(
                store, settings.image_store(), self._session, broker, feed,
                worker=self.name, lease=settings.lease, tries=settings.tries,
            )  # fmt: skip
            self._session.keep_uploads(store)
            await broker.start(handler, self._concurrency)
            try:
                await self._oversee(store, broker, feed, handler, until_empty)
            finally:
                handler.stopping.set()
                await broker.stop()
                await handler.settled()
                self._session.keep_uploads(None)
        if handler.halted is not None:
            raise handler.halted
        return handler.ended

    async def _oversee(self, store: Store, broker: Queue, feed: Feed, handler: Handler, until_empty: bool) -> None:
        """Feeds what others have submitted, and what a process that died had taken and not published."""
        while not self._stop.is_set() and not handler.stopping.is_set():
            try:
                await feed.top_up_all()
                await self._heal(store, broker)
                if self._heartbeat is not None:
                    await asyncio.to_thread(self._heartbeat.touch)
            except Exception as error:
                # While the broker is away, items wait in the database; each broker has errors of its own for it.
                _LOG.info("nothing could be published: %s", type(error).__name__)
            if until_empty and not sum(each.total - each.ended for each in await store.counts()):
                return
            await _first([self._stop, handler.stopping], _ROUND)

    async def _heal(self, store: Store, broker: Queue) -> None:
        """Publishes again what a broker has lost: it is empty, and there are items that it should have."""
        depth = await broker.depth()
        if depth is not None and depth[0] == 0 and (found := await store.forgotten(2 * self._settings.lease)):
            _LOG.warning("%d items were not in the broker any more: they are published again", found)


def _begin(heartbeat: Path) -> None:
    """Takes away what a worker before this one left, which would say that this one lives.

    Raises:
        ConfigurationError: it cannot be written.
    """
    try:
        heartbeat.touch()
        heartbeat.unlink()
    except OSError as error:
        raise ConfigurationError(f"--heartbeat {heartbeat} cannot be written: {error.strerror}") from error


async def _first(events: list[asyncio.Event], seconds: float) -> None:
    waiting = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
