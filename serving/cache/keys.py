from __future__ import annotations

import hashlib
from dataclasses import fields
from functools import cache
from typing import Any

import orjson

from serving.generation import Generation, Image, ImageContent, Video, VideoContent

SAME_ANSWER = frozenset(
    {"request_id", "caller", "timeline", "priority", "streamed", "resolve_oss", "caching", "messages"}
)
"""Fields of a generation on which the answer does not depend; `messages` are added by their contents."""
FORM = 1
"""To be raised when answers are kept in another form."""


class _Unresolved(Exception):
    """Raised for media whose bytes are not known."""


def repeats_itself(generation: Generation) -> bool:
    """Whether the same answer would be given again, near enough: batching may turn one token of two equals."""
    sampling = generation.sampling
    return sampling.temperature == 0 or sampling.seed is not None or sampling.top_k == 1


def key_of(generation: Generation, *, shared: bool, revision: str) -> bytes | None:
    """32 bytes that are the same for the same question about the same pixels, and for nothing else.

    The key of the caller is part of it unless `shared`. None where media have not been resolved.
    """
    owner = None if shared else generation.caller.key_id
    rest = [getattr(generation, name) for name in _names(Generation) if name not in SAME_ANSWER]
    try:
        text = orjson.dumps(
            [FORM, revision, owner, generation.messages, rest], _plain, option=orjson.OPT_PASSTHROUGH_DATACLASS
        )
    except (_Unresolved, orjson.JSONEncodeError):  # the latter for a number in a schema that JSON does not have
        return None
    return hashlib.sha256(text).digest()


def _plain(value: object) -> Any:
    """What the answer depends on in a dataclass: the class and each field, of media the digest instead of the bytes."""
    if isinstance(value, Image | Video):
        if value.content is None:
            raise _Unresolved
        return ["media", type(value).__name__, value.content, value.pixels]
    if isinstance(value, ImageContent):
        return [value.digest, value.seen]
    if isinstance(value, VideoContent):
        return [value.frames, value.fps, value.seconds]
    kind: Any = type(value)
    return [kind.__name__, *(getattr(value, name) for name in _names(kind))]


@cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))
