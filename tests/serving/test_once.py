"""Idempotency-Key on whatever is handed in."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from serving import once
from serving.access.keys import KeyStore
from serving.app import create_app
from serving.errors import GenerationFailed
from serving.settings import Settings
from serving.storage import database
from tests.fakes import FakeEngine
from tests.serving.compatible.test_batches import ENDPOINT, line, upload
from tests.serving.compatible.wire import chat as openai_chat
from tests.serving.conftest import PATH
from tests.serving.wire import chat, user

KEY = {"idempotency-key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}
REPLAYED = "idempotency-replayed"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path / "data", async_tasks=True)


@pytest.mark.parametrize(("path", "body"), [(PATH, chat()), ("/v1/chat/completions", openai_chat())])
async def test_the_same_request_gets_the_same_answer(
    client: httpx.AsyncClient, engine: FakeEngine, path: str, body: dict[str, object]
) -> None:
    first, second = [await client.post(path, json=body, headers=KEY) for _ in range(2)]
    assert first.status_code == second.status_code == 200
    assert second.content == first.content
    assert (REPLAYED in first.headers, second.headers[REPLAYED]) == (False, "true")
    assert second.headers["content-type"] == first.headers["content-type"]
    assert second.headers["x-request-id"] != first.headers["x-request-id"]
    assert len(engine.history) == 1


async def test_a_stream_is_replayed_whole(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.enqueue("one", "two")
    headers = {**KEY, "x-dashscope-sse": "enable"}
    first, second = [await client.post(PATH, json=chat(), headers=headers) for _ in range(2)]
    assert second.content == first.content
    assert second.headers["content-type"].startswith("text/event-stream")
    assert len(engine.history) == 1


async def test_another_request_under_the_key_is_refused(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    await client.post(PATH, json=chat(), headers=KEY)
    other = await client.post(PATH, json=chat(user("else")), headers=KEY)
    assert (other.status_code, other.json()["code"]) == (422, "IdempotencyKey.Reused")
    streamed = await client.post(PATH, json=chat(), headers={**KEY, "x-dashscope-sse": "enable"})
    assert streamed.status_code == 422
    told = await client.post("/v1/chat/completions", json=openai_chat(), headers=KEY)
    assert (told.status_code, told.json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert len(engine.history) == 1


async def test_while_it_is_answered_others_wait(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    gate = asyncio.Event()
    engine.enqueue("done", gate=gate)
    first = asyncio.create_task(client.post(PATH, json=chat(), headers=KEY))
    await engine.began.wait()
    second = await client.post(PATH, json=chat(), headers=KEY)
    assert (second.status_code, second.json()["code"]) == (409, "IdempotencyKey.InFlight")
    assert second.headers["retry-after"] == "2"
    gate.set()
    assert (await first).status_code == 200
    third = await client.post(PATH, json=chat(), headers=KEY)
    assert (third.status_code, third.headers[REPLAYED]) == (200, "true")
    assert len(engine.history) == 1


async def test_what_failed_is_asked_again(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.enqueue(error=GenerationFailed())
    assert (await client.post(PATH, json=chat(), headers=KEY)).status_code == 500
    again = await client.post(PATH, json=chat(), headers=KEY)
    assert (again.status_code, REPLAYED in again.headers) == (200, False)


async def test_what_broke_off_in_its_middle_is_asked_again(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.enqueue("half", error=GenerationFailed())
    headers = {**KEY, "x-dashscope-sse": "enable"}
    assert b"event:error" in (await client.post(PATH, json=chat(), headers=headers)).content
    assert b"event:error" not in (await client.post(PATH, json=chat(), headers=headers)).content


async def test_a_refused_request_can_be_corrected(client: httpx.AsyncClient) -> None:
    assert (await client.post(PATH, json={}, headers=KEY)).status_code == 400
    assert (await client.post(PATH, json=chat(), headers=KEY)).status_code == 200


@pytest.fixture
async def another(settings: Settings, key: str) -> str:
    """A second key, made before the server reads them."""
    records = database.at(settings.data)
    secret = await KeyStore(records).create("another")
    await database.close(records)
    return secret


async def test_keys_of_others_are_others(another: str, client: httpx.AsyncClient, engine: FakeEngine) -> None:
    await client.post(PATH, json=chat(), headers=KEY)
    theirs = await client.post(PATH, json=chat(), headers={**KEY, "authorization": f"Bearer {another}"})
    assert (theirs.status_code, REPLAYED in theirs.headers) == (200, False)
    assert len(engine.history) == 2


@pytest.mark.parametrize("name", ["x" * 256, "a\tb"])
async def test_what_is_no_key(client: httpx.AsyncClient, name: str) -> None:
    refused = await client.post(PATH, json=chat(), headers={"idempotency-key": name})
    assert refused.status_code == 400
    assert "1 to 255" in refused.json()["message"]


async def test_an_answer_too_large_is_not_asked_for_again(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.always("x" * (once.LARGEST + 1))
    assert (await client.post(PATH, json=chat(), headers=KEY)).status_code == 200
    again = await client.post(PATH, json=chat(), headers=KEY)
    assert (again.status_code, again.json()["code"]) == (409, "IdempotencyKey.AnswerNotKept")
    assert len(engine.history) == 1


async def test_a_task_is_made_once(client: httpx.AsyncClient) -> None:
    headers = {**KEY, "x-dashscope-async": "enable"}
    first, second = [(await client.post(PATH, json=chat(), headers=headers)).json() for _ in range(2)]
    assert first["output"]["task_id"] == second["output"]["task_id"]
    assert (await client.get("/api/v1/tasks")).json()["total"] == 1


async def test_a_batch_is_made_once(client: httpx.AsyncClient) -> None:
    body = {
        "input_file_id": await upload(client, [line("a")]),
        "endpoint": ENDPOINT,
        "completion_window": "24h",
    }
    first, second = [(await client.post("/v1/batches", json=body, headers=KEY)).json() for _ in range(2)]
    assert first == second
    assert len((await client.get("/v1/batches")).json()["data"]) == 1


async def test_what_a_dead_process_has_handed_in_is_found_again(
    key: str, engine: FakeEngine, settings: Settings
) -> None:
    """It died between the commit of the task and that of its answer."""
    headers = {**KEY, "authorization": f"Bearer {key}", "x-dashscope-async": "enable"}
    ids = []
    for _ in range(2):
        app = create_app(settings, engine)
        async with (
            app.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", headers=headers) as client,
        ):
            ids.append((await client.post(PATH, json=chat())).json()["output"]["task_id"])
        records = database.at(settings.data)
        async with records.begin() as connection:
            await connection.execute(text("UPDATE idempotency_keys SET status = NULL, body = NULL, lease_until = 0"))
        await database.close(records)
    assert ids[0] == ids[1]
