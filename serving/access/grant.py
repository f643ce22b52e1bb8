from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

Scope: TypeAlias = Literal["multimodal-generation", "text-generation", "tasks", "files", "batches", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
EVERYDAY: frozenset[Scope] = frozenset(SCOPES) - {"admin"}
"""What a key may do unless something else is said: everything that clients of the cloud's API do."""


@dataclass(frozen=True, slots=True)
class Quota:
    """Per minute: `rpm` requests, `tpm` tokens of questions and answers, `ipm` images; and requests at a time. None is
    no limit."""

    rpm: int | None = None
    tpm: int | None = None
    ipm: int | None = None
    concurrency: int | None = None

    @property
    def unlimited(self) -> bool:
        return self.rpm is None and self.tpm is None and self.ipm is None and self.concurrency is None


@dataclass(frozen=True, slots=True)
class ImagePolicy:
    """Which images a key may send: `count` in a request, `bytes` and `pixels` (width times height) of each, `formats`
    as Pillow names them, `video` or none, URLs of these `hosts` alone ("*.example.com" is every name below it).

    None, and an empty tuple, leave what the server allows everybody.
    """

    count: int | None = None
    bytes: int | None = None
    pixels: int | None = None
    formats: tuple[str, ...] = ()
    video: bool = True
    hosts: tuple[str, ...] = ()

    @property
    def inspects(self) -> bool:
        """Whether the bytes of images matter, not only what the request says of them."""
        return self.bytes is not None or self.pixels is not None or bool(self.formats)


@dataclass(frozen=True, slots=True)
class Grant:
    """What a key may do, and what is kept of what it does.

    `models` are the names that it may ask for, none for every one. Without `keep_content` neither questions nor answers
    nor images are kept; what `redact` matches is blacked out of those that are: names of `serving.access.redaction`, or
    regular expressions.
    """

    scopes: frozenset[Scope] = EVERYDAY
    models: tuple[str, ...] = ()
    quota: Quota = field(default_factory=Quota)
    images: ImagePolicy = field(default_factory=ImagePolicy)
    keep_content: bool = True
    redact: tuple[str, ...] = ()


EVERYTHING = Grant(scopes=frozenset(SCOPES))
ORDINARY = Grant()
