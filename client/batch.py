from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias
from weakref import WeakValueDictionary

from client.errors import (
    ConfigurationError,
    ConnectionFailed,
    HomescopeError,
    InvalidAnswer,
    LedgerError,
    UnusableImage,
)
from client.ledger import Ledger
from client.models import NO_USAGE, Answer, Done, Failed, Job, Record, Skipped, Totals, is_copy
from client.pace import Pace
from client.questions import Item, Lazy, Question, bytes_of, load
from client.retry import DEFAULT, ONCE, Budget, Policy, persist
from client.session import ImageInput, Session

SAME_REFUSAL = 20
"""So many first images failed in the same words, and not one answered: the request is wrong, or the server."""

_PREFETCH = 2
"""Workers beyond the pace's limit: they read the next images while all places are taken."""


_AHEAD = 7
"""Further images of one turn in a thread: a turn costs as much as reading one."""

_NO_TIME = 0.002
"""Seconds after which a turn takes no further one."""

_TURNS = 32
"""At a time. asyncio has no more threads; of 256 answers at once each would begin a turn, and hold what that reads."""

_Drawn: TypeAlias = tuple[int, Item | Skipped]


class _Abandoned(Exception):
    """The run is stopping: this image stays as it is, for the next run."""


class _Feed:
    """Numbered items, drawn one at a time and read side by side, in threads: walking and reading may block."""

    def __init__(self, questions: Iterable[Question | Path]) -> None:
        self._questions, self._drawing = enumerate(questions), threading.Lock()
        self._ready: deque[_Drawn] = deque()
        self._ended = False
        self._turns = asyncio.Semaphore(_TURNS)

    def more(self, wanted: int) -> int:
        """How many workers of so many would find something, as far as is known."""
        return min(wanted, len(self._ready)) if self._ended else wanted

    async def draw(self, ahead: int) -> _Drawn | None:
        """The next one; up to `ahead` further ones are read in the same turn, while that takes no time."""
        if not self._ready and not self._ended:
            async with self._turns:
                await self._turn(1 + ahead)
        return self._ready.popleft() if self._ready else None

    async def _turn(self, most: int) -> None:
        """Reads, unless others have read more than they took while this one waited."""
        if self._ready or self._ended:
            return
        drawn = await asyncio.get_running_loop().run_in_executor(None, self._draw, most)
        self._ended = self._ended or drawn[-1] is None
        self._ready.extend(each for each in drawn if each is not None)

    def _draw(self, most: int) -> list[_Drawn | None]:
        """None is the end."""
        drawn: list[_Drawn | None] = []
        until = time.monotonic() + _NO_TIME
        while len(drawn) < most and (not drawn or time.monotonic() < until):
            with self._drawing:
                question = next(self._questions, None)
            if question is None:
                return [*drawn, None]
            drawn.append((question[0], load(question[1])))
        return drawn


