from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

from serving.errors import InvalidImage
from serving.generation import Image, ImageContent
from serving.media import images
from serving.media.images import Limits, illegal
from serving.media.policy import PixelPolicy, Processor
from serving.media.pool import Workers
from serving.media.references import Errand, References, to_uri
from serving.media.tokens import Size, image_tokens
from serving.media.work import Check, Convert, Failure, Job, Look, Picture

TIMEOUT_S = 30.0
FOREIGN = ("HEIC", "TIFF")
"""Never sent as they are: the engine cannot read the one, and reads the other with a library that hostile files break
more often than any; here that happens in a process of its own."""
LOSSY = ("JPEG", "WEBP", "HEIC")


class Imaging:
    """Turns the references of images into checked bytes, of the size at which the model is to see them."""

    def __init__(
        self,
        references: References,
        workers: Workers,
        limits: Limits,
        policy: PixelPolicy,
        processor: Callable[[], Processor],
    ) -> None:
        self._references = references
        self._workers = workers
        self._limits = limits
        self._policy = policy
        self._processor = processor

    async def resolve(self, image: Image, errand: Errand) -> Image:
        """With its content, and a data URI as the reference. Raises `InvalidRequest`.

        The client's bytes pass through untouched unless the policy has another size for them than the engine would
        choose: decoding costs many times the CPU of everything else here.
        """
        read = await self._references.image(image.reference, errand)
        began = time.monotonic()
        content = await self.checked(read.data, errand)
        processor = self._processor()
        size = (content.width, content.height)
        wanted = self._policy.image_size(size, image.pixels, processor)
        seen = processor.sees(wanted)
        payload = read.payload
        if content.format in FOREIGN or seen != processor.sees(size):
            content, payload = await self.converted(content, wanted, errand), None
            errand.timeline.decoding = (errand.timeline.decoding or 0.0) + time.monotonic() - began
        content = replace(content, seen=seen, tokens=image_tokens(seen, processor.factor))
        return replace(image, reference=_uri(image.reference, content, payload), content=content)

    async def checked(self, data: bytes, errand: Errand) -> ImageContent:
        """A whole image within the limits, its size upright. Raises `InvalidImage`."""
        content = images.probe(data, self._limits)
        if content is None:
            content = await self._looked_at(data, images.other_format(data), errand)
        else:
            await asyncio.sleep(0)  # between the images of a request other requests get their turn
        # vLLM 0.32 reads an image that breaks off as if it were blank where it ends, and answers about that. Decoding
        # finds it out but takes ten times the CPU of the relay; the two common formats tell by their structure.
        if content.format not in FOREIGN and (self._limits.decode or not images.is_whole(content)):
            await self._asked(Check(data, content.format), content.format, errand)
        if images.may_be_turned(content):
            content = await self._upright(content, errand)
        return content

    async def _looked_at(self, data: bytes, form: str, errand: Errand) -> ImageContent:
        picture = await self._asked(Look(data, form), form, errand)
        images.check_size(picture.width, picture.height, self._limits)
        return ImageContent(data, form, picture.width, picture.height)

    async def _upright(self, content: ImageContent, errand: Errand) -> ImageContent:
        """With width and height as the engine sees them, which turns an image as its EXIF data says, and does not where
        that is damaged."""
        try:
            picture = await self._asked(Look(images.head(content), content.format), content.format, errand)
        except InvalidImage:
            return content
        images.check_size(picture.width, picture.height, self._limits)
        return replace(content, width=picture.width, height=picture.height)

    async def converted(
        self, content: ImageContent, size: Size | None, errand: Errand, target: str | None = None
    ) -> ImageContent:
        """The image at `size`, as a PNG if it lost nothing so far and `target` names no format."""
        form = target or ("JPEG" if content.format in LOSSY else "PNG")
        picture = await self._asked(Convert(content.data, content.format, size, form), content.format, errand)
        return ImageContent(picture.data, form, picture.width, picture.height)

    async def _asked(self, job: Job, form: str, errand: Errand) -> Picture:
        result = await self._workers.do(job, seconds=TIMEOUT_S, holder=errand.caller.key_id)
        if isinstance(result, Picture):
            return result
        reason = result.reason if isinstance(result, Failure) else ""
        raise illegal(f"the {form} does not decode: {reason}")


def _uri(reference: str, content: ImageContent, payload: str | None) -> str:
    """The client's own string, where it is what would be made of it."""
    header = f"data:image/{content.format.lower()};base64,"
    if payload is not None and reference.startswith(header) and len(reference) == len(header) + len(payload):
        return reference
    return to_uri(content.data, content.format, payload)
