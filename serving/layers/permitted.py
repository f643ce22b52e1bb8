from __future__ import annotations

from collections.abc import AsyncGenerator
from fnmatch import fnmatch
from urllib.parse import urlsplit

from serving.access.grant import ImagePolicy
from serving.errors import AccessDenied, ModelDenied
from serving.generation import Chunk, Generation, Image, ImageContent, Video
from serving.layers.layer import Layer


class Permitted(Layer):
    """Refuses what the caller's key may not ask, as far as the request says it: the model, images and videos at all,
    how many images, and from where. Raises on the call, so that an answer passes at no cost."""

    def generate(self, generation: Generation) -> AsyncGenerator[Chunk, None]:
        grant = generation.caller.grant
        if grant.models and generation.model not in grant.models:
            raise ModelDenied(generation.model, grant.models)
        images, videos = generation.images, generation.videos
        if (images or videos) and "multimodal-generation" not in grant.scopes:
            raise AccessDenied("This API key lacks the scope multimodal-generation, which images and videos need.")
        _check_request(grant.images, images, videos)
        return self._engine.generate(generation)


class Inspected(Layer):
    """Refuses images that the caller's key may not send, as they are: to be met once references have become bytes."""

    def generate(self, generation: Generation) -> AsyncGenerator[Chunk, None]:
        policy = generation.caller.grant.images
        if policy.inspects:
            for image in generation.images:
                if image.content is not None:
                    _check_image(policy, image.content)
        return self._engine.generate(generation)


def _check_request(policy: ImagePolicy, images: tuple[Image, ...], videos: tuple[Video, ...]) -> None:
    if policy.count is not None and len(images) > policy.count:
        raise AccessDenied(f"This API key may send {policy.count} images in a request, got {len(images)}.")
    if videos and not policy.video:
        raise AccessDenied("This API key may not send videos.")
    if policy.hosts:
        for reference in (*(image.reference for image in images), *_references(videos)):
            _check_host(policy.hosts, reference)


def _references(videos: tuple[Video, ...]) -> list[str]:
    return [each for video in videos for each in _frames(video)]


def _frames(video: Video) -> tuple[str, ...]:
    return (video.reference,) if isinstance(video.reference, str) else video.reference


def _check_host(hosts: tuple[str, ...], reference: str) -> None:
    if not reference[:8].lower().lstrip().startswith(("http:", "https:")):
        return
    try:
        host = (urlsplit(reference.strip()).hostname or "").lower().rstrip(".")
    except ValueError:
        host = ""
    if not any(fnmatch(host, pattern) for pattern in hosts):
        raise AccessDenied(f"This API key may not send images from {host[:80]!r}, but from: {', '.join(hosts)}.")


def _check_image(policy: ImagePolicy, image: ImageContent) -> None:
    pixels = image.width * image.height
    if policy.bytes is not None and len(image.data) > policy.bytes:
        raise AccessDenied(f"This API key may send images of {policy.bytes} bytes at most, got {len(image.data)}.")
    if policy.pixels is not None and pixels > policy.pixels:
        raise AccessDenied(f"This API key may send images of {policy.pixels} pixels at most, got {pixels}.")
    if policy.formats and image.format not in policy.formats:
        raise AccessDenied(f"This API key may send {', '.join(policy.formats)}, got {image.format}.")
