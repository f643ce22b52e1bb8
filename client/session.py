from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

import httpx

from client import images as image_files
from client import wire
from client.addresses import API_KEY_NAME, BASE_URL_NAME, checked_key, checked_url, is_here
from client.errors import (
    BadResponse,
    ConnectionLost,
    HomescopeError,
    InvalidAnswer,
    InvalidRequest,
    UnusableImage,
)
from client.http import Arriving, connections, opened
from client.mending import repair
from client.models import DEFAULT_MODEL, Answer, Piece
from client.retry import DEFAULT, Policy, persist
from client.sse import Decoder, Event
from client.structured import Schema, as_schema, check_schema, described, response_format, typed, validated
from client.uploads import Delivery, Kept, Uploads

ImageInput: TypeAlias = Path | bytes | str
"""A local file (a path, as `Path` or text), the bytes of an image, or a reference: `https://`, `data:`, `oss://`."""

Prepare: TypeAlias = Callable[[bytes], Awaitable[bytes]]
"""Turns the bytes of an image into those that may leave the machine, or raises UnusableImage: then nothing is sent."""

DEFAULT_TIMEOUT = 300.0
"""Seconds without a byte from the server before giving up; the cloud's own limit for an answer."""

_REFERENCES = ("http://", "https://", "data:", "oss://")

_Once: TypeAlias = Callable[[dict[str, Any]], Awaitable[Answer]]

