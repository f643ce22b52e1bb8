"""The operators' port of a server of several processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
import orjson
from prometheus_client.core import Metric
from starlette.routing import Route

from serving.exchange import Exchange
from serving.ops import Probe
from serving.processes.supervisor import Supervisor, Worker
from serving.processes.totals import Totals, told
from serving.server import url_of

UP, RESTARTS = "homescope_worker_up", "homescope_worker_restarts"
WITHIN = aiohttp.ClientTimeout(total=5)
"""Seconds; Prometheus waits for ten."""


class Operators:
    """Asks the workers, and answers for all of them. Without sockets of their own they are not asked."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._totals = Totals()
        self._pids: dict[int, int] = {}

    def probes(self) -> list[Route]:
        async def livez(exchange: Exchange) -> None:
            await exchange.answer(200, orjson.dumps({"status": "alive"}))

        async def readyz(exchange: Exchange) -> None:
            if self._supervisor.stopping:
                await exchange.answer(503, orjson.dumps({"status": "the server is stopping"}))
            elif 200 in [status for status, _ in await self._asked("/readyz")]:
                await exchange.answer(200, orjson.dumps({"status": "ready"}))
            else:
                await exchange.answer(503, orjson.dumps({"status": "no worker is ready"}), {"retry-after": "2"})

        return [Route("/livez", Probe(livez)), Route("/readyz", Probe(readyz))]

    async def replicas(self) -> list[dict[str, Any]]:
        """As the workers see them together: in use if any of them can, and with what all of them gave it."""
        found: dict[str, dict[str, Any]] = {}
        for status, text in await self._asked("/replicas"):
            for each in orjson.loads(text)["replicas"] if status == 200 else ():
                known = found.setdefault(each["url"], each | {"in_flight": 0, "ready": False})
                known["in_flight"] += each["in_flight"]
                known["ready"] = known["ready"] or each["ready"]
        return list(found.values())

    async def metrics(self) -> bytes:
        """The sum of what the workers tell, and how they do."""
        for (status, text), worker in zip(await self._asked("/metrics"), self._supervisor.workers, strict=True):
            pid = worker.process.pid if worker.process is not None else 0
            if (before := self._pids.get(worker.number)) not in (None, pid):
                self._totals.ended(before or 0)
            self._pids[worker.number] = pid
            if status == 200:
                self._totals.tell(pid, text)
        return self._totals.text(
            [
                self._of(UP, "Whether the process runs", lambda worker: worker.alive),
                self._of(RESTARTS, "Processes that ended unasked", lambda worker: worker.restarts),
            ]
        )

    def _of(self, name: str, words: str, value: Callable[[Worker], float]) -> Metric:
        values = {str(worker.number): float(value(worker)) for worker in self._supervisor.workers}
        return told(name, words, values, "worker")

    async def _asked(self, path: str) -> list[tuple[int, str]]:
        async with aiohttp.ClientSession(timeout=WITHIN) as session:
            return await asyncio.gather(*(self._ask(session, worker, path) for worker in self._supervisor.workers))

    async def _ask(self, session: aiohttp.ClientSession, worker: Worker, path: str) -> tuple[int, str]:
        """The status 0 is no answer."""
        if worker.operators is None or not worker.alive:
            return 0, ""
        try:
            async with session.get(url_of(worker.operators) + path) as response:
                return response.status, await response.text()
        except (aiohttp.ClientError, TimeoutError, OSError):
            return 0, ""
