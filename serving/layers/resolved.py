from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import replace
from itertools import chain

from serving.engine.base import Engine
from serving.errors import InvalidRequest
from serving.generation import Chunk, Generation, Image, Part, Video
from serving.layers.layer import Layer
from serving.media.references import Errand
from serving.media.service import Media

AT_ONCE = 8
"""Parts of one request that are worked on at a time: the next request shall not wait for all of this one's."""


class Resolved(Layer):
    """Turns every reference to an image or a video into checked bytes, so that the engine never sees a URL, nor a file
    that is neither. This is the only place that reads references."""

    def __init__(self, engine: Engine, media: Media) -> None:
        super().__init__(engine)
        self._media = media

    async def generate(self, generation: Generation) -> AsyncGenerator[Chunk, None]:
        self._check_counts(generation)
        async with self._media.budget.lease(generation.caller.key_id) as lease:
            if generation.images or generation.videos:
                generation = await self._resolve(generation, Errand.of(generation, lease))
                contents = [image.content for image in generation.images]
                generation.timeline.seen = tuple(content.seen if content else None for content in contents)
            async with aclosing(self._engine.generate(generation)) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def start(self) -> None:
        await self._media.start()
        await super().start()

    async def aclose(self) -> None:
        await super().aclose()
        await self._media.aclose()

    def _check_counts(self, generation: Generation) -> None:
        limits = self._media.limits
        for kind, given, most in (
            ("images", len(generation.images), limits.count),
            ("videos", len(generation.videos), limits.videos),
        ):
            if given > most:
                raise InvalidRequest(f"Exceeded limit on {kind} per request : {most}, got {given}")

    async def _resolve(self, generation: Generation, errand: Errand) -> Generation:
        parts = list(chain.from_iterable(message.parts for message in generation.messages))
        media = [part for part in parts if isinstance(part, Image | Video)]
        found = iter(await _bounded([self._media.resolve(part, errand) for part in media]))
        messages = tuple(
            replace(
                message,
                parts=tuple(next(found) if isinstance(part, Image | Video) else part for part in message.parts),
            )
            for message in generation.messages
        )
        return replace(generation, messages=messages)


async def _bounded(works: Sequence[Coroutine[None, None, Part]]) -> Sequence[Part]:
    """The results in order. The first failure ends the rest."""
    if len(works) == 1:
        return [await works[0]]
    places = asyncio.Semaphore(AT_ONCE)

    async def placed(work: Coroutine[None, None, Part]) -> Part:
        try:
            async with places:
                return await work
        finally:
            work.close()

    tasks = [asyncio.create_task(placed(work)) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for work in works:
            work.close()
