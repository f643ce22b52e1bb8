from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

import msgspec

from serving.access.redaction import redacted
from serving.engine.base import Engine
from serving.errors import ServingError, StorageUnavailable
from serving.generation import Answer, Choice, Chunk, Generation, Image, ImageContent, Message, Part, Text
from serving.layers.layer import Layer
from serving.storage.objects import Objects
from serving.storage.records.record import Picture, Record
from serving.storage.records.recorder import Recorder

log = logging.getLogger(__name__)

Kept: TypeAlias = Literal["metadata", "content", "originals"]
ORIGINALS_WITHIN_S = 10.0
"""Seconds that the end of an answer waits for its originals; they were sent for storing before the model began."""


@dataclass(slots=True)
class Draft:
    """What is known of a running request so far."""

    generation: Generation
    answer: Answer = field(default_factory=Answer)
    ends: int = 0
    first_chunk: float | None = None
    pictures: list[Picture] = field(default_factory=list)
    storing: list[asyncio.Task[Picture]] = field(default_factory=list)
    written: bool = False

    def add(self, chunk: Chunk) -> bool:
        """Whether it was the last one."""
        if self.first_chunk is None:
            self.first_chunk = time.monotonic()
        self.answer.add(chunk)
        self.ends += chunk.finish_reason is not None
        return self.ends >= self.generation.sampling.n


class Recorded(Layer):
    """Writes a record of every generation, before the last piece of its answer goes out: who has the end of an answer
    has a record. One that cannot be written, or an original, is an error in the log, or with `required` a refusal
    instead of the end."""

    def __init__(self, engine: Engine, recorder: Recorder, drafts: Drafts, *, kept: Kept, required: bool) -> None:
        super().__init__(engine)
        self._recorder = recorder
        self._drafts = drafts
        self._kept = kept
        self._required = required

    async def generate(self, generation: Generation) -> AsyncGenerator[Chunk, None]:
        draft = self._drafts.open(generation)
        outcome = "abandoned"
        try:
            async with aclosing(self._engine.generate(generation)) as chunks:
                async for chunk in chunks:
                    if draft.add(chunk):
                        await self._settle_originals(draft)
                        self._write(draft, "ok")
                    yield chunk
            outcome = "ok"
        except ServingError as error:
            outcome = error.code
            raise
        finally:
            self._drafts.close(generation)
            if not draft.written:
                self._abandon_originals(draft)
                self._write(draft, outcome)

    def _write(self, draft: Draft, outcome: str) -> None:
        draft.written = True
        try:
            self._recorder.add(_record(draft, outcome, self._kept, self._recorder.clock()))
        except StorageUnavailable:
            if self._required and outcome == "ok":
                raise

    async def _settle_originals(self, draft: Draft) -> None:
        if draft.storing:
            done, late = await asyncio.wait(draft.storing, timeout=ORIGINALS_WITHIN_S)
            for task in late:
                task.cancel()
            draft.pictures = [
                task.result() if task in done and not task.exception() else picture
                for task, picture in zip(draft.storing, draft.pictures, strict=True)
            ]
            if lost := sum(picture.object is None for picture in draft.pictures):
                asked = draft.generation.request_id
                log.error("%d of the %d images of request %s are not kept", lost, len(draft.pictures), asked)
                if self._required:
                    raise StorageUnavailable

    def _abandon_originals(self, draft: Draft) -> None:
        for at, task in enumerate(draft.storing):
            if task.done() and not task.cancelled() and not task.exception():
                draft.pictures[at] = task.result()
            task.cancel()


class Drafts:
    """The running requests, for the two places of the stack that know something of them: references outside, bytes
    inside. A request is known by its timeline, which every copy of a generation shares."""

    def __init__(self) -> None:
        self._open: dict[int, Draft] = {}

    def open(self, generation: Generation) -> Draft:
        draft = self._open[id(generation.timeline)] = Draft(generation)
        return draft

    def find(self, generation: Generation) -> Draft | None:
        return self._open.get(id(generation.timeline))

    def close(self, generation: Generation) -> None:
        self._open.pop(id(generation.timeline), None)


