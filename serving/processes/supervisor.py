from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

log = logging.getLogger(__name__)

FIRST_PAUSE, MAX_PAUSE = 0.5, 30.0
STEADY_S = 60.0
"""A worker that lived for so long ended of something new: counting begins anew."""
GIVE_UP_AFTER = 5
"""Workers in a row that ended sooner."""
MISTAKE = 2
"""Exit code for what the operator has to put right; starting again changes nothing."""
TIDY_UP_S = 15.0
"""What a worker gets beyond the time that its requests have, before it is killed."""


@dataclass(eq=False, slots=True)
class Worker:
    """One process, and those that came before it in its place. `operators` is where it tells its metrics."""

    number: int
    operators: socket.socket | None
    process: asyncio.subprocess.Process | None = None
    began: float = 0.0
    restarts: int = 0

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.returncode is None


class Supervisor:
    """Starts the processes that serve, starts those again that die, and ends with them."""

    def __init__(
        self, listener: socket.socket, workers: list[Worker], environment: Mapping[str, str], *, patience: float
    ) -> None:
        """`patience` in seconds: how long requests may go on after a signal to stop."""
        self.workers = workers
        self.failure: str | None = None
        self._listener = listener
        self._environment = dict(environment)
        self._patience = patience
        self._stop = asyncio.Event()
        self._signal = signal.SIGTERM

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    async def run(self) -> int:
        """Until a signal, or until it makes no sense to go on. The exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._send, signal.SIGHUP)
        async with asyncio.TaskGroup() as group:
            for worker in self.workers:
                group.create_task(self._keep(worker))
        return 0 if self.failure is None else 1

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Has the workers end what they do; what is told a second time, and Ctrl-C, has them close their port at
        once."""
        self._signal = number
        self._stop.set()
        self._send(number)

    def fail(self, reason: str) -> None:
        self.failure = self.failure or reason
        self.stop()

    def _send(self, number: signal.Signals) -> None:
        for worker in self.workers:
            if worker.process is not None and worker.alive:
                with suppress(ProcessLookupError):
                    worker.process.send_signal(number)

    async def _keep(self, worker: Worker) -> None:
        early = 0
        while not self.stopping:
            code = await self._live(worker)
            if self.stopping:
                return
            early = 0 if time.monotonic() - worker.began > STEADY_S else early + 1
            log.error("worker %d ended with code %d", worker.number, code)
            if code == MISTAKE or early >= GIVE_UP_AFTER:
                self.fail(f"worker {worker.number} ended {early} times soon after its start, last with code {code}")
                return
            worker.restarts += 1
            with suppress(TimeoutError):
                async with asyncio.timeout(min(MAX_PAUSE, FIRST_PAUSE * 2.0**early)):
                    await self._stop.wait()

    async def _live(self, worker: Worker) -> int:
        """From the start of a process to its end; its exit code."""
        worker.began = time.monotonic()
        worker.process = await self._spawn(worker)
        if self.stopping:  # the signal came while it was being started
            worker.process.send_signal(self._signal)
        ended = asyncio.create_task(worker.process.wait())
        stopped = asyncio.create_task(self._stop.wait())
        await asyncio.wait([ended, stopped], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not ended.done():
            await asyncio.wait([ended], timeout=self._patience + TIDY_UP_S)
        if not ended.done():
            log.error("worker %d does not end, and is killed", worker.number)
            worker.process.kill()
        return await ended

    async def _spawn(self, worker: Worker) -> asyncio.subprocess.Process:
        """In a session of its own: Ctrl-C reaches this process alone, which tells the workers once."""
        sockets = [self._listener] if worker.operators is None else [self._listener, worker.operators]
        told = [str(each.fileno()) for each in sockets] + ["-"] * (2 - len(sockets))
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "serving.processes.worker", *told, str(os.getpid())),
            env=self._environment,
            pass_fds=[each.fileno() for each in sockets],
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
