from __future__ import annotations

import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Protocol

import httpx

from client.errors import BadResponse, ConfigurationError, ConnectionFailed, ConnectionLost, TimedOut

if TYPE_CHECKING:
    import aiohttp

CONNECT_TIMEOUT = 10.0
"""Seconds to make a connection."""

_PROXIES = ("http_proxy", "https_proxy", "all_proxy")


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole HTTP answer. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class Arriving:
    """An HTTP answer whose body is still to come."""

    status: int
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes]

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


class Connections(Protocol):
    """A pool of HTTP connections. Errors are those of `client.errors`: TransportError and BadResponse."""

    async def send(self, method: str, url: str, content: bytes, headers: Mapping[str, str]) -> Reply: ...

    def stream(
        self, method: str, url: str, content: bytes, headers: Mapping[str, str]
    ) -> AsyncGenerator[Arriving, None]:
        """Yields the answer once; what it holds is closed with the generator."""
        ...

    async def aclose(self) -> None: ...


def connections(timeout: float, *, here: bool, transport: httpx.AsyncBaseTransport | None = None) -> Connections:
    """The pool for one server.

    aiohttp makes direct connections: at 32 requests in flight httpx takes ten times the CPU of aiohttp, because
    httpcore looks at every connection for every request. httpx knows proxies of all kinds and takes the rest.

    Args:
        timeout: seconds without a byte.
        here: the server is on this machine, so that no proxy of the environment can reach it.
        transport: one of httpx to use instead of the network.

    Raises:
        ConfigurationError: a proxy or certificates of the environment that cannot be used.
    """
    with _usable_environment():
        if transport is not None or (not here and _has_proxy()) or not _has_aiohttp():
            return _Httpx(timeout, trust_env=not here, transport=transport)
        return _Aiohttp(timeout, tls())


def _has_proxy() -> bool:
    return any(os.environ.get(name) or os.environ.get(name.upper()) for name in _PROXIES)


@cache
def _has_aiohttp() -> bool:
    try:
        import aiohttp  # noqa: F401
    except ImportError:
        return False
    return True


@cache
def tls() -> ssl.SSLContext:
    """Once per process: reading the certificate authorities takes tens of milliseconds."""
    return httpx.create_ssl_context()


@contextmanager
def _usable_environment() -> Iterator[None]:
    """What httpx makes of the environment's proxies and certificates, in words that say where to look."""
    try:
        yield
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        raise ConfigurationError(
            f"the proxy in HTTPS_PROXY, HTTP_PROXY or ALL_PROXY cannot be used: {error}; set an http:// one, or none"
        ) from error
    except OSError as error:
        raise ConfigurationError(
            f"the certificates named by SSL_CERT_FILE or SSL_CERT_DIR cannot be read: {error.strerror or error}"
        ) from error


class _Aiohttp:
    def __init__(self, timeout: float, verify: ssl.SSLContext) -> None:
        self._timeout, self._verify = timeout, verify
        self._opened: aiohttp.ClientSession | None = None

    def _session(self) -> aiohttp.ClientSession:
        """Made with the first request: aiohttp wants to know its event loop."""
        if self._opened is None:
            import aiohttp

            self._opened = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=self._verify),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=self._timeout),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._opened

    async def send(self, method: str, url: str, content: bytes, headers: Mapping[str, str]) -> Reply:
        with _aiohttp_errors(url):
            async with self._session().request(
                method, url, data=content, headers=headers, allow_redirects=False
            ) as answer:
                return Reply(answer.status, _lower(answer.headers), await answer.read())

    async def stream(
        self, method: str, url: str, content: bytes, headers: Mapping[str, str]
    ) -> AsyncGenerator[Arriving, None]:
        with _aiohttp_errors(url):
            async with self._session().request(
                method, url, data=content, headers=headers, allow_redirects=False
            ) as answer:
                yield Arriving(answer.status, _lower(answer.headers), answer.content.iter_any())

    async def aclose(self) -> None:
        if self._opened is not None:
            await self._opened.close()


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


class _Httpx:
    def __init__(self, timeout: float, *, trust_env: bool, transport: httpx.AsyncBaseTransport | None) -> None:
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(timeout, connect=CONNECT_TIMEOUT, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            verify=tls(),
            trust_env=trust_env,
            transport=transport,
        )

    async def send(self, method: str, url: str, content: bytes, headers: Mapping[str, str]) -> Reply:
        with httpx_errors(url):
            answer = await self._http.request(method, url, content=content, headers=dict(headers))
        return Reply(answer.status_code, answer.headers, answer.content)

    async def stream(
        self, method: str, url: str, content: bytes, headers: Mapping[str, str]
    ) -> AsyncGenerator[Arriving, None]:
        with httpx_errors(url):
            async with self._http.stream(method, url, content=content, headers=dict(headers)) as answer:
                yield Arriving(answer.status_code, answer.headers, answer.aiter_bytes())

    async def aclose(self) -> None:
        await self._http.aclose()


@contextmanager
def _aiohttp_errors(url: str) -> Iterator[None]:
    """aiohttp's errors as ours."""
    import aiohttp

    try:
        yield
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL) as error:
        raise ConnectionFailed(f"cannot reach {_server(url)}: {_words(error)}") from error
    except (TimeoutError, aiohttp.ServerTimeoutError) as error:
        raise TimedOut(f"{_server(url)} did not answer in time") from error
    except aiohttp.ClientPayloadError as error:
        if "decode" in str(error):
            raise BadResponse(f"the server's answer cannot be decoded: {error}") from error
        raise ConnectionLost(f"the connection to {_server(url)} broke: {_words(error)}") from error
    except (aiohttp.ClientError, OSError) as error:
        raise ConnectionLost(f"the connection to {_server(url)} broke: {_words(error)}") from error


@contextmanager
def httpx_errors(url: str) -> Iterator[None]:
    """httpx's errors as ours."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.ProxyError) as error:
        raise ConnectionFailed(f"cannot reach {_server(url)}: {str(error) or 'no connection in time'}") from error
    except httpx.TimeoutException as error:
        raise TimedOut(f"{_server(url)} did not answer in time") from error
    except httpx.DecodingError as error:
        raise BadResponse(f"the server's answer cannot be decoded: {error}") from error
    except httpx.RequestError as error:
        raise ConnectionLost(f"the connection to {_server(url)} broke: {_words(error)}") from error


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


def _server(url: str) -> str:
    """The address without what belongs to one request."""
    parts = httpx.URL(url)
    return f"{parts.scheme}://{parts.netloc.decode()}{parts.path.partition('/services/')[0].rstrip('/')}"


@asynccontextmanager
async def opened(arriving: AsyncGenerator[Arriving, None]) -> AsyncIterator[Arriving]:
    """The one answer of `Connections.stream`, closed on every way out."""
    try:
        yield await anext(arriving)
    finally:
        await arriving.aclose()
