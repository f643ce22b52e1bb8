from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from serving.errors import EngineUnavailable


@dataclass(frozen=True, slots=True)
class Tokens:
    """A text as the model reads it: the `ids` of its tokens and the text of each. A token that is a part of a character
    has U+FFFD for its text."""

    ids: list[int]
    texts: list[str]


@runtime_checkable
class Tokenizer(Protocol):
    """What an engine can do besides answering, if it can."""

    async def tokenize(self, text: str) -> Tokens:
        """The text alone, without the chat template around it. Raises `EngineUnavailable`."""
        ...


async def of(engine: object, text: str) -> Tokens:
    """The tokens that the engine tells, if it is one that does. Raises `EngineUnavailable`."""
    if not isinstance(engine, Tokenizer):
        raise EngineUnavailable
    return await engine.tokenize(text)


def _alphabet() -> dict[str, int]:
    """The letters in which byte-level vocabularies write bytes: printable Latin-1 for itself, what is left from U+0100
    on, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + place): byte for place, byte in enumerate(others)}


_ALPHABET = _alphabet()


def readable(token: str) -> str:
    """A token of a byte-level vocabulary as the text it stands for."""
    try:
        return bytes([_ALPHABET[letter] for letter in token]).decode(errors="replace")
    except KeyError:  # a special token is written as it is
        return token
