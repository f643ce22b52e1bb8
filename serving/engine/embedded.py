from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path

from serving.engine import hardware
from serving.engine.launch import Launcher
from serving.engine.plan import LaunchError, LaunchPlan, plan
from serving.engine.progress import Progress
from serving.engine.tokens import Tokens
from serving.engine.vllm import RETRY_AFTER, VLLM
from serving.errors import EngineUnavailable
from serving.generation import Chunk, Generation


class Embedded:
    """A vLLM server of our own: started with the best model for this machine, watched, and stopped with us."""

    def __init__(
        self,
        *,
        model: str | None,
        served_names: tuple[str, ...],
        log_dir: Path,
        on_progress: Callable[[Progress], None],
    ) -> None:
        """`model` as `serving.engine.plan.plan` takes it; the engine's own output goes to files in `log_dir`."""
        self._model = model
        self._served_names = served_names
        self._log_dir = log_dir
        self._on_progress = on_progress
        self._launcher: Launcher | None = None
        self._vllm: VLLM | None = None
        self.folder: Path | None = None
        """Where the model lies, None until it has been chosen, and for one on the hub."""

    async def generate(self, generation: Generation) -> AsyncGenerator[Chunk, None]:
        if self._vllm is None:
            raise EngineUnavailable(retry_after=RETRY_AFTER)
        async with aclosing(self._vllm.generate(generation)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def tokenize(self, text: str) -> Tokens:
        if self._vllm is None:
            raise EngineUnavailable(retry_after=RETRY_AFTER)
        return await self._vllm.tokenize(text)

    async def ready(self) -> bool:
        return self._vllm is not None and await self._vllm.ready()

    async def start(self) -> None:
        try:
            chosen = await asyncio.to_thread(self._plan)
            self.folder = chosen.folder
            self._launcher = Launcher(chosen, log_dir=self._log_dir, on_progress=self._on_progress)
            await self._launcher.start()
            await self._launcher.wait_ready()
        except LaunchError as error:
            raise EngineUnavailable(str(error)) from error
        vllm = VLLM(self._launcher.base_url, key=self._launcher.api_key)
        await vllm.start()
        self._vllm = vllm

    async def aclose(self) -> None:
        if self._vllm is not None:
            await self._vllm.aclose()
        if self._launcher is not None:
            await self._launcher.aclose()

    def _plan(self) -> LaunchPlan:
        return plan(hardware.detect(), model=self._model, served_names=self._served_names)
