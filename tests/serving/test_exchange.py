from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from starlette.types import Message

from serving.exchange import ClientGone, Exchange


async def test_a_download_that_nobody_takes_ends() -> None:
    sent: list[str] = []

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message["type"])
        if len(sent) == 3:
            await asyncio.Event().wait()

    async def pieces() -> AsyncGenerator[bytes, None]:
        while True:
            yield b"piece"

    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}
    exchange = Exchange(scope, receive, send)
    exchange.taken_within = 0.02
    async with asyncio.timeout(20):
        with pytest.raises(ClientGone):
            await exchange.download(200, pieces(), {}, content_type=b"application/octet-stream")
    assert sent == ["http.response.start", "http.response.body", "http.response.body"]
