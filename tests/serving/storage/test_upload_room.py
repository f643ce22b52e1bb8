from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from serving.errors import FileQuotaExceeded
from serving.settings import Settings
from serving.storage import database, objects
from serving.storage.uploads import Uploads
from tests.serving.storage.test_objects import pieces

MODEL = "qwen3-vl-30b"
MAX_BYTES = 1 << 20


async def test_uploads_at_the_same_time_do_not_get_beyond_the_quota_together(settings: Settings) -> None:
    records = database.at(settings.data)
    await database.create_tables(records, settings.data)
    store = objects.at(None, settings.data)
    await store.start()
    uploads = Uploads(records, store, quota=100, total=150)
    gate, begun = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncGenerator[bytes, None]:
        yield bytes(60)
        begun.set()
        await gate.wait()

    first = asyncio.create_task(uploads.keep("d/a", "me", MODEL, slow(), MAX_BYTES))
    await begun.wait()
    with pytest.raises(FileQuotaExceeded):
        await uploads.keep("d/b", "me", MODEL, pieces(bytes(60)), MAX_BYTES)
    gate.set()
    await first
    await uploads.keep("d/c", "you", MODEL, pieces(bytes(80)), MAX_BYTES)
    with pytest.raises(FileQuotaExceeded):  # of all together
        await uploads.keep("d/d", "them", MODEL, pieces(bytes(20)), MAX_BYTES)
    await uploads.keep("d/b", "me", MODEL, pieces(bytes(10)), MAX_BYTES)
    await store.aclose()
    await database.close(records)
