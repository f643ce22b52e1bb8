"""When requests are due, in seconds from the start. Always absolute: a late request delays no other."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import count, takewhile
from pathlib import Path


class BadSchedule(Exception):
    """Raised when a schedule cannot be read from what was given."""


def constant(rate: float, seconds: float) -> Iterator[float]:
    """`rate` a second, evenly."""
    return takewhile(lambda due: due < seconds, (number / rate for number in count()))


def poisson(rate: float, seconds: float, seed: int = 0) -> Iterator[float]:
    """`rate` a second on average, each independent of the others: how many users behave together."""
    rng, due = random.Random(seed), 0.0
    while (due := due + rng.expovariate(rate)) < seconds:
        yield due


def steps(rates: list[float], seconds: float, seed: int | None = None) -> Iterator[float]:
    """Each rate for its share of the time; Poisson when there is a seed, else evenly."""
    each = seconds / len(rates)
    for number, rate in enumerate(rates):
        dues = constant(rate, each) if seed is None else poisson(rate, each, seed + number)
        yield from (number * each + due for due in dues)


def ramp(first: float, last: float, seconds: float) -> Iterator[float]:
    """From one rate to another, linearly.

    The n-th request is due when the integral of the rate reaches n: first * t + (last - first) * t^2 / (2 * seconds).
    """
    slope = (last - first) / seconds
    for number in range(int((first + last) / 2 * seconds)):
        root = (first * first + 2 * slope * number) ** 0.5
        yield 2 * number / (first + root) if first + root else 0.0


def trace(path: Path, speed: float = 1.0) -> Iterator[float]:
    """Times of a recorded load: a number a line, or JSON lines with `timestamp` (seconds) or `intended` (nanoseconds).

    So the records of a run can be replayed. The first is due at once; `speed` 2 is twice as fast.

    Raises:
        BadSchedule: unreadable, or a line with neither.
    """
    try:
        lines = [
            line for line in path.read_text("utf-8").splitlines() if line.strip() and not line.startswith('{"run"')
        ]
    except (OSError, UnicodeDecodeError) as error:
        raise BadSchedule(f"{path} cannot be read: {error}") from error
    times = sorted(_time(line, path) for line in lines)
    yield from ((time - times[0]) / speed for time in times)


def _time(line: str, path: Path) -> float:
    try:
        entry = json.loads(line)
        if isinstance(entry, dict):
            return float(entry["timestamp"]) if "timestamp" in entry else float(entry["intended"]) / 1e9
        return float(entry)
    except (ValueError, KeyError, TypeError) as error:
        raise BadSchedule(f"{path}: {line[:60]!r} has no time") from error


def parsed(text: str, seconds: float, seed: int) -> Iterator[float]:
    """A schedule in words: `constant:5`, `poisson:5`, `step:2,4,8`, `ramp:1-10`, `trace:FILE` or `trace:FILE*2`.

    Raises:
        BadSchedule: none of these.
    """
    kind, _, rest = text.partition(":")
    try:
        if kind == "trace":
            name, _, speed = rest.partition("*")
            return trace(Path(name), float(speed or 1))
        rates = [_positive(each) for each in rest.replace("-", ",").split(",")]
    except ValueError:
        kind, rates = "", []
    if kind == "step":
        return steps(rates, seconds, seed)
    if kind == "ramp" and len(rates) == 2:
        return ramp(rates[0], rates[1], seconds)
    if kind in ("constant", "poisson") and len(rates) == 1:
        return constant(rates[0], seconds) if kind == "constant" else poisson(rates[0], seconds, seed)
    raise BadSchedule(f"{text!r} is none of constant:5, poisson:5, step:2,4,8, ramp:1-10, trace:FILE")


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise ValueError(text)
    return value
