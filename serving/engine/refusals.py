"""What vLLM says when it does not answer, as errors of the server."""

from __future__ import annotations

import logging
import re

import msgspec
from msgspec import Struct

from serving.errors import (
    ContextTooLong,
    EngineUnavailable,
    GenerationFailed,
    ImageForgotten,
    InvalidImage,
    InvalidRequest,
    Overloaded,
    ServingError,
)

log = logging.getLogger(__name__)

RETRY_AFTER = 5
"""Seconds to wait for an engine that is away; clients cap the header at 8."""

CONTEXT = re.compile(
    r"(?:maximum context length(?: is)? \(?|cannot be greater than max_model_len=|maximum model length of )(\d+)"
)
LENGTH = re.compile(
    r"(?:prompt contains |prompt \(length |Input length \()((?:at least )?\d++(?: characters)?)(?!\) plus)"
)
"""How long the prompt is. Texts are cut one token beyond the limit, or not even tokenized, if they are far too long."""
DYING = re.compile(r"EngineCore encountered an issue|EngineDeadError|engine is dead", re.IGNORECASE)
"""The server outlives its engine for a moment, and says so with a 500."""
FORGOTTEN = re.compile(r"Cache miss for \w+ at index \d+ but data is not provided")
BAD_IMAGE = re.compile(r"failed to load image|cannot identify image|image file is truncated", re.IGNORECASE)
OPTIONS = {
    "priority": re.compile(r"priority scheduling", re.IGNORECASE),
    "thinking_token_budget": re.compile(r"thinking_token_budget"),
}
"""Of a request that an engine refuses if it was not started for them, and that an answer can do without."""
EXCEPTION = re.compile(r"[A-Z][A-Za-z]{1,40}(?:Error|Exception)\b")
UNPREPARED = re.compile(r"media_io_kwargs are disabled|--enable-auto-tool-choice|--tool-call-parser")
"""Of an engine that somebody started without what videos or tools need: no fault of the client."""


NOT_PREPARED = "Videos and tools are not offered by this server: its engine was not started for them."


class OptionRefused(Exception):
    """Raised when the engine does not take `option`, which the request can do without."""

    def __init__(self, option: str) -> None:
        super().__init__(option)
        self.option = option


class _Error(Struct):
    message: str = ""


class _Refusal(Struct):
    error: _Error | None = None


def _kind(text: str) -> str:
    """The class of exception that a failure begins with, which quotes nothing."""
    found = EXCEPTION.match(text)
    return f": {found[0]}" if found else ""


def message(body: bytes) -> str:
    try:
        error = msgspec.json.decode(body, type=_Refusal).error
    except (msgspec.MsgspecError, UnicodeDecodeError):
        error = None
    return error.message if error is not None else ""


def refusal(status: int, text: str) -> ServingError:
    """The error for an answer other than 200, or for an error event in a stream. Raises `OptionRefused`."""
    if context := CONTEXT.search(text):
        length = LENGTH.search(text)
        return ContextTooLong(int(context[1]), length[1] if length else "")
    if FORGOTTEN.search(text):
        return ImageForgotten()
    if BAD_IMAGE.search(text):
        return InvalidImage(f"{InvalidImage.message} [{text[:300]}]")
    if option := next((name for name, pattern in OPTIONS.items() if pattern.search(text)), None):
        raise OptionRefused(option)
    if UNPREPARED.search(text):
        log.error("the engine was not started for a request: %s", UNPREPARED.findall(text)[0])
        return InvalidRequest(NOT_PREPARED)
    if status in (400, 413, 422):
        return InvalidRequest(text[:500] or None)
    # Not the text: what an engine says of a failure may quote the prompt. Its own log has it.
    log.warning("engine answered %d, with %d characters%s", status, len(text), _kind(text))
    if status == 429:  # busy, and not gone: to be left alone for a growing pause would make the others busy, too
        return Overloaded(retry_after=RETRY_AFTER)
    if status in (401, 403, 404, 502, 503, 504) or DYING.search(text):
        return EngineUnavailable(retry_after=RETRY_AFTER)
    return GenerationFailed()
