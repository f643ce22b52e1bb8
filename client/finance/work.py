from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from client.documents import Opened, PageFailed, PageRead, UnreadableDocument, digest_of, figures_of
from client.errors import ConnectionFailed, HomescopeError, InvalidAnswer
from client.finance.reading import FIGURES, PARAMETERS, PROMPT_VERSION, WORDS, Reading, reading_key
from client.finance.rules import Alert, Rule, alerts_of
from client.finance.series import Series, series_of, words_flags
from client.finance.store import Found, Outcome, Store
from client.models import DEFAULT_MODEL, Usage
from client.pace import Pace
from client.session import Session

_WAITING = 64
"""Figures that are found and not yet answered: further pages are searched when there are fewer."""


@dataclass(frozen=True, slots=True)
class Options:
    """How reports are read.

    Attributes:
        folder: where the images of the figures go, a folder for each document in it.
        rules: of the alerts.
        with_words: also ask for an analysis and compare its words with the figures.
        password: of encrypted documents.
        prepared: what is done to images before they are sent, as `client.Job`.
    """

    folder: Path
    rules: Sequence[Rule]
    model: str = DEFAULT_MODEL
    with_words: bool = True
    password: str = ""
    prepared: str = ""


@dataclass(slots=True)
class Counts:
    """What has happened so far. `resumed` readings are an earlier run's and part of `read`."""

    documents: int = 0
    pages: int = 0
    figures: int = 0
    tables: int = 0
    read: int = 0
    failed: int = 0
    resumed: int = 0
    alerts: int = 0
    flags: int = 0
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True)
class Read:
    """A chart that was read."""

    path: Path
    found: Found
    series: Series
    alerts: tuple[Alert, ...]


@dataclass(frozen=True, slots=True)
class Unread:
    """A chart, a page or a whole document that was not read, and why. `page` 0: the document."""

    path: Path
    page: int
    reason: str


