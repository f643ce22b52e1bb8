from __future__ import annotations

import logging
import re
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, contextmanager

import aiohttp
import msgspec
from msgspec import Struct

from serving.engine import chat
from serving.engine.tokens import Tokens, readable
from serving.errors import (
    ContextTooLong,
    EngineUnavailable,
    GenerationFailed,
    ImageForgotten,
    InvalidImage,
    InvalidRequest,
)
from serving.generation import Chunk, FinishReason, Generation, Usage

log = logging.getLogger(__name__)

RETRY_AFTER = 5
"""Seconds to wait for an engine that is away; clients cap the header at 8."""
KEEP_ALIVE = 4
"""Seconds. vLLM closes idle connections after 5: reusing one at that moment would fail a request for nothing."""
PROBE_TIMEOUT = aiohttp.ClientTimeout(total=5)
TOKENIZE_TIMEOUT = aiohttp.ClientTimeout(total=60)
PLACEHOLDER_ENDS = 2
"""Vision start and end: the cloud counts them as tokens of the image, vLLM does not."""

CONTEXT = re.compile(r"(?:maximum context length(?: is)? \(?|cannot be greater than max_model_len=)(\d+)")
DYING = re.compile(r"EngineCore encountered an issue|EngineDeadError|engine is dead", re.IGNORECASE)
"""The server outlives its engine for a moment, and says so with a 500."""
FORGOTTEN = re.compile(r"Cache miss for \w+ at index \d+ but data is not provided")
BAD_IMAGE = re.compile(r"failed to load image|cannot identify image|image file is truncated", re.IGNORECASE)


class _Delta(Struct):
    content: str | None = None


class _Choice(Struct):
    delta: _Delta
    finish_reason: str | None = None


class _Details(Struct):
    multimodal_tokens: dict[str, int] | None = None


class _Usage(Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None


class _Error(Struct):
    message: str = ""
    code: int | str | None = None


class _Event(Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: _Error | None = None


class _Model(Struct):
    id: str


class _Models(Struct):
    data: list[_Model]


class _Tokens(Struct):
    tokens: list[int]
    token_strs: list[str]


_tokens_decoder = msgspec.json.Decoder(_Tokens)
_event_decoder = msgspec.json.Decoder(_Event)
_models_decoder = msgspec.json.Decoder(_Models)


class VLLM:
    """One vLLM server, by its OpenAI API. Always streams: closing the generator closes the connection, which is how
    vLLM learns that nobody wants the rest."""

    def __init__(self, url: str, *, key: str | None = None) -> None:
        """`url` with or without the trailing `/v1`."""
        self._url = url.rstrip("/").removesuffix("/v1")
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._session: aiohttp.ClientSession | None = None
        self._model: str | None = None

    async def generate(self, generation: Generation) -> AsyncGenerator[Chunk, None]:
        with translated(self._url):
            model = self._model or await self._find_model()
            async with (
                await self._answer(generation, model) as response,
                aclosing(_chunks(_events(response.content), len(generation.images))) as chunks,
            ):
                async for chunk in chunks:
                    yield chunk

    async def tokenize(self, text: str) -> Tokens:
        with translated(self._url):
            model = self._model or await self._find_model()
            asked = {"model": model, "prompt": text, "add_special_tokens": False, "return_token_strs": True}
            async with self._http.post(f"{self._url}/tokenize", json=asked, timeout=TOKENIZE_TIMEOUT) as response:
                body = await response.read()
            if response.status != 200:
                raise _refusal(response.status, body)
            answer = _tokens_decoder.decode(body)
        return Tokens(answer.tokens, [readable(token) for token in answer.token_strs])

    async def ready(self) -> bool:
        try:
            async with self._http.get(f"{self._url}/health", timeout=PROBE_TIMEOUT) as response:
                response.raise_for_status()
            await self._find_model()
        except (aiohttp.ClientError, TimeoutError, OSError, msgspec.MsgspecError, EngineUnavailable):
            return False
        return True

    async def start(self) -> None:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE)
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=timeout,
                headers=self._headers,
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("accept", "accept-encoding", "user-agent"),
            )

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    @property
    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise EngineUnavailable(retry_after=RETRY_AFTER)
        return self._session

    async def _find_model(self) -> str:
        """The engine's own name for its model, asked again whenever it is probed: a restart may bring another."""
        async with self._http.get(f"{self._url}/v1/models", timeout=PROBE_TIMEOUT) as response:
            response.raise_for_status()
            models = _models_decoder.decode(await response.read()).data
        if not models:
            raise EngineUnavailable(retry_after=RETRY_AFTER)
        self._model = models[0].id
        return self._model

    async def _answer(self, generation: Generation, model: str) -> aiohttp.ClientResponse:
        """The accepted answer. A `max_tokens` that does not fit beside the prompt is no error in the cloud: the answer
        ends at the end of the context. vLLM refuses it, so ask again without."""
        try:
            return await self._post(chat.body(generation, model))
        except ContextTooLong:
            if generation.sampling.max_tokens is None:
                raise
        return await self._post(chat.body(generation, model, limit_tokens=False))

    async def _post(self, body: bytes) -> aiohttp.ClientResponse:
        response = await self._http.post(f"{self._url}/v1/chat/completions", data=_Whole(body))
        if response.status == 200:
            return response
        async with response:
            raise _refusal(response.status, await response.read())


