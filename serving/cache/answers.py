from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec.structs import replace

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
    alike: list[Chunk] = []
    size = 0
    for chunk in chunks:
        if alike and not (size < PIECE and _continues(alike[-1], chunk)):
            joined.append(_one(alike))
            alike, size = [], 0
        alike.append(chunk)
        size += len(chunk.text) + len(chunk.reasoning)
    return [*joined, _one(alike)] if alike else joined


def _one(chunks: list[Chunk]) -> Chunk:
    if len(chunks) == 1:
        return chunks[0]
    text, reasoning = ("".join(parts) for parts in zip(*((each.text, each.reasoning) for each in chunks), strict=True))
    return replace(chunks[-1], text=text, reasoning=reasoning)


def _continues(last: Chunk, chunk: Chunk) -> bool:
    return (
        _is_plain(last)
        and _is_plain(chunk)
        and last.choice == chunk.choice
        and bool(last.reasoning) == bool(chunk.reasoning)
        and bool(last.text) == bool(chunk.text)
    )


def _is_plain(chunk: Chunk) -> bool:
    return not (chunk.finish_reason or chunk.tool_calls or chunk.logprobs)
