"""One connection of a client, with an end to what it may leave the server waiting for."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from serving.intake import REST
from serving.joining import Joined
from serving.settings import Settings

MAX_HEAD = 65_536
"""Bytes of a request line and its headers. The parser itself would take any number."""
MAX_PIPELINED = 16
"""Requests that wait behind the one that is answered. A packet full of small ones is a hundred times its bytes."""
LINGER = 30.0
"""Seconds in which the rest of a body is thrown away whose request has been answered. To close at once would take the
answer from a client that is still sending."""
FAREWELL = 2.0
"""Seconds for which what else a client sends is thrown away that has been refused before its request was complete."""


class Gathering:
    """What is still to come of a body whose length is known, and has been granted.

    To wake who waits for it with each piece, and to stop reading until he asks for the next, is not needed then, and
    takes longer than all else that is done with a piece.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._pieces: list[bytes] = []
        self._ended: asyncio.Future[bool] = loop.create_future()
        self._came = loop.time()

    def add(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._came = self._loop.time()

    def end(self, *, gone: bool = False) -> None:
        if not self._ended.done():
            self._ended.set_result(gone)

    async def pieces(self, idle: float) -> list[bytes]:
        """Raises `ConnectionError`, and `TimeoutError` once nothing has come for `idle` seconds."""
        while not self._ended.done():
            patience = self._came + idle - self._loop.time()
            if patience <= 0:
                raise TimeoutError
            await asyncio.wait([self._ended], timeout=patience)
        if self._ended.result():
            raise ConnectionResetError
        return self._pieces


class Connection(HttpToolsProtocol):
    """HTTP/1.1 as uvicorn speaks it, which waits without end for headers, and for who does not read its answer.

    Both are watched here and not where requests are served: a timer per connection and phase costs nothing per frame of
    a stream, and no API key is known yet while headers come.
    """

    header_timeout: ClassVar[float] = 10.0
    write_timeout: ClassVar[float] = 60.0
    max_connections: ClassVar[int] = 4096

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._head_size = 0
        self._in_message = False
        self._refused = False
        self._beside_body = 0
        self._answered: RequestResponseCycle | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None
        self._gathering: Gathering | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(Joined(transport, self.loop))
        if len(self.connections) > self.max_connections:
            self._refuse(503, b"Too many connections.", b"retry-after: 2\r\n")
            return
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head_timer, self._write_timer, self._linger_timer):
            if timer is not None:
                timer.cancel()
        if self._gathering is not None:
            self._gathering.end(gone=True)
        self._tell_of_loss()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused or self.transport.is_closing():
            return
        if not self._in_message:
            self._head_size += len(data)
            self._expect_head()
        self._beside_body += len(data)
        super().data_received(data)
        if self._in_message and self._beside_body > MAX_HEAD:  # endless trailers, or extensions of a chunk
            self._close()
        if not self._in_message and self._head_size > MAX_HEAD and not self.transport.is_closing():
            self._refuse_sender(431, b"Request headers too large.")

    def on_message_begin(self) -> None:
        self._expect_head()
        super().on_message_begin()
        self.scope[REST] = self._rest  # type: ignore[literal-required]

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_message:  # what follows a body is no header of its request (RFC 9110, 6.5.1)
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:
            self.transport.abort()
            return
        self._in_message, self._head_size, self._beside_body = True, 0, 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._beside_body = 0
        if self._gathering is not None:
            self._gathering.add(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_message, self._head_size = False, 0
        if self._linger_timer is not None:
            self._linger_timer.cancel()
            self._linger_timer = None
        super().on_message_complete()
        if self._gathering is not None:
            self._gathering.end()
            self._gathering = None  # what comes from now on is the next request's

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._watch_writing()
        elif self._in_message and self._linger_timer is None:
            self._linger_timer = self.loop.call_later(LINGER, self._close)

    def timeout_keep_alive_handler(self) -> None:
        self._close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        if self._write_timer is not None and not self.transport.is_closing():
            self._write_timer.cancel()
            self._write_timer = None
        super().resume_writing()

    async def _rest(self, idle: float) -> list[bytes]:
        """The rest of the body that is being received: there is no other before its end."""
        self._gathering = gathering = Gathering(self.loop)
        if self.cycle.disconnected:
            gathering.end(gone=True)
        self.flow.resume_reading()
        try:
            return await gathering.pieces(idle)
        finally:
            if self._gathering is gathering:
                self._gathering = None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def _tell_of_loss(self) -> None:
        """uvicorn tells the last request that came, which may wait behind the one that is answered."""
        if self._answered is not None and not self._answered.response_complete:
            self._answered.disconnected = True
            self._answered.message_event.set()

    def _expect_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.header_timeout, self._head_is_late)

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._refused:
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self._expect_head()  # of the next request, while this one is being answered
        elif self._head_size:
            self._refuse_sender(408, b"The headers did not come in time.")
        else:
            self._close()

    def _watch_writing(self) -> None:
        """What is not taken is waited for only so long, by a closing connection, too."""
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.write_timeout, self.transport.abort)

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
            self._watch_writing()

    def _refuse(self, status: int, words: bytes, headers: bytes = b"") -> None:
        self._tell(status, words, headers)
        self._close()

    def _refuse_sender(self, status: int, words: bytes) -> None:
        """To close at once would have the kernel answer what still comes with a reset, which takes the refusal away."""
        self._refused = True
        self._tell(status, words)
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self._linger_timer = self.loop.call_later(FAREWELL, self._close)
        else:
            self._close()

    def _tell(self, status: int, words: bytes, headers: bytes = b"") -> None:
        length = b"content-type: text/plain\r\ncontent-length: %d\r\n" % len(words)
        self.transport.write(STATUS_LINE[status] + headers + length + b"connection: close\r\n\r\n" + words)


def connections(settings: Settings) -> type[Connection]:
    """The class of the connections of a server with these settings."""
    limits = {
        "header_timeout": settings.header_timeout,
        "write_timeout": settings.write_timeout,
        "max_connections": settings.max_connections,
    }
    return type("Connection", (Connection,), limits)