class _Whole(aiohttp.BytesPayload):
    """A body written in one piece. aiohttp warns about large ones, for fear of a long copy: it is 0.1 ms per MB."""

    def __init__(self, body: bytes) -> None:
        aiohttp.Payload.__init__(self, body, content_type="application/json")
        self._size = len(body)


async def _events(content: aiohttp.StreamReader) -> AsyncGenerator[bytes, None]:
    """The data of each server-sent event, up to `[DONE]`."""
    buffer = b""
    async for piece in content.iter_any():
        *events, buffer = (buffer + piece).split(b"\n\n")
        for event in events:
            if event == b"data: [DONE]":
                return
            if event.startswith(b"data: "):
                yield event[6:]


async def _chunks(events: AsyncGenerator[bytes, None], images: int) -> AsyncGenerator[Chunk, None]:
    """Chunks of text as they come; the reason for the end is held back until the final usage has come after it."""
    usage = Usage()
    finish_reason: str | None = None
    async for data in events:
        event = _event_decoder.decode(data)
        if event.error is not None:
            raise _refusal(event.error.code if isinstance(event.error.code, int) else 500, data)
        if event.usage is not None:
            usage = _usage(event.usage, images)
        for choice in event.choices:
            finish_reason = choice.finish_reason or finish_reason
            if choice.delta.content:
                yield Chunk(choice.delta.content, usage)
    if finish_reason is None:
        raise EngineUnavailable(retry_after=RETRY_AFTER)
    yield Chunk("", usage, _finish(finish_reason))


def _finish(reason: str) -> FinishReason:
    if reason == "stop" or reason == "length":
        return "stop" if reason == "stop" else "length"
    raise GenerationFailed(f"{GenerationFailed.message} The engine ended the answer with {reason!r}.")


def _usage(usage: _Usage, images: int) -> Usage:
    details = usage.prompt_tokens_details
    counted = (details.multimodal_tokens or {}).get("image") if details is not None else None
    if images and counted is None:
        return Usage(usage.prompt_tokens, usage.completion_tokens)
    return Usage(usage.prompt_tokens, usage.completion_tokens, (counted or 0) + PLACEHOLDER_ENDS * images)


def _refusal(status: int, body: bytes) -> InvalidRequest | GenerationFailed | EngineUnavailable:
    """The error for an answer other than 200, or for an error event in a stream."""
    message = _message(body)
    if context := CONTEXT.search(message):
        return ContextTooLong(int(context[1]))
    if FORGOTTEN.search(message):
        return ImageForgotten()
    if BAD_IMAGE.search(message):
        return InvalidImage(f"{InvalidImage.message} [{message[:300]}]")
    if status in (400, 413, 422):
        return InvalidRequest(message[:500] or None)
    log.warning("engine answered %d: %s", status, message[:500])
    if status in (401, 403, 404, 429, 502, 503, 504) or DYING.search(message):
        return EngineUnavailable(retry_after=RETRY_AFTER)
    return GenerationFailed()


def _message(body: bytes) -> str:
    try:
        error = msgspec.json.decode(body, type=_Event).error
    except (msgspec.MsgspecError, UnicodeDecodeError):
        error = None
    return error.message if error is not None else ""


@contextmanager
def translated(url: str) -> Generator[None, None, None]:
    """Errors of the transport and of the engine's answers as errors of the server."""
    try:
        yield
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        log.warning("engine at %s is unavailable: %r", url, error)
        raise EngineUnavailable(retry_after=RETRY_AFTER) from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        # Not the error itself: one about an encoding quotes the answer.
        log.warning("engine at %s answered what is no event: %s", url, type(error).__name__)
        raise GenerationFailed from error
