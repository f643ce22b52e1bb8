from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy.ext.asyncio import AsyncEngine

from serving.access.keyring import Keyring
from serving.compatible.batch.life import Lives
from serving.compatible.batch.record import Records
from serving.compatible.batch.trial import TrialWork
from serving.compatible.batch.work import LineWork
from serving.compatible.batches import Batches
from serving.compatible.reading import Reading
from serving.engine.base import Engine
from serving.jobs.groups import Groups
from serving.jobs.queue import Queue
from serving.settings import Settings
from serving.storage.files import Files
from serving.webhooks.callbacks import Callbacks


class BatchService:
    """The parts of which batches are made: `endpoints` for clients, `work` and `trial` for the workers of the queue."""

    def __init__(
        self,
        database: AsyncEngine,
        queue: Queue,
        files: Files,
        engine: Engine,
        keyring: Keyring,
        settings: Settings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        callbacks = Callbacks(settings)
        records, groups = Records(database, clock, hooks=callbacks.hooks), Groups(queue)
        self._lives = Lives(records, files, groups, settings.served_models, settings.data)
        self.endpoints = Batches(records, self._lives, groups, files, callbacks, most=settings.max_batches)
        self.work = LineWork(
            engine, files, keyring, Reading(settings), timeout=settings.request_timeout, on_end=self._lives.tell
        )

        self.trial = TrialWork(self._lives.tell)

    async def start(self) -> None:
        """Goes on with the batches of an earlier process. To be called once the workers run."""
        await self._lives.start()

    async def aclose(self) -> None:
        await self._lives.aclose()
