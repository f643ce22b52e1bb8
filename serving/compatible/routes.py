from __future__ import annotations

import orjson
from starlette.routing import Mount, Route, Router
from starlette.types import Receive, Scope, Send

from serving.access import grant
from serving.access.keyring import Keyring
from serving.chat import Chat
from serving.compatible.batches import MAX_BODY, Batches
from serving.compatible.files import FileEndpoints
from serving.compatible.reading import Reading
from serving.dialects import COMPATIBLE
from serving.endpoint import Call, Endpoint, Serve
from serving.engine.base import Engine
from serving.errors import ModelNotFound, RouteNotFound
from serving.exchange import Exchange
from serving.once import Once
from serving.settings import Settings
from serving.storage.files import Files

PREFIXES = ("/compatible-mode/v1", "/v1")
"""The cloud's, and the one that a plain OpenAI client is given."""
OWNER = "homescope"


def routes(
    engine: Engine, keyring: Keyring, settings: Settings, *, files: Files, batches: Batches, once: Once
) -> list[Mount]:
    """The same endpoints under each prefix. What is no endpoint is told in this protocol's words, too."""
    models = Models(settings.served_models)
    file = FileEndpoints(files)

    def endpoint(serve: Serve, *methods: str, scopes: tuple[grant.Scope, ...] = ()) -> Endpoint:
        return Endpoint(serve, keyring, COMPATIBLE, methods=methods, scopes=scopes)

    chat = once(Chat(Reading(settings), engine, settings), "chat/completions", settings.max_body_bytes)
    collection = once(batches.collection, "batches", MAX_BODY)

    inner = Router(
        [
            Route("/chat/completions", endpoint(chat, "POST", scopes=("text-generation", "multimodal-generation"))),
            Route("/models", endpoint(models.list, "GET")),
            Route("/models/{model:path}", endpoint(models.get, "GET")),
            Route("/files", endpoint(file.collection, "GET", "POST", scopes=("files",))),
            Route("/files/{file}", endpoint(file.item, "GET", "DELETE", scopes=("files",))),
            Route("/files/{file}/content", endpoint(file.content, "GET", scopes=("files",))),
            Route("/batches", endpoint(collection, "GET", "POST", scopes=("batches",))),
            Route("/batches/{batch}", endpoint(batches.get, "GET", scopes=("batches",))),
            Route("/batches/{batch}/cancel", endpoint(batches.cancel, "POST", scopes=("batches",))),
        ],
        default=_not_found,
        redirect_slashes=False,
    )
    return [Mount(prefix, app=inner) for prefix in PREFIXES]


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    exchange = Exchange(scope, receive, send)
    refusal = RouteNotFound("There are: /chat/completions, /models, /files and /batches.")
    await exchange.answer(refusal.status, COMPATIBLE.body(refusal, exchange.request_id))


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
