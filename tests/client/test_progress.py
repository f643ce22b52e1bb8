from __future__ import annotations

import asyncio
import io
from pathlib import Path

import pytest
from rich.console import Console

from client.batch import Batch
from client.ledger import Ledger
from client.models import Job
from client.pace import Pace
from client.progress import Progress, duration
from client.session import Session
from client.sources import walk
from tests.client.conftest import Folder
from tests.client.server import Scripted

JOB = Job("?")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (3600, "1 h 0 min"), (7500, "2 h 5 min")],
)
def test_duration(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize("terminal", [False, True])
async def test_shown_while_it_runs(server: Scripted, charts: Folder, tmp_path: Path, terminal: bool) -> None:
    words = ("0/3", "0 done", "2 in flight") if terminal else ("0 of 3: 0 done, 0 failed, 0 skipped; 0.0 images/s",)
    paths = list(walk([str(charts(3))]))
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=terminal, width=120, legacy_windows=False, color_system=None)
    server.gate.clear()
    async with Session(server.url, "k") as session:
        with Ledger(tmp_path / "out.jsonl", JOB) as ledger:
            batch = Batch(session, JOB, ledger, pace=Pace(2))
            progress = Progress(batch, console, lambda: len(paths), interval=0.01)
            async with progress.shown():
                running = asyncio.create_task(batch.run(paths))
                for _ in range(2):
                    await asyncio.to_thread(server.arrived.acquire)
                while any(word not in screen.getvalue() for word in words):  # noqa: ASYNC110 -- the screen tells nobody
                    await asyncio.sleep(0.01)
                batch.stop()
                server.gate.set()
                await running
    assert progress.line().startswith("2 of 3: 2 done, 0 failed, 0 skipped; ")
    assert " left; 220 tokens" in progress.line()
