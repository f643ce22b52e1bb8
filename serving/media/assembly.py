from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from serving.media.addresses import Guard
from serving.media.fetch import FetchRules
from serving.media.images import Limits
from serving.media.policy import PUBLISHED, PixelPolicy, Processor, processor_of
from serving.media.references import Uploads
from serving.media.scratch import Scratch
from serving.media.service import Media
from serving.media.tokens import Bounds
from serving.settings import Settings

_read = functools.cache(processor_of)


def media(settings: Settings, *, model_folder: Callable[[], Path | None], uploads: Uploads | None = None) -> Media:
    """`model_folder` tells where the engine's model lies, None for one on the hub and for an engine elsewhere."""

    def processor() -> Processor:
        folder = settings.engine_processor or model_folder()
        return PUBLISHED if folder is None else _read(folder)

    return Media(
        limits(settings),
        policy=policy(settings),
        processor=processor,
        rules=rules(settings),
        uploads=uploads,
        workers=settings.decode_workers,
        memory=settings.max_media_bytes,
        patience=settings.queue_timeout,
        scratch=Scratch(settings.data / "scratch", settings.max_scratch_bytes),
    )


def limits(settings: Settings) -> Limits:
    return Limits(
        count=settings.max_images,
        uri_chars=settings.max_image_bytes,
        pixels=settings.max_image_pixels,
        decode=settings.decode_images,
        videos=settings.max_videos,
        seconds=settings.max_video_seconds,
    )


def policy(settings: Settings) -> PixelPolicy:
    return PixelPolicy(
        image=Bounds(settings.image_min_pixels, settings.image_max_pixels),
        image_most=settings.image_high_pixels,
        video=Bounds(settings.video_min_pixels, settings.video_max_pixels),
        video_most=settings.video_high_pixels,
        video_total=settings.video_total_pixels,
        fps=settings.video_fps,
        max_frames=settings.video_max_frames,
    )


def rules(settings: Settings) -> FetchRules:
    return FetchRules(
        enabled=settings.fetch,
        guard=Guard.allowing(settings.fetch_allow),
        image_bytes=settings.max_image_bytes,
        video_bytes=settings.max_video_bytes,
        timeout=settings.fetch_timeout,
        strict=settings.fetch_strict,
        cache_bytes=settings.fetch_cache_bytes,
    )
