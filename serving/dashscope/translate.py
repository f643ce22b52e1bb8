from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import orjson

from serving import sse
from serving.dashscope import parameters
from serving.dashscope.schema import WireInput, WireMessage, WirePart, WireRequest
from serving.errors import EmptyInput, EmptyModel, InvalidRequest, ModelNotFound
from serving.generation import Answer, Caller, Chunk, Generation, Image, Message, Part, Role, Text, Timeline, Usage

Form: TypeAlias = Literal["multimodal", "text"]
"""The service path: contents of answers are a list of parts on the multimodal one, a string on the text one."""

ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
MODALITIES = ("text", "image", "video", "audio")
MAX_PARTS = 10_000
"""Messages and parts in one request. No context holds more, and three million of them took the event loop 8 s."""

NO_MODALITY = "The item of content should be a message of a certain modal."
NO_CONTENT = "Role must be user or assistant and Content length must be greater than 0"
NEITHER = 'Either "prompt" or "messages" must exist and cannot both be none'
BOTH = 'Only one of the parameters "prompt" and "messages" can be present'
NO_JSON_WORD = "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'."


@dataclass(frozen=True, slots=True)
class Rules:
    """What this server answers to."""

    models: tuple[str, ...]
    max_output_tokens: int


@dataclass(frozen=True, slots=True)
class Translated:
    generation: Generation
    incremental: bool


def to_generation(
    wire: WireRequest, form: Form, rules: Rules, *, request_id: str, caller: Caller, timeline: Timeline
) -> Translated:
    """Raises `InvalidRequest` for what the model cannot be asked."""
    if not wire.model:
        raise EmptyModel
    if wire.model not in rules.models:
        raise ModelNotFound(wire.model, rules.models)
    if wire.input is None:
        raise InvalidRequest(NEITHER) if wire.misplaced else EmptyInput
    messages = _messages(wire.input, form)
    options = parameters.read(wire.parameters or {}, model=wire.model, max_output_tokens=rules.max_output_tokens)
    if options.response_format and options.response_format.kind == "json_object" and not _mentions_json(messages):
        raise InvalidRequest(NO_JSON_WORD)
    generation = Generation(
        request_id, caller, wire.model, messages, options.sampling, options.response_format, timeline
    )
    return Translated(generation, options.incremental)


def _messages(wire: WireInput, form: Form) -> tuple[Message, ...]:
    legacy = form == "text" and wire.prompt is not None
    if legacy and wire.messages:
        raise InvalidRequest(BOTH)
    if not legacy and wire.messages is None:
        raise InvalidRequest(NEITHER)
    turns = _legacy_turns(wire) if legacy else wire.messages or []
    if not turns:
        raise InvalidRequest("[] is too short")
    count = len(turns) + sum(len(turn.content) for turn in turns if isinstance(turn.content, list))
    if count > MAX_PARTS:
        raise InvalidRequest(f"Exceeded limit on messages and parts per request : {MAX_PARTS}, got {count}")
    messages = tuple(_message(turn) for turn in turns)
    if not any(message.role == "user" for message in messages):
        raise InvalidRequest("The input messages do not contain elements with the role of user.")
    return messages


def _legacy_turns(wire: WireInput) -> list[WireMessage]:
    history = [(("user", turn.user), ("assistant", turn.bot)) for turn in wire.history or []]
    turns = [WireMessage(role=role, content=content) for pair in history for role, content in pair]
    return [*turns, WireMessage(role="user", content=wire.prompt)]


def _message(wire: WireMessage) -> Message:
    if wire.role == "tool" or wire.tool_calls:
        raise InvalidRequest("The tool call is not supported.")
    role = ROLES.get(wire.role or "")
    if role is None:
        raise InvalidRequest(NO_CONTENT)
    if wire.content is None:
        raise InvalidRequest("The content field is a required field.")
    parts = (Text(wire.content),) if isinstance(wire.content, str) else tuple(_part(part) for part in wire.content)
    if role == "user" and not any(not isinstance(part, Text) or part.text for part in parts):
        raise InvalidRequest(NO_CONTENT)
    if role != "user" and any(isinstance(part, Image) for part in parts):
        raise InvalidRequest(f'An image can only be part of a message with the role "user", not "{role}".')
    return Message(role, parts, partial=role == "assistant" and bool(wire.partial))


def _part(wire: WirePart) -> Part:
    modality, value = _modality(wire)
    if modality == "text" and isinstance(value, str):
        return Text(value)
    if modality == "image":
        return Image(value if isinstance(value, str) else "")
    if modality in ("video", "audio"):
        raise InvalidRequest(f"The {modality} modality is not supported by this server; send text and images.")
    raise InvalidRequest("input content must be a string.")


def _modality(wire: WirePart) -> tuple[str, object]:
    """The one modality of a part. `type` beside it is what some clients echo back; on its own it is another API's."""
    given = [(name, wire[name]) for name in MODALITIES if wire.get(name) is not None]
    if len(given) != 1:
        raise InvalidRequest(NO_MODALITY)
    return given[0]


def _mentions_json(messages: tuple[Message, ...]) -> bool:
    texts = (part.text for message in messages for part in message.parts if isinstance(part, Text))
    return any("json" in text.lower() for text in texts)


@dataclass(frozen=True, slots=True)
class Rendering:
    """How one request wants its answer written.

    `output_text` adds `output.text` to a whole multimodal answer, which the cloud does not send; scripts read it.
    """

    request_id: str
    form: Form
    incremental: bool
    output_text: bool

    def whole(self, answer: Answer) -> bytes:
        message = {"role": "assistant", "content": self._content(answer.text)}
        output: dict[str, Any] = {"choices": [{"finish_reason": answer.choices[0].finish_reason, "message": message}]}
        if self.output_text and self.form == "multimodal":
            output["text"] = answer.text
        return self._body(output, answer.usage)

    async def frames(self, chunks: AsyncIterator[Chunk]) -> AsyncGenerator[bytes, None]:
        """One frame per piece of text, then one with the finish reason and, if not incremental, the whole text."""
        answer = Answer()
        event_id = 0
        async for chunk in chunks:
            answer.add(chunk)
            if chunk.text:
                event_id += 1
                text = chunk.text if self.incremental else answer.text
                yield self._frame(event_id, self._content(text), "null", chunk.usage)
            if chunk.finish_reason:
                last = self._content(answer.text) if not self.incremental else [] if self.form == "multimodal" else ""
                yield self._frame(event_id + 1, last, chunk.finish_reason, chunk.usage)

    def _content(self, text: str) -> object:
        return [{"text": text}] if self.form == "multimodal" else text

    def _frame(self, event_id: int, content: object, finish_reason: str, usage: Usage) -> bytes:
        choice = {"message": {"content": content, "role": "assistant"}, "finish_reason": finish_reason}
        return sse.frame(event_id, "result", 200, self._body({"choices": [choice]}, usage))

    def _body(self, output: dict[str, Any], usage: Usage) -> bytes:
        return orjson.dumps({"output": output, "usage": to_usage(usage), "request_id": self.request_id})


def to_usage(usage: Usage) -> dict[str, Any]:
    """The cloud's newest shape; image tokens are part of `input_tokens` and itemised once the engine has said them."""
    wire: dict[str, Any] = {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "output_tokens_details": {"text_tokens": usage.output_tokens},
    }
    if usage.image_tokens is not None:
        wire["input_tokens_details"] = {"text_tokens": usage.input_tokens - usage.image_tokens}
    if usage.image_tokens:
        wire["image_tokens"] = wire["input_tokens_details"]["image_tokens"] = usage.image_tokens
    return wire
