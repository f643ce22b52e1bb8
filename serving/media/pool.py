from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process

from serving.errors import Overloaded
from serving.media.work import LENGTH, Failure, Job, Result, decode_result, encode
from serving.media.worker import PARENT

PIPE_BUFFER = 1 << 20
RETRY_AFTER = 2


class Workers:
    """Processes that decode what clients send, started when first needed, each with one job at a time.

    A file that breaks its process, or holds it for too long, costs that process only; so does a client that leaves.
    """

    def __init__(self, count: int, *, max_waiting: int = 256) -> None:
        self._places = asyncio.Semaphore(count)
        self._idle: list[Process] = []
        self._ending: set[asyncio.Task[int]] = set()
        self._max_waiting = max_waiting
        self._waiting = 0

    async def do(self, job: Job, *, seconds: float) -> Result:
        """A `Failure` also where the process died of the job or took longer than `seconds`. Raises
        `Overloaded` when too many wait already."""
        if self._waiting >= self._max_waiting:
            raise Overloaded(retry_after=RETRY_AFTER)
        self._waiting += 1
        try:
            await self._places.acquire()
        finally:
            self._waiting -= 1
        try:
            return await self._done(job, seconds)
        finally:
            self._places.release()

    async def aclose(self) -> None:
        for worker in self._idle:
            self._end(worker)
        self._idle.clear()
        if self._ending:
            await asyncio.wait(self._ending)

    async def _done(self, job: Job, seconds: float) -> Result:
        worker = self._idle.pop() if self._idle else await _start()
        intact = False
        try:
            async with asyncio.timeout(seconds):
                result = await _asked(worker, encode(job))
            intact = True
            return result
        except TimeoutError:
            return Failure(f"decoding it takes more than {seconds:.0f} s")
        except (asyncio.IncompleteReadError, ConnectionError, ValueError):
            return Failure("the decoder broke on it")
        finally:
            if intact:
                self._idle.append(worker)
            else:
                self._end(worker)

    def _end(self, worker: Process) -> None:
        if worker.returncode is None:
            worker.kill()
        assert worker.stdin is not None
        worker.stdin.close()
        ending = asyncio.create_task(worker.wait())
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)


async def _start() -> Process:
    environment = os.environ | {PARENT: str(os.getpid())}
    command = (sys.executable, "-m", "serving.media.worker")
    return await asyncio.create_subprocess_exec(
        *command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=environment, limit=PIPE_BUFFER
    )


async def _asked(worker: Process, question: bytes) -> Result:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(LENGTH.pack(len(question)))
    worker.stdin.write(question)
    await worker.stdin.drain()
    (length,) = LENGTH.unpack(await worker.stdout.readexactly(LENGTH.size))
    return decode_result(await worker.stdout.readexactly(length))