class Reports:
    """Reads annual reports: charts are found, asked about while further pages are searched, and stored one by one.

    What is stored is not asked again: a run after a crash or an interruption goes on where that one was.

    Args:
        session: where the model is.
        store: where everything goes.
        options: how.
        pace: how many questions at once.
        on_event: told of each chart, and of what could not be read.
    """

    def __init__(
        self,
        session: Session,
        store: Store,
        options: Options,
        pace: Pace,
        on_event: Callable[[Read | Unread], None] = lambda event: None,
    ) -> None:
        self.counts, self.unread = Counts(), list[Unread]()
        self.stopped: HomescopeError | None = None
        self.stopping = False
        self.now: Path | None = None
        self.page, self.pages = 0, 0
        self.digests: dict[str, Path] = {}
        self._session, self._store, self._options, self._pace = session, store, options, pace
        self._on_event = on_event
        self._waiting = asyncio.Semaphore(_WAITING)
        self._same: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def stop(self) -> None:
        """Begins nothing new; what is in flight is finished."""
        self.stopping = True

    async def run(self, paths: Iterable[Path]) -> Counts:
        """Reads the documents one after the other. One that cannot be read is told and does not stop the others."""
        self._session.keep_uploads(self._store)
        try:
            async with asyncio.TaskGroup() as asking:
                for path in paths:
                    if self.stopping:
                        break
                    await self._read_document(path, asking)
        finally:
            self._session.keep_uploads(None)
        return self.counts

    async def _read_document(self, path: Path, asking: asyncio.TaskGroup) -> None:
        try:
            await self._document(path, asking)
            self.counts.documents += 1
        except UnreadableDocument as error:
            self._tell_unread(path, 0, error.message.removeprefix(f"{path}: "))
        except OSError as error:
            self._tell_unread(path, 0, error.strerror or str(error))
        except HomescopeError as error:
            self._give_up(error)

    async def _document(self, path: Path, asking: asyncio.TaskGroup) -> None:
        self.now, self.page, self.pages = path, 0, 0
        digest = await digest_of(path)
        if digest in self.digests:
            return
        found = await self._store.searched(digest)
        if found is None:
            await self._search(path, digest, asking)
        else:
            for each in found:
                await self._take(path, each, asking)
            for problem in (await self._store.problems(digest)).splitlines():
                page, _, reason = problem.partition(": ")
                self._tell_unread(path, int(page), reason)
        self.digests[digest] = path

    async def _search(self, path: Path, digest: str, asking: asyncio.TaskGroup) -> None:
        problems = []
        folder = self._options.folder / f"{path.stem[:80]}-{digest[:8]}"
        async for event in figures_of(path, folder, password=self._options.password):
            if isinstance(event, Opened):
                self.pages = event.pages
                await self._store.begin(digest, path, event.pages)
                continue
            self.page = event.page
            self.counts.pages += 1
            if isinstance(event, PageFailed):
                problems.append(f"{event.page}: {event.reason}")
                self._tell_unread(path, event.page, event.reason)
            elif isinstance(event, PageRead):
                for figure in event.figures:
                    await self._take(path, await self._store.add_figure(digest, figure), asking)
            if self.stopping:
                return
        await self._store.finish(digest, self.pages, problems)

    async def _take(self, path: Path, found: Found, asking: asyncio.TaskGroup) -> None:
        if found.figure.kind == "table":
            self.counts.tables += 1
            return
        self.counts.figures += 1
        await self._waiting.acquire()
        asking.create_task(self._read(path, found))

    async def _read(self, path: Path, found: Found) -> None:
        try:
            await self._read_and_keep(path, found)
        except HomescopeError as error:
            self._give_up(error)
        finally:
            self._waiting.release()

    def _give_up(self, error: HomescopeError) -> None:
        """Nothing else would go better: the first reason is the one to tell."""
        self.stopped = self.stopped or error
        self.stop()

    async def _read_and_keep(self, path: Path, found: Found) -> None:
        key = reading_key(found.figure.digest, self._options.model, self._options.with_words, self._options.prepared)
        number = await self._store.reading(found.id, key)
        if number is None:
            if self.stopping:
                return
            async with self._same[key]:
                outcome = await self._repeated(found, key) or await self._asked(found, key)
            number = await self._store.add_reading(found.id, outcome)
            if outcome.series is None:
                self.counts.failed += 1
                self._tell_unread(path, found.figure.page, outcome.reason)
                return
        else:
            self.counts.resumed += 1
        await self._finish(path, found, number)

    async def _finish(self, path: Path, found: Found, number: int) -> None:
        series = await self._store.series(number)
        alerts = alerts_of(series, self._options.rules)
        await self._store.set_alerts(number, alerts)
        self.counts.read += 1
        self.counts.alerts += len(alerts)
        self.counts.flags += len(series.flags)
        self._on_event(Read(path, found, series, tuple(alerts)))

    async def _repeated(self, found: Found, key: str) -> Outcome | None:
        """The answer about the same image elsewhere, with the caption that it has here."""
        twin = await self._store.twin(key)
        if twin is None:
            return None
        series = _series(found, Reading.model_validate_json(twin["answer"]), twin["words"])
        return Outcome(
            key, twin["model"], twin["prompt_version"], series, twin["reason"], twin["answer"], twin["words"],
            twin["request_id"],
        )  # fmt: skip

    async def _asked(self, found: Found, key: str) -> Outcome:
        """Raises HomescopeError where every other question would fail alike."""
        model, sent_as = self._options.model, await self._store.idempotency_key(key)
        try:
            async with self._pace.slot():
                answer = await self._session.ask(
                    found.figure.image, FIGURES, model=model, schema=Reading, parameters=PARAMETERS,
                    idempotency_key=sent_as,
                )  # fmt: skip
        except HomescopeError as error:
            if error.fatal or isinstance(error, ConnectionFailed):
                raise
            if isinstance(error, InvalidAnswer):
                await self._store.count_unfit(key)
            return Outcome(key, model, PROMPT_VERSION, reason=error.message, request_id=error.request_id)
        reading: Reading = answer.value
        self.counts.usage += answer.usage
        words, doubt = await self._words(found, sent_as) if self._options.with_words else ("", "")
        return Outcome(
            key, model, PROMPT_VERSION, _series(found, reading, words), doubt, reading.model_dump_json(), words,
            answer.request_id, answer.usage.input_tokens, answer.usage.output_tokens,
        )  # fmt: skip

    async def _words(self, found: Found, sent_as: str) -> tuple[str, str]:
        """The model's analysis, or why there is none: the figures stand without it."""
        try:
            async with self._pace.slot():
                answer = await self._session.ask(
                    found.figure.image, WORDS, model=self._options.model, parameters=PARAMETERS,
                    idempotency_key=sent_as,
                )  # fmt: skip
        except HomescopeError as error:
            if error.fatal or isinstance(error, ConnectionFailed):
                raise
            return "", f"no analysis: {error.message}"
        self.counts.usage += answer.usage
        return answer.text, ""

    def _tell_unread(self, path: Path, page: int, reason: str) -> None:
        event = Unread(path, page, reason)
        self.unread.append(event)
        self._on_event(event)


def _series(found: Found, reading: Reading, words: str) -> Series:
    series = series_of(reading, found.figure.caption, found.figure.nearby)
    return series.model_copy(update={"flags": (*series.flags, *words_flags(words, reading))})
