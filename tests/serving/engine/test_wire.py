from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field

import pytest

from serving.engine import wire
from serving.engine.wire import Broken, Links

pytestmark = pytest.mark.ring3

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
SHORT = HEAD + b"content-length: 2\r\n\r\nok"

Answer = Callable[[asyncio.StreamWriter], Awaitable[bool | None]]
"""True: the connection stays."""


@dataclass
class Wire:
    """The other end: answers each request by the next of `answers`, bytes as they are or what writes them."""

    answers: list[bytes | Answer] = field(default_factory=list)
    asked: list[bytes] = field(default_factory=list)
    connections: int = 0
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(
                    (int(line[15:]) for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:"), 0
                )
                self.asked.append(head + await reader.readexactly(length))
                answer = self.answers.pop(0)
                if isinstance(answer, bytes):
                    writer.write(answer)
                elif not await answer(writer):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            self.left.set()
        finally:
            writer.close()


@pytest.fixture
def wired() -> Wire:
    return Wire()


@asynccontextmanager
async def to(wired: Wire, *, account: str = "", path: str = "") -> AsyncGenerator[Links, None]:
    async with await asyncio.start_server(wired.serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        links = Links(f"http://{account}127.0.0.1:{port}{path}", {"x-own": "1"})
        yield links
        links.close()


@pytest.fixture
async def links(wired: Wire) -> AsyncGenerator[Links, None]:
    async with to(wired) as links:
        yield links


async def fetched(links: Links, body: bytes = b"") -> tuple[int, bytes]:
    with closing(await links.ask("POST" if body else "GET", "/p", body)) as reply:
        return reply.status, await reply.whole()


async def test_a_connection_serves_one_request_after_the_other(wired: Wire, links: Links) -> None:
    wired.answers += [
        SHORT,
        CHUNKED + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n",
    ]
    assert [await fetched(links, b"{}"), await fetched(links), await fetched(links)] == [
        (200, b"ok"),
        (200, b"abcde"),
        (503, b""),
    ]
    assert wired.connections == 1


async def test_a_connection_is_read_again_after_a_long_answer_that_nobody_read(wired: Wire, links: Links) -> None:
    """Reading rests once so much waits: whoever had the connection next would have waited without end."""
    wired.answers += [HEAD + b"content-length: %d\r\n\r\n" % wire.UNREAD + bytes(wire.UNREAD), SHORT]
    reply = await links.ask("GET", "/long")
    while not reply.complete:  # noqa: ASYNC110 - nothing tells of it but what is asked to read
        await asyncio.sleep(0.001)
    reply.close()
    assert await fetched(links) == (200, b"ok")


async def test_what_is_sent() -> None:
    wired = Wire([SHORT, SHORT])
    async with to(wired, account="me:a%40b@", path="/under/") as links:
        await fetched(links, b"{}")
        await fetched(links, b"x" * wire.LARGE)
    head, _, body = wired.asked[0].partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert (lines[0], body) == ("POST /under/p HTTP/1.1", b"{}")
    assert {"x-own: 1", "content-length: 2", "authorization: Basic bWU6YUBi"} <= set(lines)
    assert sum(line.startswith("host: 127.0.0.1:") for line in lines) == 1
    assert wired.asked[1].endswith(b"\r\n\r\n" + b"x" * wire.LARGE)


async def test_requests_at_the_same_time_have_connections_of_their_own(wired: Wire, links: Links) -> None:
    wired.answers += [SHORT, SHORT]
    first, second = await links.ask("GET", "/a"), await links.ask("GET", "/b")
    first.close()
    second.close()
    assert wired.connections == 2


@pytest.mark.parametrize(
    "head", [HEAD + b"connection: close\r\ncontent-length: 2\r\n\r\n", HEAD + b"\r\n", b"HTTP/1.0 200 OK\r\n\r\n"]
)
async def test_an_answer_that_ends_with_its_connection(wired: Wire, links: Links, head: bytes) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(head + b"ok")

    wired.answers += [answer, answer]
    assert [await fetched(links), await fetched(links)] == [(200, b"ok")] * 2
    assert wired.connections == 2


async def test_what_comes_before_the_answer_is_none(wired: Wire, links: Links) -> None:
    wired.answers.append(b"HTTP/1.1 100 Continue\r\n\r\n" + SHORT)
    assert await fetched(links, b"{}") == (200, b"ok")


@pytest.mark.parametrize(
    "said", [b"", HEAD, HEAD + b"content-length: 5\r\n\r\nok", CHUNKED + b"5\r\nok", b"no HTTP\r\n\r\n"]
)
async def test_a_connection_that_breaks(wired: Wire, links: Links, said: bytes) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(said)

    wired.answers += [answer, SHORT]
    with pytest.raises(Broken):
        await fetched(links)
    assert await fetched(links) == (200, b"ok")


async def test_nobody_there(links: Links) -> None:
    with pytest.raises(OSError, match="Connect"):
        await Links("http://127.0.0.1:9", {}).ask("GET", "/")


async def test_who_leaves_before_the_end_hangs_up(wired: Wire, links: Links) -> None:
    wired.answers.append(CHUNKED + b"2\r\nok\r\n")
    with closing(await links.ask("GET", "/")) as reply:
        assert await reply.read() == b"ok"
    await asyncio.wait_for(wired.left.wait(), 5)
    wired.answers.append(SHORT)
    assert await fetched(links) == (200, b"ok")


async def test_who_has_read_all_but_the_end_does_not_hang_up(wired: Wire, links: Links) -> None:
    """vLLM's server writes the end of a stream after `[DONE]`, and it may come a moment later."""
    read = asyncio.Event()

    async def answer(writer: asyncio.StreamWriter) -> bool:
        writer.write(CHUNKED + b"2\r\nok\r\n")
        await read.wait()
        writer.write(b"0\r\n\r\n")
        return True

    wired.answers += [answer, SHORT]
    with closing(await links.ask("GET", "/")) as reply:
        assert await reply.read() == b"ok"
        reply.over = True
    assert not reply.complete
    read.set()
    async with asyncio.timeout(5):
        while not reply.complete:  # noqa: ASYNC110 - nothing tells of it but what is asked to read
            await asyncio.sleep(0.001)
    assert await fetched(links) == (200, b"ok")
    assert wired.connections == 1


async def test_an_end_that_does_not_come_is_not_waited_for(
    wired: Wire, links: Links, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "END_WITHIN", 0.01)
    wired.answers.append(CHUNKED + b"2\r\nok\r\n")
    with closing(await links.ask("GET", "/")) as reply:
        assert await reply.read() == b"ok"
        reply.over = True
    await asyncio.wait_for(wired.left.wait(), 5)
    wired.answers.append(SHORT)
    assert await fetched(links) == (200, b"ok")


async def test_a_request_that_is_given_up_hangs_up(wired: Wire, links: Links) -> None:
    wired.answers.append(b"")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await links.ask("GET", "/")
    await asyncio.wait_for(wired.left.wait(), 5)


@pytest.mark.parametrize("begun", [CHUNKED, HEAD + b"\r\nhalf"])
async def test_closing_ends_what_runs(wired: Wire, links: Links, begun: bytes) -> None:
    wired.answers.append(begun)
    reply = await links.ask("GET", "/")
    links.close()
    with pytest.raises(Broken):
        await reply.whole()


async def test_what_nobody_asked_for_is_no_part_of_an_answer(wired: Wire, links: Links) -> None:
    wired.answers += [SHORT + SHORT, SHORT]
    assert [await fetched(links), await fetched(links)] == [(200, b"ok")] * 2
    assert wired.connections == 2


async def test_a_connection_that_the_other_end_has_closed_is_not_used_again(wired: Wire, links: Links) -> None:
    wired.answers += [SHORT + b"HTTP/1.1 408 Late\r\n\r\n", SHORT]  # what nobody asked for
    assert await fetched(links) == (200, b"ok")
    assert await fetched(links) == (200, b"ok")


async def test_a_connection_that_is_just_being_closed_is_not_used(wired: Wire, links: Links) -> None:
    wired.answers += [SHORT, SHORT]
    await fetched(links)
    transport = links._waiting[0]._transport
    assert transport is not None
    transport.close()  # as the loop does once the other end has
    assert await fetched(links) == (200, b"ok")
    assert wired.connections == 2


async def test_idle_connections_are_closed(wired: Wire, links: Links, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "KEEP_ALIVE", 0.01)
    wired.answers += [SHORT, SHORT]
    await fetched(links)
    await asyncio.wait_for(wired.left.wait(), 5)
    await fetched(links)
    assert wired.connections == 2


async def test_what_is_not_read_is_not_taken(wired: Wire, links: Links) -> None:
    """A client that reads slowly holds its engine back, and no memory here."""
    sent = 0

    async def answer(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(HEAD + b"\r\n")
        while sent < 64 << 20:
            writer.write(bytes(1 << 16))
            await writer.drain()
            sent += 1 << 16

    wired.answers.append(answer)
    with closing(await links.ask("GET", "/")) as reply:
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.1)
        assert sent < 32 << 20
        assert len(await reply.whole()) == 64 << 20
