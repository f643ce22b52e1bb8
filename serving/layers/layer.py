from __future__ import annotations

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
