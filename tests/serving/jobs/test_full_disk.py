"""A server whose disk takes no more: the kernel refuses each write beyond a size, as a full one does."""

from __future__ import annotations

import asyncio
import os
import sys

import httpx
import pytest

from serving.settings import Settings
from tests.ports import free_port
from tests.serving.conftest import PATH, listening
from tests.serving.jobs.test_survival import ASYNC, ROOT, Cloud, Echo
from tests.serving.wire import chat, user

pytestmark = pytest.mark.ring3

LIMIT_KIB = 1024
PADDING = "x" * 20_000


@pytest.mark.timeout(180)
async def test_a_full_disk_refuses_what_it_cannot_keep_and_loses_nothing(settings: Settings, key: str) -> None:
    port = free_port()
    headers = {"authorization": f"Bearer {key}"}
    client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, trust_env=False, timeout=30)
    named = {"HOMESCOPE_DATA": str(settings.data), "HOMESCOPE_ASYNC_TASKS": "true", "PYTHONPATH": str(ROOT)}
    async with listening(Echo().app) as engine_url, client:
        run = [sys.executable, "-m", "serving", "run", "--port", str(port), "--engine-url", engine_url]
        small = ["bash", "-c", f'ulimit -f {LIMIT_KIB}; exec "$@"', "bash", *run]
        cloud = Cloud(small, os.environ | named, client)
        try:
            await cloud.start()
            refused = await fill(cloud)
            assert refused.status_code == 503, refused.text
            assert refused.json()["code"] == "ServiceUnavailable"
            upload = {"file": ("in.jsonl", b"{}\n" * LIMIT_KIB * 700)}
            kept = await client.post("/v1/files", files=upload, data={"purpose": "batch"})
            assert kept.status_code in (503, 507), kept.text
            assert (await client.post(PATH, json=chat(user("hi")))).status_code == 200
            assert cloud.process is not None
            assert cloud.process.returncode is None
            await cloud.kill()
            cloud.command = run  # somebody has made room
            await cloud.start()
            async with asyncio.timeout(60):
                for task_id in cloud.accepted:
                    while not await cloud.look(task_id):  # noqa: ASYNC110 - nothing but asking tells
                        await asyncio.sleep(0.02)
        finally:
            await cloud.kill()
    assert cloud.accepted


async def fill(cloud: Cloud) -> httpx.Response:
    """Tasks until one is refused; its answer."""
    for number in range(400):
        text = f"{number} {PADDING}"
        response = await cloud.client.post(PATH, json=chat(user(text)), headers=ASYNC)
        if response.status_code != 200:
            return response
        cloud.accepted[response.json()["output"]["task_id"]] = text
    raise AssertionError("the disk was never full")
