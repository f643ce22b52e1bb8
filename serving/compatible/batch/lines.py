from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterable
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec
from msgspec import Struct

from serving import decoding
from serving.errors import MalformedBody

MAX_LINES = 50_000
MAX_LINE_BYTES = 6 << 20
AT_ONCE = 10_000
"""Lines that are looked at before other requests get their turn."""
MAX_CUSTOM_ID = 512
MAX_PROBLEMS = 100
"""Told of one file. Who has more has one mistake many times."""
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Line:
    """Line `number`, from 1, of a file: its bytes, and from where up to where they are in the file."""

    number: int
    start: int
    end: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a file is no input of a batch; `line` is None for what concerns the whole of it."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class LineTooLong(Exception):
    """Raised where no end of a line comes for more bytes than one may have."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"line {number} has more than {MAX_LINE_BYTES} bytes")


async def split(pieces: AsyncIterable[bytes]) -> AsyncGenerator[Line, None]:
    """The lines that are not blank. Raises `LineTooLong`."""
    rest = b""
    position = number = 0
    async for piece in _with_end(pieces):
        *ended, rest = (rest + piece).split(b"\n")
        for data in ended:
            number += 1
            if not number % AT_ONCE:
                await asyncio.sleep(0)  # an empty file of a million lines is one piece
            if len(data) > MAX_LINE_BYTES:
                raise LineTooLong(number)
            if data.strip():
                yield Line(number, position, position + len(data), data)
            position += len(data) + 1
        if len(rest) > MAX_LINE_BYTES:
            raise LineTooLong(number + 1)
        await asyncio.sleep(0)  # a fast disk has each piece at hand: 150 MB held the event loop for 2 s


async def _with_end(pieces: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    async for piece in pieces:
        yield piece
    yield b"\n"


class _Model(Struct):
    model: str | None = None


class _Line(Struct):
    custom_id: str | None = None
    method: str | None = None
    url: str | None = None
    body: _Model | None = None


class _Asked(Struct):
    custom_id: str
    body: msgspec.Raw


_decoder = msgspec.json.Decoder(_Line)
_asked_decoder = msgspec.json.Decoder(_Asked)


def asked(data: bytes) -> tuple[str, msgspec.Raw]:
    """The custom id and the body of a line that has been checked."""
    line = _asked_decoder.decode(data.removeprefix(BOM))
    return line.custom_id, line.body


@dataclass(slots=True)
class Check:
    """Looks at the lines of a file one by one. `problems` is empty in the end if it is the input of a batch.

    Of each custom id 16 bytes are kept, to find those that are used twice.
    """

    endpoint: str
    models: tuple[str, ...]
    most: int = MAX_LINES
    problems: list[Problem] = field(default_factory=list)
    lines: int = 0
    _model: str | None = None
    _seen: set[bytes] = field(default_factory=set)

    @property
    def full(self) -> bool:
        """Whether enough has been found."""
        return len(self.problems) >= MAX_PROBLEMS or self.lines > self.most

    async def read(self, pieces: AsyncIterable[bytes]) -> None:
        try:
            async for line in split(pieces):
                self.add(line)
                if self.full:
                    break
        except LineTooLong as error:
            message = f"Payload Too Large. A line is limited to {MAX_LINE_BYTES} bytes."
            self.problems.append(Problem("line_too_large", message, None, error.number))
        if not self.lines and not self.problems:
            self.problems.append(Problem("empty_file", "The input file has no lines.", "input_file_id"))
        if self.lines > self.most:
            self.problems.append(Problem("too_many_lines", f"The input file has more than {self.most} lines."))

    def add(self, line: Line) -> None:
        self.lines += 1
        try:
            with decoding.refusing():
                sent = _decoder.decode(line.data.removeprefix(BOM))
        except MalformedBody as error:
            detail = error.message.removeprefix(MalformedBody.message).strip()
            self._refuse(line, "invalid_json_line", f"The line is not a valid request: {detail}", None)
        else:
            self._check(line, sent)

    def _check(self, line: Line, sent: _Line) -> None:
        for name in ("custom_id", "method", "url", "body"):
            if not getattr(sent, name):
                self._refuse(line, "missing_required_parameter", f"Missing required parameter: '{name}'.", name)
                return
        self._check_id(line, sent.custom_id or "")
        if sent.method != "POST":
            self._refuse(
                line, "invalid_method", f"The method '{_short(sent.method)}' is not supported: POST.", "method"
            )
        if sent.url != self.endpoint:
            message = f"The provided url '{_short(sent.url)}' is not supported by the Batch API."
            self._refuse(line, "url_not_found", message, "url")
        self._check_model(line, (sent.body or _Model()).model)

    def _check_id(self, line: Line, custom_id: str) -> None:
        digest = hashlib.blake2b(custom_id.encode(), digest_size=16).digest()
        if len(custom_id) > MAX_CUSTOM_ID:
            message = f"A custom_id is limited to {MAX_CUSTOM_ID} characters, got {len(custom_id)}."
            self._refuse(line, "invalid_custom_id", message, "custom_id")
        elif digest in self._seen:
            message = f"The custom_id '{_short(custom_id)}' is used by an earlier line."
            self._refuse(line, "duplicate_custom_id", message, "custom_id")
        self._seen.add(digest)

    def _check_model(self, line: Line, model: str | None) -> None:
        if not model:
            self._refuse(line, "missing_required_parameter", "you must provide a model parameter.", "body.model")
        elif model not in self.models:
            message = f"The provided model {_short(model)} is not supported by the Batch API."
            self._refuse(line, "model_not_found", message, "body.model")
        elif model != (self._model or model):
            message = f"The model {_short(model)} is not that of the lines before: one file asks one model."
            self._refuse(line, "mismatched_model", message, "body.model")
        else:
            self._model = model

    def _refuse(self, line: Line, code: str, message: str, param: str | None) -> None:
        self.problems.append(Problem(code, message, param, line.number))


def _short(value: str | None) -> str:
    return (value or "")[:80]
