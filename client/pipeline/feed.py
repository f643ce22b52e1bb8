from __future__ import annotations

import asyncio
from collections import defaultdict

from client.pipeline.brokers import Queue
from client.pipeline.store import Store

WINDOW = 16
"""Items of one document that are in the broker or being worked on at any time."""


class Feed:
    """Moves items from the database to the broker, a window of each document: the queue is short, and shared fairly.

    A document of 5,000 pages does not stand in front of one of 5: each has at most `window` items underway, and the
    next one follows when an answer is stored. A message may be published twice when a process dies in between; the
    handler does not mind.
    """

    def __init__(self, store: Store, queue: Queue, window: int = WINDOW) -> None:
        self._store, self._queue, self._window = store, queue, window
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def top_up(self, document: str) -> int:
        """Publishes what fits into the window of a document; returns how many that were."""
        async with self._locks[document]:
            released = await self._store.release(document, self._window)
            for at, (key, body) in enumerate(released):
                try:
                    await self._queue.publish(body)
                except BaseException:
                    await self._store.unpublished([each for each, _ in released[at:]])
                    raise
                await self._store.published([key])
            return len(released)

    async def top_up_all(self) -> int:
        """The same for every document that has something left."""
        return sum([await self.top_up(document) for document in await self._store.unfinished()])
