from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.errors import StorageUnavailable
from serving.jobs.groups import Groups
from serving.jobs.identity import Identity
from serving.jobs.job import Job
from serving.jobs.leases import Leases
from serving.jobs.queue import Queue
from serving.jobs.run import BACK_OFF, Kind, Run

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """How often workers do what nobody tells them to do; in seconds.

    Leases are renewed, and lapsed ones looked for, every `keep`: two renewals may fail before a `lease` lapses. `poll`
    passes until work is looked for that nobody announced: what waited for its retry, or came from another process. An
    engine that was ready is taken to be so for `ready_for`, because asking costs it as much as a short answer. What
    failed waits for each of `back_off` in turn, give or take a fifth; then it is given up.
    """

    lease: float = 60.0
    keep: float = 15.0
    poll: float = 1.0
    ready_for: float = 5.0
    back_off: tuple[float, ...] = BACK_OFF


class Workers:
    """Does the jobs in the queue, `concurrency` of them at a time, in tasks of the running loop."""

    def __init__(
        self,
        queue: Queue,
        kinds: dict[str, Kind],
        *,
        folder: Path,
        concurrency: int,
        ready: Callable[[], Awaitable[bool]],
        pace: Pace | None = None,
    ) -> None:
        """`folder` is the server's data folder; nothing is begun while the engine is not `ready`."""
        self._queue = queue
        self._groups = Groups(queue)
        self._kinds = kinds
        self._folder = folder
        self._concurrency = concurrency
        self._ready = ready
        self._pace = pace or Pace()
        self._ready_until = float("-inf")
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._running: dict[asyncio.Task[None], Run] = {}
        self._loops: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._identity = Identity(self._folder)
        words = {name: kind.failure for name, kind in self._kinds.items()}
        self._leases = Leases(
            self._queue,
            self._identity.name,
            words,
            lease_ms=round(self._pace.lease * 1e3),
            max_attempts=len(self._pace.back_off) + 1,
        )
        await self._leases.recover(self._identity.former)
        self._queue.on_submit(self._wake.set)
        self._loops = [asyncio.create_task(self._dispatch()), asyncio.create_task(self._keep())]

    async def aclose(self) -> None:
        """Begins nothing more, stops what runs and gives it back, so that it is taken up again at once."""
        self._stopping.set()
        self._wake.set()
        if self._loops:  # let go of by themselves: a cancellation could fall between a lease and its run
            await asyncio.wait(self._loops)
            for run in self._running.values():
                run.stop()
            if self._running:
                await asyncio.wait(self._running)
            self._identity.close()

    async def _dispatch(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            if not await _survive(self._begin()):
                await _wait(self._wake, self._pace.poll)

    async def _begin(self) -> int:
        """Begins what there is place for. Returns how many."""
        free = self._concurrency - len(self._running)
        if free <= 0 or not await self._leases.due() or not await self._engine_ready():
            return 0
        taken = await self._leases.take(free)
        for job in taken:
            self._spawn(job)
        return len(taken)

    async def _engine_ready(self) -> bool:
        now = asyncio.get_running_loop().time()
        if now < self._ready_until:
            return True
        if not await self._ready():
            return False
        self._ready_until = now + self._pace.ready_for
        return True

    def _spawn(self, job: Job) -> None:
        run = Run(job, self._kinds[job.kind], self._leases, self._pace.back_off)
        task = asyncio.create_task(self._finish(run))
        self._running[task] = run
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        run = self._running.pop(task)
        if run.engine_failed:
            self._ready_until = float("-inf")
        self._wake.set()

    async def _finish(self, run: Run) -> None:
        await run.finish(self._queue.clock())
        if run.job.group is not None:
            await _survive(self._tell([run.job.group]))

    async def _tell(self, groups: Iterable[str]) -> None:
        """Tells those whose groups have ended."""
        for group in groups:
            progress = await self._groups.progress(group)
            if progress is not None and progress.ended:
                for kind in self._kinds.values():
                    await kind.group_ended(group)

    async def _keep(self) -> None:
        while not self._stopping.is_set():
            await _survive(self._renew())
            await _survive(self._tidy())
            await _wait(self._stopping, self._pace.keep)

    async def _renew(self) -> None:
        runs = list(self._running.values())
        held = await self._leases.renew([run.job for run in runs])
        running = set(self._running.values())
        for run in runs:
            if run.job.id not in held and run in running:
                run.lose()

    async def _tidy(self) -> None:
        await self._tell([*await self._leases.recover(), *await self._leases.expire()])
        for name, kind in self._kinds.items():
            if kind.keep_ms is not None:
                await self._queue.sweep(name, self._queue.clock() - kind.keep_ms)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


async def _survive(step: Coroutine[Any, Any, Any]) -> Any:
    """Whatever a step fails of, and be it a full disk, the next one may succeed."""
    try:
        return await step
    except StorageUnavailable:
        pass  # has been logged
    except Exception:
        log.exception("the queue could not be worked on")
    return None
