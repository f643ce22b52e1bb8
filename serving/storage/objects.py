from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import shutil
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore, S3Store
from obstore.store import ObjectStore as Backend

from serving.errors import StorageUnavailable

if TYPE_CHECKING:
    from obstore import GetOptions, OffsetRange

log = logging.getLogger(__name__)

PART = 8 << 20
"""Bytes that are buffered before they are written; S3 takes parts of 5 MiB or more, and at most 10,000 of them."""
PARTS_AT_ONCE = 2
READ = 1 << 20
RESERVE = 256 << 20
"""Bytes of the disk that no upload may take: the database lives there too, and does not survive a full one."""
CHECK_SPACE_EVERY = 16 << 20
CONNECT_WITHIN, SILENT_FOR, TRIED_FOR = timedelta(seconds=5), timedelta(seconds=20), timedelta(seconds=10)
"""A bucket that says nothing for so long, and one that has failed for so long, is away. obstore's own bounds had each
request wait for minutes on a bucket that took connections and did not answer."""
RETRIES = 4
WHOLE_WITHIN = timedelta(hours=6)
"""Of one object that is read, as slowly as a client takes it."""
SETTLE_S = 0.05
"""obstore's threads touch the interpreter for a moment after an operation has ended: a process that exits in the same
millisecond aborts (4 of 10 trials with obstore 0.12.1, none after this pause)."""
STAGED = re.compile(r"#\d+$")
"""What obstore calls a local object that is being written; a rename makes it the object."""
STAGED_FOR_S = 24 * 3600.0
"""Seconds after which a staged object belongs to a server that was killed."""


class ObjectNotFound(Exception):
    """Raised for a name that nothing is stored under."""


