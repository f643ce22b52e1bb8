from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp.abc import AbstractResolver

from serving.budget import Budget
from serving.generation import Image, Part, Video
from serving.media.fetch import Fetcher, FetchRules
from serving.media.images import Limits
from serving.media.imaging import Imaging
from serving.media.policy import PUBLISHED, PixelPolicy, Processor
from serving.media.pool import Workers
from serving.media.references import Errand, References, Uploads
from serving.media.scratch import Scratch
from serving.media.video import Videos


def published() -> Processor:
    return PUBLISHED


class Media:
    """Everything that happens to images and videos between the client's reference and the engine."""

    def __init__(
        self,
        limits: Limits,
        *,
        policy: PixelPolicy | None = None,
        processor: Callable[[], Processor] = published,
        rules: FetchRules | None = None,
        resolver: AbstractResolver | None = None,
        uploads: Uploads | None = None,
        workers: int = 2,
        memory: int = 1 << 30,
        patience: float = 60,
        scratch: Scratch | None = None,
    ) -> None:
        """`processor` is asked for each image, because an engine's model is known only once it has been chosen.

        `memory` bounds the bytes that all requests hold in images; `patience` in seconds, then a request that waits for
        some is refused. `resolver` looks host names up. `scratch` is where videos lie meanwhile.
        """
        rules = rules or FetchRules()
        chosen = policy or PixelPolicy()
        self.limits = limits
        self.budget = Budget(memory, patience=patience)
        self._fetcher = Fetcher(rules, resolver=resolver)
        self._workers = Workers(workers)
        self._scratch = scratch or Scratch(None, 1 << 40)
        references = References(self._fetcher, limits, video_bytes=rules.video_bytes, uploads=uploads)
        shared: tuple[Any, ...] = (self._workers, limits, chosen, processor)
        self._imaging = Imaging(references, *shared)
        self._videos = Videos(references, self._imaging, self._scratch, *shared)

    async def resolve(self, part: Image | Video, errand: Errand) -> Part:
        """The part with its content. Raises `InvalidRequest`, or `Overloaded`."""
        if isinstance(part, Image):
            return await self._imaging.resolve(part, errand)
        return await self._videos.resolve(part, errand)

    async def start(self) -> None:
        """Clears away what a killed server has left. Raises `OSError` if there is nowhere to write."""
        await self._scratch.start()

    async def aclose(self) -> None:
        await self._workers.aclose()
        await self._fetcher.aclose()
        await self._scratch.aclose()
