"""What clients hand in under an Idempotency-Key is done once, however often they send it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from starlette.types import Message

from serving.endpoint import Call, Serve
from serving.errors import Alias, InvalidRequest, RequestTimeout, ServingError, StorageUnavailable
from serving.storage.claims import LEASE_S, Claim, Claims, InFlight, Kept, Reused

log = logging.getLogger(__name__)

LARGEST = 4 << 20
"""Bytes of an answer that is kept. Longer ones come of streams that repeat the whole text in each event."""
MAX_NAME = 255
READ_BY = ("accept", "x-dashscope-sse", "x-dashscope-async", "x-dashscope-ossresourceresolve", "x-homescope-callback")
"""Headers that say what is asked, as the body does."""
OF_THE_EXCHANGE = frozenset({"content-type", "content-length", "x-request-id"})
RETRY_AFTER = 2
"""Seconds."""
REPLAYED = {"idempotency-replayed": "true"}


class KeyInFlight(ServingError):
    """Raised when what an Idempotency-Key stands for is being done."""

    status = 409
    code = "IdempotencyKey.InFlight"
    alias = Alias("idempotency_key_in_flight", "conflict_error")
    retryable = True
    message = "A request with this Idempotency-Key is being answered; ask again when it has ended."


class KeyReused(ServingError):
    """Raised when an Idempotency-Key comes back with another request."""

    status = 422
    code = "IdempotencyKey.Reused"
    alias = Alias("idempotency_key_reused")
    message = "This Idempotency-Key was used for a different request; send a new key with a new request."


class AnswerNotKept(ServingError):
    """Raised when the answer to an Idempotency-Key was too large to be kept."""

    status = 409
    code = "IdempotencyKey.AnswerNotKept"
    alias = Alias("idempotency_answer_not_kept", "conflict_error")
    message = (
        f"The request with this Idempotency-Key was answered, and the answer was larger than {LARGEST} bytes, or one "
        "of too many large ones."
    )


class Once:
    """Makes of what serves a call what serves it once for each Idempotency-Key of an API key.

    A second call with the same key and the same request gets the answer of the first, 409 while that is being worked
    on, and 422 with another request. What failed may be asked again under the same key; what was refused, corrected,
    too.
    """

    def __init__(self, claims: Claims, *, patience: float) -> None:
        """`patience` in seconds, for a body to come."""
        self._claims = claims
        self._patience = patience

    def __call__(self, serve: Serve, route: str, limit: int) -> Serve:
        """`route` tells apart requests with equal bodies; `limit` in bytes, of a body."""

        async def once(call: Call) -> None:
            name = call.exchange.header("idempotency-key")
            if not name or call.exchange.method != "POST":
                await serve(call)
                return
            if len(name) > MAX_NAME or not name.isprintable():
                raise InvalidRequest(f"Idempotency-Key is 1 to {MAX_NAME} printable characters, got {len(name)}.")
            found = await self._claim(call, name, await self._digest(call, route, limit))
            await (self._replay(call, found) if isinstance(found, Kept) else self._serve(call, found, serve))

        return once

    async def _digest(self, call: Call, route: str, limit: int) -> bytes:
        try:
            async with asyncio.timeout(self._patience):
                body = await call.exchange.body(limit)
        except TimeoutError:
            raise RequestTimeout from None
        call.exchange.unread(body)
        digest = hashlib.sha256("\n".join((route, *(call.exchange.header(name) for name in READ_BY), "")).encode())
        digest.update(body)
        return digest.digest()

    async def _claim(self, call: Call, name: str, digest: bytes) -> Claim | Kept:
        try:
            return await self._claims.claim(call.caller.key_id, name, digest)
        except InFlight:
            raise KeyInFlight(retry_after=RETRY_AFTER) from None
        except Reused:
            raise KeyReused from None

    async def _replay(self, call: Call, kept: Kept) -> None:
        if kept.body is None:
            raise AnswerNotKept
        headers = {**kept.headers, **REPLAYED}
        await call.exchange.answer(kept.status, kept.body, headers, content_type=kept.content_type.encode("latin-1"))

    async def _serve(self, call: Call, claim: Claim, serve: Serve) -> None:
        recording = Recording()
        call.exchange.tap(recording.add)
        call.claim = claim.id
        try:
            async with self._renewed(claim):
                await serve(call)
        except ServingError as error:
            await self._end(claim, refused=error.status < 500 and not call.exchange.begun)
            raise
        except BaseException:
            await self._end(claim, refused=False)
            raise
        with suppress(StorageUnavailable):  # has been logged; the lease lapses, and the same id is used again
            await self._claims.keep(claim, recording.kept)

    async def _end(self, claim: Claim, *, refused: bool) -> None:
        with suppress(StorageUnavailable):
            await asyncio.shield(self._claims.drop(claim) if refused else self._claims.release(claim))

    @asynccontextmanager
    async def _renewed(self, claim: Claim) -> AsyncGenerator[None, None]:
        renewing = asyncio.create_task(self._renew(claim))
        try:
            yield
        finally:
            renewing.cancel()
            await asyncio.wait([renewing])

    async def _renew(self, claim: Claim) -> None:
        while True:
            await asyncio.sleep(LEASE_S / 3)
            with suppress(StorageUnavailable):
                await self._claims.renew(claim)


@dataclass(slots=True)
class Recording:
    """The answer to a call as it is sent."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    pieces: list[bytes] | None = field(default_factory=list)
    size: int = 0

    def add(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode("latin-1") for name, value in message["headers"]}
            return
        body = message.get("body", b"")
        self.size += len(body)
        if self.size > LARGEST:
            self.pieces = None
        elif self.pieces is not None:
            self.pieces.append(body)

    @property
    def kept(self) -> Kept:
        shown = {name: value for name, value in self.headers.items() if name not in OF_THE_EXCHANGE}
        body = None if self.pieces is None else b"".join(self.pieces)
        return Kept(self.status, self.headers["content-type"], shown, body)
