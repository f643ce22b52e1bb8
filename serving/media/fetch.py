from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from serving.access.grant import ImagePolicy
from serving.budget import Budget
from serving.errors import InvalidRequest, MediaUnavailable, ServingError, StorageUnavailable
from serving.media.addresses import BAD_URL, FORBIDDEN, PUBLIC_ONLY, Guard
from serving.media.freshness import Cache, SingleFlight
from serving.media.lookups import HOLDER, Lookups
from serving.media.scratch import Room, boundless

log = logging.getLogger(__name__)

Kind: TypeAlias = Literal["image", "video"]

REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_REDIRECTS = 3
CONNECT_TIMEOUT = 10
MAX_IDLE = 64
"""Connections that are kept for the next fetch."""
VIDEO_TIMES = 10
"""A video gets so many times the time of an image."""
PIECE = 1 << 16
ANYWHERE = ImagePolicy()
USER_AGENT = "homescope (compatible; DashScopeUserBot)"
"""Servers let the cloud's downloader in by the second name."""
UNTYPED = ("", "application/octet-stream", "binary/octet-stream")

FAILED = "Failed to download multimodal content."
TIMED_OUT = "Download the media resource timed out during the data inspection process."
TOO_LARGE = "Multimodal file size is too large"
WRONG_TYPE = "Wrong Content-Type of multimodal url"
NO_LENGTH = "Missing Content-Length of multimodal url."


@dataclass(frozen=True, slots=True)
class FetchRules:
    """`timeout` in seconds for one image; `image_bytes` and `video_bytes` limit one file, `cache_bytes` what is kept.

    `connections` are those of all fetches together, of which each API key has a share.
    `strict` also refuses a source that sends no Content-Length, or a Content-Type of another kind, as the cloud does.
    """

    enabled: bool = True
    guard: Guard = PUBLIC_ONLY
    image_bytes: int = 20_971_520
    video_bytes: int = 2_147_483_648
    timeout: float = 30
    strict: bool = False
    cache_bytes: int = 67_108_864
    connections: int = 256

    def limit(self, kind: Kind) -> int:
        return self.image_bytes if kind == "image" else self.video_bytes


class Checked(AbstractResolver):
    """Gives out addresses that the guard has seen: what is checked is what is connected to."""

    def __init__(self, resolver: AbstractResolver, guard: Guard) -> None:
        self._resolver = resolver
        self._guard = guard

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        for each in found:
            self._guard.address(host, ipaddress.ip_address(each["host"].partition("%")[0]))
        return found

    async def close(self) -> None:
        await self._resolver.close()


class Connector(aiohttp.TCPConnector):
    """Keeps few connections open that nobody uses: each host, and each port of one, would have its own."""

    def _release(self, key: Any, protocol: Any, *, should_close: bool = False) -> None:
        full = sum(map(len, self._conns.values())) >= MAX_IDLE
        super()._release(key, protocol, should_close=should_close or full)