class ObjectTooLarge(Exception):
    """Raised when more bytes come than may be stored; nothing is kept of them."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        super().__init__(f"more than {limit} bytes")


@dataclass(frozen=True, slots=True)
class Stored:
    """One object: its `size` in bytes and the MD5 digest of its bytes, 16 bytes, or none where it was not asked for."""

    name: str
    size: int
    md5: bytes


class Objects:
    """Bytes by name, in a local folder or a bucket. Names are the server's own, never a client's.

    An object appears whole or not at all, whatever interrupts its writing. Memory is bounded by a few parts of 8 MiB
    for each object that is written or read. All methods raise `StorageUnavailable` when the store fails.
    """

    def __init__(
        self,
        place: Path | S3Store,
        *,
        free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
    ) -> None:
        """`place` is a folder, made at the start, or a bucket; `free_bytes` is the room where a folder lies."""
        self._place = place
        self._free_bytes = free_bytes
        self._opened: Backend | None = None if isinstance(place, Path) else place
        self._used_at = float("-inf")

    async def start(self) -> None:
        """Makes a folder usable, and removes what a server that was killed in the middle of writing left in it. Raises
        `OSError` if it cannot be written. Only its owner can read what is in it."""
        if isinstance(self._place, Path):
            await asyncio.to_thread(_prepare, self._place, time.time() - STAGED_FOR_S)
            self._opened = LocalStore(self._place)

    async def aclose(self) -> None:
        await asyncio.sleep(max(0.0, self._used_at + SETTLE_S - time.monotonic()))

    async def put(
        self, name: str, pieces: AsyncIterable[bytes], *, limit: int | None = None, summed: bool = True
    ) -> Stored:
        """Writes the pieces as they come. Raises `ObjectTooLarge` beyond `limit` bytes, and what `pieces` raises. An
        MD5 digest takes 1.5 ms of CPU for a megabyte: it is made if they are to be `summed`."""
        digest = hashlib.md5(usedforsecurity=False) if summed else None
        size, checked = 0, 0
        backend = self._backend
        self._check_space()
        # Pushed, not pulled: a stream given to obstore runs in tasks of its own, which a cancellation does not reach.
        with self._operation(name):
            writer = obstore.open_writer_async(backend, name, buffer_size=PART, max_concurrency=PARTS_AT_ONCE)
            async with writer:
                async for piece in pieces:
                    size += len(piece)
                    if limit is not None and size > limit:
                        raise ObjectTooLarge(limit)
                    if size - checked > CHECK_SPACE_EVERY:
                        self._check_space()
                        checked = size
                    if digest is not None:
                        digest.update(piece)
                    await writer.write(piece)
        return Stored(name, size, digest.digest() if digest is not None else b"")

    async def size(self, name: str) -> int:
        """In bytes. Raises `ObjectNotFound`."""
        with self._operation(name):
            return (await obstore.head_async(self._backend, name))["size"]

    async def read(self, name: str, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` up to `end`, which is exclusive, in pieces. Raises `ObjectNotFound`."""
        if end is not None and end <= start:
            return
        with self._operation(name):
            # Without a range where none is needed: an empty object has none that would be valid.
            options: GetOptions = {} if not start and end is None else {"range": _range(start, end)}
            result = await obstore.get_async(self._backend, name, options=options)
            async for piece in result.stream(min_chunk_size=READ):
                yield bytes(piece)

    async def bytes(self, name: str) -> bytes:
        """The whole object at once: for what is known to be small. Raises `ObjectNotFound`."""
        with self._operation(name):
            return bytes(await (await obstore.get_async(self._backend, name)).bytes_async())

    async def delete(self, name: str) -> None:
        """A name that nothing is stored under is no error: a deletion may be repeated."""
        try:
            with self._operation(name):
                await obstore.delete_async(self._backend, name)
        except ObjectNotFound:
            pass

    @contextmanager
    def _operation(self, name: str) -> Generator[None, None, None]:
        """obstore's errors as errors of the server. `FileNotFoundError` is what it makes of a missing object."""
        try:
            yield
        except (FileNotFoundError, NotFoundError):
            raise ObjectNotFound(name) from None
        except (BaseError, OSError) as error:
            first_line = str(error).partition("\n")[0]
            log.error("storing or reading an object failed: %s: %s", type(error).__name__, first_line)
            raise StorageUnavailable from error
        finally:
            self._used_at = time.monotonic()

    @property
    def _backend(self) -> Backend:
        if self._opened is None:
            raise StorageUnavailable
        return self._opened

    def _check_space(self) -> None:
        if isinstance(self._place, Path) and (free := self._free_bytes(self._place)) < RESERVE:
            log.error("only %d MiB are free where objects are stored", free >> 20)
            raise StorageUnavailable


def at(location: str | None, data: Path) -> Objects:
    """The store at an `s3://bucket/prefix` URL or in a folder; None is `objects` in the data folder.

    A bucket's endpoint, region and credentials are those of the environment: `AWS_ENDPOINT_URL`,
    `AWS_ACCESS_KEY_ID` and their like. Raises `ValueError` for a location that is neither.
    """
    if location is not None and location.startswith("s3://"):
        return Objects(_bucket(location))
    return Objects(Path(location).expanduser() if location is not None else data / "objects")


def _range(start: int, end: int | None) -> tuple[int, int] | OffsetRange:
    return {"offset": start} if end is None else (start, end)


def _bucket(url: str) -> S3Store:
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    if not bucket:
        raise ValueError(f"{url} names no bucket; write s3://bucket/prefix")
    return S3Store(
        bucket,
        prefix=prefix.strip("/") or None,
        client_options={
            "allow_http": True,
            "connect_timeout": CONNECT_WITHIN,
            "read_timeout": SILENT_FOR,
            "timeout": WHOLE_WITHIN,
        },
        retry_config={"max_retries": RETRIES, "retry_timeout": TRIED_FOR},
    )


def _prepare(folder: Path, before: float) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for path in folder.rglob("*#*"):
        if STAGED.search(path.name) and path.stat().st_mtime < before:
            path.unlink(missing_ok=True)
