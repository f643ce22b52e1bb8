from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found, in one line; one that did not go well says what to change."""

    level: Level
    check: str
    said: str

    def __str__(self) -> str:
        level = self.level.upper() if self.level == "fail" else self.level
        return f"{level:4}  {self.check:13} {' '.join(self.said.split())}"


def size(count: float) -> str:
    """Bytes, as people say them."""
    gib, mib = count / 2**30, count / 2**20
    return f"{gib:.1f} GiB" if gib >= 1 else f"{mib:.0f} MiB"
