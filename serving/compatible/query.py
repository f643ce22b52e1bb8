"""What lists can be asked for in their URLs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone

from serving.errors import InvalidRequest

CLOUD_TIME = timezone(timedelta(hours=8))
"""Of the times in queries, which have no zone."""


def limit(query: Mapping[str, str], default: int, most: int) -> int:
    """The page size."""
    given = query.get("limit") or str(default)
    if not given.isascii() or not given.isdigit() or not 1 <= int(given[:9]) <= most:
        raise InvalidRequest(f"Range of limit should be [1, {most}]", param="limit")
    return int(given[:9])


def moment(query: Mapping[str, str], name: str) -> int | None:
    """A time as `yyyyMMddHHmmss` in the cloud's zone, in epoch seconds."""
    given = query.get(name)
    if not given:
        return None
    try:
        seconds = datetime.strptime(given, "%Y%m%d%H%M%S").replace(tzinfo=CLOUD_TIME).timestamp()
        return max(0, int(seconds))  # the first hours of year 1 have no time in UTC
    except (ValueError, OverflowError):
        raise InvalidRequest(f"'{name}' must be a time as yyyyMMddHHmmss", param=name) from None
