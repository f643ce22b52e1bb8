from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Literal, TypeAlias, get_args

from serving.errors import AccessDenied

Scope: TypeAlias = Literal["multimodal-generation", "text-generation", "tasks", "files", "batches", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
GENERATION: frozenset[Scope] = frozenset({"multimodal-generation", "text-generation"})
"""One of them is needed to have anything answered, however it is asked: at once, as a task, or in a batch."""
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
    as Pillow names them, `video` or none, URLs of these `hosts` alone ("*.example.com" is every name below it), to
    which redirects lead, too. A frame of a video that is sent as a list of images is an image.

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

    def check(self, size: int, pixels: int, form: str) -> None:
        """Raises `AccessDenied` for an image of so many bytes and pixels."""
        if self.bytes is not None and size > self.bytes:
            raise AccessDenied(f"This API key may send images of {self.bytes} bytes at most, got {size}.")
        if self.pixels is not None and pixels > self.pixels:
            raise AccessDenied(f"This API key may send images of {self.pixels} pixels at most, got {pixels}.")
        if self.formats and form not in self.formats:
            raise AccessDenied(f"This API key may send {', '.join(self.formats)}, got {form}.")

    def check_host(self, host: str) -> None:
        """Raises `AccessDenied` for a host that URLs may not name."""
        name = host.lower().rstrip(".")
        if self.hosts and not any(fnmatch(name, pattern) for pattern in self.hosts):
            raise AccessDenied(
                f"This API key may not send images from {name[:80]!r}, but from: {', '.join(self.hosts)}."
            )


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
