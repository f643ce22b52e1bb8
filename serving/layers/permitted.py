from __future__ import annotations

from collections.abc import AsyncGenerator
from urllib.parse import urlsplit

from serving.access.grant import GENERATION, ImagePolicy
from serving.errors import AccessDenied, ModelDenied
from serving.generation import Chunk, Generation
from serving.layers.layer import Layer
from serving.media.references import references


class Permitted(Layer):
    """Refuses what the caller's key may not ask, as far as the request says it: the model, images and videos at all,
    how many images, and from where. Raises on the call, so that an answer passes at no cost."""

    def generate(self, generation: Generation) -> AsyncGenerator[Chunk, None]:
        grant = generation.caller.grant
        if grant.models and generation.model not in grant.models:
            raise ModelDenied(generation.model, grant.models)
        if grant.scopes.isdisjoint(GENERATION):
            raise AccessDenied(f"This API key lacks the scope {' or '.join(sorted(GENERATION))}.")
        if (generation.images or generation.videos) and "multimodal-generation" not in grant.scopes:
            raise AccessDenied("This API key lacks the scope multimodal-generation, which images and videos need.")
        _check_request(grant.images, generation)
        return self._engine.generate(generation)


class Inspected(Layer):
    """Refuses images that the caller's key may not send, as they are: to be met once references have become bytes."""

    def generate(self, generation: Generation) -> AsyncGenerator[Chunk, None]:
        policy = generation.caller.grant.images
        if policy.inspects:
            for image in generation.images:
                if (content := image.content) is not None:
                    policy.check(len(content.data), content.width * content.height, content.format)
        return self._engine.generate(generation)


def _check_request(policy: ImagePolicy, generation: Generation) -> None:
    if policy.count is not None and generation.pictures > policy.count:
        raise AccessDenied(
            f"This API key may send {policy.count} images in a request, got {generation.pictures}, frames of videos "
            "included."
        )
    if generation.videos and not policy.video:
        raise AccessDenied("This API key may not send videos.")
    if policy.hosts:
        for reference in references(generation.messages):
            _check_host(policy, reference)


def _check_host(policy: ImagePolicy, reference: str) -> None:
    """Early, and by the text alone; what is opened in the end is checked where it is."""
    if not reference[:8].lower().lstrip().startswith(("http:", "https:")):
        return
    try:
        host = urlsplit(reference.strip()).hostname or ""
    except ValueError:
        host = ""
    policy.check_host(host)
