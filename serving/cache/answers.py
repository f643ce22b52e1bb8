from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import msgspec

from serving.generation import Chunk

PIECE = 80
"""Characters, about, that one chunk of a kept answer has; a token of its own is kept in 200 bytes."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Chunk])


def encode(chunks: Iterable[Chunk]) -> bytes:
    return _encoder.encode(_joined(chunks))


def decode(data: bytes) -> list[Chunk] | None:
    """None for what is no answer, or one in the form of another version."""
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _joined(chunks: Iterable[Chunk]) -> list[Chunk]:
    """The same answer in fewer pieces."""
    joined: list[Chunk] = []
    for chunk in chunks:
        if joined and _continues(joined[-1], chunk):
            last = joined.pop()
            chunk = replace(chunk, text=last.text + chunk.text, reasoning=last.reasoning + chunk.reasoning)
        joined.append(chunk)
    return joined


def _continues(last: Chunk, chunk: Chunk) -> bool:
    if any(each.finish_reason or each.tool_calls or each.logprobs for each in (last, chunk)):
        return False
    same_kind = bool(last.reasoning) == bool(chunk.reasoning) and bool(last.text) == bool(chunk.text)
    return same_kind and last.choice == chunk.choice and len(last.text) + len(last.reasoning) < PIECE
