"""How answers are scored, 0 to 1, as the publishers of each data set do."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.workload import Ask
from client.scoring import is_right

_NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*(?:[eE][-+]?\d+)?\s*%?")
_ANLS_THRESHOLD = 0.5


def relaxed(answer: str, expected: Any) -> float:
    """ChartQA: numbers may differ by 5 %, words have to be equal but for their case.

    Masry et al. 2022, section 5.1; a percentage is its number over a hundred, as in the publishers' own code.
    """
    wanted = [str(each) for each in expected] if isinstance(expected, list) else [str(expected)]
    return max(_relaxed(cleaned(answer), each.strip()) for each in wanted)


def _relaxed(answer: str, expected: str) -> float:
    given, true = _number(answer), _number(expected)
    if given is not None and true is not None:
        return float(given == true if true == 0 else abs(given - true) / abs(true) <= 0.05)
    return float(answer.casefold() == expected.casefold())


def _number(text: str) -> float | None:
    if not _NUMBER.fullmatch(text.strip()):
        return None
    bare = text.strip().replace(",", "")
    return float(bare.rstrip("% ")) / 100 if bare.endswith("%") else float(bare)


def anls(answer: str, expected: Any) -> float:
    """DocVQA: 1 - normalised Levenshtein distance to the nearest accepted answer; below 0.5 it counts as 0.

    Biten et al. 2019, equation 1. Case does not matter.
    """
    accepted = expected if isinstance(expected, list) else [expected]
    return max(_similarity(_folded(cleaned(answer)), _folded(str(each))) for each in accepted)


def _similarity(left: str, right: str) -> float:
    longest = max(len(left), len(right))
    similarity = 1 - distance(left, right) / longest if longest else 1.0
    return similarity if similarity >= _ANLS_THRESHOLD else 0.0


def distance(left: Sequence[Any], right: Sequence[Any]) -> int:
    """Levenshtein's: insertions, deletions and replacements."""
    row = list(range(len(right) + 1))
    for at, one in enumerate(left, start=1):
        before, row[0] = row[0], at
        for to, other in enumerate(right, start=1):
            before, row[to] = row[to], min(row[to] + 1, row[to - 1] + 1, before + (one != other))
    return row[-1]


def exact(answer: str, expected: Any) -> float:
    """Generated charts: the JSON of the answer equals the expected one, or its words do."""
    return float(is_right(answer, expected))


def fields(answer: str, expected: Any) -> float:
    """Share of the expected JSON's leaves that the answer has at the same place."""
    from client.compare import leaves, value_of

    wanted, given = dict(leaves(expected)), dict(leaves(value_of(answer)))
    return sum(given.get(place) == leaf for place, leaf in wanted.items()) / len(wanted) if wanted else 0.0


METRICS: dict[str, Callable[[str, Any], float]] = {"relaxed": relaxed, "anls": anls, "exact": exact, "fields": fields}


def scored(ask: Ask, answer: str) -> float | None:
    """For requests whose answer is known; `exact` unless they say otherwise."""
    return None if ask.expected is None else METRICS[ask.metric or "exact"](answer, ask.expected)


def cleaned(answer: str) -> str:
    """The answer alone: without a final stop, quotes, or the words `Answer:` before it."""
    text = answer.strip().removeprefix("Answer:").removeprefix("答案：").strip()
    return text.strip("\"'` ").rstrip(".。").strip()


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
