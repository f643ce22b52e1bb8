"""How much of a JSON schema an engine is given to make a grammar of.

It does so on one CPU core that everybody's requests pass through. A pattern of twelve characters can take it minutes:
with XGrammar 0.2.8 `a{1000}` took 1 s, `a{10000}` more than two minutes; an object within an object, 60 times, 1 s.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
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
"""Characters of all patterns together, repetitions written out."""
MAX_COUNT = 65_536
"""Of what a minimum or maximum of characters, items or properties says."""
COUNTS = frozenset({"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "minContains"})
TOKEN = re.compile(
    r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{(?P<least>\d+)(?:(?P<comma>,)(?P<most>\d*))?\}|(?P<open>\()|(?P<close>\))|"
    r"(?P<other>.)",
    re.DOTALL,
)


def check(schema: Mapping[str, Any], what: str) -> None:
    """Raises `InvalidRequest` for one that is too much; `what` names it."""
    try:
        size = len(orjson.dumps(schema))
    except orjson.JSONEncodeError:  # nested beyond what can be written
        raise _refusal(what, f"is nested deeper than {MAX_DEPTH} levels") from None
    if size > MAX_BYTES:
        raise _refusal(what, f"has {size} bytes, at most {MAX_BYTES} are taken")
    patterns = 0
    for nodes, (name, value, depth) in enumerate(_walk(schema), 1):
        if nodes > MAX_NODES:
            raise _refusal(what, f"has more than {MAX_NODES} values")
        if depth > MAX_DEPTH:
            raise _refusal(what, f"is nested deeper than {MAX_DEPTH} levels")
        _check_value(name, value, what)
        patterns += sum(_pattern(each, what) for each in _patterns(name, value))
        if patterns > MAX_PATTERNS:
            raise _refusal(
                what, f"has patterns of more than {MAX_PATTERNS} characters together, repetitions written out"
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


def _patterns(name: str, value: Any) -> list[str]:
    if name == "pattern" and isinstance(value, str):
        return [value]
    return list(value) if name == "patternProperties" and isinstance(value, Mapping) else []


def _pattern(pattern: str, what: str) -> int:
    size = len(pattern) if len(pattern) > MAX_PATTERN else written_out(pattern)
    if size > MAX_PATTERN:
        raise _refusal(
            what, f"has a pattern of {size} characters, repetitions written out; at most {MAX_PATTERN} are taken"
        )
    return size


def written_out(pattern: str) -> int:
    """Characters of the pattern where `(ab){3}` is `ababab`; at least, for one that is no regular expression."""
    sums, last = [0], 0
    for token in TOKEN.finditer(pattern):
        if token["open"]:
            sums.append(0)
            last = 0
        elif token["close"]:
            last = sums.pop() if len(sums) > 1 else 0
            sums[-1] += last
        elif token["least"]:
            times = max(int(token["least"]), int(token["most"] or 0), 1)
            sums[-1] += last * (times - 1)
            last *= times
        elif token["other"] not in ("*", "+", "?", "|"):
            last = 1
            sums[-1] += 1
    return sum(sums)


def _refusal(what: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"The JSON schema of {what} {why}.")
