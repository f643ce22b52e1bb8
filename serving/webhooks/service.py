from __future__ import annotations

import asyncio
from pathlib import Path

from serving.jobs.notices import KIND
from serving.jobs.queue import Queue
from serving.jobs.workers import Pace, Workers
from serving.settings import Settings
from serving.webhooks.callbacks import guard_of
from serving.webhooks.delivery import BACK_OFF, Deliveries
from serving.webhooks.secrets import SecretStore

CONCURRENCY = 16
FOLDER = "webhooks"


class Webhooks:
    """Delivers notices beside the work of the engine: it does not wait for that, nor that for slow receivers."""

    def __init__(self, queue: Queue, secrets: SecretStore, settings: Settings, pace: Pace | None = None) -> None:
        guard = guard_of(settings)
        self.deliveries = Deliveries(secrets, guard, timeout=settings.webhook_timeout, clock=secrets.clock)
        self._folder: Path = settings.data / FOLDER
        self._workers = Workers(
            queue,
            {KIND: self.deliveries},
            folder=self._folder,
            concurrency=CONCURRENCY,
            ready=_always,
            pace=pace or Pace(back_off=BACK_OFF),
        )

    async def start(self) -> None:
        await asyncio.to_thread(self._folder.mkdir, mode=0o700, parents=True, exist_ok=True)
        await self._workers.start()

    async def aclose(self) -> None:
        await self._workers.aclose()
        await self.deliveries.aclose()


async def _always() -> bool:
    return True
