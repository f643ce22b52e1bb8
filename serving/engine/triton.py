"""Triton's vLLM backend as a replica, by Triton's generate extension over HTTP.

The backend takes a prompt as the model reads it, images beside it as base64, and sampling parameters as vLLM's own; so
the chat template is rendered here. What it has no input for is refused: videos, tools, log probabilities, priorities.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing, closing
from typing import Any

import msgspec
import orjson
import pybase64
from msgspec import Struct

from serving.engine import answer, chat
from serving.engine.refusals import DYING, RETRY_AFTER, refusal
from serving.engine.remote import Remote, translated
from serving.engine.wire import Reply
from serving.errors import EngineUnavailable, GenerationFailed, InvalidRequest
from serving.generation import Chunk, FinishReason, Generation, Image, Message, Text, Usage, Video

log = logging.getLogger(__name__)

SCHEME = "triton+http://"
PLACEHOLDER = "<|vision_start|><|image_pad|><|vision_end|>"
"""What the backend's renderer expects where an image stands in the prompt of a Qwen-VL model."""
SEES_NO = "This server's engine (Triton) takes no {what}."


AWAY = re.compile(rf"unknown model|is not ready|unavailable|{DYING.pattern}", re.IGNORECASE)


class _Piece(Struct):
    """One event: a scalar where one answer is drawn, else a list with one of each."""

    text_output: str | list[str] = ""
    finish_reason: str | list[str] | None = None
    num_input_tokens: int = 0
    num_output_tokens: int | list[int] = 0
    error: str | None = None


_decoder = msgspec.json.Decoder(_Piece)


def is_triton(url: str) -> bool:
    return url.startswith(SCHEME)


class Triton(Remote):
    """One model of one Triton server. Closing the generator closes the connection, which cancels it in the backend."""

    def __init__(self, url: str) -> None:
        """`url` is triton+http://host:port/MODEL."""
        base, _, model = url.removeprefix("triton+").rstrip("/").rpartition("/")
        super().__init__(f"{base}/v2")
        self._path = f"/models/{model}"

    async def generate(self, generation: Generation) -> AsyncGenerator[Chunk, None]:
        asked = body(generation)
        with translated(self._url), closing(await self._ask("POST", f"{self._path}/generate_stream", asked)) as reply:
            if reply.status != 200:
                raise refused(reply.status, await reply.whole())
            async with aclosing(_chunks(reply, generation)) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def ready(self) -> bool:
        try:
            status, _ = await self._fetch(f"{self._path}/ready")
        except (TimeoutError, OSError, EngineUnavailable):
            return False
        return status == 200


def body(generation: Generation) -> bytes:
    """The JSON of a generate request. Raises `InvalidRequest` for what the backend has no input for."""
    _check(generation)
    request: dict[str, Any] = {
        "text_input": prompt(generation),
        "stream": True,
        "exclude_input_in_output": True,
        "sampling_parameters": orjson.dumps(_sampling(generation)).decode(),
        "return_finish_reason": True,
        "return_num_input_tokens": True,
        "return_num_output_tokens": True,
    }
    if images := generation.images:
        request["image"] = [_encoded(image) for image in images]
    return orjson.dumps(request)


def _check(generation: Generation) -> None:
    if generation.videos:
        raise InvalidRequest(SEES_NO.format(what="videos; send frames as images"))
    if generation.tools is not None or any(message.role == "tool" for message in generation.messages):
        raise InvalidRequest(SEES_NO.format(what="tools"))
    if generation.thinking.enabled:
        raise InvalidRequest(SEES_NO.format(what="enable_thinking"))
    if generation.sampling.logprobs is not None:
        raise InvalidRequest(SEES_NO.format(what="logprobs"))


def prompt(generation: Generation) -> str:
    """The conversation in the chat template of the Qwen family (ChatML)."""
    *earlier, last = generation.messages
    turns = "".join(f"{_turn(message)}<|im_end|>\n" for message in earlier)
    if last.partial:
        return turns + _turn(last)
    return f"{turns}{_turn(last)}<|im_end|>\n<|im_start|>assistant\n{_thoughts(generation)}"


