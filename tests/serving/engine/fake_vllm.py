from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route


def event(
    text: str | None = None,
    finish: str | None = None,
    *,
    index: int = 0,
    delta: dict[str, Any] | None = None,
    logprobs: dict[str, Any] | None = None,
    **usage: Any,
) -> bytes:
    """A chunk as vLLM 0.32 writes it with continuous usage, which counts the tokens of that answer alone."""
    choice = {"index": index, "delta": delta or {"content": text}, "logprobs": logprobs, "finish_reason": finish}
    return data({"object": "chat.completion.chunk", "model": "m", "choices": [choice], "usage": counted(**usage)})


def final(**usage: Any) -> bytes:
    return data({"object": "chat.completion.chunk", "model": "m", "choices": [], "usage": counted(**usage)})


def counted(
    prompt: int = 80, completion: int = 1, image: int | None = None, reasoning: int | None = None
) -> dict[str, Any]:
    details = None if image is None else {"cached_tokens": None, "multimodal_tokens": {"image": image}}
    thoughts = {} if reasoning is None else {"completion_tokens_details": {"reasoning_tokens": reasoning}}
    return {
        **thoughts,
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": details,
    }


def data(value: Any) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def refusal(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "BadRequestError", "param": None, "code": 400}}


DONE = b"data: [DONE]\n\n"
ROLE = data({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}], "usage": counted(completion=0)})


@dataclass
class FakeVLLM:
    """vLLM's side of the wire. `answers` are taken in turn: a status with a body, or the pieces of a 200 stream.

    An empty piece stands for the moment in which the server dies; `gate` is awaited before the last piece.
    """

    answers: list[tuple[int, Any] | list[bytes]] = field(default_factory=list)
    gate: asyncio.Event | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    models: list[str] = field(default_factory=lambda: ["m"])
    alive: bool = True
    version: str = "0.32.0"
    left: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/health", self._health),
                Route("/v1/models", self._models),
                Route("/version", self._version),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
            ]
        )

    async def _health(self, _: Request) -> Response:
        return Response(status_code=200 if self.alive else 503)

    async def _version(self, _: Request) -> Response:
        return JSONResponse({"version": self.version})

    async def _models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": name} for name in self.models]})

    async def _chat(self, request: Request) -> Response:
        self.asked.append(await request.json())
        self.headers.append(dict(request.headers))
        answer = self.answers.pop(0)
        if isinstance(answer, tuple):
            return JSONResponse(answer[1], status_code=answer[0])
        return StreamingResponse(self._stream(answer), media_type="text/event-stream")

    async def _stream(self, pieces: list[bytes]) -> AsyncGenerator[bytes, None]:
        try:
            for number, piece in enumerate(pieces, 1):
                if self.gate is not None and number == len(pieces):
                    await self.gate.wait()
                if not piece:
                    raise ConnectionResetError
                yield piece
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.left.set()
            raise
