from __future__ import annotations

import re
from typing import Any

import orjson

from serving.errors import InvalidRequest
from serving.generation import Generation, Image, Message, Part, ResponseFormat, Text, Video

CONTROL_TOKEN = re.compile(r"<(?=\|[a-z_]+\|>)")
"""The opening of `<|im_end|>`, `<|image_pad|>` and their like. vLLM's tokenizer makes control tokens of them wherever
they stand: a user could close the turn or, with image placeholders that match no image, break the request."""

WORD_JOINER = "\u2060"
STREAM_INTERVAL = 32
"""Tokens in a chunk of an answer that nobody reads as it comes. A chunk costs vLLM as much CPU as some tokens of a small
model do, and the gateway 25 us; an answer that a deadline cuts off lacks fewer than so many tokens."""
MAX_STOPS = 4
"""Stop strings that vLLM takes with one request."""


def body(generation: Generation, model: str, *, limit_tokens: bool = True) -> bytes:
    """A `/v1/chat/completions` request that streams; `model` is the engine's name for it.

    `limit_tokens=False` leaves `max_tokens` out, so that the answer may fill what the prompt leaves of the context.
    """
    request: dict[str, Any] = {
        "model": model,
        "messages": [_message(message) for message in generation.messages],
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        **_sampling(generation, limit_tokens),
    }
    if generation.response_format is not None:
        request["response_format"] = _response_format(generation.response_format)
    if not generation.streamed:
        request["stream_interval"] = STREAM_INTERVAL
    if generation.messages[-1].partial:
        request |= {"continue_final_message": True, "add_generation_prompt": False}
    try:
        return orjson.dumps(request)
    except orjson.JSONEncodeError as error:
        raise InvalidRequest(f"The JSON schema in response_format cannot be used: {error}.") from None


def neutral(text: str) -> str:
    """The text with control tokens broken up by an invisible character, so that they are read as letters."""
    return CONTROL_TOKEN.sub("<" + WORD_JOINER, text) if "<|" in text else text


def _message(message: Message) -> dict[str, Any]:
    match message.parts:
        case ():
            return {"role": message.role, "content": ""}
        case (Text(text),):
            return {"role": message.role, "content": neutral(text)}
        case parts:
            return {"role": message.role, "content": [_part(part) for part in parts]}


def _part(part: Part) -> dict[str, Any]:
    if isinstance(part, Image):
        return _image(part)
    if isinstance(part, Video):
        raise InvalidRequest("The video modality is not supported by this server; send text and images.")
    return {"type": "text", "text": neutral(part.text)}


def _image(image: Image) -> dict[str, Any]:
    content = {"url": image.reference} if image.reference else None
    named = {} if image.uuid is None else {"uuid": image.uuid}
    return {"type": "image_url", "image_url": content, **named}


def _sampling(generation: Generation, limit_tokens: bool) -> dict[str, Any]:
    sampling = generation.sampling
    if len(sampling.stop) > MAX_STOPS:
        raise InvalidRequest(f"At most {MAX_STOPS} stop strings can be given, got {len(sampling.stop)}.")
    given = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "max_tokens": sampling.max_tokens if limit_tokens else None,
        "seed": sampling.seed,
        "stop": list(sampling.stop) or None,
        "stop_token_ids": list(sampling.stop_token_ids) or None,
    }
    return {name: value for name, value in given.items() if value is not None}


def _response_format(wanted: ResponseFormat) -> dict[str, Any]:
    if wanted.kind == "json_object":
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": wanted.name, "schema": wanted.schema, "strict": True}}
