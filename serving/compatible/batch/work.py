from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace

from serving.access.keyring import Keyring
from serving.chat import Question
from serving.compatible.batch import lines, results
from serving.compatible.reading import Reading
from serving.engine.base import Engine
from serving.errors import RequestTimeout, ServingError
from serving.jobline import Run, logged
from serving.jobs.job import Failure, Job
from serving.storage.files import Files

KIND = "batch-line"


class LineWork:
    """Answers the lines of batches, one job each, through the same layers as a request, behind those of people."""

    keep_ms = None

    def __init__(
        self,
        engine: Engine,
        files: Files,
        keyring: Keyring,
        reading: Reading,
        *,
        timeout: float,
        on_end: Callable[[str], None],
    ) -> None:
        """`timeout` in seconds, of one line; `on_end` is told the batch whose last line has ended."""
        self._engine = engine
        self._files = files
        self._keyring = keyring
        self._reading = reading
        self._timeout = timeout
        self._on_end = on_end

    async def run(self, job: Job) -> bytes:
        with logged(job) as run:
            _, body = lines.asked(await self._line(job))
            caller = await self._keyring.now(job.caller)
            question = self._reading.question(body, request_id=job.id, caller=caller, timeline=run.timeline)
            run.model, run.images = question.generation.model, len(question.generation.images)
            await self._answer(question, run)
        return results.answered(job, question.rendering.whole(run.answer))

    def failure(self, error: ServingError) -> Failure:
        return results.failure(error)

    async def group_ended(self, group: str) -> None:
        self._on_end(group)

    async def _line(self, job: Job) -> bytes:
        """Raises `FileMissing` if the input has been deleted since."""
        file = await self._files.get(job.details["file"], job.caller.key_id)
        pieces = self._files.read(file, job.details["start"], job.details["end"])
        async with aclosing(pieces):
            return b"".join([piece async for piece in pieces])

    async def _answer(self, question: Question, run: Run) -> None:
        """When the time is over, what there is of it, as for a request."""
        generation = replace(question.generation, priority="background", resolve_oss=True)
        try:
            async with asyncio.timeout(self._timeout), aclosing(self._engine.generate(generation)) as chunks:
                async for chunk in chunks:
                    run.add(chunk)
        except TimeoutError:
            if not run.answer.begun:
                raise RequestTimeout from None
            run.answer.cut()
            run.outcome = "partial"
