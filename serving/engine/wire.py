"""HTTP/1.1 as engines are asked in it: one request at a time on a connection, and the body of the answer as it comes.

A general client hands each piece of a stream through buffers, timers and marks of its own, which cost more than what is
done with the piece, and a request three times as much as one here.
"""

from __future__ import annotations

import asyncio
import ssl
from base64 import b64encode
from collections.abc import Mapping
from typing import cast
from urllib.parse import unquote, urlsplit

import httptools

CONNECT_WITHIN = 10.0
"""Seconds."""
KEEP_ALIVE = 4.0
"""Seconds. vLLM closes idle connections after 5: reusing one at that moment would fail a request for nothing."""
END_WITHIN = 1.0
"""Seconds that the end of a body is waited for when all that was in it has come."""
UNREAD = 1 << 18
"""Bytes of an answer that wait to be read before no more are taken from the socket."""
LARGE = 1 << 16
"""Bytes of a body that is not copied to travel with its head."""


class Broken(ConnectionError):
    """Raised when a connection ended before its answer did, or brought what is no HTTP."""


class Reply:
    """An answer while it comes. To be closed, which ends the connection unless the answer is complete, or will be."""

    def __init__(self, link: Link) -> None:
        self.status = 0
        self.complete = False
        self.over = False
        """Set by who reads it once nothing but its end is to come. vLLM's server sends that apart: of a hundred streams
        that were read to `[DONE]` fifty and more had not ended then, and took their connections with them."""
        self.left = False
        """Closed while it was over, and not complete."""
        self._link = link
        self._pieces: list[bytes] = []
        self._size = 0
        self._error: Broken | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def resting(self) -> bool:
        """Whether so much waits to be read that the connection is not read meanwhile."""
        return self._size >= UNREAD

    async def begun(self) -> None:
        """Returns when there is a status. Raises `Broken`."""
        while not self.status:
            await self._more()

    async def read(self) -> bytes:
        """What has come of the body by now, or comes next; empty at its end. Raises `Broken`."""
        while not self._pieces:
            if self.complete:
                return b""
            await self._more()
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        rested, self._size = self.resting, 0
        if rested:
            self._link.resume()
        return data

    async def whole(self) -> bytes:
        """All that is left of the body. Raises `Broken`."""
        pieces = []
        while piece := await self.read():
            pieces.append(piece)
        return b"".join(pieces)

    def close(self) -> None:
        self._link.leave(self)

    async def _more(self) -> None:
        if self._error is not None:
            raise self._error
        waiter = self._waiter = self._link.loop.create_future()
        await waiter

    def add(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._size += len(piece)
        if self.resting:
            self._link.pause()
        self.wake()

    def fail(self, error: Broken) -> None:
        self._error = error
        self.wake()

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Link(asyncio.Protocol):
    """One connection."""

    def __init__(self, links: Links, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._links = links
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._reply: Reply | None = None
        self._until_end = True
        """Whether nothing but the end of the connection ends the body."""
        self._kept = False
        """Whether the other end keeps the connection when the answer is complete."""
        self._idle: asyncio.TimerHandle | None = None
        """Closes it unless something comes of it before."""

    def ask(self, head: bytes, body: bytes) -> Reply:
        assert self._transport is not None
        self._awaken()
        self._reply, self._until_end, self._kept = Reply(self), True, False
        if len(body) < LARGE:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)
        return self._reply

    def leave(self, reply: Reply) -> None:
        """The connection is kept for the next request if it can be. Nothing if the answer has been left before."""
        if reply is not self._reply or reply.left:
            return
        if reply.over and not reply.complete and not self.closing:
            reply.left = True
            self._idle = self.loop.call_later(END_WITHIN, self.close)
        else:
            self._release(reply)

    def _release(self, reply: Reply) -> None:
        self._reply = None
        if reply.complete and self._kept and not reply.resting and not self.closing:
            self._links.keep(self)
            self._idle = self.loop.call_later(KEEP_ALIVE, self.close)
        else:
            self.close()

    def _awaken(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def close(self) -> None:
        self._until_end = False  # from here on, the end of the connection is not that of a body
        self._links.lose(self)
        if self._transport is not None:
            self._transport.abort()

    @property
    def closing(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def pause(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._awaken()
        self._links.lose(self)
        if self._reply is not None and not self._reply.complete:
            if self._reply.status and self._until_end and exc is None:
                self._end(self._reply)
            else:
                self._reply.fail(Broken(f"the connection ended: {exc or 'it was closed'}"))

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if self._reply is not None:
                self._reply.fail(Broken(f"what came is no HTTP: {type(error).__name__}"))
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() in (b"content-length", b"transfer-encoding"):
            self._until_end = False

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._reply is None or self._reply.complete:
            self.close()  # nobody has asked
        elif status >= 200:  # those before say that an answer is to come
            self._reply.status = status
            self._reply.wake()

    def on_body(self, body: bytes) -> None:
        if self._reply is not None and not self._reply.complete:
            self._reply.add(body)

    def on_message_complete(self) -> None:
        if self._reply is not None and self._reply.status:
            self._kept = self._parser.should_keep_alive()
            self._end(self._reply)

    def _end(self, reply: Reply) -> None:
        reply.complete = True
        reply.wake()
        if reply.left:
            self._awaken()
            self._release(reply)


class Links:
    """Connections to one server, as many as are needed."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        """`url` is http or https, and may have a path that all others begin with; `headers` go with each request."""
        parts = urlsplit(url)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._host, self._port = parts.hostname or "", parts.port or (443 if self._tls else 80)
        self._prefix = parts.path.rstrip("/")
        account = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else None
        basic = {} if account is None else {"authorization": f"Basic {b64encode(account.encode()).decode()}"}
        lines = {"host": parts.netloc.rpartition("@")[2], **basic, **headers}
        self._lines = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self._waiting: list[Link] = []
        self._all: set[Link] = set()

    async def ask(self, method: str, path: str, body: bytes = b"") -> Reply:
        """The answer once it has begun; `body` is JSON. Raises `OSError`, of which `Broken` is one, and
        `TimeoutError`."""
        link = self._idle() or await self._connected()
        length = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n" if body else ""
        head = f"{method} {self._prefix}{path} HTTP/1.1\r\n{self._lines}{length}\r\n"
        reply = link.ask(head.encode(), body)
        try:
            await reply.begun()
        except BaseException:
            reply.close()
            raise
        return reply

    def keep(self, link: Link) -> None:
        """It waits for the next request."""
        self._waiting.append(link)

    def lose(self, link: Link) -> None:
        """It is closed."""
        self._all.discard(link)
        if link in self._waiting:
            self._waiting.remove(link)

    def close(self) -> None:
        for link in list(self._all):
            link.close()

    def _idle(self) -> Link | None:
        while self._waiting:
            link = self._waiting.pop()
            if not link.closing:  # what the other end has closed is told of one turn of the loop later
                return link
        return None

    async def _connected(self) -> Link:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_WITHIN):
            _, link = await loop.create_connection(lambda: Link(self, loop), self._host, self._port, ssl=self._tls)
        self._all.add(link)
        return link
