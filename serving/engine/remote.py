"""What engines at the other end of an HTTP connection have in common."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager

import msgspec

from serving.engine.refusals import RETRY_AFTER
from serving.engine.wire import Links, Reply
from serving.errors import EngineUnavailable, GenerationFailed

log = logging.getLogger(__name__)

PROBE_WITHIN = 5.0
"""Seconds."""


class Remote:
    """Connections to one engine, from `start` to `aclose`."""

    def __init__(self, url: str, headers: Mapping[str, str] | None = None) -> None:
        """`headers` go with each request."""
        self._url = url
        self._headers = headers or {}
        self._links: Links | None = None

    async def start(self) -> None:
        if self._links is None:
            self._links = Links(self._url, self._headers)

    async def aclose(self) -> None:
        if self._links is not None:
            self._links.close()
            self._links = None

    async def _ask(self, method: str, path: str, body: bytes = b"") -> Reply:
        """As `Links.ask` does. Raises `EngineUnavailable` before `start`."""
        if self._links is None:
            raise EngineUnavailable(retry_after=RETRY_AFTER)
        return await self._links.ask(method, path, body)

    async def _fetch(self, path: str, body: bytes | None = None, within: float = PROBE_WITHIN) -> tuple[int, bytes]:
        """Status and body of a short answer, to a POST if there is a `body`, `within` seconds."""
        async with asyncio.timeout(within):
            with closing(await self._ask("GET" if body is None else "POST", path, body or b"")) as reply:
                return reply.status, await reply.whole()


@contextmanager
def translated(url: str) -> Generator[None, None, None]:
    """Errors of the transport and of the engine's answers as errors of the server."""
    try:
        yield
    except (TimeoutError, OSError) as error:
        log.warning("engine at %s is unavailable: %r", url, error)
        raise EngineUnavailable(retry_after=RETRY_AFTER) from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        # Not the error itself: one about an encoding quotes the answer.
        log.warning("engine at %s answered what is no event: %s", url, type(error).__name__)
        raise GenerationFailed from error
