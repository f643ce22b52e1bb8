"""llama-index with its multi-modal DashScope model."""

from __future__ import annotations

from typing import Any

import dashscope
from llama_index.core.schema import ImageDocument  # type: ignore[import-not-found]
from llama_index.multi_modal_llms.dashscope import DashScopeMultiModal  # type: ignore[import-not-found]

from tests.conformance.clients.driver import WRONG_KEY, Ask, Seen, failed, flow, seen, serve


def model(ask: Ask, key: str | None = None) -> Any:
    dashscope.base_http_api_url = ask.native
    return DashScopeMultiModal(model_name=ask.model, api_key=key or ask.key)


def pictures(url: str) -> list[Any]:
    return [ImageDocument(image_url=url)]


def whole(answer: Any) -> Seen:
    raw = answer.raw
    usage = raw.usage
    tokens = (usage["input_tokens"], usage["output_tokens"])
    return seen(answer.text, raw.output.choices[0].finish_reason, tokens=tokens, request_id=raw.request_id)


@flow("chat")
def chat(ask: Ask) -> Seen:
    return whole(model(ask).complete(ask.prompt, pictures(ask.image)))


@flow("stream")
def stream(ask: Ask) -> Seen:
    pieces, last = [], None
    for answer in model(ask).stream_complete(ask.prompt, pictures(ask.image)):
        pieces.append(answer.delta)
        last = answer
    return {**whole(last), "pieces": pieces}


@flow("async")
async def aio(ask: Ask) -> Seen:
    return whole(await model(ask).acomplete(ask.prompt, pictures(ask.image)))


@flow("image URL")
def image_url(ask: Ask) -> Seen:
    return whole(model(ask).complete(ask.prompt, pictures(ask.image_url)))


@flow("wrong key")
def wrong_key(ask: Ask) -> Seen:
    raw = model(ask, WRONG_KEY).complete(ask.prompt, pictures(ask.image)).raw
    return failed(raw.status_code, raw.code, raw.message)


if __name__ == "__main__":
    serve()
