"""A DashScope that answers every question after a fixed time: what is left of a batch's time is the client's.

    python -m benchmarks.client_mock --port 9100 --latency 0.5

Every POST, to any path, is a question and gets the same answer of the native protocol; there is nothing to GET, no
store for uploads either.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import cast

import httptools
import orjson
import uvloop

PATH = "/services/aigc/multimodal-generation/generation"
HEAD = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def waited(port: int, seconds: float = 30.0) -> None:
    """Returns once something listens there.

    Raises:
        TimeoutError: nothing did.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise TimeoutError(f"nothing listens on port {port}")


class Log:
    """Appends the digest of every question's image, 16 hexadecimal digits, before the question is answered."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def add(self, body: bytes) -> None:
        uri = orjson.loads(body)["input"]["messages"][0]["content"][0]["image"]
        digest = hashlib.sha256(base64.b64decode(uri.partition(",")[2])).hexdigest()[:16]
        os.write(self._file, f"{digest}\n".encode())


class Connection(asyncio.Protocol):
    def __init__(self, latency: float, log: Log | None) -> None:
        self._latency, self._log = latency, log
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
            self._write(b"{}", b"404 Not Found")
            return
        if self._log is not None:
            self._log.add(body)
        if self._latency:
            asyncio.get_running_loop().call_later(self._latency, self._write, ANSWER)
        else:
            self._write(ANSWER)

    def _write(self, body: bytes, status: bytes = b"200 OK") -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(HEAD % (status, len(body)) + body)


async def serve(port: int, latency: float, log: Log | None) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(latency, log), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=9100)
    parser.add_argument("--latency", type=float, default=0.5, help="seconds from question to answer")
    parser.add_argument("--log", type=Path, help="write the digest of every question's image to this file")
    arguments = parser.parse_args()
    uvloop.run(serve(arguments.port, arguments.latency, None if arguments.log is None else Log(arguments.log)))
