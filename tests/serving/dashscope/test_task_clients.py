"""The official client's task calls while a task waits or runs, which only a held engine shows; that tasks are answered
is in `tests/conformance`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import dashscope
import httpx
import pytest
from dashscope.client.base_api import BaseAsyncAioApi, BaseAsyncApi
from dashscope.v2.resources._jobs import Job as ClientJob
from dashscope.v2.resources._jobs import JobList

from serving.settings import Settings
from tests.fakes import FakeEngine
from tests.serving.conftest import Server
from tests.serving.wire import data_uri, picture

T = TypeVar("T")
INPUT = {"messages": [{"role": "user", "content": [{"image": data_uri(picture())}, {"text": "图表里的营收是多少？"}]}]}
SERVICE = {"task_group": "aigc", "task": "multimodal-generation", "function": "generation"}
MODEL = "qwen3-vl-30b"
REFUSED = "Failed to cancel the task, please confirm if the task is in PENDING status."

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path / "data", async_tasks=True, background_concurrency=1)


@pytest.fixture
def key_of(server: Server) -> Iterator[str]:
    before = dashscope.base_http_api_url
    dashscope.base_http_api_url = f"{server.url}/api/v1"
    yield server.key
    dashscope.base_http_api_url = before


async def in_thread(call: Callable[[], T]) -> T:
    return await asyncio.to_thread(call)


async def test_the_sync_client_fetches_cancels_and_lists(key_of: str, engine: FakeEngine) -> None:
    gate = asyncio.Event()
    engine.enqueue("later", gate=gate)
    running = await in_thread(lambda: BaseAsyncApi.async_call(MODEL, INPUT, **SERVICE, api_key=key_of))
    await engine.began.wait()
    waiting = await in_thread(lambda: BaseAsyncApi.async_call(MODEL, INPUT, **SERVICE, api_key=key_of))
    fetched = await in_thread(lambda: BaseAsyncApi.fetch(running, api_key=key_of))
    assert fetched.output["task_status"] == "RUNNING"
    refused = await in_thread(lambda: BaseAsyncApi.cancel(running, api_key=key_of))
    assert (refused.status_code, refused.code, refused.message) == (400, "UnsupportedOperation", REFUSED)
    canceled = await in_thread(lambda: BaseAsyncApi.cancel(waiting, api_key=key_of))
    assert canceled.status_code == 200
    listed = await in_thread(lambda: BaseAsyncApi.list(status="CANCELED", api_key=key_of))
    assert [task["task_id"] for task in listed.output["data"]] == [waiting.output["task_id"]]
    unknown = await in_thread(lambda: BaseAsyncApi.wait("1111", api_key=key_of))
    assert unknown.output["task_status"] == "UNKNOWN"
    gate.set()


async def test_the_aio_client_fetches_cancels_and_lists(key_of: str, engine: FakeEngine) -> None:
    gate = asyncio.Event()
    engine.enqueue("later", gate=gate)
    running = await BaseAsyncAioApi.async_call(MODEL, INPUT, **SERVICE, api_key=key_of)
    await engine.began.wait()
    waiting = await BaseAsyncAioApi.async_call(MODEL, INPUT, **SERVICE, api_key=key_of)
    fetched = await BaseAsyncAioApi.fetch(running, api_key=key_of)
    assert fetched.output["task_status"] == "RUNNING"
    canceled = await BaseAsyncAioApi.cancel(waiting, api_key=key_of)
    assert canceled.status_code == 200
    listed = await BaseAsyncAioApi.list(page_size=1, api_key=key_of)
    assert (listed.output["total"], len(listed.output["data"])) == (2, 1)
    gate.set()


async def test_the_new_clients_jobs_read_what_is_told(server: Server, engine: FakeEngine) -> None:
    async with httpx.AsyncClient(base_url=server.url, headers=server.headers) as client:
        path = "/api/v1/services/aigc/multimodal-generation/generation"
        body = {"model": MODEL, "input": INPUT}
        told = (await client.post(path, json=body, headers={"x-dashscope-async": "enable"})).json()
        submitted = ClientJob.from_payload(told)
        async with asyncio.timeout(20):
            job = submitted
            while not job.finished:
                job = ClientJob.from_payload((await client.get(f"/api/v1/tasks/{submitted.task_id}")).json())
        listed = JobList.from_payload((await client.get("/api/v1/tasks")).json())
    assert job.succeeded
    assert job.finished_at
    assert [each.task_id for each in listed.tasks] == [submitted.task_id]
