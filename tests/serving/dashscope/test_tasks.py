from __future__ import annotations

import asyncio
import re
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.routing import Router

from serving.access.keyring import Keyring
from serving.access.keys import KeyStore
from serving.dashscope.tasks import KIND, Tasks, routes
from serving.errors import InvalidImage
from serving.jobs.job import NewJob
from serving.jobs.leases import Leases
from serving.jobs.queue import Queue
from serving.settings import Settings
from serving.storage import database
from tests.fakes import FakeEngine
from tests.serving.conftest import PATH
from tests.serving.wire import chat, data_uri, picture, user

TEXT_PATH = "/api/v1/services/aigc/text-generation/generation"
TASKS = "/api/v1/tasks"
ASYNC = {"x-dashscope-async": "enable"}
WALL_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}")
UNSUPPORTED = "Failed to cancel the task, please confirm if the task is in PENDING status."


@pytest.fixture
def settings(tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    further = getattr(request, "param", {})
    return Settings(data=tmp_path / "data", async_tasks=True, background_concurrency=1, max_waiting_tasks=3, **further)


async def accepted(client: httpx.AsyncClient, body: dict[str, Any] | None = None, path: str = PATH) -> str:
    response = await client.post(path, json=body or chat(), headers=ASYNC)
    assert response.status_code == 200, response.text
    told = response.json()
    assert told.keys() == {"output", "request_id"}
    assert told["output"]["task_status"] == "PENDING"
    return str(uuid.UUID(told["output"]["task_id"]))


async def state(client: httpx.AsyncClient, task_id: str) -> dict[str, Any]:
    response = await client.get(f"{TASKS}/{task_id}")
    assert response.status_code == 200
    body: dict[str, Any] = response.json()
    assert body["request_id"] == response.headers["x-request-id"]
    assert body["output"]["task_id"] == task_id
    return body


async def ended(client: httpx.AsyncClient, task_id: str) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while (body := await state(client, task_id))["output"]["task_status"] in ("PENDING", "RUNNING"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return body


async def held(client: httpx.AsyncClient, engine: FakeEngine) -> tuple[str, asyncio.Event]:
    """A task that occupies the only place until the event is set."""
    gate = asyncio.Event()
    engine.enqueue("held", gate=gate)
    task_id = await accepted(client)
    await engine.began.wait()
    return task_id, gate


@pytest.mark.parametrize("path", [PATH, TEXT_PATH])
async def test_the_answer_is_that_of_the_call_that_waits(
    client: httpx.AsyncClient, engine: FakeEngine, path: str
) -> None:
    for _ in range(2):
        engine.enqueue("营收", "120亿", input_tokens=90, image_tokens=66)
    body = chat(user({"image": data_uri(picture())}, "读图"), n=1) if path == PATH else chat(user("读图"))
    waited = (await client.post(path, json=body)).json()
    task = await ended(client, await accepted(client, body, path))
    output = task["output"]
    assert output.pop("task_status") == "SUCCEEDED"
    times = [output.pop(name) for name in ("submit_time", "scheduled_time", "end_time")]
    assert all(WALL_TIME.fullmatch(each) for each in times)
    assert times == sorted(times)
    output.pop("task_id")
    assert (output, task["usage"]) == (waited["output"], waited["usage"])
    assert task.keys() == {"output", "usage", "request_id"}
    assert engine.history[1].priority == "background"
    assert engine.history[0].messages == engine.history[1].messages


async def test_times_are_beijings(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    submitted = (await ended(client, await accepted(client)))["output"]["submit_time"]
    beijing = datetime.now(UTC).replace(tzinfo=None) + timedelta(hours=8)
    assert abs(datetime.fromisoformat(submitted) - beijing) < timedelta(minutes=1)


async def test_waiting_and_running(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    running_id, gate = await held(client, engine)
    waiting = (await state(client, await accepted(client)))["output"]
    assert waiting["task_status"] == "PENDING"
    assert waiting.keys() == {"task_id", "task_status", "submit_time", "task_metrics"}
    running = (await state(client, running_id))["output"]
    assert running["task_status"] == "RUNNING"
    assert running["task_metrics"] == {"TOTAL": 1, "SUCCEEDED": 0, "FAILED": 0}
    assert WALL_TIME.fullmatch(running["scheduled_time"])
    gate.set()


async def test_a_failed_task_says_why_with_200(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.enqueue(error=InvalidImage("not a picture"))
    body = await ended(client, await accepted(client))
    assert "usage" not in body
    output = body["output"]
    assert (output["task_status"], output["code"]) == ("FAILED", "InvalidParameter")
    assert output["message"] == "not a picture"
    assert output.keys() >= {"submit_time", "scheduled_time", "end_time"}


async def test_media_are_looked_at_when_the_task_runs(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    body = await ended(client, await accepted(client, chat(user({"image": "data:image/png;base64,AAAA"}, "?"))))
    assert body["output"]["task_status"] == "FAILED"
    assert engine.history == []


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "BadRequest.EmptyModel"),
        (chat(model="gpt"), "InvalidParameter"),
        (chat(temperature=9), "InvalidParameter"),
        ({"model": "qwen3-vl-30b"}, "BadRequest.EmptyInput"),
    ],
)
async def test_what_cannot_be_asked_is_refused_before_it_is_accepted(
    client: httpx.AsyncClient, body: dict[str, Any], code: str
) -> None:
    response = await client.post(PATH, json=body, headers=ASYNC)
    assert (response.status_code, response.json()["code"]) == (400, code)
    assert (await client.get(TASKS)).json()["total"] == 0


async def test_disable_is_as_if_absent(client: httpx.AsyncClient) -> None:
    response = await client.post(PATH, json=chat(), headers={"x-dashscope-async": "disable"})
    assert "choices" in response.json()["output"]


async def test_a_stream_asked_for_too_becomes_a_task(client: httpx.AsyncClient) -> None:
    headers = ASYNC | {"x-dashscope-sse": "enable", "accept": "text/event-stream"}
    response = await client.post(PATH, json=chat(), headers=headers)
    assert response.json()["output"]["task_status"] == "PENDING"


async def test_a_key_sees_its_own_tasks_only(client: httpx.AsyncClient, engine: FakeEngine, settings: Settings) -> None:
    records = database.at(settings.data)
    stranger = {"authorization": f"Bearer {await KeyStore(records).create('stranger')}"}
    await database.close(records)
    running_id, gate = await held(client, engine)
    waiting_id = await accepted(client)
    for task_id in (running_id, waiting_id):
        response = await client.get(f"{TASKS}/{task_id}", headers=stranger)
        assert response.json()["output"] == {"task_id": task_id, "task_status": "UNKNOWN"}
        assert (await client.post(f"{TASKS}/{task_id}/cancel", headers=stranger)).status_code == 400
    assert (await client.get(TASKS, headers=stranger)).json()["total"] == 0
    assert (await client.get(TASKS, params={"task_id": waiting_id}, headers=stranger)).json()["data"] == []
    gate.set()
    assert (await ended(client, waiting_id))["output"]["task_status"] == "SUCCEEDED"


@pytest.mark.parametrize("path", [TASKS, f"{TASKS}/", f"{TASKS}/1", f"{TASKS}/1/"])
async def test_a_key_is_needed(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path, headers={"authorization": "Bearer no"})
    assert (response.status_code, response.json()["code"]) == (401, "InvalidApiKey")


async def test_so_many_may_wait_and_no_more(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    _, gate = await held(client, engine)
    for _ in range(3):
        await accepted(client)
    response = await client.post(PATH, json=chat(), headers=ASYNC)
    assert (response.status_code, response.json()["code"]) == (429, "Throttling")
    assert response.headers["retry-after"]
    gate.set()


@pytest.mark.parametrize("path", [TASKS, f"{TASKS}/"])
async def test_the_list(client: httpx.AsyncClient, engine: FakeEngine, path: str) -> None:
    engine.enqueue("one")
    engine.enqueue(error=InvalidImage())
    ids = [await accepted(client, chat(), each) for each in (PATH, TEXT_PATH)]
    for task_id in ids:
        await ended(client, task_id)
    response = await client.get(path)
    told = response.json()
    assert [(task["task_id"], task["task_status"]) for task in told["tasks"]] == [
        (task["task_id"], task["status"]) for task in told["data"]
    ]
    assert all(WALL_TIME.fullmatch(task["end_time"]) for task in told["tasks"])
    envelope = {name: told[name] for name in ("total", "total_page", "page_no", "page_size", "request_id")}
    assert envelope == {
        "total": 2,
        "total_page": 1,
        "page_no": 1,
        "page_size": 10,
        "request_id": response.headers["x-request-id"],
    }
    failed, succeeded = told["data"]
    assert [failed["task_id"], succeeded["task_id"]] == ids[::-1]
    assert (failed["status"], succeeded["status"]) == ("FAILED", "SUCCEEDED")
    now = datetime.now(UTC).timestamp() * 1e3
    assert now - 60_000 < succeeded["gmt_create"] <= succeeded["start_time"] <= succeeded["end_time"] <= now
    assert succeeded["model_name"] == "qwen3-vl-30b"
    assert succeeded["user_api_unique_key"] == "apikey:v1:aigc:multimodal-generation:generation:qwen3-vl-30b"
    assert failed["user_api_unique_key"].startswith("apikey:v1:aigc:text-generation:")
    assert uuid.UUID(succeeded["request_id"])


async def test_filters_and_pages(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    _, gate = await held(client, engine)
    ids = [await accepted(client, chat(model="qwen3-vl-30b-a3b-instruct")) for _ in range(3)]
    key_id = (await client.get(TASKS)).json()["data"][0]["api_key_id"]
    beijing = datetime.now(UTC) + timedelta(hours=8)
    hour_ago, in_an_hour = [f"{beijing + timedelta(hours=hours):%Y%m%d%H%M%S}" for hours in (-1, 1)]
    for filters, expected in (
        ({"status": "PENDING"}, 3),
        ({"status": "RUNNING"}, 1),
        ({"status": "UNKNOWN"}, 0),
        ({"model_name": "qwen3-vl-30b"}, 1),
        ({"task_id": ids[1]}, 1),
        ({"api_key_id": key_id, "region": "cn-beijing"}, 4),
        ({"api_key_id": "another"}, 0),
        ({"start_time": hour_ago, "end_time": in_an_hour}, 4),
        ({"start_time": in_an_hour}, 0),
        ({"end_time": hour_ago}, 0),
    ):
        assert (await client.get(TASKS, params=filters)).json()["total"] == expected, filters
    second = (await client.get(TASKS, params={"page_no": 2, "page_size": 3})).json()
    assert (second["total"], second["total_page"], len(second["data"])) == (4, 2, 1)
    gate.set()


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ({"page_size": "101"}, "[1, 100], got 101"),
        ({"page_size": "-1"}, "[1, 100], got -1"),
        ({"page_no": "0"}, "got 0"),
        ({"page_no": "١"}, "page_no"),
        ({"page_no": "9" * 400}, "page_no"),
        ({"status": "DONE"}, "'DONE'"),
        ({"model_name": "a\0b"}, "null character"),
        ({"start_time": "yesterday"}, "YYYYMMDDhhmmss"),
        ({"end_time": "20261399000000"}, "YYYYMMDDhhmmss"),
        ({"end_time": "00000000000000"}, "YYYYMMDDhhmmss"),
        ({"start_time": "20260101000000", "end_time": "20260102000001"}, "24 hours"),
        ({"start_time": "20260102000000", "end_time": "20260101000000"}, "later than"),
    ],
)
async def test_a_query_that_makes_no_sense_is_refused(
    client: httpx.AsyncClient, query: dict[str, str], told: str
) -> None:
    response = await client.get(TASKS, params=query)
    assert (response.status_code, response.json()["code"]) == (400, "InvalidParameter")
    assert told in response.json()["message"]


async def test_an_ended_task_is_kept_for_a_day(settings: Settings, engine: FakeEngine, key: str) -> None:
    records, now = database.at(settings.data), [1_000_000_000_000]
    queue = Queue(records, lambda: now[0])
    keyring = Keyring(KeyStore(records))
    tasks = Tasks(queue, engine, keyring, settings)
    leases = Leases(queue, "one", {KIND: tasks.failure})
    caller = await keyring.caller(f"Bearer {key}")
    details = {"form": "text", "request_id": "r", "resolve_oss": False}
    await queue.submit(job := NewJob(KIND, caller, b"{}", details=details))
    (running,) = await leases.take(1)
    await leases.succeed(running, b'{"output":{},"usage":{}}')
    transport = httpx.ASGITransport(Router(routes(tasks, keyring)))
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
        for passed, expected in ((24 * 3_600_000 - 1, "SUCCEEDED"), (1, "UNKNOWN")):
            now[0] += passed
            assert (await state(client, job.id))["output"]["task_status"] == expected
        assert (await client.get(TASKS)).json()["total"] == 0
    await database.close(records)


@pytest.mark.ring3
async def test_many_images_and_a_video_become_a_task(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    """What tasks are for: more than one waits for on an open connection."""
    frames = [data_uri(picture(size=(64, 64))) for _ in range(8)]
    pictures = [{"image": data_uri(picture(size=(64 + number, 48)))} for number in range(40)]
    body = chat(user(*pictures, {"video": frames, "fps": 2}, "说说看"))
    task = await ended(client, await accepted(client, body))
    assert task["output"]["task_status"] == "SUCCEEDED", task
    asked = engine.history[0]
    assert (len(asked.images), len(asked.videos)) == (40, 1)
    assert asked.videos[0].content is not None
    assert len(asked.videos[0].content.frames) == 8


@pytest.mark.parametrize("settings", [{"max_waiting_bytes": 2200}], indirect=True)
async def test_what_waits_is_bounded_in_bytes_too(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    gate = asyncio.Event()
    engine.always("ok", gate=gate, gated_from=1)
    first = await accepted(client)
    await engine.began.wait()  # it runs, and waits no more
    long = chat(user("x" * 1500))
    second = await accepted(client, long)
    refused = await client.post(PATH, json=long, headers=ASYNC)
    assert (refused.status_code, refused.json()["code"]) == (429, "Throttling")
    assert int(refused.headers["retry-after"]) > 0
    await accepted(client, chat())
    gate.set()
    assert first != second
