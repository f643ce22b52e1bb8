from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from client import pages
from client.errors import UnusableImage
from client.images import display, read
from client.pipeline.images import Images
from client.pipeline.models import Work
from client.pipeline.store import Store
from client.session import Prepare
from client.sources import walk

_AT_ONCE = 64
"""Rows of one transaction."""


@dataclass(slots=True)
class Submitted:
    """What a submission came to. `refused`: parts that are no image, by their reasons."""

    items: int = 0
    new: int = 0
    documents: int = 0
    refused: list[tuple[str, str]] | None = None


async def submit(
    sources: Sequence[str],
    question: Work,
    store: Store,
    images: Images,
    *,
    figures: bool = False,
    prepare: Prepare | None = None,
    on_item: Callable[[Work], None] = lambda item: None,
) -> Submitted:
    """Files, folders and patterns as work items; what is known already is not added again.

    A PDF is a document of one item for each page, or for each of its figures and tables; a folder of images is a
    document, too, and so is a lone image. Each image is stored before its row: a row never lacks its image. Work of
    the kind `report` is about the figures of PDFs, tables left out, with their captions as prompts.

    Args:
        sources: paths and patterns.
        question: what is asked; its document, label, position and digest do not matter.
        figures: ask about figures and tables instead of pages.
        prepare: what images go through before they are stored; what it refuses is not submitted.
        on_item: called with every item.
    """
    told = Submitted(refused=[])
    names: set[str] = set()
    batch: list[Work] = []
    charts = question.kind == "report"
    kinds = ("figure",) if charts else ("figure", "table") if figures else ()
    async for document, label, position, image, caption in _parts(sources, kinds):
        if prepare is not None and not isinstance(image, UnusableImage):
            image = await _prepared(prepare, image)
        if isinstance(image, UnusableImage):
            told.refused.append((label or document, image.message))  # type: ignore[union-attr]
            continue
        digest = hashlib.sha256(image).hexdigest()
        await images.put(digest, image)
        prompt = caption if charts else question.prompt
        item = replace(question, document=document, label=label, position=position, digest=digest, prompt=prompt)
        batch.append(item)
        names.add(document)
        told.items += 1
        if len(batch) >= _AT_ONCE:
            told.new += await store.add(batch)
            batch = []
        on_item(item)
    told.new += await store.add(batch)
    told.documents = len(names)
    return told


async def _prepared(prepare: Prepare, image: bytes) -> bytes | UnusableImage:
    try:
        return await prepare(image)
    except UnusableImage as error:
        return error


_Part = tuple[str, str, int, bytes | UnusableImage, str]
"""Document, label, position, image, caption."""


async def _parts(sources: Sequence[str], kinds: Sequence[str]) -> AsyncIterator[_Part]:
    seen: dict[str, int] = {}
    for source in sources:
        together = await asyncio.to_thread(os.path.isdir, source)
        for path in walk([source]):
            if path.suffix.lower() == ".pdf":
                async for part in _of_pdf(path, kinds):
                    yield part
                continue
            document = display(path.parent) if together else display(path)
            position = seen[document] = seen.get(document, -1) + 1
            try:
                yield document, display(path), position, await asyncio.to_thread(read, path), ""
            except UnusableImage as error:
                yield document, display(path), position, error, ""


async def _of_pdf(path: Path, kinds: Sequence[str]) -> AsyncIterator[_Part]:
    document = display(path)
    try:
        if kinds:
            async for part in _figures(path, document, kinds):
                yield part
            return
        numbered: Iterator[pages.Page] = await asyncio.to_thread(pages.pages, path)
        while (page := await asyncio.to_thread(next, numbered, None)) is not None:
            yield document, f"page {page.number}", page.number - 1, await _drawn(page), ""
    except UnusableImage as error:
        yield document, "", 0, error, ""


async def _drawn(page: pages.Page) -> bytes | UnusableImage:
    try:
        return await asyncio.to_thread(page.read)
    except UnusableImage as error:
        return UnusableImage(f"page {page.number}: {error.message}")


async def _figures(path: Path, document: str, kinds: Sequence[str]) -> AsyncIterator[_Part]:
    from client.documents import PageFailed, PageRead, UnreadableDocument, figures_of

    position = 0
    with TemporaryDirectory(prefix="homescope-") as folder:
        try:
            async for event in figures_of(path, Path(folder)):
                if isinstance(event, PageFailed):
                    yield document, f"page {event.page}", position, UnusableImage(event.reason), ""
                found = event.figures if isinstance(event, PageRead) else ()
                for figure in (each for each in found if each.kind in kinds):
                    place = ",".join(f"{each:.0f}" for each in figure.box)
                    image = await asyncio.to_thread(figure.image.read_bytes)
                    yield document, f"page {figure.page} {figure.kind} {place}", position, image, figure.caption
                    position += 1
        except UnreadableDocument as error:
            yield document, "", position, UnusableImage(error.message), ""
