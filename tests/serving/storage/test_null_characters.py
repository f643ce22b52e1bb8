"""PostgreSQL has no null character in texts: what clients name with one is refused before the database refuses it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from serving.access.keys import KeyStore
from serving.app import create_app
from serving.settings import Settings
from serving.storage import database
from tests.fakes import FakeEngine
from tests.serving.conftest import PATH
from tests.serving.storage.postgres import fresh_database
from tests.serving.wire import chat, user

NUL = "\0"
BATCH = {"input_file_id": "file-batch-1", "endpoint": "/v1/chat/completions", "completion_window": "24h"}
OSS = {"x-dashscope-ossresourceresolve": "enable"}


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.ring3)])
async def null_client(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[httpx.AsyncClient, None]:
    url = None
    if request.param == "postgresql":
        url = await fresh_database(request.getfixturevalue("postgres"))
    settings = Settings(data=tmp_path, database=None if url is None else SecretStr(url))
    records = database.at(tmp_path, url)
    await database.create_tables(records, tmp_path)
    key = await KeyStore(records).create("test")
    await database.close(records)
    app = create_app(settings, FakeEngine())
    headers = {"authorization": f"Bearer {key}"}
    async with (
        app.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", headers=headers) as client,
    ):
        yield client


async def test_null_characters_are_the_clients_mistake(null_client: httpx.AsyncClient) -> None:
    asked: list[tuple[str, str, dict[str, Any]]] = [
        *(("GET", f"/v1/files{rest}", {}) for rest in ("/%00", "?after=%00", "?purpose=%00")),
        *(("GET", f"/v1/batches{rest}", {}) for rest in ("/%00", "?after=%00", "?status=%00", "?input_file_ids=%00")),
        ("GET", "/v1/batches?ds_name=%00", {}),
        ("DELETE", "/v1/files/%00", {}),
        ("GET", "/api/v1/files/%00", {}),
        ("DELETE", "/api/v1/files/%00", {}),
        ("POST", "/v1/batches", {"json": BATCH | {"input_file_id": NUL}}),
        ("POST", "/v1/batches", {"json": BATCH | {"metadata": {"ds_name": NUL}}}),
        ("POST", "/api/v1/files", {"files": {"files": b"x"}, "data": {"purpose": NUL}}),
        ("POST", "/api/v1/files", {"files": {"files": b"x"}, "data": {"descriptions": NUL}}),
        ("POST", "/v1/files", {"files": {"file": b"x"}, "data": {"purpose": NUL}}),
        ("POST", PATH, {"json": chat(user({"image": "oss://" + NUL}, "?")), "headers": OSS}),
    ]
    for method, path, body in asked:
        response = await null_client.request(method, path, **body)
        assert 400 <= response.status_code < 500, (method, path, response.text)
