from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from client.errors import ConfigurationError
from client.sqlite import write_ahead

_CLOUD = (".aliyuncs.com",)
_FIRST_GUESS = 1_500.0
"""Tokens of a question before any was answered: an A4 page or a chart, and a short answer."""

_LEARNING = 0.1
_TABLE = "CREATE TABLE IF NOT EXISTS buckets (name TEXT PRIMARY KEY, level REAL NOT NULL, at REAL NOT NULL) STRICT"


@dataclass(frozen=True, slots=True)
class Quota:
    """What an account may ask of a model; None: no limit known.

    Attributes:
        rpm: requests per minute.
        tpm: tokens per minute, in and out.
    """

    rpm: float | None = None
    tpm: float | None = None

    def __bool__(self) -> bool:
        return self.rpm is not None or self.tpm is not None


PUBLISHED: dict[str, Quota] = {
    "qwen-vl-max": Quota(1_200, 1_000_000),
    "qwen-vl-plus": Quota(1_200, 1_000_000),
    "qwen3-vl-flash": Quota(1_200, 1_000_000),
}
"""Of the cloud, per root account: https://www.alibabacloud.com/help/en/model-studio/rate-limit (page of June 2026)."""


def published(base_url: str, model: str) -> Quota:
    """The cloud's quota of a model; none for a server of one's own, which says 429 itself."""
    host = urlsplit(base_url).hostname or ""
    return PUBLISHED.get(model, Quota()) if host.endswith(_CLOUD) else Quota()


def default_path() -> Path:
    """`$XDG_CACHE_HOME/homescope/limits.sqlite`: one for all runs of a user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "homescope" / "limits.sqlite"


class Limits:
    """Token buckets that all runs of a user share: processes on one account keep its quota together.

    A bucket holds what may be sent now; it fills steadily and is never fuller than a second's worth, since the cloud
    also counts by the second. It may be overdrawn: then the taker waits until it would be level again, and the next one
    longer. Tokens are taken by the average of the answers so far and settled when the answer came.

    Args:
        quota: what the account may ask.
        path: the SQLite file of the buckets.
        account: base URL, key and model; only its hash is written.
        clock: wall time, the same for all processes.
    """

    def __init__(
        self, quota: Quota, path: Path, account: tuple[str, str, str], *, clock: Callable[[], float] = time.time
    ) -> None:
        self._quota, self._clock = quota, clock
        self._name = hashlib.sha256("\n".join(account).encode()).hexdigest()[:24]
        self._expected = _FIRST_GUESS
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None, timeout=10)
            write_ahead(self._db, within=10)
            self._db.execute("PRAGMA synchronous = OFF")  # what a power cut takes is a minute's counting
            self._db.execute(_TABLE)
        except (OSError, sqlite3.Error) as error:
            raise ConfigurationError(f"the shared limits {path} cannot be used: {error}") from error

    def close(self) -> None:
        self._db.close()

    def reserve(self) -> float:
        """Takes one request and its expected tokens; returns the seconds to wait before it may be sent."""
        waits = [self._take("requests", self._quota.rpm, 1.0), self._take("tokens", self._quota.tpm, self._expected)]
        return max(waits)

    def settle(self, tokens: int, taken: float) -> None:
        """Corrects what `reserve` took (`expected` at that time) by what the answer really used."""
        self._take("tokens", self._quota.tpm, tokens - taken)
        self._expected += _LEARNING * (tokens - self._expected)

    @property
    def expected(self) -> float:
        """Tokens that a question is expected to use, in and out."""
        return self._expected

    def _take(self, kind: str, per_minute: float | None, amount: float) -> float:
        if per_minute is None:
            return 0.0
        rate = per_minute / 60
        full, name = max(1.0, rate), f"{self._name}:{kind}"
        self._db.execute("BEGIN IMMEDIATE")
        try:
            now = self._clock()
            level, at = self._db.execute("SELECT level, at FROM buckets WHERE name = ?", (name,)).fetchone() or (
                full,
                now,
            )
            level = min(full, level + max(0.0, now - at) * rate) - amount
            self._db.execute("INSERT OR REPLACE INTO buckets VALUES (?, ?, ?)", (name, level, max(now, at)))
        finally:
            self._db.execute("COMMIT")
        return max(0.0, -level / rate)
