from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeAlias

from msgspec import Struct

from serving.access.grant import ORDINARY, Grant

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
FinishReason: TypeAlias = Literal["stop", "length", "tool_calls"]
Priority: TypeAlias = Literal["interactive", "background"]
Caching: TypeAlias = Literal["use", "refresh", "never"]
"""What the client lets the answer cache do: "refresh" keeps the answer but does not take one, "never" does neither."""
Cached: TypeAlias = Literal["hit", "miss", "bypass"]


@dataclass(frozen=True)
class ImageContent:
    """The checked bytes of one image; `width` and `height` in pixels, upright.

    `seen` is the (width, height) in pixels to which the model's processor brings it, `tokens` what it costs there, the
    two that enclose it included. Both are None where the processor is not known.
    """

    data: bytes
    format: str
    width: int
    height: int
    seen: tuple[int, int] | None = None
    tokens: int | None = None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of `data` in hex; computed on first use, because hashing costs more than the rest of the relay."""
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Pixels:
    """What the client asks of the size at which the model sees an image or the frames of a video.

    All in pixels, width times height: of one image or frame, `total` of all frames of a video. None is the default of
    the model's pixel policy; what is out of the policy's range is clamped to it. `high_resolution` takes the
    policy's largest size instead of `most`.
    """

    least: int | None = None
    most: int | None = None
    total: int | None = None
    high_resolution: bool = False


@dataclass(frozen=True, slots=True)
class Image:
    """`reference` is the client's own string; `content` is None until the image has been resolved.

    `uuid` is the name under which the engine keeps the image; with one, an empty `reference` has it take the image that
    it keeps.
    """

    reference: str
    content: ImageContent | None = None
    pixels: Pixels = Pixels()
    uuid: str | None = None


@dataclass(frozen=True)
class VideoContent:
    """The sampled frames of one video, an even number of JPEGs of one size, each as the model shall see it.

    `fps` is the rate at which they were sampled, `seconds` the duration of the whole video; `tokens` as for an image,
    without the times that the engine writes between the frames.
    """

    frames: tuple[ImageContent, ...]
    fps: float
    seconds: float
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Video:
    """A video file by reference, or its frames by one reference each.

    `fps` asks for so many frames a second of a file, and says how many there are of a list. `max_frames` bounds the
    sampled ones. `content` is None until the video has been resolved.
    """

    reference: str | tuple[str, ...]
    content: VideoContent | None = None
    fps: float | None = None
    max_frames: int | None = None
    pixels: Pixels = Pixels()


Part: TypeAlias = Text | Image | Video


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model made in an earlier turn; `arguments` is the JSON text as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn; `partial` marks a last assistant turn that the model continues instead of answering.

    An assistant turn may have `tool_calls` and `reasoning`; a turn of role "tool" has the `tool_call_id` it answers.
    """

    role: Role
    parts: tuple[Part, ...]
    partial: bool = False
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    reasoning: str = ""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to pick tokens; None leaves the choice to the model's own generation config.

    `max_tokens` counts tokens of the answer, `max_completion_tokens` those of the reasoning, too; `top_k` 0 means "all
    tokens"; `stop_token_ids` are ids of the model's tokenizer. `n` answers are drawn; `logprobs` is None for none, else
    how many alternatives each token of the answer comes with.
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
    n: int = 1
    logprobs: int | None = None
    max_completion_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """`schema` is the JSON schema (with its `name`) for kind "json_schema", else None."""

    kind: Literal["json_object", "json_schema"]
    name: str = "answer"
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call; `parameters` is the JSON schema of its arguments."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Tools:
    """`choice` is "auto", "none", "required", or the name of the one function to call."""

    offered: tuple[Tool, ...]
    choice: str = "auto"
    parallel: bool = False


@dataclass(frozen=True, slots=True)
class Thinking:
    """Whether to reason before the answer, and for at most how many tokens; None leaves either to the model."""

    enabled: bool | None = None
    budget: int | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the id and the name of the API key, and what it may do."""

    key_id: str
    name: str
    grant: Grant = ORDINARY


@dataclass(slots=True)
class Timeline:
    """Moments of one request in seconds of `time.monotonic()`, and in `seen` the (width, height) in pixels at which the
    model sees each image, None where that is not known. The one mutable part, stamped by the layers."""

    received: float = field(default_factory=time.monotonic)
    queued: float | None = None
    admitted: float | None = None
    first_chunk: float | None = None
    ended: float | None = None
    seen: tuple[tuple[int, int] | None, ...] = ()
    fetching: float | None = None
    """Seconds spent on fetching media, None where there was none to fetch."""
    decoding: float | None = None
    """Seconds spent on making images and frames of it."""
    cached: Cached | None = None
    """What the answer cache had to say, None where there is none."""


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
    tools: Tools | None = None
    thinking: Thinking = Thinking()
    priority: Priority = "interactive"
    streamed: bool = False
    """Whether the client reads the answer as it comes; one that waits for the whole gets it in fewer, larger chunks."""
    caching: Caching = "use"
    resolve_oss: bool = False
    """Whether the client asked for its uploads to be looked up; else an oss:// reference is no valid URL."""
    salt: str = ""
    """What an engine remembers of a request is for those with the same salt alone; empty is for everybody."""

    @property
    def images(self) -> tuple[Image, ...]:
        return tuple(part for message in self.messages for part in message.parts if isinstance(part, Image))

    @property
    def videos(self) -> tuple[Video, ...]:
        return tuple(part for message in self.messages for part in message.parts if isinstance(part, Video))

    @property
    def pictures(self) -> int:
        """How many the client sends: images, and the frames of videos that come as lists of them."""
        frames = sum(len(video.reference) for video in self.videos if not isinstance(video.reference, str))
        return len(self.images) + frames


