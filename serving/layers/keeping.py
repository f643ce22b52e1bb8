"""The two layers that keep records, around those that a request meets between them."""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy.ext.asyncio import AsyncEngine

from serving.engine.base import Engine
from serving.layers.recorded import Drafts, Kept, Recorded, Witnessed
from serving.settings import Settings
from serving.storage.objects import Objects
from serving.storage.records.recorder import Recorder


class Keeping:
    """`inside` sees what references have become, `outside` what the request came as. Without a recorder neither is
    there."""

    def __init__(self, settings: Settings, recorder: Recorder | None) -> None:
        self._recorder = recorder
        self._drafts = Drafts()
        self._kept: Kept = "metadata" if settings.records == "off" else settings.records
        self._required = settings.records_required

    def inside(self, engine: Engine) -> Engine:
        if self._recorder is None:
            return engine
        return Witnessed(engine, self._recorder, self._drafts, kept=self._kept)

    def outside(self, engine: Engine) -> Engine:
        if self._recorder is None:
            return engine
        return Recorded(engine, self._recorder, self._drafts, kept=self._kept, required=self._required)


def recorder_of(
    settings: Settings, database: AsyncEngine, objects: Objects, clock: Callable[[], float] = time.time
) -> Recorder | None:
    if settings.records == "off":
        return None
    folder = settings.data / "records"
    return Recorder(database, objects, folder, days=settings.records_days, clock=clock)
