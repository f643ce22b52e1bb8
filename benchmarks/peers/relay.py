"""The least that a gateway in Python can do for an event: what is left of another's CPU time is its own work.

    python -m benchmarks.peers.relay --port 8080 --engine http://127.0.0.1:9000

Reads each event of the engine's socket, decodes it, writes it anew in DashScope's form, and sends it to the client in a
write of its own: no keys, no limits, no cache, no records, no back-pressure, and no errors but broken connections.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import cast
from urllib.parse import urlsplit

import httptools
import msgspec
import orjson
import uvloop
from msgspec import Struct

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
FRAME = b"id:%d\nevent:result\n:HTTP_STATUS/200\ndata:%s\n\n"
ASK = b"POST /v1/chat/completions HTTP/1.1\r\nhost: engine\r\ncontent-length: %d\r\n\r\n"
QUESTION = orjson.dumps({"model": "mock", "stream": True, "messages": []})


class _Delta(Struct):
    content: str | None = None


class _Choice(Struct):
    delta: _Delta
    finish_reason: str | None = None


class _Usage(Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Event(Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None


_decoder = msgspec.json.Decoder(_Event)


class Upstream(asyncio.Protocol):
    """A connection to the engine, of one client."""

    def __init__(self, client: Downstream) -> None:
        self._client = client
        self._parser = httptools.HttpResponseParser(self)
        self._begun = b""
        """Of an event whose end has not come."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(ASK % len(QUESTION) + QUESTION)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        *events, self._begun = (self._begun + body).split(b"\n\n")
        for event in events:
            if event == b"data: [DONE]":
                self._client.end()
            elif event:
                self._client.say(_decoder.decode(event[6:]))

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.close()


class Downstream(asyncio.Protocol):
    """A client; each of its requests is answered by a connection of its own to the engine."""

    def __init__(self, host: str, port: int) -> None:
        self._engine = host, port
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._upstream: asyncio.BaseTransport | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._events = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        if self._parser.get_method() == b"GET":
            self._write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            return
        self._events = 0
        self._write(HEAD)
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        self._upstream, _ = await loop.create_connection(lambda: Upstream(self), *self._engine)

    def say(self, event: _Event) -> None:
        usage = event.usage or _Usage()
        choice = event.choices[0] if event.choices else _Choice(_Delta(), "stop")
        content = [{"text": choice.delta.content}] if choice.delta.content else []
        message = {"content": content, "role": "assistant"}
        counts = {"input_tokens": usage.prompt_tokens, "output_tokens": usage.completion_tokens}
        output = {"choices": [{"message": message, "finish_reason": choice.finish_reason or "null"}]}
        self._events += 1
        body = FRAME % (self._events, orjson.dumps({"output": output, "usage": counts, "request_id": "relay"}))
        self._write(b"%x\r\n%s\r\n" % (len(body), body))

    def end(self) -> None:
        self._write(b"0\r\n\r\n")
        if self._upstream is not None:
            self._upstream.close()

    def close(self) -> None:
        self._upstream = None

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._upstream is not None:
            self._upstream.close()


async def _serve(port: int, engine: str) -> None:
    host, at = urlsplit(engine).hostname or "127.0.0.1", urlsplit(engine).port or 80
    server = await asyncio.get_running_loop().create_server(lambda: Downstream(host, at), "127.0.0.1", port)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--engine", required=True, help="address of the engine")
    given = parser.parse_args()
    uvloop.run(_serve(given.port, given.engine))


if __name__ == "__main__":
    main()
