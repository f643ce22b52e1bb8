"""A vLLM that answers at once with a fixed text: what is left of a request's time is the gateway's.

python -m benchmarks.mock_engine --port 9000 --pieces 8
"""

from __future__ import annotations

import argparse
import asyncio
from typing import cast

import httptools
import orjson
import uvloop

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ntransfer-encoding: chunked\r\n\r\n"
PROMPT_TOKENS = 320


def event(text: str | None, finish: str | None, completion: int, image: int | None = None) -> bytes:
    """One chunk in the shape and size of vLLM 0.32's, with continuous usage; `text` None is the closing usage."""
    details = None if image is None else {"cached_tokens": None, "multimodal_tokens": {"image": image}}
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": finish, "token_ids": None}
    usage = {
        "prompt_tokens": PROMPT_TOKENS,
        "total_tokens": PROMPT_TOKENS + completion,
        "completion_tokens": completion,
    }
    body = {
        "id": "chatcmpl-8f14e45fceea167a",
        "object": "chat.completion.chunk",
        "created": 1_760_000_000,
        "model": "mock",
        "choices": [] if text is None else [choice],
        "usage": usage | {"prompt_tokens_details": details},
    }
    return b"data: " + orjson.dumps(body) + b"\n\n"


def answer(pieces: int) -> list[bytes]:
    """The writes of one answer, each a chunk of HTTP."""
    events = [event("token ", None, count) for count in range(1, pieces + 1)]
    tail = event("", "stop", pieces) + event(None, None, pieces, image=300) + b"data: [DONE]\n\n"
    return [b"%x\r\n%s\r\n" % (len(body), body) for body in (*events, tail)]


class Connection(asyncio.Protocol):
    def __init__(self, writes: list[bytes]) -> None:
        self._writes = writes
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._answering: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are no subclasses

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        post = self._parser.get_method() == b"POST"
        self._answering = asyncio.get_running_loop().create_task(self._answer() if post else self._tell())

    async def _tell(self) -> None:
        """Any GET: health or models."""
        assert self._transport is not None
        body = b'{"object":"list","data":[{"id":"mock"}]}'
        chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        self._transport.write(HEAD % b"application/json" + chunk)

    async def _answer(self) -> None:
        """Each piece is a write of its own, as an engine's tokens are."""
        assert self._transport is not None
        self._transport.write(HEAD % b"text/event-stream; charset=utf-8")
        for piece in self._writes:
            self._transport.write(piece)
            await asyncio.sleep(0)
        self._transport.write(b"0\r\n\r\n")


async def serve(port: int, pieces: int) -> None:
    writes = answer(pieces)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(writes), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--pieces", type=int, default=8, help="tokens, and events, of an answer")
    arguments = parser.parse_args()
    uvloop.run(serve(arguments.port, arguments.pieces))
