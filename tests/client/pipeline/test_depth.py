"""How much waits is asked in each round of a worker, which may be stopped at any moment of it: a connection of its own
for that was left behind."""

from __future__ import annotations

import asyncio
import gc
import warnings
from pathlib import Path

import pytest

from client.pipeline.brokers import queue
from client.pipeline.embedded import EmbeddedBroker

pytestmark = [pytest.mark.ring3, pytest.mark.timeout(60)]


async def test_whoever_is_cancelled_leaves_no_connection_behind(tmp_path: Path) -> None:
    async with EmbeddedBroker(tmp_path / "broker") as broker:
        work = queue(broker.url, patience=2)
        await work.start()
        with warnings.catch_warnings(record=True) as leaks:
            warnings.simplefilter("always", ResourceWarning)
            for turns in range(60):
                asking = asyncio.create_task(work.depth())
                for _ in range(turns):
                    await asyncio.sleep(0)
                asking.cancel()
                await asyncio.wait([asking])
            gc.collect()
        await work.stop()
    assert [str(leak.message) for leak in leaks if issubclass(leak.category, ResourceWarning)] == []
