from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from urllib.parse import parse_qsl

from starlette.types import Message, Receive, Scope, Send

from serving.errors import BodyTooLarge, RequestTimeout, new_request_id
from serving.intake import INTAKE, REST, Intake

JSON = b"application/json"
EVENTS = b"text/event-stream;charset=UTF-8"
TAKEN_WITHIN = 60.0
"""Seconds for which a client may take nothing of a download; each holds a file open, and a piece of it."""
HOST = re.compile(r"[A-Za-z0-9._-]+(:\d+)?|\[[0-9A-Fa-f:.]+\](:\d+)?")


class ClientGone(Exception):
    """Raised when the client closed the connection; an outcome, nobody is left to be told."""


class Exchange:
    """One HTTP request and its answer, straight on ASGI.

    Request and response classes of a framework cost 0.2 ms of CPU per request, as much as reading the body does.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.request_id = new_request_id()
        self.method: str = scope["method"]
        self.path_params: Mapping[str, str] = scope.get("path_params", {})
        self.status = 0
        self.frames = 0
        self.further_headers: dict[str, str] = {}
        """Sent with the response, if they are here when it begins."""
        self.taken_within = TAKEN_WITHIN
        self.holder = ""
        """Whose share of the memory for bodies this one takes: an API key."""
        self._intake: Intake = scope.get(INTAKE) or Intake()
        self._rest: Callable[[float], Awaitable[list[bytes]]] | None = scope.get(REST)
        self._claimed = 0
        self._scheme: str = scope.get("scheme", "http")
        self._server: tuple[str, int | None] = scope.get("server") or ("127.0.0.1", None)
        self._query: bytes = scope["query_string"]
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        self._receive = receive
        self._send = send

    @property
    def begun(self) -> bool:
        """Whether the client has been sent a status."""
        return self.status != 0

    def header(self, name: str) -> str:
        return self._headers.get(name.encode(), b"").decode("latin-1")

    @property
    def query(self) -> dict[str, str]:
        """The parameters of the URL; of a repeated one the last."""
        return dict(parse_qsl(self._query.decode("latin-1"), keep_blank_values=True))

    @property
    def has_null(self) -> bool:
        """Whether the URL has a null character where something is named. PostgreSQL has none in texts."""
        return b"%00" in self._query or any("\0" in str(value) for value in self.path_params.values())

    @property
    def origin(self) -> str:
        """The server as this client reaches it: `http://host:port`."""
        host = self.header("host")
        if not HOST.fullmatch(host):
            name, port = self._server
            host = f"[{name}]" if ":" in name else name
            host += f":{port}" if port else ""
        return f"{self._scheme}://{host}"

    async def chunks(self, idle: float) -> AsyncGenerator[bytes, None]:
        """The body as it comes, for what is not to be held whole. Raises `RequestTimeout` when nothing comes for
        `idle` seconds, and `ClientGone`."""
        more = True
        while more:
            try:
                async with asyncio.timeout(idle):
                    message = await self._receive()
            except TimeoutError:
                raise RequestTimeout from None
            if message["type"] == "http.disconnect":
                raise ClientGone
            more = message.get("more_body", False)
            yield message.get("body", b"")

    async def body(self, limit: int) -> bytes:
        """Raises `BodyTooLarge` beyond `limit` bytes, by the announced length where there is one; `Overloaded` at once
        where that many cannot be held now; `RequestTimeout` when nothing comes for too long."""
        announced = self.header("content-length")
        if announced.isdigit():
            self._claim(int(announced[:20]), limit)
        pieces: list[bytes] = []
        size, more, idle = 0, True, self._intake.sent_within
        now = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(idle) as deadline:
                while more:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    pieces.append(message.get("body", b""))
                    size += len(pieces[-1])
                    self._claim(size, limit)
                    more = message.get("more_body", False)
                    if more and size < self._claimed and self._rest is not None:
                        break
                    deadline.reschedule(now() + idle)
            if more and self._rest is not None:
                pieces += await self._rest(idle)
        except TimeoutError:
            raise RequestTimeout from None
        except ConnectionError:
            raise ClientGone from None
        return b"".join(pieces) if len(pieces) > 1 else pieces[0]

    def _claim(self, size: int, limit: int) -> None:
        if size > limit:
            raise BodyTooLarge(limit)
        if size > self._claimed:
            self._intake.bodies.claim(size - self._claimed, self.holder)
            self._claimed = size

    def release(self) -> None:
        """Gives back the memory of the body, which is held as long as the request is: what was read of it points into
        it. To be called once, at the end."""
        if self._claimed:
            self._intake.bodies.give(self._claimed, self.holder)
            self._claimed = 0
            self._intake.freed.note()

    def unread(self, body: bytes) -> None:
        """Has `body`, which was the whole of it, come again."""
        receive, unread = self._receive, [body]
        self._rest = None

        async def again() -> Message:
            if unread:
                return {"type": "http.request", "body": unread.pop(), "more_body": False}
            return await receive()

        self._receive = again

    def tap(self, see: Callable[[Message], None]) -> None:
        """Has `see` called with each message that is sent from now on."""
        send = self._send

        async def tapped(message: Message) -> None:
            see(message)
            await send(message)

        self._send = tapped

    @asynccontextmanager
    async def until_gone(self) -> AsyncGenerator[None, None]:
        """Cancels the block and raises `ClientGone` as soon as the client disconnects. To be entered after `body`."""
        task = asyncio.current_task()
        assert task is not None
        gone = False

        async def watch() -> None:
            nonlocal gone
            while (await self._receive())["type"] != "http.disconnect":
                pass
            gone = True
            task.cancel()

        watcher = asyncio.create_task(watch())
        try:
            yield
        except asyncio.CancelledError:
            if gone and task.uncancel() == 0:
                raise ClientGone from None
            raise
        finally:
            watcher.cancel()

    async def answer(
        self, status: int, body: bytes, headers: Mapping[str, str] | None = None, *, content_type: bytes = JSON
    ) -> None:
        length = {} if status == 204 else {"content-length": str(len(body))}  # RFC 9110, 8.6
        extra = {**length, **(headers or {})}
        await self._start(status, content_type, extra)
        await self._send({"type": "http.response.body", "body": body})

    async def download(
        self, status: int, pieces: AsyncIterator[bytes], headers: Mapping[str, str], *, content_type: bytes
    ) -> None:
        """Sends bytes whose number the headers announce. The first are awaited before the response begins. Raises
        `ClientGone` when the client takes nothing for `TAKEN_WITHIN` seconds."""
        first = await anext(pieces, b"")
        await self._start(status, content_type, headers)
        if self.method != "HEAD":
            await self._send_piece(first)
            async for piece in pieces:
                await self._send_piece(piece)
        await self.end()

    async def _send_piece(self, piece: bytes) -> None:
        try:
            async with asyncio.timeout(self.taken_within):
                await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        except TimeoutError:
            raise ClientGone from None

    async def stream(self, frames: AsyncIterator[bytes]) -> None:
        """Sends each frame as it comes. The first one is awaited before the response begins: what fails until then can
        still be answered with a status of its own."""
        first = await anext(frames)
        await self._start(200, EVENTS, {"cache-control": "no-cache", "x-accel-buffering": "no"})
        self.frames = 1
        await self._send({"type": "http.response.body", "body": first, "more_body": True})
        async for frame in frames:
            self.frames += 1
            await self._send({"type": "http.response.body", "body": frame, "more_body": True})
        await self.end()

    async def end(self, last: bytes = b"") -> None:
        await self._send({"type": "http.response.body", "body": last})

    async def _start(self, status: int, content_type: bytes, headers: Mapping[str, str]) -> None:
        self.status = status
        sent = {**headers, **self.further_headers}
        lines = [(name.encode(), value.encode("latin-1")) for name, value in sent.items()]
        lines += [(b"content-type", content_type), (b"x-request-id", self.request_id.encode())]
        await self._send({"type": "http.response.start", "status": status, "headers": lines})
