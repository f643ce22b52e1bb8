from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import httpx
import pytest
import uvicorn
from starlette.routing import Router
from starlette.types import ASGIApp

from serving.access.keys import KeyStore
from serving.app import create_app
from serving.settings import Settings
from serving.storage import database
from tests.fakes import FakeEngine

PATH = "/api/v1/services/aigc/multimodal-generation/generation"


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@cache
def defaults() -> Settings:
    """Read once: settings look at the environment, which takes as long as a request does."""
    return Settings()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Override by a fixture of the same name, or by indirect parameters, where a test is about one of them."""
    return defaults().model_copy(update={"data": tmp_path / "data"})


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A database with its tables and one key, and that key. To make them is a third of what a test of the app costs."""
    folder = tmp_path_factory.mktemp("template")

    async def made() -> str:
        records = database.at(folder)
        await database.create_tables(records, folder)
        secret = await KeyStore(records).create("test")
        await database.close(records)
        return secret

    return folder / "homescope.db", asyncio.run(made())


@pytest.fixture
def key(settings: Settings, template: tuple[Path, str]) -> str:
    file, secret = template
    assert not (settings.data / file.name).exists(), "ask for the key before the server"
    settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.copy(file, settings.data)
    return secret


@pytest.fixture
async def app(settings: Settings, engine: FakeEngine, key: str) -> AsyncGenerator[Router, None]:
    """The app once it runs. `key` comes first, because it brings the database."""
    assert key
    app = create_app(settings, engine)
    async with app.lifespan_context(app):
        yield app


@pytest.fixture
async def client(app: Router, key: str) -> AsyncGenerator[httpx.AsyncClient, None]:
    """A client of the app in the same process. It sees whole bodies only: what is about time needs `server`."""
    transport = httpx.ASGITransport(app)
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
        yield client


@dataclass(frozen=True)
class Server:
    """A server on a real socket. `url` has no path."""

    url: str
    key: str

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}


@asynccontextmanager
async def listening(app: ASGIApp) -> AsyncGenerator[str, None]:
    """The app under uvicorn on a free port, in the loop of the test, so that both can share events. Yields the URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


@pytest.fixture
async def server(settings: Settings, engine: FakeEngine, key: str, ring3: None) -> AsyncGenerator[Server, None]:
    async with listening(create_app(settings, engine)) as url:
        yield Server(url, key)
