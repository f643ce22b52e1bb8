from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from client.errors import ConfigurationError, UnusableImage
from client.images import MAX_DATA_URI

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import S3Store

SCHEME = "s3://"
_LISTED = 1000
_RETRIES = 3


@dataclass(frozen=True)
class Stored:
    """An object of a bucket, fetched when its turn comes."""

    store: S3Store
    bucket: str
    key: str
    size: int

    @property
    def name(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.key}"

    def digest(self) -> str:
        """Of its bytes, which are fetched for it: an ETag says nothing about equal bytes elsewhere."""
        return hashlib.sha256(self.read()).hexdigest()

    def read(self) -> bytes:
        """The object's bytes."""
        import obstore

        if self.size > MAX_DATA_URI:
            raise UnusableImage(f"too large to send: {self.size / 1e6:.1f} MB")
        try:
            return bytes(obstore.get(self.store, self.key).bytes())
        except Exception as error:  # obstore's errors share no base below Exception
            raise UnusableImage(f"cannot be fetched: {_first_line(error)}") from error


def objects(url: str) -> Iterator[Stored]:
    """The objects below `s3://bucket/prefix`, in the order of their keys, listed page by page.

    Credentials, region and endpoint are those of the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...).

    Raises:
        ConfigurationError: obstore is not installed, or the bucket cannot be listed.
    """
    try:
        import obstore
        from obstore.store import S3Store
    except ImportError as error:
        raise ConfigurationError(f"{url}: to read from buckets, pip install 'homescope[data]'") from error
    parts = urlsplit(url)
    if not parts.netloc:
        raise ConfigurationError(f"{url} names no bucket; the form is s3://bucket/prefix")
    prefix = parts.path.lstrip("/")
    try:
        store = S3Store(parts.netloc, client_options={"allow_http": True}, retry_config={"max_retries": _RETRIES})
        for found in _listed(obstore.list(store, prefix=_folder(prefix) or None, chunk_size=_LISTED)):
            if found["path"].startswith(prefix) and found["size"] and not _is_hidden(found["path"]):
                yield Stored(store, parts.netloc, found["path"], found["size"])
    except Exception as error:
        raise ConfigurationError(f"{url} cannot be listed: {_first_line(error)}") from error


def _listed(pages: Iterable[Sequence[ObjectMeta]]) -> Iterator[ObjectMeta]:
    for page in pages:
        yield from page


def _folder(prefix: str) -> str:
    """The prefix as far as its last slash: obstore compares whole names of folders, S3 any beginning."""
    return prefix.rpartition("/")[0]


def _is_hidden(key: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(key).parts)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
