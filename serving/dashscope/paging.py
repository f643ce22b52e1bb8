from __future__ import annotations

from collections.abc import Mapping

from serving.errors import InvalidRequest

LARGEST = 100
LAST = 10**9


def page(query: Mapping[str, str]) -> tuple[int, int]:
    """The number of the wanted page, from 1, and its size. Raises `InvalidRequest` for what is no such number."""
    return _number(query, "page_no", 1, LAST), _number(query, "page_size", 10, LARGEST)


def _number(query: Mapping[str, str], name: str, default: int, most: int) -> int:
    given = query.get(name) or str(default)
    if not (given.isascii() and given.isdigit() and len(given) < 12 and 1 <= int(given) <= most):
        raise InvalidRequest(f"Range of {name} should be [1, {most}], got {given[:40]!r}")
    return int(given)
