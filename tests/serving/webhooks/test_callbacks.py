"""Tasks and batches tell of their end, through the whole app."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.app import create_app
from serving.errors import ContextTooLong
from serving.settings import Settings
from tests.fakes import FakeEngine
from tests.serving.compatible.test_batches import ENDPOINT, line, upload
from tests.serving.conftest import PATH
from tests.serving.webhooks.receiver import receiving
from tests.serving.wire import chat

ASYNC = {"x-dashscope-async": "enable"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path / "data", async_tasks=True, webhook_allow=("127.0.0.1",))


async def submitted(client: httpx.AsyncClient, url: str) -> str:
    answer = await client.post(PATH, json=chat(), headers={**ASYNC, "x-homescope-callback": url})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["output"]["task_id"])


@pytest.mark.ring3
async def test_a_task_tells_of_its_end(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.enqueue("secret of mine")
    engine.enqueue(error=ContextTooLong(4096))
    async with receiving() as receiver:
        first = await submitted(client, receiver.url)
        told = await receiver.until(204)
        assert told["type"] == "task.succeeded"
        assert (told["data"]["task_id"], told["data"]["task_status"]) == (first, "SUCCEEDED")
        assert b"secret" not in receiver.received[0][1]
        await submitted(client, receiver.url)
        failed = await receiver.until(204)
    assert failed["type"] == "task.failed"
    assert failed["data"]["code"] == "InvalidParameter"


@pytest.mark.ring3
async def test_a_batch_tells_of_its_end(client: httpx.AsyncClient) -> None:
    async with receiving() as receiver:
        body: dict[str, Any] = {"endpoint": ENDPOINT, "completion_window": "24h"}
        body["input_file_id"] = await upload(client, [line("a"), line("b")])
        body["metadata"] = {"ds_name": "n", "ds_batch_finish_callback": receiver.url}
        batch = (await client.post("/v1/batches", json=body)).json()
        told = await receiver.until(204)
    assert told["type"] == "batch.completed"
    assert told["data"]["id"] == batch["id"]
    assert told["data"]["request_counts"] == {"total": 2, "completed": 2, "failed": 0}
    assert told["data"]["output_file_id"].startswith("file-")


@pytest.mark.parametrize(
    "url", ["ftp://example.com", "http://169.254.169.254/latest", "http://10.0.0.1/", "http://u:p@example.com/", "x"]
)
async def test_what_will_not_be_called_is_refused_at_once(client: httpx.AsyncClient, url: str) -> None:
    refused = await client.post(PATH, json=chat(), headers={**ASYNC, "x-homescope-callback": url})
    assert refused.status_code == 400
    assert "callback URL is refused" in refused.json()["message"]
    body = {"input_file_id": await upload(client, [line("a")]), "endpoint": ENDPOINT, "completion_window": "24h"}
    refused = await client.post("/v1/batches", json=body | {"metadata": {"ds_batch_finish_callback": url}})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "metadata")


async def test_where_images_come_from_is_no_place_to_post_to(settings: Settings, engine: FakeEngine, key: str) -> None:
    """An operators' port takes a POST to drain an engine."""
    app = create_app(settings.model_copy(update={"fetch_allow": ("10.0.0.0/8",), "webhook_allow": ()}), engine)
    headers = {**ASYNC, "authorization": f"Bearer {key}", "x-homescope-callback": "http://10.0.0.7:9090/replicas/drain"}
    async with (
        app.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", headers=headers) as client,
    ):
        refused = await client.post(PATH, json=chat())
    assert refused.status_code == 400
    assert "HOMESCOPE_WEBHOOK_ALLOW" in refused.json()["message"]
