from __future__ import annotations

import orjson
from starlette.routing import Route

from serving.access.keyring import Keyring
from serving.dashscope.paging import page
from serving.dialects import NATIVE
from serving.endpoint import Call, Endpoint
from serving.settings import Settings


def routes(keyring: Keyring, settings: Settings) -> list[Route]:
    endpoint = Endpoint(Models(settings), keyring, NATIVE, methods=("GET",))
    return [Route(f"/api/v1/models{rest}", endpoint) for rest in ("", "/", "/{model:path}")]


class Models:
    """GET /api/v1/models: every name that is answered to, or the one asked for, by its path as SDKs of 1.x do."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def __call__(self, call: Call) -> None:
        query = call.exchange.query
        number, size = page(query)
        wanted = call.exchange.path_params.get("model") or query.get("model")
        names = [name for name in self._settings.served_models if not wanted or wanted == name]
        shown = [
            {"model": name, "source": "system", "provider": "qwen", "opensource": True}
            for name in names[(number - 1) * size : number * size]
        ]
        output = {"models": shown, "total": len(names), "page_no": number, "page_size": size}
        await call.exchange.answer(200, orjson.dumps({"output": output, "request_id": call.exchange.request_id}))
