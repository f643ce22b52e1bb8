"""What every protocol shares of serving a request: who asks, how a failure is told, the line in the log."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeAlias

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from starlette.types import Receive, Scope, Send

from serving import logs
from serving.access import grant
from serving.access.keyring import Keyring
from serving.dialects import Dialect
from serving.errors import (
    AccessDenied,
    EngineUnavailable,
    InternalError,
    InvalidRequest,
    MethodUnsupported,
    ServingError,
    StorageUnavailable,
)
from serving.exchange import ClientGone, Exchange
from serving.generation import Answer, Caller, Timeline

log = logging.getLogger(__name__)

REFUSE_WITHIN = 5.0
"""Seconds that a client gets to read why its stream ended; one that stopped reading would be waited for without end."""
RETRY_AFTER = 5
"""Seconds until a server that stops has a successor, roughly; clients cap the header at 8."""
NOBODY = Caller("", "-")
OBSERVE = "homescope.observe"
"""Where a scope has what is to be told of each call that has ended."""


@dataclass(slots=True)
class Call:
    """What is known about one request while it is served."""

    exchange: Exchange
    caller: Caller = NOBODY
    timeline: Timeline = field(default_factory=Timeline)
    answer: Answer = field(default_factory=Answer)
    stream: bool = False
    model: str = "-"
    images: int = 0
    outcome: str = "ok"
    claim: str | None = None
    """Under which id to make what the call asks for, so that a second try finds what the first one made; None for one
    that is tried once."""


Serve: TypeAlias = Callable[[Call], Awaitable[None]]
"""Answers a call whose caller is known, or raises the `ServingError` to answer with."""


class Endpoint:
    """One route as an ASGI app: checks the key, serves, and tells every failure in the words of its protocol."""

    def __init__(
        self,
        serve: Serve,
        keyring: Keyring | None,
        dialect: Dialect,
        *,
        methods: tuple[str, ...] = ("POST",),
        scopes: tuple[grant.Scope, ...] = (),
    ) -> None:
        """Without a `keyring` everybody may call: for what a signature protects. A key needs one of `scopes`, if there
        are any."""
        self._serve = serve
        self._keyring = keyring
        self._dialect = dialect
        self._methods = methods
        self._scopes = frozenset(scopes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = Call(Exchange(scope, receive, send))
        try:
            if self._keyring is not None:
                call.caller = await self._keyring.caller(call.exchange.header("authorization"))
                call.exchange.holder = call.caller.key_id
                self._check_scope(call.caller)
            if call.exchange.method not in self._methods:
                raise MethodUnsupported(call.exchange.method)
            if call.exchange.has_null:
                raise InvalidRequest("A parameter of the URL contains a null character.")
            await self._serve(call)
        except ClientGone:
            call.outcome = "client_gone"
        except ServingError as error:
            await self._refuse(call, error)
        except asyncio.CancelledError:  # the drain time is over; nothing of this task comes after the refusal
            await self._refuse(call, EngineUnavailable(retry_after=RETRY_AFTER))
        except Exception as error:
            await self._fail(call, error)
        finally:
            call.exchange.release()
            _log(call)
            if observe := scope.get(OBSERVE):
                observe(call)

    async def _fail(self, call: Call, error: Exception) -> None:
        if _is_outage(error):
            log.error("request %s: a store is away: %s", call.exchange.request_id, type(error).__name__)
            await self._refuse(call, StorageUnavailable(retry_after=RETRY_AFTER))
        else:
            log.error("request %s failed", call.exchange.request_id, exc_info=error)
            await self._refuse(call, InternalError())

    def _check_scope(self, caller: Caller) -> None:
        if self._scopes and self._scopes.isdisjoint(caller.grant.scopes):
            raise AccessDenied(f"This API key lacks the scope {' or '.join(sorted(self._scopes))}.")

    async def _refuse(self, call: Call, error: ServingError) -> None:
        call.outcome = error.code
        exchange = call.exchange
        with suppress(TimeoutError):
            async with asyncio.timeout(REFUSE_WITHIN):
                if exchange.begun:
                    await exchange.end(self._dialect.frame(error, exchange.request_id, exchange.frames + 1))
                else:
                    body = self._dialect.body(error, exchange.request_id)
                    status = self._dialect.status(error)
                    await exchange.answer(status, body, error.headers, content_type=self._dialect.content_type)


def _is_outage(error: Exception) -> bool:
    """Whether it says that the database or the disk cannot be worked with now, and not that something is wrong here."""
    if isinstance(error, DBAPIError):
        return isinstance(error, OperationalError | InterfaceError) or error.connection_invalidated
    return isinstance(error, OSError)


def _log(call: Call) -> None:
    times = call.timeline
    times.ended = time.monotonic()
    logs.finished(
        logs.RequestLine(
            request_id=call.exchange.request_id,
            key=call.caller.name,
            model=call.model,
            status=call.exchange.status,
            outcome=call.outcome,
            stream=call.stream,
            images=call.images,
            input_tokens=call.answer.usage.input_tokens,
            output_tokens=call.answer.usage.output_tokens,
            queued_ms=logs.span_ms(times.received, times.admitted),
            first_chunk_ms=logs.span_ms(times.received, times.first_chunk),
            total_ms=logs.span_ms(times.received, times.ended),
        )
    )
