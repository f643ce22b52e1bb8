from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import Protocol

from sqlalchemy.exc import SQLAlchemyError

from serving.errors import EngineUnavailable, InternalError, Overloaded, ServingError, StorageUnavailable, TaskTimeout
from serving.jobs.job import Failure, Job
from serving.jobs.leases import Leases

log = logging.getLogger(__name__)

BACK_OFF = (1.0, 5.0, 30.0, 120.0)
"""Seconds between attempts."""
STORE_AGAIN = 15.0
"""Seconds until a job is tried again for which a store was away: five attempts would be over after 156 s."""
RECORD_AGAIN = (0.5, 2.0, 8.0)
"""Seconds between attempts to write down how a run ended; then its lease lapses, and the job is run again."""
RUN_TIMEOUT = 3 * 3600.0
"""Seconds that one run may take; the cloud gives a task as long."""


class Kind(Protocol):
    """What does the jobs of one kind."""

    @property
    def keep_ms(self) -> int | None:
        """How long ended jobs of no group are kept; None for ever."""
        ...

    async def run(self, job: Job) -> bytes:
        """The result. May be called again for a job whose run was cut off. Raises `ServingError`; one that is
        `retryable` has the job run again later."""
        ...

    def failure(self, error: ServingError) -> Failure:
        """The error in the words of the protocol in which the job was handed in."""
        ...

    async def group_ended(self, group: str) -> None:
        """Called when the last job of a sealed group has ended; sometimes twice, and not for what ended before the
        seal or in an earlier life of the server. Groups of other kinds are to be ignored."""
        ...


class Run:
    """One run of a job under its lease, which ends the job or lets it wait again."""

    def __init__(self, job: Job, kind: Kind, leases: Leases, back_off: Sequence[float] = BACK_OFF) -> None:
        self.job = job
        self._pauses = back_off
        self.engine_failed = False
        self._leases = leases
        self._work = asyncio.create_task(kind.run(job))
        self._lost = False

    def stop(self) -> None:
        """The job is given back."""
        self._work.cancel()

    def lose(self) -> None:
        """Stops what another run has taken over."""
        self._lost = True
        self._work.cancel()

    async def finish(self, now: int) -> None:
        """Waits for the end of the run, and writes it down."""
        left = RUN_TIMEOUT if self.job.deadline is None else (self.job.deadline - now) / 1e3
        done, _ = await asyncio.wait([self._work], timeout=min(max(left, 0.0), RUN_TIMEOUT))
        if not done:
            self._work.cancel()
            await asyncio.wait([self._work])
        for pause in (*RECORD_AGAIN, None):
            try:
                await (self._record() if done else self._leases.fail(self.job, TaskTimeout()))
            except (StorageUnavailable, SQLAlchemyError) as error:
                log.warning("the end of job %s could not be written down: %s", self.job.id, type(error).__name__)
            else:
                return
            if pause is not None:
                await asyncio.sleep(pause)

    async def _record(self) -> None:
        if self._work.cancelled():
            if not self._lost:
                await self._leases.give_back(self.job)
            return
        error = self._work.exception()
        if error is None:
            await self._leases.succeed(self.job, self._work.result())
        elif isinstance(error, ServingError):
            await self._record_refusal(error)
        else:
            log.error("job %s failed", self.job.id, exc_info=error)
            await self._leases.retry(self.job, self._back_off, InternalError())

    async def _record_refusal(self, error: ServingError) -> None:
        self.engine_failed = isinstance(error, EngineUnavailable)
        if isinstance(error, Overloaded):  # no fault of the job, which may wait for as long as others fill the server
            await self._leases.give_back(self.job, self._back_off)
        elif isinstance(error, StorageUnavailable):  # neither: accepted work outlasts an outage, however long
            await self._leases.give_back(self.job, _about(STORE_AGAIN))
        elif error.retryable:
            await self._leases.retry(self.job, self._back_off, error)
        else:
            await self._leases.fail(self.job, error)

    @property
    def _back_off(self) -> int:
        """Milliseconds."""
        return _about(self._pauses[min(self.job.attempts, len(self._pauses)) - 1])


def _about(pause: float) -> int:
    """In milliseconds; jobs that failed together do not come back together."""
    return round(pause * random.uniform(800, 1200))
