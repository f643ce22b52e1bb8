"""A vLLM whose delays are known to the millisecond: what is left of a request's time is somebody else's.

    python -m benchmarks.mock_engine --port 9000 --pieces 8                      answers at once
    python -m benchmarks.mock_engine --ttft 0.2 --gap 0.02 --pieces 150          an engine of 50 tokens a second
    python -m benchmarks.mock_engine --ttft 0.1 --slots 4 --error 429:0.1        four at a time, a tenth refused

`PUT /mock` with a JSON object of knobs changes them while it runs: {"stall": 2} holds every answer for two seconds,
{"error": {"429": 1.0}} refuses all. `GET /mock` tells how many answers are open, and how many were left by their
clients before the end. `--log FILE` writes when each request was complete and when each answer's first and
last piece left, by the monotonic clock that all processes of a machine share.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TextIO, cast

import httptools
import orjson
import uvloop

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ntransfer-encoding: chunked\r\n\r\n"
PROMPT_TOKENS = 320
IMAGE_TOKENS = 300
_ENDS = 4096
"""Bytes kept of both ends of a body: `stream` stands in one of them, images in between."""

_TICK = 0.001
"""Seconds: what uvloop's timers count in."""

_RESET = 599
"""As an error's status: the connection breaks after half of the answer."""


@dataclass(frozen=True)
class Knobs:
    """How the engine behaves. Times in seconds.

    Attributes:
        ttft: until the first piece, taken in turn by one request after the other.
        gap: between two pieces.
        pieces: tokens, and events, of an answer, taken in turn.
        slots: answers at a time, the others queue; 0 for no bound.
        error: share of the requests that are refused, by status; 599 breaks the connection in mid-answer.
        seed: of who is refused.
    """

    ttft: tuple[float, ...] = (0.0,)
    gap: float = 0.0
    pieces: tuple[int, ...] = (8,)
    slots: int = 0
    error: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0

    def changed(self, values: Mapping[str, Any]) -> Knobs:
        """Raises ValueError: no such knob."""
        unknown = values.keys() - {each.name for each in fields(self)}
        if unknown:
            raise ValueError(f"no such knob: {', '.join(sorted(unknown))}")
        given: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return replace(self, **given)


def event(text: str | None, finish: str | None, completion: int, image: int | None = None) -> bytes:
    """One chunk in the shape and size of vLLM 0.32's, with continuous usage; `text` None is the closing usage."""
    details = None if image is None else {"cached_tokens": None, "multimodal_tokens": {"image": image}}
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": finish, "token_ids": None}
    body = {
        "id": "chatcmpl-8f14e45fceea167a",
        "object": "chat.completion.chunk",
        "created": 1_760_000_000,
        "model": "mock",
        "choices": [] if text is None else [choice],
        "usage": usage(completion) | {"prompt_tokens_details": details},
    }
    return b"data: " + orjson.dumps(body) + b"\n\n"


def usage(completion: int) -> dict[str, Any]:
    total = PROMPT_TOKENS + completion
    return {"prompt_tokens": PROMPT_TOKENS, "total_tokens": total, "completion_tokens": completion}


@lru_cache(maxsize=256)
def answer(pieces: int) -> list[bytes]:
    """The writes of one streamed answer, each a chunk of HTTP; the last one ends it."""
    events = [event("token ", None, count) for count in range(1, pieces + 1)]
    tail = event("", "stop", pieces) + event(None, None, pieces, image=IMAGE_TOKENS) + b"data: [DONE]\n\n"
    return [b"%x\r\n%s\r\n" % (len(body), body) for body in (*events, tail)]


@lru_cache(maxsize=256)
def whole(pieces: int) -> bytes:
    """The body of an answer that was not asked for as a stream."""
    details = {"cached_tokens": None, "multimodal_tokens": {"image": IMAGE_TOKENS}}
    message = {"role": "assistant", "content": "token " * pieces}
    body = {
        "id": "chatcmpl-8f14e45fceea167a",
        "object": "chat.completion",
        "created": 1_760_000_000,
        "model": "mock",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": usage(pieces) | {"prompt_tokens_details": details},
    }
    return orjson.dumps(body)


