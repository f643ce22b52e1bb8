from __future__ import annotations

from serving.engine.tokens import Tokens
from tests.fakes import FakeEngine


class Scripted(FakeEngine):
    """A scripted engine that also tells tokens: one for each character."""

    async def tokenize(self, text: str) -> Tokens:
        return Tokens([ord(letter) for letter in text], list(text))
