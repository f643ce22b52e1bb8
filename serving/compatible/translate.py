"""A chat completion request says what a native one says in other words: it is turned into one, so that what may be
asked is decided in one place."""

from __future__ import annotations

from typing import Any

from serving.compatible.schema import WireRequest
from serving.dashscope import schema, translate
from serving.dashscope.schema import WireInput, WireMessage, WirePart
from serving.dashscope.translate import Rules
from serving.errors import Alias, InvalidRequest
from serving.generation import Caller, Generation, Timeline

MAX_SEED = 2**31 - 1
NO_MESSAGES = "'messages' is a required property"

MEDIA = {"image_url": "image", "video_url": "video", "video": "video", "input_audio": "audio"}
"""The native modality of each `type` of a part that is no text."""
OPTIONS = ("min_pixels", "max_pixels", "total_pixels", "fps")
"""Siblings of a medium that both protocols have. `max_frames` is native only, `detail` is ignored."""

OURS_ALONE = frozenset({"reasoning_effort", "thinking", "stream", "stream_options"})
"""Parameters that the native protocol does not have."""


class InvalidValue(InvalidRequest):
    """Raised for a value that this protocol bounds more narrowly than the native one."""

    alias = Alias("invalid_value")


def to_generation(
    wire: WireRequest, rules: Rules, *, request_id: str, caller: Caller, timeline: Timeline
) -> Generation:
    """Raises `InvalidRequest` for what the model cannot be asked."""
    if wire.messages is None and wire.model:
        raise InvalidRequest(NO_MESSAGES)
    native = schema.WireRequest(
        model=wire.model,
        input=WireInput(messages=[_message(message) for message in wire.messages or []]),
        parameters=_parameters(wire.parameters),
    )
    translated = translate.to_generation(
        native, "multimodal", rules, request_id=request_id, caller=caller, timeline=timeline
    )
    return translated.generation


def wants_stream(wire: WireRequest) -> bool:
    stream = wire.parameters.get("stream")
    if not isinstance(stream, bool | None):
        raise InvalidRequest("'stream' must be Boolean", param="stream")
    return bool(stream)


def wants_usage(wire: WireRequest) -> bool:
    """Whether the usage shall come in a last chunk of its own."""
    options = wire.parameters.get("stream_options")
    include = options.get("include_usage") if isinstance(options, dict) else None
    if not isinstance(options, dict | None) or not isinstance(include, bool | None):
        raise InvalidRequest("'stream_options' must have a Boolean 'include_usage'", param="stream_options")
    return bool(include)


def _message(wire: WireMessage) -> WireMessage:
    """In place: the message has just been read and nobody else has it."""
    if wire.role == "developer":  # what OpenAI calls the system role of its reasoning models
        wire.role = "system"
    if wire.content is None and wire.role == "assistant" and wire.tool_calls:
        wire.content = ""
    elif isinstance(wire.content, list):
        wire.content = [_part(part) for part in wire.content]
    return wire


def _part(wire: WirePart) -> WirePart:
    kind = wire.get("type")
    if kind == "text":
        return {"text": wire.get("text", wire)}  # a part that lacks it is refused as one whose text is no string
    if not isinstance(kind, str) or kind not in MEDIA:
        kinds = ", ".join(("text", *MEDIA))
        raise InvalidRequest(f"Unexpected item type in content: {str(kind)[:80]!r} is none of: {kinds}.")
    value = wire.get(kind)
    reference = value.get("url") if isinstance(value, dict) and kind.endswith("_url") else value
    if not reference:
        raise InvalidRequest(f"The part of type {kind!r} has no {kind}.")
    return {MEDIA[kind]: reference} | {name: wire[name] for name in OPTIONS if wire.get(name) is not None}


def _parameters(sent: dict[str, Any]) -> dict[str, Any]:
    native = {name: value for name, value in sent.items() if name not in OURS_ALONE}
    _refuse_seed(native.get("seed"))
    if native.get("parallel_tool_calls") is None:  # one of the cloud's pages says false; what it does is this
        native["parallel_tool_calls"] = True
    if native.get("enable_thinking") is None and _without_thinking(sent):
        native["enable_thinking"] = False
    return native


def _refuse_seed(seed: object) -> None:
    if not isinstance(seed, int) or isinstance(seed, bool) or 0 <= seed <= MAX_SEED:
        return
    bound = "lesser than the minimum of 0" if seed < 0 else f"greater than the maximum of {MAX_SEED}"
    raise InvalidValue(f"{seed} is {bound} - 'seed'", param="seed")


def _without_thinking(sent: dict[str, Any]) -> bool:
    """The two further ways to switch it off."""
    thinking = sent.get("thinking")
    return sent.get("reasoning_effort") == "none" or (isinstance(thinking, dict) and thinking.get("type") == "disabled")
