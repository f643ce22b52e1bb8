from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

import pytest

from client import Session
from client.pipeline import Work
from client.pipeline.store import Store
from client.pipeline.submit import Submitted, submit
from client.pipeline.worker import Settings, Worker
from client.retry import ONCE
from tests.client.conftest import png
from tests.client.server import Scripted

Documents: TypeAlias = Callable[..., list[str]]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A pipeline of its own, with a broker of its own."""
    return Settings(tmp_path / "pipeline", lease=5.0, tries=3)


@pytest.fixture
def documents(tmp_path: Path) -> Documents:
    """Makes folders of images, a document each: documents(3, 5) has 3 and 5, all different."""

    def make(*sizes: int) -> list[str]:
        folders = []
        for number, size in enumerate(sizes):
            folder = tmp_path / f"document-{number}"
            folder.mkdir()
            for page in range(size):
                (folder / f"{page}.png").write_bytes(png(number * 1000 + page))
            folders.append(str(folder))
        return folders

    return make


QUESTION = Work("", "", 0, "", prompt="?")


async def put(settings: Settings, sources: Sequence[str], question: Work = QUESTION) -> Submitted:
    async with settings.store() as store:
        return await submit(sources, question, store, settings.image_store())


def session(server: Scripted) -> Session:
    return Session(server.url, "sk-test", retry=ONCE)


async def worked(settings: Settings, server: Scripted, concurrency: int = 2) -> int:
    """A worker from its start until everything has ended."""
    async with session(server) as asking:
        return await Worker(settings, asking, concurrency).run(until_empty=True)


async def totals(store: Store) -> dict[str, int]:
    """Items in each state, over all documents."""
    counts = await store.counts()
    names = ("waiting", "queued", "running", "done", "failed", "dead")
    return {name: total for name in names if (total := sum(getattr(each, name) for each in counts))}


def beaten(heartbeat: Path, since: float = 0.0) -> float:
    """When a worker touched its file, at the first time after `since`; both are seconds of the Unix epoch."""
    while True:
        with suppress(FileNotFoundError):
            if (touched := heartbeat.stat().st_mtime) > since:
                return touched
        time.sleep(0.02)
