"""Records with known values."""

from __future__ import annotations

from typing import Any

from benchmarks.record import Record

SECOND = 1_000_000_000


def record(number: int, start: float, seconds: float, **values: Any) -> Record:
    """One that was sent on time at `start` and took so many seconds."""
    intended = round(start * SECOND)
    kept: dict[str, Any] = {"sent": intended, "end": intended + round(seconds * SECOND), "status": 200, **values}
    return Record(number, "native", intended, **kept)


def evenly(seconds: list[float], rate: float = 10.0, **values: Any) -> list[Record]:
    """One after the other at a rate."""
    return [record(at, at / rate, each, **values) for at, each in enumerate(seconds)]
