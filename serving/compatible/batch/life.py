from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from pathlib import Path

from sqlalchemy.exc import IntegrityError

from serving.compatible.batch import lines, results, trial
from serving.compatible.batch.leader import Leader
from serving.compatible.batch.lines import Check, Line, Problem
from serving.compatible.batch.record import ACTIVE, LEASE, Batch, Records, Status
from serving.compatible.batch.work import KIND
from serving.errors import FileMissing, ServingError
from serving.jobs.groups import Groups
from serving.jobs.job import NewJob, Progress, State
from serving.storage.files import Files

log = logging.getLogger(__name__)

PRIORITY = -10
"""Of jobs: behind the tasks that a person waits for."""
ADD_AT_ONCE = 250
HEAVY_AT_ONCE = 2
"""Batches whose files are read or written at a time."""
POLL = 10.0
"""Seconds until a batch is looked at that nobody announced."""
AGAIN = 5.0
"""Seconds after which a step that failed, of a full disk or a quota, is tried again; doubled each time."""
AGAIN_AT_LEAST = 300.0
LOOK = 1.0
"""Seconds until batches are looked for that another process has taken in."""
NO_INPUT = Problem("file_not_found", "The input file does not exist any more.", "input_file_id")


class Lives:
    """Leads batches from `validating` to their end, each in a task of its own and under a lease in the database.

    Every step may be cut off and is then repeated: lines are jobs whose ids follow from the batch and their number, and
    files have ids that follow from the batch. So a killed server goes on where it was.
    """

    def __init__(
        self, records: Records, files: Files, groups: Groups, models: tuple[str, ...], folder: Path | None = None
    ) -> None:
        """Of the processes that share a data `folder` one leads; None is a process on its own. Machines that share the
        database lead each its own batches, and those of a machine that died once its leases have lapsed."""
        self._records = records
        self._leader = Leader(folder)
        self._kept_at = 0
        self._looking: asyncio.Task[None] | None = None
        self._files = files
        self._groups = groups
        self._models = models
        self._heavy = asyncio.Semaphore(HEAVY_AT_ONCE)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._news: dict[str, asyncio.Event] = {}

    async def start(self) -> None:
        await self._look()
        self._looking = asyncio.create_task(self._look_for_ever())

    async def aclose(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
        tasks = [*self._tasks.values(), *([] if self._looking is None else [self._looking])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._leader.name:
            with suppress(Exception):  # without a database the leases lapse
                await self._records.release(self._leader.name)
        self._leader.close()

    async def _look_for_ever(self) -> None:
        """For what other processes have taken in, or left behind."""
        while True:
            await asyncio.sleep(LOOK)
            try:
                await self._look()
            except Exception as error:
                log.warning("batches cannot be looked for: %s", type(error).__name__)

    async def _look(self) -> None:
        if not self._leader.leads():
            return
        if self._leader.former is not None:
            await self._records.release(self._leader.former)
            self._leader.former = None
        await self._keep()
        for batch_id, status in await self._records.unfinished(self._leader.name):
            if batch_id not in self._tasks:
                self.lead(batch_id)
            elif status is Status.CANCELLING:
                self.tell(batch_id)

    async def _keep(self) -> None:
        """Prolongs the leases in time, and leaves the batches that another machine has taken over."""
        now, ours = self._records.now(), set(self._tasks)
        if not ours or abs(now - self._kept_at) < LEASE / 4:
            return
        self._kept_at = now
        for lost in ours - await self._records.claim(ours, self._leader.name):
            if lost in self._tasks:
                log.warning("batch %s is led by another machine now", lost)
                self._tasks[lost].cancel()

    def lead(self, batch_id: str) -> None:
        """From wherever it is to its end. Where another process leads, that one will find it."""
        if batch_id in self._tasks or not self._leader.leads():
            return
        self._news[batch_id] = asyncio.Event()
        task = asyncio.create_task(self._persist(batch_id))
        self._tasks[batch_id] = task
        task.add_done_callback(lambda _: self._forget(batch_id))

    def tell(self, batch_id: str) -> None:
        """That something has happened to the batch: its last line has ended, or it is to be cancelled."""
        if batch_id in self._news:
            self._news[batch_id].set()

    def _forget(self, batch_id: str) -> None:
        del self._tasks[batch_id], self._news[batch_id]

    async def _persist(self, batch_id: str) -> None:
        pause = AGAIN
        while True:
            try:
                if await self._records.claim([batch_id], self._leader.name):
                    await self._lead(batch_id)
            except ServingError as error:
                log.warning("batch %s goes on in %d s: %s", batch_id, pause, error.message)
            except Exception:
                log.exception("batch %s goes on in %d s", batch_id, pause)
            else:
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, AGAIN_AT_LEAST)

    async def _lead(self, batch_id: str) -> None:
        """One step after the other, each as the batch says that it is its turn."""
        while True:
            # In this order: a group is deleted after the end of its batch, and would else be taken for one not begun.
            progress = await self._groups.progress(batch_id)
            batch = await self._records.find(batch_id)
            if batch is None or batch.status not in ACTIVE:
                break
            if batch.status is Status.VALIDATING:
                await self._validate(batch)
            elif batch.status is not Status.CANCELLING and (progress is None or not progress.sealed):
                await self._feed(batch)
            elif progress is None:
                await self._records.move(batch_id, [Status.CANCELLING], Status.CANCELLED)
            elif progress.ended:
                await self._finish(batch, progress)
            elif not progress.stopped and self._over(batch):
                await self._groups.stop(batch_id)
            else:
                await self._wait(batch)
        await self._groups.delete(batch_id)
        await self._records.clear(batch_id)

    def _over(self, batch: Batch) -> bool:
        return batch.status is Status.CANCELLING or self._records.now() >= batch.expires_at

    async def _wait(self, batch: Batch) -> None:
        news = self._news[batch.id]
        left = batch.expires_at - self._records.now()
        with suppress(TimeoutError):
            async with asyncio.timeout(min(left, POLL) if left > 0 else POLL):
                await news.wait()
        news.clear()

    async def _validate(self, batch: Batch) -> None:
        check = self._check(batch)
        if self._over(batch):
            await self._records.move(batch.id, [Status.VALIDATING], Status.EXPIRED)
            return
        try:
            async with self._heavy:
                await check.read(await self._input(batch))
        except FileMissing:
            check.problems.append(NO_INPUT)
        if check.problems:
            problems = [problem.to_json() for problem in check.problems]
            await self._records.move(batch.id, [Status.VALIDATING], Status.FAILED, errors=problems)
        else:
            await self._records.move(batch.id, [Status.VALIDATING], Status.IN_PROGRESS, total=check.lines)

    def _check(self, batch: Batch) -> Check:
        if batch.endpoint == trial.ENDPOINT:
            return Check(batch.endpoint, (trial.MODEL,), trial.MAX_LINES)
        return Check(batch.endpoint, self._models)

    async def _feed(self, batch: Batch) -> None:
        """Makes jobs of the lines that are none yet."""
        with suppress(IntegrityError):
            await self._groups.open(batch.id)
        progress = await self._groups.progress(batch.id)
        done = progress.total if progress is not None else 0
        async with self._heavy:
            try:
                async with aclosing(_jobs(batch, lines.split(await self._input(batch)), done)) as chunks:
                    async for chunk in chunks:
                        await self._groups.add(batch.id, chunk)
            except FileMissing:
                await self._records.note(batch.id, [NO_INPUT.to_json()])
            except ValueError:  # stopped meanwhile
                return
        await self._groups.seal(batch.id)

    async def _input(self, batch: Batch) -> AsyncGenerator[bytes, None]:
        return self._files.read(await self._files.get(batch.input_file_id, batch.owner))

    async def _finish(self, batch: Batch, progress: Progress) -> None:
        if batch.status is Status.IN_PROGRESS:
            await self._records.move(batch.id, [Status.IN_PROGRESS], Status.FINALIZING)
            return
        expired = batch.status is Status.FINALIZING and progress.stopped
        async with self._heavy:
            output = await self._write(batch, "output", self._outputs(batch)) if progress.succeeded else None
            missed = progress.failed + progress.canceled
            errors = await self._write(batch, "error", self._errors(batch, expired=expired)) if missed else None
        end = Status.CANCELLED if batch.status is Status.CANCELLING else _end(batch, expired=expired)
        await self._records.move(
            batch.id,
            [batch.status],
            end,
            output_file_id=output,
            error_file_id=errors,
            completed=progress.succeeded,
            failed=progress.failed,
        )

    async def _write(self, batch: Batch, kind: str, content: AsyncGenerator[bytes, None]) -> str:
        """A file of the batch's owner; its id. One that a cut off attempt has added is kept."""
        async with aclosing(content):
            stored = await self._files.receive(content)
        name, file_id = (
            f"{batch.id}_{kind}.jsonl",
            f"file-batch_{kind}-{batch.id.removeprefix('batch_').replace('-', '')}",
        )
        file = await self._files.add(stored, owner=batch.owner, name=name, purpose=f"batch_{kind}", id=file_id)
        return file.id

    async def _outputs(self, batch: Batch) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._groups.ended(batch.id, State.SUCCEEDED)) as ended:
            async for _, line in ended:
                yield line

    async def _errors(self, batch: Batch, *, expired: bool) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._groups.ended(batch.id, State.FAILED)) as ended:
            async for job, _ in ended:
                yield results.failed(job)
        async with aclosing(self._groups.ended(batch.id, State.CANCELED)) as ended:
            async for job, _ in ended:
                yield results.skipped(job, expired=expired)


def _end(batch: Batch, *, expired: bool) -> Status:
    return Status.FAILED if batch.errors else Status.EXPIRED if expired else Status.COMPLETED


async def _jobs(batch: Batch, source: AsyncGenerator[Line, None], skip: int) -> AsyncGenerator[list[NewJob], None]:
    """A job for each line, but for the first `skip` ones; some at a time."""
    chunk: list[NewJob] = []
    number = 0
    async with aclosing(source):
        async for line in source:
            if number >= skip:
                chunk.append(_job(batch, number, line))
            number += 1
            if len(chunk) == ADD_AT_ONCE:
                yield chunk
                chunk = []
    if chunk:
        yield chunk


def _job(batch: Batch, number: int, line: Line) -> NewJob:
    custom_id, _ = lines.asked(line.data)
    return NewJob(
        trial.KIND if batch.endpoint == trial.ENDPOINT else KIND,
        batch.caller,
        details={"file": batch.input_file_id, "custom_id": custom_id, "start": line.start, "end": line.end},
        priority=PRIORITY,
        number=number,
        id=str(uuid.uuid5(_uuid(batch), str(number))),
    )


def _uuid(batch: Batch) -> uuid.UUID:
    return uuid.UUID(batch.id.removeprefix("batch_"))
