from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from starlette.routing import Route

from serving.access.grant import Scope
from serving.access.keyring import Keyring
from serving.chat import Chat, Deferred, Question
from serving.dashscope import schema, translate
from serving.dashscope.messages import Form
from serving.dashscope.rendering import Rendering
from serving.dashscope.translate import Rules
from serving.dialects import NATIVE
from serving.endpoint import Call, Endpoint
from serving.engine.base import Engine
from serving.errors import AsyncUnsupported, InvalidRequest
from serving.exchange import Exchange
from serving.once import Once
from serving.settings import Settings

Submit: TypeAlias = Callable[[Call, Form, bytes], Awaitable[bytes]]
"""Accepts a checked body as a task; returns what the client is told."""


def routes(
    engine: Engine, keyring: Keyring, settings: Settings, once: Once, submit: Submit | None = None
) -> list[Route]:
    """`submit` takes requests with the header of asynchronous tasks; None refuses them, as the cloud does."""
    prefix = "/api/v1/services/aigc"
    multimodal = Chat(Reader("multimodal", settings, submit), engine, settings)
    text = Chat(Reader("text", settings, submit), engine, settings)
    services: dict[Scope, Chat] = {"multimodal-generation": multimodal, "text-generation": text}
    return [
        Route(
            f"{prefix}/{scope}/generation",
            Endpoint(once(serve, scope, settings.max_body_bytes), keyring, NATIVE, scopes=(scope,)),
        )
        for scope, serve in services.items()
    ]


class Reader:
    """Reads chat calls on one service path."""

    def __init__(self, form: Form, settings: Settings, submit: Submit | None = None) -> None:
        self._form = form
        self._settings = settings
        self._submit = submit
        self._rules = Rules.of(settings)

    def begin(self, call: Call) -> None:
        call.stream = wants_stream(call.exchange)
        if wants_task(call.exchange) and self._submit is None:
            raise AsyncUnsupported
        if call.exchange.header("x-dashscope-encryptionkey"):
            raise InvalidRequest(
                "Encrypted request bodies are not supported by this server; send plain JSON over HTTPS."
            )
        if self._form == "text" and self._settings.strict_paths:
            raise InvalidRequest("url error, please check url！")

    async def read(self, call: Call, body: bytes) -> Question | Deferred:
        request_id = call.exchange.request_id
        translated = translate.to_generation(
            schema.parse(body),
            self._form,
            self._rules,
            request_id=request_id,
            caller=call.caller,
            timeline=call.timeline,
            stream=call.stream and not wants_task(call.exchange),
            resolve_oss=call.exchange.header("x-dashscope-ossresourceresolve").lower() == "enable",
        )
        if self._submit is not None and wants_task(call.exchange):
            call.stream, call.model = False, translated.generation.model
            call.images = len(translated.generation.images)
            return Deferred(await self._submit(call, self._form, body))
        rendering = Rendering.of(translated, self._form, output_text=self._settings.output_text)
        return Question(translated.generation, rendering)


def wants_stream(exchange: Exchange) -> bool:
    """Either header is enough; `stream` in the body is not a trigger."""
    if exchange.header("x-dashscope-sse").lower() == "enable":
        return True
    return "text/event-stream" in exchange.header("accept").lower()


def wants_task(exchange: Exchange) -> bool:
    return exchange.header("x-dashscope-async").lower() == "enable"
