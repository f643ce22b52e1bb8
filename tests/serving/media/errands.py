"""What one request asks of the media service."""

from __future__ import annotations

from serving.generation import Caller, Generation, Image, Message, Part, Video
from serving.media.references import Errand
from serving.media.service import Media


async def resolved(media: Media, part: Image | Video) -> Part:
    generation = Generation("r", Caller("k", "test"), "m", (Message("user", (part,)),), resolve_oss=True)
    async with media.budget.lease() as lease:
        return await media.resolve(part, Errand.of(generation, lease))
