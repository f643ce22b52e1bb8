from __future__ import annotations

import logging
import sys
from dataclasses import dataclass, fields
from typing import Literal

import orjson

requests = logging.getLogger("serving.requests")


@dataclass(frozen=True, slots=True)
class RequestLine:
    """The one line of a finished request. Never what was asked or answered; times in ms, None for what did not happen.

    `outcome` is "ok", "partial", "client_gone" or an error code.
    """

    request_id: str
    key: str
    model: str
    status: int
    outcome: str
    stream: bool
    images: int
    input_tokens: int
    output_tokens: int
    queued_ms: float | None
    first_chunk_ms: float | None
    total_ms: float | None


def span_ms(start: float, end: float | None) -> float | None:
    """Milliseconds between two moments of a `Timeline`, None for an end that never came."""
    return None if end is None else round((end - start) * 1e3, 1)


FIELDS = tuple(field.name for field in fields(RequestLine))


def _values(line: RequestLine) -> dict[str, object]:
    """As `asdict`, without its deep copies, which cost as much as parsing the request."""
    return {name: getattr(line, name) for name in FIELDS}


def finished(line: RequestLine) -> None:
    requests.info("%s", line)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')} {record.levelname.lower():7} {record.name}"
        if isinstance(record.args, tuple) and record.args and isinstance(record.args[0], RequestLine):
            return moment + " " + " ".join(f"{name}={value}" for name, value in _values(record.args[0]).items())
        return f"{moment} {super().format(record)}"


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {"time": self.formatTime(record), "level": record.levelname.lower(), "logger": record.name}
        if isinstance(record.args, tuple) and record.args and isinstance(record.args[0], RequestLine):
            return orjson.dumps(line | _values(record.args[0])).decode()
        return orjson.dumps(line | {"message": super().format(record)}).decode()


def set_up(form: Literal["text", "json"], level: str) -> None:
    """Everything to stderr; stdout belongs to what commands print."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    for chatty in ("uvicorn", "aiosqlite", "sqlalchemy"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