_MENDING = Policy(attempts=2, throttled_attempts=3, timeout_attempts=1)
"""A second opinion is worth less patience than the answer itself."""


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
        delivery: how local images travel: `inline` in the request, by `upload` to the server's store, or `auto`,
            whichever sends fewer bytes. A server without a store gets them inline.

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
        delivery: Delivery = "auto",
    ) -> None:
        self._prepare = prepare
        self.base_url = checked_url(base_url or os.environ.get(BASE_URL_NAME, ""))
        self._retry = retry
        key = checked_key(api_key or os.environ.get(API_KEY_NAME, ""))
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self._http = connections(timeout, here=is_here(httpx.URL(self.base_url).host), transport=transport)
        self._uploads = Uploads(self._http, self.base_url, self._headers["Authorization"], delivery)
        self._unguided: set[str] = set()

    @property
    def account(self) -> str:
        """What tells this session's account from others: a hash of its key."""
        return hashlib.sha256(self._headers["Authorization"].encode()).hexdigest()[:16]

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
        schema: Schema | None = None,
        stream: bool = False,
        parameters: Mapping[str, Any] | None = None,
        retry: Policy | None = None,
        mend: bool = True,
        idempotency_key: str = "",
    ) -> Answer:
        """One question about one or more images, asked again as the policy says until it is answered.

        Args:
            images: in the order in which the model shall see them: files, bytes, URLs.
            prompt: the question.
            model: a name that the server knows.
            schema: JSON Schema of the answer, or a pydantic model. The server is asked to keep to it, and the answer is
                validated: `Answer.value` is the JSON, or an instance of the model.
            stream: receive in pieces: the same answer, but a slow one keeps the connection alive.
            parameters: DashScope's generation parameters, such as `temperature`.
            retry: instead of the session's policy.
            mend: ask once more after an answer that does not fit the schema, with the reason, or that goes round in
                circles. `Answer.usage` counts both.
            idempotency_key: homescope answers the same request under the same key once and repeats that answer, also
                to a process that begins where a killed one was. Other servers ignore it.

        Raises:
            UnusableImage, InvalidAnswer, BadResponse, TransportError, ServiceError: see `client.errors`.
        """
        once: _Once = partial(self._streamed if stream else self._whole, idempotency_key=idempotency_key)
        policy = retry or self._retry
        body = await self._body(images, prompt, model, schema, parameters)
        try:
            answer = await persist(lambda: once(body), policy)
        except InvalidRequest as error:
            if schema is not None and wire.refuses_format(error, body):
                self._unguided.add(model)
                body = wire.unguided(body, described(as_schema(schema)))
            elif await self._uploads.forget(wire.references(body)):
                body = await self._body(images, prompt, model, schema, parameters)
            else:
                raise
            answer = await persist(lambda: once(body), policy)
        return await self._checked(answer, body, once, schema, mend)

    def keep_uploads(self, kept: Kept | None) -> None:
        """Uploads of an earlier process are used again, and those of this one noted; None: no longer."""
        self._uploads.kept = kept

    async def _checked(
        self, answer: Answer, body: dict[str, Any], once: _Once, schema: Schema | None, mend: bool
    ) -> Answer:
        """The answer with its validated value, mended once where that is asked for and can help."""
        try:
            if answer.flaw != "repeats" or not mend:
                return _valued(answer, schema)
            problem = ""
        except InvalidAnswer as error:
            if not mend or answer.flaw == "truncated":
                raise
            problem = error.message
        try:
            again = await persist(lambda: once(repair(body, answer, problem)), _MENDING)
        except HomescopeError:
            return _valued(answer, schema)
        return _valued(replace(again, usage=answer.usage + again.usage, mended=True), schema)

    async def stream(
        self,
        images: ImageInput | Sequence[ImageInput],
        prompt: str,
        *,
        model: str = DEFAULT_MODEL,
        schema: Schema | None = None,
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
        schema: Schema | None,
        parameters: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        parameters = dict(parameters or {})
        wanted = None if schema is None else as_schema(schema)
        if wanted is not None:
            check_schema(wanted)
            if model not in self._unguided:
                parameters["response_format"] = response_format(wanted)
            else:
                prompt += described(wanted)
        listed = [images] if isinstance(images, Path | bytes | str) else images
        references = [await self._reference(image, model) for image in listed]
        return wire.request(references, prompt, model, parameters)

    async def _reference(self, image: ImageInput, model: str) -> str:
        if self._prepare is not None:
            return await self._uploads.reference(await self._prepare(await _local(image)), model)
        if isinstance(image, str) and image.startswith(_REFERENCES):
            return image
        return await self._uploads.reference(await _local(image), model)

    async def _whole(self, body: dict[str, Any], idempotency_key: str = "") -> Answer:
        content = wire.encoded(body)
        headers = self._headers | _needs(body) | _once_for(idempotency_key, content)
        reply = await self._http.send("POST", self.base_url + wire.PATH, content, headers)
        if not reply.ok:
            raise wire.refusal(reply.status, reply.body, reply.headers)
        return wire.answer(reply.body, body["model"], reply.headers.get("x-request-id", ""))

    async def _streamed(self, body: dict[str, Any], idempotency_key: str = "") -> Answer:
        async with aclosing(self._pieces(body, idempotency_key)) as pieces:
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

    async def _pieces(self, body: dict[str, Any], idempotency_key: str = "") -> AsyncGenerator[Piece, None]:
        body = body | {"parameters": body["parameters"] | {"incremental_output": True}}
        content = wire.encoded(body)
        headers = self._headers | _needs(body) | {"X-DashScope-SSE": "enable", "Accept": "text/event-stream"}
        headers |= _once_for(idempotency_key, content)
        arriving = self._http.stream("POST", self.base_url + wire.PATH, content, headers)
        async with opened(arriving) as response:
            if not response.ok:
                raise wire.refusal(response.status, await _joined(response.chunks), response.headers)
            async with aclosing(_events(response)) as events:
                async for event in events:
                    piece = _piece(event, response.headers)
                    yield piece
                    if piece.finish_reason is not None:
                        return
        raise ConnectionLost("the answer broke off before its end")


def _once_for(idempotency_key: str, content: bytes) -> dict[str, str]:
    """One key for each thing that is said under it: a question, the same without guided decoding, its repair."""
    if not idempotency_key:
        return {}
    return {"Idempotency-Key": f"{idempotency_key[:128]}-{hashlib.sha256(content).hexdigest()}"}


async def _joined(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


def _valued(answer: Answer, schema: Schema | None) -> Answer:
    if schema is None:
        return answer
    value = validated(answer, as_schema(schema))
    return replace(answer, value=typed(value, schema, answer))


async def _events(response: Arriving) -> AsyncGenerator[Event, None]:
    if "text/event-stream" not in response.headers.get("content-type", ""):
        raise BadResponse("a stream was asked for, and the server answered something else")
    decoder = Decoder()
    async for chunk in response.chunks:
        for event in decoder.feed(chunk):
            yield event
    if last := decoder.close():
        yield last


def _piece(event: Event, headers: Mapping[str, str]) -> Piece:
    if event.event == "error" or wire.is_refusal(event.data):
        raise wire.refusal(event.status or 500, event.data, headers)
    return wire.piece(event.data)


async def _read(path: Path) -> bytes:
    try:
        return await asyncio.to_thread(image_files.read, path)
    except UnusableImage as error:
        raise UnusableImage(f"{path}: {error.message}") from error


async def _local(image: ImageInput) -> bytes:
    """The bytes of an image that is on this machine."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, Path) or ("://" not in image[:12] and not image.startswith("data:")):
        return await _read(Path(image))
    if not image.startswith("data:"):
        raise UnusableImage(f"{image[:80]} is not on this machine and cannot be checked here: download it first")
    return image_files.from_data_uri(image)


def _needs(body: dict[str, Any]) -> dict[str, str]:
    content = body["input"]["messages"][0]["content"]
    needs_resolving = any(part.get("image", "").startswith("oss://") for part in content)
    return {"X-DashScope-OssResourceResolve": "enable"} if needs_resolving else {}
