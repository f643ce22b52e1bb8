from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from client.errors import ConfigurationError
from client.models import Usage

_FORM = re.compile(r"(\d+(?:\.\d+)?):(\d+(?:\.\d+)?)(?::([A-Za-z]{3}))?")


@dataclass(frozen=True, slots=True)
class Price:
    """What a million tokens cost. `currency` is an ISO 4217 code."""

    input: float
    output: float
    currency: str = "CNY"

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `0.15:1.5` or `0.2:0.8:USD`, input first.

        Raises:
            ConfigurationError: it is something else.
        """
        match = _FORM.fullmatch(text)
        if match is None:
            raise ConfigurationError(f"{text!r} is no price: IN:OUT[:CURRENCY] per million tokens, as 0.15:1.5:CNY")
        return cls(float(match[1]), float(match[2]), (match[3] or "CNY").upper())

    def of(self, usage: Usage) -> float:
        return self.of_tokens(usage.input_tokens, usage.output_tokens)

    def of_tokens(self, given: float, answered: float) -> float:
        return (given * self.input + answered * self.output) / 1e6

    def shown(self, amount: float) -> str:
        """`0.0312 CNY`, `1,204.50 CNY`."""
        return f"{amount:,.4f} {self.currency}" if amount < 1 else f"{amount:,.2f} {self.currency}"


PUBLISHED: dict[tuple[str, str], Price] = {("dashscope.aliyuncs.com", "qwen3-vl-flash"): Price(0.15, 1.5)}
"""By host and model, for inputs of up to 32,768 tokens. Prices change: `--price` says what yours is."""


def published(base_url: str, model: str) -> Price | None:
    """The list price of a model, where this table knows it."""
    return PUBLISHED.get((urlsplit(base_url).hostname or "", model))
