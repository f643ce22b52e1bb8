from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.generation import Pixels
from serving.media.tokens import FACTOR, PAIR, Bounds, Size, frame_count, grid, video_grid

LEAST_IMAGE_PIXELS = 65_536
LEAST_VIDEO_PIXELS = 4_096
MOST_VIDEO_PIXELS = 786_432
"""Beyond these a request's own bounds are clamped, as in the cloud for the open models up to 32B."""
LEAST_FPS, MOST_FPS = 0.1, 10.0

PUBLISHED_IMAGE = Bounds(65_536, 16_777_216)
PUBLISHED_VIDEO = Bounds(4_096, 25_165_824)
"""Of the processors that every Qwen3-VL on the hub comes with."""
CLOUD_IMAGE = Bounds(LEAST_IMAGE_PIXELS, 2_621_440)
CLOUD_VIDEO = Bounds(65_536, 655_360)
"""What the cloud takes where a request asks for nothing."""


@dataclass(frozen=True, slots=True)
class Processor:
    """The bounds of the engine's own processors: pixels of an image, and of all frames of a video together."""

    image: Bounds = PUBLISHED_IMAGE
    video: Bounds = PUBLISHED_VIDEO
    factor: int = FACTOR

    def sees(self, size: Size) -> Size:
        """The size to which the engine brings an image."""
        return grid(size, self.image, self.factor)

    def sees_frames(self, size: Size, frames: int) -> Size:
        return video_grid(size, frames, self.video, self.factor)


PUBLISHED = Processor()


def processor_of(folder: Path) -> Processor:
    """The processor of the model in `folder`, by its own files. Raises `OSError` or `ValueError` without them."""
    image = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    beside = folder / "video_preprocessor_config.json"
    video = json.loads(beside.read_text(encoding="utf-8")) if beside.exists() else {}
    factor = int(image.get("patch_size", 16)) * int(image.get("merge_size", 2))
    return Processor(_bounds(image, PUBLISHED_IMAGE), _bounds(video, PUBLISHED_VIDEO), factor)


def _bounds(config: Mapping[str, Any], default: Bounds) -> Bounds:
    size = config.get("size") or {}
    least = size.get("shortest_edge", config.get("min_pixels", default.least))
    return Bounds(int(least), int(size.get("longest_edge", config.get("max_pixels", default.most))))


@dataclass(frozen=True, slots=True)
class Frames:
    """How to show a video: so many frames, each of this size."""

    count: int
    size: Size


@dataclass(frozen=True, slots=True)
class PixelPolicy:
    """At which size the model sees what it is sent: defaults in pixels, width times height, and how far a request may
    go from them. The cloud's values for Qwen3-VL-30B-A3B.

    `video` bounds one frame; `video_total` all frames, of which two count as one, because the model reads them so.
    """

    image: Bounds = CLOUD_IMAGE
    image_most: int = 16_777_216
    video: Bounds = CLOUD_VIDEO
    video_most: int = MOST_VIDEO_PIXELS
    video_total: int = 67_108_864
    fps: float = 2.0
    max_frames: int = 512

    def image_bounds(self, asked: Pixels) -> Bounds:
        floor = min(LEAST_IMAGE_PIXELS, self.image.least)
        least = _clamped(asked.least, self.image.least, floor, self.image_most)
        if asked.high_resolution:
            return Bounds(least, self.image_most)
        return Bounds(least, max(least, _clamped(asked.most, self.image.most, floor, self.image_most)))

    def image_size(self, size: Size, asked: Pixels, processor: Processor) -> Size:
        """The size at which an image shall be sent where it is not to be sent as it is.

        What the engine would change again is no choice: its processor's bounds narrow the policy's.
        """
        return grid(size, _within(self.image_bounds(asked), processor.image), processor.factor)

    def rate(self, fps: float | None) -> float:
        """Frames a second."""
        return self.fps if fps is None else min(MOST_FPS, max(LEAST_FPS, fps))

    def frame_count(self, seconds: float, fps: float | None, max_frames: int | None) -> int:
        return frame_count(seconds, self.rate(fps), min(self.max_frames, max_frames or self.max_frames))

    def frame_bounds(self, frames: int, asked: Pixels) -> Bounds:
        """The bounds of one of `frames` frames."""
        ceiling = max(self.video_most, self.video.most)
        least = _clamped(asked.least, self.video.least, LEAST_VIDEO_PIXELS, ceiling)
        most = _clamped(asked.most, self.video.most, LEAST_VIDEO_PIXELS, ceiling)
        total = _clamped(asked.total, self.video_total, LEAST_VIDEO_PIXELS, self.video_total)
        return Bounds(least, max(least, int(min(most, total / frames * PAIR))))

    def frame_size(self, size: Size, frames: int, asked: Pixels, processor: Processor) -> Size:
        """The size at which each of `frames` frames shall be sent, in the engine's bounds too."""
        engine = Bounds(processor.video.least // frames, processor.video.most // frames)
        chosen = video_grid(size, 1, _within(self.frame_bounds(frames, asked), engine), processor.factor)
        return processor.sees_frames(chosen, frames)


def _clamped(value: int | None, default: int, least: int, most: int) -> int:
    return default if value is None else min(most, max(least, value))


def _within(wanted: Bounds, outer: Bounds) -> Bounds:
    least = min(max(wanted.least, outer.least), outer.most)
    return Bounds(least, max(least, min(wanted.most, outer.most)))
