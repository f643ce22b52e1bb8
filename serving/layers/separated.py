from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator
from dataclasses import replace

from serving.generation import Chunk, Generation
from serving.layers.layer import Layer


class Separated(Layer):
    """Keeps what an engine remembers of one key's requests from another's.

    Engines keep the beginnings of prompts, and images, to be quicker the next time. How quick an answer begins would
    tell one key what another has asked: letter by letter, for whoever tries often enough.
    """

    def generate(self, generation: Generation) -> AsyncGenerator[Chunk, None]:
        return self._engine.generate(replace(generation, salt=salt_of(generation.caller.key_id)))


def salt_of(key_id: str) -> str:
    """Never empty, which vLLM refuses."""
    return hashlib.sha256(b"salt:" + key_id.encode()).hexdigest()[:32]
