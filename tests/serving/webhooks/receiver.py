"""A receiver of webhooks on a real socket."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class Receiver:
    """Answers by script, then 204; the answer 0 is none at all. What came is in `received`."""

    url: str = ""
    script: list[int] = field(default_factory=list)
    received: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    _taken: asyncio.Queue[int] = field(default_factory=asyncio.Queue)
    _released: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, request: web.Request) -> web.Response:
        self.received.append(({name.lower(): value for name, value in request.headers.items()}, await request.read()))
        status = self.script.pop(0) if self.script else 204
        self._taken.put_nowait(status)
        if status == 0:
            await self._released.wait()
        headers = {"location": self.url + "/elsewhere"} if status == 302 else {}
        return web.Response(status=status or 204, headers=headers)

    async def until(self, status: int) -> dict[str, Any]:
        """What the first notice says that was answered so."""
        async with asyncio.timeout(20):
            while await self._taken.get() != status:
                pass
        body: dict[str, Any] = json.loads(self.received[-1][1])
        return body


@asynccontextmanager
async def receiving(*script: int) -> AsyncGenerator[Receiver, None]:
    receiver = Receiver(script=list(script))
    app = web.Application()
    app.router.add_post("/{path:.*}", receiver.take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    try:
        yield receiver
    finally:
        receiver._released.set()
        await runner.cleanup()


def verified(headers: dict[str, str], body: bytes, secret: str) -> bool:
    """As a receiver checks it that has only read the standard."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return any(
        hmac.compare_digest(given.removeprefix("v1,"), expected) for given in headers["webhook-signature"].split()
    )
