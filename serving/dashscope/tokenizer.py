from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import orjson
from msgspec import UNSET, Struct, UnsetType
from starlette.routing import Route

from serving.access.grant import GENERATION
from serving.access.keyring import Keyring
from serving.budget import Budget
from serving.decoding import refusing
from serving.dialects import NATIVE
from serving.endpoint import Call, Endpoint
from serving.engine.tokens import Tokenizer, Tokens
from serving.errors import EmptyInput, EmptyModel, InvalidRequest, ModelNotFound, RequestTimeout
from serving.layers.limited import Limited
from serving.settings import Settings

MAX_CHARS = 1_048_576
"""Four for each token of the longest context. Engines tokenize on the CPU that also renders images for others."""


MAX_BODY = 8 * MAX_CHARS
"""Bytes: six for a character that is escaped, and the rest of the JSON."""
AT_ONCE = 4
"""Texts that the engine is asked about at a time, whoever asks. A key that is alone has three of them."""
WITHIN = 60.0
"""Seconds."""


class _Message(Struct):
    content: str | list[dict[str, Any]] | None = None


class _Input(Struct):
    prompt: str | None = None
    messages: list[_Message] | None = None


class _Request(Struct):
    model: str | None = None
    input: _Input | UnsetType = UNSET


_decoder = msgspec.json.Decoder(_Request)


def routes(tokenizer: Tokenizer | None, keyring: Keyring, limited: Limited, settings: Settings) -> list[Route]:
    """`tokenizer` is None for an engine that cannot be asked; then so is this."""
    endpoint = Endpoint(Tokenization(tokenizer, limited, settings), keyring, NATIVE, scopes=tuple(GENERATION))
    return [Route(f"/api/v1/tokenizer{slash}", endpoint) for slash in ("", "/")]


class Tokenization:
    """POST /api/v1/tokenizer: the texts of the messages, or the prompt, as tokens of the served model."""

    def __init__(self, tokenizer: Tokenizer | None, limited: Limited, settings: Settings) -> None:
        self._tokenizer = tokenizer
        self._limited = limited
        self._settings = settings
        self._places = Budget(AT_ONCE, patience=WITHIN)

    async def __call__(self, call: Call) -> None:
        if self._tokenizer is None:
            raise InvalidRequest("The engine of this server does not tell its tokens.")
        body = await call.exchange.body(min(MAX_BODY, self._settings.max_body_bytes))
        with refusing():
            request = _decoder.decode(body)
        call.model = self._model(request)
        tokens = await self._tokens(call, self._tokenizer, _text(request))
        answer = {
            "output": {"token_ids": tokens.ids, "tokens": tokens.texts},
            "usage": {"input_tokens": len(tokens.ids)},
            "request_id": call.exchange.request_id,
        }
        await call.exchange.answer(200, orjson.dumps(answer))

    async def _tokens(self, call: Call, tokenizer: Tokenizer, text: str) -> Tokens:
        try:
            async with (
                self._limited.counted(call.caller, call.exchange.request_id),
                asyncio.timeout(WITHIN),
                self._places.lease(call.caller.key_id) as place,
            ):
                await place.take(1)
                return await tokenizer.tokenize(text)
        except TimeoutError:
            raise RequestTimeout from None

    def _model(self, request: _Request) -> str:
        if not request.model:
            raise EmptyModel
        if request.model not in self._settings.served_models:
            raise ModelNotFound(request.model, self._settings.served_models)
        return request.model


def _text(request: _Request) -> str:
    if request.input is UNSET:
        raise EmptyInput
    prompt, messages = request.input.prompt, request.input.messages
    if prompt is not None and messages is not None:
        raise InvalidRequest('Only one of the parameters "prompt" and "messages" can be present')
    if messages is not None:
        text = "".join(piece for message in messages for piece in _texts(message.content))
    elif prompt is not None:
        text = prompt
    else:
        raise InvalidRequest('Either "prompt" or "messages" must exist and cannot both be none')
    if not 1 <= len(text) <= MAX_CHARS:
        raise InvalidRequest(f"Range of input length should be [1, {MAX_CHARS}] characters, got {len(text)}")
    return text


def _texts(content: str | list[dict[str, Any]] | None) -> list[str]:
    """Images have no tokens here: how many they are depends on their size, and the usage of an answer tells it."""
    if not isinstance(content, list):
        return [content or ""]
    return [part["text"] for part in content if isinstance(part.get("text"), str)]
