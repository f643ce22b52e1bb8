from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click

from client import pages
from client.errors import ConfigurationError, HomescopeError, UnusableImage
from client.images import display, read
from client.redaction.models import Redacted
from client.redaction.redactor import Redactor
from client.session import Prepare
from client.sources import check_sources, walk


@asynccontextmanager
async def redacting(wanted: bool, audit: Path | None = None) -> AsyncIterator[Prepare | None]:
    """What `--redact` means: a `prepare` for a session, or None."""
    if not wanted:
        yield None
        return
    async with Redactor(audit=audit) as redactor:
        yield redactor.prepare


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder for the results.")
@click.option("--preview", is_flag=True, help="Mask nothing: write pictures that show what would be masked.")
@click.option("--workers", type=click.IntRange(1, 64), help="Processes that read, 0.7 GB each.  [default: cores / 2]")
def redact(images: Sequence[str], out: Path, preview: bool, workers: int | None) -> None:
    """Masks names, ID numbers, phones, cards, accounts and e-mails in images and the pages of PDFs.

    Nothing is sent anywhere. OUT gets the masked images and audit.jsonl, which says what was masked where, without a
    word of it. Exit code 0: all looked through, 1: some could not be, and are not in OUT, 2: nothing to do.
    """
    try:
        check_sources(images)
        told = asyncio.run(_redact(images, out, preview, workers))
    except HomescopeError as error:
        click.echo(f"error: {error.message}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        sys.exit(130)
    click.echo(told.sentence(preview), err=True)
    sys.exit(1 if told.refused else 0)


@dataclass(slots=True)
class _Told:
    images: int = 0
    refused: int = 0
    kinds: Counter[str] = field(default_factory=Counter)

    def sentence(self, preview: bool) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kinds.items())) or "nothing"
        verb = "would be masked" if preview else "masked"
        refused = f"; {self.refused} could not be looked through" if self.refused else ""
        return f"{self.images} images, {verb}: {kinds}{refused}"


async def _redact(sources: Sequence[str], out: Path, preview: bool, workers: int | None) -> _Told:
    _make(out)
    told, names = _Told(), _Names(out, preview)
    audit = None if preview else out / "audit.jsonl"
    async with Redactor(workers, audit=audit) as redactor:
        at_once = asyncio.Semaphore(redactor.workers + 1)
        try:
            async with asyncio.TaskGroup() as group:
                for name, source in _parts(sources, out):
                    await at_once.acquire()
                    task = group.create_task(_one(redactor, name, source, names, preview, told))
                    task.add_done_callback(lambda _: at_once.release())
        except* HomescopeError as errors:
            raise errors.exceptions[0] from None
    return told


async def _one(
    redactor: Redactor, name: str, source: Path | pages.Page | UnusableImage, names: _Names, preview: bool, told: _Told
) -> None:
    try:
        data = await asyncio.to_thread(_read, source)
        redacted = await redactor.redact(data, preview=preview, source=name)
        await asyncio.to_thread(_save, names.path(name, redacted), redacted.data)
    except UnusableImage as error:
        told.refused += 1
        click.echo(f"not looked through: {name}: {error.message}", err=True)
        return
    told.images += 1
    told.kinds.update(redacted.counts)


def _parts(sources: Sequence[str], out: Path) -> Iterator[tuple[str, Path | pages.Page | UnusableImage]]:
    own = out.absolute()
    for path in walk(sources):
        if own in path.absolute().parents:
            continue
        if path.suffix.lower() != ".pdf":
            yield display(path), path
            continue
        try:
            yield from ((page.name, page) for page in pages.pages(path))
        except UnusableImage as error:
            yield display(path), error


def _read(source: Path | pages.Page | UnusableImage) -> bytes:
    if isinstance(source, UnusableImage):
        raise source
    return source.read() if isinstance(source, pages.Page) else read(source)


class _Names:
    """File names in OUT, none given twice."""

    def __init__(self, out: Path, preview: bool) -> None:
        self._out, self._preview = out, preview
        self._taken: set[str] = set()

    def path(self, name: str, redacted: Redacted) -> Path:
        document, mark, page = name.partition("#page=")
        stem = Path(document).stem + (f".page-{page}" if mark else "") + (".preview" if self._preview else "")
        ending = ".jpg" if redacted.data.startswith(b"\xff\xd8") else ".png"
        chosen, number = stem, 2
        while (chosen + ending).casefold() in self._taken:
            chosen, number = f"{stem}-{number}", number + 1
        self._taken.add((chosen + ending).casefold())
        return self._out / (chosen + ending)


def _save(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from error


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"the folder {folder} cannot be made: {error.strerror}") from error
