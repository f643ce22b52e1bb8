from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from serving import errors, logs
from serving.access.keyring import Keyring
from serving.dashscope import schema, translate
from serving.dashscope.translate import Form, Rendering, Rules, Translated
from serving.engine.base import Engine
from serving.errors import (
    AsyncUnsupported,
    EngineUnavailable,
    InternalError,
    InvalidRequest,
    RequestTimeout,
    ServingError,
)
from serving.exchange import ClientGone, Exchange
from serving.generation import Answer, Chunk, Generation, Timeline
from serving.settings import Settings

log = logging.getLogger(__name__)

PARTIAL = {"x-dashscope-partialresponse": "true"}
REFUSE_WITHIN = 5.0
"""Seconds that a client gets to read why its stream ended; one that stopped reading would be waited for without end."""
RETRY_AFTER = 5
"""Seconds until a server that stops has a successor, roughly; clients cap the header at 8."""


def routes(engine: Engine, keyring: Keyring, settings: Settings) -> list[Route]:
    prefix = "/api/v1/services/aigc"
    multimodal = Generations("multimodal", engine, keyring, settings)
    text = Generations("text", engine, keyring, settings)
    return [
        Route(f"{prefix}/multimodal-generation/generation", multimodal),
        Route(f"{prefix}/text-generation/generation", text),
    ]


@dataclass(slots=True)
class Call:
    """What is known about one request while it is served."""

    exchange: Exchange
    timeline: Timeline
    answer: Answer
    stream: bool = False
    key: str = "-"
    model: str = "-"
    images: int = 0
    outcome: str = "ok"


class Generations:
    """The chat endpoint on one service path, whole and streamed."""

    def __init__(self, form: Form, engine: Engine, keyring: Keyring, settings: Settings) -> None:
        self._form = form
        self._engine = engine
        self._keyring = keyring
        self._settings = settings
        self._rules = Rules(settings.served_models, settings.max_output_tokens)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = Call(Exchange(scope, receive, send), Timeline(), Answer())
        try:
            await self._serve(call, scope["method"])
        except ClientGone:
            call.outcome = "client_gone"
        except ServingError as error:
            await _refuse(call, error)
        except asyncio.CancelledError:  # the drain time is over; nothing of this task comes after the refusal
            await _refuse(call, EngineUnavailable(retry_after=RETRY_AFTER))
        except Exception:
            log.exception("request %s failed", call.exchange.request_id)
            await _refuse(call, InternalError())
        finally:
            _log(call)

    async def _serve(self, call: Call, method: str) -> None:
        exchange = call.exchange
        caller = await self._keyring.caller(exchange.header("authorization"))
        call.key = caller.name
        if method != "POST":
            raise InvalidRequest(f"Request method '{method}' is not supported.")
        call.stream = wants_stream(exchange)
        _refuse_headers(exchange)
        if self._form == "text" and self._settings.strict_paths:
            raise InvalidRequest("url error, please check url！")
        wire = schema.parse(await self._body(exchange))
        translated = translate.to_generation(
            wire, self._form, self._rules, request_id=exchange.request_id, caller=caller, timeline=call.timeline
        )
        call.model, call.images = translated.generation.model, len(translated.generation.images)
        async with exchange.until_gone(), aclosing(self._observed(call, translated.generation)) as chunks:
            await self._reply(call, translated, chunks)

    async def _body(self, exchange: Exchange) -> bytes:
        try:
            async with asyncio.timeout(self._settings.request_timeout):
                return await exchange.body(self._settings.max_body_bytes)
        except TimeoutError:
            raise RequestTimeout from None

    async def _reply(self, call: Call, translated: Translated, chunks: AsyncGenerator[Chunk, None]) -> None:
        rendering = Rendering(call.exchange.request_id, self._form, translated.incremental, self._settings.output_text)
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
            if call.stream or not call.answer.pieces:
                raise RequestTimeout from None
            call.answer.finish_reason = "length"
            call.outcome = "partial"
        headers = PARTIAL if call.outcome == "partial" else None
        await call.exchange.answer(200, rendering.whole(call.answer), headers)

    async def _observed(self, call: Call, generation: Generation) -> AsyncGenerator[Chunk, None]:
        """The engine's chunks, added up and timed on their way."""
        async with aclosing(self._engine.generate(generation)) as chunks:
            async for chunk in chunks:
                if call.timeline.first_chunk is None:
                    call.timeline.first_chunk = time.monotonic()
                call.answer.add(chunk)
                yield chunk


def wants_stream(exchange: Exchange) -> bool:
    """Either header is enough; `stream` in the body is not a trigger."""
    if exchange.header("x-dashscope-sse").lower() == "enable":
        return True
    return "text/event-stream" in exchange.header("accept").lower()


def _refuse_headers(exchange: Exchange) -> None:
    if exchange.header("x-dashscope-async").lower() == "enable":
        raise AsyncUnsupported
    if exchange.header("x-dashscope-encryptionkey"):
        raise InvalidRequest("Encrypted request bodies are not supported by this server; send plain JSON over HTTPS.")


async def _refuse(call: Call, error: ServingError) -> None:
    call.outcome = error.code
    exchange = call.exchange
    with suppress(TimeoutError):
        async with asyncio.timeout(REFUSE_WITHIN):
            if exchange.begun:
                await exchange.end(errors.to_sse(error, exchange.request_id, exchange.frames + 1))
            else:
                await exchange.answer(error.status, errors.to_json(error, exchange.request_id), error.headers)


def _log(call: Call) -> None:
    times = call.timeline
    times.ended = time.monotonic()
    logs.finished(
        logs.RequestLine(
            request_id=call.exchange.request_id,
            key=call.key,
            model=call.model,
            status=call.exchange.status,
            outcome=call.outcome,
            stream=call.stream,
            images=call.images,
            input_tokens=call.answer.usage.input_tokens,
            output_tokens=call.answer.usage.output_tokens,
            queued_ms=logs.span_ms(times.received, times.admitted),
            first_chunk_ms=logs.span_ms(times.received, times.first_chunk),
            total_ms=logs.span_ms(times.received, times.ended),
        )
    )
