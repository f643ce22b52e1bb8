"""Serving a chat call, whole or streamed, in whichever protocol it was asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Protocol

from serving.endpoint import Call
from serving.engine.base import Engine
from serving.errors import RequestTimeout
from serving.generation import Answer, Caching, Chunk, Generation
from serving.settings import Settings

PARTIAL = {"x-dashscope-partialresponse": "true"}


class Rendering(Protocol):
    """Writes the answer to one call as its protocol wants it."""

    def whole(self, answer: Answer) -> bytes: ...

    def frames(self, chunks: AsyncIterator[Chunk]) -> AsyncGenerator[bytes, None]: ...


@dataclass(frozen=True, slots=True)
class Question:
    """A chat call as read: what the engine is asked, and how the answer is written."""

    generation: Generation
    rendering: Rendering


@dataclass(frozen=True, slots=True)
class Deferred:
    """A chat call that is answered later; `body` is what the client is told now."""

    body: bytes


class Reader(Protocol):
    """What one protocol reads out of a chat call. Either method refuses by raising a `ServingError`."""

    def begin(self, call: Call) -> None:
        """Looks at the headers, before the body is read. Sets `call.stream` where they say it."""
        ...

    async def read(self, call: Call, body: bytes) -> Question | Deferred:
        """Sets `call.stream` where the body says it. The generation takes `call.timeline` and `call.caller`."""
        ...


class Chat:
    """Serves chat calls: body, deadline, whole or streamed; the engine stops when the client leaves."""

    def __init__(self, reader: Reader, engine: Engine, settings: Settings) -> None:
        self._reader = reader
        self._engine = engine
        self._settings = settings

    async def __call__(self, call: Call) -> None:
        exchange = call.exchange
        self._reader.begin(call)
        question = await self._reader.read(call, await self._body(call))
        if isinstance(question, Deferred):
            await exchange.answer(200, question.body)
            return
        caching = _caching(exchange.header("cache-control"))
        generation = replace(question.generation, streamed=call.stream, caching=caching)
        call.model, call.images = generation.model, len(generation.images)
        async with exchange.until_gone(), aclosing(self._observed(call, generation)) as chunks:
            await self._reply(call, question.rendering, chunks)

    async def _body(self, call: Call) -> bytes:
        try:
            async with asyncio.timeout(self._settings.request_timeout):
                return await call.exchange.body(self._settings.max_body_bytes)
        except TimeoutError:
            raise RequestTimeout from None

    async def _reply(self, call: Call, rendering: Rendering, chunks: AsyncGenerator[Chunk, None]) -> None:
        deadline = asyncio.timeout_at(asyncio.get_running_loop().time() + self._settings.request_timeout)
        try:
            async with deadline:
                if call.stream:
                    async with aclosing(rendering.frames(chunks)) as frames:
                        await call.exchange.stream(frames)
                    return
                async for _ in chunks:
                    pass
        except TimeoutError:
            if call.stream or not call.answer.begun:
                raise RequestTimeout from None
            call.answer.cut()
            call.outcome = "partial"
        headers = PARTIAL if call.outcome == "partial" else None
        await call.exchange.answer(200, rendering.whole(call.answer), headers)

    async def _observed(self, call: Call, generation: Generation) -> AsyncGenerator[Chunk, None]:
        """The engine's chunks, added up and timed on their way."""
        async with aclosing(self._engine.generate(generation)) as chunks:
            async for chunk in chunks:
                if call.timeline.first_chunk is None:
                    call.timeline.first_chunk = time.monotonic()
                    if call.timeline.cached is not None:
                        call.exchange.further_headers["x-homescope-cache"] = call.timeline.cached
                call.answer.add(chunk)
                yield chunk


def _caching(header: str) -> Caching:
    """What a Cache-Control header lets the answer cache do."""
    if not header:
        return "use"
    directives = {each.strip().lower() for each in header.split(",")}
    if "no-store" in directives:
        return "never"
    return "refresh" if directives & {"no-cache", "max-age=0"} else "use"
