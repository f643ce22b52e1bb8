from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

from client.errors import UnusableImage
from client.images import check, display, read
from client.models import Skipped


@runtime_checkable
class Lazy(Protocol):
    """An image that is made or fetched when it is needed: the page of a PDF, an object in a bucket."""

    @property
    def name(self) -> str: ...

    def digest(self) -> str:
        """SHA-256, hexadecimal, of what decides about the image's bytes. UnusableImage where there is none."""
        ...

    def read(self) -> bytes:
        """The bytes of the image. UnusableImage where there are none. May take seconds: called in a thread."""
        ...


Source: TypeAlias = Path | str | Lazy
"""Where an image is: a file, a URL, or something that makes it."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a batch, before anything of it was read.

    Attributes:
        name: what the results call it; different for all questions of a batch.
        images: in the order in which the model shall see them.
        prompt: its own one; None: the batch's.
        problem: why it cannot be asked, such as a broken row; empty when it can.
    """

    name: str
    images: tuple[Source, ...]
    prompt: str | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Item:
    """A question that can be asked.

    Attributes:
        file: its name in the results.
        images: bytes, a URL, or what makes the bytes.
        digest: SHA-256, hexadecimal, of the one image's bytes, or of the digests of several.
        prompt: its own one; None: the batch's.
        names: of the images, where `file` is not that of its only image.
    """

    file: str
    images: tuple[bytes | str | Lazy, ...]
    digest: str
    prompt: str | None = None
    names: tuple[str, ...] = ()


def load(question: Question | Path) -> Item | Skipped:
    """Reads one question's images. What cannot be asked comes back as `Skipped` with the reason."""
    if isinstance(question, Path):
        question = Question(display(question), (question,))
    names = tuple(_name(image) for image in question.images)
    names = () if names == (question.name,) else names
    if question.problem:
        return Skipped(question.name, question.problem, images=names)
    loaded = []
    for image in question.images:
        try:
            loaded.append(_loaded(image))
        except UnusableImage as error:
            where = f"{_name(image)}: " if names else ""
            return Skipped(question.name, where + error.message, images=names)
    images, digests = zip(*loaded, strict=True)
    return Item(question.name, images, _joined(digests), question.prompt, names)


def _name(image: Source) -> str:
    if isinstance(image, Path):
        return display(image)
    return image if isinstance(image, str) else image.name


def _loaded(image: Source) -> tuple[bytes | str | Lazy, str]:
    if isinstance(image, Path):
        data = read(image)
        return data, hashlib.sha256(data).hexdigest()
    if isinstance(image, str):
        return image, hashlib.sha256(image.encode()).hexdigest()
    return image, image.digest()


def _joined(digests: Iterable[str]) -> str:
    first, *others = digests
    return hashlib.sha256(":".join([first, *others]).encode()).hexdigest() if others else first


def bytes_of(lazy: Lazy) -> bytes:
    """What a lazy image is now, checked like a file.

    Raises:
        UnusableImage: it cannot be made or fetched, or is no whole image.
    """
    data = lazy.read()
    check(data)
    return data
