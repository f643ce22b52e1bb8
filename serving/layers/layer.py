from __future__ import annotations

from collections.abc import Iterator

from serving.engine.base import Engine


class Layer:
    """What every layer has in common: it is as ready as the engine it wraps, and starts and ends with it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def ready(self) -> bool:
        return await self._engine.ready()

    async def start(self) -> None:
        await self._engine.start()

    async def aclose(self) -> None:
        await self._engine.aclose()


def within(engine: Engine) -> Iterator[Engine]:
    """The engine, what it wraps, what that wraps, and so on."""
    yield engine
    while isinstance(engine, Layer):
        engine = engine._engine
        yield engine
