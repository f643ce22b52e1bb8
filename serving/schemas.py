"""How much of a JSON schema an engine is given to make a grammar of.

It does so on one CPU core that everybody's requests pass through. A pattern of twelve characters can take it minutes:
with XGrammar 0.2.8 `a{1000}` took 1 s, `a{10000}` more than two minutes; an object within an object, 60 times, 1 s.
With the 151,936 tokens of Qwen a `maxLength` costs it 80 ms of CPU for each character up to 128, and 10 s from there
on, once for each length that differs: eight lengths around 300 took 79 s. A repetition of more than 128 is made
quickly, and then looked through for each token that is written: 50 ms for `.{0,130}`, and all other answers wait.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from serving.errors import InvalidRequest

MAX_BYTES = 65_536
MAX_NODES = 5_000
"""Values of any kind; OpenAI takes as many properties."""
MAX_DEPTH = 64
"""Of JSON: an object in an object's property is two deeper."""
MAX_PATTERN = 512
"""Characters of a pattern, as written and with its repetitions written out."""
MAX_PATTERNS = 4096
"""Characters of all patterns together, repetitions written out; one that stands for most others counts `WIDE`."""
WIDE = 8
"""Times as long to make: 30 ms for `.` or `[^x]`, 4 ms for `[a-z]`."""
MAX_REPEATED = 128
"""Characters of one repetition, written out."""
MAX_LENGTHS = 1024
"""Characters of all lengths of texts together that differ, each counted as `LONG` at most."""
LONG = 128
MAX_COUNT = 65_536
"""Of what a minimum or maximum of characters, items or properties says."""
COUNTS = frozenset({"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "minContains"})
TOKEN = re.compile(
    r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{(?P<least>\d+)(?:(?P<comma>,)(?P<most>\d*))?\}|(?P<open>\()|(?P<close>\))|"
    r"(?P<other>.)",
    re.DOTALL,
)
RANGE = re.compile(r"(.)-(.)", re.DOTALL)
WIDE_RANGE = 64
"""Characters between the ends of a range that stands for most others, such as ` -~`."""


def check(schema: Mapping[str, Any], what: str) -> None:
    """Raises `InvalidRequest` for one that is too much; `what` names it."""
    try:
        size = len(orjson.dumps(schema))
    except orjson.JSONEncodeError:  # nested beyond what can be written
        raise _refusal(what, f"is nested deeper than {MAX_DEPTH} levels") from None
    if size > MAX_BYTES:
        raise _refusal(what, f"has {size} bytes, at most {MAX_BYTES} are taken")
    patterns = 0
    lengths: set[tuple[int, int]] = set()
    for nodes, (name, value, depth) in enumerate(_walk(schema), 1):
        if nodes > MAX_NODES:
            raise _refusal(what, f"has more than {MAX_NODES} values")
        if depth > MAX_DEPTH:
            raise _refusal(what, f"is nested deeper than {MAX_DEPTH} levels")
        _check_value(name, value, what)
        if isinstance(value, Mapping):
            lengths.add((_count(value, "minLength"), _count(value, "maxLength")))
        patterns += sum(_pattern(each, what) for each in _patterns(name, value))
        if patterns > MAX_PATTERNS:
            raise _refusal(
                what, f"has patterns of more than {MAX_PATTERNS} characters together, repetitions written out"
            )
    if (total := sum(min(LONG, max(pair)) for pair in lengths)) > MAX_LENGTHS:
        raise _refusal(
            what,
            f"has different minLength and maxLength of {total} characters together, each counted as {LONG} at most; "
            f"at most {MAX_LENGTHS} are taken, and equal ones count once",
        )


def _walk(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any, int]]:
    """Every value with the name it stands under, and how deep."""
    left: list[tuple[str, Any, int]] = [("", schema, 0)]
    while left:
        name, value, depth = entry = left.pop()
        yield entry
        if isinstance(value, Mapping):
            left += [(key, each, depth + 1) for key, each in value.items()]
        elif isinstance(value, list):
            left += [(name, each, depth + 1) for each in value]


def _check_value(name: str, value: Any, what: str) -> None:
    if name in COUNTS and isinstance(value, int | float) and value > MAX_COUNT:
        raise _refusal(what, f"has a {name} of {value}, at most {MAX_COUNT} is taken")
    if name == "$ref" and isinstance(value, str) and not value.startswith("#"):
        raise _refusal(what, "has a $ref out of itself; only those that begin with # are followed")


def _count(schema: Mapping[str, Any], name: str) -> int:
    value = schema.get(name)
    return max(0, int(value)) if isinstance(value, int | float) else 0  # less than nothing takes nothing off the others


def _patterns(name: str, value: Any) -> list[str]:
    if name == "pattern" and isinstance(value, str):
        return [value]
    return list(value) if name == "patternProperties" and isinstance(value, Mapping) else []


def _pattern(pattern: str, what: str) -> int:
    found = Written(len(pattern)) if len(pattern) > MAX_PATTERN else written_out(pattern)
    if found.size > MAX_PATTERN:
        raise _refusal(
            what, f"has a pattern of {found.size} characters, repetitions written out; at most {MAX_PATTERN} are taken"
        )
    if found.repeated > MAX_REPEATED:
        raise _refusal(
            what, f"has a pattern with a repetition of {found.repeated} characters; at most {MAX_REPEATED} are taken"
        )
    return found.size + found.wide * (WIDE - 1)


@dataclass(frozen=True, slots=True)
class Written:
    """Characters of a pattern where `(ab){3}` is `ababab`: all, those that stand for most others, and those of its
    longest repetition. At least, for one that is no regular expression."""

    size: int
    wide: int = 0
    repeated: int = 0


def written_out(pattern: str) -> Written:
    sums, wides, last, wide, repeated = [0], [0], 0, 0, 0
    for token in TOKEN.finditer(pattern):
        if token["open"]:
            sums.append(0)
            wides.append(0)
            last = wide = 0
        elif token["close"]:
            last, wide = (sums.pop(), wides.pop()) if len(sums) > 1 else (0, 0)
            sums[-1] += last
            wides[-1] += wide
        elif token["least"]:
            times = max(int(token["least"]), int(token["most"] or 0), 1)
            sums[-1] += last * (times - 1)
            wides[-1] += wide * (times - 1)
            last, wide = last * times, wide * times
            repeated = max(repeated, last)
        elif token["other"] not in ("*", "+", "?", "|"):
            last, wide = 1, _is_wide(token[0])
            sums[-1] += 1
            wides[-1] += wide
    return Written(sum(sums), sum(wides), repeated)


def _is_wide(token: str) -> int:
    if token[0] == "[":
        ranges = RANGE.findall(token)
        most = any(ord(end) - ord(start) > WIDE_RANGE for start, end in ranges)
        return int(token.startswith("[^") or most or any(each in token for each in (r"\S", r"\W", r"\D")))
    return int(token in (".", r"\S", r"\W", r"\D"))


def _refusal(what: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"The JSON schema of {what} {why}.")
