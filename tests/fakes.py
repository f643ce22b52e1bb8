from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace

import msgspec

from serving.errors import ServingError
from serving.generation import Chunk, FinishReason, Generation, TokenLogprob, ToolCallDelta, Usage


def thought(reasoning: str, *, choice: int = 0) -> Chunk:
    """A piece of reasoning for a script; the engine counts the usage."""
    return Chunk("", Usage(), choice=choice, reasoning=reasoning)


def said(text: str, *, choice: int = 0, logprob: float | None = None, top: tuple[TokenLogprob, ...] = ()) -> Chunk:
    """A piece of text for a script, with the logarithm of its probability if there is one."""
    tokens = () if logprob is None else (TokenLogprob(text, tuple(text.encode()), logprob, top),)
    return Chunk(text, Usage(), choice=choice, logprobs=tokens)


def called(arguments: str, *, index: int = 0, call_id: str = "", name: str = "", choice: int = 0) -> Chunk:
    """A piece of a tool call for a script; the first of each call has `call_id` and `name`."""
    return Chunk("", Usage(), choice=choice, tool_calls=(ToolCallDelta(index, arguments, call_id, name),))


@dataclass(frozen=True)
class Script:
    """One answer to come: its pieces, one output token each, then how it ends.

    A piece is a text, which every answer asked for by `n` gets, or a chunk of one answer; an answer with tool calls
    ends with the reason "tool_calls". `error` is raised after the pieces instead of a finish. `gate`, when given, is
    awaited before the end and before every piece from number `gated_from` on; set it to let the answer run.
    """

    pieces: tuple[str | Chunk, ...] = ()
    finish_reason: FinishReason = "stop"
    error: ServingError | Exception | None = None
    gate: asyncio.Event | None = None
    gated_from: int = 1
    input_tokens: int = 10
    image_tokens: int | None = 0
    video_tokens: int | None = None
    cached_tokens: int | None = None
    interval: float = 0.0

    def usage(self, pieces: int) -> Usage:
        """After so many of the pieces."""
        thoughts = [isinstance(piece, Chunk) and bool(piece.reasoning) for piece in self.pieces]
        return Usage(
            self.input_tokens,
            pieces,
            self.image_tokens,
            self.video_tokens,
            sum(thoughts[:pieces]) if any(thoughts) else None,
            self.cached_tokens,
        )

    def chunks(self, number: int, n: int) -> list[Chunk]:
        """What piece `number`, counted from 1, is for each of `n` answers."""
        piece, usage = self.pieces[number - 1], self.usage(number)
        if isinstance(piece, Chunk):
            return [msgspec.structs.replace(piece, usage=usage)]
        return [Chunk(piece, usage, choice=choice) for choice in range(n)]

    def ends(self, n: int) -> list[Chunk]:
        calling = {piece.choice for piece in self.pieces if isinstance(piece, Chunk) and piece.tool_calls}
        usage = self.usage(len(self.pieces))
        reasons: list[FinishReason] = ["tool_calls" if each in calling else self.finish_reason for each in range(n)]
        return [Chunk("", usage, reason, choice) for choice, reason in enumerate(reasons)]


@dataclass
class FakeEngine:
    """An engine that says what it was told to. `enqueue` answers; look at `history` for what it was asked."""

    history: list[Generation] = field(default_factory=list)
    running: int = 0
    is_ready: bool = True
    start_error: ServingError | None = None
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    began: asyncio.Event = field(default_factory=asyncio.Event)
    _scripts: list[Script] = field(default_factory=list)
    _default: Script = Script(("ok",))

    def enqueue(self, *pieces: str | Chunk, **options: object) -> None:
        self._scripts.append(replace(Script(pieces), **options))  # type: ignore[arg-type]

    def rehearse(self, *scripts: Script) -> None:
        """Forgets what it was asked and told, and answers by these."""
        self.history.clear()
        self._scripts = list(scripts)
        self._default = Script(("ok",))

    def always(self, *pieces: str | Chunk, **options: object) -> None:
        """The answer whenever nothing is queued."""
        self._default = replace(Script(pieces), **options)  # type: ignore[arg-type]

    async def generate(self, generation: Generation) -> AsyncGenerator[Chunk, None]:
        self.history.append(generation)
        script = self._scripts.pop(0) if self._scripts else self._default
        self.running += 1
        self.began.set()
        try:
            for number in range(1, len(script.pieces) + 1):
                await self._pause(script, number)
                for chunk in script.chunks(number, generation.sampling.n):
                    yield chunk
            await self._pause(script, len(script.pieces) + 1)
            if script.error is not None:
                raise script.error
            for chunk in script.ends(generation.sampling.n):
                yield chunk
        finally:
            self.running -= 1
            self.closed.set()

    async def ready(self) -> bool:
        return self.is_ready

    async def start(self) -> None:
        if self.start_error is not None:
            raise self.start_error

    async def aclose(self) -> None:
        self.is_ready = False

    async def _pause(self, script: Script, number: int) -> None:
        if script.gate is not None and number >= script.gated_from:
            await script.gate.wait()
        if script.interval:
            await asyncio.sleep(script.interval)
