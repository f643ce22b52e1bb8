"""An image server on a real socket, and the names by which tests let it be found."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from tests.serving.wire import picture

HOST = "images.test"


class Names(AbstractResolver):
    """Resolves what it was told to; a name with several answers gives out the next one each time it is asked."""

    def __init__(self, answers: Mapping[str, list[list[str]]]) -> None:
        self._answers = {name: list(turns) for name, turns in answers.items()}
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        self.asked.append(host)
        turns = self._answers.get(host)
        if not turns:
            raise OSError(socket.EAI_NONAME, f"no such name: {host}")
        addresses = turns.pop(0) if len(turns) > 1 else turns[0]
        return [_result(host, port, address) for address in addresses]

    async def close(self) -> None:
        pass


def _result(host: str, port: int, address: str) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return {"hostname": host, "host": address, "port": port, "family": family, "proto": 0, "flags": 0}


Reply = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Site:
    """`replies` by path; any other path is a picture. `requests` are those that came."""

    port: int = 0
    requests: list[web.Request] = field(default_factory=list)
    replies: dict[str, Reply] = field(default_factory=dict)
    began: asyncio.Event = field(default_factory=asyncio.Event)
    connected: Callable[[], int] = int
    """How many connections are open."""

    def url(self, path: str = "/a.png", host: str = HOST) -> str:
        return f"http://{host}:{self.port}{path}"

    def answer(self, path: str, body: bytes = b"", status: int = 200, **headers: str) -> str:
        """What `path` answers from now on; underscores in the names of headers are dashes."""
        lines = {"Content-Type": "image/png"} | {name.replace("_", "-"): value for name, value in headers.items()}

        async def reply(_: web.Request) -> web.Response:
            return web.Response(status=status, body=body, headers=lines)

        self.replies[path] = reply
        return self.url(path)

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        assert isinstance(request, web.BaseRequest)
        self.requests.append(request)  # type: ignore[arg-type]
        self.began.set()
        if reply := self.replies.get(request.path):
            return await reply(request)  # type: ignore[arg-type]
        return web.Response(body=picture(), headers={"Content-Type": "image/png"})


@asynccontextmanager
async def site() -> AsyncGenerator[Site, None]:
    found = Site()
    server = web.Server(found.serve)
    found.connected = lambda: len(server.connections)
    runner = web.ServerRunner(server, handle_signals=False)
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", 0))
    found.port = listener.getsockname()[1]
    await web.SockSite(runner, listener).start()
    try:
        yield found
    finally:
        await runner.cleanup()
