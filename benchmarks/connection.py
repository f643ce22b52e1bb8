"""HTTP/1.1 for a load generator: every read is stamped in the callback that the socket's bytes arrive in.

A general client hands bytes on through queues and tasks, so that a busy loop adds its own delay to each token's time.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, cast
from urllib.parse import urlsplit

import httptools


class Broken(Exception):
    """Raised when no whole answer came; the message is what broke, as it is counted in a report."""


class BadTarget(Exception):
    """Raised when an address is none."""


@dataclass(slots=True)
class Response:
    """An answer while it arrives. `on_body` gets each part of the body with the time at which it was read."""

    on_body: Callable[[bytes, int], None]
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    received: int = 0
    streamed: bool = False
    """The body is one of events."""

    uploaded: int | None = None
    """When the last byte of the request had left this process."""

    port: int = 0
    """This end of the connection."""


class Link(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self) -> None:
        self.usable = False
        self.port = 0
        self._transport: asyncio.Transport | None = None
        self._response: Response | None = None
        self._done: asyncio.Future[None] | None = None
        self._now = 0
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(0)  # so that resume_writing says when all has left
        self.port = transport.get_extra_info("sockname")[1]
        self.usable = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        if self._done is not None and not self._done.done():
            reason = type(exc).__name__ if exc else "ConnectionClosed"
            self._done.set_exception(Broken(reason))

    def pause_writing(self) -> None:
        if self._response is not None:
            self._response.uploaded = None

    def resume_writing(self) -> None:
        if self._response is not None:
            self._response.uploaded = time.perf_counter_ns()

    def data_received(self, data: bytes) -> None:
        self._now = time.perf_counter_ns()
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserCallbackError) as error:
            self._fail(Broken(f"NotHTTP: {error.__context__ or error}"))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._response is not None:
            self._response.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if (response := self._response) is not None:
            response.status = self._parser.get_status_code()
            response.streamed = response.headers.get("content-type", "").startswith("text/event-stream")

    def on_body(self, body: bytes) -> None:
        if (response := self._response) is not None:
            response.received += len(body)
            response.on_body(body, self._now)

    def on_message_complete(self) -> None:
        if not self._parser.should_keep_alive():
            self.close()
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    def _fail(self, error: Broken) -> None:
        self.close()
        if self._done is not None and not self._done.done():
            self._done.set_exception(error)

    def close(self) -> None:
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    async def exchange(self, head: bytes, body: bytes, response: Response) -> None:
        """Sends, and returns once the answer is complete. Leaving early closes the connection.

        Raises:
            Broken: the connection ended before.
        """
        assert self._transport is not None
        self._response, self._done = response, asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        response.port, response.uploaded = self.port, time.perf_counter_ns()
        self._transport.writelines([head, body])
        try:
            await self._done
        except asyncio.CancelledError:
            self.close()
            raise
        finally:
            self._response = self._done = None


class Links:
    """Connections to one server, kept alive and as many as are needed.

    Args:
        url: `http://host:port` or https.
        headers: sent with every request.
    """

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadTarget(f"{url!r} is no address of a server; give one like http://127.0.0.1:8000")
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._host, self._port = parts.hostname, parts.port or (443 if self._tls else 80)
        self._prefix = parts.path.rstrip("/")
        self._fixed = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._authority = parts.netloc.rpartition("@")[2]
        self._idle: deque[Link] = deque()
        self._all: set[Link] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for link in self._all:
            link.close()

    def head(self, path: str, headers: dict[str, str], length: int, method: str = "POST") -> bytes:
        """The request line and headers, ready to send."""
        own = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return (
            f"{method} {self._prefix}{path} HTTP/1.1\r\nhost: {self._authority}\r\n{self._fixed}{own}"
            f"content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        ).encode()

    async def send(self, head: bytes, body: bytes, response: Response) -> None:
        """Raises Broken: no connection, or it ended before the answer did."""
        link = self._waiting() or await self._connected()
        try:
            await link.exchange(head, body, response)
        finally:
            if link.usable:
                self._idle.append(link)
            else:
                self._all.discard(link)

    def _waiting(self) -> Link | None:
        while self._idle:
            link = self._idle.pop()
            if link.usable:
                return link
            self._all.discard(link)
        return None

    async def _connected(self) -> Link:
        loop = asyncio.get_running_loop()
        try:
            _, link = await loop.create_connection(Link, self._host, self._port, ssl=self._tls)
        except (OSError, ssl.SSLError) as error:
            raise Broken(type(error).__name__) from error
        self._all.add(link)
        return link
