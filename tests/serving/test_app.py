from __future__ import annotations

import asyncio
from pathlib import Path

import httpx

from serving.app import create_app
from serving.errors import EngineUnavailable
from serving.settings import Settings
from tests.fakes import FakeEngine


async def test_probes_need_no_key(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    del client.headers["authorization"]
    assert (await client.get("/livez")).status_code == 200
    assert (await client.get("/readyz")).status_code == 200
    engine.is_ready = False
    response = await client.get("/readyz")
    assert (response.status_code, response.headers["retry-after"]) == (503, "2")
    assert (await client.get("/livez")).status_code == 200


async def test_other_methods_of_a_probe_are_refused_in_json(client: httpx.AsyncClient) -> None:
    for path in ("/livez", "/readyz"):
        response = await client.post(path)
        assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD")
        assert response.json()["message"] == "Request method 'POST' is not supported."
        assert (await client.head(path)).status_code == 200


async def test_an_engine_that_never_starts_is_told(tmp_path: Path) -> None:
    told: asyncio.Queue[EngineUnavailable] = asyncio.Queue()
    engine = FakeEngine(start_error=EngineUnavailable("no model"))
    app = create_app(Settings(data=tmp_path), engine, on_engine_failure=told.put_nowait)
    async with app.lifespan_context(app):
        assert str(await told.get()) == "no model"


async def test_a_defect_in_the_start_is_told_too(tmp_path: Path) -> None:
    class Defective(FakeEngine):
        async def start(self) -> None:
            raise ZeroDivisionError("by nought")

    told: asyncio.Queue[EngineUnavailable] = asyncio.Queue()
    app = create_app(Settings(data=tmp_path), Defective(), on_engine_failure=told.put_nowait)
    async with app.lifespan_context(app):
        assert str(await told.get()) == "ZeroDivisionError: by nought"


async def test_the_engine_is_closed_with_the_app(tmp_path: Path) -> None:
    engine = FakeEngine()
    app = create_app(Settings(data=tmp_path), engine)
    async with app.lifespan_context(app):
        assert await engine.ready()
    assert not await engine.ready()
