from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from serving.jobs import tables
from serving.jobs.groups import Groups
from serving.jobs.queue import Queue
from serving.storage import database

assert tables.jobs.metadata is database.metadata


@dataclass
class Clock:
    """Epoch milliseconds, at the test's will."""

    now: int = 1_000_000

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def records(tmp_path: Path) -> AsyncGenerator[AsyncEngine, None]:
    records = database.at(tmp_path)
    await database.create_tables(records, tmp_path)
    yield records
    await database.close(records)


@pytest.fixture
def queue(records: AsyncEngine, clock: Clock) -> Queue:
    return Queue(records, clock)


@pytest.fixture
def groups(queue: Queue) -> Groups:
    return Groups(queue)
