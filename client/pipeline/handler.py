from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from client.errors import BeingAnswered, ConfigurationError, ConnectionFailed, HomescopeError, InvalidAnswer, Throttled
from client.models import Failed, Record
from client.pipeline.brokers import Queue, beat
from client.pipeline.feed import Feed
from client.pipeline.images import ImageGone, Images
from client.pipeline.kinds import answering
from client.pipeline.models import Work
from client.pipeline.store import Claim, Store
from client.session import Session

if TYPE_CHECKING:
    from faststream.message import StreamMessage

_LOG = logging.getLogger("homescope.pipeline")
_LONGEST_PAUSE = 30.0


class Stopping(Exception):
    """The worker is stopping: the message goes back to the broker."""


class Handler:
    """What is done with a message, whichever broker it came from. One for all slots of a worker.

    Returning lets go of the message, raising gives it back. It returns when the answer, or the reason why there is
    none, is stored. Tries are counted in the database before anything is asked, so that an item which kills its worker
    is counted, too.

    Args:
        store, images, session: where items, images and answers are.
        queue: for what is given up.
        feed: told when a place in a document's window is free.
        worker: this worker's name, unlike any other's.
        lease: seconds for which an item is this worker's; renewed while it works.
        tries: after so many an item is buried.
    """

    def __init__(
        self, store: Store, images: Images, session: Session, queue: Queue, feed: Feed, *,
        worker: str, lease: float, tries: int,
    ) -> None:  # fmt: skip
        self._store, self._images, self._session, self._queue, self._feed = store, images, session, queue, feed
        self._worker, self._lease, self._tries = worker, lease, tries
        self.stopping = asyncio.Event()
        self.halted: HomescopeError | None = None
        self.ended = 0
        self._working: set[asyncio.Task[None]] = set()

    async def __call__(self, message: StreamMessage[Any]) -> None:
        if self.stopping.is_set():
            raise Stopping
        try:
            item = Work.from_json(bytes(message.body))
            answering(item.kind)
        except (ValueError, ConfigurationError) as error:
            _LOG.warning("a message was buried: %s", error)
            await self._queue.bury(bytes(message.body), str(error))
            return
        # RabbitMQ's client cancels its consumers when the connection breaks: what is asked is waited for all the same.
        working = asyncio.create_task(self._until_settled(item, message))
        self._working.add(working)
        working.add_done_callback(self._forget)
        await asyncio.shield(working)

    async def settled(self) -> None:
        """Waits for what goes on although its message is gone."""
        while self._working:
            await asyncio.wait(self._working)

    def _forget(self, working: asyncio.Task[None]) -> None:
        self._working.discard(working)
        if not working.cancelled() and (error := working.exception()) is not None:
            _LOG.debug("a message went back: %s", type(error).__name__)

    async def _until_settled(self, item: Work, message: StreamMessage[Any]) -> None:
        while not await self._settled(item, message):
            await self._pause(min(self._lease / 4, 2.0))
        await self._feed.top_up(item.document)

    async def _settled(self, item: Work, message: StreamMessage[Any]) -> bool:
        """Whether the item has ended, here or elsewhere; False: another has it, or it is to be tried again."""
        claim, tries = await self._store.claim(item, self._worker, self._lease)
        if claim is Claim.UNKNOWN:
            await self._queue.bury(item.to_json(), "the database does not know it")
            return True
        if claim is not Claim.MINE:
            await beat(message)
            return claim is Claim.ENDED
        if tries > self._tries:
            await self._bury(item, f"given up after {self._tries} tries")
            return True
        async with self._kept(item, message):
            return await self._worked(item, tries)

    async def _worked(self, item: Work, tries: int) -> bool:
        try:
            record = await self._store.answer(item.key) or await self._asked(item)
        except HomescopeError as error:
            return await self._refused(item, tries, error)
        except asyncio.CancelledError:
            await asyncio.shield(self._store.give_back(item, self._worker, counted=False))
            raise
        except Exception as error:
            return await self._again(item, tries, f"{type(error).__name__} in {item.kind}")
        await self._end(item, record)
        return True

    async def _end(self, item: Work, record: Record) -> None:
        await self._store.finish(item, record)
        self.ended += 1

    async def _asked(self, item: Work) -> Record:
        image = await self._images.get(item.digest)
        if hashlib.sha256(image).hexdigest() != item.digest:
            raise ImageGone(f"the image {item.digest[:12]} has changed in the image store")
        key = await self._store.idempotency_key(item.key)
        record = await answering(item.kind)(self._session, item, image, key)
        return record if record.key == item.key else replace(record, key=item.key)

    async def _refused(self, item: Work, tries: int, error: HomescopeError) -> bool:
        if error.fatal or isinstance(error, ConfigurationError):
            # The same awaits every other item: better to stop than to bury them all.
            await self._store.give_back(item, self._worker, reason=error.message, counted=False)
            self.halted = self.halted or error
            self.stopping.set()
            raise Stopping
        if isinstance(error, BeingAnswered | ConnectionFailed | Throttled):
            await self._store.give_back(item, self._worker, reason=error.message, counted=False)
            await self._pause(error.retry_after or _pause_after(tries))
            return False
        if isinstance(error, InvalidAnswer):
            await self._store.count_unfit(item.key)
        if error.retryable or isinstance(error, InvalidAnswer):
            return await self._again(item, tries, error.message)
        await self._end(item, _failed(item, error, tries))
        return True

    async def _again(self, item: Work, tries: int, reason: str) -> bool:
        _LOG.info("try %d of %s %s: %s", tries, item.document, item.label, reason)
        if tries >= self._tries:
            await self._bury(item, f"{reason} (try {tries} of {self._tries})")
            return True
        await self._store.give_back(item, self._worker, reason=reason)
        await self._pause(_pause_after(tries))
        return False

    async def _bury(self, item: Work, reason: str) -> None:
        await self._queue.bury(item.to_json(), reason)
        await self._store.bury(item, reason)
        self.ended += 1

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), seconds)
            raise Stopping

    @asynccontextmanager
    async def _kept(self, item: Work, message: StreamMessage[Any]) -> AsyncIterator[None]:
        """Keeps the claim and the message for as long as the work takes."""
        keeping = asyncio.create_task(self._keep(item, message))
        try:
            yield
        finally:
            keeping.cancel()
            await asyncio.wait([keeping])

    async def _keep(self, item: Work, message: StreamMessage[Any]) -> None:
        while True:
            await beat(message)
            await asyncio.sleep(self._lease / 3)
            await self._store.renew(item, self._worker, self._lease)


def _pause_after(tries: int) -> float:
    return min(2.0 ** (tries - 1), _LONGEST_PAUSE)


def _failed(item: Work, error: HomescopeError, tries: int) -> Failed:
    return Failed(
        file=f"{item.document} {item.label}",
        key=item.key,
        reason=error.message,
        code=error.code,
        status=error.status,
        request_id=error.request_id,
        attempts=tries,
    )
