from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from serving.errors import Overloaded
from serving.media.work import LENGTH, Failure, Job, Result, decode_result, encode
from serving.media.worker import PARENT
from serving.turns import Turns

PIPE_BUFFER = 1 << 20
RETRY_AFTER = 2


class Workers:
    """Processes that decode what clients send, started when first needed, each with one job at a time.

    A file that breaks its process, or holds it for too long, costs that process only; so does a client that leaves.
    Those who wait, API keys, get them in turn.
    """

    def __init__(self, count: int, *, max_waiting: int = 256) -> None:
        """`max_waiting` jobs of one holder; more are refused."""
        self._free = count
        self._turns: Turns[asyncio.Future[None]] = Turns()
        self._idle: list[Process] = []
        self._ending: set[asyncio.Task[int]] = set()
        self._max_waiting = max_waiting

    async def do(self, job: Job, *, seconds: float, holder: str = "") -> Result:
        """A `Failure` also where the process died of the job or took longer than `seconds`. Raises
        `Overloaded` when too many of the holder's wait already."""
        async with self._place(holder):
            return await self._done(job, seconds)

    @asynccontextmanager
    async def _place(self, holder: str) -> AsyncGenerator[None, None]:
        if self._turns.of(holder) >= self._max_waiting:
            raise Overloaded(retry_after=RETRY_AFTER)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._turns.add(holder, turn)
        self._advance()
        try:
            await turn
            yield
        finally:
            if not self._turns.remove(holder, turn):
                self._free += 1
            self._advance()

    def _advance(self) -> None:
        while self._free and self._turns:
            holder, _ = self._turns.first
            turn = self._turns.take(holder)
            self._free -= 1
            if not turn.done():
                turn.set_result(None)

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