class Fetcher:
    """The only place that opens a URL for a client: from public addresses, within limits, as the rules say."""

    def __init__(self, rules: FetchRules, *, resolver: AbstractResolver | None = None) -> None:
        self._rules = rules
        self._resolver = resolver
        self._session: aiohttp.ClientSession | None = None
        self._cache = Cache(rules.cache_bytes)
        self._flights = SingleFlight()
        self._places = Budget(rules.connections, patience=rules.timeout / 2)

    async def image(self, reference: str, policy: ImagePolicy = ANYWHERE, holder: str = "") -> bytes:
        """From the hosts of the policy alone, on behalf of `holder`. Raises `InvalidRequest`, or `MediaUnavailable`
        where the network fails, `AccessDenied` for other hosts, `Overloaded`."""
        url = self._checked(reference, policy)
        return await self._flights.do(f"{url} {policy.hosts} {holder}", lambda: self._image(url, policy, holder))

    async def video(
        self, reference: str, file: Path, policy: ImagePolicy = ANYWHERE, room: Room = boundless, holder: str = ""
    ) -> None:
        """Writes the answer to `file`, once there is `room`. Raises as `image` does."""
        async with self._answer(self._checked(reference, policy), "video", {}, policy, holder) as response:
            with stored(), file.open("wb") as out:
                async for piece in self._pieces(response, "video"):
                    room(len(piece))
                    await asyncio.to_thread(out.write, piece)

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _checked(self, reference: str | URL, policy: ImagePolicy) -> URL:
        if not self._rules.enabled:
            raise InvalidRequest(f"{BAD_URL} [this server fetches no URLs; send the file as a data URI]")
        url = self._rules.guard.url(reference)
        policy.check_host(url.raw_host or "")
        return url

    async def _image(self, url: URL, policy: ImagePolicy, holder: str) -> bytes:
        key = str(url)
        kept = self._cache.get(key)
        if kept is not None and self._cache.fresh(kept):
            return kept.body
        async with self._answer(url, "image", kept.validators if kept else {}, policy, holder) as response:
            if kept is not None and response.status == 304:
                self._cache.confirm(key, kept, response.headers)
                return kept.body
            body = b"".join([piece async for piece in self._pieces(response, "image")])
            if response.url == url:
                self._cache.keep(key, body, response.headers)
            return body

    @asynccontextmanager
    async def _answer(
        self, url: URL, kind: Kind, validators: Mapping[str, str], policy: ImagePolicy, holder: str
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        """The answer that the redirects end at, each of them checked as the first URL was."""
        seconds = self._rules.timeout * (1 if kind == "image" else VIDEO_TIMES)
        HOLDER.set(holder)
        with _translated(url.host or ""):
            async with asyncio.timeout(seconds), self._places.lease(holder) as place:
                await place.take(1)
                for _ in range(1 + MAX_REDIRECTS):
                    headers = {"accept": f"{kind}/*,*/*;q=0.5", **validators}
                    async with self._http().get(url, headers=headers, allow_redirects=False) as response:
                        if (target := _target(response)) is None:
                            _check_status(response, validators)
                            yield response
                            return
                    url, validators = self._checked(target, policy), {}
                raise InvalidRequest(f"{FAILED} [more than {MAX_REDIRECTS} redirects]")

    async def _pieces(self, response: aiohttp.ClientResponse, kind: Kind) -> AsyncIterator[bytes]:
        limit = self._rules.limit(kind)
        self._check_headers(response, kind, limit)
        size = 0
        async for piece in response.content.iter_chunked(PIECE):
            size += len(piece)
            if size > limit:
                raise InvalidRequest(f"{TOO_LARGE} [at most {limit} bytes, got more]")
            yield piece

    def _check_headers(self, response: aiohttp.ClientResponse, kind: Kind, limit: int) -> None:
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise InvalidRequest(f"{FAILED} [the source sends it compressed, though not asked to]")
        announced = response.content_length
        if announced is None and self._rules.strict:
            raise InvalidRequest(NO_LENGTH)
        if announced is not None and announced > limit:
            raise InvalidRequest(f"{TOO_LARGE} [at most {limit} bytes, got {announced}]")
        given = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if not given.startswith(f"{kind}/") and (self._rules.strict or given not in UNTYPED):
            raise InvalidRequest(f"{WRONG_TYPE} [{given[:80] or 'none'}]")

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            resolver = Checked(self._resolver or Lookups(), self._rules.guard)
            self._session = aiohttp.ClientSession(
                connector=Connector(resolver=resolver, use_dns_cache=False, limit=0),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT),
                headers={"user-agent": USER_AGENT, "accept-encoding": "identity"},
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
        return self._session


@contextmanager
def stored() -> Generator[None, None, None]:
    """A full disk is the server's trouble, not that of the source."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.ENOENT, errno.EROFS, errno.EFBIG):
            raise
        log.error("a video cannot be written to the disk: %s", error.strerror)
        raise StorageUnavailable from None


def _target(response: aiohttp.ClientResponse) -> URL | None:
    location = response.headers.get("Location")
    if response.status not in REDIRECTS or location is None:
        return None
    try:
        return response.url.join(URL(location))
    except ValueError:
        raise InvalidRequest(f"{FAILED} [redirected to what is no URL]") from None


def _check_status(response: aiohttp.ClientResponse, validators: Mapping[str, str]) -> None:
    if response.status == 200 or (response.status == 304 and validators):
        return
    words = FORBIDDEN if response.status in (401, 403) else FAILED
    raise InvalidRequest(f"{words} [HTTP {response.status}]")


@contextmanager
def _translated(host: str) -> Generator[None, None, None]:
    """Failures of the network as the client's: it named a source that does not deliver."""
    try:
        yield
    except ServingError:
        raise
    except TimeoutError:
        raise MediaUnavailable(TIMED_OUT) from None
    except aiohttp.InvalidURL:
        raise InvalidRequest(BAD_URL) from None
    except (aiohttp.ClientError, OSError) as error:
        detail = "cannot be resolved" if isinstance(error, aiohttp.ClientConnectorDNSError) else "does not deliver"
        raise MediaUnavailable(f"{MediaUnavailable.message} [the host {host[:80]} {detail}]") from None
