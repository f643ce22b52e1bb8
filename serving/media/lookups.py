"""Host names of clients, looked up apart from those of the server's own."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, TypeAlias

from aiohttp.abc import AbstractResolver, ResolveResult

from serving.budget import Budget

AT_ONCE = 32
PATIENCE = 10
"""Seconds to wait for one of them."""
HOLDER: ContextVar[str] = ContextVar("holder", default="")
"""On whose behalf names are looked up in this task: an API key."""
NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV

Found: TypeAlias = list[tuple[Any, ...]]


class Lookups(AbstractResolver):
    """Looks names up as the system does, each in a thread of its own, so many at once, of which a key has a share.

    A name whose servers do not answer takes half a minute, and nothing ends that sooner. The event loop's own threads,
    two for names under uvloop, would be held by a handful of them: nobody would find an engine or a database then.
    """

    def __init__(self, at_once: int = AT_ONCE, *, look: Callable[..., Found] = socket.getaddrinfo) -> None:
        self._places = Budget(at_once, patience=PATIENCE)
        self._look = look

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Raises `OSError`, and `Overloaded` where too many are being looked up."""
        holder = HOLDER.get()
        await self._places.take(1, holder)
        looking: asyncio.Future[Found | OSError] = asyncio.get_running_loop().create_future()
        looking.add_done_callback(lambda _: self._places.give(1, holder))  # not before the thread has ended
        try:
            threading.Thread(target=self._run, args=(looking, host, port, family), daemon=True).start()
        except RuntimeError:  # the system has no thread left
            looking.set_result(OSError(socket.EAI_AGAIN, "no thread"))
        found = await asyncio.shield(looking)
        if isinstance(found, OSError):
            raise found
        return [_result(host, *each) for each in found]

    async def close(self) -> None:
        """Those that hang end by themselves."""

    def _run(self, looking: asyncio.Future[Found | OSError], host: str, port: int, family: int) -> None:
        found: Found | OSError
        try:
            found = self._look(host, port, family, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG)
        except OSError as error:
            found = error
        except ValueError:
            found = OSError(socket.EAI_NONAME, "no host name")
        with suppress(RuntimeError):  # the loop has been closed meanwhile
            looking.get_loop().call_soon_threadsafe(looking.set_result, found)


def _result(host: str, family: int, _: int, proto: int, __: str, address: tuple[Any, ...]) -> ResolveResult:
    zone = f"%{address[3]}" if len(address) == 4 and address[3] else ""
    return ResolveResult(
        hostname=host, host=f"{address[0]}{zone}", port=address[1], family=family, proto=proto, flags=NUMERIC
    )
