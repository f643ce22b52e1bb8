from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from serving.errors import InvalidRequest
from serving.generation import ImageContent, Video, VideoContent
from serving.media.images import Limits, check_size
from serving.media.imaging import Imaging
from serving.media.policy import PixelPolicy, Processor
from serving.media.pool import Workers
from serving.media.references import Errand, References
from serving.media.scratch import Scratch
from serving.media.tokens import MIN_FRAMES, PAIR, Size, sampled, video_tokens
from serving.media.work import Failure, Film, Frames, Job, Probe, Result, Sample

INVALID = "Invalid video file."
UNMET = "The video modality input does not meet the requirements because: "
LEAST_SECONDS = 2.0
SLACK = 0.1
"""Seconds by which headers are wrong about a video that is just long enough."""
WITHIN = 0.25
"""Of a frame: so far into it a frame is looked for, lest rounded times find the one before."""
PROBE_TIMEOUT_S = 60.0
SAMPLE_TIMEOUT_S = 600.0

Answer = TypeVar("Answer", Film, Frames)


class Videos:
    """Turns videos, files or lists of frames, into the frames that the model is to see."""

    def __init__(
        self,
        references: References,
        imaging: Imaging,
        scratch: Scratch,
        workers: Workers,
        limits: Limits,
        policy: PixelPolicy,
        processor: Callable[[], Processor],
    ) -> None:
        self._references = references
        self._imaging = imaging
        self._scratch = scratch
        self._workers = workers
        self._limits = limits
        self._policy = policy
        self._processor = processor

    async def resolve(self, video: Video, errand: Errand) -> Video:
        """With its content. Raises `InvalidRequest`."""
        if isinstance(video.reference, str):
            content = await self._file(video, video.reference, errand)
        else:
            content = await self._list(video, video.reference, errand)
        await errand.lease.take(3 * sum(len(frame.data) for frame in content.frames))
        return replace(video, content=content)

    async def _file(self, video: Video, reference: str, errand: Errand) -> VideoContent:
        async with self._scratch.file(errand.caller.key_id) as (path, room):
            await self._references.video(reference, errand, path, room)
            began = time.monotonic()
            film = await self._asked(Probe(str(path)), Film, PROBE_TIMEOUT_S, errand)
            self._check(film)
            count = self._policy.frame_count(film.seconds, video.fps, video.max_frames)
            size = self._size((film.width, film.height), count, video)
            indices = sampled(max(1, round(film.seconds * film.rate)), count)
            times = tuple((index + WITHIN) / film.rate for index in indices)
            shown = await self._asked(Sample(str(path), times, size), Frames, SAMPLE_TIMEOUT_S, errand)
        errand.timeline.decoding = (errand.timeline.decoding or 0.0) + time.monotonic() - began
        frames = tuple(ImageContent(frame, "JPEG", *size, seen=size) for frame in shown.frames)
        span = times[-1] - times[0]
        return self._content(frames, size, (count - 1) / span if span else self._policy.fps, film.seconds)

    async def _list(self, video: Video, references: tuple[str, ...], errand: Errand) -> VideoContent:
        most = self._policy.max_frames
        if not MIN_FRAMES <= len(references) <= most:
            raise InvalidRequest(
                f"{UNMET}the range of sequence images should be ({MIN_FRAMES}, {most}). [got {len(references)}]"
            )
        frames: list[ImageContent] = []
        count = len(references) + len(references) % PAIR
        size: Size | None = None
        for reference in references:
            read = await self._references.image(reference, errand)
            checked = await self._imaging.checked(read.data, errand)
            errand.caller.grant.images.check(len(checked.data), checked.width * checked.height, checked.format)
            size = size or self._size((checked.width, checked.height), count, video)
            frames.append(replace(await self._imaging.converted(checked, size, errand, "JPEG"), seen=size))
            errand.lease.release(read.held)  # else a list of large frames waits for memory that it holds itself
        assert size is not None
        frames += frames[-1:] * (count - len(frames))
        fps = self._policy.rate(video.fps)
        return self._content(tuple(frames), size, fps, len(references) / fps)

    def _size(self, size: Size, count: int, video: Video) -> Size:
        return self._policy.frame_size(size, count, video.pixels, self._processor())

    def _content(self, frames: tuple[ImageContent, ...], size: Size, fps: float, seconds: float) -> VideoContent:
        return VideoContent(frames, fps, seconds, video_tokens(len(frames), size, self._processor().factor))

    def _check(self, film: Film) -> None:
        check_size(film.width, film.height, self._limits)
        if film.seconds < LEAST_SECONDS - SLACK:
            raise InvalidRequest(
                f"{UNMET}The video file is too short. [at least {LEAST_SECONDS:g} s, got {film.seconds:.1f} s]"
            )
        if film.seconds > self._limits.seconds + SLACK:
            raise InvalidRequest(
                f"{UNMET}The video file is too long. [at most {self._limits.seconds:g} s, got {film.seconds:.1f} s]"
            )

    async def _asked(self, job: Job, kind: type[Answer], seconds: float, errand: Errand) -> Answer:
        result: Result = await self._workers.do(job, seconds=seconds, holder=errand.caller.key_id)
        if isinstance(result, kind):
            return result
        raise InvalidRequest(f"{INVALID} [{result.reason if isinstance(result, Failure) else 'no frames'}]")
