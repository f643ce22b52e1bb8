"""Clients that are slow, silent, endless or many, on real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import httpx
import pytest
import uvicorn

from serving.access.keys import KeyStore
from serving.app import create_app
from serving.connections import MAX_HEAD, MAX_PIPELINED
from serving.generation import Text
from serving.metrics import Observed
from serving.server import config_of
from serving.settings import Settings
from serving.storage import database
from tests.fakes import FakeEngine
from tests.serving.conftest import PATH
from tests.serving.wire import chat, user

pytestmark = pytest.mark.ring3

HEAD = "POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: {length}\r\n\r\n"


@dataclass
class Running:
    app: Observed
    port: int
    key: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{PATH}"

    @property
    def free(self) -> int:
        """Bytes for bodies."""
        return self.app.intake.bodies.free

    async def has_free(self, size: int) -> None:
        """Waits until so many are, which nothing announces."""
        while self.free != size:  # noqa: ASYNC110
            await asyncio.sleep(0)

    async def dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    def head(self, length: int, key: str | None = None) -> bytes:
        return HEAD.format(path=PATH, key=key or self.key, length=length).encode()

    async def post(self, key: str | None = None, text: str = "hi") -> httpx.Response:
        async with httpx.AsyncClient(headers={"authorization": f"Bearer {key or self.key}"}) as client:
            return await client.post(self.url, json=chat(user(text)))


@asynccontextmanager
async def running(settings: Settings, engine: FakeEngine, key: str) -> AsyncGenerator[Running, None]:
    app = create_app(settings, engine)
    assert isinstance(app, Observed)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(config_of(app, settings.model_copy(update={"drain_timeout": 1})))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield Running(app, listener.getsockname()[1], key)
    finally:
        server.should_exit = True
        await serving


@pytest.fixture
async def other(settings: Settings, key: str) -> str:
    records = database.at(settings.data)
    secret = await KeyStore(records).create("other")
    await database.close(records)
    return secret


def limited(settings: Settings, **limits: float) -> Settings:
    return settings.model_copy(update=limits)


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status, and the rest of the answer up to the end of the connection or of its announced length."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return int(head.split()[1]), head + await reader.readexactly(length)


async def closed(reader: asyncio.StreamReader) -> bool:
    with suppress(ConnectionError):
        return await asyncio.wait_for(reader.read(), 20) == b""
    return True


async def test_the_key_is_checked_before_the_body_is_read(settings: Settings, engine: FakeEngine, key: str) -> None:
    async with running(settings, engine, key) as server:
        before = server.free
        reader, writer = await server.dial()
        writer.write(server.head(1_000_000, key="sk-wrong"))
        status, _ = await answer(reader)
        assert (status, server.free) == (401, before)
        writer.write(bytes(1_000_000))  # what comes in spite of that is thrown away, and the connection goes on
        body = httpx.Request("POST", server.url, json=chat()).content
        writer.write(server.head(len(body)) + body)
        assert (await answer(reader))[0] == 200
        writer.close()


async def test_bodies_have_a_bound_and_each_key_a_share_of_it(
    settings: Settings, engine: FakeEngine, key: str, other: str
) -> None:
    async with running(limited(settings, max_bodies_bytes=100_000), engine, key) as server:
        readers = [await server.dial() for _ in range(2)]
        for _, writer in readers:
            writer.write(server.head(40_000) + b"{")
        await server.has_free(20_000)
        refused = await server.post()
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "2"
        assert refused.json()["code"] == "Throttling"
        assert (await server.post(other)).status_code == 200
        for _, writer in readers:
            writer.close()
        await server.has_free(100_000)
        assert (await server.post()).status_code == 200
        assert server.free == 100_000


async def test_a_body_of_unknown_length_counts_as_it_comes(settings: Settings, engine: FakeEngine, key: str) -> None:
    async def endless() -> AsyncGenerator[bytes, None]:
        for _ in range(1000):
            yield bytes(10_000)

    async with running(limited(settings, max_bodies_bytes=100_000), engine, key) as server:
        async with httpx.AsyncClient(headers={"authorization": f"Bearer {key}"}) as client:
            refused = await client.post(server.url, content=endless())
        assert refused.status_code == 429
        assert server.free == 100_000


async def test_a_body_that_stops_coming_is_given_up(settings: Settings, engine: FakeEngine, key: str) -> None:
    async with running(limited(settings, body_timeout=0.1), engine, key) as server:
        before = server.free
        reader, writer = await server.dial()
        writer.write(server.head(100) + b'{"model"')
        status, body = await answer(reader)
        assert status == 500
        assert b'"code":"RequestTimeOut"' in body
        assert server.free == before
        writer.close()


async def test_a_body_that_comes_in_pieces_is_read_whole(settings: Settings, engine: FakeEngine, key: str) -> None:
    texts = ["long " * 100_000, "short", "longer " * 100_000]
    bodies = [httpx.Request("POST", PATH, json=chat(user(text))).content for text in texts]
    sent = b"".join(HEAD.format(path=PATH, key=key, length=len(body)).encode() + body for body in bodies)
    async with running(settings, engine, key) as server:
        before = server.free
        reader, writer = await server.dial()
        for at in range(0, len(sent), 7_001):  # the next request begins in the piece in which the last one ends
            writer.write(sent[at : at + 7_001])
            await writer.drain()
        for _ in bodies:
            status, told = await answer(reader)
            assert status == 200, told
        assert server.free == before
        writer.close()
    assert [generation.messages[0].parts for generation in engine.history] == [(Text(text),) for text in texts]


async def test_a_body_may_take_longer_than_its_pieces_may(settings: Settings, engine: FakeEngine, key: str) -> None:
    async with running(limited(settings, body_timeout=1.0), engine, key) as server:
        body = httpx.Request("POST", server.url, json=chat()).content
        reader, writer = await server.dial()
        writer.write(server.head(len(body)))
        step = len(body) // 6 + 1
        for at in range(0, len(body), step):
            await asyncio.sleep(0.25)
            writer.write(body[at : at + step])
        assert (await answer(reader))[0] == 200
        writer.close()


@pytest.mark.parametrize("sent", [b"POST / HTTP/1.1\r\nhost: x\r\n", b"\r\n\r\n"])
async def test_headers_have_a_time_limit(settings: Settings, engine: FakeEngine, key: str, sent: bytes) -> None:
    async with running(limited(settings, header_timeout=0.1), engine, key) as server:
        reader, writer = await server.dial()
        writer.write(sent)
        assert (await answer(reader))[0] == 408
        assert await closed(reader)
        writer.close()


async def test_who_says_nothing_is_hung_up_on(settings: Settings, engine: FakeEngine, key: str) -> None:
    async with running(limited(settings, header_timeout=0.1), engine, key) as server:
        reader, writer = await server.dial()
        assert await closed(reader)
        writer.close()


async def test_headers_that_come_in_drops_get_no_more_time(settings: Settings, engine: FakeEngine, key: str) -> None:
    async with running(limited(settings, header_timeout=0.3), engine, key) as server:
        reader, writer = await server.dial()
        writer.write(b"POST / HTTP/1.1\r\n")
        dripping = asyncio.create_task(drip(writer))
        assert (await answer(reader))[0] == 408
        dripping.cancel()
        writer.close()


async def drip(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"x-a: b\r\n")
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("flood", [b"x-a: " + b"a" * 4 * MAX_HEAD, b"x: y\r\n" * MAX_HEAD])
async def test_endless_headers_are_cut_off(settings: Settings, engine: FakeEngine, key: str, flood: bytes) -> None:
    async with running(settings, engine, key) as server:
        reader, writer = await server.dial()
        writer.write(b"GET / HTTP/1.1\r\n" + flood)
        assert b" 431 " in await asyncio.wait_for(reader.readline(), 20)
        writer.close()


CHUNKED = b"POST %s HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %s\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "flood", [b"0\r\nx-a: " + b"a" * 8 * MAX_HEAD, b"0\r\n" + b"x: y\r\n" * MAX_HEAD, b"1;" + b"a" * 8 * MAX_HEAD]
)
async def test_what_comes_endlessly_beside_a_body_is_cut_off(
    settings: Settings, engine: FakeEngine, key: str, flood: bytes
) -> None:
    async with running(settings, engine, key) as server:
        reader, writer = await server.dial()
        writer.write(CHUNKED % (PATH.encode(), key.encode()) + b"1\r\n{\r\n" + flood)
        assert await closed(reader)
        writer.close()


async def test_what_follows_a_body_is_no_header(settings: Settings, engine: FakeEngine, key: str) -> None:
    body = httpx.Request("POST", "http://x", json=chat()).content
    async with running(settings, engine, key) as server:
        reader, writer = await server.dial()
        chunk = b"%x\r\n%s\r\n0\r\nauthorization: Bearer %s\r\n\r\n" % (len(body), body, key.encode())
        writer.write(CHUNKED % (PATH.encode(), b"sk-wrong") + chunk)
        assert (await answer(reader))[0] == 401
        writer.close()


async def test_chunks_of_a_byte_each_are_a_body_all_the_same(settings: Settings, engine: FakeEngine, key: str) -> None:
    body = httpx.Request("POST", "http://x", json=chat(user("hi" * MAX_HEAD))).content
    async with running(settings, engine, key) as server:
        reader, writer = await server.dial()
        chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
        writer.write(CHUNKED % (PATH.encode(), key.encode()) + chunks + b"0\r\n\r\n")
        assert (await answer(reader))[0] == 200
        writer.close()


async def test_requests_are_not_stacked_up_behind_one(settings: Settings, engine: FakeEngine, key: str) -> None:
    engine.enqueue("done", gate=asyncio.Event())
    body = httpx.Request("POST", "http://x", json=chat()).content
    async with running(settings, engine, key) as server:
        reader, writer = await server.dial()
        writer.write(server.head(len(body)) + body + b"GET /livez HTTP/1.1\r\n\r\n" * (MAX_PIPELINED + 2))
        assert await closed(reader)
        writer.close()


async def test_a_few_are_answered_in_order(settings: Settings, engine: FakeEngine, key: str) -> None:
    async with running(settings, engine, key) as server:
        reader, writer = await server.dial()
        writer.write(b"GET /livez HTTP/1.1\r\n\r\n" * (MAX_PIPELINED + 1))
        assert [(await answer(reader))[0] for _ in range(MAX_PIPELINED + 1)] == [200] * (MAX_PIPELINED + 1)
        writer.close()


async def test_who_leaves_stops_its_answer_though_another_request_has_come(
    settings: Settings, engine: FakeEngine, key: str
) -> None:
    engine.enqueue("done", gate=asyncio.Event())
    body = httpx.Request("POST", "http://x", json=chat()).content
    async with running(settings, engine, key) as server:
        _, writer = await server.dial()
        writer.write(server.head(len(body)) + body + b"GET /livez HTTP/1.1\r\n\r\n")
        await engine.began.wait()
        writer.close()
        await asyncio.wait_for(engine.closed.wait(), 20)
        assert engine.running == 0


async def test_an_answer_takes_longer_than_headers_may(settings: Settings, engine: FakeEngine, key: str) -> None:
    gate = asyncio.Event()
    engine.enqueue("done", gate=gate)
    body = httpx.Request("POST", "http://x", json=chat()).content
    async with running(limited(settings, header_timeout=0.25), engine, key) as server:
        reader, writer = await server.dial()
        writer.write(server.head(len(body)) + body + b"POST")  # the next request begins to come
        await engine.began.wait()
        await asyncio.sleep(0.75)  # several times the limit
        gate.set()
        assert (await answer(reader))[0] == 200
        assert await closed(reader)
        writer.close()


async def test_who_does_not_read_a_stream_loses_it(settings: Settings, engine: FakeEngine, key: str) -> None:
    engine.enqueue(*["x" * 100_000] * 1000)
    body = httpx.Request("POST", "http://x", json=chat(incremental_output=True)).content
    async with running(limited(settings, write_timeout=0.2), engine, key) as server:
        deaf = socket.create_connection(("127.0.0.1", server.port))
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        head = server.head(len(body)).replace(b"host: x", b"host: x\r\naccept: text/event-stream")
        deaf.sendall(head + body)
        await asyncio.wait_for(engine.closed.wait(), 30)
        await server.has_free(server.app.intake.bodies.limit)
        assert engine.running == 0
        deaf.close()


async def test_connections_beyond_the_limit_are_turned_away(settings: Settings, engine: FakeEngine, key: str) -> None:
    async with running(limited(settings, max_connections=2), engine, key) as server:
        held = [await server.dial() for _ in range(2)]
        reader, writer = await server.dial()
        status, said = await answer(reader)
        assert status == 503
        assert b"retry-after: 2" in said
        assert await closed(reader)
        writer.close()
        for silent, speaking in held:
            speaking.close()
            assert await closed(silent)
        assert (await server.post()).status_code == 200
