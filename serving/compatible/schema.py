from typing import Any

import msgspec
from msgspec import Struct

from serving import decoding, lifting
from serving.dashscope.schema import MAX_PARAMETERS_BYTES, WireMessage, refuse_swarms
from serving.errors import MalformedBody


class WireRequest(Struct):
    """A chat completion request; each part of a message has a `type`. `parameters` are those of the top level that are
    looked at, as they were sent."""

    model: str | None = None
    messages: list[WireMessage] | None = None
    parameters: dict[str, Any] = {}


PARAMETERS = (
    "enable_search",
    "enable_thinking",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "n",
    "parallel_tool_calls",
    "presence_penalty",
    "preserve_thinking",
    "reasoning_effort",
    "repetition_penalty",
    "response_format",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "temperature",
    "thinking",
    "thinking_budget",
    "tool_choice",
    "tools",
    "top_k",
    "top_logprobs",
    "top_p",
    "vl_high_resolution_images",
)
"""All else at the top level is ignored, as in the cloud: `frequency_penalty`, `logit_bias`, `metadata`, `prediction`,
`prompt_cache_key`, `service_tier`, `store`, `user`, `verbosity` and whatever a client may add."""

ABSENT = msgspec.Raw()

_Body = msgspec.defstruct(
    "_Body",
    [
        ("model", str | None, None),
        ("messages", list[WireMessage] | None, None),
        *((name, msgspec.Raw, ABSENT) for name in PARAMETERS),
    ],
)
_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(_Body)


def parse(body: bytes | msgspec.Raw) -> WireRequest:
    """Raises `MalformedBody`."""
    whole = bytes(body)
    refuse_swarms(whole)
    with decoding.refusing():
        sent = lifting.decode(whole, _decoder, lambda sent: sent.messages)
        return WireRequest(sent.model, sent.messages, _parameters(sent))


def _parameters(sent: Any) -> dict[str, Any]:
    given = {name: raw for name in PARAMETERS if (raw := getattr(sent, name)) is not ABSENT}
    if sum(len(memoryview(raw)) for raw in given.values()) > MAX_PARAMETERS_BYTES:
        raise MalformedBody(f"Parameters are limited to {MAX_PARAMETERS_BYTES} bytes.")
    return {name: msgspec.json.decode(raw) for name, raw in given.items()}