def _turn(message: Message) -> str:
    return f"<|im_start|>{message.role}\n" + "".join(_part(part) for part in chat.apart(message.parts))


def _part(part: Text | Image | Video) -> str:
    return chat.neutral(part.text) if isinstance(part, Text) else PLACEHOLDER


def _thoughts(generation: Generation) -> str:
    """What tells a model with both modes to answer at once; one that never thinks has no such words in its template."""
    return "<think>\n\n</think>\n\n" if generation.thinking.enabled is False else ""


def _encoded(image: Image) -> str:
    _, mark, encoded = image.reference.partition(";base64,")
    if mark:
        return encoded
    if image.content is None:
        raise InvalidRequest(SEES_NO.format(what=f"image by reference, such as {image.reference[:80]!r}"))
    return pybase64.b64encode(image.content.data).decode()


def _sampling(generation: Generation) -> dict[str, Any]:
    sampling = generation.sampling
    given = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        # vLLM's own default is 16 tokens, where its HTTP server fills the context.
        "max_tokens": chat.max_tokens(generation) or 4096,
        "seed": sampling.seed,
        "stop": list(sampling.stop) or None,
        "stop_token_ids": list(sampling.stop_token_ids) or None,
        "n": sampling.n if sampling.n > 1 else None,
        "structured_outputs": _structure(generation),
    }
    return {name: value for name, value in given.items() if value is not None}


def _structure(generation: Generation) -> str | None:
    """The backend reads this one parameter as JSON within the JSON."""
    wanted = generation.response_format
    if wanted is None:
        return None
    structure = {"json_object": True} if wanted.kind == "json_object" else {"json": wanted.schema}
    return orjson.dumps(structure).decode()


async def _chunks(reply: Reply, generation: Generation) -> AsyncGenerator[Chunk, None]:
    """Each event as chunks; each answer's end is held back until the last event of the stream."""
    counted = _Counted(generation)
    events = answer.Events()
    while not events.done and (data := await reply.read()):
        for event in events.read(data):
            piece = _decoder.decode(event)
            if piece.error is not None:
                raise refused(500, event)
            for chunk in counted.read(piece):
                yield chunk
    for chunk in counted.ends():
        yield chunk


class _Counted:
    """How far each answer has come. Tokens come as differences; those of the prompt with every event."""

    def __init__(self, generation: Generation) -> None:
        tokens = [image.content.tokens if image.content is not None else None for image in generation.images]
        known = [each for each in tokens if each is not None]
        self._image_tokens = sum(known) if generation.images and len(known) == len(tokens) else None
        self._n = generation.sampling.n
        self._output = 0
        self._input = 0
        self._reasons: dict[int, FinishReason] = {}

    @property
    def _usage(self) -> Usage:
        return Usage(self._input, self._output, self._image_tokens)

    def read(self, piece: _Piece) -> list[Chunk]:
        self._input = piece.num_input_tokens or self._input
        self._output += sum(_listed(piece.num_output_tokens))
        for number, reason in enumerate(_listed(piece.finish_reason)):
            if reason in ("stop", "length"):
                self._reasons.setdefault(number, "length" if reason == "length" else "stop")
        texts = _listed(piece.text_output)
        return [Chunk(text, self._usage, None, number) for number, text in enumerate(texts) if text]

    def ends(self) -> list[Chunk]:
        if len(self._reasons) < self._n:
            raise EngineUnavailable(retry_after=RETRY_AFTER)
        return [Chunk("", self._usage, self._reasons[number], number) for number in range(self._n)]


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def refused(status: int, told: bytes) -> Exception:
    """The error for what Triton says with a status other than 200, or in an event."""
    try:
        text = _decoder.decode(told.removeprefix(b"data: ")).error or ""  # it may be an event even where it is alone
    except (msgspec.MsgspecError, UnicodeDecodeError):
        text = ""
    if AWAY.search(text):  # with a status of 400, as everything has that goes wrong before the first piece
        log.warning("triton: %s", text[:300])
        return EngineUnavailable(retry_after=RETRY_AFTER)
    return refusal(status, text) if text else GenerationFailed()
