from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeAlias

Role: TypeAlias = Literal["system", "user", "assistant"]
FinishReason: TypeAlias = Literal["stop", "length"]


@dataclass(frozen=True)
class ImageContent:
    """The checked bytes of one image; `width` and `height` in pixels, as stored in the file."""

    data: bytes
    format: str
    width: int
    height: int

    @cached_property
    def digest(self) -> str:
        """SHA-256 of `data` in hex; computed on first use, because hashing costs more than the rest of the relay."""
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Image:
    """`reference` is the client's own string; `content` is None until the image has been resolved."""

    reference: str
    content: ImageContent | None = None


Part: TypeAlias = Text | Image


@dataclass(frozen=True, slots=True)
class Message:
    """One turn; `partial` marks a last assistant turn that the model continues instead of answering."""

    role: Role
    parts: tuple[Part, ...]
    partial: bool = False


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to pick tokens; None leaves the choice to the model's own generation config.

    `max_tokens` counts answer tokens; `top_k` 0 means "all tokens"; `stop_token_ids` are ids of the model's tokenizer.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """`schema` is the JSON schema (with its `name`) for kind "json_schema", else None."""

    kind: Literal["json_object", "json_schema"]
    name: str = "answer"
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the id and the name of the API key."""

    key_id: str
    name: str


@dataclass(slots=True)
class Timeline:
    """Moments of one request in seconds of `time.monotonic()`; the one mutable part, stamped by the layers."""

    received: float = field(default_factory=time.monotonic)
    admitted: float | None = None
    first_chunk: float | None = None
    ended: float | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """One question to the model, free of HTTP and of any engine."""

    request_id: str
    caller: Caller
    model: str
    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    response_format: ResponseFormat | None = None
    timeline: Timeline = field(default_factory=Timeline, compare=False)

    @property
    def images(self) -> tuple[Image, ...]:
        return tuple(part for message in self.messages for part in message.parts if isinstance(part, Image))


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens so far. `input_tokens` includes the images; `image_tokens` is None until the engine has said it."""

    input_tokens: int = 0
    output_tokens: int = 0
    image_tokens: int | None = None

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of the answer. Only the last chunk of an answer has a `finish_reason`; its usage is final."""

    text: str
    usage: Usage
    finish_reason: FinishReason | None = None


@dataclass(slots=True)
class Answer:
    """What the chunks of one generation add up to so far."""

    pieces: list[str] = field(default_factory=list)
    usage: Usage = Usage()
    finish_reason: FinishReason | None = None

    def add(self, chunk: Chunk) -> None:
        self.pieces.append(chunk.text)
        self.usage = chunk.usage
        self.finish_reason = chunk.finish_reason

    @property
    def text(self) -> str:
        return "".join(self.pieces)
