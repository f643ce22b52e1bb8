"""What only shows on a real socket: time, disconnects, overload."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx
import pytest

from serving.app import create_app
from serving.settings import Settings
from tests.fakes import FakeEngine
from tests.serving.conftest import PATH, Server, listening
from tests.serving.wire import chat, frames

SSE = {"x-dashscope-sse": "enable"}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"max_in_flight": 1, "max_queued": 1})


@asynccontextmanager
async def connected(server: Server) -> AsyncGenerator[httpx.AsyncClient, None]:
    async with httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=5) as client:
        yield client


async def test_the_status_waits_for_the_first_piece(server: Server, engine: FakeEngine) -> None:
    gate = asyncio.Event()
    engine.enqueue("one", gate=gate)
    async with connected(server) as client:
        request = asyncio.create_task(client.post(PATH, json=chat(), headers=SSE))
        await engine.began.wait()
        assert not request.done()
        gate.set()
        assert (await request).status_code == 200


@pytest.mark.parametrize("headers", [{}, SSE])
@pytest.mark.parametrize("pieces", [(), ("one",)])
async def test_a_client_that_leaves_stops_the_engine(
    server: Server, engine: FakeEngine, headers: dict[str, str], pieces: tuple[str, ...]
) -> None:
    gate = asyncio.Event()
    engine.enqueue(*pieces, "never", gate=gate)
    async with connected(server) as client:
        request = asyncio.create_task(client.post(PATH, json=chat(), headers=headers))
        await engine.began.wait()
        request.cancel()
        await asyncio.wait_for(engine.closed.wait(), 20)
        assert engine.running == 0
        gate.set()
        assert (await client.post(PATH, json=chat())).status_code == 200  # its permit came back


async def test_a_client_that_leaves_in_mid_stream_stops_the_engine(server: Server, engine: FakeEngine) -> None:
    engine.enqueue(*["x"] * 100_000, interval=0.001)
    async with connected(server) as client:
        async with client.stream("POST", PATH, json=chat(), headers=SSE) as response:
            await anext(response.aiter_lines())
        await asyncio.wait_for(engine.closed.wait(), 20)
        assert (await client.post(PATH, json=chat())).status_code == 200


async def test_overload_is_refused_at_once(server: Server, engine: FakeEngine) -> None:
    gate = asyncio.Event()
    engine.always("ok", gate=gate)
    async with connected(server) as client:
        requests = [asyncio.create_task(client.post(PATH, json=chat())) for _ in range(5)]
        done: set[asyncio.Task[httpx.Response]] = set()
        while len(done) < 3:
            done |= (await asyncio.wait([r for r in requests if r not in done], return_when="FIRST_COMPLETED"))[0]
        assert {request.result().status_code for request in done} == {429}
        assert {request.result().headers["retry-after"] for request in done} == {"2"}
        assert {request.result().json()["code"] for request in done} == {"Throttling"}
        gate.set()
        accepted = [await request for request in requests if request not in done]
        assert [response.status_code for response in accepted] == [200, 200]


async def test_a_large_body_without_a_key_is_refused(server: Server) -> None:
    async with httpx.AsyncClient(base_url=server.url) as client:
        response = await client.post(PATH, content=b"x" * 2_000_000)
        assert response.status_code == 401
        assert (await client.get("/livez")).status_code == 200


@pytest.mark.ring3
async def test_a_stop_tells_what_it_cuts_off(
    settings: Settings, engine: FakeEngine, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine.always("Reve", "nue", gate=asyncio.Event(), gated_from=2)
    app = create_app(settings.model_copy(update={"max_in_flight": 2}), engine)
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {key}"}, timeout=10) as client:
        async with listening(app) as url:
            whole = asyncio.create_task(client.post(url + PATH, json=chat()))
            streamed = asyncio.create_task(client.post(url + PATH, json=chat(), headers=SSE))
            while engine.running < 2:  # noqa: ASYNC110 - there is no event for two
                await asyncio.sleep(0.01)
        assert ((await whole).status_code, (await whole).json()["code"]) == (503, "ModelUnavailable")
        last = frames((await streamed).content)[-1]
        assert (last.id, last.event, last.data["code"]) == (2, "error", "ModelUnavailable")
    assert not [record for record in caplog.records if record.exc_info]


class TestPatience:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"request_timeout": 0.1})

    async def test_a_body_that_never_comes_whole_is_not_waited_for(self, server: Server) -> None:
        url = httpx.URL(server.url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        announced = (
            f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.key}\r\nContent-Length: 99\r\n\r\n"
        )
        writer.write(announced.encode() + b'{"model":')
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        assert head.startswith(b"HTTP/1.1 500 ")
        assert (await reader.readuntil(b"}")).startswith(b'{"code":"RequestTimeOut",')
        writer.close()
        await writer.wait_closed()