def response(status: int, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status} Mock\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Engine:
    """What all connections share: the knobs, the slots, a stall, the log."""

    def __init__(self, knobs: Knobs, log: TextIO | None = None) -> None:
        self.served = self.open = self.left = 0
        self._log = log
        self._stalled_until = 0.0
        self.turn(knobs)

    def turn(self, knobs: Knobs) -> None:
        """From now on it behaves like that."""
        self.knobs = knobs
        self._random = random.Random(knobs.seed)
        self._slots = asyncio.Semaphore(knobs.slots) if knobs.slots else None

    def control(self, body: bytes) -> bytes:
        """`PUT /mock`."""
        try:
            values = json.loads(body)
            stall = float(values.pop("stall", 0.0))
            self.turn(self.knobs.changed(values))
        except (ValueError, TypeError, AttributeError) as error:
            return response(400, orjson.dumps({"message": str(error)}))
        self._stalled_until = time.monotonic() + stall
        return response(200, orjson.dumps({"knobs": str(self.knobs), "stall": stall}))

    def state(self) -> bytes:
        """`GET /mock`."""
        return response(200, orjson.dumps({"served": self.served, "open": self.open, "left": self.left}))

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Around an answer."""
        self.open += 1
        try:
            yield
        except asyncio.CancelledError:
            self.left += 1
            raise
        finally:
            self.open -= 1

    def luck(self) -> int | None:
        """The status with which the next request is refused, None when it is served."""
        if not self.knobs.error:
            return None
        drawn = self._random.random()
        for status, share in self.knobs.error.items():
            if drawn < share:
                return int(status)
            drawn -= share
        return None

    def next(self) -> tuple[float, float, int]:
        """TTFT, gap and pieces of the next answer."""
        knobs, turn = self.knobs, self.served
        self.served += 1
        return knobs.ttft[turn % len(knobs.ttft)], knobs.gap, knobs.pieces[turn % len(knobs.pieces)]

    async def until(self, when: float) -> None:
        """Waits for a time of the monotonic clock (uvloop's own has whole milliseconds), and for the end of a stall."""
        while (early := self.early(when)) > 0:  # noqa: ASYNC110 -- stalls come meanwhile
            await asyncio.sleep(early)

    def early(self, when: float) -> float:
        """Seconds until a time of the monotonic clock, and until the end of a stall."""
        return max(when, self._stalled_until) - time.monotonic()

    async def run(self, work: Callable[[], Any]) -> None:
        """Does `work` within a slot."""
        if self._slots is None:
            await work()
            return
        async with self._slots:
            await work()

    def note(self, **times: int) -> None:
        if self._log is not None:
            self._log.write(json.dumps(times) + "\n")


class Pouring:
    """A streamed answer: each piece is a write of its own, as an engine's tokens are, and due at a time that no other
    delays.

    A timer for each piece, where a task that sleeps costs three times as much: generators on the same machine want the
    CPU. A timer has whole milliseconds, so a piece leaves within one of when it is due.
    """

    def __init__(self, engine: Engine, write: Callable[[bytes], None], start: float, gap: float, pieces: int) -> None:
        self.first = 0
        self._engine, self._write = engine, write
        self._start, self._gap, self._last = start, gap, pieces - 1
        self._writes, self._sent, self._until = answer(pieces), 0, 0
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._timer: asyncio.Handle | None = None

    async def poured(self, until: int) -> None:
        """So many writes; the answer's end is one, which leaves with the last piece."""
        self._until = until
        self._step()
        try:
            await self._done
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def _step(self) -> None:
        if self._early() <= _TICK:
            self._pour()
        if self._sent == self._until:
            self._done.set_result(None)
        elif (early := self._early()) > _TICK:
            self._timer = self._loop.call_later(early, self._step)
        else:  # not at once: two writes in one turn of the loop would leave as one
            self._timer = self._loop.call_soon(self._step)

    def _early(self) -> float:
        return self._engine.early(self._start + self._gap * min(self._sent, self._last))

    def _pour(self) -> None:
        piece = self._writes[self._sent]
        self._sent += 1
        if self.first:
            self._write(piece)
            return
        # The head leaves with the first piece, as vLLM's does.
        self._write(HEAD % b"text/event-stream; charset=utf-8" + piece)
        self.first = time.perf_counter_ns()


class Connection(asyncio.Protocol):
    """One client; one request at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._answering: asyncio.Task[None] | None = None
        self._url = self._head = self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are no subclasses

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answering is not None:
            self._answering.cancel()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._url = self._head = self._tail = b""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        if len(self._head) < _ENDS:
            self._head += body[:_ENDS]
        self._tail = body[-_ENDS:] if len(body) >= _ENDS else (self._tail + body)[-_ENDS:]

    def on_message_complete(self) -> None:
        method = self._parser.get_method()
        if method == b"PUT":
            self._write(self._engine.control(self._tail))
        elif method == b"POST":
            self._answering = asyncio.get_running_loop().create_task(self._serve())
        elif self._url == b"/mock":
            self._write(self._engine.state())
        else:
            self._write(response(200, b'{"object":"list","data":[{"id":"mock","max_model_len":32768}]}'))

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    @property
    def _streamed(self) -> bool:
        # A short body is in both ends, and saying the same twice does no harm.
        ends = self._head + self._tail
        return b'"stream":true' in ends or b'"stream": true' in ends

    async def _serve(self) -> None:
        received, status = time.perf_counter_ns(), self._engine.luck()
        if status is not None and status != _RESET:
            message = {"message": f"mock error {status}", "type": "mock", "param": None, "code": status}
            self._write(response(status, orjson.dumps({"error": message})))
            return
        work = self._stream if self._streamed else self._whole
        with self._engine.counted():
            await self._engine.run(lambda: work(received, status == _RESET))

    async def _whole(self, received: int, broken: bool) -> None:
        ttft, gap, pieces = self._engine.next()
        await self._engine.until(time.monotonic() + ttft + gap * pieces)
        if broken:
            self._break()
            return
        self._engine.note(received=received, first=time.perf_counter_ns(), last=time.perf_counter_ns())
        self._write(response(200, whole(pieces)))

    async def _stream(self, received: int, broken: bool) -> None:
        ttft, gap, pieces = self._engine.next()
        start = time.monotonic() + ttft
        await self._engine.until(start)
        pouring = Pouring(self._engine, self._write, start, gap, pieces)
        if broken:
            await pouring.poured(until=pieces // 2 + 1)
            self._break()
            return
        await pouring.poured(until=pieces + 1)
        self._write(b"0\r\n\r\n")
        self._engine.note(received=received, first=pouring.first, last=time.perf_counter_ns())

    def _break(self) -> None:
        if self._transport is not None:
            self._transport.abort()


async def listen(engine: Engine, port: int = 0) -> asyncio.Server:
    """Serves on the loopback address; port 0 takes a free one."""
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: Connection(engine), "127.0.0.1", port, backlog=4096)


async def serve(port: int, knobs: Knobs, log: Path | None = None) -> None:
    with (log or Path("/dev/null")).open("w", buffering=1) as file:
        server = await listen(Engine(knobs, file if log else None), port)
        await server.serve_forever()


def _floats(given: str) -> tuple[float, ...]:
    return tuple(float(each) for each in given.split(","))


def _integers(given: str) -> tuple[int, ...]:
    return tuple(int(each) for each in given.split(","))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--pieces", type=_integers, default=(8,), help="tokens, and events, of an answer: 8 or 8,16,32")
    parser.add_argument("--ttft", type=_floats, default=(0.0,), help="seconds to the first piece: 0.2 or 0.1,0.2,0.9")
    parser.add_argument("--gap", type=float, default=0.0, help="seconds between two pieces")
    parser.add_argument("--slots", type=int, default=0, help="answers at a time, 0 for any number")
    parser.add_argument("--error", action="append", default=[], metavar="STATUS:SHARE", help="refuse a share")
    parser.add_argument("--seed", type=int, default=0, help="of who is refused")
    parser.add_argument("--log", type=Path, help="times of every answer, JSON lines")
    given = parser.parse_args()
    errors = {status: float(share) for status, _, share in (each.partition(":") for each in given.error)}
    knobs = Knobs(given.ttft, given.gap, given.pieces, given.slots, errors, given.seed)
    uvloop.run(serve(given.port, knobs, given.log))


if __name__ == "__main__":
    main()
