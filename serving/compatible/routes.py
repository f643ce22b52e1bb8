from __future__ import annotations

from dataclasses import replace

import orjson
from starlette.routing import Mount, Route, Router
from starlette.types import Receive, Scope, Send

from serving.access.keyring import Keyring
from serving.chat import Chat, Question
from serving.compatible import schema, translate
from serving.compatible.rendering import Rendering
from serving.dashscope.translate import Rules
from serving.endpoint import Call, Endpoint, Serve
from serving.engine.base import Engine
from serving.errors import COMPATIBLE, ModelNotFound, RouteNotFound
from serving.exchange import Exchange
from serving.settings import Settings

PREFIXES = ("/compatible-mode/v1", "/v1")
"""The cloud's, and the one that a plain OpenAI client is given."""
OWNER = "homescope"


def routes(engine: Engine, keyring: Keyring, settings: Settings) -> list[Mount]:
    """The same endpoints under each prefix. What is no endpoint is told in this protocol's words, too."""
    models = Models(settings.served_models)

    def endpoint(serve: Serve, *methods: str) -> Endpoint:
        return Endpoint(serve, keyring, COMPATIBLE, methods=methods)

    inner = Router(
        [
            Route("/chat/completions", endpoint(Chat(Reader(settings), engine, settings), "POST")),
            Route("/models", endpoint(models.list, "GET")),
            Route("/models/{model:path}", endpoint(models.get, "GET")),
        ],
        default=_not_found,
        redirect_slashes=False,
    )
    return [Mount(prefix, app=inner) for prefix in PREFIXES]


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    exchange = Exchange(scope, receive, send)
    refusal = RouteNotFound()
    await exchange.answer(refusal.status, COMPATIBLE.body(refusal, exchange.request_id))


class Reader:
    """Reads chat completion requests. Whether to stream is said by the body alone; headers do not matter."""

    def __init__(self, settings: Settings) -> None:
        self._rules = Rules(settings.served_models, settings.max_output_tokens)

    def begin(self, call: Call) -> None:
        pass

    async def read(self, call: Call, body: bytes) -> Question:
        request_id = call.exchange.request_id
        translated = translate.to_generation(
            schema.parse(body), self._rules, request_id=request_id, caller=call.caller, timeline=call.timeline
        )
        call.stream = translated.stream
        generation = replace(translated.generation, resolve_oss=_resolves_oss(call))
        return Question(generation, Rendering(request_id, generation.model, translated.include_usage))


def _resolves_oss(call: Call) -> bool:
    return call.exchange.header("x-dashscope-ossresourceresolve").lower() == "enable"


class Models:
    """The model names that the server answers to."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names

    async def list(self, call: Call) -> None:
        body = {"object": "list", "data": [_model(name) for name in self._names]}
        await call.exchange.answer(200, orjson.dumps(body))

    async def get(self, call: Call) -> None:
        name = call.exchange.path_params["model"]
        if name not in self._names:
            raise ModelNotFound(name, self._names)
        await call.exchange.answer(200, orjson.dumps(_model(name)))


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": OWNER}
