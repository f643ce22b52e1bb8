from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from client.errors import HomescopeError, Throttled, TimedOut

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Policy:
    """How often to ask again, and how long to wait. Attempts count the first request; times are seconds.

    Attributes:
        attempts: requests for one answer.
        throttled_attempts: the same while the server says 429, which it means as "later", not as "no".
        timeout_attempts: the same for time-outs, each of which has already cost the whole time limit.
        base: the longest first wait; it doubles with every attempt.
        cap: the longest wait.
        longest_retry_after: a server that asks for more is not waited for.
    """

    attempts: int = 6
    throttled_attempts: int = 12
    timeout_attempts: int = 2
    base: float = 0.5
    cap: float = 30.0
    longest_retry_after: float = 120.0

    def allowed(self, error: HomescopeError) -> int:
        """Requests in all that an error of this kind justifies; 1 is "never again"."""
        if not error.retryable:
            return 1
        if isinstance(error, Throttled):
            return self.throttled_attempts
        return self.timeout_attempts if isinstance(error, TimedOut) else self.attempts


DEFAULT = Policy()
ONCE = Policy(attempts=1, throttled_attempts=1, timeout_attempts=1)


def delay(
    attempt: int, error: HomescopeError, policy: Policy = DEFAULT, draw: Callable[[], float] = random.random
) -> float | None:
    """Seconds to wait after request number `attempt` (from 1) ended in `error`; None: do not ask again.

    Full jitter, https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/: uniform between 0 and
    the doubled base, so that many clients do not come back together. `Retry-After` is a floor, with jitter above it.
    """
    if attempt >= policy.allowed(error):
        return None
    if error.retry_after is not None:
        return None if error.retry_after > policy.longest_retry_after else error.retry_after + draw() * policy.base
    return draw() * min(policy.cap, policy.base * 2.0 ** (attempt - 1))


async def persist(
    once: Callable[[], Awaitable[T]],
    policy: Policy = DEFAULT,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> T:
    """Calls `once` until it succeeds or `delay` gives up; then its last error is raised."""
    attempt = 0
    while True:
        attempt += 1
        try:
            return await once()
        except HomescopeError as error:
            wait = delay(attempt, error, policy)
            if wait is None:
                raise
        await sleep(wait)
