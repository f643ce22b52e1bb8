"""How each protocol tells a failure: as the body of an answer, or as the last frame of a stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import orjson

from serving import sse
from serving.errors import ServingError


def to_json(error: ServingError, request_id: str) -> bytes:
    """The cloud's error body: exactly three keys, `code` first (some clients look for the literal `{"code":`)."""
    return orjson.dumps({"code": error.code, "message": error.message, "request_id": request_id})


def to_sse(error: ServingError, request_id: str, event_id: int) -> bytes:
    """The last frame of a stream that failed after it began."""
    return sse.frame(event_id, "error", error.status, to_json(error, request_id))


def to_compatible_json(error: ServingError, request_id: str) -> bytes:
    """The error body of the OpenAI-compatible protocol, with the ids beside `error` that the cloud has there: a call
    that no key let in is no completion."""
    completion = {} if error.status == 401 else {"id": f"chatcmpl-{request_id}"}
    return orjson.dumps({"error": _compatible(error), **completion, "request_id": request_id})


def to_compatible_sse(error: ServingError, request_id: str, event_id: int) -> bytes:
    """The last event of a stream of that protocol; it numbers none."""
    return b"data: " + to_compatible_json(error, request_id) + b"\n\n"


def compatible_status(error: ServingError) -> int:
    return error.alias.status or error.status


def _compatible(error: ServingError) -> dict[str, str | None]:
    alias = error.alias
    return {"message": error.compatible_message, "type": alias.type, "param": error.param, "code": alias.code}


def native_status(error: ServingError) -> int:
    return error.status


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a protocol tells a failure: as the `body` of an answer with a `status`, or, once a stream has
    begun, as its last `frame`, which is given the number that a frame would have now."""

    body: Callable[[ServingError, str], bytes]
    frame: Callable[[ServingError, str, int], bytes]
    content_type: bytes = b"application/json"
    status: Callable[[ServingError], int] = native_status


NATIVE = Dialect(to_json, to_sse)
COMPATIBLE = Dialect(to_compatible_json, to_compatible_sse, status=compatible_status)
