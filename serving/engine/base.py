from collections.abc import AsyncGenerator
from typing import Protocol

from serving.generation import Chunk, Generation


class Engine(Protocol):
    """Answers generations. Every layer is an engine that wraps an engine.

    A generator that ends without raising has yielded exactly one chunk with a `finish_reason` for each of the answers
    drawn, the last of them as its last. Closing
    the generator at any point stops the work behind it. Failures are `serving.errors.ServingError`s.
    """

    def generate(self, generation: Generation) -> AsyncGenerator[Chunk, None]: ...

    async def ready(self) -> bool:
        """Whether a generation sent now would be answered."""
        ...

    async def start(self) -> None:
        """Makes the engine ready; returns when it is, raises `EngineUnavailable` when it never will be."""
        ...

    async def aclose(self) -> None:
        """Frees everything; running generations end with an error."""
        ...
