from __future__ import annotations

from typing import Literal, TypeAlias

from serving.dashscope import parts
from serving.dashscope.schema import WireInput, WireMessage, WirePart, WireToolCall
from serving.errors import InvalidRequest
from serving.generation import Image, Message, Part, Role, Text, ToolCall

Form: TypeAlias = Literal["multimodal", "text"]
"""The service path: contents of answers are a list of parts on the multimodal one, a string on the text one."""

ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
MAX_PARTS = 10_000
"""Messages, parts and frames in one request. No context holds more, and three million took the event loop 8 s."""

NO_CONTENT = "Role must be user or assistant and Content length must be greater than 0"
NEITHER = 'Either "prompt" or "messages" must exist and cannot both be none'
BOTH = 'Only one of the parameters "prompt" and "messages" can be present'
NO_CALL = 'messages with role "tool" must be a response to a preceeding message with "tool_calls"'


def read(wire: WireInput, form: Form, *, high_resolution: bool = False, reasoning: bool = False) -> tuple[Message, ...]:
    """The turns of a request. `high_resolution` holds for each of its images; with `reasoning` the thoughts of earlier
    turns are kept. Raises `InvalidRequest`."""
    turns = _turns(wire, form)
    if not turns:
        raise InvalidRequest("[] is too short")
    count = len(turns) + sum(parts.count(turn.content) for turn in turns)
    if count > MAX_PARTS:
        raise InvalidRequest(f"Exceeded limit on messages and parts per request : {MAX_PARTS}, got {count}")
    messages = tuple(_message(turn, high_resolution, reasoning) for turn in turns)
    if not any(message.role == "user" for message in messages):
        raise InvalidRequest("The input messages do not contain elements with the role of user.")
    _refuse_orphans(messages)
    return messages


def _turns(wire: WireInput, form: Form) -> list[WireMessage]:
    legacy = form == "text" and wire.prompt is not None
    if legacy and wire.messages:
        raise InvalidRequest(BOTH)
    if not legacy and wire.messages is None:
        raise InvalidRequest(NEITHER)
    return _legacy_turns(wire) if legacy else wire.messages or []


def _legacy_turns(wire: WireInput) -> list[WireMessage]:
    history = [(("user", turn.user), ("assistant", turn.bot)) for turn in wire.history or []]
    turns = [WireMessage(role=role, content=content) for pair in history for role, content in pair]
    return [*turns, WireMessage(role="user", content=wire.prompt)]


def _message(wire: WireMessage, high_resolution: bool, reasoning: bool) -> Message:
    role = ROLES.get(wire.role or "")
    if role is None:
        raise InvalidRequest(NO_CONTENT)
    calls = tuple(_call(call) for call in wire.tool_calls or []) if role == "assistant" else ()
    content = "" if wire.content is None and calls else wire.content
    if content is None:
        raise InvalidRequest("The content field is a required field.")
    read = _parts(content, high_resolution)
    if role == "user" and not any(not isinstance(part, Text) or part.text for part in read):
        raise InvalidRequest(NO_CONTENT)
    if role != "user":
        _refuse_media(role, read)
    return Message(
        role,
        read,
        partial=role == "assistant" and bool(wire.partial),
        tool_calls=calls,
        tool_call_id=wire.tool_call_id if role == "tool" else None,
        reasoning=wire.reasoning_content or "" if reasoning and role == "assistant" else "",
    )


def _parts(content: str | list[WirePart], high_resolution: bool) -> tuple[Part, ...]:
    if isinstance(content, str):
        return (Text(content),)
    return tuple(parts.read(part, high_resolution) for part in content)


def _refuse_media(role: Role, given: tuple[Part, ...]) -> None:
    for part in given:
        if not isinstance(part, Text):
            kind = "image" if isinstance(part, Image) else "video"
            article = "An" if isinstance(part, Image) else "A"
            raise InvalidRequest(f'{article} {kind} can only be part of a message with the role "user", not "{role}".')


def _call(wire: WireToolCall) -> ToolCall:
    if wire.function is None or not wire.function.name:
        raise InvalidRequest("An item of 'tool_calls' must have a 'function' with a 'name'.")
    return ToolCall(wire.id or "", wire.function.name, wire.function.arguments or "")


def _refuse_orphans(messages: tuple[Message, ...]) -> None:
    """A result follows the calls that it answers, or other results. Its id is not held against theirs: clients that
    make one up, or leave it out, are served by the cloud."""
    answerable = False
    for message in messages:
        if message.role == "tool" and not answerable:
            raise InvalidRequest(NO_CALL)
        answerable = bool(message.tool_calls) or message.role == "tool"
