"""What engines at the other end of an HTTP connection have in common."""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping
from contextlib import contextmanager

import aiohttp
import msgspec
from aiohttp.abc import AbstractStreamWriter

from serving.engine.refusals import RETRY_AFTER
from serving.errors import EngineUnavailable, GenerationFailed

log = logging.getLogger(__name__)

KEEP_ALIVE = 4
"""Seconds. vLLM closes idle connections after 5: reusing one at that moment would fail a request for nothing."""
CONNECT_WITHIN = 10
"""Seconds."""
PROBE_TIMEOUT = aiohttp.ClientTimeout(total=5)
LARGE = 1 << 18
"""Bytes of a body that does not travel with its headers."""


class Remote:
    """Connections to one engine, from `start` to `aclose`."""

    def __init__(self, headers: Mapping[str, str] | None = None) -> None:
        """`headers` go with each request."""
        self._headers = headers
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_WITHIN),
                headers=self._headers,
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("accept", "accept-encoding", "user-agent"),
            )

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    @property
    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise EngineUnavailable(retry_after=RETRY_AFTER)
        return self._session


class Whole(aiohttp.BytesPayload):
    """A body written in one piece, as it is. aiohttp warns about large ones, for fear of a long copy, and joins each
    with its headers, which is such a copy; headers of a large one are written before it."""

    def __init__(self, body: bytes) -> None:
        aiohttp.Payload.__init__(self, body, content_type="application/json")
        self._size = len(body)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        if len(self._value) >= LARGE:
            writer.send_headers()
        await writer.write(self._value)


@contextmanager
def translated(url: str) -> Generator[None, None, None]:
    """Errors of the transport and of the engine's answers as errors of the server."""
    try:
        yield
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        log.warning("engine at %s is unavailable: %r", url, error)
        raise EngineUnavailable(retry_after=RETRY_AFTER) from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        # Not the error itself: one about an encoding quotes the answer.
        log.warning("engine at %s answered what is no event: %s", url, type(error).__name__)
        raise GenerationFailed from error
