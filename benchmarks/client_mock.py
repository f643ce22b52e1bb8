"""A DashScope that answers every question after a fixed time: what is left of a batch's time is the client's.

    python -m benchmarks.client_mock --port 9100 --latency 0.5

POST, to any path, is a question and gets one answer of the native protocol; GET tells how many there were so far, and
how many of them were asked more than once (equal bodies).
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
from typing import cast

import httptools
import orjson
import uvloop

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
ANSWER = orjson.dumps(
    {
        "output": {
            "choices": [
                {
                    "finish_reason": "stop",
                    "message": {
                        "role": "assistant",
                        "content": [{"text": '{"2022": 12.4, "2023": 13.9, "2024": 15.1}'}],
                    },
                }
            ]
        },
        "usage": {"input_tokens": 420, "output_tokens": 32, "total_tokens": 452, "image_tokens": 400},
        "request_id": "8f14e45f-ceea-467a-9575-28d64a1f0c4b",
    }
)


class Counts:
    """Questions in all, and the digests of their bodies: equal ones are one question asked again."""

    def __init__(self, *, remember: bool) -> None:
        self.questions = self.repeated = 0
        self._seen: set[bytes] | None = set() if remember else None

    def add(self, body: bytes) -> None:
        self.questions += 1
        if self._seen is not None:
            digest = hashlib.blake2b(body, digest_size=12).digest()
            self.repeated += digest in self._seen
            self._seen.add(digest)

    def told(self) -> bytes:
        return orjson.dumps({"questions": self.questions, "repeated": self.repeated})


class Connection(asyncio.Protocol):
    def __init__(self, latency: float, counts: Counts) -> None:
        self._latency, self._counts = latency, counts
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._parts: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are no subclasses

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        body, self._parts = b"".join(self._parts), []
        if self._parser.get_method() == b"GET":
            self._write(self._counts.told())
            return
        self._counts.add(body)
        if self._latency:
            asyncio.get_running_loop().call_later(self._latency, self._write, ANSWER)
        else:
            self._write(ANSWER)

    def _write(self, body: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(HEAD % len(body) + body)


async def serve(port: int, latency: float, *, remember: bool) -> None:
    counts = Counts(remember=remember)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(latency, counts), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=9100)
    parser.add_argument("--latency", type=float, default=0.5, help="seconds from question to answer")
    parser.add_argument("--remember", action="store_true", help="count repeated questions (memory grows)")
    arguments = parser.parse_args()
    uvloop.run(serve(arguments.port, arguments.latency, remember=arguments.remember))
