"""The batch that tests a program and asks no model."""

from __future__ import annotations

import httpx
import pytest

from serving.compatible.batch.trial import ENDPOINT, MAX_BYTES, MODEL
from tests.fakes import FakeEngine
from tests.serving.compatible.test_batches import content, create, ended, line, upload
from tests.serving.compatible.wire import chat, user


async def test_it_goes_the_whole_way_and_asks_no_model(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    lines = [line(f"q{number}", url=ENDPOINT, body=chat(model=MODEL)) for number in range(3)]
    created = await create(client, await upload(client, lines), endpoint=ENDPOINT)
    assert created.json()["endpoint"] == ENDPOINT
    batch = await ended(client, created.json()["id"])
    assert (batch["status"], batch["request_counts"]["completed"]) == ("completed", 3)
    answers = await content(client, batch["output_file_id"])
    assert {answer["custom_id"] for answer in answers} == {"q0", "q1", "q2"}
    body = answers[0]["response"]["body"]
    assert (body["object"], body["model"]) == ("chat.completion", MODEL)
    assert body["choices"][0]["finish_reason"] == "stop"
    assert engine.history == []


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ([line("a", url=ENDPOINT)], "model_not_found"),
        ([line("a", body=chat(model=MODEL))], "url_not_found"),
        ([line(f"q{number}", url=ENDPOINT, body=chat(model=MODEL)) for number in range(101)], "too_many_lines"),
    ],
)
async def test_it_has_its_own_model_url_and_limit(
    client: httpx.AsyncClient, lines: list[dict[str, object]], code: str
) -> None:
    created = await create(client, await upload(client, lines), endpoint=ENDPOINT)
    batch = await ended(client, created.json()["id"])
    assert (batch["status"], batch["errors"]["data"][0]["code"]) == ("failed", code)


async def test_a_file_too_large_for_a_test(client: httpx.AsyncClient) -> None:
    lines = [line("a", url=ENDPOINT, body=chat(user("x" * MAX_BYTES), model=MODEL))]
    refused = await create(client, await upload(client, lines), endpoint=ENDPOINT)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "input_file_id")
    assert str(MAX_BYTES) in refused.json()["error"]["message"]


async def test_the_model_of_the_test_is_no_model_elsewhere(client: httpx.AsyncClient) -> None:
    assert (await client.post("/v1/chat/completions", json=chat(model=MODEL))).status_code == 404
