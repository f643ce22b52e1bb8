from __future__ import annotations

import asyncio
import ipaddress
import os
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

import httpx

from client import images as image_files
from client import wire
from client.errors import BadResponse, ConfigurationError, ConnectionFailed, ConnectionLost, TimedOut, UnusableImage
from client.models import DEFAULT_MODEL, Answer, Piece
from client.retry import DEFAULT, Policy, persist
from client.sse import Decoder, Event
from client.structured import check_schema, response_format, validated

ImageInput: TypeAlias = Path | bytes | str
"""A local file, the bytes of an image, or a reference: `https://`, `data:`, `oss://`."""

Prepare: TypeAlias = Callable[[bytes], Awaitable[bytes]]
"""Turns the bytes of an image into those that may leave the machine, or raises UnusableImage: then nothing is sent."""

BASE_URL_NAME = "DASHSCOPE_HTTP_BASE_URL"
API_KEY_NAME = "DASHSCOPE_API_KEY"

DEFAULT_TIMEOUT = 300.0
"""Seconds without a byte from the server before giving up; the cloud's own limit for an answer."""

_REFERENCES = ("http://", "https://", "data:", "oss://")


class Session:
    """A connection pool to one server that speaks the native DashScope protocol: homescope, or the cloud.

        async with Session("http://127.0.0.1:8000/api/v1", "sk-...") as session:
            answer = await session.ask(Path("chart.png"), "Read all values.")

    Args:
        base_url: with its `/api/v1`; default: the environment's DASHSCOPE_HTTP_BASE_URL.
        api_key: default: the environment's DASHSCOPE_API_KEY.
        timeout: seconds without a byte before `TimedOut`.
        retry: when and how often to ask again.
        transport: an httpx transport to use instead of the network.
        prepare: what every image goes through before it is sent, such as `client.redaction.Redactor.prepare`. URLs
            are refused then: their images would reach the server without it.

    Raises:
        ConfigurationError: no address or no key, or one that cannot be used.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        retry: Policy = DEFAULT,
        transport: httpx.AsyncBaseTransport | None = None,
        prepare: Prepare | None = None,
    ) -> None:
        self._prepare = prepare
        self.base_url = _base_url(base_url or os.environ.get(BASE_URL_NAME, ""))
        self._retry = retry
        key = _api_key(api_key or os.environ.get(API_KEY_NAME, ""))
        with _usable_environment():
            self._http = httpx.AsyncClient(
                headers={"Authorization": f"Bearer {key}"},
                timeout=httpx.Timeout(timeout, connect=10.0, pool=None),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
                verify=_tls(),
                # A proxy from the environment cannot know this machine's own addresses.
                trust_env=not _is_here(httpx.URL(self.base_url).host),
                transport=transport,
            )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def ask(
        self,
        images: ImageInput | Sequence[ImageInput],
        prompt: str,
        *,
        model: str = DEFAULT_MODEL,
        schema: Mapping[str, Any] | None = None,
        stream: bool = False,
        parameters: Mapping[str, Any] | None = None,
        retry: Policy | None = None,
    ) -> Answer:
        """One question about one or more images, asked again as the policy says until it is answered.

        Args:
            images: in the order in which the model shall see them; local ones travel inside the request.
            prompt: the question.
            model: a name that the server knows.
            schema: JSON Schema of the answer; the server is asked to keep to it, and the answer is validated.
            stream: receive in pieces: the same answer, but a slow one keeps the connection alive.
            parameters: DashScope's generation parameters, such as `temperature`.
            retry: instead of the session's policy.

        Raises:
            UnusableImage, InvalidAnswer, BadResponse, TransportError, ServiceError: see `client.errors`.
        """
        body = await self._body(images, prompt, model, schema, parameters)
        once = self._streamed if stream else self._whole
        answer = await persist(lambda: once(body), retry or self._retry)
        return answer if schema is None else replace(answer, value=validated(answer, schema))

    async def stream(
        self,
        images: ImageInput | Sequence[ImageInput],
        prompt: str,
        *,
        model: str = DEFAULT_MODEL,
        schema: Mapping[str, Any] | None = None,
        parameters: Mapping[str, Any] | None = None,
        retry: Policy | None = None,
    ) -> AsyncGenerator[Piece, None]:
        """The same question, piece by piece as the model speaks; the last piece has a `finish_reason`.

        Asks again only before the first piece: what the caller has seen cannot be taken back. Use
        `contextlib.aclosing` where you may leave the loop early, so that the server stops generating at once.
        Arguments and errors as `ask`; the pieces are not validated against `schema`.
        """
        body = await self._body(images, prompt, model, schema, parameters)
        async with aclosing(self._primed(body, retry or self._retry)) as pieces:
            async for piece in pieces:
                yield piece

    async def _body(
        self,
        images: ImageInput | Sequence[ImageInput],
        prompt: str,
        model: str,
        schema: Mapping[str, Any] | None,
        parameters: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        parameters = dict(parameters or {})
        if schema is not None:
            check_schema(schema)
            parameters["response_format"] = response_format(schema)
        listed = [images] if isinstance(images, Path | bytes | str) else images
        references = [await _reference(image, self._prepare) for image in listed]
        return wire.request(references, prompt, model, parameters)

    async def _whole(self, body: dict[str, Any]) -> Answer:
        with _translated(self.base_url):
            response = await self._http.post(self.base_url + wire.PATH, json=body, headers=_headers(body))
        if not response.is_success:
            raise wire.refusal(response.status_code, response.content, response.headers)
        return wire.answer(response.content, body["model"], response.headers.get("x-request-id", ""))

    async def _streamed(self, body: dict[str, Any]) -> Answer:
        async with aclosing(self._pieces(body)) as pieces:
            received = [piece async for piece in pieces]
        last = received[-1]
        return Answer(
            text="".join(piece.text for piece in received),
            finish_reason=last.finish_reason or "",
            usage=last.usage,
            request_id=last.request_id,
            model=body["model"],
            reasoning="".join(piece.reasoning for piece in received),
        )

    async def _primed(self, body: dict[str, Any], policy: Policy) -> AsyncGenerator[Piece, None]:
        async def first() -> tuple[Piece, AsyncGenerator[Piece, None]]:
            pieces = self._pieces(body)
            return await anext(pieces), pieces

        piece, rest = await persist(first, policy)
        async with aclosing(rest):
            yield piece
            async for piece in rest:
                yield piece

    async def _pieces(self, body: dict[str, Any]) -> AsyncGenerator[Piece, None]:
        body = body | {"parameters": body["parameters"] | {"incremental_output": True}}
        headers = _headers(body) | {"X-DashScope-SSE": "enable", "Accept": "text/event-stream"}
        with _translated(self.base_url):
            async with self._http.stream("POST", self.base_url + wire.PATH, json=body, headers=headers) as response:
                if not response.is_success:
                    raise wire.refusal(response.status_code, await response.aread(), response.headers)
                async with aclosing(_events(response)) as events:
                    async for event in events:
                        piece = _piece(event, response.headers)
                        yield piece
                        if piece.finish_reason is not None:
                            return
        raise ConnectionLost("the answer broke off before its end")


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


def _is_here(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
        return address.is_loopback or address.is_unspecified
    except ValueError:
        return host == "localhost"


@cache
def _tls() -> ssl.SSLContext:
    """Once per process: reading the certificate authorities takes tens of milliseconds."""
    return httpx.create_ssl_context()


async def _events(response: httpx.Response) -> AsyncGenerator[Event, None]:
    if "text/event-stream" not in response.headers.get("content-type", ""):
        raise BadResponse("a stream was asked for, and the server answered something else")
    decoder = Decoder()
    async for chunk in response.aiter_bytes():
        for event in decoder.feed(chunk):
            yield event
    if last := decoder.close():
        yield last


def _piece(event: Event, headers: Mapping[str, str]) -> Piece:
    if event.event == "error" or wire.is_refusal(event.data):
        raise wire.refusal(event.status or 500, event.data, headers)
    return wire.piece(event.data)


async def _reference(image: ImageInput, prepare: Prepare | None) -> str:
    if prepare is not None:
        return image_files.data_uri(await prepare(await _local(image)))
    if isinstance(image, bytes):
        return image_files.data_uri(image)
    if isinstance(image, str):
        if not image.startswith(_REFERENCES):
            raise UnusableImage(f"{image[:80]} is neither a URL nor a data URI; pass a local file as pathlib.Path")
        return image
    return image_files.data_uri(await _read(image))


async def _read(path: Path) -> bytes:
    try:
        return await asyncio.to_thread(image_files.read, path)
    except UnusableImage as error:
        raise UnusableImage(f"{path}: {error.message}") from error


async def _local(image: ImageInput) -> bytes:
    """The bytes of an image that is on this machine."""
    if isinstance(image, Path):
        return await _read(image)
    if isinstance(image, bytes):
        return image
    if not image.startswith("data:"):
        raise UnusableImage(f"{image[:80]} is not on this machine and cannot be checked here: download it first")
    return image_files.from_data_uri(image)


def _headers(body: dict[str, Any]) -> dict[str, str]:
    content = body["input"]["messages"][0]["content"]
    needs_resolving = any(part.get("image", "").startswith("oss://") for part in content)
    return {"X-DashScope-OssResourceResolve": "enable"} if needs_resolving else {}


def _base_url(given: str) -> str:
    """`http://host:port` gets its `/api/v1`; the path of the other protocol is a mistake worth naming."""
    if not given.strip():
        raise ConfigurationError(
            f"no server address: pass --base-url or set {BASE_URL_NAME}, for example http://127.0.0.1:8000/api/v1"
        )
    try:
        url = httpx.URL(given.strip().rstrip("/"))
    except httpx.InvalidURL as error:
        raise ConfigurationError(f"the server address {given!r} is not a URL: {error}") from error
    if url.userinfo:
        raise ConfigurationError("the server address holds a user name or password: leave it out, the key is enough")
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigurationError(f"the server address {given!r} is not a URL; it begins with http:// or https://")
    if "compatible-mode" in url.path:
        raise ConfigurationError(f"{given} is the OpenAI-compatible address; this client needs the one with /api/v1")
    return str(url) if url.path.strip("/") else f"{url.scheme}://{url.netloc.decode()}/api/v1"


def _api_key(given: str) -> str:
    key = given.strip()
    if not key:
        raise ConfigurationError(f"no API key: pass --api-key or set {API_KEY_NAME}")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigurationError("the API key holds characters that no key has; was something else pasted with it?")
    return key


@contextmanager
def _translated(base_url: str) -> Iterator[None]:
    """httpx's errors as ours."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.ProxyError) as error:
        raise ConnectionFailed(f"cannot reach {base_url}: {str(error) or 'no connection in time'}") from error
    except httpx.TimeoutException as error:
        raise TimedOut(f"{base_url} did not answer in time") from error
    except httpx.DecodingError as error:
        raise BadResponse(f"the server's answer cannot be decoded: {error}") from error
    except httpx.RequestError as error:
        raise ConnectionLost(f"the connection to {base_url} broke: {str(error) or type(error).__name__}") from error
