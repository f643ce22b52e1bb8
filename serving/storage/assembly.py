from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy.ext.asyncio import AsyncEngine

from serving.settings import Settings
from serving.storage import objects
from serving.storage.claims import Claims
from serving.storage.files import Files, Quota
from serving.storage.sweeper import Sweeper
from serving.storage.uploads import Uploads


class Storage:
    """Where bytes are kept, and what is kept there."""

    def __init__(self, records: AsyncEngine, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self.records = records
        self.clock = clock
        self.objects = objects.at(settings.objects, settings.data)
        self.files = Files(
            records,
            self.objects,
            Quota(bytes=settings.max_files_bytes // 2, total=settings.max_files_bytes),
            clock=clock,
        )
        self.uploads = Uploads(
            records,
            self.objects,
            lifetime=settings.upload_hours * 3600,
            quota=settings.max_uploads_bytes // 2,
            total=settings.max_uploads_bytes,
            clock=clock,
        )
        self.claims = Claims(records, lifetime=settings.idempotency_hours * 3600, clock=clock)
        self._sweeper = Sweeper(self.files.sweep, self.uploads.sweep, self.claims.sweep)

    async def start(self) -> None:
        """To be called when the tables are there. Raises `OSError` if a folder cannot be written."""
        await self.objects.start()
        self._sweeper.start()

    async def aclose(self) -> None:
        await self._sweeper.aclose()
        await self.objects.aclose()