class Witnessed(Layer):
    """Tells a request's draft what its images are, and has the originals stored while the model reads them."""

    def __init__(self, engine: Engine, recorder: Recorder, drafts: Drafts, *, kept: Kept) -> None:
        super().__init__(engine)
        self._objects = recorder.objects if kept == "originals" else None
        self._drafts = drafts
        self._kept = kept
        self._clock = recorder.clock

    def generate(self, generation: Generation) -> AsyncGenerator[Chunk, None]:
        draft = self._drafts.find(generation)
        grant = generation.caller.grant
        if draft is not None and self._kept != "metadata" and grant.keep_content:
            contents = [image.content for image in generation.images if image.content is not None]
            draft.pictures = [_picture(content) for content in contents]
            if self._objects is not None and not grant.redact:
                draft.storing = [
                    asyncio.create_task(_store(self._objects, content, self._clock())) for content in contents
                ]
        return self._engine.generate(generation)


def _picture(content: ImageContent, name: str | None = None) -> Picture:
    return Picture(content.digest, content.format, content.width, content.height, len(content.data), name)


async def _store(objects: Objects, content: ImageContent, now: float) -> Picture:
    """Under the day and the digest: the same image of one day is one object, and a day can be swept as a whole."""
    name = f"originals/{datetime.fromtimestamp(now, UTC):%Y-%m-%d}/{content.digest}"

    async def whole() -> AsyncIterator[bytes]:
        yield content.data

    await objects.put(name, whole(), summed=False)  # its name is a digest
    return _picture(content, name)


def _record(draft: Draft, outcome: str, kept: Kept, now: float) -> Record:
    generation, usage, times = draft.generation, draft.answer.usage, draft.generation.timeline
    ended = time.monotonic()
    grant = generation.caller.grant
    content = kept != "metadata" and grant.keep_content
    return Record(
        id=str(uuid.uuid4()),
        request_id=generation.request_id[:200],
        received_at=int((now - (ended - times.received)) * 1000),
        key_id=generation.caller.key_id,
        key_name=generation.caller.name,
        model=generation.model,
        priority=generation.priority,
        streamed=generation.streamed,
        outcome=outcome,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        image_tokens=usage.image_tokens,
        cached_tokens=usage.cached_tokens,
        images=len(generation.images),
        queued_ms=_ms(times.received, times.admitted),
        first_chunk_ms=_ms(times.received, draft.first_chunk),
        total_ms=round((ended - times.received) * 1000, 1),
        question=_json(_question(generation), grant.redact) if content else None,
        answer=_json([_choice(choice) for choice in draft.answer.choices], grant.redact) if content else None,
        pictures=tuple(draft.pictures) if content else (),
    )


def _ms(start: float, end: float | None) -> float | None:
    return None if end is None else round((end - start) * 1000, 1)


def _json(content: Any, patterns: tuple[str, ...]) -> str:
    """Redaction works on the texts, before they are JSON. PostgreSQL has no NUL in texts."""
    return msgspec.json.encode(_blackened(content, patterns)).decode().replace("\\u0000", "")


def _blackened(content: Any, patterns: tuple[str, ...]) -> Any:
    if isinstance(content, str):
        return redacted(content, patterns) if patterns else content
    if isinstance(content, dict):
        return {name: _blackened(value, patterns) for name, value in content.items()}
    if isinstance(content, list):
        return [_blackened(value, patterns) for value in content]
    return content


def _question(generation: Generation) -> list[dict[str, Any]]:
    return [_message(message) for message in generation.messages]


def _message(message: Message) -> dict[str, Any]:
    said: dict[str, Any] = {"role": message.role, "content": [_part(part) for part in message.parts]}
    if message.reasoning:
        said["reasoning"] = message.reasoning
    if message.tool_calls:
        said["tool_calls"] = [{"name": call.name, "arguments": call.arguments} for call in message.tool_calls]
    return said


def _part(part: Part) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"text": part.text}
    if isinstance(part, Image):
        return {"image": _reference(part.reference)}
    frames = (part.reference,) if isinstance(part.reference, str) else part.reference
    return {"video": [_reference(frame) for frame in frames]}


def _reference(reference: str) -> str:
    """Where it came from, without the image itself, and without what a URL may be signed with."""
    return "data:" if reference[:5].lower() == "data:" else reference.partition("?")[0]


def _choice(choice: Choice) -> dict[str, Any]:
    said: dict[str, Any] = {"text": choice.text, "finish_reason": choice.finish_reason}
    if choice.reasoning:
        said["reasoning"] = choice.reasoning
    if choice.tool_calls:
        said["tool_calls"] = [{"name": call.name, "arguments": call.arguments} for call in choice.tool_calls]
    return said
