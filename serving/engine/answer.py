"""Reading vLLM's streamed chat completions as chunks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator

import msgspec
from msgspec import Struct

from serving.engine.refusals import RETRY_AFTER, refusal
from serving.engine.wire import Reply
from serving.errors import EngineUnavailable, GenerationFailed
from serving.generation import Chunk, FinishReason, Generation, Image, TokenLogprob, ToolCallDelta, Usage, Video

PLACEHOLDER_ENDS = 2
"""Vision start and end: the cloud counts them as tokens of the image, vLLM does not."""


class _Function(Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(Struct, gc=False):
    index: int = 0
    id: str | None = None
    function: _Function | None = None


class _Delta(Struct, gc=False):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    """What `reasoning` was called before vLLM 0.16."""
    tool_calls: list[_ToolCall] | None = None


class _Token(Struct, gc=False):
    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: list[_Token] = []


class _Logprobs(Struct, gc=False):
    content: list[_Token] | None = None


class _Choice(Struct, gc=False):
    delta: _Delta
    index: int = 0
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _PromptDetails(Struct, gc=False):
    multimodal_tokens: dict[str, int] | None = None
    cached_tokens: int | None = None


class _CompletionDetails(Struct, gc=False):
    reasoning_tokens: int | None = None


class _Usage(Struct, gc=False):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None


class _Error(Struct, gc=False):
    message: str = ""
    code: int | str | None = None


class _Event(Struct, gc=False):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: _Error | None = None


_decoder = msgspec.json.Decoder(_Event)

NO_DETAILS = _PromptDetails()
NOTHING: dict[str, int] = {}


class Events:
    """Server-sent events, as their bytes come."""

    def __init__(self) -> None:
        self.done = False
        """Whether `[DONE]` has come."""
        self._rest = b""

    def read(self, piece: bytes) -> Iterator[bytes]:
        """The data of each event that ends in this piece, up to `[DONE]`."""
        *whole, self._rest = (self._rest + piece).split(b"\n\n")
        for event in whole:
            if event == b"data: [DONE]":
                self.done = True
                return
            if event.startswith(b"data: "):
                yield event[6:]


async def chunks(reply: Reply, generation: Generation) -> AsyncGenerator[Chunk, None]:
    """Chunks as they come; the reason for the last end is held back until the final usage has come after it."""
    events, answers = Events(), _Answers(generation)
    while not events.done and (piece := await reply.read()):
        for each in events.read(piece):
            event = _decoder.decode(each)
            if event.error is not None:
                raise refusal(event.error.code if isinstance(event.error.code, int) else 500, event.error.message)
            if event.usage is not None:
                answers.count(event)
            for choice in event.choices:
                for chunk in answers.read(choice):
                    yield chunk
            if answers.overrun:
                yield answers.last()
                return
    reply.over = True
    yield answers.last()


class _Answers:
    """How far each of the answers of one generation has come."""

    def __init__(self, generation: Generation) -> None:
        sampling, thinking = generation.sampling, bool(generation.thinking.enabled)
        self._n = sampling.n
        self._thinking = thinking
        self._most = sampling.max_tokens if thinking and sampling.n == 1 else None
        """Tokens of an answer that the engine, which bounds the sum with its thoughts, does not hold to them."""
        self._images = generation.images
        self._videos = generation.videos
        self._image_tokens = _known_tokens(self._images)
        self._video_tokens = _known_tokens(self._videos)
        self._ended: dict[int, FinishReason] = {}
        self._counts: dict[int, tuple[int, int | None]] = {}
        """Tokens of each answer, those of its reasoning last."""
        self._calling: set[int] = set()
        self._usage = Usage()
        self.overrun = False
        """Whether the answer of a thinking model has all its tokens."""

    def count(self, event: _Event) -> None:
        """vLLM counts the tokens of an answer beside each of its pieces, and all together in the end."""
        usage = event.usage
        assert usage is not None
        details = usage.completion_tokens_details
        output, reasoning = usage.completion_tokens, details.reasoning_tokens if details is not None else None
        if self._n > 1 and event.choices:
            output, reasoning = self._together(event.choices[0].index, output, reasoning)
        prompt = usage.prompt_tokens_details or NO_DETAILS
        self._usage = Usage(
            usage.prompt_tokens,
            output,
            self._count_images(prompt),
            self._count_videos(prompt),
            reasoning if self._thinking or reasoning else None,
            prompt.cached_tokens,
        )

    def _together(self, number: int, output: int, reasoning: int | None) -> tuple[int, int | None]:
        """Tokens of all answers so far, of which one has so many."""
        self._counts[number] = (output, reasoning)
        reasoned = [reasoning for _, reasoning in self._counts.values() if reasoning is not None]
        return sum(output for output, _ in self._counts.values()), sum(reasoned) if reasoned else None

    def _count_images(self, details: _PromptDetails) -> int | None:
        """As the engine counted them, which it says in the end; before that as they were expected."""
        counted = (details.multimodal_tokens or NOTHING).get("image")
        if not self._images or counted is not None:
            return (counted or 0) + PLACEHOLDER_ENDS * len(self._images)
        return self._image_tokens

    def _count_videos(self, details: _PromptDetails) -> int | None:
        """As they were computed: the engine counts the times that it writes between frames, too, the cloud does not. An
        engine that shrinks frames further counts fewer, and has the last word; until then nothing is claimed."""
        if not self._videos:
            return None
        counted = (details.multimodal_tokens or NOTHING).get("video")
        return counted if counted is None or self._video_tokens is None else min(counted, self._video_tokens)

    def read(self, choice: _Choice) -> Iterator[Chunk]:
        delta = choice.delta
        reasoning = delta.reasoning or delta.reasoning_content or ""
        calls = tuple(map(_call, delta.tool_calls)) if delta.tool_calls else ()
        # What was thought, and the words around a call, are tokens too: only those of the answer have logprobs.
        logprobs = () if reasoning or calls else _tokens(choice.logprobs)
        if calls:
            self._calling.add(choice.index)
        if delta.content or reasoning or calls or logprobs:
            yield Chunk(delta.content or "", self._usage, None, choice.index, reasoning, calls, logprobs)
        if choice.finish_reason:
            yield from self._end(choice.index, choice.finish_reason)
        if self._most is not None:
            self.overrun = not self._ended and self._answered >= self._most

    def _end(self, number: int, reason: str) -> Iterator[Chunk]:
        self._ended[number] = _finish(reason, called=number in self._calling)
        if len(self._ended) < self._n:
            yield Chunk("", self._usage, self._ended[number], number)

    @property
    def _answered(self) -> int:
        """Tokens after the thoughts."""
        return self._usage.output_tokens - (self._usage.reasoning_tokens or 0)

    def last(self) -> Chunk:
        """The end of the answer that ended last."""
        if self.overrun:
            return Chunk("", self._usage, "length")
        if len(self._ended) < self._n:
            raise EngineUnavailable(retry_after=RETRY_AFTER)
        number, reason = list(self._ended.items())[-1]
        return Chunk("", self._usage, reason, number)


def _call(call: _ToolCall) -> ToolCallDelta:
    function = call.function or _Function()
    return ToolCallDelta(call.index, function.arguments or "", call.id or "", function.name or "")


def _tokens(logprobs: _Logprobs | None) -> tuple[TokenLogprob, ...]:
    return tuple(map(_token, logprobs.content)) if logprobs is not None and logprobs.content else ()


def _token(token: _Token) -> TokenLogprob:
    top = tuple(_token(each) for each in token.top_logprobs)
    return TokenLogprob(token.token, tuple(token.bytes or ()), token.logprob, top)


def _finish(reason: str, *, called: bool) -> FinishReason:
    """vLLM ends a call that was forced by its name with "stop"."""
    if reason == "length":
        return "length"
    if reason in ("stop", "tool_calls"):
        return "tool_calls" if called else "stop"
    raise GenerationFailed(f"{GenerationFailed.message} The engine ended the answer with {reason!r}.")


def _known_tokens(media: tuple[Image, ...] | tuple[Video, ...]) -> int | None:
    """What they cost together, None where that is not known of all."""
    tokens = [each.content.tokens if each.content is not None else None for each in media]
    known = [each for each in tokens if each is not None]
    return sum(known) if len(known) == len(tokens) else None