class Batch:
    """The same question about many images: each ends as one record in the ledger, and nothing is asked twice.

    An answer in the ledger is taken from there, whichever file or run it was given for; two files of the same bytes
    are one question. A failure is a record too, never an exception. The run ends early, leaving the rest for the next
    one, when `stop` is called, when the disk is full, or when every further request must end the same way: a
    wrong key, an unknown model, a server that is gone, or `SAME_REFUSAL`.

    Failures are asked again by the next run, but for those that were answered with something that does not fit the
    schema: these were paid for, and are asked again only with `retry_failed`.

    Args:
        session: the server.
        job: what is asked about every image.
        ledger: opened for the same job.
        pace: requests in flight; default: adaptive.
        retry: when and how often to ask again; `Budget` bounds it for the whole run.
        keep_going: never take the same refusal of all first images for a reason to stop.
        retry_failed: ask also those again that were answered wrongly.
        on_record: called with every record as it ends, and whether it is an earlier run's.

    Attributes:
        totals: what has become of the images up to now.
        refused_alike: the run ended because of `SAME_REFUSAL`.
    """

    def __init__(
        self,
        session: Session,
        job: Job,
        ledger: Ledger,
        *,
        pace: Pace | None = None,
        retry: Policy = DEFAULT,
        keep_going: bool = False,
        retry_failed: bool = False,
        on_record: Callable[[Record, bool], None] = lambda record, resumed: None,
    ) -> None:
        self.totals = Totals()
        self.pace = pace or Pace.auto()
        self.refused_alike = False
        self._session, self._job, self._ledger, self._policy = session, job, ledger, retry
        self._keep_going, self._retry_failed, self._on_record = keep_going, retry_failed, on_record
        self._stopping = asyncio.Event()
        self._halted: HomescopeError | None = None
        self._heard = False
        self._answered = False
        self._workers = 0
        self._refusals: Counter[tuple[str, str]] = Counter()
        self._questions: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._budget = Budget()

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    def stop(self) -> None:
        """Finish what is in flight, begin nothing new."""
        self._stopping.set()

    async def run(self, questions: Iterable[Question | Path]) -> Totals:
        """Asks every question, in that order but many at once; they are drawn from the iterable as needed.

        Args:
            questions: such as `sources.questions` finds; a path alone is asked about with the job's prompt.

        Raises:
            HomescopeError: what made the run end early. The records up to there are in the ledger.
        """
        self._session.keep_uploads(self._ledger)
        try:
            async with asyncio.TaskGroup() as group:
                self._hire(group, _Feed(questions))
        finally:
            self._session.keep_uploads(None)
        if self._halted is not None:
            raise self._halted
        return self.totals

    def _hire(self, group: asyncio.TaskGroup, feed: _Feed) -> None:
        """As many workers as the pace allows now: each holds an image, and memory should not hold more than needed."""
        for _ in range(feed.more(self.pace.limit + _PREFETCH - self._workers)):
            self._workers += 1
            group.create_task(self._work(group, feed))

    async def _work(self, group: asyncio.TaskGroup, feed: _Feed) -> None:
        try:
            while not self.stopping and self._workers <= self.pace.limit + _PREFETCH:
                drawn = await feed.draw(min(self.pace.limit // 16, _AHEAD))
                if drawn is None:
                    return
                position, item = drawn
                self._hire(group, feed)
                with suppress(_Abandoned):
                    await self._settle(item, position)
        except ConfigurationError as error:
            self._halt(error)
        finally:
            self._workers -= 1

    async def _settle(self, item: Item | Skipped, position: int) -> None:
        if isinstance(item, Skipped):
            self._record(item, position)
            return
        key = self._job.key(item.digest, item.prompt)
        question = self._questions.setdefault(key, asyncio.Lock())
        async with question:
            found = self._ledger.find(key)
            if known := self._known(item, found):
                self._record(known, position, known=True)
            else:
                self._record(await self._ask(item, key, self._ledger.idempotency_key(key, found)), position)

    def _known(self, item: Item, found: Record | None) -> Record | None:
        """The record that answers for this image, its own or that of the same bytes; None when it has to be asked."""
        if found is None or isinstance(found, Skipped):
            return None
        if isinstance(found, Failed) and (found.answer is None or self._retry_failed):
            return None
        first = found.duplicate_of or found.file
        return replace(found, file=item.file, images=item.names, duplicate_of=None if first == item.file else first)

    async def _ask(self, item: Item, key: str, idempotency_key: str) -> Record:
        attempts, began = 0, 0.0

        async def once() -> Answer:
            nonlocal attempts, began
            async with self.pace.slot(self._sleep) as turn:
                if self.stopping:
                    raise _Abandoned
                attempts, began = attempts + 1, time.perf_counter()
                answer = await self._request(images, item.prompt, idempotency_key)
                turn.tokens = answer.usage.total_tokens
                return answer

        try:
            images = [await _now(image) for image in item.images]
            answer = await persist(once, self._policy, self._sleep, self._budget)
        except UnusableImage as error:
            return Skipped(item.file, error.message, images=item.names)
        except HomescopeError as error:
            return self._failure(error, item, key, attempts)
        self._answered = True
        return _done(item, key, answer, attempts, time.perf_counter() - began)

    async def _request(self, images: Sequence[ImageInput], prompt: str | None, idempotency_key: str) -> Answer:
        job = self._job
        try:
            answer = await self._session.ask(
                images,
                job.prompt if prompt is None else prompt,
                model=job.model,
                schema=job.schema,
                parameters=job.parameters,
                retry=ONCE,
                idempotency_key=idempotency_key,
            )
        except ConnectionFailed as error:
            # Before the first word from the server this is a wrong address, not a restart to wait for.
            if not self._heard:
                self._halt(error)
            raise
        except HomescopeError:
            self._heard = True
            raise
        self._heard = True
        return answer

    async def _sleep(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        if self.stopping:
            raise _Abandoned

    def _failure(self, error: HomescopeError, item: Item, key: str, attempts: int) -> Failed:
        if error.fatal or isinstance(error, ConnectionFailed):
            self._halt(error)
            raise _Abandoned
        self._notice_sameness(error)
        return _failed(item, key, error, attempts)

    def _notice_sameness(self, error: HomescopeError) -> None:
        if self._answered or self._keep_going or isinstance(error, InvalidAnswer) or len(self._refusals) > 1:
            return
        self._refusals[error.code, error.message] += 1
        if len(self._refusals) == 1 and self._refusals.total() >= SAME_REFUSAL:
            self.refused_alike = True
            self._halt(error)

    def _halt(self, error: HomescopeError) -> None:
        self._halted = self._halted or error
        self.stop()

    def _record(self, record: Record, position: int, *, known: bool = False) -> None:
        try:
            news = self._ledger.append(record, position)
        except LedgerError as error:
            self._halt(error)
            return
        resumed = known and not (news and is_copy(record))
        self.totals.count(record, resumed=resumed)
        self._on_record(record, resumed)
        if self._ledger.full is not None:
            self._halt(self._ledger.full)


async def _now(image: bytes | str | Lazy) -> bytes | str:
    return image if isinstance(image, bytes | str) else await asyncio.to_thread(bytes_of, image)


def _done(item: Item, key: str, answer: Answer, attempts: int, seconds: float) -> Done:
    return Done(
        file=item.file,
        key=key,
        answer=answer.text,
        value=answer.value,
        finish_reason=answer.finish_reason,
        usage=answer.usage,
        request_id=answer.request_id,
        model=answer.model,
        seconds=round(seconds, 3),
        attempts=attempts,
        images=item.names,
        flaw=answer.flaw,
        mended=answer.mended,
    )


def _failed(item: Item, key: str, error: HomescopeError, attempts: int) -> Failed:
    words = error.answer if isinstance(error, InvalidAnswer) else None
    return Failed(
        file=item.file,
        key=key,
        reason=error.message,
        code=error.code,
        status=error.status,
        request_id=error.request_id,
        attempts=attempts,
        answer=words.text if words else None,
        usage=words.usage if words else NO_USAGE,
        images=item.names,
    )
