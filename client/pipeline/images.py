from __future__ import annotations

from pathlib import Path
from typing import Any

from client.errors import ConfigurationError, HomescopeError


class ImageGone(HomescopeError):
    """Raised when the image store does not hold what an item speaks of."""


class Images:
    """Images by the SHA-256 of their bytes: a folder, or a bucket that all workers reach.

    Args:
        place: a folder, made where there is none, or `s3://bucket/prefix`; its keys come from the environment (AWS_*).

    Raises:
        ConfigurationError: it cannot be used, or the extra is missing.
    """

    def __init__(self, place: str | Path) -> None:
        try:
            from obstore.store import LocalStore, from_url
        except ImportError as error:
            raise ConfigurationError("the pipeline needs pip install 'homescope[pipeline,documents]'") from error
        try:
            self._store: Any = (
                LocalStore(place, mkdir=True)
                if isinstance(place, Path)
                # A store in the house, such as MinIO, may have no TLS: AWS_ENDPOINT_URL says whether.
                else from_url(place, client_options={"allow_http": True})
            )
        except Exception as error:  # obstore has errors of its own for every backend
            raise ConfigurationError(f"the image store {place} cannot be used: {str(error)[:200]}") from error

    async def put(self, digest: str, data: bytes) -> None:
        """Stores an image; one that is there already is left as it is."""
        from obstore import put_async
        from obstore.exceptions import AlreadyExistsError

        try:
            await put_async(self._store, _name(digest), data, mode="create")
        except AlreadyExistsError:
            return

    async def get(self, digest: str) -> bytes:
        """The bytes of an image.

        Raises:
            ImageGone: it is not there.
        """
        from obstore import get_async

        try:
            return bytes(await (await get_async(self._store, _name(digest))).bytes_async())
        except FileNotFoundError as error:
            raise ImageGone(f"the image {digest[:12]} is not in the image store any more") from error


def _name(digest: str) -> str:
    return f"{digest[:2]}/{digest}"
