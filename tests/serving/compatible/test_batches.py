"""Batches through the whole app, with a scripted engine."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from serving.app import create_app
from serving.errors import ContextTooLong
from serving.logs import RequestLine
from serving.settings import Settings
from tests.fakes import FakeEngine
from tests.serving.compatible.wire import chat, user

ENDPOINT = "/v1/chat/completions"
FINAL = {"completed", "failed", "expired", "cancelled"}


def line(custom_id: str, **changes: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": chat(), **changes}


async def upload(client: httpx.AsyncClient, lines: list[dict[str, Any]] | bytes, purpose: str = "batch") -> str:
    data = lines if isinstance(lines, bytes) else b"\n".join(json.dumps(each).encode() for each in lines)
    response = await client.post("/v1/files", files={"file": ("in.jsonl", data)}, data={"purpose": purpose})
    assert response.status_code == 200, response.text
    return str(response.json()["id"])


async def create(client: httpx.AsyncClient, file_id: str, **changes: Any) -> httpx.Response:
    body = {"input_file_id": file_id, "endpoint": ENDPOINT, "completion_window": "24h"}
    return await client.post("/v1/batches", json=body | changes)


async def ended(client: httpx.AsyncClient, batch_id: str) -> dict[str, Any]:
    while True:
        batch: dict[str, Any] = (await client.get(f"/v1/batches/{batch_id}")).json()
        if batch["status"] in FINAL:
            return batch
        await asyncio.sleep(0.02)


async def run(client: httpx.AsyncClient, lines: list[dict[str, Any]] | bytes) -> dict[str, Any]:
    response = await create(client, await upload(client, lines))
    assert response.status_code == 200, response.text
    return await ended(client, response.json()["id"])


async def content(client: httpx.AsyncClient, file_id: str) -> list[dict[str, Any]]:
    response = await client.get(f"/v1/files/{file_id}/content")
    assert response.status_code == 200
    return [json.loads(each) for each in response.text.splitlines()]


async def test_a_batch_from_its_creation_to_its_output(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.always("A dog", ".")
    file_id = await upload(client, [line(f"q{number}") for number in range(5)])
    created = (await create(client, file_id, metadata={"ds_name": "dogs"})).json()
    assert list(created) == [
        "id",
        "object",
        "endpoint",
        "errors",
        "input_file_id",
        "completion_window",
        "status",
        "output_file_id",
        "error_file_id",
        "created_at",
        "in_progress_at",
        "expires_at",
        "finalizing_at",
        "completed_at",
        "failed_at",
        "expired_at",
        "cancelling_at",
        "cancelled_at",
        "request_counts",
        "metadata",
    ]
    assert (created["object"], created["status"], created["metadata"]) == ("batch", "validating", {"ds_name": "dogs"})
    assert created["expires_at"] - created["created_at"] == 24 * 3600
    batch = await ended(client, created["id"])
    assert (batch["status"], batch["error_file_id"], batch["errors"]) == ("completed", None, None)
    assert batch["request_counts"] == {"total": 5, "completed": 5, "failed": 0}
    moments = [batch[f"{name}_at"] for name in ("created", "in_progress", "finalizing", "completed")]
    assert moments == sorted(moments)
    assert batch["output_file_id"].startswith("file-batch_output-")
    output = await content(client, batch["output_file_id"])
    assert [each["custom_id"] for each in output] == [f"q{number}" for number in range(5)]
    for each in output:
        assert list(each) == ["id", "custom_id", "response", "error"]
        assert (each["error"], each["response"]["status_code"]) == (None, 200)
        body = each["response"]["body"]
        assert body["choices"][0]["message"]["content"] == "A dog."
        assert body["id"] == f"chatcmpl-{each['response']['request_id']}"
    assert {question.priority for question in engine.history} == {"background"}


async def test_each_line_has_a_line_in_the_log_that_says_nothing_of_it(
    client: httpx.AsyncClient, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "serving.requests")
    engine.enqueue("A secret", " answer.")
    engine.enqueue(error=ContextTooLong(4096))
    lines = [line(name, body=chat(user("a secret question"))) for name in ("one", "two")]
    batch = await run(client, [*lines, line("three", body=chat(temperature=9))])
    (answered,) = await content(client, batch["output_file_id"])
    failed = await content(client, batch["error_file_id"])
    lines_of_log = [record.args[0] for record in caplog.records if isinstance(record.args, tuple) and record.args]
    logged = [each for each in lines_of_log if isinstance(each, RequestLine)]
    told = {each.request_id: each for each in logged}
    line_of = told[answered["id"]]
    assert (line_of.outcome, line_of.model, line_of.key, line_of.output_tokens) == ("ok", "qwen3-vl-30b", "test", 2)
    assert [told[each["id"]].outcome for each in failed] == ["InvalidParameter", "InvalidParameter"]
    assert "secret" not in caplog.text


async def test_lines_that_fail_go_to_the_error_file(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.always(error=ContextTooLong(4096))
    batch = await run(client, [line("hot", body=chat(temperature=9)), line("long")])
    assert (batch["status"], batch["output_file_id"]) == ("completed", None)
    assert batch["request_counts"] == {"total": 2, "completed": 0, "failed": 2}
    hot, long = await content(client, batch["error_file_id"])
    assert (hot["custom_id"], hot["response"]["status_code"]) == ("hot", 400)
    assert "Temperature should be in [0.0, 2.0)" in hot["error"]["message"]
    assert hot["response"]["body"]["error"]["code"] == hot["error"]["code"] == "invalid_parameter_error"
    assert "[1, 4096]" in long["error"]["message"]


@pytest.mark.parametrize(
    ("lines", "code", "number"),
    [
        (b"", "empty_file", None),
        (b"\n \r\n\n", "empty_file", None),
        (b"{", "invalid_json_line", 1),
        (b"[]", "invalid_json_line", 1),
        (b'{"custom_id":"\xff"}', "invalid_json_line", 1),
        (b'{"custom_id":1}', "invalid_json_line", 1),
        (b"[" * 99_999, "invalid_json_line", 1),
        (b"{}", "missing_required_parameter", 1),
        ([line("a"), line("a")], "duplicate_custom_id", 2),
        ([line("a"), line("")], "missing_required_parameter", 2),
        ([line("a", method="GET")], "invalid_method", 1),
        ([line("a", url="/v1/embeddings")], "url_not_found", 1),
        ([line("a", body=None)], "missing_required_parameter", 1),
        ([line("a", body="x")], "invalid_json_line", 1),
        ([line("a", body={})], "missing_required_parameter", 1),
        ([line("a", body=chat(model="gpt-4o"))], "model_not_found", 1),
        ([line("a"), line("b", body=chat(model="qwen3-vl-30b-a3b-instruct"))], "mismatched_model", 2),
        ([line("a" * 999)], "invalid_custom_id", 1),
        (b"\n" + b"x" * (7 << 20), "line_too_large", 2),
    ],
)
async def test_a_file_that_is_no_input(
    client: httpx.AsyncClient, engine: FakeEngine, lines: list[dict[str, Any]] | bytes, code: str, number: int | None
) -> None:
    batch = await run(client, lines)
    assert (batch["status"], batch["errors"]["object"]) == ("failed", "list")
    (error,) = batch["errors"]["data"]
    assert (error["code"], error["line"]) == (code, number)
    assert batch["failed_at"]
    assert not engine.history


async def test_a_file_of_another_kind_of_lines_tells_the_url(client: httpx.AsyncClient) -> None:
    batch = await run(client, [line("a", url="/v1/x")])
    assert batch["errors"]["data"][0] == {
        "code": "url_not_found",
        "message": "The provided url '/v1/x' is not supported by the Batch API.",
        "param": "url",
        "line": 1,
    }


async def test_windows_line_ends_and_a_byte_order_mark(client: httpx.AsyncClient) -> None:
    data = b"\xef\xbb\xbf" + b"\r\n".join(json.dumps(line(name)).encode() for name in "ab") + b"\r\n\r\n"
    assert (await run(client, data))["request_counts"]["completed"] == 2


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"input_file_id": None}, "input_file_id"),
        ({"input_file_id": "file-batch-none"}, "input_file_id"),
        ({"endpoint": "/v1/embeddings"}, "endpoint"),
        ({"endpoint": None}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"completion_window": "15d"}, "completion_window"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"completion_window": None}, "completion_window"),
        ({"metadata": {"x": "y" * 999}}, "metadata"),
        ({"metadata": {str(number): "y" for number in range(99)}}, "metadata"),
        ({"metadata": {"x": 1}}, None),
        ({"metadata": []}, None),
        ({"input_file_id": 7}, None),
    ],
)
async def test_requests_that_are_none(client: httpx.AsyncClient, changes: dict[str, Any], param: str | None) -> None:
    response = await create(client, await upload(client, [line("a")]), **changes)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


async def test_a_file_of_another_purpose(client: httpx.AsyncClient) -> None:
    response = await create(client, await upload(client, [line("a")], purpose="file-extract"))
    assert (response.status_code, response.json()["error"]["param"]) == (400, "input_file_id")


async def test_a_batch_that_is_cancelled_keeps_what_it_has(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    gate = asyncio.Event()
    engine.always("ok", gate=gate)
    created = (await create(client, await upload(client, [line(f"q{n}") for n in range(30)]))).json()
    await engine.began.wait()
    response = await client.post(f"/v1/batches/{created['id']}/cancel")
    assert response.json()["status"] == "cancelling"
    gate.set()
    batch = await ended(client, created["id"])
    assert batch["status"] == "cancelled"
    done = [each["custom_id"] for each in await content(client, batch["output_file_id"])]
    left = await content(client, batch["error_file_id"])
    assert {each["error"]["code"] for each in left} == {"batch_cancelled"}
    assert sorted(done + [each["custom_id"] for each in left]) == sorted(f"q{n}" for n in range(30))
    again = await client.post(f"/v1/batches/{created['id']}/cancel")
    assert again.json()["status"] == "cancelled"


async def test_a_batch_that_has_ended_cannot_be_cancelled(client: httpx.AsyncClient) -> None:
    batch = await run(client, [line("a")])
    response = await client.post(f"/v1/batches/{batch['id']}/cancel")
    assert response.status_code == 400
    assert response.json()["error"]["message"].endswith("Cannot cancel a batch with status 'completed'.")


async def test_no_such_batch(client: httpx.AsyncClient) -> None:
    for response in (await client.get("/v1/batches/batch_x"), await client.post("/v1/batches/batch_x/cancel")):
        assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")


async def test_the_list_of_batches(client: httpx.AsyncClient) -> None:
    empty = (await client.get("/v1/batches")).json()
    assert empty == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    first, second = [(await run(client, [line(name)]))["id"] for name in "ab"]
    page = (await client.get("/v1/batches", params={"limit": 1})).json()
    assert ([each["id"] for each in page["data"]], page["has_more"]) == ([second], True)
    page = (await client.get("/v1/batches", params={"after": second})).json()
    assert ([each["id"] for each in page["data"]], page["has_more"]) == ([first], False)
    assert (await client.get("/v1/batches", params={"status": "failed"})).json()["data"] == []
    assert len((await client.get("/v1/batches", params={"create_after": "20200101000000"})).json()["data"]) == 2


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=x", "create_after=now", "create_before=00000000000000"]
)
async def test_lists_that_cannot_be(client: httpx.AsyncClient, query: str) -> None:
    assert (await client.get(f"/v1/batches?{query}")).status_code == 400


async def test_a_key_has_so_many_batches_at_a_time(settings: Settings, engine: FakeEngine, key: str) -> None:
    app = create_app(settings.model_copy(update={"max_batches": 1}), engine)
    headers = {"authorization": f"Bearer {key}"}
    transport = httpx.ASGITransport(app)
    async with (
        app.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client,
    ):
        await one_after_the_other(client, engine)


async def one_after_the_other(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    gate = asyncio.Event()
    engine.always("ok", gate=gate, gated_from=1)
    file_id = await upload(client, [line("q")])
    first = (await create(client, file_id)).json()["id"]
    refused = await create(client, file_id)
    assert refused.status_code == 429
    assert "1 batches that have not ended" in refused.json()["error"]["message"]
    gate.set()
    await ended(client, first)
    assert (await create(client, file_id)).status_code == 200
