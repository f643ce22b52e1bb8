from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pybase64

from serving.budget import Lease
from serving.errors import InvalidRequest
from serving.generation import Caller, Generation, Image, Message, Part, Timeline, Video
from serving.media.addresses import BAD_URL
from serving.media.fetch import Fetcher, stored
from serving.media.images import Limits, payload_of, unpacked
from serving.media.scratch import Room, boundless

UPLOAD = "oss://"


class Uploads(Protocol):
    """Where clients have left files."""

    async def read(self, reference: str, caller: Caller, limit: int, *, occurrence: tuple[int, int] = (0, 1)) -> bytes:
        """The bytes behind an `oss://` reference, for who uploaded them. `occurrence` is (i, n) for reference number i
        of n in one request that read the same. Raises `InvalidRequest`, also beyond `limit` bytes."""
        ...

    def pieces(
        self, reference: str, caller: Caller, limit: int, *, occurrence: tuple[int, int] = (0, 1)
    ) -> AsyncGenerator[bytes, None]:
        """As `read`, in pieces: for what is too large to be held whole."""
        ...


@dataclass(slots=True)
class Errand:
    """What one request lets be read on its behalf, and the memory that it holds for it."""

    caller: Caller
    resolve_oss: bool
    timeline: Timeline
    lease: Lease
    counts: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, generation: Generation, lease: Lease) -> Errand:
        uploads = Counter(each for each in references(generation.messages) if each.startswith(UPLOAD))
        return cls(generation.caller, generation.resolve_oss, generation.timeline, lease, uploads)

    def occurrence(self, reference: str) -> tuple[int, int]:
        index = self.seen[reference]
        self.seen[reference] += 1
        return index, self.counts[reference]


def references(messages: Iterable[Message]) -> Iterable[str]:
    """All references to media, in the order of the parts."""
    return (reference for message in messages for part in message.parts for reference in _references(part))


def _references(part: Part) -> tuple[str, ...]:
    match part:
        case Image(reference):
            return (reference,)
        case Video(str() as reference):
            return (reference,)
        case Video(frames):
            return tuple(frames)
        case _:
            return ()


@dataclass(frozen=True, slots=True)
class Read:
    """The bytes behind a reference, and a data URI's base64 of them where the reference has brought it along.

    `held` of the lease can be given back by who does not keep the bytes; those of a data URI are in the request anyway.
    """

    data: bytes
    payload: str | None = None
    held: int = 0


class References:
    """The bytes behind what clients send in the place of an image or a video: a data URI, a URL, or an upload."""

    def __init__(self, fetcher: Fetcher, limits: Limits, *, video_bytes: int, uploads: Uploads | None = None) -> None:
        self._fetcher = fetcher
        self._limits = limits
        self._video_bytes = video_bytes
        self._uploads = uploads

    async def image(self, reference: str, errand: Errand) -> Read:
        """Raises `InvalidRequest`."""
        if not _is_remote(reference):
            return await self._unpacked(reference, errand)
        occurrence = errand.occurrence(reference)
        taken = await errand.lease.take(self._limits.uri_chars)
        began = time.monotonic()
        try:
            if reference.startswith(UPLOAD):
                limit = self._limits.uri_chars
                data = await self._uploads_for(errand).read(reference, errand.caller, limit, occurrence=occurrence)
            else:
                data = await self._fetcher.image(reference, errand.caller.grant.images, errand.caller.key_id)
            _spend(errand, time.monotonic() - began)
        except BaseException:
            errand.lease.give(taken)
            raise
        # The bytes themselves, and their base64 twice: in the generation and in the body to the engine.
        held = min(taken, len(data) * 4)
        errand.lease.give(taken - held)
        errand.lease.keep(held)
        return Read(data, held=held)

    async def video(self, reference: str, errand: Errand, file: Path, room: Room = boundless) -> None:
        """Writes the video to `file`. Raises `InvalidRequest`, and what `room` raises, which is asked first."""
        occurrence = errand.occurrence(reference)
        began = time.monotonic()
        if reference.startswith(UPLOAD):
            uploads = self._uploads_for(errand)
            pieces = uploads.pieces(reference, errand.caller, self._video_bytes, occurrence=occurrence)
            async with aclosing(pieces):
                with stored(), file.open("wb") as out:
                    async for piece in pieces:
                        room(len(piece))
                        await asyncio.to_thread(out.write, piece)
        elif _is_remote(reference):
            caller = errand.caller
            await self._fetcher.video(reference, file, caller.grant.images, room, caller.key_id)
        else:
            data = (await self._unpacked(reference, errand)).data
            room(len(data))
            with stored():
                await asyncio.to_thread(file.write_bytes, data)
        _spend(errand, time.monotonic() - began)

    async def _unpacked(self, reference: str, errand: Errand) -> Read:
        payload = payload_of(reference, self._limits)
        errand.lease.keep(await errand.lease.take(len(reference) * 3))
        return Read(*unpacked(payload))

    def _uploads_for(self, errand: Errand) -> Uploads:
        """Raises `InvalidRequest` where the client has not asked for its uploads."""
        if not errand.resolve_oss or self._uploads is None:
            raise InvalidRequest(
                f"{BAD_URL} [an oss:// URL is looked up with the header X-DashScope-OssResourceResolve: enable]"
            )
        return self._uploads


def _is_remote(reference: str) -> bool:
    return reference[:6].lower().startswith(("http:", "https:", UPLOAD))


def _spend(errand: Errand, seconds: float) -> None:
    errand.timeline.fetching = (errand.timeline.fetching or 0.0) + seconds


def to_uri(data: bytes, form: str, payload: str | None = None) -> str:
    return f"data:image/{form.lower()};base64,{payload or pybase64.b64encode(data).decode()}"
