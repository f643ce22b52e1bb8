from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["HTMLResponse", "JSONResponse"]

PATH = "/api/v1/services/aigc/multimodal-generation/generation"


@dataclass(frozen=True)
class Call:
    """A request as it arrived."""

    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def content(self) -> list[dict[str, Any]]:
        content: list[dict[str, Any]] = self.body["input"]["messages"][0]["content"]
        return content

    @property
    def image(self) -> bytes:
        return base64.b64decode(self.content[0]["image"].partition(",")[2])

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.image).hexdigest()


Reply: TypeAlias = ASGIApp


def answer(text: str, finish: str = "stop") -> Reply:
    return JSONResponse(frame(text, finish))


def frame(text: str, finish: str = "stop") -> dict[str, Any]:
    usage = {"input_tokens": 100, "output_tokens": 10, "total_tokens": 110, "image_tokens": 80}
    message = {"role": "assistant", "content": [{"text": text}]}
    choice = {"finish_reason": finish, "message": message}
    return {"output": {"choices": [choice]}, "usage": usage, "request_id": str(uuid.uuid4())}


def refusal(status: int, code: str, message: str, **headers: str) -> Reply:
    body = {"code": code, "message": message, "request_id": "req-1"}
    return JSONResponse(body, status, {name.replace("_", "-"): value for name, value in headers.items()})


def event(data: dict[str, Any], kind: str = "result", status: int = 200) -> bytes:
    return f"id:1\nevent:{kind}\n:HTTP_STATUS/{status}\ndata:{json.dumps(data)}\n\n".encode()


def spoken(*texts: str, end: bool = True) -> Reply:
    frames = [event(frame(text, "null")) for text in texts]
    return stream([*frames, event(frame("", "stop"))] if end else frames)


def stream(chunks: Sequence[bytes]) -> Reply:
    async def body() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk
            await asyncio.sleep(0)

    return StreamingResponse(body(), media_type="text/event-stream;charset=UTF-8")


async def half(scope: Scope, receive: Receive, send: Send) -> None:
    """Announces more than it sends; uvicorn then closes the connection."""
    headers = [(b"content-type", b"application/json"), (b"content-length", b"500")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b'{"output": {"choi', "more_body": True})


@dataclass
class Scripted:
    """A DashScope server that answers as told. `calls` is what it was asked; `waiting` counts requests held back.

    Each request gets the next reply of `script`; after that `default` is asked for one. While `gate` is closed,
    every request waits before it is answered. `storing` gives it a store for uploads: `stored` is what came.
    """

    default: Callable[[Call], Reply] = lambda call: answer(f"seen {call.digest[:8]}")
    script: list[Reply] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    arrived: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    url: str = ""
    most_at_once: int = 0
    stored: dict[str, bytes] = field(default_factory=dict)
    uploads: list[dict[str, str]] = field(default_factory=list)
    certificates: int = 0
    received: int = 0
    _now: int = 0
    _storing: int = 0

    def __post_init__(self) -> None:
        self.gate.set()

    def forget(self) -> None:
        """As new, on the same port."""
        self.__init__(url=self.url)  # type: ignore[misc]

    async def handle(self, request: Request) -> Reply:
        self.received += len(await request.body())
        call = Call(dict(request.headers), await request.json())
        self.calls.append(call)
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        self.arrived.release()
        try:
            while not self.gate.is_set():  # noqa: ASYNC110 -- opened from another thread
                await asyncio.sleep(0.005)
            return self.script.pop(0) if self.script else self.default(call)
        finally:
            self._now -= 1

    def storing(self, status: int = 200) -> None:
        self._storing = status

    async def certify(self, request: Request) -> Reply:
        if not self._storing:
            return refusal(404, "NotFound", "no such path")
        self.certificates += 1
        if self._storing != 200:
            return refusal(self._storing, "InternalError", "no certificates today")
        names = ("policy", "signature", "oss_access_key_id", "x_oss_object_acl", "x_oss_forbid_overwrite")
        host = self.url.replace("/api/v1", "/store")
        data = dict.fromkeys(names, "p" * 200) | {"upload_dir": "up", "upload_host": host, "expire_in_seconds": 300}
        return JSONResponse({"data": data, "request_id": "req-1"})

    async def store(self, request: Request) -> Reply:
        self.received += len(await request.body())
        form = await request.form()
        self.uploads.append(dict(request.headers))
        assert isinstance(form["file"], UploadFile)
        self.stored[f"oss://{form['key']}"] = await form["file"].read()
        await form.close()
        return HTMLResponse("", 200)

    @contextmanager
    def running(self) -> Iterator[Scripted]:
        config = uvicorn.Config(
            Starlette(
                routes=[
                    Route(PATH, self.handle, methods=["POST"]),
                    Route("/api/v1/uploads", self.certify),
                    Route("/store", self.store, methods=["POST"]),
                ]
            ),
            port=0,
            log_level="critical",
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            threading.Event().wait(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/api/v1"
        try:
            yield self
        finally:
            self.gate.set()
            server.should_exit = True
            thread.join(10)
