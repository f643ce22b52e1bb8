from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing, closing

import msgspec
import orjson
from msgspec import Struct

from serving.engine import answer, chat
from serving.engine.refusals import RETRY_AFTER as RETRY_AFTER
from serving.engine.refusals import OptionRefused, message, refusal
from serving.engine.remote import Remote, translated
from serving.engine.tokens import Tokens, readable
from serving.engine.wire import Broken, Reply
from serving.errors import ContextTooLong, EngineUnavailable, GenerationFailed
from serving.generation import Chunk, Generation

log = logging.getLogger(__name__)

TOKENIZE_WITHIN = 60.0
"""Seconds."""


class _Model(Struct):
    id: str


class _Models(Struct):
    data: list[_Model]


class _Tokens(Struct):
    tokens: list[int]
    token_strs: list[str]


_tokens_decoder = msgspec.json.Decoder(_Tokens)
_models_decoder = msgspec.json.Decoder(_Models)


class VLLM(Remote):
    """One vLLM server, by its OpenAI API. Always streams: closing the generator closes the connection, which is how
    vLLM learns that nobody wants the rest."""

    def __init__(self, url: str, *, key: str | None = None) -> None:
        """`url` with or without the trailing `/v1`."""
        super().__init__(url.rstrip("/").removesuffix("/v1"), {"authorization": f"Bearer {key}"} if key else {})
        self._model: str | None = None
        self._lacks: set[str] = set()
        """Options that this engine has refused."""

    async def generate(self, generation: Generation) -> AsyncGenerator[Chunk, None]:
        with translated(self._url):
            model = self._model or await self._find_model()
            while True:
                lacked = len(self._lacks)
                try:
                    with closing(await self._answer(generation, model)) as reply:
                        async with aclosing(answer.chunks(reply, generation)) as chunks:
                            async for chunk in chunks:
                                yield chunk
                    return
                except OptionRefused as refused:  # before the first chunk
                    self._lacks.add(refused.option)
                    if len(self._lacks) == lacked:
                        raise GenerationFailed from refused
                    log.warning("engine at %s does not take %s", self._url, refused.option)

    async def tokenize(self, text: str) -> Tokens:
        with translated(self._url):
            model = self._model or await self._find_model()
            asked = {"model": model, "prompt": text, "add_special_tokens": False, "return_token_strs": True}
            status, body = await self._fetch("/tokenize", orjson.dumps(asked), within=TOKENIZE_WITHIN)
            if status != 200:
                raise refusal(status, message(body))
            told = _tokens_decoder.decode(body)
        return Tokens(told.tokens, [readable(token) for token in told.token_strs])

    async def ready(self) -> bool:
        try:
            status, _ = await self._fetch("/health")
            if status != 200:
                return False
            await self._find_model()
        except (TimeoutError, OSError, msgspec.MsgspecError, EngineUnavailable):
            return False
        return True

    async def _find_model(self) -> str:
        """The engine's own name for its model, asked again whenever it is probed: a restart may bring another."""
        status, body = await self._fetch("/v1/models")
        if status != 200:
            raise Broken(f"asked for its models, it answers {status}")
        models = _models_decoder.decode(body).data
        if not models:
            raise EngineUnavailable(retry_after=RETRY_AFTER)
        self._model = models[0].id
        return self._model

    async def _answer(self, generation: Generation, model: str) -> Reply:
        """The accepted answer. A `max_tokens` that does not fit beside the prompt is no error in the cloud: the answer
        ends at the end of the context. vLLM refuses it, so ask again without."""
        try:
            return await self._post(chat.body(generation, model, without=self._lacks))
        except ContextTooLong:
            if chat.max_tokens(generation) is None:
                raise
        return await self._post(chat.body(generation, model, without=self._lacks | {"max_tokens"}))

    async def _post(self, body: bytes) -> Reply:
        reply = await self._ask("POST", "/v1/chat/completions", body)
        if reply.status == 200:
            return reply
        with closing(reply):
            raise refusal(reply.status, message(await reply.whole()))
