from __future__ import annotations

import re
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import unquote_to_bytes

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from serving.errors import MalformedBody

MAX_PARTS = 1000
MALFORMED = "It is not well-formed multipart/form-data."
EXTENDED_FILENAME = re.compile(rb"filename\*=\s*utf-8''([^;\s]+)", re.IGNORECASE)
"""What urllib3 1 writes for a name that is not ASCII, against RFC 7578."""


@dataclass(frozen=True, slots=True)
class Part:
    """The beginning of one field. `filename` is None for a field that does not say it is a file."""

    name: str
    filename: str | None = None


Event: TypeAlias = Part | bytes
"""A field begins, or some of its bytes come."""


@dataclass
class Form:
    """A multipart form as its bytes come in: one field at a time, in the order in which the client sent them.

    At no time is more held than what one piece of the body brought. Nothing is read beyond the end of the form. Raises
    `MalformedBody` when the body is not the form that its headers announce, or ends before the form does.
    """

    content_type: str
    chunks: AsyncIterator[bytes]
    _events: deque[Event] = field(default_factory=deque)

    def __post_init__(self) -> None:
        kind, options = parse_options_header(self.content_type)
        boundary = options.get(b"boundary", b"")
        if kind != b"multipart/form-data" or not boundary:
            raise MalformedBody(MALFORMED)
        try:
            self._parser = _Parser(boundary, self._events)
        except FormParserError:
            raise MalformedBody(MALFORMED) from None

    async def fields(self) -> AsyncGenerator[tuple[Part, AsyncGenerator[bytes, None]], None]:
        """Each field with its bytes. Bytes that were not read are skipped when the next field is asked for."""
        count = 0
        while (event := await self._next()) is not None:
            if isinstance(event, Part):
                count += 1
                if count > MAX_PARTS:
                    raise MalformedBody(f"{MALFORMED} It has more than {MAX_PARTS} parts.")
                yield event, self._bytes()

    async def _bytes(self) -> AsyncGenerator[bytes, None]:
        while (event := await self._next()) is not None:
            if isinstance(event, Part):
                self._events.appendleft(event)
                return
            yield event

    async def _next(self) -> Event | None:
        while not self._events:
            if self._parser.ended:
                return None
            chunk = await anext(self.chunks, None)
            if chunk is None:
                raise MalformedBody(MALFORMED)
            self._parser.feed(chunk)
        return self._events.popleft()


async def text(pieces: AsyncIterator[bytes], limit: int) -> str:
    """A field that is text. Raises `MalformedBody` beyond `limit` bytes, and for what is not UTF-8."""
    read = bytearray()
    async for piece in pieces:
        read += piece
        if len(read) > limit:
            raise MalformedBody(f"A text field is limited to {limit} bytes.")
    if b"\0" in read:
        raise MalformedBody("A text field contains a null character.")
    try:
        return read.decode()
    except UnicodeDecodeError:
        raise MalformedBody("A text field is not UTF-8.") from None


class _Parser:
    """python-multipart's callbacks as events."""

    def __init__(self, boundary: bytes, events: deque[Event]) -> None:
        self.ended = False
        self._events = events
        self._header, self._value = bytearray(), bytearray()
        self._disposition = b""
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._on_field,
                "on_header_value": self._on_value,
                "on_header_end": self._on_header,
                "on_headers_finished": self._on_headers,
                "on_part_data": self._on_data,
                "on_end": self._on_end,
            },
        )

    def feed(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except FormParserError:
            raise MalformedBody(MALFORMED) from None

    def _begin(self) -> None:
        self._disposition = b""

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _on_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        filename = options.get(b"filename")
        if filename is None and (extended := EXTENDED_FILENAME.search(self._disposition)):
            filename = unquote_to_bytes(extended[1])
        self._events.append(Part(_decoded(options.get(b"name", b"")), None if filename is None else _decoded(filename)))

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        self._events.append(data[start:end])

    def _on_end(self) -> None:
        self.ended = True


def _decoded(name: bytes) -> str:
    return name.decode(errors="replace")
