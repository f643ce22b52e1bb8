"""The native DashScope protocol: dictionaries in, dictionaries out.

request   POST {base_url}/services/aigc/multimodal-generation/generation
          {"model", "input": {"messages": [{"role": "user", "content": [{"image": ...}, {"text": ...}]}]}, "parameters"}
answer    {"output": {"choices": [{"finish_reason", "message": {"role", "content": [{"text"}]}}]},
           "usage": {...}, "request_id"}
stream    the same per event, with increments of text and finish_reason "null" until the last one
error     {"code", "message", "request_id"}
"""

from __future__ import annotations

import email.utils
import json
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from client.errors import BadResponse, ServiceError, service_error
from client.images import DataURI
from client.models import Answer, Piece, Usage
from client.structured import whole_characters

PATH = "/services/aigc/multimodal-generation/generation"

_PLACE = f"image-{secrets.token_hex(16)}"
"""Where an image goes; drawn at the start, so that no prompt can hold it."""

_SHAPE_ERRORS = (KeyError, IndexError, TypeError, AttributeError, ValueError)


def request(images: Sequence[str], prompt: str, model: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a request. `images` are URLs, data URIs or `oss://` references, in the order the model sees them."""
    content = [*({"image": image} for image in images), {"text": prompt}]
    return {
        "model": model,
        "input": {"messages": [{"role": "user", "content": content}]},
        "parameters": dict(parameters),
    }


def encoded(body: Mapping[str, Any]) -> bytes:
    """The JSON of a request. Images in base64 are put in as they are: the search for what JSON has to escape takes as
    long as the rest of a request."""
    images = [each for each in references(body) if isinstance(each, DataURI)]
    if not images:
        return _json(body)
    messages = [
        message | {"content": [_with_place(part) for part in message["content"]]}
        for message in body["input"]["messages"]
    ]
    parts = _json({**body, "input": {"messages": messages}}).split(_PLACE.encode())
    filled = [parts[0]]
    for image, part in zip(images, parts[1:], strict=True):
        filled += [image.encode(), part]
    return b"".join(filled)


def _with_place(part: dict[str, Any]) -> dict[str, Any]:
    return part | {"image": _PLACE} if isinstance(part.get("image"), DataURI) else part


def _json(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def references(body: Mapping[str, Any]) -> list[str]:
    """The images of a request: URLs, data URIs or `oss://` references."""
    return [part["image"] for message in body["input"]["messages"] for part in message["content"] if "image" in part]


def refuses_format(error: ServiceError, body: Mapping[str, Any]) -> bool:
    """Whether the server has no guided decoding for this model: the request asked for it, and that is the complaint."""
    return "response_format" in body["parameters"] and any(
        word in error.message.lower() for word in ("response_format", "json_schema", "json_object")
    )


def unguided(body: Mapping[str, Any], words: str) -> dict[str, Any]:
    """The same request without guided decoding; `words`, added to its question, say what is wanted instead."""
    parameters = {name: value for name, value in body["parameters"].items() if name != "response_format"}
    first, *later = body["input"]["messages"]
    *images, question = first["content"]
    asked = first | {"content": [*images, {"text": question["text"] + words}]}
    return {**body, "input": {"messages": [asked, *later]}, "parameters": parameters}


def continued(body: Mapping[str, Any], answered: str, question: str) -> dict[str, Any]:
    """The request that goes on after an answer with another question about the same images."""
    said = {"role": "assistant", "content": [{"text": answered}]}
    messages = [*body["input"]["messages"], said, {"role": "user", "content": [{"text": question}]}]
    return {**body, "input": {"messages": messages}}


def answer(body: bytes, model: str, request_id: str = "") -> Answer:
    """A complete answer from a response body; `request_id` is used where the body has none.

    Raises:
        BadResponse: not JSON, or not an answer.
    """
    payload = _parsed(body)
    request_id = str(payload.get("request_id") or request_id)
    try:
        choice = payload["output"]["choices"][0]
        message = choice["message"]
        return Answer(
            text=_text(message["content"]),
            finish_reason=choice["finish_reason"],
            usage=_usage(payload.get("usage")),
            request_id=request_id,
            model=model,
            reasoning=message.get("reasoning_content") or "",
        )
    except _SHAPE_ERRORS as error:
        raise BadResponse(_not_an_answer(payload), request_id=request_id) from error


def piece(data: str) -> Piece:
    """One event's increment.

    Raises:
        BadResponse: not JSON, or not an answer.
    """
    payload = _parsed(data)
    try:
        choice = payload["output"]["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        return Piece(
            text=_text(message.get("content") or ""),
            finish_reason=None if finish in (None, "null") else str(finish),
            usage=_usage(payload.get("usage")),
            request_id=str(payload.get("request_id") or ""),
            reasoning=message.get("reasoning_content") or "",
        )
    except _SHAPE_ERRORS as error:
        raise BadResponse(_not_an_answer(payload), request_id=str(payload.get("request_id") or "")) from error


def refusal(status: int, body: bytes | str, headers: Mapping[str, str] | None = None) -> ServiceError:
    """The error of a response, whatever its body looks like: JSON, an SSE frame, a proxy's HTML page, nothing."""
    headers = headers or {}
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else body
    payload = _error_object(text)
    return service_error(
        status,
        str(payload.get("code") or ""),
        str(payload.get("message") or f"HTTP {status}: {text.strip()[:200] or 'no explanation given'}"),
        request_id=str(payload.get("request_id") or headers.get("x-request-id", "")),
        retry_after=retry_after(headers),
    )


def is_refusal(data: str) -> bool:
    """True for an event that carries an error, whatever its event type says."""
    payload = _error_object(data)
    return "output" not in payload and bool(payload.get("code"))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait from `retry-after-ms` or `Retry-After` (seconds or an HTTP date); None without either."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        return max(0.0, float(headers["retry-after"]))
    except KeyError:
        return None
    except ValueError:
        return _seconds_until(headers.get("retry-after", ""))


def _seconds_until(date: str) -> float | None:
    try:
        return max(0.0, email.utils.parsedate_to_datetime(date).timestamp() - time.time())
    except ValueError:
        return None


def _parsed(body: bytes | str) -> dict[str, Any]:
    try:
        payload = json.loads(body)
    except ValueError as error:
        raise BadResponse(f"the server's answer is not JSON ({len(body)} bytes)") from error
    if not isinstance(payload, dict):
        raise BadResponse("the server's answer is not a JSON object")
    return payload


def _error_object(text: str) -> dict[str, Any]:
    """The JSON object of an error body; some gateways send it as an SSE frame with the HTTP status of the error."""
    lines = [line.removeprefix("data:") for line in text.splitlines() if line.startswith("data:")]
    try:
        payload = json.loads(lines[0] if lines else text)
    except ValueError:
        return {}
    if not isinstance(payload, dict):
        return {}
    nested = payload.get("error")
    return nested if isinstance(nested, dict) else payload


def _not_an_answer(payload: Mapping[str, Any]) -> str:
    if payload.get("code"):
        return f"{payload['code']}: {payload.get('message', '')}"
    return "the server answered something that is not a DashScope answer; is the base URL the one with /api/v1?"


def _text(content: Any) -> str:
    text = content if isinstance(content, str) else "".join(part["text"] for part in content if "text" in part)
    return whole_characters(text)


def _usage(usage: Mapping[str, Any] | None) -> Usage:
    usage = usage or {}
    counts = {name: int(usage.get(name) or 0) for name in ("input_tokens", "output_tokens", "image_tokens")}
    total = int(usage.get("total_tokens") or counts["input_tokens"] + counts["output_tokens"])
    return Usage(total_tokens=total, **counts)
