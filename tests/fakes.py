from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace

from serving.errors import ServingError
from serving.generation import Chunk, FinishReason, Generation, Usage


@dataclass(frozen=True)
class Script:
    """One answer to come: its pieces, one output token each, then how it ends.

    `error` is raised after the pieces instead of a finish. `gate`, when given, is awaited before the end and before
    every piece from number `gated_from` on; set it to let the answer run.
    """

    pieces: tuple[str, ...] = ()
    finish_reason: FinishReason = "stop"
    error: ServingError | Exception | None = None
    gate: asyncio.Event | None = None
    gated_from: int = 1
    input_tokens: int = 10
    image_tokens: int | None = 0
    interval: float = 0.0


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

    def enqueue(self, *pieces: str, **options: object) -> None:
        self._scripts.append(replace(Script(pieces), **options))  # type: ignore[arg-type]

    def always(self, *pieces: str, **options: object) -> None:
        """The answer whenever nothing is queued."""
        self._default = replace(Script(pieces), **options)  # type: ignore[arg-type]

    async def generate(self, generation: Generation) -> AsyncGenerator[Chunk, None]:
        self.history.append(generation)
        script = self._scripts.pop(0) if self._scripts else self._default
        self.running += 1
        self.began.set()
        try:
            for count, piece in enumerate(script.pieces, 1):
                await self._pause(script, count)
                yield Chunk(piece, Usage(script.input_tokens, count, script.image_tokens))
            await self._pause(script, len(script.pieces) + 1)
            if script.error is not None:
                raise script.error
            yield Chunk("", Usage(script.input_tokens, len(script.pieces), script.image_tokens), script.finish_reason)
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
