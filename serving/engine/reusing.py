from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from functools import partial

from serving.engine import tokens, work
from serving.engine.base import Engine
from serving.engine.tokens import Tokens
from serving.errors import ImageForgotten
from serving.generation import Chunk, Generation, Image, Message, Part
from serving.layers.layer import Layer

log = logging.getLogger(__name__)

KEPT_PIXELS = 100_000_000
"""Of the images sent last that the engine is expected to have. vLLM keeps 4 GiB of processed ones, at 24 bytes a pixel
in float32: 178 million."""
MAX_MISSES = 8
"""Images in a row that the engine has forgotten until it is no longer asked: its cache is off, or one of several
server processes answers at random."""


class Reusing(Layer):
    """One vLLM that is not sent the same image twice.

    Each image is sent under its digest, by which vLLM keeps what it made of it. The next time the digest goes alone;
    where vLLM has forgotten it, which it says before it begins, the bytes follow.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._sent: OrderedDict[str, int] = OrderedDict()
        self._pixels = 0
        self._misses = 0

    async def generate(self, generation: Generation) -> AsyncGenerator[Chunk, None]:
        if self._misses >= MAX_MISSES or not generation.images:
            attempts = [generation]
        else:
            named = with_images(generation, partial(_name, generation.salt))
            lean = with_images(named, self._omit)
            attempts = [lean, named] if lean != named else [named]
        for number, attempt in enumerate(attempts, 1):
            try:
                async with aclosing(self._engine.generate(attempt)) as chunks:
                    first = await anext(chunks)
                    self._remember(attempt)
                    yield first
                    async for chunk in chunks:
                        yield chunk
                return
            except ImageForgotten:
                if number == len(attempts):
                    raise
                self._forget(attempt)

    async def tokenize(self, text: str) -> Tokens:
        """Raises `EngineUnavailable` where the engine does not tell its tokens."""
        return await tokens.of(self._engine, text)

    def _omit(self, image: Image) -> Image:
        return replace(image, reference="") if image.uuid in self._sent else image

    def _remember(self, generation: Generation) -> None:
        for image in generation.images:
            if image.uuid is None or image.content is None:
                continue
            if not image.reference:
                self._misses = 0
            if image.uuid not in self._sent:
                self._sent[image.uuid] = work.seen(image.content)
                self._pixels += self._sent[image.uuid]
            self._sent.move_to_end(image.uuid)
        while self._pixels > KEPT_PIXELS:
            self._pixels -= self._sent.popitem(last=False)[1]

    def _forget(self, generation: Generation) -> None:
        self._misses += 1
        if self._misses == MAX_MISSES:
            log.warning("the engine forgets images; each is sent in full from now on")
        for image in generation.images:
            if image.uuid is not None:
                self._pixels -= self._sent.pop(image.uuid, 0)


def with_images(generation: Generation, change: Callable[[Image], Image]) -> Generation:
    """The generation with each image changed."""

    def part(each: Part) -> Part:
        return change(each) if isinstance(each, Image) else each

    def message(each: Message) -> Message:
        return replace(each, parts=tuple(map(part, each.parts)))

    return replace(generation, messages=tuple(message(each) for each in generation.messages))


def _name(salt: str, image: Image) -> Image:
    """By its digest, and for those with the same salt alone."""
    if image.content is None:
        return image
    digest = image.content.digest
    return replace(image, uuid=hashlib.sha256((salt + digest).encode()).hexdigest() if salt else digest)
