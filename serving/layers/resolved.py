from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from serving.engine.base import Engine
from serving.errors import InvalidRequest
from serving.generation import Chunk, Generation, Image, Message, Part
from serving.layers.layer import Layer
from serving.media import images
from serving.media.images import Limits


class Resolved(Layer):
    """Turns every image reference into checked bytes, so that the engine never sees a URL or a file that is no image.

    This is the only place that reads references: what fetches http(s) and oss:// URLs belongs here too.
    """

    def __init__(self, engine: Engine, limits: Limits) -> None:
        super().__init__(engine)
        self._limits = limits

    async def generate(self, generation: Generation) -> AsyncGenerator[Chunk, None]:
        resolved = await self._resolve(generation) if generation.images else generation
        async with aclosing(self._engine.generate(resolved)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _resolve(self, generation: Generation) -> Generation:
        if len(generation.images) > self._limits.count:
            raise InvalidRequest(
                f"Exceeded limit on images per request : {self._limits.count}, got {len(generation.images)}"
            )
        return replace(generation, messages=tuple([await self._message(each) for each in generation.messages]))

    async def _message(self, message: Message) -> Message:
        return replace(message, parts=tuple([await self._part(part) for part in message.parts]))

    async def _part(self, part: Part) -> Part:
        return await images.resolve(part, self._limits) if isinstance(part, Image) else part
