"""The server as a process of its own, killed in the middle of a batch."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from serving.settings import Settings
from tests.ports import free_port
from tests.serving.compatible.test_batches import content, create, ended, line, upload
from tests.serving.compatible.wire import chat, user
from tests.serving.conftest import listening
from tests.serving.jobs.test_survival import ROOT, Cloud, Echo

pytestmark = pytest.mark.ring3

LINES = 80
KILLS = 2


@pytest.mark.timeout(180)
async def test_a_batch_outlives_its_server(settings: Settings, key: str) -> None:
    port = free_port()
    client = httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", headers={"authorization": f"Bearer {key}"}, trust_env=False, timeout=20
    )
    echo = Echo()
    async with listening(echo.app) as engine_url, client:
        command = [sys.executable, "-m", "serving", "run", "--port", str(port), "--engine-url", engine_url]
        named = {"HOMESCOPE_DATA": str(settings.data), "PYTHONPATH": str(ROOT)}
        cloud = Cloud(command, os.environ | named, client)
        try:
            await cloud.start()
            lines = [line(f"q{number}", body=chat(user(f"question {number}"))) for number in range(LINES)]
            batch_id = (await create(client, await upload(client, lines))).json()["id"]
            for kill in range(1, KILLS + 1):
                async with asyncio.timeout(30):
                    while len(echo.asked) < kill * LINES // (KILLS + 2):  # noqa: ASYNC110 - the engine has no event
                        await asyncio.sleep(0.005)
                await asyncio.sleep(random.uniform(0, 0.05))
                await cloud.kill()
                finished, asked = _finished(settings.data / "homescope.db"), len(echo.asked)
                await cloud.start()
                assert not finished & {question["text"] for question in echo.asked[asked:]}
            async with asyncio.timeout(90):
                batch = await ended(client, batch_id)
            assert not finished & {question["text"] for question in echo.asked[asked:]}
            output = await content(client, batch["output_file_id"])
            async with asyncio.timeout(30):
                while _left(settings.data / "homescope.db"):  # noqa: ASYNC110 - lines are deleted after the batch is told
                    await asyncio.sleep(0.05)
        finally:
            await cloud.kill()
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": LINES, "completed": LINES, "failed": 0}
    answers = [(each["custom_id"], each["response"]["body"]["choices"][0]["message"]["content"]) for each in output]
    assert answers == [(f"q{number}", f"question {number}") for number in range(LINES)]


def _finished(database: Path) -> set[str]:
    """The questions whose answers are on the disk."""
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT details FROM jobs WHERE state = 'SUCCEEDED'")
        return {"question " + json.loads(details)["custom_id"][1:] for (details,) in rows}


def _left(database: Path) -> int:
    with closing(sqlite3.connect(database)) as connection:
        return int(connection.execute("SELECT count(*) FROM jobs").fetchone()[0])
