from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from client.errors import BeingAnswered, HomescopeError, Throttled, TimedOut

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Policy:
    """How often to ask again, and how long to wait. Attempts count the first request; times are seconds.

    Attributes:
        attempts: requests for one answer.
        throttled_attempts: the same while the server says 429, which it means as "later", not as "no".
        timeout_attempts: the same for time-outs, each of which has already cost the whole time limit.
        unanswered_attempts: the same while an earlier request under the same Idempotency-Key runs on.
        base: the longest first wait; it doubles with every attempt.
        cap: the longest wait.
        longest_retry_after: a server that asks for more is not waited for.
        deadline: seconds from the first request after which none is begun any more; None: no such limit.
    """

    attempts: int = 6
    throttled_attempts: int = 12
    timeout_attempts: int = 2
    unanswered_attempts: int = 150
    base: float = 0.5
    cap: float = 30.0
    longest_retry_after: float = 120.0
    deadline: float | None = None

    def allowed(self, error: HomescopeError) -> int:
        """Requests in all that an error of this kind justifies; 1 is "never again"."""
        if not error.retryable:
            return 1
        if isinstance(error, Throttled):
            return self.throttled_attempts
        if isinstance(error, BeingAnswered):
            return self.unanswered_attempts
        return self.timeout_attempts if isinstance(error, TimedOut) else self.attempts


DEFAULT = Policy()
ONCE = Policy(attempts=1, throttled_attempts=1, timeout_attempts=1, unanswered_attempts=1)

_SAYS_WHEN = (Throttled, BeingAnswered)


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


class Budget:
    """How much asking again a run may do, so that its retries cannot keep down a server that is in trouble.

    Each request earns `ratio` of a retry, time earns `per_second`; what is earned and not used is kept up to `reserve`
    beyond the share of the last requests. 429 and 409 are not counted: there the server itself says when.
    As in Finagle, https://twitter.github.io/finagle/guide/Clients.html#retries.
    """

    def __init__(
        self, ratio: float = 0.2, *, reserve: float = 10.0, per_second: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._ratio, self._reserve, self._per_second, self._clock = ratio, reserve, per_second, clock
        self._earned, self._at = reserve, clock()

    def request(self) -> None:
        """A question was asked for the first time."""
        self._earned += self._ratio

    def spend(self) -> bool:
        """Takes one retry, or says that there is none."""
        now = self._clock()
        if self._earned < self._reserve:
            self._earned = min(self._reserve, self._earned + (now - self._at) * self._per_second)
        self._at = now
        if self._earned < 1:
            return False
        self._earned -= 1
        return True


async def persist(
    once: Callable[[], Awaitable[T]],
    policy: Policy = DEFAULT,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    budget: Budget | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """Calls `once` until it succeeds or `delay` gives up; then its last error is raised.

    Without a retry left in the `budget` it waits for one, a `cap` at most.
    """
    attempt, began = 0, clock()
    if budget is not None:
        budget.request()
    while True:
        attempt += 1
        try:
            return await once()
        except HomescopeError as error:
            wait = delay(attempt, error, policy)
            if wait is None or (policy.deadline is not None and clock() + wait - began > policy.deadline):
                raise
            await sleep(wait)
            if budget is not None and not isinstance(error, _SAYS_WHEN) and not await _granted(budget, policy, sleep):
                raise


async def _granted(budget: Budget, policy: Policy, sleep: Callable[[float], Awaitable[object]]) -> bool:
    waited = 0.0
    while not budget.spend():
        if waited >= policy.cap:
            return False
        await sleep(1.0)
        waited += 1.0
    return True