class Usage(Struct, frozen=True, gc=False):
    """Tokens so far. `input_tokens` includes images and videos, `output_tokens` the reasoning.

    `image_tokens` and `video_tokens` are None until the engine has said them, `cached_tokens` where it does not say.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    image_tokens: int | None = None
    video_tokens: int | None = None
    reasoning_tokens: int | None = None
    cached_tokens: int | None = None

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens


class ToolCallDelta(Struct, frozen=True, gc=False):
    """A piece of call number `index` of one answer. The first piece has `id` and `name`, later ones neither."""

    index: int
    arguments: str = ""
    id: str = ""
    name: str = ""


class TokenLogprob(Struct, frozen=True, gc=False):
    """The natural logarithm of a token's probability, and the likeliest tokens in its place."""

    token: str
    bytes: tuple[int, ...]
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


class Chunk(Struct, frozen=True, gc=False):
    """A piece of answer number `choice`, of `Sampling.n` that are drawn.

    Each answer ends with one chunk that has a `finish_reason`; the usage of the very last chunk is final. There is one
    for each token: a struct is made in a tenth of the time that a frozen dataclass takes, and the collector, which has
    no cycle to find in it, does not count it.
    """

    text: str
    usage: Usage
    finish_reason: FinishReason | None = None
    choice: int = 0
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()

    @property
    def is_text(self) -> bool:
        """Whether it has a text and nothing else, as most have."""
        return bool(self.text) and not (self.finish_reason or self.reasoning or self.tool_calls or self.logprobs)


@dataclass(slots=True)
class Choice:
    """What the chunks of one of the answers add up to so far."""

    finish_reason: FinishReason | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)
    _text: list[str] = field(default_factory=list)
    _reasoning: list[str] = field(default_factory=list)
    _calls: list[_Call] = field(default_factory=list)

    def add(self, chunk: Chunk) -> None:
        if chunk.text:
            self._text.append(chunk.text)
        if chunk.reasoning:
            self._reasoning.append(chunk.reasoning)
        for delta in chunk.tool_calls:
            while len(self._calls) <= delta.index:
                self._calls.append(_Call())
            self._calls[delta.index].add(delta)
        if chunk.logprobs:
            self.logprobs.extend(chunk.logprobs)
        if chunk.finish_reason:
            self.finish_reason = chunk.finish_reason

    @property
    def text(self) -> str:
        return _joined(self._text)

    @property
    def reasoning(self) -> str:
        return _joined(self._reasoning)

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return tuple(ToolCall(call.id, call.name, "".join(call.arguments)) for call in self._calls)

    @property
    def begun(self) -> bool:
        return bool(self._text or self._reasoning or self._calls)


def _joined(pieces: list[str]) -> str:
    """The pieces as one, which takes their place: a stream that repeats the whole text asks for it at every piece."""
    if len(pieces) > 1:
        pieces[:] = ["".join(pieces)]
    return pieces[0] if pieces else ""


@dataclass(slots=True)
class _Call:
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)

    def add(self, delta: ToolCallDelta) -> None:
        self.id = self.id or delta.id
        self.name = self.name or delta.name
        self.arguments.append(delta.arguments)


@dataclass(slots=True)
class Answer:
    """What the chunks of one generation add up to so far: one choice, or `Sampling.n` of them."""

    choices: list[Choice] = field(default_factory=lambda: [Choice()])
    usage: Usage = field(default_factory=Usage)

    def add(self, chunk: Chunk) -> None:
        while len(self.choices) <= chunk.choice:
            self.choices.append(Choice())
        self.choices[chunk.choice].add(chunk)
        self.usage = chunk.usage

    def cut(self) -> None:
        """Ends what has not ended yet, as if it had become too long."""
        for choice in self.choices:
            choice.finish_reason = choice.finish_reason or "length"

    @property
    def text(self) -> str:
        """Of the first choice."""
        return self.choices[0].text

    @property
    def begun(self) -> bool:
        return any(choice.begun for choice in self.choices)
